"""Progress of a grid: finished and current runs, and the remaining time."""

import heapq
import os
import re
import time
from pathlib import Path
from typing import Callable, Dict, List, Sequence, Tuple

from espnet_adastride.progress import format_span

#: the drivers' lines, or ESPnet's own, which do not tell how many there will be
_EPOCH = re.compile(r"^epoch (\d+)(?:/(\d+))?,| (\d+)epoch results: ", re.M)


class _Current:
    """A run that goes on, as its log shows it.

    Args:
        log: its log, which an earlier command may have begun.
        start: time at which the run was first seen.
    """

    def __init__(self, log: Path, start: float):
        self.log, self.start = log, start
        self._offset = os.path.getsize(log) if log.exists() else 0

    def _epochs(self) -> List[Tuple[int, int]]:
        """Return the epochs done since the start, each with their number or 0."""
        try:
            with self.log.open("rb") as file:
                file.seek(self._offset)
                text = file.read().decode("utf-8", "replace")
        except OSError:
            return []
        found = _EPOCH.findall(text)
        return [(int(mine or espnets), int(of or 0)) for mine, of, espnets in found]

    def state(self) -> str:
        """Return e.g. ``epoch 3/10 done``."""
        epochs = self._epochs()
        if not epochs:
            return "starting"
        last, number = epochs[-1]
        return f"epoch {last}/{number} done" if number else f"epoch {last} done"

    def shares(self) -> Tuple[float, float]:
        """Return the shares of the run's epochs that were done before, and are now."""
        epochs = self._epochs()
        if not epochs or not epochs[-1][1]:
            return 0.0, 0.0
        number = epochs[-1][1]
        return (epochs[0][0] - 1) / number, epochs[-1][0] / number

    def spent(self, now: float) -> float:
        """Return the seconds from the start to the log's last line."""
        silent = max(0.0, time.time() - self.log.stat().st_mtime)
        return max(0.0, now - self.start - silent)


class RunProgress:
    """Reports finished and current runs, and the remaining time.

    Runs are taken to last equally long; a resumed run counts for the epochs that it
    still had to do, a current one for those that are left.

    Not a tqdm bar, which starts a thread: jobs must not be forked beside one.

    Args:
        total: runs of the whole grid.
        done: number of finished runs.
        limit: number of parallel runs.
        say: called with each line.
        every: seconds between two lines on current runs.
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
        # seconds, and runs that they were enough for, by whether epochs were trained
        self._finished = {True: [0.0, 0.0], False: [0.0, 0.0]}
        self._current: Dict[str, _Current] = {}
        self._next = clock() + every

    def eta(self) -> str:
        """Return the remaining time, or "" before the first epoch is done."""
        seconds, runs = self._finished[True]
        left = []
        for current in self._current.values():
            before, now = current.shares()
            if now:
                seconds += current.spent(self.clock())
                runs += now - before
            left.append(1 - now)
        left += [1.0] * (self.total - self.done - len(left))
        if not runs:  # no log tells of epochs
            seconds, runs = self._finished[False]
        if not runs or not left:
            return ""
        ends = [0.0] * self.limit
        for share in left:
            heapq.heapreplace(ends, ends[0] + share * seconds / runs)
        return f", ETA {format_span(max(ends))}"

    def finished(self, name: str, what: str, seconds: float) -> None:
        """Count a run that succeeded, and describe it."""
        before = now = 0.0
        if name in self._current:
            before, now = self._current.pop(name).shares()
        self.done += 1
        sums = self._finished[now > 0]
        sums[0] += seconds
        sums[1] += 1 - before
        self.say(
            f"[{self.done}/{self.total}] {what}, {format_span(seconds)}{self.eta()}"
        )

    def dropped(self, name: str) -> None:
        """Leave out a run that failed, or that another process does."""
        self._current.pop(name, None)
        self.total -= 1

    def __call__(self, names: Sequence[str], logs: Sequence[Path]) -> None:
        """Report the current runs, at most every ``every`` seconds."""
        now = self.clock()
        for name, log in zip(names, logs):
            if name not in self._current:
                self._current[name] = _Current(log, now)
        if now < self._next:
            return
        self._next = now + self.every
        states = [f"{n} ({self._current[n].state()})" for n in names]
        self.say(f"[{self.done}/{self.total}] running: {'; '.join(states)}{self.eta()}")
