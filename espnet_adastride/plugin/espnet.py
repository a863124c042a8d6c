"""What the plugin takes from ESPnet, imported in this one place.

The names are those of ESPnet 202511; later versions move ``espnet.nets`` to
``espnet2.legacy.nets``.
"""

from espnet2.asr.encoder.branchformer_encoder import BranchformerEncoder
from espnet2.asr.encoder.conformer_encoder import ConformerEncoder
from espnet2.asr.encoder.e_branchformer_encoder import EBranchformerEncoder
from espnet2.asr.encoder.transformer_encoder import TransformerEncoder
from espnet2.asr.espnet_model import ESPnetASRModel
from espnet2.tasks import asr as asr_task
from espnet2.torch_utils.device_funcs import force_gatherable
from espnet.nets.pytorch_backend.transformer.subsampling import (
    Conv2dSubsampling,
    Conv2dSubsampling1,
    Conv2dSubsampling2,
    Conv2dSubsampling6,
    Conv2dSubsampling8,
    TooShortUttError,
)

STOCK_SUBSAMPLINGS = (
    Conv2dSubsampling,
    Conv2dSubsampling1,
    Conv2dSubsampling2,
    Conv2dSubsampling6,
    Conv2dSubsampling8,
)

__all__ = [
    "BranchformerEncoder",
    "ConformerEncoder",
    "Conv2dSubsampling",
    "EBranchformerEncoder",
    "ESPnetASRModel",
    "STOCK_SUBSAMPLINGS",
    "TooShortUttError",
    "TransformerEncoder",
    "asr_task",
    "force_gatherable",
]
