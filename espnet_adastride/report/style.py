"""The style of all pictures: colours, marks, axes; their files, and charts in pages.

Charts use STYLE, spectrograms (with axes on all sides) SPECTROGRAM_STYLE.

On a page (:func:`to_svg`) a chart takes the colour of the surrounding text, so that it
is readable in light and dark mode. Lines differ in marker and dash, not only in colour.
"""

import io
import re
from contextlib import contextmanager
from html import escape
from pathlib import Path
from typing import Iterator, Sequence, Tuple

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colors import LinearSegmentedColormap, ListedColormap
from matplotlib.figure import Figure
from matplotlib.patheffects import withStroke
from matplotlib.text import Text
from matplotlib.transforms import Bbox

from espnet_adastride.errors import UserError
from espnet_adastride.files import PathLike, shown, written_whole
from espnet_adastride.report.fonts import fonts_for

#: text and axes; replaced by the page's own colour
INK = "#161718"
#: lines behind the data: grids, references
GREY = "#808080"
#: distinguishable with any colour blindness, on white and on black
COLOURS = ("#2f81c7", "#d55e00", "#00936b", "#c264a0", "#a98600", "#7d7d7d")
#: 13, and 5 colours that return: a pair of both returns after 65
MARKERS = "os^Dvp<>X*Pdh"
#: not dotted: such lines of VQ-VAEs are their tokens without side bits
DASHES = ("-", (0, (6, 2)), (0, (6, 1.5, 1, 1.5)), (0, (2, 1)))
FONT_SIZE = 9.5
#: of marks, in points: matplotlib's
MARK_SIZE = 6.0
#: over and beside spectrograms: curves, marks, what is said in smaller letters
BLACK, DARK, PALE = "#1a1a1a", "#444444", "#8c8c8c"
ENERGY, SPEECH, EDGES = "#dcdcdc", "#7a7a7a", "#555555"
#: violet: finer than uniform, orange: coarser; told apart with every colour blindness
STRIDE_MAP = ListedColormap(
    matplotlib.colormaps["PuOr_r"](np.linspace(0.06, 0.94, 256)), "strides"
)
#: the same for lines on a light spectrogram: dark where uniform, not white
BOUNDARY_MAP = LinearSegmentedColormap.from_list(
    "boundaries", ["#4b1a92", "#7a5fae", "#4d4d4d", "#d07f2c", "#a34a00"]
)
#: of spectrograms alone; of shares on white
MEL_MAP, SHARE_MAP = "magma", "Blues"
DPI = 150
PICTURE_KINDS = ("png", "svg", "pdf")

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
SPECTROGRAM_STYLE = {"font.size": FONT_SIZE + 0.5, "axes.linewidth": 0.6}


@contextmanager
def drawing(
    width: float, height: float, style: dict = STYLE, text: str = "", **options
) -> Iterator[Figure]:
    """Make a figure without a window; what is drawn in the context has the style.

    Args:
        width, height: inches.
        style: STYLE or SPECTROGRAM_STYLE.
        text: what users wrote, in any script; fonts are chosen that have it.
        options: of ``matplotlib.figure.Figure``, such as ``layout="constrained"``.
    """
    with matplotlib.rc_context({**style, **fonts_for(text)}):
        figure = Figure(figsize=(width, height), facecolor="white", dpi=DPI, **options)
        FigureCanvasAgg(figure)
        yield figure


def mark_style(number: int) -> dict:
    """Return colour and marker of the ``number``-th line of a chart.

    The first is the baseline's, if there is one: its colour does not return. No pair
    of the first 65 is the same.
    """
    first, *others = COLOURS
    colour = others[(number - 1) % len(others)] if number else first
    return {"color": colour, "marker": MARKERS[number % len(MARKERS)]}


def line_style(number: int) -> dict:
    """Return :func:`mark_style` with dashes, and marks that are filled or hollow.

    The first 26 lines differ without colours: each marker is filled, then hollow. It is
    for charts in which dashes and hollow marks say nothing else.
    """
    dashes = DASHES[number // len(COLOURS) % len(DASHES)]
    style = {**mark_style(number), "linestyle": dashes}
    if number // len(MARKERS) % 2:
        style["markerfacecolor"] = "white"
    return style


def label_points(
    axes: Axes,
    labels: Sequence[Tuple[str, Tuple[float, float], dict]],
    places: Sequence[Tuple[float, float]],
    others: Sequence[Tuple[float, float]] = (),
) -> None:
    """Write a label beside each point, where it covers no other label and no point.

    Call it last: it needs the final limits and layout. Labels stay within the axes, and
    have a white edge where they cover a line.

    Args:
        axes: where the points are drawn.
        labels: text, point (x, y), and options of ``Axes.annotate``.
        places: (right, up) in points from a point to its label, in order of
            preference; to the left the label ends there. If none is free, the one that
            covers the fewest.
        others: more points (x, y) that no label is to cover.
    """
    figure = axes.figure
    figure.draw_without_rendering()  # the layout
    half = MARK_SIZE / 2 * figure.dpi / 72
    points = [*(point for _, point, _ in labels), *others]
    centres = axes.transData.transform(points) if points else []
    taken = [Bbox([centre - half, centre + half]) for centre in centres]
    inside = axes.get_window_extent()
    edge = [withStroke(linewidth=2.0, foreground="white")]
    for text, point, options in labels:
        label = axes.annotate(
            text, point, (0, 0), textcoords="offset points", va="center", **options
        )
        label.set_path_effects(edge)
        covered = []
        for place in places:
            box = _box_at(label, place)
            within = inside.containsx(box.x0) and inside.containsx(box.x1)
            covered.append(box.count_overlaps(taken) if within else len(taken) + 1)
            if not covered[-1]:
                break
        taken.append(_box_at(label, places[covered.index(min(covered))]))


def _box_at(label: Text, place: Tuple[float, float]) -> Bbox:
    """Put the label there, and return the pixels that it covers."""
    label.set_position(place)
    label.set_horizontalalignment("right" if place[0] < 0 else "left")
    return label.get_window_extent()


def save_figure(figure: Figure, path: PathLike, dpi: int = DPI) -> None:
    """Write the figure to ``path`` (.png, .svg or .pdf), atomically.

    Raises:
        UserError: for another suffix.
        OSError: if the file cannot be written.
    """
    kind = Path(path).suffix[1:].lower()
    if kind not in PICTURE_KINDS:
        kinds = ", ".join(f".{kind}" for kind in PICTURE_KINDS)
        raise UserError(f"{path}: the name must end in {kinds}")
    _escape_texts(figure)
    with written_whole(path) as temporary:
        figure.savefig(temporary, format=kind, dpi=dpi)


def _escape_texts(figure: Figure) -> None:
    """Escape control characters, which fonts lack and SVG files may not have."""
    for text in figure.findobj(Text):
        lines = text.get_text().split("\n")
        text.set_text("\n".join(map(shown, lines)))


def to_png(figure: Figure, dpi: int = DPI) -> bytes:
    """Return the figure as the content of a PNG file."""
    buffer = io.BytesIO()
    _escape_texts(figure)
    figure.savefig(buffer, format="png", dpi=dpi)
    return buffer.getvalue()


def to_svg(figure: Figure, label: str) -> str:
    """Return a figure as an ``<svg>`` element without external resources.

    Args:
        figure: drawn in :func:`drawing`.
        label: description for screen readers; text, not markup.
    """
    buffer = io.StringIO()
    _escape_texts(figure)
    with matplotlib.rc_context(STYLE):
        figure.savefig(buffer, format="svg", transparent=True, metadata={"Date": None})
    text = buffer.getvalue()
    text = text[text.index("<svg") :]
    text = re.sub(r"<metadata>.*?</metadata>", "", text, flags=re.DOTALL)
    text = text.replace(INK, "currentColor")
    # the page determines the width, not points
    text = re.sub(r'(<svg[^>]*?) width="[^"]*"', r"\1", text, count=1)
    text = re.sub(r'(<svg[^>]*?) height="[^"]*"', r"\1", text, count=1)
    label = escape(label, quote=True)
    return text.replace("<svg", f'<svg role="img" aria-label="{label}"', 1)
