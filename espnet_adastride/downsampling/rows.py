"""AdaStride's alignment as sparse rows: the same z = A x, in linear time and memory.

Positions are non-decreasing, so the time steps that matter to a slot are one contiguous
range, and so are the slots that matter to a time step. Row l keeps every
valid step with

    (l - p_t)^2 <= d_l^2 + C / sigma_square,    d_l the distance of its nearest step,

all others having less than exp(-C) of the nearest one's weight. A band of fixed width
would not do: an empty slot's nearest step can be any distance away.

Weights are softmax over ``-sigma_square ((l - p_t)^2 - d_l^2) <= 0``: no overflow, and
a denominator of at least 1. ``embedding_bag`` applies the rows without an (entries, D)
tensor, and the backward gathers over the transposed ranges, so that nothing D wide is
ever scattered. ``alignment_matrix`` in adastride.py is the definition this must equal.
"""

from typing import Callable, List, NamedTuple, Optional, Tuple

import torch

from espnet_adastride.downsampling.output import length_mask

#: C above: what is cut off is below exp(-C) of a row's largest weight
_CUT_OFF = {torch.float32: 18.0, torch.float64: 40.0}

#: alignments of more entries are applied in pieces (about 50 bytes an entry)
MAX_ENTRIES = 2**24


class SparseRows(NamedTuple):
    """A batch of alignments as contiguous ranges; build it with :func:`sparse_rows`.

    Entries stand row by row; ``columns`` and ``rows`` count over the whole batch.

    Attributes:
        weights: (entries,) softmax weights, differentiable in the positions.
        columns: (entries,) b T + t of each entry.
        rows: (entries,) b T' + l of each entry.
        row_starts: (B T',) first entry of each row.
        transposed: (entries,) the entries ordered by column instead.
        column_starts: (B T,) first place of each column in ``transposed``.
        shape: (B, T', T).
    """

    weights: torch.Tensor
    columns: torch.Tensor
    rows: torch.Tensor
    row_starts: torch.Tensor
    transposed: torch.Tensor
    column_starts: torch.Tensor
    shape: Tuple[int, int, int]

    def apply(self, x: torch.Tensor) -> torch.Tensor:
        """Return A x, (B, T', D) for x (B, T, D)."""
        batch, width, steps = self.shape
        z = _WeightedGather.apply(
            self.weights,
            x.reshape(batch * steps, x.size(2)),
            (self.columns, self.row_starts),
            (self.rows, self.column_starts),
            self.transposed,
        )
        return z.view(batch, width, x.size(2))

    def apply_transposed(self, z: torch.Tensor) -> torch.Tensor:
        """Return A^T z, (B, T, D) for z (B, T', D): what a decoder upsamples by."""
        batch, width, steps = self.shape
        inverse = torch.empty_like(self.transposed)
        inverse[self.transposed] = torch.arange(
            inverse.numel(), device=inverse.device, dtype=inverse.dtype
        )
        x = _WeightedGather.apply(
            self.weights[self.transposed],
            z.reshape(batch * width, z.size(2)),
            (self.rows[self.transposed], self.column_starts),
            (self.columns[self.transposed], self.row_starts),
            inverse,
        )
        return x.view(batch, steps, z.size(2))


class Ranges(NamedTuple):
    """The steps [first, end) that matter to every slot; neither decreases with it.

    Attributes:
        first: (B, T') int64.
        end: (B, T') int64, at most the utterance's length; first where there is none.
        nearest_square: (B, T') squared distance of the nearest step.
    """

    first: torch.Tensor
    end: torch.Tensor
    nearest_square: torch.Tensor


class Window(NamedTuple):
    """The slots [start, stop), of all utterances, and the entries of their ranges."""

    start: int
    stop: int
    entries: int


def alignment_ranges(
    positions: torch.Tensor,
    lengths: torch.Tensor,
    output_lengths: torch.Tensor,
    sigma_square: float,
    max_output_length: int,
    dtype: torch.dtype = torch.float32,
) -> Ranges:
    """Return the steps that AdaStride's softmax reaches; see :func:`sparse_rows`."""
    where, slots, _, nearest_square = _nearest_step(
        positions, lengths, max_output_length
    )
    reach = torch.sqrt(nearest_square + _CUT_OFF[dtype] / sigma_square)
    # both grow with the slot: the distance of the nearest step changes by 1 at most
    first = torch.searchsorted(where, slots - reach)
    end = torch.searchsorted(where, slots + reach, right=True)
    return _cut(first, end, nearest_square, lengths, output_lengths)


def nearest_slot_ranges(
    positions: torch.Tensor,
    lengths: torch.Tensor,
    output_lengths: torch.Tensor,
    max_output_length: int,
    fill_empty: bool = False,
) -> Ranges:
    """Return AdaStride-F's steps of every slot: those that it is the nearest slot of.

    Args:
        positions, lengths, output_lengths, max_output_length: see :func:`sparse_rows`.
        fill_empty: give a slot that is nobody's nearest its own nearest step; without
            it such a slot has none.
    """
    where, slots, nearest, nearest_square = _nearest_step(
        positions, lengths, max_output_length
    )
    slot_of_step = torch.round(where)
    first = torch.searchsorted(slot_of_step, slots)
    end = torch.searchsorted(slot_of_step, slots, right=True)
    if fill_empty:
        empty = first == end
        first = torch.where(empty, nearest, first)
        end = torch.where(empty, nearest + 1, end)
    return _cut(first, end, nearest_square, lengths, output_lengths)


def sparse_rows(
    positions: torch.Tensor,
    lengths: torch.Tensor,
    output_lengths: torch.Tensor,
    sigma_square: float,
    max_output_length: int,
    dtype: torch.dtype = torch.float32,
) -> SparseRows:
    """Build the rows of AdaStride's alignment from its positions.

    Args:
        positions: (B, T) float64, non-decreasing, padded steps repeating the last one.
        lengths: (B,) valid lengths n.
        output_lengths: (B,) number of output slots m.
        sigma_square: sharpness, > 0.
        max_output_length: T'.
        dtype: of the weights, float32 or float64; it also sets the cut-off C.

    Returns:
        SparseRows: about 4 stride / sqrt(sigma_square) entries per row where the
        strides are even; O(T' T) in the worst case (half of the steps at one position,
        far from many slots), which :func:`resample_by_scores` takes in pieces.
    """
    ranges = alignment_ranges(
        positions, lengths, output_lengths, sigma_square, max_output_length, dtype
    )
    return build_rows(ranges, positions, sigma_square, dtype)


def _nearest_step(positions, lengths, width):
    """Return the positions without their graph, and of every slot (B, T') its number,
    the valid step whose position is nearest, and the square of their distance."""
    where = positions.detach().contiguous()
    slots = torch.arange(width, device=where.device, dtype=where.dtype)
    slots = slots.expand(where.size(0), width).contiguous()
    last = (lengths - 1).clamp(min=0).unsqueeze(1)
    right = torch.minimum(torch.searchsorted(where, slots), last)
    left = (right - 1).clamp(min=0)
    left_is_nearer = slots - where.gather(1, left) <= where.gather(1, right) - slots
    nearest = torch.where(left_is_nearer, left, right)
    return where, slots, nearest, (slots - where.gather(1, nearest)).square()


def _cut(first, end, nearest_square, lengths, output_lengths):
    """Cut ranges to the valid steps; slots beyond the output get none, at the end."""
    last = lengths.unsqueeze(1)
    valid = length_mask(output_lengths, first.size(1))
    first = torch.where(valid, first, last)
    end = torch.maximum(torch.where(valid, torch.minimum(end, last), last), first)
    return Ranges(first, end, nearest_square)


def build_rows(
    ranges: Ranges,
    positions: torch.Tensor,
    sigma_square: float,
    dtype: torch.dtype = torch.float32,
    window: Optional[Window] = None,
) -> SparseRows:
    """Build the rows whose entries are the steps of every range.

    Args:
        ranges: of every slot.
        positions: (B, T) float64; the weights are differentiable in them.
        sigma_square: sharpness, > 0.
        dtype: of the weights.
        window: from :func:`slot_windows`; the other rows stay empty. Without it the
            number of entries is counted here, where a GPU is waited for.
    """
    first, end, nearest_square = ranges
    (batch, steps), width = positions.shape, first.size(1)
    counts = end - first
    start, stop, entries = window or (0, width, int(counts.sum()))
    if stop - start < width:
        counts = torch.nn.functional.pad(counts[:, start:stop], (start, width - stop))
    counts = counts.flatten()
    row_starts = torch.cumsum(counts, 0) - counts
    rows = torch.repeat_interleave(counts, output_size=entries)
    entry = torch.arange(entries, device=rows.device)
    batch_start = torch.arange(batch, device=rows.device).unsqueeze(1)
    row_origin = (first + batch_start * steps).flatten() - row_starts
    columns = entry + row_origin[rows]

    # the transposed ranges: the rows [top, bottom) of every column
    time = torch.arange(steps, device=rows.device).expand(batch, steps).contiguous()
    top = torch.searchsorted(end.contiguous(), time, right=True).clamp(min=start)
    bottom = torch.searchsorted(first.contiguous(), time, right=True).clamp(max=stop)
    per_column = (bottom - top).clamp(min=0).flatten()
    column_starts = torch.cumsum(per_column, 0) - per_column
    of_column = torch.repeat_interleave(per_column, output_size=entries)
    row = entry + ((top + batch_start * width).flatten() - column_starts)[of_column]
    transposed = of_column - row_origin[row]

    weights = _RowSoftmax.apply(
        positions, columns, rows, nearest_square, sigma_square, dtype
    )
    return SparseRows(
        weights,
        columns,
        rows,
        row_starts,
        transposed,
        column_starts,
        (batch, width, steps),
    )


def slot_windows(ranges: Ranges, max_entries: int) -> List[Window]:
    """Cut the slots into windows of at most ``max_entries`` entries (or one slot).

    Returns:
        One window in all but the worst cases; in order, covering all slots. The only
        place where the host has to wait for a GPU.
    """
    per_slot = (ranges.end - ranges.first).sum(dim=0).tolist()
    if sum(per_slot) <= max_entries:
        return [Window(0, len(per_slot), sum(per_slot))]
    windows, start, entries = [], 0, 0
    for slot, count in enumerate(per_slot):
        if slot > start and entries + count > max_entries:
            windows.append(Window(start, slot, entries))
            start, entries = slot, 0
        entries += count
    return windows + [Window(start, len(per_slot), entries)]


def _first_order_only():
    """Raise where autograd is asked for a graph of the gradients (create_graph)."""
    if torch.is_grad_enabled():
        raise RuntimeError(
            "second-order gradients of AdaStride's sparse rows are not implemented: "
            "use the dense alignment_matrix(positions, ...) @ x where you need them"
        )


class _RowSoftmax(torch.autograd.Function):
    """Softmax of -sigma_square (l - p_t)^2 over each row's entries."""

    @staticmethod
    def forward(ctx, positions, columns, rows, nearest_square, sigma_square, dtype):
        width = nearest_square.size(1)
        distance = rows.remainder(width) - positions.flatten()[columns]
        below = nearest_square.flatten()[rows] - distance.square()
        weights = torch.exp((sigma_square * below).to(dtype))
        total = weights.new_zeros(nearest_square.numel()).index_add_(0, rows, weights)
        weights = weights / total[rows]
        ctx.save_for_backward(positions, columns, rows, weights)
        ctx.sigma_square, ctx.width = sigma_square, width
        return weights

    @staticmethod
    def backward(ctx, grad_weights):
        _first_order_only()
        positions, columns, rows, weights = ctx.saved_tensors
        grad = _grad_positions(
            positions, weights, columns, rows, ctx.width, ctx.sigma_square, grad_weights
        )
        return grad, None, None, None, None, None


def _grad_positions(
    positions, weights, columns, rows, width, sigma_square, grad_weights
):
    """Turn a gradient of the rows' weights into one of the positions (B, T)."""
    product = weights * grad_weights
    total = product.new_zeros(positions.size(0) * width).index_add_(0, rows, product)
    grad_logits = product - weights * total[rows]
    distance = rows.remainder(width) - positions.flatten()[columns]
    grad = 2.0 * sigma_square * distance * grad_logits
    grad_positions = torch.zeros_like(positions).flatten().index_add_(0, columns, grad)
    return grad_positions.view_as(positions)


class _WeightedGather(torch.autograd.Function):
    """z[i] = sum of weight * table[column] over row i's entries, and its gradients.

    ``forward_index`` is (columns, row_starts), ``backward_index`` (rows,
    column_starts), ``transposed`` the order that turns the one into the other.
    """

    @staticmethod
    def forward(ctx, weights, table, forward_index, backward_index, transposed):
        columns, row_starts = forward_index
        rows, column_starts = backward_index
        ctx.save_for_backward(
            weights, table, columns, row_starts, rows, column_starts, transposed
        )
        return _bag(columns, table, row_starts, weights)

    @staticmethod
    def backward(ctx, grad):
        _first_order_only()
        weights, table, columns, row_starts, rows, column_starts, transposed = (
            ctx.saved_tensors
        )
        grad_weights = grad_table = None
        grad = grad.contiguous()
        if ctx.needs_input_grad[0]:
            grad_weights = _dot_products(grad, table, columns, row_starts, rows)
        if ctx.needs_input_grad[1]:
            grad_table = _transposed_bag(rows, grad, column_starts, weights, transposed)
        return grad_weights, grad_table, None, None, None


def resample_by_scores(
    x: torch.Tensor,
    score_weight: torch.Tensor,
    lengths: torch.Tensor,
    place: Callable[[torch.Tensor], torch.Tensor],
    reach: Callable[[torch.Tensor], Ranges],
    sigma_square: float,
) -> Tuple[torch.Tensor, torch.Tensor]:
    """Score the steps, place them, and resample them: A(p(x w)) x.

    As one autograd function, because what is D wide decides the time: x is read twice
    on the way forth and twice on the way back, and neither the scores' own gradient
    (the product of a column and a row) nor a masked copy of x is ever written out.

    Memory is bounded: an alignment of more than ``MAX_ENTRIES`` entries (ties, in the
    worst case T' T) is applied in windows of slots, and built again in the backward.

    Args:
        x: (B, T, D), float32 or float64; the padding is never used.
        score_weight: (D,).
        lengths: (B,) valid lengths n.
        place: scores (B, T) to positions (B, T), differentiable or detached; it
            ignores the padding's scores.
        reach: positions to Ranges.
        sigma_square: sharpness, > 0.

    Returns:
        z (B, T', D) and the positions (B, T); both carry gradients, of first order
        only.
    """
    return _ScoredResample.apply(x, score_weight, lengths, place, reach, sigma_square)


class _ScoredResample(torch.autograd.Function):
    """See :func:`resample_by_scores`."""

    @staticmethod
    def forward(ctx, x, score_weight, lengths, place, reach, sigma_square):
        scores = x @ score_weight
        positions = place(scores)
        ranges = reach(positions)
        table = x.reshape(-1, x.size(2))
        windows = slot_windows(ranges, MAX_ENTRIES)
        z = None
        for window in windows:
            rows = build_rows(ranges, positions, sigma_square, x.dtype, window)
            part = _bag(rows.columns, table, rows.row_starts, rows.weights)
            z = part if z is None else z.add_(part)
        kept = rows[:6] if len(windows) == 1 else ()
        ctx.save_for_backward(x, score_weight, lengths, scores, *kept)
        ctx.place, ctx.reach, ctx.windows = place, reach, windows
        ctx.shape, ctx.sigma_square = rows.shape, sigma_square
        return z.view(*rows.shape[:2], x.size(2)), positions

    @staticmethod
    def backward(ctx, grad_z, grad_positions):
        _first_order_only()
        x, score_weight, lengths, scores, *kept = ctx.saved_tensors
        table = x.reshape(-1, x.size(2))
        grad_z = grad_z.reshape(-1, x.size(2))
        # what is one number a step is small: let autograd go through it again
        with torch.enable_grad():
            scores = scores.detach().requires_grad_()
            positions = ctx.place(scores)
        where = positions.detach()

        def all_rows():
            if kept:
                yield SparseRows(*kept, ctx.shape)
                return
            ranges = ctx.reach(where)
            for window in ctx.windows:
                yield build_rows(ranges, where, ctx.sigma_square, x.dtype, window)

        grad_x = None
        for rows in all_rows():
            grad_weights = _dot_products(
                grad_z, table, rows.columns, rows.row_starts, rows.rows
            )
            grad_positions = grad_positions + _grad_positions(
                where,
                rows.weights,
                rows.columns,
                rows.rows,
                rows.shape[1],
                ctx.sigma_square,
                grad_weights,
            )
            if ctx.needs_input_grad[0]:
                part = _transposed_bag(
                    rows.rows, grad_z, rows.column_starts, rows.weights, rows.transposed
                )
                grad_x = part if grad_x is None else grad_x.add_(part)
        grad_scores = torch.zeros_like(scores)
        if positions.requires_grad:  # or else `place` has cut the graph
            (grad_scores,) = torch.autograd.grad(positions, scores, grad_positions)
        grad_scores = grad_scores.flatten()
        if grad_x is not None:
            grad_x = grad_x.addr_(grad_scores, score_weight).view_as(x)
        grad_score_weight = None
        if ctx.needs_input_grad[1]:
            valid = length_mask(lengths, x.size(1)).flatten()
            grad_score_weight = _weighted_sum(grad_scores, table, valid)
        return grad_x, grad_score_weight, None, None, None, None


def _weighted_sum(factors, table, valid):
    """Return the sum (D,) of factor * table row over the valid rows, reading no other.

    A product with factors of 0 would let NaN in the padding through.
    """
    place = torch.arange(valid.numel(), device=valid.device)
    some_valid = valid.to(torch.uint8).argmax()
    index = torch.where(valid, place, some_valid)
    starts = torch.arange(0, valid.numel(), 64, device=valid.device)  # many short sums
    total = _bag(index, table, starts, factors).sum(dim=0)
    return total.masked_fill(~valid.any(), 0.0)


def _bag(index, table, starts, weights):
    """Return sums of weighted table rows, one per bag; nothing (entries, D) is made."""
    return torch.nn.functional.embedding_bag(
        index, table, starts, mode="sum", per_sample_weights=weights
    )


def _transposed_bag(rows, table, column_starts, weights, transposed):
    """Return, for every column, the weighted sum of the table rows that it is in."""
    return _bag(rows[transposed], table, column_starts, weights[transposed])


def _dot_products(grad, table, columns, row_starts, rows):
    """Return grad[row] . table[column] for every entry."""
    return torch.ops.aten._embedding_bag_per_sample_weights_backward(
        grad, table, columns, row_starts, rows, 0
    )
