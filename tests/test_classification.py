"""Speech Commands: split, network, training, resumption, comparison, bad input.

The corpus is synthetic: three "words" are three tones in noise.
"""

import json
import math
import os
import re
import shutil
import subprocess
import sys
import tarfile
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch
import yaml

from espnet_adastride import available_downsamplers, downsampled_lengths
from espnet_adastride.bin import classify, download_corpus
from espnet_adastride.classification import (
    Classifier,
    learning_rate,
    load_features,
    parse_method,
    random_mask,
    read_options,
    train,
)
from espnet_adastride.classification_results import (
    choose_option,
    compare,
    confusion,
    format_data_sets,
    format_table,
    group_interval,
    group_test,
    holm,
    option_curve,
    plot_data_sets,
    plot_option,
    read_runs,
    round_accuracies,
)
from espnet_adastride.clips import find_clips, split_clips
from espnet_adastride.downsampling import alignment_matrix
from espnet_adastride.recipe.errors import RecipeError
from espnet_adastride.resnet import ResidualBlock, ResNet, SharedAlignment, _Frames

ROOT = Path(__file__).resolve().parents[1]
CONFIG = ROOT / "conf" / "train_speech_commands.yaml"
RATE = 16000
TONES = {"high": 2500.0, "low": 300.0, "mid": 900.0}

every_method = pytest.mark.parametrize("name", available_downsamplers())


@pytest.fixture(scope="session")
def corpus(tmp_path_factory):
    """A folder of tones: 40 speakers, three words each, 0.3 to 0.5 s."""
    folder = tmp_path_factory.mktemp("corpora") / "speech_commands"
    random = np.random.default_rng(0)
    for word in [*TONES, "_background_noise_"]:
        (folder / word).mkdir(parents=True)
    for speaker in range(40):
        for word, hertz in TONES.items():
            time = np.arange(int(RATE * random.uniform(0.3, 0.5))) / RATE
            tone = np.sin(2 * np.pi * hertz * random.uniform(0.9, 1.1) * time)
            wave = 0.1 * tone + 0.02 * random.standard_normal(len(time))
            path = folder / word / f"{speaker:08x}_nohash_0.wav"
            soundfile.write(path, wave, RATE, subtype="PCM_16")
    soundfile.write(folder / "_background_noise_" / "hiss.wav", wave, RATE)
    return folder


@pytest.fixture(scope="session")
def config(tmp_path_factory):
    """A configuration that learns the tones in a second."""
    words = yaml.safe_load(CONFIG.read_text(encoding="utf-8"))
    words["features"]["n_mels"] = 20
    words["network"].update(width=8, strides=[2, 2, 2])
    words["training"].update(epochs=8, batch_size=16, lr=0.01, decay=0.8)
    words["training"].update(mask_mels=2, mask_frames=2)
    path = tmp_path_factory.mktemp("conf") / "tiny.yaml"
    path.write_text(yaml.safe_dump(words), encoding="utf-8")
    return path


@pytest.fixture(scope="session")
def data(corpus, config, tmp_path_factory):
    options = read_options(config)
    clips = find_clips(corpus, "speech_commands")
    return load_features(clips, options.features, tmp_path_factory.mktemp("feats"))


def test_features_are_computed_once_and_follow_their_files(corpus, config, tmp_path):
    options = read_options(config).features
    clips = find_clips(corpus.parent, "speech_commands")  # the folder above will do
    said = []
    first = load_features(clips[:3], options, tmp_path, said.append)
    again = load_features(clips[:3], options, tmp_path, said.append)
    assert len(said) == 1 and torch.equal(first.frames, again.frames)
    samples = [soundfile.info(clip.path).frames for clip in clips[:3]]
    assert first.lengths.tolist() == [1 + n // options.hop_length for n in samples]
    x, lengths, labels = first.batch(torch.tensor([2, 0]))
    assert x.shape == (2, int(lengths.max()), 20) and labels.tolist() == [0, 0]
    assert torch.equal(x[0, : lengths[0]], first.frames[-lengths[0] :])
    assert torch.equal(x[1, : lengths[1]], first.frames[: lengths[1]])
    load_features(clips[:2], options, tmp_path, said.append)
    assert len(said) == 2
    # the first clips are tones of about 2500 Hz
    mean, deviation = first.statistics(torch.arange(3))
    assert abs(int(mean.argmax()) - 12) <= 1  # of 20 bands, equally wide in mel
    assert (deviation > 0).all()


# ------------------------------------------------------------------ network
def network(name, input_size=5, **options):
    """A network whose learned numbers and statistics are not where they start."""
    net = ResNet(input_size, 8, [2, 1, 2, 2], 3, name, options)
    with torch.no_grad():
        for parameter in net.parameters():
            parameter += 0.1 * torch.randn_like(parameter)
    net.train()
    for _ in range(3):
        net(torch.randn(4, 40, input_size), torch.tensor([40, 33, 40, 21]))
    return net


@every_method
def test_an_utterance_is_the_same_alone_and_in_a_padded_batch(name):
    net = network(name).eval()
    lengths = torch.tensor([37, 40, 8, 1, 0])
    x = torch.randn(len(lengths), 45, 5)
    for row, n in zip(x, lengths):
        row[n:] = math.nan
    out = net(x, lengths)
    assert out.output.isfinite().all()
    if name != "diff_stride":  # its stride has moved
        assert out.lengths.tolist() == [5, 5, 1, 1, 0]
    for row, m, one, n in zip(out.output, out.lengths, x, lengths):
        assert (row[m:] == 0).all()
        if n > 0:
            alone = net(one[None, :n], n[None])
            assert alone.lengths.tolist() == [m]
            torch.testing.assert_close(
                row[:m], alone.output[0, :m], atol=1e-5, rtol=1e-4
            )


def test_training_does_not_see_the_padding_either():
    lengths = torch.tensor([37, 40, 12])
    results = []
    for width in (40, 64):
        torch.manual_seed(3)
        net = network("adastride")
        x = torch.zeros(3, width, 5)
        for row, n in zip(x, lengths):
            row[:n] = torch.linspace(-1, 1, 5 * int(n)).view(-1, 5).sin()
        out = net(x, lengths)
        out.output.square().sum().backward()
        gradients = [p.grad.flatten() for p in net.parameters()]
        results.append((out.output.sum(1), net.norm.running_mean, torch.cat(gradients)))
    for a, b in zip(*results):
        torch.testing.assert_close(a, b, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("name", ["adastride", "adastride_f"])
def test_the_shortcut_is_resampled_by_the_branchs_own_alignment(name):
    shared = SharedAlignment(name, 6, 2, {"score_bound": 1.0})
    score = shared.downsampler.score
    assert [tuple(p.shape) for p in shared.parameters()] == [(1, 6)]
    assert (score.weight == 0).all()  # training starts at uniform strides
    with torch.no_grad():
        score.parametrizations.weight.original.copy_(torch.randn(1, 6))
    lengths = torch.tensor([21, 16])
    branch, shortcut = torch.randn(2, 2, 21, 6)
    z, s, stage = shared(branch, shortcut, lengths)
    # the branch alone decides
    alone = type(shared.downsampler)(6, 2, score_bound=1.0)
    alone.score.weight.data.copy_(score.parametrizations.weight.original)
    torch.testing.assert_close(alone(branch, lengths).output, z)
    torch.testing.assert_close(alone(branch, lengths).positions, stage.positions)
    assert not torch.equal(stage.positions[0], torch.linspace(0, 10, 21).double())
    # one matrix for both: its rows come out where the shortcut is the identity
    eye = torch.eye(21).expand(2, 21, 21)
    wide = SharedAlignment(name, 21, 2, {"score_bound": 1.0})
    with torch.no_grad():
        weight = wide.downsampler.score.parametrizations.weight.original
        weight[:, :6] = score.parametrizations.weight.original
    padded = torch.nn.functional.pad(branch, (0, 15))
    _, rows, _ = wide(padded, eye, lengths)
    torch.testing.assert_close(rows @ shortcut, s, atol=1e-5, rtol=1e-5)
    if name == "adastride":
        matrix = alignment_matrix(stage.positions, lengths, stage.output_lengths, 5.0)
        torch.testing.assert_close(matrix.float() @ shortcut, s)
        torch.testing.assert_close(matrix.float() @ branch, z)
    # and its gradient reaches the scores through the shortcut
    s.square().sum().backward()
    assert score.parametrizations.weight.original.grad.abs().sum() > 0


def test_a_learned_stride_is_one_for_branch_and_shortcut():
    block = ResidualBlock(4, 3, 2, "diff_stride", {})
    block.downsampler.downsampler.stride_change.data.fill_(0.7)
    x = torch.randn(2, 30, 4)
    out, frames, stage = block(x, _Frames(torch.tensor([30, 20]), x))
    assert frames.lengths.tolist() == [12, 8] and out.shape == (2, 12, 4)


def test_strided_conv_has_its_stride_in_the_blocks_own_convolution():
    block = ResidualBlock(4, 3, 2, "strided_conv")
    assert block.downsampler is None and block.conv1.stride == (2,)
    assert block.projection.stride == (2,) and block.projection.kernel_size == (1,)
    for n in (1, 2, 3, 9, 10):
        x = torch.randn(2, n, 4)
        out, frames, _ = block(x, _Frames(torch.tensor([n, n]), x))
        assert out.size(1) == downsampled_lengths(n, 2) == int(frames.lengths[0])


def test_a_method_for_every_stride_and_the_published_size():
    net = ResNet(
        80, 256, [2, 1, 2, 1, 2, 1], 3, ["strided_conv", "avg_pool", "adastride"]
    )
    kinds = [
        b.downsampler and type(b.downsampler.downsampler).__name__ for b in net.blocks
    ]
    assert kinds == [None, None, "AvgPool", None, "AdaStride", None]
    assert (
        len(net.blocks) == 6 and net.blocks[4].downsampler.downsampler.score_bound == 1
    )
    out = net(torch.randn(2, 63, 80), torch.tensor([63, 50]))
    assert out.output.shape == (2, 8, 256) and out.lengths.tolist() == [8, 7]
    assert [stage.aux_loss is None for stage in out.stages] == [True, False]
    with pytest.raises(ValueError, match="2 methods .* for 3 strides"):
        ResNet(80, 8, [2, 2, 2], 3, ["avg_pool", "max_pool"])


# ------------------------------------------------------------------ training
def test_learning_rate_and_masks_by_hand(config):
    options = read_options(config).training
    rates = [learning_rate(e, options) for e in (0.0, 0.5, 1.0, 2.0, 3.0)]
    assert rates == pytest.approx([0.0, 0.005, 0.01, 0.008, 0.0064])
    generator = torch.Generator().manual_seed(0)
    x, lengths = torch.zeros(200, 30, 20), torch.arange(200) % 30 + 1
    masked = random_mask(x, lengths, 4, 6, generator)
    mels = masked.all(dim=1).sum(dim=1)
    spans = (masked.all(dim=2)).sum(dim=1)
    assert mels.max() == 4 and mels.min() == 0 and spans.max() == 6 and spans.min() == 0
    assert (spans <= lengths).all()
    assert not random_mask(x, lengths, 0, 0, generator).any()


def test_an_interrupted_run_ends_as_if_it_had_not_been(data, config, tmp_path):
    options, method = read_options(config), parse_method("adastride")
    whole = train(data, options, method, 5, tmp_path / "whole", "a", lambda line: None)
    assert whole["accuracy"] > 95 and whole["command"] == "a" and whole["rate"] > 6

    def stop(line):
        if "epoch 3/" in line:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train(data, options, method, 5, tmp_path / "cut", "a", stop)
    assert (tmp_path / "cut" / "checkpoint.pth").is_file()
    assert not (tmp_path / "cut" / "result.json").exists()
    said = []
    cut = train(data, options, method, 5, tmp_path / "cut", "a", said.append)
    assert "going on after epoch 3" in said[0] and len(said) == 1 + 5
    timing = ("cpu_seconds", "seconds")
    assert {k: v for k, v in cut.items() if k not in timing} == {
        k: v for k, v in whole.items() if k not in timing
    }
    assert not (tmp_path / "cut" / "checkpoint.pth").exists()
    models = [torch.load(tmp_path / name / "model.pth") for name in ("whole", "cut")]
    for a, b in zip(*(model.values() for model in models)):
        assert torch.equal(a, b)
    other = train(data, options, method, 6, tmp_path / "other", "a", lambda line: None)
    assert other["history"] != whole["history"]


def test_the_command_trains_compares_and_skips_what_is_done(
    corpus, config, tmp_path, capsys
):
    exp = tmp_path / "exp"
    command = ["--corpus", str(corpus), "--config", str(config), "--exp", str(exp)]
    command += ["--methods", "strided_conv adastride:sigma_square=20", "--seeds", "0"]
    command += ["--confusion", "adastride:sigma_square=20"]
    classify.main(command)
    first = capsys.readouterr().out
    assert "120 clips of 3 classes in 40 groups; train/valid/test: " in first
    runs = {path.parent.name: path for path in exp.glob("*/result.json")}
    assert set(runs) == {"strided_conv_seed0", "adastride_sigma_square=20_seed0"}
    for path in runs.values():
        lines = path.read_text().splitlines()
        run = json.loads(lines[0])
        assert len(lines) == 1 and run["accuracy"] > 95 and run["seconds"] > 0
        clips = find_clips(corpus, "speech_commands")
        test = [clips[index].id for index in split_clips(clips, "rotating", 0)["test"]]
        assert list(run["predictions"]) == test
        assert f"--methods {run['method']} --seeds 0" in run["command"]
    table = (exp / "RESULTS.md").read_text()
    assert table in first and table.count("\n| `") == 2
    assert "Different from `strided_conv` at 0.05 after the correction: none" in table
    picture = exp / "confusion_adastride_sigma_square=20.png"
    assert picture.read_bytes().startswith(b"\x89PNG")

    classify.main(command)
    again = capsys.readouterr().out
    assert " epoch " not in again and table in again
    shutil.rmtree(exp / "feats")
    classify.main(["--exp", str(exp), "--train", "false"])
    assert table in capsys.readouterr().out


def test_the_recipe_shares_the_runs_among_processes(corpus, config, tmp_path):
    environment = {**os.environ, "SPEECH_COMMANDS": "speech_commands"}
    environment["PYTHON"] = sys.executable
    command = ["bash", str(ROOT / "egs" / "speech_commands" / "run.sh")]
    command += ["--config", str(config), "--exp", str(tmp_path / "exp"), "--nj", "2"]
    command += ["--methods", "avg_pool", "--seeds", "0 1"]
    done = subprocess.run(
        command, cwd=corpus.parent, env=environment, capture_output=True, text=True
    )
    assert done.returncode == 0 and not done.stderr, done.stderr
    for seed in (0, 1):
        assert f"avg_pool seed {seed}: test accuracy" in done.stdout
    counts = re.findall(r"^\[(\d)/2\] avg_pool seed", done.stdout, re.M)
    assert len(counts) == 2 and max(counts) == "2"
    assert "| `avg_pool` |" in done.stdout and "not finished" not in done.stdout


def write_tones(folder, recipe):
    """Write tones in the layout of a corpus: three speakers, or three folds."""
    random = np.random.default_rng(0)
    names = {  # of the class, the speaker or fold, and a number
        "fsdd": "recordings/{0}_s{1}_{2}.wav",
        "esc10": "00{0} - class {0}/{1}-{1}{2}{0}-A.ogg",
    }
    for label, hertz in enumerate(TONES.values()):
        for group in range(1, 4):
            for number in range(6):
                time = np.arange(int(8000 * random.uniform(0.3, 0.5))) / 8000
                tone = np.sin(2 * np.pi * hertz * random.uniform(0.9, 1.1) * time)
                wave = 0.1 * tone + 0.02 * random.standard_normal(len(time))
                path = folder / names[recipe].format(label, group, number)
                path.parent.mkdir(parents=True, exist_ok=True)
                soundfile.write(path, wave, 8000)
    return folder


@pytest.mark.parametrize("recipe", ["fsdd", "esc10"])
def test_a_recipe_of_cross_validation(recipe, tmp_path):
    """Its own configuration, small; every clip is tested once, by what has not
    heard its speaker or fold."""
    words = yaml.safe_load((ROOT / "conf" / f"train_{recipe}.yaml").read_text())
    words["network"].update(width=8, strides=[2, 2, 2])
    words["features"].update(sample_rate=8000, n_fft=512, hop_length=128, n_mels=20)
    words["training"].update(epochs=10, batch_size=6, lr=0.01, decay=0.8)
    words["training"].update(mask_mels=2, mask_frames=2)
    (tmp_path / "tiny.yaml").write_text(yaml.safe_dump(words))
    write_tones(tmp_path / "corpus", recipe)
    exp = tmp_path / "exp"
    command = ["bash", ROOT / "egs" / recipe / "run.sh", "--exp", exp, "--nj", "2"]
    command += ["--config", tmp_path / "tiny.yaml", "--seeds", "0 1 2"]
    done = subprocess.run(
        [*command, "--methods", "strided_conv adastride"],
        cwd=tmp_path,
        env={**os.environ, "PYTHON": sys.executable, recipe.upper(): "corpus"},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0 and not done.stderr, done.stderr
    assert "54 clips of 3 classes in " in done.stdout
    for method in ("strided_conv", "adastride"):
        runs = read_runs(exp)[method]
        assert [run["round"] for run in runs.values()] == [0, 0, 0]
        clips = [clip for run in runs.values() for clip in run["predictions"]]
        assert len(clips) == len(set(clips)) == 54
        assert round_accuracies(runs)[0] > 80, done.stdout
    table = (exp / "RESULTS.md").read_text()
    assert table in done.stdout and table.count("\n| `") == 2
    assert (exp / "confusion_adastride.png").exists()


def test_a_recipe_says_where_its_corpus_is_to_be_named(tmp_path):
    environment = {**os.environ, "PYTHON": sys.executable}
    for name in ("FSDD", "ESC10", "SPEECH_COMMANDS"):
        environment.pop(name, None)

    def run(recipe, *options):
        command = ["bash", str(ROOT / "egs" / recipe / "run.sh"), *options]
        return subprocess.run(command, env=environment, capture_output=True, text=True)

    if not (ROOT / "egs" / "esc10" / "downloads").is_dir():
        done = run("esc10")
        line = "error: say where the corpus lies: ESC10=/path/to/esc10 ./run.sh"
        assert done.returncode == 2 and done.stderr.startswith(line)
    done = run("fsdd", "--download", "yes")
    assert done.returncode == 2 and "--download yes: give true or false" in done.stderr


def test_a_corpus_is_downloaded_and_unpacked(tmp_path):
    archive = tmp_path / "master.tar.gz"
    source = tmp_path / "free-spoken-digit-dataset-master"
    (source / "recordings").mkdir(parents=True)
    (source / "recordings" / "0_ann_0.wav").write_bytes(b"RIFF")
    (source / "recordings" / "1_ann_0.wav").write_bytes(b"RIFF")
    with tarfile.open(archive, "w:gz") as tar:
        tar.add(source, source.name)
    folder = tmp_path / "downloads" / "fsdd"
    url = ["--url", archive.as_uri()]
    download_corpus.main(["--name", "fsdd", "--corpus", str(folder), *url])
    assert len(find_clips(folder, "fsdd")) == 2
    assert [path.name for path in folder.parent.iterdir()] == ["fsdd"]
    archive.write_bytes(archive.read_bytes()[:60])  # an archive cut off
    download_corpus.main(["--name", "fsdd", "--corpus", str(folder), *url])  # is there
    shutil.rmtree(folder)
    for _ in range(2):
        with pytest.raises(SystemExit) as caught:
            download_corpus.main(["--name", "fsdd", "--corpus", str(folder), *url])
        line = str(caught.value)
        assert "cannot be unpacked" in line and "delete it" in line and "\n" not in line
    assert not folder.exists()


# ------------------------------------------------------------------ comparison
def fake_runs(right):
    """Runs whose answers are given: {method: {seed: "110..."}}, a speaker a clip."""
    runs = {
        method: {
            seed: {
                "method": method,
                "seed": seed,
                "round": seed,
                "valid_accuracy": 50.0,
                "parameters": 1000,
                "rate": 8.0,
                "cpu_seconds": 10.0,
                "predictions": {
                    f"{'yes' if i % 2 else 'no'}/{i:02d}_nohash_0": (
                        ["no", "yes"][i % 2] if answer == "1" else "up"
                    )
                    for i, answer in enumerate(answers)
                },
            }
            for seed, answers in seeds.items()
        }
        for method, seeds in right.items()
    }
    for own in runs.values():
        for run in own.values():
            run["groups"] = {clip: clip.split("/")[1] for clip in run["predictions"]}
    return runs


def test_statistics_by_hand():
    # 1 against 6: 2 (C(7,0) + C(7,1)) / 2^7
    own = list("abcdefghi")  # every clip a group: McNemar's test
    assert group_test(np.array([1, -1, -1, -1, -1, -1, -1, 0, 0]), own) == 0.125
    assert group_test(np.array([1, -1, 1]), list("abc")) == 1.0
    assert group_test(np.zeros(4), list("abcd")) == 1.0
    # 2, 1 and -1 by group: 6 of the 8 choices of signs have a sum of 2 at least
    assert group_test(np.array([1, 1, 1, -1]), list("aabc")) == 6 / 8
    # many clips of two speakers show as little as two do
    assert group_test(np.ones(2000), ["a", "b"] * 1000) == 0.5
    assert holm([0.01, 0.04, 0.03]) == pytest.approx([0.03, 0.06, 0.06])
    assert holm([]) == [] and holm([0.9, 0.8]) == [1.0, 1.0]
    # clips of one speaker count as one: the interval is that of two values, not of 200
    values = np.repeat([0.0, 1.0], 100)
    assert group_interval(values, ["a"] * 100 + ["b"] * 100) == (0.0, 1.0)
    low, high = group_interval(values, [str(i) for i in range(200)])
    assert low == pytest.approx(0.43, abs=0.01) and high == pytest.approx(
        0.57, abs=0.01
    )
    assert all(map(math.isnan, group_interval(values, ["a"] * 200)))


def test_a_clips_seeds_are_pooled():
    runs = fake_runs(
        {
            "strided_conv": {0: "1111000000", 1: "1111000000"},
            "better": {0: "1111111110", 1: "1111111110"},
            "equal": {0: "0111100000", 1: "1111000000", 2: "1111111111"},
        }
    )
    rows = {row.method: row for row in compare(runs, "strided_conv")}
    assert list(rows) == ["strided_conv", "better", "equal"]
    assert rows["strided_conv"].comparison is None
    assert rows["strided_conv"].accuracies == (40.0, 40.0)
    better = rows["better"].comparison
    # five clips, not ten answers: 2 / 2^5
    assert (better.better, better.worse, better.p) == (5, 0, 0.0625)
    assert better.p_holm == 0.125 and better.difference == pytest.approx(50.0)
    equal = rows["equal"].comparison  # seed 2 has no counterpart
    assert (equal.better, equal.worse, equal.p) == (1, 1, 1.0)
    assert rows["equal"].seeds == (0, 1, 2)
    table = format_table(compare(runs, "strided_conv"), runs, "strided_conv")
    assert "| `better` | 1,000 | 8.0 | 90.0 +- 0.0 |" in table
    assert "+50.0 (+20.0 to +80.0) | 5 / 0 | 0.062 | 0.125 |" in table
    assert "seeds 0, 1; or 0, 1, 2." in table and "correction: none." in table
    # folds: every clip is one seed's, and counts once
    runs = fake_runs({"strided_conv": {0: "1100"}, "other": {0: "1111"}})
    for method, answers in (("strided_conv", "0101"), ("other", "1111")):
        further = fake_runs({method: {1: answers}})[method][1]
        answers = further["predictions"].items()
        further["predictions"] = {key.replace("/0", "/1"): a for key, a in answers}
        further["groups"] = {key: key for key in further["predictions"]}
        runs[method][1] = further
    first, row = compare(runs, "strided_conv")
    assert first.accuracies == (50.0, 50.0) and row.accuracies == (100.0, 100.0)
    assert row.comparison[2:5] == (4, 0, 0.125)
    assert "8 test clips in 8 groups" in format_table([first, row], runs, "none")


def test_a_round_is_all_folds_of_a_cross_validation():
    runs = fake_runs({"a": {0: "1100", 1: "11", 2: "1110", 3: "00"}})
    for seed, run in runs["a"].items():
        run["round"] = seed // 2
    (row,) = compare(runs, "none")
    assert row.accuracies == pytest.approx((400 / 6, 50.0))  # 4 of 6, 3 of 6
    table = format_table([row], runs, "none")
    assert "| 58.3 +- 11.8 |" in table and "deviation over the rounds" in table


def test_an_option_is_chosen_by_the_validation_clips():
    words = {"adastride:sigma_square=1": "0000", "adastride:sigma_square=20": "1111"}
    digits = {**words, "strided_conv": "1100", "adastride": "1110"}
    sounds = {**words, "strided_conv": "00000000", "adastride": "11111111"}
    tables = {}
    for name, answers in (("digits", digits), ("sounds", sounds)):
        runs = fake_runs({method: {0: one} for method, one in answers.items()})
        runs["adastride:sigma_square=1"][0]["valid_accuracy"] = 60.0
        if name == "sounds":
            runs["adastride:sigma_square=20"][0]["valid_accuracy"] = 70.0
            for method in words:  # the clips of strided_conv
                runs[method][0].update(
                    {k: runs["adastride"][0][k] for k in ("predictions", "groups")}
                )
        tables[name] = compare(runs, "strided_conv")
    table = format_data_sets(tables, "strided_conv", "sigma_square").splitlines()
    assert table[0] == "| method | digits | sounds |"
    assert "| `strided_conv` | 50.0 | 0.0 |" in table
    assert "| `adastride` | 75.0 | 100.0* |" in table  # 2 / 2^8, times 3
    # the worst on the digits' test clips
    line = "| `adastride`, sigma_square by validation | 0.0 (1) | 100.0* (20) |"
    assert line in table
    # the default may be the best; a value with fewer seeds does not count
    best = "adastride:sigma_square=1"
    seeds = {0: "1100", 1: "1100"}
    runs = fake_runs(
        {"adastride": seeds, best: {0: "1111"}, "adastride:sigma_square=20": seeds}
    )
    runs["adastride"][0]["valid_accuracy"] = 55.0
    runs[best][0]["valid_accuracy"] = 90.0
    value, row = choose_option(compare(runs, "none"), "sigma_square")["adastride"]
    assert (value, row.method) == (5.0, "adastride")


def test_an_option_trained_by_name_goes_before_the_default():
    words = ("adastride", "adastride:sigma_square=5", "adastride:sigma_square=2")
    rows = compare(fake_runs({word: {0: "1100"} for word in words}), "none")
    (points,) = option_curve(rows, "sigma_square").values()
    assert [(v, row.method) for v, row in points] == [(2.0, words[2]), (5.0, words[1])]


def test_the_picture_of_the_data_sets():
    answers = {"strided_conv": "1" * 8 + "00", "adastride": "1" * 10}
    answers.update({"avg_pool": "0" * 10, "adastride:sigma_square=2": "0" * 10})
    digits = compare(fake_runs({k: {0: v} for k, v in answers.items()}), "strided_conv")
    del answers["avg_pool"]
    sounds = compare(fake_runs({k: {0: v} for k, v in answers.items()}), "strided_conv")
    tables = {"digits": digits, "sounds": sounds}
    figure = plot_data_sets(tables, "strided_conv")
    left, right = figure.axes
    assert [text.get_text() for text in left.get_yticklabels()] == [
        *("avg_pool", "adastride")
    ]
    dots = {}
    for axes in figure.axes:
        dots[axes.get_title()] = {
            (float(line.get_ydata()[0]), float(line.get_xdata()[0])): (
                line.get_fillstyle()
            )
            for line in axes.lines
            if line.get_marker() == "o"
        }
    # 8 clips worse, none better: p 0.008; corrected for three methods 0.023
    assert dots["digits"] == {(0.0, -80.0): "full", (1.0, 20.0): "none"}
    assert dots["sounds"] == {(1.0, 20.0): "none"}
    alone = compare(fake_runs({"adastride": {0: "10"}}), "strided_conv")
    with pytest.raises(RecipeError, match="was compared with strided_conv"):
        plot_data_sets({"digits": alone}, "strided_conv")


def test_a_table_without_the_reference_compares_nothing():
    runs = fake_runs({"better": {0: "1111111110", 1: "1111111110"}})
    alone = format_table(compare(runs, "none"), runs, "none")
    assert "Holm" not in alone
    words, counts = confusion(runs["better"])
    assert words == ["no", "up", "yes"]
    assert counts.tolist() == [[10, 0, 0], [0, 0, 0], [0, 2, 8]]


def test_a_curve_over_an_option():
    answers = {0: "1111100000", 1: "1111111000"}
    runs = fake_runs(
        {
            "strided_conv": answers,
            "adastride": answers,
            "adastride:sigma_square=20": answers,
            "adastride:sigma_square=0.5": {0: "1000000000", 1: "1110000000"},
            "adastride:sigma_square=5,score_bound=null": answers,
            "adastride_f:sigma_square=5": answers,
        }
    )
    rows = compare(runs, "strided_conv")
    (method, points), *rest = option_curve(rows, "sigma_square").items()
    assert method == "adastride" and not rest  # adastride_f has one value
    assert [value for value, _ in points] == [0.5, 5.0, 20.0]
    assert points[1][1].method == "adastride"  # 5 is what it has by default
    axes = plot_option(rows, "sigma_square", "strided_conv").axes[0]
    lines = {line.get_label(): line for line in axes.lines}
    means = lines["strided_conv, 95 % interval"].get_ydata()
    assert set(means) == {60.0} and axes.get_xscale() == "log"
    curve = next(line for line in axes.lines if list(line.get_xdata()) == [0.5, 5, 20])
    assert list(curve.get_ydata()) == [20.0, 60.0, 60.0]
    seeds = [line for line in axes.lines if list(line.get_xdata()) == [0.5, 0.5]]
    assert list(seeds[0].get_ydata()) == [10.0, 30.0]
    with pytest.raises(RecipeError, match="sigma: no method has finished runs"):
        plot_option(rows, "sigma", "strided_conv")


# ------------------------------------------------------------------ bad input
def failure(*command):
    with pytest.raises(SystemExit) as caught:
        classify.main([str(word) for word in command])
    line = str(caught.value)
    assert line.startswith("error: ") and "\n" not in line
    return line


def test_bad_input_ends_in_one_line(corpus, config, tmp_path):
    exp, empty = tmp_path / "exp", tmp_path / "empty"
    empty.mkdir()
    common = ["--config", config, "--exp", exp, "--seeds", "0"]
    known = ["--corpus", corpus, *common]
    assert "give --corpus" in failure(*common)
    assert "no such folder" in failure("--corpus", tmp_path / "none", *common)
    assert "no WORD/*.wav of Speech Commands" in failure("--corpus", empty, *common)
    line = failure(*known, "--methods", "adastrid")
    assert "did you mean 'adastride'?" in line and "avg_pool" in line
    line = failure(*known, "--methods", "avg_pool:sigma_square=2")
    assert "sigma_square" in line and "avg_pool" in line
    assert "above 0" in failure(*known, "--methods", "adastride:sigma_square=-1")
    assert "METHOD:WORD=VALUE" in failure(*known, "--methods", "adastride:sharp")
    assert "2 methods" in failure(*known, "--methods", "avg_pool+stack")
    assert "--seeds x" in failure(*known, "--seeds", "x")
    assert "--nj 0" in failure(*known, "--nj", "0")
    assert "no finished run" in failure("--exp", exp, "--train", "false")
    line = failure("--corpus", corpus, "--config", empty / "no.yaml", "--exp", exp)
    assert "no such configuration" in line
    assert not exp.exists()


@pytest.mark.parametrize(
    "name, content, words",
    [
        ("00000001_nohash_1.wav", b"", "an empty file"),
        ("00000001_nohash_1.wav", b"RIFF", "not audio that can be read"),
        ("00000001_nohash_1.wav", np.zeros(0), "no samples"),
        ("hello.wav", np.zeros(9), "does not tell who speaks"),
    ],
)
def test_a_bad_recording_is_named(corpus, config, tmp_path, name, content, words):
    copy = tmp_path / "copy"
    shutil.copytree(corpus, copy)
    path = copy / "low" / name
    if isinstance(content, bytes):
        path.write_bytes(content)
    else:
        soundfile.write(path, content, RATE)
    line = failure("--corpus", copy, "--config", config, "--exp", tmp_path / "exp")
    assert str(path) in line and words in line


def test_other_hyper_parameters_or_clips_want_another_folder(corpus, config, tmp_path):
    exp = tmp_path / "exp"
    command = ["--corpus", corpus, "--config", config, "--exp", exp]
    command += ["--methods", "avg_pool", "--seeds", "0"]
    classify.main([str(word) for word in command])
    other = tmp_path / "other.yaml"
    text = config.read_text()
    other.write_text(text.replace("lr: 0.01", "lr: 0.02"))
    line = failure("--corpus", corpus, "--config", other, "--exp", exp)
    assert "training.lr was 0.01, is 0.02; give this one another --exp" in line
    copy = tmp_path / "copy"
    shutil.copytree(corpus, copy)
    next((copy / "low").glob("*.wav")).unlink()
    line = failure("--corpus", copy, "--config", config, "--exp", exp)
    assert "clips was 120" in line


@pytest.mark.parametrize(
    "before, after, words",
    [
        ("lr:", "lrr:", "unknown word of training 'lrr' (did you mean 'lr'?)"),
        (
            "epochs: 8",
            "epochs: many",
            "training.epochs must be of type int, got 'many'",
        ),
        ("epochs: 8", "epochs: 0", "training.epochs must be at least 1"),
        ("  dropout: 0.1\n", "", "word of network is missing: dropout"),
        ("split: rotating", "split: random", "unknown split 'random'"),
        ("layout: speech", "layout: esc", "unknown layout 'esc_commands'"),
        ("decay:", "- decay:", "not YAML"),
    ],
)
def test_a_bad_configuration_is_named(config, tmp_path, before, after, words):
    text = config.read_text()
    assert before in text
    path = tmp_path / "bad.yaml"
    path.write_text(text.replace(before, after, 1))
    with pytest.raises(RecipeError) as caught:
        read_options(path)
    assert words in str(caught.value) and str(path) in str(caught.value)


def test_runs_of_an_earlier_version_are_told(tmp_path):
    run = fake_runs({"a": {0: "11"}})["a"][0]
    del run["groups"]
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "result.json").write_text(json.dumps(run))
    with pytest.raises(RecipeError, match="earlier version"):
        read_runs(tmp_path)


def test_runs_of_other_clips_are_not_compared(tmp_path):
    runs = fake_runs({"a": {0: "11"}, "b": {0: "111"}})
    for method in runs:
        (tmp_path / method).mkdir()
        path = tmp_path / method / "result.json"
        path.write_text(json.dumps(runs[method][0]))
    with pytest.raises(RecipeError, match="other clips"):
        read_runs(tmp_path)


@pytest.mark.parametrize(
    "name, classes", [("speech_commands", 9), ("fsdd", 10), ("esc10", 10)]
)
def test_the_shipped_configurations_are_whole(name, classes):
    options = read_options(ROOT / "conf" / f"train_{name}.yaml")
    assert options.data.layout == name
    network = Classifier(classes, 80, options.network, parse_method("adastride"))
    assert math.prod(options.network.strides) == 8
    assert sum(p.numel() for p in network.parameters()) < 200_000
