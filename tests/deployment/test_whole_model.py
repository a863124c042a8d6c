"""One whole packed model, exported: the texts and times of the way through ESPnet."""

import json
from pathlib import Path

import numpy as np
import pytest

for package in ("onnx", "onnxscript", "onnxruntime"):
    pytest.importorskip(package, reason="extra [export]")

from espnet_adastride.bin import export, transcribe  # noqa: E402
from espnet_adastride.deployment.recogniser import OnnxTranscriber  # noqa: E402

PACKED = Path(__file__).resolve().parents[1] / "data" / "202611_adastride.zip"


@pytest.fixture(scope="module")
def exported(tmp_path_factory):
    path = tmp_path_factory.mktemp("export") / "model.onnx"
    export.main([str(PACKED), "--output", str(path)])
    return path


def test_texts_and_times_are_those_of_espnet(exported):
    from espnet_adastride.transcribe import Transcriber

    theirs, ours = Transcriber(PACKED), OnnxTranscriber(exported)
    rng = np.random.default_rng(5)
    for samples in (4000, 16000, 23456, 40001):
        wave = 0.1 * rng.standard_normal(samples).astype("f")
        expected, found = (one.transcribe(wave, "noise") for one in (theirs, ours))
        assert found.text == expected.text
        for a, b in zip(found.segments, expected.segments):
            assert [t.text for t in a.tokens] == [t.text for t in b.tokens]
            for x, y in zip(a.tokens, b.tokens):
                assert abs(x.start - y.start) < 1e-3 and abs(x.end - y.end) < 1e-3
                assert abs(x.score - y.score) < 1e-3


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
