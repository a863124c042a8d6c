"""The VQ-VAE through ESPnet's trainer: the whole recipe on a handful of sounds."""

import json
import os
import re
import subprocess
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch
import yaml

from espnet_adastride.bin import compare_vqvae, vqvae_reconstruct, vqvae_train
from espnet_adastride.errors import UserError
from espnet_adastride.experiments.folders import read_result, record_of
from espnet_adastride.experiments.vqvae_training import stretch_schedule
from espnet_adastride.plugin.vqvae_task import VQVAETask, load_vqvae

ROOT = Path(__file__).parents[2]
METHODS = ["strided_conv", "adastride_f"]


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
    """Twelve glides between two tones, with pauses; none a wav at the model's rate."""
    folder = tmp_path_factory.mktemp("sounds") / "a corpus"
    folder.mkdir()
    draw = np.random.default_rng(0)
    for index in range(12):
        n = 8000 + 800 * index
        tone = np.cumsum(np.linspace(300 + 40 * index, 1500 - 60 * index, n))
        wave = 0.3 * np.sin(2 * np.pi * tone / 16000) + 0.001 * draw.normal(size=n)
        wave[n // 3 : n // 2] *= 0.01
        soundfile.write(folder / f"s{index:02d}.flac", wave, 16000)
    return folder


def small_config(path):
    """The recipe's configuration, smaller."""
    config = yaml.safe_load((ROOT / "conf" / "train_vqvae.yaml").read_text())
    config["features_conf"] = {
        "fs": 8000,
        "n_fft": 256,
        "win_length": 256,
        "hop_length": 80,
        "n_mels": 20,
    }
    config["network_conf"].update(width=16, blocks=1, codebook_size=16)
    config.update(max_epoch=12, batch_bins=40000)
    config["optim_conf"]["lr"] = 0.01
    config["scheduler_conf"] = {
        "warmup_steps_list": [0, 3],
        "warmup_lr_list": [0.0, 0.01],
    }
    path.write_text(yaml.safe_dump(config))
    return path


@pytest.fixture(scope="module")
def experiment(corpus, tmp_path_factory):
    """All of the recipe; its arguments and what it printed."""
    folder = tmp_path_factory.mktemp("vqvae")
    command = ["--corpus", str(corpus), "--exp", str(folder / "exp")]
    command += ["--config", str(small_config(folder / "small.yaml")), "--listen", "1"]
    command += ["--methods", *METHODS, "--rates", "4", "--seeds", "0", "--nj", "2"]
    compare_vqvae.main(command)
    return folder / "exp", command


def result(exp, method):
    return read_result(exp / f"{method}_4x_seed0").figures


def test_the_error_falls_and_the_table_is_written(experiment):
    exp, _ = experiment
    for method in METHODS:
        own = result(exp, method)
        losses = own["learning"]["valid"]["loss_mse"]
        assert len(losses) == 12 and min(losses) < 0.8 * losses[0]
        assert own["bits"] == pytest.approx(4 * own["tokens_per_second"])
        assert 1 < own["perplexity"] <= 16
        assert (own["side_bits"] > 0) == (method == "adastride_f")
    table = (exp / "RESULTS.md").read_text()
    assert re.search(r"\| 4x \| `adastride_f` \| 0 \| [+-]\d", table)
    text = (exp / "listen.html").read_text()
    assert text.count("<audio") == 4 and text.count("<img") == 2


def test_what_is_finished_is_kept_and_what_changed_is_refused(experiment, capsys):
    exp, command = experiment
    files = [record_of(exp / f"{m}_4x_seed0") for m in METHODS]
    times = [f.stat().st_mtime_ns for f in files]
    compare_vqvae.main([*command, "--listen", "0"])
    assert [f.stat().st_mtime_ns for f in files] == times
    assert (exp / "listen.html").read_text().count("<audio") == 0
    compare_vqvae.main(command)
    assert (exp / "listen.html").read_text().count("<audio") == 4
    changed = exp.parent / "changed.yaml"
    config = yaml.safe_load((exp.parent / "small.yaml").read_text())
    config["network_conf"]["width"] = 24
    changed.write_text(yaml.safe_dump(config))
    with pytest.raises(SystemExit, match="network_conf.width was 16, is 24"):
        compare_vqvae.main([*command, "--config", str(changed)])


def test_an_interrupted_run_goes_on(experiment, capfd):
    exp, command = experiment
    run = exp / "strided_conv_4x_seed0"
    before = result(exp, "strided_conv")
    record_of(run).unlink()
    compare_vqvae.main(command)
    again = result(exp, "strided_conv")
    # trained no further: measured again
    assert again["error"] == before["error"]
    assert again["learning"] == before["learning"]


def test_reconstruct_any_recording(experiment, corpus, tmp_path, capsys):
    exp, _ = experiment
    model = exp / "adastride_f_4x_seed0"
    (tmp_path / "in").mkdir()
    wave, _ = soundfile.read(corpus / "s03.flac")
    soundfile.write(tmp_path / "in" / "my talk.ogg", np.stack([wave] * 2, 1), 16000)
    words = ["--model", str(model), "--output_dir", str(tmp_path / "out")]
    vqvae_reconstruct.main([*words, str(tmp_path / "in")])
    assert "1 recording in 1 piece, error" in capsys.readouterr().out
    again, rate = soundfile.read(tmp_path / "out" / "my_talk.wav")
    assert rate == 8000 and len(again) == len(wave) // 2 and np.abs(again).max() > 0.01
    (tmp_path / "in" / "broken.wav").write_text("no audio")
    soundfile.write(tmp_path / "in" / "short.wav", wave[:100], 16000)
    soundfile.write(tmp_path / "in" / "my talk.flac", wave[:9000], 16000)
    with pytest.raises(SystemExit, match="2 of 4 recordings failed"):
        vqvae_reconstruct.main([*words, str(tmp_path / "in")])
    told = capsys.readouterr()
    assert (
        "broken.wav: unreadable" in told.err and "short.wav: shorter than" in told.err
    )
    result = json.loads((tmp_path / "out" / "result.json").read_text())
    assert set(result["utterances"]) == {"my_talk.ogg", "my_talk.flac"}
    # what it says is what is there: the first call's is gone
    assert "removed the earlier reconstruction of 1 piece, such as my_talk" in told.err
    kinds = ("", ".original", ".vocoder")
    left = {f"{name}{kind}.wav" for name in result["utterances"] for kind in kinds}
    assert {path.name for path in (tmp_path / "out").glob("*.wav")} == left
    assert len(list((tmp_path / "out").glob("*.png"))) == 2
    twins = tmp_path / "twins"
    (twins / "my").mkdir(parents=True)
    for name in ("my talk.wav", "my/talk.wav"):
        soundfile.write(twins / name, wave[:9000], 16000)
    (tmp_path / "copies").mkdir()
    for name in ("a.wav", "a.original.wav"):
        soundfile.write(tmp_path / "copies" / name, wave[:9000], 16000)
    (tmp_path / "link").mkdir()
    (tmp_path / "link" / "audio").symlink_to(twins / "my")
    for wrong, message in (
        ([*words, str(tmp_path / "none.wav")], "none.wav: no such file"),
        ([*words, str(twins)], "would have one name, my_talk: rename one"),
        (["--model", str(tmp_path), *words[2:], str(corpus)], "no config.yaml in it"),
        # which would be written over
        ([*words[:3], str(twins / "my"), str(twins / "my")], "talk.wav is in it"),
        ([*words[:3], str(tmp_path / "link"), str(twins / "my")], "talk.wav is in it"),
        ([*words, str(tmp_path / "copies")], "a.original.wav: the copy of a would"),
    ):
        with pytest.raises(SystemExit, match=message):
            vqvae_reconstruct.main(wrong)
    assert soundfile.info(twins / "my" / "talk.wav").frames == 9000


def test_the_model_alone_is_as_in_a_batch(experiment):
    model = load_vqvae(experiment[0] / "adastride_f_4x_seed0")
    speech = 0.1 * torch.randn(2, 9000)
    speech[1, 5001:] = 0.0
    lengths = torch.tensor([9000, 5001])
    loss, stats, weight = model(speech, lengths)
    frames = torch.tensor([113.0, 63.0])
    assert int(weight) == 176 and {"loss_vp", "perplexity", "codes"} <= set(stats)
    each = [model(speech[i : i + 1, :n], n[None])[1] for i, n in enumerate(lengths)]
    alone = torch.tensor([float(one["loss_mse"]) for one in each])
    mean = float((frames * alone).sum() / frames.sum())
    assert float(stats["loss_mse"]) == pytest.approx(mean, rel=1e-4)


def test_bad_input_is_one_line(experiment, corpus, tmp_path):
    exp, command = experiment
    other = ["--exp", str(tmp_path / "exp")]
    for words, message in (
        ([*command, *other, "--methods", "avg_pol"], "--methods: .*did you mean 'avg_"),
        ([*command, *other, "--methods", "avg_pool:size=1"], "avg_pool.*size"),
        ([*command, *other, "--rates", "6"], "--rates 6: give powers of 2"),
        ([*command, *other, "--corpus", str(tmp_path / "no")], "no: no such folder"),
        ([*command[2:], *other], "give --corpus, or set RECORDINGS="),
        (["--train", "false", *other], "no finished run"),
    ):
        with pytest.raises(SystemExit, match=f"error: .*{message}"):
            compare_vqvae.main(words)
    with pytest.raises(SystemExit, match="word of network_conf 'widht'.*'width'"):
        config = yaml.safe_load(Path(command[5]).read_text())
        config["network_conf"]["widht"] = 3
        (tmp_path / "wrong.yaml").write_text(yaml.safe_dump(config))
        compare_vqvae.main([*command, *other, "--config", str(tmp_path / "wrong.yaml")])
    for changed, message in (
        (
            {"max_epochs": 3},
            "4x_seed0: unknown option .*max_epochs.*did you mean 'max_",
        ),
        (
            {"best_model_criterion": [["valid", "loss", "min"]]},
            "best valid loss_mse is tested; add .valid, loss_mse, min.",
        ),
        ({"features_conf": {"hop_length": 0}}, "hop_length must be a whole number"),
    ):
        config = {**yaml.safe_load(Path(command[5]).read_text()), **changed}
        (tmp_path / "wrong.yaml").write_text(yaml.safe_dump(config))
        with pytest.raises(SystemExit, match=message):
            wrong = ["--config", str(tmp_path / "wrong.yaml")]
            compare_vqvae.main([*command, *other, *wrong])
    (tmp_path / "damaged.pth").write_text("no model")
    with pytest.raises(UserError, match="damaged.pth: .*copy it again"):
        load_vqvae(exp / "adastride_f_4x_seed0", tmp_path / "damaged.pth")
    stats = tmp_path / "none.npz"
    options = ["--output_dir", str(tmp_path / "x"), "--stats_file", str(stats)]
    with pytest.raises(SystemExit, match="none.npz: cannot be read.*collect_stats"):
        vqvae_train.main(["--ngpu", "0", *command[4:6], *options])
    assert VQVAETask.required_data_names() == ("speech",)


def test_the_schedule_ends_with_the_training(tmp_path):
    """Beyond its last step the rate would jump back up."""
    shapes = tmp_path / "speech_shape"
    shapes.write_text("".join(f"s{index} 8000\n" for index in range(10)))

    def steps(last, **config):
        config = {**config, "batch_type": "unsorted", "batch_size": 2, "max_epoch": 8}
        config["scheduler"] = "piecewiselinearwarmuplr"
        config["optim_conf"] = {"lr": 0.002}
        config["scheduler_conf"] = {
            "warmup_steps_list": [0, 20, last],
            "warmup_lr_list": [0.0, 0.002, 0.0001],
        }
        found = stretch_schedule(config, shapes)
        return found["scheduler_conf"]["warmup_steps_list"]

    # five batches an epoch, 40 steps
    assert steps(30) == [0, 26.67, 40]
    assert steps(40) == [0, 20, 40] and steps(80) == [0, 20, 80]
    assert steps(30, accum_grad=2) == [0, 20, 30]
    assert stretch_schedule({"scheduler": "none"}, shapes) == {"scheduler": "none"}


def test_the_recipe_starts(tmp_path):
    """run.sh finds its files from anywhere, and a relative RECORDINGS."""
    (tmp_path / "mine").mkdir()
    done = subprocess.run(
        [ROOT / "egs" / "arctic_vqvae" / "run.sh", "--exp", tmp_path / "exp"],
        cwd=tmp_path,
        env={**os.environ, "RECORDINGS": "mine"},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 1
    assert f"error: {tmp_path}/mine: no recordings" in done.stderr
