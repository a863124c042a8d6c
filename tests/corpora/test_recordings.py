"""Reading recordings of all kinds, and cutting long ones."""

import io
import os
import tracemalloc
import types

import numpy as np
import pytest

soundfile = pytest.importorskip("soundfile")

from espnet_adastride.corpora import recordings  # noqa: E402
from espnet_adastride.corpora.containers import other_than_samples  # noqa: E402
from espnet_adastride.corpora.recordings import (  # noqa: E402
    cut_at_pauses,
    energy,
    find_media,
    find_pauses,
    is_silent,
    prepare,
    read_audio,
    read_pcm,
    sample_problem,
)
from espnet_adastride.errors import AudioError  # noqa: E402

RATE = 8000


def tone(seconds, rate=RATE, frequency=440.0, level=0.3):
    time = np.arange(round(seconds * rate)) / rate
    return (level * np.sin(2 * np.pi * frequency * time)).astype(np.float32)


def loudest_frequency(wave, rate):
    return np.argmax(np.abs(np.fft.rfft(wave))) * rate / len(wave)


@pytest.mark.parametrize(
    "name, options",
    [
        ("a.wav", {}),
        ("a.flac", {}),
        ("a.ogg", {"format": "OGG", "subtype": "VORBIS"}),
        ("a.opus", {"format": "OGG", "subtype": "OPUS"}),
        ("a.mp3", {"format": "MP3"}),
    ],
)
@pytest.mark.parametrize("rate, channels", [(8000, 1), (48000, 2)])
def test_formats_rates_and_channels(name, options, rate, channels, tmp_path):
    soundfile.write(
        tmp_path / name, np.stack([tone(0.5, rate)] * channels, 1), rate, **options
    )
    wave = read_audio(tmp_path / name, RATE)
    assert wave.dtype == np.float32 and wave.ndim == 1
    assert len(wave) == pytest.approx(0.5 * RATE, abs=0.1 * RATE)
    assert loudest_frequency(wave, RATE) == pytest.approx(440, abs=6)
    assert np.abs(wave[1000:3000]).max() == pytest.approx(0.3, abs=0.05)


def test_channels_are_averaged_and_odd_rates_resampled():
    left, right = tone(1.0, 11025), np.zeros(11025, np.float32)
    wave = prepare(np.stack([left, right], axis=1), 11025, RATE, "x")
    assert len(wave) == RATE
    assert np.abs(wave[1000:7000]).max() == pytest.approx(0.15, abs=0.005)
    same = tone(0.1)
    np.testing.assert_array_equal(prepare(same, RATE, RATE, "x"), same)


@pytest.mark.parametrize("channels", [1, 2, 3])
def test_nothing_larger_than_the_mixed_recording_is_copied(channels):
    """An hour of stereo at 48 kHz is 1.3 GiB, and once needed 3.5 times that."""
    wave = np.random.default_rng(0).normal(0, 0.1, (500_000, channels))
    wave = wave.astype(np.float32)
    tracemalloc.start()
    mixed = prepare(wave, RATE, RATE, "x")
    assert sample_problem(mixed) == "" and not is_silent(mixed)
    _, most = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert most < 4 * len(wave) * (0.2 if channels == 1 else 1.2)
    np.testing.assert_allclose(mixed, wave.astype(np.float64).mean(axis=1), atol=1e-7)


def test_the_loudest_of_channels_that_cancel():
    left = tone(0.5)
    said = []
    wave = np.stack([0.4 * left, left, -1.4 * left], axis=1)
    mixed = prepare(wave, RATE, RATE, "x", said.append)
    np.testing.assert_array_equal(mixed, np.float32(-1.4) * left)
    assert "only channel 3 of 3 is used" in said[0]


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("shape", [(50,), (50, 2)])
def test_one_sample_that_is_no_number(value, shape):
    wave = np.full(shape, 0.5, np.float32)
    wave.flat[30] = value
    assert sample_problem(wave).startswith("1 sample is not a number")
    wave.flat[30] = -20.0  # the largest is negative
    assert "samples reach 20, outside [-1, 1]" in sample_problem(wave)


def test_standard_input(monkeypatch):
    file = io.BytesIO()
    soundfile.write(file, tone(0.2), RATE, format="FLAC")
    stdin = types.SimpleNamespace(buffer=io.BytesIO(file.getvalue()))
    monkeypatch.setattr(recordings.sys, "stdin", stdin)
    assert len(read_audio("-", RATE)) == 1600
    with pytest.raises(AudioError, match="standard input: empty"):
        read_audio("-", RATE)  # it has been read


@pytest.mark.parametrize("rate", [1, 99, 1e-3])
def test_an_impossible_rate_is_not_resampled(tmp_path, rate):
    # a second at 1 Hz would become two hours, at 0.001 Hz more than the memory holds
    words = "x: .* samples per second, but speech has 100 or more; correct the rate"
    with pytest.raises(AudioError, match=words):
        prepare(tone(0.5), rate, RATE, "x")
    if rate >= 1:
        soundfile.write(tmp_path / "slow.wav", tone(0.5), rate)
        with pytest.raises(AudioError, match="samples per second"):
            read_audio(tmp_path / "slow.wav", RATE)


def test_a_stream_without_samples():
    file = io.BytesIO()
    soundfile.write(file, tone(0), RATE, format="WAV")
    for content in (file.getvalue(), b"\0"):
        with pytest.raises(AudioError, match="standard input: no samples; pipe 16-bit"):
            list(read_pcm(io.BytesIO(content), RATE, 800))


@pytest.mark.parametrize("length", [1, 300])  # 255 is the longest name of a file
def test_a_piped_command_is_named(length):
    command = f"sox {'x' * length} -t wav - |"
    with pytest.raises(AudioError, match=r"is a piped command; give an audio file"):
        read_audio(command, RATE)


def test_bad_recordings_are_named_in_one_line(tmp_path):
    def said(name, content=None, samples=None):
        path = tmp_path / name
        if content is not None:
            path.write_bytes(content)
        if samples is not None:
            soundfile.write(path, samples, RATE, subtype="FLOAT")
        with pytest.raises(AudioError) as error:
            read_audio(path, RATE)
        message = str(error.value)
        assert message.startswith(f"{path}: ") and "\n" not in message
        return message

    assert "no such file" in said("none.wav")
    assert "an empty file" in said("empty.wav", content=b"")
    assert "unreadable audio" in said("text.wav", content=b"no audio here")
    assert "convert it to wav" in said("movie.m4a", content=b"\0\0\0 ftypM4A ")
    assert "no samples" in said("header.wav", samples=np.zeros(0))
    wave = np.zeros(10)
    wave[3], wave[4] = np.nan, np.inf
    assert "2 samples are not numbers" in said("nan.wav", samples=wave)
    wave[4] = 0
    assert "1 sample is not a number" in said("nan.wav", samples=wave)
    (tmp_path / "folder.wav").mkdir()
    assert said("folder.wav")
    for samples, words in (
        (np.zeros((2, 2, 2)), "samples must be"),
        (np.zeros(0), "no samples"),
        (np.zeros(3, np.int16), "samples must be"),
    ):
        with pytest.raises(AudioError, match=f"x: {words}"):
            prepare(samples, RATE, RATE, "x")


def test_folders_are_walked_and_other_files_counted(tmp_path):
    for name in ("b/x.wav", "b/a.MP3", "b/notes.txt", "b/.hidden.wav", ".git/y.wav"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    found, unread, others = find_media([str(tmp_path), "any.thing", "d/e.wav", "-"])
    assert [(s.name, s.full) for s in found] == [
        ("b/a", "b/a.MP3"), ("b/x", "b/x.wav"), ("any", "any.thing"), ("e", "e.wav"),
        ("stdin", "stdin"),
    ]  # fmt: skip
    # once, however often it is named
    with pytest.raises(AudioError, match="a recording's name is empty"):
        find_media([str(tmp_path), ""])
    again = find_media([str(tmp_path), f"{tmp_path}/b//x.wav", "any", "any"]).sources
    assert [s.name for s in again] == ["b/a", "b/x", "any"]
    assert (unread, others) == ([], 1) and found[0].path == str(
        tmp_path / "b" / "a.MP3"
    )


def test_links_to_folders_are_followed_but_not_round_and_round(tmp_path):
    for name in ("in/a/x.wav", "in/b/c/y.wav", "other/z.wav"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    folder = tmp_path / "in"
    (folder / "a" / "up").symlink_to("..")
    (folder / "a" / "top").symlink_to(tmp_path)
    (folder / "b" / "c" / "self").symlink_to(".")
    (folder / "again").symlink_to("b")
    (folder / "far").symlink_to(tmp_path / "other")
    (tmp_path / "other" / "back").symlink_to(folder)
    os.mkfifo(folder / "pipe.wav")
    names = [s.name for s in find_media([str(folder)]).sources]
    assert names == ["a/x", "b/c/y", "far/z"]


# ------------------------------------------------------------------- cutting


def speech(*parts):
    """Noise (seconds > 0) and pauses of faint hiss (seconds < 0)."""
    rng = np.random.default_rng(0)
    waves = [
        rng.standard_normal(round(abs(s) * RATE)) * (0.2 if s > 0 else 0.002)
        for s in parts
    ]
    return np.concatenate(waves).astype(np.float32)


def seconds(segments):
    return [(round(a / RATE, 2), round(b / RATE, 2)) for a, b in segments]


def test_energy_of_a_step():
    wave = np.zeros(RATE, np.float32)
    wave[4000:] = 0.1  # -20 dB
    level = energy(wave, RATE)
    assert len(level) == 100
    np.testing.assert_allclose(level[:48], -100)
    np.testing.assert_allclose(level[52:], -20, atol=1e-4)
    assert len(energy(wave[:1], RATE)) == 1


def test_pauses_are_where_they_were_made():
    level = energy(speech(1.0, -0.5, 1.0, -0.1, 1.0), RATE)
    ((begin, end),) = find_pauses(level)  # 0.1 s is none
    assert (begin / 100, end / 100) == pytest.approx((1.0, 1.5), abs=0.03)
    assert find_pauses(energy(speech(2.0), RATE)) == []  # nothing stands out


def test_short_recordings_stay_whole():
    wave = speech(1.0, -1.0, 1.0)
    assert cut_at_pauses(wave, RATE, 3.0) == [(0, len(wave))]


def test_cuts_lie_in_the_longest_pause_within_reach():
    wave = speech(2.0, -0.3, 2.0, -0.6, 2.0, -0.3, 2.0)
    # of the pauses at 2.0-2.3, 4.3-4.9 and 6.9-7.2, the second from 0, then the third
    cuts = seconds(cut_at_pauses(wave, RATE, 5.0))
    assert cuts == [(0.0, 4.6), (4.6, cuts[1][1])] + cuts[2:]
    assert cuts[0][1] == pytest.approx(4.6, abs=0.03) and cuts[-1][1] == 9.2
    cuts = seconds(cut_at_pauses(wave, RATE, 4.0))
    assert [b for _, b in cuts[:-1]] == pytest.approx([2.15, 4.6, 7.05], abs=0.03)


def test_without_a_pause_the_quietest_place_is_cut():
    wave = speech(10.0)
    wave[int(4.1 * RATE) : int(4.4 * RATE)] *= 0.6  # too loud for a pause
    segments = seconds(cut_at_pauses(wave, RATE, 6.0))
    assert segments[0][1] == pytest.approx(4.25, abs=0.1)


@pytest.mark.parametrize("parts", [(30.0,), (-30.0,), (7.0, -0.4) * 4, (6.2,)])
def test_segments_cover_all_and_none_is_too_long_or_short(parts):
    wave = speech(*parts)
    segments = cut_at_pauses(wave, RATE, 6.0)
    assert segments[0][0] == 0 and segments[-1][1] == len(wave)
    assert all(a[1] == b[0] for a, b in zip(segments, segments[1:]))
    assert all(0.9 * RATE < b - a <= 6 * RATE for a, b in segments)


def test_silence():
    assert is_silent(np.zeros(5)) and is_silent(np.zeros(0))
    assert not is_silent(speech(-0.1))


def test_pauses_where_the_noise_changes():
    """Two sentences of 2 s in a quiet room, two in a noisy one: 30 dB more noise."""
    random = np.random.default_rng(0)
    wave = []
    for floor in (0.0005, 0.0005, 0.016, 0.016):
        said = 0.2 * random.standard_normal(2 * RATE)
        pause = np.zeros(RATE // 2)
        room = np.concatenate([said, pause])
        wave.append(room + floor * random.standard_normal(len(room)))
    wave = np.concatenate(wave).astype(np.float32)
    pauses = find_pauses(energy(wave, RATE))
    expected = [(200 + 250 * n, 250 + 250 * n) for n in range(4)]
    assert len(pauses) == 4
    for (a, b), (begin, end) in zip(pauses, expected):
        assert abs(a - begin) <= 3 and abs(b - end) <= 3
    cuts = [end / RATE for _, end in cut_at_pauses(wave, RATE, 3.0)][:-1]
    np.testing.assert_allclose(cuts, [2.25, 4.75, 7.25], atol=0.05)


def test_energy_is_the_same_in_blocks(monkeypatch):
    wave = np.random.default_rng(0).standard_normal(RATE * 3 + 17).astype(np.float32)
    whole_curve = energy(wave, RATE)
    monkeypatch.setattr(recordings, "ENERGY_BLOCK", 7)
    np.testing.assert_allclose(energy(wave, RATE), whole_curve, atol=1e-9)


# ------------------------------------------------------------------ no raw samples
def encoded(container, subtype, rate=16000):
    content = io.BytesIO()
    soundfile.write(content, tone(2.0, rate), rate, format=container, subtype=subtype)
    return content.getvalue()


def without_tag(content):
    return content[10 + content[9] :] if content.startswith(b"ID3") else content


@pytest.mark.parametrize(
    "content, words",
    [
        (b"HELLO WORLD\n" * 400, "text, not audio"),
        ("Grüße, 世界\r\n".encode() * 400, "text, not audio"),
        (b"short words\n", "text, not audio"),
        (b"PK\3\4" + bytes(range(256)) * 20, "an archive or a file that is not audio"),
        (b"\x1f\x8b\x08\0" + bytes(5000), "an archive or a file that is not audio"),
        (b"%PDF-1.7\n\x80\xff" * 500, "an archive or a file that is not audio"),
        (without_tag(encoded("MP3", "MPEG_LAYER_III")), "compressed audio"),
        (without_tag(encoded("MP3", "MPEG_LAYER_III", 44100)), "compressed audio"),
        (without_tag(encoded("MP3", "MPEG_LAYER_III", 8000)), "compressed audio"),
        # two ADTS frames of 32 bytes: 0xfff1, AAC LC, 16 kHz, length 32
        ((b"\xff\xf1\x60\x40\x04\x1f\xfc" + bytes(25)) * 9, "compressed audio"),
    ],
)
def test_a_pipe_of_something_else_is_not_heard_as_samples(content, words):
    with pytest.raises(AudioError) as error:
        next(read_pcm(io.BytesIO(content), 16000, 1600))
    line = str(error.value)
    assert line.startswith(f"standard input: {words}") and "; pipe 16-bit mono" in line


@pytest.mark.parametrize(
    "first",
    [[-1, 0x2010, 300], [-1025, 0x4440, 2], [0x2041] * 3 + [0], [-3585, 0x4060, 9]],
)
def test_samples_that_begin_as_a_header_or_as_text_are_heard(first):
    samples = np.array(first + list(range(-800, 800)), dtype="<i2")
    heard = list(read_pcm(io.BytesIO(samples.tobytes()), 16000, 700))
    assert np.array_equal(np.concatenate(heard), samples.astype(np.float32) / 32768)


def test_no_recording_of_noise_looks_like_something_else():
    rng = np.random.default_rng(0)
    for size in (12, 80, 3200):
        for level in (2, 30, 3000, 32767):
            for _ in range(200):
                samples = rng.integers(-level, level + 1, size // 2).astype("<i2")
                assert other_than_samples(samples.tobytes()) == ""
