"""When an encoder's frames are: the input layer's boundaries, in seconds.

For the plugin's input layer they come from the positions of every stage, for ESPnet's
own convolutions from kernel and stride. The times of the feature frames come from the
frontend (:mod:`frontends`), or from the upstream of extracted features. If these are
not known, the plugin's layer raises :class:`UnknownTimesError`: adaptive strides cannot
be guessed. Frames of ESPnet's own input layers are then spread evenly, as in ESPnet,
with a warning in the log.
"""

import logging
from typing import List, NamedTuple, Optional, Sequence, Tuple

import numpy as np
import torch

from espnet_adastride.downsampling import downsampled_lengths
from espnet_adastride.downsampling.stages import StageTrace
from espnet_adastride.errors import ConfigurationError, UnknownTimesError
from espnet_adastride.plugin.blocks import BlockTrace
from espnet_adastride.plugin.espnet import STOCK_SUBSAMPLINGS
from espnet_adastride.plugin.frontends import model_frames
from espnet_adastride.plugin.subsampling import AdaptiveSubsampling
from espnet_adastride.timing.boundaries import (
    boundaries_in_seconds,
    compose_boundaries,
    slot_boundaries,
    uniform_boundaries,
)
from espnet_adastride.timing.convolutions import Convolution, stack, stacked_length


class FeatureGrid(NamedTuple):
    """Where the feature frames of an utterance are.

    Attributes:
        count: how many there are.
        step: seconds from one to the next.
        centre: seconds at which frame 0 is centred.
    """

    count: int
    step: float
    centre: float


class FrameTimes(NamedTuple):
    """When the frames of one utterance are.

    Attributes:
        boundaries: (m + 1,) seconds at which frames begin and end, non-decreasing,
            from 0 to the duration.
        uniform: the same for one constant frame rate: frame l is centred at l times the
            overall stride, as ``espnet2.bin.asr_align`` assumes.
        windows: the same for pooling with the same strides, to compare local strides
            with; equal to the boundaries where strides are uniform.
        known: False: only the number of frames is known; they are spread evenly.
        lowest: the times of the frames at the lowest rate, with ``restore``; else
            None.
    """

    boundaries: np.ndarray
    uniform: np.ndarray
    windows: np.ndarray
    known: bool = True
    lowest: Optional["FrameTimes"] = None

    def of_strides(self) -> "FrameTimes":
        """Return the times of the frames after all stages, for pictures."""
        return self if self.lowest is None else self.lowest


def encoder_boundaries(
    layer: AdaptiveSubsampling,
    trace: Sequence[StageTrace],
    frames: int,
    index: int = 0,
    lowest: bool = False,
) -> Tuple[np.ndarray, np.ndarray]:
    """Return the boundaries of an utterance's encoder frames, in feature frames.

    Args:
        layer: the model's input layer.
        trace: what ``layer.take_trace()`` returned for the batch.
        frames: feature frames of the utterance.
        index: of the utterance in the batch.
        lowest: with ``restore``, the frames at the lowest rate instead of the encoder's
            output.

    Returns:
        (m + 1,) boundaries of the layer, and of pooling with the same strides.
    """
    if trace and isinstance(trace[0], BlockTrace):
        return _joined_blocks(layer, trace, frames, index)
    adaptive: List[np.ndarray] = []
    uniform: List[np.ndarray] = []
    n = frames
    stages = layer.stages() if lowest else layer.stages()[: layer.kept_stages()]
    for downsampler, stride, entry in zip(stages, layer.current_strides(), trace):
        m = downsampled_lengths(n, stride)
        if downsampler.lengths_from_content:
            m = int(entry.output_lengths[index])
            stride = n / max(m, 1)
        uniform.append(uniform_boundaries(n, m, stride))
        if entry.positions is None:
            shift = downsampler.frame_shift()
            adaptive.append(uniform_boundaries(n, m, stride, shift))
        else:
            row = entry.positions[index].detach().cpu().double().numpy()
            adaptive.append(slot_boundaries(row, n, m))
        n = m
    return compose_boundaries(adaptive), compose_boundaries(uniform)


def _joined_blocks(
    layer: AdaptiveSubsampling, trace: Sequence[BlockTrace], frames: int, index: int
) -> Tuple[np.ndarray, np.ndarray]:
    """Return :func:`encoder_boundaries` of an utterance that was cut into blocks."""
    blocks = trace[0].blocks.tolist()
    first, start = sum(blocks[:index]), 0
    parts: List[Tuple[np.ndarray, ...]] = []
    for row in range(first, first + blocks[index]):
        own = [StageTrace(*stage[:5]) for stage in trace]
        length = int(trace[0].input_lengths[row])
        both = encoder_boundaries(layer, own, length, row)
        parts.append(tuple(start + edges[:-1] for edges in both))
        start += length
    ends = (np.array([float(frames)]),) * 2
    inner, pooled = (np.concatenate(edges) for edges in zip(*parts, ends))
    return inner, pooled


def convolution_boundaries(embed: torch.nn.Module, frames: int) -> np.ndarray:
    """Return the frames of ESPnet's own input layer (conv2d ...), in feature frames.

    Args:
        embed: a Conv2dSubsampling or Conv1dSubsampling of any kind.
        frames: feature frames of the utterance.

    Returns:
        (m + 1,) boundaries.
    """
    layers = _convolutions(embed)
    rule, count = stack(layers), stacked_length(frames, layers)
    # step t of the features covers [t, t + 1)
    shift = rule.centre + (1 - rule.hop) / 2
    return uniform_boundaries(frames, count, rule.hop, shift)


def _convolutions(embed: torch.nn.Module) -> List[Convolution]:
    """Return the convolutions of ESPnet's own input layer; time is their first axis."""
    kinds = (torch.nn.Conv1d, torch.nn.Conv2d)
    return [
        Convolution(module.kernel_size[0], module.stride[0])
        for module in embed.conv
        if isinstance(module, kinds)
    ]


def overall_stride(embed: Optional[torch.nn.Module]) -> float:
    """Return an input layer's input frames per output frame."""
    if isinstance(embed, AdaptiveSubsampling):
        return float(np.prod(embed.output_strides()))
    if isinstance(embed, STOCK_SUBSAMPLINGS):
        return float(stack(_convolutions(embed)).hop)
    return 1.0


def frame_times(
    model: torch.nn.Module,
    trace: Sequence[StageTrace],
    samples: int,
    rate: int,
    frames: int,
    grid: Optional[FeatureGrid] = None,
) -> FrameTimes:
    """Return when the frames of one utterance are, alone in its batch.

    Args:
        model: ESPnetASRModel.
        trace: of its input layer, if that is the plugin's.
        samples: of the utterance.
        rate: samples per second.
        frames: m, of the encoder's output.
        grid: of extracted features; None: that of the frontend.

    Raises:
        UnknownTimesError, ConfigurationError: with the plugin's input layer, if the
            times are not known.
    """
    embed = getattr(model.encoder, "embed", None)
    duration = samples / rate
    try:
        grid = feature_grid(model, samples, rate, grid)
        inner, pooled = _boundaries(embed, trace, grid.count, frames)
    except (ConfigurationError, UnknownTimesError) as error:
        if isinstance(embed, AdaptiveSubsampling):
            raise
        logging.warning("times are spread evenly over the recording: %s", error)
        even = np.linspace(0.0, duration, frames + 1)
        return FrameTimes(even, even, even, known=False)
    start = grid.centre - grid.step / 2

    def times(inner, pooled, stride):
        boundaries, windows = (
            boundaries_in_seconds(edges, grid.step, start, duration)
            for edges in (inner, pooled)
        )
        even = (np.arange(len(inner)) - 0.5) * stride * grid.step
        uniform = boundaries_in_seconds(even, 1.0, 0.0, duration)
        return FrameTimes(boundaries, uniform, windows)

    found = times(inner, pooled, overall_stride(embed))
    if not isinstance(embed, AdaptiveSubsampling) or not embed.later.restore:
        return found
    both = encoder_boundaries(embed, trace, grid.count, lowest=True)
    return found._replace(lowest=times(*both, float(np.prod(embed.current_strides()))))


def _boundaries(
    embed: Optional[torch.nn.Module],
    trace: Sequence[StageTrace],
    features: int,
    frames: int,
) -> Tuple[np.ndarray, np.ndarray]:
    """Return the boundaries of the encoder's frames, and of pooling, in features."""
    if isinstance(embed, AdaptiveSubsampling):
        inner, pooled = encoder_boundaries(embed, trace, features)
    elif isinstance(embed, STOCK_SUBSAMPLINGS):
        inner = pooled = convolution_boundaries(embed, features)
    else:  # a frame for every feature, or else unknown
        inner = pooled = np.arange(features + 1.0)
    if len(inner) - 1 != frames:
        raise UnknownTimesError(
            f"the encoder gave {frames} frames and its input layer {len(inner) - 1}: "
            "a part after it shortens them, whose times are not known: train without it"
        )
    return inner, pooled


def join_times(
    parts: Sequence[FrameTimes], starts: Sequence[float], duration: float
) -> FrameTimes:
    """Return the times of the frames of a recording that was encoded in pieces.

    Args:
        parts: of the pieces, in order.
        starts: seconds at which they begin.
        duration: of the recording in seconds.
    """

    def join(name):
        edges = [getattr(t, name)[:-1] + begin for t, begin in zip(parts, starts)]
        return np.concatenate([*edges, [duration]])

    lowest = None
    if all(times.lowest is not None for times in parts):
        lowest = join_times([times.lowest for times in parts], starts, duration)
    return FrameTimes(
        join("boundaries"),
        join("uniform"),
        join("windows"),
        known=all(times.known for times in parts),
        lowest=lowest,
    )


def feature_grid(
    model: torch.nn.Module,
    samples: int,
    rate: int,
    given: Optional[FeatureGrid] = None,
) -> FeatureGrid:
    """Return the times of the frames that a model's encoder reads.

    Args:
        model: ESPnetASRModel.
        samples: of the utterance.
        rate: samples per second.
        given: of extracted features; None: the frontend's.

    Raises:
        UnknownTimesError, ConfigurationError: they are not known.
    """
    known = model_frames(model)
    if known is None:
        if given is None:
            raise UnknownTimesError(
                "the model reads features, and nothing says when their frames are: use "
                "python -m espnet_adastride.bin.align, which reads the recording, or "
                "put upstream.yaml of the features beside config.yaml"
            )
        return given
    if known.most is not None and samples > known.most:
        raise UnknownTimesError(
            f"frontend {known.words} encodes only the first {known.most / rate:g} s of "
            f"a recording, and this one lasts {samples / rate:.2f} s: cut it"
        )
    rule = known.rule
    return FeatureGrid(known.length(samples), rule.hop / rate, rule.centre / rate)
