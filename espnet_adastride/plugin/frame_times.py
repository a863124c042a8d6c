"""When an encoder's frames are: the input layer's boundaries, in seconds.

For the plugin's input layer they come from the positions of every stage; for ESPnet's
own convolutions from kernel and stride. Feature frames are those of the frontend's
Fourier transform, or of the upstream that features were extracted with. For anything
else the frames are spread evenly, and the log says so.
"""

import logging
from typing import List, NamedTuple, Optional, Sequence, Tuple

import numpy as np
import torch

from espnet_adastride.downsampling import downsampled_lengths
from espnet_adastride.downsampling.stages import StageTrace
from espnet_adastride.plugin.espnet import STOCK_SUBSAMPLINGS, LinearProjection
from espnet_adastride.plugin.layer_sum import LayerSum
from espnet_adastride.plugin.subsampling import AdaptiveSubsampling
from espnet_adastride.strides import (
    boundaries_in_seconds,
    compose_boundaries,
    slot_boundaries,
    uniform_boundaries,
)


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
            overall stride, which is what ``espnet2.bin.asr_align`` assumes by itself.
        windows: the same for pooling with the same strides: what the local strides are
            compared with; the boundaries themselves where strides are uniform.
        lowest: the same of the frames at the lowest rate, where a rate is given back
            (``restore``); else None.
    """

    boundaries: np.ndarray
    uniform: np.ndarray
    windows: np.ndarray
    lowest: Optional["FrameTimes"] = None

    def of_strides(self) -> "FrameTimes":
        """Return the times of the frames that all stages have made, for pictures."""
        return self if self.lowest is None else self.lowest


def encoder_boundaries(
    layer: AdaptiveSubsampling,
    trace: Sequence[StageTrace],
    frames: int,
    index: int = 0,
    lowest: bool = False,
) -> Tuple[np.ndarray, np.ndarray]:
    """Return where the encoder's frames of one utterance lie, in feature frames.

    Args:
        layer: the model's input layer.
        trace: what ``layer.take_trace()`` returned for the batch.
        frames: feature frames of the utterance.
        index: of the utterance in the batch.
        lowest: with ``restore``, the frames of the lowest rate instead of those that
            the encoder gives.

    Returns:
        (m + 1,) boundaries as the layer made them, and as pooling with the same
        strides would have.
    """
    entries = iter(trace)
    adaptive: List[np.ndarray] = []
    uniform: List[np.ndarray] = []
    n = frames
    stages = layer.stages() if lowest else layer.stages()[: layer.kept_stages()]
    for downsampler, stride in zip(stages, layer.current_strides()):
        m = downsampled_lengths(n, stride)
        in_trunk = isinstance(downsampler, torch.nn.Identity)
        entry = None if in_trunk else next(entries)
        if not in_trunk and downsampler.lengths_from_content:
            m = int(entry.output_lengths[index])
            stride = n / max(m, 1)
        uniform.append(uniform_boundaries(n, m, stride))
        if in_trunk:
            # the trunk's convolution of kernel 3 made the stride: no trace
            adaptive.append(uniform_boundaries(n, m, stride, shift=(1 - stride) / 2))
        else:
            positions = entry.positions
            if positions is None:
                shift = downsampler.frame_shift()
                adaptive.append(uniform_boundaries(n, m, stride, shift))
            else:
                row = positions[index].detach().cpu().double().numpy()
                adaptive.append(slot_boundaries(row, n, m))
        n = m
    return compose_boundaries(adaptive), compose_boundaries(uniform)


def convolution_boundaries(embed: torch.nn.Module, frames: int) -> np.ndarray:
    """Return the frames of ESPnet's own input layer (conv2d ...), in feature frames.

    Frame l of a convolution of kernel k and stride s, without padding, is centred on
    input step l s + (k - 1) / 2.

    Args:
        embed: a Conv2dSubsampling or Conv1dSubsampling of any kind.
        frames: feature frames of the utterance.

    Returns:
        (m + 1,) boundaries.
    """
    stages, n = [], frames
    for module in _convolutions(embed):
        kernel, stride = module.kernel_size[0], module.stride[0]
        m = max((n - kernel) // stride + 1, 0)
        stages.append(uniform_boundaries(n, m, stride, (kernel - stride) / 2))
        n = m
    return compose_boundaries(stages)


def _convolutions(embed: torch.nn.Module) -> List[torch.nn.Module]:
    """Return the convolutions of ESPnet's own input layer; time is their first axis."""
    kinds = (torch.nn.Conv1d, torch.nn.Conv2d)
    return [module for module in embed.conv if isinstance(module, kinds)]


def _overall_stride(embed: torch.nn.Module) -> float:
    if isinstance(embed, AdaptiveSubsampling):
        return float(np.prod(embed.output_strides()))
    return float(np.prod([m.stride[0] for m in _convolutions(embed)]))


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
        frames: m, what the encoder gave for it.
        grid: of extracted features; None: that of the frontend's Fourier transform.
    """
    embed = getattr(model.encoder, "embed", None)
    duration = samples / rate
    grid = grid or stft_grid(model, samples, rate)
    inner: Optional[np.ndarray] = None
    pooled: Optional[np.ndarray] = None
    if grid is not None and keeps_frames(model.preencoder):
        if isinstance(embed, AdaptiveSubsampling):
            inner, pooled = encoder_boundaries(embed, trace, grid.count)
        elif isinstance(embed, STOCK_SUBSAMPLINGS):
            inner = convolution_boundaries(embed, grid.count)
    if grid is None or inner is None or len(inner) - 1 != frames:
        # another frontend, or something behind the input layer shortens the frames too:
        # all that is known is how many there are
        logging.warning(
            "when the frames of this model are is not known: their times are spread "
            "evenly, which is wrong behind adaptive strides"
        )
        even = np.linspace(0.0, duration, frames + 1)
        return FrameTimes(even, even, even)
    start = grid.centre - grid.step / 2

    def times(inner, pooled, stride):
        boundaries, windows = (
            boundaries_in_seconds(edges, grid.step, start, duration)
            for edges in (inner, inner if pooled is None else pooled)
        )
        even = (np.arange(len(inner)) - 0.5) * stride * grid.step
        uniform = boundaries_in_seconds(even, 1.0, 0.0, duration)
        return FrameTimes(boundaries, uniform, windows)

    found = times(inner, pooled, _overall_stride(embed))
    if not isinstance(embed, AdaptiveSubsampling) or not embed.restore:
        return found
    both = encoder_boundaries(embed, trace, grid.count, lowest=True)
    return found._replace(lowest=times(*both, float(np.prod(embed.current_strides()))))


def keeps_frames(preencoder: Optional[torch.nn.Module]) -> bool:
    """Return whether a preencoder, or none, gives a frame for every frame."""
    return preencoder is None or isinstance(preencoder, (LayerSum, LinearProjection))


def stft_grid(model: torch.nn.Module, samples: int, rate: int) -> Optional[FeatureGrid]:
    """Return where the frames of the frontend's Fourier transform are; None without.

    Frame t of a centred one is centred at t hops, of another at half a window later.
    """
    stft = getattr(model.frontend, "stft", None)
    if stft is None:
        return None
    count = samples if stft.center else samples - stft.n_fft
    centre = 0.0 if stft.center else stft.n_fft / 2 / rate
    return FeatureGrid(1 + count // stft.hop_length, stft.hop_length / rate, centre)
