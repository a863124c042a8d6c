"""Gradient checkpointing runs a layer twice; losses, gradients and strides are of one.

``gradient_checkpoint_layers`` is an option of ESPnet's E-Branchformer: 0 is the input
layer, 1 ... the blocks, behind which stages of the input layer may be.
"""

import pytest
import torch

from espnet_adastride.plugin.model import input_layer
from tests.plugin.test_model import batch, build

CASES = {
    "plain": {"stride": 4},
    "told": {"stride": 4, "tell_strides": True, "true_times": True},
    "all rates": {"stride": 4, "train_strides": [3, 9]},
    "regularised": {"stride": 4, "method": ["lift_pool", "adastride_f"]},
    "learned": {"stride": 4, "method": ["diff_stride", "adastride"]},
    "later": {"stride": 8, "after_blocks": [0, 0, 1]},
    "later, all rates": {
        "stride": 8,
        "after_blocks": [0, 1, 2],
        "train_strides": [4, 12],
    },
    "restored": {"stride": [2, 4], "after_blocks": [0, 1], "restore": True},
    "restored, all rates": {
        "stride": [2, 4],
        "after_blocks": [0, 1],
        "restore": 2,
        "train_strides": [4, 12],
    },
}


def step(conf, layers, dropout=0.1):
    """Return a training step's loss, stats, gradients, and the model."""
    model = build(
        "e_branchformer",
        "adastride",
        input_layer_conf={"score_bound": None, **conf},
        gradient_checkpoint_layers=layers,
        dropout_rate=dropout,
        positional_dropout_rate=dropout,
    ).train()
    layer = input_layer(model)
    torch.manual_seed(6)
    for stage in layer.stages():
        if hasattr(stage, "score"):  # jumps above 1: the positioning loss speaks
            torch.nn.init.normal_(stage.score.weight, std=3.0)
    drawn, spread = [], layer._spread

    def counted(stride):
        drawn.append(stride)
        return spread(stride)

    layer._spread = counted
    data = batch()
    torch.manual_seed(7)
    loss, stats, _ = model(**data)
    before = torch.get_rng_state()
    loss.backward()
    assert torch.equal(torch.get_rng_state(), before)
    grads = {name: p.grad for name, p in model.named_parameters()}
    return loss, stats, grads, drawn, layer


@pytest.mark.parametrize("layers", [[0], [1], [0, 1, 2]])
@pytest.mark.parametrize("name", CASES)
def test_twice_is_once(name, layers):
    conf = CASES[name]
    loss, stats, grads, drawn, _ = step(conf, [])
    again, its_stats, its_grads, its_drawn, layer = step(conf, layers)
    torch.testing.assert_close(again, loss, atol=1e-6, rtol=1e-6)
    assert its_stats.keys() == stats.keys()
    assert {"loss_vp"} <= stats.keys() and stats["loss_vp"] > 0
    if name == "regularised":
        assert stats["loss_aux"] > 0
    for key in ("loss_vp", "loss_aux", "stride_entropy"):
        if key in stats:
            torch.testing.assert_close(its_stats[key], stats[key], atol=1e-6, rtol=1e-6)
    for key, grad in grads.items():
        assert grad is not None and its_grads[key] is not None, key
        torch.testing.assert_close(its_grads[key], grad, atol=1e-6, rtol=1e-5)
    # one stride for the batch, whether or not the layer ran again
    assert len(set(drawn)) == len(set(its_drawn)) == ("train_strides" in conf)
    assert set(drawn) == set(its_drawn)
    assert len(its_drawn) == len(drawn) * (1 + (0 in layers))


def test_what_runs_again_leaves_nothing_behind():
    """No trace, which would keep the layer's activations until the next batch."""
    for name in ("plain", "later", "restored"):
        *_, layer = step(CASES[name], [0, 1, 2])
        assert layer.take_trace() == () and layer.later.lowest is None


def test_traces_are_those_of_one_run():
    model = build(
        "e_branchformer",
        "adastride",
        input_layer_conf=CASES["later"],
        gradient_checkpoint_layers=[0, 1, 2],
    ).train()
    data = batch()
    model.encode(data["speech"], data["speech_lengths"])
    trace = input_layer(model).take_trace()
    # 101 and 57 feature frames; three stages of 2
    lengths = [stage.output_lengths.tolist() for stage in trace]
    assert lengths == [[51, 29], [26, 15], [13, 8]]


def test_activations_of_the_input_layer_are_not_kept():
    """What checkpointing is for: the numbers saved for the backward."""

    def saved(layers):
        model = build(
            "e_branchformer",
            "adastride",
            input_layer_conf={"stride": 4, "trunk": "conv2d"},
            gradient_checkpoint_layers=layers,
        ).train()
        data, count = batch(), [0]

        def pack(tensor):
            count[0] += tensor.numel()
            return tensor

        with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
            model.encode(data["speech"], data["speech_lengths"])
        return count[0]

    # the trunk's outputs alone: 16 channels, 2 utterances of 101 frames, 19 bins, and
    # of 51 frames, 9 bins
    assert saved([]) - saved([0]) > 2 * 16 * (101 * 19 + 51 * 9)
