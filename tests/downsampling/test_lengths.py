"""Lengths of every kind: what they mean, or one clear error."""

import math

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from espnet_adastride import (
    available_downsamplers,
    build_downsampler,
    downsampled_lengths,
)
from espnet_adastride.downsampling.output import repeat_slots
from tests.devices import every_device


def same(one, other):
    assert torch.equal(one.output, other.output)
    assert torch.equal(one.lengths, other.lengths)


@pytest.mark.parametrize("name", available_downsamplers())
def test_what_lengths_mean(name):
    layer = build_downsampler(name, 4, 2).eval()
    x = torch.randn(3, 12, 4)
    whole = layer(x, torch.tensor([12, 12, 12]))
    same(layer(x), whole)
    some = layer(x, torch.tensor([12, 7, 0]))
    same(layer(x, [12, 7, 0]), some)
    same(layer(x, torch.tensor([12, 7, 0], dtype=torch.int32)), some)
    same(layer(x, torch.tensor([99, 7, -3])), some)  # above T: T, below 0: 0


@pytest.mark.parametrize("name", available_downsamplers())
def test_what_lengths_mean_to_the_inverse(name):
    layer = build_downsampler(name, 4, 2).eval()
    out = layer(torch.randn(3, 12, 4), torch.tensor([12, 7, 0]))

    def longer(lengths):
        return layer.upsample(out.output, lengths, 12, out.positions)

    expected = longer(torch.tensor([12, 7, 0]))
    for lengths in (
        [12, 7, 0],
        torch.tensor([12, 7, 0], dtype=torch.int32),
        torch.tensor([99, 7, -3]),
    ):
        assert torch.equal(longer(lengths), expected)
        if hasattr(layer, "rows"):
            lengths = torch.as_tensor(lengths)
            rows = layer.rows(out.positions, torch.tensor([12, 7, 0]))
            again = layer.rows(out.positions, lengths)
            assert torch.equal(again.weights, rows.weights)
    with pytest.raises(ValueError, match=r"must be \(3,\), got \(2,\)"):
        longer(torch.tensor([12, 7]))


class DividesAsAGpu(TorchDispatchMode):
    """Within it, dividing by a number multiplies by its reciprocal, as on CUDA."""

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        if func is torch.ops.aten.div.Tensor and args[0].is_floating_point():
            number = args[1]
            if not isinstance(number, torch.Tensor) or number.dim() == 0:
                return args[0] * (1.0 / number)
        return func(*args, **(kwargs or {}))


@every_device
def test_strides_whose_reciprocal_rounds_up(device):
    n = torch.arange(2000, device=device)
    with DividesAsAGpu():
        one = torch.tensor([49.0], dtype=torch.float64) / 49
        assert one.item() < 1
        for stride in (1.4, 2.3, 2.8, 4.6, 18.75):
            expected = [math.ceil(k / stride) for k in range(2000)]
            assert downsampled_lengths(n, stride).tolist() == expected
        for stride in (2.7, 49):
            frames = torch.arange(1000.0, device=device).view(1, -1, 1)
            steps = repeat_slots(frames, n[-1:], 1999, stride).flatten()
            assert steps.tolist() == [math.floor(k / stride) for k in range(1999)]


@pytest.mark.parametrize("name", available_downsamplers())
def test_no_frame_too_many_where_a_gpu_divides(name):
    try:
        layer = build_downsampler(name, 4, 2.3)
    except ValueError:
        pytest.skip("whole strides only")
    x = torch.randn(2, 46, 4)
    expected = layer(x, [46, 23])
    with DividesAsAGpu():
        found = layer(x, [46, 23])
    assert found.lengths.tolist() == [20, 10]
    torch.testing.assert_close(found.output, expected.output)


@pytest.mark.parametrize("name", available_downsamplers())
@pytest.mark.parametrize(
    "lengths, words",
    [
        (torch.tensor([12.0, 7.0, 3.0]), "must be integers .* got torch.float32"),
        (torch.tensor([True, True, False]), "must be integers .* got torch.bool"),
        ([12.0, 7.5, 3.0], "must be integers"),
        (torch.tensor([12, 7]), r"must be \(3,\), got \(2,\)"),
        (torch.tensor([[12, 7, 3]]), r"must be \(3,\), got \(1, 3\)"),
        (torch.tensor(12), r"must be \(3,\), got \(\)"),
    ],
)
def test_what_no_lengths_are(name, lengths, words):
    layer = build_downsampler(name, 4, 2)
    with pytest.raises(ValueError, match=words):
        layer(torch.randn(3, 12, 4), lengths)
