"""Models trained under ESPnet 202511 and 202611 are the same under either.

tests/data holds four tiny packed models that read tones, two of each release, ESPnet's
``conv2d`` and ``adastride``, and what they made of two recordings where they were
trained; tests/release_models.py wrote them.
"""

import json
import re
import zipfile

import numpy as np
import pytest
import soundfile
import torch
import yaml

from espnet_adastride.bin import asr_inference_ctc, unpack_model
from espnet_adastride.errors import ModelError
from espnet_adastride.plugin import espnet
from espnet_adastride.plugin.encoders import ConformerEncoder, EBranchformerEncoder
from espnet_adastride.transcribe import Transcriber
from tests.plugin.releases import NEWER
from tests.plugin.test_model import batch, build
from tests.release_models import DATA, SAID, tones

MODELS = ["202511_adastride", "202511_conv2d", "202611_adastride", "202611_conv2d"]


@pytest.mark.parametrize("name", MODELS)
def test_a_packed_model_hears_what_it_heard(name):
    archive = DATA / f"{name}.zip"
    assert archive.stat().st_size < 200_000
    expected = json.loads(archive.with_suffix(".json").read_text())
    assert name.startswith(expected["release"])
    model = Transcriber(archive)
    for seed, (said, then) in enumerate(zip(SAID, expected["heard"], strict=True), 7):
        wave = tones(said, seed)
        result = model(wave)
        assert result.text == then["text"] == said
        for word, (text, start, end) in zip(result.words, then["words"], strict=True):
            assert word.text == text
            np.testing.assert_allclose(word[1:3], [start, end], atol=1e-3)
        best = model.trained.encode(wave).log_probs.max(dim=1).values
        np.testing.assert_allclose(best, then["best"], atol=2e-3)


@pytest.mark.parametrize("name", MODELS)
def test_espnets_own_loading_gives_the_same(name, tmp_path):
    """build_model_from_file and Speech2Text: what ESPnet's commands use."""
    unpack_model.main([str(DATA / f"{name}.zip"), str(tmp_path / "model")])
    meta = yaml.safe_load((tmp_path / "model" / "meta.yaml").read_text())
    config = tmp_path / "model" / meta["yaml_files"]["asr_train_config"]
    weights = tmp_path / "model" / meta["files"]["asr_model_file"]
    model, _ = espnet.asr_task.ASRTask.build_model_from_file(config, weights, "cpu")
    packed = Transcriber(DATA / f"{name}.zip").trained.model
    assert model.state_dict().keys() == packed.state_dict().keys()
    for key, value in packed.state_dict().items():
        assert torch.equal(model.state_dict()[key], value), key
    search = espnet.Speech2Text(config, weights, beam_size=4, ctc_weight=0.5)
    for seed, said in enumerate(SAID, 7):
        assert search(tones(said, seed))[0][0] == said


def test_greedy_decoding_of_the_other_releases_model(tmp_path):
    other = "202511" if NEWER else "202611"
    unpack_model.main([str(DATA / f"{other}_conv2d.zip"), str(tmp_path / "model")])
    soundfile.write(tmp_path / "a.wav", tones(SAID[0], 7), 8000, subtype="FLOAT")
    (tmp_path / "wav.scp").write_text(f"a {tmp_path / 'a.wav'}\n")
    folder = tmp_path / "model" / "asr_conv2d"
    asr_inference_ctc.main(
        ["--asr_train_config", str(folder / "config.yaml"), "--num_workers", "0"]
        + ["--asr_model_file", str(folder / "valid.loss_ctc.ave.pth")]
        + ["--data_path_and_name_and_type", f"{tmp_path}/wav.scp,speech,sound"]
        + ["--output_dir", str(tmp_path / "out")]
    )
    text = (tmp_path / "out" / "1best_recog" / "text").read_text()
    assert text == f"a {SAID[0]}\n"


# ------------------------------------------------------------------ names of parameters
def renamed(state, new):
    """Name an input layer's parameters as 202611 does, or (``new`` False) as 202511."""
    result = {}
    for key, value in state.items():
        head, layer, end = key.rpartition("embed.")
        if layer:
            end = re.sub(r"^out\.(weight|bias)$", r"out.0.\1", end)
            end = re.sub(r"^pos_enc\.", "out.1.", end)
        if layer and new:
            end = re.sub(r"^out\.0\.", "out.", end)
            end = re.sub(r"^out\.1\.", "pos_enc.", end)
        result[head + layer + end] = value
    return result


def test_the_names_are_as_it_is_said():
    """What the two releases call the end of conv2d; conv2d8 was the newer one early."""
    keys = build("transformer", "conv2d").encoder.embed.state_dict()
    assert ("out.weight" in keys) == NEWER and ("out.0.weight" in keys) != NEWER
    assert "out.weight" in build("transformer", "conv2d8").encoder.embed.state_dict()
    # this layer's are the same under both
    assert "out.0.weight" in build().encoder.embed.state_dict()


WORDS = ["conv2d", "conv2d1", "conv2d2", "conv2d6", "adastride"]


@pytest.mark.parametrize("word", WORDS)
@pytest.mark.parametrize("new", [True, False], ids=["202611", "202511"])
@pytest.mark.parametrize("strict", [True, False])
def test_states_of_either_release_load(word, new, strict):
    options = {"pos_enc_layer_type": "scaled_abs_pos"}  # has a parameter of its own
    options.update(selfattention_layer_type="selfattn", rel_pos_type="latest")
    source = build("conformer", word, **options)
    state = renamed(source.state_dict(), new)
    ends = ("out.weight", "pos_enc.alpha") if new else ("out.0.weight", "out.1.alpha")
    assert {f"encoder.embed.{end}" for end in ends} <= state.keys()
    torch.manual_seed(99)
    target = build("conformer", word, **options)
    for parameter in target.parameters():
        parameter.data.normal_()
    target.load_state_dict(state, strict=strict)
    for key, value in source.state_dict().items():
        assert torch.equal(target.state_dict()[key], value), key
    # the state that was given is as it was
    assert {f"encoder.embed.{end}" for end in ends} <= state.keys()


@pytest.mark.parametrize("word", ["conv1d1", "conv1d2", "conv1d3", "conv2d8"])
def test_other_layers_of_either_release_load(word):
    source = EBranchformerEncoder(40, 16, input_layer=word, attention_heads=2)
    target = EBranchformerEncoder(40, 16, input_layer=word, attention_heads=2)
    for new in (True, False):
        if word == "conv2d8":
            new = True  # so named in both
        for parameter in target.parameters():
            parameter.data.zero_()
        target.load_state_dict(renamed(source.state_dict(), new))
        for one, other in zip(target.parameters(), source.parameters()):
            assert torch.equal(one, other)


@pytest.mark.parametrize("new", [True, False], ids=["202611", "202511"])
def test_a_conv2d_initialises_the_trunk_of_either_release(new, tmp_path):
    """``--init_param CHECKPOINT:encoder.embed:encoder.embed``."""
    from espnet2.torch_utils.load_pretrained_model import load_pretrained_model

    stock = build("conformer", "conv2d")
    layer = {"method": "strided_conv", "trunk": "conv2d"}
    ours = build("conformer", "adastride", input_layer_conf=layer)
    state = renamed(stock.state_dict(), new)
    for old, its in (("conv.0.", "conv.0.conv."), ("conv.2.", "conv.1.conv.")):
        state = {k.replace(f"embed.{old}", f"embed.{its}"): v for k, v in state.items()}
    torch.save(state, tmp_path / "stock.pth")
    load_pretrained_model(
        f"{tmp_path}/stock.pth:encoder.embed:encoder.embed",
        ours,
        ignore_init_mismatch=False,
    )
    expected = renamed(stock.state_dict(), False)["encoder.embed.out.0.weight"]
    assert torch.equal(ours.encoder.embed.out[0].weight, expected)


def test_what_is_missing_is_still_refused_under_every_name():
    for new in (True, False):
        model = build("conformer", "conv2d")
        state = renamed(model.state_dict(), new)
        del state["encoder.embed.out.bias" if new else "encoder.embed.out.0.bias"]
        with pytest.raises(ModelError, match="missing: encoder.embed.out"):
            model.load_state_dict(state, strict=False)
        wide = dict(state)
        end = "out" if new else "out.0"
        wide[f"encoder.embed.{end}.bias"] = torch.zeros(3)
        with pytest.raises(ModelError, match="bias"):
            model.load_state_dict(wide, strict=False)


# ------------------------------------------------------------------ options
@pytest.mark.skipif(NEWER, reason="202611 knows use_sdpa")
def test_fused_attention_of_202611_is_left_out_under_202511():
    """It changes no result and has no parameters."""
    conf = {"output_size": 16, "attention_heads": 2, "num_blocks": 1}
    ConformerEncoder(40, input_layer="conv2d", use_sdpa=True, **conf)
    ConformerEncoder(40, input_layer="adastride", use_sdpa=False, **conf)


@pytest.mark.skipif(not NEWER, reason="202511 knows init: chainer")
def test_an_initialization_that_is_gone_stops_trainings_alone():
    config = yaml.safe_load(_config(DATA / "202511_conv2d.zip", "asr_conv2d"))
    assert config["init"] == "chainer"  # and it is transcribed with, above
    with pytest.raises(ValueError, match="chainer"):
        build_with(init="chainer")


def build_with(**options):
    from tests.plugin.test_model import configuration

    args = configuration()
    for name, value in options.items():
        setattr(args, name, value)
    return espnet.asr_task.ASRTask.build_model(args)


def _config(archive, folder):
    with zipfile.ZipFile(archive) as file:
        return file.read(f"{folder}/config.yaml").decode()


def test_one_step_of_training_continues_a_model_of_the_other_release():
    name = "202511_conv2d" if NEWER else "202611_conv2d"
    model = Transcriber(DATA / f"{name}.zip").trained.model.train()
    data = {k: v for k, v in batch().items()}
    data["text"] = data["text"].clamp(max=5)
    loss, stats, _ = model(**data)
    loss.backward()
    assert loss.isfinite() and stats["loss_ctc"].isfinite()


def test_options_that_202511_does_not_know_are_left_out(tmp_path):
    """ESPnet3 writes all defaults down, those of 202611 too."""
    unpack_model.main([str(DATA / "202611_adastride.zip"), str(tmp_path / "model")])
    path = tmp_path / "model" / "asr_adastride" / "config.yaml"
    config = yaml.safe_load(path.read_text())
    config["encoder_conf"]["use_sdpa"] = False
    config["decoder_conf"]["use_sdpa"] = False
    config["preprocessor_conf"]["text_length_warning_thres"] = 500
    path.write_text(yaml.safe_dump(config))
    weights = path.with_name("valid.loss_ctc.ave.pth")
    for options in (None, {"beam_size": 2, "ctc_weight": 0.7}):
        packed, other = (
            Transcriber(model, inference_config=options)(tones(SAID[0], 7))
            for model in (DATA / "202611_adastride.zip", weights)
        )
        assert other.text == packed.text and other.words == packed.words
