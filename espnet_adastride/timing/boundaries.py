"""Times of output frames: from the positions of every stage back to seconds.

A stage maps n input steps to m output slots. Input step t covers [t, t + 1) on the
stage's input axis; its slots' boundaries are m + 1 numbers on that axis, from 0 to n.

1. one stage with positions     slot_boundaries      (AdaStride, AdaStrideF)
2. one stage without            uniform_boundaries   (pooling, strided convolutions)
3. all stages                   compose_boundaries   (in steps of the first stage)
4. in seconds                   boundaries_in_seconds

numpy only. These boundaries replace a uniform frame rate: with varying strides,
``frame index * constant`` is not a time.
"""

from typing import Sequence

import numpy as np


def slot_boundaries(positions: np.ndarray, n: int, m: int) -> np.ndarray:
    """Return the boundaries of the slots of an adaptive stage.

    Slots l and l + 1 meet where the position, interpolated linearly between the centres
    t + 0.5 of the steps, crosses l + 0.5; if it stays at l + 0.5 for a while, in the
    middle of that interval. If a jump skips a slot (no step is nearest to it), the slot
    gets a fraction
    of one step: 1 / jump.

    The first and the last slot are about half as wide as their neighbours: the
    first step is at the centre of slot 0, the last at the centre of slot m - 1.

    Args:
        positions: (T,) with T >= n: on the segment [0, m - 1], non-decreasing.
        n: input steps.
        m: output slots, 1 <= m <= n (0 if n is 0).

    Returns:
        (m + 1,) float64 in input steps, non-decreasing, from 0 to n.

    Raises:
        ValueError: if the positions do not match n and m, decrease or are not finite.
    """
    _check_sizes(n, m)
    positions = np.asarray(positions, dtype=np.float64)
    if positions.ndim != 1 or len(positions) < n:
        raise ValueError(
            f"positions must be one utterance's, at least {n} long, got shape "
            f"{positions.shape}"
        )
    if n == 0:
        return np.zeros(1)
    positions = positions[:n]
    if not (positions[0] >= -0.5 and positions[-1] <= m - 0.5):
        raise ValueError(f"positions must be in [0, {m - 1}]")
    if not np.all(np.diff(positions) >= 0):  # false for NaN too
        raise ValueError("positions must not decrease and must be finite")
    # the ends of the segment, half a slot beyond the outermost slot centres
    position = np.concatenate([[-0.5], positions, [m - 0.5]])
    time = np.concatenate([[0.0], np.arange(n) + 0.5, [n]])
    targets = np.arange(1, m) - 0.5

    def crossing(side):
        right = np.searchsorted(position, targets, side=side)
        left = right - 1
        share = (targets - position[left]) / (position[right] - position[left])
        return time[left] + share * (time[right] - time[left])

    inner = (crossing("left") + crossing("right")) / 2
    return np.concatenate([[0.0], inner, [float(n)]])


def uniform_boundaries(n: int, m: int, stride: float, shift: float = 0.0) -> np.ndarray:
    """Return the boundaries of the slots of a stage with a constant stride.

    Args:
        n: input steps.
        m: output slots.
        stride: input steps per slot; slot l covers [l stride, (l + 1) stride).
        shift: moves the inner boundaries, in input steps. A convolution of kernel 3 and
            padding 1 is centred at step l stride: (1 - stride) / 2. Windows: 0.

    Returns:
        (m + 1,) float64 in input steps, non-decreasing, from 0 to n.
    """
    _check_sizes(n, m)
    boundaries = np.arange(m + 1) * float(stride) + shift
    boundaries = np.clip(boundaries, 0.0, float(n))
    boundaries[0], boundaries[-1] = 0.0, float(n)
    return boundaries


def compose_boundaries(stages: Sequence[np.ndarray]) -> np.ndarray:
    """Return the last stage's boundaries in steps of the first stage's input.

    A boundary at a fraction of a step of a later stage is at the same fraction of the
    corresponding slot of the previous stage.

    Args:
        stages: boundaries (m_k + 1,) of each stage in its own input steps, first stage
            first; each ends at the number of slots of the previous one.

    Raises:
        ValueError: if there is no stage, or one does not match the previous one.
    """
    if not len(stages):
        raise ValueError("no stage to compose")
    boundaries = np.asarray(stages[0], dtype=np.float64)
    for index, stage in enumerate(stages[1:], 2):
        slots = len(boundaries) - 1
        if stage[-1] != slots:
            raise ValueError(
                f"stage {index} reads {stage[-1]:g} steps, but the previous stage has "
                f"{slots} slots"
            )
        boundaries = np.interp(stage, np.arange(slots + 1), boundaries)
    return boundaries


def boundaries_in_seconds(
    boundaries: np.ndarray, step: float, start: float, duration: float
) -> np.ndarray:
    """Turn boundaries in feature frames into seconds within the recording.

    Args:
        boundaries: in feature frames.
        step: seconds from one feature frame to the next.
        start: time in seconds at which the first feature frame begins: -step / 2 where
            frame t is centred at t step (an STFT with ``center: true``).
        duration: length of the recording; the first and last boundary become 0 and
            this.
    """
    seconds = np.clip(start + np.asarray(boundaries) * step, 0.0, duration)
    if len(seconds) > 1:
        seconds[0], seconds[-1] = 0.0, duration
    return seconds


def share_of_frames(boundaries: np.ndarray, edges: np.ndarray, inside: np.ndarray):
    """Return the share of the time, and of the frames, inside marked intervals.

    A frame that is partly inside counts in proportion.

    Args:
        boundaries: (m + 1,) boundaries of the frames.
        edges: (k + 1,) increasing edges of the intervals, on the same axis.
        inside: (k,) booleans: the marked intervals.

    Returns:
        (share of the time, share of the frames), each from 0 to 1.
    """
    cumulated = np.concatenate([[0.0], np.cumsum(np.diff(edges) * inside)])
    covered = np.diff(np.interp(boundaries, edges, cumulated))
    width = np.diff(boundaries)
    wide = width > 0
    # a frame of zero width is inside or not
    index = np.searchsorted(edges, boundaries[:-1], side="right") - 1
    at_point = np.asarray(inside, dtype=np.float64)[index.clip(0, len(inside) - 1)]
    shares = np.where(wide, covered / np.where(wide, width, 1.0), at_point)
    return float(covered.sum() / width.sum()), float(shares.mean())


def _check_sizes(n, m):
    if not (0 <= m <= n and (m > 0 or n == 0)):
        raise ValueError(f"cannot map {n} steps to {m} slots")
