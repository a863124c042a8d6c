"""A VQ-VAE of speech in which any downsampling method sets the rate of the tokens.

"Neural Discrete Representation Learning" (van den Oord, Vinyals & Kavukcuoglu, NeurIPS
2017), on log-mel frames:

    wave -> log-mel -> encoder (resnet.py: stages of a stride and its blocks)
         -> nearest codes: the tokens
         -> decoder: the encoder's mirror -> log-mel (-> Griffin-Lim -> wave)

The decoder lengthens stage by stage, the last first, by what the encoder's stage was
shortened with (``Downsampler.upsample``): AdaStride by its transposed alignment, the
spectral methods by zeros above the spectrum, all others by repetition.

**What the decoder is told.** An alignment is side information: it must be sent beside
the tokens. :func:`durations` are the numbers of steps of every slot, from which
:func:`coded_positions` are rebuilt: what a decoder can know for a finite number of
bits. The error is to be reported with those, and their cost with that of the tokens.

The quantiser is vector_quantize_pytorch's and is given the valid frames alone: neither
its codes nor its statistics see padding. An utterance's tokens and reconstruction are
the same alone and in a padded batch.
"""

import inspect
import numbers
from typing import Any, Dict, List, NamedTuple, Optional, Sequence, Tuple, Union

import torch
from vector_quantize_pytorch import VectorQuantize

from espnet_adastride.downsampling import downsampled_lengths, length_mask
from espnet_adastride.downsampling.output import (
    check_stride,
    repeat_slots,
    zero_padding,
)
from espnet_adastride.downsampling.stages import StageTrace
from espnet_adastride.errors import unknown_word
from espnet_adastride.networks.resnet import (
    FrameNorm,
    ResidualBlock,
    ResNet,
    TimeConv,
    _Frames,
)

#: words of the quantiser that keep one token a frame
QUANTISER_WORDS = (
    "codebook_dim commitment_weight decay kmeans_init kmeans_iters rotation_trick "
    "threshold_ema_dead_code use_cosine_sim"
).split()


class Stage(NamedTuple):
    """What the decoder must know of an encoder's stage, and how to invert it.

    Attributes:
        lengths: (B,) of its input.
        steps: T of its input, padding included.
        output_lengths: (B,).
        stride: of the stage.
        layer: its downsampler; None where the stride is in a convolution.
        positions: (B, T), or None.
    """

    lengths: torch.Tensor
    steps: int
    output_lengths: torch.Tensor
    stride: float
    layer: Optional[torch.nn.Module]
    positions: Optional[torch.Tensor]

    def upsample(self, z: torch.Tensor, normalised: bool = True) -> torch.Tensor:
        """Return (B, T, D) from z (B, T', D)."""
        if self.layer is None:
            return repeat_slots(z, self.lengths, self.steps, self.stride)
        return self.layer.upsample(
            z, self.lengths, self.steps, self.positions, normalised
        )


def durations(positions: torch.Tensor, n: int, m: int) -> torch.Tensor:
    """Return how many of n steps are nearest to each of m slots, (m,) int64.

    Args:
        positions: (T,) of one utterance, T >= n.
    """
    slots = positions.detach()[:n].round().to(torch.int64)
    return torch.bincount(slots, minlength=m)[:m]


def coded_positions(counts: torch.Tensor) -> torch.Tensor:
    """Return the positions (n,) float64 that a decoder rebuilds from durations (m,).

    The k steps of slot l lie evenly within [l - 1/2, l + 1/2], at
    ``l - 1/2 + (j + 1/2) / k``; on the segment [0, m - 1], as all positions. They are
    nearest to the slots that the true ones are nearest to.
    """
    slots = torch.arange(len(counts), device=counts.device)
    of_step = slots.repeat_interleave(counts)
    first = (counts.cumsum(0) - counts).repeat_interleave(counts)
    within = torch.arange(len(of_step), device=counts.device) - first
    share = (within + 0.5) / counts.repeat_interleave(counts).to(torch.float64)
    return (of_step - 0.5 + share).clamp(0, max(len(counts) - 1, 0))


def with_coded_positions(stages: Sequence[Stage]) -> List[Stage]:
    """Return the stages as a decoder knows them that was sent durations alone.

    The gradient of the positions goes straight through to the encoder's.
    """
    coded = []
    for stage in stages:
        if stage.positions is not None:
            known = torch.zeros_like(stage.positions)
            sizes = zip(stage.lengths.tolist(), stage.output_lengths.tolist())
            for row, (n, m) in enumerate(sizes):
                if n > 0:
                    own = coded_positions(durations(stage.positions[row], n, m))
                    known[row, :n], known[row, n:] = own, own[-1]
            through = stage.positions - stage.positions.detach()  # 0, with a gradient
            stage = stage._replace(positions=known + through)
        coded.append(stage)
    return coded


class Encoded(NamedTuple):
    """What the encoder and the quantiser make of a batch.

    Attributes:
        quantised: (B, T', width), zero beyond ``lengths``.
        tokens: (B, T') codes, -1 beyond ``lengths``.
        lengths: (B,).
        stages: first stage first.
        traces: for the auxiliary losses, of the downsamplers.
        commitment: scalar, weighted: the quantiser's loss; 0 outside training.
    """

    quantised: torch.Tensor
    tokens: torch.Tensor
    lengths: torch.Tensor
    stages: List[Stage]
    traces: Tuple[StageTrace, ...]
    commitment: torch.Tensor


class Decoder(torch.nn.Module):
    """The encoder's mirror: (B, T', width) -> (B, T, output_size).

    Args:
        width, kernel_size: as the encoder's.
        strides: of the encoder's blocks, in its order.
        output_size: F.
        normalised: see ``AdaStride.upsample``.
    """

    def __init__(self, width, kernel_size, strides, output_size, normalised):
        super().__init__()
        self.strides, self.normalised = list(strides), normalised
        self.blocks = torch.nn.ModuleList(
            ResidualBlock(width, kernel_size) for _ in strides
        )
        self.norm = FrameNorm(width)
        self.output = TimeConv(width, output_size, kernel_size, bias=True)

    def forward(self, z, lengths, stages: Sequence[Stage]):
        """Return frames, zero beyond the first stage's lengths."""
        waiting = list(stages)
        frames = _Frames(lengths, z)
        for stride, block in zip(reversed(self.strides), self.blocks):
            if stride > 1:
                stage = waiting.pop()
                z = stage.upsample(z, self.normalised)
                frames = _Frames(stage.lengths, z)
            z, frames, _ = block(z, frames)
        z = torch.relu(self.norm(z, frames.valid))
        return zero_padding(self.output(z), frames.lengths)


class VQVAE(torch.nn.Module):
    """Log-mel frames (B, T, F) to tokens and back.

    Args:
        input_size: F.
        strides: of the stages; their product is the rate of the tokens.
        method: a word of ``available_downsamplers()``, or one for every stage.
        width: features of all blocks.
        blocks: residual blocks a stage; the first has the stride.
        kernel_size: odd.
        codebook_size: number of codes, K.
        upsampling: what methods with positions are lengthened by: ``transposed``, A^T,
            whose weights also tell the decoder how many steps a slot has; or
            ``normalised``, its columns' sums divided out (``AdaStride.upsample``).
        told: what the decoder knows of the alignment while it learns: ``durations``, as
            a receiver does, or the encoder's own ``positions``. All the same to methods
            without positions.
        downsampler_conf: the methods' own words.
        quantiser_conf: words of vector_quantize_pytorch's VectorQuantize, those of
            ``QUANTISER_WORDS``.

    Raises:
        ValueError: one line that names the wrong word or number, and the choices.
    """

    UPSAMPLING = ("transposed", "normalised")
    TOLD = ("durations", "positions")

    def __init__(
        self,
        input_size: int,
        strides: Sequence[float],
        method: Union[str, Sequence[str]] = "adastride_f",
        width: int = 96,
        blocks: int = 2,
        kernel_size: int = 3,
        codebook_size: int = 512,
        upsampling: str = "transposed",
        told: str = "durations",
        downsampler_conf: Optional[Dict[str, Any]] = None,
        quantiser_conf: Optional[Dict[str, Any]] = None,
    ):
        super().__init__()
        if upsampling not in self.UPSAMPLING:
            raise ValueError(unknown_word("upsampling", upsampling, self.UPSAMPLING))
        if told not in self.TOLD:
            raise ValueError(unknown_word("told", told, self.TOLD))
        for name, value in (("blocks", blocks), ("codebook_size", codebook_size)):
            if not isinstance(value, numbers.Integral) or value < 1:
                raise ValueError(f"{name} must be a whole number >= 1, got {value!r}")
        quantiser_conf = dict(quantiser_conf or {})
        for word in quantiser_conf:
            if word not in QUANTISER_WORDS:
                raise ValueError(
                    unknown_word("quantiser option", word, QUANTISER_WORDS)
                )
        each = []
        for stride in strides:
            each += [check_stride(stride)] + [1] * (blocks - 1)
        self.codebook_size, self.told = int(codebook_size), told
        self.register_buffer("mean", torch.zeros(input_size))
        self.register_buffer("deviation", torch.ones(input_size))
        self.encoder = ResNet(
            input_size, width, each, kernel_size, method, downsampler_conf
        )
        if any(
            block.downsampler is not None
            and block.downsampler.downsampler.lengths_from_content
            for block in self.encoder.blocks
        ):
            raise ValueError(
                "a decoder is built for lengths that follow from the stride: hnet with "
                "exact: false has none; use exact: true"
            )
        self.to_latent = torch.nn.Linear(width, width)
        self.quantiser = VectorQuantize(width, self.codebook_size, **quantiser_conf)
        self.decoder = Decoder(
            width, kernel_size, each, input_size, upsampling == "normalised"
        )

    def set_statistics(self, mean: torch.Tensor, deviation: torch.Tensor) -> None:
        """Set mean and standard deviation (F,) that frames are normalised by."""
        self.mean.copy_(mean)
        self.deviation.copy_(deviation)

    def normalise(self, frames: torch.Tensor) -> torch.Tensor:
        """Return frames (..., F) in the units of the loss."""
        return (frames - self.mean) / self.deviation

    def encode(self, frames: torch.Tensor, lengths: torch.Tensor) -> Encoded:
        """Return the tokens of log-mel frames (B, T, F) of lengths (B,).

        Raises:
            ValueError: all utterances are empty.
        """
        if int(lengths.max()) < 1:
            raise ValueError("no utterance of this batch has a frame")
        encoded = self.encoder(self.normalise(frames), lengths)
        latent = self.to_latent(encoded.output)
        valid = length_mask(encoded.lengths, latent.size(1))
        # the valid frames alone: the codes' statistics and the loss know no padding
        codes, tokens, loss = self.quantiser(latent[valid].unsqueeze(0))
        places = valid.flatten().nonzero().squeeze(1)
        quantised = latent.new_zeros(latent.shape).flatten(0, 1)
        quantised = quantised.index_copy(0, places, codes.squeeze(0).to(latent.dtype))
        padded = torch.full_like(valid, -1, dtype=torch.int64)
        padded[valid] = tokens.squeeze(0)
        stages = self._stages(frames.size(1), lengths, encoded.stages)
        return Encoded(
            quantised.view(latent.shape),
            padded,
            encoded.lengths,
            stages,
            encoded.stages,
            loss.sum(),
        )

    def _stages(self, steps, lengths, traces) -> List[Stage]:
        """Return what every stage did, those in a convolution too."""
        stages, waiting = [], iter(traces)
        for block in self.encoder.blocks:
            if block.stride == 1 and block.downsampler is None:
                continue
            layer, stride = None, block.stride
            positions, shorter = None, downsampled_lengths(lengths, block.stride)
            if block.downsampler is not None:
                layer = block.downsampler.downsampler
                trace, stride = next(waiting), layer.current_stride()
                positions, shorter = trace.positions, trace.output_lengths
            stages.append(Stage(lengths, steps, shorter, stride, layer, positions))
            lengths, steps = shorter, downsampled_lengths(steps, stride)
        return stages

    def codes(self, tokens: torch.Tensor) -> torch.Tensor:
        """Return the quantised frames (B, T', width) of tokens (B, T')."""
        codes = self.quantiser.get_output_from_indices(tokens.clamp(min=0))
        return codes.masked_fill((tokens < 0).unsqueeze(2), 0.0)

    def decode(
        self, quantised: torch.Tensor, lengths: torch.Tensor, stages: Sequence[Stage]
    ) -> torch.Tensor:
        """Return log-mel frames (B, T, F), zero beyond the first stage's lengths."""
        output = self.decoder(quantised, lengths, stages)
        return zero_padding(output * self.deviation + self.mean, stages[0].lengths)

    def losses(
        self, frames: torch.Tensor, lengths: torch.Tensor
    ) -> Tuple[torch.Tensor, Encoded]:
        """Return the reconstruction loss of a batch, and what was encoded.

        Mean squared error over valid frames and mel bins, in normalised units.
        """
        encoded = self.encode(frames, lengths)
        stages = encoded.stages
        if self.told == "durations":
            stages = with_coded_positions(stages)
        output = self.decoder(encoded.quantised, encoded.lengths, stages)
        valid = length_mask(lengths, frames.size(1))
        difference = (output - self.normalise(frames))[valid]
        return difference.square().mean(), encoded


def network_words() -> List[str]:
    """Return the words of :class:`VQVAE` that a configuration sets."""
    words = inspect.signature(VQVAE).parameters
    return [word for word in words if word != "input_size"]
