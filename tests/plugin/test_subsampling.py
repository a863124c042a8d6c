"""The input layer: lengths, padding, stages, methods, and one line for every
mistake."""

import copy
import math

import pytest
import torch

from espnet_adastride import available_downsamplers
from espnet_adastride.downsampling import AdaStride, AdaStrideF
from espnet_adastride.errors import ConfigurationError
from espnet_adastride.plugin import long_input
from espnet_adastride.plugin.strides import stage_strides
from espnet_adastride.plugin.subsampling import AdaptiveSubsampling
from espnet_adastride.plugin.trunk import TRUNKS, InTrunk

BINS, WIDTH = 40, 8
CLOSE = {"atol": 1e-4, "rtol": 1e-4}  # float32 scores, summed over all steps


def build(**conf):
    layer = AdaptiveSubsampling(BINS, WIDTH, 0.0, torch.nn.Identity(), **conf).eval()
    for downsampler in layer.downsamplers:
        if hasattr(downsampler, "score"):
            torch.nn.init.normal_(downsampler.score.weight)
    return layer


def mask_of(lengths, steps):
    return (torch.arange(steps)[None] < lengths[:, None]).unsqueeze(1)


@pytest.mark.parametrize(
    "stride, stages",
    [
        (1, [1]),
        (2, [2]),
        (4, [2, 2]),
        (6, [2, 3]),
        (8, [2, 2, 2]),
        (12, [2, 2, 3]),
        (5, [5]),
        (5.5, [5.5]),
        ([4, 2], [4, 2]),
        ([1.5, 3], [1.5, 3]),
    ],
)
def test_stages_of_a_stride(stride, stages):
    assert stage_strides(stride) == stages


@pytest.mark.parametrize("trunk", TRUNKS)
@pytest.mark.parametrize("method", available_downsamplers())
@pytest.mark.parametrize("stride", [1, 4, 6])
def test_alone_equals_padded(method, trunk, stride):
    if method == "lift_pool" and stride == 6:
        with pytest.raises(ConfigurationError, match="must be a power of 2, got 3"):
            build(method=method, trunk=trunk, stride=stride)
        return
    layer = build(method=method, trunk=trunk, stride=stride)
    lengths = torch.tensor([60, 59, 23, 7])
    x = torch.randn(4, 66, BINS)
    for row, n in zip(x, lengths):
        row[n:] = 1e4
    with torch.no_grad():
        out, mask = layer(x, mask_of(lengths, 66))
        expected = [math.ceil(int(n) / stride) for n in lengths]
        assert mask.sum(-1).flatten().tolist() == expected
        assert layer.output_lengths(lengths).tolist() == expected
        for row, n, m in zip(range(4), lengths, expected):
            alone, alone_mask = layer(
                x[row : row + 1, :n], mask_of(lengths[row : row + 1], int(n))
            )
            assert alone_mask.all() and alone_mask.size(2) == m
            torch.testing.assert_close(out[row, :m], alone[0], atol=1e-5, rtol=1e-5)


def test_one_method_per_stage():
    methods = ["strided_conv", "adastride_f", "adastride"]
    layer = build(stride=8, method=methods, trunk="conv2d", sigma_square=7.0)
    kinds = [type(downsampler) for downsampler in layer.downsamplers]
    assert kinds == [InTrunk, AdaStrideF, AdaStride]
    assert layer.conv[0].conv.stride == (2, 2)  # strided_conv: in the trunk itself
    assert layer.conv[1].conv.stride == (1, 2)
    assert [d.sigma_square for d in layer.downsamplers[1:]] == [7.0, 7.0]
    # what trains, unless told otherwise; null is the published form
    assert layer.downsamplers[1].empty_slots == "nearest"
    assert layer.downsamplers[2].score_bound == 1.0
    assert build(score_bound=None).downsamplers[0].score_bound is None
    assert build(score_bound="sigmoid").downsamplers[1].score_bound == "sigmoid"


def test_strided_conv_is_conv2d_subsampling_with_padding_in_time():
    """The fair baseline: the parameters and arithmetic of ESPnet's own layer."""
    from espnet_adastride.plugin.espnet import Conv2dSubsampling

    ours = build(method="strided_conv", stride=4, trunk="conv2d")
    stock = Conv2dSubsampling(BINS, WIDTH, 0.0, torch.nn.Identity()).eval()
    state = {
        key.replace("conv.0.", "conv.0.conv.").replace("conv.2.", "conv.1.conv."): value
        for key, value in stock.state_dict().items()
    }
    ours.load_state_dict(state)
    x = torch.randn(2, 51, BINS)
    mine, _ = ours(x, None)
    theirs, _ = stock(torch.nn.functional.pad(x, (0, 0, 1, 0)), None)
    # one frame of padding before puts both on the same grid; the second convolution's
    # own padding touches the first output frame only
    frames = theirs.size(1) - 1
    torch.testing.assert_close(
        stock(x[:, 1:], None)[0][:, :frames], mine[:, 1 : 1 + frames], atol=1e-5, rtol=0
    )


def test_trace_is_taken_once_and_gradients_reach_the_scores():
    layer = build(method="adastride", stride=4).train()
    lengths = torch.tensor([30, 17])
    out, _ = layer(torch.randn(2, 30, BINS), mask_of(lengths, 30))
    trace = layer.take_trace()
    assert [stage.input_lengths.tolist() for stage in trace] == [[30, 17], [15, 9]]
    assert [stage.output_lengths.tolist() for stage in trace] == [[15, 9], [8, 5]]
    assert layer.take_trace() == ()
    (out.sum() + sum(stage.aux_loss for stage in trace)).backward()
    for name, parameter in layer.named_parameters():
        assert parameter.grad is not None and parameter.grad.abs().sum() > 0, name


def test_lengths_and_stats_follow_learned_strides():
    layer = build(method=["strided_conv", "diff_stride", "diff_stride"], stride=8)
    assert layer.reported_stats() == {"stride": 8.0, "stride_2": 2.0, "stride_3": 2.0}
    with torch.no_grad():
        layer.downsamplers[1].stride_change.fill_(0.5)
        layer.downsamplers[2].stride_change.fill_(-0.75)
    assert layer.current_strides() == [2, 2.5, 1.25]
    stats = {"stride": 6.25, "stride_2": 2.5, "stride_3": 1.25}
    assert layer.reported_stats() == stats
    lengths = torch.tensor([60, 23, 7])
    with torch.no_grad():
        out, mask = layer(torch.randn(3, 60, BINS), mask_of(lengths, 60))
    # 60 -> 30 -> 12 -> 10, 23 -> 12 -> 5 -> 4, 7 -> 4 -> 2 -> 2
    assert mask.sum(-1).flatten().tolist() == [10, 4, 2]
    assert out.size(1) == mask.size(2) == layer.output_lengths(60) == 10
    assert layer.output_lengths(lengths).tolist() == [10, 4, 2]
    assert [s.output_lengths.tolist() for s in layer.take_trace()] == [
        [30, 12, 4],
        [12, 5, 2],
        [10, 4, 2],
    ]


@pytest.mark.parametrize("trunk", TRUNKS)
@pytest.mark.parametrize("method", available_downsamplers())
@pytest.mark.parametrize("stride, held_bytes", [(1, 0), (6, 2**31), (8, 0)])
def test_a_long_utterance_in_chunks_equals_at_once(
    method, trunk, stride, held_bytes, monkeypatch
):
    if method == "lift_pool" and stride == 6:
        pytest.skip("stages of 2 and 3, and it takes powers of 2")
    layer = build(method=method, trunk=trunk, stride=stride)
    for downsampler in layer.downsamplers:
        if hasattr(downsampler, "score"):  # or rounding the scores moves the positions
            downsampler.score.weight.data *= 0.3
    width = max(stage.width for stage in layer.conv)
    monkeypatch.setattr(long_input, "CHUNK_BYTES", 4 * width * 97)
    monkeypatch.setattr(long_input, "HELD_BYTES", held_bytes)
    x = torch.randn(1, 777, BINS)
    mask = mask_of(torch.tensor([777]), 777)

    def both(x):
        for long_bytes in (2**40, 0):
            monkeypatch.setattr(long_input, "LONG_BYTES", long_bytes)
            with torch.no_grad():
                yield (*layer(x, mask), layer.take_trace())

    (at_once, its_mask, its_trace), (out, out_mask, trace) = both(x)
    torch.testing.assert_close(out, at_once, atol=1e-5, rtol=1e-5)
    assert torch.equal(out_mask, its_mask)
    for ours, theirs in zip(trace, its_trace, strict=True):
        assert ours.output_lengths.tolist() == theirs.output_lengths.tolist()
        assert (ours.positions is None) == (theirs.positions is None)
        if ours.positions is not None:
            torch.testing.assert_close(ours.positions, theirs.positions, **CLOSE)
            torch.testing.assert_close(ours.aux_loss, theirs.aux_loss, **CLOSE)
    layer.double()
    (at_once, *_), (out, *_) = both(x.double())
    torch.testing.assert_close(out, at_once, atol=1e-10, rtol=1e-10)


def test_a_rate_by_the_content_is_the_same_in_chunks(monkeypatch):
    layer = build(method="hnet", stride=[2, 3], exact=False).double()
    for stage in layer.downsamplers:
        torch.nn.init.normal_(stage.key.weight)
    monkeypatch.setattr(long_input, "CHUNK_BYTES", 8 * WIDTH * 97)
    x, found = torch.randn(1, 777, BINS).double(), []
    for long_bytes in (2**40, 0):
        monkeypatch.setattr(long_input, "LONG_BYTES", long_bytes)
        with torch.no_grad():
            found.append(
                (*layer(x, mask_of(torch.tensor([777]), 777)), layer.take_trace())
            )
    (at_once, its_mask, its_trace), (out, mask, trace) = found
    torch.testing.assert_close(out, at_once, atol=1e-10, rtol=0)
    assert torch.equal(mask, its_mask) and out.size(1) != layer.output_lengths(777)
    for ours, theirs in zip(trace, its_trace):
        assert ours.output_lengths.tolist() == theirs.output_lengths.tolist()
        assert ours.loss_name == theirs.loss_name == "loss_aux"


def test_chunks_are_for_one_long_utterance_without_gradients(monkeypatch):
    monkeypatch.setattr(long_input, "LONG_BYTES", 0)
    layer = build(method="adastride")
    counted, run = [], long_input.run_in_chunks

    def in_chunks(*batch):
        counted.append(batch)
        return run(*batch)

    monkeypatch.setattr(long_input, "run_in_chunks", in_chunks)
    layer(torch.randn(1, 70, BINS), None)
    assert not counted  # gradients
    with torch.no_grad():
        layer(torch.randn(1, 70, BINS), None)
        assert len(counted) == 1
        layer(torch.randn(2, 70, BINS), None)
        layer(torch.randn(1, 70, BINS), mask_of(torch.tensor([60]), 70))
        assert len(counted) == 1


def test_a_copy_after_a_training_step_has_no_graph():
    layer = build(method="adastride", after_blocks=[0, 0]).train()
    layer(torch.randn(1, 70, BINS), None)
    twin = copy.deepcopy(layer)
    assert twin.take_trace() == () and len(layer.take_trace()) == 2
    assert list(twin.state_dict()) == list(layer.state_dict())


@pytest.mark.parametrize(
    "conf, message",
    [
        ({"stride": 0.5}, "stride must be a real number >= 1, got 0.5"),
        ({"stride": float("inf")}, "stride must be a real number >= 1, got inf$"),
        ({"stride": 1e30}, "stride must be at most 1000000, got 1e[+]30: so many"),
        ({"stride": []}, "list of stages is empty"),
        ({"stride": "four"}, "stride must be a real number >= 1, got 'four'"),
        ({"strid": 4}, "unknown key 'strid'.*did you mean 'stride'"),
        ({"method": "avg_pool", "sigma_square": 5}, "unknown key 'sigma_square'"),
        ({"sigma_square": -5}, "sigma_square must be a number above 0, got -5"),
        ({"method": "adastrid"}, "unknown method 'adastrid'.*did you mean 'adastride'"),
        ({"method": ["adastride"], "stride": 8}, "1 methods .adastride. for 3 stages"),
        ({"method": "avg_pool", "stride": 2.5}, "whole strides only, got 2.5"),
        ({"method": "strided_conv", "stride": 2.5}, "whole strides only, got 2.5"),
        ({"method": "lift_pool", "stride": 12}, "must be a power of 2, got 3"),
        ({"method": "diff_stride", "max_stride": 1}, "max_stride must be at least"),
        ({"method": "blur_pool", "filter_size": 9}, "filter_size must be .* 2 to 7"),
        ({"method": 3}, "method must be a word or a list of words, got 3"),
        ({"method": None}, "method must be a word or a list of words, got None"),
        ({"method": [["cif"]], "stride": 2}, "unknown method .*cif.*; choose"),
        ({"trunk": "conv3d"}, "unknown trunk 'conv3d'.*conv1d"),
        ({"trunk": ["conv1d"]}, "unknown trunk .'conv1d'. .did you mean"),
        ({"channels": 0}, "channels must be a whole number"),
        ({"vp_weight": -1}, "vp_weight must be a number at least 0, got -1"),
        ({"tell_strides": "no"}, "tell_strides must be true or false, got 'no'"),
        ({"true_times": 1}, "true_times must be true or false, got 1"),
        ({"stride": 1024, "trunk": "conv2d"}, "halves the mel bins"),
    ],
)
def test_every_mistake_is_one_line_that_names_it(conf, message):
    with pytest.raises(ConfigurationError, match=message) as error:
        AdaptiveSubsampling(BINS, WIDTH, **conf)
    assert "\n" not in str(error.value)
    assert str(error.value).startswith("encoder_conf: input_layer_conf: ")
