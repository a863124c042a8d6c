"""What the headers of audio files say: whether all of the recording is there and alone.

A reader may stop at the end that a header gives although another file was appended, or
at the end of a file that was cut off, and say nothing. The checks here raise an
:class:`~espnet_adastride.errors.AudioError` in such cases. ``audio.py`` calls them, and
decodes.
"""

import codecs
import contextlib
import io
import math
import mmap
import os
import re
import struct
import unicodedata
from typing import BinaryIO, Callable, Set, Union

from espnet_adastride.errors import AudioError

#: first bytes of Ogg, FLAC, ID3 (MP3), Matroska and WebM, ASF (WMA), AMR, AU, CAF,
#: W64, NIST, TTA, WavPack
MAGIC = (
    b"OggS", b"fLaC", b"ID3", b"\x1aE\xdf\xa3", b"0&\xb2u\x8ef\xcf\x11", b"#!AMR",
    b".snd", b"caff", b"riff\x2e\x91\xcf\x11", b"NIST_1A", b"TTA1", b"wvpk",
)  # fmt: skip
#: how archives, PDF, pictures and big-endian WAV begin
NO_AUDIO = (
    b"PK\3\4", b"\x1f\x8b\x08", b"BZh", b"7z\xbc\xaf", b"\xfd7zXZ", b"\x28\xb5\x2f\xfd",
    b"Rar!", b"%PDF-", b"\x89PNG", b"\xff\xd8\xff\xe0\0\x10JFIF", b"RIFX",
)  # fmt: skip
#: control characters of text
LINE_CONTROLS = frozenset("\t\n\v\f\r\x1b")
#: kbit/s of MP3 by the four bits in a frame's header, for MPEG 1 and for 2 and 2.5
MP3_RATES = (
    (32, 40, 48, 56, 64, 80, 96, 112, 128, 160, 192, 224, 256, 320),
    (8, 16, 24, 32, 40, 48, 56, 64, 80, 96, 112, 128, 144, 160),
)
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
#: a file that lacks a larger share of what its header says was cut off
MISSING_SHARE = 0.02
#: bytes (or samples) by which sizes in headers may be wrong
MISSING_BYTES = 4096


def is_media_head(head: bytes) -> bool:
    """Return whether the first 12 bytes or more are those of audio or video."""
    if head[:4] in (b"RIFF", b"RF64"):
        return head[8:12] in (b"WAVE", b"AVI ")
    if head[:4] == b"FORM":
        return head[8:12] in (b"AIFF", b"AIFC")
    return head[4:8] == b"ftyp" or head.startswith(MAGIC)


def other_than_samples(head: bytes) -> str:
    """Return what a pipe holds instead of raw 16-bit samples; "" if it may hold them.

    Args:
        head: its first bytes. A frame of MP3 or AAC is only recognised if the next one
            begins in them: -1 and then a quiet sample look like the first.
    """
    length = _frame_length(head)
    if is_media_head(head) or (length and _frame_length(head[length:])):
        return "compressed audio, or a format that is not WAV"
    if head.startswith(NO_AUDIO):
        return "an archive or a file that is not audio"
    try:  # a character may be cut off at the end
        text = codecs.getincrementaldecoder("utf-8")().decode(head)
    except UnicodeDecodeError:
        return ""
    odd = (
        c for c in text if unicodedata.category(c) == "Cc" and c not in LINE_CONTROLS
    )
    return "" if not text or any(odd) else "text, not audio"


def _is_aac(head: bytes) -> bool:
    """Return whether a header that begins with 0xFF is of AAC (ADTS)."""
    return head[1] & 0xF6 == 0xF0


def _is_frame(head: bytes) -> bool:
    """Return whether the header of a frame of MPEG audio (MP3, MP2) or AAC is first."""
    if len(head) < 3 or head[0] != 0xFF:
        return False
    if _is_aac(head):
        return head[2] >> 2 & 15 < 13
    version, layer = head[1] >> 3 & 3, head[1] >> 1 & 3
    rates = 0 < head[2] >> 4 < 15 and head[2] >> 2 & 3 < 3
    return head[1] >= 0xE0 and version != 1 and layer != 0 and rates


def _frame_length(head: bytes) -> int:
    """Return the bytes of the MP3 or AAC (ADTS) frame that begins here; 0: none."""
    if len(head) < 6 or not _is_frame(head):
        return 0
    if _is_aac(head):
        length = (head[3] & 3) << 11 | head[4] << 3 | head[5] >> 5
        return length if length >= 7 else 0
    version, layer = head[1] >> 3 & 3, head[1] >> 1 & 3
    if layer != 1:  # MP2
        return 0
    hertz = (44100, 48000, 32000)[head[2] >> 2 & 3] // {3: 1, 2: 2, 0: 4}[version]
    factor = 144000 if version == 3 else 72000
    kbits = MP3_RATES[version != 3][(head[2] >> 4) - 1]
    return factor * kbits // hertz + (head[2] >> 1 & 1)


def file_size(file: BinaryIO) -> int:
    """Return the bytes of a file, which is then at its start."""
    size = file.seek(0, os.SEEK_END)
    file.seek(0)
    return size


def check_riff(file: BinaryIO, name: str) -> None:
    """Reject a WAV file with audio after the end given by its header.

    Chunks follow one another to the end of the file; only tags, zeros and a little else
    may follow the last one.
    """
    size, place, before = file_size(file), 12, b""
    if not _is_wav(file.read(12)):
        size = 0
    while place + 12 <= size:
        file.seek(place)
        head = file.read(12)
        kind, length = head[:4], struct.unpack("<I", head[4:8])[0]
        check_joined(file, place, name)
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


def check_joined(file: BinaryIO, place: int, name: str) -> None:
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
    return is_media_head(head) or _is_frame(head)


def end_of_first(file: BinaryIO) -> int:
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


def check_length(file: BinaryIO, info, name: str) -> None:
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


def check_caf(file: BinaryIO, name: str) -> None:
    """Reject a CAF file that ends before its samples do, which FFmpeg does not notice.

    A chunk begins with its kind and size (8 bytes, -1: to the end of the file).
    """
    size, place = file_size(file), 8
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


def is_mpeg(file: BinaryIO) -> bool:
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


def is_one_ogg(file: BinaryIO) -> bool:
    """Return whether an Ogg file is one stream from its first page to its last.

    Pages (RFC 3533) begin with ``OggS``, a version, flags (2: first of its stream, 4:
    last); their segment lengths start at byte 27.
    """
    size, place, flags = file_size(file), 0, 0
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


def joined_kinds(file: BinaryIO) -> Set[bytes]:
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


def check_kinds(file: BinaryIO, name: str) -> None:
    """Reject a file in which others begin that FFmpeg would leave out."""
    kinds = joined_kinds(file)
    if kinds:
        file.seek(_after_tags(file, 0))
        if kinds - READ_ON.get(file.read(4), set()):
            _refuse_joined(name)
    file.seek(0)
