"""BlurPool: answers by hand, and its frequency response by scipy."""

import numpy as np
import pytest
import torch

from espnet_adastride import build_downsampler
from espnet_adastride.downsampling.blur import binomial_filter

signal = pytest.importorskip("scipy.signal")

FILTER_SIZES = [2, 3, 4, 5, 6, 7]


def apply(name, values, stride, **conf):
    x = torch.tensor(np.asarray(values, dtype=np.float64)).view(1, -1, 1)
    layer = build_downsampler(name, 1, stride, **conf)
    return layer(x, torch.tensor([x.size(1)])).output.flatten().numpy()


def test_blur_by_hand():
    # [1, 2, 1] on steps 0, 2, 4; the taps outside are left out
    z = apply("blur_pool", [1, 2, 3, 4, 10], 2)
    np.testing.assert_allclose(z, [(2 + 2) / 3, (2 + 6 + 4) / 4, (4 + 20) / 3])
    # [1, 1] is average pooling
    z = apply("blur_pool", [1, 2, 3, 4, 10], 2, filter_size=2)
    np.testing.assert_allclose(z, [1.5, 3.5, 10])
    # [1, 3, 3, 1]: one tap before step l stride, two after it
    z = apply("blur_pool", [1, 2, 3, 4, 10], 2, filter_size=4)
    np.testing.assert_allclose(z, [(3 + 6 + 3) / 7, (2 + 9 + 12 + 10) / 8, 34 / 4])


def test_a_stride_longer_than_the_filter_skips_steps():
    z = apply("blur_pool", np.arange(12), 5, filter_size=2)
    np.testing.assert_allclose(z, [0.5, 5.5, 10.5])
    z = apply("blur_pool", np.arange(12), 11)  # the last output is the last step's own
    np.testing.assert_allclose(z, [1 / 3, (10 + 22) / 3])


def test_max_blur_by_hand():
    # maxima of two from each step on: 5 5 2 3 3; then [1, 2, 1] on steps 0, 2, 4
    z = apply("max_blur_pool", [1, 5, 2, 0, 3], 2)
    np.testing.assert_allclose(z, [(10 + 5) / 3, (5 + 4 + 3) / 4, (3 + 6) / 3])
    # below zero, too, the padding takes no part
    z = apply("max_blur_pool", [-1, -5, -2, -9, -3], 2)
    np.testing.assert_allclose(z, [(-2 - 2) / 3, (-2 - 4 - 3) / 4, (-3 - 6) / 3])


@pytest.mark.parametrize("filter_size", FILTER_SIZES)
def test_the_response_is_that_of_scipys_filter(filter_size):
    taps = (np.poly1d([0.5, 0.5]) ** (filter_size - 1)).coeffs
    np.testing.assert_allclose(binomial_filter(filter_size), taps)
    frequency, response = signal.freqz(taps, worN=[0.0, 0.3, 1.0, 2.0, 3.0, np.pi])
    t, inner, left = np.arange(200), slice(10, 40), (filter_size - 1) // 2
    for omega, gain in zip(frequency, response):
        z = apply("blur_pool", np.cos(omega * t + 0.4), 4, filter_size=filter_size)
        # scipy's filter is causal; here the taps reach from -left on
        centre = 4 * np.arange(50) + len(taps) - 1 - left
        expected = np.real(gain * np.exp(1j * (omega * centre + 0.4)))
        np.testing.assert_allclose(z[inner], expected[inner], atol=1e-12)


@pytest.mark.parametrize("stride", [1, 2, 3])
def test_white_noise_is_filtered_as_by_scipy(stride):
    x = np.random.default_rng(0).standard_normal(101)
    expected = signal.convolve(x, [1 / 16, 4 / 16, 6 / 16, 4 / 16, 1 / 16], "same")
    z = apply("blur_pool", x, stride, filter_size=5)
    np.testing.assert_allclose(z[2:-2], expected[::stride][2:-2], atol=1e-12)


@pytest.mark.parametrize("name", ["blur_pool", "max_blur_pool"])
@pytest.mark.parametrize("filter_size", FILTER_SIZES)
@pytest.mark.parametrize("stride", [2, 3])
def test_frames_lie_where_the_filter_reads(name, filter_size, stride):
    """Of a ramp, a frame's value is the time it stands for."""
    middle = np.arange(60) + 0.5  # of the steps
    layer = build_downsampler(name, 1, stride, filter_size=filter_size)
    # the maximum reads the end of a rising window, the start of a falling one
    rising = apply(name, middle, stride, filter_size=filter_size)
    falling = -apply(name, -middle, stride, filter_size=filter_size)
    read = (rising + falling)[4:-4] / 2
    starts = np.arange(60 // stride)[4:-4] * stride + layer.frame_shift()
    np.testing.assert_allclose(read, starts + stride / 2)


@pytest.mark.parametrize("name", ["blur_pool", "max_blur_pool"])
@pytest.mark.parametrize("filter_size", [1, 8, 2.5, True, "3", None])
def test_wrong_filter_sizes(name, filter_size):
    with pytest.raises(ValueError, match="filter_size must be .* from 2 to 7, got"):
        build_downsampler(name, 1, 2, filter_size=filter_size)
