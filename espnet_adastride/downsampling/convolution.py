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


def rectified_convolution(
    conv: torch.nn.Conv1d, x: torch.Tensor, padding: int = 0
) -> torch.Tensor:
    """Return relu(conv(x)), for networks that score steps; in the dtype of x.

    Args:
        conv: K taps, D to H features, with a bias; its own padding is ignored.
        x: (B, T, D).
        padding: zeros at either end of x.

    Returns:
        (B, T + 2 padding - K + 1, H).
    """
    assert conv.bias is not None
    # in two dimensions, because a CPU then filters x in place in memory: a third of
    # conv1d's time if depthwise
    x = torch.nn.functional.conv2d(
        x.transpose(1, 2).unsqueeze(2),
        conv.weight.to(x.dtype).unsqueeze(2),
        conv.bias.to(x.dtype),
        padding=(0, padding),
        groups=conv.groups,
    )
    return torch.relu(x.squeeze(2).transpose(1, 2))


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
