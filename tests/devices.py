"""The devices that tests run on: the CPU always, a GPU where there is one."""

import warnings
from contextlib import contextmanager

import pytest
import torch
from torch.nn.parallel import DistributedDataParallel

from espnet_adastride import build_downsampler

CUDA = pytest.param(
    "cuda",
    marks=[
        pytest.mark.cuda,
        pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA GPU"),
    ],
)
every_device = pytest.mark.parametrize("device", ["cpu", CUDA])

#: relative error |out - ref| / |ref| (Euclidean norms) against float64 on the CPU.
#: float32: rounding 6e-8 a term, sums of up to a few hundred terms and, in gradients,
#: two of them behind one another: a few 1e-6. float64: the same with 1e-16, and what
#: the rows cut off, 1e-16 of the largest weight. TF32 (3e-4) would fail.
TOLERANCE = {torch.float32: 2e-5, torch.float64: 1e-12}


def start_method():
    """Return how processes that compute gradients are started.

    A fork needs no imports. It loses the threads that autograd has beside a GPU, if
    this process has computed gradients before.
    """
    return "spawn" if torch.cuda.is_available() else "fork"


def relative_error(value, reference):
    """Return |value - reference| / |reference| as a float; 0 / 0 is 0, NaN stays."""
    value, reference = value.detach().cpu().double(), reference.detach().cpu().double()
    error, norm = (value - reference).norm().item(), reference.norm().item()
    return error if error == 0 or norm == 0 else error / norm


def close(value, reference, limit, what):
    """Assert that the relative error is at most the limit; a NaN is above any."""
    error = relative_error(value, reference)
    assert error <= limit, f"{what}: relative error {error:.3g} > {limit:.3g}"


@contextmanager
def exact_float32():
    """Keep convolutions and matrix products from TF32, PyTorch's default for cuDNN."""
    backends = (torch.backends.cudnn, torch.backends.cuda.matmul)
    before = [backend.allow_tf32 for backend in backends]
    for backend in backends:
        backend.allow_tf32 = False
    try:
        yield
    finally:
        for backend, value in zip(backends, before):
            backend.allow_tf32 = value


@contextmanager
def gpu_waits():
    """Give a list that gets an element for every time the host waits for the GPU."""
    waits = []
    torch.cuda.synchronize()
    mode = torch.cuda.get_sync_debug_mode()
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        torch.cuda.set_sync_debug_mode("warn")
        try:
            yield waits
        finally:
            torch.cuda.set_sync_debug_mode(mode)
    waits += [str(w.message) for w in caught if "synchronizing" in str(w.message)]


def layer_for(name, size, stride, device="cpu", dtype=torch.float32, **conf):
    """Build a layer whose learned numbers have left their neutral starting points.

    The scores vary as trained ones do. Scores of 0 would put steps exactly halfway
    between slots, where rounding decides which one is nearest: adastride_f would be
    compared with another function.
    """
    with torch.random.fork_rng(devices=[]), torch.no_grad():
        torch.manual_seed(1)
        layer = build_downsampler(name, size, stride, **conf)
        for parameter in layer.parameters():
            parameter += 0.5 / size**0.5 * torch.randn_like(parameter)
    return layer.to(device=device, dtype=dtype)


def run(layer, x, lengths):
    """Return output, x's gradient and the parameters' gradients of a weighted sum.

    The weights of the sum are fixed numbers, so that no gradient is zero by symmetry.
    """
    x = x.detach().clone().requires_grad_()
    layer.zero_grad(set_to_none=True)
    out = layer(x, lengths)
    count = out.output.numel()
    weights = torch.linspace(-1.0, 1.0, count, device=x.device, dtype=torch.float64)
    weights = torch.sin(37.0 * weights).view(out.output.shape)
    loss = (out.output * weights).sum()
    if out.aux_loss is not None:
        loss = loss + out.aux_loss
    loss.backward()
    grads = {key: parameter.grad for key, parameter in layer.named_parameters()}
    return out, x.grad, grads


class TinyModel(torch.nn.Module):
    """A layer and a projection, for DistributedDataParallel."""

    def __init__(self, name):
        super().__init__()
        self.layer = layer_for(name, 8, 2)
        torch.manual_seed(0)
        self.head = torch.nn.Linear(8, 3)

    def forward(self, x, lengths):
        out = self.layer(x, lengths)
        loss = self.head(out.output).square().mean()
        return loss if out.aux_loss is None else loss + out.aux_loss


def tiny_batch(rank):
    """Return the batch of one rank."""
    generator = torch.Generator().manual_seed(rank)
    x = torch.randn(2, 300, 8, generator=generator)
    return x, torch.tensor([300, 211])


def train_rank(rank, world, device, store, name, answer):
    """Do one backward as a rank of DistributedDataParallel; rank 0 saves gradients."""
    backend = "nccl" if device == "cuda" else "gloo"
    torch.set_num_threads(1)
    if device == "cuda":
        torch.cuda.set_device(rank)
    torch.distributed.init_process_group(
        backend, init_method=f"file://{store}", rank=rank, world_size=world
    )
    try:
        model = TinyModel(name).to(device)
        ids = [rank] if device == "cuda" else None
        ddp = DistributedDataParallel(model, device_ids=ids)
        with exact_float32():
            ddp(*(tensor.to(device) for tensor in tiny_batch(rank))).backward()
        if rank == 0:
            grads = {k: p.grad.cpu() for k, p in model.named_parameters()}
            torch.save(grads, answer)
    finally:
        torch.distributed.destroy_process_group()
