"""AdaStride's alignment as sparse rows: the same z = A x, in linear time and memory.

Positions are non-decreasing, so the time steps relevant to a slot are a contiguous
range, and so are the slots relevant to a time step. Row l keeps every valid step with

    (l - p_t)^2 <= d_l^2 + C / sigma_square,    d_l the distance of its nearest step,

all others have less than exp(-C) of the nearest one's weight. A band of fixed width is
not sufficient: an empty slot's nearest step can be arbitrarily far away. Nor is a fixed
C: thousands of tied steps just beyond the range would be missed. If an utterance has
at most k steps between two slots, about 2 k exp(-C) is lost on both sides of a row
(beyond that the weights fall steeply), hence C = log(2 k / tolerance).

Weights are softmax over ``-sigma_square ((l - p_t)^2 - d_l^2) <= 0``: no overflow, and
a denominator of at least 1. ``embedding_bag`` applies the rows without an (entries, D)
tensor, and the backward gathers over the transposed ranges, so that no tensor of width
D is ever scattered. ``alignment_matrix`` in adastride.py is the definition this must
equal.
"""

import os
from functools import partial
from typing import Callable, Iterable, Iterator, List, NamedTuple, Optional, Tuple

import torch

from espnet_adastride.downsampling.output import float64_device, length_mask

#: maximum loss of a row, relative to its largest weight
_TOLERANCE = {torch.float32: 1e-7, torch.float64: 1e-16}

#: alignments of more entries are applied in windows (about 50 bytes an entry)
MAX_ENTRIES = 2**24

#: longer rows are summed in parts: in a running sum of hundreds of float32 terms
#: (half of the steps tied), the small ones would be lost
LONG_ROW = 64

#: whether the Triton kernels are used on CUDA if ADASTRIDE_TRITON is not set.
#: Measured on a GPU: no. Set it to True once docs/gpu.md has the numbers.
TRITON_BY_DEFAULT = False

#: read once, like Triton's own variables: 1 or 0, other values are rejected
TRITON_SWITCH = os.environ.get("ADASTRIDE_TRITON", "")


def triton_is_wanted() -> bool:
    """Return whether the Triton kernels should be used if possible.

    Raises:
        ValueError: if ADASTRIDE_TRITON is neither 0 nor 1.
    """
    if TRITON_SWITCH not in ("", "0", "1"):
        raise ValueError(
            f"ADASTRIDE_TRITON must be 1 (use the Triton kernels on CUDA) or 0 (do "
            f"not), got {TRITON_SWITCH!r}"
        )
    return TRITON_SWITCH == "1" or (TRITON_SWITCH == "" and TRITON_BY_DEFAULT)


def _import_kernels():
    """Return triton_rows.py, or None if Triton is missing or not wanted."""
    by_default = TRITON_SWITCH == "" and TRITON_BY_DEFAULT and torch.cuda.is_available()
    if TRITON_SWITCH == "1" or by_default:
        try:
            from espnet_adastride.downsampling import triton_rows
        except ImportError:
            return None
        return triton_rows
    return None


_KERNELS = _import_kernels()


def kernels_for(x: torch.Tensor):
    """Return the module of Triton kernels if they should resample x, else None.

    The only place of this decision: wanted (:func:`triton_is_wanted`), Triton
    installed, x on CUDA and not within torch.func, which the kernels do not
    support. Everything else uses the rows of this file.
    """
    if _KERNELS is None or not triton_is_wanted() or _is_transformed():
        return None
    usable = _KERNELS.runs_on(x.device) and x.dtype in _KERNELS.DTYPES
    return _KERNELS if usable else None


class SparseRows(NamedTuple):
    """A batch of alignments as contiguous ranges, from :func:`sparse_rows` or a layer's
    ``rows``.

    Entries are ordered by row; ``columns`` and ``rows`` count over the whole batch.

    Attributes:
        weights: (entries,) softmax weights, differentiable in the positions.
        columns: (entries,) b T + t of each entry.
        rows: (entries,) b T' + l of each entry.
        row_starts: (B T',) first entry of each row.
        transposed: (entries,) the entries ordered by column instead.
        column_starts: (B T,) first place of each column in ``transposed``.
        shape: (B, T', T).
        longest: number of entries of the longest row.
    """

    weights: torch.Tensor
    columns: torch.Tensor
    rows: torch.Tensor
    row_starts: torch.Tensor
    transposed: torch.Tensor
    column_starts: torch.Tensor
    shape: Tuple[int, int, int]
    longest: int

    def to(self, device: torch.device) -> "SparseRows":
        """Return the same rows on another device; gradients come back."""
        return SparseRows(
            self.weights.to(device),
            self.columns.to(device),
            self.rows.to(device),
            self.row_starts.to(device),
            self.transposed.to(device),
            self.column_starts.to(device),
            self.shape,
            self.longest,
        )

    def apply(self, x: torch.Tensor) -> torch.Tensor:
        """Return A x, (B, T', D) in the dtype of x (B, T, D), whose padding is unread.

        It downsamples a residual branch next to the layer.
        """
        batch, width, steps = self.shape
        z = _WeightedGather.apply(
            self.weights,
            x.reshape(batch * steps, x.size(2)).to(self.weights.dtype),
            self.columns,
            self.row_starts,
            self.rows,
            self.column_starts,
            self.transposed,
            self.longest,
        )
        return z.view(batch, width, x.size(2)).to(x.dtype)

    def apply_transposed(self, z: torch.Tensor) -> torch.Tensor:
        """Return A^T z, (B, T, D) for z (B, T', D): the upsampling of a decoder."""
        batch, width, steps = self.shape
        inverse = torch.empty_like(self.transposed)
        inverse[self.transposed] = torch.arange(
            inverse.numel(), device=inverse.device, dtype=inverse.dtype
        )
        x = _WeightedGather.apply(
            self.weights[self.transposed],
            z.reshape(batch * width, z.size(2)).to(self.weights.dtype),
            self.rows[self.transposed],
            self.column_starts,
            self.columns[self.transposed],
            self.row_starts,
            inverse,
            0,
        )
        return x.view(batch, steps, z.size(2)).to(z.dtype)


class Ranges(NamedTuple):
    """The steps [first, end) relevant to every slot; both are non-decreasing.

    Attributes:
        first: (B, T') int64.
        end: (B, T') int64, at most the utterance's length; equal to ``first`` if there
            is none.
        nearest_square: (B, T') squared distance of the nearest step.
    """

    first: torch.Tensor
    end: torch.Tensor
    nearest_square: torch.Tensor


class Window(NamedTuple):
    """The slots [start, stop), of all utterances: the number of entries in their ranges
    together, and in the longest."""

    start: int
    stop: int
    entries: int
    longest: int


def alignment_ranges(
    positions: torch.Tensor,
    lengths: torch.Tensor,
    output_lengths: torch.Tensor,
    sigma_square: float,
    max_output_length: int,
    dtype: torch.dtype = torch.float32,
    margin: float = 0.0,
) -> Ranges:
    """Return the steps in the range of AdaStride's softmax; see :func:`sparse_rows`.

    Args:
        positions, lengths, output_lengths, sigma_square, max_output_length, dtype: see
            there.
        margin: added to C if the terms added to the softmax's exponents of two steps
            differ by up to this much.
    """
    where, slots, before, _, nearest_square = _nearest_step(
        positions, lengths, max_output_length
    )
    last = lengths.unsqueeze(1)
    most = torch.cat([before, last], dim=1).diff(dim=1).amax(dim=1, keepdim=True)
    cut_off = torch.log(2.0 / _TOLERANCE[dtype] * most.clamp(min=1).to(where.dtype))
    reach = torch.sqrt(nearest_square + (cut_off + margin) / sigma_square)
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
    """Return AdaStride-F's steps of every slot: those nearest to it.

    Args:
        positions, lengths, output_lengths, max_output_length: see :func:`sparse_rows`.
        fill_empty: give a slot without steps its nearest step; without
            it, such a slot has none.
    """
    where, slots, _, nearest, nearest_square = _nearest_step(
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
        SparseRows: about 8 stride / sqrt(sigma_square) entries per row if the
        strides are even; O(T' T) in the worst case (half of the steps at one position,
        far from many slots), which :func:`resample_by_scores` takes in windows.

    Raises:
        RuntimeError: in that worst case, beyond MAX_ENTRIES entries.
    """
    ranges = alignment_ranges(
        positions, lengths, output_lengths, sigma_square, max_output_length, dtype
    )
    return build_rows(ranges, positions, sigma_square, dtype)


def _nearest_step(positions, lengths, width):
    """Return the positions without their graph, and for every slot (B, T') its number,
    the number of valid steps before it, the valid step whose position is nearest, and
    the square of their distance."""
    where = positions.detach().contiguous()
    slots = torch.arange(width, device=where.device, dtype=where.dtype)
    slots = slots.expand(where.size(0), width).contiguous()
    lengths = lengths.unsqueeze(1)
    before = torch.minimum(torch.searchsorted(where, slots), lengths)
    right = torch.minimum(before, (lengths - 1).clamp(min=0))
    left = (right - 1).clamp(min=0)
    left_is_nearer = slots - where.gather(1, left) <= where.gather(1, right) - slots
    nearest = torch.where(left_is_nearer, left, right)
    return where, slots, before, nearest, (slots - where.gather(1, nearest)).square()


def _cut(first, end, nearest_square, lengths, output_lengths):
    """Cut ranges to the valid steps; slots beyond the output get none, at the end."""
    last = lengths.unsqueeze(1)
    valid = length_mask(output_lengths, first.size(1))
    # NaN positions (of all steps: softmax spreads them) find no step; with one, the
    # output is NaN, too
    lost = nearest_square.isnan()
    first = torch.where(valid, first.masked_fill(lost, 0), last)
    end = torch.minimum(end, last).masked_fill(lost, 1)
    end = torch.maximum(torch.where(valid, end, last), first)
    return Ranges(first, end, nearest_square)


def build_rows(
    ranges: Ranges,
    positions: torch.Tensor,
    sigma_square: float,
    dtype: torch.dtype = torch.float32,
    window: Optional[Window] = None,
) -> SparseRows:
    """Build the rows with the steps of every range as entries.

    Args:
        ranges: of every slot.
        positions: (B, T) float64; the weights are differentiable in them.
        sigma_square: sharpness, > 0.
        dtype: of the weights.
        window: from :func:`slot_windows`; the other rows stay empty. Without it the
            entries are counted here, which synchronises with a GPU.

    Raises:
        RuntimeError: if there are more than MAX_ENTRIES entries and no window.
    """
    first, end, nearest_square = ranges
    (batch, steps), width = positions.shape, first.size(1)
    if window is None:
        window, *more = slot_windows(ranges, MAX_ENTRIES)
        if more:
            raise RuntimeError(
                f"the alignment has more than {MAX_ENTRIES} entries: the strides have "
                "collapsed, many slots are equally far from thousands of steps"
            )
    start, stop, entries, longest = window
    counts = end - first
    if stop - start < width:
        counts = torch.nn.functional.pad(counts[:, start:stop], (start, width - stop))
    batch_start = torch.arange(batch, device=first.device).unsqueeze(1)
    columns, rows, row_starts, row_origin = _entries(
        (first + batch_start * steps).flatten(), counts.flatten(), entries
    )

    # the transposed ranges: the rows [top, bottom) of every column
    time = torch.arange(steps, device=rows.device).expand(batch, steps).contiguous()
    top = torch.searchsorted(end.contiguous(), time, right=True).clamp(min=start)
    bottom = torch.searchsorted(first.contiguous(), time, right=True).clamp(max=stop)
    per_column = (bottom - top).clamp(min=0).flatten()
    column_starts = torch.cumsum(per_column, 0) - per_column
    of_column = torch.repeat_interleave(per_column, output_size=entries)
    row_of_column = (top + batch_start * width).flatten() - column_starts
    row = torch.arange(entries, device=rows.device) + row_of_column[of_column]
    transposed = of_column - row_origin[row]

    index = (columns, rows, row_starts, transposed, column_starts)
    weights = _RowSoftmax.apply(positions, nearest_square, sigma_square, dtype, *index)
    return SparseRows(weights, *index, (batch, width, steps), longest)


def _entries(first, counts, entries):
    """Return columns and rows of all entries, of every row its first entry, and the
    difference between its first column and that, from the rows' first columns."""
    row_starts = torch.cumsum(counts, 0) - counts
    rows = torch.repeat_interleave(counts, output_size=entries)
    row_origin = first - row_starts
    columns = torch.arange(entries, device=rows.device) + row_origin[rows]
    return columns, rows, row_starts, row_origin


def slot_windows(ranges: Ranges, max_entries: int) -> List[Window]:
    """Cut the slots into windows of at most ``max_entries`` entries (or one slot).

    Returns:
        One window except in the worst cases; in order, covering all slots. The only
        synchronisation with a GPU.
    """
    counts = ranges.end - ranges.first
    width = counts.size(1)
    if counts.numel() == 0:
        return [Window(0, width, 0, 0)]
    # two numbers; the counts of all slots are only needed in the worst cases
    entries, longest = torch.stack([counts.sum(), counts.amax()]).tolist()
    if entries <= max_entries:
        return [Window(0, width, entries, longest)]
    counts, most = torch.stack([counts.sum(dim=0), counts.amax(dim=0)]).tolist()
    starts, entries = [0], 0
    for slot, count in enumerate(counts):
        if slot > starts[-1] and entries + count > max_entries:
            starts.append(slot)
            entries = 0
        entries += count
    return [
        Window(start, stop, sum(counts[start:stop]), max(most[start:stop], default=0))
        for start, stop in zip(starts, [*starts[1:], len(counts)])
    ]


_SECOND_ORDER = (
    "second-order gradients of AdaStride's sparse rows are not implemented: use the "
    "dense alignment_matrix(positions, ...) @ x if you need them"
)


def _is_transformed() -> bool:
    """Return whether a transformation of torch.func (grad, vjp, vmap ...) is active."""
    return torch._C._are_functorch_transforms_active()


def _first_order(ctx, gradients, *tensors):
    """Return ``gradients(*tensors)`` for a backward that has no second order.

    Raises:
        RuntimeError: where autograd is asked for a graph of them (create_graph).
            torch.func always does, so the error is raised at the second derivative.
    """
    if ctx.transformed:
        return _Gradients.apply(gradients, *tensors)
    if torch.is_grad_enabled():
        raise RuntimeError(_SECOND_ORDER)
    return gradients(*tensors)


class _Gradients(torch.autograd.Function):
    """The computation of a backward, as one non-differentiable operation."""

    @staticmethod
    def forward(gradients, *tensors):
        return gradients(*tensors)

    @staticmethod
    def setup_context(ctx, inputs, output):
        pass

    @staticmethod
    def backward(ctx, *grads):
        raise RuntimeError(_SECOND_ORDER)

    @staticmethod
    def vmap(info, in_dims, gradients, *tensors):
        return _one_by_one(
            lambda *tensors: _Gradients.apply(gradients, *tensors),
            info.batch_size,
            in_dims[1:],
            tensors,
        )


def _one_by_one(function, batch_size, in_dims, inputs):
    """Call a function for every slice of a torch.func.vmap, in a loop.

    Args:
        function: of ``inputs``; returns a tuple of tensors and None.
        batch_size: number of slices.
        in_dims: of every input the dimension that is mapped over, or None.
        inputs: tensors, or anything whose dimension is None.

    Returns:
        The results, stacked, and their mapped dimensions, as required by vmap.
    """
    slices = (
        [v if dim is None else v.select(dim, i) for v, dim in zip(inputs, in_dims)]
        for i in range(batch_size)
    )
    results = zip(*(function(*one) for one in slices))
    stacked = tuple(None if of[0] is None else torch.stack(of) for of in results)
    return stacked, tuple(None if one is None else 0 for one in stacked)


def _segment_sums(values, starts):
    """Return the sums of consecutive segments; in a fixed order, also on a GPU."""
    offsets = torch.nn.functional.pad(starts, (0, 1), value=values.numel())
    return torch.segment_reduce(values, "sum", offsets=offsets, unsafe=True)


def _row_terms(positions, nearest_square, columns, rows, row_starts, sharpness, dtype):
    """Return the softmax's exponentials, at most 1, and their sums over the rows.

    The sums are float64: in float32 they caused half of the rows' error.
    """
    distance = rows.remainder(nearest_square.size(1)) - positions.flatten()[columns]
    below = nearest_square.flatten()[rows] - distance.square()
    terms = torch.exp((sharpness * below).to(dtype))
    return terms, _segment_sums(terms.to(torch.float64), row_starts)


class _RowSoftmax(torch.autograd.Function):
    """Softmax of -sigma_square (l - p_t)^2 over each row's entries.

    ``index`` are the fields of SparseRows between ``weights`` and ``shape``.
    """

    @staticmethod
    def forward(positions, nearest_square, sigma_square, dtype, *index):
        columns, rows, row_starts, *_ = index
        terms, totals = _row_terms(
            positions, nearest_square, columns, rows, row_starts, sigma_square, dtype
        )
        return (terms / totals[rows]).to(dtype)

    @staticmethod
    def setup_context(ctx, inputs, output):
        positions, nearest_square, ctx.sigma_square, _, *index = inputs
        ctx.save_for_backward(positions, output, *index)
        ctx.width, ctx.transformed = nearest_square.size(1), _is_transformed()

    @staticmethod
    def backward(ctx, grad_weights):
        width, sigma_square = ctx.width, ctx.sigma_square

        def gradients(grad_weights, positions, weights, *index):
            columns, rows, row_starts, transposed, column_starts = index
            rows = SparseRows(
                weights,
                columns,
                rows,
                row_starts,
                transposed,
                column_starts,
                shape=(positions.size(0), width, positions.size(1)),
                longest=0,  # which only `apply` reads
            )
            return (_grad_positions(positions, rows, sigma_square, grad_weights),)

        (grad,) = _first_order(ctx, gradients, grad_weights, *ctx.saved_tensors)
        return grad, *(None,) * 8


def _grad_positions(positions, rows, sigma_square, grad_weights):
    """Convert a gradient of the rows' weights to one of the positions (B, T)."""
    product = rows.weights * grad_weights
    totals = _segment_sums(product, rows.row_starts)
    grad_logits = product - rows.weights * totals[rows.rows]
    slots = rows.rows.remainder(rows.shape[1])
    distance = slots - positions.flatten()[rows.columns]
    grad = 2.0 * sigma_square * distance * grad_logits
    return _segment_sums(grad[rows.transposed], rows.column_starts).view_as(positions)


class _WeightedGather(torch.autograd.Function):
    """z[i] = sum of weight * table[column] over row i's entries, and its gradients.

    ``columns`` and ``row_starts`` are for the forward, ``rows`` and ``column_starts``
    for the backward; ``transposed`` is the permutation between them.
    """

    @staticmethod
    def forward(
        weights, table, columns, row_starts, rows, column_starts, transposed, longest
    ):
        return _bag(columns, table, row_starts, weights, longest)

    @staticmethod
    def setup_context(ctx, inputs, output):
        ctx.save_for_backward(*inputs[:-1])
        ctx.transformed = _is_transformed()

    @staticmethod
    def backward(ctx, grad):
        want_weights, want_table = ctx.needs_input_grad[:2]

        def gradients(
            grad, weights, table, columns, row_starts, rows, column_starts, transposed
        ):
            grad_weights = grad_table = None
            grad = grad.contiguous()
            if want_weights:
                grad_weights = _dot_products(grad, table, columns, row_starts, rows)
            if want_table:
                grad_table = _transposed_bag(
                    rows, grad, column_starts, weights, transposed
                )
            return grad_weights, grad_table

        grads = _first_order(ctx, gradients, grad, *ctx.saved_tensors)
        return *grads, *(None,) * 6

    @staticmethod
    def vmap(info, in_dims, *inputs):
        (z,), (dim,) = _one_by_one(
            lambda *one: (_WeightedGather.apply(*one),),
            info.batch_size,
            in_dims,
            inputs,
        )
        return z, dim


def resample_by_scores(
    x: torch.Tensor,
    score_weight: torch.Tensor,
    lengths: torch.Tensor,
    output_lengths: torch.Tensor,
    place: Callable[[torch.Tensor, torch.Tensor, torch.Tensor], torch.Tensor],
    reach: Callable[[torch.Tensor, torch.Tensor, torch.Tensor], Ranges],
    sigma_square: float,
) -> Tuple[torch.Tensor, torch.Tensor]:
    """Score the steps, place them, and resample them: A(p(x w)) x.

    It is one autograd function, because tensors of width D determine the time: x is
    read twice in the forward and twice in the backward, and neither the scores' own
    gradient (the product of a column and a row) nor a masked copy of x is ever written.

    Memory is bounded: an alignment of more than ``MAX_ENTRIES`` entries (ties, in the
    worst case T' T) is applied in windows of slots, and rebuilt in the backward.

    Args:
        x: (B, T, D), float32 or float64; the padding is never used.
        score_weight: (D,).
        lengths: (B,) valid lengths n.
        output_lengths: (B,) number of output slots m.
        place: scores (B, T) and both lengths to positions (B, T), differentiable or
            detached; it ignores the padding's scores.
        reach: positions and both lengths to Ranges.
        sigma_square: sharpness, > 0.

    Returns:
        z (B, T', D) and the positions (B, T); both carry gradients, of first order
        only. On a device without float64 the positions are on the CPU, and so are the
        inputs of ``place`` and ``reach``.
    """
    z, positions, *_ = _ScoredResample.apply(
        x, score_weight, lengths, output_lengths, place, reach, sigma_square
    )
    return z, positions


def score_steps(x: torch.Tensor, score_weight: torch.Tensor) -> torch.Tensor:
    """Return the scores a_t = w . x_t, (B, T) float64, without gradients.

    In float32, their rounding errors, summed over 8000 steps, would move the positions
    by 3e-6 and at sigma_square 50 the output by 2e-4. x is converted in parts that fit
    into the CPU cache, which costs a fiftieth of the layer's time. If the device has no
    float64, x is read on the CPU, where the scores then are, too.
    """
    device = float64_device(x.device)
    table, weight = x.reshape(-1, x.size(2)), score_weight.to(device).to(torch.float64)
    rows = max((2**18 if x.device.type == "cpu" else 2**24) // x.size(2), 1)
    parts = [part.to(device).to(torch.float64) @ weight for part in table.split(rows)]
    return torch.cat(parts).view(x.shape[:2])


class _ScoredResample(torch.autograd.Function):
    """See :func:`resample_by_scores`.

    Returns z, the positions, and the tensors for the backward: scores, windows, the
    rows' shape and longest, and, if there is one window, the rows' six tensors.
    """

    @staticmethod
    def forward(x, score_weight, lengths, output_lengths, place, reach, sigma_square):
        scores = score_steps(x, score_weight)
        positions = place(scores, lengths, output_lengths)
        ranges = reach(positions, lengths, output_lengths)
        table = x.reshape(-1, x.size(2))
        windows = slot_windows(ranges, MAX_ENTRIES)
        z = None
        for window in windows:
            rows = build_rows(ranges, positions, sigma_square, x.dtype, window)
            here = rows.to(x.device)
            part = _bag(
                here.columns, table, here.row_starts, here.weights, here.longest
            )
            z = part if z is None else z.add_(part)
        assert z is not None  # there is a window, if of no slots
        z = z.view(*rows.shape[:2], x.size(2))
        kept = rows[:6] if len(windows) == 1 else ()
        return z, positions, scores, windows, rows[6:], *kept

    @staticmethod
    def setup_context(ctx, inputs, output):
        *tensors, ctx.place, ctx.reach, ctx.sigma_square = inputs
        _, _, scores, ctx.windows, ctx.shape_and_longest, *kept = output
        ctx.save_for_backward(*tensors, scores, *kept)
        ctx.mark_non_differentiable(scores, *kept)
        ctx.set_materialize_grads(False)  # of the rows' tensors there are none
        ctx.transformed = _is_transformed()

    @staticmethod
    def backward(ctx, grad_z, grad_positions, *_):
        grads = _first_order(
            ctx,
            partial(
                _scored_gradients,
                ctx.place,
                ctx.reach,
                ctx.windows,
                ctx.shape_and_longest,
                ctx.sigma_square,
                ctx.needs_input_grad[:2],
            ),
            grad_z,
            grad_positions,
            *ctx.saved_tensors,
        )
        return *grads, *(None,) * 5

    @staticmethod
    def vmap(info, in_dims, *inputs):
        layouts = []

        def resample(*one):
            z, positions, scores, _, layout, *_ = _ScoredResample.apply(*one)
            layouts.append(layout)
            return z, positions, scores

        outputs, dims = _one_by_one(resample, info.batch_size, in_dims, inputs)
        # rows of slices have different lengths: the backward rebuilds them
        return (*outputs, None, layouts[0]), (*dims, None, None)


def _scored_gradients(
    place,
    reach,
    windows,
    shape_and_longest,
    sigma_square,
    wanted,
    grad_z,
    grad_positions,
    x,
    score_weight,
    lengths,
    output_lengths,
    scores,
    *kept,
):
    """Return the gradients of x and score_weight, of resample_by_scores; None if
    they are not needed."""
    table = x.reshape(-1, x.size(2))
    if grad_z is None:
        grad_z = x.new_zeros(x.size(0), shape_and_longest[0][1], x.size(2))
    grad_z = grad_z.reshape(-1, x.size(2))
    own = [one.to(scores.device) for one in (lengths, output_lengths)]
    # tensors with one number per step are small: let autograd recompute them
    with torch.enable_grad():
        scores = scores.detach().requires_grad_()
        positions = place(scores, *own)
    where = positions.detach()

    def all_rows():
        if kept:
            yield SparseRows(*kept, *shape_and_longest)
            return
        ranges = reach(where, *own)
        for window in windows or slot_windows(ranges, MAX_ENTRIES):
            yield build_rows(ranges, where, sigma_square, x.dtype, window)

    grad_x = None
    for rows in all_rows():
        here = rows.to(x.device)
        grad_weights = _dot_products(
            grad_z, table, here.columns, here.row_starts, here.rows
        )
        of_rows = _grad_positions(
            where, rows, sigma_square, grad_weights.to(where.device)
        )
        grad_positions = of_rows if grad_positions is None else grad_positions + of_rows
        if wanted[0]:
            part = _transposed_bag(
                here.rows, grad_z, here.column_starts, here.weights, here.transposed
            )
            grad_x = part if grad_x is None else grad_x.add_(part)
    grad_scores = torch.zeros_like(scores)
    if positions.requires_grad:  # otherwise `place` has detached the graph
        (grad_scores,) = torch.autograd.grad(positions, scores, grad_positions)
    grad_scores = grad_scores.flatten().to(x.dtype).to(x.device)
    if grad_x is not None:
        grad_x = grad_x.addr_(grad_scores, score_weight).view_as(x)
    grad_score_weight = None
    if wanted[1]:
        valid = length_mask(lengths, x.size(1)).flatten()
        grad_score_weight = _weighted_sum(grad_scores, table, valid)
    return grad_x, grad_score_weight


@torch.no_grad()
def resample_chunks(
    chunks: Iterable[torch.Tensor],
    ranges: Ranges,
    positions: torch.Tensor,
    sigma_square: float,
) -> Iterator[torch.Tensor]:
    """Resample one utterance given in chunks: A x, without holding all of x.

    A chunk adds its part to every slot that it reaches; a slot is returned after its
    last step. Besides the chunk, only waiting slots are held: a few, but up to all
    slots of a jump between thousands of tied steps.

    Args:
        chunks: consecutive parts (1, t, D) of x, float32 or float64.
        ranges: of every slot; batch size 1.
        positions: (1, T) float64.
        sigma_square: sharpness, > 0.

    Yields:
        Consecutive parts (1, t', D) of the output; no gradients.
    """
    done = begin = 0
    waiting = None
    for chunk in chunks:
        stop = begin + chunk.size(1)
        complete = int((ranges.end <= stop).sum())
        reached = max(complete, int((ranges.first < stop).sum()))
        if reached > done:
            first, end, nearest_square = (of[:, done:reached] for of in ranges)
            part = Ranges(
                first.clamp(min=begin) - begin,
                end.clamp(max=stop) - begin,
                nearest_square,
            )
            sums, totals = _partial_rows(
                chunk, part, positions[:, begin:stop] - done, sigma_square
            )
            if waiting is not None:
                sums[: len(waiting[0])] += waiting[0]
                totals[: len(waiting[1])] += waiting[1]
            ready = complete - done
            if ready:
                # a total is at least 1, or 0 if AdaStride-F leaves a slot empty
                scale = totals[:ready].clamp(min=1.0).unsqueeze(1)
                scale = scale.to(sums.dtype).to(sums.device)
                yield sums[:ready].div_(scale).unsqueeze(0)
            # copies, so that returned slots can be freed
            waiting = sums[ready:].clone(), totals[ready:].clone()
        done, begin = complete, stop


def _partial_rows(chunk, ranges, positions, sigma_square):
    """Return, for every slot, the sum (T', D) of its steps in a chunk, not normalised,
    and the sum (T',) of their weights."""
    sums, totals = [], []
    for start, stop, entries, longest in slot_windows(ranges, MAX_ENTRIES):
        first, end, nearest_square = (of[:, start:stop] for of in ranges)
        counts = (end - first).flatten()
        columns, rows, row_starts, _ = _entries(first.flatten(), counts, entries)
        terms, total = _row_terms(
            positions - start,
            nearest_square,
            columns,
            rows,
            row_starts,
            sigma_square,
            chunk.dtype,
        )
        index, starts, terms = (
            tensor.to(chunk.device) for tensor in (columns, row_starts, terms)
        )
        sums.append(_bag(index, chunk[0], starts, terms, longest))
        totals.append(total)
    return torch.cat(sums), torch.cat(totals)


def _weighted_sum(factors, table, valid):
    """Return the sum (D,) of factor * table row over the valid rows, reading no others.

    A product with factors of 0 would propagate NaN from the padding.
    """
    place = torch.arange(valid.numel(), device=valid.device)
    some_valid = valid.to(torch.uint8).argmax()
    index = torch.where(valid, place, some_valid)
    starts = torch.arange(0, valid.numel(), 64, device=valid.device)  # many short sums
    total = _bag(index, table, starts, factors).sum(dim=0)
    return total.masked_fill(~valid.any(), 0.0)


def _bag(index, table, starts, weights, longest=0):
    """Return sums of weighted table rows, one per bag; without an (entries, D) tensor.

    If a bag is longer than LONG_ROW, bags are summed in parts.
    """
    if longest > LONG_ROW:
        # at most twice as many parts as bags, for any number of entries
        size = max(LONG_ROW // 4, index.numel() // starts.numel())
        cuts = torch.arange(0, index.numel(), size, device=starts.device)
        part_starts = torch.cat([starts, cuts]).sort().values
        table = _bag(index, table, part_starts, weights)
        index = torch.arange(part_starts.numel(), device=starts.device)
        starts = torch.searchsorted(part_starts, starts)
        weights = torch.ones_like(index, dtype=table.dtype)
        return _bag(index, table, starts, weights, longest // size + 2)
    return torch.nn.functional.embedding_bag(
        index, table, starts, mode="sum", per_sample_weights=weights
    )


def _transposed_bag(rows, table, column_starts, weights, transposed):
    """Return, for every column, the weighted sum of the table rows that contain it."""
    return _bag(rows[transposed], table, column_starts, weights[transposed])


def _dot_products(grad, table, columns, row_starts, rows):
    """Return grad[row] . table[column] for every entry."""
    return torch.ops.aten._embedding_bag_per_sample_weights_backward(
        grad, table, columns, row_starts, rows, 0
    )
