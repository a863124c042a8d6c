"""The earlier import path of :mod:`espnet_adastride.files`."""

from espnet_adastride.files import (  # noqa: F401
    PathLike,
    fresh_dir,
    replace_dir,
    write_flac,
    write_text,
    written_whole,
)
