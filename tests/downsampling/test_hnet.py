"""hnet: answers by hand, the straight-through gradient, the published threshold."""

import math

import pytest
import torch

from espnet_adastride import build_downsampler
from espnet_adastride.downsampling import hnet as hnet_module
from espnet_adastride.downsampling.hnet import ratio_loss

X = torch.tensor([[[1.0, 0.0], [1.0, 0.1], [0.0, 1.0], [0.0, 2.0], [-1.0, 0.0]]])
#: turns twice: p = 1, 1, 0, 1, 0.5
TURNS = torch.tensor([[[1.0, 0.0], [-1.0, 0.0], [-3.0, 0.0], [2.0, 0.0], [0.0, 1.0]]])


def build(stride, size=2, moved=False, **conf):
    layer = build_downsampler("hnet", size, stride, **conf)
    if moved:
        for parameter in layer.parameters():
            parameter.data += 0.5 * torch.randn_like(parameter)
    return layer


def test_by_hand():
    # p = 1, 0.0025, 0.45, 0, 0.5: the first, third and last at stride 2
    out = build(2, ratio_weight=1.0)(X, torch.tensor([5]))
    torch.testing.assert_close(out.output, X[:, [0, 2, 4]])
    assert out.positions.tolist() == [[0.0, 0.25, 0.75, 1.25, 2.0]]
    p = [1, (1 - 1 / 1.01**0.5) / 2, (1 - 0.1 / 1.01**0.5) / 2, 0, 0.5]
    share, mean = 3 / 5, sum(p) / 5
    expected = 2 * (share * mean + (1 - share) * (1 - mean))
    assert out.aux_loss.item() == pytest.approx(expected)
    out = build(5)(X, torch.tensor([5]))
    torch.testing.assert_close(out.output, X[:, [0]])
    torch.testing.assert_close(build(1)(X, torch.tensor([5])).output, X)


def test_the_query_is_of_the_step_before_and_the_key_of_the_step():
    layer = build(2.5)
    with torch.no_grad():  # a quarter turn: step t is alike to its predecessor turned
        layer.query.weight.copy_(torch.tensor([[0.0, -1.0], [1.0, 0.0]]))
    x = torch.tensor([[[1.0, 0.0], [0.0, 1.0], [-1.0, 0.0], [-1.0, 0.0], [0.0, -1.0]]])
    out = layer(x, torch.tensor([5]))
    # the one step that does not turn on is the boundary (p = 1/2)
    torch.testing.assert_close(out.output, x[:, [0, 3]])
    assert out.positions.round().tolist() == [[0, 0, 0, 1, 1]]


def test_the_first_is_kept_whatever_the_others():
    out = build(5 / 3)(TURNS, torch.tensor([5]))  # two others have p = 1 too
    torch.testing.assert_close(out.output, TURNS[:, [0, 1, 3]])
    out = build(5 / 2)(TURNS, torch.tensor([5]))  # of equals the earlier
    torch.testing.assert_close(out.output, TURNS[:, [0, 1]])


def test_ratio_loss_by_hand():
    p = torch.tensor([[1.0, 0.2, 0.6, 0.2, 9.0]])
    starts = torch.tensor([[1, 0, 1, 0, 1]]).bool()
    lengths = torch.tensor([4])  # F = G = 1/2
    assert ratio_loss(p, starts, lengths, 2).item() == pytest.approx(1.0)
    assert ratio_loss(p, starts, lengths, 4).item() == pytest.approx(4 / 3)
    assert ratio_loss(p, starts, lengths, 1).item() == 0.0
    assert ratio_loss(p, starts, torch.tensor([0]), 2).item() == 0.0
    # one batch: steps count alike, whatever the utterance
    p, starts = torch.tensor([[1.0, 0.0], [1.0, 1.0]]), torch.ones(2, 2).bool()
    both = ratio_loss(p, starts, torch.tensor([2, 1]), 2)
    assert both.item() == pytest.approx(2 * (2 / 3))


def test_the_router_learns_through_a_confidence_that_counts_as_one():
    layer = build(2, size=3, moved=True).double()
    x = torch.randn(1, 9, 3, dtype=torch.float64)
    factor = torch.randn(1, 5, 3, dtype=torch.float64)
    out = layer(x, torch.tensor([9]))
    (out.output * factor).sum().backward()
    found = layer.query.weight.grad.clone()
    # the gradient of p at the kept steps, times what the task says of the frames
    kept = [0] + [
        t for t in range(1, 9) if out.positions[0, t - 1 : t + 1].round().diff()
    ]
    query, key = layer.query(x[0, :-1]), layer.key(x[0, 1:])
    p = (1 - torch.nn.functional.cosine_similarity(query, key)) / 2
    told = (x[0, kept] * factor[0]).sum(dim=1)
    torch.testing.assert_close(out.output, x[:, kept])
    layer.zero_grad()
    (p[[t - 1 for t in kept[1:]]] * told[1:]).sum().backward()
    torch.testing.assert_close(found, layer.query.weight.grad)
    assert found.abs().min() > 0


def test_gradients_are_those_of_the_confidence_by_finite_differences(monkeypatch):
    """Straight through: 1 + p - p0, with p0 what p is at this very place."""
    layer = build(2, size=3, moved=True, ratio_weight=0.7).double()
    x = torch.randn(2, 7, 3, dtype=torch.float64, requires_grad=True)
    lengths = torch.tensor([7, 4])
    seen = []

    def remember(confidence):
        seen.append(confidence.detach())
        return 1.0 + (confidence - seen[0])

    monkeypatch.setattr(hnet_module, "count_as_one", remember)

    def function(x, query, key):
        state = {"query.weight": query, "key.weight": key}
        out = torch.func.functional_call(layer, state, (x, lengths))
        return out.output, out.aux_loss

    given = (x, layer.query.weight, layer.key.weight)
    assert torch.autograd.gradcheck(function, given, atol=1e-6)
    monkeypatch.undo()

    def gradients():
        out = layer(x, lengths)
        loss = out.output.square().sum() + out.aux_loss
        return torch.autograd.grad(loss, given)

    ours = gradients()
    monkeypatch.setattr(hnet_module, "count_as_one", remember)
    for mine, checked in zip(ours, gradients()):
        torch.testing.assert_close(mine, checked)


def test_vectors_of_zeros_have_finite_gradients():
    layer = build(4, moved=True)  # which keeps more than 1/4: the loss has a gradient
    x = torch.zeros(1, 6, 2)
    x[0, 4] = 1.0
    x.requires_grad_()
    out = layer(x, torch.tensor([6]))
    (out.output.sum() + out.aux_loss).backward()
    assert x.grad.abs().max() < 1e3
    assert layer.query.weight.grad.isfinite().all()


# --------------------------------------------------------------------- the threshold


def test_the_threshold_by_hand():
    layer = build(2, exact=False)
    assert layer.reported_stats() == {"rate": 2.0}
    out = layer(TURNS, torch.tensor([5]))
    torch.testing.assert_close(out.output, TURNS[:, [0, 1, 3]])  # 1/2 is not above it
    assert out.lengths.tolist() == [3]
    assert out.positions.round().tolist() == [[0, 1, 1, 2, 2]]
    assert float(layer.reported_stats()["rate"]) == pytest.approx(5 / 3)
    out = layer(X, torch.tensor([5]))
    assert out.lengths.tolist() == [1] and out.output.shape == (1, 1, 2)


def test_the_threshold_alone_is_as_in_a_batch():
    layer = build(3, size=4, moved=True, exact=False)
    x, lengths = torch.randn(4, 50, 4), torch.tensor([50, 31, 1, 0])
    padded = x.clone()
    for row, n in zip(padded, lengths):
        row[n:] = math.nan
    out = layer(padded, lengths)
    assert out.output.size(1) == int(out.lengths.max()) and out.lengths[3] == 0
    for row, n in enumerate(lengths.tolist()):
        alone = layer(x[row : row + 1, :n], lengths[row : row + 1])
        m = int(out.lengths[row])
        assert alone.lengths.tolist() == [m]
        torch.testing.assert_close(out.output[row, :m], alone.output[0, :m])
        assert (out.output[row, m:] == 0).all()
    (out.output.square().sum() + out.aux_loss).backward()
    assert all(p.grad.isfinite().all() for p in layer.parameters())


@pytest.mark.parametrize("sizes", [[50], [1] * 50, [7, 42, 1]])
def test_the_threshold_in_chunks(sizes):
    layer = build(3, size=4, moved=True, exact=False).double()
    x = torch.randn(1, 50, 4, dtype=torch.float64)
    expected = layer(x, torch.tensor([50]))
    out = layer.in_chunks(lambda: x.split(sizes, dim=1), 50)
    torch.testing.assert_close(torch.cat(list(out.output()), 1), expected.output)
    assert out.lengths.tolist() == expected.lengths.tolist()
    torch.testing.assert_close(out.positions, expected.positions)
    torch.testing.assert_close(out.aux_loss, expected.aux_loss)


def test_the_ratio_loss_leads_the_threshold_to_its_rate():
    layer = build(4, size=4, exact=False, ratio_weight=1.0, moved=True)
    x, lengths = torch.randn(16, 200, 4), torch.full((16,), 200)
    x[:, :, 0] += 2.0
    layer(x, lengths)
    before = float(layer.reported_stats()["rate"])
    optimiser = torch.optim.Adam(layer.parameters(), lr=0.02)
    for _ in range(150):
        optimiser.zero_grad()
        layer(x, lengths).aux_loss.backward()
        optimiser.step()
    layer(x, lengths)
    after = float(layer.reported_stats()["rate"])
    assert abs(before - 4) > 2 and abs(after - 4) < 0.2


def test_the_threshold_has_a_rate_of_its_own():
    layer = build(2, exact=False)
    assert layer.lengths_from_content and not layer.takes_any_stride()
    with pytest.raises(ValueError, match="only exact=True supports another stride"):
        layer.set_stride(3)
    exact = build(2)
    assert not exact.lengths_from_content and exact.reported_stats() == {}


def test_the_exact_rate_never_waits_for_a_gpu(host_waits):
    layer = build(2, size=4, moved=True)
    x = torch.randn(2, 30, 4, requires_grad=True)
    with host_waits:
        out = layer(x, torch.tensor([30, 13]))
        (out.output.square().sum() + out.aux_loss).backward()
    assert not host_waits.scalars and not host_waits.lists


def test_wrong_words():
    with pytest.raises(ValueError, match="exact must be true or false, got 'no'"):
        build(2, exact="no")
    with pytest.raises(ValueError, match="ratio_weight must be a number at least 0"):
        build(2, ratio_weight=-1)


@pytest.mark.parametrize("exact", [True, False])
def test_an_input_that_is_no_number_shows_in_its_utterance_alone(exact):
    layer = build_downsampler("hnet", 6, 2.0, exact=exact)
    torch.manual_seed(0)
    x, lengths = torch.randn(3, 40, 6), torch.tensor([40, 30, 20])
    x[1, 30:], x[2, 20:] = math.nan, math.nan
    expected = layer(x, lengths).output
    assert expected.isfinite().all()
    expected.sum().backward()
    assert all(p.grad.isfinite().all() for p in layer.parameters())
    x[1, 17, 2] = math.nan
    output = layer(x, lengths).output
    assert output[1].isnan().any()
    for row in (0, 2):
        kept = expected[row].abs().sum(dim=1) > 0
        torch.testing.assert_close(output[row][: len(kept)][kept], expected[row][kept])
