"""H-Net's dynamic chunking: a router finds boundaries and keeps the frames there.

"Dynamic Chunking for End-to-End Hierarchical Sequence Modeling" (Hwang, Wang & Gu,
2025), its routing module, on padded batches of sequences,

    q_t = W_q x_t,  k_t = W_k x_t               (both W start as the identity)
    p_t = (1 - cos(q_{t-1}, k_t)) / 2,  p_1 = 1
    b_t = 1 at the m = ceil(n / stride) largest p, the earlier of equal ones
    z   = the kept x_t, times ste(p_t)

``ste(p)`` is a straight-through confidence: it is 1 in the forward and p in the
backward, the router's only gradient from the task. As published, and here with ``exact:
false``, b_t = 1 where p_t > 1/2, and the rate varies, pulled towards the stride N by
the ratio loss

    N / (N - 1) ((N - 1) F G + (1 - F) (1 - G)),   F the share kept, G the mean p,

over the valid steps of the batch: 1 where F = G = 1/N. With the exact rate F is 1/N
(but for the rounding up), and the loss pulls the mean p there. The published network
then de-chunks, smoothing and repeating; an encoder does not.

Products are at least float32, also under autocast. Two probabilities within float32
rounding of each other may swap places depending on the batch or the device.
"""

from typing import Dict, Tuple, Union

import torch

from espnet_adastride.downsampling.output import (
    ChunkedOutput,
    DownsamplingOutput,
    check_number,
    check_switch,
    downsampled_lengths,
    length_mask,
    not_quantized,
    whole_lengths,
)
from espnet_adastride.downsampling.segments import (
    SegmentDownsampler,
    apply_chunks,
    keep_largest,
    monotone_rows,
    segment_lengths,
    segment_positions,
    slots_of,
    with_previous,
)


def count_as_one(confidence: torch.Tensor) -> torch.Tensor:
    """Return ones, with the gradient of the confidence."""
    return 1.0 + (confidence - confidence.detach())


def ratio_loss(
    probabilities: torch.Tensor,
    starts: torch.Tensor,
    lengths: torch.Tensor,
    ratio: float,
) -> torch.Tensor:
    """Return N / (N - 1) ((N - 1) F G + (1 - F) (1 - G)), a scalar; 0 for N = 1.

    Args:
        probabilities: p (B, T); values in the padding are ignored.
        starts: (B, T) booleans, True at the kept steps.
        lengths: (B,) valid steps.
        ratio: N, the stride.
    """
    valid = length_mask(lengths, starts.size(1))
    number = valid.sum().clamp(min=1).to(probabilities.dtype)
    mean = probabilities.masked_fill(~valid, 0.0).sum() / number
    if ratio == 1:  # everything is kept, and the factor infinite
        return 0.0 * mean
    share = (starts & valid).sum() / number
    loss = (ratio - 1) * share * mean + (1 - share) * (1 - mean)
    # a batch without steps has no loss
    return ratio / (ratio - 1) * loss * valid.any()


class HNet(SegmentDownsampler):
    """The frames at which a learned router finds a boundary.

    The two projections have 2 D^2 parameters: little for a Conformer's width, but as
    much as two of ``stack``'s at stride 1 after a two-dimensional trunk; use ``trunk:
    conv1d`` there.

    Args:
        size: D, the number of features.
        stride: overall rate, a real number >= 1; N of the ratio loss.
        exact: keep the m most probable boundaries. False: keep those above 1/2, as
            published; the output length of an utterance is then its number of
            boundaries, ``current_stride`` is the target of the ratio loss rather than
            the actual rate (see ``reported_stats``), and :meth:`set_stride` raises an
            error.
        ratio_weight: weight of the ratio loss in ``aux_loss``, >= 0 (0.03 in the
            paper).
    """

    straight_through = True

    def __init__(
        self,
        size: int,
        stride: float,
        exact: bool = True,
        ratio_weight: float = 0.03,
    ):
        super().__init__(size, stride)
        self.exact = check_switch("exact", exact)
        self.lengths_from_content = not exact
        self.ratio_weight = check_number("ratio_weight", ratio_weight, inclusive=True)
        self.query = not_quantized(torch.nn.Linear(size, size, bias=False))
        self.key = not_quantized(torch.nn.Linear(size, size, bias=False))
        self.set_start()
        self._rate: Union[float, torch.Tensor] = float(self.stride)

    def set_start(self):
        """See :meth:`Downsampler.set_start`: steps are compared as they are."""
        torch.nn.init.eye_(self.query.weight)
        torch.nn.init.eye_(self.key.weight)

    def takes_any_stride(self):
        """See :meth:`Downsampler.takes_any_stride`: not with the threshold."""
        return self.exact

    def set_stride(self, stride):
        """See :meth:`Downsampler.set_stride`."""
        if not self.exact:
            raise ValueError(
                "HNet with exact=False keeps the boundaries above 1/2, however many: "
                "only exact=True supports another stride"
            )
        super().set_stride(stride)

    def downsample(self, x, lengths, output_lengths):
        """See :meth:`Downsampler.downsample`."""
        with torch.autocast(device_type=x.device.type, enabled=False):
            wide = x.to(torch.promote_types(x.dtype, torch.float32))
            later = self._probabilities(wide)
            probabilities = torch.cat([torch.ones_like(wide[:, :1, 0]), later], dim=1)
            starts = self._starts(later, lengths, output_lengths)
            loss = ratio_loss(probabilities, starts, lengths, self.stride)
            output_lengths, width = self._sizes(starts, lengths, output_lengths)
            slots, positions, first = self._segments(starts, lengths, width)
            steps, utterances = x.size(1), torch.arange(x.size(0), device=x.device)
            kept = (first + steps * utterances.unsqueeze(1)).flatten()
            confidence = count_as_one(probabilities).flatten().index_select(0, kept)
            confidence = confidence.view(first.shape)
            confidence = confidence.masked_fill(~length_mask(output_lengths, width), 0)
            frames = wide.flatten(0, 1).index_select(0, kept)
            output = frames.view(*first.shape, -1) * confidence.unsqueeze(2)
        return DownsamplingOutput(
            output.to(x.dtype), output_lengths, positions, self.ratio_weight * loss
        )

    def export_form(self, x, stride):
        """See :meth:`Downsampler.export_form`: the frames at the boundaries."""
        lengths, output_lengths, width = whole_lengths(x, stride)
        starts = self._starts(self._probabilities(x), lengths, output_lengths)
        slots = slots_of(starts)
        if self.exact:
            steps = torch.arange(x.size(1), device=x.device).unsqueeze(0)
            first = steps.new_full((1, width), x.size(1))
            first = first.scatter_reduce(1, slots, steps, "amin")[0]
        else:
            first = starts[0].nonzero()[:, 0]
            width = first.size(0)
        counts = segment_lengths(slots, lengths, width)
        positions = segment_positions(slots, counts, lengths)
        return x.index_select(1, first), positions

    def _probabilities(self, x: torch.Tensor) -> torch.Tensor:
        """Return p_2 .. p_T, (B, T - 1), in the dtype of x (B, T, D)."""
        query = torch.nn.functional.linear(x[:, :-1], self.query.weight.to(x.dtype))
        key = torch.nn.functional.linear(x[:, 1:], self.key.weight.to(x.dtype))
        squares = query.square().sum(dim=2), key.square().sum(dim=2)
        # a zero vector has no direction: p = 1/2, without an infinite gradient
        some = (squares[0] != 0) & (squares[1] != 0)  # NaN stays NaN
        norms = [s.where(some, s.new_ones(())).sqrt() for s in squares]
        cosine = (query * key).sum(dim=2) / norms[0] / norms[1]
        return ((1.0 - cosine.masked_fill(~some, 0.0)) / 2).clamp(0.0, 1.0)

    def _starts(self, later, lengths, output_lengths):
        """Return (B, T) booleans from p_2 .. p_T: the kept frames."""
        pairs = length_mask((lengths - 1).clamp(min=0), later.size(1))
        if self.exact:
            # the first is always kept
            kept = keep_largest(later, pairs, output_lengths - 1)
        else:
            kept = ~(later.detach() <= 0.5) & pairs  # NaN is kept, to be seen
        return torch.nn.functional.pad(kept, (1, 0), value=True)

    def _sizes(self, starts, lengths, output_lengths) -> Tuple[torch.Tensor, int]:
        """Return the output lengths (B,) and T'; the threshold synchronises with a GPU
        and records the rate."""
        if self.exact:
            return output_lengths, downsampled_lengths(starts.size(1), self.stride)
        counts = torch.where(lengths > 0, starts.sum(dim=1), 0)
        self._rate = lengths.sum() / counts.sum().clamp(min=1)
        return counts, max(int(counts.max()), 1)

    @staticmethod
    def _segments(starts, lengths, width):
        """Return segment and position of every step (B, T), and the first step of every
        segment (B, T')."""
        slots = slots_of(starts).clamp(max=width - 1)
        counts = segment_lengths(slots, lengths, width)
        positions = segment_positions(slots, counts, lengths)
        first = (counts.cumsum(dim=1) - counts).clamp(max=starts.size(1) - 1)
        return slots, positions, first

    @torch.no_grad()
    def in_chunks(self, frames, length):
        """See :meth:`Downsampler.in_chunks`: the router first, then the kept frames."""
        parts = []
        for chunk in with_previous(frames):
            wide = chunk.to(torch.promote_types(chunk.dtype, torch.float32))
            with torch.autocast(device_type=chunk.device.type, enabled=False):
                parts.append(self._probabilities(wide))
        later = torch.cat(parts, dim=1)
        lengths = torch.tensor([length], device=later.device)
        starts = self._starts(later, lengths, self.output_lengths(lengths))
        probabilities = torch.nn.functional.pad(later, (1, 0), value=1.0)
        loss = ratio_loss(probabilities, starts, lengths, self.stride)
        output_lengths, width = self._sizes(
            starts, lengths, self.output_lengths(lengths)
        )
        slots, positions, _ = self._segments(starts, lengths, width)
        time = torch.arange(length, device=later.device).unsqueeze(0)
        rows = monotone_rows(starts.to(later.dtype), time, slots, length, width)
        return ChunkedOutput(
            lambda: apply_chunks(rows, frames()),
            output_lengths,
            positions,
            self.ratio_weight * loss,
        )

    def reported_stats(self) -> Dict[str, Union[float, torch.Tensor]]:
        """See :meth:`Downsampler.reported_stats`: with the threshold, the last batch's
        steps for each frame."""
        return {} if self.exact else {"rate": self._rate}

    def extra_repr(self) -> str:
        """Show the constructor's arguments when the model is printed."""
        return (
            f"{super().extra_repr()}, exact={self.exact}, "
            f"ratio_weight={self.ratio_weight}"
        )
