"""Progress of long work: spans of time, a bar, dated lines, threads."""

import datetime
import os
import sys
from collections import deque
from concurrent.futures import ThreadPoolExecutor
from typing import Callable, Iterable, Iterator, Optional

#: results of a thread that may wait for one before them
WAITING = 8


def format_span(seconds: float) -> str:
    """Return e.g. ``42 s``, ``5 min 12 s``, ``3 h 04 min``."""
    seconds = int(round(seconds))
    if seconds < 60:
        return f"{seconds} s"
    if seconds < 3600:
        return f"{seconds // 60} min {seconds % 60:02d} s"
    return f"{seconds // 3600} h {seconds % 3600 // 60:02d} min"


class _LogLines:
    """Standard error as a log: without what clears and pads the line of a terminal."""

    def write(self, text: str) -> None:
        sys.stderr.write(text.strip("\r "))

    def flush(self) -> None:
        sys.stderr.flush()


def progress_bar(
    total: Optional[float],
    what: str = "decoding",
    unit: str = "file",
    done: float = 0,
    **more,
):
    """Return a tqdm bar; a log gets a line every 30 s instead.

    Args:
        total: amount of work; None if it is not known.
        what: is done.
        unit: of the amounts.
        done: by an earlier run; does not count for the speed.
        **more: options of tqdm.
    """
    from tqdm import tqdm

    if not sys.stderr.isatty():
        line = "{desc}: {n_fmt} {unit}s\n"
        if total is not None:
            line = "{desc}: {n_fmt}/{total_fmt} {unit}s, ETA {remaining}\n"
        more.update(mininterval=30.0, delay=30.0, leave=False)
        more.update(bar_format=line, file=_LogLines())
    return tqdm(desc=what, total=total, unit=unit, initial=done, **more)


def cores() -> int:
    """Return the number of cores that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def in_threads(work: Callable, items: Iterable, nj: int) -> Iterator:
    """Yield the results of ``work``, in order; an error cancels what is not begun.

    A result is kept until it is taken, and only a few wait: they may be large.
    """
    jobs: deque = deque()
    with ThreadPoolExecutor(max(1, nj)) as pool:
        try:
            for item in items:
                jobs.append(pool.submit(work, item))
                if len(jobs) > WAITING * nj:
                    yield jobs.popleft().result()
            while jobs:
                yield jobs.popleft().result()
        except BaseException:
            pool.shutdown(cancel_futures=True)
            raise


def print_dated(line: str) -> None:
    """Print a line after date and time, unbuffered."""
    print(f"{datetime.datetime.now():%Y-%m-%d %H:%M:%S} {line}", flush=True)
