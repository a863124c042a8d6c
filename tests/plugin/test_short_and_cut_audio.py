"""Recordings of 0, 1 and 100 samples, and one that was cut off, in every command."""

import json
import os
import subprocess

import numpy as np
import pytest
import soundfile
from espnet2.bin import asr_inference

from espnet_adastride.bin import (
    align,
    asr_inference_ctc,
    format_data,
    join_decoded,
    perturb_speed,
    plot,
    transcribe,
)
from espnet_adastride.corpora import datadir
from espnet_adastride.corpora.kaldi import read_text
from espnet_adastride.errors import AudioError
from tests.plugin.frontend_models import CASES
from tests.tiny_models import RATE, make_experiment

NOISE = np.random.default_rng(0).integers(-3000, 3000, 2 * RATE).astype("int16")
LENGTHS = {"empty": 0, "one": 1, "some": 100, "whole": len(NOISE)}


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return make_experiment(tmp_path_factory.mktemp("models") / "asr_adastride")


@pytest.fixture(scope="module")
def conv2d(tmp_path_factory):
    return make_experiment(tmp_path_factory.mktemp("models") / "asr_conv2d", "conv2d")


def write_set(folder, names=LENGTHS):
    folder.mkdir()
    for name in names:
        soundfile.write(folder / f"{name}.wav", NOISE[: LENGTHS[name]], RATE)
    waves = {name: str(folder / f"{name}.wav") for name in names}
    datadir.write_table(folder / "wav.scp", waves)
    datadir.write_table(folder / "text", dict.fromkeys(names, "A B"))
    datadir.write_table(folder / "utt2spk", dict.fromkeys(names, "s"))
    counts = {name: str(LENGTHS[name]) for name in names}
    datadir.write_table(folder / "utt2num_samples", counts)
    return folder


@pytest.fixture
def data(tmp_path):
    return write_set(tmp_path / "data")


def decode(tool, exp, data, output, *more):
    # written as the recipe's jobs write: a log beside output.1
    words = ["--asr_train_config", exp / "config.yaml"]
    words += ["--asr_model_file", exp / "valid.acc.ave.pth", "--ngpu", "0"]
    words += ["--data_path_and_name_and_type", f"{data}/wav.scp,speech,sound"]
    words += ["--output_dir", output / "output.1", *more]
    tool.main([str(word) for word in words])


@pytest.mark.parametrize("tool", [asr_inference_ctc, asr_inference])
@pytest.mark.parametrize("kind", ["model", "conv2d"])
def test_decoding_gives_empty_hypotheses_and_names_them(
    tool, kind, data, tmp_path, caplog, request
):
    exp = request.getfixturevalue(kind)
    more = ["--num_workers", "0"]
    if tool is asr_inference:
        more += ["--beam_size", "2", "--maxlenratio", "-3"]
    with caplog.at_level("WARNING"):
        decode(tool, exp, data, tmp_path / "log", *more)
    warnings = [r.getMessage() for r in caplog.records if "too short" in r.getMessage()]
    for name in ("empty", "one", "some"):
        assert any(name in line and "samples" in line for line in warnings), warnings
    folder = tmp_path / "log" / "output.1" / "1best_recog"
    said = read_text(folder / "text", allow_empty=True)
    assert set(said) == set(LENGTHS)
    assert [said[name] for name in ("empty", "one", "some")] == [""] * 3
    # stage 12's summary counts and names them
    log = "".join(f"00:00 WARNING: {line}\n" for line in warnings)
    (tmp_path / "log" / "asr_inference.1.log").write_text(log)
    out = tmp_path / "joined"
    words = ["--logdir", tmp_path / "log", "--data", data, "--output_dir", out]
    join_decoded.main([str(word) for word in [*words, "--fs", RATE]])
    assert (out / "text").read_text().startswith("empty\n")


def test_a_batch_with_a_short_utterance(model, data, tmp_path):
    decode(
        asr_inference_ctc, model, data, tmp_path, "--batch_size=4", "--num_workers=0"
    )
    said = read_text(tmp_path / "output.1/1best_recog/text", allow_empty=True)
    assert set(said) == set(LENGTHS) and said["empty"] == ""


@pytest.mark.parametrize("kind", ["model", "conv2d"])
def test_what_is_too_short_alone_is_so_in_a_batch(kind, tmp_path, request, monkeypatch):
    # 7 feature frames from 480 samples on
    monkeypatch.setitem(LENGTHS, "six", 479)
    monkeypatch.setitem(LENGTHS, "seven", 480)
    exp, data = request.getfixturevalue(kind), write_set(tmp_path / "data", LENGTHS)
    for size in "1", "6":
        words = [f"--batch_size={size}", "--num_workers=0"]
        decode(asr_inference_ctc, exp, data, tmp_path / size, *words)
        said = read_text(tmp_path / size / "output.1/1best_recog/frames")
        heard = {name for name in said if said[name].split()[0] != "0"}
        assert heard == {"seven", "whole"}


@pytest.mark.parametrize("case", ["wav2vec_cnn", "whisper_stand_in", "s3prl_stand_in"])
def test_so_it_is_behind_other_frontends(case, tmp_path, monkeypatch):
    frames = 320 if case != "wav2vec_cnn" else 400  # samples of the first frame
    monkeypatch.setitem(LENGTHS, "seven", frames + 6 * 320)
    monkeypatch.setitem(LENGTHS, "six", frames + 5 * 320)
    options = CASES[case](tmp_path / "upstream", monkeypatch)
    later = {"stride": [1, 2], "channels": 4, "after_blocks": [0, 1], "restore": True}
    exp = make_experiment(
        tmp_path / "exp", conf=later, encoder_options={"num_blocks": 2}, **options
    )
    data = write_set(tmp_path / "data", ["one", "six", "seven", "whole"])
    for size in "1", "4":
        words = [f"--batch_size={size}", "--num_workers=0"]
        decode(asr_inference_ctc, exp, data, tmp_path / size, *words)
        said = read_text(tmp_path / size / "output.1/1best_recog/frames")
        heard = {name for name in said if said[name].split()[0] != "0"}
        assert heard == {"seven", "whole"}


def test_stage_3_names_what_has_no_samples(data, tmp_path):
    words = ["--set", data, tmp_path / "dump", "--fs", RATE]
    with pytest.raises(SystemExit) as error:
        format_data.main([str(word) for word in words])
    line = str(error.value)
    assert f"1 of 4 audio files cannot be used; the first: {data}/empty.wav" in line
    assert "no samples" in line and "\n" not in line


@pytest.mark.parametrize("rate", [RATE, 16000, 44100])
def test_stage_3_keeps_the_other_short_ones(tmp_path, rate):
    data = write_set(tmp_path / "data", ("one", "some", "whole"))
    words = ["--set", data, tmp_path / "dump", "--fs", rate]
    format_data.main([str(word) for word in words])
    counts = datadir.read_table(tmp_path / "dump" / "utt2num_samples")
    ratio = rate / RATE
    assert counts == {
        name: str(int(np.ceil(LENGTHS[name] * ratio)))
        for name in ("one", "some", "whole")
    }
    for key, path in datadir.read_table(tmp_path / "dump" / "wav.scp").items():
        assert soundfile.info(path).frames == int(counts[key])


def test_speed_perturbation(tmp_path):
    data = write_set(tmp_path / "data", ("one", "some", "whole"))
    words = ["--source", data, "--output", tmp_path / "sp", "--factors", "0.9", "1.1"]
    perturb_speed.main([str(word) for word in words])
    waves = datadir.read_table(tmp_path / "sp" / "wav.scp")
    found = {key: soundfile.info(path).frames for key, path in waves.items()}
    assert found == {
        f"sp{factor}-{name}": -(-LENGTHS[name] * 10 // int(10 * float(factor)))
        for factor in ("0.9", "1.1")
        for name in ("one", "some", "whole")
    }
    words[1] = write_set(tmp_path / "more")
    words[3] = tmp_path / "sp2"
    with pytest.raises(SystemExit) as error:
        perturb_speed.main([str(word) for word in words])
    line = str(error.value)
    assert "empty" in line and "no samples" in line and "\n" not in line


# ------------------------------------------------------- recordings that users name
def test_align_names_them_and_aligns_the_others(model, data, tmp_path, capsys):
    words = ["--model", model, "--data_dir", data, "--output_dir", tmp_path / "out"]
    with pytest.raises(SystemExit, match="3 utterances failed: empty, one, some"):
        align.main([str(word) for word in words])
    said = capsys.readouterr().err
    assert "empty: " in said and "no samples" in said
    assert "one: " in said and "1 samples at 8000 Hz" in said
    assert "some: " in said and "100 samples at 8000 Hz" in said
    content = json.loads((tmp_path / "out" / "alignment.json").read_text())
    assert len(content["utterances"]) == 1


def test_transcribe_names_them_and_transcribes_the_others(
    model, data, tmp_path, capsys
):
    words = ["--model", model, "--output_dir", tmp_path / "out", data]
    with pytest.raises(SystemExit) as stop:
        transcribe.main([str(word) for word in words])
    assert stop.value.code == 1
    said = capsys.readouterr().err
    for name in ("empty", "one", "some"):
        assert f"error: {data}/{name}.wav: " in said, said
    files = {p.name for p in (tmp_path / "out").iterdir() if p.name[0] != "."}
    assert files == {"whole.txt"}


@pytest.mark.parametrize(
    "name, words", [("empty", "no samples"), ("some", "too short")]
)
def test_plot_names_it(model, data, tmp_path, name, words):
    options = ["utterance", "--model", model, "--data_dir", data, "--utt_id", name]
    options += ["--output", tmp_path / "x.svg"]
    with pytest.raises(SystemExit) as error:
        plot.main([str(word) for word in options])
    line = str(error.value)
    assert words in line and name in line and "\n" not in line


def test_plot_of_a_set_leaves_them_out(model, data, tmp_path, capsys):
    options = ["corpus", "--model", model, "--data_dir", data]
    options += ["--output", tmp_path / "x.svg"]
    plot.main([str(word) for word in options])
    said = capsys.readouterr()
    assert ": 1 utterance, 2 s, " in said.out
    assert "3 left out: empty, one, some (the first: " in said.out
    assert "no samples" in said.out and "Traceback" not in said.err
    assert (tmp_path / "x.svg").exists()


# ------------------------------------------------------------------ cut off
@pytest.fixture
def cut(tmp_path):
    """A set whose second FLAC is cut off."""
    folder = tmp_path / "cut"
    folder.mkdir()
    for name in ("bad", "good"):
        soundfile.write(folder / f"{name}.flac", NOISE, RATE)
    content = (folder / "bad.flac").read_bytes()
    (folder / "bad.flac").write_bytes(content[: len(content) // 2])
    datadir.write_table(
        folder / "wav.scp", {n: str(folder / f"{n}.flac") for n in ("bad", "good")}
    )
    datadir.write_table(folder / "text", {"bad": "A B", "good": "A B"})
    datadir.write_table(folder / "utt2spk", {"bad": "s", "good": "s"})
    return folder


@pytest.mark.parametrize("workers", ["0", "1"])
def test_stage_12_names_a_flac_that_was_cut_off(model, cut, tmp_path, workers):
    more = ["--num_workers", workers]
    with pytest.raises(SystemExit) as error:
        decode(asr_inference_ctc, model, cut, tmp_path, *more)
    assert str(error.value).startswith(f"error: {cut}/bad.flac: cannot be decoded")
    assert "get it again" in str(error.value) and "\n" not in str(error.value)
    with pytest.raises(AudioError) as error:  # run.main prints its line
        decode(asr_inference, model, cut, tmp_path, *more, "--beam_size", "2")
    assert str(error.value).startswith(f"{cut}/bad.flac: cannot be decoded")


@pytest.mark.slow
def test_stage_10_names_a_flac_that_was_cut_off(model, cut, tmp_path, warm_python):
    words = ["-m", "espnet2.bin.asr_train", "--config", model / "training.yaml"]
    words += ["--collect_stats", "true", "--output_dir", tmp_path / "stats"]
    for part in ("train", "valid"):
        option = f"--{part}_data_path_and_name_and_type"
        words += [
            option,
            f"{cut}/wav.scp,speech,sound",
            option,
            f"{cut}/text,text,text",
        ]
        words += [f"--{part}_shape_file", cut / "wav.scp"]
    words += ["--use_preprocessor", "true", "--num_workers", "1", "--ngpu", "0"]
    done = subprocess.run(
        [warm_python, "-m", "espnet_adastride.bin.run", *map(str, words)],
        capture_output=True,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )
    assert done.returncode == 1
    last = done.stderr.strip().splitlines()[-1]
    assert last.startswith(f"error: {cut}/bad.flac: cannot be decoded"), done.stderr
    assert "get it again" in last


@pytest.mark.parametrize("rate", [RATE, 16000])
def test_stage_3_names_a_flac_that_was_cut_off(cut, tmp_path, rate):
    words = ["--set", cut, tmp_path / "dump", "--fs", rate]
    with pytest.raises(SystemExit) as error:
        format_data.main([str(word) for word in words])
    line = str(error.value)
    assert f"the first: {cut}/bad.flac (" in line and "get the file again" in line
    assert "\n" not in line


def test_speed_perturbation_names_a_flac_that_was_cut_off(cut, tmp_path):
    words = ["--source", cut, "--output", tmp_path / "sp", "--factors", "0.9"]
    with pytest.raises(SystemExit) as error:
        perturb_speed.main([str(word) for word in words])
    line = str(error.value)
    assert f"{cut}/bad.flac" in line and "get the file again" in line
    assert "\n" not in line


def test_align_and_plot_name_a_flac_that_was_cut_off(model, cut, tmp_path, capsys):
    words = ["--model", model, "--data_dir", cut, "--output_dir", tmp_path / "out"]
    with pytest.raises(SystemExit, match="1 utterance failed: bad"):
        align.main([str(word) for word in words])
    said = capsys.readouterr().err
    assert f"{cut}/bad.flac" in said and "get the file again" in said
    options = ["utterance", "--model", model, "--data_dir", cut, "--utt_id", "bad"]
    with pytest.raises(SystemExit, match="bad.flac.*get the file again"):
        plot.main([str(w) for w in [*options, "--output", tmp_path / "x.svg"]])
