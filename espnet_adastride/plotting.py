"""The picture of one utterance's adaptive strides over its spectrogram.

From top to bottom, all over the same seconds::

    id, reference, hypothesis
    log-mel spectrogram, a thin line where one output frame ends and the next begins
    two strips of frames coloured by their length: uniform (average pooling), adaptive
    the local stride as a curve, the signal's energy faintly behind it

:func:`plot_strides` draws a :class:`StridePicture`; the boundaries in it come from
``strides.py``. No ESPnet: whoever has a waveform and boundaries in seconds can draw.
"""

import os
import textwrap
from dataclasses import dataclass
from pathlib import Path
from typing import List, Optional, Tuple, Union

import matplotlib
import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.collections import LineCollection
from matplotlib.colors import FuncNorm, ListedColormap, Normalize
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, FuncFormatter, NullLocator

from espnet_adastride.strides import share_of_frames

#: seconds between the columns of the spectrogram and the frames of the energy
HOP = 0.005
WINDOW = 0.025
MEL_BINS = 80
#: the picture shows this range below the loudest bin; beneath it is white
SPECTROGRAM_RANGE_DB = 65.0
#: speech is what is at most so much quieter than the loudest frame
SPEECH_THRESHOLD_DB = 30.0
#: digital silence; a recording that never exceeds it has no speech
SILENCE_DB = -90.0

BOUNDARY_COLOUR = "#0b5fa5"
CURVE_COLOUR = "#1a1a1a"
ENERGY_COLOUR = "#dcdcdc"
SPEECH_COLOUR = "#7a7a7a"
#: violet: finer than uniform, orange: coarser; told apart with every colour blindness
STRIDE_MAP = ListedColormap(
    matplotlib.colormaps["PuOr_r"](np.linspace(0.06, 0.94, 256)), "strides"
)
FONT_SIZE = 10.0
TEXT_WIDTH = 104  # characters of a line above the picture
DPI = 150
PICTURE_KINDS = ("png", "svg", "pdf")


class PictureError(ValueError):
    """A picture that cannot be made as asked; the message says why in one line."""


@dataclass
class StridePicture:
    """What is drawn.

    Attributes:
        utterance: id.
        wave: (samples,) in [-1, 1].
        rate: sampling rate in Hz.
        step: seconds from one feature frame (input frame of the encoder) to the next.
        boundaries: (m + 1,) seconds, where each output frame begins and ends.
        uniform: the same for constant strides, to compare with.
        method: what made the boundaries, e.g. ``adastride 8x``.
        reference: transcript, None if not known.
        hypothesis: what the model recognises, None if not known.
        threshold: speech is what is at most so many dB below the loudest frame.
    """

    utterance: str
    wave: np.ndarray
    rate: int
    step: float
    boundaries: np.ndarray
    uniform: np.ndarray
    method: str = "adaptive"
    reference: Optional[str] = None
    hypothesis: Optional[str] = None
    threshold: float = SPEECH_THRESHOLD_DB

    @property
    def duration(self) -> float:
        """Seconds of the recording."""
        return len(self.wave) / self.rate

    @property
    def uniform_width(self) -> float:
        """Seconds of a uniform frame (the last one of an utterance may be shorter)."""
        return float(np.median(np.diff(self.uniform)))


def _windows(wave: np.ndarray, rate: int) -> np.ndarray:
    """Return (frames, window) samples, frame i centred at (i + 0.5) HOP seconds."""
    size = max(2, round(WINDOW * rate))
    count = max(1, int(np.ceil(len(wave) / rate / HOP - 1e-9)))
    centres = np.round((np.arange(count) + 0.5) * HOP * rate).astype(int)
    padded = np.pad(np.asarray(wave, dtype=np.float64), size)
    return padded[(centres + size - size // 2)[:, None] + np.arange(size)[None, :]]


def frame_edges(wave: np.ndarray, rate: int) -> np.ndarray:
    """Return (frames + 1,) seconds: the intervals that energy and speech speak of."""
    count = len(_windows(wave, rate))
    edges = np.arange(count + 1) * HOP
    edges[-1] = len(wave) / rate
    return edges


def energy_db(wave: np.ndarray, rate: int) -> np.ndarray:
    """Return (frames,) the energy of 25 ms windows in dB below full scale."""
    power = np.square(_windows(wave, rate)).mean(axis=1)
    return 10 * np.log10(np.maximum(power, 10 ** (SILENCE_DB / 10)))


def is_speech(energy: np.ndarray, threshold: float = SPEECH_THRESHOLD_DB) -> np.ndarray:
    """Return (frames,) booleans: at most ``threshold`` dB below the loudest frame.

    Enough for clean recordings; it hears music and noise as speech.
    """
    return (energy > SILENCE_DB) & (energy >= energy.max() - threshold)


def mel(hertz):
    """Return the mel value (HTK's formula) of a frequency in Hz."""
    return 2595.0 * np.log10(1.0 + np.asarray(hertz) / 700.0)


def log_mel(wave: np.ndarray, rate: int, bins: int = MEL_BINS) -> np.ndarray:
    """Return (bins, frames) log-mel energies in dB, lowest band first.

    Triangular bands, equally wide in mel from 0 Hz to half the sampling rate.
    """
    windows = _windows(wave, rate)
    windows = windows * np.hanning(windows.shape[1])
    # long enough that the narrowest band holds a bin of the transform
    size = 2 ** int(np.ceil(np.log2(max(windows.shape[1], rate / 10))))
    power = np.square(np.abs(np.fft.rfft(windows, size, axis=1)))
    edges = np.linspace(0.0, mel(rate / 2), bins + 2)
    centre = mel(np.fft.rfftfreq(size, 1 / rate))[None, :]
    low, middle, high = edges[:-2, None], edges[1:-1, None], edges[2:, None]
    bands = np.minimum(
        (centre - low) / (middle - low), (high - centre) / (high - middle)
    )
    return 10 * np.log10(np.maximum(bands.clip(min=0.0) @ power.T, 1e-10))


def summary(picture: StridePicture) -> List[str]:
    """Say in one line what the strides are, in another where the frames went."""
    frames = len(picture.boundaries) - 1
    width = np.diff(picture.boundaries)
    mean = picture.duration / frames
    low, high = 1000 * np.percentile(width, [5, 95])
    rate = (
        f"{frames} frames in {picture.duration:.2f} s, {1 / mean:.1f} per second; mean "
        f"{1000 * mean:.0f} ms = {mean / picture.step:.1f} input frames, 90 % of them "
        f"from {low:.0f} to {high:.0f} ms"
    )
    speech = is_speech(energy_db(picture.wave, picture.rate), picture.threshold)
    if not speech.any():
        return [rate, "the recording is silent"]
    edges = frame_edges(picture.wave, picture.rate)
    time, share = share_of_frames(picture.boundaries, edges, speech)
    return [
        rate,
        f"speech (energy within {picture.threshold:g} dB of the loudest): "
        f"{100 * time:.0f} % of the time, {100 * share:.0f} % of the frames; "
        f"silence: {100 - 100 * time:.0f} % of the time, "
        f"{100 - 100 * share:.0f} % of the frames",
    ]


def stride_scale(picture: StridePicture) -> Normalize:
    """Return the colour scale of frame lengths in ms, the uniform one in its middle.

    Logarithmic on either side. Each side ends where 5 % of the frames are beyond it, so
    that a few extremes saturate rather than bleach all others; at 1.6 times at least,
    so that strides that hardly vary look uniform, and at 8 times at most.
    """
    width = 1000 * np.diff(picture.boundaries)
    centre = 1000 * picture.uniform_width
    low, high = np.percentile(width, [5, 95])
    low = np.clip(low, centre / 8, centre / 1.6)
    high = np.clip(high, centre * 1.6, centre * 8)
    knots = np.log([low, centre, high])
    shares = [0.0, 0.5, 1.0]

    def forward(ms):
        return np.interp(np.log(np.maximum(ms, 1e-6)), knots, shares)

    def inverse(share):
        return np.exp(np.interp(share, shares, knots))

    return FuncNorm((forward, inverse), vmin=low, vmax=high)


def plot_strides(picture: StridePicture) -> Figure:
    """Draw the picture, 10 inches wide.

    Returns:
        A matplotlib figure that belongs to no window; see :func:`save_figure`.

    Raises:
        ValueError: if the boundaries do not run from 0 to the recording's end.
    """
    for boundaries in (picture.boundaries, picture.uniform):
        ends = boundaries[0], boundaries[-1]
        if len(boundaries) < 2 or not np.allclose(ends, (0, picture.duration)):
            raise ValueError(
                f"boundaries must run from 0 to {picture.duration} s, not from "
                f"{ends[0]} to {ends[1]} s"
            )
    with matplotlib.rc_context({"font.size": FONT_SIZE, "axes.linewidth": 0.6}):
        return _draw(picture)


def _draw(picture: StridePicture) -> Figure:
    words, numbers = _text(picture)
    text_height = 0.46 + 0.19 * (len(words) + len(numbers))  # inches
    heights = (2.3, 0.72, 1.35)
    height = text_height + sum(heights) + 0.95
    figure = Figure(figsize=(10.0, height), facecolor="white", dpi=DPI)
    FigureCanvasAgg(figure)
    grid = figure.add_gridspec(
        3,
        2,
        height_ratios=heights,
        width_ratios=(60, 1),
        left=0.085,
        right=0.925,
        top=1 - text_height / height,
        bottom=0.52 / height,
        hspace=0.11,
        wspace=0.03,
    )
    spectrogram = figure.add_subplot(grid[0, 0])
    strips = figure.add_subplot(grid[1, 0], sharex=spectrogram)
    curve = figure.add_subplot(grid[2, 0], sharex=spectrogram)
    scale = stride_scale(picture)
    draw_spectrogram(spectrogram, picture)
    colours = draw_strips(strips, picture, scale)
    draw_local_stride(curve, picture)
    _draw_colour_bar(figure, figure.add_subplot(grid[1:, 1]), colours, picture, scale)
    for axes in (spectrogram, strips):
        axes.tick_params(labelbottom=False)
    curve.set_xlim(0, picture.duration)
    curve.set_xlabel("time (s)", labelpad=2)
    figure.align_ylabels([spectrogram, curve])
    place = dict(x=0.085, va="top", linespacing=1.4, parse_math=False)
    figure.text(
        y=1 - 0.09 / height,
        s=f"{picture.utterance}   {picture.method}",
        weight="bold",
        size=FONT_SIZE + 1,
        **place,
    )
    for lines, above, colour in (
        (words, 0.33, "black"),
        (numbers, 0.35 + 0.19 * len(words), "#444444"),
    ):
        figure.text(
            y=1 - above / height,
            s="\n".join(lines),
            size=FONT_SIZE - 0.5,
            color=colour,
            **place,
        )
    return figure


def _text(picture: StridePicture) -> Tuple[List[str], List[str]]:
    """Return the lines of the transcripts and those of the numbers."""
    words, numbers = [], []
    for name, text in (("REF", picture.reference), ("HYP", picture.hypothesis)):
        if text is not None:
            words += textwrap.wrap(
                f"{name}:  {text or '(nothing)'}",
                TEXT_WIDTH,
                subsequent_indent=" " * 10,
            )
    for line in summary(picture):
        numbers += textwrap.wrap(line, TEXT_WIDTH + 26)
    return words, numbers


def draw_spectrogram(axes, picture: StridePicture) -> None:
    """Draw the log-mel spectrogram in grey and the boundaries as thin lines."""
    image = log_mel(picture.wave, picture.rate)
    top = image.max()
    edges = frame_edges(picture.wave, picture.rate)
    axes.imshow(
        image,
        origin="lower",
        aspect="auto",
        cmap="Greys",
        vmin=top - SPECTROGRAM_RANGE_DB,
        vmax=top + 8.0,  # black is left to the axes
        extent=(0, HOP * (len(edges) - 1), 0, mel(picture.rate / 2)),
        interpolation="nearest",
    )
    height = mel(picture.rate / 2)
    axes.add_collection(
        LineCollection(
            [[(x, 0), (x, height)] for x in picture.boundaries[1:-1]],
            colors=BOUNDARY_COLOUR,
            # finer and fainter where there are many: speech is seen between them
            linewidths=np.clip(100 / len(picture.boundaries), 0.4, 0.8),
            alpha=np.clip(150 / len(picture.boundaries), 0.35, 1.0),
            snap=False,
        ),
        autolim=False,
    )
    ticks = [k for k in (0, 0.5, 1, 2, 4, 8, 16) if 1000 * k <= picture.rate / 2]
    axes.set_yticks([mel(1000 * k) for k in ticks], [f"{k:g}" for k in ticks])
    axes.set_ylim(0, height)
    axes.set_ylabel("kHz (mel)")


def draw_strips(axes, picture: StridePicture, scale: Normalize):
    """Draw the uniform and the adaptive frames as coloured cells; return the artist."""
    rows = (("uniform", picture.uniform), ("adaptive", picture.boundaries))
    for row, (_, boundaries) in enumerate(rows):
        colours = axes.pcolormesh(
            boundaries,
            [row + 0.07, row + 0.93],
            1000 * np.diff(boundaries)[None, :].clip(min=1e-3),
            cmap=STRIDE_MAP,
            norm=scale,
            edgecolors="#555555",
            linewidth=np.clip(50 / len(boundaries), 0.05, 0.4),
            antialiased=True,  # not snapped to whole pixels: cells stay visible
            snap=False,
        )
    axes.set_yticks([0.5, 1.5], [name for name, _ in rows])
    axes.set_ylim(len(rows), 0)
    axes.tick_params(axis="y", length=0)
    for side in ("top", "right", "left", "bottom"):
        axes.spines[side].set_visible(False)
    axes.tick_params(axis="x", length=0)
    return colours


def draw_local_stride(axes, picture: StridePicture) -> None:
    """Draw input frames per output frame over time, energy and speech behind it."""
    width = np.diff(picture.boundaries)
    seen = width > 0
    stride = np.repeat(width[seen] / picture.step, 2)
    begin, end = picture.boundaries[:-1][seen], picture.boundaries[1:][seen]
    time = np.stack([begin, end], axis=1).ravel()
    uniform = picture.uniform_width / picture.step
    low = min(0.8 * stride.min(), uniform / 2)
    high = max(1.15 * stride.max(), uniform * 2)

    energy = energy_db(picture.wave, picture.rate)
    edges = frame_edges(picture.wave, picture.rate)
    speech = is_speech(energy, picture.threshold)
    behind = axes.twinx()
    behind.set_zorder(axes.get_zorder() - 1)
    axes.patch.set_visible(False)
    loudest = energy.max()
    behind.fill_between(
        (edges[:-1] + edges[1:]) / 2,
        loudest - 60,
        energy.clip(min=loudest - 60),
        color=ENERGY_COLOUR,
        linewidth=0,
        label="energy",
    )
    # below the energy's floor, so that it hides nothing
    behind.fill_between(
        edges,
        loudest - 65.5,
        loudest - 62,
        where=np.append(speech, speech[-1]),
        step="post",
        color=SPEECH_COLOUR,
        linewidth=0,
        label="speech",
    )
    behind.set_ylim(loudest - 65.5, loudest + 20)
    behind.set_yticks([])

    axes.axhline(
        uniform,
        color=SPEECH_COLOUR,
        linewidth=1.0,
        linestyle=(0, (5, 3)),
        label="uniform",
    )
    axes.plot(time, stride, color=CURVE_COLOUR, linewidth=1.2, label="adaptive")
    axes.set_yscale("log")
    axes.set_ylim(low, high)
    ticks = [t for t in (0.5, 1, 2, 4, 8, 16, 32, 64, 128) if low <= t <= high]
    axes.yaxis.set_major_locator(FixedLocator(ticks))
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axes.yaxis.set_minor_locator(NullLocator())
    axes.set_ylabel("input frames\nper frame")
    handles, labels = axes.get_legend_handles_labels()
    more, names = behind.get_legend_handles_labels()
    axes.legend(
        handles + more,
        labels + names,
        loc="upper center",
        ncol=4,
        fontsize=FONT_SIZE - 1,
        frameon=False,
        borderaxespad=0.1,
        handlelength=1.8,
        columnspacing=1.6,
    )


def _draw_colour_bar(figure, axes, colours, picture, scale) -> None:
    bar = figure.colorbar(colours, cax=axes, extend="both", extendfrac=0.04)
    centre = 1000 * picture.uniform_width
    ticks = [
        scale.vmin,
        np.sqrt(scale.vmin * centre),
        centre,
        np.sqrt(centre * scale.vmax),
        scale.vmax,
    ]
    bar.set_ticks(ticks, labels=[f"{tick:.0f}" for tick in ticks])
    bar.ax.yaxis.set_minor_locator(NullLocator())
    bar.set_label("ms per frame")
    bar.outline.set_linewidth(0.6)


def check_picture_name(path: Union[str, Path]) -> str:
    """Return the kind of picture that the name's ending asks for.

    Raises:
        PictureError: for another ending than .png, .svg or .pdf.
    """
    kind = Path(path).suffix[1:].lower()
    if kind not in PICTURE_KINDS:
        raise PictureError(
            f"{path}: the name must end in {', '.join('.' + k for k in PICTURE_KINDS)}"
        )
    return kind


def save_figure(figure: Figure, path: Union[str, Path], dpi: int = DPI) -> None:
    """Write the figure to ``path`` (.png, .svg or .pdf), whole or not at all.

    Raises:
        PictureError: for another ending.
        OSError: if the file cannot be written.
    """
    path = Path(path)
    kind = check_picture_name(path)
    temporary = path.with_name(f".{path.name}.tmp{os.getpid()}")
    try:
        figure.savefig(temporary, format=kind, dpi=dpi)
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)
