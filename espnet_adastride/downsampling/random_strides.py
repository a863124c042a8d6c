"""A control: AdaStride with random instead of learned strides.

AdaStride's gain over uniform methods may come from the placement of its frames or from
varying the strides at all. This control separates the two: AdaStride's own alignment,
with positions from random densities (output frames per step, relative to the mean),

    a_t = spread sqrt(log s / log 8) log Q(u_{k(t)}),   k(t) = floor(t / (hold s))
    p = (m - 1) [0, cumsum(softmax(a_2 .. a_n))]
    z = A(p) x

with s the stride. Q is the distribution of the densities that AdaStride learned at 8x
on pretrained speech features, LOCAL_DENSITY; stages multiply, and the root has three of
stride 2 vary as much together as one of 8 (the variances of logarithms add up). A draw
lasts for ``hold`` mean output frames, as AdaStride with strides of 80 ms stays with a
phone (about 80 ms) or a pause (some hundred ms).

**The draws** only depend on the utterance, in training and in
evaluation: u_k in [0, 1] is an integer hash of k, of the number n of steps, and of four
rounded statistics of the features,

    g_t = v . x_t
    h_i = round(4 sum_t(g_t cos(pi i (t + 1/2) / n)) / (sqrt(n) rms(g))),  i = 0 .. 3

with v a fixed vector. It is the same alone, in a padded batch, and in
chunks. If the features differ by rounding, an utterance keeps its draws unless a
statistic is at a rounding boundary; then it gets others. Of 3,000 utterances, relative
differences of 1e-7 (float32, another device) did so in none, rounding to float16 in
0.2 % and to bfloat16 in 2 %. As the features change in training, so do an utterance's
draws.

No parameter, no positioning loss, and no gradient through the positions.
"""

import math

import torch

from espnet_adastride.downsampling.adastride import AdaStride, position_steps
from espnet_adastride.downsampling.output import (
    DownsamplingOutput,
    check_number,
    length_mask,
)

#: quantiles of AdaStride's learned density: (share of the time, density over the mean),
#: linearly interpolated. Those at 5 and 95 % are measured: 60 utterances, three stages
#: of stride 2 on pretrained features of 50 frames a second. The median is set for a
#: mean of 1; the ends are extrapolated.
LOCAL_DENSITY = ((0.0, 0.03), (0.05, 0.05), (0.5, 0.84), (0.95, 2.2), (1.0, 2.4))
LEARNED_AT = 8.0

#: statistics that determine the draws; their unit is 1 / RESOLUTION of their deviation
#: on noise
STATISTICS, RESOLUTION = 4, 4.0


def density_quantile(u: torch.Tensor) -> torch.Tensor:
    """Return the density at the share u in [0, 1] of LOCAL_DENSITY, any shape."""
    density = torch.full_like(u, LOCAL_DENSITY[0][1])
    for (left, low), (right, high) in zip(LOCAL_DENSITY, LOCAL_DENSITY[1:]):
        slope = (high - low) / (right - left)
        density = density + slope * (u - left).clamp(0.0, right - left)
    return density


def mixed(number: torch.Tensor) -> torch.Tensor:
    """Return pseudo-random int64 from int64 of any shape; the same on every device.

    The finaliser of SplitMix64 (Steele, Lea & Flood, 2014) with signed shifts.
    """
    number = number * -7046029254386353131  # 0x9E3779B97F4A7C15
    number = (number ^ (number >> 30)) * -4658895280553007687  # 0xBF58476D1CE4E5B9
    number = (number ^ (number >> 27)) * -7723592293110705685  # 0x94D049BB133111EB
    return number ^ (number >> 31)


def in_unit_interval(number: torch.Tensor) -> torch.Tensor:
    """Return float64 in [0, 1) from the lower 53 bits of int64 of any shape."""
    return (number & (2**53 - 1)).to(torch.float64) / 2.0**53


def content_statistics(track: torch.Tensor, lengths: torch.Tensor) -> torch.Tensor:
    """Return h (B, 4) int64, see the module docstring; 0 where the track is.

    Args:
        track: g (B, T); the padding means nothing.
        lengths: (B,) valid steps.
    """
    valid = length_mask(lengths, track.size(1))
    track = track.detach().to(torch.float64).masked_fill(~valid, 0.0)
    number = lengths.clamp(min=1).to(torch.float64).unsqueeze(1)
    time = torch.arange(track.size(1), device=track.device, dtype=torch.float64)
    phase = math.pi * (time + 0.5).unsqueeze(0) / number
    waves = [(track * torch.cos(i * phase)).sum(dim=1) for i in range(STATISTICS)]
    norm = track.square().sum(dim=1, keepdim=True).sqrt()  # sqrt(n) rms(g)
    heights = torch.stack(waves, dim=1) / norm.where(norm > 0, norm.new_ones(()))
    return (RESOLUTION * heights).round().to(torch.int64)


def drawn_shares(
    statistics: torch.Tensor, lengths: torch.Tensor, draw: torch.Tensor
) -> torch.Tensor:
    """Return u (B, K) float64 in [0, 1), see the module docstring.

    Args:
        statistics: h (B, 4).
        lengths: (B,) valid steps n.
        draw: (K,) int64, the k of the requested draws.
    """
    key = mixed(lengths)
    for statistic in statistics.unbind(dim=1):
        key = mixed(key + statistic)
    return in_unit_interval(mixed(key.unsqueeze(1) + draw))


class RandomStrides(AdaStride):
    """AdaStride with drawn densities instead of scores.

    Args:
        size: D, the number of features.
        stride: overall rate, any real number >= 1.
        sigma_square: sharpness of the weights, > 0, as AdaStride's.
        spread: exponent of the drawn densities, >= 0: 1 varies as much as learned
            ones at this stride, 0 gives uniform strides.
        hold: mean output frames that a drawn density lasts, > 0.
    """

    training_defaults = {}
    kernels_place = False  # no scores are placed

    def __init__(
        self,
        size: int,
        stride: float,
        sigma_square: float = 5.0,
        spread: float = 1.0,
        hold: float = 2.0,
    ):
        super().__init__(size, stride, sigma_square)
        del self.score  # nothing is learned
        feature = torch.arange(1, self.size + 1)
        track = 2 * in_unit_interval(mixed(feature)) - 1  # v
        track = (track / track.norm()).to(torch.get_default_dtype())
        self.register_buffer("track", track, persistent=False)
        self.spread = check_number("spread", spread, inclusive=True)
        self.hold = check_number("hold", hold)

    def set_start(self):
        """See :meth:`Downsampler.set_start`: nothing is learned."""

    def score_weight(self, dtype):
        """Return v (D,): fixed, of unit length."""
        return self.track.to(dtype)

    def downsample(self, x, lengths, output_lengths):
        """See :meth:`Downsampler.downsample`."""
        # not AdaStride's own, whose CUDA kernels would use the scores
        dtype = torch.promote_types(x.dtype, torch.float32)
        with torch.autocast(device_type=x.device.type, enabled=False):
            output, positions = self.resample(
                x.to(dtype), self.score_weight(dtype), lengths, output_lengths
            )
        return DownsamplingOutput(
            output.to(x.dtype), output_lengths, positions.detach()
        )

    def in_chunks(self, frames, length):
        """See :meth:`Downsampler.in_chunks`: as AdaStride, without the loss."""
        return super().in_chunks(frames, length)._replace(aux_loss=None)

    def place(self, scores, lengths, output_lengths):
        """Return drawn positions (B, T); of the track g in ``scores`` (B, T)."""
        with torch.no_grad():
            # float64, on the CPU if the layer's device has none
            lengths = lengths.to(scores.device)
            spread = math.sqrt(math.log(self.stride) / math.log(LEARNED_AT))
            time = torch.arange(scores.size(1), device=scores.device)
            # a tensor: exporters round numbers to float32
            period = torch.tensor(self.hold * self.stride, dtype=torch.float64)
            draw = (time / period.to(time.device)).to(torch.int64)
            shares = drawn_shares(content_statistics(scores, lengths), lengths, draw)
            density = density_quantile(shares)
            return position_steps(
                self.spread * spread * density.log(), lengths, output_lengths
            )

    def extra_repr(self) -> str:
        """Show the constructor's arguments when the model is printed."""
        return (
            f"size={self.size}, stride={self.stride}, "
            f"sigma_square={self.sigma_square}, spread={self.spread}, hold={self.hold}"
        )
