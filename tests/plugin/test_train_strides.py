"""A stride drawn for every training batch, and another one at decoding."""

import math

import pytest
import torch

from espnet_adastride.errors import ConfigurationError
from espnet_adastride.plugin.subsampling import AdaptiveSubsampling


def layer(**conf):
    torch.manual_seed(0)
    conf = {"stride": 8, "train_strides": [4, 12], "channels": 8, **conf}
    return AdaptiveSubsampling(20, 8, 0.0, torch.nn.Identity(), **conf)


def rate(made):
    return math.prod(made.current_strides())


def test_training_draws_between_and_decoding_does_not():
    made = layer().train()
    x = torch.randn(2, 120, 20)
    mask = torch.ones(2, 1, 120, dtype=torch.bool)
    mask[1, :, 100:] = False
    rates, frames = [], []
    for _ in range(300):
        _, out = made(x, mask)
        rates.append(rate(made))
        frames.append(out.sum(dim=2).flatten().tolist())
    assert min(rates) >= 4 - 1e-9 and max(rates) <= 12 + 1e-9
    assert min(rates) < 4.1 and max(rates) > 11.7
    # evenly in the logarithm: its mean is that of the ends, +- 3 standard errors
    middle = (math.log(4) + math.log(12)) / 2
    error = (math.log(12) - math.log(4)) / math.sqrt(12 * 300)
    mean = sum(map(math.log, rates)) / 300
    assert abs(mean - middle) < 3 * error
    for (one, other), stride in zip(frames, rates):
        assert one in (math.ceil(120 / stride) + i for i in range(3))
        assert other <= one
    made.eval()
    out, valid = made(x, mask)
    assert out.size(1) == 15 and valid.sum(dim=2).flatten().tolist() == [15, 13]
    assert made.current_strides() == [2, 2, 2]
    first = layer().eval()
    torch.testing.assert_close(out, first(x, mask)[0])  # the same as if never drawn


def test_set_stride_survives_training():
    made = layer().eval()
    made.set_stride(6.5)
    made.train()(torch.randn(1, 60, 20), None)
    assert made.eval()(torch.randn(1, 60, 20), None)[0].size(1) == 10
    assert rate(made) == pytest.approx(6.5)


def test_evaluation_has_the_strides_and_blocks_of_decoding_before_its_first_batch():
    made = layer()
    blocks = layer(train_strides=None, stride=4, block=0.4, train_blocks=[0.2, 0.3])
    blocks.blocks.set_step(0.01)
    for one, frames in ((made, 24), (blocks, 48)):
        one.train()(torch.randn(1, 190, 20), None)
        assert torch.nn.Sequential(one).eval()[0].output_lengths(190) == frames
    assert made.describe() == "adastride, 8x" and blocks.blocks._now == 40


def test_draws_follow_the_seed():
    def draws():
        made = layer().train()
        torch.manual_seed(7)
        rates = []
        for _ in range(3):
            made(torch.zeros(1, 40, 20), None)
            rates.append(rate(made))
        return rates

    assert draws() == draws()


def test_a_stage_that_is_tied_keeps_its_stride():
    made = layer(method=["strided_conv", "adastride", "adastride"]).train()
    for _ in range(5):
        made(torch.randn(1, 60, 20), None)
        assert made.current_strides()[0] == 2 and 4 <= rate(made) <= 12


@pytest.mark.parametrize(
    "conf, words",
    [
        ({"train_strides": [12, 4]}, "lowest and the highest"),
        ({"train_strides": [4]}, "lowest and the highest"),
        ({"train_strides": 4}, "lowest and the highest"),
        ({"train_strides": ["a", 4]}, "lowest and the highest"),
        ({"method": "avg_pool"}, "have fixed strides"),
        (
            {
                "method": ["strided_conv", "strided_conv", "adastride"],
                "train_strides": [2, 9],
            },
            "make 4 alone",
        ),
    ],
)
def test_refusals(conf, words):
    with pytest.raises(ConfigurationError, match=words) as caught:
        layer(**conf)
    assert "\n" not in str(caught.value) and "train_strides" in str(caught.value)
