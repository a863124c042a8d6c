"""One whole packed model, exported: the texts and times of the way through ESPnet."""

import argparse
import json
import zipfile
from pathlib import Path

import numpy as np
import pytest
import soxr
import torch
import yaml

for package in ("onnx", "onnxscript", "onnxruntime"):
    pytest.importorskip(package, reason="extra [export]")

from espnet_adastride.bin import export, transcribe  # noqa: E402
from espnet_adastride.deployment.recogniser import (  # noqa: E402
    OnnxModel,
    OnnxTranscriber,
)
from espnet_adastride.errors import AudioError  # noqa: E402
from tests.release_models import SAID, tones  # noqa: E402

PACKED = Path(__file__).resolve().parents[1] / "data" / "202611_adastride.zip"


@pytest.fixture(scope="module")
def exported(tmp_path_factory):
    path = tmp_path_factory.mktemp("export") / "model.onnx"
    export.main([str(PACKED), "--output", str(path)])
    return path


def test_texts_and_times_are_those_of_espnet(exported):
    said = [tones(text, seed) for seed, text in enumerate(SAID, 7)]
    assert check(PACKED, exported, said) >= sum(map(len, SAID)) // 2  # tokens


def test_pieces_of_a_wrong_length_are_refused(exported):
    said = []
    for seconds in (0, 0.5, float("nan"), float("inf"), "20"):
        with pytest.raises(ValueError, match="max_segment must be a number"):
            OnnxTranscriber(exported, max_segment=seconds)
    model = OnnxModel(exported)
    model.content["lengths"] = [2.5, 4.0]  # of the training's utterances
    OnnxTranscriber(model, max_segment=500, say=said.append)
    assert len(said) == 1 and said[0].startswith("pieces of up to 500 s, and the model")


@pytest.mark.parametrize(
    "conf",
    [
        {"after_blocks": [0, 1]},
        {"after_blocks": [0, 1], "restore": True},
        {"tell_strides": True, "true_times": True},
    ],
)
def test_options_of_the_input_layer(conf, tmp_path):
    """A model of random weights: its texts are nonsense, the same by both ways."""
    from espnet_adastride.plugin.espnet import asr_task

    with zipfile.ZipFile(PACKED) as archive:
        config = yaml.safe_load(archive.read("asr_adastride/config.yaml"))
    conf = {"stride": 4, **conf}
    config["encoder_conf"].update(input_layer_conf=conf, num_blocks=2)
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(config))
    torch.manual_seed(0)
    model = asr_task.ASRTask.build_model(argparse.Namespace(**config))
    with torch.no_grad():
        told = "tell_strides" in conf  # times amplify the rounding of positions
        score = model.encoder.embed.stages()[-1].score
        score.weight.normal_(std=1.0 if told else 3.0)
        if told:
            model.encoder.embed.stride_vector.normal_(std=0.1)
        model.ctc.ctc_lo.weight *= 30.0
    torch.save(model.state_dict(), tmp_path / "valid.loss_ctc.ave.pth")
    made = tmp_path / "model.onnx"
    export.main([str(tmp_path), "--output", str(made)])
    assert check(tmp_path, made) > 20  # tokens


def check(model, exported, said=()):
    """Compare texts and times by both ways, of noise too; return how many tokens."""
    from espnet_adastride.transcribe import Transcriber

    theirs, ours, tokens = Transcriber(model), OnnxTranscriber(exported), 0
    rng = np.random.default_rng(5)
    sizes = (4000, 16000, 23456, 40001)
    noise = [0.1 * rng.standard_normal(size).astype("f") for size in sizes]
    for wave in (*noise, *said):
        expected, found = (one.transcribe(wave, "noise") for one in (theirs, ours))
        assert found.text == expected.text
        for a, b in zip(found.segments, expected.segments, strict=True):
            assert [t.text for t in a.tokens] == [t.text for t in b.tokens]
            tokens += len(a.tokens)
            for x, y in zip(a.tokens, b.tokens):
                assert abs(x.start - y.start) < 1e-3 and abs(x.end - y.end) < 1e-3
                assert abs(x.score - y.score) < 1e-3
    return tokens


def test_samples_are_taken_as_by_the_model_itself(exported):
    from espnet_adastride.transcribe import Transcriber

    wave = soxr.resample(tones(SAID[0], 7), 16000, 8000)
    wave = np.stack([wave, wave], axis=1)
    both = Transcriber(PACKED), OnnxTranscriber(exported)
    theirs, ours = (one(wave, rate=8000, name="two channels") for one in both)
    assert ours.text == theirs.text != "" and ours.name == "two channels"
    assert ours.duration == theirs.duration == len(wave) / 8000
    for wrong, rate, message in [
        ((wave * 32767).astype(np.int16), 8000, "divide them by 32768"),
        (wave, "8000", "'8000' samples per second; give its rate"),
        (np.full(9000, np.nan), None, "the recording: 9000 samples are not numbers"),
    ]:
        for one in both:
            with pytest.raises(AudioError, match=message):
                one(wrong, rate)


def test_the_command_and_the_file(exported, tmp_path, capsys):
    import onnx
    import soundfile

    content = exported.read_bytes()
    assert b"site-packages" not in content and b"File " not in content
    model = onnx.load(str(exported))
    keys = {prop.key for prop in model.metadata_props}
    assert {"espnet_adastride", "card"} <= keys
    wave = 0.1 * np.random.default_rng(5).standard_normal(16000)
    soundfile.write(tmp_path / "noise.wav", wave, 16000)
    words = ["--model", str(exported), "--format", "json", str(tmp_path / "noise.wav")]
    with pytest.raises(SystemExit) as done:
        transcribe.main(words)
    assert done.value.code == 0
    assert json.loads(capsys.readouterr().out)["duration"] == 1.0
    with pytest.raises(SystemExit, match="--stride cannot be used with"):
        transcribe.main([*words, "--stride", "6"])
