"""The tables of an experiment, of several data sets, and how to read them: Markdown."""

from pathlib import Path
from typing import Dict, List, Optional, Sequence, Tuple

from espnet_adastride.evaluation.statistics import LEVEL
from espnet_adastride.experiments.classification.pictures import plot_confusion
from espnet_adastride.experiments.classification.results import (
    Comparison,
    Row,
    Runs,
    choose_option,
    compare,
    groups_of,
    read_runs,
    seeds_in_a_round,
    whole_rounds,
)
from espnet_adastride.experiments.folders import run_name
from espnet_adastride.files import write_text
from espnet_adastride.options import name_seeds
from espnet_adastride.report.style import save_figure
from espnet_adastride.report.tables import (
    format_interval,
    format_p,
    markdown_table,
    spread,
)

#: the method whose confusions are drawn by default
DRAWN = "adastride"


def report(exp, reference: str, method: Optional[str] = None) -> List[Row]:
    """Write and print EXP/RESULTS.md, and draw the confusions of a method.

    Args:
        exp: folder of the runs.
        reference: method to compare with.
        method: whose confusions are drawn; None: ``adastride``, if it has runs.

    Returns:
        The table's rows.

    Raises:
        UserError: there are no runs, or none of the method.
    """
    runs = read_runs(exp)
    rows = compare(runs, reference)
    table = format_table(rows, runs, reference)
    write_text(Path(exp) / "RESULTS.md", table)
    print("\n" + table)
    if method or DRAWN in runs:
        method = method or DRAWN
        picture = Path(exp).resolve() / f"confusion_{run_name(method)}.png"
        save_figure(plot_confusion(whole_rounds(runs), method), picture)
        print(f"Confusions of {method}: {picture}")
    return rows


def format_table(rows: List[Row], runs: Dict[str, Runs], reference: str) -> str:
    """Return the Markdown table of :func:`compare`, and how to read it."""
    head = ["method", "parameters", "rate", "accuracy, %", "95 % interval"]
    with_reference = any(row.comparison for row in rows)
    if with_reference:
        head += [f"to {reference}, points", "clips better / worse", "p", "p (Holm)"]
    measured = all(
        "cpu_seconds" in run for own in runs.values() for run in own.values()
    )
    head.append("CPU s" if measured else "training, s")
    lines = []
    for row in rows:
        cells = [f"`{row.method}`", f"{row.parameters:,}", f"{row.rate:.1f}"]
        cells.append(spread(row.accuracies, 1))
        cells.append(format_interval(*row.interval, ".1f", "one group"))
        if with_reference:
            cells += _comparison_cells(row.comparison)
        lines.append([*cells, f"{row.seconds:.0f}"])
    notes = "\n".join(_notes(rows, runs, reference))
    return f"{markdown_table(head, lines)}\n{notes}\n"


def _comparison_cells(comparison: Optional[Comparison]) -> List[str]:
    if comparison is None:
        return ["", "", "", ""]
    interval = format_interval(*comparison.interval, "+.1f", "one group")
    return [
        f"{comparison.difference:+.1f} {interval}",
        f"{comparison.better} / {comparison.worse}",
        format_p(comparison.p),
        format_p(comparison.p_holm),
    ]


def _notes(rows, runs, reference) -> List[str]:
    counted = {row.method: row.seeds for row in rows}
    every = [runs[method][seed] for method in counted for seed in counted[method]]
    groups = groups_of(every)
    number = len(set(groups.values()))
    seeds = sorted({row.seeds for row in rows})
    named = "; or ".join(map(name_seeds, seeds))
    a_round = seeds_in_a_round(runs)
    over = "seeds" if a_round == 1 else "rounds"
    lines = [
        f"{len(groups)} test clips in {number} group{'s' * (number > 1)}; seeds "
        f"{named}. Accuracy: mean ± standard deviation over the {over}; intervals: "
        "bootstrap over the groups."
    ]
    compared = [row for row in rows if row.comparison]
    if not compared:
        lines.append(
            f"No method is compared with `{reference}`, for want of finished runs of "
            "it and another one with the same seeds."
        )
    else:
        apart = [f"`{r.method}`" for r in compared if r.comparison.p_holm < LEVEL]
        lines += [
            "p: exact test over the groups, a clip's seeds pooled; Holm: corrected for "
            f"{len(compared)} comparisons (without it, one in 20 methods that are no "
            f"different has p < {LEVEL}). Different from `{reference}` at "
            f"{LEVEL} after the correction: {', '.join(apart) or 'none'}. Methods are "
            "not compared with one another.",
        ]
    return lines + _unfinished_notes(counted, runs, a_round)


def _unfinished_notes(
    counted: Dict[str, Tuple[int, ...]], runs: Dict[str, Runs], a_round: int
) -> List[str]:
    """Name the runs that are not in the table, and the rows of a part of the clips."""
    left_out: Dict[Tuple[int, ...], List[str]] = {}
    partial: Dict[Tuple[int, ...], List[str]] = {}
    for method, seeds in counted.items():
        missing = tuple(sorted(set(runs[method]) - set(seeds)))
        if missing:
            left_out.setdefault(missing, []).append(method)
        if len(seeds) % a_round:
            partial.setdefault(seeds, []).append(method)
    lines = []
    if left_out:
        lines.append(
            f"Not counted, as their round of {a_round} seeds is not finished: "
            f"{_name_runs(left_out)}."
        )
    if partial:
        lines.append(
            f"No round of {a_round} seeds is finished, and the accuracy is that of a "
            f"part of the clips: {_name_runs(partial)}."
        )
    return lines


def _name_runs(runs: Dict[Tuple[int, ...], List[str]]) -> str:
    """Return the words for runs: {seeds: methods}."""
    return "; ".join(
        f"seed{'s' * (len(seeds) > 1)} {name_seeds(seeds)} of "
        + ", ".join(f"`{method}`" for method in methods)
        for seeds, methods in runs.items()
    )


def format_data_sets(
    tables: Dict[str, Sequence[Row]], reference: str, option: str = ""
) -> str:
    """Return the Markdown table methods x data sets.

    Args:
        tables: {data set: rows of :func:`compare`}.
        reference: the method that they were compared with.
        option: if given, a row more for every method of which it was varied: the value
            chosen for each data set by its validation clips.

    A star: different from the reference on that data set after Holm's correction.
    """
    cells: Dict[str, Dict[str, str]] = {}
    for data_set, rows in tables.items():
        plain = [row for row in rows if ":" not in row.method]
        for row in plain:
            cells.setdefault(f"`{row.method}`", {})[data_set] = _starred(row)
        if option:
            for method, (value, row) in choose_option(rows, option).items():
                cells.setdefault(f"`{method}`, {option} by validation", {})[
                    data_set
                ] = f"{_starred(row)} ({value:g})"
    rows = [
        [name, *(own.get(data_set, "") for data_set in tables)]
        for name, own in cells.items()
    ]
    return (
        markdown_table(["method", *tables], rows)
        + "\nAccuracy in percent, mean ± standard deviation over the rounds. *: "
        f"different from `{reference}` at {LEVEL}, test over the groups, after "
        "Holm's correction within the data set.\n"
    )


def _starred(row: Row) -> str:
    apart = row.comparison is not None and row.comparison.p_holm < LEVEL
    return spread(row.accuracies, 1) + ("*" if apart else "")
