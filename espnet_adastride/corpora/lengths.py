"""Lengths of the utterances that a model was trained on.

Encoders perform poorly on input much longer than their training utterances: a small
model trained on utterances of up to 5.9 s made four times the errors on pieces of 13 to
20 s. The lengths are therefore stored next to a model's ``config.yaml``, in experiments
and in packed models, and determine how recordings are cut (``transcribe.py``)::

    utterances: 1741
    seconds: {median: 3.044, '90%': 3.957, '99%': 4.752, longest: 5.882}
"""

from pathlib import Path
from typing import Any, Dict, NamedTuple, Optional, Sequence

import numpy as np
import yaml

from espnet_adastride.config import read_yaml
from espnet_adastride.corpora.datadir import read_table
from espnet_adastride.errors import UserError
from espnet_adastride.files import PathLike, write_text
from espnet_adastride.options import parse_rate

LENGTHS_NAME = "training_lengths.yaml"
QUANTILES = {"median": 50.0, "90%": 90.0, "99%": 99.0, "longest": 100.0}


class TrainingLengths(NamedTuple):
    """Lengths of a training set.

    Attributes:
        utterances: number of utterances.
        seconds: durations by the names of :data:`QUANTILES`.
    """

    utterances: int
    seconds: Dict[str, float]

    @property
    def usual(self) -> float:
        """Seconds that 99 % of the utterances do not exceed."""
        return self.seconds["99%"]

    @property
    def longest(self) -> float:
        """Seconds of the longest utterance."""
        return self.seconds["longest"]


def measure_lengths(shape_file: PathLike, per_second: float) -> TrainingLengths:
    """Return the lengths in a shape file of the statistics (stage 10).

    Args:
        shape_file: lines of ``UTTERANCE LENGTH[,DIMENSION]``.
        per_second: samples (or frames of extracted features) per second.

    Raises:
        UserError: it is missing, empty, or has another format.
    """
    shapes = read_table(shape_file)
    try:
        counts = [int(value.split(",")[0]) for value in shapes.values()]
    except ValueError:
        counts = []
    if not counts or min(counts) < 0:
        raise UserError(
            f"{shape_file}: not lines of the form 'utterance length[,dimension]'; run "
            "the statistics (stage 10) again"
        )
    values = np.percentile(np.array(counts) / per_second, list(QUANTILES.values()))
    seconds = {name: round(float(v), 3) for name, v in zip(QUANTILES, values)}
    return TrainingLengths(len(counts), seconds)


def write_lengths(path: PathLike, lengths: TrainingLengths) -> None:
    """Write the lengths as YAML."""
    write_text(path, yaml.safe_dump(lengths._asdict(), sort_keys=False))


def read_lengths(path: PathLike) -> Optional[TrainingLengths]:
    """Read the lengths; None if the file is missing.

    Raises:
        UserError: it is no YAML, or has another format.
    """
    if not Path(path).is_file():
        return None
    content = read_yaml(path)
    try:
        seconds = {name: float(content["seconds"][name]) for name in QUANTILES}
        lengths = TrainingLengths(int(content["utterances"]), seconds)
        if not 0 < lengths.usual <= lengths.longest < float("inf"):
            raise ValueError("lengths")
        return lengths
    except (ValueError, KeyError, TypeError):
        raise UserError(
            f"{path}: not the lengths of a training set (utterances, seconds: "
            f"{', '.join(QUANTILES)}); remove it, or write it again with "
            "python -m espnet_adastride.bin.training_lengths"
        ) from None


def units_per_second(options: Dict[str, Any], folder: PathLike) -> float:
    """Return the units per second in a training's shape files: samples or frames.

    Args:
        options: options in its config.yaml.
        folder: folder of config.yaml, with ``upstream.yaml`` for extracted features.
    """
    from espnet_adastride.corpora.upstream_record import RECORD_NAME, read_record

    if options.get("input_size") is not None:
        return 1.0 / read_record(Path(folder) / RECORD_NAME).step
    return float(parse_rate(str((options.get("frontend_conf") or {}).get("fs", "16k"))))


def find_lengths(
    options: Dict[str, Any], folder: PathLike, roots: Sequence[Path] = ()
) -> Optional[TrainingLengths]:
    """Return the training lengths of an experiment; None if unknown.

    They are read from ``training_lengths.yaml``; if that is missing and the experiment
    still has its statistics, from the shape file in its configuration.

    Args:
        options: options in its config.yaml.
        folder: folder of config.yaml.
        roots: folders to which names may be relative.

    Raises:
        UserError: training_lengths.yaml cannot be read.
    """
    lengths = read_lengths(Path(folder) / LENGTHS_NAME)
    names = options.get("train_shape_file") or []
    if lengths is not None or not isinstance(names, (list, tuple)):
        return lengths
    for root in roots if names else ():
        path = Path(root) / str(names[0])
        if path.is_file():
            try:
                return measure_lengths(path, units_per_second(options, folder))
            except UserError:
                return None
    return None
