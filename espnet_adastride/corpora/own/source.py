"""What every layout is read into: rows, problems, and where they are from."""

import os
import re
import unicodedata
from dataclasses import dataclass, field
from pathlib import Path
from typing import List, NamedTuple, Optional, Sequence

#: names of folders, files and values that mean one of the three sets
SETS = {
    **dict.fromkeys(("train", "training"), "train"),
    **dict.fromkeys(("valid", "validation", "val", "dev", "development"), "valid"),
    **dict.fromkeys(("test", "testing"), "test"),
}

#: suffixes of tables, and what they are called
TABLES = {".csv": "CSV", ".tsv": "TSV", ".jsonl": "JSON lines", ".json": "JSON lines"}


class Row(NamedTuple):
    """One utterance as the corpus describes it.

    Attributes:
        where: File and line, for messages.
        id: Utterance id; "" to derive it from the path.
        path: The recording as written, or a command that ends in ``|``.
        text: Transcript, white space collapsed.
        speaker: "" if unknown.
        start: Seconds.
        end: Seconds; None: the end of the recording.
        part: The set, or "".
    """

    where: str
    id: str
    path: str
    text: str
    speaker: str = ""
    start: float = 0.0
    end: Optional[float] = None
    part: str = ""

    @property
    def cut(self) -> bool:
        """Whether the row is only a part of the recording."""
        return self.start > 0 or self.end is not None


class Problem(NamedTuple):
    """An unusable line or file.

    Attributes:
        id: Utterance id, or ``-``.
        where: File and line.
        kind: Kind of problem, for counting.
        detail: Details and the fix.
        part: The set, or "".
    """

    id: str
    where: str
    kind: str
    detail: str = ""
    part: str = ""

    def __str__(self) -> str:
        return ": ".join(filter(None, (self.where, self.kind, self.detail)))


@dataclass
class Source:
    """The content of one file or folder.

    Attributes:
        path: The file or folder.
        kind: Description of the layout.
        rows: In the order of the files.
        problems: Unusable entries.
        notes: One line each, for the user.
        folders: Folders to which paths may be relative, in the order to try.
        files: The text files that were read.
        own_ids: Whether ids are kept (Kaldi).
    """

    path: Path
    kind: str
    rows: List[Row] = field(default_factory=list)
    problems: List[Problem] = field(default_factory=list)
    notes: List[str] = field(default_factory=list)
    folders: List[Path] = field(default_factory=list)
    files: List[Path] = field(default_factory=list)
    own_ids: bool = False

    def bad(self, where: str, kind: str, detail: str = "", key: str = "-", part=""):
        """Add a problem."""
        self.problems.append(Problem(key, where, kind, detail, part))

    def has_table(self) -> bool:
        """Return whether any of it was read from a table."""
        return any(file.suffix.lower() in TABLES for file in self.files)

    def timed(self, row: Row, start: float, end: Optional[float]) -> Optional[Row]:
        """Return the row with its times, or None and a problem if they are invalid."""
        if end is not None and end <= start:
            detail = f"from {start:g} to {end:g} s; correct the times (seconds)"
            self.bad(row.where, "end before start", detail, row.id or "-", row.part)
            return None
        return row._replace(start=start, end=end)


def locate(path: str, folders: Sequence[Path]) -> Optional[Path]:
    """Return the file of a path, or None.

    Args:
        path: As written. If there is no such file, backslashes are tried as slashes
            and accents in either Unicode form.
        folders: Folders to which the path may be relative, in the order to try.
    """
    names = [path, path.replace("\\", "/")]
    names += [unicodedata.normalize(form, names[1]) for form in ("NFC", "NFD")]
    for name in dict.fromkeys(names):
        for folder in folders or [Path()]:
            found = Path(folder, os.path.expanduser(name))
            try:
                if found.exists():
                    return found
            except (OSError, ValueError):  # a name too long, or a zero byte in it
                pass
    return None


def clean(text: str) -> str:
    """Return a transcript with its white space collapsed."""
    return " ".join(text.split())


def parse_time(word: str) -> float:
    """Read seconds: ``12.5``, ``12,5``, ``1:02.5`` or ``0:01:02.5``.

    Raises:
        ValueError: Another form.
    """
    if not re.fullmatch(
        r"(\d+:){0,2}(\d+([.,]\d*)?|[.,]\d+)(e[-+]?\d+)?", word.lower()
    ):
        raise ValueError(f"{word!r} is not a time")
    seconds = 0.0
    for number in word.replace(",", ".").split(":"):
        seconds = 60 * seconds + float(number)
    if seconds == float("inf"):
        raise ValueError(f"{word!r} is too long")
    return seconds
