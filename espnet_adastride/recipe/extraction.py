"""Extract features of a set: turn a data folder of audio into one of features.

``<output>/feats.scp`` points into archives of :data:`PART` utterances each,
``<output>/feats/feats.N.ark``. Archives are written atomically, and archives of an
interrupted run are kept if they were made by the same upstream from the same audio.
"""

import contextlib
import shutil
from pathlib import Path
from typing import Dict, List, NamedTuple, Sequence

from espnet_adastride.corpora.archives import write_matrix
from espnet_adastride.corpora.datadir import (
    read_data_dir,
    read_lengths,
    read_mono,
    read_table,
    write_data_dir,
    write_table,
)
from espnet_adastride.corpora.features import Upstream
from espnet_adastride.corpora.upstream_record import RECORD_NAME
from espnet_adastride.errors import AudioError, UserError, counted, located
from espnet_adastride.files import (
    PathLike,
    keep_if_made_from,
    write_text,
    written_whole,
)
from espnet_adastride.progress import in_threads, progress_bar

PART = 100  # utterances per archive
ARCHIVES = "feats"  # their folder, in the set's folder
MADE_FROM = ".made_from.json"
BYTES = 2  # bytes per value on disk


class _Part(NamedTuple):
    """An archive and its utterances."""

    archive: Path
    keys: List[str]

    @property
    def index(self) -> Path:
        """``feats.N.scp``: written after the archive, to mark it as complete."""
        return self.archive.with_suffix(".scp")


def _read_wave(path: str, key: str, rate: int):
    try:
        wave, info = read_mono(path)
    except AudioError as error:
        raise UserError(f"{key}: {error} (or remove it from the data folder)") from None
    if info.rate != rate:
        raise UserError(
            f"{path} ({key}) has {info.rate} Hz, but the upstream needs {rate} Hz: "
            f"format the audio with --fs {rate} (stage 3)"
        )
    return wave


def _check_space(output: Path, needed: int) -> None:
    free = shutil.disk_usage(output).free
    if needed > free:
        raise UserError(
            f"{output}: the features need {needed / 2**30:.2f} GiB, but "
            f"{free / 2**30:.2f} GiB are free: free some space, or give another "
            "--dumpdir"
        )


def _parts(output: Path, keys: Sequence[str]) -> List[_Part]:
    parts = []
    for number, begin in enumerate(range(0, len(keys), PART), 1):
        path = output / ARCHIVES / f"feats.{number}.ark"
        parts.append(_Part(path, list(keys[begin : begin + PART])))
    return parts


def _write_part(part: _Part, features) -> None:
    """Write an archive and its index; features are in the order of the keys."""
    places: Dict[str, str] = {}
    with written_whole(part.archive) as temporary:
        with temporary.open("wb") as file:
            for key, matrix in zip(part.keys, features):
                offset = write_matrix(file, key, matrix)
                places[key] = f"{part.archive}:{offset}"
    write_table(part.index, places)


def _is_whole(part: _Part) -> bool:
    try:
        return part.archive.is_file() and list(read_table(part.index)) == part.keys
    except UserError:
        return False


def extract_data_dir(
    source: PathLike, output: PathLike, upstream: Upstream, nj: int, work: dict
) -> str:
    """Write a data folder with the features of a set.

    Next to ``feats.scp`` it has the tables of the source, ``utt2num_samples``,
    ``utt2num_frames``, ``feats_dim``, ``feats_type`` and ``upstream.yaml``.

    Args:
        source: a formatted data folder (stage 3).
        output: the output data folder.
        upstream: computes the features.
        nj: recordings encoded in parallel.
        work: fingerprint of the input.

    Returns:
        One line about the result.

    Raises:
        UserError: naming the unusable recording, or if the disk is too small.
    """
    output, record = Path(output), upstream.record
    tables = read_data_dir(source)
    samples = read_lengths(source, tables["text"])
    tables["utt2num_samples"] = {key: str(n) for key, n in samples.items()}
    waves = tables["wav.scp"]
    keys = sorted(waves)
    archives = output / ARCHIVES
    keep_if_made_from(work, archives, archives / MADE_FROM)
    parts = _parts(output, keys)
    todo = [part for part in parts if not _is_whole(part)]
    frames = sum(record.count(samples[k]) for part in todo for k in part.keys)
    _check_space(output, frames * record.dimensions * BYTES)
    done = len(keys) - sum(len(part.keys) for part in todo)
    hours = sum(samples.values()) / record.rate / 3600

    def encode(key):
        wave = _read_wave(waves[key], key, record.rate)
        if len(wave) != samples[key]:
            raise UserError(
                f"{waves[key]} ({key}) has {len(wave)} samples, but {samples[key]} "
                "when it was formatted: format the audio again (stage 3)"
            )
        with located(f"{waves[key]} ({key})", AudioError):
            return upstream(wave)

    def with_progress(results):
        for features in results:
            bar.update()
            yield features

    with progress_bar(len(keys), "extracting", "utterance", done) as bar:
        for part in todo:
            # closed if writing fails, which cancels what is not begun
            with contextlib.closing(in_threads(encode, part.keys, nj)) as results:
                _write_part(part, with_progress(results))

    tables["feats.scp"] = {}
    for part in parts:
        tables["feats.scp"].update(read_table(part.index))
    tables["utt2num_frames"] = {k: str(record.count(n)) for k, n in samples.items()}
    write_data_dir(output, tables, keys)
    write_text(output / "feats_dim", f"{record.dimensions}\n")
    write_text(output / "feats_type", "extracted\n")
    write_text(output / RECORD_NAME, record.to_yaml())
    return (
        f"{output}: {counted(len(keys), 'utterance')}, {hours:.2f} h, "
        f"{record.dimensions} values "
        f"every {1000 * record.step:g} ms by {record.words()}"
    )
