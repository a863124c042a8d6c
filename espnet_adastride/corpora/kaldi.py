"""Kaldi-style data directories: reading and writing their files.

A data directory holds text files with one ``ID VALUE`` line per utterance::

    wav.scp          ID  absolute path of the recording
    text             ID  transcript
    utt2spk          ID  speaker
    spk2utt          speaker  ID ID ...
    utt2num_samples  ID  length in samples (optional)

all sorted like ``LC_ALL=C sort``. :func:`write_data_dir` writes a directory;
:func:`read_scp` and :func:`read_text` read such files. They accept what editors and
spreadsheets produce (a tab after the id, CR LF line ends, a byte order mark, blank
lines at the end) and reject malformed lines with one line of error.
"""

import os
import re
import shlex
import shutil
from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path
from typing import Dict, Iterable, Iterator, List, Optional, Sequence, Tuple

from espnet_adastride.errors import UserError
from espnet_adastride.files import PathLike, read_utf8, shown, write_text

LEFT_OUT = "left out of the data directory"


@dataclass(frozen=True)
class Utterance:
    """One line of a data directory.

    Attributes:
        id: Utterance id, e.g. ``1089-134686-0000``.
        audio: Absolute path of the recording.
        text: Transcript.
        speaker: Speaker id, e.g. ``1089-134686``.
        samples: Length in samples; None if unknown.
    """

    id: str
    audio: str
    text: str
    speaker: str
    samples: Optional[int] = None


@dataclass(frozen=True)
class Excluded:
    """A part of the corpus that is not used.

    Attributes:
        id: Utterance id (``-`` if there is none).
        file: The file it was found in, with the line number for transcripts.
        kind: The reason, used as the heading for counts.
        detail: Details of the problem.
    """

    id: str
    file: str
    kind: str
    detail: str = ""


# --------------------------------------------------------------------------- writing


def write_lines(
    path: PathLike, values: Dict[str, str], keys: Optional[Iterable[str]] = None
) -> None:
    """Write ``ID VALUE`` lines, sorted by id like ``LC_ALL=C sort`` in UTF-8.

    Args:
        path: The file.
        values: By id.
        keys: The ids to write; default: all.

    Raises:
        UserError: An id has white space, or a value has a line break.
    """
    lines = []
    # Code point order is the byte order of UTF-8, hence C locale order.
    for key in sorted(values if keys is None else keys):
        value = str(values[key])
        if not re.fullmatch(r"\S+", key):
            raise UserError(f"{path}: the id {key!r} has white space; rename it")
        if "\n" in value or "\r" in value:
            raise UserError(
                f"{path}: the value of {key} has a line break: {value!r}; "
                "rename the file or correct the text"
            )
        lines.append(f"{key} {value}".rstrip(" ") + "\n")
    write_text(path, "".join(lines))


def by_speaker(utt2spk: Dict[str, str]) -> Dict[str, str]:
    """Return ``spk2utt``: the ids of each speaker, sorted, in one string."""
    speakers = defaultdict(list)
    for key in sorted(utt2spk):
        speakers[utt2spk[key]].append(key)
    return {speaker: " ".join(ids) for speaker, ids in speakers.items()}


def write_data_dir(
    directory: PathLike,
    utterances: Iterable[Utterance],
    excluded: Optional[Sequence[Excluded]] = None,
) -> None:
    """Write a data directory; ``wav.scp`` is written last and marks it as complete.

    Args:
        directory: Created if needed; other files in it are left alone.
        utterances: Utterances, in any order.
        excluded: Written to ``excluded.txt`` (tab-separated); None: no such file.

    Raises:
        UserError: No utterance, a duplicate id, or values with line breaks.
    """
    directory = Path(directory)
    by_id = {}
    for utterance in utterances:
        if utterance.id in by_id:
            raise UserError(
                f"{directory}: the id {utterance.id} occurs twice; rename one"
            )
        by_id[utterance.id] = utterance
    if not by_id:
        raise UserError(f"{directory}: no utterance to write; check the corpus")

    directory = Path(os.path.realpath(directory))  # a link may lead to another disk
    directory.parent.mkdir(parents=True, exist_ok=True)
    staging = directory.with_name(f".{directory.name}.{os.getpid()}.tmp")
    staging.mkdir()
    try:
        files = {
            "text": {k: u.text for k, u in by_id.items()},
            "utt2spk": {k: u.speaker for k, u in by_id.items()},
            "spk2utt": by_speaker({k: u.speaker for k, u in by_id.items()}),
            "utt2num_samples": {
                k: u.samples for k, u in by_id.items() if u.samples is not None
            },
            "wav.scp": {k: u.audio for k, u in by_id.items()},
        }
        for name, values in files.items():
            if values:  # lengths may be unknown
                write_lines(staging / name, values)
        if excluded is not None:
            write_excluded(staging / "excluded.txt", excluded)

        if directory.is_dir():
            # The old wav.scp is removed first and the new one written last, so that an
            # interruption never leaves a mixture that looks complete.
            for name in ("wav.scp", "utt2num_samples"):
                (directory / name).unlink(missing_ok=True)
            for path in sorted(staging.iterdir(), key=lambda p: p.name == "wav.scp"):
                os.replace(path, directory / path.name)
        else:
            os.rename(staging, directory)
    finally:
        shutil.rmtree(staging, ignore_errors=True)


def write_excluded(path: PathLike, excluded: Sequence[Excluded]) -> None:
    """Write the unused entries, one tab-separated line each."""
    text = "# id\tfile\treason\twhat was done\n"
    for e in excluded:
        reason = f"{e.kind}: {e.detail}" if e.detail else e.kind
        fields = (e.id, e.file, reason, LEFT_OUT)
        text += "\t".join(shown(re.sub(r"[\t\r\n]+", " ", x)) for x in fields) + "\n"
    write_text(path, text)


# --------------------------------------------------------------------------- reading


def read_lines(path: PathLike) -> List[str]:
    """Return the lines of :func:`read_utf8`, without blank ones at the end."""
    # not splitlines(): it also splits at characters that a transcript may have
    lines = read_utf8(path).split("\n")
    while lines and not lines[-1].strip():
        lines.pop()
    return lines


def read_scp(path: PathLike, allow_empty: bool = False) -> Dict[str, str]:
    """Read ``ID VALUE`` lines; the value is everything after the first space or tab.

    Args:
        path: A ``wav.scp``, ``text``, ``utt2spk`` ... in UTF-8.
        allow_empty: Accept a file without lines, and lines with only an id
            (value ``""``): the empty hypotheses of a recogniser.

    Returns:
        Values by id, in the file's order.

    Raises:
        UserError: No such file, no line at all, or a malformed line: not UTF-8,
            leading white space, a blank line before others, no value, or an id that
            occurs twice. The message names file, line and fix.
    """
    values: Dict[str, str] = {}
    for number, key, value, problem in scan_lines(path, allow_empty):
        if problem is not None:
            raise UserError(f"{path}:{number}: {problem}")
        values[key] = value
    if not values and not allow_empty:
        raise UserError(f"{path}: the file is empty; create it again")
    return values


def reject_segments(folder: PathLike) -> None:
    """Raise a UserError for a data directory whose utterances are parts of recordings.

    Its ``wav.scp`` has the ids of the recordings, not those of the utterances.
    """
    folder = Path(folder)
    if (folder / "segments").exists():
        name = re.sub(r"[^\w.-]", "_", folder.resolve().name)
        raise UserError(
            f"{folder}/segments: cut the recordings into a new folder first: "
            f"adastride prepare {shlex.quote(f'{name}={folder}')} --output NEW"
        )


def reject_pipes(folder: PathLike, waves: Dict[str, str]) -> None:
    """Raise a UserError for piped commands in this ``wav.scp``: nothing runs them."""
    for key, value in waves.items():
        if value.endswith("|") and not os.path.exists(value):
            raise UserError(
                f"{folder}/wav.scp: {key} is a pipe; give audio files, or the folder "
                "that ESPnet's stage 3 makes (dump/raw/...), or let adastride prepare "
                "run it (--run_pipes true)"
            )


def read_recordings(folder: PathLike) -> Dict[str, str]:
    """Return the recordings of a data directory's ``wav.scp``, by utterance.

    ESPnet writes paths relative to the recipe's folder, which is above the data
    directory and need not be the current one.

    Raises:
        UserError: The directory has ``segments`` or piped commands, or see
            :func:`read_scp`.
    """
    folder = Path(folder)
    reject_segments(folder)
    waves = read_scp(folder / "wav.scp")
    roots = roots_of_audio(folder)
    waves = {key: locate(value, roots) for key, value in waves.items()}
    reject_pipes(folder, waves)
    return waves


def roots_of_audio(folder: PathLike) -> List[Path]:
    """Return where relative paths in this folder's ``wav.scp`` may begin.

    The folders above, without and with symbolic links, come first, so that a recipe's
    data are not mistaken for another's.
    """
    named, folder = Path(os.path.abspath(folder)), Path(folder).resolve()
    # RECIPE/dump/raw/org/SET, where RECIPE/dump may be a link
    return list(dict.fromkeys([*folder.parents[:4], *named.parents[:4], folder]))


def locate(audio: str, roots: Sequence[Path]) -> str:
    """Return the path of a recording that a ``wav.scp`` names.

    Args:
        audio: as it is written there; one not found is returned unchanged.
        roots: of :func:`roots_of_audio`.
    """
    if os.path.isabs(audio):
        return audio
    for root in roots:
        found = root / audio
        if os.path.isfile(found):
            here = os.path.exists(audio) and os.path.samefile(audio, found)
            return audio if here else str(found)
    return audio


def scan_lines(
    path: PathLike, allow_empty: bool = False
) -> Iterator[Tuple[int, str, str, Optional[str]]]:
    """Yield number, id, value and problem (None: usable) of each ``ID VALUE`` line.

    The rules are those of :func:`read_scp`.
    """
    first: Dict[str, int] = {}
    for number, line in enumerate(read_lines(path), 1):
        key, value, problem = split_line(line)
        if problem is None and value == "" and not allow_empty:
            problem = f"nothing after the id {key!r}; fill in or remove the line"
        if problem is None and key in first:
            problem = f"the id {key} occurs twice (first on line {first[key]})"
        if problem is None:
            first[key] = number
        yield number, key, value, problem


def split_line(line: str) -> Tuple[str, str, Optional[str]]:
    """Split ``ID VALUE`` into id, value (``""`` if absent) and problem (or None).

    A space or a tab separates them; a carriage return at the end is dropped. ESPnet
    would cut an id at any other white space (no-break, ideographic ...).
    """
    line = line.rstrip("\r")
    problem = None
    if "\0" in line:
        problem = "zero byte in the line; the file is damaged; create it again"
    elif not line.strip():
        problem = "blank line; remove it"
    elif line[0].isspace():
        problem = "the line begins with white space; begin it with the id"
    key, separator, value = line.partition(" ")
    if "\t" in key:
        key, separator, value = line.partition("\t")
    if problem is None and re.search(r"\s", key):
        problem = f"the id {key!r} has white space; rename it, or end it with a space"
    return key, value.strip(" \t"), problem


def read_text(path: PathLike, allow_empty: bool = False) -> Dict[str, str]:
    """Read transcripts or hypotheses by id; the same rules as :func:`read_scp`.

    A tab within a transcript becomes a space.
    """
    table = read_scp(path, allow_empty=allow_empty)
    return {key: value.replace("\t", " ") for key, value in table.items()}


def shorten(names: Sequence[str], limit: int = 5) -> str:
    """Join up to ``limit`` names, then append the number of others."""
    text = ", ".join(names[:limit])
    more = len(names) - limit
    return f"{text} and {more} more" if more > 0 else text
