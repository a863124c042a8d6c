"""Kaldi-style data folders: read, check, format, filter, split.

A data folder holds ``wav.scp`` (utterance, audio file), ``text``, ``utt2spk`` and
``spk2utt``; each line is a key, one space, and the rest, which may have spaces.
"""

import os
import re
import shutil
from fractions import Fraction
from pathlib import Path
from typing import Dict, Iterable, List, Sequence, Tuple

import numpy as np

from espnet_adastride.corpora import kaldi
from espnet_adastride.corpora.audio import AudioInfo, read_samples
from espnet_adastride.corpora.recordings import sample_problem
from espnet_adastride.errors import AudioError, UserError, counted
from espnet_adastride.files import (
    PathLike,
    fresh_dir,
    quoted_name,
    replace_dir,
    shown,
    write_flac,
    write_text,
)
from espnet_adastride.progress import in_threads

Table = Dict[str, str]
write_table = kaldi.write_lines
TABLES = ("wav.scp", "text", "utt2spk")
#: the files of a dump folder, which stage 3 makes
MADE = (*TABLES, "spk2utt", "utt2num_samples", "feats_type")
#: additional files of a folder of extracted features: tables, then other files
FEATURE_TABLES = ("feats.scp", "utt2num_frames")
FEATURE_FILES = ("feats_dim", "upstream.yaml")


def read_table(path: PathLike, allow_empty: bool = True) -> Table:
    """Read ``ID VALUE`` lines as :func:`espnet_adastride.corpora.kaldi.read_scp` does.

    Args:
        path: The file.
        allow_empty: A line with only an id has an empty value.

    Raises:
        UserError: The file is missing or malformed.
    """
    path = Path(path)
    if not path.is_file():
        hint = ""
        if path.name in TABLES:
            hint = ", or make it from your own recordings with adastride prepare"
        raise UserError(f"{path} is missing: run the stage that makes it first{hint}")
    return kaldi.read_scp(path, allow_empty)


def read_data_dir(folder: PathLike) -> Dict[str, Table]:
    """Read ``wav.scp``, ``text`` and ``utt2spk`` and check that they agree.

    Raises:
        UserError: A file is missing or empty, or the three have different utterances.
    """
    folder = Path(folder)
    kaldi.reject_segments(folder)
    tables = {name: read_table(folder / name, name == "text") for name in TABLES}
    for key, speaker in tables["utt2spk"].items():
        if re.search(r"\s", speaker):
            raise UserError(
                f"{folder}/utt2spk: the speaker {speaker!r} of {key} has white space; "
                "rename it"
            )
    for name in TABLES[1:]:
        for here, there in (("wav.scp", name), (name, "wav.scp")):
            missing = tables[here].keys() - tables[there].keys()
            if missing:
                raise UserError(
                    f"{folder}: {min(missing)} is in {here} but not in {there}: "
                    "prepare it again (--stage 1 --rerun true) or fix the files"
                )
    return tables


def read_lengths(folder: PathLike, keys: Iterable[str]) -> Dict[str, int]:
    """Return the samples of utterances by ``utt2num_samples`` of a dump folder.

    Raises:
        UserError: the file is missing, lacks an utterance, or has another word than a
            number.
    """
    path = Path(folder) / "utt2num_samples"
    table = read_table(path)
    for key in keys:
        if not re.fullmatch("[0-9]+", table.get(key, "")):
            raise UserError(
                f"{path}: no number of samples for {key}: make the folder again "
                "(--stage 3 --rerun true)"
            )
    return {key: int(table[key]) for key in keys}


def write_data_dir(
    folder: PathLike, tables: Dict[str, Table], keys: Iterable[str]
) -> None:
    """Write the tables for ``keys``, and ``spk2utt`` made from ``utt2spk``."""
    keys = sorted(keys)
    for name, table in tables.items():
        write_table(Path(folder) / name, table, keys)
    speakers = kaldi.by_speaker({key: tables["utt2spk"][key] for key in keys})
    write_table(Path(folder) / "spk2utt", speakers)


def read_mono(path: PathLike) -> Tuple[np.ndarray, AudioInfo]:
    """Return the samples (n,) float32 of a recording with one channel, and its format.

    Raises:
        AudioError: if it cannot be decoded, has several channels, or its samples are
            unusable.
    """
    wave, info = read_samples(path)
    problem = sample_problem(wave)
    if wave.shape[1] != 1:
        channels = wave.shape[1]
        problem = f"{channels} channels instead of one; adastride prepare mixes them"
    elif len(wave) == 0:
        problem = "no samples; record or copy it again"
    if problem:
        raise AudioError(f"{shown(path)}: {problem}")
    return wave[:, 0], info


def _convert(source: str, target: Path, rate: int) -> int:
    """Write ``source`` at a sampling rate as 16-bit FLAC; return samples."""
    from scipy.signal import resample_poly

    wave, info = read_mono(source)
    wave = wave.astype(np.float64)
    ratio = Fraction(rate, info.rate)
    if ratio != 1:
        wave = resample_poly(wave, ratio.numerator, ratio.denominator)
    wave = np.clip(wave, -1.0, 1.0 - 2.0**-15)
    write_flac(target, wave, rate)
    return len(wave)


def format_data_dir(source: PathLike, output: PathLike, rate: int, nj: int = 1) -> str:
    """Check a set's audio and write its dump folder (stage 3).

    Every recording is decoded. Recordings at ``rate`` Hz that ESPnet reads exactly
    (with libsndfile) are used in place; others (m4a, mp4, mp3 ..., other rates) are
    converted into ``<output>/resampled``. It also writes ``utt2num_samples`` and
    ``feats_type``.

    Returns:
        One line about the result.

    Raises:
        UserError: For unreadable audio, several channels, no samples, non-finite
            samples, or a pipe; all such recordings are listed.
    """
    tables = read_data_dir(source)
    waves = tables["wav.scp"]
    kaldi.reject_pipes(source, waves)
    keys = sorted(waves)

    def check(key):
        try:
            return read_mono(waves[key])[1]
        except Exception as error:
            reason = " ".join(str(error).split()) or type(error).__name__
            return reason.removeprefix(f"{shown(waves[key])}: ")

    found = dict(zip(keys, in_threads(check, keys, nj)))
    bad = {k: f for k, f in found.items() if isinstance(f, str)}
    if bad:
        report = Path(f"{output}.unusable_audio")
        write_table(report, {k: f"{waves[k]} {bad[k]}" for k in bad})
        first = sorted(bad)[0]
        raise UserError(
            f"{source}: {len(bad)} of {len(keys)} audio files cannot be used; the "
            f"first: {waves[first]} ({bad[first]}); all are listed in {report}: "
            "fix them or remove them from the data folder"
        )

    # a tab would become a separate token instead of a space
    tables["text"] = {k: re.sub(r"\s", " ", v) for k, v in tables["text"].items()}
    Path(f"{output}.unusable_audio").unlink(missing_ok=True)
    temporary = fresh_dir(output)
    samples = {k: found[k].samples for k in keys}
    other = [
        k for k in keys if (found[k].rate, found[k].reader) != (rate, "libsndfile")
    ]
    if other:
        (temporary / "resampled").mkdir()

        def convert(key):
            name = f"{quoted_name(key)}.flac"
            count = _convert(waves[key], temporary / "resampled" / name, rate)
            return count, str(Path(output) / "resampled" / name)

        for key, (count, path) in zip(other, in_threads(convert, other, nj)):
            samples[key], waves[key] = count, path
    tables["utt2num_samples"] = {k: str(n) for k, n in samples.items()}
    write_data_dir(temporary, tables, keys)
    write_text(temporary / "feats_type", "raw\n")
    replace_dir(temporary, output)
    hours = sum(samples.values()) / rate / 3600
    line = f"{output}: {counted(len(keys), 'utterance')}, {hours:.2f} h"
    rates = [found[k].rate for k in other if found[k].rate != rate]
    if rates:
        line += f", {len(rates)} resampled from {sorted(set(rates))} Hz to {rate} Hz"
    forms = [found[k].format for k in other if found[k].reader != "libsndfile"]
    if forms:
        line += f", {len(forms)} converted from {', '.join(sorted(set(forms)))}"
    return line


def filter_data_dir(
    source: PathLike, output: PathLike, rate: int, shortest: float, longest: float
) -> str:
    """Leave out utterances that are too short, too long or without text (stage 4).

    Like ESPnet, it keeps ``shortest < duration < longest`` (seconds). Removed
    utterances are listed with the reason in ``<output>/removed.txt``.

    Returns:
        One line about the result.
    """
    tables = read_data_dir(source)
    samples = read_lengths(source, tables["text"])
    tables["utt2num_samples"] = {key: str(n) for key, n in samples.items()}
    extracted = (Path(source) / FEATURE_TABLES[0]).exists()
    if extracted:
        for name in FEATURE_TABLES:
            tables[name] = read_table(Path(source) / name)
    removed: Dict[str, str] = {}
    counts = {"too short": 0, "too long": 0, "without text": 0}
    for key, words in tables["text"].items():
        seconds = samples[key] / rate
        if seconds <= shortest:
            reason, detail = "too short", f"{seconds:.3f} s"
        elif seconds >= longest:
            reason, detail = "too long", f"{seconds:.3f} s"
        elif not words:
            reason, detail = "without text", ""
        else:
            continue
        counts[reason] += 1
        removed[key] = f"{reason} {detail}".strip()
    keys = [k for k in tables["text"] if k not in removed]
    if not keys:
        raise UserError(
            f"{source}: no utterance is left: all {len(removed)} are shorter than "
            f"{shortest} s, longer than {longest} s or without text "
            "(--min_wav_duration, --max_wav_duration)"
        )
    temporary = fresh_dir(output)
    write_data_dir(temporary, tables, keys)
    write_table(temporary / "removed.txt", removed)
    write_text(temporary / "feats_type", "extracted\n" if extracted else "raw\n")
    for name in FEATURE_FILES if extracted else ():
        shutil.copyfile(Path(source) / name, temporary / name)
    replace_dir(temporary, output)
    line = f"{output}: kept {len(keys)} of {len(tables['text'])} utterances"
    if removed:
        what = ", ".join(f"{n} {reason}" for reason, n in counts.items() if n)
        line += f"; left out: {what} (named in {output}/removed.txt)"
    return line


def split_keys(keys: Sequence[str], jobs: int) -> List[List[str]]:
    """Cut a list into at most ``jobs`` contiguous, near-equal, non-empty parts."""
    jobs = max(1, min(jobs, len(keys)))
    size, rest = divmod(len(keys), jobs)
    parts, start = [], 0
    for job in range(jobs):
        stop = start + size + (job < rest)
        parts.append(list(keys[start:stop]))
        start = stop
    return parts


def audio_files(folder: PathLike) -> List[str]:
    """Return the audio files named in a data folder's ``wav.scp`` (none if absent)."""
    path = Path(folder) / "wav.scp"
    return list(read_table(path).values()) if os.path.isfile(path) else []
