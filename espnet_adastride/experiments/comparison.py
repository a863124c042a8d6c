"""The statistics of ASR systems: seeds and methods compared on the same utterances.

    errors of every utterance -> error rate of every seed: mean, standard deviation
        -> difference to the baseline at the same rate, paired by utterance
        -> Markdown

What the intervals and tests show, and what they do not: ``evaluation/statistics.py``.
"""

from statistics import mean
from typing import Dict, Iterator, List, NamedTuple, Optional, Sequence, Tuple

import numpy as np

from espnet_adastride.errors import UserError, counted
from espnet_adastride.evaluation.statistics import (
    LEVEL,
    Bootstrap,
    few_units_note,
    holm,
    verdict,
    welch_interval,
)
from espnet_adastride.experiments.cells import Cell
from espnet_adastride.options import name_seeds
from espnet_adastride.report.tables import (
    format_interval,
    format_p,
    markdown_table,
    spread,
)


class Difference(NamedTuple):
    """System minus baseline on the same utterances.

    Attributes:
        value: over all utterances and seeds.
        low, high: its 95 % interval, by bootstrap.
        p: of the paired test, adjusted for the number of comparisons (Holm).
        over_seeds: Welch's 95 % interval; None: a side has only one seed.
    """

    value: float
    low: float
    high: float
    p: float
    over_seeds: Optional[Tuple[float, float]]

    def columns(self) -> List[str]:
        """Return value, interval, p, Welch's interval and verdict, for a table."""
        welch = format_interval(*self.over_seeds) if self.over_seeds else ""
        shown = [f"{self.value:+.2f}", format_interval(self.low, self.high)]
        said = verdict(self.value, self.p, self.over_seeds)
        return [*shown, format_p(self.p), welch, said]


def compare(
    pairs: Sequence[Sequence[np.ndarray]],
    weights: np.ndarray,
    bootstrap: Bootstrap,
    scale: float = 100.0,
) -> List[Difference]:
    """Compare systems on the same utterances, in pairs.

    Args:
        pairs: errors of (system, baseline), (S, U) each by seed and utterance.
        weights: (U,) such as reference words.
        bootstrap: over the groups.
        scale: 100 for percent.
    """
    found = [bootstrap.difference(*pair, weights) for pair in pairs]
    total = weights.sum()
    return [
        Difference(
            *(scale * number for number in one[:3]),
            p,
            welch_interval(*(scale * errors.sum(axis=1) / total for errors in pair)),
        )
        for pair, one, p in zip(pairs, found, holm([one.p for one in found]))
    ]


def format_comparison(
    cells: Sequence[Cell], baseline: str, resamples: int = 10000
) -> str:
    """Write the tables: error rates, then differences to the baseline.

    Args:
        cells: Systems by rate, in the order of the rows.
        baseline: Name of the system that the others are compared with, at the same rate
            and over the seeds that both have.
        resamples: Number of bootstrap resamples.

    Raises:
        UserError: No result at all.
    """
    if not cells:
        raise UserError(
            "no run is finished yet: there is nothing to compare; run the command "
            "without --table_only"
        )
    names = ["rate", "method", "WER %", "CER %", "WER of each seed", "learned rate"]
    names += ["largest jump", "empty slots", "minutes a run"]
    rows = []
    for cell in cells:
        wer = cell.rates()
        row = [f"{cell.rate:g}x", f"`{cell.system}`", spread(wer)]
        row.append(spread(cell.rates("characters")))
        row.append(" ".join(f"{value:.2f}" for value in wer))
        row += [cell.stat("stride", 2), cell.stat("largest_jump", 1)]
        seconds = [r.content["timing"]["training_seconds"] for r in cell.records]
        row += [cell.stat("empty_slots", 3), f"{mean(s / 60 for s in seconds):.1f}"]
        rows.append(row)
    text = markdown_table(names, rows) + "\n"
    return text + _difference_table(cells, baseline, resamples)


def common_seeds(*cells: Cell) -> List[int]:
    """Return the seeds that all cells have."""
    return [s for s in cells[0].seeds if all(s in cell.seeds for cell in cells)]


def _compare_cells(
    pairs: Sequence[Tuple[Cell, Cell]], bootstrap: Bootstrap
) -> List[Tuple[Cell, Cell, List[int], Difference]]:
    """Return system, baseline, their common seeds, and difference of each pair.

    Pairs that share no seed are left out.
    """
    found, errors = [], []
    for pair in pairs:
        seeds = common_seeds(*pair)
        if seeds:
            found.append((*pair, seeds))
            errors.append([cell.errors(seeds=seeds) for cell in pair])
    if not found:
        return []
    differences = compare(errors, pairs[0][0].reference(), bootstrap)
    return [(*pair, difference) for pair, difference in zip(found, differences)]


def pair_table(
    cells: Sequence[Cell], pairs: Sequence[Sequence[str]], bootstrap: Bootstrap
) -> Tuple[str, int]:
    """Return the differences of pairs of systems at every rate that both have.

    The second value is the number of comparisons; of none, the table is "".

    Args:
        cells: systems by rate.
        pairs: (system, other): system minus other, over the seeds that both have.
        bootstrap: over the groups.
    """
    places = {(cell.rate, cell.system): cell for cell in cells}
    asked = [
        (places[rate, one], places[rate, other])
        for rate in dict.fromkeys(cell.rate for cell in cells)
        for one, other in pairs
        if (rate, one) in places and (rate, other) in places
    ]
    rows = []
    for one, other, seeds, difference in _compare_cells(asked, bootstrap):
        row = [f"{one.rate:g}x", f"`{one.system}` minus `{other.system}`"]
        rows.append([*row, name_seeds(seeds), *difference.columns()])
    names = ["rate", "methods", "seeds", "WER", "over groups", "p, Holm", "over seeds"]
    return markdown_table([*names, "verdict"], rows) if rows else "", len(rows)


def across_rates_table(
    cells: Sequence[Cell], baseline: str, feature_rate: float, bootstrap: Bootstrap
) -> Tuple[str, int]:
    """Return each method minus the baseline at every higher frame rate.

    It answers whether a method needs fewer frames for the same errors: a row for each
    method and rate, a column for each rate of the baseline, the highest first, over the
    seeds that both have. The second value is the number of comparisons; of none, the
    table is "".

    Args:
        cells: systems by rate.
        baseline: name of the system that the others are compared with.
        feature_rate: frames a second that rates count from.
        bootstrap: over the groups.
    """
    bases = sorted((c for c in cells if c.system == baseline), key=lambda c: c.rate)
    pairs = [(c, base) for c in cells for base in bases if base.rate < c.rate]
    by_cell: Dict[Cell, Dict[Cell, str]] = {}
    for cell, base, seeds, found in _compare_cells(pairs, bootstrap):
        value, interval, p, over_seeds, _ = found.columns()
        words = f"{value} {interval}, p {p}; {_seeds_of(seeds, over_seeds)}"
        by_cell.setdefault(cell, {})[base] = words
    used = [base for base in bases if any(base in found for found in by_cell.values())]
    rows = []
    for cell, found in by_cell.items():
        row = cell.head(feature_rate)
        rows.append(row + [found.get(base, "") for base in used])
    names = ["rate", "method"]
    names += [f"minus `{baseline}` at {base.hertz(feature_rate)}" for base in used]
    number = sum(map(len, by_cell.values()))
    return markdown_table(names, rows) if rows else "", number


def minus(
    errors: np.ndarray, others: np.ndarray, words: np.ndarray, bootstrap: Bootstrap
) -> Tuple[str, str]:
    """Return a difference of errors and its interval, for a table; it is not tested.

    Args:
        errors, others: (S, U) and (S', U) by seed and utterance.
        words: (U,) of the reference.
        bootstrap: over utterances or groups.
    """
    found = bootstrap.ratio(errors.mean(axis=0) - others.mean(axis=0), words).percent()
    return f"{found.value:+.2f}", format_interval(found.low, found.high)


def _seeds_of(seeds: Sequence[int], over_seeds: str) -> str:
    """Return the seeds of a comparison and Welch's interval over them, if any."""
    words = f"seed{'s' * (len(seeds) > 1)} {name_seeds(seeds)}"
    return f"{words}: {over_seeds}" if over_seeds else words


def equal_compute_table(
    cells: Sequence[Cell], baseline: str, feature_rate: float, bootstrap: Bootstrap
) -> str:
    """Return each method minus the baseline at as much compute; of none "".

    The baseline's errors there are interpolated linearly in multiply-accumulates,
    utterance by utterance, between its points on either side of the method, over the
    seeds that all three have. Methods beyond its points are left out.

    Args:
        cells: systems by rate.
        baseline: name of the system that the others are compared with.
        feature_rate: frames a second that rates count from.
        bootstrap: over the groups.
    """
    words = cells[0].reference()
    rows = []
    for cell, low, high, share in _between_points(cells, baseline):
        seeds = common_seeds(cell, low, high)
        if not seeds:
            continue
        own, below, above = (one.errors(seeds=seeds) for one in (cell, low, high))
        chord = (1 - share) * below + share * above
        rates = [100 * errors.sum(axis=1) / words.sum() for errors in (own, chord)]
        welch = welch_interval(*rates)
        row = cell.head(feature_rate)
        row.append(f"{cell.measured('macs_per_second') / 1e6:.2f}")
        row.append(f"{low.hertz(feature_rate)} and {high.hertz(feature_rate)}")
        row += [name_seeds(seeds), *(f"{rate.mean():.2f}" for rate in rates)]
        row += minus(own, chord, words, bootstrap)
        rows.append([*row, format_interval(*welch) if welch else ""])
    names = ["rate", "method", "MAC/s, M", f"`{baseline}` between", "seeds", "WER %"]
    names += [f"`{baseline}`, WER %", "difference", "over groups", "over seeds"]
    return markdown_table(names, rows) if rows else ""


def _between_points(
    cells: Sequence[Cell], baseline: str
) -> Iterator[Tuple[Cell, Cell, Cell, float]]:
    """Yield each method's cell, the baseline's with less and with more compute.

    The last value is how far the cell is between these two: from 0 to 1.
    """
    macs = {cell: cell.measured("macs_per_second") for cell in cells}
    known = [cell for cell in cells if not np.isnan(macs[cell])]
    bases = sorted((c for c in known if c.system == baseline), key=macs.get)
    for cell in known:
        for low, high in zip(bases, bases[1:]):
            if cell.system != baseline and macs[low] <= macs[cell] < macs[high]:
                share = (macs[cell] - macs[low]) / (macs[high] - macs[low])
                yield cell, low, high, share


def _difference_table(cells: Sequence[Cell], baseline: str, resamples: int) -> str:
    test, words = cells[0].scores()[0], cells[0].reference()
    by_utterance = Bootstrap(np.arange(len(words)), resamples)
    by_group = Bootstrap(test.groups, resamples)
    bases = {cell.rate: cell for cell in cells if cell.system == baseline}
    pairs = [(c, bases[c.rate]) for c in cells if bases.get(c.rate, c) is not c]
    found = _compare_cells(pairs, by_group)
    if not found:
        return f"No rate has both `{baseline}` and another method yet.\n"
    names = ["rate", f"method minus `{baseline}`", "seeds", "WER", "over utterances"]
    names += ["over groups", "p, Holm", "over seeds", "CER, over groups", "verdict"]
    rows = []
    for cell, base, seeds, difference in found:
        value, interval, p, over_seeds, said = difference.columns()
        # by name: means above may be over other seeds, and give another difference
        row = [f"{cell.rate:g}x", f"`{cell.system}`", name_seeds(seeds), value]
        errors = [one.errors(seeds=seeds) for one in (cell, base)]
        row += [minus(*errors, words, by_utterance)[1], interval, p, over_seeds]
        errors = [one.errors("characters", seeds=seeds) for one in (cell, base)]
        characters = minus(*errors, cell.reference("characters"), by_group)
        rows.append([*row, " ".join(characters), said])
    note = few_units_note(by_group.number, "groups")
    return (
        markdown_table(names, rows)
        + "\n"
        + f"{counted(len(words), 'utterance')}, {counted(int(words.sum()), 'word')}, "
        f"{by_group.number} groups of utterances that share speaker or "
        "recordings. WER and CER: mean ± standard deviation over seeds. Differences "
        "are in points, over the seeds that both have, negative is better; in brackets "
        "95 % intervals: *over "
        f"utterances* and *over groups* by bootstrap ({resamples} paired test sets, "
        "the seeds of an utterance kept together), *over seeds* by Welch. Utterances "
        "of a group are not independent: use the interval over groups. p: exact test "
        "over the groups (all signs flipped). *Learned rate*, *largest jump* and "
        "*empty slots* are those of the last epoch, means over seeds; *minutes a run* "
        "are wall-clock time, which depends on what else the machine was doing.\n\n"
        + (f"{note}\n\n" if note else "")
        + "*Verdict*: better or worse where p, adjusted by Holm's method for the "
        f"{len(rows)} comparisons of this table, is below {LEVEL:g}. The intervals are "
        "not adjusted: one in twenty misses. The paired tests are of these trained "
        "models only; *seeds differ as much*: the interval over seeds contains 0, and "
        "other seeds may reverse the sign.\n"
    )
