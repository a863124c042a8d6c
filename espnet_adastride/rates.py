"""Word error rate over rate over cost: one model at many rates beside others.

A point is a model at an overall rate: its word errors on a set of utterances, greedily
decoded one by one, and the seconds of computing per second of audio (real-time factor).
:func:`format_table` and :func:`plot_rates` show points; ``bin/rate_curve.py`` makes
them.
"""

from typing import Dict, List, NamedTuple, Sequence

import numpy as np
from matplotlib.figure import Figure

from espnet_adastride.comparison import Bootstrap
from espnet_adastride.figures import drawing, line_style


class Point(NamedTuple):
    """A model at a rate.

    Attributes:
        model: its name.
        stride: overall rate, input frames by output frames.
        own: it is the rate that the model's configuration names.
        errors: (U,) word errors by utterance.
        words: (U,) reference words by utterance.
        seconds: of computing, all utterances.
        audio: seconds of their audio.
    """

    model: str
    stride: float
    own: bool
    errors: Sequence[float]
    words: Sequence[float]
    seconds: float
    audio: float

    @property
    def wer(self) -> float:
        """Word error rate in percent."""
        return 100.0 * sum(self.errors) / sum(self.words)

    @property
    def rtf(self) -> float:
        """Seconds of computing per second of audio."""
        return self.seconds / self.audio


def intervals(points: Sequence[Point], units: Sequence[str]) -> List[Sequence[float]]:
    """Return (low, high) of every point's WER: 95 %, bootstrap over ``units``.

    Args:
        points: over the same utterances.
        units: (U,) what an utterance is drawn with, such as itself.
    """
    bootstrap = Bootstrap(units)
    found = []
    for point in points:
        errors, words = np.asarray(point.errors), np.asarray(point.words)
        nothing = np.zeros((1, len(words)))
        difference = bootstrap.difference(errors[None], nothing, words)
        found.append((difference.low, difference.high))
    return found


def format_table(points: Sequence[Point], units: Sequence[str]) -> str:
    """Return the Markdown table, models in their order, rates rising."""
    lines = [
        "| model | rate | WER, % | 95 % interval | RTF | to the first row |",
        "|---|---|---|---|---|---|",
    ]
    ends = intervals(points, units)
    rows = sorted(
        zip(points, ends), key=lambda row: (_place(points, row[0]), row[0].stride)
    )
    first = rows[0][0].rtf
    for point, (low, high) in rows:
        rate = f"{point.stride:g}x" + (", its own" if point.own else "")
        cells = [
            f"`{point.model}`",
            rate,
            f"{point.wer:.1f}",
            f"{low:.1f} to {high:.1f}",
        ]
        cells += [f"{point.rtf:.4f}", f"{point.rtf / first:.2f}"]
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines) + "\n"


def _place(points: Sequence[Point], point: Point) -> int:
    return list(dict.fromkeys(p.model for p in points)).index(point.model)


def plot_rates(points: Sequence[Point], units: Sequence[str]) -> Figure:
    """Draw WER over rate, and WER over real-time factor.

    A model with several rates is a line, its own rate a filled mark; bars are the
    intervals.

    Returns:
        A figure for ``plotting.save_figure``.
    """
    ends = dict(zip(map(id, points), intervals(points, units)))
    curves: Dict[str, List[Point]] = {}
    for point in sorted(points, key=lambda p: (_place(points, p), p.stride)):
        curves.setdefault(point.model, []).append(point)
    with drawing(8.0, 3.8, layout="constrained") as figure:
        left, right = figure.subplots(1, 2, sharey=True)
        for number, (name, own) in enumerate(curves.items()):
            style = line_style(number)
            wer = np.array([p.wer for p in own])
            reach = np.abs(np.array([ends[id(p)] for p in own]).T - wer)
            for axes, x in (
                (left, [p.stride for p in own]),
                (right, [1000 * p.rtf for p in own]),
            ):
                label = name if axes is left else None
                axes.errorbar(
                    x, wer, reach, capsize=3, fillstyle="none", label=label, **style
                )
                filled = [(a, b) for a, b, p in zip(x, wer, own) if p.own]
                if filled:
                    axes.plot(*zip(*filled), ls="", **style)
        strides = sorted({p.stride for p in points})
        left.set_xscale("log")
        left.set_xticks(strides, [f"{s:g}x" for s in strides], minor=False)
        left.minorticks_off()
        left.set_xlabel("rate, input frames by output frames")
        left.set_ylabel("word error rate, %")
        left.set_ylim(bottom=0)
        right.set_xlabel("computing, ms per second of audio")
        right.set_xlim(left=0)
        for axes in (left, right):
            axes.grid()
        figure.legend(loc="outside upper center", ncols=3)
    return figure
