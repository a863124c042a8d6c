"""The input layer block by block: lengths, finality, and the whole form where one block
holds all; for every method."""

import math

import numpy as np
import pytest
import torch

pytest.importorskip("espnet2")

from espnet_adastride.downsampling import available_downsamplers  # noqa: E402
from espnet_adastride.errors import ConfigurationError  # noqa: E402
from espnet_adastride.plugin import blocks, long_input  # noqa: E402
from espnet_adastride.plugin.blocks import (  # noqa: E402
    BlockLength,
    BlockTrace,
    block_frames,
    start_stream,
    stream_blocks,
)
from espnet_adastride.plugin.encoders import ConformerEncoder  # noqa: E402
from espnet_adastride.plugin.frame_times import encoder_boundaries  # noqa: E402
from espnet_adastride.plugin.subsampling import AdaptiveSubsampling  # noqa: E402
from espnet_adastride.timing.boundaries import slot_boundaries  # noqa: E402
from tests.plugin.tiny_encoders import tiny_encoder  # noqa: E402

STEP = 0.01
LENGTHS = [250, 170, 40, 30]


def make(block=0.4, **conf):
    """A layer with strides that follow the input; blocks of 40 feature frames."""
    torch.manual_seed(0)
    conf = {"stride": 4, "channels": 8, "block": block, **conf}
    layer = AdaptiveSubsampling(20, 8, 0.0, torch.nn.Identity(), **conf)
    for name, parameter in layer.named_parameters():
        if "score" in name:
            torch.nn.init.normal_(parameter)
    if layer.blocks is not None:
        layer.blocks.set_step(STEP)
    return layer.eval()


def batch(lengths=LENGTHS, seed=1):
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(len(lengths), max(lengths), 20, generator=generator)
    lengths = torch.tensor(lengths)
    return x, (torch.arange(x.size(1)) < lengths[:, None]).unsqueeze(1)


def streamed(layer, x, pieces):
    """What comes of x (1, T, F) that arrives in pieces of these lengths."""
    state, made = start_stream(layer), []
    for index, piece in enumerate(pieces):
        part, x = x[:, :piece], x[:, piece:]
        out, _, state = stream_blocks(layer, state, part, index == len(pieces) - 1)
        made.append(out)
    return torch.cat(made, dim=1)


def random_pieces(length, rng):
    pieces = []
    while sum(pieces) < length:
        pieces.append(min(int(rng.integers(0, 90)), length - sum(pieces)))
    return pieces


@pytest.mark.parametrize("trunk", ["conv1d", "conv2d", "dwconv2d"])
@pytest.mark.parametrize("method", available_downsamplers())
def test_every_method_works_block_by_block(method, trunk):
    layer = make(method=method, trunk=trunk)
    x, mask = batch()
    out, valid = layer(x, mask)
    # 6 blocks of 10 frames and ceil(10 / 4); 4 and ceil(10 / 4); 1; ceil(30 / 4)
    assert valid.sum(dim=2).flatten().tolist() == [63, 43, 10, 8]
    assert layer.output_lengths(torch.tensor(LENGTHS)).tolist() == [63, 43, 10, 8]
    rng = np.random.default_rng(0)
    for row, length in enumerate(LENGTHS):
        alone, _ = layer(x[row : row + 1, :length], None)
        made = out[row : row + 1, : alone.size(1)]
        torch.testing.assert_close(made, alone, atol=1e-5, rtol=1e-5)
        pieces = random_pieces(length, rng)
        arrived = streamed(layer, x[row : row + 1, :length], pieces)
        torch.testing.assert_close(arrived, alone, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("method", available_downsamplers())
def test_one_block_that_holds_all_is_the_whole_form(method):
    x, mask = batch()
    whole = make(block=None, method=method)
    blocks = make(block=2.52, method=method)
    assert torch.equal(whole(x, mask)[0], blocks(x, mask)[0])
    for ours, theirs in zip(blocks.take_trace(), whole.take_trace()):
        if theirs.positions is not None:
            assert torch.equal(ours.positions, theirs.positions)


def test_blocks_are_not_the_whole_form():
    x, _ = batch([250])
    whole, blocks = make(block=None)(x, None)[0], make()(x, None)[0]
    assert whole.shape == blocks.shape
    assert (whole - blocks).abs().max() > 0.1


@pytest.mark.parametrize("method", available_downsamplers())
def test_what_comes_later_changes_no_block_that_has_ended(method):
    layer = make(method=method)
    x, _ = batch([250])
    before, _ = layer(x, None)
    for end in (1, 2, 3):
        later = x.clone()
        # the look-ahead: one feature frame of the next block
        later[:, 40 * end + 1 :] = torch.randn(1, 250 - 40 * end - 1, 20)
        after, _ = layer(later, None)
        ended = slice(0, 10 * end)
        torch.testing.assert_close(after[:, ended], before[:, ended], atol=0, rtol=0)
        assert (after[:, 10 * end :] - before[:, 10 * end :]).abs().max() > 1e-3


def test_the_look_ahead_is_one_feature_frame():
    layer = make()
    x, _ = batch([250])
    before, _ = layer(x, None)
    other = x.clone()
    other[:, 40] += 1.0
    after, _ = layer(other, None)
    assert (after[:, :10] - before[:, :10]).abs().max() > 1e-6
    # and it alone: the frames of a block are there with it, and not without
    state = start_stream(layer)
    made, _, state = stream_blocks(layer, state, x[:, :40], False)
    assert made.size(1) == 0
    made, _, state = stream_blocks(layer, state, x[:, 40:41], False)
    assert made.size(1) == 10


def test_the_convolutions_see_the_block_before():
    layer = make()
    x, _ = batch([250])
    before, _ = layer(x, None)
    other = x.clone()
    other[:, 39] += 1.0
    after, _ = layer(other, None)
    assert (after[:, 10:20] - before[:, 10:20]).abs().max() > 1e-6
    torch.testing.assert_close(after[:, 20:], before[:, 20:], atol=1e-6, rtol=0)


def test_the_same_numbers_however_features_arrive():
    layer = make()
    x, _ = batch([250])
    first = streamed(layer, x, [250])
    rng = np.random.default_rng(0)
    for _ in range(20):
        assert torch.equal(streamed(layer, x, random_pieces(250, rng)), first)


def test_a_long_recording_goes_through_block_after_block(monkeypatch):
    x, mask = batch([250])
    for conf in ({}, {"tell_strides": True}):
        layer = make(**conf)
        if conf:
            torch.nn.init.normal_(layer.stride_vector)
        with torch.no_grad():
            whole = layer(x, mask)
            trace = layer.take_trace()
            monkeypatch.setattr(long_input, "LONG_BYTES", 1)
            long = layer(x, mask)
        other = layer.take_trace()
        torch.testing.assert_close(long[0], whole[0], atol=1e-5, rtol=1e-5)
        assert torch.equal(long[1], whole[1])
        for one, two in zip(trace, other):
            assert one.blocks.tolist() == two.blocks.tolist() == [7]
            assert torch.equal(one.output_lengths, two.output_lengths)
        edges = [encoder_boundaries(layer, t, 250)[0] for t in (trace, other)]
        np.testing.assert_allclose(*edges, atol=1e-5)
        monkeypatch.undo()


def test_times_join_those_of_the_blocks():
    layer = make(stride=[4])
    x, mask = batch()
    layer(x, mask)
    trace = layer.take_trace()
    assert all(isinstance(stage, BlockTrace) for stage in trace)
    (stage,) = trace
    first = 0
    for index, length in enumerate(LENGTHS):
        edges, pooled = encoder_boundaries(layer, trace, length, index)
        wanted = []
        for row in range(math.ceil(length / 40)):
            begin = 40 * row
            n = min(40, length - begin)
            positions = stage.positions[first + row].detach().numpy()
            wanted += (begin + slot_boundaries(positions, n, -(-n // 4)))[:-1].tolist()
        np.testing.assert_allclose(edges, [*wanted, length])
        assert pooled[:8].tolist() == list(range(0, 32, 4))
        first += math.ceil(length / 40)


def test_times_know_a_stride_in_the_trunk():
    layer = make(block=0.42, method=["strided_conv", "adastride"], stride=[2, 3])
    x, mask = batch([170, 90])
    _, shorter = layer(x, mask)
    trace = layer.take_trace()
    for index, length in enumerate((170, 90)):
        edges, windows = encoder_boundaries(layer, trace, length, index)
        np.testing.assert_array_equal(windows, [*range(0, length, 6), length])
        assert len(edges) == int(shorter[index].sum()) + 1
        # no frame goes over the end of a block
        assert set(range(0, length, 42)) <= set(edges.tolist())


def test_losses_know_the_blocks_that_hold_something_alone():
    layer = make(stride=[4], score_bound=None).train()
    layer.downsamplers[0].score.weight.data.mul_(10.0)
    x, mask = batch([250, 40])
    layer(x, mask)
    (stage,) = layer.take_trace()
    assert stage.input_lengths.tolist() == [40] * 6 + [10, 40]
    # the mean over the blocks, each as a sequence of its own
    jumps = stage.positions[:, 1:] - stage.positions[:, :-1]
    inside = torch.arange(1, 40) < stage.input_lengths[:, None]
    excess = (jumps - 1).clamp(min=0) * inside
    wanted = (excess.sum(dim=1) / (stage.input_lengths - 1)).mean()
    torch.testing.assert_close(stage.aux_loss.double(), wanted, atol=1e-6, rtol=1e-5)
    assert wanted > 0


def test_gradients_reach_everything():
    layer = make().train()
    x, mask = batch()
    x.requires_grad_()
    out, _ = layer(x, mask)
    out.square().sum().backward()
    assert all(p.grad.abs().sum() > 0 for p in layer.parameters())
    inside = mask.squeeze(1)
    assert (x.grad.abs().sum(dim=2)[inside] > 0).all()
    assert (x.grad[~inside] == 0).all()


def test_tell_strides_and_true_times_speak_of_blocks():
    conf = {"stride": 4, "channels": 8, "true_times": True, "tell_strides": True}
    layer = tiny_encoder(
        ConformerEncoder,
        {**conf, "block": 0.4},
        rel_pos_type="latest",
        pos_enc_layer_type="rel_pos",
        selfattention_layer_type="rel_selfattn",
    ).embed
    for name, parameter in layer.named_parameters():
        if "score" in name or name == "stride_vector":
            torch.nn.init.normal_(parameter)
    seen = []
    layer.out[1].register_forward_hook(lambda m, given, _: seen.append(given))
    x, mask = batch()
    layer(x, mask)
    (frames, times), lengths = seen[0], [63, 43, 10, 8]
    for row, length in enumerate(lengths):
        layer(x[row : row + 1, : LENGTHS[row]], None)
        alone, when = seen[-1]
        torch.testing.assert_close(times[row, :length], when[0], atol=1e-5, rtol=0)
        torch.testing.assert_close(frames[row, :length], alone[0], atol=1e-5, rtol=1e-5)
        # a block's first frame is at its first step, in mean output frames
        starts = when[0, 0::10]
        torch.testing.assert_close(
            starts,
            10.0 * torch.arange(len(starts), dtype=torch.float64),
            atol=1e-5,
            rtol=0,
        )


def test_training_draws_blocks():
    layer = make(block=0.4, train_blocks=[0.2, 0.8]).train()
    x, mask = batch([160])
    seen = set()
    for _ in range(200):
        layer(x, mask)
        seen.add(layer.blocks._now)
    assert min(seen) == 20 and max(seen) == 80
    assert all(frames % 4 == 0 for frames in seen) and len(seen) > 10
    first, second = make().eval(), layer.eval()
    assert torch.equal(first(x, mask)[0], second(x, mask)[0])


def test_a_block_is_a_multiple_of_the_strides():
    assert block_frames(2.0, 0.01, [2, 2]) == 200
    assert block_frames(0.33, 0.01, [2, 2]) == 32
    assert block_frames(2.0, 0.01, [3, 4]) == 204
    assert block_frames(1.0, 0.01, [2.5]) == 100
    assert block_frames(1.0, 0.016, [4]) == 64
    layer = make(block=0.33)
    assert layer.blocks.frames == 32


def test_set_seconds_and_set_stride():
    layer = make()
    x, _ = batch([250])
    layer.blocks.set_seconds(0.8)
    assert torch.equal(layer(x, None)[0], make(block=0.8)(x, None)[0])
    layer = make()
    layer.set_stride(6)
    # every block is rounded up by itself, stage by stage
    full = math.ceil(math.ceil(40 / 6**0.5) / 6**0.5)
    rest = math.ceil(math.ceil(10 / 6**0.5) / 6**0.5)
    assert layer(x, None)[0].size(1) == 6 * full + rest
    assert layer.output_lengths(250) == 6 * full + rest


@pytest.mark.parametrize(
    "conf, words",
    [
        ({"block": 0}, "block must be a number above 0"),
        ({"block": -1}, "block must be a number above 0"),
        ({"block": "2 s"}, "block must be a number above 0"),
        ({"block": [1, 2]}, "block must be a number above 0"),
        ({"block": None, "train_blocks": [1, 2]}, "give block, too"),
        ({"train_blocks": [2, 1]}, "the shortest and the longest block"),
        ({"train_blocks": 3}, "the shortest and the longest block"),
        ({"block": 0.05}, "1.25 output frames at stride 4: give 0.16 s"),
        ({"train_blocks": [0.05, 1]}, "train_blocks: block 0.05 s is 5 feature"),
        ({"stride": [2.2360679]}, "take whole strides"),
        # both ends fit, and what is drawn between them does not
        (
            {"stride": [1.37], "block": 1.37, "train_blocks": [1.37, 4.11]},
            "train_blocks: block 1.46 s: no number of feature frames near 146",
        ),
        ({"method": "hnet", "exact": False}, "set exact: true"),
        ({"stride": 4, "after_blocks": [0, 1]}, "block cannot be combined with after"),
    ],
)
def test_one_line_says_what_is_wrong(conf, words):
    with pytest.raises(ConfigurationError) as error:
        make(**conf)
    assert words in str(error.value) and "\n" not in str(error.value)
    assert "input_layer_conf" in str(error.value)


@pytest.mark.parametrize("seconds", [[0.7, 4], [2, 2], [3, 30]])
@pytest.mark.parametrize(
    "strides", [[2, 2, 2], [7.5], [1.25, 3], [1.37], [2.05], [1.333333]]
)
def test_drawn_blocks_are_checked_as_if_one_by_one(strides, seconds, monkeypatch):
    wanted = found = ""
    low, high = (one / 0.01 for one in seconds)
    try:
        for frames in (low, *range(math.ceil(low), math.ceil(high)), high):
            block_frames(frames * 0.01, 0.01, strides)
    except ValueError as error:
        wanted = str(error)
    length = BlockLength(2.0, seconds, strides)
    monkeypatch.setattr(length, "set_seconds", lambda _: None)  # 2 s may not fit
    try:
        length.set_step(0.01)
    except ConfigurationError as error:
        found = str(error).partition(": train_blocks: ")[2]
    assert found == wanted


@pytest.mark.parametrize("strides", [[2, 2, 2], [7.5]])
def test_a_long_block_is_checked_at_once(strides, monkeypatch):
    tried = []
    monkeypatch.setattr(
        blocks, "block_frames", lambda *args: tried.append(args) or block_frames(*args)
    )
    BlockLength(2.0, [0.5, 1e6], strides).set_step(0.01)
    assert len(tried) < 300


def test_a_layer_that_knows_no_seconds_says_so():
    layer = AdaptiveSubsampling(20, 8, 0.0, torch.nn.Identity(), block=1.0)
    with pytest.raises(ConfigurationError, match="step of the feature frames"):
        layer(torch.randn(1, 50, 20), None)
    whole = AdaptiveSubsampling(20, 8, 0.0, torch.nn.Identity())
    with pytest.raises(ConfigurationError, match="whole utterance at once"):
        start_stream(whole)
