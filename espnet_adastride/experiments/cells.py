"""A table's cells: the records of one system at one rate, one per seed."""

from statistics import mean
from typing import Dict, List, Optional, Sequence, Tuple

import numpy as np

from espnet_adastride.evaluation.statistics import Bootstrap
from espnet_adastride.experiments.definition import Experiment, decoding_and_set
from espnet_adastride.experiments.records import Record, SetScores


class Cell:
    """The records of a system at a rate: a seed each.

    Args:
        records: at least one.
        test_set: the set that is reported, by its name in records.
    """

    def __init__(self, records: Sequence[Record], test_set: str):
        self.records = sorted(records, key=lambda r: r.seed)
        self.system, self.rate = self.records[0].system, self.records[0].rate
        self.seeds = [record.seed for record in self.records]
        self.test_set = test_set
        self.decoding, self.set = decoding_and_set(test_set)

    def head(self, feature_rate: float) -> List[str]:
        """Return rate and method, the first columns of the tables.

        Args:
            feature_rate: frames a second that rates count from.
        """
        return [f"{self.rate:g}x, {self.hertz(feature_rate)}", f"`{self.system}`"]

    def hertz(self, feature_rate: float) -> str:
        """Return frames a second, of as many before downsampling."""
        return f"{feature_rate / self.rate:.4g} Hz"

    def scores(self, name: str = "") -> List[SetScores]:
        """Return the scores of every seed."""
        return [r.sets[name or self.test_set] for r in self.records]

    def reference(self, kind: str = "words", name: str = "") -> np.ndarray:
        """Return (U,) reference words or characters."""
        return self.scores(name)[0].reference(kind)

    def errors(
        self, kind: str = "words", name: str = "", seeds: Optional[Sequence[int]] = None
    ) -> np.ndarray:
        """Return (S, U) errors by seed and utterance; ``seeds``: default all."""
        scores = dict(zip(self.seeds, self.scores(name)))
        return np.stack([scores[s].errors(kind) for s in seeds or self.seeds])

    def rates(self, kind: str = "words") -> List[float]:
        """Return the error rate of every seed, in percent."""
        errors, total = self.errors(kind).sum(axis=1), self.reference(kind).sum()
        return [float(100.0 * value / total) for value in errors]

    def rate_of(
        self, kind: str = "words", name: str = "", seeds: Optional[Sequence[int]] = None
    ) -> float:
        """Return the error rate, averaged over the seeds (default: all), in percent."""
        errors = self.errors(kind, name, seeds).mean(axis=0)
        return float(100.0 * errors.sum() / self.reference(kind, name).sum())

    def share(self, what: str) -> float:
        """Return substitutions, deletions or insertions in percent of the words."""
        counts = np.mean([s.words[what] for s in self.scores()], axis=0)
        return float(100.0 * counts.sum() / self.reference().sum())

    def interval(self, bootstrap: Bootstrap) -> Tuple[float, float, float]:
        """Return WER and its 95 % interval over the groups."""
        return bootstrap.ratio(self.errors(), self.reference()).percent()[:3]

    def measured(self, name: str) -> float:
        """Return the mean of a measured figure; NaN where no record has it."""
        values = [r.measured(name) for r in self.records]
        values = [v for v in values if v is not None]
        return mean(values) if values else float("nan")

    def span(self, name: str, scale: float = 1.0) -> str:
        """Return the lowest and the highest of a measured figure, for a table.

        A single number where they are the same; "" where no record has it.
        """
        values = [r.measured(name) for r in self.records]
        values = sorted(scale * v for v in values if v is not None)
        ends = [f"{v:.2f}" for v in values[:1] + values[-1:]]
        return " to ".join(dict.fromkeys(ends))

    def stat(self, name: str, digits: int) -> str:
        """Return the mean of a stat of the last epoch, for a table; "" if unknown."""
        values = []
        for record in self.records:
            learning = record.content["learning"]
            curves = [learning.get(part, {}).get(name) for part in ("train", "valid")]
            values += [curve[-1] for curve in curves if curve][-1:]
        return f"{mean(values):.{digits}f}" if values else ""

    def emitting(self) -> float:
        """Return the share of frames whose best token is not blank; NaN: unknown."""
        pairs = [
            (sum(scores.emitting), sum(scores.frames))
            for record in self.records
            for name, scores in record.sets.items()
            # written by greedy CTC, whichever decoding is reported
            if decoding_and_set(name)[1] == self.set and scores.frames
        ]
        if not pairs:
            return float("nan")
        return sum(a for a, _ in pairs) / sum(b for _, b in pairs)


def make_cells(
    experiment: Experiment, records: Dict[tuple, Record], test_set: str = ""
) -> List[Cell]:
    """Return the cells in the order of the grid's rates and systems.

    Args:
        test_set: name in records; default: the one that is reported.
    """
    test_set = test_set or experiment.reported
    groups: Dict[Tuple[float, str], List[Record]] = {}
    for run in experiment.runs():
        record = records.get(run.key)
        group = groups.setdefault((run.rate, run.system), [])
        if record is not None and test_set in record.sets:
            group.append(record)
    order = {rate: n for n, rate in enumerate(dict.fromkeys(r for r, _ in groups))}
    cells = [Cell(group, test_set) for group in groups.values() if group]
    return sorted(cells, key=lambda cell: order[cell.rate])
