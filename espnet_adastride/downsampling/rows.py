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

from typing import NamedTuple

import torch

from espnet_adastride.downsampling.output import length_mask

#: C above: what is cut off is below exp(-C) of a row's largest weight
_CUT_OFF = {torch.float32: 18.0, torch.float64: 40.0}


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
    shape: tuple

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


def sparse_rows(
    positions: torch.Tensor,
    lengths: torch.Tensor,
    output_lengths: torch.Tensor,
    sigma_square: float,
    max_output_length: int,
    dtype: torch.dtype = torch.float32,
) -> SparseRows:
    """Build the rows of an alignment from its positions.

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
        far from many slots).
    """
    batch, steps = positions.shape
    width = max_output_length
    where = positions.detach().contiguous()
    slots = torch.arange(width, device=where.device, dtype=where.dtype)
    slots = slots.expand(batch, width).contiguous()
    ends = lengths.unsqueeze(1)
    last = (ends - 1).clamp(min=0)

    right = torch.minimum(torch.searchsorted(where, slots), last)
    left = (right - 1).clamp(min=0)
    nearest_square = torch.minimum(
        (slots - where.gather(1, left)).square(),
        (slots - where.gather(1, right)).square(),
    )
    reach = torch.sqrt(nearest_square + _CUT_OFF[dtype] / sigma_square)
    # [first, end) of every row; both grow with the slot, since d_l changes by 1 at most
    first = torch.searchsorted(where, slots - reach)
    end = torch.minimum(torch.searchsorted(where, slots + reach, right=True), ends)
    valid = length_mask(output_lengths, width)
    counts = torch.where(valid, (end - first).clamp(min=0), 0).flatten()
    row_starts = torch.cumsum(counts, 0) - counts
    rows = torch.repeat_interleave(counts)
    entry = torch.arange(rows.numel(), device=rows.device)
    batch_start = torch.arange(batch, device=rows.device).unsqueeze(1)
    row_origin = (first + batch_start * steps).flatten() - row_starts
    columns = entry + row_origin[rows]

    # the transposed ranges: the rows [top, bottom) of every column
    time = torch.arange(steps, device=where.device).expand(batch, steps).contiguous()
    top = torch.searchsorted(end.contiguous(), time, right=True)
    bottom = torch.searchsorted(first.contiguous(), time, right=True)
    bottom = torch.minimum(bottom, output_lengths.unsqueeze(1))
    inside = length_mask(lengths, steps)
    per_column = torch.where(inside, (bottom - top).clamp(min=0), 0).flatten()
    column_starts = torch.cumsum(per_column, 0) - per_column
    of_column = torch.repeat_interleave(per_column)
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
        ctx.sigma_square, ctx.width, ctx.row_count = sigma_square, width, total.numel()
        return weights

    @staticmethod
    def backward(ctx, grad_weights):
        _first_order_only()
        positions, columns, rows, weights = ctx.saved_tensors
        product = weights * grad_weights
        total = product.new_zeros(ctx.row_count).index_add_(0, rows, product)
        grad_logits = product - weights * total[rows]
        distance = rows.remainder(ctx.width) - positions.flatten()[columns]
        grad = 2.0 * ctx.sigma_square * distance * grad_logits
        grad_positions = torch.zeros_like(positions).flatten()
        grad_positions = grad_positions.index_add_(0, columns, grad)
        return grad_positions.view_as(positions), None, None, None, None, None


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
            grad_table = _bag(
                rows[transposed], grad, column_starts, weights[transposed]
            )
        return grad_weights, grad_table, None, None, None


def _bag(index, table, starts, weights):
    """Return sums of weighted table rows, one per bag; nothing (entries, D) is made."""
    return torch.nn.functional.embedding_bag(
        index, table, starts, mode="sum", per_sample_weights=weights
    )


def _dot_products(grad, table, columns, row_starts, rows):
    """Return grad[row] . table[column] for every entry."""
    return torch.ops.aten._embedding_bag_per_sample_weights_backward(
        grad, table, columns, row_starts, rows, 0
    )
