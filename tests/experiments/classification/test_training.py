"""Features, schedule, masks, resumption, configuration."""

import argparse
import math
from pathlib import Path
from types import SimpleNamespace

import pytest
import soundfile
import torch

from espnet_adastride.corpora.clips import Clip, find_clips
from espnet_adastride.errors import UserError
from espnet_adastride.evaluation.schedule import count_steps
from espnet_adastride.experiments.classification import features
from espnet_adastride.experiments.classification.espnet_training import claim_data
from espnet_adastride.experiments.classification.features import load_features
from espnet_adastride.experiments.classification.options import (
    DataOptions,
    read_options,
)
from espnet_adastride.experiments.classification.training import learning_rate, train
from espnet_adastride.experiments.espnet_options import (
    check_criterion,
    complete_options,
)
from espnet_adastride.networks.classifier import Classifier, random_mask
from espnet_adastride.networks.methods import parse_method
from espnet_adastride.networks.saved_models import Criterion

ROOT = Path(__file__).resolve().parents[3]


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


def test_statistics_do_not_pad_to_the_longest_clip(monkeypatch):
    clips = [Clip(f"{label}/x", Path("x"), label, "x") for label in "ab"]
    frames = torch.tensor([[1.0], [2.0], [3.0], [6.0]])
    data = features.Features(clips, frames, torch.tensor([1, 3]))
    monkeypatch.delattr(features, "pad_sequence")
    mean, deviation = data.statistics(torch.tensor([1, 0]))
    assert mean.item() == 3 and deviation.item() == pytest.approx(math.sqrt(14 / 3))


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
    whole = train(data, options, method, 5, tmp_path / "whole", lambda line: None)
    assert whole["accuracy"] > 95 and whole["rate"] > 6

    def stop(line):
        if "epoch 3/" in line:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train(data, options, method, 5, tmp_path / "cut", stop)
    assert (tmp_path / "cut" / "checkpoint.pth").is_file()
    assert not (tmp_path / "records" / "cut.json.gz").exists()
    said = []
    cut = train(data, options, method, 5, tmp_path / "cut", said.append)
    assert "resuming after epoch 3" in said[0] and len(said) == 1 + 5
    timing = ("cpu_seconds", "training_seconds")
    assert {k: v for k, v in cut.items() if k not in timing} == {
        k: v for k, v in whole.items() if k not in timing
    }
    assert not (tmp_path / "cut" / "checkpoint.pth").exists()
    models = [torch.load(tmp_path / name / "model.pth") for name in ("whole", "cut")]
    for a, b in zip(*(model.values() for model in models)):
        assert torch.equal(a, b)
    other = train(data, options, method, 6, tmp_path / "other", lambda line: None)
    assert other["learning"] != whole["learning"]


def test_damaged_files_are_named(corpus, data, config, tmp_path):
    options, method = read_options(config), parse_method("avg_pool")
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "checkpoint.pth").write_bytes(b"damaged")
    with pytest.raises(OSError, match="run/checkpoint.pth is truncated"):
        train(data, options, method, 0, tmp_path / "run", lambda line: None)
    clips = find_clips(corpus, "speech_commands")[:2]
    load_features(clips, options.features, tmp_path, lambda line: None)
    (path,) = tmp_path.glob("logmel_*.pth")
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(OSError, match=f"{path} is truncated .*: .*remove it"):
        load_features(clips, options.features, tmp_path)


def test_other_clips_or_another_split_are_refused_through_espnet(corpus, tmp_path):
    """Otherwise an interrupted training would be tested on what it had learned."""
    clips = find_clips(corpus, "speech_commands")

    def claim(split, clips=clips):
        data = DataOptions("speech_commands", split)
        claim_data(tmp_path, SimpleNamespace(data=data), clips)

    claim("rotating")
    claim("fixed")  # nothing has begun
    (tmp_path / "avg_pool_seed0").mkdir()
    (tmp_path / "avg_pool_seed0" / "checkpoint.pth").touch()
    claim("fixed")
    with pytest.raises(UserError, match="data.split was fixed, is rotating; give"):
        claim("rotating")
    with pytest.raises(UserError, match="clips was 120, .*, is 119"):
        claim("fixed", clips[1:])
    copy = tmp_path / "copy.wav"
    content = clips[0].path.read_bytes()
    copy.write_bytes(content)
    claim("fixed", [clips[0]._replace(path=copy), *clips[1:]])
    copy.write_bytes(content[:-2] + b"ab")
    with pytest.raises(UserError, match=f"{copy} was changed after the runs in "):
        claim("fixed", [clips[0]._replace(path=copy), *clips[1:]])


def test_options_of_a_training_through_espnet():
    parser = argparse.ArgumentParser()
    for name, value in (("max_epoch", 40), ("batch_size", 20), ("accum_grad", 1)):
        parser.add_argument(f"--{name}", type=int, default=value)
    parser.add_argument("--num_iters_per_epoch")
    parser.add_argument("--best_model_criterion", default=[("valid", "acc", "max")])
    task = SimpleNamespace(get_parser=lambda: parser)

    def steps(**config):
        return count_steps(complete_options(task, config), 11)

    assert steps() == 40 * 11 and steps(max_epoch=3) == 3 * 11
    assert steps(accum_grad=2) == 40 * 5 and steps(accum_grad=20) == 40
    assert steps(num_iters_per_epoch=7, accum_grad=2) == 40 * 3
    with pytest.raises(UserError, match="did you mean 'max_epoch'"):
        steps(max_epochs=3)
    with pytest.raises(UserError, match="accum_grad: 0.5 must be a whole number"):
        steps(accum_grad=0.5)
    with pytest.raises(UserError, match="num_iters_per_epoch: give .* got 0"):
        steps(num_iters_per_epoch=0)
    check_criterion(complete_options(task, {}), Criterion("valid", "acc", "max"))
    with pytest.raises(UserError, match="best valid loss_mse is tested; add .valid, l"):
        check_criterion(
            complete_options(task, {}), Criterion("valid", "loss_mse", "min")
        )


@pytest.mark.parametrize(
    "before, after, words",
    [
        ("lr:", "lrr:", "unknown word of training 'lrr' (did you mean 'lr'?)"),
        (
            "epochs: 8",
            "epochs: many",
            "training.epochs must be of type int, got 'many'",
        ),
        ("epochs: 8", "epochs: 0", "training.epochs must be above 0"),
        ("grad_clip: 5.0", "grad_clip: 0", "training.grad_clip must be above 0"),
        ("lr: 0.01", "lr: .inf", "training.lr must be a number of 0 or more, got inf"),
        ("decay: 0.8", "decay: .nan", "training.decay must be a number of 0 or more"),
        ("smoothing: 0.0", "smoothing: 1", "label_smoothing must be below 1"),
        ("dropout: 0.1", "dropout: 1.5", "network.dropout must be below 1"),
        ("hop_length: 256", "hop_length: 0", "features.hop_length must be above 0"),
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
    with pytest.raises(UserError) as caught:
        read_options(path)
    assert words in str(caught.value) and str(path) in str(caught.value)


@pytest.mark.parametrize(
    "name, classes", [("speech_commands", 9), ("fsdd", 10), ("esc10", 10)]
)
def test_the_shipped_configurations_are_whole(name, classes):
    options = read_options(ROOT / "conf" / f"train_{name}.yaml")
    assert options.data.layout == name
    network = Classifier(classes, 80, options.network, parse_method("adastride"))
    assert math.prod(options.network.strides) == 8
    assert sum(p.numel() for p in network.parameters()) < 200_000
