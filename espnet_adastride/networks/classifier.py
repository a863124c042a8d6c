"""Classifier of log-mel frames: residual network, mean over time, linear layer."""

import dataclasses
from typing import NamedTuple, Optional, Tuple

import torch

from espnet_adastride.downsampling.stages import StageTrace
from espnet_adastride.networks.methods import Method
from espnet_adastride.networks.resnet import ResNet


@dataclasses.dataclass(frozen=True)
class NetworkOptions:
    """``network:`` of :class:`Classifier`."""

    width: int
    strides: list
    kernel_size: int
    dropout: float


class Classified(NamedTuple):
    """Output of the classifier: logits (B, classes), lengths (B,) of the frames
    that were averaged, and the downsamplers' reports."""

    logits: torch.Tensor
    lengths: torch.Tensor
    stages: Tuple[StageTrace, ...]


class Classifier(torch.nn.Module):
    """Normalised log-mel frames -> :class:`ResNet` -> mean over valid frames -> linear.

    Args:
        classes: number of classes.
        input_size: F, mel bins.
        options: width, strides, kernel_size, dropout.
        method: see :func:`parse_method`.

    Raises:
        ValueError: one line with the wrong option or value, and the choices.
    """

    def __init__(
        self, classes: int, input_size: int, options: NetworkOptions, method: Method
    ):
        super().__init__()
        self.register_buffer("mean", torch.zeros(input_size))
        self.register_buffer("deviation", torch.ones(input_size))
        self.encoder = ResNet(
            input_size,
            options.width,
            options.strides,
            options.kernel_size,
            method.names,
            method.options,
        )
        self.dropout = torch.nn.Dropout(options.dropout)
        self.output = torch.nn.Linear(options.width, classes)

    def set_statistics(self, mean: torch.Tensor, deviation: torch.Tensor) -> None:
        """Set the mean and standard deviation (F,) for normalising the input."""
        self.mean.copy_(mean)
        self.deviation.copy_(deviation)

    def forward(
        self,
        x: torch.Tensor,
        lengths: torch.Tensor,
        masked: Optional[torch.Tensor] = None,
    ) -> Classified:
        """Classify a padded batch.

        Args:
            x: (B, T, F) log-mel frames; the padding may contain anything.
            lengths: (B,).
            masked: (B, T, F) booleans: values replaced by the mean, in training.
        """
        x = (x - self.mean) / self.deviation
        if masked is not None:
            x = x.masked_fill(masked, 0.0)
        encoded = self.encoder(x, lengths)
        count = encoded.lengths.clamp(min=1).unsqueeze(1)
        mean = encoded.output.sum(dim=1) / count
        logits = self.output(self.dropout(mean))
        return Classified(logits, encoded.lengths, encoded.stages)


def random_mask(
    x: torch.Tensor,
    lengths: torch.Tensor,
    mels: int,
    frames: int,
    generator: torch.Generator,
) -> torch.Tensor:
    """Return booleans (B, T, F): one mel band and one time span for every clip.

    Widths are uniform from 0 to ``mels`` and to ``frames``, positions are uniform too.
    """

    def stripe(size, sizes, most):
        width = torch.rand(len(sizes), generator=generator) * (most + 1)
        width = torch.minimum(width.floor(), sizes)
        start = (torch.rand(len(sizes), generator=generator) * (sizes - width)).round()
        place = torch.arange(size)
        start, end = start.unsqueeze(1), (start + width).unsqueeze(1)
        return (place >= start) & (place < end)

    bands = stripe(x.size(2), torch.full((len(x),), float(x.size(2))), mels)
    spans = stripe(x.size(1), lengths.to(torch.float32), frames)
    return bands.unsqueeze(1) | spans.unsqueeze(2)
