"""The Triton kernels equal the dense definition in float64.

Run by test_triton_rows.py on the CPU, by Triton's interpreter; on a GPU by

    ADASTRIDE_TRITON=1 python -m pytest tests/downsampling/triton_cases.py

Not collected by itself: Triton reads TRITON_INTERPRET when it is imported.
"""

import math
import os

import numpy as np
import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from espnet_adastride import (
    AdaStride,
    AdaStrideF,
    alignment_matrix,
    build_downsampler,
    downsampled_lengths,
    position_steps,
    positioning_loss,
)
from espnet_adastride.downsampling import adastride as adastride_module
from espnet_adastride.downsampling import rows as rows_module
from espnet_adastride.downsampling import triton_rows
from espnet_adastride.downsampling.adastride import bound_scores

DEVICE = torch.device("cpu" if triton_rows.INTERPRETED else "cuda")

METHODS = {
    "adastride": (AdaStride, {}),
    "zeros": (AdaStrideF, {"empty_slots": "zeros"}),
    "nearest": (AdaStrideF, {"empty_slots": "nearest"}),
}
every_method = pytest.mark.parametrize("method", METHODS)


@pytest.fixture(autouse=True)
def numpy_of_today(monkeypatch):
    """Triton 3.6's interpreter converts arrays of one element, NumPy 2.4 does not."""
    if triton_rows.INTERPRETED:
        from triton.runtime import interpreter

        patch = interpreter._patch_lang_tensor

        def patched(tensor, *scope):
            patch(tensor, *scope)
            tensor.__index__ = lambda self: int(self.handle.data.item())

        monkeypatch.setattr(interpreter, "_patch_lang_tensor", patched)


@pytest.fixture
def small_tiles(monkeypatch):
    """Several programs, blocks of time and chunks of features, at small sizes too."""
    for name, value in (("_TILE", 64), ("_MAX_FEATURES", 4), ("_MAX_STEPS", 32)):
        monkeypatch.setattr(triton_rows, name, value)


@pytest.fixture(autouse=True)
def kernels_are_used(monkeypatch):
    """Count what the kernels resample: a test of the other path would prove nothing."""
    used = []
    resample = triton_rows.resample

    def counted(*args):
        used.append(args)
        return resample(*args)

    monkeypatch.setattr(triton_rows, "resample", counted)
    yield used
    assert used


def build(method, size, stride, dtype=torch.float32, **conf):
    """A layer with random scores and preferences."""
    layer_class, more = METHODS[method]
    layer = layer_class(size, stride, **{**more, **conf}).to(DEVICE, dtype)
    torch.nn.init.normal_(layer.score.weight, std=0.7)
    if layer.content_bound is not None:
        torch.nn.init.normal_(layer.content.weight, std=0.7)
    return layer


def scores_of(layer, x):
    """Scores of x, zero in the padding, by the score network or without one."""
    if layer.score_network is not None:
        network = layer.score_network
        hidden = torch.nn.functional.conv1d(
            x.transpose(1, 2),
            network.weight.to(x.dtype),
            network.bias.to(x.dtype),
            padding=layer.score_context // 2,
            groups=network.groups,
        )
        x = hidden.relu().transpose(1, 2)
    return x @ layer.score_weight(x.dtype)


def dense(layer, x, lengths):
    """z, positions and loss by the definition, in float64."""
    width = downsampled_lengths(x.size(1), layer.stride)
    slots = downsampled_lengths(lengths, layer.stride)
    x = adastride_module.zero_padding(x.double(), lengths)
    scores = bound_scores(scores_of(layer, x), lengths, layer.score_bound)
    positions = position_steps(scores, lengths, slots)
    alignment = alignment_matrix(positions, lengths, slots, layer.sigma_square, width)
    if isinstance(layer, AdaStrideF):
        number = torch.arange(width, device=x.device)
        own = torch.round(positions.detach()).unsqueeze(1) == number[:, None]
        own &= adastride_module.length_mask(lengths, x.size(1)).unsqueeze(1)
        own &= (number < slots[:, None]).unsqueeze(2)
        distance = (number[:, None] - positions.unsqueeze(1)).square()
        logits = (-layer.sigma_square * distance).masked_fill(~own, -torch.inf)
        full = own.any(dim=2, keepdim=True)
        within = torch.softmax(logits.masked_fill(~full, 0.0), dim=2) * full
        if layer.empty_slots == "nearest":
            # of steps tied at one position, the one that rows.py takes
            _, _, _, nearest, _ = rows_module._nearest_step(positions, lengths, width)
            filled = torch.nn.functional.one_hot(nearest, x.size(1)).to(within)
            valid = (number < slots[:, None]).unsqueeze(2)
            within = torch.where(full, within, filled * valid)
        alignment = within
    if layer.content_bound is not None:
        bound, preference = layer.content_bound, x @ layer.content.weight[0].double()
        alignment = (
            alignment * torch.exp(bound * torch.tanh(preference / bound))[:, None]
        )
        total = alignment.sum(dim=2, keepdim=True)
        alignment = alignment / total.where(total > 0, torch.ones_like(total))
    return alignment @ x, positions, positioning_loss(positions, lengths)


def compare(layer, x, lengths, limits=(1e-6, 1e-5), half=0.0):
    """Compare outputs and the gradients of everything with the definition's."""
    lengths = torch.tensor(lengths, device=DEVICE)
    width = downsampled_lengths(x.size(1), layer.stride)
    factor = torch.randn(x.size(0), width, x.size(2), device=DEVICE).to(x.dtype)
    ramp = torch.linspace(-1, 1, x.size(1), device=DEVICE, dtype=torch.float64)

    def run(function, dtype):
        inputs = x.to(DEVICE, dtype).requires_grad_()
        z, positions, loss = function(inputs)
        total = (z * factor.to(z.dtype)).sum(dtype=torch.float64)
        total = total + 3 * loss + (positions * ramp).sum()
        grads = torch.autograd.grad(total, (inputs, *layer.parameters()))
        return [t.detach().double() for t in (z, positions, loss, *grads)]

    def by_kernels(inputs):
        out = layer(inputs, lengths)
        assert (
            out.lengths.tolist() == downsampled_lengths(lengths, layer.stride).tolist()
        )
        assert out.output.dtype == x.dtype and out.positions.dtype == torch.float64
        return out.output, out.positions, out.aux_loss

    ours = run(by_kernels, x.dtype)
    exact = run(lambda inputs: dense(layer, inputs, lengths), torch.float64)
    # a gradient's size, or that of its terms where they cancel
    jump = max(1.0, exact[1].diff(dim=1).amax().item()) if x.size(1) > 1 else 1.0
    terms = layer.sigma_square * jump * factor.double().abs().max().item()
    terms *= max(1.0, x.abs().max().item() / 4)
    names = ("z", "p", "loss", "dx", *dict(layer.named_parameters()))
    # a score network, and what it is given, is float32
    limit_of_positions = 1e-9 if layer.is_plain() else 1e-5
    for name, mine, theirs in zip(names, ours, exact):
        assert mine.isfinite().all(), name
        error = (mine - theirs).abs()
        if name == "p":
            assert error.max() <= limit_of_positions, name
            steps = mine.diff(dim=1)
            assert steps.numel() == 0 or steps.min() >= 0
        elif name in ("z", "loss"):
            assert (
                error <= limits[0] * (1 + x.abs().max()) + half * theirs.abs()
            ).all()
        else:
            size = max(theirs.abs().max().item(), 0.01 * terms)
            # with a network, dx is a sum of two parts that are each rounded
            rounding = theirs.abs() + (0.0 if layer.is_plain() else size)
            assert (error <= limits[1] * size + half * rounding).all(), (
                name,
                error.max().item(),
                size,
            )
    return ours


#: the interpreter takes 10,000 times a GPU's time
RAGGED = [43, 32, 2, 1, 0]


@pytest.mark.parametrize(
    "method, stride, sigma_square",
    [
        ("adastride", 1, 5.0),
        ("adastride", 2, 0.05),
        ("adastride", 2, 200.0),
        ("adastride", 2.5, 5.0),
        ("adastride", 7, 0.5),
        ("zeros", 1, 5.0),
        ("zeros", 2.5, 200.0),
        ("nearest", 1, 0.05),
        ("nearest", 2, 5.0),
        ("nearest", 7, 50.0),
    ],
)
def test_equals_the_definition(method, stride, sigma_square, small_tiles):
    layer = build(method, 5, stride, sigma_square=sigma_square)
    compare(layer, torch.randn(5, 43, 5), RAGGED)


@pytest.mark.parametrize(
    "method, score_bound, score_rate", [("adastride", 1.0, 1.0), ("nearest", 0.3, 4.0)]
)
def test_bounded_scores(method, score_bound, score_rate, small_tiles):
    layer = build(method, 5, 2.5, score_bound=score_bound, score_rate=score_rate)
    compare(layer, 10 * torch.randn(5, 43, 5), RAGGED)


@pytest.mark.parametrize(
    "method, conf",
    [
        ("adastride", {"score_bound": "sigmoid", "score_context": 5}),
        ("adastride", {"score_hidden": 6, "score_context": 3, "score_bound": 1.0}),
        ("adastride", {"content_bound": 2.0}),
        ("nearest", {"score_hidden": 6, "score_bound": "sigmoid", "score_rate": 2.0}),
        ("zeros", {"content_bound": 1.0, "score_context": 3, "score_bound": "sigmoid"}),
    ],
)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_score_networks_and_content(method, conf, dtype, small_tiles):
    """Run before the kernels; bfloat16 is scored in float32."""
    layer = build(method, 5, 2.5, **conf)
    half = 2**-7 if dtype == torch.bfloat16 else 0.0
    x = torch.randn(5, 43, 5).to(dtype)
    compare(layer, x, RAGGED, limits=(2e-5, 1e-4), half=half)


def scores_like(kind, steps):
    """Scores for the first feature: ties, jumps, and sizes that overflow an exp."""
    scores = torch.randn(steps)
    if kind == "uniform":
        return torch.zeros(steps)
    if kind == "half tied at one position":
        scores[steps // 4 : steps // 4 + steps // 2] = -60.0
    if kind == "tied here and there":
        scores[torch.rand(steps) > 0.5] = -60.0
    if kind == "one jump":
        scores[:] = -40.0
        scores[steps // 2] = 0.0
    if kind == "soft jump":  # positions a thousandth apart, 25 slots from the others
        scores = 0.3 * scores - 9.0
        scores[steps // 2] = 0.0
    if kind == "large":
        scores *= 3e4
    return scores


@pytest.mark.parametrize(
    "method, kind, stride",
    [
        ("adastride", "uniform", 3),
        ("adastride", "half tied at one position", 3),
        ("adastride", "tied here and there", 2),
        ("adastride", "one jump", 1),
        ("adastride", "soft jump", 1),
        ("adastride", "large", 2),
        ("zeros", "uniform", 3),
        ("zeros", "half tied at one position", 1),
        ("zeros", "large", 1),
        ("nearest", "one jump", 1),
        ("nearest", "tied here and there", 3),
    ],
)
def test_ties_jumps_and_large_scores(method, kind, stride, small_tiles):
    layer = build(method, 3, stride)
    with torch.no_grad():
        layer.score.weight.copy_(torch.tensor([[1.0, 0.0, 0.0]]))
    x = torch.randn(2, 50, 3)
    x[:, :, 0] = scores_like(kind, 50)
    compare(layer, x, [50, 48])


@pytest.mark.parametrize("method", ["zeros", "nearest"])
def test_halves_go_to_the_even_slot(method):
    """Positions 0, 1/2, 1, 3/2, 2, exactly: slots 0, 0, 1, 2, 2."""
    layer = build(method, 2, 2)
    torch.nn.init.zeros_(layer.score.weight)
    x = torch.randn(1, 5, 2)
    z = compare(layer, x, [5])[0].cpu()
    torch.testing.assert_close(z[0, 1], x[0, 2].double())
    weight = math.exp(-5 / 4)
    last = (weight * x[0, 3] + x[0, 4]) / (1 + weight)
    torch.testing.assert_close(z[0, 2], last.double(), atol=1e-6, rtol=0)


@pytest.mark.parametrize(
    "method, dtype, size",
    [
        ("adastride", torch.float16, 24),
        ("adastride", torch.bfloat16, 130),
        ("adastride", torch.float32, 1),
        ("adastride", torch.float32, 300),
        ("adastride", torch.float64, 24),
        ("zeros", torch.float16, 7),
        ("nearest", torch.bfloat16, 24),
        ("nearest", torch.float64, 5),
    ],
)
def test_all_dtypes_and_widths(method, dtype, size):
    layer = build(method, size, 2, torch.float64 if dtype == torch.float64 else None)
    with torch.no_grad():
        layer.score.weight /= math.sqrt(size)
    # the interpreter cuts bfloat16 off where a GPU rounds
    bfloat16 = 2**-7 if triton_rows.INTERPRETED else 2**-8
    half = {torch.float16: 2**-11, torch.bfloat16: bfloat16}.get(dtype, 0.0)
    limits = (1e-12, 1e-9) if dtype == torch.float64 else (1e-6, 1e-5)
    compare(layer, torch.randn(2, 40, size).to(dtype), [40, 33], limits, half)


def test_thousands_of_equal_terms_lose_nothing():
    """Summed one after the other in float32, 700 terms lose more."""
    layer = build("adastride", 1, 1000.0)
    torch.nn.init.zeros_(layer.score.weight)
    x = 1 + 1e-3 * torch.randn(1, 700, 1)
    compare(layer, x, [700], limits=(1e-7, 1e-5))


class Largest(TorchDispatchMode):
    """The bytes of the largest tensor that an operator has returned."""

    bytes = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        result = func(*args, **(kwargs or {}))
        for tensor in torch.utils._pytree.tree_leaves(result):
            if isinstance(tensor, torch.Tensor):
                self.bytes = max(self.bytes, tensor.untyped_storage().nbytes())
        return result


def test_the_worst_case_holds_nothing_of_the_alignments_size(monkeypatch):
    """Half of the steps tied far from most slots: T' T / 2 entries in the alignment."""
    steps = 120
    layer = build("adastride", 2, 2)
    with torch.no_grad():
        layer.score.weight.copy_(torch.tensor([[1.0, 0.0]]))
    x = torch.randn(1, steps, 2)
    x[:, :, 0] = scores_like("one jump", steps)
    compare(layer, x, [steps])
    lengths = torch.tensor([steps], device=DEVICE)
    inputs = x.to(DEVICE).requires_grad_()
    saved = []

    def pack(tensor):
        saved.append(tensor.numel())
        return tensor

    with Largest() as largest:
        with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
            out = layer(inputs, lengths)
        assert (out.positions[0, : steps // 2] < 1).all()
        (out.output.sum() + out.aux_loss).backward()
    entries = steps // 2 * steps // 2
    assert largest.bytes <= 8 * x.numel() < entries
    assert sum(saved) < 12 * x.numel() < entries


@pytest.fixture
def loads_of_nan(monkeypatch):
    """Count the NaN that kernels load; what is read and not used counts too."""
    found = []
    if triton_rows.INTERPRETED:
        from triton.runtime.interpreter import InterpreterBuilder

        load = InterpreterBuilder.create_masked_load

        def watched(self, pointers, mask, *more):
            result = load(self, pointers, mask, *more)
            if result.data.dtype.kind == "f":
                read = np.broadcast_to(mask.data, result.data.shape)
                found.append(int(np.isnan(result.data[read]).sum()))
            return result

        monkeypatch.setattr(InterpreterBuilder, "create_masked_load", watched)
    return found


@pytest.mark.parametrize(
    "method, garbage", [("adastride", math.nan), ("zeros", math.nan)]
)
def test_padding_is_never_read(method, garbage, small_tiles, loads_of_nan):
    layer = build(method, 5, 2, score_bound=1.0)
    lengths = torch.tensor(RAGGED, device=DEVICE)
    x = torch.randn(5, 43, 5, device=DEVICE)
    padded = x.clone()
    for row, n in zip(padded, RAGGED):
        row[n:] = garbage

    def run(x):
        x = x.clone().requires_grad_()
        out = layer(x, lengths)
        loss = out.output.square().sum() + out.aux_loss
        grads = torch.autograd.grad(loss, (x, layer.score.weight))
        return out.output, out.positions, out.aux_loss, *grads

    clean, ours = run(x), run(padded)
    assert sum(loads_of_nan) == 0
    assert loads_of_nan or not triton_rows.INTERPRETED
    for one, other in zip(clean, ours):
        assert torch.equal(one, other)
    output, _, _, dx, _ = ours
    for row, grad, n, m in zip(output, dx, RAGGED, [22, 16, 1, 1, 0]):
        assert (row[m:] == 0).all() and (grad[n:] == 0).all()
        if n:
            assert row[:m].abs().sum() > 0 and grad[:n].abs().sum() > 0


@pytest.mark.parametrize("method", ["adastride", "nearest"])
def test_alone_equals_padded_and_twice_gives_the_same_bits(method, small_tiles):
    layer = build(method, 5, 2.5)
    x, n = torch.randn(3, 40, 5, device=DEVICE), [40, 23, 1]
    first = layer(x, torch.tensor(n, device=DEVICE))
    again = layer(x, torch.tensor(n, device=DEVICE))
    assert torch.equal(first.output, again.output)
    assert torch.equal(first.positions, again.positions)
    for row, own, length in zip(first.output, x, n):
        alone = layer(own[None, :length], torch.tensor([length], device=DEVICE))
        got = row[: alone.output.size(1)]
        torch.testing.assert_close(got, alone.output[0], atol=1e-6, rtol=0)


@pytest.mark.parametrize(
    "name",
    [
        "dense_s2",
        "dense_s3_sharp",
        "dense_s4_wide_jumps",
        "dense_uniform",
        "fast_s2",
        "fast_s4_jumps",
    ],
)
def test_authors_outputs_and_gradients(name, golden_dir, kernels_are_used):
    case = np.load(golden_dir / f"{name}.npz")
    x = torch.tensor(case["x"], device=DEVICE, requires_grad=True)
    method = AdaStrideF if case["fast"] else AdaStride
    layer = method(
        x.size(2), case["stride"].item(), sigma_square=case["sigma_square"].item()
    ).to(DEVICE, torch.float64)
    with torch.no_grad():
        layer.score.weight.copy_(torch.tensor(case["weight"]).view(1, -1))
    out = layer(x, torch.tensor(case["lengths"], device=DEVICE))
    factor = torch.tensor(case["grad_out"], device=DEVICE)
    ((out.output * factor).sum() + out.aux_loss).backward()
    pairs = {
        "z": out.output,
        "vp_loss": out.aux_loss,
        "grad_x": x.grad,
        "grad_weight": layer.score.weight.grad,
        "z_lengths": out.lengths,
    }
    for key, ours in pairs.items():
        ours = ours.detach().cpu().numpy().reshape(case[key].shape)
        np.testing.assert_allclose(ours, case[key], atol=1e-9, rtol=0)


def test_gradcheck():
    layer = build("adastride", 2, 2.5, torch.float64, sigma_square=2.0, score_bound=2.0)
    x = torch.randn(2, 6, 2, dtype=torch.float64, device=DEVICE, requires_grad=True)
    lengths = torch.tensor([6, 4], device=DEVICE)

    def run(x, weight):
        state = {"score.weight": weight}
        out = torch.func.functional_call(layer, state, (x, lengths))
        return out.output, out.positions, out.aux_loss

    # along random directions: all elements take 100 runs, and compare() has them
    assert torch.autograd.gradcheck(
        run, (x, layer.score.weight), atol=1e-6, fast_mode=True
    )


@pytest.mark.skipif(triton_rows.INTERPRETED, reason="the interpreter is on the host")
@every_method
def test_the_host_waits_for_nothing(method, host_waits):
    layer = build(method, 8, 2, score_bound=1.0)
    x = torch.randn(2, 300, 8, device=DEVICE, requires_grad=True)
    lengths = torch.tensor([300, 211], device=DEVICE)
    torch.cuda.set_sync_debug_mode("error")
    try:
        with host_waits as waits:
            out = layer(x, lengths)
            (out.output.sum() + out.aux_loss).backward()
    finally:
        torch.cuda.set_sync_debug_mode("default")
    assert waits.scalars == [] and waits.lists == []


@pytest.mark.parametrize("method", ["adastride"])
def test_what_needs_no_gradient_gets_none(method):
    layer, lengths = build(method, 4, 2), torch.tensor([30, 11], device=DEVICE)
    x = torch.randn(2, 30, 4, device=DEVICE)

    def gradients(of_x, of_weight):
        inputs = x.clone().requires_grad_(of_x)
        layer.score.weight.requires_grad_(of_weight)
        layer.score.weight.grad = None
        out = layer(inputs, lengths)
        (out.output.square().sum() + out.aux_loss).backward()
        layer.score.weight.requires_grad_(True)
        return inputs.grad, layer.score.weight.grad

    dx, dw = gradients(True, True)
    only_x, only_w = gradients(True, False), gradients(False, True)
    assert torch.equal(only_x[0], dx) and only_x[1] is None
    assert torch.equal(only_w[1], dw) and only_w[0] is None
    # the loss alone, the output alone
    inputs = x.clone().requires_grad_()
    layer.score.weight.data *= 3
    out = layer(inputs, lengths)
    assert out.aux_loss > 0
    (by_loss,) = torch.autograd.grad(out.aux_loss, inputs, retain_graph=True)
    (by_both,) = torch.autograd.grad(out.aux_loss + out.output.sum(), inputs)
    (by_output,) = torch.autograd.grad(layer(inputs, lengths).output.sum(), inputs)
    torch.testing.assert_close(by_loss + by_output, by_both, atol=1e-5, rtol=1e-5)
    assert by_loss.abs().max() > 1e-4
    exact = x.double().requires_grad_()
    loss = dense(layer, exact, lengths)[2]
    (by_definition,) = torch.autograd.grad(loss, exact)
    torch.testing.assert_close(by_loss.double(), by_definition, atol=1e-6, rtol=1e-5)


@pytest.mark.parametrize("method", ["adastride"])
def test_no_grad_inference_mode_autocast_and_strided_input(method):
    layer, lengths = build(method, 6, 2), torch.tensor([30, 11], device=DEVICE)
    x = torch.randn(2, 6, 30, device=DEVICE).transpose(1, 2)  # as a convolution gives
    out = layer(x, lengths)
    with torch.no_grad():
        free = layer(x, lengths)
    with torch.inference_mode():
        inference = layer(x, lengths)
    with torch.autocast(DEVICE.type, dtype=torch.bfloat16):
        auto = layer(x, lengths)
    for other in (free, inference, auto):
        assert torch.equal(other.output, out.output)
        assert torch.equal(other.positions, out.positions)
        assert other.aux_loss == out.aux_loss
    assert not free.output.requires_grad and out.output.requires_grad
    inputs = x.detach().requires_grad_()
    (grad,) = torch.autograd.grad(layer(inputs, lengths).output.sum(), inputs)
    again = x.contiguous().requires_grad_()
    (same,) = torch.autograd.grad(layer(again, lengths).output.sum(), again)
    assert torch.equal(grad, same)


@pytest.mark.parametrize("method", ["adastride"])
def test_second_order_gradients_are_refused(method):
    x = torch.randn(1, 30, 4, device=DEVICE, requires_grad=True)
    out = build(method, 4, 2)(x, torch.tensor([30], device=DEVICE))
    with pytest.raises(RuntimeError, match="second-order gradients"):
        torch.autograd.grad(out.output.square().sum(), x, create_graph=True)


def test_the_output_may_be_changed_in_place():
    """As without the kernels: the backward does not read it."""
    x = torch.randn(1, 30, 4, device=DEVICE, requires_grad=True)
    out = build("adastride", 4, 2)(x, torch.tensor([30], device=DEVICE))
    out.output.relu_().sum().backward()
    assert x.grad.abs().sum() > 0


@pytest.mark.parametrize("conf", [{}, {"score_bound": "sigmoid", "score_context": 3}])
def test_compiled_gives_the_same(conf):
    """In one graph: ``fullgraph`` refuses a break."""
    layer = build("adastride", 8, 2, **conf)
    torch._dynamo.reset()
    compiled = torch.compile(layer, backend="aot_eager", fullgraph=True, dynamic=True)
    for steps in (20, 27):
        lengths = torch.tensor([steps, 17], device=DEVICE)
        x = torch.randn(2, steps, 8, device=DEVICE)

        def run(layer):
            inputs = x.clone().requires_grad_()
            out = layer(inputs, lengths)
            loss = out.output.square().sum() + out.aux_loss
            grads = torch.autograd.grad(loss, (inputs, layer_weight))
            return out.output, out.positions, *grads

        layer_weight = layer.score.weight
        for ours, eager in zip(run(compiled), run(layer)):
            torch.testing.assert_close(ours, eager, atol=1e-6, rtol=1e-6)


@pytest.mark.parametrize("method", ["adastride"])
def test_the_operators_keep_torch_librarys_rules(method):
    layer = build(method, 4, 2)
    x = torch.randn(2, 20, 4, device=DEVICE)
    lengths = torch.tensor([20, 7], device=DEVICE)
    out = layer.output_lengths(lengths)
    weight = layer.score_weight(x.dtype).detach()
    kind = layer.kernel_ranges(triton_rows)
    tests = ("test_schema", "test_faketensor")
    scores = torch.randn(2, 20, dtype=torch.float64, device=DEVICE)
    for by in ((weight, None), (None, scores)):
        forward = (x, *by, lengths, out, 10, 5.0, 1.0, kind)
        torch.library.opcheck(triton_rows._forward_operator, forward, test_utils=tests)
        z, positions, loss, *kept = triton_rows._forward(*forward)
        for of_positions, of_loss in ((None, loss), (positions, None)):
            backward = (x, by[0], lengths, out, [positions, *kept], z)
            want_weight = of_loss is None and by[0] is not None
            backward += (of_positions, of_loss, 5.0, 1.0, True, want_weight)
            torch.library.opcheck(
                triton_rows._backward_operator, backward, test_utils=tests
            )
    layer(x, lengths)  # which the fixture wants to see


def test_under_distributed_data_parallel(tmp_path):
    torch.distributed.init_process_group(
        "gloo" if DEVICE.type == "cpu" else "nccl",
        init_method=f"file://{tmp_path / 'store'}",
        rank=0,
        world_size=1,
    )
    try:
        layer = build("adastride", 4, 2)
        wrapped = torch.nn.parallel.DistributedDataParallel(layer)
        x = torch.randn(2, 30, 4, device=DEVICE)
        lengths = torch.tensor([30, 11], device=DEVICE)
        for model in (layer, wrapped):
            layer.score.weight.grad = None
            out = model(x, lengths)
            (out.output.square().sum() + out.aux_loss).backward()
            if model is layer:
                alone = layer.score.weight.grad.clone()
        torch.testing.assert_close(layer.score.weight.grad, alone)
    finally:
        torch.distributed.destroy_process_group()


def test_the_switch_and_what_the_kernels_do_not_take(monkeypatch, kernels_are_used):
    layer, lengths = build("adastride", 4, 2), torch.tensor([30], device=DEVICE)
    x = torch.randn(1, 30, 4, device=DEVICE)
    by_kernels = layer(x, lengths)
    assert len(kernels_are_used) == 1
    assert os.environ["ADASTRIDE_TRITON"] == "1"
    for switch, default, used in [
        ("0", True, False),
        ("", False, False),
        ("", True, True),
    ]:
        monkeypatch.setattr(rows_module, "TRITON_SWITCH", switch)
        monkeypatch.setattr(rows_module, "TRITON_BY_DEFAULT", default)
        kernels_are_used.clear()
        out = layer(x, lengths)
        assert bool(kernels_are_used) == used
        torch.testing.assert_close(out.output, by_kernels.output, atol=1e-6, rtol=0)
    monkeypatch.setattr(triton_rows, "INTERPRETED", not triton_rows.INTERPRETED)
    assert rows_module.kernels_for(x) is None


def test_what_places_steps_in_another_way_is_left_to_the_rows(kernels_are_used):
    x, lengths = torch.randn(2, 40, 4), torch.tensor([40, 31])
    layer = build_downsampler("random_strides", 4, 3).to(DEVICE)
    out = layer(x.to(DEVICE), lengths.to(DEVICE))
    assert not kernels_are_used
    scores = (x.to(torch.float64) @ layer.track.cpu().to(torch.float64)).to(DEVICE)
    drawn = layer.place(scores, lengths.to(DEVICE), out.lengths)
    torch.testing.assert_close(out.positions, drawn, atol=1e-6, rtol=0)
    layer = build("adastride", 4, 3, score_bound="sigmoid")
    out = layer(x.to(DEVICE), lengths.to(DEVICE))
    assert not kernels_are_used
    sizes = torch.sigmoid(
        x[0, 1:].to(torch.float64) @ layer.score_weight(x.dtype).cpu().double()
    )
    placed = 13 * sizes.cumsum(0) / sizes.sum()
    torch.testing.assert_close(out.positions[0, 1:].cpu(), placed, atol=1e-6, rtol=0)
    build("adastride", 4, 3)(x.to(DEVICE), lengths.to(DEVICE))  # the kernels are on
    assert kernels_are_used
