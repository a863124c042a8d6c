"""Make ESPnet name the recording that it cannot read.

Its loader raises libsndfile's error, which does not name the file: ``Error : flac
decoder lost sync.`` In a DataLoader's worker, not even this is shown
(``LibsndfileError: <exception str() failed>``).
"""

import functools
from pathlib import Path

import numpy as np
import soundfile

from espnet_adastride.errors import AudioError
from espnet_adastride.plugin import espnet
from espnet_adastride.plugin.imports import over


def _read(stock, wavs, *args, several: bool = False, **kwargs):
    """Read as one of ESPnet's readers does, with errors that name the file.

    Args:
        stock: ``soundfile_read`` (one path or a list, to samples and rate), or the
            reader of statistics and decoding (a path, to samples).
        wavs: what it reads.
        several: the path is several paths, separated by white space.

    Raises:
        AudioError: for libsndfile's errors and for samples that are not finite.
    """
    try:
        result = stock(wavs, *args, **kwargs)
    except (soundfile.LibsndfileError, ValueError) as error:
        reason = getattr(error, "error_string", "its length is unknown")
        # of a FLAC that was written to a pipe, soundfile asks NumPy for 2^63 samples
        if isinstance(error, ValueError) and "array is too big" not in str(error):
            raise
        paths = wavs.split() if several else wavs
        paths = [paths] if isinstance(paths, str) else paths
        missing = [path for path in paths if not Path(path).exists()]
        if missing and paths[-1].endswith("|"):
            raise AudioError(
                f"{' '.join(paths)}: is a command, and ESPnet's type sound reads only "
                "files; write them in stage 3 (--feats_type raw), or with adastride "
                "prepare --run_pipes true"
            ) from None
        if missing:
            raise AudioError(
                f"{missing[0]}: there is no such recording; if the corpus was "
                "moved, prepare the data again from stage 1"
            ) from None
        raise AudioError(
            f"{' or '.join(paths)}: cannot be decoded ({reason}); get it "
            "again, or take it out of the data and prepare them again from stage 3"
        ) from None
    wave = result[0] if isinstance(result, tuple) else result
    if wave is None:  # ESPnet allows some recordings to be absent
        return result
    if np.issubdtype(wave.dtype, np.floating) and not np.isfinite(wave).all():
        names = wavs if isinstance(wavs, str) else " or ".join(wavs)
        wrong = np.count_nonzero(~np.isfinite(wave))
        raise AudioError(
            f"{names}: {wrong} samples are not numbers (NaN, infinite); export it "
            "again, or take it out of the data and prepare them again from stage 3"
        )
    return result


def install() -> None:
    """Change ESPnet's readers of ``wav.scp`` in place; idempotent.

    Training reads by ``sound_scp``, statistics and decoding by ``iterable_dataset``.
    """
    for module in (espnet.sound_scp, espnet.multi_sound_scp):
        module.soundfile_read = over(module.soundfile_read, _read)
    types = espnet.iterable_dataset.DATA_TYPES
    for word in ("sound", "multi_columns_sound", "variable_columns_sound"):
        if word in types:
            read = functools.partial(_read, several=word != "sound")
            types[word] = over(types[word], read)
