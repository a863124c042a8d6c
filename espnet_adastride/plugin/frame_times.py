"""When an encoder's frames are: the input layer's boundaries, in seconds.

For the plugin's input layer they come from the positions of every stage; for ESPnet's
own convolutions from kernel and stride; for anything else the frames are spread evenly.
"""

from typing import List, NamedTuple, Optional, Sequence, Tuple

import numpy as np
import torch

from espnet_adastride.downsampling import downsampled_lengths
from espnet_adastride.downsampling.stages import StageTrace
from espnet_adastride.plugin.espnet import STOCK_SUBSAMPLINGS
from espnet_adastride.plugin.subsampling import AdaptiveSubsampling
from espnet_adastride.strides import (
    boundaries_in_seconds,
    compose_boundaries,
    slot_boundaries,
    uniform_boundaries,
)


class FrameTimes(NamedTuple):
    """When the frames of one utterance are.

    Attributes:
        boundaries: (m + 1,) seconds at which frames begin and end, non-decreasing,
            from 0 to the duration.
        uniform: the same for one constant frame rate: frame l is centred at l times the
            overall stride, which is what ``espnet2.bin.asr_align`` assumes by itself.
        windows: the same for pooling with the same strides: what the local strides are
            compared with; the boundaries themselves where strides are uniform.
    """

    boundaries: np.ndarray
    uniform: np.ndarray
    windows: np.ndarray


def encoder_boundaries(
    layer: AdaptiveSubsampling, trace: Sequence[StageTrace], frames: int, index: int = 0
) -> Tuple[np.ndarray, np.ndarray]:
    """Return where the encoder's frames of one utterance lie, in feature frames.

    Args:
        layer: the model's input layer.
        trace: what ``layer.take_trace()`` returned for the batch.
        frames: feature frames of the utterance.
        index: of the utterance in the batch.

    Returns:
        (m + 1,) boundaries as the layer made them, and as pooling with the same
        strides would have.
    """
    entries = iter(trace)
    adaptive: List[np.ndarray] = []
    uniform: List[np.ndarray] = []
    n = frames
    for downsampler, stride in zip(layer.stages(), layer.current_strides()):
        m = downsampled_lengths(n, stride)
        uniform.append(uniform_boundaries(n, m, stride))
        if isinstance(downsampler, torch.nn.Identity):
            # the trunk's convolution of kernel 3 made the stride: no trace
            adaptive.append(uniform_boundaries(n, m, stride, shift=(1 - stride) / 2))
        else:
            positions = next(entries).positions
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
        return float(np.prod(embed.current_strides()))
    return float(np.prod([m.stride[0] for m in _convolutions(embed)]))


def frame_times(
    model: torch.nn.Module,
    trace: Sequence[StageTrace],
    samples: int,
    rate: int,
    frames: int,
) -> FrameTimes:
    """Return when the frames of one utterance are, alone in its batch.

    Args:
        model: ESPnetASRModel.
        trace: of its input layer, if that is the plugin's.
        samples: of the utterance.
        rate: samples per second.
        frames: m, what the encoder gave for it.
    """
    embed = getattr(model.encoder, "embed", None)
    stft = getattr(model.frontend, "stft", None)
    duration = samples / rate
    inner: Optional[np.ndarray] = None
    pooled: Optional[np.ndarray] = None
    if stft is not None and model.preencoder is None:
        count = samples if stft.center else samples - stft.n_fft
        features = 1 + count // stft.hop_length
        if isinstance(embed, AdaptiveSubsampling):
            inner, pooled = encoder_boundaries(embed, trace, features)
        elif isinstance(embed, STOCK_SUBSAMPLINGS):
            inner = convolution_boundaries(embed, features)
    if inner is None or len(inner) - 1 != frames:
        # another frontend, or something behind the input layer shortens the frames too:
        # all that is known is how many there are
        even = np.linspace(0.0, duration, frames + 1)
        return FrameTimes(even, even, even)
    step = stft.hop_length / rate
    # frame t of a centred STFT is centred at t hops, of another at half a window later
    centre = 0.0 if stft.center else stft.n_fft / 2 / rate
    boundaries, windows = (
        boundaries_in_seconds(edges, step, centre - step / 2, duration)
        for edges in (inner, inner if pooled is None else pooled)
    )
    stride = _overall_stride(embed) * step
    even = (np.arange(frames + 1) - 0.5) * stride
    uniform = boundaries_in_seconds(even, 1.0, 0.0, duration)
    return FrameTimes(boundaries, uniform, windows)
