"""Kaldi archives of features: ``feats.scp`` points into ``.ark`` files.

An archive entry is a key, a space and a binary matrix, here of the kind ``CM2``: two
bytes a value, ``minimum + range * u / 65535`` with u a 16-bit integer and minimum and
range of the whole matrix. The rounding error is at most range / 131070.

It is as small as half floats, which Kaldi archives do not support, and kaldiio (ESPnet
202511), omniio (ESPnet 202611) and Kaldi read it.

Format: ``src/matrix/compressed-matrix.h`` of Kaldi, ``kTwoByteAuto``.
"""

import struct
from typing import BinaryIO

import numpy as np

from espnet_adastride.errors import ModelError

STEPS = 65535


def write_matrix(file: BinaryIO, key: str, matrix: np.ndarray) -> int:
    """Append a matrix as ``CM2``.

    Args:
        file: opened for writing, binary.
        key: of the utterance, without spaces.
        matrix: (T, D) finite floats, T and D at least 1.

    Returns:
        The offset for ``feats.scp``.

    Raises:
        ValueError: for another shape.
        ModelError: for non-finite values.
    """
    matrix = np.asarray(matrix, dtype=np.float32)
    if matrix.ndim != 2 or matrix.size == 0:
        raise ValueError(f"{key}: features must be (T, D), got {matrix.shape}")
    if not np.isfinite(matrix).all():
        raise ModelError(
            f"{key}: the encoder gives values that are not numbers (NaN, infinite); "
            "give another --upstream, or remove the recording"
        )
    low = np.float32(matrix.min())
    span = np.float32(matrix.max() - low)
    if span == 0:  # a constant; Kaldi widens the range in the same way
        span = np.float32(1.0)
    steps = np.rint((matrix.astype(np.float64) - low) / span * STEPS)
    steps = steps.clip(0, STEPS).astype("<u2")
    file.write(key.encode("utf-8") + b" ")
    offset = file.tell()
    file.write(b"\0BCM2 " + struct.pack("<ffii", low, span, *matrix.shape))
    file.write(steps.tobytes())
    return offset
