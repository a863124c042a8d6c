"""Waves to the log-mel frames that are coded, and frames to sound (Griffin-Lim)."""

import math
from typing import Tuple

import torch
import torchaudio

from espnet_adastride.downsampling import length_mask
from espnet_adastride.downsampling.output import zero_padding

#: below this magnitude a mel bin is silence
FLOOR = 1e-5


#: decibels of a difference of 1 between natural logs of magnitudes
DECIBEL = 20.0 / math.log(10.0)


class LogMel(torch.nn.Module):
    """Waves (B, N) to log-mel frames (B, T, F), T = 1 + floor(N / hop_length).

    Natural logs of mel magnitudes, from Hann windows centred at multiples of
    ``hop_length``; what lies beyond an utterance's end is silence, so that its frames
    are the same alone and in a padded batch.

    Args:
        fs: samples per second.
        n_fft, win_length, hop_length: samples.
        n_mels: F.

    Raises:
        ValueError: a mel bin would be empty.
    """

    def __init__(
        self,
        fs: int = 16000,
        n_fft: int = 1024,
        win_length: int = 640,
        hop_length: int = 160,
        n_mels: int = 80,
    ):
        super().__init__()
        self.fs, self.n_fft, self.win_length = fs, n_fft, win_length
        self.hop_length, self.n_mels = hop_length, n_mels
        self.mel = torchaudio.transforms.MelSpectrogram(
            fs,
            n_fft=n_fft,
            win_length=win_length,
            hop_length=hop_length,
            n_mels=n_mels,
            power=1.0,
            pad_mode="constant",
        )
        if (self.mel.mel_scale.fb.amax(dim=0) == 0).any():
            raise ValueError(
                f"n_mels {n_mels}: some mel bins hold no frequency at n_fft {n_fft}; "
                "fewer n_mels, or a larger n_fft"
            )

    def forward(
        self, wave: torch.Tensor, lengths: torch.Tensor
    ) -> Tuple[torch.Tensor, torch.Tensor]:
        """Return frames, zero beyond their lengths (B,), and those.

        Args:
            wave: (B, N); the padding may hold anything.
            lengths: (B,) samples.
        """
        wave = wave.masked_fill(~length_mask(lengths, wave.size(1)), 0.0)
        with torch.autocast(device_type=wave.device.type, enabled=False):
            frames = self.mel(wave.float()).clamp(min=FLOOR).log().transpose(1, 2)
        lengths = lengths // self.hop_length + 1
        return zero_padding(frames, lengths), lengths

    def invert(
        self, frames: torch.Tensor, samples: int, iterations: int = 32
    ) -> torch.Tensor:
        """Return a wave (samples,) that has about these frames (T, F): Griffin-Lim.

        The phases start from random numbers that are always the same.
        """
        bins = self.n_fft // 2 + 1
        scale = torchaudio.transforms.InverseMelScale(bins, self.n_mels, self.fs)
        griffin_lim = torchaudio.transforms.GriffinLim(
            self.n_fft, iterations, self.win_length, self.hop_length, power=1.0
        )
        with torch.random.fork_rng(devices=[]), torch.no_grad():
            torch.manual_seed(0)
            # InverseMelScale asks for magnitudes as we have them
            magnitudes = scale(frames.float().cpu().exp().T)
            wave = griffin_lim(magnitudes)
        wave = torch.nn.functional.pad(wave, (0, max(0, samples - len(wave))))
        return wave[:samples].clamp(-1.0, 1.0)
