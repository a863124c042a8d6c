"""The command that draws strides, on tiny untrained models and a synthetic signal."""

import os
import re

import numpy as np
import pytest
import soundfile
import torch
import yaml

pytest.importorskip("espnet2")

from espnet_adastride.bin import plot_strides  # noqa: E402
from espnet_adastride.downsampling import adastride as library  # noqa: E402
from espnet_adastride.plugin.subsampling import AdaptiveSubsampling  # noqa: E402
from tiny_models import RATE, make_experiment  # noqa: E402


@pytest.fixture(scope="module")
def adastride(tmp_path_factory):
    return make_experiment(tmp_path_factory.mktemp("a") / "exp")


@pytest.fixture(scope="module")
def data_dir(tmp_path_factory):
    """Three utterances of noise in silence; ``utt2``, 4.8 s, is nearest to 5 s."""
    folder = tmp_path_factory.mktemp("data set")  # paths with spaces work
    rng = np.random.default_rng(0)
    lines = []
    for name, seconds in (("utt1", 2.0), ("utt2", 4.8), ("utt3", 5.5)):
        time = np.arange(int(seconds * RATE)) / RATE
        loud = (time > 0.25 * seconds) & (time < 0.5 * seconds)
        wave = rng.standard_normal(len(time)) * np.where(loud, 0.2, 0.001)
        soundfile.write(folder / f"{name}.wav", wave, RATE)
        lines.append(f"{name} {folder}/{name}.wav\n")
    (folder / "wav.scp").write_text("".join(lines))
    (folder / "text").write_text("utt1 A B\nutt2 B A B\nutt3 A\n")
    return folder


def run(capsys, *words):
    """Run the command; return what it printed, or its one line of complaint."""
    try:
        plot_strides.main([str(w) for w in words])
    except SystemExit as error:
        assert isinstance(error.code, str) and "\n" not in error.code
        return error.code
    return capsys.readouterr().out


@pytest.mark.parametrize("method", ["adastride", "adastride_f"])
def test_the_picture_of_a_model(method, adastride, data_dir, tmp_path, capsys):
    exp = adastride
    if method != "adastride":
        exp = make_experiment(tmp_path / "exp", method)
    output = tmp_path / "pictures" / "strides.png"
    printed = run(capsys, "--asr_exp", exp, "--data_dir", data_dir, "--output", output)
    assert output.read_bytes().startswith(b"\x89PNG")
    assert os.listdir(output.parent) == ["strides.png"]
    # 4.8 s in 481 frames of 10 ms, to ceil(481 / 2) = 241, to 121
    assert printed.startswith("utt2: 121 frames in 4.80 s, 25.2 per second; mean 40 ms")
    shares = [int(share) for share in re.findall(r"(\d+) % of the", printed)]
    # a quarter of the time is loud; its scores make its frames shorter
    assert shares[1] == 25 and shares[2] > 50
    assert shares[1] + shares[3] == 100 and shares[2] + shares[4] == 100


def test_what_is_drawn(adastride, data_dir, monkeypatch, tmp_path, capsys):
    pictures = []
    monkeypatch.setattr(plot_strides, "plot_strides", pictures.append)
    monkeypatch.setattr(plot_strides, "save_figure", lambda *_: None)
    run(
        capsys,
        *("--asr_exp", adastride, "--output", tmp_path / "x.png"),
        *("--data_dir", data_dir, "--utt_id", "utt1"),
    )
    (picture,) = pictures
    assert (picture.utterance, picture.reference) == ("utt1", "A B")
    assert picture.method == "adastride, 4x" and picture.step == 0.01
    assert set(picture.hypothesis) <= set("AB <unk><sos/eos>")
    # 201 frames centred at 0, 10 ms, ... to 101, to 51
    assert len(picture.boundaries) == len(picture.uniform) == 52
    np.testing.assert_allclose(picture.uniform[:3], [0, 0.035, 0.075])
    assert picture.uniform[-1] == picture.boundaries[-1] == 2.0


def test_a_recording_without_data_directory(adastride, data_dir, tmp_path, capsys):
    output = tmp_path / "strides.svg"
    printed = run(
        capsys,
        *("--asr_exp", adastride, "--wav", data_dir / "utt1.wav", "--output", output),
    )
    assert printed.startswith("utt1: 51 frames") and output.exists()


@pytest.mark.parametrize("trunk", ["conv2d", "conv1d", "dwconv2d"])
@pytest.mark.parametrize(
    "methods",
    [
        ["adastride", "adastride"],
        ["strided_conv", "adastride"],
        ["adastride", "strided_conv"],
        ["avg_pool", "adastride_f"],
        ["blur_pool", "adastride"],
        ["softmax_pool", "blur_pool"],
        ["strided_conv", "strided_conv"],
    ],
)
def test_frames_lie_where_the_layer_reads(methods, trunk, monkeypatch):
    """The middle of a frame's span is the centre of the inputs that the frame reads."""
    steps = library.position_steps
    # the inputs that move the positions are not those that the frame reads
    monkeypatch.setattr(library, "position_steps", lambda *a: steps(*a).detach())
    layer = AdaptiveSubsampling(
        20, 8, pos_enc=torch.nn.Identity(), method=methods, stride=4, trunk=trunk,
        channels=4,
    )  # fmt: skip
    torch.manual_seed(3)
    for name, value in layer.named_parameters():
        # all paths open and alike: no ReLU cuts, no sign cancels
        value.data.fill_(0.05) if "score" not in name else value.data.fill_(0.3)
    length = 90
    x = torch.rand(1, length, 20) * 0.1
    x[:, 30:60] += 1.0  # what is louder gets shorter strides
    x.requires_grad_()
    output, _ = layer(x, None)
    boundaries, uniform = plot_strides.encoder_boundaries(
        layer, layer.take_trace(), length
    )
    assert len(boundaries) == len(uniform) == output.size(1) + 1
    middle = (boundaries[1:] + boundaries[:-1]) / 2
    if "adastride" in "".join(methods):
        assert np.ptp(np.diff(boundaries)[2:-2]) > 0.5
    for slot in range(3, output.size(1) - 3):
        (grad,) = torch.autograd.grad(output[0, slot].sum(), x, retain_graph=True)
        weight = grad[0].sum(dim=1).double()
        centre = (weight * (torch.arange(length) + 0.5)).sum() / weight.sum()
        assert abs(centre.item() - middle[slot]) < 0.75, slot


def test_boundaries_follow_a_learned_stride():
    layer = AdaptiveSubsampling(
        20, 8, method=["diff_stride", "adastride"], stride=4, channels=4, trunk="conv1d"
    )
    with torch.no_grad():
        layer.downsamplers[0].stride_change.fill_(1.0)
        output, _ = layer(torch.randn(1, 60, 20), None)
    boundaries, uniform = plot_strides.encoder_boundaries(layer, layer.take_trace(), 60)
    assert len(boundaries) == len(uniform) == output.size(1) + 1 == 11
    # every second step of every third; the convolution-like first frame is centred
    np.testing.assert_allclose(uniform, np.arange(11) * 6)
    np.testing.assert_allclose(np.diff(boundaries)[1:-1], 6.0, atol=0.7)


def test_each_utterance_of_a_batch_has_its_own_boundaries():
    layer = AdaptiveSubsampling(20, 8, stride=4, channels=4, trunk="conv1d")
    torch.nn.init.normal_(layer.downsamplers[0].score.weight)
    x = torch.randn(2, 60, 20)
    mask = (torch.arange(60) < torch.tensor([[60], [41]])).unsqueeze(1)
    with torch.no_grad():
        layer(x, mask)
        both = layer.take_trace()
        layer(x[1:, :41], None)
        alone = layer.take_trace()
    here, _ = plot_strides.encoder_boundaries(layer, both, 41, index=1)
    there, _ = plot_strides.encoder_boundaries(layer, alone, 41)
    np.testing.assert_allclose(here, there, atol=1e-4)
    assert here[-1] == 41


@pytest.mark.parametrize(
    "input_layer, conf, words",
    [
        ("conv2d", None, "input_layer: conv2d, which has no positions"),
        ("strided_conv", {"stride": 4, "channels": 4}, "strides are uniform"),
    ],
)
def test_models_without_positions(input_layer, conf, words, data_dir, tmp_path, capsys):
    exp = make_experiment(tmp_path / "exp", input_layer, conf)
    said = run(
        capsys,
        *("--asr_exp", exp, "--data_dir", data_dir, "--output", tmp_path / "x.png"),
    )
    assert words in said and "choose a model with adastride" in said
    assert not (tmp_path / "x.png").exists()


def test_a_model_without_ctc_has_no_hypothesis(data_dir, tmp_path, capsys):
    exp = make_experiment(tmp_path / "exp", model_conf={"ctc_weight": 0.0})
    run(
        capsys,
        *("--asr_exp", exp, "--wav", data_dir / "utt1.wav"),
        *("--output", tmp_path / "x.svg"),
    )
    assert (tmp_path / "x.svg").exists()


def test_mistakes_end_in_one_line(adastride, data_dir, tmp_path, capsys):
    def said(**changes):
        options = {"asr_exp": adastride, "data_dir": data_dir, "output": "x.png"}
        options.update(changes)
        options["output"] = tmp_path / options["output"]
        words = [w for k, v in options.items() if v is not None for w in (f"--{k}", v)]
        return run(capsys, *words)

    def wave(name, samples, rate=RATE):
        soundfile.write(tmp_path / name, samples, rate)
        return {"data_dir": None, "wav": tmp_path / name}

    rng = np.random.default_rng(0)
    assert "config.yaml is missing: train the model" in said(asr_exp=tmp_path)
    assert "models in" in said(asr_model_file="valid.loss.best.pth")
    assert "--utt_id utt9 is not in" in said(utt_id="utt9")
    assert "wav.scp: no such file" in said(data_dir=tmp_path)
    assert "must end in .png, .svg, .pdf" in said(output="strides.jpg")
    assert "give dB > 0" in said(speech_threshold="-3")
    assert "cannot be read" in said(data_dir=None, wav=tmp_path / "none.wav")
    (tmp_path / "text.wav").write_text("no audio")
    assert "cannot be read" in said(data_dir=None, wav=tmp_path / "text.wav")
    assert "2 channels" in said(**wave("stereo.wav", np.zeros((RATE, 2))))
    assert "16000 Hz, the model wants 8000" in said(**wave("x.wav", np.zeros(9), 16000))
    assert "no samples" in said(**wave("empty.wav", np.zeros(0)))
    assert "too short" in said(**wave("tiny.wav", rng.standard_normal(100)))
    assert "too short for the encoder: 3 frames" in said(
        **wave("short.wav", rng.standard_normal(200) * 0.1)
    )
    damaged = tmp_path / "damaged"
    damaged.mkdir()
    (damaged / "config.yaml").write_text((adastride / "config.yaml").read_text())
    (damaged / "valid.acc.ave.pth").write_bytes(b"half a fi")
    assert "cannot be read as a model" in said(asr_exp=damaged)
    config = yaml.safe_load((adastride / "config.yaml").read_text())
    config["bpemodel"] = "data/en_token_list/bpe.model"
    (damaged / "config.yaml").write_text(yaml.safe_dump(config))
    assert "run this command in the recipe's folder" in said(asr_exp=damaged)
    assert not (tmp_path / "x.png").exists()
