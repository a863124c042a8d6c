"""Spectra and mel filters in NumPy, and the log-mel frames that Whisper reads."""

import math

import numpy as np

from espnet_adastride.corpora.upstream_record import WHISPER_RATE

# Whisper's features: 16 kHz, windows of 25 ms every 10 ms, in pieces of 30 s
WHISPER_FFT = 400
WHISPER_HOP = 160
WHISPER_PIECE = 30 * WHISPER_RATE


def mel_filters(rate: int, n_fft: int, n_mels: int) -> np.ndarray:
    """Return triangular filters (n_mels, n_fft // 2 + 1) on the Slaney mel scale.

    Linear below 1 kHz (200 / 3 Hz a mel), logarithmic above (ln 6.4 / 27 a mel); each
    filter has the area 1 over its band. Equal to librosa's ``filters.mel``.
    """
    step, knee = 200.0 / 3.0, 1000.0
    ratio = math.log(6.4) / 27.0

    def to_hertz(mels):
        above = knee * np.exp(ratio * (mels - knee / step))
        return np.where(mels < knee / step, step * mels, above)

    nyquist = rate / 2
    top = nyquist / step
    if nyquist >= knee:
        top = knee / step + math.log(nyquist / knee) / ratio
    edges = to_hertz(np.linspace(0.0, top, n_mels + 2))
    bins = np.linspace(0.0, nyquist, n_fft // 2 + 1)
    rising = (bins - edges[:-2, None]) / np.diff(edges)[:-1, None]
    falling = (edges[2:, None] - bins) / np.diff(edges)[1:, None]
    weights = np.maximum(0.0, np.minimum(rising, falling))
    return (weights * (2.0 / (edges[2:] - edges[:-2]))[:, None]).astype(np.float32)


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


class WhisperLogMel:
    """Samples to Whisper's log-mel frames: (N,) to (n_mels, N // 160).

    Hann windows of 400 samples every 160, power, Slaney filters, log10 of at least
    1e-10, clipped at the maximum minus 8, then (x + 4) / 4. Source:
    ``whisper/audio.py`` of openai-whisper.

    Args:
        n_mels: 80, or 128 in large-v3.
    """

    def __init__(self, n_mels: int = 80):
        self.filters = mel_filters(WHISPER_RATE, WHISPER_FFT, n_mels)
        turn = 2 * np.pi * np.arange(WHISPER_FFT) / WHISPER_FFT
        self.window = (0.5 - 0.5 * np.cos(turn)).astype(np.float32)

    def __call__(self, wave: np.ndarray) -> np.ndarray:
        """Return the frames of one piece, as float32."""
        power = power_spectrum(wave, self.window, WHISPER_FFT, WHISPER_HOP, True)
        frames = np.log10(np.maximum(self.filters @ power[:-1].T, np.float32(1e-10)))
        frames = np.maximum(frames, frames.max() - 8.0)
        return ((frames + 4.0) / 4.0).astype(np.float32)
