"""cif: answers by hand, the published firing loop, precision, cost."""

import math

import numpy as np
import pytest
import torch

from espnet_adastride import build_downsampler
from espnet_adastride.downsampling.cif import cumulate


def reading_first_feature(stride, bias=0.0, **conf):
    """A layer over two features whose logit is relu of the first, plus a bias."""
    layer = build_downsampler("cif", 2, stride, kernel_size=1, **conf)
    with torch.no_grad():
        layer.filter.weight.copy_(torch.tensor([[[1.0]], [[0.0]]]))
        layer.filter.bias.zero_()
        layer.weigh.weight.copy_(torch.tensor([[1.0, 0.0]]))
        layer.weigh.bias.fill_(bias)
    return layer


def learned(size, stride, dtype=torch.float32, **conf):
    layer = build_downsampler("cif", size, stride, **conf).to(dtype)
    torch.nn.init.normal_(layer.weigh.weight)
    return layer


def firing_loop(x, weights, m):
    """CIF as published: integrate, and fire at every whole number."""
    frames, level, frame = [], 0.0, np.zeros(x.shape[1])
    for step, weight in zip(x, weights * (m / weights.sum())):
        while level + weight >= 1.0 and len(frames) < m - 1:
            part = 1.0 - level
            frames.append(frame + part * step)
            weight, level, frame = weight - part, 0.0, np.zeros(x.shape[1])
        level, frame = level + weight, frame + weight * step
    return np.array([*frames, frame])


def test_by_hand():
    # weights 1/2, 3/4, 3/4: as they are for two frames, halved for one
    x = torch.tensor([[[0.0, 4.0], [math.log(3), 8.0], [math.log(3), -6.0]]])
    lengths = torch.tensor([3])
    two = reading_first_feature(1.5)(x, lengths)
    torch.testing.assert_close(two.output[0, :, 1], torch.tensor([6.0, -2.5]))
    np.testing.assert_allclose(two.positions.detach()[0], [0.0, 0.375, 1.0], atol=1e-6)
    one = reading_first_feature(3)(x, lengths)
    torch.testing.assert_close(one.output[0, :, 1], torch.tensor([1.75]))
    assert two.aux_loss is None


def test_the_sigmoid_saturates():
    # logits 20 and 40 are both a weight of 1, unlike exp(20) and exp(40)
    x = torch.tensor([[[20.0, 1.0], [40.0, 5.0]]])
    out = reading_first_feature(2)(x, torch.tensor([2])).output
    torch.testing.assert_close(out[0, :, 1], torch.tensor([3.0]))


def test_starts_at_uniform_strides():
    layer, x = build_downsampler("cif", 4, 2.5), torch.randn(1, 20, 4)
    out = layer(x, torch.tensor([20]))
    halves = x.repeat_interleave(2, dim=1).view(1, 8, 5, 4).mean(dim=2)
    torch.testing.assert_close(out.output, halves)
    pooled = build_downsampler("avg_pool", 4, 4)(x, torch.tensor([20])).output
    layer = build_downsampler("cif", 4, 4)
    torch.testing.assert_close(layer(x, torch.tensor([20])).output, pooled)


@pytest.mark.parametrize("kernel_size", [1, 3, 5])
@pytest.mark.parametrize("stride", [1, 1.3, 2, 7.5, 100])
def test_equals_the_published_loop(stride, kernel_size):
    layer = learned(3, stride, torch.float64, kernel_size=kernel_size)
    x, n = torch.randn(1, 57, 3, dtype=torch.float64), 57
    out = layer(x, torch.tensor([n]))
    with torch.no_grad():
        weights = torch.nn.functional.conv1d(
            x.transpose(1, 2),
            layer.filter.weight,
            layer.filter.bias,
            padding=kernel_size // 2,
            groups=3,
        )
        weights = torch.sigmoid(layer.weigh(weights.relu().transpose(1, 2)))[0, :, 0]
    expected = firing_loop(x[0].numpy(), weights.numpy(), math.ceil(n / stride))
    np.testing.assert_allclose(out.output[0].detach(), expected, atol=1e-12)


def test_weights_stay_finite_where_every_sigmoid_is_zero():
    logits = torch.tensor([[0.0, math.log(3), 2e3]], dtype=torch.float64) - 1e3
    found = cumulate(logits, torch.tensor([2]), torch.tensor([2]))
    np.testing.assert_allclose(found[0], [0.5, 2.0, 2.0], atol=1e-9)


def test_counts_are_kept_over_long_utterances_in_half_precision():
    """A float32 sum of 200,000 weights is off by frames."""
    layer, n = reading_first_feature(1.7), 200_000
    x = torch.randn(1, n, 2, dtype=torch.bfloat16)
    with torch.autocast("cpu", dtype=torch.bfloat16), torch.no_grad():
        out = layer(x, torch.tensor([n]))
    exact = reading_first_feature(1.7).double()(x.double(), torch.tensor([n]))
    assert out.lengths.tolist() == [math.ceil(n / 1.7)]
    assert (out.positions.diff() >= 0).all()
    assert (out.positions - exact.positions).abs().max() < 1e-3
    torch.testing.assert_close(out.output.double(), exact.output, atol=0.03, rtol=0.01)


def test_gradients_reach_the_scores_through_positions_and_output():
    layer = learned(3, 2, torch.float64)
    x = torch.randn(1, 12, 3, dtype=torch.float64)
    out = layer(x, torch.tensor([12]))
    out.positions.square().sum().backward()
    assert layer.weigh.weight.grad.abs().min() > 0
    with pytest.raises(RuntimeError, match="second-order"):
        torch.autograd.grad(
            layer(x, torch.tensor([12])).output.square().sum(),
            layer.weigh.weight,
            create_graph=True,
        )


def test_upsampling_shares_frames_out_as_they_were_gathered():
    layer = build_downsampler("cif", 2, 2.5)  # even weights of 0.4
    out = layer(torch.randn(1, 10, 2), torch.tensor([10]))
    z = torch.tensor([[[1.0], [2.0], [3.0], [4.0]]])
    found = layer.upsample(z, torch.tensor([9]), 10, out.positions)
    assert found[0, 9] == 0
    found = layer.upsample(z, torch.tensor([10]), 10, out.positions)
    # the third step is half of the first frame, half of the second
    expected = [1, 1, 1.5, 2, 2, 3, 3, 3.5, 4, 4]
    torch.testing.assert_close(found[0, :, 0], torch.tensor(expected))
    summed = layer.upsample(z, torch.tensor([10]), 10, out.positions, normalised=False)
    torch.testing.assert_close(summed[0, 2:8], 0.4 * found[0, 2:8])
    with pytest.raises(ValueError, match="needs the positions"):
        layer.upsample(z, torch.tensor([10]), 10)


def test_never_waits_for_a_gpu(host_waits):
    layer = learned(4, 2)
    x = torch.randn(2, 30, 4, requires_grad=True)
    with host_waits:
        layer(x, torch.tensor([30, 13])).output.square().sum().backward()
    assert not host_waits.scalars and not host_waits.lists


def test_entries_are_linear_in_length():
    for steps in (1000, 64_000):
        layer = learned(2, 3.5)
        out = layer(torch.randn(1, steps, 2), torch.tensor([steps]))
        saved = out.output.grad_fn
        while not hasattr(saved, "saved_tensors") or len(saved.saved_tensors) < 7:
            saved = saved.next_functions[0][0]
        entries = saved.saved_tensors[0].numel()
        assert entries == steps + math.ceil(steps / 3.5) - 1


@pytest.mark.parametrize("kernel_size", [0, 2, 1.0, True, "3"])
def test_wrong_words(kernel_size):
    with pytest.raises(ValueError, match="kernel_size must be an odd whole number"):
        build_downsampler("cif", 4, 2, kernel_size=kernel_size)
