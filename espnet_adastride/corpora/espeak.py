"""Speech synthesis with eSpeak NG through ctypes.

    voice = Voice("en-gb-scotland", variant="f2", rate=160)
    samples = synthesise("the train is late", voice)     # int16, 16 kHz, mono

The engine and its data come with the PyPI package ``espeakng-loader``, which is loaded
at the first call, not at import. The same arguments always give the same samples:
eSpeak NG keeps the phase of its oscillators, its flutter and two random number
generators between calls, and only unloading the library resets them all. Loading it
again takes about 5 ms.
"""

import ctypes
import os
import tempfile
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Dict, Iterator, Tuple

import numpy as np

from espnet_adastride.errors import UserError

ENGINE_FS = 22050  # Hz, output of eSpeak NG's own synthesiser

# From speak_lib.h.
_SYNCHRONOUS = 2
_DONT_EXIT = 0x8000
_PARAMETERS = {"rate": 1, "volume": 2, "pitch": 3, "pitch_range": 4}
_UTF8, _SSML, _END_PAUSE = 1, 0x10, 0x1000
_POSITION_CHARACTER = 1
_CALLBACK = ctypes.CFUNCTYPE(
    ctypes.c_int, ctypes.POINTER(ctypes.c_short), ctypes.c_int, ctypes.c_void_p
)
# Size of the buffer for eSpeak NG's data path, in bytes.
_MAX_PATH = 140


@dataclass(frozen=True)
class Voice:
    """A voice of eSpeak NG.

    Attributes:
        accent: Language code, e.g. ``en-us``.
        variant: Voice variant, e.g. ``f1``; ``""`` is the plain voice.
        rate: Speaking rate, in words per minute (80 to 450).
        pitch: Base pitch, 0 to 100; 50 is the variant's default.
        pitch_range: Pitch range, 0 to 100; 50 is the variant's default.
    """

    accent: str = "en-us"
    variant: str = ""
    rate: int = 175
    pitch: int = 50
    pitch_range: int = 50

    @property
    def name(self) -> str:
        """eSpeak NG's name for accent and variant, e.g. ``en-us+f1``."""
        return f"{self.accent}+{self.variant}" if self.variant else self.accent


def synthesise(
    text: str, voice: Voice, fs: int = 16000, seed: int = 0, ssml: bool = False
) -> np.ndarray:
    """Synthesise a text.

    Args:
        text: The text.
        voice: The voice.
        fs: Sampling rate of the result, in Hz.
        seed: Seed of the engine's own randomness (breath, flutter).
        ssml: Read ``text`` as SSML; ``<break time="300ms"/>`` is a pause.

    Returns:
        Samples, int16 (N,), without the engine's silence at both ends.

    Raises:
        UserError: The engine is missing, does not have the voice, or returned no
            audio.
    """
    accents, variants = _voice_files()
    if voice.accent not in accents:
        raise UserError(
            f"eSpeak NG has no English accent {voice.accent!r}; choose from "
            f"{', '.join(sorted(accents))}"
        )
    # The engine silently falls back to the plain voice.
    if voice.variant and voice.variant not in variants:
        raise UserError(
            f"eSpeak NG has no voice variant {voice.variant!r}; choose from "
            f"{', '.join(sorted(variants))}"
        )
    name = accents[voice.accent] + (f"+{voice.variant}" if voice.variant else "")
    chunks = []

    def keep(samples, count, events):
        if samples and count > 0:
            chunks.append(ctypes.string_at(samples, 2 * count))
        return 0

    callback = _CALLBACK(keep)
    with _engine(seed) as engine:
        engine.espeak_SetSynthCallback(callback)
        if engine.espeak_SetVoiceByName(name.encode()):
            raise UserError(
                f"eSpeak NG cannot load the voice {voice.name}; reinstall "
                "espeakng-loader"
            )
        # Half the usual volume: some variants clip at full volume.
        values = {
            "rate": voice.rate,
            "volume": 50,
            "pitch": voice.pitch,
            "pitch_range": voice.pitch_range,
        }
        for parameter, value in values.items():
            engine.espeak_SetParameter(_PARAMETERS[parameter], int(value), 0)
        data = text.encode("utf-8") + b"\0"
        flags = _UTF8 | _END_PAUSE | (_SSML if ssml else 0)
        status = engine.espeak_Synth(
            data, len(data), 0, _POSITION_CHARACTER, 0, flags, None, None
        )
        engine.espeak_Synchronize()
    if status:
        raise UserError(f"eSpeak NG failed with status {status} on {text!r}")
    samples = np.frombuffer(b"".join(chunks), dtype=np.int16)
    loud = np.flatnonzero(np.abs(samples.astype(np.int32)) > 30)
    if len(loud) == 0:
        raise UserError(
            f"eSpeak NG ({voice.name}) returned no audio for {text!r}; give words that "
            "can be spoken"
        )
    return resample(samples[loud[0] : loud[-1] + 1], ENGINE_FS, fs)


def resample(samples: np.ndarray, fs_in: int, fs_out: int) -> np.ndarray:
    """Resample int16 samples (N,) from ``fs_in`` to ``fs_out`` Hz, clipping safely."""
    if fs_in == fs_out:
        return samples
    try:
        import soxr
    except ImportError:
        raise UserError(_absent("soxr")) from None
    result = soxr.resample(samples.astype(np.float64), fs_in, fs_out, quality="HQ")
    return np.clip(np.rint(result), -32768, 32767).astype(np.int16)


def version() -> str:
    """Version of eSpeak NG, e.g. ``1.52.0``."""
    engine = ctypes.CDLL(_paths()[0])
    engine.espeak_Info.restype = ctypes.c_char_p
    try:
        return engine.espeak_Info(None).decode().split()[0]
    finally:
        _unload(engine)


# ------------------------------------------------------------------------- the engine


@contextmanager
def _engine(seed: int) -> Iterator[ctypes.CDLL]:
    """A freshly loaded engine, unloaded at exit."""
    library, data = _paths()
    engine = ctypes.CDLL(library)
    try:
        rate = engine.espeak_Initialize(_SYNCHRONOUS, 0, os.fsencode(data), _DONT_EXIT)
        if rate != ENGINE_FS:
            raise UserError(
                f"eSpeak NG cannot be initialised with the data in {data} (status "
                f"{rate}); reinstall espeakng-loader"
            )
        try:
            engine.espeak_ng_SetRandSeed(ctypes.c_long(seed & 0x7FFFFFFF))
            # Some variants (Reed, caleb) draw noise from the C library's generator.
            ctypes.CDLL(None).srand(ctypes.c_uint(seed & 0x7FFFFFFF))
            yield engine
        finally:
            engine.espeak_Terminate()
    finally:
        _unload(engine)


def _unload(engine: ctypes.CDLL) -> None:
    import _ctypes

    _ctypes.dlclose(engine._handle)


def _absent(package: str) -> str:
    return (
        f"the package {package} is not installed; install the demo's extra: "
        'pip install "espnet_adastride[demo]"'
    )


@lru_cache(maxsize=None)
def _paths() -> Tuple[str, str]:
    """Paths of the shared library and of the folder with its data."""
    try:
        import espeakng_loader
    except ImportError:
        raise UserError(_absent("espeakng-loader")) from None
    library = espeakng_loader.get_library_path()
    data = espeakng_loader.get_data_path()
    for path in (library, data):
        if not os.path.exists(path):
            raise UserError(f"{path} is missing; reinstall espeakng-loader")
    if len(os.fsencode(data)) > _MAX_PATH:
        data = _short_link(data)
    return library, data


def _short_link(data: str) -> str:
    """A short symbolic link to the data, for long installation paths."""
    import atexit
    import shutil

    folder = tempfile.mkdtemp(prefix="espeak")
    process = os.getpid()

    def remove():
        if os.getpid() == process:  # not in a forked child
            shutil.rmtree(folder, ignore_errors=True)

    atexit.register(remove)
    link = os.path.join(folder, "espeak-ng-data")
    os.symlink(data, link)
    return link


@lru_cache(maxsize=None)
def _voice_files() -> Tuple[Dict[str, str], Tuple[str, ...]]:
    """Files of the English accents by language code, and the names of the variants."""
    data = Path(_paths()[1])
    accents = {}
    for path in sorted((data / "lang" / "gmw").glob("en*")):
        # The first `language` line of a voice file is the code it answers to.
        for line in path.read_text(encoding="utf-8").splitlines():
            words = line.split()
            if words and words[0] == "language":
                accents.setdefault(words[1].lower(), f"gmw/{path.name}")
                break
    variants = tuple(p.name for p in (data / "voices" / "!v").iterdir())
    return accents, variants
