"""Where the recordings are, and the ids and speakers of their utterances."""

import os
import re
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Dict, Iterable, List, NamedTuple, Optional, Sequence, Tuple

from espnet_adastride.corpora.kaldi import shorten
from espnet_adastride.corpora.own.source import Problem, Row, Source, locate
from espnet_adastride.errors import UserError, counted
from espnet_adastride.files import shown

#: longer speaker ids are abbreviated (Common Voice has 128 characters)
LONGEST_SPEAKER = 40
PIPE = (
    "a command instead of a file",
    "to run the commands in wav.scp, give --run_pipes true",
)
#: what no line of UTF-8 may have: a zero byte, half of a surrogate pair (from JSON)
UNWRITABLE = re.compile("[\0\ud800-\udfff]")


@dataclass
class Options:
    """Options of the preparation, as in the command.

    Attributes:
        fs: Sampling rate of written FLAC files in Hz.
        seed: Seed of the split.
        shares: Shares of utterances for valid and test.
        split: ``auto``, ``speaker``, ``utterance`` or ``none``.
        speaker_from: ``""``, ``folder`` or a regular expression on the path.
        audio_dir: Folder to which paths are relative, or "".
        run_pipes: Run commands in ``wav.scp``.
        skip_bad: Leave out unusable entries.
        overwrite: Replace sets with other content.
        nj: Number of threads.
    """

    fs: int = 16000
    seed: int = 0
    shares: Dict[str, float] = field(
        default_factory=lambda: {"valid": 0.1, "test": 0.1}
    )
    split: str = "auto"
    speaker_from: str = ""
    audio_dir: str = ""
    run_pipes: bool = False
    skip_bad: bool = False
    overwrite: bool = False
    nj: int = 1


class Planned(NamedTuple):
    """A row whose recording was found.

    Attributes:
        row: As read.
        id: Utterance id.
        path: The recording, absolute, or a command that ends in ``|``.
        speaker: "" if unknown.
    """

    row: Row
    id: str
    path: str
    speaker: str


def plan_rows(
    sources: Sequence[Source], options: Options
) -> Tuple[List[Planned], List[Problem]]:
    """Find every row's recording; give ids and speakers.

    Ids are those of the corpus or are derived from the path: ``anna/01.wav`` of speaker
    Anna becomes ``anna-anna_01`` (Kaldi requires speakers as prefixes), and an excerpt
    gets its milliseconds: ``-00001200-00003400``.

    Returns:
        Usable entries, sorted by id, and problems.

    Raises:
        UserError: ``speaker_from`` finds no speaker in any path.
    """
    problems = [p for source in sources for p in source.problems]
    entries = [(source, row) for source in sources for row in source.rows]
    folders = {id(s): _folders(s, options) for s in sources}
    names = [_speaker(row, folders[id(s)], options) for s, row in entries]
    if options.speaker_from and entries:
        _note_unmatched(entries, names, folders, options)
    short = _abbreviate(names)
    found: Dict[Tuple[str, int], Optional[Path]] = {}
    planned: Dict[str, Planned] = {}
    for (source, row), name in zip(entries, names):
        speaker, path = short[name], row.path
        wrong = _unwritable(row)
        if wrong:
            problems.append(problem_of(row, "a character that is no text", wrong))
            continue
        if path.endswith("|"):
            if not options.run_pipes:
                problems.append(problem_of(row, *PIPE))
                continue
        else:
            place = (path, id(source))
            if place not in found:
                found[place] = locate(path, folders[id(source)])
            if found[place] is None:
                detail = _not_found(row, folders[id(source)])
                problems.append(problem_of(row, "no such file", detail))
                continue
            path = os.path.abspath(found[place])
            if os.path.isdir(path):
                problems.append(problem_of(row, "a folder instead of a file", path))
                continue
            if not os.path.isfile(path):  # reading a pipe may wait forever
                problems.append(
                    problem_of(row, "a pipe or a device instead of a file", path)
                )
                continue
        key = row.id
        if not (source.own_ids and key):  # sets in sub-folders may have other layouts
            key = _make_id(row, path, speaker, folders[id(source)])
            if not row.id and key in planned and planned[key].row.part != row.part:
                key = f"{row.part}_{key}"  # two sets may both have 0001.wav
        if re.search(r"\s", key):
            problems.append(problem_of(row, "white space in the id", repr(key)))
        elif key in planned:
            other = planned[key].row.where
            problems.append(
                problem_of(row, "an id that occurs twice", f"{key}, first in {other}")
            )
        else:
            planned[key] = Planned(row, key, path, speaker)
    for source in sources:
        source.notes += _relative_paths(source, folders[id(source)], found)
    return [planned[key] for key in sorted(planned)], problems


def _folders(source: Source, options: Options) -> List[Path]:
    own = [Path(options.audio_dir)] if options.audio_dir else []
    return own + source.folders


def _relative_paths(source: Source, folders, found) -> List[str]:
    """Report the folders to which the paths of a source are relative."""
    used = Counter()
    for (path, number), place in found.items():
        if number == id(source) and place is not None and not os.path.isabs(path):
            used.update([str(f) for f in folders if place == f / path][:1])
    if not used:
        return []
    starts = [os.path.abspath(name) for name in used]
    return [f"{source.path}: paths are relative to {' and '.join(starts)}"]


def problem_of(row: Row, kind: str, detail: str) -> Problem:
    """Return the problem of a row."""
    return Problem(row.id or "-", row.where, kind, shown(detail), row.part)


def _unwritable(row: Row) -> str:
    """Return which field has a character that cannot be written; "" if none has."""
    for role in ("text", "speaker", "id"):
        found = UNWRITABLE.search(getattr(row, role))
        if found:
            return f"{role} has {found[0]!r}; remove it"
    return ""


def _not_found(row: Row, folders: Sequence[Path]) -> str:
    if re.search(r"\.ark:\d+$", row.path):
        return f"{row.path} is a position in an archive; give audio files"
    if os.path.isabs(row.path):
        return f"{row.path}; correct the path"
    places = list(dict.fromkeys(os.path.abspath(folder) for folder in folders))
    there = [place for place in places if os.path.isdir(place)]
    return f"{row.path} (in {', '.join(there)}); correct it or give --audio_dir"


def _speaker(row: Row, folders: Sequence[Path], options: Options) -> str:
    """Return a row's speaker, without white space; "" if unknown."""
    speaker = row.speaker
    if options.speaker_from and not speaker:
        path = _path_below(row, folders)
        if options.speaker_from == "folder":
            speaker = path.split("/")[0] if "/" in path else ""
        else:
            match = re.search(options.speaker_from, path)
            speaker = match[1] or "" if match else ""
    return _word(speaker)


def _path_below(row: Row, folders: Sequence[Path]) -> str:
    """Return a row's path as ``speaker_from`` sees it: relative to the source."""
    path = row.path.replace("\\", "/")
    for start in (os.path.abspath(folder) + "/" for folder in folders):
        path = path.removeprefix(start)
    return path


def _note_unmatched(entries, names, folders, options: Options) -> None:
    """Note in every source for how many paths ``speaker_from`` finds no speaker.

    Raises:
        UserError: it finds none at all.
    """
    without: Dict[int, List[str]] = {}
    for (source, row), name in zip(entries, names):
        if not name:
            path = shown(_path_below(row, folders[id(source)]))
            without.setdefault(id(source), []).append(path)
    if not any(names):
        first = without[id(entries[0][0])][0]
        what = "a sub-folder" if options.speaker_from == "folder" else "such a part"
        raise UserError(
            f"--speaker_from {options.speaker_from}: no path has {what}; the first is "
            f"{first}; correct or omit it"
        )
    for source in {id(source): source for source, _ in entries}.values():
        paths = without.get(id(source), [])
        if paths:
            source.notes.append(
                f"{source.path}: --speaker_from finds no speaker in "
                f"{counted(len(paths), 'path')} ({shorten(paths, 3)})"
            )


def _word(name: str) -> str:
    """Return a name as part of an id: no white space, no slash, valid UTF-8."""
    name = re.sub("[\udc80-\udcff]", lambda m: f"%{ord(m[0]) - 0xDC00:02X}", name)
    return re.sub(r"[\s/\\]+", "_", name.strip())


def _abbreviate(speakers: Iterable[str]) -> Dict[str, str]:
    """Shorten hashes such as Common Voice's, if they remain distinct."""
    names = set(speakers)
    cut = {n: n[:12] if len(n) > LONGEST_SPEAKER else n for n in names}
    return cut if len(set(cut.values())) == len(names) else {n: n for n in names}


def _make_id(row: Row, path: str, speaker: str, folders: Sequence[Path]) -> str:
    key = row.id
    if not key:
        for folder in folders:
            start = os.path.abspath(folder) + os.sep
            if path.startswith(start):
                key = path[len(start) :]
                break
        else:
            key = os.path.basename(path)
        key = os.path.splitext(key)[0]
        if row.cut:
            key += f"-{round(1000 * row.start):08d}"
            key += f"-{round(1000 * row.end):08d}" if row.end is not None else "-end"
    key = _word(key)
    return key if not speaker or key.startswith(speaker) else f"{speaker}-{key}"
