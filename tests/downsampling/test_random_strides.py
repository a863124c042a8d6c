"""random_strides: what is drawn, how often, from what, and what it depends on."""

import math

import pytest
import torch

import espnet_adastride.downsampling.adastride as adastride_module
from espnet_adastride import AdaStride, build_downsampler
from espnet_adastride.downsampling.random_strides import (
    LOCAL_DENSITY,
    content_statistics,
    density_quantile,
    drawn_shares,
    in_unit_interval,
    mixed,
)


def build(size=8, stride=4, **conf):
    return build_downsampler("random_strides", size, stride, **conf)


def drawn(layer, x):
    """Return the density of every step but the first, over the mean, (B, T - 1)."""
    with torch.no_grad():
        positions = layer(x, torch.full((len(x),), x.size(1))).positions
    jumps = positions.diff(dim=1)
    return jumps / jumps.mean(dim=1, keepdim=True)


def signed(number):
    return (number + 2**63) % 2**64 - 2**63


def test_the_hash_is_that_of_whole_numbers():
    for given in (0, 1, 12345, -7, 2**40 + 3, 2**62):
        x = signed(given * -7046029254386353131)
        x = signed((x ^ (x >> 30)) * -4658895280553007687)
        x = signed((x ^ (x >> 27)) * -7723592293110705685)
        found = mixed(torch.tensor([given]))
        assert found.item() == x ^ (x >> 31)
        assert in_unit_interval(found).item() == found.item() % 2**53 / 2**53
    many = in_unit_interval(mixed(torch.arange(100_000)))
    counts = torch.histc(many, 20, 0, 1)
    assert (counts - 5000).abs().max() < 350  # 5 deviations
    assert abs(torch.corrcoef(torch.stack([many[1:], many[:-1]]))[0, 1]) < 0.016


def test_the_distribution_is_the_learned_one():
    shares = torch.linspace(0, 1, 100_001, dtype=torch.float64)
    density = density_quantile(shares)
    for share, value in LOCAL_DENSITY:
        assert density[round(share * 100_000)].item() == pytest.approx(value)
    assert density.mean().item() == pytest.approx(1.0, abs=0.005)
    assert dict(LOCAL_DENSITY)[0.05] == 0.05 and dict(LOCAL_DENSITY)[0.95] == 2.2
    # and so are the strides of utterances, as drawn and put into positions
    found = drawn(build(stride=8), torch.randn(20, 4000, 8)).flatten()
    quantiles = found.quantile(torch.tensor([0.05, 0.5, 0.95], dtype=torch.float64))
    assert quantiles.tolist() == pytest.approx([0.05, 0.84, 2.2], rel=0.15)


def test_three_stages_of_2_vary_as_one_of_8():
    x = torch.randn(40, 400, 8)
    log_variance = [
        drawn(build(stride=stride), x).log().var(dim=1).mean() for stride in (2, 8)
    ]
    assert (3 * log_variance[0] / log_variance[1]).item() == pytest.approx(1, rel=0.1)
    even = drawn(build(stride=1), x)
    torch.testing.assert_close(even, torch.ones_like(even))


def test_a_draw_lasts_for_so_many_mean_frames():
    density = drawn(build(stride=3, hold=4), torch.randn(1, 120, 8))[0]
    # steps 1 .. 11, then 12 .. 23, ...: a draw for every 12 steps
    parts = [density[:11], *density[11:].split(12)]
    for part in parts:
        torch.testing.assert_close(part, part[:1].expand(len(part)))
    values = torch.stack([part[0] for part in parts])
    assert (values.diff().abs() > 1e-6).all()


def test_draws_depend_on_content_and_length_and_on_nothing_else():
    x = torch.randn(4, 300, 8)
    layer = build()
    first = drawn(layer, x)
    assert torch.equal(first, drawn(layer.train(), x))
    torch.manual_seed(99)
    assert torch.equal(first, drawn(build(), x))
    # in units of their own: a louder copy is the same utterance
    torch.testing.assert_close(first, drawn(layer, 3 * x))
    torch.testing.assert_close(first, drawn(layer.double(), x.double()))
    shorter = drawn(layer, x[:, :299].double())
    for row in range(4):
        other = first[(row + 1) % 4]
        assert abs(torch.corrcoef(torch.stack([first[row], other]))[0, 1]) < 0.5
        pair = torch.stack([first[row, :-1], shorter[row]])
        assert abs(torch.corrcoef(pair)[0, 1]) < 0.5


def test_utterances_are_independent_even_where_their_features_are_alike():
    h = content_statistics(torch.randn(400, 500), torch.full((400,), 500))
    h = h.unique(dim=0)
    assert len(h) > 390  # of one length; others draw otherwise anyway
    u = drawn_shares(h, torch.full((len(h),), 500), torch.arange(60))
    assert (u >= 0).all() and (u < 1).all()
    counts = torch.histc(u, 10, 0, 1)
    assert (counts / counts.mean() - 1).abs().max() < 0.08
    pairs = torch.corrcoef(u)[~torch.eye(len(u), dtype=torch.bool)]
    # of independent ones: a mean of 0 and a deviation of 1 / sqrt(60)
    assert pairs.mean().abs() < 0.01 and abs(pairs.std() * 60**0.5 - 1) < 0.05
    assert (u.mean(dim=0) - 0.5).abs().max() < 0.06  # every draw varies over utterances
    same = drawn_shares(h[:1].expand(2, -1), torch.tensor([500, 499]), torch.arange(60))
    assert abs(torch.corrcoef(same)[0, 1]) < 0.5


def test_rounding_seldom_changes_the_draws():
    track, lengths = torch.randn(3000, 200).double(), torch.full((3000,), 200)
    h = content_statistics(track, lengths)
    shares = []
    for dtype in (torch.float32, torch.float16, torch.bfloat16):
        again = content_statistics(track.to(dtype), lengths)
        shares.append((again != h).any(dim=1).double().mean().item())
    assert shares[0] == 0 and shares[1] < 0.006 and 0 < shares[2] < 0.04


def test_statistics_by_hand():
    track = torch.tensor([[1.0, -1.0, 1.0, 1.0, math.nan], [0.0, 0.0, 5.0, 5.0, 5.0]])
    found = content_statistics(track, torch.tensor([4, 2]))
    # the waves' sums are 2, -0.77, 1.41 and 1.85; the norm is 2
    waves = [
        sum(v * math.cos(math.pi * i * (t + 0.5) / 4) for t, v in enumerate(signs))
        for signs in [(1, -1, 1, 1)]
        for i in range(4)
    ]
    assert found.tolist() == [[round(4 * wave / 2) for wave in waves], [0] * 4]
    assert found[0].tolist() == [4, -2, 3, 4]


def test_without_spread_it_is_adastride_as_it_starts():
    x, lengths = torch.randn(2, 40, 8), torch.tensor([40, 23])
    for size in (40, 400):  # densely, and as sparse rows
        x, lengths = torch.randn(2, size, 8), torch.tensor([size, 23])
        ours = build(spread=0, stride=2.5, sigma_square=3.0)(x, lengths)
        theirs = AdaStride(8, 2.5, sigma_square=3.0)(x, lengths)
        torch.testing.assert_close(ours.positions, theirs.positions)
        torch.testing.assert_close(ours.output, theirs.output)
    double = drawn(build(spread=2), x[:1])[0].log()
    once = drawn(build(), x[:1])[0].log()
    torch.testing.assert_close(double - double.mean(), 2 * (once - once.mean()))


def test_nothing_is_learned_and_no_gradient_goes_through_positions():
    layer = build()
    assert not list(layer.parameters()) and not layer.state_dict()
    x = torch.randn(1, 400, 8, requires_grad=True)
    out = layer(x, torch.tensor([400]))
    assert out.aux_loss is None and not out.positions.requires_grad
    out.output.sum().backward()
    rows = layer.rows(out.positions, torch.tensor([400]))
    expected = rows.apply_transposed(torch.ones_like(out.output))
    torch.testing.assert_close(x.grad, expected)


def test_kernels_that_place_by_scores_are_never_used(monkeypatch):
    def kernels_for(x):
        raise AssertionError("AdaStride's kernels take the scores as they are")

    monkeypatch.setattr(adastride_module, "kernels_for", kernels_for)
    build()(torch.randn(1, 400, 8), torch.tensor([400]))


def test_positions_upsample_as_adastrides():
    layer, lengths = build(), torch.tensor([100])
    out = layer(torch.randn(1, 100, 8), lengths)
    adastride = AdaStride(8, 4)
    torch.testing.assert_close(
        layer.upsample(out.output, lengths, 100, out.positions),
        adastride.upsample(out.output, lengths, 100, out.positions),
    )


def test_waits_for_a_gpu_as_adastride_does(host_waits):
    layer, x = build(), torch.randn(2, 600, 8, requires_grad=True)
    with host_waits:
        layer(x, torch.tensor([600, 13])).output.square().sum().backward()
    assert not host_waits.scalars and len(host_waits.lists) == 1


def test_wrong_words():
    with pytest.raises(ValueError, match="spread must be a number at least 0"):
        build(spread=-1)
    with pytest.raises(ValueError, match="hold must be a number above 0"):
        build(hold=0)
    with pytest.raises(ValueError, match="takes no option|unknown option"):
        build(score_bound=1.0)
