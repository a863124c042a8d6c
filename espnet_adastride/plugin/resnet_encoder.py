"""The paper's audio classifier as an encoder of ESPnet's task ``cls``: ``resnet``.

A pre-activation residual network over time (``networks/resnet.py``): six blocks of
width 256 and kernel 3, three of them with a stride of 2 by any method of the registry.
The task's ``linear`` decoder averages the valid frames.
"""

from typing import Any, Dict, Optional, Sequence, Tuple, Union

import torch

from espnet_adastride.downsampling.output import check_number
from espnet_adastride.errors import ConfigurationError, located
from espnet_adastride.networks.resnet import ResNet
from espnet_adastride.plugin import espnet
from espnet_adastride.plugin.later_stages import Traced


class ResNetEncoder(Traced, espnet.AbsEncoder):
    """(B, T, F) -> (B, T', output_size); T' is T divided by each stride, rounded up.

    Args:
        input_size: mel bins F.
        output_size: width of all blocks (256 in the paper).
        strides: one per block; 1: the block keeps its length.
        kernel_size: odd (3 in the paper).
        method: a word of ``available_downsamplers()``, or one for every stride above 1.
        method_conf: the methods' own words.
        vp_weight: weight of the positioning loss in the training loss.

    Raises:
        ConfigurationError: naming the wrong word and the choices.
    """

    def __init__(
        self,
        input_size: int,
        output_size: int = 256,
        strides: Sequence[float] = (2, 1, 2, 1, 2, 1),
        kernel_size: int = 3,
        method: Union[str, Sequence[str]] = "adastride",
        method_conf: Optional[Dict[str, Any]] = None,
        vp_weight: float = 1.0,
    ):
        super().__init__()
        with located("encoder_conf", (TypeError, ValueError), ConfigurationError):
            self.vp_weight = check_number("vp_weight", vp_weight, inclusive=True)
            self.network = ResNet(
                input_size, output_size, strides, kernel_size, method, method_conf
            )

    def output_size(self) -> int:
        """Return the width of the frames."""
        return self.network.width

    def forward(
        self,
        xs_pad: torch.Tensor,
        ilens: torch.Tensor,
        prev_states: Optional[torch.Tensor] = None,
    ) -> Tuple[torch.Tensor, torch.Tensor, None]:
        """Encode xs_pad (B, T, F) of lengths ilens (B,); no states are kept."""
        encoded = self.network(xs_pad, ilens)
        self.keep_trace(encoded.stages)
        return encoded.output, encoded.lengths, None

    def reported_stats(self) -> Dict[str, float]:
        """Return the stages' own stats, ``{name_stage: number}``."""
        return self.network.reported_stats()
