"""Offline speed perturbation (stage 2): a set with copies at other speeds.

As in Kaldi and ESPnet, a copy at factor 0.9 takes 1 / 0.9 of the time at a lower pitch.
Its utterances and speakers get the prefix ``sp0.9-``, because another speed sounds like
another voice. Factor 1.0 is the unchanged set.
"""

from fractions import Fraction
from pathlib import Path
from typing import Dict, List, NamedTuple, Sequence

from espnet_adastride.corpora import kaldi
from espnet_adastride.corpora.audio import audio_info
from espnet_adastride.corpora.datadir import read_data_dir, read_mono, write_data_dir
from espnet_adastride.errors import AudioError, UserError, counted
from espnet_adastride.files import PathLike, keep_if_made_from, quoted_name, write_flac
from espnet_adastride.progress import in_threads, progress_bar

AUDIO = "perturbed"  # the folder of the copies' audio, in the set's folder
RECORD = ".made_from.json"  # fingerprint of the input


def parse_factors(words: Sequence[str]) -> Dict[str, Fraction]:
    """Read speed factors, as typed: ``0.9`` gives the prefix ``sp0.9-``.

    Raises:
        UserError: A factor is not a number from 0.1 to 10, or occurs twice.
    """
    factors: Dict[str, Fraction] = {}
    for word in words:
        try:
            factor = Fraction(word)
        except (ValueError, ZeroDivisionError):
            factor = Fraction(0)
        if not Fraction(1, 10) <= factor <= 10 or "/" in word:
            raise UserError(
                f"--speed_perturb_factors: {word!r} is not a speed factor; give "
                "numbers from 0.1 "
                'to 10, such as "0.9 1.0 1.1"'
            )
        if factor in factors.values():
            raise UserError(f"--speed_perturb_factors: {word} is given twice")
        factors[word] = factor
    if not factors:
        raise UserError("--speed_perturb_factors is empty: give factors")
    return factors


class Copy(NamedTuple):
    """One utterance to make: its audio, the copy's file, and the factor."""

    key: str
    source: str
    target: Path
    factor: Fraction


def perturbed_samples(samples: int, factor: Fraction) -> int:
    """Return the samples of a copy: ceil(samples / factor)."""
    return -(-samples * factor.denominator // factor.numerator)


def _is_made(target: Path, samples: int, rate: int) -> bool:
    import soundfile

    try:  # decode to the end: the header of a truncated file is still intact
        wave, found = soundfile.read(str(target), dtype="int16")
    except RuntimeError:
        return False
    return (len(wave), found) == (samples, rate)


def change_speed(copy: Copy) -> None:
    """Write the copy atomically as 16-bit FLAC at the sampling rate of its source.

    An existing file with the right number of samples is kept. Resampling uses
    torchaudio, as ESPnet does on the fly.

    Raises:
        UserError: The source cannot be read, or has several channels.
    """
    import torch
    import torchaudio

    try:
        info = audio_info(copy.source)
        samples = perturbed_samples(info.samples, copy.factor)
        if _is_made(copy.target, samples, info.rate):
            return
        wave, _ = read_mono(copy.source)
    except AudioError as error:
        raise UserError(
            f"{copy.key}: {error} (or remove it from the data folder)"
        ) from None
    wave = torchaudio.functional.resample(
        torch.from_numpy(wave), copy.factor.numerator, copy.factor.denominator
    )
    wave = wave[:samples].clamp(-1.0, 1.0 - 2.0**-15).numpy()
    write_flac(copy.target, wave, info.rate)


def _copies(source: PathLike, output: Path, factors: Dict[str, Fraction]):
    """Return the merged tables of all copies, and the audio to make."""
    tables = read_data_dir(source)
    kaldi.reject_pipes(source, tables["wav.scp"])
    merged: Dict[str, Dict[str, str]] = {name: {} for name in tables}
    copies: List[Copy] = []
    for word, factor in factors.items():
        prefix = "" if factor == 1 else f"sp{word}-"
        for key, path in tables["wav.scp"].items():
            name, speaker = prefix + key, prefix + tables["utt2spk"][key]
            if name in merged["text"]:
                raise UserError(f"{source}: {name} exists already; rename it")
            if prefix:
                folder = output / AUDIO / quoted_name(speaker)
                target = folder / f"{quoted_name(name)}.flac"
                copies.append(Copy(name, path, target, factor))
                path = str(target)
            merged["wav.scp"][name] = path
            merged["text"][name] = tables["text"][key]
            merged["utt2spk"][name] = speaker
    return merged, copies


def perturb_data_dir(
    source: PathLike, output: PathLike, words: Sequence[str], nj: int, work: dict
) -> str:
    """Write a data folder with copies of a set at several speeds.

    An interrupted run resumes: copies made from the same ``work`` are kept.

    Args:
        source: A data folder.
        output: The output data folder; its audio is in ``<output>/perturbed``.
        words: Speed factors.
        nj: Number of threads.
        work: Fingerprint of the input.

    Returns:
        One line about the result.

    Raises:
        UserError: Naming the first unusable audio file.
    """
    import torch

    output = Path(output)
    merged, copies = _copies(source, output, parse_factors(words))
    keep_if_made_from(work, output / AUDIO, output / RECORD)
    torch.set_num_threads(1)  # the threads below are enough
    with progress_bar(len(copies), "changing speeds") as bar:
        for _ in in_threads(change_speed, copies, nj):
            bar.update()
    write_data_dir(output, merged, merged["wav.scp"])
    number = counted(len(merged["text"]), "utterance")
    return f"{output}: {number} at the speeds {' '.join(words)}"
