"""Progress of long work: finished runs with the remaining time, and a bar of files."""

import datetime
import re
import sys
import time
from pathlib import Path
from typing import Callable, List, Sequence


def format_span(seconds: float) -> str:
    """Return e.g. ``42 s``, ``5 min 12 s``, ``3 h 04 min``."""
    seconds = int(round(seconds))
    if seconds < 60:
        return f"{seconds} s"
    if seconds < 3600:
        return f"{seconds // 60} min {seconds % 60:02d} s"
    return f"{seconds // 3600} h {seconds % 3600 // 60:02d} min"


def decoding_bar(files: int, shown: bool = True):
    """Return a tqdm bar over files; a log gets a line every 30 s instead."""
    from tqdm import tqdm

    interval = 0.2 if sys.stderr.isatty() else 30.0
    return tqdm(
        total=files,
        desc="decoding",
        unit="file",
        mininterval=interval,
        disable=not shown,
    )


def print_dated(line: str) -> None:
    """Print a line after date and time, unbuffered."""
    print(f"{datetime.datetime.now():%Y-%m-%d %H:%M:%S} {line}", flush=True)


class TimeLeft:
    """Prints the amount of finished work and the remaining time every 30 s.

    Args:
        total: Amount of work, in any unit.
        done: Finished by an earlier run; does not count for the speed.
    """

    def __init__(self, total: int, done: int = 0):
        self.total, self.done, self.before = total, done, done
        self.start = self.told = time.monotonic()

    def add(self, amount: int, line: str) -> None:
        """Count finished work; ``line`` describes all that is finished."""
        self.done += amount
        now = time.monotonic()
        if now - self.told < 30.0 or self.done == self.total:
            return
        self.told = now
        pace = (now - self.start) / (self.done - self.before)
        left = format_span(pace * (self.total - self.done))
        print(f"{line}, ETA {left}", flush=True)


class Progress:
    """Reports finished and current runs, and the remaining time.

    Args:
        total: Runs of the whole grid.
        done: Number of finished runs.
        limit: Number of parallel runs.
        say: Called with each line.
        every: Seconds between two lines on current runs.
    """

    def __init__(
        self,
        total: int,
        done: int,
        limit: int,
        say: Callable[[str], None] = print,
        every: float = 300.0,
        clock: Callable[[], float] = time.monotonic,
    ):
        self.total, self.done, self.limit = total, done, limit
        self.say, self.every, self.clock = say, every, clock
        self.spans: List[float] = []
        self.next = clock() + every

    def eta(self) -> str:
        """Return the remaining time, from the mean of the runs finished here, or ""."""
        left = self.total - self.done
        if not self.spans or not left:
            return ""
        mean = sum(self.spans) / len(self.spans)
        return f", ETA {format_span(mean * left / min(self.limit, left))}"

    def finished(self, what: str, seconds: float) -> None:
        """Count a run that succeeded."""
        self.done += 1
        self.spans.append(seconds)
        self.say(
            f"[{self.done}/{self.total}] {what}, {format_span(seconds)}{self.eta()}"
        )

    def __call__(self, names: Sequence[str], logs: Sequence[Path]) -> None:
        """Report the current runs, at most every ``every`` seconds."""
        now = self.clock()
        if now < self.next:
            return
        self.next = now + self.every
        states = [f"{n} ({_last_epoch(log)})" for n, log in zip(names, logs)]
        self.say(f"[{self.done}/{self.total}] running: {'; '.join(states)}{self.eta()}")


def _last_epoch(log: Path) -> str:
    try:
        text = log.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return "starting"
    # the driver's lines, or ESPnet's own
    found = re.findall(r"^epoch (\d+(?:/\d+)?),| (\d+)epoch results: ", text, re.M)
    return f"epoch {max(found[-1])} done" if found else "starting"
