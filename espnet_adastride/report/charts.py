"""Charts of trainings, corpora and streams, for files and for pages."""

import textwrap
from typing import Dict, List, NamedTuple, Optional, Sequence, Tuple

import matplotlib
import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, FuncFormatter, MaxNLocator, NullLocator

from espnet_adastride.errors import counted
from espnet_adastride.evaluation.learning_curves import Curve
from espnet_adastride.evaluation.stride_statistics import SILENCE, StrideStatistics
from espnet_adastride.report.style import (
    COLOURS,
    FONT_SIZE,
    GREY,
    INK,
    MARKERS,
    drawing,
    mark_style,
)
from espnet_adastride.timing.ctc import Timed

PANEL = (4.2, 2.6)  # inches
#: panels, drawn if reported: stat, title, logarithmic axis
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

#: ratio of neighbouring edges in the histogram of strides, and maximum number of cells
STRIDE_CELL = 1.09
STRIDE_CELLS = 120
#: characters per line below the picture of a corpus
CORPUS_TEXT_WIDTH = 138

# ------------------------------------------------------------------ training


def training_panels(
    runs: Dict[str, Dict[str, Dict[str, Curve]]],
) -> List[Tuple[str, str, bool]]:
    """Return the PANELS for which at least one training has values."""
    return [p for p in PANELS if any(p[0] in stats for stats in runs.values())]


def plot_panel(
    runs: Dict[str, Dict[str, Dict[str, Curve]]], panel: Tuple[str, str, bool]
) -> Figure:
    """Draw one stat of all trainings over the epochs.

    Args:
        runs: ``{name: curves}``, see ``evaluation.learning_curves.curves``.
        panel: one of PANELS.
    """
    with drawing(*PANEL, text="".join(runs)) as figure:
        axes = figure.add_axes((0.155, 0.2, 0.815, 0.66))
        draw_panel(axes, runs, panel)
        return figure


def draw_panel(axes, runs, panel) -> None:
    """Draw one stat into axes."""
    stat, title, logarithmic = panel
    lowest, highest = np.inf, -np.inf
    longest = 1
    for index, stats in enumerate(runs.values()):
        for phase, curve in stats.get(stat, {}).items():
            # a single epoch has no line: use larger marks, the hollow one around the
            # filled one
            sizes = (4, 2.5) if len(curve.epochs) > 1 else (6, 9)
            axes.plot(
                curve.epochs,
                curve.values,
                **mark_style(index),
                markersize=sizes[phase != "valid"],
                linewidth=1.6 if phase == "valid" else 1.0,
                linestyle="-" if phase == "valid" else (0, (4, 2)),
                markerfacecolor="none" if phase == "train" else None,
            )
            lowest = min(lowest, curve.values.min())
            highest = max(highest, curve.values.max())
            longest = max(longest, curve.epochs.max())
    if lowest > highest:  # no value of this stat
        axes.set_ylim(0, 1)
        axes.set_yticks([])
        axes.text(0.5, 0.5, "no values", transform=axes.transAxes, ha="center")
    elif lowest == highest:  # one value: show the range from 0
        axes.set_ylim(*sorted((0, 1.25 * lowest)) if lowest else (-0.05, 1))
    elif logarithmic and lowest > 0 and highest > 4 * lowest:
        axes.set_yscale("log")
        low, high = axes.get_ylim()
        ticks = [m * 10.0**e for e in range(-6, 7) for m in (1, 2, 5)]
        shown = [t for t in ticks if low <= t <= high]
        if len(shown) > 8:
            shown = [t for t in shown if f"{t:e}".startswith("1")]
        axes.yaxis.set_major_locator(FixedLocator(shown))
        axes.yaxis.set_major_formatter(FuncFormatter(lambda v, _: f"{v:g}"))
        axes.yaxis.set_minor_locator(NullLocator())
    elif max(abs(lowest), abs(highest)) < 0.01:  # 0.00015 is too wide: 1.5e-4
        axes.yaxis.set_major_formatter(FuncFormatter(lambda v, _: _short(v)))
    axes.set_title(title, loc="left")
    axes.set_xlabel("epoch")
    axes.set_xlim(0.5, longest + 0.5)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True, nbins=8, min_n_ticks=1))
    axes.grid(axis="y")


def _short(value: float) -> str:
    """Return a small number as ``1.5e-4``."""
    digits, exponent = f"{value:.2e}".split("e")
    return f"{float(digits):g}e{int(exponent)}" if value else "0"


def legend(names: Sequence[str]) -> List[Tuple[str, str, str]]:
    """Return (name, colour, marker as a character) of each training, for a legend."""
    signs = dict(zip(MARKERS, "●■▲◆▼⬟◄►✖★✚♦⬢"))
    styles = [mark_style(number) for number in range(len(names))]
    return [
        (name, style["color"], signs[style["marker"]])
        for name, style in zip(names, styles)
    ]


def plot_training(runs: Dict[str, Dict[str, Dict[str, Curve]]]) -> Figure:
    """Draw all panels of some trainings in one figure, with a legend on top.

    Raises:
        ValueError: if no training has a stat to draw.
    """
    panels = training_panels(runs)
    if not panels:
        raise ValueError("no training has finished an epoch")
    columns = min(2, len(panels))
    rows = -(-len(panels) // columns)
    top = 0.3 + 0.2 * len(runs)  # inches
    width, height = PANEL[0] * columns, PANEL[1] * rows + top
    with drawing(width, height, text="".join(runs)) as figure:
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
                    **mark_style(line),
                    markersize=5,
                )
            )
            figure.text(0.55 / width, y / height, name, va="center", parse_math=False)
        note = (
            "solid lines, filled marks: validation; dashed lines, hollow marks: "
            "training (with dropout and SpecAug)"
        )
        y = height - 0.17 - 0.2 * len(runs)
        figure.text(0.1 / width, y / height, note, va="center", size=FONT_SIZE - 0.5)
        return figure


# ------------------------------------------------------------------ corpus


def plot_corpus(statistics: StrideStatistics, numbers: Optional[dict] = None) -> Figure:
    """Draw the distribution of local strides in speech and silence or by phone class.

    Args:
        statistics: of at least one utterance.
        numbers: the result of ``statistics.numbers()``, if available.
    """
    numbers = numbers or statistics.numbers()
    groups = statistics.groups()
    lines = [
        part
        for line in corpus_lines(numbers)
        for part in textwrap.wrap(line, CORPUS_TEXT_WIDTH, subsequent_indent="    ")
    ]
    rows = max(len(groups), 2)
    above, chart = 0.95, 2.4
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
            f"{numbers['method']}: {counted(numbers['utterances'], 'utterance')}, "
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
    edges = histogram_edges(strides)
    styles = (("silence", ~speech, 1, "--"), ("speech", speech, 0, "-"))
    for name, mark, colour, dash in styles:
        if mark.any():
            counts, _ = np.histogram(strides[mark], edges)
            axes.stairs(
                100 * counts / mark.sum(),
                edges,
                label=f"{name} ({100 * mark.mean():.0f} % of the time)",
                color=COLOURS[colour],
                linewidth=1.6,
                linestyle=dash,
            )
    # an empty cell on either side, so that no bar touches the frame
    _stride_axis(axes, edges[0] / STRIDE_CELL, edges[-1] * STRIDE_CELL)
    axes.set_ylabel("share of speech or silence (%)")
    axes.set_title("Local strides in speech and in silence", loc="left")
    axes.legend(fontsize=FONT_SIZE - 0.5, handlelength=2.2, borderaxespad=0.1)
    axes.set_ylim(0, 1.25 * axes.get_ylim()[1])
    axes.set_yticks([tick for tick in axes.get_yticks() if tick <= 100])


def histogram_edges(strides: np.ndarray) -> np.ndarray:
    """Return the edges of cells of equal ratio that cover every stride.

    Args:
        strides: (n,) positive, n >= 1.

    Returns:
        (cells + 1,) edges; the first is at most the smallest stride, the last is above
        the largest one. The ratio is STRIDE_CELL, or more beyond STRIDE_CELLS cells.
    """
    low, high = np.log(strides.min()), np.log(strides.max())
    step = max(np.log(STRIDE_CELL), (high - low) / STRIDE_CELLS)
    first = np.floor(low / step - 1e-9)
    last = np.floor(high / step + 1e-9) + 1
    return np.exp(step * np.arange(first, last + 1))


def _stride_axis(axes, low: float, high: float) -> None:
    axes.set_xscale("log")
    axes.set_xlim(low, high)
    ticks = [0.5, 1, 2, 3, 5, 7, 10, 15, 20, 30, 50, 100, 200]
    if high > 40 * low:  # a wide range: fewer ticks, up to the largest stride
        ticks = [m * 10.0**e for e in range(-6, 7) for m in (1, 3)]
    if high > 4000 * low:
        ticks = [10.0**e for e in range(-6, 7)]
    ticks = [t for t in ticks if low <= t <= high]
    if len(ticks) < 2:  # a narrow range, of nearly uniform strides
        ticks = MaxNLocator(nbins=5, steps=[1, 2, 5, 10]).tick_values(low, high)
        ticks = [t for t in ticks if low <= t <= high]
    axes.xaxis.set_major_locator(FixedLocator(ticks))
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
        axes.plot([g["p50"]], [row], "o", color=INK, markersize=5)
    axes.set_yticks(
        range(len(groups)),
        [f"{name} ({100 * g['share']:.0f} %)" for name, g in groups.items()],
    )
    axes.set_ylim(len(groups) - 0.4, -0.6)
    low = min(g["p5"] for g in groups.values()) / 1.1
    high = max(g["p95"] for g in groups.values()) * 1.1
    _stride_axis(axes, low, high)
    by_phones = set(groups) - {"speech", SILENCE}
    what = "by phone class" if by_phones else "in speech and silence"
    axes.set_title(f"Percentiles {what} (% of the time)", loc="left", pad=22)
    axes.legend(
        axes.lines[2::-1],  # of the first row
        ["median", "middle 50 %", "middle 90 %"],
        loc="lower left",
        bbox_to_anchor=(0.0, 1.0),
        ncol=3,
        fontsize=FONT_SIZE - 0.5,
        handlelength=1.6,
        borderaxespad=0.1,
        borderpad=0.2,
    )
    axes.tick_params(axis="y", length=0)
    axes.grid(axis="x")


def corpus_lines(numbers: dict) -> List[str]:
    """Describe the numbers in sentences, one per line."""
    lines = [
        f"Speech and words: {numbers['source']}. Every 10 ms has the same weight. "
        "AUC 0.5: no difference; above: shorter strides. Bits: mutual information."
    ]
    places = {
        "speech": ("in speech", "in silence"),
        "word boundary": ("at word boundaries", "elsewhere"),
        "word boundary, in speech": (
            "at word boundaries within speech",
            "elsewhere in speech",
        ),
    }
    for name, r in numbers["relations"].items():
        here, there = places[name]
        comparison, interval = "not shown to differ from those", "too few utterances"
        if r["low"] is not None:
            interval = f"{r['low']:.3f}, {r['high']:.3f}"
            if r["low"] > 0.5:
                comparison = "shorter than"
            elif r["high"] < 0.5:
                comparison = "longer than"
        lines.append(
            f"Strides {here} ({100 * r['share']:.0f} % of time) are {comparison} "
            f"{there}: AUC {r['auc']:.3f} [{interval}], "
            f"{r['bits']:.3f} of {r['bits_most']:.2f} bits "
            f"({r['bits_chance']:.3f} by chance)."
        )
    if "phone_class_bits" in numbers:
        lines.append(
            f"Strides carry {numbers['phone_class_bits']:.3f} bits about the phone "
            "class."
        )
    return lines


# ------------------------------------------------------------------ a stream


class StreamRow(NamedTuple):
    """Times at which the words of a streamed recording were shown.

    Attributes:
        block: block length of the input layer in seconds.
        words: with times.
        shown: seconds, one per word.
    """

    block: float
    words: Sequence[Timed]
    shown: Sequence[float]


def plot_stream(rows: Sequence[StreamRow], duration: float) -> Figure:
    """Draw spoken words, and the delay from their end until they were shown.

    Args:
        rows: one per block length.
        duration: of the recording in seconds.
    """
    height = 0.7 + 0.62 * len(rows)
    said = "".join(word.text for row in rows for word in row.words)
    with drawing(8.0, height, text=said, layout="constrained") as figure:
        axes = figure.add_subplot()
        for number, row in enumerate(reversed(rows)):  # the first on top
            colour = COLOURS[number % len(COLOURS)]
            edge = row.block
            while edge < duration:
                axes.vlines(edge, number - 0.42, number + 0.36, INK, lw=0.8, ls=":")
                edge += row.block
            for word, when in zip(row.words, row.shown):
                width = max(word.end - word.start, 0.02)
                axes.barh(number + 0.2, width, 0.26, word.start, color=GREY, alpha=0.4)
                middle = (word.start + word.end) / 2
                axes.text(
                    *(middle, number + 0.2, word.text),
                    ha="center",
                    va="center",
                    size=6.5,
                    parse_math=False,
                )
                axes.plot(
                    [word.end, when], [number - 0.02, number - 0.28], color=colour
                )
                axes.plot(when, number - 0.28, "o", color=colour, markersize=3.5)
        axes.set_yticks(range(len(rows)))
        axes.set_yticklabels([f"blocks of {row.block:g} s" for row in reversed(rows)])
        axes.set_ylim(-0.5, len(rows) - 0.5)
        latest = max([duration, *(when for row in rows for when in row.shown)])
        axes.set_xlim(0.0, latest + 0.1)
        axes.axvline(duration, color=INK, lw=0.8)
        axes.set_xlabel(
            "seconds; grey: a spoken word; dot: when it was shown; dotted: "
            "block boundaries"
        )
    return figure
