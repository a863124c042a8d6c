"""The command that draws, on tiny untrained models and a synthetic signal."""

import json
import os
import re

import numpy as np
import pytest
import soundfile
import torch

pytest.importorskip("espnet2")

from espnet_adastride.bin import plot  # noqa: E402
from espnet_adastride.downsampling import adastride as library  # noqa: E402
from espnet_adastride.plugin.frame_times import encoder_boundaries  # noqa: E402
from espnet_adastride.plugin.subsampling import AdaptiveSubsampling  # noqa: E402
from espnet_adastride.report import utterance  # noqa: E402
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
        plot.main([str(w) for w in words])
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
    printed = run(
        capsys, "utterance", "--model", exp, "--data_dir", data_dir, "--output", output
    )
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
    monkeypatch.setattr(utterance, "plot_strides", pictures.append)
    monkeypatch.setattr(plot, "save_picture", lambda *_: None)
    run(
        capsys,
        *("utterance", "--model", adastride, "--output", tmp_path / "x.png"),
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
        *(
            "utterance",
            "--model",
            adastride,
            "--audio",
            data_dir / "utt1.wav",
            "--output",
            output,
        ),
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
    # strides that change by a moderate amount, whatever the trunk makes of x
    monkeypatch.setattr(library, "bound_scores", lambda a, lengths, b: torch.tanh(a))
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
    boundaries, uniform = encoder_boundaries(layer, layer.take_trace(), length)
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
    boundaries, uniform = encoder_boundaries(layer, layer.take_trace(), 60)
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
    here, _ = encoder_boundaries(layer, both, 41, index=1)
    there, _ = encoder_boundaries(layer, alone, 41)
    np.testing.assert_allclose(here, there, atol=1e-4)
    assert here[-1] == 41


@pytest.mark.parametrize(
    "input_layer, conf, words",
    [
        ("conv2d", None, "input_layer is conv2d, whose strides are uniform"),
        ("strided_conv", {"stride": 4, "channels": 4}, "strides are uniform"),
    ],
)
def test_models_without_positions(input_layer, conf, words, data_dir, tmp_path, capsys):
    exp = make_experiment(tmp_path / "exp", input_layer, conf)
    said = run(
        capsys,
        *(
            "utterance",
            "--model",
            exp,
            "--data_dir",
            data_dir,
            "--output",
            tmp_path / "x.png",
        ),
    )
    assert words in said and "choose a model with adastride" in said
    assert not (tmp_path / "x.png").exists()


def test_a_transcript_that_cannot_be_aligned_is_said(
    adastride, data_dir, tmp_path, capsys
):
    """The picture then has the times of the recognised words."""
    words = ["utterance", "--model", adastride, "--audio", data_dir / "utt1.wav"]
    words += ["--output", tmp_path / "x.svg", "--text"]
    for text, problem in (("A " * 900, "are too few for"), ("ZZZ", "unknown to the")):
        plot.main([*map(str, words), text])
        said = capsys.readouterr().err
        assert said.startswith("utt1: ") and len(said.splitlines()) == 1
        assert problem in said and "picture are the recognised ones" in said


def test_a_model_without_ctc_has_no_hypothesis(data_dir, tmp_path, capsys):
    exp = make_experiment(tmp_path / "exp", model_conf={"ctc_weight": 0.0})
    run(
        capsys,
        *("utterance", "--model", exp, "--audio", data_dir / "utt1.wav"),
        *("--output", tmp_path / "x.svg"),
    )
    assert (tmp_path / "x.svg").exists()


def test_mistakes_end_in_one_line(adastride, data_dir, tmp_path, capsys):
    def said(**changes):
        options = {"model": adastride, "data_dir": data_dir, "output": "x.png"}
        options.update(changes)
        options["output"] = tmp_path / options["output"]
        words = [w for k, v in options.items() if v is not None for w in (f"--{k}", v)]
        return run(capsys, "utterance", *words)

    def wave(name, samples, rate=RATE):
        soundfile.write(tmp_path / name, samples, rate)
        return {"data_dir": None, "audio": tmp_path / name}

    rng = np.random.default_rng(0)
    assert "no config.yaml in it" in said(model=tmp_path)
    assert "no such file or folder" in said(model=tmp_path / "exp" / "none")
    assert "valid.loss.best.pth: no such file" in said(
        asr_model_file="valid.loss.best.pth"
    )
    assert "--utt_id uttt1 is not in" in said(utt_id="uttt1")
    assert "did you mean utt1?" in said(utt_id="uttt1")
    assert "wav.scp: no such file" in said(data_dir=tmp_path)
    assert "must end in .png, .svg, .pdf, .html" in said(output="strides.jpg")
    assert "no such file" in said(data_dir=None, audio=tmp_path / "none.wav")
    (tmp_path / "text.wav").write_text("no audio")
    assert "unreadable audio" in said(data_dir=None, audio=tmp_path / "text.wav")
    assert "no samples" in said(**wave("empty.wav", np.zeros(0)))
    assert "too short" in said(**wave("tiny.wav", rng.standard_normal(100)))
    assert "too short for this model: 3 frames" in said(
        **wave("short.wav", rng.standard_normal(200) * 0.1)
    )
    (tmp_path / "words.ctm").write_text("utt9 1 0.1 0.2 A\nutt8 1 0.1 0.2 A\n")
    assert "words.ctm has no utterance utt2" in said(ref=tmp_path / "words.ctm")
    assert not (tmp_path / "x.png").exists()


def test_words_and_phones_of_a_textgrid(adastride, data_dir, monkeypatch, tmp_path):
    tier = """    item [{n}]:
        class = "IntervalTier"
        name = "{name}"
        xmin = 0
        xmax = 2
        intervals: size = 1
        intervals [1]:
            xmin = 0.50
            xmax = 1.00
            text = "{text}"
"""
    folder = tmp_path / "grids"
    folder.mkdir()
    (folder / "utt1.TextGrid").write_text(
        'File type = "ooTextFile"\nObject class = "TextGrid"\n'
        + "xmin = 0\nxmax = 2\ntiers? <exists>\nsize = 2\nitem []:\n"
        + tier.format(n=1, name="words", text="ABBA")
        + tier.format(n=2, name="phones", text="AE1")
    )
    pictures = []
    monkeypatch.setattr(utterance, "plot_strides", pictures.append)
    monkeypatch.setattr(plot, "save_picture", lambda *_: None)
    words = ["utterance", "--model", adastride, "--data_dir", data_dir]
    words += ["--utt_id", "utt1", "--ref", folder, "--output", tmp_path / "x.png"]
    plot.main([str(w) for w in words])
    (picture,) = pictures
    assert [(w.text, w.start, w.end) for w in picture.words] == [("ABBA", 0.5, 1.0)]
    assert [p.text for p in picture.phones] == ["AE1"]
    assert picture.times_from == "grids"


def test_a_corpus(adastride, data_dir, tmp_path, capsys):
    # the noise is the word; its frames are shorter
    (tmp_path / "words.ctm").write_text(
        "utt1 1 0.5 0.5 A\nutt2 1 1.2 1.2 B\nutt9 1 0 1 A\n"
    )
    page = tmp_path / "corpus.html"
    words = ["corpus", "--model", adastride, "--data_dir", data_dir, "--output", page]
    words += ["--ref", tmp_path / "words.ctm", "--json", tmp_path / "n.json"]
    printed = run(capsys, *words)
    numbers = json.loads((tmp_path / "n.json").read_text())
    assert numbers["utterances"] == 2 and numbers["frames"] == 51 + 121
    assert numbers["seconds"] == pytest.approx(6.8)
    assert numbers["groups"]["speech"]["share"] == pytest.approx(0.25, abs=0.003)
    relation = numbers["relations"]["speech"]
    assert relation["auc"] > 0.8 and relation["low"] is None
    assert f"AUC {relation['auc']:.3f} [too few utterances]" in printed
    assert "1 left out: utt3 (the first: not in --ref)" in printed
    assert f"AUC {relation['auc']:.3f}" in page.read_text()
    # without a reference, speech is where the energy is
    words = ["corpus", "--model", adastride, "--data_dir", data_dir]
    printed = run(capsys, *words, "--utterances", 1, "--output", tmp_path / "c.svg")
    assert "1 utterance, 2 s" in printed and "energy within 30 dB" in printed
    assert (tmp_path / "c.svg").exists()
    same = [tmp_path / "c.svg", "--json", f"{tmp_path}/./c.svg"]
    assert "the name of --output" in run(capsys, *words, "--output", *same)
    (tmp_path / "other.ctm").write_text("utt9 1 0 1 A\n")
    assert "none of the utterances" in run(
        capsys, *words, "--ref", tmp_path / "other.ctm", "--output", tmp_path / "c.svg"
    )
    # the times of another recording
    (tmp_path / "other.ctm").write_text("utt1 1 0 1 A\nutt2 1 7 1 B\n")
    printed = run(
        capsys, *words, "--ref", tmp_path / "other.ctm", "--output", tmp_path / "c.svg"
    )
    assert "2 left out: utt2, utt3" in printed
    assert "'B' of --ref begins at 7.00 s, and the recording has 4.8" in printed


def test_training_curves(tmp_path, capsys):
    exp = tmp_path / "asr_x"
    exp.mkdir()
    output = tmp_path / "t.png"
    assert "no train.log with a finished epoch" in run(
        capsys, "training", exp, "--output", output
    )
    assert "no such folder" in run(capsys, "training", "none", "--output", output)
    line = (
        "[h] 2026-01-01 00:00:00,0 (trainer:394) INFO: {n}epoch results: [train] "
        "loss={a}, stride_entropy=0.9, time=1 second, total_count=3, [valid] "
        "loss={b}, stride_entropy={e}, loss_att=nan, time=1 second, total_count=3\n"
    )
    log = line.format(n=1, a=9, b=8, e=0.95) + line.format(n=2, a=5, b=4.5, e=0.75)
    (exp / "train.log").write_text(log)
    printed = run(capsys, "training", exp, "--output", output)
    assert "asr_x: 2 epochs, at the end loss 4.5, stride_entropy 0.75" in printed
    again = run(capsys, "training", exp, f"{exp}/", "--output", output)
    assert again == printed  # a folder that is given twice is drawn once
    said = run(capsys, "training", exp / "train.log", "--output", output)
    assert "train.log: a file, not a folder; give an experiment" in said
    said = run(capsys, "training", tmp_path, "--output", output)
    assert said.endswith(f"a folder of some; give one or more of them: {exp}")
    assert output.read_bytes().startswith(b"\x89PNG")
