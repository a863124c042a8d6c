"""AdaStride and AdaStride-F: the authors' outputs, answers by hand, slow loops,
edges."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import espnet_adastride.downsampling.adastride as adastride_module
from espnet_adastride import (
    AdaStride,
    AdaStrideF,
    alignment_matrix,
    downsampled_lengths,
    position_steps,
    positioning_loss,
)
from espnet_adastride.downsampling import (
    empty_slot_share,
    largest_jump,
    largest_stride,
    stride_entropy,
)
from espnet_adastride.downsampling.adastride import bound_scores
from espnet_adastride.downsampling.rows import build_rows

CASES = [
    "dense_s2",
    "dense_s3_sharp",
    "dense_s4_wide_jumps",
    "dense_uniform",
    "fast_s2",
    "fast_s4_jumps",
]


def lengths_of(*values):
    return torch.tensor(values)


def set_scores(layer, scale):
    """Let the score be ``scale`` times the first feature."""
    with torch.no_grad():
        layer.score.weight.zero_()
        layer.score.weight[0, 0] = scale
    return layer


@pytest.mark.parametrize("name", CASES)
def test_authors_outputs_and_gradients(golden_dir, name):
    case = np.load(golden_dir / f"{name}.npz")
    x = torch.tensor(case["x"], requires_grad=True)
    method = AdaStrideF if case["fast"] else AdaStride
    layer = method(
        x.size(2), case["stride"].item(), sigma_square=case["sigma_square"].item()
    ).double()
    with torch.no_grad():
        layer.score.weight.copy_(torch.tensor(case["weight"]).view(1, -1))
    lengths = torch.tensor(case["lengths"])
    out = layer(x, lengths)
    ((out.output * torch.tensor(case["grad_out"])).sum() + out.aux_loss).backward()

    def close(ours, key):
        np.testing.assert_allclose(
            ours.detach().numpy().reshape(case[key].shape), case[key], atol=1e-9, rtol=0
        )

    close(out.output, "z")
    close(out.aux_loss, "vp_loss")
    close(x.grad, "grad_x")
    close(layer.score.weight.grad, "grad_weight")
    assert out.lengths.tolist() == case["z_lengths"].tolist()
    if "alignment" in case:
        ours = alignment_matrix(
            out.positions, lengths, out.lengths, layer.sigma_square
        ).detach()
        close(ours, "alignment")


def test_constant_scores_give_even_positions():
    # n = 7 at stride 2: m = 4 slots, 0..3 reached in 6 even steps of 1/2
    positions = position_steps(torch.full((1, 7), 3.0), lengths_of(7), lengths_of(4))
    torch.testing.assert_close(
        positions[0], torch.arange(7, dtype=torch.float64) / 2, rtol=0, atol=1e-12
    )


def test_positions_by_hand():
    # shares of steps 2..4: softmax(log 1, log 2, log 5) = 1/8, 2/8, 5/8; m - 1 = 8
    scores = torch.tensor([[9.0, 0.0, math.log(2), math.log(5)]])
    positions = position_steps(scores, lengths_of(4), lengths_of(9))
    np.testing.assert_allclose(positions[0], [0.0, 1.0, 3.0, 8.0], atol=1e-6)
    # the excess over 1 is 0 + 1 + 4, over n - 1 = 3 steps
    assert positioning_loss(positions, lengths_of(4)).item() == pytest.approx(5 / 3)
    assert largest_jump(positions, lengths_of(4)).item() == pytest.approx(5.0)
    # slots 0, 1, 3, 8 of 9 are the nearest to a step
    share = empty_slot_share(positions, lengths_of(4), lengths_of(9))
    assert share.item() == pytest.approx(5 / 9)


def test_positions_do_not_change_with_a_constant_and_survive_huge_scores():
    scores = torch.randn(2, 30, dtype=torch.float64)
    lengths, slots = lengths_of(30, 11), lengths_of(10, 4)
    a = position_steps(scores, lengths, slots)
    b = position_steps(scores + 123.0, lengths, slots)
    torch.testing.assert_close(a, b, rtol=0, atol=1e-10)
    huge = position_steps(scores * 1000, lengths, slots)
    assert huge.isfinite().all()
    assert (huge[:, 1:] >= huge[:, :-1]).all()
    assert huge[0, -1].item() == pytest.approx(9.0)
    assert huge[1, 10:].tolist() == [3.0] * 20  # padding repeats the last valid one


def test_extreme_scores_select_exactly():
    # all of the way is made at step 3 (of 1..6): steps 0-2 in slot 0, 3-5 in the last
    x = torch.zeros(1, 6, 2)
    x[0, :, 0] = torch.tensor([0.0, 0.0, 0.0, 100.0, 0.0, 0.0])
    x[0, :, 1] = torch.arange(6.0)
    layer = set_scores(AdaStride(2, 2, sigma_square=1000.0), 1.0)
    out = layer(x, lengths_of(6))
    np.testing.assert_allclose(out.positions.detach()[0], [0, 0, 0, 2, 2, 2], atol=1e-9)
    np.testing.assert_allclose(
        # slot 1 is as far from all: the mean of all six
        out.output.detach()[0, :, 1],
        [1.0, 2.5, 4.0],
        atol=1e-5,
    )


def loop_reference(x, scores, stride, sigma_square, fast):
    """AdaStride of one utterance, written with loops in float64."""
    n, m = len(x), math.ceil(len(x) / stride)
    e = [math.exp(s) for s in scores]
    c = np.cumsum(e)
    p = [(m - 1) * (v - c[0]) / (c[-1] - c[0]) if n > 1 else 0.0 for v in c]
    z = np.zeros((m, x.shape[1]))
    for slot in range(m):
        if fast:
            steps = [t for t in range(n) if round(p[t]) == slot]
        else:
            steps = list(range(n))
        w = [math.exp(-sigma_square * (slot - p[t]) ** 2) for t in steps]
        for t, weight in zip(steps, w):
            z[slot] += weight / sum(w) * x[t]
    return z


@settings(max_examples=60, deadline=None)
@given(
    st.integers(1, 40),
    st.floats(1, 6),
    st.sampled_from([0.5, 5.0, 50.0]),
    st.booleans(),
    st.booleans(),
    st.integers(0, 10**6),
)
def test_equals_loops(n, stride, sigma_square, fast, sparse, seed):
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(1, n, 3, generator=generator, dtype=torch.float64)
    method = AdaStrideF if fast else AdaStride
    layer = set_scores(method(3, stride, sigma_square=sigma_square).double(), 0.7)
    limit = adastride_module.DENSE_UP_TO
    adastride_module.DENSE_UP_TO = -1 if sparse else limit
    try:
        out = layer(x, lengths_of(n))
    finally:
        adastride_module.DENSE_UP_TO = limit
    scores = (0.7 * x[0, :, 0]).tolist()
    expected = loop_reference(x[0].numpy(), scores, stride, sigma_square, fast)
    np.testing.assert_allclose(out.output.detach()[0], expected, atol=1e-9)


@pytest.mark.parametrize("method", [AdaStride, AdaStrideF])
def test_gradcheck_in_float64(method):
    layer = set_scores(method(3, 2.5, sigma_square=2.0).double(), 0.9)
    x = torch.randn(3, 13, 3, dtype=torch.float64, requires_grad=True)

    def run(x, weight):
        out = torch.func.functional_call(
            layer, {"score.weight": weight}, (x, lengths_of(13, 6, 1))
        )
        return out.output, out.aux_loss

    weight = layer.score.weight.detach().clone().requires_grad_()
    assert torch.autograd.gradcheck(run, (x, weight), atol=1e-6)


def test_score_bound_limits_the_strides():
    # with |a| < b no step is more than exp(2 b) times another
    x = 1000 * torch.randn(2, 50, 4)
    out = set_scores(AdaStride(4, 2, score_bound=1.0), 5.0)(x, lengths_of(50, 50))
    jumps = out.positions[:, 1:] - out.positions[:, :-1]
    assert (jumps.amax(1) / jumps.amin(1) < math.exp(2.0) * 1.001).all()
    free = set_scores(AdaStride(4, 2), 5.0)(x, lengths_of(50, 50)).positions
    assert (free[:, 1:] - free[:, :-1]).max() > 10 * jumps.max()


def test_sigmoid_scores_make_strides_in_proportion_to_their_sigmoid():
    layer = AdaStride(4, 2.5, score_bound="sigmoid").double()
    assert layer.score_bound == "sigmoid"
    x, lengths = torch.randn(3, 40, 4, dtype=torch.float64), lengths_of(40, 23, 1)
    x[1, 23:] = torch.nan
    even = layer(x, lengths).positions
    torch.testing.assert_close(even[0], torch.linspace(0, 15, 40, dtype=torch.float64))
    set_scores(layer, 3.0)
    positions = layer(x, lengths).positions
    for row, n, m in ((0, 40, 16), (1, 23, 10)):
        sizes = torch.sigmoid(x[row, 1:n] @ layer.score.weight.flatten().double())
        expected = (m - 1) * sizes.cumsum(0) / sizes.sum()
        torch.testing.assert_close(positions[row, 1:n], expected)
    # steps that are all far below 0 are placed, too
    layer.score.weight.data.fill_(-1e5)
    far = layer(x.abs(), lengths).positions
    assert far.isfinite().all() and far[0, -1] == 15


def test_a_constant_in_the_scores_changes_nothing():
    """Bounded or not; otherwise scores that drift would end as uniform strides."""
    lengths, slots = lengths_of(30, 17, 1, 0), lengths_of(15, 9, 1, 0)
    scores = torch.randn(4, 30, dtype=torch.float64)

    def positions_and_gradient(constant, bound):
        shifted = (scores + constant).requires_grad_()
        bounded = bound_scores(shifted, lengths, bound)
        positions = position_steps(bounded, lengths, slots)
        (gradient,) = torch.autograd.grad(positions.square().sum(), shifted)
        return positions.detach(), gradient

    for bound in (None, 1.0):
        here, there = (positions_and_gradient(c, bound) for c in (0.0, 40.0))
        torch.testing.assert_close(here, there, atol=1e-9, rtol=1e-9)
        assert there[1][0].abs().max() > 0.1

    # by hand: the first step does not count, nor does the padding; variance 1
    two = torch.tensor([[9.0, 1.0, 3.0, torch.nan]])
    bounded = bound_scores(two, lengths_of(3), 2.0)[0, 1:3]
    share = 2 * math.tanh(1 / math.sqrt(5))
    np.testing.assert_allclose(bounded, [-share, share])


def test_scores_that_grow_keep_their_order_and_their_gradient():
    """Bounded, they would otherwise end at one bound or the other."""
    lengths = lengths_of(200)
    scores = torch.randn(1, 200, dtype=torch.float64)
    large = bound_scores(1000 * scores, lengths, 1.0)
    standard = (scores - scores[:, 1:].mean()) / scores[:, 1:].std(correction=0)
    torch.testing.assert_close(
        large[:, 1:], torch.tanh(standard)[:, 1:], atol=1e-5, rtol=0
    )
    small = bound_scores(1e-3 * scores, lengths, 1.0)[:, 1:]
    plain = 1e-3 * (scores - scores[:, 1:].mean())[:, 1:]
    torch.testing.assert_close(small, plain, atol=1e-8, rtol=1e-5)

    def slope(scale):
        moved = torch.zeros(200, dtype=torch.float64, requires_grad=True)
        bounded = bound_scores(scale * (scores + moved), lengths, 1.0)
        positions = position_steps(bounded, lengths, lengths_of(100))
        (gradient,) = torch.autograd.grad(positions.square().mean(), moved)
        return gradient.norm().item()

    assert slope(1000.0) > 0.3 * slope(1.0)


def test_empty_slots_of_adastride_f():
    # positions 0, 0.2, 4 of m = 5: slots 1, 2 and 3 have no step
    x = torch.zeros(1, 3, 2, dtype=torch.float64)
    x[0, :, 0] = torch.tensor([0.0, math.log(0.2), math.log(3.8)])
    x[0, :, 1] = torch.tensor([1.0, 3.0, 10.0])
    lengths, slots = lengths_of(3), lengths_of(5)
    layer = set_scores(AdaStrideF(2, 1, empty_slots="zeros").double(), 1.0)
    positions = position_steps(x[:, :, 0], lengths, slots)
    np.testing.assert_allclose(positions[0], [0, 0.2, 4], atol=1e-9)

    def resampled(layer):
        ranges = layer.ranges(positions, lengths, slots, 5, x.dtype)
        return build_rows(ranges, positions, 5.0, x.dtype).apply(x)[0, :, 1]

    zeros = resampled(layer)
    w = math.exp(-5 * 0.2**2)
    np.testing.assert_allclose(
        zeros.detach(), [(1 + 3 * w) / (1 + w), 0, 0, 0, 10], atol=1e-9
    )
    layer = AdaStrideF(2, 1, empty_slots="nearest").double()
    filled = resampled(layer)
    # slots 1 and 2 are nearer to 0.2 than to 4, slot 3 to 4
    np.testing.assert_allclose(filled.detach()[1:], [3, 3, 10, 10], atol=1e-9)


@pytest.mark.parametrize("method", [AdaStride, AdaStrideF])
@pytest.mark.parametrize("scale", [0.0, 1.0, 1e4])
def test_one_step_is_kept_and_none_gives_zeros(method, scale):
    x = torch.randn(3, 4, 5, requires_grad=True)
    out = set_scores(method(5, 3), scale)(x, lengths_of(1, 0, 4))
    assert out.lengths.tolist() == [1, 0, 2]
    torch.testing.assert_close(out.output[0, 0], x[0, 0])
    assert (out.output[1] == 0).all()
    (out.output.sum() + out.aux_loss).backward()
    assert x.grad.isfinite().all()
    single = method(5, 3)(x[:, :1].detach(), lengths_of(1, 1, 0))
    torch.testing.assert_close(single.output[:2], x[:2, :1])


@pytest.mark.parametrize("method", [AdaStride, AdaStrideF])
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_positions_survive_half_precision_and_autocast(method, dtype):
    x = torch.randn(2, 4000, 4)
    lengths = lengths_of(4000, 2500)
    exact = set_scores(method(4, 2), 0.5)(x.to(dtype).float(), lengths)
    half = set_scores(method(4, 2), 0.5).to(dtype)(x.to(dtype), lengths)
    assert half.output.dtype == dtype and half.positions.dtype == torch.float64
    # sums of 4000 shares in half precision would be off by whole slots
    assert (half.positions - exact.positions).abs().max() < 1e-3
    torch.testing.assert_close(half.output.float(), exact.output, atol=2e-2, rtol=2e-2)
    layer = set_scores(method(4, 2), 0.5)
    with torch.autocast("cpu", dtype=dtype):
        auto = layer(x.to(dtype).float(), lengths)
    torch.testing.assert_close(auto.positions, exact.positions, atol=1e-9, rtol=0)


@pytest.mark.parametrize("method", [AdaStride, AdaStrideF])
def test_huge_equal_and_half_precision_scores_have_finite_gradients(method):
    for scale, dtype in [
        (1e5, torch.float32),
        (6e4, torch.float16),
        (0, torch.float32),
    ]:
        layer = set_scores(method(3, 2), scale).to(dtype)
        x = (100 * torch.randn(2, 9, 3)).to(dtype).requires_grad_()
        out = layer(x, lengths_of(9, 5))
        (out.output.float().sum() + out.aux_loss).backward()
        assert out.output.isfinite().all() and out.aux_loss.isfinite()
        assert x.grad.isfinite().all() and layer.score.weight.grad.isfinite().all()


def test_training_starts_at_uniform_strides_and_learns_to_spend_frames():
    """The loss wants the rare kind of frame resolved, so that its stride shrinks."""
    x = torch.zeros(4, 60, 3)
    x[:, 20:30, 0] = 1.0
    x[:, :, 1] = (
        torch.randn(4, 60) * x[:, :, 0]
    )  # information in the marked frames only
    lengths = torch.full((4,), 60)
    layer = AdaStride(3, 4)
    jumps = layer(x, lengths).positions.diff(dim=1)
    assert (jumps.amax() - jumps.amin()).item() < 1e-9
    optimiser = torch.optim.Adam(layer.parameters(), lr=0.1)
    for _ in range(60):
        out = layer(x, lengths)
        # linear interpolation back from the slots at each frame's position
        floor = out.positions.detach().floor().long().clamp(max=13)
        part = (out.positions - floor).unsqueeze(2)
        index = floor.unsqueeze(2).expand(-1, -1, 3)
        back = out.output.gather(1, index) * (1 - part)
        back = back + out.output.gather(1, index + 1) * part
        loss = (back - x).square().sum() + out.aux_loss
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    jumps = layer(x, lengths).positions.diff(dim=1)
    assert jumps[:, 20:29].mean() > 1.5 * jumps[:, 35:].mean()


@pytest.mark.parametrize(
    "arguments, culprit",
    [
        ({"stride": 0.5}, "stride"),
        ({"stride": math.nan}, "stride"),
        ({"stride": 1e30}, "stride must be at most 1000000, got 1e[+]30"),
        ({"stride": "2"}, "stride"),
        ({"size": 0}, "size"),
        ({"sigma_square": 0}, "sigma_square"),
        ({"sigma_square": "wide"}, "sigma_square"),
        ({"score_bound": -1}, "score_bound must be a number above 0"),
        (
            {"score_bound": "tanh"},
            "score_bound must be .*, sigmoid or null, got 'tanh'",
        ),
        ({"empty_slots": "none"}, "empty_slots"),
    ],
)
def test_wrong_arguments_are_named(arguments, culprit):
    with pytest.raises(ValueError, match=culprit):
        AdaStrideF(**{"size": 4, "stride": 2, **arguments})


def test_wrong_shapes_are_named():
    layer = AdaStride(4, 2)
    with pytest.raises(ValueError, match="x must be"):
        layer(torch.zeros(2, 3, 5), lengths_of(3, 3))
    with pytest.raises(ValueError, match="lengths must be"):
        layer(torch.zeros(2, 3, 4), lengths_of(3))


@pytest.mark.parametrize("n", [0, 1, 2, 7, 33, 20000])
@pytest.mark.parametrize("stride", [1, 2, 3, 2.5, 3.3, 16])
def test_length_formula_of_ints_and_tensors(n, stride):
    expected = math.ceil(n / stride)
    assert downsampled_lengths(n, stride) == expected
    assert downsampled_lengths(torch.tensor([n]), stride).tolist() == [expected]


def test_largest_stride_counts_the_steps_of_a_slot():
    positions = torch.tensor([[0.0, 0.1, 0.4, 1.0, 1.9, 2.0], [0.0, 1.0, 2.0, 9, 9, 9]])
    assert largest_stride(positions, torch.tensor([6, 3])).item() == 3
    # padding does not count
    assert largest_stride(positions[1:], torch.tensor([3])).item() == 1


def test_stride_entropy_by_hand():
    def of(*rows, lengths=None):
        lengths = lengths or [len(row) for row in rows]
        positions = torch.tensor(rows, dtype=torch.float64)
        return stride_entropy(positions, torch.tensor(lengths)).item()

    assert of([0, 0.5, 1.0, 1.5, 2.0]) == pytest.approx(1.0)
    assert of([0, 0, 2.0, 2.0, 2.0]) == pytest.approx(0.0)
    # two of four steps share the segment: log 2 over log 4
    assert of([0, 1.0, 2.0, 2.0, 2.0]) == pytest.approx(0.5)
    # the mean over utterances; padding does not count
    mean = of([0, 1.0, 2.0, 2.0, 2.0], [0, 1.0, 2.0, 7, 7], lengths=[5, 3])
    assert mean == pytest.approx(0.75)
    # one step, or none, shares nothing
    assert of([0.0, 1.0]) == of([0.0]) == 1.0
