"""Another rate at decoding: how it is spread over the stages, and who refuses."""

import math

import pytest
import torch

pytest.importorskip("espnet2")

from espnet_adastride import available_downsamplers, build_downsampler  # noqa: E402
from espnet_adastride.errors import ConfigurationError  # noqa: E402
from espnet_adastride.plugin.subsampling import AdaptiveSubsampling  # noqa: E402


def build(method, stride):
    layer = AdaptiveSubsampling(
        20, 8, 0.0, torch.nn.Identity(), method=method, stride=stride, channels=4
    ).eval()
    for downsampler in layer.downsamplers:
        if hasattr(downsampler, "score"):
            torch.nn.init.normal_(downsampler.score.weight)
    return layer


@pytest.mark.parametrize(
    "method, stages, wanted, expected",
    [
        ("adastride", [2, 2, 2], 8, [2, 2, 2]),
        ("adastride", [2, 2, 2], 1, [1, 1, 1]),
        ("adastride_f", [2, 2], 6.25, [2.5, 2.5]),
        ("spectral_pool", [2, 3], 13.5, [3, 4.5]),
        (["strided_conv", "adastride", "adastride"], [2, 2, 2], 18, [2, 3, 3]),
        (["adastride", "avg_pool"], [2, 3], 3.75, [1.25, 3]),
        (["strided_conv", "adastride"], [2, 2], 2, [2, 1]),
        # the first stage would come to 0.77: it stays at 1, the second makes the rest
        ("adastride", [1.2, 4], 2, [1, 2]),
    ],
)
def test_known_answers(method, stages, wanted, expected):
    layer = build(method, stages)
    layer.set_stride(wanted)
    assert layer.current_strides() == pytest.approx(expected)
    assert math.prod(layer.current_strides()) == pytest.approx(wanted)
    x = torch.randn(1, 101, 20)
    with torch.no_grad():
        output, _ = layer(x, None)
    assert output.size(1) == layer.output_lengths(101) > 0
    # from the strides it was built with, whatever was set in between
    layer.set_stride(max(7.3, wanted))
    layer.set_stride(wanted)
    assert layer.current_strides() == pytest.approx(expected)


def test_its_own_stride_changes_nothing():
    layer, x = build("adastride", 12), torch.randn(2, 90, 20)
    mask = (torch.arange(90) < torch.tensor([[90], [61]])).unsqueeze(1)
    with torch.no_grad():
        before, _ = layer(x, mask)
        layer.set_stride(5.5)
        between, between_mask = layer(x, mask)
        layer.set_stride(12)
        after, _ = layer(x, mask)
    assert torch.equal(before, after) and before.size(1) == 8
    assert between_mask.sum(dim=2).flatten().tolist() == [
        layer_lengths(n, 5.5, [2, 2, 3]) for n in (90, 61)
    ]


def layer_lengths(n, stride, stages):
    factor = (stride / math.prod(stages)) ** (1 / len(stages))
    for stage in stages:
        n = math.ceil(n / (stage * factor))
    return n


@pytest.mark.parametrize(
    "method, wanted, words",
    [
        (
            "strided_conv",
            6,
            "fixed strides .4 overall.; adastride, .*, random_strides take any",
        ),
        ("diff_stride", 6, "diff_stride.* have fixed strides"),
        (
            ["max_pool", "adastride"],
            1.5,
            r"keep their strides \(max_pool\) make 2 alone; ask for 2 or more",
        ),
        ("adastride", 0.5, "stride must be a real number >= 1, got 0.5"),
        ("adastride", math.nan, "stride must be a real number >= 1, got nan$"),
        ("adastride", 1e300, r"stride must be at most 1000000, got 1e\+300: so many"),
    ],
)
def test_refused_in_one_line_and_unchanged(method, wanted, words):
    layer = build(method, [2, 2])
    with pytest.raises(ConfigurationError, match=words) as error:
        layer.set_stride(wanted)
    assert "\n" not in str(error.value)
    assert layer.current_strides() == [2, 2]


def test_a_method_whose_rate_is_fixed_by_an_option_is_not_its_own_alternative():
    identity = torch.nn.Identity()
    layer = AdaptiveSubsampling(
        20, 8, 0.0, identity, method="hnet", exact=False, channels=4
    )
    with pytest.raises(ConfigurationError) as error:
        layer.set_stride(6)
    refused, others = str(error.value).split("; ")
    assert "(hnet, hnet) have fixed strides" in refused
    assert "adastride" in others and "hnet" not in others


@pytest.mark.parametrize("name", available_downsamplers())
def test_every_method_says_whether_it_can(name):
    layer = build_downsampler(name, 4, 2)
    adaptive = ("adastride", "adastride_f", "cif", "merge", "hnet", "random_strides")
    if name in (*adaptive, "spectral_pool"):
        layer.set_stride(3.5)
        lengths = layer(torch.randn(1, 10, 4), torch.tensor([10])).lengths
        assert layer.current_stride() == 3.5 and lengths.tolist() == [3]
    else:
        names = ", ".join((*adaptive[:2], "spectral_pool", *adaptive[2:]))
        with pytest.raises(ValueError, match=f"tied to the stride .*; {names} support"):
            layer.set_stride(3.5)
        assert layer.current_stride() == 2
