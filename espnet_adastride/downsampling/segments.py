"""Shared by methods that cut an utterance into segments, one for each output frame.

Two kinds of cuts, both in linear memory and without waiting for a GPU:

* :func:`box_rows`: cuts anywhere on the axis of a cumulated weight. With c_t the weight
  up to and including step t, slot j gets from every step the length of
  ``[c_{t-1}, c_t]`` that is within ``[j, j + 1]`` (``cif``);
* whole steps: ``starts`` (B, T) is True where a segment begins
  (:func:`keep_largest`, ``merge`` and ``hnet``).

Both place the steps on the segment [0, m - 1] of output slots, so that frames
have true times and pictures.
"""

from typing import Iterable, Iterator, Tuple

import torch

from espnet_adastride.downsampling.output import (
    Downsampler,
    Frames,
    checked_lengths,
    float64_device,
    length_mask,
    zero_padding,
)
from espnet_adastride.downsampling.rows import SparseRows

#: values that determine cuts are rounded to it, so that equal ones tie whatever the
#: order in which their terms were summed
TIE = 2.0**-30


def box_rows(
    cumulated: torch.Tensor,
    output_lengths: torch.Tensor,
    width: int,
    dtype: torch.dtype = torch.float32,
) -> SparseRows:
    """Return the rows w_tj = |[c_{t-1}, c_t] intersected with [j, j + 1]|.

    Args:
        cumulated: (B, T) float64, non-decreasing, from 0 (before step 1) to m; padded
            steps repeat m. The weights are differentiable in it: a step's end moves
            weight from the slot (or step) on its right to the one on its left. Where
            an end meets a slot's edge the derivative jumps.
        output_lengths: (B,) number of output slots m.
        width: T'.
        dtype: of the weights.

    Returns:
        SparseRows (B, T', T), where ``cumulated`` is; rows of valid slots sum to 1, and
        every step is used completely. Padded steps have entries of weight 0.
    """
    weights, step, slot = box_pieces(cumulated, output_lengths, width)
    return monotone_rows(weights.to(dtype), step, slot, cumulated.size(1), width)


def box_pieces(
    cumulated: torch.Tensor, output_lengths: torch.Tensor, width: int
) -> Tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Return the weights, steps and slots of the entries of :func:`box_rows`.

    The ends c_1 .. c_T of the steps and 1 .. T' - 1 of the slots, sorted together, cut
    the axis into T + T' - 1 pieces, each of one step and one slot: the entries, whose
    number does not depend on the data.

    Returns:
        (B, T + T' - 1) each; the weights in the dtype of ``cumulated``.
    """
    steps = cumulated.size(1)
    device = cumulated.device
    last = output_lengths.to(device).to(cumulated.dtype).unsqueeze(1)
    edges = torch.arange(1, width, device=device, dtype=cumulated.dtype)
    ends = torch.cat([cumulated, torch.minimum(edges.unsqueeze(0), last)], dim=1)
    order = torch.sort(ends.detach(), dim=1, stable=True).indices
    ends = ends.gather(1, order)
    # not torch.diff, which torch.export of ESPnet 202511 rejects at some strides
    weights = torch.cat([ends[:, :1], ends[:, 1:] - ends[:, :-1]], dim=1)
    # NaN is sorted behind all slots, which would repeat the first step
    weights = weights.masked_fill(cumulated[:, -1:].isnan(), torch.nan)
    of_step = (order < steps).to(torch.int64)
    # the number of steps, and slots, that end before a piece
    step = (of_step.cumsum(1) - of_step).clamp(max=steps - 1)
    slot = (1 - of_step).cumsum(1) - (1 - of_step)
    return weights, step, slot


def monotone_rows(
    weights: torch.Tensor,
    step: torch.Tensor,
    slot: torch.Tensor,
    steps: int,
    width: int,
) -> SparseRows:
    """Return the rows of entries (B, E) whose step and slot do not decrease.

    Args:
        weights: (B, E).
        step: (B, E) int64 below ``steps``.
        slot: (B, E) int64 below ``width``.
        steps: T.
        width: T'.
    """
    batch = torch.arange(step.size(0), device=step.device).unsqueeze(1)
    columns = (step + batch * steps).flatten()
    rows = (slot + batch * width).flatten()
    every_row = torch.arange(step.size(0) * width, device=step.device)
    every_column = torch.arange(step.size(0) * steps, device=step.device)
    return SparseRows(
        weights.flatten(),
        columns,
        rows,
        torch.searchsorted(rows, every_row),
        torch.arange(rows.numel(), device=step.device),  # rows and columns both ascend
        torch.searchsorted(columns, every_column),
        (step.size(0), width, steps),
        0,
    )


@torch.no_grad()
def apply_chunks(
    rows: SparseRows, chunks: Iterable[torch.Tensor]
) -> Iterator[torch.Tensor]:
    """Apply the rows of :func:`monotone_rows` to one utterance given in chunks.

    Args:
        rows: of a batch of one.
        chunks: consecutive parts (1, t, D).

    Yields:
        Consecutive parts (1, t', D) of the output, in the dtype of the chunks.
    """
    _, width, steps = rows.shape
    ends = [*rows.column_starts.tolist(), rows.columns.numel()]
    begin = done = 0
    waiting = None  # the sum of slot `done`, which is not complete
    for chunk in chunks:
        stop = begin + chunk.size(1)
        here = slice(ends[begin], ends[stop])
        # a slot is complete when the next entry belongs to a later one
        more = ends[stop] < ends[-1]
        complete = int(rows.rows[ends[stop]]) if more else width
        reached = int(rows.rows[here.stop - 1]) + 1
        slots = torch.arange(done, max(reached, complete), device=rows.rows.device)
        sums = torch.nn.functional.embedding_bag(
            rows.columns[here] - begin,
            chunk[0].to(rows.weights.dtype),
            torch.searchsorted(rows.rows[here], slots),
            mode="sum",
            per_sample_weights=rows.weights[here],
        )
        if waiting is not None:
            sums[0] += waiting
        if complete > done:
            yield sums[: complete - done].unsqueeze(0).to(chunk.dtype)
        waiting = sums[-1].clone() if reached > complete else None
        begin, done = stop, complete


def box_positions(cumulated: torch.Tensor, output_lengths: torch.Tensor):
    """Return the positions of steps that end at c_t: (c_{t-1} + c_t) / 2 - 1/2.

    Slot j is centred at j, and a step at the middle of its weight; on the segment [0, m
    - 1], like all positions. Interpolated between the centres of the steps, as in
    ``timing.boundaries.slot_boundaries``, slot boundaries are exact if the two
    neighbouring steps have equal weights, and otherwise within half a step.

    Args:
        cumulated: (B, T) float64, see :func:`box_rows`.
        output_lengths: (B,).

    Returns:
        (B, T) float64.
    """
    before = torch.nn.functional.pad(cumulated[:, :-1], (1, 0))
    last = (output_lengths - 1).clamp(min=0).to(cumulated.device)
    last = last.to(cumulated.dtype).unsqueeze(1)
    middle = (before + cumulated - 1.0) / 2
    return torch.minimum(middle.clamp(min=0.0), last)


def keep_largest(
    values: torch.Tensor, candidates: torch.Tensor, number: torch.Tensor
) -> torch.Tensor:
    """Return (B, T) booleans: the ``number`` largest candidates; the earlier of equals.

    Args:
        values: (B, T); ignored if there is no candidate.
        candidates: (B, T) booleans.
        number: (B,) number, at most that of the candidates.
    """
    values = values.detach().masked_fill(~candidates, -torch.inf)
    order = torch.sort(values, dim=1, descending=True, stable=True).indices
    places = torch.arange(values.size(1), device=values.device).expand_as(order)
    rank = torch.empty_like(order).scatter_(1, order, places)
    return (rank < number.unsqueeze(1)) & candidates


def slots_of(starts: torch.Tensor) -> torch.Tensor:
    """Return (B, T) int64, the segment of every step; padding repeats the last one's.

    Args:
        starts: (B, T) booleans, True at step 0 and where another segment begins.
    """
    return (starts.to(torch.int64).cumsum(dim=1) - 1).clamp(min=0)


def segment_lengths(
    slots: torch.Tensor, lengths: torch.Tensor, width: int
) -> torch.Tensor:
    """Return (B, T') int64, the steps of every segment; 0 beyond the last.

    Args:
        slots: (B, T) of :func:`slots_of`.
        lengths: (B,) valid steps.
        width: T'.
    """
    valid = length_mask(lengths, slots.size(1)).to(torch.int64)
    return valid.new_zeros(slots.size(0), width).scatter_add(1, slots, valid)


def segment_positions(
    slots: torch.Tensor, counts: torch.Tensor, lengths: torch.Tensor
) -> torch.Tensor:
    """Return the positions of the steps of whole-step segments, (B, T) float64.

    Step i of the k of slot l is at ``l + (i - (k - 1) / 2) / (2 (k - 1))``, or at l if
    it is the only one; on the segment [0, m - 1]. The steps are evenly spaced from l -
    1/4 to l + 1/4, so that the slot's centre is in the middle of the segment and two
    slots meet (halfway, ``timing.boundaries.slot_boundaries``) exactly on the boundary
    between their steps; next to a segment of a single step, within a sixth of a step of
    it.

    Args:
        slots: (B, T) of :func:`slots_of`.
        counts: (B, T') of :func:`segment_lengths`.
        lengths: (B,) valid steps.
    """
    device = float64_device(slots.device)
    slots, counts, lengths = (one.to(device) for one in (slots, counts, lengths))
    first = (counts.cumsum(dim=1) - counts).gather(1, slots)
    others = (counts.gather(1, slots) - 1).to(torch.float64)
    step = torch.arange(slots.size(1), device=slots.device, dtype=torch.float64)
    offset = (step - first - others / 2) / (2 * others).clamp(min=1.0)
    valid = length_mask(lengths, slots.size(1))
    last = slots[:, -1:].to(torch.float64)
    positions = slots + offset.masked_fill(~valid, 0.0)
    return torch.minimum(positions.clamp(min=0.0), last)


class SegmentDownsampler(Downsampler):
    """Base of methods whose frames represent segments of whole steps."""

    has_positions = True
    adapts_to = "the utterance: where frames are"

    def upsample(self, z, lengths, steps, positions=None, normalised=True):
        """Repeat every frame over the steps of its segment, (B, T', D') to (B, T, D').

        Raises:
            ValueError: without positions.
        """
        if positions is None:
            raise ValueError("upsampling by segments needs the positions")
        lengths = checked_lengths(lengths, z, steps)
        slots = positions.detach().round().to(torch.int64).to(z.device).unsqueeze(2)
        x = z.gather(1, slots.expand(-1, -1, z.size(2)))
        return zero_padding(x, lengths)


def with_previous(frames: Frames) -> Iterator[torch.Tensor]:
    """Yield an utterance's chunks, each but the first preceded by the step before it.

    For comparing neighbours: T steps have T - 1 pairs, and each is in one chunk.
    """
    last = None
    for chunk in frames():
        yield chunk if last is None else torch.cat([last, chunk], dim=1)
        last = chunk[:, -1:].clone()
