"""Sparse rows equal the dense definition: outputs, gradients and the transpose."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from espnet_adastride import (
    AdaStride,
    AdaStrideF,
    alignment_matrix,
    downsampled_lengths,
    position_steps,
)
from espnet_adastride.downsampling import adastride as adastride_module
from espnet_adastride.downsampling import empty_slot_share, largest_jump
from espnet_adastride.downsampling import rows as rows_module
from espnet_adastride.downsampling.rows import slot_windows, sparse_rows


def scores_of(kind, batch, steps, slots, generator):
    """Scores whose positions are uniform, log-normal, in plateaus, or one big jump."""
    noise = torch.randn(batch, steps, generator=generator, dtype=torch.float64)
    if kind == "uniform":
        return torch.zeros_like(noise)
    if kind == "lognormal":
        return 2 * noise
    if kind == "plateaus":  # half of the steps tied, here and there
        return noise - 30 * (torch.rand(batch, steps, generator=generator) > 0.5)
    if kind == "tied":  # half of the steps tied at one place
        noise[:, steps // 4 : steps // 4 + steps // 2] = -40.0
        return noise
    scores = torch.zeros_like(noise)
    share = min(300 / max(slots - 1, 1), 0.9)  # a jump of 300 slots, if there are such
    scores[:, steps // 3] = math.log(share / (1 - share) * max(steps - 2, 1))
    return scores


KINDS = ["uniform", "lognormal", "plateaus", "tied", "jump"]


def rows_and_definition(x, grad, positions, lengths, slots, sigma_square):
    """Return ((z, dx, dp) by rows, the same by the definition in float64, limits).

    The definition is computed for 500 slots at a time: all at once would not fit.
    """
    width = grad.size(1)
    rows = sparse_rows(positions, lengths, slots, sigma_square, width, x.dtype)
    z = rows.apply(x)
    ours = (z, *torch.autograd.grad(z, (x, positions), grad))
    parts, dx, dp = [], 0.0, 0.0
    for start in range(0, width, 500):
        place = positions - start  # slot l of the part is slot start + l
        part = alignment_matrix(
            place, lengths, (slots - start).clamp(0, 500), sigma_square, 500
        )
        parts.append(part[:, : width - start] @ x.double())
        some = torch.autograd.grad(
            parts[-1], (x, positions), grad[:, start : start + 500].double()
        )
        dx, dp = dx + some[0].double(), dp + some[1]
    # a gradient's size, or that of its terms where all of it cancels:
    # 2 sigma_square (l - p_t), with l up to half of the largest jump away
    jump = positions.diff(dim=1).amax().item() if positions.size(1) > 1 else 0.0
    size_dp = max(dp.abs().max().item(), sigma_square * max(1.0, jump))
    sizes = (1.0, dx.abs().max().item(), size_dp)
    return ours, (torch.cat(parts, dim=1), dx, dp), sizes


def assert_equal_the_definition(ours, theirs, sizes):
    single = ours[0].dtype == torch.float32
    limits = (1e-6, 1e-5, 1e-5) if single else (1e-12, 1e-9, 1e-9)
    for mine, definition, size, limit in zip(ours, theirs, sizes, limits):
        assert (mine.double() - definition).abs().max().item() <= limit * size


@settings(max_examples=80, deadline=None)
@given(
    st.integers(1, 700),
    st.one_of(st.integers(1, 16), st.floats(1, 16)),
    st.floats(0.5, 50),
    st.sampled_from(KINDS),
    st.sampled_from([torch.float32, torch.float64]),
    st.integers(0, 10**6),
)
def test_equals_the_dense_definition(steps, stride, sigma_square, kind, dtype, seed):
    generator = torch.Generator().manual_seed(seed)
    lengths = torch.tensor([steps, (steps + 1) // 2, 1, 0])
    slots = downsampled_lengths(lengths, stride)
    width = downsampled_lengths(steps, stride)
    scores = scores_of(kind, 4, steps, width, generator)
    positions = position_steps(scores, lengths, slots).requires_grad_()
    x = torch.randn(4, steps, 5, generator=generator, dtype=dtype)
    x = x.clamp(-3, 3).requires_grad_()
    grad = torch.randn(4, width, 5, generator=generator, dtype=dtype)
    assert_equal_the_definition(
        *rows_and_definition(x, grad, positions, lengths, slots, sigma_square)
    )


@pytest.mark.slow
@pytest.mark.parametrize(
    "kind, stride, sigma_square",
    [
        ("uniform", 13.7, 0.5),
        ("lognormal", 16, 5.0),
        ("plateaus", 16, 50.0),
        ("tied", 16, 0.5),
        ("jump", 8, 5.0),
    ],
)
def test_twenty_thousand_steps_equal_the_dense_definition(kind, stride, sigma_square):
    steps = 20000
    generator = torch.Generator().manual_seed(5)
    lengths = torch.tensor([steps])
    slots = downsampled_lengths(lengths, stride)
    scores = scores_of(kind, 1, steps, int(slots[0]), generator)
    positions = position_steps(scores, lengths, slots).requires_grad_()
    if kind == "jump":
        assert positions.diff(dim=1).amax().item() == pytest.approx(300, abs=0.1)
    x = torch.randn(1, steps, 4, generator=generator, requires_grad=True)
    grad = torch.randn(1, int(slots[0]), 4, generator=generator)
    assert_equal_the_definition(
        *rows_and_definition(x, grad, positions, lengths, slots, sigma_square)
    )


@pytest.mark.parametrize("sigma_square", [0.5, 50.0])
def test_thousands_of_steps_just_beyond_the_reach_count(sigma_square):
    """What a fixed cut-off of 18 would lose is 10,000 exp(-18) = 1.5e-4 of the row."""
    for exponent in range(16, 28):
        beyond = 20 + math.sqrt(exponent / sigma_square)
        where = [float(slot) for slot in range(100)] + [beyond] * 10000
        positions = torch.tensor([sorted(where)], dtype=torch.float64)
        lengths, slots = torch.tensor([len(where)]), torch.tensor([100])
        rows = sparse_rows(positions, lengths, slots, sigma_square, 100)
        # the tied steps are 1, all others 0: the output is the mass of the tied ones
        tied = (positions[0] == beyond).double()[None, :, None]
        dense = alignment_matrix(positions, lengths, slots, sigma_square) @ tied
        ours = sparse_rows(
            positions, lengths, slots, sigma_square, 100, torch.float64
        ).apply(tied)
        torch.testing.assert_close(ours, dense, atol=1e-12, rtol=0)
        # the float32 weights, summed in float64
        mass = torch.zeros(100, dtype=torch.float64)
        weights = rows.weights.double() * tied[0, rows.columns, 0]
        mass.index_add_(0, rows.rows, weights)
        torch.testing.assert_close(mass, dense[0, :, 0], atol=5e-7, rtol=0)


@pytest.mark.parametrize("sigma_square", [0.5, 5.0, 50.0])
def test_a_float32_layer_equals_a_float64_one(sigma_square, monkeypatch):
    """From the scores on: rounded to float32, they would move the output by 2e-4."""
    monkeypatch.setattr(adastride_module, "DENSE_UP_TO", 0)
    layer = AdaStride(64, 2, sigma_square=sigma_square)
    torch.nn.init.normal_(layer.score.weight, std=0.1)
    lengths = torch.tensor([4000, 1111])
    x, grad = torch.randn(2, 4000, 64), torch.randn(2, 2000, 64)

    def run(dtype):
        layer.to(dtype)
        inputs = x.to(dtype).requires_grad_(), layer.score.weight
        out = layer(inputs[0], lengths)
        loss = (out.output * grad.to(dtype)).sum() + out.aux_loss
        return out.output, torch.autograd.grad(loss, inputs)

    output, grads = run(torch.float32)
    exact, exact_grads = run(torch.float64)
    torch.testing.assert_close(output.double(), exact, atol=1e-6, rtol=0)
    for ours, theirs in zip(grads, exact_grads):
        size = theirs.abs().max().item()
        assert (ours.double() - theirs).abs().max().item() <= 1e-5 * size


@pytest.mark.parametrize("method", [AdaStride, AdaStrideF])
@pytest.mark.parametrize("stride", [2, 3.7])
def test_a_layer_and_what_shares_its_rows_equal_the_definition(
    method, stride, monkeypatch
):
    """A residual branch is shortened and a decoder lengthened by the layer's rows."""
    layer = method(5, stride, sigma_square=2.0, score_bound=3.0).double()
    torch.nn.init.normal_(layer.score.weight)
    lengths = torch.tensor([90, 41, 1, 0])
    inputs = (
        torch.randn(4, 90, 5, dtype=torch.float64, requires_grad=True),
        torch.randn(4, 90, 3, dtype=torch.float64, requires_grad=True),
        layer.score.weight,
    )
    factor = torch.randn(4, 90, 5, dtype=torch.float64)

    def dense_alignment(positions, slots):
        dense = alignment_matrix(positions, lengths, slots, 2.0)
        if method is AdaStride:
            return dense
        nearest = torch.round(positions).unsqueeze(1)
        own = dense * (nearest == torch.arange(dense.size(1))[:, None])
        return own / own.sum(dim=2, keepdim=True).clamp(min=1e-300)

    def run(by_rows):
        x, residual, _ = inputs
        monkeypatch.setattr(adastride_module, "DENSE_UP_TO", 0 if by_rows else 10**9)
        out = layer(x, lengths)
        if by_rows:
            rows = layer.rows(out.positions, lengths, torch.float64)
            beside, back = rows.apply(residual), rows.apply_transposed(out.output)
        else:
            alignment = dense_alignment(out.positions, out.lengths)
            beside, back = alignment @ residual, alignment.mT @ (alignment @ x)
        loss = (back * factor).sum() + beside.square().sum() + out.aux_loss
        return (beside, back, *torch.autograd.grad(loss, inputs))

    for fast, dense in zip(run(True), run(False)):
        torch.testing.assert_close(fast, dense, atol=1e-9, rtol=1e-9)


def test_rows_keep_the_dtype_of_what_they_are_applied_to():
    layer, lengths = AdaStride(4, 2), torch.tensor([300])
    out = layer(torch.randn(1, 300, 4), lengths)
    rows = layer.rows(out.positions, lengths)
    residual = torch.randn(1, 300, 6)
    half = rows.apply(residual.bfloat16())
    assert half.dtype == torch.bfloat16
    torch.testing.assert_close(half.float(), rows.apply(residual), atol=2e-2, rtol=2e-2)
    assert rows.apply_transposed(half).dtype == torch.bfloat16


def test_gradcheck_and_a_clear_error_for_second_order():
    lengths = torch.tensor([11, 6, 1])
    slots = downsampled_lengths(lengths, 2.5)
    positions = position_steps(torch.randn(3, 11).double(), lengths, slots)
    positions.requires_grad_()
    x = torch.randn(3, 11, 2, dtype=torch.float64, requires_grad=True)

    def there_and_back(positions, x):
        rows = sparse_rows(positions, lengths, slots, 1.0, 5, torch.float64)
        z = rows.apply(x)
        return z, rows.apply_transposed(z)

    assert torch.autograd.gradcheck(there_and_back, (positions, x))
    for output in there_and_back(positions, x):
        with pytest.raises(RuntimeError, match="second-order gradients"):
            torch.autograd.grad(output.sum(), x, create_graph=True, retain_graph=True)


@pytest.mark.parametrize("method", [AdaStride, AdaStrideF])
def test_a_layer_refuses_second_order_gradients_clearly(method):
    x = torch.randn(1, 300, 4, requires_grad=True)
    loss = method(4, 2)(x, torch.tensor([300])).output.square().sum()
    with pytest.raises(RuntimeError, match="second-order gradients"):
        torch.autograd.grad(loss, x, create_graph=True)


@pytest.mark.parametrize("method", [AdaStride, AdaStrideF])
@pytest.mark.parametrize("max_entries", [200, 2**24])
def test_torch_func_gives_the_gradients_of_autograd(method, max_entries, monkeypatch):
    """Of a layer, its Jacobian, and every utterance's own; in windows of slots too."""
    monkeypatch.setattr(adastride_module, "DENSE_UP_TO", 0)
    monkeypatch.setattr(rows_module, "MAX_ENTRIES", max_entries)
    layer = method(3, 2, sigma_square=2.0, score_bound=2.0).double()
    torch.nn.init.normal_(layer.score.weight)
    state = {"score.weight": layer.score.weight.detach()}
    x, lengths = torch.randn(4, 60, 3).double(), torch.tensor([60, 41, 1, 0])
    factor = torch.randn(4, 30, 3).double()

    def loss(state, x, lengths, factor):
        out = torch.func.functional_call(layer, state, (x, lengths))
        return (out.output * factor).sum() + out.aux_loss

    def by_autograd(x, *more):
        x = x.clone().requires_grad_()
        grads = torch.autograd.grad(
            loss({}, x, *more), (layer.score.weight, x), allow_unused=True
        )
        return [grad if grad is not None else torch.zeros(()) for grad in grads]

    gradients = torch.func.grad(loss, (0, 1))
    of_state, of_x = gradients(state, x, lengths, factor)
    whole = by_autograd(x, lengths, factor)
    assert torch.equal(of_state["score.weight"], whole[0])
    assert torch.equal(of_x, whole[1])

    each = torch.func.vmap(gradients, (None, 0, 0, 0))
    each = each(state, x[:, None], lengths[:, None], factor[:, None])
    for i in range(4):
        alone = by_autograd(x[i : i + 1], lengths[i : i + 1], factor[i : i + 1])
        torch.testing.assert_close(each[0]["score.weight"][i], alone[0])
        torch.testing.assert_close(each[1][i], alone[1])

    def output(x):
        return layer(x, torch.tensor([9])).output

    jacobian = torch.func.jacrev(output)(x[:1, :9])
    expected = torch.autograd.functional.jacobian(output, x[:1, :9])
    torch.testing.assert_close(jacobian, expected)


def test_rows_for_a_second_tensor_under_torch_func():
    layer, lengths = AdaStride(4, 2).double(), torch.tensor([300])
    torch.nn.init.normal_(layer.score.weight)
    x = torch.randn(1, 300, 4).double()

    def there_and_back(x):
        rows = layer.rows(layer(x, lengths).positions, lengths, torch.float64)
        return rows.apply_transposed(rows.apply(x)).square().sum()

    given = x.clone().requires_grad_()
    (expected,) = torch.autograd.grad(there_and_back(given), given)
    torch.testing.assert_close(torch.func.grad(there_and_back)(x), expected)


@pytest.mark.parametrize("method", [AdaStride, AdaStrideF])
def test_torch_func_refuses_second_order_and_forward_mode_clearly(method):
    layer, x = method(4, 2), torch.randn(1, 300, 4)

    def loss(x):
        return layer(x, torch.tensor([300])).output.square().sum()

    def slope(x):
        return torch.func.grad(loss)(x).sum()

    with pytest.raises(RuntimeError, match="second-order gradients"):
        torch.func.grad(slope)(x)
    with pytest.raises(RuntimeError, match="second-order gradients"):
        slope(x.requires_grad_()).backward()
    with pytest.raises(NotImplementedError, match="forward mode AD"):
        torch.func.jvp(loss, (x.detach(),), (x.detach(),))


def test_entries_stay_linear_in_time():
    """The count of entries grows with T, not T^2, where strides are not degenerate."""
    counts = []
    for steps in (1000, 8000):
        lengths = torch.tensor([steps])
        slots = downsampled_lengths(lengths, 2)
        positions = position_steps(torch.randn(1, steps), lengths, slots)
        rows = sparse_rows(positions, lengths, slots, 5.0, steps // 2)
        counts.append(rows.columns.numel())
    assert counts[1] < 8.5 * counts[0]


@pytest.mark.parametrize("method", [AdaStride, AdaStrideF])
def test_the_worst_case_in_windows_of_slots(method, monkeypatch):
    """Ties at both ends: every slot between them reaches all of the nearer half."""
    steps = 400
    x = torch.randn(3, steps, 4, dtype=torch.float64)
    x[:, :, 0] = -40.0
    x[:, steps // 2, 0] = 0.0  # one jump takes the whole segment
    lengths = torch.tensor([steps, steps - 1, 1])
    layer = method(4, 2, sigma_square=2.0).double()
    torch.nn.init.constant_(layer.score.weight, 0.0)
    layer.score.weight.data[0, 0] = 1.0
    monkeypatch.setattr(adastride_module, "DENSE_UP_TO", 0)

    def run():
        inputs = x.clone().requires_grad_(), layer.score.weight
        out = layer(inputs[0], lengths)
        assert out.positions[0, steps // 2 - 1] < 1 < 198 < out.positions[0, steps // 2]
        loss = (out.output * torch.linspace(0, 1, out.output.size(1))[:, None]).sum()
        return out.output, torch.autograd.grad(loss + out.aux_loss, inputs)

    output, grads = run()
    windows = []

    def spy(ranges, limit):
        windows.append(slot_windows(ranges, 1500))
        return windows[-1]

    monkeypatch.setattr(rows_module, "slot_windows", spy)
    in_pieces, its_grads = run()
    assert len(windows[0]) > (20 if method is AdaStride else 0)
    assert [w.start for w in windows[0][1:]] == [w.stop for w in windows[0][:-1]]
    torch.testing.assert_close(in_pieces, output, atol=1e-12, rtol=1e-12)
    for ours, whole in zip(its_grads, grads):
        torch.testing.assert_close(ours, whole, atol=1e-9, rtol=1e-9)


def test_windows_hold_no_more_than_they_may():
    first = torch.tensor([[0, 3, 3, 4, 9]])
    end = torch.tensor([[3, 3, 4, 9, 20]])
    ranges = rows_module.Ranges(first, end, torch.zeros(1, 5))
    assert slot_windows(ranges, 100) == [(0, 5, 20, 11)]
    assert slot_windows(ranges, 5) == [(0, 3, 4, 3), (3, 4, 5, 5), (4, 5, 11, 11)]


def test_rows_for_a_second_tensor_refuse_collapsed_strides(monkeypatch):
    monkeypatch.setattr(rows_module, "MAX_ENTRIES", 100)
    layer, lengths = AdaStride(4, 2), torch.tensor([300])
    out = layer(torch.randn(1, 300, 4), lengths)
    with pytest.raises(RuntimeError, match="more than 100 entries.*collapsed"):
        layer.rows(out.positions, lengths)


@pytest.mark.slow
@pytest.mark.parametrize("method", [AdaStride, AdaStrideF])
def test_compiled_and_twice_gives_the_same(method):
    """Under autocast, which a compiler may lose: positions stay float64 and exact."""
    layer = method(8, 2)
    torch.nn.init.normal_(layer.score.weight)
    compiled = torch.compile(layer, backend="eager")  # the capture, not the kernels
    lengths = torch.tensor([200, 193])
    x = torch.randn(2, 200, 8)

    def run(layer):
        inputs = x.clone().requires_grad_()
        with torch.autocast("cpu", dtype=torch.bfloat16):
            out = layer(inputs, lengths)
        weight = out.output.float().sum() + out.aux_loss
        return out.output, out.positions, *torch.autograd.grad(weight, inputs)

    for first, again, ours in zip(run(layer), run(layer), run(compiled)):
        assert torch.equal(first, again)
        assert ours.dtype == first.dtype
        torch.testing.assert_close(ours, first, atol=1e-6, rtol=1e-6)


@pytest.mark.parametrize("method", [AdaStride, AdaStrideF])
def test_the_host_waits_once_for_the_number_of_entries(method, host_waits):
    layer = method(8, 2, score_bound=1.0)
    x, lengths = torch.randn(2, 300, 8, requires_grad=True), torch.tensor([300, 211])
    with host_waits as waits:
        out = layer(x, lengths)
        (out.output.sum() + out.aux_loss).backward()
        empty_slot_share(out.positions, lengths, out.lengths, 150)
        largest_jump(out.positions, lengths)
    assert waits.scalars == []
    assert waits.lists == [(2,)]
