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
from espnet_adastride.downsampling import rows as rows_module
from espnet_adastride.downsampling.rows import slot_windows, sparse_rows


def scores_of(kind, batch, steps, generator):
    """Scores whose positions are uniform, log-normal, in plateaus, or one big jump."""
    noise = torch.randn(batch, steps, generator=generator, dtype=torch.float64)
    if kind == "uniform":
        return torch.zeros_like(noise)
    if kind == "lognormal":
        return 2 * noise
    if kind == "plateaus":  # half of the steps tied
        return noise - 30 * (torch.rand(batch, steps, generator=generator) > 0.5)
    scores = torch.zeros_like(noise)
    scores[:, steps // 3] = math.log(steps) + 3  # a jump over most of the slots
    return scores


@settings(max_examples=80, deadline=None)
@given(
    st.integers(1, 400),
    st.one_of(st.integers(1, 16), st.floats(1, 16)),
    st.floats(0.5, 50),
    st.sampled_from(["uniform", "lognormal", "plateaus", "jump"]),
    st.sampled_from([torch.float32, torch.float64]),
    st.integers(0, 10**6),
)
def test_equals_the_dense_definition(steps, stride, sigma_square, kind, dtype, seed):
    generator = torch.Generator().manual_seed(seed)
    lengths = torch.tensor([steps, (steps + 1) // 2, 1, 0])
    slots = downsampled_lengths(lengths, stride)
    width = downsampled_lengths(steps, stride)
    scores = scores_of(kind, 4, steps, generator)
    positions = position_steps(scores, lengths, slots).requires_grad_()
    x = torch.randn(4, steps, 5, generator=generator, dtype=dtype, requires_grad=True)
    grad = torch.randn(4, width, 5, generator=generator, dtype=dtype)

    rows = sparse_rows(positions, lengths, slots, sigma_square, width, dtype)
    fast = rows.apply(x)
    fast_grads = torch.autograd.grad(fast, (x, positions), grad, retain_graph=True)
    dense_matrix = alignment_matrix(positions, lengths, slots, sigma_square, width)
    dense = dense_matrix @ x.double()
    dense_grads = torch.autograd.grad(
        dense, (x, positions), grad.double(), retain_graph=True
    )
    single = dtype == torch.float32
    largest_jump = positions.detach().diff(dim=1).amax().item() if steps > 1 else 0.0
    torch.testing.assert_close(
        fast.double(), dense, atol=3e-6 if single else 1e-9, rtol=0
    )
    for ours, theirs in zip(fast_grads, dense_grads):
        # relative to the size of the gradient, or of its terms where all of it cancels:
        # 2 sigma_square (l - p_t), with l up to half of the largest jump away
        size = max(theirs.abs().max().item(), sigma_square * max(1.0, largest_jump))
        error = (ours.double() - theirs).abs().max().item()
        assert error <= (1e-5 if single else 1e-9) * size

    back = rows.apply_transposed(fast.detach())
    torch.testing.assert_close(
        back.double(),
        dense_matrix.detach().mT @ dense.detach(),
        atol=1e-3 if single else 1e-8,
        rtol=1e-5,
    )


def test_long_sequence_equals_dense_on_a_part():
    """At T = 20,000 the dense matrix of one utterance's first rows is compared."""
    steps, stride, sigma_square = 20000, 2, 5.0
    lengths = torch.tensor([steps])
    slots = downsampled_lengths(lengths, stride)
    scores = 1.5 * torch.randn(1, steps, dtype=torch.float64)
    positions = position_steps(scores, lengths, slots)
    x = torch.randn(1, steps, 4)
    ours = sparse_rows(positions, lengths, slots, sigma_square, 10000).apply(x)
    slot = torch.arange(0, 10000, 97, dtype=torch.float64)
    logits = -sigma_square * (slot[:, None] - positions[0][None]).square()
    expected = torch.softmax(logits, 1) @ x[0].double()
    torch.testing.assert_close(ours[0, ::97].double(), expected, atol=1e-6, rtol=0)


def test_gradcheck_and_a_clear_error_for_second_order():
    lengths = torch.tensor([11, 6, 1])
    slots = downsampled_lengths(lengths, 2.5)
    positions = position_steps(torch.randn(3, 11).double(), lengths, slots)
    positions.requires_grad_()
    x = torch.randn(3, 11, 2, dtype=torch.float64, requires_grad=True)

    def run(positions, x):
        rows = sparse_rows(positions, lengths, slots, 1.0, 5, torch.float64)
        return rows.apply(x)

    assert torch.autograd.gradcheck(run, (positions, x))
    with pytest.raises(RuntimeError, match="second-order gradients"):
        torch.autograd.grad(run(positions, x).sum(), x, create_graph=True)


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
    assert slot_windows(ranges, 100) == [(0, 5, 20)]
    assert slot_windows(ranges, 5) == [(0, 3, 4), (3, 4, 5), (4, 5, 11)]


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
