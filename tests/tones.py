"""Short tones that stand for words and sounds where classes are to be told apart."""

import numpy as np

TONES = {"high": 2500.0, "low": 300.0, "mid": 900.0}  # Hz


def tone(random: np.random.Generator, hertz: float, rate: int) -> np.ndarray:
    """Return 0.3 to 0.5 s of a tone about so high, (N,) samples, of height 0.1."""
    time = np.arange(int(rate * random.uniform(0.3, 0.5))) / rate
    return 0.1 * np.sin(2 * np.pi * hertz * random.uniform(0.9, 1.1) * time)


def noisy_tone(random: np.random.Generator, hertz: float, rate: int) -> np.ndarray:
    """Return a :func:`tone` in noise."""
    wave = tone(random, hertz, rate)
    return wave + 0.02 * random.standard_normal(len(wave))
