"""Write classified recordings in the format of ESPnet's task ``cls``.

:func:`write_data` makes ``{train,valid,test}`` with ``wav.scp``, ``label``, ``utt2spk``
(the group) and ``shape`` (samples), and ``classes.txt``, the token list, of a seed's
split (``clips.py``). :func:`fit_recording` converts recordings that ESPnet cannot use.
"""

import hashlib
import re
from pathlib import Path
from typing import List, Tuple

from espnet_adastride.corpora.audio import read_samples
from espnet_adastride.corpora.clips import Clip, split_clips
from espnet_adastride.corpora.kaldi import write_lines
from espnet_adastride.corpora.recordings import prepare
from espnet_adastride.errors import UserError
from espnet_adastride.files import short_name, shown, write_flac, write_text

#: characters that ESPnet's tools do not read as part of a path
UNFIT = re.compile(r"[\s|]")


def utterance_id(clip_id: str) -> str:
    """Return a clip's id as a word, without white space."""
    return UNFIT.sub("_", clip_id).replace("/", "-")


def fit_recording(clip: Clip, rate: int, waves: Path) -> Tuple[Path, int]:
    """Return a file that ESPnet can read, and its number of samples.

    Args:
        clip: the recording.
        rate: target sampling rate in Hz.
        waves: folder for a converted copy, if needed.

    Raises:
        AudioError: it cannot be decoded, or has no samples.
    """
    path = clip.path.absolute()
    wave, info = read_samples(path)
    wave = prepare(wave, info.rate, rate, shown(path))
    fits = (info.rate, info.channels, info.reader) == (rate, 1, "libsndfile")
    if fits and not UNFIT.search(str(path)) and shown(path) == str(path):
        return path, info.samples
    # another folder of the corpus may have the same name
    status = path.stat()
    told = repr((str(path), status.st_size, status.st_mtime_ns, rate))
    digest = hashlib.sha256(told.encode()).hexdigest()[:8]
    copy = waves.absolute() / f"{short_name(utterance_id(clip.id))}-{digest}.flac"
    if UNFIT.search(str(copy)):
        raise UserError(
            f"{copy}: the path of a copy has white space or |; give another folder"
        )
    if not copy.is_file():
        write_flac(copy, wave, rate)
    return copy, len(wave)


def write_part(clips, folder: Path, rate: int, waves: Path, least: int) -> int:
    """Write one part's files; return how many recordings were converted to ``waves``.

    Raises:
        UserError: a recording cannot be used, or two have the same name.
    """
    rows: dict = {}
    for clip in clips:
        path, samples = fit_recording(clip, rate, waves)
        if samples < least:
            raise UserError(
                f"{clip.path}: too short: {samples} samples at {rate} Hz; {least} "
                "are needed for one frame; remove it from the corpus"
            )
        key = utterance_id(clip.id)
        if key in rows:
            raise UserError(f"{rows[key][0]} and {path} are both {key}; rename one")
        label, group = UNFIT.sub("_", clip.label), UNFIT.sub("_", clip.group)
        rows[key] = path, label, group, str(samples)
    for column, name in enumerate(("wav.scp", "label", "utt2spk", "shape")):
        write_lines(folder / name, {k: str(row[column]) for k, row in rows.items()})
    return sum(row[0].parent == waves.absolute() for row in rows.values())


def write_data(
    clips: List[Clip],
    split: str,
    seed: int,
    folder: Path,
    rate: int,
    waves: Path,
    least: int = 1,
) -> int:
    """Write the three parts of a seed's split and ``classes.txt``.

    Args:
        clips: of ``find_clips``.
        split: a word of ``clips.SPLITS``.
        seed: seed of the split.
        folder: output folder.
        rate: sampling rate of the model in Hz.
        waves: folder for converted recordings.
        least: minimum samples of a recording.

    Returns:
        The number of converted recordings.

    Raises:
        UserError: bad recordings or labels.
    """
    labels = sorted({UNFIT.sub("_", clip.label) for clip in clips})
    if len(labels) < len({clip.label for clip in clips}):
        raise UserError("two labels differ only in white space or |; rename one")
    converted = 0
    for part, indices in split_clips(clips, split, seed).items():
        own = [clips[index] for index in indices]
        converted += write_part(own, folder / part, rate, waves, least)
    # ESPnet's classifier drops the list's last entry (<unk>) from its classes
    write_text(folder / "classes.txt", "\n".join([*labels, "<unk>"]) + "\n")
    return converted
