"""Average and maximum pooling over windows of ``stride`` time steps.

Window l covers steps [l stride, (l + 1) stride). The last window of an utterance may be
cut short by its end: the mean divides by the number of valid steps, the maximum ignores
the others.
"""

import torch

from espnet_adastride.downsampling.output import (
    ChunkedOutput,
    Downsampler,
    DownsamplingOutput,
    at_least_float32,
    length_mask,
)


class WindowPool(Downsampler):
    """Base of window pooling: cuts (B, T, D) into (B, T', stride, D)."""

    integer_stride = True
    stride: int
    needs_zero_padding = False

    def windows(self, x: torch.Tensor, lengths: torch.Tensor, fill: float = 0.0):
        """Return (B, T', stride, D) with ``fill`` in place of missing steps.

        x is copied once, to its windows' length, and the padding overwritten in the
        copy.
        """
        batch, steps, size = x.shape
        width = self.output_lengths(steps)
        missing = width * self.stride - steps
        x = torch.nn.functional.pad(x, (0, 0, 0, missing))
        invalid = ~length_mask(lengths, width * self.stride).unsqueeze(2)
        return x.masked_fill_(invalid, fill).view(batch, width, self.stride, size)

    def in_chunks(self, frames, length):
        """See :meth:`Downsampler.in_chunks`: the chunks are cut between windows."""

        @torch.no_grad()
        def output():
            for chunk in self._whole_windows(frames()):
                yield self(chunk, torch.tensor([chunk.size(1)])).output

        return ChunkedOutput(output, torch.tensor([self.output_lengths(length)]))

    def _whole_windows(self, chunks):
        rest = None
        for chunk in chunks:
            chunk = chunk if rest is None else torch.cat([rest, chunk], dim=1)
            cut = chunk.size(1) // self.stride * self.stride
            if cut:
                yield chunk[:, :cut]
            rest = chunk[:, cut:] if cut < chunk.size(1) else None
        if rest is not None:
            yield rest

    def valid_steps(self, lengths: torch.Tensor, windows: torch.Tensor) -> torch.Tensor:
        """Return booleans (B, T', stride, 1): which steps of the windows are valid."""
        width = windows.size(1)
        valid = length_mask(lengths, width * self.stride)
        return valid.reshape(-1, width, self.stride, 1)


def window_softmax(scores: torch.Tensor, valid: torch.Tensor) -> torch.Tensor:
    """Return the softmax over the valid steps of each window, 0 elsewhere.

    Args:
        scores: (B, T', stride, D) or (B, T', stride, 1), float32 or float64.
        valid: (B, T', stride, 1) booleans.

    Returns:
        Weights in the shape of ``scores``. A window without a valid step (it is
        beyond its utterance) gets uniform weights: its values are zero already.
    """
    some_valid = valid.any(dim=2, keepdim=True)
    return torch.softmax(scores.masked_fill(~valid & some_valid, -torch.inf), dim=2)


class AvgPool(WindowPool):
    """Mean over each window's valid steps.

    Args:
        size: D, input and output features.
        stride: whole number >= 1.
    """

    def downsample(self, x, lengths, output_lengths):
        """See :meth:`Downsampler.downsample`."""
        # a sum of float16 may overflow where the mean does not
        total = self.windows(at_least_float32(x), lengths).sum(dim=2)
        starts = torch.arange(total.size(1), device=x.device) * self.stride
        count = (lengths.unsqueeze(1) - starts.unsqueeze(0)).clamp(1, self.stride)
        output = total / count.unsqueeze(2).to(total)
        return DownsamplingOutput(output.to(x.dtype), output_lengths)


class MaxPool(WindowPool):
    """Maximum over each window's valid steps, feature by feature.

    Args:
        size: D, input and output features.
        stride: whole number >= 1.
    """

    adapts_to = "values in the window"

    def downsample(self, x, lengths, output_lengths):
        """See :meth:`Downsampler.downsample`."""
        output = self.windows(x, lengths, -torch.inf).amax(dim=2)
        valid = length_mask(output_lengths, output.size(1)).unsqueeze(2)
        return DownsamplingOutput(output.masked_fill(~valid, 0.0), output_lengths)
