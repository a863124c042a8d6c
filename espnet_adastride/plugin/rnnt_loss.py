"""The transducer loss without warp-transducer, which few machines can build.

ESPnet takes the loss of its transducers from the package ``warprnnt_pytorch``, and
fails without it. torchaudio, which ESPnet needs anyway, computes the same loss on CPUs
and GPUs:

    L = -log sum over all paths of prod P(symbol | frame, symbols before)

(Graves, "Sequence transduction with recurrent neural networks", 2012), the mean over
the batch. It is used where the package is missing, with a line in the log. It has no
FastEmit.
"""

import contextlib
import importlib.util
import logging
import sys
from types import ModuleType

import torch

from espnet_adastride.errors import ConfigurationError

#: the package that ESPnet imports
PACKAGE = "warprnnt_pytorch"


class RNNTLoss(torch.nn.Module):
    """``warprnnt_pytorch.RNNTLoss`` as ESPnet uses it, computed by torchaudio.

    Args:
        blank: id of the blank symbol.
        reduction: ``mean`` or ``sum`` over the batch, or ``none``.
        fastemit_lambda: 0; other values need warp-transducer.

    Raises:
        ConfigurationError: if FastEmit is asked for.
    """

    def __init__(
        self, blank: int = 0, reduction: str = "mean", fastemit_lambda: float = 0.0
    ):
        super().__init__()
        if fastemit_lambda:
            raise ConfigurationError(
                f"model_conf: fastemit_lambda {fastemit_lambda:g} needs the package "
                f"{PACKAGE}, which is not installed; torchaudio's transducer loss has "
                "no FastEmit: install it, or set fastemit_lambda: 0"
            )
        self.blank, self.reduction = blank, reduction
        logging.info(
            "%s is not installed: the transducer loss is torchaudio's", PACKAGE
        )

    def forward(
        self,
        logits: torch.Tensor,
        targets: torch.Tensor,
        frames: torch.Tensor,
        lengths: torch.Tensor,
    ) -> torch.Tensor:
        """Return the loss in nats: a scalar, or (B,) with ``reduction="none"``.

        Args:
            logits: (B, T, U + 1, V), before the softmax.
            targets: (B, U) ids.
            frames: (B,) valid frames; the largest is T.
            lengths: (B,) valid targets; the largest is U.
        """
        from torchaudio.functional import rnnt_loss

        return rnnt_loss(
            logits.float(),
            targets.int().contiguous(),
            frames.int(),
            lengths.int(),
            blank=self.blank,
            reduction=self.reduction,
        )


@contextlib.contextmanager
def stand_in():
    """Let ESPnet import torchaudio's loss as warp-transducer's.

    Nothing is changed if warp-transducer is installed, or torchaudio is not.
    """
    missing = PACKAGE not in sys.modules and importlib.util.find_spec(PACKAGE) is None
    if not missing or importlib.util.find_spec("torchaudio") is None:
        yield
        return
    module = ModuleType(PACKAGE)
    module.RNNTLoss = RNNTLoss
    sys.modules[PACKAGE] = module
    try:
        yield
    finally:
        del sys.modules[PACKAGE]
