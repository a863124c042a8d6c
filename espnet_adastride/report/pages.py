"""Self-contained HTML pages; all text is escaped."""

import base64
import io
from pathlib import Path
from typing import NamedTuple, Optional, Sequence

import numpy as np

from espnet_adastride.files import PathLike, write_text

TEMPLATES = Path(__file__).parent / "templates"


class Sound(NamedTuple):
    """A recording in a page.

    Attributes:
        uri: ``data:audio/...``.
        seconds: its length.
        whole: whether it is the complete recording.
    """

    uri: str
    seconds: float
    whole: bool


def data_uri(content: bytes, kind: str) -> str:
    """Return bytes of a media type (``image/png``) as a data URI."""
    return f"data:{kind};base64,{base64.b64encode(content).decode('ascii')}"


def encode_audio(wave: np.ndarray, rate: int, seconds: Optional[float] = None) -> Sound:
    """Return a recording for all browsers: MP3, or FLAC without an MP3 encoder.

    Args:
        wave: (samples,) in [-1, 1].
        rate: samples per second.
        seconds: maximum length from the beginning.
    """
    import soundfile

    part = wave if seconds is None else wave[: max(int(seconds * rate), 1)]
    buffer = io.BytesIO()
    kind = "audio/mpeg"
    try:
        soundfile.write(buffer, part, rate, format="MP3")
    except (soundfile.SoundFileError, ValueError):  # an old libsndfile, an odd rate
        buffer, kind = io.BytesIO(), "audio/flac"
        soundfile.write(buffer, part, rate, format="FLAC")
    return Sound(
        data_uri(buffer.getvalue(), kind), len(part) / rate, len(part) == len(wave)
    )


def render(template: str, **values) -> str:
    """Return a page made from one of the package's templates.

    Values are escaped, unless they are markupsafe's Markup.
    """
    import jinja2

    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(TEMPLATES),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    return environment.get_template(template).render(**values)


def save_picture(
    figure, output: PathLike, title: str, lines: Sequence[str], sound=None
) -> None:
    """Write a figure as a picture, or as a page with text below it.

    Args:
        figure: matplotlib figure.
        output: output file; its suffix selects the format.
        title: title of the page.
        lines: text below the picture.
        sound: (samples, rate) to listen to, or None.
    """
    from espnet_adastride.report.style import save_figure, to_png

    if Path(output).suffix.lower() != ".html":
        save_figure(figure, output)
        return
    page = render(
        "picture.html.j2",
        title=title,
        picture=data_uri(to_png(figure), "image/png"),
        lines=lines,
        audio=None if sound is None else encode_audio(*sound),
    )
    write_text(output, page)
