"""What the plugin takes from ESPnet: the only file that imports ``espnet``/``espnet2``.

ESPnet 202511 (Python 3.10, 3.11) and 202611 (Python 3.12, 3.13) keep some things in
different places. This file tries the places; it compares no versions.
docs/espnet_releases.md lists every difference and the test that covers it.

Names in ``_LATE`` and ``_LATE_MODULES`` are imported on first use: some take seconds,
and few commands need them.
"""

import importlib

# first: it decides what of ESPnet is imported late
from espnet_adastride.plugin.imports import import_light

# isort: split

from espnet2.asr.encoder.abs_encoder import AbsEncoder
from espnet2.asr.encoder.branchformer_encoder import BranchformerEncoder
from espnet2.asr.encoder.conformer_encoder import ConformerEncoder
from espnet2.asr.encoder.contextual_block_conformer_encoder import (
    ContextualBlockConformerEncoder,
)
from espnet2.asr.encoder.contextual_block_transformer_encoder import (
    ContextualBlockTransformerEncoder,
)
from espnet2.asr.encoder.e_branchformer_ctc_encoder import EBranchformerCTCEncoder
from espnet2.asr.encoder.e_branchformer_encoder import EBranchformerEncoder
from espnet2.asr.encoder.multiconvformer_encoder import MultiConvConformerEncoder
from espnet2.asr.encoder.transformer_encoder import TransformerEncoder
from espnet2.asr.espnet_model import ESPnetASRModel
from espnet2.asr.frontend.cnn import CNNFrontend
from espnet2.asr.frontend.fused import FusedFrontends
from espnet2.asr.frontend.huggingface import HuggingFaceFrontend
from espnet2.asr.frontend.s3prl import S3prlFrontend
from espnet2.asr.frontend.whisper import WhisperFrontend
from espnet2.asr.frontend.windowing import SlidingWindow
from espnet2.asr.preencoder.abs_preencoder import AbsPreEncoder
from espnet2.asr.preencoder.linear import LinearProjection
from espnet2.asr.preencoder.sinc import LightweightSincConvs
from espnet2.asr_transducer import utils as transducer_utils
from espnet2.asr_transducer.encoder.modules.attention import (
    RelPositionMultiHeadedAttention as TransducerAttention,
)
from espnet2.fileio import multi_sound_scp, sound_scp
from espnet2.layers.stft import Stft
from espnet2.samplers.build_batch_sampler import build_batch_sampler
from espnet2.tasks import asr as asr_task
from espnet2.tasks.abs_task import AbsTask, scheduler_classes
from espnet2.text.build_tokenizer import build_tokenizer
from espnet2.text.token_id_converter import TokenIDConverter
from espnet2.torch_utils.device_funcs import force_gatherable, to_device
from espnet2.train import iterable_dataset
from espnet2.train.abs_espnet_model import AbsESPnetModel
from espnet2.train.collate_fn import CommonCollateFn
from espnet2.train.trainer import Trainer
from espnet2.utils.nested_dict_action import NestedDictAction


def _nets(name):
    """Import a module of ``espnet.nets``, which 202611 keeps in ``espnet2.legacy``."""
    newer = f"espnet2.legacy.nets.{name}"
    try:
        return importlib.import_module(newer)
    except ModuleNotFoundError as error:
        if error.name is None or not newer.startswith(error.name):
            raise  # the module exists, something that it imports does not
    return importlib.import_module(f"espnet.nets.{name}")


def _if_any(name):
    """Import a module; None if it, or something that it needs, is missing.

    For additions: when they are used, ESPnet's own error names what is missing.
    """
    try:
        return importlib.import_module(name)
    except ImportError:
        return None


_attention = _nets("pytorch_backend.transformer.attention")
_embedding = _nets("pytorch_backend.transformer.embedding")
_subsampling = _nets("pytorch_backend.transformer.subsampling")

RelPositionMultiHeadedAttention = _attention.RelPositionMultiHeadedAttention
PositionalEncoding = _embedding.PositionalEncoding
RelPositionalEncoding = _embedding.RelPositionalEncoding
Conv2dSubsampling = _subsampling.Conv2dSubsampling
#: the class that contextual_block_* encoders pass the mask to: no positional encoding
Conv2dSubsamplingWOPosEnc = _nets(
    "pytorch_backend.transformer.subsampling_without_posenc"
).Conv2dSubsamplingWOPosEnc
TooShortUttError = _subsampling.TooShortUttError
check_short_utt = _subsampling.check_short_utt

#: the errors, one per tool, for which decoding writes an empty hypothesis
TOO_SHORT_ERRORS = (TooShortUttError, transducer_utils.TooShortUttError)

#: ESPnet's own input layers that shorten
STOCK_SUBSAMPLINGS = tuple(
    getattr(_subsampling, f"Conv{kind}")
    for kind in (
        *(f"2dSubsampling{n}" for n in ("", 1, 2, 6, 8)),
        *(f"1dSubsampling{n}" for n in (1, 2, 3)),
    )
)

#: modules; those of _MAY_BE_MISSING are None where they cannot be imported: ESPnet3's
#: copy of the task asr, with registries of its own (from 202611 on), CTC segmentation
#: (without the package ctc_segmentation, which 202511 does not declare) and forced
#: alignment (``espnet align``, from 202611 on)
_LATE_MODULES = {
    "asr_align": "espnet2.bin.asr_align",
    "asr_transducer_task": "espnet2.tasks.asr_transducer",
    "cls_task": "espnet2.tasks.cls",
    "espnet3_asr_task": "espnet3.systems.esp2_asr.task",
    "forced_align": "espnet2.bin.align",
    "lm_task": "espnet2.tasks.lm",
    "s2t_ctc_task": "espnet2.tasks.s2t_ctc",
    "s2t_task": "espnet2.tasks.s2t",
}
_MAY_BE_MISSING = ("asr_align", "espnet3_asr_task", "forced_align")

#: name -> module; imported on first use
_LATE = {
    "Classification": "espnet2.bin.cls_inference",
    "DatadirWriter": "espnet2.fileio.datadir_writer",
    "Speech2Text": "espnet2.bin.asr_inference",
    "TextCleaner": "espnet2.text.cleaner",
    "cls_train": "espnet2.bin.cls_train",
    "pack": "espnet2.bin.pack",
    "set_all_random_seed": "espnet2.torch_utils.set_all_random_seed",
}


def __getattr__(name):
    if name in _LATE_MODULES:
        load = _if_any if name in _MAY_BE_MISSING else importlib.import_module
        globals()[name] = load(_LATE_MODULES[name])
        return globals()[name]
    if name not in _LATE:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    attribute = "main" if name in ("cls_train", "pack") else name
    globals()[name] = getattr(import_light(_LATE[name]), attribute)
    return globals()[name]
