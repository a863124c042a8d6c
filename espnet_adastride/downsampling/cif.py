"""CIF: continuous integrate-and-fire, scaled to an exact rate.

"CIF: Continuous Integrate-and-Fire for End-to-End Speech Recognition" (Dong & Xu,
ICASSP 2020): every step has a weight, which is integrated over time; whenever the sum
reaches the next whole number, a frame is fired, and the step at the threshold is split
between two frames. With n steps and m = ceil(n / stride) frames,

    alpha_t = sigmoid(f(x)_t),   f(x) = w . relu(convolution(x)) + b
    alpha_t <- m alpha_t / sum alpha          (CIF's scaling, to its target's length)
    c = cumsum(alpha)
    w_tj = |[c_{t-1}, c_t] intersected with [j, j + 1]|
    y_j = sum_t w_tj x_t

It is AdaStride with a box kernel: rows sum to 1, and each step spends its whole weight.
CIF scales in training only; here evaluation scales too, so that the rate is exact, and
there is no quantity loss. DiffRes ("Learning Temporal Resolution in Spectrogram for
Audio Classification", Liu et al., AAAI 2024) does the same, caps alpha at 1, and adds a
loss that moves frames away from silence; both are left out here.

M-CIF (arXiv 2510.22172) found plain CIF hard to train on English and French: watch
``largest_jump`` and ``stride_entropy``. Our own choices: the convolution is depthwise
(D is channels x mel bins after a two-dimensional trunk), and w starts at 0, i.e. at
uniform strides. The gradients are exact: y is piecewise linear in c, so that they are
piecewise constant and jump where the end of a step meets the edge of a frame.

The weights' sum is float64 under autocast too: in float32 it loses frames.
"""

from typing import Iterator

import torch

from espnet_adastride.downsampling.convolution import rectified_convolution
from espnet_adastride.downsampling.exportable import scatter_rows
from espnet_adastride.downsampling.output import (
    ChunkedOutput,
    Downsampler,
    DownsamplingOutput,
    Frames,
    at_least_float32,
    checked_lengths,
    divided_or_nearest,
    downsampled_lengths,
    float64_device,
    length_mask,
    not_quantized,
    whole_lengths,
    zero_padding,
)
from espnet_adastride.downsampling.segments import (
    apply_chunks,
    box_pieces,
    box_positions,
    box_rows,
)


def cumulate(
    logits: torch.Tensor, lengths: torch.Tensor, output_lengths: torch.Tensor
) -> torch.Tensor:
    """Return c = cumsum(m sigmoid(f) / sum sigmoid(f)), (B, T) float64.

    ``sigmoid(f) / sum sigmoid(f)`` is the softmax of log sigmoid(f), which stays finite
    if every sigmoid is 0.

    Args:
        logits: f (B, T), any floating dtype.
        lengths: (B,) valid lengths n.
        output_lengths: (B,) number of output slots m.

    Returns:
        Non-decreasing up to m, which padded steps repeat; 0 where n = 0.
    """
    device = float64_device(logits.device)
    logits, lengths, output_lengths = (
        one.to(device) for one in (logits, lengths, output_lengths)
    )
    valid = length_mask(lengths, logits.size(1))
    logits = torch.nn.functional.logsigmoid(logits.to(torch.float64))
    logits = logits.masked_fill(~valid, -torch.inf)
    # an utterance of no steps has no softmax: give it a finite one
    logits = logits.masked_fill((lengths == 0).unsqueeze(1), 0.0)
    shares = torch.softmax(logits, dim=1) * valid
    total = output_lengths.to(torch.float64).unsqueeze(1)
    # the sum of shares may exceed 1 by one rounding
    return torch.minimum(shares.cumsum(dim=1) * total, total)


def _ends(positions, lengths, output_lengths):
    """Return c, where steps end, from their centres (B, T), for upsampling."""
    device = positions.device  # the CPU if the frames' device has no float64
    total = output_lengths.to(device).to(torch.float64).unsqueeze(1)
    ends = (positions[:, :-1] + positions[:, 1:] + 1.0) / 2
    ends = torch.nn.functional.pad(ends, (0, 1))
    last = torch.arange(positions.size(1), device=device)
    last = last >= (lengths.to(device) - 1).unsqueeze(1)
    return torch.where(last, total, torch.minimum(ends, total))


def _divided_by_weight(x, frames, ends, positions):
    """Divide x (B, T, D) by the steps' weights; without one: the nearest frame."""
    before = torch.nn.functional.pad(ends[:, :-1], (1, 0))
    weight = (ends - before).to(frames.dtype).to(frames.device).unsqueeze(2)
    return divided_or_nearest(x, weight, weight > 1e-6, frames, positions)


class Cif(Downsampler):
    """Continuous integrate-and-fire at an exact rate.

    Args:
        size: D, the number of features.
        stride: overall rate, any real number >= 1.
        kernel_size: odd number of taps of the depthwise convolution.
    """

    has_positions = True
    adapts_to = "the utterance: where frames are"

    def __init__(self, size: int, stride: float, kernel_size: int = 5):
        super().__init__(size, stride)
        whole = isinstance(kernel_size, int) and not isinstance(kernel_size, bool)
        if not whole or kernel_size < 1 or kernel_size % 2 == 0:
            raise ValueError(
                f"kernel_size must be an odd whole number, got {kernel_size!r}"
            )
        self.kernel_size = kernel_size
        self.filter = torch.nn.Conv1d(size, size, kernel_size, groups=size)
        self.weigh = not_quantized(torch.nn.Linear(size, 1))
        self.set_start()

    def set_start(self):
        """See :meth:`Downsampler.set_start`: uniform strides."""
        torch.nn.init.zeros_(self.weigh.weight)
        torch.nn.init.zeros_(self.weigh.bias)

    def downsample(self, x, lengths, output_lengths):
        """See :meth:`Downsampler.downsample`."""
        with torch.autocast(device_type=x.device.type, enabled=False):
            wide = at_least_float32(x)
            logits = self._logits(wide, self.kernel_size // 2)
            cumulated = cumulate(logits, lengths, output_lengths)
            width = downsampled_lengths(x.size(1), self.stride)
            rows = box_rows(cumulated, output_lengths, width, wide.dtype)
            return DownsamplingOutput(
                rows.to(x.device).apply(wide).to(x.dtype),
                output_lengths,
                box_positions(cumulated, output_lengths),
            )

    def export_form(self, x, stride):
        """See :meth:`Downsampler.export_form`: a scatter of the same pieces."""
        lengths, output_lengths, width = whole_lengths(x, stride)
        logits = self._logits(x, self.kernel_size // 2)
        cumulated = cumulate(logits, lengths, output_lengths)
        weights, steps, slots = box_pieces(cumulated, output_lengths, width)
        output = scatter_rows(x, weights.to(x.dtype), steps, slots, width)
        return output, box_positions(cumulated, output_lengths)

    def _logits(self, x, padding=0):
        """Return f (B, T + 2 padding - kernel_size + 1) of x (B, T, D)."""
        weight, bias = self.weigh.weight[0].to(x.dtype), self.weigh.bias.to(x.dtype)
        with torch.autocast(device_type=x.device.type, enabled=False):
            return rectified_convolution(self.filter, x, padding) @ weight + bias

    def _logits_of_chunks(self, frames: Frames) -> Iterator[torch.Tensor]:
        """Yield f for consecutive chunks, as for all of them at once."""
        around = self.kernel_size // 2
        held = None
        for chunk in frames():
            chunk = at_least_float32(chunk)
            zeros = chunk.new_zeros(1, around, chunk.size(2))
            held = torch.cat([zeros if held is None else held, chunk], dim=1)
            if held.size(1) > 2 * around:
                yield self._logits(held)
                held = held[:, held.size(1) - 2 * around :].clone()
        if held is None:
            return
        held = torch.cat([held, zeros], dim=1)
        if held.size(1) > 2 * around:
            yield self._logits(held)

    @torch.no_grad()
    def in_chunks(self, frames, length):
        """See :meth:`Downsampler.in_chunks`: weights first, then the output."""
        logits = torch.cat(list(self._logits_of_chunks(frames)), dim=1)
        lengths = torch.tensor([length], device=logits.device)
        output_lengths = self.output_lengths(lengths)
        cumulated = cumulate(logits, lengths, output_lengths)
        width = downsampled_lengths(length, self.stride)
        rows = box_rows(cumulated, output_lengths, width, logits.dtype)
        rows = rows.to(logits.device)
        return ChunkedOutput(
            lambda: apply_chunks(rows, frames()),
            output_lengths,
            box_positions(cumulated, output_lengths),
        )

    def upsample(self, z, lengths, steps, positions=None, normalised=True):
        """Upsample z (B, T', D') to (B, T, D') with the transposed weights.

        Step t gets from every frame the share of its weight that the frame received:
        x_t = sum_j w_tj y_j / alpha_t; without ``normalised``, not divided by alpha_t.
        The end of a step is taken from the positions, halfway between the centres of
        two steps (exact if neighbouring weights are equal). A step without weight gets
        its nearest frame. Gradients reach the positions.

        Raises:
            ValueError: without positions.
        """
        if positions is None:
            raise ValueError("upsampling by weights needs the positions")
        lengths = checked_lengths(lengths, z, steps)
        output_lengths = self.output_lengths(lengths)
        with torch.autocast(device_type=z.device.type, enabled=False):
            frames = at_least_float32(z)
            ends = _ends(positions, lengths, output_lengths)
            rows = box_rows(ends, output_lengths, z.size(1), frames.dtype)
            x = rows.to(z.device).apply_transposed(frames)
            if normalised:
                x = _divided_by_weight(x, frames, ends, positions)
        return zero_padding(x, lengths).to(z.dtype)

    def export_inverse(self, z, steps, positions, stride):
        """See :meth:`Downsampler.export_inverse`: a scatter of the same pieces."""
        lengths = torch.full((1,), steps, dtype=torch.int64, device=z.device)
        width = z.size(1)
        output_lengths = torch.full((1,), width, dtype=torch.int64, device=z.device)
        ends = _ends(positions, lengths, output_lengths)
        weights, of_step, slots = box_pieces(ends, output_lengths, width)
        x = scatter_rows(z, weights.to(z.dtype), slots, of_step, steps)
        return _divided_by_weight(x, z, ends, positions)

    def extra_repr(self) -> str:
        """Show the constructor's arguments when the model is printed."""
        return f"{super().extra_repr()}, kernel_size={self.kernel_size}"
