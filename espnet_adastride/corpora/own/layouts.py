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
:class:`~espnet_adastride.errors.UserError` is raised.
"""

import os
import re
from pathlib import Path
from typing import Dict, List, Optional, Sequence, Tuple

from espnet_adastride.corpora.kaldi import read_lines, scan_lines, shorten
from espnet_adastride.corpora.own.source import (
    SETS,
    TABLES,
    Row,
    Source,
    clean,
    locate,
    parse_time,
)
from espnet_adastride.corpora.own.tables import read_table
from espnet_adastride.corpora.recordings import describe_unread, find_media
from espnet_adastride.errors import UserError, no_such
from espnet_adastride.files import AUDIO_SUFFIXES, files_in, shown

METADATA = ("metadata.csv", "metadata.tsv", "metadata.jsonl")
COMMON_VOICE = ("train.tsv", "dev.tsv", "test.tsv")
LAYOUTS = (
    "wav.scp and text (Kaldi), metadata.csv or metadata.jsonl (Hugging Face), clips/ "
    "and validated.tsv (Common Voice), or recordings with a .txt of the same name"
)


def read_source(
    path,
    columns: Optional[Dict[str, str]] = None,
    leave_out: Sequence[Path] = (),
) -> Source:
    """Read a corpus; its layout is detected.

    Args:
        path: A table, or a folder in one of the layouts above.
        columns: {role: name} of a table's columns, if they are not standard.
        leave_out: Files and folders that are not searched for recordings and their
            texts: what earlier calls wrote.

    Raises:
        UserError: No such file or folder, an unknown layout, or an
            unusable file; one line with the fix.
    """
    path, columns = Path(path), columns or {}
    if not path.exists():
        raise UserError(no_such(shown(path), what="file or folder"))
    if path.is_file() and path.name == "wav.scp":
        path = path.parent
    if path.is_file():
        if path.suffix.lower() not in TABLES:
            raise UserError(
                f"{shown(path)}: give a table (.csv, .tsv, .jsonl) or a folder "
                f"with {LAYOUTS}"
            )
        return read_table(path, columns)
    if not path.is_dir():  # a pipe would be waited for, or be empty the second time
        raise UserError(
            f"{shown(path)}: is a pipe or a device; save its content to a file first"
        )
    return _read_folder(path, columns, leave_out)


def _read_folder(
    path: Path, columns: Dict[str, str], leave_out: Sequence[Path]
) -> Source:
    if (path / "wav.scp").is_file():
        return _read_kaldi(path)
    metadata = [path / name for name in METADATA if (path / name).is_file()]
    if len(metadata) > 1:
        names = " and ".join(file.name for file in metadata)
        raise UserError(f"{path}: {names} in one folder; give one of the two files")
    if metadata:
        source = read_table(metadata[0], columns)
        source.kind = f"Hugging Face folder, {metadata[0].name}"
        return _sets_in_paths(source)
    if (path / "clips").is_dir():
        return _read_common_voice(path, columns)
    folders = [p for p in sorted(path.iterdir()) if p.is_dir() and p.name in SETS]
    if any(SETS[p.name] == "train" for p in folders):
        return _read_sets(path, folders, columns, leave_out)
    return _read_pairs(path, leave_out)


def _read_sets(path: Path, folders: Sequence[Path], columns, leave_out) -> Source:
    """Read sub-folders called train, dev, test."""
    whole = Source(path, "", folders=[path])
    for folder in folders:
        part = SETS[folder.name]
        source = _read_folder(folder, columns, leave_out)
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
        raise UserError(f"{path}: no usable line in it")
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
        fix = "write ID RECORDING START END, times in seconds"
        source.bad(row.where, "malformed line", fix, row.id)
        return None
    if recording not in waves:
        source.bad(row.where, "no recording", f"{recording} is not in wav.scp", row.id)
        return None
    return source.timed(row._replace(path=waves[recording][0]), start, end)


# ------------------------------------------------- Common Voice, Hugging Face, .txt
def _read_common_voice(path: Path, columns: Dict[str, str]) -> Source:
    tables = [path / name for name in COMMON_VOICE if (path / name).is_file()]
    if not (path / "train.tsv").is_file():
        tables = [path / "validated.tsv"]
    if not tables[0].is_file():
        raise UserError(
            f"{path}: clips/ but neither train.tsv nor validated.tsv; give the folder "
            "of one language, e.g. cv-corpus-17.0/en, as unpacked"
        )
    whole = Source(path, "Common Voice, " + ", ".join(t.name for t in tables))
    whole.folders = [path / "clips", path]
    for table in tables:
        source = read_table(table, columns, literal=True)
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
    places = [Path(row.path.replace("\\", "/")) for row in source.rows]
    first = [(*place.parts, "")[0] for place in places]  # "." has no parts
    unset = all(not row.part for row in source.rows)
    if unset and all(word in SETS for word in first) and "train" in first:
        parts = [SETS[word] for word in first]
        source.rows = [r._replace(part=p) for r, p in zip(source.rows, parts)]
        source.notes.append(
            f"{source.path}: sets are taken from the folders in file_name"
        )
    return source


def _read_pairs(folder: Path, leave_out: Sequence[Path]) -> Source:
    """Read recordings with a ``.txt`` of the same name next to them."""
    source = Source(folder, "recordings with .txt files", folders=[folder])
    recordings, unread, _ = find_media([str(folder)], leave_out)
    if unread:
        source.notes.append(f"{folder}: {describe_unread(unread)}")
    texts = {
        str(path.relative_to(folder).with_suffix("")): path
        for path in files_in(folder, leave_out=leave_out)
        if path.suffix.lower() == ".txt"
    }
    names = {recording.name for recording in recordings}
    if not names & texts.keys():
        found = f"{len(names)} recordings, none with a .txt of the same name"
        if not names:
            found = f"no recordings ({' '.join(sorted(AUDIO_SUFFIXES)[:8])} ...)"
        below = [p for p in sorted(folder.iterdir()) if (p / "wav.scp").is_file()]
        if below:
            found = f"wav.scp in {shorten([p.name for p in below])}: give these"
        raise UserError(f"{shown(folder)}: {found}; expected {LAYOUTS}")
    for recording in recordings:
        path = shown(recording.path)
        if recording.name not in texts:
            source.bad(path, "no transcript", "no .txt of the same name next to it")
            continue
        text = texts[recording.name]
        source.files.append(text)
        try:
            words = clean(" ".join(read_lines(text)))
        except UserError as error:
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
