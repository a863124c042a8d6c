"""LiftPool: the Haar wavelet by hand, and nothing lost."""

import pytest
import torch

from espnet_adastride import build_downsampler


class Half(torch.nn.Module):
    def forward(self, x):
        return x / 2


def build(stride, size=3, dtype=torch.float64, **conf):
    layer = build_downsampler("lift_pool", size, stride, **conf).to(dtype)
    with torch.no_grad():
        for parameter in layer.parameters():
            parameter += 0.5 * torch.randn_like(parameter)
    return layer


def haar(stride, **conf):
    """Predict the odd step by the even one, update to the mean of both."""
    layer = build_downsampler("lift_pool", 1, stride, **conf)
    for stage in layer.stages:
        stage.predict, stage.update = torch.nn.Identity(), Half()
    return layer


def test_haar_by_hand():
    x = torch.tensor([[1.0, 3.0, 2.0, 8.0, 5.0]]).unsqueeze(2)
    lengths = torch.tensor([5])
    # details 2, 6 and 0 (the last step stands in for its partner), means 2, 5, 5
    out = haar(2)(x, lengths)
    assert out.output.flatten().tolist() == [4.0, 11.0, 5.0]
    # C_u = mean of 1, 9, 0; C_p = mean of 4, 36, 0
    expected = 0.01 * 10 / 3 + 0.1 * 40 / 3
    assert out.aux_loss.item() == pytest.approx(expected)
    weighted = haar(2, update_weight=1.0, predict_weight=0.0)(x, lengths)
    assert weighted.aux_loss.item() == pytest.approx(10 / 3)
    # 4, 11, 5 once more: details 7 and 0, means 7.5 and 5
    out = haar(4)(x, lengths)
    assert out.output.flatten().tolist() == [14.5, 5.0]
    second = 0.01 * (3.5**2 + 0) / 2 + 0.1 * (7**2 + 0) / 2
    assert out.aux_loss.item() == pytest.approx(expected + second)


def test_the_regularisers_are_means_over_what_is_valid():
    layer = build(2)
    x = torch.randn(1, 9, 3, dtype=torch.float64)
    once = layer(x, torch.tensor([9])).aux_loss
    twice = layer(x.repeat(2, 1, 1), torch.tensor([9, 9])).aux_loss
    torch.testing.assert_close(once, twice)
    with_empty = torch.nn.functional.pad(x, (0, 0, 0, 30)).repeat(2, 1, 1)
    padded = layer(with_empty, torch.tensor([9, 0])).aux_loss
    torch.testing.assert_close(once, padded)


@pytest.mark.parametrize("stride", [1, 2, 4, 8])
@pytest.mark.parametrize("dtype, atol", [(torch.float64, 1e-12), (torch.float32, 1e-5)])
def test_nothing_is_lost_before_the_sum(stride, dtype, atol):
    layer = build(stride, dtype=dtype)
    lengths = torch.tensor([37, 36, 17, 8, 3, 1, 0])
    x = torch.randn(7, 40, 3, dtype=dtype)
    valid = torch.arange(40)[None] < lengths[:, None]
    output, details = layer.decompose(x, lengths)
    assert torch.equal(output, layer(x, lengths).output)
    halves = {1: [], 2: [20], 4: [20, 10], 8: [20, 10, 5]}[stride]
    assert [d.size(1) for d in details] == halves
    back = layer.merge(output, details, lengths, 40)
    expected = x.masked_fill(~valid.unsqueeze(2), 0.0)
    torch.testing.assert_close(back, expected, atol=atol, rtol=0)
    if details:  # the details are needed, and each is
        for k in range(len(details)):
            changed = [d + 0.1 * (i == k) for i, d in enumerate(details)]
            other = layer.merge(output, changed, lengths, 40)
            assert (other - expected).abs().max() > 0.01


def test_the_features_do_not_mix_and_the_parameters_are_few():
    layer = build(2, size=4)
    x = torch.randn(1, 10, 4, dtype=torch.float64, requires_grad=True)
    layer(x, torch.tensor([10])).output[..., 1].sum().backward()
    assert (x.grad[..., [0, 2, 3]] == 0).all() and (x.grad[..., 1] != 0).any()
    # twice 5 taps, bias, 1 tap, bias
    assert sum(p.numel() for p in layer.parameters()) == 4 * 2 * (5 + 1 + 1 + 1)


@pytest.mark.parametrize("stride", [3, 6, 12])
def test_strides_that_are_no_power_of_two_are_refused(stride):
    with pytest.raises(ValueError, match=f"must be a power of 2, got {stride}"):
        build_downsampler("lift_pool", 4, stride)


@pytest.mark.parametrize(
    "word, value",
    [("kernel_size", wrong) for wrong in (4, 0, "5", True)]
    + [("update_weight", -1.0), ("predict_weight", float("nan"))],
)
def test_wrong_options(word, value):
    with pytest.raises(ValueError, match=f"{word} must be"):
        build_downsampler("lift_pool", 4, 2, **{word: value})
