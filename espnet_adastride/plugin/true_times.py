"""The times of frames after adaptive strides, as input to the encoder.

After adaptive strides, neighbouring frames are not equally far apart, and the frames do
not show it. Two options of ``input_layer_conf`` tell the encoder:

* ``tell_strides``: the logarithm of every frame's local stride becomes a feature;
* ``true_times``: the relative positional encoding takes differences of true times
  instead of differences of indices.

Time t(l) of output frame l is where the positions of vector positioning reach l:
``p(t(l)) = l``, linear between steps. It is exact for uniform strides, and the times of
an input layer's stages compose. No gradients reach the positions through the times.
"""

import torch

from espnet_adastride.downsampling import length_mask
from espnet_adastride.downsampling.exportable import steps_before
from espnet_adastride.errors import ConfigurationError
from espnet_adastride.plugin.espnet import (
    RelPositionalEncoding,
    RelPositionMultiHeadedAttention,
)
from espnet_adastride.plugin.strides import WHERE

#: local strides are limited to these factors of the mean
STRIDE_RANGE = (1 / 16, 16.0)


def slot_steps(
    positions: torch.Tensor,
    lengths: torch.Tensor,
    output_lengths: torch.Tensor,
    width: int,
    exportable: bool = False,
) -> torch.Tensor:
    """Return the place of every output slot among a layer's input steps.

    Args:
        positions: (B, T), non-decreasing, from 0 to output_lengths - 1.
        lengths: (B,) valid input steps.
        output_lengths: (B,) valid slots.
        width: T', slots with padding.
        exportable: compute the same with operations that can be exported; for one
            utterance without padding.

    Returns:
        (B, T') float64 in [0, lengths - 1], non-decreasing; slots in the padding repeat
        the last valid value.
    """
    positions = positions.detach().to(torch.float64).contiguous()
    slots = torch.arange(width, device=positions.device, dtype=torch.float64)
    last = (output_lengths - 1).clamp(min=0).unsqueeze(1)
    slots = torch.minimum(slots.unsqueeze(0), last.to(torch.float64)).contiguous()
    last_step = (lengths - 1).clamp(min=0).unsqueeze(1)
    # the first step at or after the slot, and the previous one
    if exportable:
        after = steps_before(positions, width)
    else:
        after = torch.searchsorted(positions, slots)
    after = torch.minimum(after, last_step)
    before = (after - 1).clamp(min=0)
    p_before, p_after = positions.gather(1, before), positions.gather(1, after)
    gap = p_after - p_before
    share = torch.where(gap > 0, (slots - p_before) / gap.clamp(min=1e-300), 1.0)
    return before + share.clamp(0.0, 1.0) * (after - before)


def uniform_steps(
    lengths: torch.Tensor, output_lengths: torch.Tensor, width: int
) -> torch.Tensor:
    """Return the same for a method without positions: equal steps from end to end."""
    slots = torch.arange(width, device=lengths.device, dtype=torch.float64)
    last = (output_lengths - 1).clamp(min=0).unsqueeze(1).to(torch.float64)
    span = (lengths - 1).clamp(min=0).unsqueeze(1).to(torch.float64)
    return torch.minimum(slots.unsqueeze(0), last) * span / last.clamp(min=1.0)


def times_at(times: torch.Tensor, steps: torch.Tensor) -> torch.Tensor:
    """Return times (B, T) interpolated linearly at fractional steps (B, T')."""
    below = steps.floor().to(torch.int64).clamp(0, times.size(1) - 1)
    above = (below + 1).clamp(max=times.size(1) - 1)
    start = times.gather(1, below)
    return start + (steps - below) * (times.gather(1, above) - start)


def next_times(times, positions, lengths, output_lengths, width, exportable=False):
    """Return the times (B, width) of a stage's output frames; None for None.

    Args:
        times: (B, T) of its input frames, or None.
        positions: (B, T) of its input frames on its output slots; None: equal steps.
        lengths: (B,) valid input frames.
        output_lengths: (B,) valid output frames.
        width: T', output frames with padding.
        exportable: see :func:`slot_steps`.
    """
    if times is None:
        return None
    if positions is None:
        steps = uniform_steps(lengths, output_lengths, width)
    else:
        steps = slot_steps(positions, lengths, output_lengths, width, exportable)
    return times_at(times, steps)


def log_strides(times: torch.Tensor, lengths: torch.Tensor) -> torch.Tensor:
    """Return the logarithm of every frame's local stride over the utterance's mean.

    The local stride is half the time between a frame's two neighbours (at the ends: the
    time to the only neighbour).

    Args:
        times: (B, T'), any unit.
        lengths: (B,) valid frames.

    Returns:
        (B, T'), 0 for uniform strides, in the padding and for fewer than two frames.
    """
    steps = torch.arange(times.size(1), device=times.device).unsqueeze(0)
    last = (lengths - 1).clamp(min=0).unsqueeze(1)
    right = torch.minimum(steps + 1, last)
    left = torch.minimum((steps - 1).clamp(min=0), last)
    spans = times.gather(1, right) - times.gather(1, left)
    local = spans / (right - left).clamp(min=1)
    mean = (times.gather(1, last) - times[:, :1]) / last.clamp(min=1)
    ratio = (local / mean.clamp(min=1e-12)).clamp(*STRIDE_RANGE)
    told = length_mask(lengths, times.size(1)) & (lengths > 1).unsqueeze(1)
    return torch.where(told, ratio.log(), 0.0)


def time_encoding(times: torch.Tensor, size: int) -> torch.Tensor:
    """Return ESPnet's sinusoids (B, T', size) at times (B, T'), whole or not."""
    even = torch.arange(0, size, 2, device=times.device, dtype=torch.float64)
    frequencies = torch.pow(10000.0, -even / size)
    angles = times.to(torch.float64).unsqueeze(2) * frequencies
    return torch.stack([angles.sin(), angles.cos()], dim=3).flatten(2)


def time_scores(u: torch.Tensor, encoding: torch.Tensor) -> torch.Tensor:
    """Return the products of queries with the sinusoids of time differences.

    The sinusoids of t_i - t_j follow from those of t_i and of t_j::

        u_s sin w(t_i - t_j) + u_c cos w(t_i - t_j)
            = (u_c cos w t_i + u_s sin w t_i) cos w t_j
            + (u_c sin w t_i - u_s cos w t_i) sin w t_j

    No tensor of size T x T x D is needed.

    Args:
        u: (B, H, T, D) queries in the sinusoids' basis, or a shape that broadcasts.
        encoding: (B, T, D), :func:`time_encoding` at the frames' times.

    Returns:
        (B, H, T, T) for every pair of frames (i, j).
    """
    u_sine, u_cosine = u[..., 0::2], u[..., 1::2]
    sine, cosine = encoding[:, None, :, 0::2], encoding[:, None, :, 1::2]
    rotated = torch.cat(
        [
            u_cosine * cosine + u_sine * sine,
            u_cosine * sine - u_sine * cosine,
        ],
        dim=-1,
    )
    keys = torch.cat([cosine, sine], dim=-1)
    return torch.matmul(rotated, keys.transpose(-2, -1))


class TrueTimeEncoding(RelPositionalEncoding):
    """ESPnet's relative positional encoding, for frames at true times.

    It returns the sinusoids at given times, for :class:`TrueTimeAttention`.
    """

    @classmethod
    def of(cls, given: torch.nn.Module) -> "TrueTimeEncoding":
        """Return a configured encoding with true times.

        Raises:
            ConfigurationError: if it is not ESPnet's relative one.
        """
        if type(given) is not RelPositionalEncoding:
            raise ConfigurationError(
                f"{WHERE}: true_times needs rel_pos_type: latest, pos_enc_layer_type: "
                "rel_pos and rel_selfattn"
            )
        return cls(given.d_model, given.dropout.p)

    def forward(self, x, times=None):
        """Return x (B, T', D), scaled, and the encoding (B, T', D) of times (B, T')."""
        encoding = time_encoding(times, self.d_model).to(x.dtype)
        return self.dropout(x * self.xscale), self.dropout(encoding)


class TrueTimeAttention(RelPositionMultiHeadedAttention):
    """ESPnet's attention, with relative positions that may be fractional.

    ESPnet looks up the sinusoids of i - j and shifts rows into place. Here frame i is
    at time t_i: :func:`time_scores`. The parameters are ESPnet's; at t_i = i the result
    is ESPnet's. With ``use_sdpa`` (ESPnet 202611) the second term is the additive mask
    of PyTorch's scaled dot product attention, as in ESPnet.
    """

    def forward(self, query, key, value, pos_emb, mask):
        """Return (B, T, D); pos_emb (B, T, D) is :func:`time_encoding` at the times."""
        q, k, v = self.forward_qkv(query, key, value)  # (B, H, T, d_k)
        bias_u, bias_v = self.pos_bias_u.unsqueeze(1), self.pos_bias_v.unsqueeze(1)
        basis = self.linear_pos.weight.view(self.h, self.d_k, -1)
        place = time_scores(torch.matmul(q + bias_v, basis), pos_emb)
        if self.use_sdpa:
            place = place / self.d_k**0.5
            if mask is not None:
                lowest = torch.finfo(place.dtype).min
                place = place.masked_fill(mask.unsqueeze(1).eq(0), lowest)
            dropout = self.dropout_rate if self.training else 0.0
            x = torch.nn.functional.scaled_dot_product_attention(
                q + bias_u, k, v, place, dropout_p=dropout
            )
            return self.linear_out(x.transpose(1, 2).flatten(2))
        content = torch.matmul(q + bias_u, k.transpose(-2, -1))
        scores = (content + place) / self.d_k**0.5
        return self.forward_attention(v, scores, mask)
