"""One page about experiments: error rates, curves, strides, worst utterances.

    exp/asr_... -> Experiment (decoded sets, curves)      read_experiment
        -> rates with intervals, paired differences       rate_rows, difference_rows
        -> learning curves, pictures, worst utterances
        -> HTML in one file                               make_report

References and hypotheses are read from ``score_wer/{ref,hyp}.trn``, as written by
sclite and this package, so that experiments of ESPnet's own recipes work too. For
pictures of strides (:func:`draw_pictures`) the caller loads the model.
"""

import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Callable, Dict, List, NamedTuple, Optional, Sequence, Tuple

import numpy as np

from espnet_adastride.corpora.audio import audio_info
from espnet_adastride.corpora.kaldi import locate, read_scp, read_text, roots_of_audio
from espnet_adastride.corpora.recordings import read_audio
from espnet_adastride.errors import AudioError, UserError
from espnet_adastride.evaluation.learning_curves import Curve, curves, read_epochs
from espnet_adastride.evaluation.scoring import (
    Alignment,
    align,
    characters,
    speaker_of,
    total,
    words,
)
from espnet_adastride.evaluation.statistics import (
    Bootstrap,
    few_units_note,
    holm,
    paired_verdict,
    resampling_units,
)
from espnet_adastride.files import PathLike, read_utf8
from espnet_adastride.report.charts import legend, plot_panel, training_panels
from espnet_adastride.report.pages import Sound, data_uri, encode_audio, render
from espnet_adastride.report.style import to_png, to_svg
from espnet_adastride.report.utterance import (
    Utterance,
    make_picture,
    plot_strides,
    summary,
    typical_utterance,
)

#: with more systems, all are only compared with the first one
ALL_PAIRS = 5
#: sampling rate of the recordings in the page
AUDIO_RATE = 16000
#: seconds of a recording in the page
AUDIO_SECONDS = 20.0

_TRN = re.compile(r"^(.*?)\s*\((\S+)\)\s*$")


class Decoded(NamedTuple):
    """A test set decoded by a model.

    Attributes:
        decoding: name of the decoding's folder.
        set: name of the set.
        ref, hyp: texts by utterance.
        speakers: by utterance; an utterance's own id if unknown.
        folder: folder of the set in the experiment.
    """

    decoding: str
    set: str
    ref: Dict[str, str]
    hyp: Dict[str, str]
    speakers: Dict[str, str]
    folder: Path


@dataclass
class Experiment:
    """The content of an experiment's folder.

    Attributes:
        name: name in tables and legends.
        folder: the folder.
        decoded: sets that were decoded and scored.
        curves: by stat and phase.
    """

    name: str
    folder: Path
    decoded: List[Decoded] = field(default_factory=list)
    curves: Dict[str, Dict[str, Curve]] = field(default_factory=dict)


# ------------------------------------------------------------------ reading


def read_trn(path: PathLike) -> Dict[str, str]:
    """Return the texts of a ``.trn`` file by the names in its brackets.

    Raises:
        UserError: naming file and line.
    """
    texts = {}
    content = Path(path).read_text(encoding="utf-8", errors="replace")
    for number, line in enumerate(content.splitlines(), 1):
        if not line.strip():
            continue
        found = _TRN.match(line)
        if not found:
            raise UserError(
                f"{path}:{number}: not 'words (speaker-utterance)'; score again"
            )
        texts[found.group(2)] = " ".join(found.group(1).split())
    return texts


def split_name(name: str, ids: Sequence[str]) -> Tuple[str, str]:
    """Return utterance and speaker of ``speaker-utterance``.

    Args:
        name: as in a ``.trn`` file.
        ids: known utterances; if none matches, the name is the utterance.
    """
    # the first match is the longest: a shorter id may be its suffix
    for start in [0, *(m.end() for m in re.finditer("-", name))]:
        if name[start:] in ids:
            return name[start:], name[: start - 1] if start else ""
    return name, ""


def read_decoded(experiment: Path, folder: Path) -> Decoded:
    """Read a decoded and scored set.

    Raises:
        UserError: if there are none, or references and hypotheses have different
            utterances.
    """
    score = folder / "score_wer"
    ref, hyp = read_trn(score / "ref.trn"), read_trn(score / "hyp.trn")
    if ref.keys() != hyp.keys():
        raise UserError(
            f"{score}: ref.trn and hyp.trn have different utterances; score again"
        )
    if not ref:
        raise UserError(f"{score}/ref.trn: no utterances in it; score again")
    ids = set()
    if (folder / "text").is_file():
        ids = set(read_text(folder / "text", allow_empty=True))
    names = {name: split_name(name, ids) for name in ref}
    inner = folder.relative_to(experiment).parts
    return Decoded(
        "/".join(inner[:-1]),
        inner[-1],
        {names[n][0]: text for n, text in ref.items()},
        {names[n][0]: text for n, text in hyp.items()},
        {key: speaker_of(key, given or key) for key, given in names.values()},
        folder,
    )


def named_folders(folders: Sequence[PathLike]) -> Dict[Path, str]:
    """Return experiments' folders, each once, with names that tell them apart.

    A name is that of the folder, with the recipe's before it where it occurs twice, or
    else the folder as given.
    """
    given: Dict[Path, Path] = {}
    for folder in map(Path, folders):
        given.setdefault(folder.resolve(), folder)
    names = [path.name for path in given]
    for longer in (
        lambda path: f"{path.parent.parent.name}: {path.name}",
        lambda path: str(given[path]),
    ):
        names = [
            longer(path) if names.count(name) > 1 else name
            for path, name in zip(given, names)
        ]
    return dict(zip(given.values(), names))


def read_experiment(folder: PathLike, name: str = "") -> Experiment:
    """Read an experiment's folder.

    Args:
        folder: of the experiment.
        name: of it; default is the folder's.

    Raises:
        UserError: if it is not an experiment: it has neither a training log nor
            scored sets.
    """
    folder = Path(folder)
    if not folder.is_dir():
        what = "a file, not a folder" if folder.exists() else "no such folder"
        raise UserError(f"{folder}: {what}; give an experiment's folder (exp/asr_...)")
    found = Experiment(name or folder.resolve().name, folder)
    if not (folder / "config.yaml").is_file():
        inner = sorted(p.parent.name for p in folder.glob("*/config.yaml"))
        fix = "give an experiment's folder (exp/asr_...)"
        if inner:
            fix = f"give one of the experiments in it: {', '.join(inner[:4])}"
        raise UserError(f"{folder}: not an experiment: no config.yaml in it; {fix}")
    for path in sorted(folder.rglob("score_wer/ref.trn")):
        if len(path.relative_to(folder).parts) >= 4:  # DECODING/SET/score_wer/ref.trn
            found.decoded.append(read_decoded(folder, path.parents[1]))
    found.curves = curves(read_epochs(folder))
    if not found.decoded and not found.curves:
        raise UserError(
            f"{folder}: nothing to report: no train.log with a finished epoch, and no "
            "scored set (DECODING/SET/score_wer): adastride score scores a decoded one"
        )
    return found


def find_audio(
    decoded: Decoded, experiment: Path, data_dirs: Sequence[PathLike] = ()
) -> Dict[str, str]:
    """Return the recordings of a set's utterances; {} if they are not found.

    They are searched in the given folders, then in the recipe's ``dump/raw/SET`` and
    ``data/SET``.
    """
    places = [Path(d) for d in data_dirs]
    recipe = experiment.resolve().parent.parent
    for root in (recipe, Path.cwd()):
        for name in ("dump/raw", "dump/raw/org", "data"):
            places.append(root / name / decoded.set)
    for place in places:
        if not (place / "wav.scp").is_file():
            continue
        waves = read_scp(place / "wav.scp")
        roots, here = roots_of_audio(place), {}
        for key in decoded.ref:
            path = Path(locate(waves.get(key, ""), roots))
            for found in (path, recipe / path):
                if found.is_file():
                    here[key] = str(found)
                    break
        if here:
            return here
    return {}


# ------------------------------------------------------------------ numbers


@dataclass
class System:
    """One decoding of one set by one experiment, aligned.

    Attributes:
        name: of the experiment, with the decoding if the report has several.
        experiment: the experiment.
        decoded: the decoded set.
        aligned: one alignment per utterance, in order of ids.
        errors, tokens: (U,) words.
        char_rate: CER in percent.
    """

    name: str
    experiment: Experiment
    decoded: Decoded
    aligned: List[Alignment]
    errors: np.ndarray
    tokens: np.ndarray
    char_rate: float

    @property
    def speakers(self) -> List[str]:
        """Speaker of each utterance."""
        return [self.decoded.speakers[a.id] for a in self.aligned]


def read_systems(experiments: Sequence[Experiment]) -> List[System]:
    """Align all decoded sets."""
    systems = []
    several = len({d.decoding for e in experiments for d in e.decoded}) > 1
    for experiment in experiments:
        for decoded in experiment.decoded:
            keys = sorted(decoded.ref)
            ref = {key: decoded.ref[key] for key in keys}
            aligned = align(ref, decoded.hyp, words)
            # in a .trn of words, spaces separate the words
            chars = total(align(ref, decoded.hyp, characters))
            name = experiment.name
            systems.append(
                System(
                    f"{name}, {decoded.decoding}" if several else name,
                    experiment,
                    decoded,
                    aligned,
                    np.array([a.counts.errors for a in aligned], dtype=float),
                    np.array([a.counts.words for a in aligned], dtype=float),
                    chars.error_rate,
                )
            )
    order = {s.decoded.set: n for n, s in reversed(list(enumerate(systems)))}
    return sorted(systems, key=lambda s: order[s.decoded.set])


def rate_rows(systems: Sequence[System], resamples: int) -> List[dict]:
    """Return the rows of the table of error rates."""
    rows = []
    for s in systems:
        counts = total(s.aligned)
        if not counts.words:
            continue
        units = np.arange(len(s.errors))
        interval = Bootstrap(units, resamples).ratio(s.errors, s.tokens).percent()
        over_speakers, number = None, len(set(s.speakers))
        units, kind = resampling_units(s.speakers)
        if kind == "speakers":
            drawn = Bootstrap(units, resamples)
            over_speakers = drawn.ratio(s.errors, s.tokens).percent()[1:3]
        part = 100.0 / counts.words
        rows.append(
            {
                "system": s.name,
                "experiment": s.experiment.name,
                "set": s.decoded.set,
                "decoding": s.decoded.decoding,
                "wer": interval.value,
                "low": interval.low,
                "high": interval.high,
                "speaker_interval": over_speakers,
                "speakers": number,
                "cer": s.char_rate,
                "sub": part * counts.substitutions,
                "dele": part * counts.deletions,
                "ins": part * counts.insertions,
                "wrong": 100.0 * counts.sentence_errors / counts.sentences,
                "utterances": counts.sentences,
                "words": counts.words,
            }
        )
    return rows


def difference_rows(
    systems: Sequence[System], resamples: int
) -> Tuple[List[dict], List[str], bool]:
    """Return the rows of the paired differences, notes on sets not compared, and
    whether they were resampled by speaker.

    Utterances of a speaker are resampled together if there are enough speakers.
    """
    rows, notes, by_speaker = [], [], False
    sets = list(dict.fromkeys(s.decoded.set for s in systems))
    for name in sets:
        group = [s for s in systems if s.decoded.set == name and s.tokens.sum()]
        comparable = [s for s in group if s.decoded.ref == group[0].decoded.ref]
        for s in group:
            if s not in comparable:
                notes.append(
                    f"{s.name}, {name}: not compared: its references differ from those "
                    f"of {group[0].name}."
                )
        if len(comparable) < 2:
            continue
        first = comparable[0]
        units, kind = resampling_units(first.speakers)
        by_speaker = by_speaker or kind == "speakers"
        bootstrap = Bootstrap(units, resamples)
        few = few_units_note(bootstrap.number, kind)
        if few:
            notes.append(f"{name}: {few}")
        known = len(set(first.speakers))
        if kind == "utterances" and known < len(first.aligned):
            notes.append(
                f"{name}: resampled by utterance, because it has only {known} "
                f"speaker{'s' * (known > 1)}: the differences hold for no others."
            )
        pairs = [
            (a, b)
            for n, b in enumerate(comparable)
            for a in comparable[n + 1 :]
            if len(comparable) <= ALL_PAIRS or b is first
        ]
        for system, baseline in pairs:
            errors = system.errors, baseline.errors
            difference = bootstrap.difference(*errors, first.tokens).percent()
            names = {"set": name, "system": system.name, "baseline": baseline.name}
            rows.append({**names, **difference._asdict()})
    for row, p in zip(rows, holm([row["p"] for row in rows])):
        row["p"], row["verdict"] = p, paired_verdict(row["value"], p)
    return rows, notes, by_speaker


def add_verdicts(rates: Sequence[dict], differences: Sequence[dict]) -> None:
    """Add ``verdict`` to the rows of the rates: against the first system of the set.

    That one is the ``baseline``; sets that were not compared have the verdict "".
    """
    first: Dict[str, str] = {}
    for row in differences:
        first.setdefault(row["set"], row["baseline"])
    found = {(d["set"], d["system"], d["baseline"]): d["verdict"] for d in differences}
    for row in rates:
        baseline = first.get(row["set"], "")
        own = "baseline" if baseline and row["system"] == baseline else ""
        row["verdict"] = found.get((row["set"], row["system"], baseline), own)


def worst_of(aligned: Sequence[Alignment], number: int) -> List[Alignment]:
    """Return the utterances with the most errors, most first; none without an error.

    Ties are broken by fewer words, then by id.
    """
    wrong = [a for a in aligned if a.counts.errors]
    wrong.sort(key=lambda a: (-a.counts.errors, a.counts.words, a.id))
    return wrong[:number]


def _sound(path: Optional[str], seconds: float) -> Optional[Sound]:
    """Return a recording for the page; None if it cannot be read."""
    if path is None:
        return None
    try:
        rate = min(audio_info(path).rate, AUDIO_RATE)
        return encode_audio(read_audio(path, rate), rate, seconds)
    except (AudioError, OSError, RuntimeError):
        return None


# ------------------------------------------------------------------ the page


def _places_frames(config: str) -> bool:
    """Return whether the text of a configuration names a method with positions."""
    # imports PyTorch, which takes seconds, and not every page has pictures
    from espnet_adastride.downsampling import registry

    methods = registry.available_downsamplers()
    return any(
        registry.downsampler_class(name).has_positions
        for name in set(methods) & set(re.findall(r"\w+", config))
    )


def draw_pictures(
    load: Callable,
    number: int,
    seconds: float,
    warn: Callable[[str], None],
    experiment,
    systems,
    find,
) -> Tuple[List[dict], List[str]]:
    """Return pictures and notes, for :func:`make_report`.

    If the pictures of an experiment cannot be drawn, the reason becomes a note, because
    the rest of the report does not depend on them.

    Args:
        load: returns the Transcriber of an experiment's folder.
        number: utterances drawn for each experiment.
        seconds: seconds kept of a recording.
        warn: called with the reason if there are no pictures, unless the strides are
            uniform, which is no fault.
        experiment, systems, find: of ``make_report``.
    """
    if not systems:
        return [], []
    decoded, name = systems[0].decoded, experiment.name

    def failed(why: object) -> Tuple[List[dict], List[str]]:
        note = f"{name}: no pictures of strides: {why}"
        warn(note)
        return [], [f"{note}."]

    waves = find(decoded)
    if not waves:
        return failed("the recordings were not found")
    drawn = []
    try:
        config = read_utf8(experiment.folder / "config.yaml")
        # found without loading the model, which also finds what is wrong with the file
        if re.search("^encoder", config, re.M) and not _places_frames(config):
            return [], [f"{name}: strides are uniform; no pictures of them."]
        transcriber = load(experiment.folder)
        typical = typical_utterance(waves)
        chosen = {typical: f"{typical}, of typical length"}
        for a in worst_of(systems[0].aligned, len(systems[0].aligned)):
            if a.id in waves:
                why = f"{a.id}, among the worst ({a.counts.errors} errors)"
                chosen.setdefault(a.id, why)
        for key, why in list(chosen.items())[:number]:
            utterance = Utterance(key, waves[key], decoded.ref[key])
            picture = make_picture(transcriber, utterance)
            image = to_png(plot_strides(picture), dpi=130)
            sound = picture.wave, picture.rate, seconds
            own = picture.hypothesis is not None and picture.hypothesis_from
            drawn.append(
                {
                    "experiment": name,
                    "why": why,
                    "decoding": decoded.decoding,
                    "decoded": decoded.hyp.get(key),
                    "utterance": key,
                    "hypothesis_of": own,
                    "lines": summary(picture),
                    "uri": data_uri(image, "image/png"),
                    "audio": encode_audio(*sound) if seconds > 0 else None,
                }
            )
    except (UserError, OSError) as error:
        return failed(error)
    return drawn, []


def make_report(
    experiments: Sequence[Experiment],
    made: str,
    worst: int = 10,
    resamples: int = 2000,
    data_dirs: Sequence[PathLike] = (),
    audio_seconds: float = AUDIO_SECONDS,
    pictures: Optional[Callable[[Experiment, List[System], Callable], tuple]] = None,
) -> str:
    """Return the page.

    Args:
        experiments: at least one; their names differ.
        made: a line about the time and the program that made the page.
        worst: utterances shown of each decoded set.
        resamples: bootstrap resamples.
        data_dirs: folders with wav.scp to search first for recordings.
        audio_seconds: maximum seconds of a recording; 0: no recordings.
        pictures: takes an experiment, its systems and :func:`find_audio`; returns
            (pictures, notes) for the page.
    """
    from markupsafe import Markup

    systems = read_systems(experiments)
    rates = rate_rows(systems, resamples)
    differences, notes, by_speaker = difference_rows(systems, resamples)
    add_verdicts(rates, differences)
    runs = {e.name: e.curves for e in experiments if e.curves}
    panels = training_panels(runs)
    svgs = [
        # our own markup: without names of experiments
        Markup(to_svg(plot_panel(runs, panel), f"{panel[1]} over the epochs"))
        for panel in panels
    ]
    tables, audio_notes = [], []
    for system in systems:
        rows = worst_of(system.aligned, worst)
        if not rows:
            continue
        paths: Dict[str, str] = {}
        if audio_seconds > 0:
            paths = find_audio(system.decoded, system.experiment.folder, data_dirs)
            if not paths:
                audio_notes.append(
                    f"{system.decoded.set}: the recordings were not found; give the "
                    "folder of their wav.scp with --data_dir."
                )
        tables.append(
            {
                "experiment": system.experiment.name,
                "decoding": system.decoded.decoding,
                "set": system.decoded.set,
                "utterances": len(system.aligned),
                "rows": [
                    {
                        "id": a.id,
                        "errors": a.counts.errors,
                        "words": a.counts.words,
                        "rate": a.counts.error_rate,
                        "pairs": a.pairs,
                        "audio": _sound(paths.get(a.id), audio_seconds),
                    }
                    for a in rows
                ],
            }
        )
    drawn, picture_notes = [], []
    if pictures is not None:
        for experiment in experiments:
            own = [s for s in systems if s.experiment is experiment]
            some, said = pictures(
                experiment, own, lambda d: find_audio(d, experiment.folder, data_dirs)
            )
            drawn += some
            picture_notes += said
    names = [e.name for e in experiments]
    return render(
        "report.html.j2",
        title=names[0] if len(names) == 1 else f"{len(names)} experiments",
        made=made,
        rates=rates,
        by_speaker=any(r["speaker_interval"] for r in rates),
        resamples=resamples,
        notes=notes,
        differences=differences,
        unit_words=("resampled by speaker" if by_speaker else "resampled by utterance"),
        panels=svgs,
        stride_panels=any("stride" in p[0] or "slots" in p[0] for p in panels),
        legend=legend(list(runs)),
        pictures=drawn,
        picture_notes=picture_notes,
        worst=tables,
        audio_notes=list(dict.fromkeys(audio_notes)),
    )
