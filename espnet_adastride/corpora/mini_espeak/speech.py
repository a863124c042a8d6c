"""The demo's recordings: eSpeak NG with pauses, silence, gain and noise."""

from dataclasses import replace
from functools import lru_cache

import numpy as np

from espnet_adastride.corpora.espeak import Voice, synthesise
from espnet_adastride.corpora.mini_espeak.grammar import Grammar
from espnet_adastride.corpora.mini_espeak.plan import (
    PITCHES,
    RATES,
    Speaker,
    generator,
)

FS = 16000  # Hz
NOISE_SHARE = 0.3  # share of the utterances
SNRS = (15.0, 30.0)  # dB
LEVELS = (-32.0, -20.0)  # dB re full scale, speech alone
FLOORS = (-75.0, -60.0)  # dB re full scale, faint noise in every recording
BABBLE_SECONDS, TALKERS = 15.0, 6  # of the babble of a part
PEAK = 0.9  # of full scale, never exceeded


def speak(sentence: str, speaker: Speaker, seed: int) -> np.ndarray:
    """Synthesise a sentence with pauses, silence at both ends, gain and noise.

    Args:
        sentence: From the grammar; commas are pauses.
        speaker: The speaker; the rate varies by 6 % between utterances.
        seed: Random seed of this utterance.

    Returns:
        Samples, int16 (N,), 16 kHz.
    """
    rng = np.random.default_rng(seed)
    rate = round(speaker.voice.rate * rng.uniform(0.94, 1.06))
    voice = replace(speaker.voice, rate=rate)
    speech = synthesise(
        _add_pauses(sentence, rng), voice, FS, int(rng.integers(1 << 31)), ssml=True
    )
    speech = speech / 32768.0
    speech *= 10 ** (rng.uniform(*LEVELS) / 20) / _rms(speech)
    ends = [int(FS * rng.uniform(0.1, 0.5)) for _ in range(2)]
    signal_ = np.concatenate([np.zeros(ends[0]), speech, np.zeros(ends[1])])
    noise = 10 ** (rng.uniform(*FLOORS) / 20) * rng.standard_normal(len(signal_))
    if rng.random() < NOISE_SHARE:
        kind = ("white", "pink", "babble")[rng.integers(3)]
        snr = rng.uniform(*SNRS)
        extra = _noise(kind, len(signal_), speaker.part, rng)
        noise = noise + extra * (_rms(speech) / _rms(extra) * 10 ** (-snr / 20))
    signal_ = signal_ + noise
    peak = np.abs(signal_).max()
    if peak > PEAK:
        signal_ *= PEAK / peak
    return np.rint(signal_ * 32767).astype(np.int16)


def _add_pauses(sentence: str, rng: np.random.Generator) -> str:
    """SSML of a sentence: commas become pauses; sometimes with a hesitation."""

    def pause(low: int, high: int) -> str:
        return f'<break time="{int(rng.integers(low, high))}ms"/>'

    parts = [f"{p.strip()}, " for p in sentence.split(",")]
    text = parts[0]
    for part in parts[1:]:
        text += pause(100, 600) + part
    text = text.rstrip(", ")
    words = text.split(" ")
    if "<break" not in text and len(words) > 4 and rng.random() < 0.15:
        words.insert(int(rng.integers(2, len(words) - 1)), pause(80, 350))
        text = " ".join(words)
    return text if text.endswith("?") else text + "."


def _noise(kind: str, length: int, part: str, rng: np.random.Generator) -> np.ndarray:
    if kind == "babble":
        bed = _babble(part)
        start = int(rng.integers(len(bed)))
        return np.resize(np.roll(bed, -start), length)
    white = rng.standard_normal(length)
    if kind == "white":
        return white
    spectrum = np.fft.rfft(white)
    spectrum /= np.sqrt(np.maximum(np.arange(len(spectrum)), 1))  # power ~ 1 / f
    return np.fft.irfft(spectrum, length)


@lru_cache(maxsize=None)
def _babble(part: str) -> np.ndarray:
    """Several voices of the part talking at once, (N,) of unit power."""
    grammar = Grammar.read()
    rng = generator(0, part, "babble")
    bed = np.zeros(int(FS * BABBLE_SECONDS))
    for i in range(TALKERS):
        variant, _ = rng.choice(grammar.voices[part])
        voice = Voice("en-us", variant, rng.randint(*RATES), rng.randint(*PITCHES))
        talk = [
            synthesise(grammar.draw(rng), voice, FS, 100 * i + n) / 32768.0
            for n in range(6)
        ]
        talk = np.resize(np.concatenate(talk), len(bed))
        bed += talk / _rms(talk)
    return bed / _rms(bed)


def _rms(x: np.ndarray) -> float:
    return float(np.sqrt(np.mean(np.square(x))))
