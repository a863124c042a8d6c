"""Average and maximum pooling over windows of ``stride`` time steps.

Window l covers steps [l stride, (l + 1) stride). The last window of an utterance may be
cut short by its end: the mean divides by the steps that are there, the maximum ignores
the ones that are not.
"""

import torch

from espnet_adastride.downsampling.output import (
    Downsampler,
    DownsamplingOutput,
    downsampled_lengths,
    length_mask,
)


class _WindowPool(Downsampler):
    """Cuts (B, T, D) into windows (B, T', stride, D) and their valid steps."""

    integer_stride = True

    def windows(self, x: torch.Tensor, fill: float) -> torch.Tensor:
        """Return (B, T', stride, D), the time axis padded at its end with ``fill``."""
        width = downsampled_lengths(x.size(1), self.stride)
        missing = width * self.stride - x.size(1)
        x = torch.nn.functional.pad(x, (0, 0, 0, missing), value=fill)
        return x.reshape(x.size(0), width, self.stride, x.size(2))


class AvgPool(_WindowPool):
    """Mean over each window's valid steps.

    Args:
        size: D, input and output features.
        stride: whole number >= 1.
    """

    def downsample(self, x, lengths, output_lengths):
        """See :meth:`Downsampler.downsample`."""
        total = self.windows(x, 0.0).sum(dim=2)
        starts = torch.arange(total.size(1), device=x.device) * self.stride
        count = (lengths.unsqueeze(1) - starts.unsqueeze(0)).clamp(1, self.stride)
        return DownsamplingOutput(total / count.unsqueeze(2).to(x), output_lengths)


class MaxPool(_WindowPool):
    """Maximum over each window's valid steps, feature by feature.

    Args:
        size: D, input and output features.
        stride: whole number >= 1.
    """

    def downsample(self, x, lengths, output_lengths):
        """See :meth:`Downsampler.downsample`."""
        valid = length_mask(lengths, x.size(1)).unsqueeze(2)
        output = self.windows(x.masked_fill(~valid, -torch.inf), -torch.inf).amax(dim=2)
        valid = length_mask(output_lengths, output.size(1)).unsqueeze(2)
        return DownsamplingOutput(output.masked_fill(~valid, 0.0), output_lengths)
