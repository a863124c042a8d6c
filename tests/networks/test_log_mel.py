"""Log-mel frames: both formulas by hand, padding, the way back, the numpy twin."""

import math

import numpy as np
import pytest
import torch

from espnet_adastride.deployment import features as deployment
from espnet_adastride.deployment.description import pack_array
from espnet_adastride.networks.log_mel import FLOOR, FORMULAS, OFFSET, LogMel

SIZES = {"fs": 8000, "n_fft": 512, "win_length": 320, "hop_length": 80, "n_mels": 40}


@pytest.mark.parametrize("formula", FORMULAS)
def test_frames_do_not_see_the_padding_and_come_back(formula):
    features = LogMel(**SIZES, formula=formula)
    steps = torch.arange(4000) / 8000
    wave = 0.4 * torch.sin(2 * math.pi * 440 * steps)
    batch = torch.stack([wave, wave])
    batch[1, 2403:] = torch.nan
    frames, lengths = features(batch, torch.tensor([4000, 2403]))
    assert lengths.tolist() == [51, 31]
    alone, _ = features(wave[None, :2403], torch.tensor([2403]))
    torch.testing.assert_close(frames[1, :31], alone[0], atol=1e-4, rtol=1e-4)
    assert (frames[1, 31:] == 0).all()
    again = features.invert(frames[0], 4000)
    assert len(again) == 4000
    spectrum = torch.fft.rfft(again).abs()
    assert abs(int(spectrum.argmax()) * 8000 / 4000 - 440) < 30
    # about as loud as it was
    middle = slice(1000, 3000)
    assert float(again[middle].std() / wave[middle].std()) == pytest.approx(1, abs=0.25)
    torch.testing.assert_close(features.invert(frames[0], 4000), again)


def test_the_formulas_by_hand():
    wave = torch.randn(1600, generator=torch.Generator().manual_seed(0))
    found = {}
    for formula in FORMULAS:
        features = LogMel(**SIZES, formula=formula)
        found[formula] = features(wave[None], torch.tensor([1600]))[0][0].exp()
    # frame 10, centred on sample 800: 320 samples in the middle of 512
    window = 0.5 - 0.5 * np.cos(2 * np.pi * np.arange(320) / 320)
    piece = np.zeros(512)
    piece[96:416] = window * wave.numpy()[640:960]
    spectrum = np.abs(np.fft.rfft(piece))
    filters = features.mel.mel_scale.fb.numpy()
    for formula, expected in (
        ("magnitude", spectrum @ filters),
        ("power", spectrum**2 @ filters + OFFSET),
    ):
        np.testing.assert_allclose(found[formula][10], expected, rtol=1e-3)
    silence = torch.zeros(1, 800), torch.tensor([800])
    for formula, floor in (("magnitude", FLOOR), ("power", OFFSET)):
        frames, _ = LogMel(**SIZES, formula=formula)(*silence)
        torch.testing.assert_close(frames.exp(), torch.full_like(frames, floor))


def test_numpy_has_the_same_power():
    """What exported models read without torch, given our windows and filters."""
    features = LogMel(**SIZES, formula="power")
    wave = torch.randn(4000, generator=torch.Generator().manual_seed(1))
    content = {
        **{"n_fft": 512, "hop": 80, "center": True, "normalized": False},
        **{"log_base": None, "window": pack_array(torch.hann_window(320).numpy())},
        "mel": pack_array(features.mel.mel_scale.fb.numpy()),
    }
    ours = features(wave[None], torch.tensor([4000]))[0][0].numpy()
    theirs = deployment.LogMel(content)(wave.numpy())
    assert theirs.shape == ours.shape
    # the outer frames differ: reflection there, silence here
    inner = slice(4, -4)
    np.testing.assert_allclose(
        np.exp(theirs)[inner] + OFFSET, np.exp(ours)[inner], rtol=1e-3
    )


def test_wrong_words_are_refused():
    with pytest.raises(ValueError, match="did you mean 'power'"):
        LogMel(formula="powr")
    with pytest.raises(ValueError, match="hop_length must be a whole number >= 1"):
        LogMel(hop_length=0)
    with pytest.raises(ValueError, match="win_length 640 is above n_fft 512"):
        LogMel(n_fft=512, n_mels=40)
    with pytest.raises(ValueError, match="n_mels 80: some mel bins have no"):
        LogMel(n_fft=256, win_length=256)
