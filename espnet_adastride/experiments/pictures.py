"""The pictures of an experiment in speech recognition: word error rates.

All return figures for ``style.save_figure``; bars are 95 % intervals over speakers or
groups, small dots the seeds.
"""

from typing import Dict, List, Sequence, Tuple

import numpy as np
from matplotlib.figure import Figure

from espnet_adastride.evaluation.statistics import Bootstrap
from espnet_adastride.experiments.cells import Cell
from espnet_adastride.report.style import (
    FONT_SIZE,
    drawing,
    label_points,
    line_style,
    mark_style,
)


def plot_methods(
    cells: Sequence[Cell], baseline: str, label: str, bootstrap: Bootstrap
) -> Figure:
    """Draw a row a method, the fewest errors on top; a line at the baseline's.

    Args:
        cells: of one rate.
        baseline: the method that the others are compared with.
        label: of the axis of word error rates.
        bootstrap: over the groups of the test set.
    """
    rows = sorted(cells, key=lambda cell: cell.rate_of())
    with drawing(6.5, 1.1 + 0.3 * len(rows), layout="constrained") as figure:
        axes = figure.subplots()
        for place, cell in enumerate(rows):
            style = mark_style(cell.system != baseline)
            colour = style["color"]
            middle, low, high = cell.interval(bootstrap)
            if cell.system == baseline:
                axes.axvline(middle, color=colour, lw=1.0)
            axes.plot([low, high], [place, place], color=colour, lw=1.6)
            axes.plot(middle, place, **style)
            if len(cell.records) > 1:
                wers = cell.rates()
                axes.plot(wers, [place] * len(wers), ".", color=colour, alpha=0.45)
        axes.set_yticks(range(len(rows)), [cell.system for cell in rows])
        axes.set_ylim(len(rows) - 0.5, -0.5)  # the first on top
        axes.set_xlabel(label)
        axes.grid(axis="x")
    return figure


def plot_compute(
    lines: Dict[str, List[Cell]],
    baseline: str,
    feature_rate: float,
    label: str,
    bootstrap: Bootstrap,
    inside: bool = False,
) -> Figure:
    """Draw WER over multiply-accumulates, a line a method.

    Args:
        lines: cells of several rates, by the name of their line.
        baseline: the method that is drawn first, and in the first style; its points
            are labelled with their frame rates.
        feature_rate: frames per second that rates count from.
        label: of the axis of word error rates.
        bootstrap: over the groups of the test set.
        inside: draw the legend within the axes; otherwise it is a column beside them,
            for many or long names.
    """
    with drawing(7.5, max(4.0, 0.25 * len(lines)), layout="constrained") as figure:
        axes, labels, drawn = figure.subplots(), [], []
        # False comes first: the baseline
        names = sorted(lines, key=lambda n: {c.system for c in lines[n]} != {baseline})
        for number, name in enumerate(names):
            line = sorted(lines[name], key=lambda c: c.measured("macs_per_second"))
            x = [cell.measured("macs_per_second") / 1e6 for cell in line]
            ends = np.array([cell.interval(bootstrap) for cell in line])
            reach = np.abs(ends[:, 1:].T - ends[:, 0])
            style = line_style(number)
            axes.errorbar(x, ends[:, 0], reach, capsize=3, label=name, **style)
            drawn += [*zip(x, ends[:, 0]), *between(x, ends[:, 0])]
            for place, (_, low, high) in zip(x, ends):
                drawn += [(place, wer) for wer in np.linspace(low, high, 20)]
            for place, cell in zip(x, line):
                if len(cell.records) > 1:
                    wers = cell.rates()
                    dots = {"color": style["color"], "alpha": 0.45}
                    axes.plot([place] * len(wers), wers, ".", **dots)
                if cell.system == baseline:
                    words = f"{feature_rate / cell.rate:.3g}"
                    look = {"color": style["color"], "size": FONT_SIZE - 0.5}
                    labels.append((words, (place, cell.rate_of()), look))
        numbers = f"\nnumbers: frames per second of {baseline}" if labels else ""
        axes.set_xlabel(f"million multiply-accumulates per second of audio{numbers}")
        axes.set_ylabel(label)
        axes.grid()
        if inside:
            axes.legend(loc="best", handlelength=3)
        else:
            figure.legend(loc="outside right upper", handlelength=3)
        ups = (9, -9, 0, 13, -13, 17, -17)
        sides = [(right, up) for up in ups for right in (5, -5)]
        label_points(axes, labels, sides, drawn)
    return figure


def between(x: Sequence[float], y: Sequence[float]) -> List[Tuple[float, float]]:
    """Return points all along the lines from each point (x, y) to the next."""
    ends = np.linspace(0, len(x) - 1, 40 * (len(x) - 1))
    steps = np.arange(len(x))
    return list(zip(np.interp(ends, steps, x), np.interp(ends, steps, y)))
