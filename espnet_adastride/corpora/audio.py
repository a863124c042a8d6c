"""Decode audio files to samples: the only place that decides which reader is used.

libsndfile reads the formats that it decodes exactly: WAV, FLAC, Ogg, AIFF, AU, CAF,
NIST and others. FFmpeg, through PyAV (``av``), reads the rest (m4a, mp4, mkv, webm,
mov, aac, wma, amr ...), and files whose length libsndfile may get wrong: MP3, and
concatenated or truncated Ogg or FLAC. The content decides, not the file name
(``containers.py``).

Either the whole file is decoded, or an :class:`AudioError` explains the problem::

    info = audio_info(path)             # samples, rate, channels, format, reader
    wave, info = read_samples(path)     # (n, channels) float32
"""

import io
import logging
import os
from pathlib import Path
from typing import (
    IO,
    BinaryIO,
    Callable,
    Iterator,
    List,
    NamedTuple,
    Optional,
    Tuple,
    Union,
)

import numpy as np

from espnet_adastride.corpora.containers import (
    MISSING_SHARE,
    check_caf,
    check_joined,
    check_kinds,
    check_length,
    check_riff,
    end_of_first,
    file_size,
    is_media_head,
    is_mpeg,
    is_one_ogg,
    joined_kinds,
)
from espnet_adastride.errors import AudioError, no_such
from espnet_adastride.files import shown

Source = Union[str, Path, bytes]
Say = Callable[[str], None]

#: unsupported media: protected, MIDI, or parts of files
UNREAD_SUFFIXES = frozenset(".aax .aa .m4p .mid .midi .ds2".split())
#: if the packets end this early before the promised duration, the file was cut off
MISSING_SECONDS = 1.0
#: a larger share of undecodable packets is damage, not a tag in the stream
BAD_PACKETS = 0.02
#: bytes; as many as a WAV file can have
MOST_PIPED = 4 * 2**30
#: libsndfile's length of a FLAC file that was written to a pipe
UNKNOWN_LENGTH = 2**63 - 1
#: containers whose header has a measured duration, not an estimate
MEASURED = {"mov", "mp4", "matroska", "webm", "asf", "avi", "caf", "tta"}
#: those whose duration counts from time 0, not from the first timestamp
FROM_ZERO = {"matroska", "webm", "asf"}
#: containers with the time of each packet; the times of others are estimates
STAMPED = {"matroska", "webm", "mov", "mp4", "mpegts", "flv", "asf"}
#: seconds without samples that are filled, above the delay of a codec (WMA: 0.17) and
#: the jitter of live recordings
SHORTEST_GAP = 0.2
#: seconds; a longer gap is a damaged or wrapped timestamp
LONGEST_GAP = 4 * 3600.0
EXTRA = "install PyAV: pip install av, or this package's extra [audio]"


class AudioInfo(NamedTuple):
    """Length and format of a file.

    Attributes:
        samples: number of samples of each channel.
        rate: samples per second.
        channels: number of channels.
        format: ``WAV``, ``FLAC`` ... (libsndfile's name), ``mp3``, ``mov`` ...
            (FFmpeg's).
        reader: ``libsndfile`` or ``ffmpeg``. ESPnet reads with libsndfile, so it gets
            the same samples only for the former.
    """

    samples: int
    rate: int
    channels: int
    format: str
    reader: str

    @property
    def seconds(self) -> float:
        """Duration."""
        return self.samples / self.rate


def is_media(path) -> bool:
    """Return whether a file is audio or video, by its suffix or first bytes."""
    if Path(path).suffix.lower() in UNREAD_SUFFIXES:
        return True
    try:
        with open(os.fsencode(path), "rb") as file:
            return is_media_head(file.read(16))
    except OSError:
        return False


def audio_info(path: Source, name: str = "") -> AudioInfo:
    """Return the length and audio format of a file.

    For libsndfile's formats the header is trusted (reading verifies it). Other files
    are decoded to their end, because their headers are estimates.

    Args:
        path: a file, or its content as bytes.
        name: for messages, if not ``path``.

    Raises:
        AudioError: if it cannot be decoded.
    """
    name = name or _name(path)
    with _opened(path, name) as file:
        header = _sound_header(file, name)
        if header is not None:
            return header
        return _decoded_info(file, name, log_line)


def quick_seconds(path: Union[str, Path]) -> float:
    """Return the duration given by a file's header; 0 if unknown.

    For progress bars: unlike :func:`audio_info` it never decodes and may be wrong. A
    pipe can be read only once, and not here.
    """
    if not os.path.isfile(path):
        return 0.0
    try:
        with _opened(path, _name(path)) as file:
            header = _sound_header(file, "", search=False)
            if header is not None:
                return header.seconds
            import av

            file.seek(0)
            with _open_container(av, file) as container:
                return (container.duration or 0) / 1e6
    except (AudioError, ImportError, OSError, ValueError, ArithmeticError):
        return 0.0


def read_samples(
    path: Source, name: str = "", say: Optional[Say] = None
) -> Tuple[np.ndarray, AudioInfo]:
    """Return the samples of a file, and what :func:`audio_info` says of it.

    Args:
        path: a file, or its content as bytes.
        name: for messages, if not ``path``.
        say: called with warnings, one line each; None: log them.

    Returns:
        (n, channels) float32, integers scaled to [-1, 1); n may be 0.

    Raises:
        AudioError: if part of it cannot be decoded.
    """
    name = name or _name(path)
    with _opened(path, name) as file:
        header = _sound_header(file, name)
        if header is not None:
            return _read_sound(file, header, name), header
        parts: List[np.ndarray] = []
        info = _decoded_info(file, name, say or log_line, parts.append)
        return np.concatenate(parts, axis=1).T, info


# ------------------------------------------------------------------ opening


def _name(path: Source) -> str:
    return "the recording" if isinstance(path, bytes) else shown(path)


def log_line(line: str) -> None:
    """Log a warning: the default of ``say``."""
    logger = logging.getLogger(__name__)
    logger.setLevel(logging.WARNING)  # ESPnet's commands silence the root logger
    logger.warning(line)


def read_to_end(stream: IO[bytes], name: str) -> bytes:
    """Return what a pipe holds.

    Raises:
        AudioError: it has more than a WAV file can, so it may have no end.
    """
    parts, size = [], 0
    while True:
        parts.append(stream.read(2**20))
        size += len(parts[-1])
        if not parts[-1]:
            return b"".join(parts)
        if size > MOST_PIPED:
            raise AudioError(
                f"{name}: more than {MOST_PIPED >> 30} GiB, perhaps without an end; "
                "give an audio file"
            )


def _opened(path: Source, name: str) -> BinaryIO:
    if isinstance(path, bytes):
        if not path:
            raise AudioError(f"{name}: empty")
        return io.BytesIO(path)
    try:
        file = open(os.fsencode(path), "rb")
        if file.seekable() and file.seek(0, os.SEEK_END):
            file.seek(0)
            return file
        with file:  # a pipe, or empty
            content = read_to_end(file, name)
        if not content:
            raise AudioError(f"{name}: an empty file; record or copy it again")
        return io.BytesIO(content)
    except FileNotFoundError:
        raise AudioError(no_such(name, "check the path")) from None
    except OSError as error:
        raise AudioError(f"{name}: cannot be read ({error.strerror})") from None


# --------------------------------------------------------------- libsndfile


def _sound_header(
    file: BinaryIO, name: str, search: bool = True
) -> Optional[AudioInfo]:
    """Return libsndfile's information on a file; None: FFmpeg must read it.

    Args:
        file: the file.
        name: for messages.
        search: search FLAC, which has no size, for another file behind the first.

    Raises:
        AudioError: for WAV files that both would read only in part, and files that
            are shorter than their header says.
    """
    import soundfile

    check_riff(file, name)
    check_joined(file, end_of_first(file), name)
    if is_mpeg(file):  # its length is in the first frame's table, or an estimate
        return None
    try:
        info = soundfile.info(_for_libsndfile(file))
    except (soundfile.SoundFileError, RuntimeError, TypeError):
        return None
    finally:
        file.seek(0)
    if info.format == "MP3" or "MPEG" in info.subtype:
        return None
    if info.format == "OGG" and not is_one_ogg(file):
        return None
    if info.format == "FLAC" and search and joined_kinds(file):
        return None
    if info.frames == 0 and info.format in ("WAV", "RF64") and file_size(file) > 4096:
        return None  # the recorder never wrote the sizes
    if info.frames == UNKNOWN_LENGTH:
        return None
    check_length(file, info, name)
    return AudioInfo(
        info.frames, info.samplerate, info.channels, info.format, "libsndfile"
    )


def _for_libsndfile(file: BinaryIO):
    """Return the fastest input: a path, as bytes because of its encoding."""
    file.seek(0)
    return file if isinstance(file, io.BytesIO) else file.name


def _read_sound(file: BinaryIO, info: AudioInfo, name: str) -> np.ndarray:
    import soundfile

    try:
        with soundfile.SoundFile(_for_libsndfile(file)) as sound:
            wave = sound.read(info.samples, dtype="float32", always_2d=True)
    except (soundfile.SoundFileError, RuntimeError) as error:
        reason = getattr(error, "error_string", str(error)).strip(" .\n")
        raise AudioError(
            f"{name}: damaged or cut off ({reason}); get the file again"
        ) from None
    if len(wave) < info.samples:
        raise AudioError(
            f"{name}: damaged or cut off ({len(wave)} of {info.samples} samples); get "
            "the file again"
        )
    return wave


# ------------------------------------------------------------------- FFmpeg


class _Form(NamedTuple):
    rate: int
    channels: int
    format: str


def _decoded_info(
    file: BinaryIO, name: str, say: Say, keep: Callable = lambda part: None
) -> AudioInfo:
    """Decode a file to its end; ``keep`` is called with its parts (channels, n)."""
    samples, form = 0, None
    for part, form in _decoded(file, name, say):
        samples += part.shape[1]
        keep(part)
    if form is None:
        raise AudioError(f"{name}: no samples; record or copy it again")
    return AudioInfo(samples, form.rate, form.channels, form.format, "ffmpeg")


def _decoded(file: BinaryIO, name: str, say: Say) -> Iterator[Tuple[np.ndarray, _Form]]:
    """Yield the frames (channels, n) of a file's only audio stream.

    Raises:
        AudioError: PyAV is missing, or not all of the stream can be decoded.
    """
    try:
        import av
    except ImportError:
        raise AudioError(
            f"{name}: libsndfile may not read all of it; {EXTRA}"
        ) from None
    av.logging.set_level(av.logging.PANIC)
    check_caf(file, name)
    check_kinds(file, name)
    file.seek(0)
    try:
        container = _open_container(av, file)
    except (av.FFmpegError, OSError, ValueError) as error:
        raise AudioError(
            f"{name}: unreadable audio ({_reason(error)}); convert it to wav "
            "or flac, or get the file again"
        ) from None
    with container:
        stream = _only_stream(container, name)
        yield from _frames(container, stream, name, say)


def _open_container(av, file: BinaryIO):
    try:  # tags may be in any encoding
        return av.open(file, metadata_errors="ignore")
    except TypeError:  # PyAV 19 has no such option: this is its default
        file.seek(0)
        return av.open(file)


def _reason(error: Exception) -> str:
    return str(getattr(error, "strerror", None) or error).strip(" .\n")


def _only_stream(container, name: str):
    """Return a file's only audio stream; reject none or several."""
    streams = list(container.streams.audio)
    if not streams:
        kinds = sorted({s.type for s in container.streams if s.type})
        raise AudioError(
            f"{name}: no audio stream in it (streams: {', '.join(kinds) or 'none'}); "
            "give a file with sound"
        )
    if len(streams) > 1:
        words = [
            " ".join(
                filter(None, (str(n), s.metadata.get("language"), s.codec_context.name))
            )
            for n, s in enumerate(streams)
        ]
        raise AudioError(
            f"{name}: {len(streams)} audio streams ({', '.join(words)}); extract the "
            "right one (ffmpeg -i FILE -map 0:a:0 OUT.flac)"
        )
    if streams[0].codec_context is None:
        raise AudioError(
            f"{name}: FFmpeg does not support its audio codec; convert it to wav"
        )
    return streams[0]


class _Clock:
    """Fills what has no samples, so that sample n is n / rate s after the start.

    The start is that of all streams: the sound of a film may begin later, and
    recordings of calls have no packets while nobody speaks.

    Args:
        container: PyAV's.
    """

    def __init__(self, container):
        self.stamped = STAMPED & set(container.format.name.split(","))
        # a start before 0 is the codec's delay, which the decoder removes
        self.start = max(container.start_time or 0, 0) / 1e6
        self.end = (container.duration or 0) / 1e6 or float("inf")
        self.samples = 0
        self.filled, self.first, self.jump = 0.0, 0.0, ""

    def zeros(self, frame, form: _Form) -> Iterator[np.ndarray]:
        """Yield zeros (channels, n) up to a frame, in blocks, and count the frame."""
        count = self._missing(frame, form.rate)
        if count:
            if not self.filled:
                self.first = self.samples / form.rate
            self.filled += count / form.rate
        self.samples += count + frame.samples
        for begin in range(0, count, form.rate):
            size = min(form.rate, count - begin)
            yield np.zeros((form.channels, size), np.float32)

    def _missing(self, frame, rate: int) -> int:
        if not self.stamped or frame.time is None:
            return 0
        time, now = frame.time - self.start, self.samples / rate
        if time - now < SHORTEST_GAP:  # earlier, too: all samples are kept
            return 0
        if time > self.end or time - now > LONGEST_GAP:
            self.jump = self.jump or f"from {now:.1f} to {time:.1f} s"
            return 0
        return round(time * rate) - self.samples

    def notes(self) -> Iterator[str]:
        """Yield what to say of the file."""
        if self.filled:
            yield (
                f"{self.filled:.1f} s without samples, first at {self.first:.1f} s: "
                "filled with silence"
            )
        if self.jump:
            yield (
                f"its timestamps jump {self.jump} (damage?): not filled, so later "
                "times may be wrong"
            )


def _frames(container, stream, name: str, say: Say):
    import av

    clock = _Clock(container)
    word = container.format.name.split(",")[0]
    form: Optional[_Form] = None
    packets, bad, run, reached = 0, 0, 0, 0.0
    try:
        # of all streams: video also shows whether the file was cut off
        for packet in container.demux():
            if packet.pts is not None and packet.size:
                end = float((packet.pts + (packet.duration or 0)) * packet.time_base)
                reached = max(reached, end)
            if packet.stream_index != stream.index:
                continue
            try:
                frames = packet.decode()
            except av.FFmpegError:
                bad, run = bad + 1, run + 1
                continue
            packets += 1
            for frame in frames:
                if frame.samples:
                    run = 0
                    wave = _as_float(frame, name)
                    own = _Form(frame.sample_rate, len(wave), word)
                    if form is not None and own != form:
                        raise AudioError(
                            f"{name}: changes from {form.rate} Hz, {form.channels} "
                            f"channels to {own.rate} Hz, {own.channels}; convert "
                            "its parts one by one"
                        )
                    form = own
                    for part in clock.zeros(frame, form):
                        yield part, form
                    yield wave, form
    except (av.FFmpegError, OSError) as error:
        raise AudioError(
            f"{name}: damaged or cut off ({_reason(error)}); get the file again"
        ) from None
    for line in clock.notes():
        say(f"{name}: {line}")
    promised, kinds = (container.duration or 0) / 1e6, container.format.name.split(",")
    if container.start_time and not FROM_ZERO & set(kinds):
        promised += container.start_time / 1e6
    if MEASURED & set(kinds):
        told = f"it has {reached:.1f} of {promised:.1f} s"
        if promised - reached > max(MISSING_SECONDS, MISSING_SHARE * promised):
            raise AudioError(f"{name}: cut off: {told}; get the file again")
        if promised - reached > MISSING_SECONDS:
            say(f"{name}: {told}: check that its end is there")
    bad -= min(run, 1)  # a truncated last packet is not an error
    if bad > BAD_PACKETS * (packets + bad):
        raise AudioError(
            f"{name}: damaged: {bad} of {packets + bad} packets cannot be decoded; get "
            "the file again"
        )
    if bad:
        say(
            f"{name}: {bad} of {packets + bad} packets cannot be decoded (damage, or "
            "tags where files were joined)"
        )


def _as_float(frame, name: str) -> np.ndarray:
    """Return a frame's samples (channels, n) as float32 in [-1, 1)."""
    channels = frame.layout.nb_channels
    try:
        wave = frame.to_ndarray()
    except ValueError:  # damage may give it more channels than PyAV reads
        raise AudioError(
            f"{name}: damaged: a frame of {channels} channels; get the file again"
        ) from None
    if not frame.format.is_planar:
        wave = wave.reshape(-1, channels).T
    kind = wave.dtype
    if np.issubdtype(kind, np.floating):
        return wave.astype(np.float32)
    if kind == np.uint8:
        return (wave.astype(np.float32) - 128.0) / 128.0
    if np.issubdtype(kind, np.signedinteger):
        return wave.astype(np.float32) / float(2 ** (8 * kind.itemsize - 1))
    raise AudioError(
        f"{name}: sample format {kind} is not supported; convert it to wav"
    )
