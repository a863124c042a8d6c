"""Kaldi archives of features: ``feats.scp`` points into ``.ark`` files.

An archive entry is a key, a space and a binary matrix. Two kinds are read:

* ``FM``: float32, four bytes a value;
* ``CM2``: two bytes a value, ``minimum + range * u / 65535`` with u a 16-bit integer
  and minimum and range of the whole matrix. The rounding error is at most range /
  131070.

Archives are written as ``CM2``: it is as small as half floats, which Kaldi archives do
not support, and kaldiio (ESPnet 202511), omniio (ESPnet 202611) and Kaldi read it.

Format: ``src/matrix/compressed-matrix.h`` of Kaldi, ``kTwoByteAuto``.
"""

import struct
from pathlib import Path
from typing import BinaryIO, Dict, Tuple, Union

import numpy as np

from espnet_adastride.errors import UserError

PathLike = Union[str, Path]
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
        ValueError: for another shape, or non-finite values.
    """
    matrix = np.asarray(matrix, dtype=np.float32)
    if matrix.ndim != 2 or matrix.size == 0:
        raise ValueError(f"{key}: features must be (T, D), got {matrix.shape}")
    if not np.isfinite(matrix).all():
        raise ValueError(f"{key}: features are not finite")
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


def read_matrix(path: PathLike, offset: int) -> np.ndarray:
    """Read the matrix (T, D), float32, at an offset of an archive.

    Raises:
        UserError: if the matrix has an unknown format or is cut off.
    """
    try:
        with open(path, "rb") as file:
            file.seek(offset)
            marker = file.read(2)
            kind = b""
            while len(kind) < 4 and not kind.endswith(b" "):
                kind += file.read(1) or b" "
            if marker != b"\0B" or kind not in (b"CM2 ", b"FM "):
                raise UserError(
                    f"{path}:{offset}: not a matrix in the format FM or CM2; extract "
                    "the "
                    "features again"
                )
            if kind == b"CM2 ":
                low, span, rows, columns = struct.unpack("<ffii", file.read(16))
                data = np.frombuffer(file.read(2 * rows * columns), dtype="<u2")
            else:
                _, rows, _, columns = struct.unpack("<bibi", file.read(10))
                data = np.frombuffer(file.read(4 * rows * columns), dtype="<f4")
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror})") from None
    except (struct.error, ValueError):
        raise UserError(
            f"{path}:{offset}: damaged; extract the features again"
        ) from None
    if len(data) != rows * columns:
        raise UserError(f"{path}:{offset}: cut off; extract the features again")
    data = data.reshape(rows, columns).astype(np.float32)
    if kind == b"CM2 ":
        data = data * np.float32(span / STEPS) + np.float32(low)
    return data


def parse_place(place: str) -> Tuple[str, int]:
    """Return archive and offset of ``feats.1.ark:1234``.

    Raises:
        UserError: for another form.
    """
    path, _, offset = place.rpartition(":")
    if not path or not offset.isdigit():
        raise UserError(f"{place!r} is not a position in an archive (file.ark:offset)")
    return path, int(offset)


class FeatureReader:
    """The features of a set: ``reader[key]`` is (T, D) float32.

    Args:
        places: {utterance: archive:offset}, as in ``feats.scp``.
    """

    def __init__(self, places: Dict[str, str]):
        self.places = dict(places)

    def __len__(self) -> int:
        return len(self.places)

    def __iter__(self):
        return iter(self.places)

    def __getitem__(self, key: str) -> np.ndarray:
        return read_matrix(*parse_place(self.places[key]))
