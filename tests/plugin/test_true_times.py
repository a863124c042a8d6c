"""What tells the encoder where frames are in time: known answers, ESPnet at t = i."""

import math

import numpy as np
import pytest
import torch

from espnet_adastride.errors import ConfigurationError
from espnet_adastride.plugin import long_input
from espnet_adastride.plugin.encoders import (
    BranchformerEncoder,
    ConformerEncoder,
    EBranchformerEncoder,
)
from espnet_adastride.plugin.espnet import (
    RelPositionalEncoding,
    RelPositionMultiHeadedAttention,
)
from espnet_adastride.plugin.true_times import (
    TrueTimeAttention,
    log_strides,
    slot_steps,
    time_encoding,
    times_at,
    uniform_steps,
)
from tests.plugin.releases import NEWER

needs_sdpa = pytest.mark.skipif(not NEWER, reason="use_sdpa came with ESPnet 202611")
REL_POS = {
    "rel_pos_type": "latest",
    "pos_enc_layer_type": "rel_pos",
    "selfattention_layer_type": "rel_selfattn",
}


def test_slots_lie_where_the_positions_reach_them():
    # by hand: slot 1 is 0.5 / 0.8 of the way from step 1 to step 2, slot 2 is step 4
    positions = torch.tensor([[0.0, 0.5, 1.3, 1.7, 2.0], [0.0, 1.0, 1.0, 1.0, 1.0]])
    steps = slot_steps(positions, torch.tensor([5, 2]), torch.tensor([3, 2]), 3)
    expected = [[0.0, 1.625, 4.0], [0.0, 1.0, 1.0]]
    np.testing.assert_allclose(steps, expected, atol=1e-6)


def test_tied_and_missing_steps():
    # steps 1 and 2 are tied beyond slot 1; nothing at all in the second utterance
    positions = torch.tensor([[0.0, 2.0, 2.0, 3.0], [0.0, 0.0, 0.0, 0.0]])
    steps = slot_steps(positions, torch.tensor([4, 0]), torch.tensor([4, 0]), 4)
    np.testing.assert_allclose(steps, [[0.0, 0.5, 1.0, 3.0], [0.0] * 4], atol=1e-6)
    one = slot_steps(positions[:1, :1], torch.tensor([1]), torch.tensor([1]), 1)
    assert one.tolist() == [[0.0]]


def test_the_exportable_form_is_the_same():
    draw = np.random.default_rng(2)
    for n, m in ((1, 1), (7, 2), (9, 9), (40, 13), (300, 37)):
        steps = np.sort(draw.integers(0, 4 * m, n) / 4)  # with ties, and on slots
        steps = (steps - steps[0]) * (m - 1) / max(steps[-1] - steps[0], 1)
        given = torch.from_numpy(steps)[None], torch.tensor([n]), torch.tensor([m]), m
        assert torch.equal(slot_steps(*given), slot_steps(*given, exportable=True))


def test_uniform_positions_are_uniform_steps():
    lengths, slots = torch.tensor([9, 5, 1, 0]), torch.tensor([3, 2, 1, 0])
    share = torch.arange(9)[None] / (lengths[:, None] - 1).clamp(min=1)
    positions = share.clamp(max=1) * (slots[:, None] - 1).clamp(min=0)
    expected = [[0, 4, 8], [0, 4, 4], [0, 0, 0], [0, 0, 0]]
    np.testing.assert_allclose(
        slot_steps(positions.double(), lengths, slots, 3), expected, atol=1e-6
    )
    np.testing.assert_allclose(uniform_steps(lengths, slots, 3), expected)


def test_times_compose():
    times = torch.tensor([[0.0, 1.0, 5.0, 6.0]], dtype=torch.float64)
    steps = torch.tensor([[0.0, 1.5, 3.0]], dtype=torch.float64)
    assert times_at(times, steps).tolist() == [[0.0, 3.0, 6.0]]


def test_log_strides_by_hand():
    times = torch.tensor([[0.0, 1.0, 4.0, 4.0], [0.0, 2.0, 4.0, 6.0]]).double()
    told = log_strides(times, torch.tensor([3, 4]))
    mean = 2.0
    expected = [math.log(1 / mean), math.log(2 / mean), math.log(3 / mean), 0.0]
    np.testing.assert_allclose(told[0], expected, atol=1e-12)
    assert told[1].tolist() == [0.0] * 4
    assert log_strides(times[:, :1], torch.tensor([1, 0])).tolist() == [[0.0], [0.0]]


def attentions(time, width=16):
    torch.manual_seed(1)
    stock = RelPositionMultiHeadedAttention(4, width, 0.0).double().eval()
    ours = TrueTimeAttention(4, width, 0.0).double().eval()
    ours.load_state_dict(stock.state_dict())
    x = torch.randn(2, time, width, dtype=torch.float64)
    mask = torch.ones(2, 1, time, dtype=torch.bool)
    mask[1, :, time - 3 :] = False
    return stock, ours, x, mask


def test_attention_is_espnets_at_whole_times():
    stock, ours, x, mask = attentions(time=11)
    _, stock_encoding = RelPositionalEncoding(16, 0.0)(x)
    expected = stock(x, x, x, stock_encoding.double(), mask)
    # only differences of times matter: the start is arbitrary
    times = torch.arange(11, dtype=torch.float64).expand(2, -1) + 7.25
    got = ours(x, x, x, time_encoding(times, 16), mask)
    # ESPnet's table of sinusoids is float32
    torch.testing.assert_close(got, expected, atol=1e-6, rtol=0)


def test_attention_against_the_definition():
    _, ours, x, mask = attentions(time=6)
    times = torch.cumsum(torch.rand(2, 6, dtype=torch.float64) * 3, dim=1)
    got = ours(x, x, x, time_encoding(times, 16), mask)
    q, k, v = ours.forward_qkv(x, x, x)
    scores = torch.empty(2, 4, 6, 6, dtype=torch.float64)
    for b in range(2):
        for i in range(6):
            for j in range(6):
                between = time_encoding((times[b, i] - times[b, j]).view(1, 1), 16)
                place = ours.linear_pos(between).view(4, 4)
                for h in range(4):
                    content = (q[b, h, i] + ours.pos_bias_u[h]) @ k[b, h, j]
                    relative = (q[b, h, i] + ours.pos_bias_v[h]) @ place[h]
                    scores[b, h, i, j] = (content + relative) / 2
    torch.testing.assert_close(got, ours.forward_attention(v, scores, mask))


@needs_sdpa
@pytest.mark.parametrize("masked", [True, False])
def test_fused_attention_is_the_same(masked):
    _, plain, x, mask = attentions(time=11)
    torch.manual_seed(1)
    fused = TrueTimeAttention(4, 16, 0.0, use_sdpa=True).double().eval()
    fused.load_state_dict(plain.state_dict())
    mask = mask if masked else None
    times = torch.cumsum(torch.rand(2, 11, dtype=torch.float64) * 3, dim=1)
    place = time_encoding(times, 16)
    expected, got = (one(x, x, x, place, mask) for one in (plain, fused))
    torch.testing.assert_close(got, expected)
    # and ESPnet's, at whole times
    stock = RelPositionMultiHeadedAttention(4, 16, 0.0, use_sdpa=True).double().eval()
    stock.load_state_dict(plain.state_dict())
    encoding = RelPositionalEncoding(16, 0.0)(x)[1].double()
    whole = time_encoding(torch.arange(11.0).double().expand(2, -1), 16)
    expected, got = stock(x, x, x, encoding, mask), fused(x, x, x, whole, mask)
    torch.testing.assert_close(got, expected, atol=1e-6, rtol=0)


@needs_sdpa
@pytest.mark.parametrize("options", [{}, {"true_times": True, "tell_strides": True}])
@pytest.mark.parametrize(
    "kind", [ConformerEncoder, EBranchformerEncoder, BranchformerEncoder]
)
def test_encoders_with_fused_attention_are_the_same(kind, options):
    plain, fused = encoder(kind, **options), encoder(kind, sdpa=True, **options)
    fused.load_state_dict(plain.state_dict())
    x, lengths = batch()
    grads = []
    for model in (plain, fused):
        out, frames, _ = model(x, lengths)
        assert frames.tolist() == [13, 8]
        valid = torch.cat([out[0], out[1, :8]])
        valid.square().sum().backward()
        grads.append((valid, [p.grad for p in model.parameters()]))
    (one, its), (other, others) = grads
    torch.testing.assert_close(other, one, atol=1e-5, rtol=1e-5)
    for mine, theirs in zip(others, its):
        torch.testing.assert_close(mine, theirs, atol=1e-3, rtol=1e-4)


def encoder(kind=ConformerEncoder, sdpa=False, **options):
    torch.manual_seed(0)
    conf = {"stride": 4, "channels": 8, **options}
    common = {"output_size": 16, "attention_heads": 2, "num_blocks": 2}
    common.update(REL_POS)
    if sdpa:
        common["use_sdpa"] = True
    if kind is BranchformerEncoder:
        common["attention_layer_type"] = common.pop("selfattention_layer_type")
    if kind is EBranchformerEncoder:
        common["attention_layer_type"] = common.pop("selfattention_layer_type")
        common["use_ffn"] = True
    return kind(40, input_layer="adastride", input_layer_conf=conf, **common).eval()


def batch():
    torch.manual_seed(3)
    return torch.randn(2, 50, 40), torch.tensor([50, 31])


@pytest.mark.parametrize(
    "kind", [ConformerEncoder, EBranchformerEncoder, BranchformerEncoder]
)
def test_uniform_strides_change_nothing(kind):
    # adastride starts with uniform strides: then there is nothing to tell
    plain, told = encoder(kind), encoder(kind, tell_strides=True, true_times=True)
    missing = told.load_state_dict(plain.state_dict(), strict=False)
    assert missing.missing_keys == ["embed.stride_vector"]
    assert not missing.unexpected_keys
    with torch.no_grad():
        told.embed.stride_vector.normal_()
        x, lengths = batch()
        expected, frames, _ = plain(x, lengths)
        got, told_frames, _ = told(x, lengths)
    assert told_frames.tolist() == frames.tolist() == [13, 8]
    # frames are (n - 1) / (m - 1) input frames apart, not quite the unit of 4
    assert (got - expected).abs().max() < 0.2


@pytest.mark.parametrize("option", ["tell_strides", "true_times"])
def test_strides_are_heard(option):
    plain, told = encoder(), encoder(**{option: True})
    told.load_state_dict(plain.state_dict(), strict=False)
    with torch.no_grad():
        for model in (plain, told):
            torch.manual_seed(5)
            for stage in model.embed.downsamplers:
                stage.score.weight.normal_(std=1.0)
        if option == "tell_strides":
            told.embed.stride_vector.normal_()
        x, lengths = batch()
        difference = plain(x, lengths)[0] - told(x, lengths)[0]
    assert difference.abs().max() > 1e-3


@pytest.mark.parametrize("option", ["tell_strides", "true_times"])
def test_alone_equals_padded(option):
    layer = encoder(**{option: True}).embed
    with torch.no_grad():
        for stage in layer.downsamplers:
            stage.score.weight.normal_(std=1.0)
        if option == "tell_strides":
            layer.stride_vector.normal_()
        x, lengths = batch()
        mask = (torch.arange(50)[None] < lengths[:, None]).unsqueeze(1)
        (together, place), frames = layer(x, mask)
        (alone, place_alone), _ = layer(x[1:, :31], mask[1:, :, :31])
    assert frames.sum(dim=2).flatten().tolist() == [13, 8]
    torch.testing.assert_close(together[1:, :8], alone, atol=1e-5, rtol=1e-5)
    if option == "true_times":
        torch.testing.assert_close(place[1:, :8], place_alone, atol=1e-5, rtol=1e-5)


def test_chunks_tell_the_same(monkeypatch):
    layer = encoder(tell_strides=True, true_times=True).embed
    with torch.no_grad():
        for stage in layer.downsamplers:
            stage.score.weight.normal_(std=1.0)
        layer.stride_vector.normal_()
        x = batch()[0][:1]
        whole, _ = layer(x, None)
        monkeypatch.setattr(long_input, "LONG_BYTES", 1)
        monkeypatch.setattr(long_input, "CHUNK_BYTES", 400)
        in_chunks, _ = layer(x, None)
    for one, other in zip(whole, in_chunks):
        torch.testing.assert_close(one, other, atol=1e-5, rtol=1e-5)


def test_gradients_reach_the_vector_and_stay_finite():
    model = encoder(tell_strides=True, true_times=True).train()
    with torch.no_grad():
        for stage in model.embed.downsamplers:
            stage.score.weight.normal_(std=1.0)
    x, lengths = batch()
    model(x, lengths)[0].square().sum().backward()
    grads = {name: p.grad for name, p in model.named_parameters()}
    assert all(g is not None and g.isfinite().all() for g in grads.values())
    assert grads["embed.stride_vector"].abs().max() > 0


def test_an_encoder_without_true_times_refuses():
    with pytest.raises(ConfigurationError, match="rel_selfattn"):
        ConformerEncoder(
            40,
            input_layer="adastride",
            input_layer_conf={"true_times": True},
            pos_enc_layer_type="abs_pos",
            selfattention_layer_type="selfattn",
        )
