"""A recording that ESPnet cannot read is named, in the process and out of a worker."""

import numpy as np
import pytest
import soundfile
from espnet2.train.dataset import ESPnetDataset
from espnet2.train.iterable_dataset import IterableESPnetDataset
from torch.utils.data import DataLoader

from espnet_adastride.bin import run
from espnet_adastride.errors import AudioError, UserError


@pytest.fixture
def wav_scp(tmp_path):
    """A set of one whole recording and of one that the test spoils."""
    noise = np.random.default_rng(0).integers(-3000, 3000, 40000).astype("int16")
    for name in ("whole", "bad"):
        soundfile.write(tmp_path / f"{name}.flac", noise, 16000)
    path = tmp_path / "wav.scp"
    path.write_text("".join(f"{n} {tmp_path}/{n}.flac\n" for n in ("whole", "bad")))
    return path


def spoil(path, how):
    if how == "missing":
        path.unlink()
    elif how == "piped":  # a length of 0, as ffmpeg and flac write to a pipe
        flac = path.read_bytes()
        path.write_bytes(flac[:21] + bytes([flac[21] & 0xF0, 0, 0, 0, 0]) + flac[26:])
    else:
        path.write_bytes(path.read_bytes()[: {"cut": 30000, "empty": 0}[how]])


@pytest.mark.parametrize("workers", [0, 1])
@pytest.mark.parametrize(
    "how, words",
    [
        ("missing", "there is no such recording; if the corpus was moved, prepare"),
        ("cut", "cannot be decoded (Error : flac decoder lost sync.); get it again"),
        ("piped", "cannot be decoded (its length is unknown); get it again"),
        ("empty", "cannot be decoded (Format not recognised.); get it again"),
    ],
)
def test_the_file_is_named_in_one_line(wav_scp, how, words, workers):
    bad = wav_scp.parent / "bad.flac"
    spoil(bad, how)
    data = ESPnetDataset([(str(wav_scp), "speech", "sound")])
    loader = DataLoader(
        data, batch_size=1, sampler=["whole", "bad"], num_workers=workers
    )
    batches = iter(loader)
    assert next(batches)[1]["speech"].shape == (1, 40000)
    with pytest.raises(AudioError) as error:
        next(batches)
    assert str(error.value).startswith(f"{bad}: {words}")
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("kind", ["sound", "multi_columns_sound"])
@pytest.mark.parametrize("reader", [ESPnetDataset, IterableESPnetDataset])
def test_a_command_is_not_taken_for_a_file_that_was_moved(wav_scp, reader, kind):
    command = f"cat {wav_scp.parent}/bad.flac |"
    wav_scp.write_text(f"bad {command}\n")
    data = reader([(str(wav_scp), "speech", kind)])
    with pytest.raises(AudioError) as error:
        data["bad"] if reader is ESPnetDataset else next(iter(data))
    assert str(error.value).startswith(f"{command}: is a command, and ESPnet's type")
    assert "--run_pipes true" in str(error.value) and "moved" not in str(error.value)


def test_a_tool_ends_in_that_line(wav_scp):
    bad = wav_scp.parent / "bad.flac"
    spoil(bad, "cut")
    code = (
        "from espnet2.fileio.sound_scp import SoundScpReader\n"
        f"SoundScpReader({str(wav_scp)!r})['bad']"
    )
    with pytest.raises(SystemExit) as error:
        run.main(["-c", code])
    assert str(error.value).startswith(f"error: {bad}: cannot be decoded")


def test_samples_that_are_not_numbers_are_named(wav_scp):
    bad = wav_scp.parent / "bad.wav"
    wave = np.zeros(4000, np.float32)
    wave[7:10] = np.nan
    soundfile.write(bad, wave, 16000, subtype="FLOAT")
    wav_scp.write_text(f"whole {wav_scp.parent}/whole.flac\nbad {bad}\n")
    data = ESPnetDataset([(str(wav_scp), "speech", "sound")])
    assert data["whole"][1]["speech"].shape == (40000,)
    with pytest.raises(AudioError) as error:
        data["bad"]
    assert str(error.value).startswith(f"{bad}: 3 samples are not numbers")


def test_a_message_that_quotes_an_error_of_its_own_kind_stays_whole():
    """As recipe/jobs.py does with the last line of a log."""
    message = "t.log: espnet_adastride.errors.UserError: the token list is empty"
    assert str(UserError(message)) == message
