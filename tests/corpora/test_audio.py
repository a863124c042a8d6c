"""Files to samples: all the sound in them, or a line that names what is wrong."""

import builtins
import os
import struct

import numpy as np
import pytest
import soundfile

import media
from espnet_adastride.corpora import audio, recordings
from espnet_adastride.corpora.audio import audio_info, quick_seconds, read_samples
from espnet_adastride.errors import AudioError
from media import RATE, speech

pytest.importorskip("av")


def likeness(wave, other, most=3000):
    """Return the largest correlation of two waves, one a little later or earlier."""
    n = min(len(wave), len(other))
    size = 2 ** int(np.ceil(np.log2(2 * n)))
    spectrum = np.fft.rfft(wave[:n], size) * np.conj(np.fft.rfft(other[:n], size))
    correlation = np.fft.irfft(spectrum, size)
    best = max(correlation[: most + 1].max(), correlation[-most:].max())
    return best / np.sqrt((wave[:n] ** 2).sum() * (other[:n] ** 2).sum())


def error_of(path, **options):
    with pytest.raises(AudioError) as error:
        read_samples(path, **options)
    message = str(error.value)
    assert message.startswith(f"{path}: ") and "\n" not in message
    return message


@pytest.mark.parametrize(
    "name, codec",
    [
        ("a.m4a", "aac"), ("a.mp4", "aac"), ("a.mov", "aac"), ("a.mkv", "aac"),
        ("a.aac", "aac"), ("a.3gp", "aac"), ("b.m4a", "alac"), ("a.mka", "flac"),
        ("a.wma", "wmav2"), ("a.mp3", "libmp3lame"), ("a.mp2", "mp2"),
    ],
)  # fmt: skip
def test_every_container_has_all_of_the_speech(name, codec, tmp_path):
    wave = speech()
    path = media.encode(tmp_path / name, codec, wave, bit_rate=64000)
    info = audio_info(path)
    assert (info.rate, info.channels, info.reader) == (RATE, 1, "ffmpeg")
    # encoders work in frames of up to 2048 samples, and pad
    assert len(wave) - 1024 <= info.samples <= len(wave) + 2500
    found, read = read_samples(path)
    assert read == info
    assert found.shape == (info.samples, 1) and found.dtype == np.float32
    assert likeness(found[:, 0], wave) > 0.95
    assert quick_seconds(path) == pytest.approx(info.seconds, rel=0.3)


def test_a_browsers_recording_and_a_film(tmp_path):
    import soxr

    wave = speech()
    path = tmp_path / "a.webm"
    media.encode(path, "libopus", soxr.resample(wave, RATE, 48000), 48000)
    found = recordings.read_audio(path, RATE)
    assert len(found) == pytest.approx(len(wave), abs=800)
    assert likeness(found, wave) > 0.95
    stereo = np.stack([wave, 0.5 * wave], axis=1)
    film = media.encode(tmp_path / "film.mp4", "aac", stereo, video=True)
    assert audio_info(film).channels == 2
    found = recordings.read_audio(film, RATE)
    assert len(found) == pytest.approx(len(wave), abs=1100)
    assert np.abs(found).max() == pytest.approx(0.75 * np.abs(wave).max(), rel=0.1)


def test_films_without_sound_or_with_a_choice(tmp_path):
    path = media.film_without_sound(tmp_path / "silent.mp4")
    assert "no audio stream in it (streams: video)" in error_of(path)
    path = media.encode(tmp_path / "two.mkv", "aac", speech(), streams=2)
    assert "2 audio streams (0 aac, 1 aac); extract the right one" in error_of(path)


@pytest.mark.parametrize(
    "options, longer",
    [
        ({"format": "OGG", "subtype": "VORBIS"}, 1000),
        ({"format": "OGG", "subtype": "OPUS"}, 1000),
        ({"format": "MP3"}, 4000),
        ({"format": "FLAC"}, 0),
    ],
)
def test_files_joined_byte_by_byte_are_read_to_the_end(options, longer, tmp_path):
    wave = speech()
    other = speech("It is raining, so they stay at home.")
    path = tmp_path / "joined"
    parts = [media.sound_file(w, **options) for w in (wave, other)]
    path.write_bytes(b"".join(parts))
    found = recordings.read_audio(path, RATE)
    whole = len(wave) + len(other)
    assert whole - 400 <= len(found) <= whole + longer
    assert likeness(found[: len(wave)], wave) > 0.9
    assert likeness(found[-len(other) :], other) > 0.9
    # libsndfile alone stops behind the first
    path.write_bytes(parts[0])
    assert len(recordings.read_audio(path, RATE)) <= len(wave) + 1000


def lone_header(flac):
    """Leave a FLAC file's bytes one block of metadata: ``metaflac --remove-all``."""
    place, last = 4, False
    while not last:
        last = bool(flac[place] & 128)
        place += 4 + int.from_bytes(flac[place + 1 : place + 4], "big")
    return b"fLaC\x80" + flac[5:42] + flac[place:]


def test_flac_without_tags_and_of_a_pipe(tmp_path):
    wave, other = speech(), speech("It is raining, so they stay at home.")
    flac, behind = (media.sound_file(w, format="FLAC") for w in (wave, other))
    path = tmp_path / "a.flac"
    for joined in (lone_header(flac) + lone_header(behind), flac + lone_header(behind)):
        path.write_bytes(joined)
        found, _ = read_samples(path)
        assert len(found) == len(wave) + len(other)
    # to a pipe, ffmpeg and flac write a length of 0
    piped = flac[:21] + bytes([flac[21] & 0xF0]) + bytes(4) + flac[26:]
    path.write_bytes(piped)
    found, info = read_samples(path)
    assert info.samples == len(wave) and info.reader == "ffmpeg"
    np.testing.assert_allclose(found[:, 0], wave, atol=1e-4)
    assert audio_info(path) == info and quick_seconds(path) == 0.0


@pytest.mark.parametrize("kind", "WAV WAVEX RF64 AIFF AU CAF m4a mov".split())
def test_joined_files_that_no_reader_reads_to_the_end(kind, tmp_path):
    wave, path = speech(), tmp_path / f"a.{kind}"
    if kind in ("m4a", "mov"):
        content = media.encode(path, "aac", wave).read_bytes()
    else:
        content = media.sound_file(wave, format=kind, subtype="PCM_16")
    for behind in (b"", b"ID3\3" + b"x" * 99):
        path.write_bytes(content + behind)
        assert abs(len(read_samples(path)[0]) - len(wave)) < 2500
    for behind in (content, media.sound_file(wave, format="FLAC")):
        path.write_bytes(content + behind)
        for given in (path, path.read_bytes()):
            with pytest.raises(AudioError, match="several concatenated files.*sox"):
                read_samples(given)


ID3 = b"ID3\3\0\0\0\0\0\x64" + bytes(100)


def recording_of(kind, path):
    """Return the bytes of a file of 1 s, an MP3 with a tag or without its table."""
    wave = speech()[:RATE]
    codecs = {"tta": "tta", "wv": "wavpack", "oga": "flac"}
    codecs.update(dict.fromkeys(("m4a", "mkv", "aac"), "aac"))
    if kind in codecs:
        return media.encode(path / f"a.{kind}", codecs[kind], wave).read_bytes()
    if kind.startswith("MP3"):
        content = media.sound_file(wave, format="MP3")
        bare = media.without_length_table(content)
        return {"MP3": content, "MP3 ID3": ID3 + content, "MP3 bare": bare}[kind]
    if kind.startswith("OGG"):
        return media.sound_file(wave, format="OGG", subtype=kind.split()[1])
    subtype = {} if kind == "FLAC" else {"subtype": "PCM_16"}
    return media.sound_file(wave, format=kind, **subtype)


@pytest.mark.parametrize(
    "first, second",
    [
        ("MP3", "OGG VORBIS"), ("MP3 ID3", "FLAC"), ("MP3 bare", "WAV"), ("aac", "m4a"),
        ("FLAC", "OGG OPUS"), ("FLAC", "WAV"), ("FLAC", "MP3"), ("FLAC", "MP3 ID3"),
        ("OGG VORBIS", "FLAC"), ("OGG OPUS", "MP3"), ("oga", "MP3 ID3"),
        ("tta", "tta"), ("tta", "MP3 bare"), ("wv", "wv"), ("mkv", "OGG VORBIS"),
        ("WAV", "W64"), ("WAV", "MP3 ID3"), ("WAV", "tta"), ("AIFF", "MP3 bare"),
        ("m4a", "MP3"), ("m4a", "NIST"), ("CAF", "aac"), ("W64", "W64"),
        ("NIST", "NIST"), ("NIST", "FLAC"), ("AU", "wv"), ("RF64", "W64"),
    ],
)  # fmt: skip
def test_joined_files_of_any_two_formats(first, second, tmp_path):
    own, other = (recording_of(kind, tmp_path) for kind in (first, second))
    path = tmp_path / "joined"
    if first.startswith(("MP3", "aac")):
        own *= 60  # of a long recording, the undecodable packets are few
    path.write_bytes(own + other)
    for given in (path, path.read_bytes()):
        with pytest.raises(AudioError, match="several concatenated files.*sox"):
            read_samples(given)
        with pytest.raises(AudioError, match="several concatenated files.*sox"):
            audio_info(given)


def test_what_looks_like_a_second_file_in_one(tmp_path):
    wave, path = speech()[:RATE], tmp_path / "a"
    flac = media.sound_file(wave, format="FLAC")
    header = b"riff" + media.sound_file(wave, format="WAV")[:44]
    # flac --keep-foreign-metadata keeps the header of the WAV file
    kept = flac[:42] + b"\2" + len(header).to_bytes(3, "big") + header + flac[42:]
    path.write_bytes(kept)
    assert audio_info(path).samples == len(read_samples(path)[0]) == RATE
    tags = (ID3, b"TAG" + bytes(125), b"APETAGEX" + b"\xd0\7\0\0" + bytes(20))
    for kind in "FLAC WAV AIFF W64 tta MP3".split():
        content = recording_of(kind, tmp_path)
        for tag in tags:
            path.write_bytes(content + tag)
            assert len(read_samples(path)[0]) == pytest.approx(RATE, abs=2500)
    path.write_bytes(recording_of("oga", tmp_path))
    assert audio_info(path).samples == RATE


def test_damage_that_adds_channels_is_one_line():
    class Frame:
        class layout:
            nb_channels = 34

        def to_ndarray(self):
            raise ValueError("plane index 34 out of range for 34 planes")

    with pytest.raises(AudioError, match="^x: damaged: a frame of 34 channels; get"):
        audio._as_float(Frame(), "x")


def test_an_mp3_without_its_length_table(tmp_path):
    wave = np.concatenate([np.tile(speech(), 2), np.zeros(RATE, np.float32)])
    content = media.sound_file(wave, format="MP3")
    path = tmp_path / "a.mp3"
    path.write_bytes(media.without_length_table(content))
    found = recordings.read_audio(path, RATE)
    # with the encoder's delay, which nothing names now
    assert len(wave) <= len(found) <= len(wave) + 3000
    assert likeness(found, wave) > 0.9


@pytest.mark.parametrize("suffix, codec", [("mkv", "aac"), ("webm", "libopus")])
def test_a_container_that_was_cut_off_is_named(suffix, codec, tmp_path):
    rate = 48000 if codec == "libopus" else RATE
    wave = np.tile(speech(), 3)
    path = media.encode(tmp_path / f"a.{suffix}", codec, wave, rate)
    content = path.read_bytes()
    path.write_bytes(content[: len(content) // 2])
    message = error_of(path)
    assert "cut off: " in message and message.endswith("get the file again")
    path = media.encode(tmp_path / "a.m4a", "aac", wave)
    path.write_bytes(path.read_bytes()[:20000])  # its index is at the end
    assert "unreadable audio" in error_of(path)


@pytest.mark.parametrize(
    "options", [{"format": "OGG", "subtype": "VORBIS"}, {"format": "MP3"}]
)
def test_of_a_stream_that_was_cut_off_all_that_is_there_is_read(options, tmp_path):
    wave = np.tile(speech(), 3)
    content = media.sound_file(wave, **options)
    path = tmp_path / "cut"
    path.write_bytes(content[: len(content) * 6 // 10])
    found, _ = read_samples(path)
    share = len(found) / len(wave)
    assert 0.45 < share < 0.75 and likeness(found[:, 0], wave[: len(found)]) > 0.9


def test_wav_files_whose_header_is_wrong(tmp_path):
    wave = speech()
    good = media.sound_file(wave, format="WAV")
    path = tmp_path / "a.wav"
    path.write_bytes(good + good)
    assert "several concatenated files" in error_of(path)
    place = good.index(b"data") + 4
    # a pipe's (ffmpeg, sox), and a recorder's that was stopped (arecord, others)
    for number in (0xFFFFFFFF, 0x7FFFF000, 0x80000000, 0):
        sizes = number.to_bytes(4, "little")
        path.write_bytes(good[:4] + sizes + good[8:place] + sizes + good[place + 4 :])
        found, _ = read_samples(path)
        np.testing.assert_allclose(found[:, 0], wave, atol=1e-4)
    short = (1036).to_bytes(4, "little"), (1000).to_bytes(4, "little")
    content = good[:4] + short[0] + good[8:place] + short[1] + good[place + 4 :]
    path.write_bytes(content)
    assert "the header gives an end at byte 1044" in error_of(path)
    for wrong in (1000, 2 * len(wave) * 9 // 10):  # of the samples alone
        size = wrong.to_bytes(4, "little")
        path.write_bytes(good[:place] + size + good[place + 4 :])
        message = error_of(path)
        assert f"the header gives an end at byte {place + 4 + wrong} of" in message
        assert "ffmpeg -ignore_length 1" in message
    for behind in (
        bytes(9999),
        b"ID3\3" + b"x" * 99999,
        b"LIST\1\0\0\0x" + b"LIST" * 9,
    ):
        path.write_bytes(good + behind)  # tags, zeros, a chunk without its padding
        assert len(read_samples(path)[0]) == len(wave)
    flac = media.sound_file(wave, format="FLAC")
    path.write_bytes(flac[: len(flac) // 2])
    message = error_of(path)
    assert "damaged or cut off" in message and message.endswith("get the file again")


@pytest.mark.parametrize("kind", "WAV WAVEX RF64 W64 AIFF AU NIST CAF".split())
def test_files_that_end_before_their_headers_length(kind, tmp_path):
    content = media.sound_file(speech(), format=kind, subtype="PCM_16")
    path = tmp_path / "a"
    path.write_bytes(content[: len(content) * 6 // 10])
    message = error_of(path)
    share = 58 if kind == "CAF" else 60  # its header has 4096 bytes
    assert f"cut off: it has {share}% of the length in its header" in message
    for most in (len(content) - 1, len(content)):
        path.write_bytes(content[:most])
        assert len(read_samples(path)[0]) >= len(speech()) - 1


def test_a_small_part_of_a_long_recording_is_not_lost_silently(tmp_path):
    content = media.sound_file(np.zeros(20 * RATE, np.float32), format="WAV")
    path, lost = tmp_path / "a.wav", 10000  # 0.3 s, 1.6 %
    path.write_bytes(content[:-lost])
    assert "cut off: it has 98% of the length in its header" in error_of(path)
    path.write_bytes(content[:-5000])
    assert "cut off: it has 99% of the length in its header" in error_of(path)
    path.write_bytes(content[:-4000])
    assert len(read_samples(path)[0]) == 20 * RATE - 2000
    place = content.index(b"data") + 4
    size = (len(content) - place - 4 - lost).to_bytes(4, "little")
    noise = np.random.default_rng(0).bytes(lost)
    path.write_bytes(content[:place] + size + content[place + 4 : -lost] + noise)
    assert "the header gives an end at byte" in error_of(path)


def test_a_container_that_ends_a_little_early_is_told(tmp_path):
    path = media.encode(tmp_path / "a.mkv", "aac", np.tile(speech(), 50))
    content, lines = path.read_bytes(), []
    read_samples(path, say=lines.append)
    assert not lines
    path.write_bytes(content[: len(content) * 987 // 1000])
    wave, _ = read_samples(path, say=lines.append)
    assert len(lines) == 1 and "check that its end is there" in lines[0]
    assert len(wave) < 50 * len(speech()) - RATE


GAPS = [
    ("a.mka", "flac", RATE), ("a.mp4", "aac", RATE), ("a.mov", "aac", RATE),
    ("a.mkv", "libopus", 48000), ("a.ts", "aac", RATE), ("a.flv", "aac", 44100),
    ("a.wma", "wmav2", RATE),
]  # fmt: skip


def resampled(wave, rate):
    import soxr

    return wave if rate == RATE else soxr.resample(wave, RATE, rate)


@pytest.mark.parametrize("name, codec, rate", GAPS)
def test_a_gap_in_the_timestamps_is_filled_with_zeros(name, codec, rate, tmp_path):
    wave, lines = resampled(speech(), rate), []
    options = {"bit_rate": 64000}
    plain = media.encode(tmp_path / f"plain_{name}", codec, wave, rate, **options)
    whole, _ = read_samples(plain, say=lines.append)
    assert not lines
    options["delays"] = [(1.0, 3.0), (2.0, 0.1)]  # the second is too short
    path = media.encode(tmp_path / name, codec, wave, rate, **options)
    found, info = read_samples(path, say=lines.append)
    assert audio_info(path) == info and info.samples == len(found)
    missing = len(found) - len(whole)
    # timestamps are those of 1 ms; WMA's begin late by the delay of its codec
    assert missing / rate == pytest.approx(3.0, abs=0.07 if codec == "wmav2" else 0.001)
    begin = next(n for n in range(rate // 2, 2 * rate) if not found[n : n + rate].any())
    # the gap is where a packet begins; the codec's own samples may be 0 before it
    assert begin / rate == pytest.approx(1.0, abs=0.15)
    for cut in (begin, begin + missing):
        assert not found[begin:cut].any()
    np.testing.assert_array_equal(found[:begin], whole[:begin])
    np.testing.assert_array_equal(found[begin + missing :], whole[begin:])
    (line,) = lines
    assert f"{path}: {missing / rate:.1f} s without samples, first at 1." in line
    assert line.endswith(" s: filled with silence")


@pytest.mark.parametrize("name, codec, rate", GAPS[1:5])
def test_sound_that_begins_after_the_pictures(name, codec, rate, tmp_path):
    wave, lines, delays = resampled(speech(), rate), [], [(-1.0, 2.5)]
    given = codec, wave, rate
    path = media.encode(tmp_path / name, *given, video=True, delays=delays)
    found, _ = read_samples(path, say=lines.append)
    late = round(2.5 * rate)
    assert not found[: late - rate // 10].any()
    assert likeness(found[late:, 0], wave, rate // 10) > 0.9
    assert " s without samples, first at 0.0 s: filled with silence" in lines[0]
    # without pictures it begins the file, and nothing is missing
    path = media.encode(tmp_path / f"alone_{name}", *given, delays=delays)
    found, _ = read_samples(path, say=lines.append)
    assert len(lines) == 1 and len(found) == pytest.approx(len(wave), abs=rate // 10)


def test_a_gap_that_cannot_be_true_is_not_filled(tmp_path, monkeypatch):
    wave, lines, delays = speech(), [], [(1.0, 3.0)]
    path = media.encode(tmp_path / "a.mka", "flac", wave, delays=delays)
    content = path.read_bytes()
    place = content.index(b"\x44\x89\x88") + 3  # Duration, in ms
    assert struct.unpack(">d", content[place : place + 8])[0] == pytest.approx(5792)
    short = struct.pack(">d", 3000.0)
    path.write_bytes(content[:place] + short + content[place + 8 :])
    assert len(read_samples(path, say=lines.append)[0]) == len(wave)
    assert f"{path}: its timestamps jump from 1." in lines[0] and len(lines) == 1
    # of a live recording, whose duration is unknown
    live = {"options": {"live": "1"}}
    media.encode(path, "flac", wave, delays=delays, open=live)
    assert len(read_samples(path)[0]) == len(wave) + 3 * RATE
    monkeypatch.setattr(audio, "LONGEST_GAP", 2.0)
    found, _ = read_samples(path, say=lines.append)
    np.testing.assert_allclose(found[:, 0], wave, atol=1e-4)
    assert "not filled, so later times may be wrong" in lines[1] and len(lines) == 2


def big_header(kind, size):
    """Return the header of 16-bit mono audio at 48 kHz with ``size`` bytes."""
    form = b"fmt " + struct.pack("<IHHIIHH", 16, 1, 1, 48000, 96000, 2, 16)
    if kind == "WAV":
        sizes = b"RIFF" + struct.pack("<I", size + 36) + b"WAVE"
        return sizes + form + b"data" + struct.pack("<I", size)
    if kind == "RF64":
        sizes = struct.pack("<IQQQI", 28, size + 72, size, size // 2, 0)
        return b"RF64\xff\xff\xff\xffWAVEds64" + sizes + form + b"data\xff\xff\xff\xff"
    rate = b"\x40\x0e\xbb\x80" + bytes(6)  # 48000 as an 80-bit number
    common = struct.pack(">IhIh", 18, 1, size // 2, 16) + rate
    sizes = b"FORM" + struct.pack(">I", size + 46) + b"AIFFCOMM"
    return sizes + common + b"SSND" + struct.pack(">III", size + 8, 0, 0)


@pytest.mark.parametrize(
    "kind, size", [("WAV", 3 * 10**9), ("AIFF", 3 * 10**9), ("RF64", 9 * 10**9)]
)
def test_a_size_above_two_gigabytes_is_no_placeholder(kind, size, tmp_path):
    path, header = tmp_path / "a", big_header(kind, size)
    path.write_bytes(header)
    os.truncate(path, len(header) + size)  # a hole: it takes no space
    assert audio_info(path).samples == size // 2
    os.truncate(path, len(header) + size // 2)
    with pytest.raises(AudioError, match="cut off: it has 50% of the length in its"):
        audio_info(path)
    if kind == "WAV":
        os.truncate(path, len(header) + size)
        with path.open("ab") as file:
            file.write(big_header(kind, 20000) + bytes(20000))
        with pytest.raises(AudioError, match="several concatenated files"):
            audio_info(path)


def test_what_has_no_end_is_not_read_until_the_memory_is_full(monkeypatch):
    monkeypatch.setattr(audio, "MOST_PIPED", 2**22)
    with pytest.raises(AudioError, match="/dev/zero: more than .* without an end"):
        recordings.read_audio("/dev/zero", 16000)


def test_the_progress_bar_does_not_read_a_pipe(tmp_path):
    os.mkfifo(tmp_path / "a.wav")
    assert quick_seconds(tmp_path / "a.wav") == 0.0  # it would wait forever


def test_what_libsndfile_reads_well_is_left_to_it(tmp_path):
    for name, options in (
        ("a.wav", {}),
        ("a.flac", {}),
        ("a.ogg", {"format": "OGG", "subtype": "VORBIS"}),
        ("a.opus", {"format": "OGG", "subtype": "OPUS"}),
    ):
        soundfile.write(tmp_path / name, speech(), RATE, **options)
        info = audio_info(tmp_path / name)
        assert (info.reader, info.samples) == ("libsndfile", len(speech()))
        expected, _ = soundfile.read(tmp_path / name, dtype="float32", always_2d=True)
        np.testing.assert_array_equal(read_samples(tmp_path / name)[0], expected)


def test_without_pyav_the_extra_is_named(tmp_path, monkeypatch):
    path = media.encode(tmp_path / "a.m4a", "aac", speech())
    soundfile.write(tmp_path / "a.wav", speech(), RATE)
    normal = builtins.__import__

    def without(name, *args, **kwargs):
        if name == "av":
            raise ImportError(name)
        return normal(name, *args, **kwargs)

    monkeypatch.setattr(builtins, "__import__", without)
    assert "pip install av, or this package's extra [audio]" in error_of(path)
    assert len(read_samples(tmp_path / "a.wav")[0]) == len(speech())
    assert quick_seconds(path) == 0.0


def test_a_name_that_is_not_utf8(tmp_path):
    name = bytes(tmp_path) + b"/caf\xe9.m4a"
    made = media.encode(tmp_path / "a.m4a", "aac", speech())

    path = os.fsdecode(name)
    os.rename(made, path)
    assert audio_info(path).samples == pytest.approx(len(speech()), abs=1100)
    os.truncate(path, 100)
    with pytest.raises(AudioError, match=r"caf\\xe9.m4a: unreadable audio"):
        read_samples(path)


# ------------------------------------------------------- samples and channels


def prepared(wave, rate=RATE):
    said = []
    return recordings.prepare(wave, rate, RATE, "x", said.append), said


def refused(wave):
    with pytest.raises(AudioError) as error:
        recordings.prepare(wave, RATE, RATE, "x")
    return str(error.value)


def test_channels_that_cancel():
    wave = speech()
    rng = np.random.default_rng(0)
    for other in (-wave, -wave + 1e-4 * rng.standard_normal(len(wave))):
        found, (line,) = prepared(np.stack([wave, other], 1).astype(np.float32))
        assert "its channels cancel each other" in line and "of 2" in line
        assert likeness(found, wave, 0) ** 2 == pytest.approx(1.0, abs=1e-3)
    # what is only in one channel, or the same in both, is averaged as before
    found, said = prepared(np.stack([wave, 0 * wave], 1))
    np.testing.assert_allclose(found, wave / 2)
    assert said == []
    silent, said = prepared(np.zeros((100, 2), np.float32))
    assert said == [] and not silent.any()


def test_samples_that_are_scaled():
    wave = speech()
    message = refused(wave * 32767)
    assert "outside [-1, 1]" in message and "as 16-bit integers; divide" in message
    assert "as 24-bit integers" in refused(wave * (2**23 - 1))
    found, (line,) = prepared(wave * 4)
    assert "samples reach" in line and "outside [-1, 1]" in line
    np.testing.assert_array_equal(found, wave * 4)
    assert prepared(wave * 1.5)[1] == []
    assert "got int16; divide them by 32768" in refused((wave * 9).astype(np.int16))


def test_shapes_that_are_taken():
    wave = speech()
    assert len(prepared(wave[:, None])[0]) == len(wave)
    message = refused(wave[None])
    assert "must be (n,) or (n, channels)" in message and "wave.T" in message


def test_media_of_a_folder_that_are_not_read(tmp_path):
    soundfile.write(tmp_path / "a.wav", speech(), RATE)
    media.encode(tmp_path / "b.m4a", "aac", speech())
    (tmp_path / "b.m4a").rename(tmp_path / "b.mp4.part")
    (tmp_path / "protected.m4p").write_bytes(b"x")
    (tmp_path / "notes.txt").write_text("no audio")
    found = recordings.find_media([str(tmp_path)])
    assert [s.name for s in found.sources] == ["a"] and found.others == 1
    names = [str(tmp_path / n) for n in ("b.mp4.part", "protected.m4p")]
    assert found.unread == names
    line = recordings.describe_unread(found.unread)
    assert line.startswith("2 media files are not read: ") and names[0] in line
    # named, it is read whatever it is called
    assert recordings.find_media([str(tmp_path), names[0]]).unread == names[1:]
