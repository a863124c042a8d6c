"""The paper's classifier in ESPnet's task cls: data, training, inference, refusals."""

import math

import numpy as np
import pytest
import soundfile
import torch
import yaml
from espnet2.bin import cls_inference, cls_train

from espnet_adastride.bin import clips_for_espnet
from espnet_adastride.corpora.clips import find_clips, split_clips
from espnet_adastride.errors import ConfigurationError
from espnet_adastride.plugin.resnet_encoder import ResNetEncoder
from tests.tones import tone

RATE = 16000


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """Tones of 40 speakers, split; a name with a blank."""
    corpus = tmp_path_factory.mktemp("speech_commands")
    random = np.random.default_rng(0)
    for word, hertz in (("high", 2500.0), ("very low", 300.0)):
        (corpus / word.split()[-1]).mkdir()
        for speaker in range(40):
            name = f"{word.split()[-1]}/{speaker:08x}.wav"
            soundfile.write(corpus / name, tone(random, hertz, RATE), RATE)
            with open(corpus / "labels.csv", "a") as table:
                if not table.tell():
                    table.write("file,label,group\n")
                table.write(f"{name},{word},speaker {speaker}\n")
    folder = tmp_path_factory.mktemp("cls") / "data"
    command = ["--corpus", str(corpus), "--layout", "table"]
    clips_for_espnet.main([*command, "--output_dir", str(folder)])
    return corpus, folder


def test_the_data_are_the_split_of_the_seed(data):
    corpus, folder = data
    clips = find_clips(corpus, "table")
    parts = split_clips(clips, "rotating", 0)
    for part, indices in parts.items():
        lines = (folder / part / "wav.scp").read_text().splitlines()
        paths = {line.split(" ", 1)[1] for line in lines}
        assert paths == {str(clips[index].path) for index in indices}
        keys = [line.split()[0] for line in lines]
        assert keys == sorted(keys) and len(keys[0].split("-")) > 1
        labels = dict(line.split() for line in (folder / part / "label").open())
        assert set(labels) == set(keys) and set(labels.values()) == {"high", "very_low"}
        shapes = dict(line.split() for line in (folder / part / "shape").open())
        key, path = lines[0].split(" ", 1)
        assert int(shapes[key]) == soundfile.info(path).frames
    assert (folder / "classes.txt").read_text() == "high\nvery_low\n<unk>\n"


def test_the_published_network_trains_and_classifies(data, tmp_path):
    folder, exp = data[1], tmp_path / "exp"
    config = yaml.safe_load(open("conf/train_cls_resnet.yaml"))
    conf = config["encoder_conf"]
    assert (conf["output_size"], conf["kernel_size"], len(conf["strides"])) == (
        256,
        3,
        6,
    )
    assert math.prod(conf["strides"]) == 8 and conf["vp_weight"] == 1.0
    front = config["frontend_conf"]
    assert (front["n_mels"], front["n_fft"], front["hop_length"]) == (80, 1024, 256)
    assert (config["batch_size"], config["max_epoch"]) == (128, 100)
    schedule = config["scheduler_conf"]
    steps = schedule["total_steps"] / config["max_epoch"]
    assert schedule["warmup_steps"] == 10 * steps and schedule["max_lr"] == 1e-4
    assert schedule["min_lr"] == pytest.approx(1e-4 * 0.95**90, rel=1e-5)

    conf["output_size"] = 16
    config.update(batch_size=4, max_epoch=6, use_tensorboard=False)
    schedule.update(max_lr=0.01, min_lr=0.001, warmup_steps=10, total_steps=100)
    path = tmp_path / "small.yaml"
    path.write_text(yaml.safe_dump(config))
    command = ["--config", str(path), "--output_dir", str(exp), "--token_type", "word"]
    command += ["--token_list", str(folder / "classes.txt"), "--ngpu", "0"]
    command += ["--num_workers", "0", "--seed", "1"]
    for part in ("train", "valid"):
        command += [f"--{part}_shape_file", str(folder / part / "shape")]
        flag = f"--{part}_data_path_and_name_and_type"
        command += [flag, f"{folder / part / 'wav.scp'},speech,sound"]
        command += [flag, f"{folder / part / 'label'},label,text"]
    cls_train.main(command)
    saved = torch.load(exp / "checkpoint.pth", weights_only=False)
    stats = saved["reporter"]["stats"]
    first, last = stats[1]["train"], stats[6]["train"]
    assert last["loss"] < 0.9 * first["loss"] and stats[6]["valid"]["acc"] == 1.0
    assert last["loss_vp"] >= 0 and 0.5 < last["largest_jump"] < 4
    scores = [v for k, v in saved["model"].items() if "score" in k]
    assert len(scores) == 3 and all(one.abs().max() > 0 for one in scores)

    cls_inference.main(
        ["--output_dir", str(tmp_path / "out"), "--ngpu", "0", "--num_workers", "0"]
        + ["--classification_train_config", str(exp / "config.yaml")]
        + ["--classification_model_file", str(exp / "valid.acc.best.pth")]
        + ["--data_path_and_name_and_type"]
        + [f"{folder / 'test' / 'wav.scp'},speech,sound"]
    )
    found = dict(
        line.split() for line in (tmp_path / "out" / "prediction" / "text").open()
    )
    labels = dict(line.split() for line in (folder / "test" / "label").open())
    assert set(found) == set(labels)
    right = sum(found[key] == label for key, label in labels.items())
    assert right >= 0.75 * len(labels)


@pytest.mark.parametrize("method", ["adastride", "strided_conv", "diff_stride"])
def test_alone_as_in_a_batch_and_what_is_reported(method):
    torch.manual_seed(0)
    encoder = ResNetEncoder(20, output_size=8, method=method).eval()
    x = torch.randn(2, 50, 20)
    lengths = torch.tensor([50, 23])
    output, output_lengths, _ = encoder(x, lengths)
    alone, one, _ = encoder(x[1:, :23], lengths[1:])
    assert output_lengths[1] == one[0] and encoder.output_size() == 8
    torch.testing.assert_close(output[1, : one[0]], alone[0], atol=1e-5, rtol=0)
    trace = encoder.take_trace()
    assert len(trace) == (0 if method == "strided_conv" else 3)
    assert encoder.take_trace() == ()
    assert ("stride_1" in encoder.reported_stats()) == (method == "diff_stride")


def test_wrong_words_are_named():
    with pytest.raises(ConfigurationError, match="did you mean 'adastride'"):
        ResNetEncoder(20, method="adastrid")
    with pytest.raises(ConfigurationError, match="encoder_conf: .*sigma"):
        ResNetEncoder(20, method_conf={"sigma": 2})
    with pytest.raises(ConfigurationError, match="vp_weight"):
        ResNetEncoder(20, vp_weight=-1)
    with pytest.raises(ConfigurationError, match="encoder_conf: method must be .* 3"):
        ResNetEncoder(20, method=3)
    with pytest.raises(ConfigurationError, match="encoder_conf: strides must be .* 8"):
        ResNetEncoder(20, strides=8)
