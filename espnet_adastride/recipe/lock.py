"""Locks on folders: one driver at a time in an experiment.

``flock`` on an open file: it goes with the process that holds it, so a lock never
outlives a killed driver. The file tells who holds it, for the message only.
"""

import errno
import fcntl
import os
import time
from contextlib import contextmanager
from pathlib import Path
from typing import Iterator

from espnet_adastride.recipe.errors import RecipeError
from espnet_adastride.recipe.files import PathLike


def lock(fd: int, path: Path, wait: bool, who: str, say=print) -> None:
    """Lock the file ``path`` that is open for appending as ``fd``.

    The lock belongs to the open file description: taken here on an inherited ``fd``,
    it stays with the shell that opened it.

    Args:
        wait: Wait for the other driver instead of refusing.
        who: What to write into the file, e.g. ``process 1234 since 12:30``.

    Raises:
        RecipeError: Another driver works there and ``wait`` is false.
    """
    told = False
    while True:
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            break
        except OSError as error:
            if error.errno not in (errno.EWOULDBLOCK, errno.EACCES):
                raise
        other = path.read_text(encoding="utf-8").strip() or "unknown process"
        if not wait:
            raise RecipeError(
                f"another driver works in {path.parent} ({other}): wait for it, stop "
                "it, or give this run another --asr_tag or --inference_tag"
            )
        if not told:
            say(f"waiting: another driver works in {path.parent} ({other})")
            told = True
        time.sleep(0.5)
    os.ftruncate(fd, 0)
    os.write(fd, (who + "\n").encode())


@contextmanager
def locked(path: PathLike, wait: bool = True) -> Iterator[bool]:
    """Hold the lock file ``path``; yields False if another process has it (no wait)."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
        except BlockingIOError:
            yield False
        else:
            yield True


@contextmanager
def alone(exp: PathLike) -> Iterator[None]:
    """Hold the lock of an experiment's folder.

    Raises:
        RecipeError: another process has it.
    """
    with locked(Path(exp) / ".lock", wait=False) as free:
        if not free:
            raise RecipeError(
                f"{exp}: another process is at it; wait for it, or give another --exp"
            )
        yield
