"""Downsampling of padded batches of sequences; needs torch only.

Every method has one contract: ``(x, lengths) -> DownsamplingOutput``, where an
utterance's result does not depend on its batch. ``output.py`` has the contract,
``adastride.py`` the method, ``registry.py`` the names.
"""

from espnet_adastride.downsampling.adastride import (
    AdaStride,
    AdaStrideF,
    alignment_matrix,
    empty_slot_share,
    largest_jump,
    largest_stride,
    position_steps,
    positioning_loss,
    stride_entropy,
)
from espnet_adastride.downsampling.output import (
    Downsampler,
    DownsamplingOutput,
    downsampled_lengths,
    length_mask,
)
from espnet_adastride.downsampling.registry import (
    DOWNSAMPLERS,
    available_downsamplers,
    build_downsampler,
    downsampler_class,
)

__all__ = [
    "DOWNSAMPLERS",
    "AdaStride",
    "AdaStrideF",
    "Downsampler",
    "DownsamplingOutput",
    "alignment_matrix",
    "available_downsamplers",
    "build_downsampler",
    "downsampled_lengths",
    "downsampler_class",
    "empty_slot_share",
    "largest_jump",
    "largest_stride",
    "length_mask",
    "position_steps",
    "positioning_loss",
    "stride_entropy",
]
