"""AdaStride's score network and content term, against their definition."""

import math

import pytest
import torch

from espnet_adastride import alignment_matrix, build_downsampler
from espnet_adastride.downsampling import adastride as adastride_module
from espnet_adastride.downsampling import rows as rows_module
from espnet_adastride.networks.macs import macs_by_module

SIZE = 6
OPTIONS = [
    {"score_hidden": 4},
    {"score_hidden": 4, "score_context": 5},
    {"score_context": 5},
    {"content_bound": 2.0},
    {"score_hidden": 4, "score_context": 3, "content_bound": 2.0, "score_bound": 1.0},
    {"score_context": 5, "score_bound": "sigmoid"},
]
every_option = pytest.mark.parametrize("options", OPTIONS)
both = pytest.mark.parametrize("name", ["adastride", "adastride_f"])


def build(name, stride, options, dtype=torch.float64):
    layer = build_downsampler(name, SIZE, stride, **options).to(dtype)
    with torch.no_grad():
        for parameter in layer.parameters():
            parameter += 0.7 * torch.randn_like(parameter)
    return layer


def reference(layer, x, n):
    """Return z and positions of one utterance, step by step from the formulas."""
    given = torch.nn.functional.pad(x[:n].T, (layer.score_context // 2,) * 2).T
    scores, weights = [], []
    for t in range(n):
        a, seen = x[t], given[t : t + layer.score_context]
        if layer.score_hidden is not None:
            a = torch.einsum("hdk,kd->h", layer.score_network.weight, seen)
            a = torch.relu(a + layer.score_network.bias)
        elif layer.score_context > 1:
            a = torch.einsum("dk,kd->d", layer.score_network.weight[:, 0], seen)
            a = torch.relu(a + layer.score_network.bias)
        scores.append((layer.score.weight[0] * a).sum())
        if layer.content_bound is not None:
            b = layer.content_bound
            weights.append(
                (b * torch.tanh((layer.content.weight[0] * x[t]).sum() / b)).exp()
            )
    lengths = torch.tensor([n])
    positions = layer.place(
        torch.stack(scores)[None], lengths, layer.output_lengths(lengths)
    )
    alignment = alignment_matrix(
        positions, lengths, layer.output_lengths(lengths), layer.sigma_square
    )[0]
    if type(layer).__name__ == "AdaStrideF":
        mine = positions[0].round()[None] == torch.arange(len(alignment))[:, None]
        distance = torch.arange(len(alignment))[:, None] - positions[0][None]
        alignment = torch.exp(-layer.sigma_square * distance.square()) * mine
    if weights:
        alignment = alignment * torch.stack(weights)
    total = alignment.sum(dim=1, keepdim=True)
    return alignment / total.where(total > 0, torch.ones(())) @ x[:n], positions[0]


@both
@every_option
@pytest.mark.parametrize("dense_up_to", [0, 10**6])
def test_equals_the_formulas_in_a_batch_with_garbage(
    name, options, dense_up_to, monkeypatch
):
    monkeypatch.setattr(adastride_module, "DENSE_UP_TO", dense_up_to)
    layer = build(name, 2.5, options)
    lengths = torch.tensor([30, 23, 2, 1, 0])
    x = torch.randn(5, 30, SIZE, dtype=torch.float64)
    for row, n in zip(x, lengths):
        row[n:] = torch.nan
    out = layer(x, lengths)
    for i, n in enumerate(lengths.tolist()):
        m = int(out.lengths[i])
        assert (out.output[i, m:] == 0).all()
        if n:
            z, positions = reference(layer, x[i], n)
            torch.testing.assert_close(out.output[i, :m], z, atol=1e-10, rtol=0)
            torch.testing.assert_close(out.positions[i, :n], positions)


@both
@every_option
def test_starts_as_the_published_method(name, options):
    """All but the bound, which changes nothing where scores are 0."""
    plain = build_downsampler(name, SIZE, 3)
    layer = build_downsampler(name, SIZE, 3, **options)
    x, lengths = torch.randn(2, 40, SIZE), torch.tensor([40, 31])
    torch.testing.assert_close(
        layer(x, lengths).output, plain(x, lengths).output, atol=1e-6, rtol=1e-6
    )
    layer(x, lengths).output.square().sum().backward()
    for key in ("score", "content"):
        if hasattr(layer, key):  # it learns from there
            assert getattr(layer, key).weight.grad.abs().max() > 1e-6


@both
@every_option
def test_gradients(name, options):
    layer = build(name, 2, options)
    x = torch.randn(2, 9, SIZE, dtype=torch.float64, requires_grad=True)
    names = [key for key, _ in layer.named_parameters()]

    def function(x, *parameters):
        state = dict(zip(names, parameters))
        out = torch.func.functional_call(layer, state, (x, torch.tensor([9, 5])))
        return out.output, out.aux_loss

    assert torch.autograd.gradcheck(function, (x, *layer.parameters()), atol=1e-6)


@both
@every_option
@pytest.mark.parametrize("max_entries", [20, 2**24])
def test_in_chunks_equals_at_once(name, options, max_entries, monkeypatch):
    monkeypatch.setattr(rows_module, "MAX_ENTRIES", max_entries)
    layer = build(name, 4, options)
    x = torch.randn(1, 190, SIZE, dtype=torch.float64)
    expected = layer(x, torch.tensor([190]))
    for sizes in ([190], [1] * 190, [2, 77, 1, 1, 109]):
        out = layer.in_chunks(lambda: x.split(sizes, dim=1), 190)
        made = torch.cat(list(out.output()), dim=1)
        torch.testing.assert_close(made, expected.output, atol=1e-10, rtol=0)
        torch.testing.assert_close(out.positions, expected.positions)
    half = layer.to(torch.float32)
    out = half.in_chunks(lambda: x.to(torch.bfloat16).split(50, dim=1), 190)
    assert {chunk.dtype for chunk in out.output()} == {torch.bfloat16}
    x = torch.randn(1, 900, SIZE)
    with torch.no_grad(), torch.autocast("cpu", dtype=torch.bfloat16):
        expected = half(x)
        out = half.in_chunks(lambda: x.split(70, dim=1), 900)
        made = torch.cat(list(out.output()), dim=1)
    torch.testing.assert_close(out.positions, expected.positions, atol=1e-4, rtol=0)
    torch.testing.assert_close(made, expected.output, atol=0.01, rtol=0.01)


def test_rows_reach_as_far_as_the_content_asks(monkeypatch):
    """Far steps with the largest weight, near ones with the smallest."""
    monkeypatch.setattr(adastride_module, "DENSE_UP_TO", 0)
    layer = build_downsampler(
        "adastride", 2, 8, sigma_square=0.05, content_bound=4.0
    ).double()
    with torch.no_grad():
        layer.content.weight.copy_(torch.tensor([[100.0, 0.0]]))
    x = torch.randn(1, 400, 2, dtype=torch.float64)
    x[0, :, 0] = torch.where(torch.arange(400) % 100 < 50, -1.0, 1.0)
    z, _ = reference(layer, x[0], 400)
    made = layer(x, torch.tensor([400])).output[0]
    torch.testing.assert_close(made, z, atol=1e-13, rtol=0)


def test_a_depthwise_scorer_by_hand():
    """Two features, one of them filtered by (1, 2, 0), one by 0; both biased by -1."""
    layer = build_downsampler("adastride", 2, 2, score_context=3).double()
    assert type(layer.score) is torch.nn.Linear and layer.score.in_features == 2
    with torch.no_grad():
        layer.score_network.weight.copy_(
            torch.tensor([[[1.0, 2.0, 0.0]], [[0.0, 0.0, 0.0]]])
        )
        layer.score_network.bias.fill_(-1.0)
        layer.score.weight.copy_(torch.tensor([[math.log(2.0), 5.0]]))
    x = torch.tensor([[[1.0, 9.0], [0.0, 9.0], [1.0, 9.0], [0.5, 9.0]]])
    # convolution x_{t-1} + 2 x_t: 2, 1, 2, 2; minus 1 and relu: 1, 0, 1, 1; scores in
    # units of log 2 the same: steps 2, 3, 4 take 1, 2 and 2 of 5 parts of the segment
    out = layer(x.double(), torch.tensor([4]))
    expected = torch.tensor([[0.0, 0.2, 0.6, 1.0]], dtype=torch.float64)
    torch.testing.assert_close(out.positions, expected)


def test_a_depthwise_scorer_is_cifs():
    """With the same weights, both score a step alike."""
    cif = build_downsampler("cif", SIZE, 3, kernel_size=5).double()
    layer = build("adastride", 3, {"score_context": 5})
    cif.filter.load_state_dict(layer.score_network.state_dict())
    with torch.no_grad():
        cif.weigh.weight.copy_(layer.score.weight)
    x = torch.randn(2, 20, SIZE, dtype=torch.float64)
    torch.testing.assert_close(layer.with_scores(x)[..., -1], cif._logits(x, 2))


def test_cost_of_a_depthwise_scorer():
    """K D multiply-accumulates a step, and the score as one more feature of A x."""
    x, T, K = torch.randn(1, 60, SIZE), 60, 5
    plain, layer = (
        macs_by_module(build_downsampler("adastride", SIZE, 4, **options), x)["Global"]
        for options in ({}, {"score_context": K})
    )
    # the sparse or dense product, with one feature more; the score of that feature
    alignment = plain - T * SIZE
    network = T * K * SIZE + T * SIZE
    expected = network + T * (SIZE + 1) + alignment / SIZE * (SIZE + 1)
    assert layer == expected


def test_wrong_words_are_refused():
    for options, message in [
        ({"score_hidden": 0}, "score_hidden must be a whole number >= 1, got 0"),
        ({"score_hidden": 2.5}, "score_hidden must be a whole number"),
        ({"score_hidden": 4, "score_context": 2}, "score_context must be odd, got 2"),
        ({"score_context": 4}, "score_context must be odd, got 4"),
        ({"score_context": 0}, "score_context must be a whole number >= 1, got 0"),
        ({"content_bound": 0}, "content_bound"),
        ({"content_bound": "much"}, "content_bound"),
    ]:
        with pytest.raises(ValueError, match=message):
            build_downsampler("adastride", SIZE, 2, **options)
