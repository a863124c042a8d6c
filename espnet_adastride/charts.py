"""Charts of trainings and corpora, for files and for pages."""

from typing import Dict, List, Optional, Sequence, Tuple

import matplotlib
import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, FuncFormatter, MaxNLocator, NullLocator

from espnet_adastride.figures import (
    COLOURS,
    FONT_SIZE,
    INK,
    MARKERS,
    drawing,
    line_style,
)
from espnet_adastride.recipe.learning import Curve
from espnet_adastride.stride_statistics import StrideStatistics

PANEL = (4.2, 2.6)  # inches
#: what is drawn, where it was reported: stat, title, whether its axis is logarithmic
PANELS = (
    ("loss", "loss", True),
    ("acc", "attention's token accuracy", False),
    ("cer_ctc", "CTC's character error rate", False),
    ("stride_entropy", "stride entropy (1: uniform)", False),
    ("empty_slots", "share of empty slots", False),
    ("largest_stride", "largest stride (input frames of a stage)", True),
    ("largest_jump", "largest jump (slots)", True),
    ("stride", "learned stride", False),
)

# ------------------------------------------------------------------ training


def training_panels(
    runs: Dict[str, Dict[str, Dict[str, Curve]]],
) -> List[Tuple[str, str, bool]]:
    """Return the PANELS that at least one training has values for."""
    return [p for p in PANELS if any(p[0] in stats for stats in runs.values())]


def plot_panel(
    runs: Dict[str, Dict[str, Dict[str, Curve]]], panel: Tuple[str, str, bool]
) -> Figure:
    """Draw one stat of all trainings over the epochs.

    Args:
        runs: ``{name: curves}``, see :func:`espnet_adastride.recipe.learning.curves`.
        panel: one of PANELS.
    """
    with drawing(*PANEL) as figure:
        axes = figure.add_axes((0.14, 0.2, 0.83, 0.66))
        draw_panel(axes, runs, panel)
        return figure


def draw_panel(axes, runs, panel) -> None:
    """Draw one stat into axes."""
    stat, title, logarithmic = panel
    lowest, highest = np.inf, -np.inf
    longest = 1
    for index, stats in enumerate(runs.values()):
        for phase, curve in stats.get(stat, {}).items():
            axes.plot(
                curve.epochs,
                curve.values,
                **line_style(index),
                markersize=4 if phase == "valid" else 2.5,
                linewidth=1.6 if phase == "valid" else 1.0,
                linestyle="-" if phase == "valid" else (0, (4, 2)),
                markerfacecolor="none" if phase == "train" else None,
            )
            lowest = min(lowest, curve.values.min())
            highest = max(highest, curve.values.max())
            longest = max(longest, curve.epochs.max())
    if logarithmic and lowest > 0 and highest > 4 * lowest:
        axes.set_yscale("log")
        low, high = axes.get_ylim()
        ticks = [m * 10.0**e for e in range(-6, 7) for m in (1, 2, 5)]
        axes.yaxis.set_major_locator(
            FixedLocator([t for t in ticks if low <= t <= high][:8])
        )
        axes.yaxis.set_major_formatter(FuncFormatter(lambda v, _: f"{v:g}"))
        axes.yaxis.set_minor_locator(NullLocator())
    axes.set_title(title, loc="left")
    axes.set_xlabel("epoch")
    axes.set_xlim(0.5, longest + 0.5)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True, nbins=8))
    axes.grid(axis="y")


def legend(names: Sequence[str]) -> List[Tuple[str, str, str]]:
    """Return (name, colour, marker as a character) of each training, for a legend."""
    signs = dict(zip(MARKERS, "●■▲◆▼⬟"))
    return [
        (name, COLOURS[i % len(COLOURS)], signs[MARKERS[i % len(MARKERS)]])
        for i, name in enumerate(names)
    ]


def plot_training(runs: Dict[str, Dict[str, Dict[str, Curve]]]) -> Figure:
    """Draw all panels of some trainings in one figure, with a legend on top.

    Raises:
        ValueError: if no training has a stat that is drawn.
    """
    panels = training_panels(runs)
    if not panels:
        raise ValueError("no training has finished an epoch")
    columns = min(2, len(panels))
    rows = -(-len(panels) // columns)
    top = 0.3 + 0.2 * len(runs)  # inches
    width, height = PANEL[0] * columns, PANEL[1] * rows + top
    with drawing(width, height) as figure:
        for index, panel in enumerate(panels):
            row, column = divmod(index, columns)
            bottom = height - top - PANEL[1] * (row + 1) + 0.6
            left = PANEL[0] * column + 0.62
            box = (left / width, bottom / height, 3.4 / width, 1.7 / height)
            draw_panel(figure.add_axes(box), runs, panel)
        for line, name in enumerate(runs):
            y = height - 0.17 - 0.2 * line
            figure.add_artist(
                matplotlib.lines.Line2D(
                    [0.1 / width, 0.45 / width],
                    [y / height] * 2,
                    **line_style(line),
                    markersize=5,
                )
            )
            figure.text(0.55 / width, y / height, name, va="center", parse_math=False)
        note = "solid: validation, dashed: training (with dropout and SpecAug)"
        y = height - 0.17 - 0.2 * len(runs)
        figure.text(0.1 / width, y / height, note, va="center", size=FONT_SIZE - 0.5)
        return figure


# ------------------------------------------------------------------ corpus


def plot_corpus(statistics: StrideStatistics, numbers: Optional[dict] = None) -> Figure:
    """Draw how local strides are distributed, by what is said, with the numbers.

    Args:
        statistics: of at least one utterance.
        numbers: what ``statistics.numbers()`` returned, if it is at hand.
    """
    numbers = numbers or statistics.numbers()
    groups = statistics.groups()
    lines = corpus_lines(numbers)
    rows = max(len(groups), 2)
    above, chart = 0.8, 2.4
    below = 0.62 + 0.2 * len(lines)
    tall = max(chart, 0.36 * rows + 0.2)
    height = above + tall + below
    with drawing(10.0, height) as figure:
        left = figure.add_axes((0.065, below / height, 0.42, tall / height))
        right = figure.add_axes((0.62, below / height, 0.35, tall / height))
        _draw_histogram(left, statistics)
        _draw_groups(right, numbers)
        figure.text(
            0.012,
            1 - 0.2 / height,
            f"{numbers['method']}: {numbers['utterances']} utterances, "
            f"{numbers['seconds'] / 60:.1f} min",
            weight="bold",
            size=FONT_SIZE + 1,
            va="center",
            parse_math=False,
        )
        figure.text(
            0.012,
            0.1 / height,
            "\n".join(lines),
            va="bottom",
            linespacing=1.45,
            parse_math=False,
        )
        return figure


def _draw_histogram(axes, statistics: StrideStatistics) -> None:
    strides = np.concatenate(statistics.strides)
    speech = np.concatenate(statistics.speech)
    low, high = np.percentile(strides, [0.2, 99.8])
    edges = np.geomspace(max(low, 1e-2), max(high, low * 1.2), 41)
    styles = (("silence", ~speech, 1, "--"), ("speech", speech, 0, "-"))
    for name, mark, colour, dash in styles:
        if mark.any():
            counts, _ = np.histogram(strides[mark].clip(edges[0], edges[-1]), edges)
            axes.stairs(
                100 * counts / mark.sum(),
                edges,
                label=f"{name} ({100 * mark.mean():.0f} % of the time)",
                color=COLOURS[colour],
                linewidth=1.6,
                linestyle=dash,
            )
    _stride_axis(axes, edges[0], edges[-1])
    axes.set_ylabel("% of its time")
    axes.set_title("distribution of the local stride", loc="left")
    axes.legend(fontsize=FONT_SIZE - 0.5, handlelength=2.2, borderaxespad=0.1)
    axes.set_ylim(0, 1.25 * axes.get_ylim()[1])


def _stride_axis(axes, low: float, high: float) -> None:
    axes.set_xscale("log")
    axes.set_xlim(low, high)
    ticks = [t for t in (0.5, 1, 2, 3, 5, 7, 10, 15, 20, 30, 50, 100, 200)]
    axes.xaxis.set_major_locator(FixedLocator([t for t in ticks if low <= t <= high]))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda v, _: f"{v:g}"))
    axes.xaxis.set_minor_locator(NullLocator())
    axes.set_xlabel("local stride (input frames per output frame)")


def _draw_groups(axes, numbers: dict) -> None:
    groups = numbers["groups"]
    for row, (name, g) in enumerate(groups.items()):
        axes.plot([g["p5"], g["p95"]], [row, row], color=INK, linewidth=1.0)
        axes.plot(
            [g["p25"], g["p75"]],
            [row, row],
            color=COLOURS[0],
            linewidth=7,
            solid_capstyle="butt",
        )
        axes.plot([g["p50"]], [row], marker="o", color=INK, markersize=5)
    axes.set_yticks(
        range(len(groups)),
        [f"{name} ({100 * g['share']:.0f} %)" for name, g in groups.items()],
    )
    axes.set_ylim(len(groups) - 0.4, -0.6)
    low = min(g["p5"] for g in groups.values()) / 1.1
    high = max(g["p95"] for g in groups.values()) * 1.1
    _stride_axis(axes, low, high)
    axes.set_title("median, 50 % and 90 % of each", loc="left")
    axes.tick_params(axis="y", length=0)
    axes.grid(axis="x")


def corpus_lines(numbers: dict) -> List[str]:
    """Say the numbers in sentences, one a line."""
    lines = [
        f"speech and words: {numbers['source']}; every 10 ms counts alike; "
        "AUC 0.5: no difference"
    ]
    silent = {"speech": "silence", "word boundary": "the rest"}
    for name, r in numbers["relations"].items():
        other = silent.get(name, "the rest of speech")
        lines.append(
            f"{name} ({100 * r['share']:.0f} %): strides shorter than in {other}: AUC "
            f"{r['auc']:.3f} [{r['low']:.3f}, {r['high']:.3f}]; {r['bits']:.3f} of "
            f"{r['bits_most']:.2f} bits ({r['bits_chance']:.3f} by chance)"
        )
    if "phone_class_bits" in numbers:
        lines.append(
            "phone class: the stride tells "
            f"{numbers['phone_class_bits']:.3f} bits of it"
        )
    return lines
