"""Find speech in a recording by the energy of short windows, without a model."""

from typing import Iterator

import numpy as np

#: seconds between windows, which are also the columns of a spectrogram
HOP = 0.005
#: seconds of a window
WINDOW = 0.025
#: windows computed at a time
BLOCK = 2000
#: speech is at most this much quieter than the loudest frame
SPEECH_THRESHOLD_DB = 30.0
#: digital silence; a recording that never exceeds it has no speech
SILENCE_DB = -90.0


def _frames(wave: np.ndarray, rate: int) -> int:
    """Return the number of windows of a recording."""
    return max(1, int(np.ceil(len(wave) / rate / HOP - 1e-9)))


def windows(wave: np.ndarray, rate: int) -> Iterator[np.ndarray]:
    """Yield (frames, window) samples, frame i centred at (i + 0.5) HOP seconds.

    In blocks: all windows of ten minutes together would take gigabytes.
    """
    size = max(2, round(WINDOW * rate))
    centres = np.round((np.arange(_frames(wave, rate)) + 0.5) * HOP * rate).astype(int)
    padded = np.pad(np.asarray(wave), size)
    for first in range(0, len(centres), BLOCK):
        begin = centres[first : first + BLOCK] + size - size // 2
        places = begin[:, None] + np.arange(size)[None, :]
        yield padded[places].astype(np.float64)


def frame_edges(wave: np.ndarray, rate: int) -> np.ndarray:
    """Return (frames + 1,) seconds: the intervals of :func:`energy_db`."""
    count = _frames(wave, rate)
    edges = np.arange(count + 1) * HOP
    edges[-1] = len(wave) / rate
    return edges


def energy_db(wave: np.ndarray, rate: int) -> np.ndarray:
    """Return (frames,) the energy of 25 ms windows in dB below full scale."""
    parts = [np.square(block).mean(axis=1) for block in windows(wave, rate)]
    power = np.concatenate(parts)
    return 10 * np.log10(np.maximum(power, 10 ** (SILENCE_DB / 10)))


def is_speech(energy: np.ndarray, threshold: float = SPEECH_THRESHOLD_DB) -> np.ndarray:
    """Return (frames,) booleans: at most ``threshold`` dB below the loudest frame.

    Sufficient for clean recordings; music and noise also count as speech.
    """
    return (energy > SILENCE_DB) & (energy >= energy.max() - threshold)
