"""The matrices in Kaldi archives of the kind CM2, decoded as their format says."""

import struct

import numpy as np


def read_features(place):
    """Return the matrix at ``file.ark:offset``, float64."""
    path, _, offset = place.rpartition(":")
    with open(path, "rb") as file:
        file.seek(int(offset))
        assert file.read(6) == b"\0BCM2 "
        low, span, rows, columns = struct.unpack("<ffii", file.read(16))
        steps = np.frombuffer(file.read(2 * rows * columns), "<u2")
    return low + span * steps.reshape(rows, columns) / 65535
