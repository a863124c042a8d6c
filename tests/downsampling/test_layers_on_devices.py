"""Where a layer runs must not matter: every method, on the CPU and on a GPU.

The bodies are the same for both, so that a machine without a GPU tests their logic.
With one: ``python -m pytest -m cuda tests/downsampling tests/plugin``, once as it is
and once with ``ADASTRIDE_TRITON=0``.
"""

import itertools

import pytest
import torch

from espnet_adastride import available_downsamplers, build_downsampler
from espnet_adastride.downsampling import rows
from tests.devices import (
    TOLERANCE,
    TinyModel,
    close,
    every_device,
    exact_float32,
    gpu_waits,
    layer_for,
    run,
    start_method,
    tiny_batch,
    train_rank,
)

SIZE = 64
LENGTHS = (700, 699, 412, 31, 2, 1, 0)

every_method = pytest.mark.parametrize("name", available_downsamplers())
ADAPTIVE = ("adastride", "adastride_f")
adaptive = pytest.mark.parametrize("name", ADAPTIVE)

#: how often the host waits for the GPU in a forward at T = 700: (numbers read from it,
#: and whether arrays are copied to it, for which PyTorch waits too). Methods that are
#: not named never wait, which is what a CUDA graph needs; no backward does.
#: adastride, adastride_f: the number of entries of the rows; not below DENSE_UP_TO, and
#: not with Triton kernels.
WAITS = {
    "adastride": (1, False),
    "adastride_f": (1, False),
    "random_strides": (1, False),
    "spectral_pool": (1, True),  # the lengths, since every one has an FFT of its own
    # and the learned stride: for the batch, its width, and every length but 0
    "diff_stride": (9, True),
}


#: how far positions may be apart in float32, in slots of 350 at most: the scores of
#: adastride's kind are summed in float64 in any dtype, others are not
POSITIONS = {"cif": 1e-4}


def by_kernels(device):
    """Return whether AdaStride runs by Triton kernels, which do not wait."""
    kernels_for = getattr(rows, "kernels_for", lambda x: None)
    return kernels_for(torch.zeros(1, device=device)) is not None


def batch(device, dtype=torch.float32, lengths=LENGTHS, size=SIZE):
    """Return x (B, T, D) with NaN in the padding, and lengths."""
    generator = torch.Generator().manual_seed(2)
    x = torch.randn(len(lengths), max(lengths), size, generator=generator).to(dtype)
    for row, n in zip(x, lengths):
        row[n:] = torch.nan
    return x.to(device), torch.tensor(lengths, device=device)


def strides_of(name):
    """Return the strides that are tried: an odd and a real one where there may be."""
    strides = [2, 3, 2.7] if name not in ("lift_pool",) else [2, 4]
    for stride in strides:
        try:
            build_downsampler(name, SIZE, stride)
        except ValueError:
            continue
        yield stride


@every_device
@every_method
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_forward_and_backward_are_those_of_the_cpu_in_float64(name, dtype, device):
    for stride in strides_of(name):
        x, lengths = batch("cpu", dtype)
        # the same numbers, rounded to the dtype under test
        rounded = layer_for(name, SIZE, stride, dtype=dtype)
        reference = run(rounded.double(), x.double(), lengths)
        layer = layer_for(name, SIZE, stride, device, dtype)
        with exact_float32():
            result = run(layer, x.to(device), lengths.to(device))
        limit = TOLERANCE[dtype]
        (out, grad, grads), (expected, expected_grad, expected_grads) = (
            result,
            reference,
        )
        assert out.output.device.type == device and out.output.dtype == dtype
        assert out.lengths.tolist() == expected.lengths.tolist()
        close(out.output, expected.output, limit, f"{stride}: output")
        close(grad, expected_grad, limit, f"{stride}: gradient of x")
        for key, value in expected_grads.items():
            close(grads[key], value, 10 * limit, f"{stride}: gradient of {key}")
        if expected.positions is not None:
            assert out.positions.dtype == torch.float64
            torch.testing.assert_close(
                out.positions.cpu(),
                expected.positions,
                atol=POSITIONS.get(name, 1e-9) if dtype == torch.float32 else 1e-9,
                rtol=0,
            )
        if expected.aux_loss is not None:
            close(out.aux_loss, expected.aux_loss, 10 * limit, f"{stride}: aux_loss")


@every_device
@every_method
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_autocast_leaves_positions_in_float64(name, dtype, device):
    x, lengths = batch("cpu")
    # zeros: a convolution would spread NaN, and `exact` reads x as it is
    x = x.nan_to_num().to(dtype)
    exact = layer_for(name, SIZE, 2)(x.float(), lengths)
    layer = layer_for(name, SIZE, 2, device)
    for given in (x, x.float()):  # behind another layer, and as it comes
        given = given.to(device).requires_grad_()
        with torch.autocast(device, dtype=dtype):
            out = layer(given, lengths.to(device))
        # 8 bits in bfloat16, 11 in float16, of every product's operands
        limit = 2e-2 if dtype == torch.bfloat16 else 3e-3
        close(out.output, exact.output, limit, "output")
        out.output.float().square().sum().backward()
        assert given.grad.isfinite().all()
        if exact.positions is not None:
            assert out.positions.dtype == torch.float64
            limit = POSITIONS.get(name, 1e-9)
            torch.testing.assert_close(
                out.positions.cpu(), exact.positions, atol=limit, rtol=0
            )


@every_device
@every_method
def test_the_host_waits_as_often_as_documented(name, device, host_waits):
    reads, uploads = WAITS.get(name, (0, False))
    if name in ADAPTIVE and by_kernels(device):
        reads = 0
    layer = layer_for(name, SIZE, 2, device)
    x, lengths = batch(device)
    run(layer, x, lengths)  # what is done once
    if device == "cpu":
        host_waits.scalars.clear(), host_waits.lists.clear()
        with host_waits as waits:
            layer(x.requires_grad_(), lengths)
        assert len(waits.scalars) + len(waits.lists) == reads
        return
    x.requires_grad_()
    with gpu_waits() as waits:
        out = layer(x, lengths)
    losses = [t.sum() for t in (out.output, out.aux_loss) if t is not None]
    with gpu_waits() as later:
        torch.autograd.backward(losses)
    assert not later, later
    if uploads:
        assert len(waits) >= reads
    else:
        assert len(waits) == reads, waits


@every_device
@every_method
def test_two_runs_are_bit_identical(name, device, monkeypatch):
    # the choice of cuDNN's algorithms is not this project's
    monkeypatch.setattr(torch.backends.cudnn, "deterministic", True)
    for lengths in (LENGTHS, (3000,)):
        x, lengths = batch(device, lengths=lengths)
        layer = layer_for(name, SIZE, 2, device)
        (first, grad, grads), (second, other_grad, other_grads) = (
            run(layer, x, lengths) for _ in range(2)
        )
        assert torch.equal(first.output, second.output)
        assert torch.equal(grad, other_grad)
        for key, value in grads.items():
            assert torch.equal(value, other_grads[key]), key
        if first.positions is not None:
            assert torch.equal(first.positions, second.positions)


@every_device
@adaptive
def test_the_way_back_up(name, device):
    x, lengths = batch("cpu", torch.float64, LENGTHS[:-1])
    layer = layer_for(name, SIZE, 2, dtype=torch.float64, score_bound=1.0)
    results = []
    for where in ("cpu", device):
        layer = layer.to(where)
        out = layer(x.to(where), lengths.to(where))
        frames = out.output.detach().requires_grad_()
        up = layer.upsample(frames, lengths.to(where), x.size(1), out.positions)
        up.square().sum().backward()
        results.append((up, frames.grad))
    for value, reference, what in zip(*reversed(results), ("frames", "gradient")):
        close(value, reference, TOLERANCE[torch.float64], what)


@every_device
@every_method
def test_one_long_utterance_in_chunks(name, device):
    layer = layer_for(name, SIZE, 2, device, torch.float64)
    x, lengths = batch(device, torch.float64, (2001,))
    expected = layer(x, lengths)
    out = layer.in_chunks(lambda: x.split([777, 1, 1223], dim=1), 2001)
    output = torch.cat(list(out.output()), dim=1)
    assert output.device.type == device
    close(output, expected.output, TOLERANCE[torch.float64], "output")
    if expected.positions is not None:
        # one sum over time or several: the order of additions may differ
        torch.testing.assert_close(out.positions, expected.positions, atol=1e-9, rtol=0)


@every_device
@pytest.mark.parametrize("name", ["adastride", "adastride_f", "avg_pool", "stack"])
def test_a_batch_whose_elements_int32_cannot_count(name, device):
    """On a GPU with more than 2^31 elements of x; on the CPU the body alone."""
    rows, steps, size = (4, 512, 16) if device == "cpu" else (66, 65536, 512)
    if device == "cuda":
        free, _ = torch.cuda.mem_get_info()
        needed = 24 * rows * steps * size  # x and dx, both in float32, too, z, dz
        if free < needed:
            pytest.skip(f"needs {needed / 2**30:.0f} GiB, {free / 2**30:.0f} are free")
        assert rows * steps * size > 2**31
    layer = layer_for(name, size, 2, device)
    generator = torch.Generator(device).manual_seed(3)
    x = torch.empty(rows, steps, size, device=device, dtype=torch.bfloat16)
    for row in x:  # no float32 copy of it all
        row.copy_(torch.randn(steps, size, generator=generator, device=device))
    lengths = torch.full((rows,), steps, device=device)
    lengths[-2] = steps // 2 + 1
    x.requires_grad_()
    layer.zero_grad(set_to_none=True)
    with torch.autocast(device, dtype=torch.bfloat16):
        out = layer(x, lengths)
    out.output.float().square().mean(dim=(1, 2)).sum().backward()
    for row in (0, -2, -1):  # the last ones' addresses are beyond 2^31
        alone = x.detach()[row, : lengths[row]].clone().unsqueeze(0).requires_grad_()
        with torch.autocast(device, dtype=torch.bfloat16):
            one = layer(alone, lengths[row].view(1))
        padded = out.output.size(1) * size
        (one.output.float().square().sum() / padded).backward()
        width = one.output.size(1)
        # equal but for the order of sums; bfloat16 rounds at 2^-8
        close(out.output[row, :width], one.output[0], 5e-3, f"{row}: output")
        close(x.grad[row, : lengths[row]], alone.grad[0], 1e-2, f"{row}: gradient")
        assert not out.output[row, width:].any()
        assert not x.grad[row, lengths[row] :].any()


def recorded(function, device):
    """Return a function that repeats the calls of ``function``: a CUDA graph."""
    if device == "cpu":
        return function
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        for _ in range(3):
            function()
    torch.cuda.current_stream().wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        function()
    return graph.replay


@every_device
@every_method
def test_a_recorded_step_repeats_itself_on_new_data(name, device):
    waits = name in WAITS and not (name in ADAPTIVE and by_kernels(device))
    if waits and name != "adastride":
        pytest.skip("its host waits, see WAITS: it cannot be recorded")
    steps = 100 if waits else 700  # below DENSE_UP_TO adastride does not wait
    layer = layer_for(name, SIZE, 2, device)
    given, lengths = batch(device, lengths=(steps, steps - 60))
    given = given.nan_to_num()
    x, n = given.clone().requires_grad_(), lengths.clone()
    results = {}

    def step():
        layer.zero_grad(set_to_none=True)
        x.grad = None
        out = layer(x, n)
        out.output.square().sum().backward()
        results.update(output=out.output.detach(), grad=x.grad)

    again = recorded(step, device)
    for shift in (0, 17):
        with torch.no_grad():
            x.copy_(given.roll(shift, dims=1))
            n.copy_(lengths - shift)
        again()
        got = {key: value.clone() for key, value in results.items()}
        fresh = given.roll(shift, dims=1).requires_grad_()
        out = layer(fresh, lengths - shift)
        out.output.square().sum().backward()
        close(got["output"], out.output, 1e-6, "output")
        close(got["grad"], fresh.grad, 1e-6, "gradient")


@pytest.mark.slow
@every_device
@pytest.mark.parametrize(
    "name", ["adastride", "adastride_f", "avg_pool", "strided_conv"]
)
def test_compiled_is_the_same_function(name, device):
    torch._dynamo.reset()
    layer = layer_for(name, SIZE, 2, device)
    # on the CPU the compiler's front end alone: no C++ compiler, seconds
    backend = "aot_eager" if device == "cpu" else "inductor"
    compiled = torch.compile(layer, backend=backend)
    for lengths in ((700, 640), (700, 523)):
        x, lengths = batch(device, lengths=lengths)
        with exact_float32():
            (out, grad, grads), (expected, expected_grad, expected_grads) = (
                run(function, x, lengths) for function in (compiled, layer)
            )
        close(out.output, expected.output, 1e-6, "output")
        close(grad, expected_grad, 1e-5, "gradient of x")
        for key, value in expected_grads.items():
            close(grads[f"_orig_mod.{key}"], value, 1e-4, key)


@every_device
@adaptive
def test_gradients_of_distributed_processes_are_their_mean(name, device, tmp_path):
    world = min(torch.cuda.device_count(), 2) if device == "cuda" else 2
    answer = tmp_path / "gradients.pt"
    torch.multiprocessing.start_processes(
        train_rank,
        (world, device, str(tmp_path / "store"), name, str(answer)),
        nprocs=world,
        start_method=start_method(),
    )
    model = TinyModel(name)
    for rank in range(world):
        (model(*tiny_batch(rank)) / world).backward()
    grads = torch.load(answer)
    for key, parameter in model.named_parameters():
        close(grads[key], parameter.grad, 1e-4, key)


@every_device
def test_halves_and_large_scores(device):
    """What a GPU's own exponentials may do: no NaN where scores are extreme."""
    for name, scale in itertools.product(ADAPTIVE, (30.0, 1e4)):
        layer = layer_for(name, SIZE, 2, device)
        with torch.no_grad():
            layer.score.weight *= scale
        x, lengths = batch(device)
        out, grad, grads = run(layer, x, lengths)
        for value in (out.output, out.positions, grad, grads["score.weight"]):
            assert value.isfinite().all()
        jumps = out.positions.diff(dim=1)
        assert (jumps >= 0).all()
        last = (out.lengths - 1).clamp(min=0).double()
        torch.testing.assert_close(out.positions[:, -1], last, atol=1e-6, rtol=0)
