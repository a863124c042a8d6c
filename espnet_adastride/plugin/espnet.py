"""What the plugin takes from ESPnet, imported in this one place.

The names are those of ESPnet 202511; later versions move ``espnet.nets`` to
``espnet2.legacy.nets``.
"""

from espnet2.asr.encoder.abs_encoder import AbsEncoder
from espnet2.asr.encoder.branchformer_encoder import BranchformerEncoder
from espnet2.asr.encoder.conformer_encoder import ConformerEncoder
from espnet2.asr.encoder.e_branchformer_encoder import EBranchformerEncoder
from espnet2.asr.encoder.transformer_encoder import TransformerEncoder
from espnet2.asr.espnet_model import ESPnetASRModel
from espnet2.cls.espnet_model import ESPnetClassificationModel
from espnet2.fileio import multi_sound_scp, sound_scp
from espnet2.s2t.espnet_model import ESPnetS2TModel
from espnet2.samplers.build_batch_sampler import build_batch_sampler
from espnet2.slu.espnet_model import ESPnetSLUModel
from espnet2.st.espnet_model import ESPnetSTModel
from espnet2.tasks import asr as asr_task
from espnet2.tasks import cls as cls_task
from espnet2.tasks import s2t as s2t_task
from espnet2.tasks import slu as slu_task
from espnet2.tasks import st as st_task
from espnet2.tasks.abs_task import AbsTask
from espnet2.torch_utils.device_funcs import force_gatherable
from espnet2.train.abs_espnet_model import AbsESPnetModel
from espnet2.train.collate_fn import CommonCollateFn
from espnet2.train.trainer import Trainer
from espnet2.utils.nested_dict_action import NestedDictAction
from espnet.nets.pytorch_backend.transformer.attention import (
    RelPositionMultiHeadedAttention,
)
from espnet.nets.pytorch_backend.transformer.embedding import RelPositionalEncoding
from espnet.nets.pytorch_backend.transformer.subsampling import (
    Conv2dSubsampling,
    Conv2dSubsampling1,
    Conv2dSubsampling2,
    Conv2dSubsampling6,
    Conv2dSubsampling8,
    TooShortUttError,
    check_short_utt,
)

STOCK_SUBSAMPLINGS = (
    Conv2dSubsampling,
    Conv2dSubsampling1,
    Conv2dSubsampling2,
    Conv2dSubsampling6,
    Conv2dSubsampling8,
)

__all__ = [
    "AbsEncoder",
    "AbsESPnetModel",
    "AbsTask",
    "BranchformerEncoder",
    "ConformerEncoder",
    "CommonCollateFn",
    "Conv2dSubsampling",
    "EBranchformerEncoder",
    "ESPnetASRModel",
    "ESPnetClassificationModel",
    "ESPnetS2TModel",
    "ESPnetSLUModel",
    "ESPnetSTModel",
    "NestedDictAction",
    "RelPositionMultiHeadedAttention",
    "RelPositionalEncoding",
    "STOCK_SUBSAMPLINGS",
    "TooShortUttError",
    "Trainer",
    "TransformerEncoder",
    "asr_task",
    "build_batch_sampler",
    "check_short_utt",
    "cls_task",
    "force_gatherable",
    "multi_sound_scp",
    "s2t_task",
    "slu_task",
    "sound_scp",
    "st_task",
]
