"""The picture of one utterance's adaptive strides over its spectrogram.

From top to bottom, all over the same seconds::

    id, reference, hypothesis
    the words and phones, if their times are known
    log-mel spectrogram, a line where one output frame ends and the next begins,
        coloured by the local stride
    two strips of frames coloured by their length: uniform (average pooling), adaptive
    the local stride as a curve, the signal's energy faintly behind it

:func:`plot_strides` draws a :class:`StridePicture`; the boundaries in it come from
``timing/boundaries.py``. A waveform and boundaries in seconds suffice; no ESPnet.
:func:`make_picture` gets them from a model.
"""

import textwrap
from dataclasses import dataclass
from typing import Dict, List, NamedTuple, Optional, Sequence, Tuple

import numpy as np
from matplotlib import rc_context
from matplotlib.collections import LineCollection
from matplotlib.colors import FuncNorm, Normalize
from matplotlib.figure import Figure
from matplotlib.textpath import TextPath
from matplotlib.ticker import FixedLocator, FuncFormatter, NullLocator

from espnet_adastride.corpora.audio import audio_info
from espnet_adastride.corpora.recordings import read_audio
from espnet_adastride.errors import UserError
from espnet_adastride.report.fonts import fonts_for
from espnet_adastride.report.style import (
    BLACK,
    BOUNDARY_MAP,
    DARK,
    EDGES,
    ENERGY,
    PALE,
    SPECTROGRAM_STYLE,
    SPEECH,
    STRIDE_MAP,
    drawing,
)
from espnet_adastride.timing.boundaries import share_of_frames
from espnet_adastride.timing.ctc import Timed
from espnet_adastride.timing.energy import (
    BLOCK,
    HOP,
    SILENCE_DB,
    SPEECH_THRESHOLD_DB,
    WINDOW,
    energy_db,
    frame_edges,
    is_speech,
    windows,
)
from espnet_adastride.timing.transcripts import TimedReference, display_width

#: seconds; the utterance nearest to it is typical
GOOD_LENGTH = 5.0
MEL_BINS = 80
#: most columns of a spectrogram: several for each pixel of the picture
MOST_COLUMNS = 10000
#: range of the picture below the loudest bin; lower values are white
SPECTROGRAM_RANGE_DB = 65.0

#: the lowest value of a spectrogram in dB
FLOOR_DB = -100.0

#: of words and phones above the spectrogram
LABEL_ROWS = 3
LABEL_SIZE = 9.0
FONT_SIZE = SPECTROGRAM_STYLE["font.size"]
TEXT_WIDTH = 104  # characters of a line above the picture
TEXT_LINES = 8  # of a transcript; the rest of a long recording's is left out
#: of the figure's width
LEFT, RIGHT = 0.085, 0.925
WIDTH = 10.0  # inches
HEIGHTS = (2.3, 0.72, 1.35)  # of spectrogram, strips and curve
#: width of the axes over time; the colour bar takes the rest
AXES_POINTS = 72 * WIDTH * (RIGHT - LEFT) * 60 / (61 + 0.03 * 61 / 2)


@dataclass
class StridePicture:
    """The data of the picture.

    Attributes:
        utterance: id.
        wave: (samples,) in [-1, 1].
        rate: sampling rate in Hz.
        step: seconds from one feature frame (input frame of the encoder) to the next.
        boundaries: (m + 1,) seconds, where each output frame begins and ends.
        uniform: the same for constant strides, for comparison.
        method: method and rate, e.g. ``adastride 8x``.
        reference: transcript, None if unknown.
        hypothesis: recognised text, None if unknown.
        hypothesis_from: the search that found it, e.g. ``greedy CTC``.
        threshold: threshold of speech in dB below the loudest frame.
        words: with their times in seconds.
        phones: the same.
        times_from: source of the word times, e.g. ``CTC``.
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
    hypothesis_from: str = ""
    threshold: float = SPEECH_THRESHOLD_DB
    words: Sequence[Timed] = ()
    phones: Sequence[Timed] = ()
    times_from: str = ""

    @property
    def duration(self) -> float:
        """Seconds of the recording."""
        return len(self.wave) / self.rate

    @property
    def uniform_width(self) -> float:
        """Seconds of a uniform frame (the last one of an utterance may be shorter)."""
        return float(np.median(np.diff(self.uniform)))


class Utterance(NamedTuple):
    """What to draw: id, audio file, transcript (None if not known)."""

    id: str
    audio: str
    text: Optional[str]


def typical_utterance(waves: Dict[str, str]) -> str:
    """Return the id of the recording that is nearest to 5 s; the first of equals.

    Raises:
        AudioError: for a recording that cannot be read.
    """

    def distance(key):
        return abs(audio_info(waves[key]).seconds - GOOD_LENGTH)

    return min(sorted(waves), key=distance)


def make_picture(
    transcriber,
    utterance: Utterance,
    threshold: float = SPEECH_THRESHOLD_DB,
    reference: Optional[TimedReference] = None,
) -> StridePicture:
    """Encode a recording for its picture.

    Args:
        transcriber: a Transcriber whose model has adaptive strides.
        utterance: the recording.
        threshold: of speech, in dB below the loudest moment.
        reference: times of words and phones; None: those of the CTC branch.

    Raises:
        UserError: if the model cannot encode the recording.
    """
    trained, key = transcriber.trained, utterance.id
    wave = read_audio(utterance.audio, trained.rate, say=transcriber.say)
    pieces = list(transcriber.encode_pieces(wave, key))
    encoded = transcriber.joined(pieces, len(wave))
    times = encoded.times.of_strides()
    hypothesis, words, phones, source = None, [], [], ""
    if encoded.log_probs is not None:
        hypothesis, words = transcriber.recognise_pieces(pieces)
        source = "CTC path of the hypothesis"
        if utterance.text:
            try:
                words = transcriber.align(wave, utterance.text).words
                source = "best CTC path of the reference"
            except ValueError as error:  # too few frames, or unknown tokens
                transcriber.say(
                    f"{key}: {error}; the words of the picture are the recognised ones"
                )
    if reference is not None:
        if key not in reference.words and len(reference.words) == 1:
            key = next(iter(reference.words))
        if key not in reference.words:
            raise UserError(
                f"--ref {reference.source} has no utterance {key}; leave out --ref, or "
                "add its times"
            )
        words, source = reference.words[key], reference.source
        phones = reference.phones.get(key, [])
    return StridePicture(
        utterance=utterance.id,
        wave=wave,
        rate=trained.rate,
        step=trained.step,
        boundaries=times.boundaries,
        uniform=times.windows,
        method=trained.describe_strides(),
        reference=utterance.text,
        hypothesis=hypothesis,
        hypothesis_from="greedy CTC",
        threshold=threshold,
        words=words,
        phones=phones,
        times_from=source,
    )


def mel(hertz):
    """Return the mel value (HTK's formula) of a frequency in Hz."""
    return 2595.0 * np.log10(1.0 + np.asarray(hertz) / 700.0)


def windows_of_column(frames: int) -> int:
    """Return how many windows of a recording share a column of its spectrogram.

    A divisor of BLOCK, so that no column is in two blocks.
    """
    sizes = (size for size in range(1, BLOCK) if BLOCK % size == 0)
    return next((size for size in sizes if size * MOST_COLUMNS >= frames), BLOCK)


def log_mel(wave: np.ndarray, rate: int, group: int = 1) -> np.ndarray:
    """Return (MEL_BINS, columns) log-mel energies in dB, lowest band first.

    Triangular bands, equally wide in mel from 0 Hz to half the sampling rate. A column
    has the mean power of ``group`` windows (:func:`windows_of_column`).
    """
    window = max(2, round(WINDOW * rate))
    # long enough for a bin of the transform in the narrowest band
    size = 2 ** int(np.ceil(np.log2(max(window, rate / 10))))
    edges = np.linspace(0.0, mel(rate / 2), MEL_BINS + 2)
    centre = mel(np.fft.rfftfreq(size, 1 / rate))[None, :]
    low, middle, high = edges[:-2, None], edges[1:-1, None], edges[2:, None]
    bands = np.minimum(
        (centre - low) / (middle - low), (high - centre) / (high - middle)
    ).clip(min=0.0)
    parts = []
    for block in windows(wave, rate):
        spectrum = np.fft.rfft(block * np.hanning(window), size, axis=1)
        power = bands @ np.square(np.abs(spectrum)).T
        starts = np.arange(0, power.shape[1], group)
        sizes = np.diff([*starts, power.shape[1]])
        parts.append(np.add.reduceat(power, starts, axis=1) / sizes)
    floor = 10 ** (FLOOR_DB / 10)
    return 10 * np.log10(np.maximum(np.concatenate(parts, axis=1), floor))


def summary(picture: StridePicture) -> List[str]:
    """Describe the strides in one line and the placement of frames in another."""
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
    that a few extremes saturate. The limits are at least 1.6 times, so that strides
    that hardly vary look uniform, and at most 8 times.
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
        A figure for ``style.save_figure``.

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
    words, numbers = _text(picture)
    text = picture.utterance + "".join(words)
    text += "".join(item.text for item in (*picture.words, *picture.phones))
    with rc_context(fonts_for(text)):  # widths of labels depend on them
        lanes = [
            (name, items, place_labels(items, picture.duration, AXES_POINTS))
            for name, items in (("words", picture.words), ("phones", picture.phones))
            if items
        ]
    # inches: the rows of labels and the line of spans below them
    lane_heights = [0.12 + 0.17 * (1 + max(rows)) for _, _, rows in lanes]
    lanes_height = sum(lane_heights) + 0.06 * len(lanes)
    text_height = 0.46 + 0.19 * (len(words) + len(numbers)) + lanes_height
    height = text_height + sum(HEIGHTS) + 0.95
    with drawing(WIDTH, height, SPECTROGRAM_STYLE, text) as figure:
        _draw(figure, picture, words, numbers, list(zip(lanes, lane_heights)))
    return figure


def _draw(figure, picture, words, numbers, lanes) -> None:
    """Draw into a figure.

    Args:
        words, numbers: of :func:`_text`.
        lanes: ((name, labels, their rows), inches) of words and of phones.
    """
    height = figure.get_figheight()
    grid = figure.add_gridspec(
        3,
        2,
        height_ratios=HEIGHTS,
        width_ratios=(60, 1),
        left=LEFT,
        right=RIGHT,
        top=(sum(HEIGHTS) + 0.95) / height,
        bottom=0.52 / height,
        hspace=0.11,
        wspace=0.03,
    )
    spectrogram = figure.add_subplot(grid[0, 0])
    strips = figure.add_subplot(grid[1, 0], sharex=spectrogram)
    curve = figure.add_subplot(grid[2, 0], sharex=spectrogram)
    scale = stride_scale(picture)
    draw_spectrogram(spectrogram, picture, scale)
    colours = draw_strips(strips, picture, scale)
    draw_local_stride(curve, picture)
    _draw_colour_bar(figure, figure.add_subplot(grid[1:, 1]), colours, picture, scale)
    for axes in (spectrogram, strips):
        axes.tick_params(labelbottom=False)
    curve.set_xlim(0, picture.duration)
    curve.set_xlabel("time (s)", labelpad=2)
    figure.align_ylabels([spectrogram, curve])
    box = spectrogram.get_position()
    bottom = box.y1 + 0.04 / height
    for (name, items, rows), inches in reversed(lanes):
        axes = figure.add_axes((box.x0, bottom, box.width, inches / height))
        axes.set_xlim(0, picture.duration)
        draw_labels(axes, name, items, rows)
        bottom += (inches + 0.06) / height
    place = dict(x=LEFT, va="top", linespacing=1.4, parse_math=False)
    figure.text(
        y=1 - 0.09 / height,
        s=f"{picture.utterance}   {picture.method}",
        weight="bold",
        size=FONT_SIZE + 1,
        **place,
    )
    for lines, above, colour in (
        (words, 0.33, "black"),
        (numbers, 0.35 + 0.19 * len(words), DARK),
    ):
        figure.text(
            y=1 - above / height,
            s="\n".join(lines),
            size=FONT_SIZE - 0.5,
            color=colour,
            **place,
        )


def _text(picture: StridePicture) -> Tuple[List[str], List[str]]:
    """Return the lines of the transcripts and those of the numbers."""
    words, numbers = [], []
    search = f" ({picture.hypothesis_from})" if picture.hypothesis_from else ""
    for name, text in (
        ("REF", picture.reference),
        (f"HYP{search}", picture.hypothesis),
    ):
        if text is not None:
            line = f"{name}:  {text or '(nothing)'}"
            words += textwrap.wrap(
                line,
                TEXT_WIDTH * len(line) // max(display_width(line), 1),
                subsequent_indent=" " * 10,
                max_lines=TEXT_LINES,
                placeholder=" [...]",
            )
    for line in summary(picture):
        numbers += textwrap.wrap(line, TEXT_WIDTH + 26)
    if picture.words and picture.times_from:
        numbers.append(f"times of the words: {picture.times_from}")
    return words, numbers


def label_width(text: str) -> float:
    """Return the width of a label in points."""
    shown = text.strip().replace("$", r"\$")
    return (
        TextPath((0, 0), shown, size=LABEL_SIZE).get_extents().width if shown else 0.0
    )


def place_labels(items: Sequence[Timed], duration: float, width: float) -> List[int]:
    """Return the row of each label so that no two overlap.

    A label is centred on its span, in the lowest free row.

    Args:
        items: in order of time.
        duration: seconds that the axes show.
        width: width of the axes in points.

    Returns:
        (len(items),) rows from 0 below LABEL_ROWS, or -1 for a label without a place.
    """
    ends = [-np.inf] * LABEL_ROWS
    placed = []
    for item in items:
        size = label_width(item.text)
        middle = _label_middle(item, size, duration, width)
        row = next((r for r in range(LABEL_ROWS) if ends[r] <= middle - size / 2), -1)
        if row >= 0:
            ends[row] = middle + size / 2 + 4.0  # points between two labels
        placed.append(row)
    return placed


def _label_middle(item: Timed, size: float, duration: float, width: float) -> float:
    """Return the centre of a label in points, moved into the axes at the ends."""
    middle = (item.start + item.end) / 2 / duration * width
    return float(np.clip(middle, size / 2, max(width - size / 2, size / 2)))


def draw_labels(axes, name: str, items: Sequence[Timed], rows: Sequence[int]) -> None:
    """Draw labels over the bars of their spans; a label without a place is left out."""
    duration = axes.get_xlim()[1]
    top = 1 + max(rows)
    for index, (item, row) in enumerate(zip(items, rows)):
        # distinguish touching neighbours
        colour = BLACK if index % 2 else PALE
        axes.plot(
            [item.start, item.end],
            [-0.35, -0.35],
            color=colour,
            linewidth=3.0,
            solid_capstyle="butt",
        )
        if row >= 0:
            middle = _label_middle(item, label_width(item.text), duration, AXES_POINTS)
            axes.text(
                middle / AXES_POINTS * duration,
                row + 0.42,
                item.text,
                ha="center",
                va="center",
                size=LABEL_SIZE,
                parse_math=False,
            )
    axes.set_ylim(-0.7, top)
    axes.set_yticks([top / 2], [name])
    axes.tick_params(axis="both", length=0, labelbottom=False)
    axes.spines[:].set_visible(False)
    axes.patch.set_visible(False)


def draw_spectrogram(axes, picture: StridePicture, scale: Normalize) -> None:
    """Draw the log-mel spectrogram in grey and the boundaries by the local stride.

    A boundary has the colour of the mean length of the frames on either side.
    """
    group = windows_of_column(len(frame_edges(picture.wave, picture.rate)) - 1)
    image = log_mel(picture.wave, picture.rate, group)
    top = max(image.max(), FLOOR_DB + SPECTROGRAM_RANGE_DB)  # silence is white
    axes.imshow(
        image,
        origin="lower",
        aspect="auto",
        cmap="Greys",
        vmin=top - SPECTROGRAM_RANGE_DB,
        vmax=top + 8.0,  # keep black for the axes
        extent=(0, HOP * group * image.shape[1], 0, mel(picture.rate / 2)),
        interpolation="nearest",
    )
    height = mel(picture.rate / 2)
    width = np.diff(picture.boundaries)
    axes.add_collection(
        LineCollection(
            [[(x, 0), (x, height)] for x in picture.boundaries[1:-1]],
            colors=BOUNDARY_MAP(scale(1000 * (width[1:] + width[:-1]) / 2)),
            # finer and fainter if there are many, so that speech remains visible
            linewidths=np.clip(140 / len(picture.boundaries), 0.5, 1.2),
            alpha=np.clip(200 / len(picture.boundaries), 0.45, 1.0),
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
            edgecolors=EDGES,
            linewidth=np.clip(50 / len(boundaries), 0.05, 0.4),
            antialiased=True,  # not snapped to whole pixels, so that cells stay visible
            snap=False,
        )
    axes.set_yticks([0.5, 1.5], [name for name, _ in rows])
    axes.set_ylim(len(rows), 0)
    axes.tick_params(axis="y", length=0)
    axes.spines[:].set_visible(False)
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
    # a frame that a jump left hardly any time is below the axes
    low = np.clip(0.8 * stride.min(), uniform / 16, uniform / 2)
    # room for the legend above the curve
    high = max(1.15 * stride.max(), uniform * 2)
    high *= (high / low) ** 0.15

    energy = energy_db(picture.wave, picture.rate)
    edges = frame_edges(picture.wave, picture.rate)
    speech = is_speech(energy, picture.threshold)
    behind = axes.twinx()
    behind.set_zorder(axes.get_zorder() - 1)
    axes.patch.set_visible(False)
    loudest = max(energy.max(), SILENCE_DB + 60)  # silence has none
    behind.fill_between(
        (edges[:-1] + edges[1:]) / 2,
        loudest - 60,
        energy.clip(min=loudest - 60),
        color=ENERGY,
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
        color=SPEECH,
        linewidth=0,
        label="speech",
    )
    behind.set_ylim(loudest - 65.5, loudest + 20)
    behind.set_yticks([])

    axes.axhline(
        uniform, color=SPEECH, linewidth=1.0, linestyle=(0, (5, 3)), label="uniform"
    )
    axes.plot(time, stride, color=BLACK, linewidth=1.2, label="adaptive")
    axes.set_yscale("log")
    axes.set_ylim(low, high)
    ticks = [t for t in (0.5, 1, 2, 4, 8, 16, 32, 64, 128, 512) if low <= t <= high]
    ticks = ticks[:: 1 + int(high > 200 * low)]
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
