"""BlurPool: a low-pass filter before every stride-th step is kept.

"Making Convolutional Networks Shift-Invariant Again" (Zhang, ICML 2019). With the
binomial filter f of k taps ([1, 2, 1] / 4 for k = 3), feature by feature,

    blur_pool        z_l = sum_j f_j x_{l stride + j - left}
    max_blur_pool    the same of y_t = max(x_t .. x_{t + stride - 1})

with ``left = floor((k - 1) / 2)``: an odd filter is centred on step l stride. Taps that
fall outside the utterance are dropped and the others divided by their sum (the blurred
mask), while the paper pads by reflection, impossible in a batch of mixed lengths. The
input layer applies it after the non-linearity, as in the paper.
"""

import functools
import math
from typing import List

import torch

from espnet_adastride.downsampling.output import (
    Downsampler,
    DownsamplingOutput,
    length_mask,
    whole_lengths,
)


def binomial_filter(filter_size: int) -> List[float]:
    """Return row ``filter_size`` - 1 of Pascal's triangle, divided by its sum."""
    order = filter_size - 1
    return [math.comb(order, k) / 2**order for k in range(filter_size)]


def filter_and_stride(
    x: torch.Tensor, taps: List[float], stride: int, width: int
) -> torch.Tensor:
    """Return z_l = sum_j taps_j x_{l stride + j - left}, x being 0 outside.

    Args:
        x: (B, T, D).
        taps: k numbers; left = floor((k - 1) / 2).
        stride: whole number >= 1.
        width: T', the number of outputs.

    Returns:
        (B, T', D).
    """
    left = (len(taps) - 1) // 2
    last = (width - 1) * stride  # first tap of the last output
    right = last + len(taps) - left - x.size(1)  # negative: steps without a tap
    x = torch.nn.functional.pad(x, (0, 0, left, right))
    terms = (tap * x[:, k : k + last + 1 : stride] for k, tap in enumerate(taps))
    return functools.reduce(torch.add, terms)


class BlurPool(Downsampler):
    """Binomial low-pass filter, then every stride-th step.

    With ``stride`` above ``filter_size``, steps are skipped and content above the new
    Nyquist frequency aliases: make the filter longer than the stride.

    Args:
        size: D, input and output features.
        stride: whole number >= 1.
        filter_size: taps k, 2 to 7 (the paper's Triangle-3 is the default).
    """

    integer_stride = True
    stride: int
    FILTER_SIZES = range(2, 8)

    def __init__(self, size: int, stride: int, filter_size: int = 3):
        super().__init__(size, stride)
        if isinstance(filter_size, bool) or filter_size not in self.FILTER_SIZES:
            raise ValueError(
                f"filter_size must be a whole number from {self.FILTER_SIZES[0]} to "
                f"{self.FILTER_SIZES[-1]}, got {filter_size!r}"
            )
        self.filter_size = int(filter_size)

    def downsample(self, x, lengths, output_lengths):
        """See :meth:`Downsampler.downsample`."""
        taps = binomial_filter(self.filter_size)
        width = self.output_lengths(x.size(1))
        mask = length_mask(lengths, x.size(1)).unsqueeze(2).to(x.dtype)
        there = filter_and_stride(mask, taps, self.stride, width)
        output = filter_and_stride(x, taps, self.stride, width)
        beyond = ~length_mask(output_lengths, width).unsqueeze(2)
        output = output / there.masked_fill(beyond, 1.0)
        # the first slots beyond the end still see its last steps
        return DownsamplingOutput(output.masked_fill(beyond, 0.0), output_lengths)

    def frame_shift(self):
        """See :meth:`Downsampler.frame_shift`: centred on step l stride."""
        return (1 - self.stride) / 2 + self.filter_shift()

    def filter_shift(self) -> float:
        """Return the offset of an even filter's centre from its middle step: 1/2."""
        return 0.0 if self.filter_size % 2 else 0.5

    def extra_repr(self) -> str:
        """Show the constructor's arguments when the model is printed."""
        return f"{super().extra_repr()}, filter_size={self.filter_size}"


class MaxBlurPool(BlurPool):
    """The maximum of every window of ``stride`` steps, blurred, then strided.

    The paper's MaxBlurPool: max pooling split into a maximum at every step, which
    is shift-equivariant, and the stride, which causes the aliasing.

    Args:
        size: D, input and output features.
        stride: whole number >= 1, also the window of the maximum.
        filter_size: see :class:`BlurPool`.
    """

    needs_zero_padding = False
    adapts_to = "values nearby"

    def downsample(self, x, lengths, output_lengths):
        """See :meth:`Downsampler.downsample`."""
        padded = ~length_mask(lengths, x.size(1)).unsqueeze(2)
        x = x.masked_fill(padded, -torch.inf)
        x = torch.nn.functional.pad(x, (0, 0, 0, self.stride - 1), value=-torch.inf)
        largest = torch.nn.functional.max_pool1d(x.transpose(1, 2), self.stride, 1)
        largest = largest.transpose(1, 2).masked_fill(padded, 0.0)
        return super().downsample(largest, lengths, output_lengths)

    def export_form(self, x, stride):
        """See :meth:`Downsampler.export_form`: ``max_pool1d`` takes no unknown size."""
        lengths, output_lengths, _ = whole_lengths(x, stride)
        later = torch.nn.functional.pad(x, (0, 0, 0, stride - 1), value=-torch.inf)
        shifted = [later[:, k : k + x.size(1)] for k in range(stride)]
        largest = torch.stack(shifted).amax(dim=0)
        return super().downsample(largest, lengths, output_lengths).output, None

    def frame_shift(self):
        """See :meth:`Downsampler.frame_shift`: the maxima have window l's centre."""
        return self.filter_shift()
