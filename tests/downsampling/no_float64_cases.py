"""No method makes a float64 tensor on a device that has none, and none is wrong there.

Run by test_no_float64.py in a process of its own: a device, once registered, stays.
"""

import copy

import pytest
import torch

from espnet_adastride import available_downsamplers, build_downsampler
from espnet_adastride.downsampling import output as output_module
from espnet_adastride.downsampling import stages
from espnet_adastride.downsampling.hnet import HNet
from tests.downsampling import device_without_float64 as other

# before the first backward pass (tests/conftest.py): autograd then looks for devices
other.device()

every_method = pytest.mark.parametrize("name", available_downsamplers())


@pytest.fixture
def device(monkeypatch):
    monkeypatch.setattr(output_module, "NO_FLOAT64", {other.TYPE})
    monkeypatch.setattr(stages, "NO_FLOAT64", {other.TYPE})
    return other.device()


def build(name, stride, **conf):
    layer = build_downsampler(name, 4, stride, **conf)
    with torch.no_grad():
        for parameter in layer.parameters():
            parameter += 0.5 * torch.randn_like(parameter)
    return layer


def strides_of(name):
    method = build_downsampler(name, 4, 2)
    return [2] if method.integer_stride else [2, 2.5]


def run(layer, x, lengths, device=None):
    """Return outputs and gradients, on the CPU; computed on the device, if given."""
    layer = copy.deepcopy(layer)
    if device is not None:
        other.move(layer)
        x, lengths = x.to(device), lengths.to(device)
    x.requires_grad_()
    out = layer(x, lengths)
    loss = out.output.square().sum()
    if out.aux_loss is not None:
        loss = loss + out.aux_loss
    if out.positions is not None:
        assert out.positions.device.type == "cpu"
        assert out.positions.dtype == torch.float64
    back = layer.upsample(out.output, lengths, x.size(1), out.positions)
    loss = loss + back.square().sum()
    # sparse rows have first-order gradients only
    again = isinstance(layer, HNet) or not layer.has_positions
    inputs = (x, *layer.parameters())
    grads = torch.autograd.grad(loss, inputs, create_graph=again)
    results = [out.output, out.lengths, back, *grads]
    if device is not None:
        assert {one.device.type for one in results} == {device.type}
        assert out.aux_loss is None or out.aux_loss.device.type == device.type
    if out.positions is not None:
        results.append(out.positions)
    if out.aux_loss is not None:
        results.append(out.aux_loss)
    return [other.inside(one) for one in results]


@every_method
@pytest.mark.parametrize("steps", [60, 300])
def test_a_device_without_float64_gives_the_same(name, steps, device):
    lengths = torch.tensor([steps, 41, 1, 0])
    for stride in strides_of(name):
        layer, x = build(name, stride), torch.randn(4, steps, 4)
        expected = run(layer, x.clone(), lengths)
        with other.Device():
            ours = run(layer, x.clone(), lengths, device)
        for mine, theirs in zip(ours, expected):
            torch.testing.assert_close(mine, theirs, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("name", ["adastride", "adastride_f"])
def test_chunks_rows_bounds_and_stats(name, device):
    layer = build(name, 2.5, score_bound=1.0, score_rate=2.0)
    x, lengths = torch.randn(1, 300, 4), torch.tensor([300])

    def everything(layer, x, lengths):
        out = layer(x, lengths)
        rows = layer.rows(out.positions, lengths)
        z = rows.apply(x)
        chunks = layer.in_chunks(lambda: x.split(77, dim=1), 300)
        chunks = torch.cat(list(chunks.output()), dim=1)
        trace = stages.StageTrace(lengths, out.lengths, out.positions, out.aux_loss)
        stats = stages.position_stats([trace])
        return [z, rows.apply_transposed(z), chunks, *stats.values()]

    expected = everything(layer, x, lengths)
    with other.Device():
        layer = other.move(copy.deepcopy(layer))
        ours = everything(layer, x.to(device), lengths.to(device))
    for mine, theirs in zip(ours, expected):
        assert mine.device.type == device.type
        mine, theirs = other.inside(mine), theirs.to(mine.dtype)
        torch.testing.assert_close(mine, theirs, atol=1e-5, rtol=1e-5)


@every_method
def test_the_stand_in_would_catch_it(name, monkeypatch):
    """A device that is not known to lack float64: what needs it fails.

    Spectral pooling by a whole stride needs none, the others where they lengthen again.
    """
    monkeypatch.setattr(output_module, "NO_FLOAT64", set())
    x, lengths = torch.randn(2, 300, 4), torch.tensor([300, 7])
    with other.Device():
        for stride in strides_of(name):
            layer = build(name, stride)
            if name == "spectral_pool" and stride == 2:
                run(layer, x.clone(), lengths, other.device())
                continue
            with pytest.raises(TypeError, match=r"has no (torch\.)?float64"):
                run(layer, x.clone(), lengths, other.device())


def test_what_the_stand_in_refuses(device):
    with other.Device():
        there = torch.randn(3, device=device)
        assert there.device == device and (there + 1).device == device
        for wrong in (
            lambda: there.double(),
            lambda: there.to("cpu", torch.float64),
            lambda: torch.zeros(3, dtype=torch.float64).to(device),
            lambda: torch.arange(3, dtype=torch.float64, device=device),
            lambda: torch.tensor([1.0], dtype=torch.float64, device=device),
        ):
            with pytest.raises(TypeError, match="float64"):
                wrong()
        with pytest.raises(RuntimeError, match="and on the CPU"):
            there + torch.zeros(3)
        assert there.cpu().double().dtype == torch.float64
