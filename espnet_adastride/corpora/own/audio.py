"""Recordings decoded and, where ESPnet cannot use them in place, written as FLAC."""

import hashlib
import json
import os
import subprocess
import tempfile
from collections import defaultdict
from pathlib import Path
from typing import Dict, List, NamedTuple, Optional, Sequence

from espnet_adastride.corpora.audio import AudioInfo, read_samples, read_to_end
from espnet_adastride.corpora.own.rows import Options, Planned, problem_of
from espnet_adastride.corpora.own.source import Problem
from espnet_adastride.corpora.recordings import prepare
from espnet_adastride.errors import AudioError
from espnet_adastride.files import quoted_name, shown, write_flac
from espnet_adastride.progress import in_threads, progress_bar

#: seconds by which an end time may exceed the recording, because of rounding
TOLERANCE = 0.05


class Checked(NamedTuple):
    """Result for the utterances of one recording: files by id, seconds, problems."""

    files: Dict[str, str]
    seconds: Dict[str, float]
    problems: List[Problem]


def check_recording(path: str, rows: Sequence[Planned], folder: Path, fs: int):
    """Decode a recording; cut or convert it if it cannot be used in place.

    Args:
        path: The recording, or a command that ends in ``|``.
        rows: The utterances in it.
        folder: For FLAC files; their names are the quoted ids.
        fs: Their sampling rate in Hz.
    """
    checked = Checked({}, {}, [])

    def refuse(p: Planned, kind: str, detail: str) -> None:
        checked.problems.append(problem_of(p.row._replace(id=p.id), kind, detail))

    try:
        piped = path.endswith("|")
        wave, info = read_samples(_output(path) if piped else path, shown(path))
        as_it_is = not piped and _usable_in_place(path, info)
        if as_it_is and not any(p.row.cut for p in rows):
            fs = info.rate  # nothing is written
        wave = prepare(wave, info.rate, fs, shown(path))
    except AudioError as error:
        for p in rows:
            refuse(p, "a recording that cannot be used", str(error))
        return checked
    length = len(wave) / fs
    for p in rows:
        start, end = p.row.start, p.row.end
        until = "the end" if end is None else f"{end:g}"
        if start >= length or (end is not None and end > length + TOLERANCE):
            detail = f"{start:g} to {until} s of {path}, which has {length:.2f} s"
            detail += "; correct the times (seconds)"
            refuse(p, "a part beyond the recording's end", detail)
            continue
        piece = wave
        if p.row.cut:
            last = len(wave) if end is None else min(round(end * fs), len(wave))
            piece = wave[round(start * fs) : last]
        if len(piece) == 0:
            detail = f"{start:g} to {until} has no sample at {fs} Hz"
            detail += "; correct the times (seconds)"
            refuse(p, "an empty part", detail)
            continue
        checked.seconds[p.id] = len(piece) / fs
        if as_it_is and not p.row.cut:
            checked.files[p.id] = path
        else:
            target = folder / f"{quoted_name(p.id)}.flac"
            write_flac(target, piece.clip(-1.0, 1.0 - 2.0**-15), fs)
            checked.files[p.id] = str(target)
    return checked


def _output(pipe: str) -> bytes:
    """Return what a command writes to its standard output."""
    command = pipe[:-1].strip()
    words = ["bash", "-c", command]
    # it must not read what the user types, or the script that called this
    stdin = subprocess.DEVNULL
    with tempfile.TemporaryFile() as errors:
        with subprocess.Popen(
            words, stdin=stdin, stdout=subprocess.PIPE, stderr=errors
        ) as process:
            assert process.stdout is not None
            try:
                content = read_to_end(process.stdout, command)
            except BaseException:
                process.kill()
                raise
        errors.seek(0)
        lines = errors.read().decode("utf-8", "replace").strip().splitlines()
    if process.returncode or not content:
        said = lines[-1] if lines else "no output"
        raise AudioError(f"{command}: status {process.returncode}: {said}")
    return content


def _usable_in_place(path: str, info: AudioInfo) -> bool:
    """Whether ESPnet's tools can read the file: mono WAV or FLAC."""
    if shown(path) != path:
        return False
    plain = info.format in ("WAV", "FLAC") and info.channels == 1
    return plain and info.reader == "libsndfile"


def check_recordings(
    planned: Sequence[Planned], folder: Path, options: Options
) -> Checked:
    """:func:`check_recording` on all recordings, in threads.

    What is usable is noted in ``folder``, so that the next call with the same folder
    resumes after an interruption, or checks only what has been corrected.
    """
    jobs: Dict[str, List[Planned]] = defaultdict(list)
    for p in planned:
        jobs[p.path].append(p)
    notes = folder / "checked.jsonl"
    noted = _read_notes(notes)
    total = Checked({}, {}, [])

    def check(job):
        path, rows = job
        key = _key(path, rows, options.fs)
        if key in noted:
            return None, noted[key]
        return key, check_recording(path, rows, folder, options.fs)

    with progress_bar(len(jobs)) as bar, notes.open("a", encoding="utf-8") as file:
        for key, checked in in_threads(check, jobs.items(), options.nj):
            total.files.update(checked.files)
            total.seconds.update(checked.seconds)
            total.problems.extend(checked.problems)
            if key and not checked.problems:
                file.write(json.dumps([key, checked.files, checked.seconds]) + "\n")
                file.flush()
            bar.update()
    return total


def _key(path: str, rows: Sequence[Planned], fs: int) -> str:
    """Return a fingerprint of a recording and of the parts that are used."""
    parts = [[p.id, p.row.start, p.row.end] for p in rows]
    return hashlib.sha256(
        json.dumps([shown(path), state(path), parts, fs]).encode()
    ).hexdigest()


def state(path: str) -> Optional[List[int]]:
    """Return what changes with a file's content; None for a command."""
    if path.endswith("|"):
        return None
    status = os.stat(path)
    return [status.st_size, status.st_mtime_ns]


def _read_notes(path: Path) -> Dict[str, Checked]:
    """Return the recordings of an interrupted call whose files are all there."""
    found = {}
    for line in path.read_text(encoding="utf-8").splitlines() if path.exists() else []:
        try:
            key, files, seconds = json.loads(line)
        except ValueError:  # the last line of a call that was killed
            continue
        if all(map(os.path.exists, files.values())):
            found[key] = Checked(files, seconds, [])
    return found
