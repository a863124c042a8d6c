"""SoftPool and AdaPool: answers by hand, float64 loops, extreme values."""

import math

import numpy as np
import pytest
import torch

from espnet_adastride import build_downsampler
from espnet_adastride.downsampling.soft import dice_sorensen

EXTREMES = [0.0, 90.0, -90.0, 1e4, -1e4, 1e38, -1e38, 1e-30, 1e-44]


def softmax(values):
    powers = [math.exp(v - max(values)) for v in values]
    return [p / sum(powers) for p in powers]


def loop(x, stride, pool):
    """Pool (n, D) window by window, feature by feature, in Python's float64."""
    n, size = x.shape
    return np.array(
        [
            [pool([float(v) for v in x[t : t + stride, d]]) for d in range(size)]
            for t in range(0, n, stride)
        ]
    )


def soft(values):
    return sum(w * v for w, v in zip(softmax(values), values))


def alike(values):
    mean = sum(values) / len(values)
    dsc = [
        1.0 if v == mean == 0 else 2 * abs(v * mean) / (v**2 + mean**2) for v in values
    ]
    return sum(w * v for w, v in zip(softmax(dsc), values))


def test_soft_pool_by_hand():
    x = torch.tensor([[[0.0], [math.log(3)], [-7.0]]])
    out = build_downsampler("soft_pool", 1, 2)(x, torch.tensor([3])).output
    # weights 1/4 and 3/4; the window that is cut short has one step
    np.testing.assert_allclose(out.flatten(), [0.75 * math.log(3), -7.0], rtol=1e-6)


@pytest.mark.parametrize("stride", [2, 3])
def test_against_loops(stride):
    x = torch.randn(2, 11, 4, dtype=torch.float64) * 3
    x[0, :3, 0] = 0.0
    lengths = torch.tensor([11, 7])
    soft_pool = build_downsampler("soft_pool", 4, stride)(x, lengths).output
    layer = build_downsampler("ada_pool", 4, stride).double()
    with torch.no_grad():
        layer.beta_logit.fill_(math.log(3))  # beta = 3/4
    ada_pool = layer(x, lengths).output.detach()
    for row, n in enumerate(lengths.tolist()):
        m = math.ceil(n / stride)
        expected = loop(x[row, :n], stride, soft)
        np.testing.assert_allclose(soft_pool[row, :m], expected, atol=1e-12)
        mixed = 0.75 * loop(x[row, :n], stride, alike) + 0.25 * expected
        np.testing.assert_allclose(ada_pool[row, :m], mixed, atol=1e-12)


@pytest.mark.parametrize("name", ["soft_pool", "ada_pool"])
def test_extreme_values_stay_finite_with_their_gradients(name):
    layer = build_downsampler(name, 1, 2)
    for a in EXTREMES:
        for b in EXTREMES:
            x = torch.tensor([[[a], [b], [a]]], requires_grad=True)
            out = layer(x, torch.tensor([3])).output
            low, high = x[0, :2].min().item(), x[0, :2].max().item()
            slack = 1e-6 * max(abs(low), abs(high)) + 1e-40
            assert low - slack <= out[0, 0, 0].item() <= high + slack
            assert out[0, 1, 0].item() == x[0, 2, 0].item()
            out.sum().backward()
            assert x.grad.isfinite().all()


def test_soft_pool_at_90_and_at_10000():
    for value in (90.0, 1e4):
        x = torch.tensor([[[value], [value - 1.0]]])
        out = build_downsampler("soft_pool", 1, 2)(x, torch.tensor([2])).output
        expected = value - 1 / (1 + math.e)
        assert out.item() == pytest.approx(expected, rel=1e-6)
    x = torch.tensor([[[1e4], [9e3]]], dtype=torch.float16)
    assert build_downsampler("soft_pool", 1, 2)(x, torch.tensor([2])).output == 1e4


def test_dice_sorensen_by_hand():
    x = torch.tensor([1.0, 0.0, 0.0, -1.0, 5.0, 1e30])
    y = torch.tensor([3.0, 0.0, 2.0, 3.0, -5.0, 2e30])
    expected = [0.6, 1.0, 0.0, 0.6, 1.0, 0.8]
    np.testing.assert_allclose(dice_sorensen(x, y), expected, rtol=1e-6)


def test_beta_is_a_share_that_can_learn_from_either_end():
    layer = build_downsampler("ada_pool", 3, 2)
    assert layer.reported_stats() == {"beta": 0.5}
    x, lengths = torch.randn(1, 8, 3), torch.tensor([8])
    with torch.no_grad():
        layer.beta_logit.fill_(-200.0)
        soft_pool = build_downsampler("soft_pool", 3, 2)(x, lengths).output
        torch.testing.assert_close(layer(x, lengths).output, soft_pool)
    for logit in (-3.0, 3.0):
        with torch.no_grad():
            layer.beta_logit.fill_(logit)
        layer.zero_grad()
        layer(x, lengths).output.square().sum().backward()
        assert layer.beta_logit.grad.abs() > 1e-4
