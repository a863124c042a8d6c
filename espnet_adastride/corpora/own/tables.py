"""Tables of recordings: CSV, TSV and JSON lines, with the columns that corpora use."""

import json
import math
import re
from pathlib import Path
from typing import Dict, Iterator, List, Optional, Sequence, Tuple

from espnet_adastride.corpora.kaldi import read_lines, shorten
from espnet_adastride.corpora.own.source import (
    SETS,
    TABLES,
    Row,
    Source,
    clean,
    parse_time,
)
from espnet_adastride.corpora.separated import read_separated
from espnet_adastride.errors import UserError

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


def read_table(path: Path, given: Dict[str, str], literal: bool = False) -> Source:
    """Read a table.

    Args:
        path: Its suffix is one of :data:`TABLES`.
        given: See :func:`find_columns`.
        literal: Quotation marks belong to the text.

    Raises:
        UserError: It is no such table, or lacks a column.
    """
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
        raise UserError(
            f"{path}: no rows below the header; write one for each recording"
        )
    return source


def find_columns(path, header: Sequence[str], given: Dict[str, str]) -> Dict[str, str]:
    """Return {role: column} of a table.

    Args:
        path: For messages.
        header: Its columns.
        given: {role: column} as the user named them.

    Raises:
        UserError: No column for the path or the text, a missing named column, or
            two candidates.
    """
    roles: Dict[str, str] = {}
    listed = ", ".join(repr(name) for name in header[:12])
    for role, names in COLUMNS.items():
        if role in given:
            if given[role] not in header:
                raise UserError(
                    f"{path}: no column {given[role]!r} (--columns {role}=...); the "
                    f"columns are {listed}"
                )
            roles[role] = given[role]
            continue
        found = [name for name in header if name.strip().lower() in names]
        if len(found) > 1:
            raise UserError(
                f"{path}: the columns {' and '.join(map(repr, found))} could both be "
                f"the {role}: choose one, e.g. --columns {role}={found[0]}"
            )
        if found:
            roles[role] = found[0]
    for role in ("path", "text"):
        if role not in roles:
            raise UserError(
                f"{path}:1: no column for the {role}: begin the file with a header "
                f"such as path,text,speaker, or name the column: --columns "
                f"{role}=NAME; the first line has {listed}"
            )
    return roles


def _separated_entries(path: Path, source: Source, literal: bool):
    """Return the header of a CSV or TSV file, and an iterator of (where, entry)."""
    header, separator, rows = read_separated(path, literal)

    def entries() -> Iterator[Tuple[str, Dict[str, str]]]:
        for number, values in rows:
            if len(values) != len(header):
                found = f"{len(values)} instead of {len(header)}; "
                found += _fix_columns(len(values) - len(header), separator)
                source.bad(f"{path}:{number}", "wrong number of columns", found)
            else:
                yield f"{path}:{number}", dict(zip(header, values))

    return header, entries()


def _fix_columns(more: int, separator: str) -> str:
    """Return how to correct a row with ``more`` (< 0: fewer) fields than columns."""
    if more < 0:
        return "add the missing fields"
    if separator == "\t":  # within quotation marks, too, a tab separates
        return "write a space instead of a tab within a text"
    return f"put quotation marks around a text that holds {separator!r}"


def _json_entries(path: Path, source: Source):
    """Return the keys of JSON lines (or a JSON list), and pairs (where, entry)."""
    lines = read_lines(path)
    found: List[Tuple[str, Dict[str, str]]] = []
    if lines and lines[0].lstrip().startswith("["):
        try:
            items = json.loads("\n".join(lines))
        except (ValueError, RecursionError) as error:
            number = getattr(error, "lineno", 1)
            raise UserError(
                f"{path}:{number}: not JSON ({_json_problem(error)}); correct it"
            ) from None
        pairs = [(f"{path}, entry {n}", item) for n, item in enumerate(items, 1)]
    else:
        pairs = []
        for number, line in enumerate(lines, 1):
            where = f"{path}:{number}"
            try:
                if line.strip():
                    pairs.append((where, json.loads(line)))
            except (ValueError, RecursionError) as error:
                detail = f"{_json_problem(error)}; write one object per line"
                source.bad(where, "not JSON", detail)
    for where, item in pairs:
        if isinstance(item, dict):
            values = {}
            for key, value in item.items():
                if isinstance(value, dict):  # Hugging Face's audio column
                    value = value.get("path")
                values[key] = _cell(value)
            found.append((where, values))
        else:
            source.bad(where, "not a JSON object", 'write {"path": ..., "text": ...}')
    if not found:
        raise UserError(
            f'{path}: no usable line; write {{"path": ..., "text": ...}}, one per line'
            + (f" ({source.problems[0]})" if source.problems else "")
        )
    header = list(dict.fromkeys(key for _, entry in found for key in entry))
    return header, iter(found)


def _json_problem(error: Exception) -> str:
    if isinstance(error, RecursionError):
        return "too many brackets in each other"
    # a number of thousands of digits is a ValueError of Python
    return getattr(error, "msg", "a number is too long")


def _cell(value: object) -> str:
    """Return a JSON value as the cell of a table; pandas writes NaN for no value."""
    number = isinstance(value, float) and not math.isfinite(value)
    return "" if value is None or isinstance(value, list) or number else str(value)


def _row_of(source: Source, where: str, values: Dict[str, str]) -> Optional[Row]:
    key = values.get("id", "").strip()
    name = key or "-"
    part = values.get("set", "").strip()
    if part.lower() in SETS:
        part = SETS[part.lower()]
    elif part and not re.fullmatch(r"[\w-][\w.-]*", part):
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
            detail = f"{role} {word!r}: write seconds"
            source.bad(where, "not a time", detail, name, part)
            return None
    start, end = times["start"] or 0.0, times["end"]
    if end is None and times["start"] is not None and times["duration"] is not None:
        end = start + times["duration"]
    return source.timed(row, start, end)
