"""Common layouts of corpora, read into rows: recording, times, transcript, speaker.

    a Kaldi folder      wav.scp, text; utt2spk, spk2utt and segments, optional
    a table             .csv, .tsv, .jsonl: path, text; speaker, start, end, id, set
    Common Voice        clips/ and validated.tsv, or train.tsv, dev.tsv and test.tsv
    an audio folder     metadata.csv or metadata.jsonl with file_name (Hugging Face)
    recordings          audio files, each with a .txt of the same name

A folder with sub-folders called train, dev (valid, validation, val) and test may have
any of these layouts in each. :func:`read_source` detects the layout. Nothing is decoded
or written here.

An unusable line does not stop the reading: it becomes a :class:`Problem` with file,
line and fix. If a whole file is unusable, a
:class:`~espnet_adastride.corpora.kaldi.DataError` is raised.
"""

import csv
import io
import json
import os
import re
import unicodedata
from dataclasses import dataclass, field
from pathlib import Path
from typing import Dict, Iterator, List, NamedTuple, Optional, Sequence, Tuple

from espnet_adastride.corpora.kaldi import read_lines, scan_lines, shorten
from espnet_adastride.corpora.recordings import describe_unread, find_media
from espnet_adastride.errors import DataError
from espnet_adastride.files import AUDIO_SUFFIXES, shown

#: column names in the header of a table, by role; the first name is ours, the others
#: are those of Hugging Face, Common Voice, NeMo and DeepSpeech
COLUMNS: Dict[str, Tuple[str, ...]] = {
    "path": (
        "path file filename file_name file_path filepath audio audio_path "
        "audio_file audio_filepath wav wav_path wav_file wav_filename"
    ).split(),
    "text": "text transcript transcription sentence normalized_text".split(),
    "speaker": "speaker speaker_id speaker_name spk spk_id client_id".split(),
    "start": "start start_time begin start_seconds offset".split(),
    "end": "end end_time stop end_seconds".split(),
    "duration": "duration duration_seconds".split(),
    "id": "id utt_id utterance_id utterance key".split(),
    "set": "set split subset partition".split(),
}
#: names of folders, files and values that mean one of the three sets
SETS = {
    **dict.fromkeys(("train", "training"), "train"),
    **dict.fromkeys(("valid", "validation", "val", "dev", "development"), "valid"),
    **dict.fromkeys(("test", "testing"), "test"),
}
TABLES = {".csv": "CSV", ".tsv": "TSV", ".jsonl": "JSON lines", ".json": "JSON lines"}
METADATA = ("metadata.csv", "metadata.tsv", "metadata.jsonl")
COMMON_VOICE = ("train.tsv", "dev.tsv", "test.tsv")
LAYOUTS = (
    "wav.scp and text (Kaldi), metadata.csv or metadata.jsonl (Hugging Face), clips/ "
    "and validated.tsv (Common Voice), or recordings with a .txt of the same name"
)


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
        return f"{self.where}: {self.kind}" + (
            f": {self.detail}" if self.detail else ""
        )


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


def read_source(path, columns: Optional[Dict[str, str]] = None) -> Source:
    """Read a corpus; its layout is detected.

    Args:
        path: A table, or a folder in one of the layouts above.
        columns: {role: name} of a table's columns, if they are not standard.

    Raises:
        DataError: No such file or folder, an unknown layout, or an
            unusable file; one line with the fix.
    """
    path, columns = Path(path), columns or {}
    if not path.exists():
        raise DataError(f"{shown(path)}: no such file or folder")
    if path.is_file() and path.name == "wav.scp":
        path = path.parent
    if path.is_file():
        if path.suffix.lower() not in TABLES:
            raise DataError(
                f"{shown(path)}: give a table (.csv, .tsv, .jsonl) or a folder "
                f"with {LAYOUTS}"
            )
        return _read_table(path, columns)
    return _read_folder(path, columns)


def _read_folder(path: Path, columns: Dict[str, str]) -> Source:
    if (path / "wav.scp").is_file():
        return _read_kaldi(path)
    metadata = [path / name for name in METADATA if (path / name).is_file()]
    if len(metadata) > 1:
        names = " and ".join(file.name for file in metadata)
        raise DataError(f"{path}: {names} in one folder; give one of the two files")
    if metadata:
        source = _read_table(metadata[0], columns)
        source.kind = f"Hugging Face folder, {metadata[0].name}"
        return _sets_in_paths(source)
    if (path / "clips").is_dir():
        return _read_common_voice(path, columns)
    folders = [p for p in sorted(path.iterdir()) if p.is_dir() and p.name in SETS]
    if any(SETS[p.name] == "train" for p in folders):
        return _read_sets(path, folders, columns)
    return _read_pairs(path)


def _read_sets(path: Path, folders: Sequence[Path], columns) -> Source:
    """Read sub-folders called train, dev, test."""
    whole = Source(path, "", folders=[path])
    for folder in folders:
        part = SETS[folder.name]
        source = _read_folder(folder, columns)
        whole.kind = f"sets in sub-folders, {source.kind}"
        for row in source.rows:
            place = row.path
            if not place.endswith("|"):  # paths are relative to each set's own folder
                place = os.path.abspath(locate(place, source.folders) or place)
            whole.rows.append(row._replace(part=part, path=place))
        whole.problems += [problem._replace(part=part) for problem in source.problems]
        whole.notes += source.notes
        whole.files += source.files
        whole.own_ids = source.own_ids
    others = sorted(
        p.name
        for p in path.iterdir()
        if p.is_dir() and p not in folders and not p.name.startswith(".")
    )
    if others:
        whole.notes.append(
            f"{path}: not used: {shorten([shown(o) for o in others])} (sets are "
            "the sub-folders train, dev or valid, and test; give others as NAME=FOLDER)"
        )
    return whole


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
            found = Path(folder) / Path(name).expanduser()
            try:
                if found.exists():
                    return found
            except (OSError, ValueError):  # a name too long, or a zero byte in it
                pass
    return None


def clean(text: str) -> str:
    """Return a transcript with its white space collapsed."""
    return " ".join(text.split())


# ---------------------------------------------------------------- Kaldi
def _read_kaldi(folder: Path) -> Source:
    source = Source(folder, "Kaldi folder", own_ids=True)
    # by convention, paths are relative to the recipe's folder
    source.folders = [Path(), folder, folder.parent, folder.parent.parent]
    waves = _read_scp(source, "wav.scp")
    texts = _read_scp(source, "text")
    segments: Dict[str, Tuple[str, str]] = {}
    if (folder / "segments").is_file():
        source.kind = "Kaldi folder with segments"
        segments = _read_scp(source, "segments")
    speakers = _read_speakers(source, segments or waves)
    named = "segments" if segments else "wav.scp"
    for key, (value, where) in (segments or waves).items():
        if key not in texts:
            source.bad(where, "no transcript", f"{key} is not in text", key)
            continue
        row = Row(where, key, value, clean(texts[key][0]), speakers.get(key, ""))
        if segments:
            row = _read_segment(source, row, value.split(), waves)
        if row is None:
            continue
        if not row.text:
            source.bad(texts[key][1], "no transcript", f"{key} has no words", key)
        else:
            source.rows.append(row)
    for key in texts.keys() - (segments or waves).keys():
        source.bad(texts[key][1], "no recording", f"{key} is not in {named}", key)
    source.problems.sort(key=lambda p: p.where)
    return source


def _read_scp(source: Source, name: str) -> Dict[str, Tuple[str, str]]:
    """Return {id: (value, file:line)}; unusable lines become problems."""
    path = source.path / name
    source.files.append(path)
    values: Dict[str, Tuple[str, str]] = {}
    for number, key, value, problem in scan_lines(path, allow_empty=name == "text"):
        where = f"{path}:{number}"
        if problem:
            source.bad(where, "malformed line", problem, key.split()[0] if key else "-")
        else:
            values[key] = (value, where)
    if not values:
        raise DataError(f"{path}: no usable line in it")
    return values


def _read_speakers(source: Source, keys) -> Dict[str, str]:
    folder = source.path
    if (folder / "utt2spk").is_file():
        table = _read_scp(source, "utt2spk")
        speakers = {key: value for key, (value, _) in table.items()}
    elif (folder / "spk2utt").is_file():
        source.notes.append(f"{folder}: no utt2spk; using the speakers in spk2utt")
        table = _read_scp(source, "spk2utt")
        speakers = {
            key: name for name, (value, _) in table.items() for key in value.split()
        }
    else:
        source.notes.append(f"{folder}: no utt2spk; the speakers are unknown")
        return {}
    without = [key for key in keys if key not in speakers]
    if without:
        source.notes.append(
            f"{folder}: no speaker for {len(without)} utterances "
            f"({shorten(without)}); each counts as a separate speaker"
        )
    return speakers


def _read_segment(source: Source, row: Row, words: List[str], waves) -> Optional[Row]:
    """Return the row of a line ``ID RECORDING START END``."""
    try:
        recording, start, end = words
        start, end = parse_time(start), None if end == "-1" else parse_time(end)
    except ValueError:
        source.bad(
            row.where,
            "malformed line",
            "write ID RECORDING START END, times in seconds",
            row.id,
        )
        return None
    if recording not in waves:
        source.bad(row.where, "no recording", f"{recording} is not in wav.scp", row.id)
        return None
    return _timed(source, row._replace(path=waves[recording][0]), start, end)


# ---------------------------------------------------------------- tables
def _read_table(path: Path, given: Dict[str, str], literal: bool = False) -> Source:
    kind = TABLES[path.suffix.lower()]
    source = Source(path, kind, files=[path])
    source.folders = [path.parent, path.parent / "clips", Path()]
    if kind == "JSON lines":
        header, entries = _json_entries(path, source)
    else:
        header, entries = _separated_entries(path, source, literal)
    roles = find_columns(path, header, given)
    used = ", ".join(f"{role}: {name}" for role, name in roles.items())
    others = [name for name in header if name not in roles.values()]
    source.notes.append(
        f"{path}: {used}" + (f"; not used: {shorten(others)}" if others else "")
    )
    for where, entry in entries:
        row = _row_of(source, where, {r: entry.get(n, "") for r, n in roles.items()})
        if row is not None:
            source.rows.append(row)
    if not source.rows and not source.problems:
        raise DataError(f"{path}: no rows below the header")
    return source


def find_columns(path, header: Sequence[str], given: Dict[str, str]) -> Dict[str, str]:
    """Return {role: column} of a table.

    Args:
        path: For messages.
        header: Its columns.
        given: {role: column} as the user named them.

    Raises:
        DataError: No column for the path or the text, a missing named column, or
            two candidates.
    """
    folded = {name.strip().lower(): name for name in header}
    roles: Dict[str, str] = {}
    listed = ", ".join(repr(name) for name in header[:12])
    for role, names in COLUMNS.items():
        if role in given:
            if given[role] not in header:
                raise DataError(
                    f"{path}: no column {given[role]!r} (--columns {role}=...); the "
                    f"columns are {listed}"
                )
            roles[role] = given[role]
            continue
        found = [folded[name] for name in names if name in folded]
        if len(found) > 1:
            raise DataError(
                f"{path}: the columns {' and '.join(map(repr, found))} could both be "
                f"the {role}: choose one, e.g. --columns {role}={found[0]}"
            )
        if found:
            roles[role] = found[0]
    for role in ("path", "text"):
        if role not in roles:
            raise DataError(
                f"{path}:1: no column for the {role}: begin the file with a header "
                f"such as path,text,speaker, or name the column: --columns "
                f"{role}=NAME; the first line has {listed}"
            )
    return roles


def _separated_entries(path: Path, source: Source, literal: bool):
    """Return the header of a CSV or TSV file, and an iterator of (where, entry)."""
    lines = read_lines(path)
    if not lines:
        raise DataError(f"{path}: the file is empty")
    if path.suffix.lower() == ".tsv":
        separator = "\t"
    else:  # spreadsheets write semicolons if the decimal sign is a comma
        separator = max(",;\t|", key=lambda s: lines[0].count(s))
    header = _split_row(lines[0], separator)
    # Common Voice does not quote: a quotation mark belongs to the sentence
    literal = literal or (separator == "\t" and "client_id" in header)

    def entries() -> Iterator[Tuple[str, Dict[str, str]]]:
        for where, values in _split_rows(path, lines, separator, literal, source):
            if len(values) != len(header):
                source.bad(
                    where,
                    "wrong number of columns",
                    f"{len(values)} instead of {len(header)}; put quotation marks "
                    f"around a text that holds {separator!r}",
                )
            else:
                yield where, dict(zip(header, values))

    return header, entries()


def _split_row(line: str, separator: str) -> List[str]:
    return [word.strip() for word in next(csv.reader([line], delimiter=separator))]


def _split_rows(path: Path, lines, separator: str, literal: bool, source: Source):
    """Yield (file:line, values); a quoted field may span several lines."""
    if separator == "\t":
        # fields of a TSV have no line breaks, so an unpaired quotation mark must not
        # swallow the following lines
        for number, line in enumerate(lines[1:], 2):
            if line.strip():
                words = [word.strip() for word in line.split("\t")]
                yield f"{path}:{number}", words if literal else list(map(_bare, words))
        return
    text = io.StringIO("\n".join(lines) + "\n", newline="")
    reader = csv.reader(text, delimiter=separator, strict=True)
    next(reader)
    while True:
        number = reader.line_num + 1
        try:
            values = next(reader)
        except StopIteration:
            return
        except csv.Error as error:
            raise DataError(
                f"{path}:{number}: not CSV ({error}): write a quotation mark within a "
                "text "
                'as "" and put the text in quotation marks'
            ) from None
        if any(value.strip() for value in values):
            yield f"{path}:{number}", [value.strip() for value in values]


def _bare(word: str) -> str:
    """Return ``say "yes"`` of ``"say ""yes""``"."""
    if len(word) > 1 and word[0] == word[-1] == '"':
        inner = word[1:-1].replace('""', "\0")
        if '"' not in inner:
            return inner.replace("\0", '"')
    return word


def _json_entries(path: Path, source: Source):
    """Return the keys of JSON lines (or a JSON list), and pairs (where, entry)."""
    lines = read_lines(path)
    found: List[Tuple[str, Dict[str, str]]] = []
    if lines and lines[0].lstrip().startswith("["):
        try:
            items = json.loads("\n".join(lines))
        except json.JSONDecodeError as error:
            raise DataError(
                f"{path}:{error.lineno}: not JSON ({error.msg}); correct it"
            ) from None
        pairs = [(f"{path}, entry {n}", item) for n, item in enumerate(items, 1)]
    else:
        pairs = []
        for number, line in enumerate(lines, 1):
            where = f"{path}:{number}"
            try:
                if line.strip():
                    pairs.append((where, json.loads(line)))
            except json.JSONDecodeError as error:
                source.bad(where, "not JSON", f"{error.msg}; write one object per line")
    for where, item in pairs:
        if isinstance(item, dict):
            values = {k: "" if v is None else v for k, v in item.items()}
            # Hugging Face writes an audio column as an object
            for key, value in values.items():
                if isinstance(value, dict) and "path" in value:
                    values[key] = value["path"]
            found.append((where, {k: str(v) for k, v in values.items()}))
        else:
            source.bad(where, "not a JSON object", 'write {"path": ..., "text": ...}')
    if not found:
        raise DataError(
            f'{path}: no usable line; write {{"path": ..., "text": ...}}, one per line'
            + (f" ({source.problems[0]})" if source.problems else "")
        )
    header = list(dict.fromkeys(key for _, entry in found for key in entry))
    return header, iter(found)


def _row_of(source: Source, where: str, values: Dict[str, str]) -> Optional[Row]:
    key = values.get("id", "").strip()
    name = key or "-"
    part = values.get("set", "").strip()
    if part.lower() in SETS:
        part = SETS[part.lower()]
    elif part and not re.fullmatch(r"[\w.-]+", part):
        source.bad(where, "no name of a set", f"{part!r}: write train", name)
        return None
    elif "set" in values and not part:
        source.bad(where, "no set", "write train, valid or test", name)
        return None
    path = values["path"].strip()
    if not path:
        source.bad(where, "no path", "name the recording", name, part)
        return None
    row = Row(where, key, path, clean(values["text"]), clean(values.get("speaker", "")))
    row = row._replace(part=part)
    if not row.text:
        source.bad(where, "no transcript", f"{path} has no words", name, part)
        return None
    times: Dict[str, Optional[float]] = {}
    for role in ("start", "end", "duration"):
        word = values.get(role, "").strip()
        try:
            times[role] = parse_time(word) if word else None
        except ValueError:
            source.bad(
                where, "not a time", f"{role} {word!r}: write seconds", name, part
            )
            return None
    start, end = times["start"] or 0.0, times["end"]
    if end is None and times["start"] is not None and times["duration"] is not None:
        end = start + times["duration"]
    return _timed(source, row, start, end)


def _timed(source: Source, row: Row, start: float, end: Optional[float]):
    """Return the row with its times, or None and a problem if they are invalid."""
    if end is not None and end <= start:
        source.bad(
            row.where,
            "end before start",
            f"from {start:g} to {end:g} s; correct the times (seconds)",
            row.id or "-",
            row.part,
        )
        return None
    return row._replace(start=start, end=end)


def parse_time(word: str) -> float:
    """Read seconds: ``12.5``, ``12,5``, ``1:02.5`` or ``0:01:02.5``.

    Raises:
        ValueError: Another form.
    """
    if not re.fullmatch(r"(\d+:){0,2}(\d+([.,]\d*)?|[.,]\d+)(e-?\d+)?", word.lower()):
        raise ValueError(f"{word!r} is not a time")
    seconds = 0.0
    for number in word.replace(",", ".").split(":"):
        seconds = 60 * seconds + float(number)
    return seconds


# ------------------------------------------------- Common Voice, Hugging Face, .txt
def _read_common_voice(path: Path, columns: Dict[str, str]) -> Source:
    tables = [path / name for name in COMMON_VOICE if (path / name).is_file()]
    if not (path / "train.tsv").is_file():
        tables = [path / "validated.tsv"]
    if not tables[0].is_file():
        raise DataError(
            f"{path}: clips/ but neither train.tsv nor validated.tsv; give the folder "
            "of one language, e.g. cv-corpus-17.0/en, as unpacked"
        )
    whole = Source(path, "Common Voice, " + ", ".join(t.name for t in tables))
    whole.folders = [path / "clips", path]
    for table in tables:
        source = _read_table(table, columns, literal=True)
        part = SETS.get(table.stem, "")
        whole.rows += [row._replace(part=part) for row in source.rows]
        whole.problems += [p._replace(part=part) for p in source.problems]
        whole.files += source.files
        whole.notes += source.notes[: 1 if table == tables[0] else 0]
    if len(tables) > 1 and (path / "validated.tsv").is_file():
        whole.notes.append(
            f"{path}: using the corpus' own sets; give {path}/validated.tsv for "
            "more recordings and a split by speaker"
        )
    return whole


def _sets_in_paths(source: Source) -> Source:
    """Take sets from paths such as ``train/0001.wav``, if all paths have one."""
    first = [Path(row.path.replace("\\", "/")).parts[0] for row in source.rows]
    unset = all(not row.part for row in source.rows)
    if unset and all(word in SETS for word in first) and "train" in first:
        parts = [SETS[word] for word in first]
        source.rows = [r._replace(part=p) for r, p in zip(source.rows, parts)]
        source.notes.append(
            f"{source.path}: sets are taken from the folders in file_name"
        )
    return source


def _read_pairs(folder: Path) -> Source:
    """Read recordings with a ``.txt`` of the same name next to them."""
    source = Source(folder, "recordings with .txt files", folders=[folder])
    recordings, unread, _ = find_media([str(folder)])
    if unread:
        source.notes.append(f"{folder}: {describe_unread(unread)}")
    texts = {
        str(path.relative_to(folder).with_suffix("")): path
        for path in sorted(folder.rglob("*"))
        if path.suffix.lower() == ".txt" and not path.name.startswith(".")
    }
    names = {recording.name for recording in recordings}
    if not names & texts.keys():
        found = f"{len(names)} recordings, none with a .txt of the same name"
        if not names:
            found = f"no recordings ({' '.join(sorted(AUDIO_SUFFIXES)[:8])} ...)"
        below = [p for p in sorted(folder.iterdir()) if (p / "wav.scp").is_file()]
        if below:
            found = f"wav.scp in {shorten([p.name for p in below])}: give these"
        raise DataError(f"{shown(folder)}: {found}; expected {LAYOUTS}")
    for recording in recordings:
        path = shown(recording.path)
        if recording.name not in texts:
            source.bad(path, "no transcript", "no .txt of the same name next to it")
            continue
        text = texts[recording.name]
        source.files.append(text)
        try:
            words = clean(" ".join(read_lines(text)))
        except DataError as error:
            where, problem = _split_message(str(error), str(text))
            source.bad(shown(where), "unreadable transcript", problem)
            continue
        if not words:
            source.bad(shown(text), "no transcript", "the file has no words")
            continue
        # an absolute path, because names need not be UTF-8
        source.rows.append(Row(path, "", os.path.abspath(recording.path), words))
    for name in sorted(texts.keys() - names):
        source.bad(shown(texts[name]), "no recording", "no audio file of the same name")
    return source


def _split_message(message: str, path: str) -> Tuple[str, str]:
    """Split ``FILE:LINE: problem`` after the file and the line."""
    found = re.fullmatch(re.escape(path) + r"((?::\d+)?): (.*)", message)
    return (path + found[1], found[2]) if found else (path, message)
