"""Cuts and rows that cif, merge and hnet share: by hand and against slow loops."""

import numpy as np
import pytest
import torch

from espnet_adastride.downsampling.segments import (
    apply_chunks,
    box_positions,
    box_rows,
    keep_largest,
    segment_lengths,
    segment_positions,
    slots_of,
)
from espnet_adastride.timing.boundaries import slot_boundaries


def dense(rows):
    """Return the rows as a matrix (B, T', T)."""
    batch, width, steps = rows.shape
    matrix = torch.zeros(batch * width, batch * steps, dtype=rows.weights.dtype)
    matrix.index_put_((rows.rows, rows.columns), rows.weights, accumulate=True)
    blocks = matrix.view(batch, width, batch, steps)
    for row in range(batch):  # nothing is taken from another utterance
        assert blocks[row].sum() == blocks[row, :, row].sum()
    return torch.stack([blocks[row, :, row] for row in range(batch)])


def overlaps(ends, width):
    """Return |[c_{t-1}, c_t] intersected with [j, j + 1]|, (T', T), by its words."""
    starts = np.concatenate([[0.0], ends[:-1]])
    slots = np.arange(width)[:, None]
    return np.clip(np.minimum(ends, slots + 1) - np.maximum(starts, slots), 0, None)


def random_ends(lengths, output_lengths, steps):
    weights = torch.rand(len(lengths), steps, dtype=torch.float64) ** 4
    weights *= torch.arange(steps) < lengths[:, None]
    ends = weights.cumsum(1) / weights.sum(1, keepdim=True).clamp(min=1e-300)
    return torch.minimum(ends * output_lengths[:, None], output_lengths[:, None])


def test_boxes_by_hand():
    # the second step ends a quarter into the second slot
    ends = torch.tensor([[0.5, 1.25, 2.0]], dtype=torch.float64)
    rows = box_rows(ends, torch.tensor([2]), 2, torch.float64)
    assert dense(rows).tolist() == [[[0.5, 0.5, 0.0], [0.0, 0.25, 0.75]]]


def test_a_step_over_several_slots_and_ends_on_edges_by_hand():
    ends = torch.tensor([[1.0, 3.5, 3.5, 4.0]], dtype=torch.float64)
    rows = box_rows(ends, torch.tensor([4]), 4, torch.float64)
    expected = [[1, 0, 0, 0], [0, 1, 0, 0], [0, 1, 0, 0], [0, 0.5, 0, 0.5]]
    assert dense(rows).tolist() == [expected]


def test_boxes_are_the_overlaps_whatever_the_lengths():
    lengths, slots = torch.tensor([60, 41, 7, 1, 0]), torch.tensor([13, 30, 2, 1, 0])
    ends = random_ends(lengths, slots, 60)
    matrix = dense(box_rows(ends, slots, 30, torch.float64))
    for row, m in enumerate(slots):
        np.testing.assert_allclose(
            matrix[row, :m], overlaps(ends[row].numpy(), int(m)), atol=1e-14
        )
        assert (matrix[row, m:] == 0).all()
        torch.testing.assert_close(
            matrix[row, :m].sum(1), torch.ones(int(m), dtype=torch.float64)
        )
    assert (matrix.sum(1) * (torch.arange(60) >= lengths[:, None]) == 0).all()


def test_rows_and_their_transpose_are_products_with_the_matrix():
    lengths, slots = torch.tensor([20, 11]), torch.tensor([6, 9])
    ends = random_ends(lengths, slots, 20)
    rows = box_rows(ends, slots, 9, torch.float64)
    x = torch.randn(2, 20, 3, dtype=torch.float64)
    z = torch.randn(2, 9, 3, dtype=torch.float64)
    matrix = dense(rows)
    torch.testing.assert_close(rows.apply(x), matrix @ x)
    torch.testing.assert_close(rows.apply_transposed(z), matrix.mT @ z)


def test_a_gradient_of_the_ends_moves_weight_between_neighbours():
    ends = torch.tensor([[0.5, 1.25, 2.0]], dtype=torch.float64, requires_grad=True)
    x = torch.tensor([[[3.0], [7.0], [20.0]]], dtype=torch.float64)
    rows = box_rows(ends, torch.tensor([2]), 2, torch.float64)
    (rows.apply(x) * torch.tensor([[[1.0], [10.0]]])).sum().backward()
    # a later end of step 1 takes from step 2, in slot 0; of step 2 from 3, in slot 1
    assert ends.grad[0, :2].tolist() == [3.0 - 7.0, 10 * (7.0 - 20.0)]


@pytest.mark.parametrize("sizes", [[20], [1] * 20, [3, 16, 1], [19, 1]])
def test_chunks_of_boxes(sizes):
    for m in (1, 4, 20):
        slots = torch.tensor([m])
        rows = box_rows(random_ends(torch.tensor([20]), slots, 20), slots, m)
        x = torch.randn(1, 20, 3)
        chunks = list(apply_chunks(rows, x.split(sizes, dim=1)))
        torch.testing.assert_close(torch.cat(chunks, dim=1), rows.apply(x))
        if m == 20 and len(sizes) > 1:
            assert len(chunks) > 1  # slots are given out as they are complete


def test_positions_of_boxes_are_the_middles_of_weights():
    ends = torch.tensor([[0.5, 1.25, 2.0, 2.0]], dtype=torch.float64)
    positions = box_positions(ends, torch.tensor([2]))
    # middles .25, .875, 1.625, less a half, on [0, 1]; the padding repeats the last
    assert positions.tolist() == [[0.0, 0.375, 1.0, 1.0]]


def test_boundaries_read_from_boxes_are_where_slots_meet():
    even = torch.arange(1, 31, dtype=torch.float64)[None] / 30 * 12
    found = slot_boundaries(box_positions(even, torch.tensor([12]))[0].numpy(), 30, 12)
    np.testing.assert_allclose(found, np.arange(13) * 2.5, atol=1e-12)
    for m in (1, 5, 30, 55):
        ends = random_ends(torch.tensor([60]), torch.tensor([m]), 60)
        positions = box_positions(ends, torch.tensor([m]))[0].numpy()
        assert positions[0] >= 0 and positions[-1] <= m - 1
        found = slot_boundaries(positions, 60, m)
        true = np.interp(
            np.arange(m + 1), np.concatenate([[0.0], ends[0].numpy()]), np.arange(61)
        )
        assert np.abs(found - true).max() <= 0.5 + 1e-9


def test_the_largest_are_kept_and_of_equals_the_earlier():
    values = torch.tensor([[3.0, 5.0, 3.0, 9.0, 3.0], [1.0, 1.0, 1.0, 1.0, torch.nan]])
    candidates = torch.tensor([[1, 1, 1, 0, 1], [1, 1, 1, 1, 0]]).bool()
    kept = keep_largest(values, candidates, torch.tensor([3, 2]))
    assert kept.tolist() == [
        [True, True, True, False, False],
        [True, True, False, False, False],
    ]
    assert not keep_largest(values, candidates, torch.tensor([0, -1])).any()
    many = torch.zeros(1, 3000)  # more than are sorted in place
    kept = keep_largest(many, many == 0, torch.tensor([1000]))
    assert kept[0, :1000].all() and not kept[0, 1000:].any()


def segments(counts, steps):
    """Return slots, counts and positions of segments of so many steps, padded."""
    starts = torch.zeros(1, steps, dtype=torch.bool)
    starts[0, np.cumsum([0, *counts[:-1]])] = True
    lengths, slots = torch.tensor([sum(counts)]), slots_of(starts)
    found = segment_lengths(slots, lengths, len(counts) + 1)
    assert found.tolist() == [[*counts, 0]]
    return segment_positions(slots, found, lengths)[0]


def test_positions_of_segments_by_hand():
    # 3 steps: l - 1/4, l, l + 1/4; the ends stay on the segment [0, 2]
    found = segments([3, 2, 1], 8)
    assert found.tolist() == [0.0, 0.0, 0.25, 0.75, 1.25, 2.0, 2.0, 2.0]


def test_boundaries_read_from_segments_are_the_segments():
    counts = [2, 9, 3, 17, 2, 2]
    found = slot_boundaries(segments(counts, 40).numpy(), sum(counts), len(counts))
    np.testing.assert_allclose(found, np.cumsum([0, *counts]), atol=1e-12)
    alone = [1, 1, 1, 1]
    found = slot_boundaries(segments(alone, 4).numpy(), 4, 4)
    np.testing.assert_allclose(found, np.arange(5), atol=1e-12)
    beside = [1, 50, 1, 3]
    found = slot_boundaries(segments(beside, 60).numpy(), 55, 4)
    off = np.abs(found - np.cumsum([0, *beside]))
    assert 0.1 < off.max() <= 1 / 6 + 1e-9
