"""Input features of exported models in numpy: log-mel frames of ESPnet and Whisper."""

from typing import Any, Dict

import numpy as np

from espnet_adastride.corpora.features import (
    WHISPER_FFT,
    WHISPER_HOP,
    WHISPER_RATE,
    UpstreamRecord,
    WhisperUpstream,
    mel_filters,
    rebuild_upstream,
)
from espnet_adastride.deployment.description import unpack_array


def power_spectrum(
    wave: np.ndarray, window: np.ndarray, n_fft: int, hop: int, center: bool
) -> np.ndarray:
    """Return the power of a short-time Fourier transform, (T, n_fft // 2 + 1) float32.

    As ``torch.stft``: with ``center``, half of ``n_fft`` is reflected at both ends; the
    window is centred within ``n_fft``.

    Args:
        wave: (n,) float32; more than n_fft / 2 samples with ``center``.
        window: (win_length,).
        n_fft: samples of a transform.
        hop: samples from one to the next.
        center: frame t is centred on sample t hop.
    """
    left = (n_fft - len(window)) // 2
    window = np.pad(window, (left, n_fft - len(window) - left)).astype(np.float32)
    if center:
        wave = np.pad(wave, n_fft // 2, mode="reflect")
    frames = np.lib.stride_tricks.sliding_window_view(wave, n_fft)[::hop]
    spectrum = np.fft.rfft(frames * window, axis=1)
    return np.square(spectrum.real, dtype=np.float32) + np.square(
        spectrum.imag, dtype=np.float32
    )


class LogMel:
    """Log-mel frames of ESPnet's ``frontend: default`` from samples.

    Args:
        content: ``frontend`` in the description.
    """

    def __init__(self, content: Dict[str, Any]):
        self.content = content
        self.window = unpack_array(content["window"])
        self.mel = unpack_array(content["mel"])

    def __call__(self, wave: np.ndarray) -> np.ndarray:
        """Return (T, n_mels) float32 of samples (n,)."""
        own = self.content
        power = power_spectrum(
            wave, self.window, own["n_fft"], own["hop"], own["center"]
        )
        if own["normalized"]:
            power /= own["n_fft"]
        mels = np.log(np.maximum(power @ self.mel, np.float32(1e-10)))
        base = own["log_base"]
        return (mels if base is None else mels / np.log(base)).astype(np.float32)


class WhisperFrames:
    """Whisper's log-mels without torch; see ``corpora.features.WhisperLogMel``."""

    def __init__(self, n_mels: int = 80):
        self.filters = mel_filters(WHISPER_RATE, WHISPER_FFT, n_mels)
        turn = 2 * np.pi * np.arange(WHISPER_FFT) / WHISPER_FFT
        self.window = (0.5 - 0.5 * np.cos(turn)).astype(np.float32)

    def __call__(self, wave: np.ndarray) -> np.ndarray:
        """Return the frames (n_mels, n // 160) of one piece."""
        power = power_spectrum(wave, self.window, WHISPER_FFT, WHISPER_HOP, True)
        frames = np.log10(np.maximum(self.filters @ power[:-1].T, np.float32(1e-10)))
        frames = np.maximum(frames, frames.max() - 8.0)
        return ((frames + 4.0) / 4.0).astype(np.float32)


class TorchlessWhisper(WhisperUpstream):
    """The encoder of a faster-whisper folder, with CTranslate2, without torch."""

    log_mel_frames = WhisperFrames


def whisper_features(content: Dict[str, Any], folder=None) -> WhisperUpstream:
    """Return the upstream of a description.

    Raises:
        ModelError: it is missing or differs.
    """
    record = UpstreamRecord(**{**content, "layers": tuple(content["layers"])})
    return rebuild_upstream(record, folder, whisper=TorchlessWhisper)
