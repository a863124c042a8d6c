"""Measurements that survive: one JSON file, written whole after every one of them.

A *cell* is a measurement with a name. A run that is cut off loses the cell that it was
in and nothing else, and the next run does what is missing. A cell that fails is a
result, too: its error, in one line.
"""

import json
import math
import os
import time
from pathlib import Path
from typing import Any, Callable, Dict, Iterable, NamedTuple, Optional

FORMAT = 1

#: a cell during which the process ended (a crash, or time was out) is tried so often
ATTEMPTS = 2

#: the note of a section whose time was up
TIME_OUT = "time was out: what is missing is measured by a next run"

#: exit status of a process whose GPU context is lost: start another for what is left
LOST_DEVICE = 3

#: exit status where the file has measurements of another GPU or PyTorch
OTHER_MACHINE = 4


class Cell(NamedTuple):
    """A measurement: its name, what makes it, and the seconds that it needs, about."""

    name: str
    measure: Callable[[], Dict[str, Any]]
    seconds: float = 5.0


def without_nan(value: Any) -> Any:
    """Return a value with infinite numbers and NaN, which JSON has not, as words."""
    if isinstance(value, dict):
        return {key: without_nan(one) for key, one in value.items()}
    if isinstance(value, (list, tuple)):
        return [without_nan(one) for one in value]
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)
    return value


class Records:
    """The cells that are there, in a file.

    Args:
        path: of the JSON file; read if it is there.
        copy: a second file, for what is written to a folder that is fetched.

    Raises:
        ValueError: in one line, if the file is not such a one.
    """

    def __init__(self, path, copy=None):
        self.path, self.copy = Path(path), copy and Path(copy)
        self.content: Dict[str, Any] = {
            "format": FORMAT,
            "machine": {},
            "cells": {},
            "notes": {},
        }
        if self.path.exists():
            try:
                content = json.loads(self.path.read_text(encoding="utf-8"))
                found = content.get("format")
            except (ValueError, AttributeError):
                found = "no JSON"
            if found != FORMAT:
                raise ValueError(
                    f"{self.path}: not a file of this kit (format {found}, not "
                    f"{FORMAT}); name another one or remove it"
                )
            self.content = content

    @property
    def cells(self) -> Dict[str, Dict[str, Any]]:
        """{name: what was measured}."""
        return self.content["cells"]

    def finished(self, name: str) -> bool:
        """Return whether a cell needs no further attempt."""
        cell = self.cells.get(name)
        if cell is None:
            return False
        return "attempts" not in cell or cell["attempts"] >= ATTEMPTS

    def value(self, name: str, key: str) -> Any:
        """Return a number of a cell, None if it is not there."""
        return self.cells.get(name, {}).get(key)

    def put(self, name: str, value: Dict[str, Any]) -> None:
        """Write a cell."""
        self.cells[name] = without_nan(value)
        self.write()

    def forget_errors(self) -> None:
        """Let every cell that failed be measured again, and jobs be done again."""
        failed = [name for name, cell in self.cells.items() if "error" in cell]
        for name in failed:
            del self.cells[name]
        self.content.pop("jobs", None)
        self.write()

    def note(self, about: str, line: str) -> None:
        """Write one line about a section; a later one about the same replaces it."""
        self.content["notes"][about] = line
        self.write()
        print(f"{about}: {line}", flush=True)

    def write(self) -> None:
        """Write the file, and its copy, whole or not at all."""
        text = json.dumps(self.content, indent=1, allow_nan=False) + "\n"
        for path in filter(None, (self.path, self.copy)):
            path.parent.mkdir(parents=True, exist_ok=True)
            temporary = path.with_name(f".{path.name}.{os.getpid()}")
            temporary.write_text(text, encoding="utf-8")
            os.replace(temporary, path)


def lost_device(error: BaseException) -> bool:
    """Return whether nothing more can be done on the GPU in this process."""
    words = ("illegal memory access", "device-side assert", "unspecified launch")
    words += ("during capture", "is capturing", "stream is captur")
    return any(word in str(error) for word in words)


def one_line(error: BaseException) -> str:
    """Return an error's name and the first line of what it says."""
    said = str(error).strip().splitlines() or [""]
    return f"{type(error).__name__}: {said[0]}"[:300]


def run_cells(
    records: Records,
    cells: Iterable[Cell],
    until: float,
    retry: Optional[Callable[[BaseException], None]] = None,
) -> bool:
    """Measure what is missing, in order, while time is left.

    Args:
        records: where the results go.
        cells: what is wanted; those that are there are left out.
        until: time.time() at which it gives way; a cell that would not be finished by
            then is not begun.
        retry: called after an error, to free what it left behind.

    Returns:
        Whether every cell is there.

    Raises:
        SystemExit: with LOST_DEVICE, once the error is written down.
    """
    everything = True
    for cell in cells:
        if records.finished(cell.name):
            continue
        if time.time() + cell.seconds > until:
            everything = False
            continue  # a shorter one may still fit
        attempts = records.cells.get(cell.name, {}).get("attempts", 0) + 1
        records.put(
            cell.name,
            {"attempts": attempts, "error": "the process ended during this cell"},
        )
        start = time.time()
        try:
            value = cell.measure()
        except Exception as error:  # noqa: B902  (whatever it is, it is the result)
            value = {"error": one_line(error)}
            lost = lost_device(error)
            if retry is not None and not lost:
                retry(error)
        else:
            lost = False
        value["took"] = round(time.time() - start, 2)
        records.put(cell.name, value)
        shown = {k: v for k, v in value.items() if not isinstance(v, (list, dict))}
        print(f"{cell.name}: {json.dumps(shown)}", flush=True)
        if lost:
            raise SystemExit(LOST_DEVICE)
    return everything
