"""Speed perturbation offline (stage 2): pitch, lengths, names, interruptions."""

from fractions import Fraction

import numpy as np
import pytest
import soundfile

from espnet_adastride.bin import perturb_speed
from espnet_adastride.corpora import perturb
from espnet_adastride.corpora.datadir import (
    format_data_dir,
    read_data_dir,
    read_table,
    write_table,
)
from espnet_adastride.errors import UserError

RATE = 16000
FACTORS = ["0.9", "1.0", "1.1"]


def sine(hertz, count):
    return 0.5 * np.sin(2 * np.pi * hertz * np.arange(count) / RATE)


@pytest.fixture
def source(tmp_path):
    """Two utterances of two speakers, one of them with shell characters."""
    folder = tmp_path / "my data"
    folder.mkdir()
    tables = {"wav.scp": {}, "text": {}, "utt2spk": {}}
    for key, speaker, count in (
        ("u1", "a", 8000),
        ("u 2".replace(" ", "$"), "b/;c", 990),
    ):
        path = folder / f"{speaker[0]}.flac"
        soundfile.write(path, sine(440, count), RATE)
        tables["wav.scp"][key] = str(path)
        tables["text"][key] = "SOME WORDS"
        tables["utt2spk"][key] = speaker
    for name, table in tables.items():
        write_table(folder / name, table)
    return folder


def make(source, output, *more):
    words = ["--source", str(source), "--output", str(output), "--nj", "2"]
    perturb_speed.main([*words, "--factors", *FACTORS, *more])


def test_names_speakers_lengths_and_pitch(source, tmp_path, capsys):
    output = tmp_path / "train_sp"
    make(source, output)
    assert "6 utterances at the speeds 0.9 1.0 1.1" in capsys.readouterr().out
    tables = read_data_dir(output)
    assert tables["utt2spk"] == {
        "sp0.9-u1": "sp0.9-a",
        "sp0.9-u$2": "sp0.9-b/;c",
        "sp1.1-u1": "sp1.1-a",
        "sp1.1-u$2": "sp1.1-b/;c",
        "u1": "a",
        "u$2": "b/;c",
    }
    assert set(tables["text"].values()) == {"SOME WORDS"}
    assert read_table(output / "spk2utt")["sp0.9-a"] == "sp0.9-u1"
    assert tables["wav.scp"]["u1"] == read_table(source / "wav.scp")["u1"]
    # 0.9 takes ceil(n / 0.9) samples and lowers the pitch to 0.9
    for word, counts in (("0.9", (8889, 1100)), ("1.1", (7273, 900))):
        for key, count in zip(("u1", "u$2"), counts):
            info = soundfile.info(tables["wav.scp"][f"sp{word}-{key}"])
            assert (info.frames, info.samplerate) == (count, RATE)
            assert info.format == "FLAC" and info.subtype == "PCM_16"
        wave, _ = soundfile.read(tables["wav.scp"][f"sp{word}-u1"])
        expected = sine(440 * float(word), len(wave))
        assert np.abs(wave - expected)[200:-200].max() < 5e-3


def test_long_ids_have_short_file_names(source, tmp_path):
    long = 90 * "語"
    for name in ("wav.scp", "text", "utt2spk"):
        table = read_table(source / name)
        table[long] = table.pop("u1")
        if name == "utt2spk":
            table[long] = long
        write_table(source / name, table)
    make(source, tmp_path / "sp")
    waves = read_table(tmp_path / "sp" / "wav.scp")
    assert soundfile.info(waves[f"sp0.9-{long}"]).frames == 8889
    format_data_dir(source, tmp_path / "dump", 8000)
    waves = read_table(tmp_path / "dump" / "wav.scp")
    assert soundfile.info(waves[long]).frames == 4000


def test_done_is_done_and_what_is_missing_is_made_again(source, tmp_path, capsys):
    output = tmp_path / "train_sp"
    make(source, output)
    copies = sorted((output / "perturbed").rglob("*.flac"))
    assert len(copies) == 4
    times = [p.stat().st_mtime_ns for p in copies]
    make(source, output)
    assert "done and unchanged" in capsys.readouterr().out
    copies[1].unlink()
    make(source, output)
    assert "done and unchanged" not in capsys.readouterr().out
    after = [p.stat().st_mtime_ns for p in copies]
    assert [a == b for a, b in zip(times, after)] == [True, False, True, True]
    make(source, output, "--rerun", "true")
    assert [p.stat().st_mtime_ns for p in copies] != after


def test_an_interrupted_run_keeps_what_is_whole(source, tmp_path, monkeypatch):
    output = tmp_path / "train_sp"
    whole, made = perturb.change_speed, []

    def stops(copy):
        if len(made) == 2:
            raise KeyboardInterrupt
        made.append(copy)
        whole(copy)

    monkeypatch.setattr(perturb, "change_speed", stops)
    with pytest.raises(SystemExit):
        make(source, output, "--nj", "1")
    assert not (output / "wav.scp").exists() and not (output / ".stage_done").exists()
    kept = {p: p.stat().st_mtime_ns for p in (output / "perturbed").rglob("*.flac")}
    assert len(kept) == 2
    first = next(iter(kept))
    first.write_bytes(first.read_bytes()[:100])  # torn, as after a power failure
    monkeypatch.setattr(perturb, "change_speed", whole)
    make(source, output)
    now = {p: p.stat().st_mtime_ns for p in (output / "perturbed").rglob("*.flac")}
    assert len(now) == 4
    assert [now[p] == kept[p] for p in kept] == [False, True]
    assert len(soundfile.read(first)[0]) in (8889, 7273, 1100, 900)


def test_changed_audio_makes_all_copies_anew(source, tmp_path):
    output = tmp_path / "train_sp"
    make(source, output)
    path = read_table(source / "wav.scp")["u1"]
    soundfile.write(path, sine(880, 8000), RATE)  # the same length
    make(source, output)
    wave, _ = soundfile.read(read_table(output / "wav.scp")["sp0.9-u1"])
    peak = np.abs(np.fft.rfft(wave)).argmax() * RATE / len(wave)
    assert peak == pytest.approx(880 * 0.9, abs=2)


@pytest.mark.parametrize(
    "factors, words",
    [
        (["0.9", "fast"], "'fast' is not a speed factor"),
        (["0"], "'0' is not a speed factor"),
        (["9/10"], "'9/10' is not a speed factor"),
        (["1.0", "1"], "1 is given twice"),
        ([], "is empty"),
    ],
)
def test_factors_that_are_refused(factors, words):
    with pytest.raises(UserError, match=words):
        perturb.parse_factors(factors)


def test_factors_are_exact():
    factors = perturb.parse_factors(FACTORS)
    assert factors["1.1"] == Fraction(11, 10)  # 1.1 in binary is a little more
    assert perturb.perturbed_samples(11, factors["1.1"]) == 10
    assert perturb.perturbed_samples(12, factors["1.1"]) == 11


def test_audio_that_cannot_be_read_is_named(source, tmp_path):
    path = read_table(source / "wav.scp")["u1"]
    with open(path, "r+b") as file:
        file.truncate(10)
    with pytest.raises(
        SystemExit,
        match=r"sp(0.9|1.1)-u1: .*a.flac: unreadable audio .*or remove it",
    ):
        make(source, tmp_path / "out")
    assert not (tmp_path / "out" / ".stage_done").exists()
