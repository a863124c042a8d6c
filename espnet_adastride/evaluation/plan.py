"""The plan of a training, made before it starts: lengths, CTC, batches, cost.

1. the batches of a set                SetLengths
2. settings that cannot work           refuse_what_cannot_work, refuse_batch_bins,
                                       refuse_no_update
3. warnings                            set_warnings
4. duration of an epoch                epoch_seconds

This file computes; ``espnet_adastride/plugin/planning.py`` gets the numbers from
ESPnet, and ``espnet_adastride/report/plan.py`` writes the page.
"""

import math
from dataclasses import dataclass
from typing import Dict, Iterable, List, NamedTuple, Optional, Sequence, Tuple

from espnet_adastride.errors import UserError
from espnet_adastride.files import PathLike

NAMED = 3  # utterances that a message names
MUCH_PADDING = 0.2


@dataclass(frozen=True)
class SetLengths:
    """Lengths of a set's utterances, in the batches that training makes of it.

    Attributes:
        name: ``training`` or ``validation``, for messages.
        batches: The utterances of each batch.
        samples: Audio samples of each utterance, or frames of extracted features.
        rate: Samples, or such frames, a second.
        features: Frames before the encoder's input layer.
        frames: Frames after it, in the utterance's batch (the convolutions of ESPnet
            202511 give one or two more beside a longer utterance).
        needed: Frames that CTC needs; empty if the model has no CTC.
        fastest: Frames after the input layer at the highest speed of the augmentation
            (speed_perturb in preprocessor_conf); None: no such augmentation.
        fewest: Frames after it at the highest of ``train_strides``; None: one rate.
        stride_words: Name of the setting to lower so that CTC can align more.
    """

    name: str
    batches: List[Tuple[str, ...]]
    samples: Dict[str, int]
    rate: float
    features: Dict[str, int]
    frames: Dict[str, int]
    needed: Dict[str, int]
    fastest: Optional[Dict[str, int]] = None
    fewest: Optional[Dict[str, int]] = None
    stride_words: str = "a stride"

    @property
    def seconds(self) -> float:
        """Duration of the set."""
        return sum(self.samples.values()) / self.rate

    def padded(self) -> List[int]:
        """Return the samples of each batch, padding included."""
        return [len(b) * max(self.samples[k] for k in b) for b in self.batches]

    def padding(self) -> float:
        """Return the share of padding in all that the encoder reads."""
        used = sum(self.samples[k] for batch in self.batches for k in batch)
        return 1 - used / sum(self.padded())

    def downsampling(self) -> float:
        """Return features a frame, over the set."""
        return sum(self.features.values()) / max(1, sum(self.frames.values()))

    def too_short(self, limit: int) -> List[str]:
        """Return utterances with fewer than ``limit`` features, the shortest first."""
        return sorted(
            (k for k, n in self.features.items() if n < limit),
            key=lambda k: (self.features[k], k),
        )

    def unalignable(self, frames: Optional[Dict[str, int]] = None) -> List[str]:
        """Return utterances with fewer frames than CTC needs, the worst first."""
        frames = self.frames if frames is None else frames
        return sorted(
            (k for k, n in self.needed.items() if frames[k] < n),
            key=lambda k: (frames[k] / self.needed[k], k),
        )

    def largest_stride(self, share: float) -> float:
        """Return the overall rate at which all but ``share`` can be aligned."""
        room = sorted(self.features[k] / n for k, n in self.needed.items() if n)
        return room[min(int(share * len(room)), len(room) - 1)] if room else math.inf


def _some(keys: Sequence[str], say) -> str:
    words = ", ".join(f"{k} ({say(k)})" for k in keys[:NAMED])
    return words + (", ..." if len(keys) > NAMED else "")


def _some_short(lengths: SetLengths, keys: Sequence[str]) -> str:
    return _some(keys, lambda key: f"{lengths.features[key]} frames")


def _some_unalignable(lengths: SetLengths, frames, keys: Sequence[str]) -> str:
    return _some(keys, lambda key: f"{frames[key]} of {lengths.needed[key]}")


def percent_of(share: float) -> str:
    """Return e.g. ``12.5 %``."""
    return f"{100 * share:.3g} %"


def refuse_what_cannot_work(
    lengths: SetLengths, limit: int, max_unalignable: float, token_type: str = "bpe"
) -> None:
    """Reject a set with which training would stop, or would learn too little.

    Args:
        lengths: The set.
        limit: Features that the longest utterance of a batch must have: ESPnet stops
            at a batch of shorter ones.
        max_unalignable: Largest share of the training utterances that CTC may be
            unable to align, in [0, 1]. In validation only all of them are too many.
        token_type: ``bpe``, ``char`` ...; decides which tokens are advised.

    Raises:
        UserError: Naming utterances and the fix.
    """
    fatal = [b for b in lengths.batches if max(lengths.features[k] for k in b) < limit]
    if fatal:
        short = lengths.too_short(limit)
        longest = max(lengths.samples[k] for k in short) / lengths.rate
        raise UserError(
            f"{len(short)} {lengths.name} utterances are too short for the input layer "
            f"({limit} frames) and fill {len(fatal)} of {len(lengths.batches)} "
            f"batches, at which ESPnet stops: {_some_short(lengths, short)}; leave "
            "them out: "
            f"--min_wav_duration {math.ceil(longest * 1000) / 1000:g}"
        )
    bad = lengths.unalignable()
    count = len(lengths.needed)
    allowed = max_unalignable if lengths.name == "training" else 1.0
    if bad and (len(bad) > allowed * count or len(bad) == count):
        fits = lengths.largest_stride(max_unalignable)
        tokens = "tokens that make fewer labels (--token_type bpe)"
        if token_type == "bpe":
            tokens = "tokens that make fewer labels (a larger --nbpe)"
        fix = f"give {tokens}"
        if fits >= 1:
            stride = math.floor(10 * fits) / 10
            fix = f"take {lengths.stride_words} of at most {stride:g}, {tokens}"
        if lengths.name == "training":
            fix += ", or a larger --max_unalignable"
        raise UserError(
            f"CTC cannot align {len(bad)} of {count} {lengths.name} utterances "
            f"({percent_of(len(bad) / count)}; {percent_of(allowed)} may be): at 1/"
            f"{lengths.downsampling():.3g} of the frames, fewer frames than labels "
            f"plus repeats require: {_some_unalignable(lengths, lengths.frames, bad)}; "
            f"{fix}"
        )


def refuse_lengths_of_frontend(
    lengths: SetLengths, words: str, longest: int, most: Optional[int]
) -> None:
    """Reject a set at which a frontend would stop, or of which it uses only a part.

    Args:
        lengths: The set.
        words: Name of the frontend.
        longest: Samples that the longest utterance of a batch must have.
        most: Samples that the frontend uses at most; None: all.

    Raises:
        UserError: Naming utterances and the fix.
    """

    samples, rate = lengths.samples, lengths.rate
    empty = {k for k, n in lengths.features.items() if n < 1}
    short = [b for b in lengths.batches if max(samples[k] for k in b) < longest]
    wrong = empty.union(*short)
    if wrong:
        needed = max(longest if short else 0, max(samples[k] for k in wrong) + 1)
        problem = f"too short for frontend {words}, at which ESPnet stops"
        fix = f"--min_wav_duration {math.ceil(needed / rate * 1000) / 1000:g}"
    elif most is not None:
        wrong = {k for k, n in samples.items() if n > most}
        problem = (
            f"longer than what frontend {words} hears ({most / rate:g} s), and their "
            "text goes beyond it"
        )
        fix = f"--max_wav_duration {most / rate:g}"
    if wrong:
        keys = sorted(wrong, key=lambda k: (samples[k], k))
        raise UserError(
            f"{len(keys)} {lengths.name} utterances are {problem}: "
            f"{_some(keys, lambda k: f'{samples[k] / rate:.3g} s')}; leave them out: "
            f"{fix}"
        )


def utterance_bins(shapes: Sequence[Dict[str, Sequence[int]]], kind: str) -> Dict:
    """Return what each utterance alone counts for ``batch_bins``.

    Args:
        shapes: {utterance: (length, dimension, ...)} of every shape file.
        kind: ``batch_type``: numel counts elements, length counts lengths.
    """
    bins: Dict[str, int] = {}
    for table in shapes:
        for key, shape in table.items():
            size = math.prod(shape) if kind == "numel" else shape[0]
            bins[key] = bins.get(key, 0) + size
    return bins


def refuse_batch_bins(name: str, bins: Dict[str, int], batch_bins: int) -> None:
    """Reject ``batch_bins`` that are too small for some utterances.

    Args:
        name: ``training`` or ``validation``.
        bins: :func:`utterance_bins`.

    Raises:
        UserError: Naming the largest utterances and the fix.
    """
    if batch_bins <= 0:
        raise UserError(
            f"batch_bins {batch_bins} gives no batches: the largest {name} utterance "
            f"counts {max(bins.values())}, a batch should hold several"
        )
    large = sorted((k for k in bins if bins[k] > batch_bins), key=lambda k: -bins[k])
    if large:
        raise UserError(
            f"{len(large)} of {len(bins)} {name} utterances are larger than a batch "
            f"(batch_bins {batch_bins}): {_some(large, bins.get)}; raise batch_bins, "
            "or leave long ones out (--max_wav_duration)"
        )


def refuse_no_update(batches: int, accum_grad: int) -> None:
    """Reject a training whose epochs end before the first update.

    ESPnet updates the model every ``accum_grad`` batches and restarts the count in
    every epoch.

    Args:
        batches: of an epoch.
        accum_grad: batches of an update.

    Raises:
        UserError: Naming both numbers and the fix.
    """
    if batches < accum_grad:
        raise UserError(
            f"an epoch has {batches} batches and accum_grad is {accum_grad}: not one "
            f"update an epoch, so nothing would be learned; set accum_grad to at most "
            f"{batches}, or make smaller batches (batch_bins, batch_size)"
        )


def vocabulary_warning(path: PathLike, shapes: Dict, tokens: int) -> Optional[str]:
    """Return what is wrong with a text shape file for ``batch_type: numel``, or None.

    ESPnet's published batch sizes count length x vocabulary: lines
    ``utterance length,vocabulary``.
    """
    sizes = {tuple(shape[1:]) for shape in shapes.values()}
    if sizes == {(tokens,)}:
        return None
    found = "no vocabulary size" if () in sizes else f"another size {min(sizes)}"
    return (
        f"{path} has {found} behind the lengths (there are {tokens} tokens): "
        "batch_bins of published recipes count it, so batches get another size; give "
        "text_shape.<token_type>, as stage 10 writes it"
    )


def set_warnings(lengths: SetLengths, limit: int) -> List[str]:
    """Return the warnings about a set, a line each."""
    lines = []
    short = lengths.too_short(limit)
    if short:
        lines.append(
            f"{len(short)} {lengths.name} utterances have fewer than {limit} frames, "
            f"beside longer ones: {_some_short(lengths, short)}; alone they cannot be "
            "decoded (--min_wav_duration leaves them out)"
        )
    bad = lengths.unalignable()
    if bad:
        lines.append(
            f"CTC's loss is silently zero for {len(bad)} {lengths.name} utterances, "
            "which have fewer frames than labels and repeats need: "
            f"{_some_unalignable(lengths, lengths.frames, bad)}; all can be aligned at "
            f"{lengths.stride_words} of "
            f"{math.floor(10 * lengths.largest_stride(0)) / 10:g}"
        )
    for words, frames in (
        ("sped up on the fly", lengths.fastest),
        ("at the highest of train_strides", lengths.fewest),
    ):
        worse = [] if frames is None else lengths.unalignable(frames)
        if len(worse) > len(bad):
            lines.append(
                f"{words}, {len(worse)} {lengths.name} utterances cannot be "
                f"aligned: {_some_unalignable(lengths, frames, worse)}"
            )
    if lengths.padding() > MUCH_PADDING:
        lines.append(
            f"{percent_of(lengths.padding())} of what the encoder reads in "
            f"{lengths.name} is padding: batch_type numel or sorted groups utterances "
            "by length"
        )
    return lines


class StepCost(NamedTuple):
    """A training step that was measured.

    Attributes:
        padded: Samples of the batch, padding included.
        seconds: Forward, backward and the optimizer.
        peak: Bytes of memory at the peak; None: unknown.
        measured: Share of the batch that was really computed; the rest is
            extrapolated.
    """

    padded: int
    seconds: float
    peak: Optional[int]
    measured: float


class Measured(NamedTuple):
    """What the steps of a median and of the largest batch cost.

    Attributes:
        steps: Empty: nothing was measured.
        device: What on, in words; where nothing was measured, why.
        memory: Bytes that the device has; None: unknown.
    """

    steps: List[StepCost]
    device: str
    memory: Optional[int] = None


def extrapolate(small: StepCost, part: StepCost, padded: int) -> StepCost:
    """Return what a batch costs, by the line through two steps of less of it.

    Args:
        small: Of the least, e.g. of one utterance.
        part: Of a part of the batch, or of all of it.
        padded: Samples of the batch, padding included.

    Returns:
        StepCost: its ``peak`` is None where one step of a little part is all there is:
        what any batch takes cannot be told from what grows with it then.
    """
    more = padded - part.padded
    between = part.padded - small.padded
    share = part.padded / padded

    def line(a: float, b: float) -> float:
        if between <= 0:  # no second point: the line through the origin
            return b / share
        return b + max(0.0, b - a) / between * more

    peak = None
    if None not in (part.peak, small.peak) and (between > 0 or share == 1):
        peak = int(line(small.peak, part.peak))
    return StepCost(padded, line(small.seconds, part.seconds), peak, share)


def memory_words(number: Optional[float]) -> str:
    """Return e.g. ``1.50 GiB`` of bytes."""
    return "memory unknown" if number is None else f"{number / 2**30:.2f} GiB"


def memory_warning(measured: Measured) -> Optional[str]:
    """Return a warning if the largest batch needs more memory than there is.

    What was extrapolated from little of a batch is too rough for that.
    """
    steps = [step for step in measured.steps if step.measured >= 0.1]
    peaks = [step.peak for step in steps if step.peak is not None]
    if not peaks or measured.memory is None or max(peaks) <= measured.memory:
        return None
    return (
        f"the largest batch needs about {memory_words(max(peaks))} and there are "
        f"{memory_words(measured.memory)}: halve batch_bins and double accum_grad"
    )


def epoch_seconds(padded: Iterable[int], steps: Sequence[StepCost]) -> float:
    """Return how long batches take, by the line through the measured steps.

    Args:
        padded: Samples of each batch, padding included.
        steps: One or several, of different size.
    """
    small = min(steps, key=lambda s: s.padded)
    large = max(steps, key=lambda s: s.padded)
    slope, base = large.seconds / large.padded, 0.0
    if large.padded > small.padded:
        through = (large.seconds - small.seconds) / (large.padded - small.padded)
        start = small.seconds - through * small.padded
        if through > 0 and start >= 0:
            slope, base = through, start
        else:  # noise, or a cost that grows faster than the length: through the origin
            slope = sum(s.seconds for s in steps) / sum(s.padded for s in steps)
    return sum(base + slope * size for size in padded)


class ModelCost(NamedTuple):
    """Parameters and multiply-accumulates.

    Attributes:
        words: E.g. ``conformer, input layer adastride``.
        parameters: Of the model.
        layer_parameters: Of the input layer.
        macs: Of one utterance's forward; None: not counted.
        layer_macs: Of the input layer.
        seconds: Of that utterance.
        block_strides: Overall stride at which every block works, where stages are
            behind blocks; else empty.
        restored: Overall stride that is restored after blocks; None: none is.
    """

    words: str
    parameters: int
    layer_parameters: int
    macs: Optional[float] = None
    layer_macs: Optional[float] = None
    seconds: float = 1.0
    block_strides: Sequence[float] = ()
    restored: Optional[float] = None
