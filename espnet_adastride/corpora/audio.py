"""Decode audio files to samples: the only place that decides which reader is used.

libsndfile reads the formats that it decodes exactly: WAV, FLAC, Ogg, AIFF, AU, CAF,
NIST and others. FFmpeg, through PyAV (``av``), reads the rest (m4a, mp4, mkv, webm,
mov, aac, wma, amr ...), and files whose length libsndfile may get wrong: MP3, and
concatenated or truncated Ogg or FLAC. The content decides, not the file name.

Either the whole file is decoded, or an :class:`AudioError` explains the problem::

    info = audio_info(path)             # samples, rate, channels, format, reader
    wave, info = read_samples(path)     # (n, channels) float32
"""

import contextlib
import io
import logging
import math
import mmap
import os
import re
import struct
from pathlib import Path
from typing import (
    IO,
    BinaryIO,
    Callable,
    Iterator,
    List,
    NamedTuple,
    Optional,
    Set,
    Tuple,
    Union,
)

import numpy as np

from espnet_adastride.errors import AudioError, no_such
from espnet_adastride.files import shown

Source = Union[str, Path, bytes]
Say = Callable[[str], None]

#: unsupported media: protected, MIDI, or parts of files
UNREAD_SUFFIXES = frozenset(".aax .aa .m4p .mid .midi .ds2".split())
#: first bytes of Ogg, FLAC, ID3 (MP3), Matroska and WebM, ASF (WMA), AMR, AU, CAF,
#: W64, NIST, TTA, WavPack
MAGIC = (
    b"OggS", b"fLaC", b"ID3", b"\x1aE\xdf\xa3", b"0&\xb2u\x8ef\xcf\x11", b"#!AMR",
    b".snd", b"caff", b"riff\x2e\x91\xcf\x11", b"NIST_1A", b"TTA1", b"wvpk",
)  # fmt: skip
#: how recordings begin, in more bytes than other data has by chance; of MP3, a tag or
#: the table in the first frame
BEGINNING = re.compile(
    rb"(?<!\x7fFLAC....)fLaC[\x00\x80]\x00\x00\x22|OggS\x00[\x02\x06]\x00{8}"
    rb"|RIFF....(?:WAVE|AVI )|RF64\xff{4}WAVE|FORM....AIF[FC]|\x00\x00\x00.ftyp"
    rb"|caff\x00\x01\x00\x00|\.snd\x00\x00\x00|\x1aE\xdf\xa3.{1,8}?\x42\x86\x81\x01"
    rb"|0&\xb2u\x8ef\xcf\x11|#!AMR(?:-WB)?\n|riff\x2e\x91\xcf\x11|NIST_1A\n"
    rb"|TTA1[\x01\x02]\x00[\x01-\x08]\x00"
    rb"|wvpk....[\x02-\x10]\x04\x00\x00....\x00{4}.{6}"
    rb"|ID3[\x02-\x04]\x00\x00[\x00-\x7f]{4}|(?:Xing|Info)\x00\x00\x00[\x01-\x0f]",
    re.DOTALL,
)
#: a part of every alternative above: found some four times as fast
IN_BEGINNING = (
    b"fLaC", b"OggS\0", b"WAVE", b"AVI ", b"AIF", b"ftyp", b"caff\0\1", b".snd\0\0\0",
    b"\x1aE\xdf\xa3", b"0&\xb2u\x8ef\xcf\x11", b"#!AMR", b"riff\x2e\x91", b"NIST_1A",
    b"TTA1", b"wvpk", b"ID3", b"Xing\0", b"Info\0",
)  # fmt: skip
#: first bytes of streams in which FFmpeg reads on behind a joined file, and of those
#: files, or of the streams in a container
READ_ON = {
    b"fLaC": {b"fLaC"},
    b"OggS": {b"OggS"},
    b"\x1aE\xdf\xa3": {b"\x1aE\xdf\xa3", b"fLaC"},
}
#: a chunk's name
CHUNK = re.compile(rb"[ -~]{4}")
#: upper halves of the sizes that programs write when they do not know them, to pipes
#: and before a recording ends: ffmpeg ffffffff, sox 7ffff000 (AIFF: 7f000000, rounded
#: down), arecord 80000000
PLACEHOLDERS = frozenset((0x7EFF, 0x7F00, 0x7FFF, 0x8000, 0xFFFF))
#: libsndfile's log of a header that has a larger size or length than the file
CUT_OFF = re.compile(
    r"^ *(?:data|SSND|Data Size|Riff size|riff) *: "
    r"(?P<of>\d+) \(should be (?P<has>\d+)\)"
    r"|count (?P<a>\d+) does not match value from 'ds64' chunk of (?P<b>\d+)",
    re.MULTILINE,
)
#: if the packets end this early before the promised duration, the file was cut off
MISSING_SECONDS, MISSING_SHARE = 1.0, 0.02
#: bytes (or samples) by which sizes in headers may be wrong
MISSING_BYTES = 4096
#: a larger share of undecodable packets is damage, not a tag in the stream
BAD_PACKETS = 0.02
#: bytes; as many as a WAV file can have
MOST_PIPED = 4 * 2**30
#: libsndfile's length of a FLAC file that was written to a pipe
UNKNOWN_LENGTH = 2**63 - 1
#: containers whose header has a measured duration, not an estimate
MEASURED = {"mov", "mp4", "matroska", "webm", "asf", "avi", "caf", "tta"}
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


def is_media_head(head: bytes) -> bool:
    """Return whether the first 12 bytes or more are those of audio or video."""
    if head[:4] in (b"RIFF", b"RF64"):
        return head[8:12] in (b"WAVE", b"AVI ")
    if head[:4] == b"FORM":
        return head[8:12] in (b"AIFF", b"AIFC")
    return head[4:8] == b"ftyp" or head.startswith(MAGIC)


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


def _size(file: BinaryIO) -> int:
    size = file.seek(0, os.SEEK_END)
    file.seek(0)
    return size


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

    _check_riff(file, name)
    _check_joined(file, _end_of_first(file), name)
    if _is_mpeg(file):  # its length is in the first frame's table, or an estimate
        return None
    try:
        info = soundfile.info(_for_libsndfile(file))
    except (soundfile.SoundFileError, RuntimeError, TypeError):
        return None
    finally:
        file.seek(0)
    if info.format == "MP3" or "MPEG" in info.subtype:
        return None
    if info.format == "OGG" and not _is_one_ogg(file):
        return None
    if info.format == "FLAC" and search and _joined_kinds(file):
        return None
    if info.frames == 0 and info.format in ("WAV", "RF64") and _size(file) > 4096:
        return None  # the recorder never wrote the sizes
    if info.frames == UNKNOWN_LENGTH:
        return None
    _check_length(file, info, name)
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


def _check_riff(file: BinaryIO, name: str) -> None:
    """Reject a WAV file with audio after the end given by its header.

    Chunks follow one another to the end of the file; only tags, zeros and a little else
    may follow the last one.
    """
    size, place, before = _size(file), 12, b""
    if not _is_wav(file.read(12)):
        size = 0
    while place + 12 <= size:
        file.seek(place)
        head = file.read(12)
        kind, length = head[:4], struct.unpack("<I", head[4:8])[0]
        _check_joined(file, place, name)
        if kind == b"data" and _is_placeholder(length):
            break  # the sizes were never written: all of it is read
        if not CHUNK.match(kind):
            if before == b"data" and size - place > MISSING_BYTES:
                file.seek(place)
                if kind[:3] not in (b"ID3", b"TAG") and file.read().strip(b"\0"):
                    raise AudioError(
                        f"{name}: the header gives an end at byte {place} of {size}; "
                        "read all of it: ffmpeg -ignore_length 1 -i FILE NEW.wav"
                    )
            break
        before = kind
        place += 8 + length
        file.seek(place)
        place += length % 2 and file.read(1) == b"\0"  # some leave out the padding
    file.seek(0)


def _check_joined(file: BinaryIO, place: int, name: str) -> None:
    """Reject a file in which another one begins at a place; 0: it is not known."""
    if place:
        place = _after_tags(file, place)  # a tag alone may follow a recording
        file.seek(place)
        head = file.read(16)
        if _is_beginning(head) and head[:3] != b"ID3":
            _refuse_joined(name)
    file.seek(0)


def _refuse_joined(name: str) -> None:
    raise AudioError(
        f"{name}: several concatenated files, of which only the first would be "
        "read; join them with sox or ffmpeg"
    )


def _is_beginning(head: bytes) -> bool:
    """Return whether the first bytes are those of a recording, also of bare MP3."""
    if is_media_head(head) or len(head) < 3 or head[0] != 0xFF:
        return is_media_head(head)
    if head[1] & 0xF6 == 0xF0:  # AAC (ADTS)
        return head[2] >> 2 & 15 < 13
    version, layer = head[1] >> 3 & 3, head[1] >> 1 & 3
    rates = 0 < head[2] >> 4 < 15 and head[2] >> 2 & 3 < 3
    return head[1] >= 0xE0 and version != 1 and layer != 0 and rates


def _end_of_first(file: BinaryIO) -> int:
    """Return where the recording ends by its header; 0: unknown.

    Of AIFF, AU, RF64, CAF, TTA and MP4 (M4A, MOV ...), whose readers ignore what
    follows, and of W64 and NIST, whose reader takes it for samples.
    """
    head, place = file.read(1024).ljust(28, b"\0"), 0
    if head[:4] == b"FORM":
        size = int.from_bytes(head[4:8], "big")
        place = 8 + size + size % 2
    elif head[:4] == b".snd":
        place = sum(struct.unpack(">II", head[4:12]))
    elif head[:4] == b"RF64":
        place = 8 + int.from_bytes(head[20:28], "little")
    elif head[:8] == b"riff\x2e\x91\xcf\x11":
        place = int.from_bytes(head[16:24], "little")
    elif head[:7] == b"NIST_1A":
        words = (b"sample_count", b"channel_count", b"sample_n_bytes")
        sizes = [re.search(rb"\n%s -i (\d+)\n" % word, head) for word in words]
        if all(sizes):
            place = 1024 + math.prod(int(size[1]) for size in sizes)
    elif head[:4] == b"TTA1":
        rate, samples = struct.unpack("<II", head[10:18])
        frames = -(-samples // max(256 * rate // 245, 1))
        file.seek(22)
        table = file.read(4 * frames)  # the size of every frame
        sizes = struct.unpack(f"<{len(table) // 4}I", table[: len(table) // 4 * 4])
        place = 22 + 4 * frames + 4 + sum(sizes)
    elif head[:4] == b"caff":
        place = _end_of_parts(file, 8, _caf_chunk)
    elif head[4:8] == b"ftyp":
        place = _end_of_parts(file, _mp4_box(head), _mp4_box)
    file.seek(0)
    return place


def _end_of_parts(file: BinaryIO, place: int, size: Callable[[bytes], int]) -> int:
    """Return where parts that follow one another end; 0: the last one has no size."""
    while True:
        file.seek(place)
        head = file.read(16)
        if len(head) < 16 or _is_beginning(head):
            return place
        length = size(head)
        if length <= 0:
            return 0
        place += length


def _caf_chunk(head: bytes) -> int:
    return 12 + max(int.from_bytes(head[4:12], "big", signed=True), -12)


def _mp4_box(head: bytes) -> int:
    length = int.from_bytes(head[:4], "big")
    return int.from_bytes(head[8:16], "big") if length == 1 else length


def _is_placeholder(size: int) -> bool:
    return size == 0 or size >> 16 in PLACEHOLDERS


def _is_wav(head: bytes) -> bool:
    return head[:4] == b"RIFF" and head[8:12] == b"WAVE"


def _check_length(file: BinaryIO, info, name: str) -> None:
    """Reject a file that ends before the length in its header (WAV, AIFF, AU ...).

    Args:
        file: the file.
        info: libsndfile's information on it.
        name: for messages.
    """
    log = info.extra_info
    if info.format == "NIST":  # of its header, libsndfile logs nothing
        header = re.search(rb"\nsample_count -i (\d+)\n", file.read(1024))
        file.seek(0)
        if header:
            log = f"data : {int(header[1])} (should be {info.frames})"
    for found in CUT_OFF.finditer(log):
        has, promised = int(found["has"] or found["a"]), int(found["of"] or found["b"])
        if not _is_placeholder(promised):
            _check_share(has, promised, name)


def _check_share(has: int, promised: int, name: str) -> None:
    """Reject a file that has too little of the bytes or samples in its header."""
    if promised - has > min(MISSING_SHARE * promised, MISSING_BYTES):
        share = min(has / promised, 0.99)
        raise AudioError(
            f"{name}: cut off: it has {share:.0%} of the length in its header; get "
            "the file again"
        )


def _check_caf(file: BinaryIO, name: str) -> None:
    """Reject a CAF file that ends before its samples do, which FFmpeg does not notice.

    A chunk begins with its kind and size (8 bytes, -1: to the end of the file).
    """
    size, place = _size(file), 8
    file.seek(0)
    if file.read(4) != b"caff":
        return
    while place + 12 <= size:
        file.seek(place)
        kind, length = struct.unpack(">4sq", file.read(12))
        place += 12
        if length < 0:
            break
        if kind == b"data":
            _check_share(size - place, length, name)
        place += length


def _is_mpeg(file: BinaryIO) -> bool:
    """Return whether a frame of MPEG audio (MP3, MP2, AAC) is at the start."""
    file.seek(_after_tags(file, 0))
    head = file.read(2)
    file.seek(0)
    return len(head) > 1 and head[0] == 0xFF and head[1] & 0xE0 == 0xE0


def _after_tags(file: BinaryIO, place: int) -> int:
    """Return where the tags that begin at a place end; without one, the place."""
    while True:
        file.seek(place)
        head = file.read(16)
        if head[:3] == b"ID3" and len(head) == 16 and head[3] in (2, 3, 4):
            # 28 bits of its length
            place += 10 + sum(
                (byte & 127) << 7 * n for n, byte in enumerate(head[9:5:-1])
            )
        elif head[:8] == b"APETAGEX" and len(head) == 16:
            place += 32 + int.from_bytes(head[12:], "little")
        elif head[:3] == b"TAG":
            place += 128
        else:
            return place


def _is_one_ogg(file: BinaryIO) -> bool:
    """Return whether an Ogg file is one stream from its first page to its last.

    Pages (RFC 3533) begin with ``OggS``, a version, flags (2: first of its stream, 4:
    last); their segment lengths start at byte 27.
    """
    size, place, flags = _size(file), 0, 0
    while place < size:
        file.seek(place)
        head = file.read(27)
        if len(head) < 27 or head[:4] != b"OggS":
            break
        flags = head[5]
        if bool(flags & 2) != (place == 0):
            break
        table = file.read(head[26])
        place += 27 + len(table) + sum(table)
    file.seek(0)
    return place == size and bool(flags & 4)


def _joined_kinds(file: BinaryIO) -> Set[bytes]:
    """Return the first bytes of the recordings that begin within a file.

    Of formats that have no size, so that the file must be searched.
    """
    start = _after_tags(file, 0)
    file.seek(start)
    own = file.read(4)
    if own == b"fLaC":  # its metadata may hold the header of a WAV file
        start, last = start + 4, False
        while not last and len(head := file.read(4)) == 4:
            last = bool(head[0] & 128)
            start += 4 + int.from_bytes(head[1:], "big")
            file.seek(start)
    bare = own in (b"fLaC", b"OggS")  # MP3 does not belong in it
    kinds: Set[bytes] = set()
    with contextlib.ExitStack() as stack:
        content: Union[bytes, mmap.mmap]
        if isinstance(file, io.BytesIO):
            content = file.getvalue()
        else:
            content = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
            stack.enter_context(content)
        likely = any(content.find(part, start + 1) >= 0 for part in IN_BEGINNING)
        for found in BEGINNING.finditer(content, start + 1) if likely else ():
            place, kind = found.start(), found[0][:4]
            if kind[:3] == b"ID3":
                file.seek(_after_tags(file, place))
                tag_alone = not _is_beginning(file.read(16))
                kind = b"" if tag_alone or not bare else b"ID3"
            elif kind in (b"Xing", b"Info") and not bare:
                kind = b""
            elif kind == b"wvpk" and not found[0][25] & 8:
                kind = b""  # further channels of the first block
            kinds.add(kind)
    file.seek(0)
    return kinds - {b""}


def _check_kinds(file: BinaryIO, name: str) -> None:
    """Reject a file in which others begin that FFmpeg would leave out."""
    kinds = _joined_kinds(file)
    if kinds:
        file.seek(_after_tags(file, 0))
        if kinds - READ_ON.get(file.read(4), set()):
            _refuse_joined(name)
    file.seek(0)


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
    _check_caf(file, name)
    _check_kinds(file, name)
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


def _frames(container, stream, name: str, say: Say):
    import av

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
                    yield wave, form
    except (av.FFmpegError, OSError) as error:
        raise AudioError(
            f"{name}: damaged or cut off ({_reason(error)}); get the file again"
        ) from None
    promised = (container.duration or 0) / 1e6
    if container.start_time:
        promised += container.start_time / 1e6
    if MEASURED & set(container.format.name.split(",")):
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
