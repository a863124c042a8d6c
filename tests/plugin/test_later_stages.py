"""Stages behind blocks of the encoder: lengths, masks, losses, and refusals."""

import copy

import pytest
import torch

from espnet_adastride.errors import ConfigurationError
from espnet_adastride.plugin.encoders import (
    BranchformerEncoder,
    ConformerEncoder,
    EBranchformerEncoder,
    TransformerEncoder,
)
from espnet_adastride.plugin.subsampling import AdaptiveSubsampling

ENCODERS = [
    ConformerEncoder,
    EBranchformerEncoder,
    BranchformerEncoder,
    TransformerEncoder,
]


def encoder(kind=ConformerEncoder, method="adastride", **conf):
    torch.manual_seed(0)
    conf = {"stride": 8, "channels": 8, "after_blocks": [0, 0, 2], **conf}
    options = {"output_size": 16, "attention_heads": 2, "num_blocks": 3}
    if kind is ConformerEncoder:
        options["rel_pos_type"] = "latest"
        options["cnn_module_kernel"] = 3
    return kind(40, input_layer=method, input_layer_conf=conf, **options).eval()


def batch():
    torch.manual_seed(3)
    return torch.randn(2, 70, 40), torch.tensor([70, 41])


@pytest.mark.parametrize("method", ["adastride", "avg_pool", "strided_conv"])
@pytest.mark.parametrize("kind", ENCODERS)
def test_blocks_see_their_lengths(kind, method):
    model = encoder(kind, method)
    seen = []
    for block in model.encoders:
        block.register_forward_pre_hook(
            lambda module, inputs: seen.append(
                (
                    (inputs[0][0] if isinstance(inputs[0], tuple) else inputs[0]).size(
                        1
                    ),
                    inputs[1].sum(dim=2).flatten().tolist(),
                )
            )
        )
    x, lengths = batch()
    output, frames, _ = model(x, lengths)
    assert seen == [(18, [18, 11]), (18, [18, 11]), (9, [9, 6])]
    assert output.shape == (2, 9, 16) and frames.tolist() == [9, 6]
    assert model.embed.output_lengths(lengths).tolist() == [9, 6]


def test_average_by_hand():
    # behind the last block the stage is all that happens before the final norm
    plain = encoder(method="avg_pool", stride=4, after_blocks=None)
    later = encoder(method="avg_pool", after_blocks=[0, 0, 3])
    later.load_state_dict(plain.state_dict())  # avg_pool has no parameters
    x, lengths = batch()
    inside = []
    plain.encoders[2].register_forward_hook(lambda m, i, o: inside.append(o[0][0]))
    with torch.no_grad():
        plain(x[:1], lengths[:1])
        output, frames, _ = later(x[:1], lengths[:1])
    pairs = inside[0].view(1, 9, 2, 16).mean(dim=2)
    assert frames.tolist() == [9]
    torch.testing.assert_close(output, later.after_norm(pairs))


def test_its_losses_and_strides_are_the_layers():
    model = encoder()
    with torch.no_grad():
        model.embed.later[0].downsampler.score.weight.normal_()
        model(*batch())
    trace = model.embed.take_trace()
    assert [stage.output_lengths.tolist() for stage in trace] == [
        [35, 21],
        [18, 11],
        [9, 6],
    ]
    assert all(stage.aux_loss is not None for stage in trace)
    assert model.embed.take_trace() == ()
    assert model.embed.current_strides() == [2, 2, 2]


def test_gradients_reach_its_scores():
    model = encoder().train()
    model(*batch())[0].square().sum().backward()
    assert model.embed.later[0].downsampler.score.weight.grad.abs().max() > 0


def test_a_copy_shortens_with_its_own_stage():
    model = encoder()
    twin = copy.deepcopy(model)
    with torch.no_grad():
        model.embed.later[0].downsampler.score.weight.normal_()
        twin(*batch())
    assert model.embed.take_trace() == ()
    positions = twin.embed.take_trace()[2].positions[0]
    torch.testing.assert_close(positions, torch.linspace(0, 8, 18).double())


@pytest.mark.parametrize(
    "conf, words",
    [
        ({"after_blocks": [0, 2], "stride": [2, 2, 2]}, "list of 3 whole numbers"),
        ({"after_blocks": [0, 0, 1, 2]}, "list of 3 whole numbers"),
        ({"after_blocks": 2}, "list of 3 whole numbers"),
        ({"after_blocks": [0, 0, 1.5]}, "list of 3 whole numbers"),
        (
            {"after_blocks": [0, 2], "stride": 7.5},
            r"list of 1 whole number, .*\[0, 2\]; for 2 stages, give stride as a list",
        ),
        ({"after_blocks": [1, 2, 3]}, "must begin with 0"),
        ({"after_blocks": [0, 2, 1]}, "not decrease"),
        ({"after_blocks": [0, 0, 4]}, "names block 4 and the encoder has 3"),
        ({"tell_strides": True}, "cannot be combined with"),
    ],
)
def test_refusals(conf, words):
    with pytest.raises(ConfigurationError, match=words) as caught:
        encoder(**conf)
    assert "\n" not in str(caught.value)


def test_a_layer_of_its_own_is_unchanged():
    torch.manual_seed(0)
    plain = AdaptiveSubsampling(40, 16, stride=4)
    torch.manual_seed(0)
    zeros = AdaptiveSubsampling(40, 16, stride=4, after_blocks=[0, 0])
    assert plain.state_dict().keys() == zeros.state_dict().keys()
    for one, other in zip(plain.parameters(), zeros.parameters()):
        assert torch.equal(one, other)
