"""Exported models: descriptions, features, text and the command's refusals."""

import importlib.util
import json
import os
import subprocess
import sys
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from espnet_adastride.bin import export
from espnet_adastride.deployment.description import (
    KEY,
    frame_boundaries,
    output_names,
    pack_array,
    unpack_array,
)
from espnet_adastride.deployment.features import LogMel
from espnet_adastride.deployment.recogniser import OnnxModel, text_of_tokens
from espnet_adastride.errors import AudioError, UserError
from espnet_adastride.timing.boundaries import slot_boundaries

onnx_only = pytest.mark.skipif(
    any(importlib.util.find_spec(package) is None for package in export.NEEDED),
    reason="extra [export] is not installed: onnx, onnxscript, onnxruntime",
)


def test_arrays_travel_exactly():
    array = np.random.default_rng(0).standard_normal((7, 3)).astype("f")
    again = unpack_array(json.loads(json.dumps(pack_array(array))))
    assert again.dtype == np.float32 and np.array_equal(again, array)


@pytest.mark.parametrize("center", [True, False])
def test_log_mel_is_torchs(center):
    rng = np.random.default_rng(1)
    wave = rng.standard_normal(5000).astype("f")
    mel = rng.random((257, 20)).astype("f")
    window = torch.hann_window(400)
    content = {
        **{"n_fft": 512, "hop": 160, "center": center, "normalized": False},
        **{"log_base": None, "window": pack_array(window.numpy())},
        "mel": pack_array(mel),
    }
    power = torch.stft(
        torch.from_numpy(wave),
        *(512, 160, 400, window),
        center=center,
        return_complex=True,
    )
    expected = (power.abs().square().T @ torch.from_numpy(mel)).clamp(min=1e-10).log()
    np.testing.assert_allclose(LogMel(content)(wave), expected.numpy(), atol=1e-4)


def test_texts_by_hand():
    assert text_of_tokens(["A", "<space>", "B"], "char") == "A B"
    assert text_of_tokens(["good", "day"], "word") == "good day"
    assert text_of_tokens(["\u2581go", "od", "\u2581", "day"], "bpe") == "good day"
    umlaut = ["\u2581gr", "<0xC3>", "<0xBC>", "n"]
    assert text_of_tokens(umlaut, "bpe") == "gr\u00fcn"
    assert text_of_tokens([], "bpe") == ""


def test_boundaries_of_two_stages_by_hand():
    stages = [
        {"stride": 2, "shift": 0.0, "positions": False},
        {"stride": 2, "shift": 0.0, "positions": True},
    ]
    assert output_names(stages) == ["log_probs", "positions_2"]
    placed = np.array([0.0, 0.25, 1.0, 2.0])
    inner = slot_boundaries(placed, 4, 3)
    found = frame_boundaries(stages, [placed], 8, 3, 0.01, 0.005, 0.08)
    np.testing.assert_allclose(found, inner * 2 * 0.01)


@pytest.mark.parametrize(
    "words, message",
    [
        (["nowhere", "--output", "{0}/m.onnx"], "nowhere: no such file or folder"),
        (
            ["{0}/there.onnx", "--output", "{0}/m.onnx"],
            "only adastride transcribe reads",
        ),
        (["{0}/there.pt2", "--output", "{0}/m.onnx"], "is for your own programs"),
        (["{0}", "--output", "{0}/none/m.onnx"], "create it first"),
        (["{0}", "--output", "{0}/there.onnx"], "--overwrite true"),
        (["{0}", "--output", "{0}"], "a folder; name a file"),
        (
            ["{0}", "--output", "{0}/m.pt2"],
            "name a .onnx, which --format onnx writes; or give --format torch",
        ),
        (
            ["{0}", "--output", "{0}/m.onnx", "--format", "torch"],
            "name a .pt2, which --format torch writes",
        ),
        (
            ["{0}", "--output", "{0}/m.pt2", "--format", "torch", "--quantize", "int8"],
            "--quantize int8 is for --format onnx",
        ),
    ],
)
def test_wrong_options_end_in_one_line(words, message, tmp_path):
    for name in ("there.onnx", "there.pt2"):
        (tmp_path / name).touch()
    args = export.get_parser().parse_args([word.format(tmp_path) for word in words])
    with pytest.raises(UserError, match=message) as caught:
        export.check(args)
    assert "\n" not in str(caught.value)


def test_a_folder_without_permission_is_refused_first(tmp_path, monkeypatch):
    monkeypatch.setattr(os, "access", lambda *_: False)
    words = [str(tmp_path), "--output", f"{tmp_path}/m.onnx"]
    with pytest.raises(UserError, match="no permission to write"):
        export.check(export.get_parser().parse_args(words))


def test_a_missing_package_names_its_extra(tmp_path, monkeypatch):
    monkeypatch.setattr(export.importlib.util, "find_spec", lambda name: None)
    args = export.get_parser().parse_args([str(tmp_path), "--output", "m.onnx"])
    with pytest.raises(UserError, match=r"onnx is not installed.*\[export\]"):
        export.check(args)


def test_an_empty_recording_is_too_short():
    content = {"volume": 1.0, "frontend": {"least": 400}}
    model = SimpleNamespace(content=content, upstream=None, rate=8000)
    with pytest.raises(AudioError, match="too short for this model: 0 samples"):
        OnnxModel.features(model, np.zeros(0, dtype=np.float32))


@onnx_only
def test_other_files_are_refused(tmp_path):
    from onnx import TensorProto, helper, save_model

    broken = tmp_path / "broken.onnx"
    broken.write_bytes(b"no model")
    with pytest.raises(UserError, match="cannot be read as ONNX"):
        OnnxModel(broken)
    with pytest.raises(UserError, match="no such file; did you mean .*broken.onnx"):
        OnnxModel(tmp_path / "broke.onnx")
    one = helper.make_tensor_value_info("x", TensorProto.FLOAT, [1])
    two = helper.make_tensor_value_info("y", TensorProto.FLOAT, [1])
    node = helper.make_node("Identity", ["x"], ["y"])
    graph = helper.make_graph([node], "g", [one], [two])
    opset = [helper.make_opsetid("", 18)]
    model = helper.make_model(graph, opset_imports=opset, ir_version=9)
    save_model(model, str(tmp_path / "other.onnx"))
    with pytest.raises(UserError, match="not a file of this project"):
        OnnxModel(tmp_path / "other.onnx")

    described = {
        **{"version": 1, "tokens": ["A"], "token_type": "char", "space": " "},
        **{"blank": 0, "rate": 16000, "volume": None, "least_frames": 1},
        **{"stages": [], "lengths": None, "frontend": None, "upstream": {}},
    }
    for text, words in (
        ("{", "description is damaged .no JSON with a version"),
        ("[" * 200_000, "description is damaged .no JSON"),
        ("[1]", "description is damaged .no JSON"),
        (json.dumps({**described, "version": 9}), "version 9 of the format, but only"),
        (json.dumps({**described, "rate": "x"}), "description is damaged .rate"),
        (json.dumps({"version": 1}), "description is damaged .tokens, token_type"),
        (json.dumps(described), "damaged .frontend, upstream or stages"),
    ):
        helper.set_model_props(model, {KEY: text})
        save_model(model, str(tmp_path / "damaged.onnx"))
        with pytest.raises(UserError, match=words):
            OnnxModel(tmp_path / "damaged.onnx")


def test_reading_needs_no_torch_and_no_espnet():
    code = (
        "import sys, espnet_adastride.deployment.recogniser, "
        "espnet_adastride.bin.transcribe; "
        "print([m for m in ('torch', 'espnet2') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.stdout == "[]\n", done.stderr
