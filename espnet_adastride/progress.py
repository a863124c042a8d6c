"""How far many runs are: a line for each that was finished, and when all will be."""

import datetime
import re
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


def print_dated(line: str) -> None:
    """Print a line behind the date and the time, at once."""
    print(f"{datetime.datetime.now():%Y-%m-%d %H:%M:%S} {line}", flush=True)


class Progress:
    """Says what was finished, what runs, and when all will be.

    Args:
        total: Runs of the whole grid.
        done: How many of them are finished already.
        limit: How many run at once.
        say: Takes a line.
        every: Seconds between two lines on what runs.
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
        """When all will be finished, by the mean of what was finished here."""
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
        """Say now and then what runs."""
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
