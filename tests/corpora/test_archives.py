"""Kaldi archives: what is written is what every reader of ESPnet reads."""

import struct

import numpy as np
import pytest

from archives import read_features
from espnet_adastride.corpora.archives import write_matrix
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
    for key, place in places.items():
        found = read_features(place)
        span = np.ptp(matrices[key])
        assert np.abs(found - matrices[key]).max() <= 1.01 * span / 131070


def test_espnets_reader_agrees(archive, tmp_path):
    """ESPnet's own loader of the type kaldi_ark, kaldiio or omniio, gives the same."""
    dataset = pytest.importorskip("espnet2.train.dataset")
    places, matrices = archive
    scp = tmp_path / "feats.scp"
    scp.write_text("".join(f"{k} {v}\n" for k, v in places.items()))
    loader = dataset.DATA_TYPES["kaldi_ark"]["func"](str(scp))
    for key in matrices:
        span = np.ptp(matrices[key])
        np.testing.assert_allclose(
            loader[key], matrices[key], rtol=0, atol=1.01 * span / 131070 + 1e-5
        )


def test_a_constant_matrix(tmp_path):
    path = tmp_path / "c.ark"
    with path.open("wb") as file:
        offset = write_matrix(file, "k", np.full((2, 2), -3.25))
    found = read_features(f"{path}:{offset}")
    np.testing.assert_array_equal(found, np.full((2, 2), -3.25))


@pytest.mark.parametrize(
    "matrix", [np.zeros((0, 3)), np.zeros(3), np.array([[np.nan, 1.0]])]
)
def test_unusable_matrices_are_refused(tmp_path, matrix):
    with (tmp_path / "d.ark").open("wb") as file:
        with pytest.raises(ValueError, match="key") as error:
            write_matrix(file, "key", matrix)
    # what an encoder gives is the user's, its shape is not
    assert isinstance(error.value, UserError) == bool(np.isnan(matrix).any())
