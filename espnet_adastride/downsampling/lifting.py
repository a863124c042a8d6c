"""LiftPool: a learned wavelet whose sub-bands are summed.

"LiftPool: Bidirectional ConvNet Pooling" (Zhao & Snoek, ICLR 2021), in time. One stage
halves the sequence by the lifting scheme,

    split      x_even, x_odd
    predict    d = x_odd - P(x_even)        details
    update     s = x_even + U(d)            approximation
    pool       z = s + d

and loses nothing before the sum: x_even = s - U(d), x_odd = d + P(x_even). P and U are
learned: convolution of ``kernel_size`` taps, ReLU, convolution of one tap, tanh. Two
regularisers keep s similar to the signal and d small; the paper adds them to the loss,

    C_u = |s - x_odd|,    C_p = |d|
    loss = loss of the task + update_weight C_u + predict_weight C_p

Choices where the paper is about images or leaves them open:

* a stride of 2^k has k stages, each halving the output of the previous one;
* an odd length has no last x_odd: the last x_even replaces it, and ``merge`` drops
  it again;
* both convolutions are depthwise. A full one-tap convolution would have D^2 parameters,
  and D is channels x mel bins after a two-dimensional trunk;
* C_u and C_p are mean squares over the valid values rather than norms: independent of
  length and batch size, and smooth at 0.
"""

from typing import Iterable, List, Tuple, cast

import torch

from espnet_adastride.downsampling.output import (
    Downsampler,
    DownsamplingOutput,
    at_least_float32,
    check_number,
    downsampled_lengths,
    zero_padding,
)


class Lifting(torch.nn.Module):
    """One stage: (B, T, D) to two sub-bands (B, ceil(T / 2), D), and back.

    Args:
        size: D.
        kernel_size: odd number of taps of P's and U's first convolution.
    """

    def __init__(self, size: int, kernel_size: int):
        super().__init__()
        self.predict = self._filter(size, kernel_size)
        self.update = self._filter(size, kernel_size)

    @staticmethod
    def _filter(size, kernel_size):
        return torch.nn.Sequential(
            torch.nn.Conv1d(
                size, size, kernel_size, padding=kernel_size // 2, groups=size
            ),
            torch.nn.ReLU(),
            torch.nn.Conv1d(size, size, 1, groups=size),
            torch.nn.Tanh(),
        )

    @staticmethod
    def _along_time(function, x):
        return function(x.transpose(1, 2)).transpose(1, 2)

    def split(
        self, x: torch.Tensor, lengths: torch.Tensor
    ) -> Tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Return s, d and x_odd, each (B, ceil(T / 2), D), zero beyond half the length.

        Args:
            x: (B, T, D), zero beyond ``lengths``.
            lengths: (B,).
        """
        half = downsampled_lengths(lengths, 2)
        width = downsampled_lengths(x.size(1), 2)
        x = torch.nn.functional.pad(x, (0, 0, 0, 2 * width - x.size(1)))
        even, odd = x.unflatten(1, (width, 2)).unbind(dim=2)
        place = torch.arange(even.size(1), device=x.device)
        unpaired = (2 * place + 1) == lengths.unsqueeze(1)
        odd = torch.where(unpaired.unsqueeze(2), even, odd)
        # the convolutions' bias reaches the padding
        details = zero_padding(odd - self._along_time(self.predict, even), half)
        approximation = even + self._along_time(self.update, details)
        return zero_padding(approximation, half), details, odd

    def merge(
        self,
        approximation: torch.Tensor,
        details: torch.Tensor,
        lengths: torch.Tensor,
        max_length: int,
    ) -> torch.Tensor:
        """Undo :meth:`split`: return x (B, max_length, D) of ``lengths`` (B,)."""
        half = downsampled_lengths(lengths, 2)
        even = approximation - self._along_time(self.update, details)
        even = zero_padding(even, half)
        odd = details + self._along_time(self.predict, even)
        x = torch.stack([even, odd], dim=2).flatten(1, 2)[:, :max_length]
        return zero_padding(x, lengths)


class LiftPool(Downsampler):
    """Learned lifting stages, each summing its sub-bands and halving the length.

    Args:
        size: D, input and output features.
        stride: a power of 2: 1, 2, 4 ...
        kernel_size: odd number of taps of P's and U's first convolution.
        update_weight: weight of C_u in ``aux_loss``, >= 0.
        predict_weight: weight of C_p in ``aux_loss``, >= 0.

    Raises:
        ValueError: for a stride that is not a power of 2.
    """

    integer_stride = True
    stride: int
    unit_gain = False
    adapts_to = "values nearby"

    def __init__(
        self,
        size: int,
        stride: int,
        kernel_size: int = 5,
        update_weight: float = 0.01,
        predict_weight: float = 0.1,
    ):
        super().__init__(size, stride)
        if self.stride & (self.stride - 1):
            raise ValueError(
                "lift_pool halves the sequence repeatedly: its stride must be a "
                f"power of 2, got {self.stride}"
            )
        whole = isinstance(kernel_size, int) and not isinstance(kernel_size, bool)
        if not whole or kernel_size < 1 or kernel_size % 2 == 0:
            raise ValueError(
                f"kernel_size must be an odd whole number, got {kernel_size!r}"
            )
        self.kernel_size = kernel_size
        self.update_weight = check_number(
            "update_weight", update_weight, inclusive=True
        )
        self.predict_weight = check_number(
            "predict_weight", predict_weight, inclusive=True
        )
        self.stages = torch.nn.ModuleList(
            Lifting(self.size, kernel_size) for _ in range(self.stride.bit_length() - 1)
        )

    def downsample(self, x, lengths, output_lengths):
        """See :meth:`Downsampler.downsample`; ``aux_loss`` is summed over stages."""
        output, _, loss = self._lift(x, lengths)
        return DownsamplingOutput(output, output_lengths, aux_loss=loss)

    def decompose(
        self, x: torch.Tensor, lengths: torch.Tensor
    ) -> Tuple[torch.Tensor, List[torch.Tensor]]:
        """Return the pooled output and every stage's details, which determine x.

        Args:
            x: (B, T, D).
            lengths: (B,).
        """
        output, details, _ = self._lift(zero_padding(x, lengths), lengths)
        return output, details

    def merge(
        self,
        output: torch.Tensor,
        details: List[torch.Tensor],
        lengths: torch.Tensor,
        max_length: int,
    ) -> torch.Tensor:
        """Undo :meth:`decompose` (the paper's LiftUpPool).

        Args:
            output: (B, T', D), pooled.
            details: of every stage, first stage first.
            lengths: (B,) of x.
            max_length: T of x.

        Returns:
            x (B, T, D), zero beyond ``lengths``.
        """
        sizes = [(lengths, max_length)]
        for _ in self.stages[1:]:
            lengths, max_length = sizes[-1]
            half = downsampled_lengths(lengths, 2), downsampled_lengths(max_length, 2)
            sizes.append(half)
        stages = cast(Iterable[Lifting], self.stages)
        for stage, detail, size in reversed(list(zip(stages, details, sizes))):
            output = stage.merge(output - detail, detail, *size)
        return output

    def _lift(self, x, lengths):
        """Return the output, every stage's details, and the regularisers' sum."""
        details, loss = [], at_least_float32(x.new_zeros(()))
        for stage in cast(Iterable[Lifting], self.stages):
            approximation, detail, odd = stage.split(x, lengths)
            lengths = downsampled_lengths(lengths, 2)
            loss = (
                loss
                + self.update_weight * _mean_square(approximation - odd, lengths)
                + self.predict_weight * _mean_square(detail, lengths)
            )
            x = approximation + detail
            details.append(detail)
        return x, details, loss

    def extra_repr(self) -> str:
        """Show the constructor's arguments when the model is printed."""
        return (
            f"{super().extra_repr()}, kernel_size={self.kernel_size}, "
            f"update_weight={self.update_weight}, predict_weight={self.predict_weight}"
        )


def _mean_square(x: torch.Tensor, lengths: torch.Tensor) -> torch.Tensor:
    """Return the mean square of the valid values of x (B, T, D), zero beyond them."""
    total = at_least_float32(x).square().sum()
    return total / (lengths.sum() * x.size(2)).clamp(min=1)
