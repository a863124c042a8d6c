"""``preencoder: layer_sum``: layers of a pretrained encoder, weighted and added.

    preencoder: layer_sum
    preencoder_conf: {layers: 3, size: 768}

Frames (B, T, layers * size) hold the layers side by side. The output is

    y = sum_k softmax(w)_k x_k,    (B, T, size)

with learned w, initially zero: the mean of the layers. Source: "SUPERB: Speech
processing Universal PERformance Benchmark" (Yang et al. 2021), section 3.
"""

from typing import Tuple

import torch

from espnet_adastride.downsampling.output import check_whole
from espnet_adastride.errors import ConfigurationError, located
from espnet_adastride.plugin.espnet import AbsPreEncoder


class LayerSum(AbsPreEncoder):
    """A learned weighted sum of layers.

    Args:
        layers: in a frame, at least 1.
        size: values of each.

    Raises:
        ConfigurationError: for anything but whole numbers >= 1.
    """

    def __init__(self, layers: int, size: int):
        super().__init__()
        with located("preencoder_conf", ValueError, ConfigurationError):
            self.layers = check_whole("layers", layers)
            self.size = check_whole("size", size)
        self.weights = torch.nn.Parameter(torch.zeros(layers))

    def output_size(self) -> int:
        """Return the values per output frame."""
        return self.size

    def forward(
        self, input: torch.Tensor, input_lengths: torch.Tensor
    ) -> Tuple[torch.Tensor, torch.Tensor]:
        """Return (B, T, size) for (B, T, layers * size); lengths stay as they are.

        Raises:
            ConfigurationError: frames of another size.
        """
        if input.size(2) != self.layers * self.size:
            raise ConfigurationError(
                f"preencoder_conf: {self.layers} layers of {self.size} values were "
                f"announced and frames have {input.size(2)}: extract the features "
                "again or correct layers and size"
            )
        stacked = input.unflatten(2, (self.layers, self.size))
        weights = torch.softmax(self.weights, dim=0)
        return torch.einsum("btld,l->btd", stacked, weights), input_lengths
