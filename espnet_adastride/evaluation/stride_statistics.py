"""Local strides against what is said, over many utterances.

1. the local stride at instants      local_strides
2. what is said at the instants      inside, near, classes_at
3. how much one tells of the other   auc, mutual_information
4. all of it over a corpus           StrideStatistics, measure_strides

The local stride at an instant is the length of the output frame that covers it, in
input frames. All instants count alike, so that a second of silence weighs as much as a
second of speech, whatever the number of frames in it. numpy only; what
:func:`measure_strides` is given encodes the recordings.
"""

from dataclasses import dataclass, field
from typing import Dict, List, Optional, Sequence, Tuple

import numpy as np

from espnet_adastride.corpora.recordings import read_audio
from espnet_adastride.errors import AudioError
from espnet_adastride.evaluation.statistics import FEWEST_FOR_A_VERDICT, Bootstrap
from espnet_adastride.timing.ctc import Timed
from espnet_adastride.timing.energy import energy_db, frame_edges, is_speech
from espnet_adastride.timing.transcripts import TimedReference

#: seconds between the instants
STEP = 0.01
#: an instant so near to the start or end of a word is at a boundary
NEAR = 0.025
#: cells of equal probability into which strides are cut for the mutual information
CELLS = 10
#: and for the intervals of the AUC, which are drawn from histograms
FINE_CELLS = 256

PHONE_CLASSES = {
    "vowel": "AA AE AH AO AW AY EH ER EY IH IY OW OY UH UW",
    "stop": "B D G K P T",
    "fricative": "DH F HH S SH TH V Z ZH",
    "affricate": "CH JH",
    "nasal": "M N NG",
    "approximant": "L R W Y",
}
_CLASS_OF = {p: name for name, line in PHONE_CLASSES.items() for p in line.split()}
SILENT_PHONES = frozenset(["", "SIL", "SP", "SPN", "PAU"])
SILENCE = "silence"


def phone_class(phone: str) -> str:
    """Return the class of an ARPABET phone (``AH0``), ``silence`` or ``other``."""
    name = phone.strip().upper().rstrip("012")
    return SILENCE if name in SILENT_PHONES else _CLASS_OF.get(name, "other")


def instants(duration: float) -> np.ndarray:
    """Return the middles of the steps that a recording holds, in seconds."""
    return (np.arange(int(duration / STEP + 1e-9)) + 0.5) * STEP


def local_strides(boundaries: np.ndarray, times: np.ndarray, step: float) -> np.ndarray:
    """Return the length of the frame around each instant, in input frames.

    Args:
        boundaries: (m + 1,) seconds, non-decreasing.
        times: (n,) seconds within them.
        step: seconds from one input frame to the next.
    """
    width = np.diff(boundaries) / step
    slot = np.searchsorted(boundaries, times, side="right") - 1
    return width[slot.clip(0, len(width) - 1)]


def inside(items: Sequence[Timed], times: np.ndarray) -> np.ndarray:
    """Return (n,) booleans: is the instant within one of the spans?"""
    result = np.zeros(len(times), dtype=bool)
    for item in items:
        result |= (times >= item.start) & (times < item.end)
    return result


def near(items: Sequence[Timed], times: np.ndarray, reach: float = NEAR) -> np.ndarray:
    """Return (n,) booleans: is a start or an end of a span at most ``reach`` away?"""
    edges = np.array(sorted([i.start for i in items] + [i.end for i in items]))
    if not len(edges):
        return np.zeros(len(times), dtype=bool)
    right = np.searchsorted(edges, times)
    before = np.abs(times - edges[(right - 1).clip(0)])
    after = np.abs(edges[right.clip(max=len(edges) - 1)] - times)
    return np.minimum(before, after) <= reach + 1e-9


def classes_at(phones: Sequence[Timed], times: np.ndarray) -> np.ndarray:
    """Return (n,) the phone class at each instant; ``silence`` between phones."""
    result = np.full(len(times), SILENCE, dtype=object)
    for phone in phones:
        here = (times >= phone.start) & (times < phone.end)
        result[here] = phone_class(phone.text)
    return result


def auc(values: np.ndarray, marked: np.ndarray) -> float:
    """Return the probability that a marked value is the smaller one of a pair.

    Of all pairs of a marked and an unmarked value, the share in which the marked one is
    smaller; ties count a half. 0.5: the values tell nothing. nan without a pair.

    >>> auc(np.array([1, 2, 3, 4]), np.array([True, False, True, False]))
    0.75
    """
    marked = np.asarray(marked, dtype=bool)
    ours, others = int(marked.sum()), int((~marked).sum())
    if not ours or not others:
        return float("nan")
    _, index, counts = np.unique(values, return_inverse=True, return_counts=True)
    # the mean rank of each value among all, from 1
    ranks = (np.cumsum(counts) - (counts - 1) / 2)[index]
    larger = ranks[marked].sum() - ours * (ours + 1) / 2
    return float(1.0 - larger / (ours * others))


def mutual_information(first: np.ndarray, second: np.ndarray) -> float:
    """Return how many bits one label tells of another, from their joint counts.

    >>> mutual_information(np.array([0, 0, 1, 1]), np.array([5, 5, 7, 7]))
    1.0
    """
    if not len(first):
        return 0.0
    _, a = np.unique(first, return_inverse=True)
    _, b = np.unique(second, return_inverse=True)
    joint = np.zeros((a.max() + 1, b.max() + 1))
    np.add.at(joint, (a, b), 1.0)
    joint /= joint.sum()
    independent = joint.sum(axis=1, keepdims=True) * joint.sum(axis=0, keepdims=True)
    seen = joint > 0
    bits = joint[seen] * np.log2(joint[seen] / independent[seen])
    return max(float(bits.sum()), 0.0)


def quantile_cells(values: np.ndarray, cells: int = CELLS) -> np.ndarray:
    """Return (n,) the cell of each value, cells being equally probable."""
    edges = np.unique(np.quantile(values, np.linspace(0, 1, cells + 1)[1:-1]))
    return np.searchsorted(edges, values, side="right")


@dataclass(frozen=True)
class Relation:
    """What the local stride tells about a property that instants have or not.

    Attributes:
        share: of the instants that are marked, 0 to 1.
        auc: see :func:`auc`: above 0.5 where marked instants have shorter strides.
        low, high: 95 % interval of it, utterances being drawn with replacement; None
            of a single utterance.
        bits: mutual information of stride (in cells) and mark.
        bits_chance: the same with the marks of each utterance shifted by half of its
            length: what is left is chance.
        bits_most: entropy of the mark: what the stride could tell at most.
    """

    share: float
    auc: float
    low: Optional[float]
    high: Optional[float]
    bits: float
    bits_chance: float
    bits_most: float


def relation(
    strides: Sequence[np.ndarray], marks: Sequence[np.ndarray], resamples: int = 1000
) -> Optional[Relation]:
    """Relate local strides to marks.

    Args:
        strides: (n,) of each utterance.
        marks: (n,) booleans of each utterance.
        resamples: of the bootstrap.

    Returns:
        None where all instants, or none, are marked.
    """
    all_strides, all_marks = np.concatenate(strides), np.concatenate(marks)
    value = auc(all_strides, all_marks)
    if np.isnan(value):
        return None
    fine = quantile_cells(all_strides, FINE_CELLS)
    size = fine.max() + 1
    ends = np.cumsum([len(s) for s in strides])[:-1]
    histograms = [
        np.stack(
            [np.bincount(cells[mark == side], minlength=size) for side in (True, False)]
        )
        for cells, mark in zip(np.split(fine, ends), marks)
    ]
    table = np.stack(histograms).astype(np.float64)  # (U, 2, cells)
    drawn, bootstrap = [], Bootstrap(np.arange(len(table)), resamples)
    for weights in bootstrap.counts:
        marked, others = np.tensordot(weights, table, axes=1)
        pairs = marked.sum() * others.sum()
        if pairs:
            above = others.sum() - np.cumsum(others)
            drawn.append((marked * (above + others / 2)).sum() / pairs)
    low, high = bootstrap.interval(drawn)
    known = len(table) >= FEWEST_FOR_A_VERDICT and not np.isnan(low)
    cells = quantile_cells(all_strides)
    shifted = np.concatenate([np.roll(mark, len(mark) // 2) for mark in marks])
    return Relation(
        share=float(all_marks.mean()),
        auc=value,
        low=low if known else None,
        high=high if known else None,
        bits=mutual_information(cells, all_marks),
        bits_chance=mutual_information(cells, shifted),
        bits_most=mutual_information(all_marks, all_marks),
    )


@dataclass
class StrideStatistics:
    """Local strides of a corpus, and what is said at every instant.

    Attributes:
        method: what made them, e.g. ``adastride, 8x``.
        step: seconds of an input frame.
        source: where speech and words are from, in words.
        strides: (n,) of each utterance, in input frames.
        speech: (n,) booleans.
        boundaries: (n,) booleans: near a word's start or end; empty if not known.
        phones: (n,) phone classes; empty if not known.
        frames: output frames of all utterances.
    """

    method: str
    step: float
    source: str
    strides: List[np.ndarray] = field(default_factory=list)
    speech: List[np.ndarray] = field(default_factory=list)
    boundaries: List[np.ndarray] = field(default_factory=list)
    phones: List[np.ndarray] = field(default_factory=list)
    frames: int = 0

    def add(
        self,
        boundaries: np.ndarray,
        words: Optional[Sequence[Timed]] = None,
        phones: Optional[Sequence[Timed]] = None,
        speech: Optional[Tuple[np.ndarray, np.ndarray]] = None,
    ) -> None:
        """Add an utterance.

        Args:
            boundaries: (m + 1,) seconds of its frames.
            words: with times, without silences.
            phones: with times.
            speech: without words: (edges (k + 1,), booleans (k,)) of intervals.
        """
        times = instants(float(boundaries[-1]))
        if not len(times):
            return
        self.frames += len(boundaries) - 1
        self.strides.append(local_strides(boundaries, times, self.step))
        if words is not None:
            self.speech.append(inside(words, times))
            self.boundaries.append(near(words, times))
        else:
            edges, marked = speech
            index = np.searchsorted(edges, times, side="right") - 1
            self.speech.append(np.asarray(marked)[index.clip(0, len(marked) - 1)])
        if phones is not None:
            self.phones.append(classes_at(phones, times))

    @property
    def seconds(self) -> float:
        """Of all utterances."""
        return sum(map(len, self.strides)) * STEP

    def groups(self) -> Dict[str, np.ndarray]:
        """Return the strides by phone class, or by speech and silence."""
        strides = np.concatenate(self.strides)
        if self.phones:
            labels = np.concatenate(self.phones)
            names = [*PHONE_CLASSES, "other", SILENCE]
        else:
            labels = np.where(np.concatenate(self.speech), "speech", SILENCE)
            names = ["speech", SILENCE]
        groups = {name: strides[labels == name] for name in names}
        return {name: values for name, values in groups.items() if len(values)}

    def relations(self) -> Dict[str, Relation]:
        """Return what the strides tell of speech and of word boundaries."""
        found = {"speech": relation(self.strides, self.speech)}
        if self.boundaries:
            found["word boundary"] = relation(self.strides, self.boundaries)
            within = [
                (s[speech], b[speech])
                for s, b, speech in zip(self.strides, self.boundaries, self.speech)
            ]
            found["word boundary, in speech"] = relation(
                [s for s, _ in within], [b for _, b in within]
            )
        return {name: value for name, value in found.items() if value is not None}

    def numbers(self) -> dict:
        """Return all numbers, as what JSON can hold; strides in input frames."""
        strides = np.concatenate(self.strides)
        points = (5, 25, 50, 75, 95)
        result = {
            "method": self.method,
            "source": self.source,
            "utterances": len(self.strides),
            "seconds": round(self.seconds, 2),
            "frames": self.frames,
            "stride": {f"p{p}": float(np.percentile(strides, p)) for p in points},
            "groups": {
                name: {
                    "share": len(values) / len(strides),
                    **{f"p{p}": float(np.percentile(values, p)) for p in points},
                    # frames are spent at the rate of one over the stride
                    "frames_per_second": float((1 / values).mean() / self.step),
                }
                for name, values in self.groups().items()
            },
            "relations": {k: vars(v) for k, v in self.relations().items()},
        }
        if self.phones:
            cells = quantile_cells(strides)
            result["phone_class_bits"] = mutual_information(
                cells, np.concatenate(self.phones)
            )
        return result


def measure_strides(
    transcriber,
    waves: Dict[str, str],
    reference: Optional[TimedReference],
    threshold: float,
) -> Tuple[StrideStatistics, Dict[str, str]]:
    """Return the statistics of recordings, and why others were left out.

    Args:
        transcriber: a Transcriber whose model has adaptive strides.
        waves: recordings by utterance.
        reference: their words; None: speech is detected by its energy.
        threshold: of speech, in dB below the loudest moment.
    """
    trained = transcriber.trained
    source = f"energy within {threshold:g} dB of the loudest"
    every_phone = False
    if reference is not None:
        source = reference.source
        every_phone = waves.keys() & reference.words.keys() <= reference.phones.keys()
    statistics = StrideStatistics(trained.describe_strides(), trained.step, source)
    left_out = {}
    for key, path in waves.items():
        words = phones = speech = None
        if reference is not None:
            words = reference.words.get(key)
            phones = reference.phones.get(key) if every_phone else None
            if words is None:
                left_out[key] = "not in --ref"
                continue
        try:
            wave = read_audio(path, trained.rate, say=transcriber.say)
            times = transcriber.encode(wave, key).times.of_strides()
        except AudioError as error:
            left_out[key] = str(error)
            continue
        duration = float(times.boundaries[-1])
        late = [word for word in words or () if word.start >= duration]
        if late:
            left_out[key] = (
                f"{late[0].text!r} of --ref begins at {late[0].start:.2f} s, and the "
                f"recording has {duration:.2f} s; check its times and ids"
            )
            continue
        if words is None:
            loud = is_speech(energy_db(wave, trained.rate), threshold)
            speech = frame_edges(wave, trained.rate), loud
        statistics.add(times.boundaries, words, phones, speech)
    return statistics, left_out
