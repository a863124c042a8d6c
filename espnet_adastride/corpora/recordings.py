"""Read any recording as mono at a model's sampling rate; find and cut recordings.

``corpora/audio.py`` decodes the files.
"""

import os
import struct
import sys
from pathlib import Path
from typing import (
    BinaryIO,
    Dict,
    Iterable,
    Iterator,
    List,
    NamedTuple,
    Optional,
    Sequence,
    Tuple,
    Union,
)

import numpy as np

from espnet_adastride.corpora.audio import (
    Say,
    is_media,
    log_line,
    read_samples,
    read_to_end,
)
from espnet_adastride.corpora.containers import other_than_samples
from espnet_adastride.errors import AudioError
from espnet_adastride.files import AUDIO_SUFFIXES, files_in, shown
from espnet_adastride.options import LOWEST_RATE

STDIN = "-"
#: (n, channels) with more channels than samples is taken for (channels, n) from here on
MOST_CHANNELS = 32

#: window and step of the energy curve in seconds
ENERGY_WINDOW = 0.03
ENERGY_STEP = 0.01
#: steps computed at a time
ENERGY_BLOCK = 6000
#: minimum length of a pause in seconds
SHORTEST_PAUSE = 0.2
#: length in seconds of the window that defines quiet
NEIGHBOURHOOD = 4.0
#: amplitude of silence (-80 dB of full scale)
SILENT = 1e-4
#: channels cancel if their mean has this share (-20 dB) of the loudest one's energy
CANCELLED = 0.01
#: peaks up to this value occur in lossy formats; above, samples are wrongly scaled
HOT, SCALED = 2.0, 16.0


def read_audio(
    source: Union[str, Path], rate: int, say: Optional[Say] = None
) -> np.ndarray:
    """Return a recording, mixed down and resampled.

    Args:
        source: a file, or ``-`` for standard input.
        rate: target sampling rate in Hz.
        say: called with warnings, one line each; None: log them.

    Returns:
        (samples,) float32, at least one sample, all finite.

    Raises:
        AudioError: if there is no such file, or it cannot be decoded, is empty or has
            non-finite samples.
    """
    if str(source).endswith("|") and not os.path.exists(source):  # of a wav.scp
        raise AudioError(f"{source}: is a piped command; give an audio file")
    content: Union[str, Path, bytes] = source
    name = shown(source)
    if str(source) == STDIN:
        name = "standard input"
        content = read_to_end(sys.stdin.buffer, name)
        if not content:
            raise AudioError(f"{name}: empty; pipe an audio file into it")
    wave, info = read_samples(content, name, say)
    return prepare(wave, info.rate, rate, name, say)


def is_missing(audio: str) -> bool:
    """Return whether a recording is no file, command (``... |``) or standard input."""
    return audio != STDIN and not audio.endswith("|") and not os.path.exists(audio)


def name_of(audio: str) -> str:
    """Return the name of a recording, without folder and suffix."""
    return "stdin" if audio == STDIN else shown(Path(audio).stem)


def read_pcm(stream: BinaryIO, rate: int, size: int) -> Iterator[np.ndarray]:
    """Yield samples from a pipe as they arrive, e.g. from a microphone.

    Args:
        stream: raw 16-bit little-endian mono samples, or a WAV file of such samples;
            the lengths in the WAV header are ignored, because pipes cannot know them.
        rate: sampling rate in Hz.
        size: samples to yield at a time; the last ones may be fewer.

    Raises:
        AudioError: if it has no samples, the header describes another format, or the
            first samples are text, an archive or compressed audio.
    """
    fix = (
        f"pipe 16-bit mono at {rate} Hz into it: arecord -f S16_LE -r {rate} -t raw, or"
        f" ffmpeg -i FILE -f s16le -ac 1 -ar {rate} -"
    )
    head = stream.read(12)
    if not head:
        raise AudioError(f"standard input: empty; {fix}")
    if head[:4] == b"RIFF" and head[8:] == b"WAVE":
        _read_wav_header(stream, rate, fix)
        head = b""
    else:
        head += stream.read(max(2 * size - len(head), 0))
        problem = other_than_samples(head)
        if problem:
            raise AudioError(f"standard input: {problem}; {fix}")
    heard = False
    while True:
        content = head + stream.read(max(2 * size - len(head), 0))
        head = b""
        samples = np.frombuffer(content[: len(content) // 2 * 2], dtype="<i2")
        if len(samples):
            heard = True
            yield samples.astype(np.float32) / 32768
        if len(content) < 2 * size:
            break
    if not heard:
        raise AudioError(f"standard input: no samples; {fix}")


def _read_wav_header(stream: BinaryIO, rate: int, fix: str) -> None:
    """Read up to a WAV's samples; reject all but 16-bit mono at this rate."""
    found = None
    while True:
        name, length = stream.read(4), int.from_bytes(stream.read(4), "little")
        if len(name) < 4:
            raise AudioError(f"standard input: a WAV without samples; {fix}")
        if name == b"data":
            break
        content = stream.read(length + length % 2)
        if name == b"fmt " and len(content) >= 16:
            found = struct.unpack("<HHIIHH", content[:16])
    if found is None or (found[1], found[2], found[5]) != (1, rate, 16):
        what = "no format" if found is None else f"{found[5]} bits at {found[2]} Hz"
        channels = "" if found is None or found[1] == 1 else f", {found[1]} channels"
        raise AudioError(f"standard input: a WAV of {what}{channels}; {fix}")


def sample_problem(wave: np.ndarray) -> str:
    """Return the problem of samples; "" if none.

    Args:
        wave: of any shape, floats.
    """
    peak = _peak(wave)
    if not np.isfinite(peak):
        wrong = np.count_nonzero(~np.isfinite(wave))
        one = "1 sample is not a number"
        what = one if wrong == 1 else f"{wrong} samples are not numbers"
        return f"{what} (NaN, infinite); export it again"
    if peak > SCALED:
        for bits in (16, 24, 32):
            if peak <= 2 ** (bits - 1):
                break
        return (
            f"samples reach {peak:.6g}, outside [-1, 1]: they seem to be scaled as "
            f"{bits}-bit integers; divide them by {2 ** (bits - 1)}"
        )
    return ""


def prepare(
    wave: np.ndarray, found: int, rate: int, name: str, say: Optional[Say] = None
) -> np.ndarray:
    """Return samples as (n,) float32 at another rate, mixed down.

    Channels are averaged. If they cancel each other (one is the negative of the
    other), the loudest one is used.

    Args:
        wave: (n,) or (n, channels), numbers in [-1, 1].
        found: its sampling rate in Hz.
        rate: target sampling rate in Hz.
        name: for messages.
        say: called with warnings, one line each; None: log them.

    Raises:
        AudioError: for non-finite samples, samples far outside [-1, 1], no samples, or
            a rate that no recording has.
    """
    say = say or log_line
    wave = np.asarray(wave)
    if wave.size == 0:
        raise AudioError(f"{name}: no samples; record or copy it again")
    turned = wave.ndim == 2 and wave.shape[1] > max(len(wave), MOST_CHANNELS)
    if wave.ndim not in (1, 2) or turned:
        raise AudioError(
            f"{name}: samples must be (n,) or (n, channels), got {wave.shape}; if that "
            "is (channels, n), as in torchaudio, transpose it (wave.T)"
        )
    if not np.issubdtype(wave.dtype, np.floating):
        fix = ""
        if np.issubdtype(wave.dtype, np.signedinteger):
            fix = f"; divide them by {2 ** (8 * wave.dtype.itemsize - 1)}"
        raise AudioError(
            f"{name}: samples must be floats in [-1, 1], got {wave.dtype}{fix}"
        )
    problem = sample_problem(wave)
    if problem:
        raise AudioError(f"{name}: {problem}")
    if found < LOWEST_RATE:
        raise AudioError(
            f"{name}: {found:g} samples per second, but speech has {LOWEST_RATE} or "
            "more; correct the rate, or get the file again"
        )
    wave = wave.astype(np.float32, copy=False)
    peak = _peak(wave)
    if peak > HOT:
        say(f"{name}: samples reach {peak:.2f}, outside [-1, 1]; check its scale")
    if wave.ndim == 2:
        wave = _mixed(wave, name, say)
    if found != rate:
        import soxr

        wave = soxr.resample(wave, found, rate)
        if len(wave) == 0:
            raise AudioError(f"{name}: too short to resample to {rate} Hz")
    return np.ascontiguousarray(wave, dtype=np.float32)


def _mixed(wave: np.ndarray, name: str, say: Say) -> np.ndarray:
    """Return the mean of channels (n, channels), or the loudest if they cancel."""
    if wave.shape[1] == 1:
        return wave[:, 0]
    mixed = wave.mean(axis=1)
    power = _power(wave)
    best = int(power.argmax())
    if _power(mixed) < CANCELLED * power[best]:
        if not is_silent(wave[:, best]):
            say(
                f"{name}: its channels cancel each other (one is inverted); only "
                f"channel {best + 1} of {wave.shape[1]} is used"
            )
            return wave[:, best]
    return mixed


def _peak(wave: np.ndarray) -> float:
    """Return the largest magnitude, 0 of no samples, NaN if one is; copies nothing."""
    if wave.size == 0:
        return 0.0
    return max(float(wave.max()), -float(wave.min()))


def _power(wave: np.ndarray) -> np.ndarray:
    """Return the energy of (n,) or, by channel, of (n, channels), summed in float64.

    Without a copy in float64, which is twice as large as the recording.
    """
    return np.einsum("n...,n...->...", wave, wave, dtype=np.float64)


class Source(NamedTuple):
    """A recording to read.

    Attributes:
        path: file, or ``-``.
        name: name of its outputs, without suffix: the path within the given
            folder, or the file name.
        full: the same with suffix, for recordings that only differ in it.
    """

    path: str
    name: str
    full: str


def _source(path: str, shown: Path) -> Source:
    return Source(path, str(shown.with_suffix("")), str(shown))


class Found(NamedTuple):
    """The content of files and folders.

    Attributes:
        sources: the recordings.
        unread: files in folders that are media by their content but not by
            their name, or unsupported media.
        others: number of other files in the folders.
    """

    sources: List[Source]
    unread: List[str]
    others: int


def find_media(
    paths: Sequence[str], leave_out: Iterable[Union[str, Path]] = ()
) -> Found:
    """Find the recordings in files and folders.

    Folders are walked recursively (:func:`files_in`). Files given by name are always
    taken; problems appear when they are read.

    Args:
        paths: files, folders, or ``-``.
        leave_out: files and folders below those folders that are not read.

    Raises:
        AudioError: for an empty name, e.g. from an unset shell variable.
    """
    sources: List[Source] = []
    unread: List[str] = []
    others = 0
    if "" in paths:
        raise AudioError("a recording's name is empty; check for an unset variable")
    for path in dict.fromkeys(paths):
        if path == STDIN:
            sources.append(Source(STDIN, "stdin", "stdin"))
        elif not os.path.isdir(path):
            sources.append(_source(path, Path(Path(path).name)))
        else:
            for file in files_in(Path(path), leave_out=leave_out):
                if file.suffix.lower() in AUDIO_SUFFIXES:
                    sources.append(_source(str(file), file.relative_to(path)))
                elif is_media(file):
                    unread.append(str(file))
                else:
                    others += 1
    once: Dict[str, Source] = {}
    for source in sources:  # a file may be given in addition to its folder
        once.setdefault(os.path.normpath(source.path), source)
    taken = {os.path.normpath(path) for path in paths}
    unread = [path for path in unread if os.path.normpath(path) not in taken]
    return Found(list(once.values()), unread, others)


def describe_unread(unread: Sequence[str]) -> str:
    """Return one line on a folder's media files that are not read, naming them."""
    names = ", ".join(shown(path) for path in unread[:10])
    more = f" and {len(unread) - 10} more" if len(unread) > 10 else ""
    what = "file is" if len(unread) == 1 else "files are"
    return (
        f"{len(unread)} media {what} not read: {names}{more}; convert to wav or flac, "
        "or give them the suffix of their format"
    )


# ------------------------------------------------------------------- cutting


def energy(wave: np.ndarray, rate: int) -> np.ndarray:
    """Return the energy in dB of full scale around each 10 ms step, >= -100.

    Value i is that of the 30 ms window centred at (i + 0.5) steps.
    """
    step = max(int(round(ENERGY_STEP * rate)), 1)
    half = max(int(round((ENERGY_WINDOW - ENERGY_STEP) / 2 * rate)), 0)
    begin = np.arange(0, max(len(wave), 1), step)
    mean = np.empty(len(begin))
    for low in range(0, len(begin), ENERGY_BLOCK):  # an hour in float64 is large
        own = begin[low : low + ENERGY_BLOCK]
        first = (own - half).clip(0)
        last = (own + step + half).clip(max=len(wave))
        part = wave[first[0] : last[-1]].astype(np.float64)
        total = np.concatenate([[0.0], np.cumsum(part**2)])
        sums = total[last - first[0]] - total[first - first[0]]
        mean[low : low + len(own)] = sums.clip(0) / (last - first).clip(1)
    return 10 * np.log10(mean + 1e-10)


def find_pauses(level: np.ndarray) -> List[Tuple[int, int]]:
    """Return the pauses [begin, end) of an energy curve, in its steps.

    Quiet means the lower half between the floor and the loud parts (the 5th and 95th
    percentile) of the surrounding four seconds: noise does not matter as long as speech
    exceeds it, and its level may change between sentences.
    """
    width = min(round(NEIGHBOURHOOD / ENERGY_STEP), len(level))
    centres = np.arange(0, len(level), max(width // 8, 1))
    limits = []
    for centre in centres:
        first = max(0, min(centre - width // 2, len(level) - width))
        limits.append(np.percentile(level[first : first + width], [5, 95]))
    floor, loud = (
        np.interp(np.arange(len(level)), centres, column)
        for column in np.array(limits).T
    )
    stands_out = loud - floor >= 6.0
    quiet = np.zeros(len(level) + 2, dtype=bool)
    quiet[1:-1] = stands_out & (level < (floor + loud) / 2)
    change = np.flatnonzero(quiet[1:] != quiet[:-1])
    shortest = round(SHORTEST_PAUSE / ENERGY_STEP)
    return [(a, b) for a, b in zip(change[::2], change[1::2]) if b - a >= shortest]


def cut_at_pauses(
    wave: np.ndarray, rate: int, longest: float = 20.0
) -> List[Tuple[int, int]]:
    """Return segments [begin, end) in samples that cover a recording, none too long.

    A recording that is short enough stays whole. Otherwise each segment ends in the
    middle of the longest pause between a third of the maximum duration and all of it;
    if there is no pause, at the quietest point of the last half. Nothing is left out.

    Args:
        wave: (n,).
        rate: samples per second.
        longest: maximum length of a segment in seconds, > 0.
    """
    most = max(int(longest * rate), 1)
    if len(wave) <= most:
        return [(0, len(wave))]
    level = energy(wave, rate)
    step = max(int(round(ENERGY_STEP * rate)), 1)
    pauses = find_pauses(level)
    # over 0.2 s, so that a stop consonant is not a quiet point
    width = min(round(SHORTEST_PAUSE / ENERGY_STEP), len(level))
    smooth = np.convolve(level, np.ones(width) / width, mode="same")
    segments, begin = [], 0
    while len(wave) - begin > most:
        # the rest must not be too short for an encoder
        low, high = begin + most // 3, min(begin + most, len(wave) - most // 6)
        best = None
        for a, b in pauses:
            # the part of the pause where a cut is possible
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
    """Return whether a recording is silent: all samples below -80 dB of full scale."""
    return _peak(wave) < SILENT
