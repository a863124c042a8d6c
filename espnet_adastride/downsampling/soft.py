"""SoftPool and AdaPool: means of a window, weighted by its content.

"Refining activation downsampling with SoftPool" (Stergiou, Poppe & Kalliatakis, ICCV
2021): feature by feature, with x_1 .. x_k the valid steps of a window,

    z = sum_i softmax_i(x) x_i

"AdaPool: Exponential Adaptive Pooling for Information-Retaining Downsampling" (Stergiou
& Poppe, 2021): a learned mix of that and a mean that favours steps similar to the
average one, by the exponential of the Dice-Sorensen coefficient (eDSC),

    z = beta sum_i softmax_i(DSC(x_i, xbar)) x_i + (1 - beta) sum_i softmax_i(x) x_i
    DSC(x, y) = 2 |x y| / (x^2 + y^2),     xbar = mean of the window's valid steps

Weights are computed in float32 at least and with the maximum subtracted, so that they
are finite at any finite x; the authors' kernels give NaN from x = 90 on.
"""

import torch

from espnet_adastride.downsampling.output import DownsamplingOutput, at_least_float32
from espnet_adastride.downsampling.pooling import WindowPool, window_softmax

#: two magnitudes below it are both treated as zero in the Dice-Sorensen coefficient
ZERO = 1e-12


class SoftPool(WindowPool):
    """Mean over each window, weighted by the softmax of the values themselves.

    Args:
        size: D, input and output features.
        stride: whole number >= 1.
    """

    adapts_to = "values in the window"

    def downsample(self, x, lengths, output_lengths):
        """See :meth:`Downsampler.downsample`."""
        windows = self.windows(at_least_float32(x), lengths)
        valid = self.valid_steps(lengths, windows)
        output = (window_softmax(windows, valid) * windows).sum(dim=2)
        return DownsamplingOutput(output.to(x.dtype), output_lengths)


def dice_sorensen(x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    """Return 2 |x y| / (x^2 + y^2), from 0 (one is zero) to 1 (equal magnitudes).

    Computed from the ratio r <= 1 of the magnitudes, 2 r / (1 + r^2), which cannot
    overflow. Where both are zero (0 / 0) it is 1: they are equal.
    """
    x, y = x.abs(), y.abs()
    larger = torch.maximum(x, y)
    both_zero = larger < ZERO
    # mask before the division: a mask after a division by zero would leave NaN in the
    # gradient
    ratio = torch.minimum(x, y) / larger.masked_fill(both_zero, 1.0)
    ratio = ratio.masked_fill(both_zero, 1.0)
    return 2.0 * ratio / (1.0 + ratio.square())


class AdaPool(WindowPool):
    """A learned mix of the eDSC-weighted and the softmax-weighted mean of a window.

    beta is one number for the whole layer. It is kept within (0, 1), as published, by
    a sigmoid, not by clipping: beyond a clip it could not learn any more. It starts at
    1/2, and is reported in training.

    Args:
        size: D, input and output features.
        stride: whole number >= 1.
    """

    adapts_to = "values in the window"

    def __init__(self, size: int, stride: int):
        super().__init__(size, stride)
        self.beta_logit = torch.nn.Parameter(torch.zeros(()))

    @property
    def beta(self) -> torch.Tensor:
        """The share of the eDSC-weighted mean, a scalar."""
        return torch.sigmoid(self.beta_logit)

    def downsample(self, x, lengths, output_lengths):
        """See :meth:`Downsampler.downsample`."""
        windows = self.windows(at_least_float32(x), lengths)
        valid = self.valid_steps(lengths, windows)
        count = valid.sum(dim=2, keepdim=True).clamp(min=1)
        average = windows.sum(dim=2, keepdim=True) / count
        alike = window_softmax(dice_sorensen(windows, average), valid)
        large = window_softmax(windows, valid)
        beta = self.beta.to(windows.dtype)
        output = ((beta * alike + (1.0 - beta) * large) * windows).sum(dim=2)
        return DownsamplingOutput(output.to(x.dtype), output_lengths)

    def reported_stats(self):
        """See :meth:`Downsampler.reported_stats`."""
        return {"beta": self.beta.detach()}
