"""The classification recipe through ESPnet's task cls: trained, resumed, refused."""

import subprocess
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch
import yaml
from espnet2.cls.espnet_model import ESPnetClassificationModel

from espnet_adastride.bin import classify_espnet
from espnet_adastride.corpora.clips import find_clips, split_clips
from espnet_adastride.experiments.classification.espnet_training import (
    stretch_schedule,
)
from espnet_adastride.experiments.folders import read_result, record_of
from espnet_adastride.plugin.model import adaptive_model
from tests.tones import tone

ROOT = Path(__file__).resolve().parents[3]
RATE = 8000
EPOCHS = 6
SEED = 3  # of its split, 12 clips are tested


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
    """Tones of two heights by 40 speakers, and what says how they lie."""
    folder = tmp_path_factory.mktemp("tones")
    random = np.random.default_rng(0)
    rows = ["file,label,group"]
    for label, hertz in (("high", 2000.0), ("very low", 300.0)):
        (folder / label).mkdir()
        for speaker in range(40):
            name = f"{label}/{speaker}.wav"
            soundfile.write(folder / name, tone(random, hertz, RATE), RATE)
            rows.append(f"{name},{label},speaker {speaker}")
    (folder / "labels.csv").write_text("\n".join(rows) + "\n")
    config = yaml.safe_load((ROOT / "conf" / "train_fsdd.yaml").read_text())
    config["data"] = {"layout": "table", "split": "rotating"}
    config["features"].update(n_mels=20, n_fft=256, hop_length=80)
    (folder / "data.yaml").write_text(yaml.safe_dump(config))
    return folder


def small_config(path, **changes):
    """The published configuration, smaller."""
    config = yaml.safe_load((ROOT / "conf" / "train_cls_resnet.yaml").read_text())
    config["encoder_conf"]["output_size"] = 16
    config["scheduler_conf"].update(max_lr=0.01, min_lr=0.001)
    config.update(batch_size=8, max_epoch=EPOCHS, num_workers=0, use_tensorboard=False)
    config.update(changes)
    path.write_text(yaml.safe_dump(config))
    return path


def command_of(corpus, folder, *methods):
    words = ["--corpus", str(corpus), "--data_config", str(corpus / "data.yaml")]
    words += ["--config", str(folder / "small.yaml"), "--exp", str(folder / "exp")]
    return [*words, "--methods", *methods, "--seeds", str(SEED), "--nj", "2"]


@pytest.fixture(scope="module")
def experiment(corpus, tmp_path_factory):
    """Two methods trained; the folder and the command; classes of every batch."""
    folder = tmp_path_factory.mktemp("cls")
    small_config(folder / "small.yaml")
    command = command_of(corpus, folder, "strided_conv", "adastride:sigma_square=1")
    model = adaptive_model(ESPnetClassificationModel)
    forward = model.forward

    def noting(self, speech, speech_lengths, label, label_lengths, **more):
        with open(folder / "classes", "a") as file:  # of a forked process
            file.write(f"{len(label.unique())}\n")
        return forward(self, speech, speech_lengths, label, label_lengths, **more)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(model, "forward", noting)
        classify_espnet.main(command)
    return folder / "exp", command


def read_run(exp, name):
    return read_result(exp / f"{name}_seed{SEED}").figures


def test_the_runs_are_right_and_on_the_clips_of_their_seed(experiment, corpus):
    exp, _ = experiment
    clips = find_clips(corpus, "table")
    tested = [clips[i] for i in split_clips(clips, "rotating", SEED)["test"]]
    for name in ("strided_conv", "adastride_sigma_square=1"):
        run = read_run(exp, name)
        assert run["accuracy"] >= 90
        assert set(run["predictions"]) == {clip.id for clip in tested}
        assert run["groups"] == {clip.id: clip.group for clip in tested}
        right = [run["predictions"][clip.id] == clip.label for clip in tested]
        assert run["accuracy"] == pytest.approx(100 * np.mean(right))
        assert len(run["learning"]["train"]["loss"]) == EPOCHS
        assert 6 < run["rate"] <= 8 and run["training_seconds"] > 0
    config = yaml.safe_load(
        (exp / f"adastride_sigma_square=1_seed{SEED}" / "config.yaml").read_text()
    )
    conf = config["encoder_conf"]
    assert conf["method"] == "adastride" and conf["method_conf"]["sigma_square"] == 1
    assert conf["method_conf"]["score_bound"] == 1.0  # a default
    assert config["frontend_conf"]["n_fft"] == 256 and config["seed"] == SEED
    table = (exp / "RESULTS.md").read_text()
    assert "| `adastride:sigma_square=1` |" in table and "training, s |" in table


def test_batches_are_not_of_one_class(experiment):
    exp, _ = experiment
    classes = [int(line) for line in (exp.parent / "classes").open()]
    # ESPnet's default takes neighbours of a list that is sorted by class
    assert np.mean(classes) > 1.8


def test_the_schedule_ends_with_the_training(experiment):
    exp, _ = experiment
    config = yaml.safe_load(
        (exp / f"strided_conv_seed{SEED}" / "config.yaml").read_text()
    )
    saved = torch.load(
        exp / f"strided_conv_seed{SEED}" / "checkpoint.pth", weights_only=False
    )
    steps = saved["schedulers"][0]["last_epoch"]
    schedule = config["scheduler_conf"]
    # 60 clips in batches of 8 or 9
    assert schedule["total_steps"] == 8 * EPOCHS
    assert 7 * EPOCHS <= steps <= 8 * EPOCHS
    assert schedule["warmup_steps"] == round(8 * EPOCHS / 10)


def test_the_schedule_follows_the_options_and_espnets_defaults():
    def steps(**config):
        schedule = {"total_steps": 3100, "warmup_steps": 310}
        config = {"batch_type": "unsorted", "scheduler_conf": schedule, **config}
        found = stretch_schedule(config, 4000)["scheduler_conf"]
        assert found["warmup_steps"] == round(found["total_steps"] / 10)
        return found["total_steps"]

    assert steps(batch_size=128, max_epoch=100) == 3200
    assert steps() == 200 * 40  # batches of 20, 40 epochs
    assert steps(accum_grad=4) == 50 * 40
    assert steps(num_iters_per_epoch=30, max_epoch=2) == 60


def test_what_is_finished_is_kept_and_what_is_not_goes_on(experiment, corpus):
    exp, command = experiment
    run = exp / f"strided_conv_seed{SEED}"
    before = read_run(exp, "strided_conv")
    kept = record_of(exp / f"adastride_sigma_square=1_seed{SEED}")
    written = kept.stat().st_mtime_ns
    record_of(run).unlink()
    classify_espnet.main(command)
    after = read_run(exp, "strided_conv")
    assert after["predictions"] == before["predictions"]
    assert after["learning"] == before["learning"]  # trained no further
    assert kept.stat().st_mtime_ns == written
    changed = small_config(exp.parent / "changed.yaml", batch_size=4)
    with pytest.raises(SystemExit, match="batch_size was 8, is 4"):
        classify_espnet.main([*command, "--config", str(changed)])
    data = yaml.safe_load((corpus / "data.yaml").read_text())
    data["data"]["split"] = "fixed"
    changed.write_text(yaml.safe_dump(data))
    with pytest.raises(SystemExit, match="data.split was rotating, is fixed; give"):
        classify_espnet.main([*command, "--data_config", str(changed)])


def test_the_word_of_input_layer_in_the_tasks_own_encoders(corpus, tmp_path):
    config = yaml.safe_load((ROOT / "examples" / "cls.yaml").read_text())
    config["encoder_conf"].update(
        output_size=16, linear_units=16, num_blocks=1, attention_heads=2
    )
    config.update(max_epoch=1, num_workers=0, use_tensorboard=False)
    (tmp_path / "small.yaml").write_text(yaml.safe_dump(config))
    methods = ("conv2d", "adastride:stride=8")
    classify_espnet.main(
        [*command_of(corpus, tmp_path, *methods), "--reference", "conv2d"]
    )
    rates = [
        read_run(tmp_path / "exp", name)["rate"]
        for name in ("conv2d", "adastride_stride=8")
    ]
    assert 3.9 < rates[0] < 4.6 and 7 < rates[1] <= 8


def test_bad_input_is_named_before_anything_is_trained(corpus, tmp_path):
    small_config(tmp_path / "small.yaml")

    def failure(*methods, options=()):
        with pytest.raises(SystemExit) as caught:
            classify_espnet.main([*command_of(corpus, tmp_path, *methods), *options])
        assert not list(tmp_path.glob("exp/*/checkpoint.pth"))
        return str(caught.value)

    assert "did you mean 'adastride'" in failure("strided_conv", "adastrid")
    assert "sigma" in failure("adastride:sigma=2")
    if not torch.cuda.is_available():
        assert "no GPU found" in failure("adastride", options=["--ngpu", "1"])
    small_config(tmp_path / "small.yaml", normalize="global_mvn")
    assert "normalize: global_mvn needs statistics" in failure("adastride")
    criterion = [["valid", "loss", "min"]]
    small_config(tmp_path / "small.yaml", best_model_criterion=criterion)
    assert "add [valid, acc, max]" in failure("adastride")
    small_config(tmp_path / "small.yaml", batchsize=3)
    assert "did you mean 'batch_size'" in failure("adastride")
    for options, words in (
        ({"batch_bins": 0}, "batch_bins: 0 must be 1 or more"),
        ({"optim": "adm"}, "did you mean 'adam'"),
        ({"optim_conf": {"lr": "fast"}}, "optim_conf: lr: 'fast' must be a number"),
    ):
        small_config(tmp_path / "small.yaml", **options)
        assert words in failure("adastride")
    small_config(tmp_path / "small.yaml")
    assert "no finished run" in failure(
        "conv2d", options=["--reference", "conv2d", "--train", "false"]
    )
    small_config(tmp_path / "small.yaml")
    whole = (corpus / "high" / "0.wav").read_bytes()
    try:
        soundfile.write(corpus / "high" / "0.wav", np.zeros(128), RATE)
        line = failure("adastride")
    finally:
        (corpus / "high" / "0.wav").write_bytes(whole)
    assert "high/0.wav: too short: 128 samples at 8000 Hz; 129 are needed" in line


@pytest.mark.slow
def test_the_recipe_hands_its_options_on(corpus, tmp_path):
    small_config(tmp_path / "small.yaml", max_epoch=1)
    script = ROOT / "egs" / "fsdd" / "run.sh"
    command = ["bash", str(script), "--espnet", "true"]
    command += command_of(corpus, tmp_path, "avg_pool")
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "| `avg_pool` |" in done.stdout
    command[3] = "yes"
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 2
    assert done.stderr == "error: --espnet yes: give true or false\n"
