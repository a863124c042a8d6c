"""What `adastride export` computes is ESPnet's; what it cannot have is refused."""

import math
import tarfile
import zipfile

import pytest
import torch

from espnet_adastride.downsampling.exportable import export_program
from espnet_adastride.errors import ConfigurationError
from espnet_adastride.plugin.exporting import (
    LEAST_FRAMES,
    CTCProgram,
    _stages,
    export,
    find_card,
    least_frames,
)
from tests.plugin.test_model import ENCODERS, build
from tiny_models import TOKENS, make_experiment

SIZE = 40  # mel bins of build()


def espnets(model, features):
    """Return (1, T', V) log probabilities through ESPnet's own forward."""
    with torch.no_grad():
        lengths = torch.tensor([features.size(1)])
        given, lengths = model.normalize(features.clone(), lengths)
        frames = model.encoder(given, lengths)[0]
        frames = frames[0] if isinstance(frames, tuple) else frames
        return model.ctc.log_softmax(frames)


def built(*args, **conf):
    return build(*args, **conf).eval()


@pytest.mark.parametrize("input_layer", ["conv2d", "adastride"])
@pytest.mark.parametrize("encoder", ENCODERS)
def test_every_encoder_gives_what_espnet_gives(encoder, input_layer):
    model = built(encoder, input_layer)
    program = export_program(
        CTCProgram(model).eval(), torch.randn(1, 211, SIZE), LEAST_FRAMES
    ).module()
    for steps in (17, 64, 399):
        features = torch.randn(1, steps, SIZE).cumsum(1)
        found = program(features)[0]
        torch.testing.assert_close(found, espnets(model, features), atol=1e-4, rtol=0)


@pytest.mark.parametrize(
    "input_layer, least",
    [("conv2d1", 7), ("conv2d2", 7), ("conv2d6", 11), ("conv2d8", 15)],
)
def test_the_shortest_utterance_of_espnets_other_layers(input_layer, least):
    model = built("transformer", input_layer)
    assert least_frames(model.encoder.embed) == least
    program = CTCProgram(model).eval()
    exported = export_program(program, torch.randn(1, 211, SIZE), least).module()
    for steps in (least + 8, 64):  # of at least two output frames
        features = torch.randn(1, steps, SIZE).cumsum(1)
        found, expected = exported(features)[0], espnets(model, features)
        torch.testing.assert_close(found, expected, atol=1e-4, rtol=0)


TOLD = {"tell_strides": True, "true_times": True}


@pytest.mark.parametrize(
    "encoder, conf",
    [
        ("conformer", {"stride": 4, **TOLD}),
        ("branchformer", {"stride": 2.7, "true_times": True}),
        ("e_branchformer", {"stride": 4, "tell_strides": True, "method": "avg_pool"}),
        ("conformer", {"stride": 4, **TOLD, "method": "strided_conv"}),
    ],
)
def test_told_strides_and_true_times_give_what_espnet_gives(encoder, conf):
    model = built(encoder, input_layer_conf=conf)
    move(model)
    if conf.get("tell_strides"):
        torch.nn.init.normal_(model.encoder.embed.stride_vector)
    program = CTCProgram(model).eval()
    exported = export_program(program, torch.randn(1, 211, SIZE), LEAST_FRAMES)
    for steps in (7, 64, 399):
        features = torch.randn(1, steps, SIZE).cumsum(1)
        found, expected = exported.module()(features)[0], espnets(model, features)
        torch.testing.assert_close(found, expected, atol=1e-3, rtol=0)
    model.to(torch.float64)
    features = torch.randn(1, 150, SIZE, dtype=torch.float64).cumsum(1)
    with torch.no_grad():
        found = program(features)[0]
    torch.testing.assert_close(found, espnets(model, features), atol=1e-6, rtol=0)


BETWEEN = {"stride": 4, "after_blocks": [0, 1]}


RESTORED = {**BETWEEN, "restore": True}


# blocks give frames with or without their places: conformer, transformer
@pytest.mark.parametrize(
    "encoder, conf",
    [
        *((encoder, RESTORED) for encoder in ENCODERS),
        *(
            (encoder, conf)
            for encoder in ("conformer", "transformer")
            for conf in (
                BETWEEN,
                {"stride": 8, "after_blocks": [0, 1, 1], "restore": 2, "method": "cif"},
                {**RESTORED, "score_from_ctc": True},
            )
        ),
    ],
)
def test_stages_after_blocks_give_what_espnet_gives(encoder, conf):
    more = {"num_blocks": 3}
    if "score_from_ctc" in conf:
        more.update(interctc_layer_idx=[1], model={"interctc_weight": 0.3})
    model = built(encoder, input_layer_conf=conf, **more)
    move(model)
    program = CTCProgram(model).eval()
    exported = export_program(program, torch.randn(1, 211, SIZE), LEAST_FRAMES)
    for steps in (17, 64, 399):
        features = torch.randn(1, steps, SIZE).cumsum(1)
        found, *positions = exported.module()(features)
        expected = espnets(model, features)
        # rounding moves positions: in float64 there is no such difference
        torch.testing.assert_close(found, expected, atol=1e-3, rtol=0)
        stages = _stages(model.encoder.embed)
        assert len(positions) == sum(stage["positions"] for stage in stages)
        n, rest = steps, iter(positions)
        for stage in stages:
            assert next(rest).shape == (1, n)
            n = math.ceil(n / stage["stride"])
        assert n == found.size(1)
    model.to(torch.float64)
    features = torch.randn(1, 150, SIZE, dtype=torch.float64).cumsum(1)
    with torch.no_grad():
        found = program(features)[0]
    torch.testing.assert_close(found, espnets(model, features), atol=1e-6, rtol=0)


@pytest.mark.parametrize(
    "conf",
    [
        {"after_blocks": [0, 1]},
        {"after_blocks": [0, 1], "restore": True},
        {"true_times": True},
    ],
)
def test_a_learned_stride_is_a_number_of_the_program(conf):
    conf = {"stride": [2, 2], "method": "diff_stride", **conf}
    model = built("conformer", input_layer_conf=conf)
    with torch.no_grad():
        for stage, change in zip(model.encoder.embed.stages(), (0.3, -0.4)):
            stage.stride_change.fill_(change)
    program = CTCProgram(model).eval()
    exported = export_program(program, torch.randn(1, 211, SIZE), LEAST_FRAMES).module()
    for steps in (7, 64, 399):
        features = torch.randn(1, steps, SIZE).cumsum(1)
        found, expected = exported(features)[0], espnets(model, features)
        torch.testing.assert_close(found, expected, atol=1e-3, rtol=0)


def move(model):
    """Move scores and bypasses away from their start, where strides are even."""
    torch.manual_seed(7)
    with torch.no_grad():
        for name, parameter in model.encoder.embed.named_parameters():
            if "score" in name or "weigh" in name or "bypass" in name:
                parameter += 0.3 * torch.randn_like(parameter)


@pytest.mark.parametrize(
    "conf, named",
    [
        ({"block": 0.5}, "block"),
        ({"method": "hnet", "exact": False}, "exact: false"),
        (
            {"method": ["adastride", "hnet"], "exact": False, "after_blocks": [0, 1]},
            "exact: false",
        ),
    ],
)
def test_options_that_cannot_be_exported_are_named(conf, named):
    model = built(input_layer_conf=conf)
    with pytest.raises(ConfigurationError, match=named) as caught:
        CTCProgram(model)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("stride", [2.7, 32])
def test_a_program_of_pytorch_is_written_and_compared(stride, tmp_path):
    """At 32x a program takes more than 32 frames, two output frames."""
    conf = {"stride": stride, "channels": 4, "trunk": "conv1d"}
    exp = make_experiment(tmp_path / "exp", conf=conf)
    line = export(exp, tmp_path / "model.pt2", format="torch")
    assert "within" in line
    program = torch.export.load(tmp_path / "model.pt2").module()
    features = torch.randn(1, 100, 20)
    found, *_ = program(features)
    assert found.shape == (1, math.ceil(100 / stride), len(TOKENS))


def test_the_card_of_every_kind_of_model(tmp_path):
    card = tmp_path / "README.md"
    card.write_bytes(b"caf\xe9")
    (tmp_path / "valid.acc.ave.pth").touch()
    with tarfile.open(tmp_path / "model.tgz", "w:gz") as archive:
        archive.add(card, "README.md")
    with zipfile.ZipFile(tmp_path / "model.zip", "w") as archive:
        archive.write(card, "README.md")
    for name in ("", "valid.acc.ave.pth", "model.tgz", "model.zip"):
        assert find_card(tmp_path / name) == "caf\ufffd"
    card.unlink()
    assert find_card(tmp_path) == ""


def test_attention_alone_cannot_be_exported():
    model = built(model={"ctc_weight": 0.0})
    with pytest.raises(ConfigurationError, match="ctc_weight above 0"):
        CTCProgram(model)


def test_streaming_encoders_cannot_be_exported():
    conf = {"stride": 4, "block": 0.5}
    model = built("contextual_block_transformer", input_layer_conf=conf, linear_units=8)
    with pytest.raises(ConfigurationError, match="those that can: conformer"):
        CTCProgram(model)
