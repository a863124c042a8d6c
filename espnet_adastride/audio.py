"""Read any recording as one channel at a model's rate; find them; cut long ones.

What libsndfile reads is read: wav, flac, ogg and opus, mp3, aiff, au, caf ... at any
rate and with any number of channels.
"""

import io
import os
import sys
from pathlib import Path
from typing import Dict, Iterator, List, NamedTuple, Sequence, Tuple, Union

import numpy as np

#: what is taken from folders; a file named on the command line may be called anything
AUDIO_SUFFIXES = frozenset(
    ".wav .flac .ogg .oga .opus .mp3 .aif .aiff .aifc .au .caf .w64 .rf64 .nist "
    ".sph".split()
)
STDIN = "-"

#: seconds over which energy is averaged, and from one value to the next
ENERGY_WINDOW = 0.03
ENERGY_STEP = 0.01
#: a pause lasts so many seconds at least
SHORTEST_PAUSE = 0.2
#: below this amplitude (-80 dB of full scale) there is nothing to hear
SILENT = 1e-4


class AudioError(ValueError):
    """A recording that cannot be used; one line that names it and the mend."""


def read_audio(source: Union[str, Path], rate: int, name: str = "") -> np.ndarray:
    """Return a recording, mixed down and resampled.

    Args:
        source: a file, or ``-`` for standard input.
        rate: samples per second that are wanted.
        name: for messages, if not ``source``.

    Returns:
        (samples,) float32, at least one sample, all finite.

    Raises:
        AudioError: if there is no such file, it cannot be decoded, is empty or holds
            samples that are not numbers.
    """
    import soundfile

    name = name or ("standard input" if str(source) == STDIN else str(source))
    try:
        if str(source) == STDIN:
            data = sys.stdin.buffer.read()
            if not data:
                raise AudioError(f"{name}: empty; pipe an audio file into it")
            file = io.BytesIO(data)
        else:
            if os.path.isfile(source) and os.path.getsize(source) == 0:
                raise AudioError(f"{name}: an empty file; record or copy it again")
            file = str(source)
        wave, found = soundfile.read(file, dtype="float32", always_2d=True)
    except soundfile.SoundFileError as error:
        if str(source) != STDIN and not os.path.exists(source):
            raise AudioError(f"{name}: no such file") from None
        reason = getattr(error, "error_string", str(error)).strip(" .\n")
        raise AudioError(
            f"{name}: not audio that can be read ({reason}); convert it to wav or flac"
        ) from None
    except OSError as error:
        raise AudioError(f"{name}: cannot be read ({error.strerror})") from None
    if len(wave) == 0:
        raise AudioError(f"{name}: no samples; record or copy it again")
    return prepare(wave, found, rate, name)


def prepare(wave: np.ndarray, found: int, rate: int, name: str) -> np.ndarray:
    """Return samples as (n,) float32 at another rate, mixed down.

    Args:
        wave: (n,) or (n, channels), numbers in [-1, 1].
        found: its samples per second.
        rate: samples per second that are wanted.
        name: for messages.

    Raises:
        AudioError: for samples that are not numbers, or none.
    """
    wave = np.asarray(wave)
    if wave.ndim not in (1, 2) or wave.size == 0:
        raise AudioError(
            f"{name}: samples must be (n,) or (n, channels), got {wave.shape}"
        )
    if not np.issubdtype(wave.dtype, np.floating):
        raise AudioError(f"{name}: samples must be floats in [-1, 1], got {wave.dtype}")
    wrong = np.count_nonzero(~np.isfinite(wave))
    if wrong:
        raise AudioError(
            f"{name}: {wrong} samples are not numbers (NaN, infinite); export it again"
        )
    wave = wave.astype(np.float32, copy=False)
    if wave.ndim == 2:
        wave = wave[:, 0] if wave.shape[1] == 1 else wave.mean(axis=1)
    if found != rate:
        import soxr

        wave = soxr.resample(wave, found, rate)
        if len(wave) == 0:
            raise AudioError(f"{name}: too short to be resampled to {rate} Hz")
    return np.ascontiguousarray(wave, dtype=np.float32)


class Source(NamedTuple):
    """A recording to read.

    Attributes:
        path: file, or ``-``.
        name: what its outputs are called, without suffix: the path within the folder
            that was given, else the file's name.
        full: the same with suffix, for recordings that differ in nothing else.
    """

    path: str
    name: str
    full: str


def _source(path: str, shown: Path) -> Source:
    return Source(path, str(shown.with_suffix("")), str(shown))


def find_audio(paths: Sequence[str]) -> Tuple[List[Source], int]:
    """Return the recordings in files and folders, and how many other files lie there.

    Folders are walked recursively, in order of names; what begins with a dot is left
    out. Files that are named are taken whatever they are called, existing or not:
    reading tells.

    Raises:
        AudioError: for an empty name, e.g. of a shell's variable that is not set.
    """
    sources: List[Source] = []
    skipped = 0
    if "" in paths:
        raise AudioError("a recording's name is empty; is a variable not set?")
    for path in dict.fromkeys(paths):
        if path == STDIN:
            sources.append(Source(STDIN, "stdin", "stdin"))
        elif not os.path.isdir(path):
            sources.append(_source(path, Path(Path(path).name)))
        else:
            for file in _files(Path(path)):
                if file.suffix.lower() in AUDIO_SUFFIXES:
                    sources.append(_source(str(file), file.relative_to(path)))
                else:
                    skipped += 1
    once: Dict[str, Source] = {}
    for source in sources:  # a file may be named beside its folder
        once.setdefault(os.path.normpath(source.path), source)
    return list(once.values()), skipped


def _files(folder: Path) -> Iterator[Path]:
    for here, folders, files in os.walk(folder):
        folders[:] = sorted(f for f in folders if not f.startswith("."))
        for name in sorted(files):
            if not name.startswith("."):
                yield Path(here) / name


# ------------------------------------------------------------------- cutting


def energy(wave: np.ndarray, rate: int) -> np.ndarray:
    """Return the energy in dB of full scale around each 10 ms step, >= -100.

    Value i is of the window of 30 ms centred at (i + 0.5) steps.
    """
    step = max(int(round(ENERGY_STEP * rate)), 1)
    half = max(int(round((ENERGY_WINDOW - ENERGY_STEP) / 2 * rate)), 0)
    total = np.concatenate([[0.0], np.cumsum(wave.astype(np.float64) ** 2)])
    begin = np.arange(0, max(len(wave), 1), step)
    first = (begin - half).clip(0)
    last = (begin + step + half).clip(max=len(wave))
    mean = (total[last] - total[first]).clip(0) / (last - first).clip(1)
    return 10 * np.log10(mean + 1e-10)


def find_pauses(level: np.ndarray) -> List[Tuple[int, int]]:
    """Return the pauses [begin, end) of an energy curve, in its steps.

    Quiet is what lies in the lowest quarter between the recording's floor and its loud
    parts (the 5th and 95th percentile), both of them its own: noise does not matter
    while speech stands out of it.
    """
    floor, loud = np.percentile(level, [5, 95])
    if loud - floor < 6.0:  # nothing stands out
        return []
    quiet = np.concatenate([[False], level < floor + (loud - floor) / 4, [False]])
    change = np.flatnonzero(quiet[1:] != quiet[:-1])
    shortest = round(SHORTEST_PAUSE / ENERGY_STEP)
    return [(a, b) for a, b in zip(change[::2], change[1::2]) if b - a >= shortest]


def cut_at_pauses(
    wave: np.ndarray, rate: int, longest: float = 20.0
) -> List[Tuple[int, int]]:
    """Return segments [begin, end) in samples that cover a recording, none too long.

    A recording that is short enough stays whole. Else each segment ends in the middle
    of the longest pause between a third of the longest duration and all of it; where
    there is no pause, at the quietest place of the last half. Nothing is left out.

    Args:
        wave: (n,).
        rate: samples per second.
        longest: seconds of a segment at most, > 0.
    """
    most = max(int(longest * rate), 1)
    if len(wave) <= most:
        return [(0, len(wave))]
    level = energy(wave, rate)
    step = max(int(round(ENERGY_STEP * rate)), 1)
    pauses = find_pauses(level)
    # over 0.2 s, so that a stop consonant is no quiet place
    width = min(round(SHORTEST_PAUSE / ENERGY_STEP), len(level))
    smooth = np.convolve(level, np.ones(width) / width, mode="same")
    segments, begin = [], 0
    while len(wave) - begin > most:
        # what is left must not be so short that an encoder refuses it
        low, high = begin + most // 3, min(begin + most, len(wave) - most // 6)
        best = None
        for a, b in pauses:
            # the part of the pause that a cut can lie in
            a, b = max(a * step, low), min(b * step, high)
            if b - a > 0 and (best is None or b - a > best[1] - best[0]):
                best = a, b
        if best is not None:
            cut = (best[0] + best[1]) // 2
        else:
            first = -(-(begin + most // 2) // step)
            last = max(high // step, first + 1)
            cut = (first + int(np.argmin(smooth[first:last]))) * step + step // 2
        cut = min(max(cut, begin + 1), high)
        segments.append((begin, cut))
        begin = cut
    segments.append((begin, len(wave)))
    return segments


def is_silent(wave: np.ndarray) -> bool:
    """Return whether nothing can be heard: all samples below -80 dB of full scale."""
    return bool(len(wave) == 0 or np.abs(wave).max() < SILENT)
