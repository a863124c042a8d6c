"""Strided convolution: the baseline, which learns a filter but places frames evenly.

Radford et al. (2016) replaced pooling by it; kernel 3, padding 1, so that the output
length is ceil(length / stride).
"""

import torch

from espnet_adastride.downsampling.output import (
    Downsampler,
    DownsamplingOutput,
    length_mask,
)


class StridedConv(Downsampler):
    """A convolution over time with kernel 3, padding 1 and the given stride.

    Args:
        size: D, input and output features.
        stride: whole number >= 1.
    """

    integer_stride = True
    stride: int
    unit_gain = False

    def __init__(self, size: int, stride: int):
        super().__init__(size, stride)
        self.conv = torch.nn.Conv1d(size, size, 3, stride=self.stride, padding=1)

    def downsample(self, x, lengths, output_lengths):
        """See :meth:`Downsampler.downsample`."""
        output = self.conv(x.transpose(1, 2)).transpose(1, 2)
        # the bias reaches the padding
        valid = length_mask(output_lengths, output.size(1)).unsqueeze(2)
        return DownsamplingOutput(output.masked_fill(~valid, 0.0), output_lengths)

    def frame_shift(self):
        """See :meth:`Downsampler.frame_shift`: centred on step l stride."""
        return (1 - self.stride) / 2
