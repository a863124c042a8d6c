"""The input layer block by block: frames are final when their block has ended.

Vector positioning places the steps of a whole utterance together, so its first frame
needs the last sample. With ``input_layer_conf: {block: SECONDS}`` every block of b
feature frames is a segment of its own. With n_k frames in block k (b, or fewer in the
last) and an overall stride s,

    m_k = ceil(n_k / s)        output frames of block k
    p_t = (m_k - 1) [0, cumsum(softmax(a_2 .. a_n_k))]     within the block

Every block has the exact rate, and the utterance has ``sum_k m_k`` frames. b is a
multiple of the stages' strides: only the last block is rounded up. A method computes
over a block what it otherwise computes over an utterance. All blocks of a batch are
computed together, one per row, so training costs the same.

The trunk's convolutions see past the edges of a block where this adds no delay:

* to the left, the last frames of the previous block, at every stage;
* to the right, one feature frame of the next block, at the first stage: the look-ahead
  (:data:`LOOK_AHEAD`). At later stages the next block's frames depend on its end, and
  the convolution sees zeros, as at the end of an utterance.

If one block holds the whole batch, the result is that without ``block``.
"""

import logging
import math
from typing import List, NamedTuple, Optional, Sequence, Tuple

import torch

from espnet_adastride.downsampling import downsampled_lengths, length_mask
from espnet_adastride.downsampling.output import check_number
from espnet_adastride.errors import ConfigurationError, located
from espnet_adastride.plugin.strides import WHERE, drawn
from espnet_adastride.plugin.true_times import log_strides

#: feature frames of the next block that a block waits for: the first convolution, of
#: kernel 3, sees one to its right
LOOK_AHEAD = 1

#: the fewest output frames of a block
LEAST_FRAMES = 4


class BlockTrace(NamedTuple):
    """A ``StageTrace`` of a batch cut into blocks: what one stage reported.

    Attributes:
        input_lengths: (R,) input frames of every block; the blocks of an utterance are
            consecutive.
        output_lengths: (R,) output frames.
        positions: (R, T) of a block's input frames on its output slots, or None.
        aux_loss: scalar, or None.
        loss_name: the name under which the loss is reported and weighted.
        blocks: (B,) blocks of each utterance, R in total.
    """

    input_lengths: torch.Tensor
    output_lengths: torch.Tensor
    positions: Optional[torch.Tensor]
    aux_loss: Optional[torch.Tensor]
    loss_name: str
    blocks: torch.Tensor


def joined_trace(traces) -> Tuple[BlockTrace, ...]:
    """Join the traces of consecutive blocks of one utterance.

    Args:
        traces: one per block: a StageTrace of one row for every stage. Losses are left
            out.
    """
    joined = []
    for stages in zip(*traces):
        positions = None
        if stages[0].positions is not None:
            most = max(stage.positions.size(1) for stage in stages)
            rows = []
            for stage in stages:
                last = stage.positions[:, -1:]
                missing = last.expand(-1, most - stage.positions.size(1))
                rows.append(torch.cat([stage.positions, missing], dim=1))
            positions = torch.cat(rows)
        joined.append(
            BlockTrace(
                torch.cat([stage.input_lengths for stage in stages]),
                torch.cat([stage.output_lengths for stage in stages]),
                positions,
                None,
                stages[0].loss_name,
                torch.tensor([len(stages)]),
            )
        )
    return tuple(joined)


def block_frames(seconds: float, step: float, strides: Sequence[float]) -> int:
    """Return the feature frames of a block: the fitting number closest to ``seconds``.

    Args:
        seconds: wanted.
        step: seconds from one feature frame to the next.
        strides: of the stages; each must divide its input.

    Raises:
        ValueError: for a block of too few output frames, or strides that divide no
            number nearby.
    """
    overall = math.prod(strides)
    least = LEAST_FRAMES * overall
    wanted = seconds / step
    if wanted < least - 1e-6:
        raise ValueError(
            f"block {seconds:g} s is {wanted:.4g} feature frames of {1000 * step:g} ms,"
            f" {wanted / overall:.3g} output frames at stride {overall:g}: give "
            f"{math.ceil(least) * step:g} s ({LEAST_FRAMES} output frames) or more"
        )
    nearest, reach = round(wanted), _reach(strides)
    near = range(nearest - reach, nearest + reach + 1)
    for frames in sorted(near, key=lambda frames: abs(frames - wanted)):
        if frames >= least - 1e-6 and _divides(frames, strides):
            return frames
    raise ValueError(
        f"block {seconds:g} s: no number of feature frames near {nearest} makes whole "
        f"output frames at the strides {', '.join(f'{s:g}' for s in strides)}; take "
        "whole strides"
    )


def _reach(strides: Sequence[float]) -> int:
    """Return how far from the wanted one a number of feature frames may be."""
    return 4 * math.ceil(math.prod(strides))


def _divides(frames: int, strides: Sequence[float]) -> bool:
    for stride in strides:
        fewer = downsampled_lengths(frames, stride)
        if abs(fewer * stride - frames) > 1e-6:
            return False
        frames = fewer
    return True


class BlockLength:
    """How long the blocks of an input layer are.

    Args:
        seconds: of a block, > 0.
        train: None, or (lowest, highest) seconds of a training batch's blocks, drawn
            log-uniformly for every batch.
        strides: of the layer as built.

    Raises:
        ValueError: for invalid numbers, or a wrong order.
    """

    def __init__(self, seconds, train, strides: Sequence[float]):
        self.seconds = check_number("block", seconds)
        self.train = None
        if train is not None:
            pair = isinstance(train, (list, tuple)) and len(train) == 2
            try:
                self.train = tuple(check_number("block", one) for one in train)
            except (TypeError, ValueError):
                pair = False
            if not pair or self.train[0] > self.train[1]:
                raise ValueError(
                    "train_blocks must be the shortest and the longest block in "
                    f"seconds, such as [0.5, 4], got {train!r}"
                )
        self.strides = tuple(strides)
        self.step: Optional[float] = None
        self.frames: Optional[int] = None
        self._now: Optional[int] = None

    def set_step(self, step: float) -> None:
        """Set the seconds from one feature frame to the next.

        Raises:
            ConfigurationError: for a block of too few output frames.
        """
        self.step = step
        self.set_seconds(self.seconds)
        if self.train is not None:
            low, high = (seconds / step for seconds in self.train)
            for frames in (low, *self._between(low, high), high):
                self._fitted(frames * step, ": train_blocks")

    def _between(self, low: float, high: float) -> List[int]:
        """Return the feature frames, in order, that decide for all from low to high.

        With whole strides every length has a multiple nearby. With others the fitting
        lengths are multiples of one number, so they repeat after it, and a gap wider
        than what ``block_frames`` searches is near low. Strides that are rounded, such
        as 1.3333333, fit less and less: near high.
        """
        if all(stride == int(stride) for stride in self.strides):
            return []
        wide = 4 * _reach(self.strides)
        near = range(math.ceil(low), math.ceil(min(high, low + wide)))
        return [*near, *range(math.ceil(max(low + wide, high - wide)), math.ceil(high))]

    def set_seconds(self, seconds: float) -> None:
        """Set another length of blocks; those drawn in training stay.

        Raises:
            ConfigurationError: for a length that no block can have.
        """
        with located(WHERE, ValueError, ConfigurationError):
            self.seconds = check_number("block", seconds)
        if self.step is None:
            return
        self.frames = self._now = self._fitted(self.seconds)
        if abs(self.frames - self.seconds / self.step) > 0.5 + 1e-6:
            logging.info(
                "block %g s: %g s, %d feature frames, a multiple of the stride %g",
                self.seconds,
                self.frames * self.step,
                self.frames,
                math.prod(self.strides),
            )

    def _fitted(self, seconds, words=""):
        with located(f"{WHERE}{words}", ValueError, ConfigurationError):
            return block_frames(seconds, self.step, self.strides)

    def draw(self, training: bool) -> int:
        """Return the feature frames of a block of this batch.

        Raises:
            ConfigurationError: the step of the feature frames is not known.
        """
        if self.frames is None:
            raise ConfigurationError(
                f"{WHERE}: block is in seconds, and the step of the feature frames "
                "is not known: call blocks.set_step(0.01)"
            )
        self._now = self.frames
        if training and self.train is not None:
            self._now = self._fitted(drawn(*self.train))
        return self._now

    def output_lengths(self, lengths, strides: Sequence[float]):
        """Return sum_k ceil(n_k / stride), stage by stage: an int or a tensor.

        Args:
            lengths: feature frames, an int or an integer tensor.
            strides: the stages' current ones.
        """
        if self._now is None:
            self.draw(False)
        whole, rest = lengths // self._now, lengths % self._now
        full = self._now
        for stride in strides:
            full = downsampled_lengths(full, stride)
            rest = downsampled_lengths(rest, stride)
        return whole * full + rest


# ------------------------------------------------------------------ a batch
class _Edges:
    """The trunk's convolutions over blocks, which see past the edges of a block.

    Args:
        following: (R, 1, F) the feature frame after each block, zeros if there is none.
        first: (R,) whether a block is the first of its utterance; None: the rows are
            consecutive.
        held: the last frames of the block before the first row, one tensor per stage;
            None: there was no block.
    """

    def __init__(self, following, first=None, held=None):
        self.following, self.first, self.held = following, first, held
        self.left: List[torch.Tensor] = []  # for the block after the last row

    def __call__(self, index, stage, x):
        """Convolve blocks x (R, T, C): (R, ceil(T / stride), .)."""
        stride = stage.stride
        last = x[:, -stride:]
        self.left.append(last[-1:])
        if self.held is None:
            held = x.new_zeros(1, stride, x.size(2))
        else:
            held = self.held[index]
        # one row may be shorter than the stride: the end of a stream
        before = held if len(x) == 1 else torch.cat([held, last[:-1]])
        if self.first is not None:
            before = before.masked_fill(self.first[:, None, None], 0.0)
        parts = [before, x, self.following] if index == 0 else [before, x]
        width = downsampled_lengths(x.size(1), stride)
        return stage(torch.cat(parts, dim=1))[:, 1 : 1 + width].contiguous()


def run_blocks(layer, x, lengths, block: int):
    """Run ``layer.run_stages`` and the linear layer block by block.

    Args:
        layer: AdaptiveSubsampling.
        x: (B, T, F) with T > block, zero beyond the lengths.
        lengths: (B,) feature frames, one of them > 0.
        block: feature frames.

    Returns:
        x (B, T', D); with ``true_times`` the frames' times; with ``tell_strides`` their
        log strides, unless x has them already; lengths; and the stages' trace.
    """
    batch, time, width = x.shape
    most = math.ceil(time / block)
    blocks = torch.nn.functional.pad(x, (0, 0, 0, (most + 1) * block - time))
    blocks = blocks.view(batch, most + 1, block, width)
    number = torch.div(lengths + (block - 1), block, rounding_mode="floor")
    there = length_mask(number, most)
    starts = block * torch.arange(most, device=x.device).expand(batch, -1)[there]
    # only blocks that are not empty: methods average over all rows
    rows = blocks[:, :-1][there]
    following = blocks[:, 1:, :LOOK_AHEAD][there]
    row_lengths = (lengths.unsqueeze(1).expand(-1, most)[there] - starts).clamp(
        max=block
    )
    convolve = _Edges(following, starts == 0)
    rows, times, row_lengths, trace = layer.run_stages(rows, row_lengths, convolve)

    def placed(values):
        """Put the blocks' values (R, w, ...) into (B, most w, ...)."""
        whole = values.new_zeros(batch, most, *values.shape[1:])
        whole[there] = values
        return whole.flatten(1, 2)[:, :wanted]

    wanted = (most - 1) * rows.size(1)
    left = time - (most - 1) * block
    for stride in layer.current_strides():
        left = downsampled_lengths(left, stride)
    wanted += left
    told = None
    if layer.stride_vector is not None:
        told = placed(log_strides(times, row_lengths))
    times = placed(times + starts.unsqueeze(1)) if layer.true_times else None
    lengths = layer.blocks.output_lengths(lengths, layer.current_strides())
    trace = tuple(BlockTrace(*stage, number) for stage in trace)
    return layer.out[0](placed(rows)), times, told, lengths, trace


# ------------------------------------------------------------------ a stream
class Streamed(NamedTuple):
    """The state of an utterance whose end is not known.

    Attributes:
        features: (1, t, F) feature frames of the incomplete block.
        left: the previous block's last frames at each stage, or None.
        block: feature frames of a block.
    """

    features: Optional[torch.Tensor]
    left: Optional[Tuple[torch.Tensor, ...]]
    block: int


def start_stream(layer) -> Streamed:
    """Return the state at the start of a stream.

    Raises:
        ConfigurationError: if the layer places whole utterances.
    """
    if layer.blocks is None:
        raise ConfigurationError(
            "this model's input layer places a whole utterance at once: streaming needs"
            " a training with encoder_conf: input_layer_conf: {block: 2} (seconds; "
            "docs/streaming.md)"
        )
    return Streamed(None, None, layer.blocks.draw(False))


@torch.no_grad()
def stream_blocks(layer, state: Streamed, features, final: bool):
    """Return the output frames of all blocks that are complete.

    Blocks are computed one by one: the result is identical however the features arrive.

    Args:
        layer: AdaptiveSubsampling.
        state: of :func:`start_stream`, or what the last call returned.
        features: (1, t, F) new feature frames, t >= 0.
        final: whether they are the last.

    Returns:
        (1, m, D) frames, without positional encoding; the trace of these blocks; the
        new state.
    """
    if state.features is not None:
        features = torch.cat([state.features, features], dim=1)
    made, _, traces, state = _in_turn(layer, state._replace(features=features), final)
    none = features.new_zeros(1, 0, layer.out[0].out_features)
    return torch.cat([none, *made], dim=1), joined_trace(traces), state


def _in_turn(layer, state: Streamed, final: bool):
    """Return all complete blocks' frames, times and traces, three lists; the state."""
    features, left, block = state
    frames, times, traces, start = [], [], [], 0
    while features.size(1) >= block + LOOK_AHEAD or (final and features.size(1)):
        x, features = features[:, :block], features[:, block:]
        following = features[:, :LOOK_AHEAD]
        if following.size(1) < LOOK_AHEAD:
            following = x.new_zeros(1, LOOK_AHEAD, x.size(2))
        edges = _Edges(following, None, left)
        lengths = torch.tensor([x.size(1)], device=x.device)
        x, when, lengths, trace = layer.run_stages(x, lengths, edges)
        x = layer.out[0](x)
        if layer.stride_vector is not None:
            told = log_strides(when, lengths).to(x.dtype)
            x = x + told.unsqueeze(2) * layer.stride_vector
        frames.append(x)
        times.append(None if when is None else when + start)
        traces.append(trace)
        left, start = tuple(edges.left), start + block
    return frames, times, traces, Streamed(features, left, block)


@torch.no_grad()
def run_long(layer, x, lengths, block: int):
    """Do what :func:`run_blocks` does, one block at a time, for one long utterance.

    It needs the memory of one block and of the result. No gradients.
    """
    frames, times, traces, _ = _in_turn(layer, Streamed(x, None, block), True)
    frames = torch.cat(frames, dim=1)
    times = torch.cat(times, dim=1) if layer.true_times else None
    lengths = lengths.new_tensor([frames.size(1)])
    # the strides were added in each block
    return frames, times, None, lengths, joined_trace(traces)
