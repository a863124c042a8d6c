"""Merging of neighbours: cuts where they differ most, and the mean of every segment.

After "Accelerating Transducers through Adjacent Token Merging" (A-ToMe; Li et al.,
Interspeech 2023), which merges within the encoder's layers, by their attention keys and
a threshold. Here on the frames themselves, once, to an exact rate: with n steps and
m = ceil(n / stride),

    s_t = cos(x_t, x_{t+1}),  t = 1 .. n - 1
    cut at the m - 1 smallest s (the earlier of equal ones), m segments
    z_l = mean of the steps of segment l

No parameters; the cuts pass no gradient. Similarities are float64, whatever the dtype
of x, and rounded to 2^-30: the same cuts alone, in a batch, and on any device.
"""

import torch

from espnet_adastride.downsampling.exportable import scatter_rows
from espnet_adastride.downsampling.output import (
    ChunkedOutput,
    DownsamplingOutput,
    downsampled_lengths,
    float64_device,
    length_mask,
    whole_lengths,
)
from espnet_adastride.downsampling.segments import (
    TIE,
    SegmentDownsampler,
    apply_chunks,
    keep_largest,
    monotone_rows,
    segment_lengths,
    segment_positions,
    slots_of,
    with_previous,
)


@torch.no_grad()
def neighbour_similarity(x: torch.Tensor) -> torch.Tensor:
    """Return s_t = cos(x_t, x_{t+1}), (B, T - 1) float64 in multiples of 2^-30.

    Two zero vectors are alike (1); a zero vector and another vector are not (0).

    Args:
        x: (B, T, D).
    """
    steps = max((2**18 if x.device.type == "cpu" else 2**24) // x.size(2), 1)
    parts = []
    for begin in range(0, max(x.size(1) - 1, 1), steps):  # in the CPU cache
        parts.append(_similarity(x[:, begin : begin + steps + 1]))
    return torch.cat(parts, dim=1)


def _similarity(x):
    x = x.to(float64_device(x.device)).to(torch.float64)
    left, right = x[:, :-1], x[:, 1:]
    squares = x.square().sum(dim=2)
    norms = (squares[:, :-1] * squares[:, 1:]).sqrt()
    cosine = (left * right).sum(dim=2) / norms.where(norms > 0, 1.0)
    alike = (squares[:, :-1] == 0) & (squares[:, 1:] == 0)
    return (cosine.masked_fill(alike, 1.0) / TIE).round() * TIE


class Merge(SegmentDownsampler):
    """Means of segments, cut where neighbours are least similar.

    Args:
        size: D, the number of features.
        stride: overall rate, any real number >= 1.
    """

    def downsample(self, x, lengths, output_lengths):
        """See :meth:`Downsampler.downsample`."""
        dtype = torch.promote_types(x.dtype, torch.float32)
        width = downsampled_lengths(x.size(1), self.stride)
        rows, positions = self._rows(
            neighbour_similarity(x), lengths, output_lengths, width, dtype
        )
        with torch.autocast(device_type=x.device.type, enabled=False):
            output = rows.to(x.device).apply(x)
        return DownsamplingOutput(output, output_lengths, positions)

    def export_form(self, x, stride):
        """See :meth:`Downsampler.export_form`: a scatter of the same segments."""
        lengths, output_lengths, width = whole_lengths(x, stride)
        weights, slots, positions = self._segments(
            _similarity(x), lengths, output_lengths, width, x.dtype
        )
        return scatter_rows(x, weights, None, slots, width), positions

    def _rows(self, similarity, lengths, output_lengths, width, dtype):
        """Return the rows of the segments' means, and the positions (B, T)."""
        device = similarity.device
        lengths, output_lengths = lengths.to(device), output_lengths.to(device)
        weights, slots, positions = self._segments(
            similarity, lengths, output_lengths, width, dtype
        )
        steps = slots.size(1)
        time = torch.arange(steps, device=device).expand_as(slots)
        return monotone_rows(weights, time, slots, steps, width), positions

    @staticmethod
    def _segments(similarity, lengths, output_lengths, width, dtype):
        """Return the weight, slot and position of every step, each (B, T)."""
        steps = similarity.size(1) + 1
        pairs = length_mask((lengths - 1).clamp(min=0), steps - 1)
        cuts = keep_largest(-similarity, pairs, output_lengths - 1)
        slots = slots_of(torch.nn.functional.pad(cuts, (1, 0), value=True))
        counts = segment_lengths(slots, lengths, width)
        weights = counts.gather(1, slots).clamp(min=1).to(dtype).reciprocal()
        weights = weights * length_mask(lengths, steps)
        return weights, slots, segment_positions(slots, counts, lengths)

    @torch.no_grad()
    def in_chunks(self, frames, length):
        """See :meth:`Downsampler.in_chunks`: similarities first, then the means."""
        similarity = []
        for chunk in with_previous(frames):
            similarity.append(neighbour_similarity(chunk))
            dtype = torch.promote_types(chunk.dtype, torch.float32)
        lengths = torch.tensor([length], device=chunk.device)
        output_lengths = self.output_lengths(lengths)
        width = downsampled_lengths(length, self.stride)
        rows, positions = self._rows(
            torch.cat(similarity, dim=1), lengths, output_lengths, width, dtype
        )
        rows = rows.to(chunk.device)
        return ChunkedOutput(
            lambda: apply_chunks(rows, frames()), output_lengths, positions
        )
