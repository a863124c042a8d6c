"""merge: answers by hand, ties, cuts that no rounding changes."""

import math

import numpy as np
import pytest
import torch

from espnet_adastride import build_downsampler
from espnet_adastride.downsampling.merge import neighbour_similarity


def downsample(x, stride, lengths=None):
    layer = build_downsampler("merge", x.size(2), stride)
    lengths = torch.tensor([x.size(1)]) if lengths is None else lengths
    return layer(x, lengths)


def along(direction, scales):
    """Return vectors that all have a cosine of 1 with each other."""
    return torch.tensor(scales)[None, :, None] * torch.tensor(direction)


def test_by_hand():
    # similarities 0.995, 0.0995, 1, 0: cut behind the second and the fourth step
    x = torch.tensor([[[1.0, 0.0], [1.0, 0.1], [0.0, 1.0], [0.0, 2.0], [-1.0, 0.0]]])
    out = downsample(x, 2)
    expected = torch.tensor([[[1.0, 0.05], [0.0, 1.5], [-1.0, 0.0]]])
    torch.testing.assert_close(out.output, expected)
    assert out.positions.tolist() == [[0.0, 0.25, 0.75, 1.25, 2.0]]
    assert out.aux_loss is None
    # at stride 2.5 only the larger cut
    expected = torch.tensor([[[0.5, 0.775], [-1.0, 0.0]]])
    torch.testing.assert_close(downsample(x, 2.5).output, expected)
    torch.testing.assert_close(downsample(x, 1).output, x)


def slow(x, m):
    """The definition with loops, in exact order."""
    similarity = []
    for a, b in zip(x, x[1:]):
        norms = np.linalg.norm(a) * np.linalg.norm(b)
        similarity.append(a @ b / norms if norms else float(not a.any() | b.any()))
    cuts = sorted(range(len(x) - 1), key=lambda t: (similarity[t], t))[: m - 1]
    return [part.mean(axis=0) for part in np.split(x, [t + 1 for t in sorted(cuts)])]


@pytest.mark.parametrize("stride", [1, 1.5, 3, 20, 61])
def test_equals_the_definition(stride):
    x = torch.randn(1, 61, 5, dtype=torch.float64)
    x[0, 10:13] = 0.0
    out = downsample(x, stride)
    expected = slow(x[0].numpy(), math.ceil(61 / stride))
    np.testing.assert_allclose(out.output[0], np.stack(expected), atol=1e-12)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32, torch.float64])
def test_equal_similarities_are_cut_in_time(dtype):
    # alike but for rounding, which must not decide
    for direction in ([0.1, 0.7], [1 / 3, -1e3], [1e-15, 3e-18]):
        x = along(direction, [1.0, 3.0, 7.0, 9.0, 11.0, 0.3]).double()
        out = downsample(x.to(dtype), 2).output
        if dtype == torch.bfloat16:
            continue  # the vectors themselves were rounded
        expected = x[:, [0, 1, 2]].clone()
        expected[:, 2] = x[:, 2:].mean(dim=1)
        torch.testing.assert_close(out.double(), expected, rtol=1e-6, atol=0)
    constant = torch.full((1, 7, 3), 0.3, dtype=dtype)
    positions = downsample(constant, 2).positions
    # three cuts behind steps 1, 2, 3
    assert positions.round().tolist() == [[0, 1, 2, 3, 3, 3, 3]]


def test_vectors_of_zeros():
    x = torch.tensor([[[0.0, 0.0], [0.0, 0.0], [1.0, 1.0], [2.0, 1.9], [-1.0, -1.0]]])
    similarity = neighbour_similarity(x)[0]
    assert similarity[0] == 1 and similarity[1] == 0
    assert similarity[2] > 0.99 and similarity[3] < -0.99


def test_similarities_in_parts_are_the_same():
    x = torch.randn(2, 70_000, 9)
    whole = torch.nn.functional.cosine_similarity(
        x[:, :-1].double(), x[:, 1:].double(), dim=2
    )
    found = neighbour_similarity(x)
    assert found.shape == whole.shape and (found - whole).abs().max() < 1e-9
    assert (found * 2**30 == (found * 2**30).round()).all()


def test_the_gradient_is_that_of_a_mean():
    x = torch.tensor([[[1.0], [1.0], [-1.0], [-2.0], [-4.0]]], requires_grad=True)
    out = downsample(x, 3)
    assert out.output.flatten().tolist() == pytest.approx([1.0, -7 / 3])
    (out.output * torch.tensor([[[1.0], [3.0]]])).sum().backward()
    assert x.grad.flatten().tolist() == pytest.approx([0.5, 0.5, 1, 1, 1])


def test_no_parameters_and_no_waiting_for_a_gpu(host_waits):
    layer = build_downsampler("merge", 4, 2)
    assert not list(layer.parameters())
    x = torch.randn(2, 30, 4, requires_grad=True)
    with host_waits:
        layer(x, torch.tensor([30, 13])).output.square().sum().backward()
    assert not host_waits.scalars and not host_waits.lists


def test_upsampling_repeats_over_the_segments():
    x = torch.tensor([[[1.0], [1.0], [-1.0], [-2.0], [-4.0], [9.0]]])
    layer = build_downsampler("merge", 1, 3)
    out = layer(x, torch.tensor([5]))
    found = layer.upsample(out.output, torch.tensor([5]), 6, out.positions)
    third = pytest.approx(-7 / 3)
    assert found.flatten().tolist() == [1, 1, third, third, third, 0]
    with pytest.raises(ValueError, match="needs the positions"):
        layer.upsample(out.output, torch.tensor([5]), 6)
