"""Spectral pooling and DiffStride: pure tones, scipy, finite differences, bounds."""

import math

import numpy as np
import pytest
import torch

from espnet_adastride import build_downsampler
from espnet_adastride.downsampling import spectral
from espnet_adastride.downsampling.spectral import (
    cut_spectrum,
    rows_of_lengths,
    soft_mask,
)

signal = pytest.importorskip("scipy.signal")


def tone(k, n, phase=0.3, count=None):
    """Return ``count`` (or n) samples of k cycles in n samples, (1, count, 1)."""
    t = torch.arange(n if count is None else count, dtype=torch.float64)
    return torch.cos(2 * math.pi * k * t / n + phase).view(1, -1, 1)


def pool(x, stride, name="spectral_pool", **conf):
    layer = build_downsampler(name, x.size(2), stride, **conf)
    return layer(x, torch.tensor([x.size(1)])).output.detach()


@pytest.mark.parametrize("n, stride, m", [(48, 2, 24), (48, 1.6, 30), (45, 3, 15)])
def test_tones_below_the_new_nyquist_frequency_survive_and_others_are_gone(
    n, stride, m
):
    for k in range(n // 2 + 1):
        z = pool(tone(k, n), stride)
        if 2 * k < m:
            expected = tone(k, m)
        elif 2 * k == m:
            # the bin that is its own mirror image is counted once: half of the cosine
            expected = 0.5 * math.cos(0.3) * tone(k, m, phase=0.0)
        else:
            expected = torch.zeros(1, m, 1)
        torch.testing.assert_close(z, expected.double(), atol=1e-12, rtol=0)


@pytest.mark.parametrize("n, m", [(50, 25), (51, 17), (64, 31)])
def test_resampling_is_scipys(n, m):
    x = torch.randn(2, n, 3, dtype=torch.float64)
    ours = cut_spectrum(x, m)
    np.testing.assert_allclose(ours, signal.resample(x, m, axis=1), atol=1e-12)


def test_stride_one_is_the_identity():
    for n in (1, 2, 3, 8, 9):
        x = torch.randn(1, n, 2, dtype=torch.float64)
        torch.testing.assert_close(pool(x, 1), x)


def test_the_new_nyquist_bin_is_real_before_irfft_sees_it(monkeypatch):
    """PyTorch's CPU and CUDA differ in what they do with its imaginary part."""
    seen = []
    inverse = torch.fft.irfft
    monkeypatch.setattr(
        spectral.torch.fft,
        "irfft",
        lambda x, **words: seen.append(x) or inverse(x, **words),
    )
    x = torch.randn(1, 20, 2)
    cut_spectrum(x, 10)
    assert seen[0].shape == (1, 6, 2) and (seen[0][:, -1].imag == 0).all()
    bins = torch.fft.rfft(x, dim=1)[:, :6]
    torch.testing.assert_close(seen[0][:, :-1], bins[:, :-1])
    torch.testing.assert_close(seen[0][:, -1].real, bins[:, -1].real)
    cut_spectrum(x, 9)  # an odd length has no such bin
    torch.testing.assert_close(seen[1], bins[:, :5])


def test_equal_lengths_are_transformed_together():
    groups = rows_of_lengths(torch.tensor([5, 3, 5, 0]))
    assert groups == {5: [0, 2], 3: [1], 0: [3]}


@pytest.mark.parametrize("name", ["spectral_pool", "diff_stride"])
def test_fourier_transforms_ignore_autocast(name):
    x = torch.randn(1, 40, 3)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        lowered = pool(x, 2, name)
    torch.testing.assert_close(lowered, pool(x, 2, name), atol=1e-6, rtol=0)
    half = pool(1e3 + x.to(torch.bfloat16), 2, name)
    assert half.dtype == torch.bfloat16 and half.isfinite().all()


def test_the_mask_by_hand():
    def mask(n, stride, bins):
        return soft_mask(n, torch.tensor(stride), 4.0, bins).tolist()

    # end = 40 / 4 + 1 = 11: the ramp of 4 from bin 7 on
    assert mask(40, 2.0, 11) == [1.0] * 8 + [0.75, 0.5, 0.25]
    assert mask(40, 2.5, 9) == [1.0] * 6 + [0.75, 0.5, 0.25]  # end = 9
    # end = 13 / 4 < 4: the whole mask is ramp, from a 1 at bin 0
    assert mask(9, 2.0, 3) == pytest.approx([1.0, 9 / 13, 5 / 13])
    assert mask(1, 2.0, 1) == [1.0]


def test_diff_stride_passes_low_tones_and_fades_the_highest():
    n, m = 48, 24  # end = 13: whole to bin 9, then 3/4, 1/2, 1/4 (half of it, at 12)
    for k in range(n // 2 + 1):
        z = pool(tone(k, n), 2, "diff_stride")
        factor = min(max((13 - k) / 4, 0.0), 1.0) if k <= 12 else 0.0
        expected = factor * pool(tone(k, n), 2)
        torch.testing.assert_close(z, expected, atol=1e-12, rtol=0)
        assert z.size(1) == m


@pytest.mark.parametrize("stride", [1.2, 2.0, 2.6, 3.7])
def test_the_gradient_of_the_stride_is_that_of_finite_differences(stride):
    """The length stays the same for so small a change of the stride."""
    layer = build_downsampler("diff_stride", 3, 2, max_stride=4).double()
    lengths = torch.tensor([61, 40, 23, 5, 3, 1])
    x = torch.randn(6, 61, 3, dtype=torch.float64)
    weight = torch.randn(6, 61, 3, dtype=torch.float64)

    def loss(at):
        with torch.no_grad():
            layer.stride_change.fill_(at - 2)
        out = layer(x, lengths)
        assert out.lengths.tolist() == [math.ceil(n / at) for n in lengths.tolist()]
        return (out.output * weight[:, : out.output.size(1)]).sum()

    at = stride + 0.0123  # no utterance's ramp has a bin at its corner
    loss(at).backward()
    step = 1e-5
    difference = (loss(at + step) - loss(at - step)).item() / (2 * step)
    assert layer.stride_change.grad.item() == pytest.approx(difference, rel=1e-6)
    assert abs(difference) > 0.1


def test_the_length_follows_the_learned_stride():
    layer = build_downsampler("diff_stride", 2, 2)
    x, lengths = torch.randn(2, 30, 2), torch.tensor([30, 13])
    for change, stride in ((0.0, 2.0), (0.5, 2.5), (-0.25, 1.75), (9.0, 4.0)):
        with torch.no_grad():
            layer.stride_change.fill_(change)
        assert layer.reported_stats() == {"stride": stride}
        out = layer(x, lengths)
        assert out.lengths.tolist() == [math.ceil(30 / stride), math.ceil(13 / stride)]
        assert layer.output_lengths(30) == out.output.size(1) == out.lengths[0]
        assert (out.output[1, out.lengths[1] :] == 0).all()


def test_the_stride_that_was_asked_for_is_not_rounded():
    # 1.3 in float32 is a little less, and would give 11 steps
    assert build_downsampler("diff_stride", 2, 1.3).output_lengths(13) == 10


@pytest.mark.parametrize("towards, bound", [(1.0, 3.0), (-1.0, 1.0)])
def test_the_stride_stays_in_its_bounds_and_finds_back(towards, bound):
    """Pushed out for long, it returns soon when it is pushed back."""
    layer = build_downsampler("diff_stride", 4, 2, max_stride=3)
    optimiser = torch.optim.Adam(layer.parameters(), lr=0.05)
    x, lengths = torch.randn(1, 64, 4), torch.tensor([64])

    def train(sign, steps):
        for _ in range(steps):
            optimiser.zero_grad()
            # a longer stride lets less of the signal through
            (sign * layer(x, lengths).output.square().mean()).backward()
            optimiser.step()
            assert 1.0 <= layer.current_stride() <= 3.0

    train(towards, 60)
    assert layer.current_stride() == bound
    beyond = abs(layer.stride + layer.stride_change.item() - bound)
    assert 0 < beyond < 0.8  # momentum carried it over, and no gradient any further
    train(-towards, 40)
    assert abs(layer.current_stride() - bound) > 0.1


@pytest.mark.parametrize(
    "word, value", [("max_stride", 1.5), ("max_stride", "4"), ("smoothness", 0)]
)
def test_wrong_options(word, value):
    with pytest.raises(ValueError, match=f"{word} must be"):
        build_downsampler("diff_stride", 4, 2, **{word: value})
