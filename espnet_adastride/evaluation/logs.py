"""Reading the logs of ESPnet's tools: errors, epochs, decoding speed."""

import re
import signal
from datetime import datetime
from pathlib import Path
from typing import Dict, List, Optional, Tuple

from espnet_adastride.files import PathLike
from espnet_adastride.progress import format_span

# "ValueError: ...", "torch.cuda.OutOfMemoryError: ...", "KeyError" at a line's start.
_EXCEPTION = re.compile(
    r"^(?:\w+\.)*\w*(?:Error|Exception|Violation|Interrupt|Exit)\b(?::|$)"
)
_USAGE_ERROR = re.compile(r"^\S+(?: \S+)?: error: ")
# Also "slurm.pl: ...", "/usr/bin/queue.pl: ...".
_PLAIN_ERROR = re.compile(r"^(?:error|Error|ERROR|\S*\b(?:slurm|queue|pbs|run)\.pl): ")
# Exceptions that only report that another process failed; launch's has no words.
_MESSENGER = re.compile(
    r"^(?:\w+\.)*(?:ProcessExitedException|ChildFailedError|CalledProcessError)\b"
    r"|^RuntimeError:?\s*$|^\S*\.pl: job failed with status"
)
# Lines that do not continue the message above: a traceback, a log line.
_NEXT = re.compile(r"^(?:\s*$|Traceback |During handling|[WIE]\d{4} |\[\S+\] \d{4}-)")
_MAX_LENGTH = 600
# How torchrun, torch.multiprocessing.spawn, Slurm and Open MPI report a process that a
# signal ended.
_KILLED = (
    re.compile(
        r"^ *rank +: (?P<rank>\d+).*(?:\n.*){2}"
        r"\n *traceback +: Signal \d+ \((?P<signal>SIG\w+)\)"
        r" received by PID (?P<pid>\d+)",
        re.M,
    ),
    re.compile(r"\bprocess (?P<rank>\d+) terminated with signal (?P<signal>SIG\w+)"),
    re.compile(
        r"^srun: error: (?P<node>\S+): task (?P<rank>\d+): (?:Killed|Out Of Memory)",
        re.M,
    ),
    re.compile(
        r"^mpirun noticed that process rank (?P<rank>\d+) with PID \d+ on node"
        r" (?P<node>\S+) exited on signal (?P<number>\d+)",
        re.M,
    ),
)


def killed_rank(text: str) -> str:
    """Return which of several training processes a signal ended, or an empty string.

    The others then fail with errors about the lost connection, which is not the cause.
    They are ended by SIGTERM.
    """
    for pattern in _KILLED:
        for found in pattern.finditer(text):
            words = {"signal": "SIGKILL", **found.groupdict()}
            if "number" in words:
                words["signal"] = _signal_name(int(words["number"]))
            if words["signal"] != "SIGTERM":
                where = f", process {words['pid']}," if "pid" in words else ""
                where += f" on {words['node']}" if "node" in words else ""
                ended = describe_signal(words["signal"])
                return f"rank {words['rank']}{where} was {ended}"
    return ""


def _signal_name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:  # another system's
        return f"signal {number}"


def describe_signal(name: str) -> str:
    """Return how a signal ended a process, a likely reason, and what to do."""
    why = " (out of memory? then smaller batches, fewer jobs)"
    return (
        f"ended by {name}{why if name == 'SIGKILL' else ''}; run the same command "
        "to resume, a training from its last finished epoch"
    )


def last_error(log: PathLike) -> str:
    """Return the message of the last error in a log, as one line without ``error:``.

    Looks for the last line that is an exception's message, an argument parser's
    complaint or starts with ``error:``; one that only reports another process' failure
    counts if there is no other. Without any, takes the last line with words. If a
    signal ended one of several processes, that is the error.
    """
    try:
        text = Path(log).read_text(encoding="utf-8", errors="replace")
    except OSError:
        return "the log cannot be read"
    killed = killed_rank(text)
    if killed:
        return killed
    lines = text.splitlines()
    patterns = (_EXCEPTION, _USAGE_ERROR, _PLAIN_ERROR)
    found = [i for i, x in enumerate(lines) if any(p.match(x) for p in patterns)]
    causes = [i for i in found if not _MESSENGER.match(lines[i])]
    if found:
        start = (causes or found)[-1]
        stop = start + 1
        while stop < len(lines) and not _NEXT.match(lines[stop]):
            stop += 1
        message = " ".join(" ".join(lines[start:stop]).split())
        return message.removeprefix("error: ")[:_MAX_LENGTH]  # the caller says so
    words = [line.strip() for line in lines if line.strip()]
    return words[-1][:_MAX_LENGTH] if words else "the log is empty"


_RESULTS = re.compile(r" (\d+)epoch results: (.*)$")
_STARTED = re.compile(r" (\d+)/(\d+)epoch started")
_STATS = re.compile(r"\[(\w+)\] (.*?)(?=, \[\w+\] |$)")
_PAIR = re.compile(r"(\w+)=(.*?)(?=, \w+=|$)")
_SPAN = re.compile(r"([\d.]+) (week|day|hour|minute|second)s?")
_SECONDS = {"week": 604800, "day": 86400, "hour": 3600, "minute": 60, "second": 1}


def parse_span(words: str) -> float:
    """Return the seconds of e.g. ``1 hour, 2 minutes and 3.5 seconds``."""
    return sum(float(n) * _SECONDS[unit] for n, unit in _SPAN.findall(words))


def parse_epoch(line: str) -> Optional[Tuple[int, Dict[str, Dict[str, str]]]]:
    """Read an ``Nepoch results:`` line: (N, {"train": {...}, "valid": {...}})."""
    found = _RESULTS.search(line)
    if not found:
        return None
    stats = {k: dict(_PAIR.findall(v)) for k, v in _STATS.findall(found.group(2))}
    return int(found.group(1)), stats


class TrainingLog:
    """Follows ``train.log`` and turns it into one line per finished epoch.

    Args:
        path: The log; it may not exist yet.
    """

    def __init__(self, path: PathLike):
        self.path = Path(path)
        self._offset = 0
        self._inode = None
        self._max_epoch: Optional[int] = None
        self._spans: List[float] = []
        #: ESPnet's message on a training that it gave up; empty: it did not
        self.given_up = ""

    def new_lines(self) -> List[str]:
        """Return a line for each epoch that was logged since the last call."""
        try:
            status = self.path.stat()
        except OSError:
            return []
        if self._inode != status.st_ino or status.st_size < self._offset:
            self._inode, self._offset, self.given_up = status.st_ino, 0, ""
        with self.path.open("rb") as file:
            file.seek(self._offset)
            data = file.read()
        whole = data.rfind(b"\n") + 1  # a half-written line waits for its end
        self._offset += whole
        lines = data[:whole].decode("utf-8", "replace").splitlines()
        return [out for line in lines for out in self._read(line)]

    def _read(self, line: str) -> List[str]:
        found = _STARTED.search(line)
        if found:
            self._max_epoch = int(found.group(2))
        if "training was resumed using" in line:
            return ["resuming from the last finished epoch"]
        if "at all steps are inv" in line:
            self.given_up = line.split("WARNING: ")[-1].strip()
            return []
        for sign in ("[Early stopping]", "has already reached"):
            if sign in line:
                return [line.split("INFO: ")[-1].split("WARNING: ")[-1]]
        epoch = parse_epoch(line)
        return [self._describe(*epoch)] if epoch else []

    def _describe(self, epoch: int, stats: Dict[str, Dict[str, str]]) -> str:
        train, valid = stats.get("train", {}), stats.get("valid", {})
        span = sum(parse_span(phase.get("time", "")) for phase in stats.values())
        self._spans.append(span)
        of = f"/{self._max_epoch}" if self._max_epoch else ""
        parts = [f"epoch {epoch}{of}"]
        parts.append(f"loss train {train.get('loss')} valid {valid.get('loss')}")
        for key in ("acc", "cer_ctc"):
            # not a number: there is no attention decoder, or no CTC
            if valid.get(key, "nan") != "nan":
                parts.append(f"valid {key} {valid[key]}")
        # the second is 1 where strides are uniform
        for key in ("loss_vp", "stride_entropy"):
            if key in train:
                parts.append(f"{key} {train[key]}")
        parts.append(format_span(span))
        if self._max_epoch and epoch < self._max_epoch:
            left = sum(self._spans) / len(self._spans) * (self._max_epoch - epoch)
            parts.append(f"ETA {format_span(left)}")
        return ", ".join(parts)


_TIME = re.compile(r"(\d{4}-\d\d-\d\d \d\d:\d\d:\d\d),(\d+)")


def decoding_seconds(log: PathLike) -> Optional[float]:
    """Return the time a decoding job spent on its utterances, model loading left out.

    ESPnet's tools log ``speech length: N`` before each utterance (the batched ones
    before each batch); the time runs from the first such line to the log's last time
    stamp.

    Returns:
        Seconds, or None if the log holds no such line.
    """
    first = last = None
    with Path(log).open(encoding="utf-8", errors="replace") as file:
        for line in file:
            found = _TIME.search(line)
            if not found:
                continue
            stamp = datetime.strptime(found.group(1), "%Y-%m-%d %H:%M:%S").timestamp()
            last = stamp + int(found.group(2)) / 1000
            if first is None and "speech length" in line:
                first = last
    return None if first is None else last - first
