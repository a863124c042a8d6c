"""What a training reported, epoch by epoch, from the log that ESPnet writes."""

from pathlib import Path
from typing import Dict, List, NamedTuple, Union

import numpy as np

from espnet_adastride.evaluation.logs import parse_epoch, parse_span


class Curve(NamedTuple):
    """One stat of one phase.

    Attributes:
        epochs: (n,) numbers.
        values: (n,) finite.
    """

    epochs: np.ndarray
    values: np.ndarray


def read_epochs(folder: Union[str, Path]) -> Dict[int, Dict[str, Dict[str, str]]]:
    """Return ``{epoch: {"train": {stat: text}, "valid": ...}}``, in order.

    All ``train*.log`` of the folder are read, the oldest first: an epoch that was done
    twice counts as it was last. Empty without a log, or before the first epoch's end.
    """
    epochs: Dict[int, Dict[str, Dict[str, str]]] = {}
    logs = sorted(Path(folder).glob("train*.log"), key=lambda p: p.stat().st_mtime)
    for log in logs:
        for line in log.read_text(encoding="utf-8", errors="replace").splitlines():
            found = parse_epoch(line)
            if found:
                epochs[found[0]] = found[1]
    return dict(sorted(epochs.items()))


def training_seconds(epochs: Dict[int, Dict[str, Dict[str, str]]]) -> float:
    """Return the wall-clock seconds that the epochs took, validation included."""
    return sum(
        parse_span(stats.get("time", ""))
        for phases in epochs.values()
        for stats in phases.values()
    )


def curves(
    epochs: Dict[int, Dict[str, Dict[str, str]]],
) -> Dict[str, Dict[str, Curve]]:
    """Return ``{stat: {phase: Curve}}`` of all stats that are finite numbers."""
    points: Dict[str, Dict[str, List]] = {}
    for epoch, phases in epochs.items():
        for phase in ("train", "valid"):
            for stat, text in phases.get(phase, {}).items():
                try:
                    value = float(text)
                except ValueError:  # a span of time
                    continue
                if np.isfinite(value):
                    points.setdefault(stat, {}).setdefault(phase, []).append(
                        (epoch, value)
                    )
    return {
        stat: {
            phase: Curve(*(np.array(column) for column in zip(*values)))
            for phase, values in by_phase.items()
        }
        for stat, by_phase in points.items()
    }
