"""The one contract of all methods: lengths, padding, edges, precision, determinism.

Every name of the registry goes through all of it; a new method needs no test here.
"""

import copy
import math

import pytest
import torch

from espnet_adastride import available_downsamplers, build_downsampler
from espnet_adastride.downsampling import DOWNSAMPLERS, Downsampler
from espnet_adastride.downsampling import rows as rows_module
from espnet_adastride.downsampling.registry import _register

SIZE = 6
WHOLE_STRIDES = [1, 2, 3, 4, 5]
OTHER_STRIDES = [1.5, 2.7]

every_method = pytest.mark.parametrize("name", available_downsamplers())


def build(name, stride, dtype=torch.float32, **conf):
    """Build a layer whose learned numbers have left their neutral starting points."""
    layer = build_downsampler(name, SIZE, stride, **conf).to(dtype)
    with torch.no_grad():
        for parameter in layer.parameters():
            parameter += 0.5 * torch.randn_like(parameter)
    return layer


def strides_of(name):
    """Return the strides that the method takes; the others it must refuse by value."""
    strides = []
    for stride in WHOLE_STRIDES + OTHER_STRIDES:
        try:
            build_downsampler(name, SIZE, stride)
        except ValueError as error:
            assert f"got {stride}" in str(error)
        else:
            strides.append(stride)
    assert set(strides) >= {1, 2, 4}
    return strides


@every_method
def test_alone_equals_padded_whatever_lies_in_the_padding(name):
    for stride in strides_of(name):
        layer = build(name, stride)
        around = [int(stride) - 1, int(stride), int(stride) + 1]
        lengths = torch.tensor([41, 40, 40, 17, *around, 2, 1, 0])
        x = torch.randn(len(lengths), 50, SIZE)
        rate = layer.current_stride()  # a learned one has moved
        expected = [math.ceil(int(n) / rate) for n in lengths]
        singles = [layer(x[i : i + 1, :n], n[None]) for i, n in enumerate(lengths)]
        for garbage in (0.0, 1e6, math.nan, math.inf):
            padded = x.clone()
            for row, n in zip(padded, lengths):
                row[n:] = garbage
            padded.requires_grad_()
            out = layer(padded, lengths)
            assert out.lengths.tolist() == expected
            assert out.lengths.dtype == torch.int64
            assert out.output.shape == (len(lengths), math.ceil(50 / rate), SIZE)
            for row, m, alone in zip(out.output, expected, singles):
                assert (row[m:] == 0).all()
                assert alone.lengths.tolist() == [m]
                torch.testing.assert_close(
                    row[:m], alone.output[0, :m], atol=1e-6, rtol=1e-6
                )
            layer.zero_grad()
            loss = out.output.square().sum()
            if out.aux_loss is not None:
                assert out.aux_loss.shape == ()
                loss = loss + out.aux_loss
            loss.backward()
            assert padded.grad.isfinite().all()
            for row, n in zip(padded.grad, lengths):
                assert (row[n:] == 0).all()
            for key, parameter in layer.named_parameters():
                assert (
                    parameter.grad is not None and parameter.grad.isfinite().all()
                ), key


@every_method
def test_auxiliary_loss_does_not_see_the_padding(name):
    layer = build(name, 2)
    x = torch.randn(1, 30, SIZE)
    x[:, 21:] = math.nan
    padded, alone = layer(x, torch.tensor([21])), layer(x[:, :21], torch.tensor([21]))
    if padded.aux_loss is None:
        assert alone.aux_loss is None
    else:
        torch.testing.assert_close(padded.aux_loss, alone.aux_loss)


@every_method
@pytest.mark.parametrize("jump", [False, True])
@pytest.mark.parametrize("max_entries", [20, 2**24])
def test_in_chunks_equals_at_once(name, jump, max_entries, monkeypatch):
    monkeypatch.setattr(rows_module, "MAX_ENTRIES", max_entries)
    for stride in strides_of(name):
        layer = build(name, stride, torch.float64)
        x = torch.randn(1, 190, SIZE, dtype=torch.float64)
        if jump and hasattr(layer, "score"):
            # one step takes nearly all of the way: many slots wait for many steps
            x[0, 80] += 9 * layer.score.weight[0] / layer.score.weight.square().sum()
        expected = layer(x, torch.tensor([190]))
        for sizes in ([190], [1] * 190, [2, 77, 1, 1, 109]):
            out = layer.in_chunks(lambda: x.split(sizes, dim=1), 190)
            chunks = list(out.output())
            assert not chunks[0].requires_grad
            torch.testing.assert_close(
                torch.cat(chunks, dim=1), expected.output, atol=1e-10, rtol=0
            )
            assert torch.equal(torch.cat(list(out.output()), 1), torch.cat(chunks, 1))
            assert out.lengths.tolist() == expected.lengths.tolist()
            if expected.positions is not None:
                torch.testing.assert_close(
                    out.positions, expected.positions, atol=1e-10, rtol=0
                )
                torch.testing.assert_close(out.aux_loss, expected.aux_loss)


@every_method
def test_in_chunks_equals_at_once_under_autocast(name):
    layer = build(name, 4)
    for dtype in (torch.float32, torch.bfloat16):  # as it comes, and behind a layer
        x = torch.randn(1, 900, SIZE).to(dtype)
        with torch.no_grad(), torch.autocast("cpu", dtype=torch.bfloat16):
            expected = layer(x)
            out = layer.in_chunks(lambda: x.split(70, dim=1), 900)
            output = torch.cat(list(out.output()), dim=1)
        assert out.lengths.tolist() == expected.lengths.tolist()
        torch.testing.assert_close(output, expected.output, atol=0.05, rtol=0.02)
        if expected.positions is not None:
            torch.testing.assert_close(
                out.positions, expected.positions, atol=1e-4, rtol=0
            )


@pytest.mark.parametrize("name", ["adastride", "adastride_f", "cif"])
@pytest.mark.parametrize("steps", [40, 400])  # applied densely, and as sparse rows
def test_an_input_that_is_no_number_shows_in_its_utterance_alone(name, steps):
    layer = build(name, 2)
    x, lengths = torch.randn(3, steps, SIZE), torch.tensor([steps, 30, 20])
    expected = layer(x, lengths).output
    x[1, 17, 2] = math.nan
    x.requires_grad_()
    out = layer(x, lengths)
    assert out.output[1, :15].isnan().all()
    for row in (0, 2):
        torch.testing.assert_close(out.output[row], expected[row])
    out.output.sum().backward()
    assert x.grad[[0, 2]].isfinite().all()


@every_method
def test_no_time_steps_and_no_utterances(name):
    layer = build(name, 2)
    out = layer(torch.zeros(2, 0, SIZE), torch.tensor([0, 0]))
    assert out.output.shape == (2, 0, SIZE) and out.lengths.tolist() == [0, 0]
    out = layer(torch.zeros(0, 5, SIZE), torch.zeros(0, dtype=torch.long))
    assert out.output.size(0) == 0
    out = layer(torch.full((2, 5, SIZE), math.nan), torch.tensor([0, 0]))
    assert (out.output == 0).all() and out.lengths.tolist() == [0, 0]


@every_method
def test_gradcheck(name):
    if DOWNSAMPLERS[name].straight_through:
        pytest.skip("on purpose another gradient: its own tests say which")
    for stride in (2, strides_of(name)[-1]):
        layer = build(name, stride, torch.float64)
        x = torch.randn(2, 7, SIZE, dtype=torch.float64, requires_grad=True)
        lengths = torch.tensor([7, 4])
        names = [key for key, _ in layer.named_parameters()]

        def function(x, *parameters):
            state = dict(zip(names, parameters))
            return torch.func.functional_call(layer, state, (x, lengths)).output

        assert torch.autograd.gradcheck(function, (x, *layer.parameters()), atol=1e-6)


@every_method
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_under_autocast(name, dtype):
    layer = build(name, 2)
    x, lengths = torch.randn(2, 30, SIZE), torch.tensor([30, 13])
    exact = layer(x, lengths)
    for given in (x, x.to(dtype)):  # as it comes, and behind another layer
        given = given.clone().requires_grad_()
        with torch.autocast("cpu", dtype=dtype):
            out = layer(given, lengths)
        assert out.lengths.tolist() == exact.lengths.tolist()
        torch.testing.assert_close(out.output.float(), exact.output, atol=0.1, rtol=0.1)
        assert (out.output[1, out.lengths[1] :] == 0).all()
        out.output.float().sum().backward()
        assert given.grad.isfinite().all()


@every_method
def test_the_dtype_is_that_of_the_input(name):
    for dtype in (torch.float32, torch.float64):
        out = build(name, 2, dtype)(
            torch.randn(1, 9, SIZE, dtype=dtype), torch.tensor([9])
        )
        assert out.output.dtype == dtype


@every_method
def test_state_round_trip_determinism_and_no_change_by_a_forward(name):
    layer = build(name, 2)
    before = copy.deepcopy(layer.state_dict())
    x, lengths = torch.randn(2, 30, SIZE), torch.tensor([30, 13])
    given = x.clone()
    for training in (True, False):
        layer.train(training)
        first, second = layer(x, lengths), layer(x, lengths)
        assert torch.equal(first.output, second.output)
        assert torch.equal(x, given)
        after = layer.state_dict()
        assert before.keys() == after.keys()
        assert all(torch.equal(before[key], after[key]) for key in before)
    other = build(name, 2).eval()
    other.load_state_dict(before)
    assert torch.equal(other(x, lengths).output, first.output)


@every_method
def test_constant_stays_constant_or_learns_to(name):
    """Unit gain at DC for every method that is not a learned filter."""
    if not DOWNSAMPLERS[name].unit_gain:
        pytest.skip("a learned filter has no gain of its own")
    for stride in strides_of(name):
        for n in (1, 2, 7, 23):
            for value in (3.25, -0.5):
                x = torch.full((1, n, SIZE), value)
                out = build(name, stride)(x, torch.tensor([n]))
                torch.testing.assert_close(
                    out.output, torch.full_like(out.output, value)
                )


@every_method
def test_says_what_it_adapts_to_or_is_linear(name):
    """Up to a constant (a bias): z(a + b) - z(a) - z(b) + z(0) = 0."""
    layer, lengths = build(name, 2, torch.float64), torch.tensor([20])
    a, b = torch.randn(2, 1, 20, SIZE, dtype=torch.float64)
    both, alone, other, zero = (layer(x, lengths).output for x in (a + b, a, b, 0 * a))
    linear = (both - alone - other + zero).abs().max() < 1e-9
    assert linear == (DOWNSAMPLERS[name].adapts_to == Downsampler.adapts_to)


@every_method
def test_non_integer_strides_work_or_are_refused_at_construction(name):
    if DOWNSAMPLERS[name].integer_stride:
        with pytest.raises(ValueError, match="whole strides only, got 2.5.* hnet, "):
            build(name, 2.5)
    else:
        layer = build_downsampler(name, SIZE, 2.5)
        out = layer(torch.randn(1, 11, SIZE), torch.tensor([11]))
        assert layer.current_stride() == 2.5 and out.lengths.tolist() == [5]


@every_method
def test_stats_are_scalars_whatever_the_input(name):
    layer = build(name, 2)
    before = layer.reported_stats()
    layer(torch.randn(1, 9, SIZE), torch.tensor([9]))
    assert layer.reported_stats().keys() == before.keys()
    for value in before.values():
        assert math.isfinite(float(value))
        assert not isinstance(value, torch.Tensor) or not value.requires_grad


def test_pooling_by_hand():
    x = torch.tensor([[[1.0], [2.0], [-6.0], [-8.0], [-5.0]]])
    lengths = torch.tensor([5])
    average = build_downsampler("avg_pool", 1, 2)(x, lengths).output
    assert average.flatten().tolist() == [1.5, -7.0, -5.0]
    loud = torch.full((1, 4, 1), 4e4, dtype=torch.float16)  # two make more than 65504
    assert torch.equal(build_downsampler("avg_pool", 1, 2)(loud).output, loud[:, :2])
    largest = build_downsampler("max_pool", 1, 2)(x, lengths).output
    assert largest.flatten().tolist() == [2.0, -6.0, -5.0]


@every_method
def test_whole_numbers_are_refused(name):
    layer = build_downsampler(name, 4, 2)
    for kind in (torch.int64, torch.bool, torch.complex64):
        with pytest.raises(ValueError, match="must be floating point.*use x.float"):
            layer(torch.ones(1, 6, 4, dtype=kind))


def test_wrong_names_and_words_list_the_choices():
    with pytest.raises(ValueError, match="did you mean 'adastride'.*avg_pool"):
        build_downsampler("adastrid", 4, 2)
    with pytest.raises(ValueError, match="did you mean 'sigma_square'"):
        build_downsampler("adastride", 4, 2, sigma_sqare=3)
    with pytest.raises(ValueError, match="avg_pool takes no option 'sigma_square'"):
        build_downsampler("avg_pool", 4, 2, sigma_square=3)
    with pytest.raises(ValueError, match="registered already"):
        _register("avg_pool", DOWNSAMPLERS["avg_pool"])


@every_method
def test_an_own_start_comes_back_after_the_network_is_initialised(name):
    """Matrices that every new layer has alike, such as scores, start there again."""
    options = [{}]
    if name in ("adastride", "adastride_f"):
        options += [{"content_bound": 2.0}, {"score_hidden": 4}, {"score_context": 3}]
    for conf in options:
        one, other = (build_downsampler(name, SIZE, 2, **conf) for _ in range(2))
        fresh = dict(other.named_parameters())
        own = {
            key: value.detach().clone()
            for key, value in one.named_parameters()
            if value.dim() > 1 and torch.equal(value, fresh[key])
        }
        if name in ("adastride", "adastride_f", "cif", "hnet"):
            assert own
        for parameter in one.parameters():
            torch.nn.init.normal_(parameter)
        one.set_start()
        for key, value in own.items():
            assert torch.equal(dict(one.named_parameters())[key], value), key
