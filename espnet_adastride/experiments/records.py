"""The record of one run: small enough for git, enough for every table and picture.

``results/records/EXPERIMENT/SYSTEM_RATEx_seedN.json.gz`` is gzip JSON of some kB. Every
task (``asr``, ``classification``, ``vqvae``; missing: ``asr``) has

    format, task, system, rate, seed, commit, versions, machine
    configuration   the training's options, resolved; no paths
    learning        {"train" | "valid": {stat: [value of each epoch]}}
    timing          {"training_seconds", "epochs"}
    measured        of the model: parameters ... (asr: experiments/measure.py)
    sets            {name: scores of every utterance (asr: SetScores)}; the name is
                    DECODING/SET if the experiment has decodings

and speech recognition also

    experiment, asr_args, fingerprint
    settings        what the experiment asked for (experiments/definition.py)
    upstream        what features were extracted with, or null

Classification leaves out the rate in the file's name.
Writing a record twice gives identical files: gzip's time stamp is left out.
"""

import gzip
import hashlib
import json
import math
import platform
import zlib
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Dict, Iterator, List, Optional, Sequence, Tuple

import numpy as np

from espnet_adastride.config import flatten
from espnet_adastride.errors import UserError
from espnet_adastride.evaluation.learning_curves import (
    curves,
    read_epochs,
    training_seconds,
)
from espnet_adastride.evaluation.scoring import (
    align,
    characters,
    check_ids,
    git,
    speaker_of,
    words,
)
from espnet_adastride.experiments.definition import Experiment, hash_settings
from espnet_adastride.experiments.grid import Run
from espnet_adastride.files import PathLike, write_text, written_whole

FORMAT = 1
#: what tables and pictures need of every record, and of one of speech recognition
PARTS = ("configuration", "learning", "timing", "versions")
PARTS_OF_ASR = ("asr_args", "fingerprint", "settings")
#: those that are words, not mappings
WORDS = ("asr_args", "fingerprint")
ERRORS = ("substitutions", "deletions", "insertions")
KINDS = ("words", "characters")
#: options of a training that name files, or do not bear on the result
NOT_KEPT = tuple(
    "config dry_run iterator_type log_level output_dir ngpu dist_ print_config resume "
    "train_data_path valid_data_path train_shape_file valid_shape_file token_list "
    "bpemodel stats_file wandb use_wandb use_tensorboard local_rank version required "
    "multiprocessing_distributed init_param non_linguistic_symbols num_att_plot".split()
)
#: options of a classifier or VQ-VAE that method and rate set
OF_THE_GRID = (
    *("network.strides", "network_conf.method", "network_conf.strides"),
    *("network_conf.downsampler_conf", "encoder_conf.method"),
    "encoder_conf.input_layer",
)
#: the others that may differ: the clips of a fold make the steps of its epochs
OF_THE_SEED = ("seed", "scheduler_conf.total_steps", "scheduler_conf.warmup_steps")


@dataclass(frozen=True)
class SetScores:
    """Errors of every utterance of a set.

    Attributes:
        utterances: ids.
        groups: :func:`speaker_of` each.
        seconds: duration of each.
        words, characters: {"reference" | "substitutions" | "deletions" | "insertions":
            counts of each utterance}.
        frames, emitting: of the encoder, and those whose best token is not blank; empty
            if that was not written.
        data_sha256: of ids, texts and durations: what was tested on.
    """

    utterances: List[str]
    groups: List[str]
    seconds: List[float]
    words: Dict[str, List[int]]
    characters: Dict[str, List[int]]
    frames: List[int]
    emitting: List[int]
    data_sha256: str

    def errors(self, kind: str = "words") -> np.ndarray:
        """Return (U,) errors of ``words`` or ``characters``."""
        counts = getattr(self, kind)
        return np.sum([counts[k] for k in ERRORS], axis=0, dtype=float)

    def reference(self, kind: str = "words") -> np.ndarray:
        """Return (U,) reference words or characters."""
        return np.array(getattr(self, kind)["reference"], dtype=float)


def hash_data(ref: Dict[str, str], seconds: Dict[str, float]) -> str:
    """Return a hash of ids, texts and durations (to a millisecond)."""
    content = "".join(f"{k} {seconds[k]:.3f} {ref[k]}\n" for k in sorted(ref))
    return hashlib.sha256(content.encode("utf-8")).hexdigest()


def score_set(
    ref: Dict[str, str],
    hyp: Dict[str, str],
    groups: Dict[str, str],
    seconds: Dict[str, float],
    frames: Optional[Dict[str, Sequence[int]]] = None,
) -> SetScores:
    """Count the errors of every utterance.

    Args:
        ref, hyp: texts by utterance.
        groups: of utt2spk.
        seconds: durations.
        frames: (frames, emitting frames) by utterance; None: unknown.

    Raises:
        UserError: the two sets of utterances differ.
    """
    check_ids(ref, hyp)
    keys = sorted(ref)
    ref = {key: ref[key] for key in keys}

    def counts(tokenize):
        found = [alignment.counts for alignment in align(ref, hyp, tokenize)]
        errors = {name: [getattr(c, name) for c in found] for name in ERRORS}
        return {"reference": [c.words for c in found], **errors}

    pairs = [] if frames is None else [frames[k] for k in keys]
    return SetScores(
        keys,
        [speaker_of(key, groups[key]) for key in keys],
        [round(seconds[key], 3) for key in keys],
        counts(words),
        counts(characters),
        [int(pair[0]) for pair in pairs],
        [int(pair[1]) for pair in pairs],
        hash_data(ref, seconds),
    )


def kept_configuration(options: Dict[str, Any]) -> Dict[str, Any]:
    """Return a training's options without files, and without what is empty."""

    return {
        name: kept_configuration(value) if isinstance(value, dict) else value
        for name, value in sorted(options.items())
        if value not in (None, [], {}, "") and not name.startswith(NOT_KEPT)
    }


def versions() -> Dict[str, str]:
    """Return the versions of Python and of the packages that compute."""
    from importlib import metadata

    found = {"python": platform.python_version()}
    for name in ("torch", "espnet", "numpy", "ctranslate2", "transformers"):
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            pass
    return found


def machine() -> str:
    """Return the processor's name."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
        name = next(x for x in lines if x.startswith("model name"))
        return name.partition(":")[2].strip()
    except (OSError, StopIteration):
        return platform.processor() or platform.machine()


def code_state() -> str:
    """Return the commit of this checkout, + if files differ; empty if unknown."""
    return git("describe", "--always", "--dirty=+")


def training_record(folder: PathLike) -> Dict[str, Any]:
    """Return ``learning`` and ``timing`` of a training by ESPnet, from its log."""
    epochs = read_epochs(folder)
    learning: Dict[str, Dict[str, List[float]]] = {}
    for stat, by_phase in curves(epochs).items():
        for phase, curve in by_phase.items():
            values = [float(f"{value:.5g}") for value in curve.values]
            learning.setdefault(phase, {})[stat] = values
    timing = {"training_seconds": training_seconds(epochs), "epochs": len(epochs)}
    return {"learning": learning, "timing": timing}


def provenance(code: Optional[str] = None) -> Dict[str, Any]:
    """Return format, code, versions and machine, which every record has.

    Args:
        code: state of the code; default: the current state of this checkout.
    """
    return {
        "format": FORMAT,
        "commit": code_state() if code is None else code,
        "versions": versions(),
        "machine": machine(),
    }


class Record:
    """A run's record.

    Args:
        content: as the file has it.
        path: of the file, for messages.

    Raises:
        UserError: it has another format.
    """

    def __init__(self, content: Dict[str, Any], path: PathLike = "a record"):
        self.content, self.path = content, path
        if content.get("format") != FORMAT:
            raise UserError(
                f"{path}: format {content.get('format')!r} is not supported (expected "
                f"{FORMAT}): use the code that wrote it, or run it again"
            )
        self.task = content.get("task", "asr")
        self.system, self.rate = content["system"], float(content["rate"])
        self.seed = int(content["seed"])
        self.sets = content["sets"]
        if self.task == "asr":
            self.sets = {k: SetScores(**v) for k, v in self.sets.items()}

    @property
    def key(self) -> Tuple[str, float, int]:
        """System, rate and seed."""
        return self.system, self.rate, self.seed

    @cached_property
    def settings(self) -> Tuple[Any, Any]:
        """What all runs of a page share, and what this method at this rate has."""
        if self.task == "asr":
            return self._fingerprint(), self.content["asr_args"]
        configuration = self.content["configuration"]
        own = flatten(configuration).items()
        own = {k: v for k, v in own if k.startswith(OF_THE_GRID)}
        return shared_settings(configuration), own

    def _fingerprint(self) -> str:
        settings = self.content["settings"]
        trained = (settings.get("train_set"), settings.get("valid_set"))
        data = settings.get("data", {})
        if set(data) <= set(trained):
            return self.content["fingerprint"]
        # of an earlier version, which added the hashes of the test sets
        data = {name: data[name] for name in trained}
        return hash_settings({**settings, "data": data})

    @property
    def figures(self) -> Dict[str, Any]:
        """Everything that the tables of classifiers and VQ-VAEs need, in one mapping.

        ``rate`` is the measured rate of a classifier, otherwise the configured one.
        """
        who = {"method": self.system, "rate": self.rate, "seed": self.seed}
        learning, measured = self.content["learning"], self.content["measured"]
        own = {**who, "learning": learning, **self.content["timing"], **measured}
        return {**own, **self.sets["test"]}

    def measured(self, name: str, default=None):
        """Return a figure of experiments/measure.py; ``default`` if it is missing."""
        return self.content.get("measured", {}).get(name, default)


def record_path(folder: PathLike, run: Run) -> Path:
    """Return the file of a run's record."""
    return Path(folder) / f"{run.system}_{run.rate:g}x_seed{run.seed}.json.gz"


def write_record(path: PathLike, content: Dict[str, Any]) -> None:
    """Write a record, whole or not at all: gzip JSON, or a line of JSON (``.json``)."""
    if Path(path).suffix == ".json":
        write_text(path, json.dumps(content) + "\n")
        return
    text = json.dumps(content, sort_keys=True, separators=(",", ":"))
    with written_whole(path) as temporary:
        temporary.write_bytes(gzip.compress(text.encode("utf-8"), 9, mtime=0))


def is_number(value: Any) -> bool:
    """Return whether a value is a number, and not true or false."""
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def _check_numbers(value: Any, where: str, length: Optional[int] = None) -> None:
    """Raise TypeError unless a value is a list of numbers, of a given length."""
    if not isinstance(value, list) or not all(map(is_number, value)):
        raise TypeError(f"{where} is not a list of numbers")
    if length is not None and len(value) != length:
        raise TypeError(f"{where} has {len(value)} values for {length} utterances")


def _check_scores(scores: SetScores, where: str) -> None:
    """Raise TypeError unless a set has as many values as utterances everywhere."""
    ids = scores.utterances
    for name, value in (("utterances", ids), ("groups", scores.groups)):
        if not isinstance(value, list) or not all(isinstance(x, str) for x in value):
            raise TypeError(f"{where}.{name} is not a list of words")
    _check_numbers(scores.seconds, f"{where}.seconds", len(ids))
    for kind in KINDS:
        counts = getattr(scores, kind)
        for name in ("reference", *ERRORS):
            _check_numbers(counts[name], f"{where}.{kind}.{name}", len(ids))
    for name in ("frames", "emitting"):
        value = getattr(scores, name)
        _check_numbers(value, f"{where}.{name}", len(ids) if value else None)


def _check_recognition(record: Record) -> None:
    """Raise TypeError or KeyError unless the parts of speech recognition are right."""
    for name, scores in record.sets.items():
        _check_scores(scores, f"sets.{name}")
    for name, value in record.content.get("measured", {}).items():
        if name == "unalignable":
            _check_counts(value)
        elif not is_number(value):
            raise TypeError(f"measured.{name} is not a number")
    upstream = record.content.get("upstream") or {}
    if not isinstance(upstream, dict):
        raise TypeError("upstream is not a mapping")
    for name in ("upstream", "model", "sha256") if upstream else ():
        if not isinstance(upstream.get(name), str):
            raise TypeError(f"upstream.{name} is not a word")
    settings = record.content["settings"]
    if not isinstance(settings.get("data", {}), dict):
        raise TypeError("settings.data is not a mapping")
    try:
        _ = record.settings
    except KeyError as error:
        raise KeyError(f"settings.data.{error.args[0]} is missing") from None


def _check_counts(counts: Any) -> None:
    """Raise TypeError unless each set has how many CTC cannot align, and how many."""
    if not isinstance(counts, dict):
        raise TypeError("measured.unalignable is not a mapping")
    for name, pair in counts.items():
        _check_numbers(pair, f"measured.unalignable.{name}")
        if len(pair) != 2:
            raise TypeError(f"measured.unalignable.{name} is not two numbers")


def _check_parts(record: Record) -> None:
    """Raise TypeError or KeyError unless all that tables compute with is of its type.

    A record that was edited by hand, or merged wrongly, would otherwise fail somewhere
    in a table.
    """
    content = record.content
    for part in PARTS + PARTS_OF_ASR * (record.task == "asr"):
        if part not in content:
            raise KeyError(f"{part} is missing")
        if part not in WORDS and not isinstance(content[part], dict):
            raise TypeError(f"{part} is not a mapping")
    for part in ("system", "commit", "machine"):
        known = part == "system" or content.get(part)  # the others may be missing
        if known and not isinstance(content[part], str):
            raise TypeError(f"{part} is not a word")
    if not math.isfinite(record.rate):
        raise TypeError("rate is not a finite number")
    if record.seed != content["seed"]:
        raise TypeError("seed is not a whole number")
    for phase, stats in content["learning"].items():
        for stat, values in stats.items():
            _check_numbers(values, f"learning.{phase}.{stat}")
    if record.task == "asr" and "training_seconds" not in content["timing"]:
        raise KeyError("timing.training_seconds is missing")
    for name, value in content["timing"].items():
        if not is_number(value):
            raise TypeError(f"timing.{name} is not a number")
    if not isinstance(content.get("measured", {}), dict):
        raise TypeError("measured is not a mapping")
    if not isinstance(record.sets, dict):
        raise TypeError("sets is not a mapping")
    if record.task == "asr":
        _check_recognition(record)
    elif "measured" not in content:
        raise KeyError("measured is missing")
    elif not isinstance(record.sets.get("test"), dict):
        raise TypeError("sets.test is not a mapping")


@contextmanager
def checking(path: PathLike) -> Iterator[None]:
    """Turn the error on what is no record, or has a wrong value, into a UserError."""
    try:
        yield
    except (
        *(OSError, EOFError, zlib.error),  # damaged
        # something else; OverflowError: an infinite seed
        *(AttributeError, KeyError, TypeError, ValueError, OverflowError),
    ) as error:
        lines = str(error).splitlines() or [type(error).__name__]
        raise UserError(
            f"{path}: cannot be read as a record ({lines[0][:80]}); take it from git "
            "again, or remove it and run again"
        ) from None


def read_record(path: PathLike) -> Record:
    """Read a record.

    Raises:
        UserError: it is damaged, or has another format.
    """
    with checking(path):
        record = Record(json.loads(gzip.decompress(Path(path).read_bytes())), path)
        _check_parts(record)
    return record


def read_records(folder: PathLike) -> List[Record]:
    """Return the records of a folder, in the order of their names.

    Hidden files are left out: macOS writes some beside files on other disks.
    """
    paths = sorted(Path(folder).glob("[!.]*.json.gz"))
    return [read_record(path) for path in paths]


def matching_records(
    experiment: Experiment, folder: PathLike
) -> Tuple[Dict[Tuple[str, float, int], Record], List[Record]]:
    """Return the records that match an experiment by key, and the others of its folder.

    A run whose own record does not match, or is missing, may have one in the folders of
    ``records_of``, the first of which that has it counts.
    """
    fit, others = split_records(experiment, read_records(folder))
    for name in experiment.records_of:
        found = read_records(Path(folder).with_name(name))
        for key, record in split_records(experiment, found)[0].items():
            fit.setdefault(key, record)
    return fit, others


def shared_settings(configuration: Dict[str, Any]) -> Dict[str, str]:
    """Return what the classifiers or VQ-VAEs of a page have in common, flat."""
    own = OF_THE_GRID + OF_THE_SEED
    options = flatten(configuration)
    return {k: v for k, v in options.items() if not k.startswith(own)}


def split_records(
    experiment: Experiment, records: Sequence[Record]
) -> Tuple[Dict[Tuple[str, float, int], Record], List[Record]]:
    """Return the records that match an experiment by key, and the others.

    A record matches if it is of the grid, with the experiment's settings and the
    options of that run (a variant's options may have changed). Definitions of other
    tasks than speech recognition have no settings: those of most records count.
    """
    for record in records:
        if record.task != experiment.task:
            raise UserError(
                f"{record.path}: a record of the task {record.task}, and "
                f"{experiment.name} is of {experiment.task}: remove it from this folder"
            )
    fingerprint = experiment.fingerprint()
    wanted = {run.key: (fingerprint, run.asr_args) for run in experiment.runs()}
    if experiment.task != "asr":
        inside = [record for record in records if record.key in wanted]
        shared = _most([record.settings[0] for record in inside])
        for key in wanted:
            cell = [r.settings[1] for r in inside if r.key[:2] == key[:2]]
            wanted[key] = shared, _most(cell)
    fit, others = {}, []
    for record in records:
        if record.settings == wanted.get(record.key):
            first = fit.setdefault(record.key, record)
            if first is not record:
                raise UserError(
                    f"{first.path} and {record.path} are records of the same run: "
                    "remove one of them"
                )
        else:
            others.append(record)
    return fit, others


def _most(values: List[Any]) -> Any:
    """Return the commonest value, of several the first; None: there is none."""
    return max(values, key=values.count, default=None)


def _positions(scores: SetScores) -> Tuple[Any, ...]:
    """Return the utterances and the lengths of their references, in their order."""
    lengths = [getattr(scores, kind)["reference"] for kind in KINDS]
    return scores.utterances, lengths


def same_data(records: Sequence[Record], name: str) -> None:
    """Reject records of different test data.

    Raises:
        UserError: names two of them.
    """
    first: Optional[Record] = None
    for record in records:
        if name not in record.sets:  # of a set that was added later
            continue
        if first is None:
            first = record
            continue
        ours, other = record.sets[name], first.sets[name]
        if ours.data_sha256 != other.data_sha256:
            raise UserError(
                f"{record.path} and {first.path} were tested on different data "
                f"({name}): other utterances, texts or durations; remove one of them, "
                "and test it again on the other's data"
            )
        if _positions(ours) != _positions(other):  # what is paired is at one place
            raise UserError(
                f"{record.path} and {first.path} have the utterances of {name} in "
                "another order, or count their words differently, and cannot be "
                "paired: take them from git again, or score one of them again"
            )
        if ours.groups != other.groups:  # not in the hash, but what is resampled
            raise UserError(
                f"{record.path} and {first.path} have the utterances of {name} in "
                "different groups (utt2spk): remove one of them, and score it again "
                "with the other's utt2spk"
            )


def same_training_set(records: Sequence[Record], name: str) -> None:
    """Reject records of training sets of different sizes.

    Args:
        records: of one experiment.
        name: of its training set.

    Raises:
        UserError: names two of them.
    """
    found: Dict[int, Record] = {}
    for record in records:
        counts = record.measured("unalignable", {}).get(name)
        if counts is not None:  # [utterances that CTC cannot align, all utterances]
            found.setdefault(counts[1], record)
    if len(found) > 1:
        (size, first), (other, second) = list(found.items())[:2]
        raise UserError(
            f"{first.path} and {second.path} were trained on different data ({name}): "
            f"{size} and {other} utterances; give each corpus --records and --results "
            "folders of its own"
        )


def make_content(
    experiment: Experiment,
    run: Run,
    sets: Dict[str, SetScores],
    **parts: Any,
) -> Dict[str, Any]:
    """Return a record's content.

    Args:
        sets: scores by set.
        parts: ``configuration``, ``upstream``, ``learning``, ``measured``, ``timing``.
    """
    return {
        **provenance(parts.pop("commit", "")),
        "task": "asr",
        "experiment": experiment.name,
        "system": run.system,
        "rate": run.rate,
        "seed": run.seed,
        "asr_args": run.asr_args,
        "fingerprint": experiment.fingerprint(),
        "settings": experiment.settings(),
        "sets": {name: asdict(scores) for name, scores in sets.items()},
        **parts,
    }
