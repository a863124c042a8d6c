"""The input layer block by block: frames are final when their block has ended.

Vector positioning shares out the whole utterance, so that its first frame waits for the
last sample. With ``input_layer_conf: {block: SECONDS}`` every block of b feature frames
is a segment of its own. With n_k frames in block k (b, and what is left in the last)
and an overall stride s,

    m_k = ceil(n_k / s)        output frames of block k
    p_t = (m_k - 1) [0, cumsum(softmax(a_2 .. a_n_k))]     within the block

so that every block has the exact rate, and the utterance ``sum_k m_k`` frames. b is a
multiple of the stages' strides: only the last block is rounded up. Whatever the method
computes over an utterance it computes over a block, and all blocks of a batch go
through it together, one a row, so that training costs what it cost.

The trunk's convolutions see past the edges of a block where that costs no waiting:

* to the left, the last frames of the block before, at every stage;
* to the right, one feature frame of the next block, at the first stage: the look-ahead
  (:data:`LOOK_AHEAD`). At later stages the next block's frames depend on its end, and
  the convolution sees zeros, as it does at the end of an utterance.

Where one block holds the whole batch, the layer does what it does without ``block``.
"""

import logging
import math
from typing import List, NamedTuple, Optional, Sequence, Tuple

import torch

from espnet_adastride.downsampling import downsampled_lengths, length_mask
from espnet_adastride.downsampling.output import check_number
from espnet_adastride.errors import ConfigurationError, located
from espnet_adastride.plugin.strides import WHERE, drawn
from espnet_adastride.plugin.timing import log_strides

#: feature frames of the next block that a block waits for: what the first convolution,
#: of kernel 3, sees to its right
LOOK_AHEAD = 1

#: output frames that a block has at least: fewer are no segment to share out
LEAST_FRAMES = 4


class BlockTrace(NamedTuple):
    """What one stage reported of a batch cut into blocks; else as a ``StageTrace``.

    Attributes:
        input_lengths: (R,) frames that went in, of every block; the blocks of an
            utterance follow each other.
        output_lengths: (R,) frames that came out.
        positions: (R, T) of a block's input frames on its output slots, or None.
        aux_loss: scalar, or None.
        loss_name: under which it is reported and weighted.
        blocks: (B,) blocks of each utterance, R together.
    """

    input_lengths: torch.Tensor
    output_lengths: torch.Tensor
    positions: Optional[torch.Tensor]
    aux_loss: Optional[torch.Tensor]
    loss_name: str
    blocks: torch.Tensor


def joined_trace(traces) -> Tuple[BlockTrace, ...]:
    """Return the traces of consecutive blocks of one utterance as those of all of them.

    Args:
        traces: one a block: a StageTrace of one row for every stage. Losses are left
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
    """Return the feature frames of a block: the number next to ``seconds`` that fits.

    Args:
        seconds: wanted.
        step: seconds from one feature frame to the next.
        strides: of the stages; every one divides what comes into it.

    Raises:
        ValueError: for a block of too few output frames, or strides that divide none.
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
    nearest, reach = round(wanted), 4 * math.ceil(overall)
    near = range(nearest - reach, nearest + reach + 1)
    for frames in sorted(near, key=lambda frames: abs(frames - wanted)):
        if frames >= least - 1e-6 and _divides(frames, strides):
            return frames
    raise ValueError(
        f"block {seconds:g} s: no number of feature frames near {nearest} makes whole "
        f"output frames at the strides {', '.join(f'{s:g}' for s in strides)}; take "
        "whole strides"
    )


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
            anew for every batch, the logarithm evenly.
        strides: that the layer was built with.

    Raises:
        ValueError: for numbers that are none, or not in order.
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
        """Say how many seconds there are from one feature frame to the next.

        Raises:
            ConfigurationError: for a block of too few output frames.
        """
        self.step = step
        self.set_seconds(self.seconds)
        if self.train is not None:
            for seconds in self.train:
                self._fitted(seconds, ": train_blocks")

    def set_seconds(self, seconds: float) -> None:
        """Take blocks of another length from now on, but for training's drawn ones.

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
        """Return the feature frames of a block, for this batch.

        Raises:
            ConfigurationError: the length of a feature frame is not known.
        """
        if self.frames is None:
            raise ConfigurationError(
                f"{WHERE}: block is in seconds, and the distance of feature frames "
                "is not known: call blocks.set_step(0.01)"
            )
        self._now = self.frames
        if training and self.train is not None:
            self._now = self._fitted(drawn(*self.train))
        return self._now

    def output_lengths(self, lengths, strides: Sequence[float]):
        """Return sum_k ceil(n_k / stride), stage by stage; an int or a tensor.

        Args:
            lengths: feature frames, an int or an integer tensor.
            strides: of the stages, at present.
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
    """The trunk's convolutions over blocks, which see past a block's edges.

    Args:
        following: (R, 1, F) the feature frame behind each block, zeros if there is
            none.
        first: (R,) whether a block is the first of its utterance; None: the rows follow
            each other.
        held: what the block before the first row left, one tensor a stage; None: there
            was none.
    """

    def __init__(self, following, first=None, held=None):
        self.following, self.first, self.held = following, first, held
        self.left: List[torch.Tensor] = []  # for the block behind the last row

    def __call__(self, index, stage, stride, x):
        """Return what a stage makes of blocks x (R, T, C): (R, ceil(T / stride), .)."""
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


def run_blocks(layer, x, lengths, block: int, prefix_embeds=None, masked: bool = True):
    """Do what the layer's forward does, block by block.

    Args:
        layer: AdaptiveSubsampling.
        x: (B, T, F) with T > block, zero beyond the lengths.
        lengths: (B,) feature frames, one of them > 0.
        block: feature frames.
        prefix_embeds: see the layer's forward.
        masked: whether a mask is wanted.

    Returns:
        What the layer's ``forward`` returns, and the stages' trace.
    """
    batch, time, width = x.shape
    most = math.ceil(time / block)
    blocks = torch.nn.functional.pad(x, (0, 0, 0, (most + 1) * block - time))
    blocks = blocks.view(batch, most + 1, block, width)
    number = torch.div(lengths + (block - 1), block, rounding_mode="floor")
    there = length_mask(number, most)
    starts = block * torch.arange(most, device=x.device).expand(batch, -1)[there]
    # rows of blocks that hold something: no method averages over those that do not
    rows = blocks[:, :-1][there]
    following = blocks[:, 1:, :LOOK_AHEAD][there]
    row_lengths = (lengths.unsqueeze(1).expand(-1, most)[there] - starts).clamp(
        max=block
    )
    convolve = _Edges(following, starts == 0)
    rows, times, row_lengths, trace = layer.run_stages(rows, row_lengths, convolve)

    def placed(values):
        """Put what is of the blocks (R, w, ...) into (B, most w, ...)."""
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
    if layer.true_times:
        times = placed(times + starts.unsqueeze(1))
    lengths = layer.blocks.output_lengths(lengths, layer.current_strides())
    mask = length_mask(lengths, wanted).unsqueeze(1) if masked else None
    trace = tuple(BlockTrace(*stage, number) for stage in trace)
    given = layer.out[0](placed(rows))
    return layer.finish(given, times, told, mask, prefix_embeds), trace


# ------------------------------------------------------------------ a stream
class Streamed(NamedTuple):
    """What has come of an utterance whose end is not known.

    Attributes:
        features: (1, t, F) feature frames of the block that is not complete.
        left: what each stage of the block before left for its convolution, or None.
        block: feature frames of a block.
    """

    features: Optional[torch.Tensor]
    left: Optional[Tuple[torch.Tensor, ...]]
    block: int


def start_stream(layer) -> Streamed:
    """Return the state of a stream that has not begun.

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
    """Return the output frames of all blocks that have ended.

    Blocks are computed one by one, so that the result is the same number for number
    however the features arrive.

    Args:
        layer: AdaptiveSubsampling.
        state: of :func:`start_stream`, or what the last call returned.
        features: (1, t, F) that have arrived, t >= 0.
        final: whether they are the last.

    Returns:
        (1, m, D) frames, without a positional encoding; the trace of these blocks; and
        the new state.
    """
    if state.features is not None:
        features = torch.cat([state.features, features], dim=1)
    block, left = state.block, state.left
    frames, traces = [features.new_zeros(1, 0, layer.out[0].out_features)], []
    while features.size(1) >= block + LOOK_AHEAD or (final and features.size(1)):
        rows, features = features[:, :block], features[:, block:]
        made, _, trace, left = _next_block(layer, rows, features[:, :LOOK_AHEAD], left)
        frames.append(made)
        traces.append(trace)
    state = Streamed(features, left, block)
    return torch.cat(frames, dim=1), joined_trace(traces), state


def _next_block(layer, x, following, left):
    """Return the frames of one block x (1, T, F), their times, trace and left edges.

    Args:
        layer: AdaptiveSubsampling.
        x: (1, T, F) feature frames.
        following: (1, 1, F) the one behind them; (1, 0, F) if there is none.
        left: what the block before returned; None: there was none.
    """
    if following.size(1) < LOOK_AHEAD:
        following = x.new_zeros(1, LOOK_AHEAD, x.size(2))
    edges = _Edges(following, None, left)
    lengths = torch.tensor([x.size(1)], device=x.device)
    x, times, lengths, trace = layer.run_stages(x, lengths, edges)
    x = layer.out[0](x)
    if layer.stride_vector is not None:
        told = log_strides(times, lengths).to(x.dtype)
        x = x + told.unsqueeze(2) * layer.stride_vector
    return x, times, trace, tuple(edges.left)


@torch.no_grad()
def run_long(layer, x, block: int, prefix_embeds=None, masked: bool = True):
    """Do what :func:`run_blocks` does for one long utterance, block after block.

    In memory of one block and the result; without gradients.
    """
    frames, times, traces, left = [], [], [], None
    for start in range(0, x.size(1), block):
        end = start + block
        made, when, trace, left = _next_block(
            layer, x[:, start:end], x[:, end : end + LOOK_AHEAD], left
        )
        frames.append(made)
        times.append(None if when is None else when + start)
        traces.append(trace)
    frames = torch.cat(frames, dim=1)
    times = torch.cat(times, dim=1) if layer.true_times else None
    mask = None
    if masked:
        shape = (1, 1, frames.size(1))
        mask = torch.ones(shape, dtype=torch.bool, device=x.device)
    # each block has told of its strides
    return layer.finish(frames, times, None, mask, prefix_embeds), joined_trace(traces)
