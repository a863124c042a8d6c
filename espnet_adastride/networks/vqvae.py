"""A VQ-VAE of speech whose token rate is set by any downsampling method.

"Neural Discrete Representation Learning" (van den Oord, Vinyals & Kavukcuoglu, NeurIPS
2017), on log-mel frames:

    wave -> log-mel -> encoder (resnet.py: stages with a stride and blocks)
         -> nearest codes: the tokens
         -> decoder: the encoder's mirror -> log-mel (-> Griffin-Lim -> wave)

The decoder upsamples stage by stage, in reverse order, with the inverse of the
encoder's downsampler (``Downsampler.upsample``): AdaStride with its transposed
alignment, the spectral methods by zero-padding the spectrum, all others by repetition.

**Side information.** The decoder needs the alignment, which must be transmitted with
the tokens. :func:`durations` are the numbers of steps of every slot, from which
:func:`coded_positions` rebuilds positions that can be coded with finitely many bits.
Errors should be reported with these positions, and their cost added to that of the
tokens.

The quantiser is vector_quantize_pytorch's and only gets the valid frames: neither its
codes nor its statistics see padding. An utterance's tokens and reconstruction are the
same alone and in a padded batch.
"""

import inspect
from typing import Any, Dict, List, NamedTuple, Optional, Sequence, Tuple, Union

import torch
from vector_quantize_pytorch import VectorQuantize

from espnet_adastride.downsampling import downsampled_lengths, length_mask
from espnet_adastride.downsampling.output import (
    check_stride,
    check_whole,
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

#: options of the quantiser that keep one token per frame
QUANTISER_WORDS = (
    "codebook_dim commitment_weight decay kmeans_init kmeans_iters rotation_trick "
    "threshold_ema_dead_code use_cosine_sim"
).split()


class Stage(NamedTuple):
    """The information about an encoder stage that its inverse needs.

    Attributes:
        lengths: (B,) lengths of its input.
        steps: T of its input, padding included.
        output_lengths: (B,).
        stride: stride of the stage.
        layer: its downsampler; None if the stride is in a convolution.
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
    """Return the number of the n steps nearest to each of m slots, (m,) int64.

    Args:
        positions: (T,) positions of one utterance, T >= n.
    """
    slots = positions.detach()[:n].round().to(torch.int64)
    return torch.bincount(slots, minlength=m)[:m]


def coded_positions(counts: torch.Tensor) -> torch.Tensor:
    """Return the positions (n,) float64 that a decoder rebuilds from durations (m,).

    The k steps of slot l are evenly spaced in [l - 1/2, l + 1/2], at ``l - 1/2 + (j +
    1/2) / k``, limited to the segment [0, m - 1] like all positions. Their nearest
    slots are those of the true positions.
    """
    slots = torch.arange(len(counts), device=counts.device)
    of_step = slots.repeat_interleave(counts)
    first = (counts.cumsum(0) - counts).repeat_interleave(counts)
    within = torch.arange(len(of_step), device=counts.device) - first
    share = (within + 0.5) / counts.repeat_interleave(counts).to(torch.float64)
    return (of_step - 0.5 + share).clamp(0, max(len(counts) - 1, 0))


def with_coded_positions(stages: Sequence[Stage]) -> List[Stage]:
    """Return the stages as known to a decoder that only receives durations.

    The gradient of the positions passes straight through to the encoder's.
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
    """Output of encoder and quantiser for a batch.

    Attributes:
        quantised: (B, T', width), zero beyond ``lengths``.
        tokens: (B, T') codes, -1 beyond ``lengths``.
        lengths: (B,).
        stages: first stage first.
        traces: traces of the downsamplers, for the auxiliary losses.
        commitment: scalar, weighted: the quantiser's loss; 0 outside training.
    """

    quantised: torch.Tensor
    tokens: torch.Tensor
    lengths: torch.Tensor
    stages: List[Stage]
    traces: Tuple[StageTrace, ...]
    commitment: torch.Tensor


class Decoder(torch.nn.Module):
    """The mirrored encoder: (B, T', width) -> (B, T, output_size).

    Args:
        width, kernel_size: as in the encoder.
        strides: strides of the encoder's blocks, in the encoder's order.
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
        strides: strides of the stages; their product is the rate of the tokens.
        method: a name in ``available_downsamplers()``, or one for every stage.
        width: features of all blocks.
        blocks: residual blocks per stage; the first has the stride.
        kernel_size: odd.
        codebook_size: number of codes, K.
        upsampling: inverse for methods with positions: ``transposed``, A^T, whose
            weights also tell the decoder the number of steps of a slot; or
            ``normalised``, divided by its column sums (``AdaStride.upsample``).
        told: side information of the decoder in training: ``durations``, as at a
            receiver, or the encoder's own ``positions``. Methods without positions
            ignore it.
        downsampler_conf: options of the methods.
        quantiser_conf: options of vector_quantize_pytorch's VectorQuantize in
            ``QUANTISER_WORDS``.

    Raises:
        ValueError: one line with the wrong option or value, and the choices.
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
        check_whole("blocks", blocks)
        self.codebook_size = check_whole("codebook_size", codebook_size)
        quantiser_conf = dict(quantiser_conf or {})
        for word in quantiser_conf:
            if word not in QUANTISER_WORDS:
                raise ValueError(
                    unknown_word("quantiser option", word, QUANTISER_WORDS)
                )
        each = []
        for stride in strides:
            each += [check_stride(stride)] + [1] * (blocks - 1)
        self.told = told
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
                "the decoder needs lengths that follow from the stride, but hnet with "
                "exact: false has none; use exact: true"
            )
        self.to_latent = torch.nn.Linear(width, width)
        self.quantiser = VectorQuantize(width, self.codebook_size, **quantiser_conf)
        self.decoder = Decoder(
            width, kernel_size, each, input_size, upsampling == "normalised"
        )

    def set_statistics(self, mean: torch.Tensor, deviation: torch.Tensor) -> None:
        """Set mean and standard deviation (F,) for normalising frames."""
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
            raise ValueError("no utterance in this batch has a frame")
        encoded = self.encoder(self.normalise(frames), lengths)
        latent = self.to_latent(encoded.output)
        valid = length_mask(encoded.lengths, latent.size(1))
        # only the valid frames: the codes' statistics and the loss exclude padding
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
        """Return the traces of every stage, including those in a convolution."""
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
        """Return the reconstruction loss of a batch, and the encoder's output.

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
    """Return the arguments of :class:`VQVAE` in a configuration."""
    words = inspect.signature(VQVAE).parameters
    return [word for word in words if word != "input_size"]
