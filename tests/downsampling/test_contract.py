"""The one contract of all methods: lengths, padding, edges, precision, determinism."""

import copy
import math

import pytest
import torch

from espnet_adastride import available_downsamplers, build_downsampler
from espnet_adastride.downsampling import DOWNSAMPLERS
from espnet_adastride.downsampling.registry import _register

SIZE = 6


def build(name, stride, dtype=torch.float32, **conf):
    """Build a layer; adaptive ones get scores, or they would be uniform."""
    layer = build_downsampler(name, SIZE, stride, **conf).to(dtype)
    if hasattr(layer, "score"):
        torch.nn.init.normal_(layer.score.weight)
    return layer


def strides_of(name):
    return [1, 2, 3, 5] + ([] if DOWNSAMPLERS[name].integer_stride else [1.5, 2.7])


every_method = pytest.mark.parametrize("name", available_downsamplers())


@every_method
def test_alone_equals_padded_whatever_lies_in_the_padding(name):
    for stride in strides_of(name):
        layer = build(name, stride)
        lengths = torch.tensor([41, 40, 17, int(stride) + 1, int(stride), 2, 1, 0])
        x = torch.randn(len(lengths), 50, SIZE)
        for garbage in (0.0, 1e6, math.nan, math.inf):
            padded = x.clone()
            for row, n in zip(padded, lengths):
                row[n:] = garbage
            padded.requires_grad_()
            out = layer(padded, lengths)
            expected = [math.ceil(int(n) / stride) for n in lengths]
            assert out.lengths.tolist() == expected
            assert out.output.shape == (len(lengths), math.ceil(50 / stride), SIZE)
            for row, n, m in zip(range(len(lengths)), lengths, expected):
                assert (out.output[row, m:] == 0).all()
                if n == 0:
                    continue
                alone = layer(x[row : row + 1, :n], torch.tensor([n]))
                torch.testing.assert_close(
                    out.output[row, :m], alone.output[0], atol=1e-6, rtol=1e-6
                )
            out.output.sum().backward()
            assert padded.grad.isfinite().all()
            for row, n in zip(padded.grad, lengths):
                assert (row[n:] == 0).all()


@every_method
def test_no_time_steps_and_no_utterances(name):
    layer = build(name, 2)
    out = layer(torch.zeros(2, 0, SIZE), torch.tensor([0, 0]))
    assert out.output.shape == (2, 0, SIZE) and out.lengths.tolist() == [0, 0]
    out = layer(torch.zeros(0, 5, SIZE), torch.zeros(0, dtype=torch.long))
    assert out.output.size(0) == 0


@every_method
def test_gradcheck(name):
    layer = build(name, 2, torch.float64)
    x = torch.randn(2, 7, SIZE, dtype=torch.float64, requires_grad=True)
    lengths = torch.tensor([7, 4])
    assert torch.autograd.gradcheck(lambda x: layer(x, lengths).output, (x,), atol=1e-6)


@every_method
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_under_autocast(name, dtype):
    layer = build(name, 2)
    x, lengths = torch.randn(2, 30, SIZE), torch.tensor([30, 13])
    exact = layer(x, lengths)
    with torch.autocast("cpu", dtype=dtype):
        out = layer(x, lengths)
    assert out.lengths.tolist() == exact.lengths.tolist()
    torch.testing.assert_close(out.output.float(), exact.output, atol=0.1, rtol=0.1)
    assert (out.output[1, 7:] == 0).all()


@every_method
def test_state_round_trip_determinism_and_no_change_in_eval(name):
    layer = build(name, 2).eval()
    before = copy.deepcopy(layer.state_dict())
    x, lengths = torch.randn(2, 30, SIZE), torch.tensor([30, 13])
    first, second = layer(x, lengths), layer(x, lengths)
    assert torch.equal(first.output, second.output)
    after = layer.state_dict()
    assert before.keys() == after.keys()
    assert all(torch.equal(before[key], after[key]) for key in before)
    other = build(name, 2).eval()
    other.load_state_dict(before)
    assert torch.equal(other(x, lengths).output, first.output)


@every_method
def test_constant_stays_constant_or_learns_to(name):
    """Unit gain at DC for every method that is not a learned filter."""
    if name == "strided_conv":
        pytest.skip("a learned filter has no gain of its own")
    x = torch.full((1, 23, SIZE), 3.25)
    out = build(name, 2)(x, torch.tensor([23]))
    torch.testing.assert_close(out.output, torch.full((1, 12, SIZE), 3.25))


@every_method
def test_non_integer_strides_work_or_are_refused_at_construction(name):
    if DOWNSAMPLERS[name].integer_stride:
        with pytest.raises(ValueError, match="2.5"):
            build(name, 2.5)
    else:
        out = build(name, 2.5)(torch.randn(1, 10, SIZE), torch.tensor([10]))
        assert out.lengths.tolist() == [4]


def test_pooling_by_hand():
    x = torch.tensor([[[1.0], [2.0], [-6.0], [-8.0], [-5.0]]])
    lengths = torch.tensor([5])
    average = build_downsampler("avg_pool", 1, 2)(x, lengths).output
    assert average.flatten().tolist() == [1.5, -7.0, -5.0]
    largest = build_downsampler("max_pool", 1, 2)(x, lengths).output
    assert largest.flatten().tolist() == [2.0, -6.0, -5.0]


def test_wrong_names_and_words_list_the_choices():
    with pytest.raises(ValueError, match="did you mean 'adastride'.*avg_pool"):
        build_downsampler("adastrid", 4, 2)
    with pytest.raises(ValueError, match="did you mean 'sigma_square'"):
        build_downsampler("adastride", 4, 2, sigma_sqare=3)
    with pytest.raises(ValueError, match="avg_pool takes no option 'sigma_square'"):
        build_downsampler("avg_pool", 4, 2, sigma_square=3)
    with pytest.raises(ValueError, match="registered already"):
        _register("avg_pool", DOWNSAMPLERS["avg_pool"])
