"""Files written whole or not at all."""

import io
import os
import shutil
from contextlib import contextmanager
from pathlib import Path
from typing import Iterator, Union

PathLike = Union[str, Path]


@contextmanager
def written_whole(path: PathLike) -> Iterator[Path]:
    """Give the temporary name, beside ``path``, that is renamed to it in the end.

    If that fails, nothing is left, and the error names ``path`` (a full disk's does not
    by itself).
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.tmp{os.getpid()}")
    try:
        yield temporary
        os.replace(temporary, path)
    except OSError as error:
        error.filename, error.filename2 = str(path), None
        raise
    finally:
        temporary.unlink(missing_ok=True)


def write_text(path: PathLike, text: str) -> None:
    """Write ``text`` to a temporary name beside ``path`` and rename it."""
    with written_whole(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def write_flac(path: PathLike, wave, rate: int) -> None:
    """Write 16-bit FLAC, whole or not at all.

    By way of memory: libsndfile does not say that a disk is full.
    """
    import soundfile

    content = io.BytesIO()
    soundfile.write(content, wave, rate, subtype="PCM_16", format="FLAC")
    with written_whole(path) as temporary:
        temporary.write_bytes(content.getvalue())


def fresh_dir(final: PathLike) -> Path:
    """Make the empty folder in which the content of ``final`` is prepared."""
    final = Path(final)
    temporary = final.with_name(f".{final.name}.tmp")
    if temporary.exists():  # left by an interrupted run
        shutil.rmtree(temporary)
    temporary.mkdir(parents=True)
    return temporary


def replace_dir(temporary: PathLike, final: PathLike) -> None:
    """Put a prepared folder in the place of ``final``."""
    final = Path(final)
    old = final.with_name(f".{final.name}.old")
    if old.exists():
        shutil.rmtree(old)
    if final.exists():
        os.replace(final, old)
    os.replace(temporary, final)
    if old.exists():
        shutil.rmtree(old)
