"""The recordings behind a folder of outputs, and the files that each is written to.

``.transcribed.jsonl`` in the folder has one line of JSON for each recording, so that
another recording with the same name is not considered done, nor another model's text::

    {"name": "p0", "source": "/talks/p0.ogg", "size": 5120, "mtime_ns": 17,
     "sha256": "e3b0...", "made_from": "9f86..."}

Lines are appended; the last one of a name is valid, and a line truncated by an
interruption is skipped.
"""

import json
import os
from pathlib import Path
from typing import Any, Dict, Iterable, List, NamedTuple, Optional, Sequence

from espnet_adastride.corpora.recordings import Source
from espnet_adastride.errors import UserError
from espnet_adastride.files import PathLike, name_fits, sha256_of, shown
from espnet_adastride.timing.transcripts import FORMATS

RECORDS_NAME = ".transcribed.jsonl"


class Sources:
    """The records of one folder.

    Args:
        folder: output folder; need not exist yet.
        made_from: :func:`~espnet_adastride.recipe.stamps.model_fingerprint`.
    """

    def __init__(self, folder: PathLike, made_from: str):
        self.path, self.made_from = Path(folder) / RECORDS_NAME, made_from
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
            ``outdated``: they do, but were made by another model or with other options;
            ``changed``: they belong to this path, but its content has changed;
            ``other``: they belong to another recording. The same path, size and
            modification time count as the same content; otherwise the content decides,
            so that recordings may be moved. Records of earlier versions do not name the
            model: any is the same.
        """
        record = self.known.get(name)
        if record is None:
            return ""
        try:
            status = os.stat(os.fsencode(source))
            same_place = record["source"] == os.path.abspath(source)
            same_model = record.get("made_from", self.made_from) == self.made_from
            same = "same" if same_model else "outdated"
            if record["size"] == status.st_size:
                if same_place and record["mtime_ns"] == status.st_mtime_ns:
                    return same
                if record["sha256"] == sha256_of(source):
                    return same
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
            "made_from": self.made_from,
        }
        self.known[name] = record
        self.path.parent.mkdir(parents=True, exist_ok=True)
        with self.path.open("a", encoding="utf-8") as file:
            # start a new line after a truncated one
            file.write(("" if self._ends_well() else "\n") + json.dumps(record) + "\n")

    def take_over(self, name: str, source: PathLike, outputs: Iterable[Path]) -> None:
        """Record that the outputs of a name, soon to be written, belong to a file.

        Written before their record, and interrupted in between, they would count as
        those of an unknown recording. Older outputs that are not this recording's are
        removed, because the record would be wrong about them; those of an unknown one
        only if they are written again.
        """
        relation = self.relation(name, source)
        stale = set() if relation == "same" else set(outputs)
        if relation in ("outdated", "changed", "other"):
            stale |= {self.path.parent / f"{name}.{kind}" for kind in FORMATS}
        for path in filter(os.path.lexists, stale):
            path.unlink()
        self.add(name, source)

    def _ends_well(self) -> bool:
        with self.path.open("rb") as file:
            if file.seek(0, os.SEEK_END) == 0:
                return True
            file.seek(-1, os.SEEK_END)
            return file.read() == b"\n"


class Job(NamedTuple):
    """A recording and its output files by format; none: standard output.

    Attributes:
        source: the recording.
        outputs: output files by format.
        name: name of the files, without the format's suffix.
        done: all of them exist and belong to this recording.
        outdated: some exist, made by another model or with other options.
        obstacle: reason why they cannot be written, or "".
    """

    source: Source
    outputs: Dict[str, Path]
    name: str = ""
    done: bool = False
    outdated: bool = False
    obstacle: str = ""


def plan(
    sources: Sequence[Source],
    known: Optional[Sources],
    formats: Sequence[str],
    overwrite: bool = False,
) -> List[Job]:
    """Return a job per recording; no two write to the same file.

    Recordings that differ only in their suffix keep it: ``a.wav.txt``. So does a
    recording if the folder has files of that name from another recording.

    Args:
        sources: the recordings.
        known: the records of the output folder; None: standard output.
        formats: suffixes of the files.
        overwrite: nothing counts as done.

    Raises:
        UserError: for two recordings with the same name.
    """
    if known is None:
        return [Job(source, {}) for source in sources]
    counts: Dict[str, int] = {}
    for source in sources:
        counts[source.name] = counts.get(source.name, 0) + 1
    jobs, owners, folder = [], {}, known.path.parent

    def relation(source: Source, name: str) -> str:
        # os.path.exists: Path's own fails for a name that is too long
        there = any(os.path.exists(folder / f"{name}.{f}") for f in FORMATS)
        return known.relation(name, source.path) if there and not overwrite else ""

    for source in sources:
        name = source.name if counts[source.name] == 1 else source.full
        found = relation(source, name)
        if found == "other" and name != source.full:
            name = source.full
            found = relation(source, name)
        outputs = {f: folder / f"{name}.{f}" for f in formats}
        for path in outputs.values():
            if path in owners:
                raise UserError(
                    f"{owners[path]} and {source.path} would both be written to "
                    f"{path}: give the folder that contains both, or a separate "
                    "--output_dir for each"
                )
            owners[path] = source.path
        done, obstacle = False, ""
        for path in outputs.values():
            if not name_fits(path):
                obstacle = (
                    f"{shown(source.path)}: with the suffix {path.suffix}, its name is "
                    "too long for the disk; give it a shorter one"
                )
        there = list(filter(os.path.exists, outputs.values()))
        if there and not overwrite:
            done = found == "same" and len(there) == len(outputs)
            if found in ("", "other"):
                other = known.known.get(name, {}).get("source")
                obstacle = (
                    f"{shown(source.path)}: {shown(there[0])} exists, made from "
                    f"{shown(other) if other else 'an unknown recording'}; "
                    "give another --output_dir, or --overwrite true"
                )
        jobs.append(Job(source, outputs, name, done, found == "outdated", obstacle))
    return jobs
