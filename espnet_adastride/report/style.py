"""The dress of every chart: ink, colours, marks, axes; and charts as part of a page.

On a page (:func:`to_svg`) a chart takes the colour of the text around it, so that it is
read in the light and in the dark. Lines differ in marker and dash, not in colour alone.
"""

import io
import re
from contextlib import contextmanager
from html import escape
from typing import Iterator

import matplotlib
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

#: text and axes; replaced by the page's own colour
INK = "#161718"
#: lines that stand behind the data: grids, references
GREY = "#808080"
#: told apart with every colour blindness, and on white as on black
COLOURS = ("#2f81c7", "#d55e00", "#00936b", "#c264a0", "#a98600", "#7d7d7d")
MARKERS = "os^Dvp"
FONT_SIZE = 9.5

STYLE = {
    "font.size": FONT_SIZE,
    "axes.linewidth": 0.7,
    "axes.edgecolor": INK,
    "axes.labelcolor": INK,
    "text.color": INK,
    "xtick.color": INK,
    "ytick.color": INK,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.axisbelow": True,
    "axes.titlesize": FONT_SIZE + 0.5,
    "grid.color": GREY,
    "grid.alpha": 0.25,
    "grid.linewidth": 0.6,
    "legend.frameon": False,
    "svg.fonttype": "none",  # text stays text
    "svg.hashsalt": "espnet_adastride",
    "font.sans-serif": ["DejaVu Sans"],
}


@contextmanager
def drawing(width: float, height: float, **options) -> Iterator[Figure]:
    """Make a figure in which what is drawn meanwhile wears this dress.

    Args:
        width, height: inches.
        options: of ``matplotlib.figure.Figure``, such as ``layout="constrained"``.
    """
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(width, height), facecolor="white", dpi=150, **options)
        FigureCanvasAgg(figure)
        yield figure


def line_style(number: int) -> dict:
    """Return colour and marker of the ``number``-th line of a chart."""
    return {
        "color": COLOURS[number % len(COLOURS)],
        "marker": MARKERS[number % len(MARKERS)],
    }


def to_svg(figure: Figure, label: str) -> str:
    """Return a figure as an ``<svg>`` element that needs nothing from elsewhere.

    Args:
        figure: drawn in :func:`drawing`.
        label: what is seen, for those who listen to the page; text, not markup.
    """
    buffer = io.StringIO()
    with matplotlib.rc_context(STYLE):
        figure.savefig(buffer, format="svg", transparent=True, metadata={"Date": None})
    text = buffer.getvalue()
    text = text[text.index("<svg") :]
    text = re.sub(r"<metadata>.*?</metadata>", "", text, flags=re.DOTALL)
    text = text.replace(INK, "currentColor")
    # the page's width decides, not points
    text = re.sub(r'(<svg[^>]*?) width="[^"]*"', r"\1", text, count=1)
    text = re.sub(r'(<svg[^>]*?) height="[^"]*"', r"\1", text, count=1)
    label = escape(label, quote=True)
    return text.replace("<svg", f'<svg role="img" aria-label="{label}"', 1)
