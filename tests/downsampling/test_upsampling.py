"""The inverse of every method: repetition, a wider spectrum, or a transposed alignment.

Every name of the registry goes through what does not depend on the method; then what
each kind of inverse promises.
"""

import math

import pytest
import torch

from espnet_adastride import available_downsamplers, build_downsampler
from espnet_adastride.downsampling import DOWNSAMPLERS
from espnet_adastride.downsampling.rows import SparseRows

SIZE = 5
STRIDES = [1, 2, 4, 2.7]

#: rows that the layer itself applies, so that its inverse can be their transpose
ALIGNED = ["adastride", "adastride_f", "random_strides"]
#: whose frame of a window, or a segment, is that of all steps where these are equal
MEANS = ["avg_pool", "max_pool", "soft_pool", "ada_pool", "softmax_pool"]

every_method = pytest.mark.parametrize("name", available_downsamplers())


def build(name, stride, dtype=torch.float32):
    # of AdaStride-F: an empty slot is a row of zeros, which sums to 0
    conf = {"empty_slots": "nearest"} if name == "adastride_f" else {}
    layer = build_downsampler(name, SIZE, stride, **conf).to(dtype)
    with torch.no_grad():
        for parameter in layer.parameters():
            parameter += 0.5 * torch.randn_like(parameter)
    return layer


def strides_of(name):
    whole = DOWNSAMPLERS[name].integer_stride
    return [s for s in STRIDES if not whole or s == int(s)]


def slots(name, stride, dtype=torch.float64, lengths=(23, 14)):
    """Return a layer, its result on noise, and frames of another width to lengthen."""
    layer, lengths = build(name, stride, dtype), torch.tensor(lengths)
    x = torch.randn(len(lengths), int(lengths.max()), SIZE, dtype=dtype)
    out = layer(x, lengths)
    z = torch.randn(*out.output.shape[:2], 3, dtype=dtype)
    return layer, x, lengths, out, z


@every_method
def test_alone_equals_padded_whatever_lies_in_the_padding(name):
    for stride in strides_of(name):
        layer = build(name, stride)
        lengths = torch.tensor([41, 40, 17, 5, 2, 1, 0])
        x = torch.randn(len(lengths), 50, SIZE)
        out = layer(x, lengths)
        z = torch.randn(*out.output.shape[:2], 3)
        singles = []
        for row, n, m in zip(range(len(lengths)), lengths, out.lengths):
            if n == 0:
                singles.append(x.new_zeros(0, 3))
                continue
            alone = layer(x[row : row + 1, :n], n[None])
            part = z[row : row + 1, :m]
            singles.append(layer.upsample(part, n[None], int(n), alone.positions)[0])
        for garbage in (0.0, 1e6, math.nan):
            padded = z.clone()
            for row, m in zip(padded, out.lengths):
                row[m:] = garbage
            padded.requires_grad_()
            found = layer.upsample(padded, lengths, 50, out.positions)
            assert found.shape == (len(lengths), 50, 3)
            for row, n, alone in zip(found, lengths, singles):
                assert (row[n:] == 0).all()
                torch.testing.assert_close(row[:n], alone, atol=2e-6, rtol=1e-5)
            (grad,) = torch.autograd.grad(
                found.square().sum(), padded, retain_graph=True
            )
            assert grad.isfinite().all()
            for row, m in zip(grad, out.lengths):
                assert (row[m:] == 0).all()


@every_method
def test_gradcheck(name):
    """In the frames and, where positions are learned, in what they are made of."""
    for stride in strides_of(name)[1:]:
        layer, x, lengths, out, z = slots(name, stride, lengths=(9, 6))
        z.requires_grad_()

        def in_frames(z):
            positions = None if out.positions is None else out.positions.detach()
            return layer.upsample(z, lengths, 9, positions)

        assert torch.autograd.gradcheck(in_frames, (z,))
        if out.positions is None or not out.positions.requires_grad:
            continue
        fixed = z.detach()

        def in_input(x):
            return layer.upsample(fixed, lengths, 9, layer(x, lengths).positions)

        assert torch.autograd.gradcheck(in_input, (x.requires_grad_(),), atol=1e-6)
        in_input(x).square().sum().backward()
        assert x.grad.abs().max() > 0


@every_method
def test_dtypes_and_half_precision(name):
    layer, x, lengths, out, z = slots(name, 2, torch.float32)
    positions = None if out.positions is None else out.positions.detach()
    exact = layer.upsample(z, lengths, 23, positions)
    assert exact.dtype == torch.float32
    for dtype in (torch.float16, torch.bfloat16):
        half = z.to(dtype).requires_grad_()
        with torch.autocast("cpu", dtype=dtype):
            found = layer.upsample(half, lengths, 23, positions)
        assert found.dtype == dtype
        torch.testing.assert_close(found.float(), exact, atol=0.05, rtol=0.05)
        found.float().sum().backward()
        assert half.grad.isfinite().all()


@every_method
def test_no_utterances(name):
    layer = build(name, 2)
    out = layer(torch.zeros(0, 5, SIZE), torch.zeros(0, dtype=torch.long))
    lengths = torch.zeros(0, dtype=torch.long)
    positions = None
    if DOWNSAMPLERS[name].has_positions:
        positions = torch.zeros(0, 5, dtype=torch.float64)
    z = torch.zeros(0, 3, 2)
    assert layer.upsample(z, lengths, 5, positions).shape == (0, 5, 2)
    assert out.output.size(0) == 0


@pytest.mark.parametrize("name", ["adastride", "adastride_f", "cif"])
def test_positions_that_are_no_numbers_show_in_their_utterance_alone(name):
    layer, x, lengths, out, z = slots(name, 2)
    expected = layer.upsample(z, lengths, 23, out.positions)
    x[1, 5] = math.nan
    positions = layer(x, lengths).positions
    found = layer.upsample(z, lengths, 23, positions)
    torch.testing.assert_close(found[0], expected[0])
    assert found[1, :14].isnan().all() and (found[1, 14:] == 0).all()


@pytest.mark.parametrize("name", MEANS)
def test_shortening_undoes_lengthening(name):
    """D(U z) = z: what was lengthened loses nothing."""
    for stride in strides_of(name):
        layer, _, lengths, out, _ = slots(name, stride)
        z = torch.randn_like(out.output)
        again = layer(layer.upsample(z, lengths, 23), lengths).output
        for row, other, m in zip(again, z, out.lengths):
            torch.testing.assert_close(row[:m], other[:m], atol=1e-12, rtol=1e-12)


def test_cutting_undoes_widening():
    """Of spectral_pool, where m is odd: at an even one the top bin is cut in two."""
    for stride, lengths in ((1, (23, 14)), (3, (21, 15)), (2.7, (23, 12))):
        layer = build("spectral_pool", stride, torch.float64)
        lengths = torch.tensor(lengths)
        steps = int(lengths.max())
        shorter = layer.output_lengths(lengths)
        assert stride == 1 or (shorter % 2 == 1).all()
        z = torch.randn(2, int(shorter.max()), SIZE, dtype=torch.float64)
        again = layer(layer.upsample(z, lengths, steps), lengths).output
        for row, other, m in zip(again, z, shorter):
            torch.testing.assert_close(row[:m], other[:m], atol=1e-12, rtol=1e-12)


@pytest.mark.parametrize("name", ["adastride_f", "merge", "hnet"])
def test_a_frame_is_repeated_over_the_steps_of_its_slot(name):
    layer, _, lengths, out, z = slots(name, 3)
    if name == "adastride_f":
        layer.empty_slots = "zeros"  # or a step is shared with the empty slot it fills
    found = layer.upsample(z, lengths, 23, out.positions)
    slot = out.positions.detach().round().long()
    for row in range(2):
        for step in range(int(lengths[row])):
            torch.testing.assert_close(found[row, step], z[row, slot[row, step]])


@pytest.mark.parametrize("name", ALIGNED)
def test_without_normalisation_it_is_the_adjoint(name):
    """<A x, z> = <x, A^T z>, A being what the layer itself applied."""
    for stride in strides_of(name)[1:]:
        layer, x, lengths, out, _ = slots(name, stride)
        z = torch.randn_like(out.output)
        back = layer.upsample(z, lengths, 23, out.positions, normalised=False)
        torch.testing.assert_close((out.output * z).sum(), (x * back).sum())
        # the same by an autograd that knows nothing of alignments
        held = out.positions.detach()
        rows = layer.rows(held, lengths, torch.float64)
        assert isinstance(rows, SparseRows)
        x = x.clone().requires_grad_()
        (grad,) = torch.autograd.grad((rows.apply(x) * z).sum(), x)
        torch.testing.assert_close(back, grad)


@pytest.mark.parametrize("name", [*ALIGNED, "cif"])
def test_without_normalisation_nothing_is_lost(name):
    """Rows sum to 1: the steps together hold what the frames did."""
    for stride in strides_of(name)[1:]:
        layer, _, lengths, out, z = slots(name, stride)
        back = layer.upsample(z, lengths, 23, out.positions, normalised=False)
        for row in range(2):
            expected = z[row, : out.lengths[row]].sum(dim=0)
            torch.testing.assert_close(back[row].sum(dim=0), expected)


@pytest.mark.parametrize(
    "name", [n for n in available_downsamplers() if n not in ("spectral_pool",)]
)
def test_no_step_is_beyond_the_frames(name):
    """Every step is a mean of frames: nothing can grow; but by a spectrum's ripple."""
    if name == "diff_stride":
        pytest.skip("a spectrum, as spectral_pool's")
    for stride in strides_of(name):
        layer, _, lengths, out, z = slots(name, stride)
        found = layer.upsample(z, lengths, 23, out.positions)
        for row, frames, n, m in zip(found, z, lengths, out.lengths):
            low, high = frames[:m].amin(dim=0), frames[:m].amax(dim=0)
            assert (row[:n] >= low - 1e-12).all() and (row[:n] <= high + 1e-12).all()


def test_a_spectrum_keeps_its_power():
    """Of spectral_pool, with an odd number of frames: the mean square is the same."""
    layer = build("spectral_pool", 3, torch.float64)
    z = torch.randn(1, 7, 3, dtype=torch.float64)
    found = layer.upsample(z, torch.tensor([21]), 21)
    torch.testing.assert_close(found.square().mean(dim=1), z.square().mean(dim=1))
