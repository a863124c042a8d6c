"""Kaldi archives: what is written is what every reader of ESPnet reads."""

import struct

import numpy as np
import pytest

from espnet_adastride.corpora.archives import (
    FeatureReader,
    parse_place,
    read_matrix,
    write_matrix,
)
from espnet_adastride.errors import UserError


@pytest.fixture
def archive(tmp_path):
    """Two matrices in an archive; their places and values."""
    noise = np.random.default_rng(0)
    matrices = {
        "utt-a": noise.normal(0, 3, (7, 5)).astype(np.float32),
        "utt-b": noise.normal(1, 40, (3, 5)).astype(np.float32),
    }
    path, places = tmp_path / "feats.1.ark", {}
    with path.open("wb") as file:
        for key, matrix in matrices.items():
            places[key] = f"{path}:{write_matrix(file, key, matrix)}"
    return places, matrices


def test_known_bytes(tmp_path):
    path = tmp_path / "a.ark"
    with path.open("wb") as file:
        offset = write_matrix(file, "x", np.array([[0.0, 1.0], [0.5, 1.0]]))
    # 65535 steps from 0 to 1; 0.5 is step 32767.5, rounded to the even one
    steps = struct.pack("<4H", 0, 65535, 32768, 65535)
    expected = b"x \0BCM2 " + struct.pack("<ffii", 0.0, 1.0, 2, 2) + steps
    assert path.read_bytes() == expected and offset == 2


def test_rounding_is_within_the_bound(archive):
    places, matrices = archive
    for key, matrix in FeatureReader(places).places.items():
        found = FeatureReader(places)[key]
        span = np.ptp(matrices[key])
        assert found.dtype == np.float32
        assert np.abs(found - matrices[key]).max() <= 1.01 * span / 131070


def test_espnets_reader_agrees(archive, tmp_path):
    """ESPnet's own loader of the type kaldi_ark, kaldiio or omniio, gives the same."""
    dataset = pytest.importorskip("espnet2.train.dataset")
    places, matrices = archive
    scp = tmp_path / "feats.scp"
    scp.write_text("".join(f"{k} {v}\n" for k, v in places.items()))
    loader = dataset.DATA_TYPES["kaldi_ark"]["func"](str(scp))
    for key in matrices:
        np.testing.assert_allclose(
            loader[key], FeatureReader(places)[key], rtol=0, atol=1e-4
        )


def test_float_matrices_are_read(tmp_path):
    path, matrix = tmp_path / "b.ark", np.arange(6, dtype="<f4").reshape(2, 3)
    header = b"k \0BFM " + struct.pack("<bibi", 4, 2, 4, 3)
    path.write_bytes(header + matrix.tobytes())
    np.testing.assert_array_equal(read_matrix(path, 2), matrix)


def test_a_constant_matrix(tmp_path):
    path = tmp_path / "c.ark"
    with path.open("wb") as file:
        offset = write_matrix(file, "k", np.full((2, 2), -3.25))
    np.testing.assert_array_equal(read_matrix(path, offset), np.full((2, 2), -3.25))


@pytest.mark.parametrize(
    "matrix", [np.zeros((0, 3)), np.zeros(3), np.array([[np.nan, 1.0]])]
)
def test_unusable_matrices_are_refused(tmp_path, matrix):
    with (tmp_path / "d.ark").open("wb") as file:
        with pytest.raises(ValueError, match="key"):
            write_matrix(file, "key", matrix)


def test_damage_is_named(archive, tmp_path):
    places, _ = archive
    path, offset = parse_place(places["utt-b"])
    data = open(path, "rb").read()
    (tmp_path / "short.ark").write_bytes(data[:-3])
    with pytest.raises(UserError, match="short.ark:.*(damaged|cut off)"):
        read_matrix(tmp_path / "short.ark", offset)
    with pytest.raises(UserError, match="not a matrix in the format"):
        read_matrix(path, offset + 1)
    with pytest.raises(UserError, match="gone.ark: cannot be read"):
        read_matrix(tmp_path / "gone.ark", 0)
    with pytest.raises(UserError, match="is not a position in an archive"):
        parse_place("feats.ark")
