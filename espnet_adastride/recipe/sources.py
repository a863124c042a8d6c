"""The recordings behind a folder of outputs: one line of JSON each.

``.transcribed.jsonl`` in the folder records the recording of each output name, so that
another recording with the same name is not considered done::

    {"name": "p0", "source": "/talks/p0.ogg", "size": 5120, "mtime_ns": 17,
     "sha256": "e3b0..."}

Lines are appended; the last one of a name is valid, and a line truncated by an
interruption is skipped.
"""

import json
import os
from pathlib import Path
from typing import Any, Dict

from espnet_adastride.files import PathLike, sha256_of

RECORDS_NAME = ".transcribed.jsonl"


class Sources:
    """The records of one folder.

    Args:
        folder: output folder; need not exist yet.
    """

    def __init__(self, folder: PathLike):
        self.path = Path(folder) / RECORDS_NAME
        self.known: Dict[str, Dict[str, Any]] = {}
        try:
            lines = self.path.read_text(encoding="utf-8").splitlines()
        except (OSError, UnicodeDecodeError):
            lines = []
        for line in lines:
            try:
                record = json.loads(line)
                self.known[record["name"]] = record
            except (ValueError, KeyError, TypeError):
                continue

    def relation(self, name: str, source: PathLike) -> str:
        """Return how a file relates to the outputs of a name.

        Returns:
            ``""``: the name is unknown; ``same``: they belong to this file;
            ``changed``: they belong to this path, but its content has changed;
            ``other``: they belong to another recording. The same path, size and
            modification time count as the same content; otherwise the content decides,
            so that recordings may be moved.
        """
        record = self.known.get(name)
        if record is None:
            return ""
        try:
            status = os.stat(os.fsencode(source))
            same_place = record["source"] == os.path.abspath(source)
            if record["size"] == status.st_size:
                if same_place and record["mtime_ns"] == status.st_mtime_ns:
                    return "same"
                if record["sha256"] == sha256_of(source):
                    return "same"
            return "changed" if same_place else "other"
        except (OSError, KeyError):
            return "other"

    def add(self, name: str, source: PathLike) -> None:
        """Record that the outputs of a name belong to a file."""
        status = os.stat(os.fsencode(source))
        record = {
            "name": name,
            "source": os.path.abspath(source),
            "size": status.st_size,
            "mtime_ns": status.st_mtime_ns,
            "sha256": sha256_of(source),
        }
        self.known[name] = record
        self.path.parent.mkdir(parents=True, exist_ok=True)
        with self.path.open("a", encoding="utf-8") as file:
            # start a new line after a truncated one
            file.write(("" if self._ends_well() else "\n") + json.dumps(record) + "\n")

    def _ends_well(self) -> bool:
        with self.path.open("rb") as file:
            if file.seek(0, os.SEEK_END) == 0:
                return True
            file.seek(-1, os.SEEK_END)
            return file.read() == b"\n"
