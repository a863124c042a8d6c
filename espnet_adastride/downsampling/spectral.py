"""Spectral pooling, and DiffStride, which learns its stride there.

"Spectral Representations for Convolutional Neural Networks" (Rippel, Snoek & Adams,
NeurIPS 2015): an utterance of n steps becomes m = ceil(n / stride) by truncating its
spectrum,

    X = rfft(x_1 .. x_n),    z = irfft(X_0 .. X_floor(m/2), m) m / n

Without m / n a constant would be multiplied by the stride. Any real stride works.

"Learning strides in convolutional neural networks" (Riad, Teboul, Grangier & Zeghidour,
ICLR 2022): before truncation, the spectrum is multiplied by a mask that is
differentiable in the stride S, and the truncation itself passes no gradient,

    mask_f = clip((end - f) / R, 0, 1),    end = n / (2 S) + 1,    R = smoothness

The published ramp begins where this one ends (end = n / (2 S) + 1 + R). Its output then
has n / S + 2 (R + 1) steps, ten more than the stride implies, however short the
utterance is. Here the ramp is within the ceil(n / S) steps, so that the stride is exact
and rates are comparable. The cost is a taper over the highest R bins, also at S = 1,
where the published layer is the identity and could not learn any more.

Every utterance is transformed at its own length: an FFT across the padding changes the
valid steps. FFTs are in float32 at least.
"""

import math
from typing import Dict, List, Optional, Union

import torch

from espnet_adastride.downsampling.output import (
    Downsampler,
    DownsamplingOutput,
    at_least_float32,
    check_number,
    checked_lengths,
    downsampled_lengths,
)


def cut_spectrum(
    x: torch.Tensor, m: int, mask: Optional[torch.Tensor] = None
) -> torch.Tensor:
    """Resample x (B, n, D) to (B, m, D), m <= n, by the lowest floor(m / 2) + 1 bins.

    Args:
        x: float32 or float64, without padding, n >= 1.
        m: number of outputs, >= 1.
        mask: (floor(m / 2) + 1,) factors of the bins.
    """
    n = x.size(1)
    spectrum = torch.fft.rfft(x, dim=1)[:, : m // 2 + 1]
    if mask is not None:
        spectrum = spectrum * mask.unsqueeze(1)
    if m % 2 == 0:
        # the new Nyquist bin of a real signal is real; the handling of its imaginary
        # part by irfft depends on the device
        nyquist = torch.complex(spectrum[:, -1:].real, torch.zeros_like(x[:, :1]))
        spectrum = torch.cat([spectrum[:, :-1], nyquist], dim=1)
    return torch.fft.irfft(spectrum, n=m, dim=1) * (m / n)


def cut_by_matrices(
    x: torch.Tensor, m: int, mask: Optional[torch.Tensor] = None
) -> torch.Tensor:
    """Compute :func:`cut_spectrum` without an FFT, which exporters hardly support:

        z_l = 1 / n sum_f w_f mask_f (cos(2 pi f l / m) C_f + sin(2 pi f l / m) S_f)

    with C_f and S_f the sums of x_t times cosine and sine of 2 pi f t / n, and w_f = 1
    at f = 0 and at f = m / 2, 2 between. O(n m) instead of O(n log n).

    Args:
        x, m, mask: as there, for x (1, n, D).
    """
    return _between_lengths(x, m, m, mask)


def _between_lengths(x, length, shorter, mask=None):
    """Return (1, length, D) from the bins of the shorter of both lengths."""
    n, bins = x.size(1), shorter // 2 + 1
    cosine, sine = _waves(bins, n, x)
    frequency = torch.arange(bins, device=x.device)
    single = (frequency == 0) | (2 * frequency == shorter)
    weight = torch.where(single, 1.0, 2.0).to(x.dtype)
    weight = (weight if mask is None else weight * mask).unsqueeze(1) / n
    even, odd = weight * (cosine @ x[0]), weight * (sine @ x[0])
    cosine, sine = _waves(bins, length, x)
    return (cosine.T @ even + sine.T @ odd).unsqueeze(0)


def _waves(bins, n, like):
    """Return cosine and sine of 2 pi f t / n, (bins, n), without whole turns."""
    frequency = torch.arange(bins, device=like.device).unsqueeze(1)
    turns = frequency * torch.arange(n, device=like.device)
    n = torch.full((), n, device=like.device)
    angle = turns.remainder(n).to(like.dtype) * (2 * math.pi) / n
    return angle.cos(), angle.sin()


def widen_spectrum(z: torch.Tensor, n: int) -> torch.Tensor:
    """Resample z (B, m, D) to (B, n, D), n >= m: with a zero-padded spectrum.

    The inverse of :func:`cut_spectrum` for the remaining bins.

    Args:
        z: float32 or float64, without padding, m >= 1.
        n: number of outputs.
    """
    m = z.size(1)
    spectrum = torch.fft.rfft(z, dim=1)
    if m % 2 == 0 and n > m:
        # the Nyquist bin represents two bins, both of which are in the longer spectrum
        spectrum = torch.cat([spectrum[:, :-1], spectrum[:, -1:] / 2], dim=1)
    return torch.fft.irfft(spectrum, n=n, dim=1) * (n / m)


def widen_by_matrices(z: torch.Tensor, n: int) -> torch.Tensor:
    """Compute :func:`widen_spectrum` without an FFT, as :func:`cut_by_matrices`:

        x_t = 1 / m sum_f w_f (cos(2 pi f t / n) C_f + sin(2 pi f t / n) S_f)

    with C_f and S_f the sums of z_l times cosine and sine of 2 pi f l / m, and w_f = 1
    at f = 0 and at f = m / 2, 2 between.

    Args:
        z, n: as there, for z (1, m, D).
    """
    return _between_lengths(z, n, z.size(1))


def rows_of_lengths(lengths: torch.Tensor) -> Dict[int, List[int]]:
    """Return the rows by length: {length: [rows]}; synchronises with a GPU."""
    rows: Dict[int, List[int]] = {}
    for row, length in enumerate(lengths.tolist()):
        rows.setdefault(length, []).append(row)
    return rows


class SpectralPool(Downsampler):
    """Truncates the spectrum of every utterance to its new length.

    Cost: one FFT per utterance (or per group of equal lengths), O(T log T).

    Args:
        size: D, input and output features.
        stride: any real number >= 1.
    """

    needs_zero_padding = False

    def downsample(self, x, lengths, output_lengths):
        """See :meth:`Downsampler.downsample`."""
        width = self.output_lengths(x.size(1))
        outputs, order = [], []
        for n, rows in rows_of_lengths(lengths).items():
            # half precision lacks transforms of most lengths; autocast does not apply
            part = at_least_float32(x[rows, :n])
            if n > 0:
                part = self.resample(part, self.output_lengths(n))
            missing = width - part.size(1)
            outputs.append(torch.nn.functional.pad(part, (0, 0, 0, missing)))
            order += rows
        places = torch.tensor(order, device=x.device).argsort()
        return DownsamplingOutput(
            torch.cat(outputs)[places].to(x.dtype), output_lengths
        )

    def resample(self, x: torch.Tensor, m: int) -> torch.Tensor:
        """Return (B, m, D) from x (B, n, D), without padding."""
        return cut_spectrum(x, m)

    def export_form(self, x, stride):
        """See :meth:`Downsampler.export_form`: with matrices, for one utterance."""
        return cut_by_matrices(x, downsampled_lengths(x.size(1), stride)), None

    def export_inverse(self, z, steps, positions, stride):
        """See :meth:`Downsampler.export_inverse`: with matrices."""
        return widen_by_matrices(z, steps)

    def upsample(self, z, lengths, steps, positions=None, normalised=True):
        """See :meth:`Downsampler.upsample`: every spectrum zero-padded."""
        lengths = checked_lengths(lengths, z, steps)
        if z.size(0) == 0:
            return z.new_zeros(0, steps, z.size(2))
        outputs, order = [], []
        for n, rows in rows_of_lengths(lengths).items():
            m = self.output_lengths(n)
            part = at_least_float32(z[rows, :m])
            if n > 0:
                part = widen_spectrum(part, n)
            outputs.append(torch.nn.functional.pad(part, (0, 0, 0, steps - n)))
            order += rows
        places = torch.tensor(order, device=z.device).argsort()
        return torch.cat(outputs)[places].to(z.dtype)

    def frame_shift(self):
        """See :meth:`Downsampler.frame_shift`: sample l represents step l stride."""
        return (1 - self.current_stride()) / 2


class _Bounded(torch.autograd.Function):
    """Clamp whose gradient, at or beyond a bound, only passes if it points back.

    A plain clamp could trap a value that a step of the optimiser (with
    momentum) has moved beyond the bound.
    """

    generate_vmap_rule = True

    @staticmethod
    def forward(value, low, high):
        return value.clamp(low, high)

    @staticmethod
    def setup_context(ctx, inputs, output):
        value, ctx.low, ctx.high = inputs
        ctx.save_for_backward(value)

    @staticmethod
    def backward(ctx, grad):
        (value,) = ctx.saved_tensors
        # descent moves against the gradient
        outward = ((value <= ctx.low) & (grad > 0)) | ((value >= ctx.high) & (grad < 0))
        return grad.masked_fill(outward, 0.0), None, None


def soft_mask(
    n: Union[int, torch.Tensor], stride: torch.Tensor, smoothness: float, bins: int
) -> torch.Tensor:
    """Return clip((end - f) / R, 0, 1) for the bins f = 0, 1 ..., see above.

    If end < R (few steps are left), the ramp is as long as end: bin 0 keeps a factor
    of 1, and a constant its value.

    Args:
        n: steps of the utterance.
        stride: S, a scalar; the mask is differentiable in it.
        smoothness: R > 0.
        bins: number of bins.
    """
    end = n / (2.0 * stride) + 1.0
    frequency = torch.arange(bins, device=stride.device)
    return ((end - frequency) / end.clamp(max=smoothness)).clamp(0.0, 1.0)


class DiffStride(SpectralPool):
    """Spectral pooling whose stride is learned within [1, max_stride].

    ``stride`` is the initial value; output lengths follow :meth:`current_stride`, which
    is reported in training. A trained layer therefore gives ceil(length / S) steps with
    its learned S. The paper's optional penalty on the computation is left out: the
    bound and the initial value determine the range.

    Args:
        size: D, input and output features.
        stride: any real number >= 1.
        max_stride: the largest stride it may learn, >= stride; None: twice the stride.
        smoothness: R, length of the mask's ramp in bins, > 0 (4 in the paper).
    """

    learns_stride = True

    def __init__(
        self,
        size: int,
        stride: float,
        max_stride: Optional[float] = None,
        smoothness: float = 4.0,
    ):
        super().__init__(size, stride)
        max_stride = 2 * self.stride if max_stride is None else max_stride
        self.max_stride = check_number("max_stride", max_stride)
        if self.max_stride < self.stride:
            raise ValueError(
                f"max_stride must be at least the stride {self.stride}, "
                f"got {max_stride}"
            )
        self.smoothness = check_number("smoothness", smoothness)
        # learn the change, not the stride itself: weight decay then pulls towards the
        # configured stride, and float32 does not round that one (a stride of 1.3 would
        # give 11 steps for 13)
        self.stride_change = torch.nn.Parameter(torch.zeros(()))

    def current_stride(self):
        """Return the learned stride in [1, max_stride]; synchronises with a GPU."""
        stride = self.stride + self.stride_change.item()
        return min(max(stride, 1.0), self.max_stride)

    def resample(self, x, m):
        """See :meth:`SpectralPool.resample`."""
        stride = self.stride + self.stride_change.to(x.dtype)
        stride = _Bounded.apply(stride, 1.0, self.max_stride)
        mask = soft_mask(x.size(1), stride, self.smoothness, m // 2 + 1)
        return cut_spectrum(x, m, mask)

    def export_form(self, x, stride):
        """See :meth:`SpectralPool.export_form`; with the mask of the learned stride."""
        n = torch.full((), x.size(1), dtype=x.dtype, device=x.device)
        m = downsampled_lengths(x.size(1), stride)
        mask = soft_mask(n, torch.tensor(stride).to(n), self.smoothness, m // 2 + 1)
        return cut_by_matrices(x, m, mask), None

    def reported_stats(self):
        """See :meth:`Downsampler.reported_stats`."""
        return {"stride": self.current_stride()}

    def extra_repr(self) -> str:
        """Show the constructor's arguments when the model is printed."""
        return (
            f"{super().extra_repr()}, max_stride={self.max_stride}, "
            f"smoothness={self.smoothness}"
        )
