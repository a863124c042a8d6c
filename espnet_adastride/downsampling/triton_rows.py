"""AdaStride and AdaStride-F as Triton kernels: scores, positions, rows and gradients.

The same function as :func:`rows.resample_by_scores`, without an array of entries. With
n valid steps and m slots, one kernel each (b: score_bound, s: sigma_square):

    _score      a_t = w . x_t,   or none: given scores
    _place      a'_t = b tanh((a_t - mean a) / sqrt(b^2 + var a)),   or a_t
                q = softmax(a'_2 .. a'_n),   p = (m - 1) [0, cumsum(q)]
                loss = sum_t relu((m - 1) q_t - 1) / (n - 1)
    _apply      slot l: the range first_l .. end_l of steps that matter to it,
                d_l = distance of the nearest step,
                e_lt = exp(s (d_l^2 - (l - p_t)^2)),   z_l = sum_t e_lt x_t / sum_t e_lt

and with A_lt = e_lt / sum_t e_lt, backwards:

    _apply          g_l = dz_l . z_l                         (once more, with TOTALS)
    _position_grad  dp_t = sum_l 2 s (l - p_t) A_lt (dz_l . x_t - g_l)
    _place_grad     dq_t = (m - 1) sum_{u >= t} dp_u
                    da'_t = q_t (dq_t - sum_u q_u dq_u),   and back to da_t
    _input_grad     dx_t = sum_l A_lt dz_l + da_t w,   dw = sum_t da_t x_t

AdaStride's range is (l - p_t)^2 <= d_l^2 + log(2 n / tolerance) / s: the loss
is less than half the tolerance of the row's largest weight. AdaStride-F's are the steps
whose nearest slot is l. Neither end of the ranges decreases with l, so that the slots
that reach a step are a range too, which two binary searches find. Every program loops
over its own ranges: no index arrays, nothing whose size depends on the data, no wait of
the host, memory O(B (T + T')) in addition to x and z, for rows of any length.

Scores, positions, distances and all sums over time are float64. Weights and tensors of
width D are float32 (float64 if x is), summed with Kahan's compensation, because a row
may have thousands of terms. Every sum has a fixed order (no atomics): results are
bitwise reproducible. The padding of x is never read. Offsets are 64 bits wide.

Under Triton's interpreter (``TRITON_INTERPRET=1``) all of it runs on the CPU.
"""

import contextlib
import math
import os
from typing import List, Optional, Tuple

import torch
import triton
import triton.language as tl

#: read when Triton's decorators read it: at import
INTERPRETED = os.environ.get("TRITON_INTERPRET", "0") == "1"

DTYPES = (torch.float32, torch.float16, torch.bfloat16, torch.float64)

#: maximum loss of a row, relative to its largest weight; as in rows.py
_TOLERANCE = {torch.float32: 1e-7, torch.float64: 1e-16}

#: numbers of x that a program holds at once: 16 registers a thread and tile
_TILE, _WARPS = 2048, 4

#: features of a tile, at most; more are taken in turn
_MAX_FEATURES = 256

#: steps that a program of one utterance holds at once
_MAX_STEPS = 2048

#: values that change between batches must not recompile a kernel
_kernel = triton.jit(
    do_not_specialize=["steps", "width", "blocks", "chunks", "rounds", "tiles"]
)


#: how the steps of a slot are chosen: AdaStride's, AdaStride-F's, and AdaStride-F's
#: with the nearest step for a slot that has none
BY_SOFTMAX, NEAREST_SLOT, NEAREST_SLOT_FILLED = 0, 1, 2


# ------------------------------------------------------------------- forward


@triton.jit
def _count(row, key, inclusive, n, rounds):
    """Return how many of a sorted row's first n numbers are below the key, or equal
    where ``inclusive``: a binary search for every element of ``key``."""
    low = tl.zeros_like(inclusive).to(tl.int32)
    high = low + n
    for _ in range(rounds):
        middle = (low + high) // 2
        searching = low < high
        value = tl.load(row + middle, mask=searching, other=0)
        below = searching & ((value < key) | ((value == key) & inclusive))
        low = tl.where(below, middle + 1, low)
        high = tl.where(searching & (below == 0), middle, high)
    return low


@_kernel
def _score(
    x, weight, lengths, scores, steps, blocks,
    D: tl.constexpr, BT: tl.constexpr, BD: tl.constexpr,
):  # fmt: skip
    program = tl.program_id(0)
    batch = (program // blocks).to(tl.int64)
    time = (program % blocks) * BT + tl.arange(0, BT)
    n = tl.minimum(tl.load(lengths + batch), steps).to(tl.int32)
    place = batch * steps + time
    total = tl.zeros([BT], tl.float64)
    for start in range(0, D, BD):
        d = start + tl.arange(0, BD)
        valid = (time < n)[:, None] & (d < D)[None, :]
        tile = tl.load(x + place[:, None] * D + d[None, :], mask=valid, other=0.0)
        w = tl.load(weight + d, mask=d < D, other=0.0).to(tl.float64)
        total += tl.sum(tile.to(tl.float64) * w[None, :], axis=1)
    tl.store(scores + place, total, mask=time < steps)


@triton.jit
def _tanh(y):
    """Return tanh(y), absolute error that of float64 (Triton has none of its own)."""
    e = tl.exp(-2.0 * tl.abs(y))
    size = (1.0 - e) / (1.0 + e)
    return tl.where(y < 0, -size, size)


@triton.jit
def _larger(a, b):
    return tl.maximum(a, b)


@_kernel
def _place(
    scores, lengths, output_lengths, positions, stats, losses, steps, width,
    BOUND: tl.constexpr, BT: tl.constexpr,
):  # fmt: skip
    """One program an utterance; stats: mean a, 1 / sqrt(b^2 + var a), max a', 1 / sum
    exp(a' - max a')."""
    batch = tl.program_id(0).to(tl.int64)
    n = tl.minimum(tl.load(lengths + batch), steps).to(tl.int32)
    m = tl.minimum(tl.load(output_lengths + batch), width).to(tl.int32)
    last_slot = tl.maximum(m - 1, 0).to(tl.float64)
    number = tl.maximum(n - 1, 1).to(tl.float64)
    scores += batch * steps
    positions += batch * steps
    lane = tl.arange(0, BT)
    mean = tl.full([], 0.0, tl.float64)
    rate = tl.full([], 1.0, tl.float64)
    if BOUND is not None:
        sums = tl.zeros([BT], tl.float64)
        for start in range(0, n, BT):
            t = start + lane
            sums += tl.load(scores + t, mask=(t >= 1) & (t < n), other=0.0)
        mean = tl.sum(sums, axis=0) / number
        sums = tl.zeros([BT], tl.float64)
        for start in range(0, n, BT):
            t = start + lane
            moving = (t >= 1) & (t < n)
            centred = tl.load(scores + t, mask=moving, other=0.0) - mean
            sums += tl.where(moving, centred * centred, 0.0)
        rate = 1.0 / tl.sqrt(BOUND * BOUND + tl.sum(sums, axis=0) / number)

    # the softmax's maximum and sum, of every lane and then of all
    top = tl.full([BT], -1e308, tl.float64)
    sums = tl.zeros([BT], tl.float64)
    for start in range(0, n, BT):
        t = start + lane
        moving = (t >= 1) & (t < n)
        score = tl.load(scores + t, mask=moving, other=0.0)
        if BOUND is not None:
            score = BOUND * _tanh((score - mean) * rate)
        score = tl.where(moving, score, float("-inf"))
        higher = tl.maximum(top, score)
        sums = sums * tl.exp(top - higher) + tl.exp(score - higher)
        top = higher
    highest = tl.max(top, axis=0)
    total = tl.sum(sums * tl.exp(top - highest), axis=0)
    inverse = 1.0 / tl.where(total == 0, 1.0, total)
    tl.store(stats + batch * 4, mean)
    tl.store(stats + batch * 4 + 1, rate)
    tl.store(stats + batch * 4 + 2, highest)
    tl.store(stats + batch * 4 + 3, inverse)

    before = tl.full([], 0.0, tl.float64)
    reached = tl.full([], 0.0, tl.float64)
    excess = tl.zeros([BT], tl.float64)
    for start in range(0, steps, BT):
        t = start + lane
        share = _share(scores, t, n, mean, rate, highest, inverse, BOUND)
        excess += tl.maximum(last_slot * share - 1.0, 0.0)
        path = before + tl.cumsum(share, axis=0)
        # a parallel sum may step back by a rounding, and the last one exceed 1
        p = tl.minimum(path * last_slot, last_slot)
        p = tl.maximum(tl.associative_scan(p, 0, _larger), reached)
        tl.store(positions + t, p, mask=t < steps)
        before += tl.sum(share, axis=0)
        reached = tl.max(p, axis=0)
    tl.store(losses + batch, tl.sum(excess, axis=0) / number)


@triton.jit
def _share(scores, t, n, mean, rate, highest, inverse, BOUND: tl.constexpr):
    """Return the softmax q_t, 0 for the first step and the padding."""
    moving = (t >= 1) & (t < n)
    score = tl.load(scores + t, mask=moving, other=0.0)
    if BOUND is not None:
        score = BOUND * _tanh((score - mean) * rate)
    return tl.where(moving, tl.exp(tl.where(moving, score - highest, 0.0)) * inverse, 0)


@triton.jit
def _ranges(positions, slot, n, rounds, KIND: tl.constexpr, REACH: tl.constexpr, S):
    """Return first, end and d^2 of slots (float64), of a row of n >= 1 positions."""
    strictly = tl.full(slot.shape, 0, tl.int1)
    before = _count(positions, slot, strictly, n, rounds)
    right = tl.minimum(before, n - 1)
    left = tl.maximum(right - 1, 0)
    from_left = slot - tl.load(positions + left)
    from_right = tl.load(positions + right) - slot
    nearest = tl.where(from_left <= from_right, left, right)
    distance = slot - tl.load(positions + nearest)
    square = distance * distance
    if KIND == 0:
        # log(2 n / tolerance): REACH is log(2 / tolerance)
        reach = tl.sqrt(square + (REACH + tl.log(n.to(tl.float64))) / S)
        first = _count(positions, slot - reach, strictly, n, rounds)
        end = _count(positions, slot + reach, strictly == 0, n, rounds)
    else:
        # halves are rounded to the even slot
        even = (slot.to(tl.int32) % 2) == 0
        first = _count(positions, slot - 0.5, even == 0, n, rounds)
        end = _count(positions, slot + 0.5, even, n, rounds)
        if KIND == 2:
            empty = end <= first
            first = tl.where(empty, nearest, first)
            end = tl.where(empty, nearest + 1, end)
    return first, tl.maximum(first, end), square


@triton.jit
def _weight(slot, p, square, SHARPNESS: tl.constexpr, DTYPE: tl.constexpr):
    """Return e_lt = exp(s (d_l^2 - (l - p_t)^2)) <= 1; a difference in float64."""
    distance = slot - p
    return tl.exp((SHARPNESS * (square - distance * distance)).to(DTYPE))


@_kernel
def _apply(
    x, positions, lengths, output_lengths, z, firsts, ends, squares, inverses,
    grad, totals, steps, width, blocks, chunks, rounds,
    SHARPNESS: tl.constexpr, REACH: tl.constexpr, KIND: tl.constexpr,
    TOTALS: tl.constexpr, DTYPE: tl.constexpr,
    D: tl.constexpr, BL: tl.constexpr, BD: tl.constexpr,
):  # fmt: skip
    """z, and the ranges that it was made with; or with TOTALS, from those, dz . z."""
    program = tl.program_id(0)
    chunk = program % chunks
    block = (program // chunks) % blocks
    batch = (program // chunks // blocks).to(tl.int64)
    l = block * BL + tl.arange(0, BL)  # noqa: E741
    d = chunk * BD + tl.arange(0, BD)
    n = tl.minimum(tl.load(lengths + batch), steps).to(tl.int32)
    m = tl.minimum(tl.load(output_lengths + batch), width).to(tl.int32)
    valid = (l < m) & (n > 0)
    slot = l.to(tl.float64)
    row = batch * width + l
    positions += batch * steps
    x += batch * steps * D
    if TOTALS:
        first = tl.load(firsts + row, mask=valid, other=0)
        end = tl.load(ends + row, mask=valid, other=0)
        square = tl.load(squares + row, mask=valid, other=0.0)
        inverse = tl.load(inverses + row, mask=valid, other=0.0)
    else:
        # an empty utterance has a position of padding to look at
        first, end, square = _ranges(
            positions, slot, tl.maximum(n, 1), rounds, KIND, REACH, SHARPNESS
        )
        first = tl.where(valid, first, n)
        end = tl.where(valid, end, n)
        square = tl.where(valid, square, 0.0)
        inverse = tl.zeros([BL], DTYPE)

    total = tl.zeros([BL, BD], DTYPE)
    lost = tl.zeros([BL, BD], DTYPE)
    mass = tl.zeros([BL], tl.float64)
    for k in range(0, tl.max(end - first, axis=0)):
        t = first + k
        inside = t < end
        p = tl.load(positions + t, mask=inside, other=0.0)
        e = tl.where(inside, _weight(slot, p, square, SHARPNESS, DTYPE), 0.0)
        mass += e.to(tl.float64)
        tile = tl.load(
            x + t.to(tl.int64)[:, None] * D + d[None, :],
            mask=inside[:, None] & (d < D)[None, :],
            other=0.0,
        ).to(DTYPE)
        total, lost = _add(total, lost, e[:, None] * tile)
    if not TOTALS:
        inverse = (1.0 / tl.where(mass == 0, 1.0, mass)).to(DTYPE)
    total *= inverse[:, None]
    there = row[:, None] * D + d[None, :]
    inside = (l < width)[:, None] & (d < D)[None, :]
    if TOTALS:
        dz = tl.load(grad + there, mask=inside & valid[:, None], other=0.0).to(DTYPE)
        here = (chunk.to(tl.int64) * (tl.num_programs(0) // chunks // blocks)) * width
        dots = tl.sum(dz * total, axis=1)
        tl.store(totals + here + row, dots, mask=l < width)
    else:
        tl.store(z + there, total.to(z.dtype.element_ty), mask=inside)
        once = (l < width) & (chunk == 0)
        tl.store(firsts + row, first, mask=once)
        tl.store(ends + row, end, mask=once)
        tl.store(squares + row, square, mask=once)
        tl.store(inverses + row, inverse, mask=once)


@triton.jit
def _add(total, lost, term):
    """Return total + term and what the rounding has lost of it (Kahan)."""
    term -= lost
    new = total + term
    return new, (new - total) - term


# ------------------------------------------------------------------ backward


@_kernel
def _position_grad(
    x, grad, positions, lengths, firsts, ends, squares, inverses, totals,
    tops, bottoms, grad_positions, steps, width, blocks, rounds,
    SHARPNESS: tl.constexpr, DTYPE: tl.constexpr,
    D: tl.constexpr, BT: tl.constexpr, BD: tl.constexpr,
):  # fmt: skip
    """dp_t, and the slots top <= l < bottom that reach the step."""
    program = tl.program_id(0)
    batch = (program // blocks).to(tl.int64)
    time = (program % blocks) * BT + tl.arange(0, BT)
    n = tl.minimum(tl.load(lengths + batch), steps).to(tl.int32)
    valid = time < n
    place = batch * steps + time
    slots = batch * width
    inclusive = time >= 0
    top = _count(ends + slots, time, inclusive, width, rounds)
    bottom = _count(firsts + slots, time, inclusive, width, rounds)
    bottom = tl.where(valid, bottom, top)
    tl.store(tops + place, top, mask=time < steps)
    tl.store(bottoms + place, bottom, mask=time < steps)

    p = tl.load(positions + place, mask=valid, other=0.0)
    d = tl.arange(0, BD)
    at_x = x + place[:, None] * D
    if D <= BD:
        both = valid[:, None] & (d < D)[None, :]
        tile = tl.load(at_x + d[None, :], mask=both, other=0.0).to(DTYPE)
    sums = tl.zeros([BT], tl.float64)
    for k in range(0, tl.max(bottom - top, axis=0)):
        l = top + k  # noqa: E741
        inside = l < bottom
        at = slots + l
        square = tl.load(squares + at, mask=inside, other=0.0)
        inverse = tl.load(inverses + at, mask=inside, other=0.0)
        slot = l.to(tl.float64)
        weight = _weight(slot, p, square, SHARPNESS, DTYPE) * inverse
        at_grad = grad + at[:, None] * D
        if D <= BD:
            both = inside[:, None] & (d < D)[None, :]
            dz = tl.load(at_grad + d[None, :], mask=both, other=0.0).to(DTYPE)
            dots = tl.sum(dz * tile, axis=1)
        else:
            dots = tl.zeros([BT], DTYPE)
            for start in range(0, D, BD):
                f = start + d
                both = inside[:, None] & (f < D)[None, :]
                dz = tl.load(at_grad + f[None, :], mask=both, other=0.0).to(DTYPE)
                part = tl.load(at_x + f[None, :], mask=both, other=0.0).to(DTYPE)
                dots += tl.sum(dz * part, axis=1)
        dots -= tl.load(totals + at, mask=inside, other=0.0)
        slope = (2.0 * SHARPNESS * (slot - p)).to(DTYPE)
        sums += tl.where(inside, slope * (weight * dots), 0.0).to(tl.float64)
    tl.store(grad_positions + place, sums, mask=time < steps)


@_kernel
def _place_grad(
    grad_rows, grad_positions, grad_loss, scores, positions, stats,
    lengths, output_lengths, grad_scores, steps, width,
    BOUND: tl.constexpr, POSITIONS: tl.constexpr, LOSS: tl.constexpr,
    BT: tl.constexpr,
):  # fmt: skip
    """da_t from dp_t (of the rows, and with POSITIONS of another user) and dloss."""
    batch = tl.program_id(0).to(tl.int64)
    n = tl.minimum(tl.load(lengths + batch), steps).to(tl.int32)
    m = tl.minimum(tl.load(output_lengths + batch), width).to(tl.int32)
    last_slot = tl.maximum(m - 1, 0).to(tl.float64)
    number = tl.maximum(n - 1, 1).to(tl.float64)
    mean = tl.load(stats + batch * 4)
    rate = tl.load(stats + batch * 4 + 1)
    highest = tl.load(stats + batch * 4 + 2)
    inverse = tl.load(stats + batch * 4 + 3)
    by_loss = tl.full([], 0.0, tl.float64)
    if LOSS:
        by_loss = tl.load(grad_loss).to(tl.float64) / (tl.num_programs(0) * number)
    row = batch * steps
    scores += row
    positions += row
    grad_rows += row
    grad_positions += row
    grad_scores += row
    lane = tl.arange(0, BT)

    # sum_t q_t dq_t = sum_t p_t dp_t + the loss's part
    sums = tl.zeros([BT], tl.float64)
    for start in range(0, steps, BT):
        t = start + lane
        dp = _position_gradient(grad_rows, grad_positions, t, steps, POSITIONS)
        sums += dp * tl.load(positions + t, mask=t < steps, other=0.0)
        if LOSS:
            jump = last_slot * _share(scores, t, n, mean, rate, highest, inverse, BOUND)
            sums += tl.where(jump > 1, by_loss * jump, 0.0)
    average = tl.sum(sums, axis=0)

    after = tl.full([], 0.0, tl.float64)
    sum_y = tl.zeros([BT], tl.float64)
    sum_yc = tl.zeros([BT], tl.float64)
    number_of_blocks = (steps + BT - 1) // BT
    for block in range(0, number_of_blocks):
        t = (number_of_blocks - 1 - block) * BT + lane
        dp = _position_gradient(grad_rows, grad_positions, t, steps, POSITIONS)
        share = _share(scores, t, n, mean, rate, highest, inverse, BOUND)
        dq = after + tl.cumsum(dp, axis=0, reverse=True)
        if LOSS:
            dq += tl.where(last_slot * share > 1, by_loss, 0.0)
        grad = share * (last_slot * dq - average)
        if BOUND is not None:
            score = tl.load(scores + t, mask=(t >= 1) & (t < n), other=0.0)
            tanh = _tanh((score - mean) * rate)
            grad *= BOUND * (1.0 - tanh * tanh)
            sum_y += grad
            sum_yc += grad * (score - mean)
        tl.store(grad_scores + t, grad, mask=t < steps)
        after += tl.sum(dp, axis=0)

    if BOUND is not None:
        shift = rate * tl.sum(sum_y, axis=0) / number
        slope = rate * rate * rate * tl.sum(sum_yc, axis=0) / number
        tl.debug_barrier()  # read values stored by other threads
        for start in range(0, n, BT):
            t = start + lane
            moving = (t >= 1) & (t < n)
            grad = tl.load(grad_scores + t, mask=moving, other=0.0)
            score = tl.load(scores + t, mask=moving, other=0.0)
            grad = rate * grad - slope * (score - mean) - shift
            tl.store(grad_scores + t, grad, mask=moving)


@triton.jit
def _position_gradient(grad_rows, grad_positions, t, steps, POSITIONS: tl.constexpr):
    dp = tl.load(grad_rows + t, mask=t < steps, other=0.0)
    if POSITIONS:
        dp += tl.load(grad_positions + t, mask=t < steps, other=0.0)
    return dp


@_kernel
def _input_grad(
    x, weight, grad, positions, lengths, squares, inverses, tops, bottoms,
    grad_scores, grad_x, partial, steps, width, blocks, chunks, tiles,
    SHARPNESS: tl.constexpr, DTYPE: tl.constexpr,
    WANT_X: tl.constexpr, WANT_WEIGHT: tl.constexpr,
    D: tl.constexpr, BT: tl.constexpr, BD: tl.constexpr,
):  # fmt: skip
    """dx, and this program's part of dw (float32, one row a program)."""
    program = tl.program_id(0)
    chunk = program % chunks
    block = program // chunks
    batch = (block // blocks).to(tl.int64)
    d = chunk * BD + tl.arange(0, BD)
    n = tl.minimum(tl.load(lengths + batch), steps).to(tl.int32)
    slots = batch * width
    part = tl.zeros([BD], DTYPE)
    w = tl.load(weight + d, mask=d < D, other=0.0).to(DTYPE)
    for tile in range(0, tiles):
        time = ((block % blocks) * tiles + tile) * BT + tl.arange(0, BT)
        valid = time < n
        place = batch * steps + time
        there = place[:, None] * D + d[None, :]
        by_score = tl.load(grad_scores + place, mask=valid, other=0.0).to(DTYPE)
        if WANT_X:
            top = tl.load(tops + place, mask=valid, other=0)
            bottom = tl.load(bottoms + place, mask=valid, other=0)
            p = tl.load(positions + place, mask=valid, other=0.0)
            total = tl.zeros([BT, BD], DTYPE)
            lost = tl.zeros([BT, BD], DTYPE)
            for k in range(0, tl.max(bottom - top, axis=0)):
                l = top + k  # noqa: E741
                inside = l < bottom
                at = slots + l
                square = tl.load(squares + at, mask=inside, other=0.0)
                inverse = tl.load(inverses + at, mask=inside, other=0.0)
                a = _weight(l.to(tl.float64), p, square, SHARPNESS, DTYPE) * inverse
                a = tl.where(inside, a, 0.0)
                dz = tl.load(
                    grad + at[:, None] * D + d[None, :],
                    mask=inside[:, None] & (d < D)[None, :],
                    other=0.0,
                ).to(DTYPE)
                total, lost = _add(total, lost, a[:, None] * dz)
            total += by_score[:, None] * w[None, :]
            inside = (time < steps)[:, None] & (d < D)[None, :]
            tl.store(grad_x + there, total.to(grad_x.dtype.element_ty), mask=inside)
        if WANT_WEIGHT:
            inside = valid[:, None] & (d < D)[None, :]
            x_tile = tl.load(x + there, mask=inside, other=0.0).to(DTYPE)
            part += tl.sum(by_score[:, None] * x_tile, axis=0)
    if WANT_WEIGHT:
        tl.store(partial + block.to(tl.int64) * D + d, part, mask=d < D)


# ---------------------------------------------------------------- the launches


def runs_on(device: torch.device) -> bool:
    """Return whether the kernels run there: on CUDA, interpreted on the CPU."""
    return device.type == ("cpu" if INTERPRETED else "cuda")


def _on(device):
    """Triton launches on the current device: make it the tensors'."""
    if device.type == "cuda":
        return torch.cuda.device(device)
    return contextlib.nullcontext()


def _tiles(size: int) -> Tuple[int, int, int]:
    """Return of a tile of x its rows and features, and how many make up ``size``."""
    features = min(triton.next_power_of_2(size), _MAX_FEATURES)
    return _TILE // features, features, triton.cdiv(size, features)


def _steps_at_once(steps: int) -> Tuple[int, int]:
    """Return the steps that a program of one utterance holds, and its warps."""
    block = max(min(triton.next_power_of_2(steps), _MAX_STEPS), 32)
    return block, min(max(block // 256, 1), 16)


def _work_dtype(dtype: torch.dtype) -> torch.dtype:
    """Return the dtype of weights and sums: float32, or float64 if x is."""
    return torch.promote_types(dtype, torch.float32)


_TRITON_DTYPE = {torch.float32: tl.float32, torch.float64: tl.float64}


def _forward(
    x: torch.Tensor,
    weight: Optional[torch.Tensor],
    given: Optional[torch.Tensor],
    lengths: torch.Tensor,
    output_lengths: torch.Tensor,
    width: int,
    sigma_square: float,
    bound: Optional[float],
    kind: int,
) -> Tuple[
    torch.Tensor,
    torch.Tensor,
    torch.Tensor,
    torch.Tensor,
    torch.Tensor,
    torch.Tensor,
    torch.Tensor,
    torch.Tensor,
    torch.Tensor,
]:
    """Return z, positions, loss, and what the backward needs: scores, stats, firsts,
    ends, squares, inverses. Either the score weight or scores are given."""
    x = x.contiguous()
    batch, steps, size = x.shape
    dtype = _work_dtype(x.dtype)

    def new(*shape, dtype=torch.float64):
        return torch.empty(shape, dtype=dtype, device=x.device)

    # a copy: an operator must not return what it is given
    scores = new(batch, steps) if given is None else given.to(torch.float64, copy=True)
    scores, positions = scores.contiguous(), new(batch, steps)
    stats, losses = new(batch, 4), new(batch)
    z = torch.empty((batch, width, size), dtype=x.dtype, device=x.device)
    firsts, ends = (new(batch, width, dtype=torch.int32) for _ in range(2))
    squares, inverses = new(batch, width), new(batch, width, dtype=dtype)
    rows, features, chunks = _tiles(size)
    at_once, warps = _steps_at_once(steps)
    blocks = triton.cdiv(steps, rows)
    with _on(x.device):
        if weight is not None:
            _score[(batch * blocks,)](
                x, weight.contiguous(), lengths, scores, steps, blocks,
                D=size, BT=rows, BD=features, num_warps=_WARPS,
            )  # fmt: skip
        _place[(batch,)](
            scores, lengths, output_lengths, positions, stats, losses, steps, width,
            BOUND=bound, BT=at_once, num_warps=warps,
        )  # fmt: skip
        blocks = triton.cdiv(width, rows)
        _apply[(batch * blocks * chunks,)](
            x, positions, lengths, output_lengths, z, firsts, ends, squares, inverses,
            z, inverses, steps, width, blocks, chunks, steps.bit_length(),
            SHARPNESS=sigma_square, REACH=_reach(dtype), KIND=kind, TOTALS=False,
            DTYPE=_TRITON_DTYPE[dtype], D=size, BL=rows, BD=features, num_warps=_WARPS,
        )  # fmt: skip
    loss = losses.mean().to(dtype)
    return z, positions, loss, scores, stats, firsts, ends, squares, inverses


def _reach(dtype):
    return math.log(2.0 / _TOLERANCE[dtype])


def _backward(
    x: torch.Tensor,
    weight: Optional[torch.Tensor],
    lengths: torch.Tensor,
    output_lengths: torch.Tensor,
    kept: List[torch.Tensor],
    grad_z: torch.Tensor,
    grad_positions: Optional[torch.Tensor],
    grad_loss: Optional[torch.Tensor],
    sigma_square: float,
    bound: Optional[float],
    want_x: bool,
    want_weight: bool,
) -> Tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Return the gradients of x, weight and scores; x and weight: an empty one if it
    is not needed."""
    positions, scores, stats, firsts, ends, squares, inverses = kept
    x, grad_z = x.contiguous(), grad_z.contiguous()
    (batch, steps, size), width = x.shape, grad_z.size(1)
    dtype = _work_dtype(x.dtype)
    if weight is None:  # x is resampled only, it does not score
        weight = x.new_zeros(size, dtype=dtype)
    weight = weight.contiguous()

    def new(*shape, dtype=torch.float64):
        return torch.empty(shape, dtype=dtype, device=x.device)

    rows, features, chunks = _tiles(size)
    shared = dict(
        SHARPNESS=sigma_square, DTYPE=_TRITON_DTYPE[dtype],
        D=size, BD=features, num_warps=_WARPS,
    )  # fmt: skip
    totals = new(chunks, batch, width, dtype=dtype)
    tops, bottoms = (new(batch, steps, dtype=torch.int32) for _ in range(2))
    grad_rows, grad_scores = new(batch, steps), new(batch, steps)
    with _on(x.device):
        blocks = triton.cdiv(width, rows)
        _apply[(batch * blocks * chunks,)](
            x, positions, lengths, output_lengths, grad_z,
            firsts, ends, squares, inverses, grad_z, totals,
            steps, width, blocks, chunks, 0,
            REACH=0.0, KIND=0, TOTALS=True, BL=rows, **shared,
        )  # fmt: skip
        if chunks > 1:
            totals = totals.sum(dim=0)
        blocks = triton.cdiv(steps, rows)
        _position_grad[(batch * blocks,)](
            x, grad_z, positions, lengths, firsts, ends, squares, inverses, totals,
            tops, bottoms, grad_rows, steps, width, blocks, width.bit_length(),
            BT=rows, **shared,
        )  # fmt: skip
        at_once, warps = _steps_at_once(steps)
        _place_grad[(batch,)](
            grad_rows,
            grad_rows if grad_positions is None else grad_positions.contiguous(),
            grad_rows if grad_loss is None else grad_loss,
            scores, positions, stats, lengths, output_lengths, grad_scores,
            steps, width, BOUND=bound, POSITIONS=grad_positions is not None,
            LOSS=grad_loss is not None, BT=at_once, num_warps=warps,
        )  # fmt: skip
        # few rows of partial sums if there are many steps
        tiles = 4 if batch * blocks > 4096 else 1
        blocks = triton.cdiv(steps, rows * tiles)
        grad_x = torch.empty_like(x) if want_x else x.new_empty(0)
        partial = new(batch * blocks if want_weight else 0, size, dtype=dtype)
        _input_grad[(batch * blocks * chunks,)](
            x, weight, grad_z, positions, lengths, squares, inverses, tops, bottoms,
            grad_scores, grad_x, partial, steps, width, blocks, chunks, tiles,
            WANT_X=want_x, WANT_WEIGHT=want_weight, BT=rows, **shared,
        )  # fmt: skip
    return grad_x, partial.sum(dim=0).to(weight.dtype), grad_scores


# Captured by torch.compile as one operator each, whose kernels it does not look into;
# without it they are called directly, which is about ten microseconds faster.
_forward_operator = torch.library.custom_op(
    "espnet_adastride::resample", _forward, mutates_args=()
)
_backward_operator = torch.library.custom_op(
    "espnet_adastride::resample_backward", _backward, mutates_args=()
)


@_forward_operator.register_fake
def _(x, weight, given, lengths, output_lengths, width, sigma_square, bound, kind):
    batch, steps, size = x.shape
    dtype = _work_dtype(x.dtype)

    def new(*shape, dtype=torch.float64):
        return torch.empty(shape, dtype=dtype, device=x.device)

    return (
        new(batch, width, size, dtype=x.dtype),
        new(batch, steps),
        new(dtype=dtype),
        new(batch, steps),
        new(batch, 4),
        new(batch, width, dtype=torch.int32),
        new(batch, width, dtype=torch.int32),
        new(batch, width),
        new(batch, width, dtype=dtype),
    )


@_backward_operator.register_fake
def _(
    x, weight, lengths, output_lengths, kept, grad_z, grad_positions, grad_loss,
    sigma_square, bound, want_x, want_weight,
):  # fmt: skip
    grad_x = x.new_empty(x.shape if want_x else (0,))
    dtype = _work_dtype(x.dtype) if weight is None else weight.dtype
    grad_weight = torch.empty(x.size(2), dtype=dtype, device=x.device)
    return grad_x, grad_weight, torch.empty_like(kept[1])


class _Resample(torch.autograd.Function):
    """See :func:`resample`."""

    @staticmethod
    def forward(ctx, x, weight, scores, lengths, output_lengths, *settings):
        compiling = torch.compiler.is_compiling()
        forward = _forward_operator if compiling else _forward
        z, positions, loss, *kept = forward(
            x, weight, scores, lengths, output_lengths, *settings
        )
        ctx.save_for_backward(x, weight, lengths, output_lengths, positions, *kept)
        _, ctx.sigma_square, ctx.bound, _ = settings
        ctx.set_materialize_grads(False)
        return z, positions, loss

    @staticmethod
    def backward(ctx, grad_z, grad_positions, grad_loss):
        if torch.is_grad_enabled():
            raise RuntimeError(
                "second-order gradients of AdaStride's Triton kernels are not "
                "implemented: use the dense alignment_matrix(positions, ...) @ x "
                "if you need them"
            )
        x, weight, lengths, output_lengths, *kept = ctx.saved_tensors
        if grad_z is None:
            width = kept[3].size(1)
            grad_z = x.new_zeros(x.size(0), width, x.size(2))
        want_x, want_weight, want_scores = ctx.needs_input_grad[:3]
        compiling = torch.compiler.is_compiling()
        backward = _backward_operator if compiling else _backward
        grad_x, grad_weight, grad_scores = backward(
            x, weight, lengths, output_lengths, kept, grad_z, grad_positions, grad_loss,
            ctx.sigma_square, ctx.bound, want_x, want_weight,
        )  # fmt: skip
        grad_x = grad_x if want_x else None
        grad_weight = grad_weight if want_weight else None
        grad_scores = grad_scores if want_scores else None
        return grad_x, grad_weight, grad_scores, *(None,) * 6


def resample(
    x: torch.Tensor,
    score_weight: Optional[torch.Tensor],
    scores: Optional[torch.Tensor],
    lengths: torch.Tensor,
    output_lengths: torch.Tensor,
    width: int,
    sigma_square: float,
    score_bound: Optional[float],
    kind: int,
) -> Tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Score the steps, place them, resample them, and measure the jumps.

    Args:
        x: (B, T, D), of :data:`DTYPES`, on a device that :func:`runs_on` accepts; the
            padding is never read.
        score_weight: (D,), of any floating dtype; or None with ``scores``.
        scores: (B, T) float64, from elsewhere, in place of those of x; or None.
        lengths: (B,) int64 valid lengths n, at most T.
        output_lengths: (B,) int64 number of slots m, at most ``width``.
        width: T'.
        sigma_square: sharpness, > 0.
        score_bound: see :func:`adastride.bound_scores`.
        kind: BY_SOFTMAX, NEAREST_SLOT or NEAREST_SLOT_FILLED.

    Returns:
        z (B, T', D) in the dtype of x, positions (B, T) float64, and the positioning
        loss, a scalar of float32 at least; all with gradients, of first order only.
    """
    return _Resample.apply(
        x, score_weight, scores, lengths, output_lengths,
        width, sigma_square, score_bound, kind,
    )  # fmt: skip
