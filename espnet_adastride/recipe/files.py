"""Files written whole or not at all."""

import os
import shutil
from pathlib import Path
from typing import Union

PathLike = Union[str, Path]


def write_text(path: PathLike, text: str) -> None:
    """Write ``text`` to a temporary name beside ``path`` and rename it."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.tmp{os.getpid()}")
    temporary.write_text(text, encoding="utf-8")
    os.replace(temporary, path)


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
