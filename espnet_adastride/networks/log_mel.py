"""Waves to log-mel frames by either of two formulas, and back to sound (Griffin-Lim).

    magnitude   log(max(sum_k M_fk |X_tk|, 1e-5))       the VQ-VAE's
    power       log(sum_k M_fk |X_tk|^2 + 1e-6)         the classifiers'

X is the short-time Fourier transform, M the triangular mel filters (HTK's scale). Two
other kinds of frames are given from outside and not made here: ESPnet's frontends make
their own (``deployment/features.py`` has them in numpy), and so does Whisper
(``corpora/whisper_mel.py``).
"""

import math
from typing import Tuple

import torch
import torchaudio

from espnet_adastride.downsampling import length_mask
from espnet_adastride.downsampling.output import check_whole, zero_padding
from espnet_adastride.errors import unknown_word

#: below this magnitude a mel bin is silence
FLOOR = 1e-5
#: added to the power of a mel bin
OFFSET = 1e-6

#: power of |X| by formula
FORMULAS = {"magnitude": 1.0, "power": 2.0}

#: decibels of a difference of 1 between natural logs of magnitudes
DECIBEL = 20.0 / math.log(10.0)


class LogMel(torch.nn.Module):
    """Waves (B, N) to log-mel frames (B, T, F), T = 1 + floor(N / hop_length).

    Natural logs, from Hann windows centred at multiples of
    ``hop_length``; Samples beyond an utterance's end are zero, so that its frames
    are the same alone and in a padded batch.

    Args:
        fs: samples per second.
        n_fft, win_length, hop_length: samples; win_length at most n_fft.
        n_mels: F.
        formula: one of FORMULAS, see the file's top.

    Raises:
        ValueError: a number is not whole or below 1, the window is too long, a mel bin
            would be empty, or the formula is unknown.
    """

    def __init__(
        self,
        fs: int = 16000,
        n_fft: int = 1024,
        win_length: int = 640,
        hop_length: int = 160,
        n_mels: int = 80,
        formula: str = "magnitude",
    ):
        super().__init__()
        if formula not in FORMULAS:
            raise ValueError(unknown_word("formula", formula, FORMULAS))
        sizes = {"fs": fs, "n_fft": n_fft, "win_length": win_length}
        for name, size in {**sizes, "hop_length": hop_length, "n_mels": n_mels}.items():
            check_whole(name, size)
        if win_length > n_fft:
            raise ValueError(f"win_length {win_length} is above n_fft {n_fft}")
        self.formula = formula
        self.fs, self.n_fft, self.win_length = fs, n_fft, win_length
        self.hop_length, self.n_mels = hop_length, n_mels
        self.mel = torchaudio.transforms.MelSpectrogram(
            fs,
            n_fft=n_fft,
            win_length=win_length,
            hop_length=hop_length,
            n_mels=n_mels,
            power=FORMULAS[formula],
            pad_mode="constant",  # reflection would want n_fft / 2 samples
        )
        if (self.mel.mel_scale.fb.amax(dim=0) == 0).any():
            raise ValueError(
                f"n_mels {n_mels}: some mel bins have no frequency at n_fft {n_fft}; "
                "use fewer n_mels or a larger n_fft"
            )

    def forward(
        self, wave: torch.Tensor, lengths: torch.Tensor
    ) -> Tuple[torch.Tensor, torch.Tensor]:
        """Return frames, zero beyond their lengths (B,), and those.

        Args:
            wave: (B, N); the padding may contain anything.
            lengths: (B,) samples.
        """
        wave = wave.masked_fill(~length_mask(lengths, wave.size(1)), 0.0)
        with torch.autocast(device_type=wave.device.type, enabled=False):
            mels = self.mel(wave.float())
            held = mels + OFFSET if self.formula == "power" else mels.clamp(min=FLOOR)
            frames = held.log().transpose(1, 2)
        lengths = lengths // self.hop_length + 1
        return zero_padding(frames, lengths), lengths

    def invert(
        self, frames: torch.Tensor, samples: int, iterations: int = 32
    ) -> torch.Tensor:
        """Return a wave (samples,) with approximately these frames (T, F): Griffin-Lim.

        The initial phases are random, with a fixed seed.
        """
        bins = self.n_fft // 2 + 1
        scale = torchaudio.transforms.InverseMelScale(bins, self.n_mels, self.fs)
        griffin_lim = torchaudio.transforms.GriffinLim(
            *(self.n_fft, iterations, self.win_length, self.hop_length),
            power=FORMULAS[self.formula],
        )
        with torch.random.fork_rng(devices=[]), torch.no_grad():
            torch.manual_seed(0)
            mels = frames.float().cpu().exp().T
            if self.formula == "power":
                mels = (mels - OFFSET).clamp(min=0.0)
            wave = griffin_lim(scale(mels))
        wave = torch.nn.functional.pad(wave, (0, max(0, samples - len(wave))))
        return wave[:samples].clamp(-1.0, 1.0)
