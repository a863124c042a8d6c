"""What `adastride export` computes is ESPnet's; what it cannot have is refused."""

import pytest
import torch

from espnet_adastride.downsampling.exportable import export_program
from espnet_adastride.errors import ConfigurationError
from espnet_adastride.plugin.exporting import LEAST_FRAMES, CTCProgram
from tests.plugin.test_model import ENCODERS, build

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
    "conf, named",
    [
        ({"true_times": True}, "true_times"),
        ({"tell_strides": True}, "tell_strides"),
        ({"after_blocks": [0, 1]}, "after_blocks"),
        ({"block": 0.5}, "block"),
        ({"method": "hnet", "exact": False}, "exact: false"),
    ],
)
def test_options_that_cannot_be_exported_are_named(conf, named):
    model = built(input_layer_conf=conf)
    with pytest.raises(ConfigurationError, match=named) as caught:
        CTCProgram(model)
    assert "\n" not in str(caught.value)


def test_attention_alone_cannot_be_exported():
    model = built(model={"ctc_weight": 0.0})
    with pytest.raises(ConfigurationError, match="ctc_weight above 0"):
        CTCProgram(model)


def test_streaming_encoders_cannot_be_exported():
    conf = {"stride": 4, "block": 0.5}
    model = built("contextual_block_transformer", input_layer_conf=conf, linear_units=8)
    with pytest.raises(ConfigurationError, match="those that can: conformer"):
        CTCProgram(model)
