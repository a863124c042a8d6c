"""The pictures of an experiment: data sets side by side, an option, confusions.

All return figures for ``style.save_figure``.
"""

from typing import Dict, Sequence

import numpy as np
from matplotlib.figure import Figure

from espnet_adastride.errors import UserError, counted, unknown_word
from espnet_adastride.evaluation.statistics import LEVEL
from espnet_adastride.experiments.classification.results import (
    Row,
    Runs,
    confusion,
    option_curve,
)
from espnet_adastride.report.style import (
    COLOURS,
    FONT_SIZE,
    GREY,
    SHARE_MAP,
    drawing,
    mark_style,
)


def plot_data_sets(tables: Dict[str, Sequence[Row]], reference: str) -> Figure:
    """Draw every method's difference to the reference, a panel for each data set.

    Dots are means over the clips, bars the bootstrap intervals over the groups; filled:
    different after Holm's correction. Options' variants are left out; methods are in
    the order of their mean difference over the data sets.

    Args:
        tables: {data set: rows of :func:`compare`}.
        reference: the method that they were compared with.

    Returns:
        A figure for ``style.save_figure``.

    Raises:
        UserError: no data set has a method beside the reference.
    """
    found: Dict[str, Dict[str, Row]] = {}
    for data_set, rows in tables.items():
        for row in rows:
            if ":" not in row.method and row.comparison is not None:
                found.setdefault(row.method, {})[data_set] = row
    if not found:
        raise UserError(
            f"no method was compared with {reference}: train it and at least one other "
            "with the same seeds, or give another --reference"
        )
    mean = {
        method: np.mean([row.comparison.difference for row in own.values()])
        for method, own in found.items()
    }
    methods = sorted(found, key=mean.get)
    size = (3.0 * len(tables) + 1.2, 1.1 + 0.27 * len(methods))
    with drawing(*size, layout="constrained") as figure:
        panels = figure.subplots(1, len(tables), sharey=True, squeeze=False)[0]
        for axes, data_set in zip(panels, tables):
            axes.axvline(0.0, color=GREY, lw=1.2)
            for place, method in enumerate(methods):
                row = found[method].get(data_set)
                if row is None:
                    continue
                low, high = row.comparison.interval
                colour = COLOURS[method.startswith("adastride")]
                axes.plot([low, high], [place, place], color=colour, lw=1.6)
                axes.plot(
                    row.comparison.difference,
                    place,
                    marker="o",
                    color=colour,
                    fillstyle="full" if row.comparison.p_holm < LEVEL else "none",
                    markerfacecoloralt="white",
                )
            axes.set_title(data_set)
            axes.grid(axis="x")
        panels[0].set_yticks(range(len(methods)), methods)
        figure.supxlabel(f"accuracy, points above {reference}", size=FONT_SIZE)
    return figure


def plot_option(rows: Sequence[Row], option: str, reference: str) -> Figure:
    """Draw accuracy over the values of an option, with the reference's as a band.

    Lines are means over the seeds, dots are the seeds, bars the bootstrap intervals.

    Args:
        rows: of :func:`compare`.
        option: a word of the method, such as ``sigma_square``; its axis is logarithmic
            where all values are above 0.
        reference: the method of the band; not among the rows: no band.

    Returns:
        A figure for ``style.save_figure``.

    Raises:
        UserError: no method has two values of it.
    """
    curves = option_curve(rows, option)
    if not curves:
        raise UserError(
            f"{option}: no method has finished runs with two values of it; train "
            f"METHOD:{option}=VALUE for some"
        )
    with drawing(6.4, 4.0, layout="constrained") as figure:
        axes = figure.add_subplot()
        for row in rows:
            if row.method == reference:
                axes.axhspan(*row.interval, color=GREY, alpha=0.15, lw=0)
                label = f"{reference}, 95 % interval"
                axes.axhline(np.mean(row.accuracies), color=GREY, lw=1.2, label=label)
        for index, (method, points) in enumerate(curves.items()):
            style = mark_style(index)
            values = [value for value, _ in points]
            means = np.array([np.mean(row.accuracies) for _, row in points])
            ends = np.array([row.interval for _, row in points])
            reach = np.abs(ends.T - means)
            axes.errorbar(
                values,
                means,
                reach,
                capsize=3,
                label=f"{method}, mean and 95 % interval",
                **style,
            )
            for value, row in points:
                one = [value] * len(row.accuracies)
                axes.plot(one, row.accuracies, ".", color=style["color"], alpha=0.45)
        if min(value for points in curves.values() for value, _ in points) > 0:
            axes.set_xscale("log")
        ticks = sorted({value for points in curves.values() for value, _ in points})
        axes.set_xticks(ticks, [f"{tick:g}" for tick in ticks], minor=False)
        axes.minorticks_off()
        axes.set_xlabel(option)
        axes.set_ylabel("accuracy, %")
        axes.legend(loc="lower center", ncols=1)
    return figure


def plot_confusion(runs: Dict[str, Runs], method: str) -> Figure:
    """Draw what a method takes for what, in percent of a class' clips, all seeds.

    Returns:
        A figure for ``style.save_figure``.

    Raises:
        UserError: the method has no finished run.
    """
    if method not in runs:
        raise UserError(unknown_word("method", method, runs))
    names, counts = confusion(runs[method])
    share = 100.0 * counts / counts.sum(axis=1, keepdims=True).clip(min=1)
    size = 1.6 + 0.5 * len(names)
    text = "".join(names)
    with drawing(size, size, text=text, layout="constrained") as figure:
        axes = figure.add_subplot()
        axes.imshow(share, cmap=SHARE_MAP, vmin=0, vmax=100)
        places = range(len(names))
        axes.set_xticks(places, names, rotation=45, ha="right", rotation_mode="anchor")
        axes.set_yticks(places, names)
        axes.set_xlabel("recognised")
        axes.set_ylabel("true class")
        for row, column in np.argwhere(counts > 0):
            value = share[row, column]
            axes.text(
                column,
                row,
                f"{value:.0f}" if value >= 0.95 else f"{value:.1f}",
                ha="center",
                va="center",
                size=9,
                color="white" if value > 55 else "black",
            )
        seeds = len(runs[method])
        right = 100.0 * np.trace(counts) / counts.sum()
        axes.set_title(
            f"{method}: {right:.1f} % right, {counted(seeds, 'seed')}\n"
            "percent of a class' test clips",
        )
    return figure
