"""Features of data folders: tables, resuming, messages."""

import json
from pathlib import Path

import numpy as np
import pytest
import soundfile

from archives import read_features
from espnet_adastride.bin import extract_features, filter_data, format_data
from espnet_adastride.corpora.datadir import read_table
from espnet_adastride.corpora.features import Upstream
from espnet_adastride.corpora.upstream_record import UpstreamRecord, read_record
from espnet_adastride.errors import ModelError, UserError
from espnet_adastride.recipe import extraction


class Energy(Upstream):
    """The mean magnitude of every 320 samples, and its square: known answers."""

    def __init__(self):
        self.record = UpstreamRecord(
            "transformers", "energy", "0" * 64, 2, 320, 160.0, 320, "ceil"
        )
        self.calls = []

    def compute(self, wave):
        self.calls.append(len(wave))
        padded = np.pad(np.abs(wave), (0, -len(wave) % 320)).reshape(-1, 320)
        mean = padded.mean(axis=1)
        return np.stack([mean, mean**2], axis=1)


@pytest.fixture
def data(tmp_path, monkeypatch):
    """A formatted data folder of five utterances, lengths 4000, 4400, ..."""
    monkeypatch.chdir(tmp_path)
    source = Path("data/train")
    source.mkdir(parents=True)
    noise = np.random.default_rng(0)
    lines = {"wav.scp": "", "text": "", "utt2spk": ""}
    for number in range(5):
        path = tmp_path / f"{number}.wav"
        soundfile.write(path, noise.uniform(-0.5, 0.5, 4000 + 400 * number), 16000)
        lines["wav.scp"] += f"s-{number} {path}\n"
        lines["text"] += f"s-{number} A B\n"
        lines["utt2spk"] += f"s-{number} s\n"
    for name, text in lines.items():
        (source / name).write_text(text)
    format_data.main(["--set", "data/train", "dump/raw/org/train"])
    return Path("dump/raw/org/train")


def extract(data, upstream, work=None, nj=1, output="dump/extracted/org/train"):
    return extraction.extract_data_dir(data, output, upstream, nj, work or {})


@pytest.mark.parametrize("nj", [1, 3])
def test_a_set(data, nj, monkeypatch):
    monkeypatch.setattr(extraction, "PART", 2)
    upstream = Energy()
    line = extract(data, upstream, nj=nj)
    output = Path("dump/extracted/org/train")
    assert "5 utterances" in line and "2 values every 20 ms" in line
    places = read_table(output / "feats.scp")
    assert len({p.rpartition(":")[0] for p in places.values()}) == 3
    for key, path in read_table(data / "wav.scp").items():
        expected = upstream(soundfile.read(path, dtype="float32")[0])
        np.testing.assert_allclose(read_features(places[key]), expected, atol=1e-5)
        frames = int(read_table(output / "utt2num_frames")[key])
        assert frames == len(expected)
    assert (output / "feats_dim").read_text() == "2\n"
    assert (output / "feats_type").read_text() == "extracted\n"
    assert read_record(output / "upstream.yaml") == upstream.record


def test_interrupted_it_resumes(data, monkeypatch):
    monkeypatch.setattr(extraction, "PART", 2)
    upstream = Energy()

    class Stops(Energy):
        def compute(self, wave):
            if len(wave) == 5200:  # the fourth
                raise KeyboardInterrupt
            return super().compute(wave)

    with pytest.raises(KeyboardInterrupt):
        extract(data, Stops())
    folder = Path("dump/extracted/org/train")
    assert not (folder / "feats.scp").exists()
    assert sorted(p.name for p in (folder / "feats").glob("*.ark")) == ["feats.1.ark"]
    extract(data, upstream)
    assert upstream.calls == [4800, 5200, 5600]
    # by another upstream, or of other audio: nothing is kept
    extract(data, upstream, {"option": {"upstream": "another"}})
    assert len(upstream.calls) == 3 + 5


def test_a_torn_archive_is_made_again(data, monkeypatch):
    monkeypatch.setattr(extraction, "PART", 2)
    extract(data, Energy())
    Path("dump/extracted/org/train/feats/feats.2.scp").unlink()
    upstream = Energy()
    extract(data, upstream)
    assert upstream.calls == [4800, 5200]


def test_a_full_disk(data, monkeypatch):
    usage = type("Usage", (), {"free": 100})
    monkeypatch.setattr(extraction.shutil, "disk_usage", lambda path: usage)
    with pytest.raises(UserError, match="features need .* are free: free some space"):
        extract(data, Energy())


def test_audio_that_changed(data):
    path = read_table(data / "wav.scp")["s-1"]
    soundfile.write(path, np.zeros(100), 16000)
    with pytest.raises(UserError, match="has 100 samples, but 4400 when"):
        extract(data, Energy())
    soundfile.write(path, np.zeros(100), 8000)
    with pytest.raises(UserError, match="has 8000 Hz, but the upstream needs 16000"):
        extract(data, Energy())
    Path(path).unlink()
    with pytest.raises(UserError, match="s-1: .*no such file"):
        extract(data, Energy())


def test_an_upstream_that_gives_something_else(data):
    class Wrong(Energy):
        def compute(self, wave):
            return super().compute(wave)[:-1]

    with pytest.raises(ModelError, match="another frame rate or size"):
        extract(data, Wrong())


@pytest.fixture
def command(monkeypatch):
    """The command, with an upstream of known answers."""
    upstream = Energy()
    monkeypatch.setattr(extract_features, "build_upstream", lambda *_: upstream)
    monkeypatch.setattr(extract_features, "check_upstream", lambda words: None)

    def run(*words):
        extract_features.main(
            [
                *("--upstream", "whisper"),
                *("--set", "dump/raw/org/train", "dump/extracted/org/train"),
                *words,
            ]
        )
        return upstream

    return run


def test_done_and_unchanged(data, command, capsys):
    assert len(command().calls) == 5
    assert len(command().calls) == 5
    assert "done and unchanged" in capsys.readouterr().out
    assert len(command("--rerun", "true").calls) == 10


def test_filtering_keeps_the_features(data, command):
    command()
    filter_data.main(
        [
            *("--set", "dump/extracted/org/train", "dump/extracted/train"),
            *("--min_wav_duration", "0.26"),
        ]
    )
    output = Path("dump/extracted/train")
    assert list(read_table(output / "feats.scp")) == ["s-1", "s-2", "s-3", "s-4"]
    assert read_record(output / "upstream.yaml").hop == 320
    assert (output / "feats_type").read_text() == "extracted\n"
    stamp = json.loads((output / ".stage_done").read_text())
    assert any(name.endswith("feats.scp") for name in stamp["outputs"])


def test_lengths_that_do_not_fit_are_one_line(data, command):
    filter_words = ["--set", str(data), "dump/raw/train"]
    for text in ("s-0 4000\ns-1 x\n", "s-0 4000\n"):
        (data / "utt2num_samples").write_text(text)
        for run in (command, lambda: filter_data.main(filter_words)):
            with pytest.raises(SystemExit, match="samples: no number .* for s-1: make"):
                run()


def test_changed_audio_is_told_without_hashes(data, capsys):
    path = Path(read_table(data / "wav.scp")["s-1"])
    soundfile.write(path, np.zeros(100), 16000)
    format_data.main(["--set", "data/train", "dump/raw/org/train"])
    assert "again: audio changed\n" in capsys.readouterr().out


def test_another_rate(data, command):
    with pytest.raises(SystemExit, match="takes 16000 Hz; give --fs 16000"):
        command("--fs", "8k")


def test_messages_are_one_line(data, monkeypatch):
    def missing(*_):
        raise ModelError("not installed: pip install it")

    monkeypatch.setattr(extract_features, "check_upstream", missing)
    with pytest.raises(SystemExit) as error:
        extract_features.main(
            ["--upstream", "whisper", "--set", "dump/raw/org/train", "x"]
        )
    assert str(error.value) == "error: --upstream: not installed: pip install it"
    with pytest.raises(SystemExit, match="error: --upstream: not installed"):
        extract_features.main(["--check", "whisper"])


def test_options_of_training(data, command, capsys):
    command()
    capsys.readouterr()
    extract_features.main(["--training_options", "dump/extracted/org/train"])
    assert capsys.readouterr().out.split() == ["--input_size", "2"]
