"""Lengths of every kind: what they mean, or one clear error."""

import pytest
import torch

from espnet_adastride import available_downsamplers, build_downsampler


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
