"""Classified recordings for ESPnet's task cls: converted where needed, or refused."""

import numpy as np
import pytest
import soundfile

from espnet_adastride.bin import clips_for_espnet

RATE = 16000


def test_recordings_that_do_not_fit_are_converted(tmp_path):
    corpus, folder = tmp_path / "corpus", tmp_path / "data"
    corpus.mkdir()
    time = np.arange(8000) / 8000
    wave = 0.3 * np.sin(2 * np.pi * 440 * time)
    soundfile.write(corpus / "left.wav", np.stack([wave, 0 * wave], 1), 8000)
    soundfile.write(corpus / "my own.wav", np.tile(wave, 2), RATE)
    for name in ("fits.flac", "more.flac"):
        soundfile.write(corpus / name, np.tile(wave, 2), RATE)
    (corpus / "labels.csv").write_text(
        "file,label,part\nleft.wav,u,train\nmy own.wav,u,valid\nfits.flac,u,test\n"
        "more.flac,v,train\n"
    )
    command = ["--corpus", str(corpus), "--layout", "table", "--split", "given"]
    clips_for_espnet.main([*command, "--output_dir", str(folder)])
    paths = {
        part: (folder / part / "wav.scp").read_text().split()[1]
        for part in ("train", "valid", "test")
    }
    assert paths["test"] == str(corpus / "fits.flac")
    found, rate = soundfile.read(paths["train"])
    assert rate == RATE and found.shape == (16000,)
    expected = 0.15 * np.sin(2 * np.pi * 440 * np.arange(16000) / RATE)
    assert np.abs(found - expected)[500:-500].max() < 1e-3
    found, rate = soundfile.read(paths["valid"])
    assert rate == RATE and np.abs(found - np.tile(wave, 2)).max() < 1e-4
    before = [path.stat().st_mtime_ns for path in sorted((folder / "wav").iterdir())]
    clips_for_espnet.main([*command, "--output_dir", str(folder)])
    after = [path.stat().st_mtime_ns for path in sorted((folder / "wav").iterdir())]
    assert len(before) == 2 and before == after


def test_a_recording_that_cannot_be_read_is_named(tmp_path):
    for name in "abcd":
        soundfile.write(tmp_path / f"{name} x.wav", np.zeros(9), RATE)
    rows = "file,label,part\na x.wav,u,train\nb x.wav,v,train\nc x.wav,u,valid\n"
    (tmp_path / "labels.csv").write_text(rows + "d x.wav,v,test\n")
    (tmp_path / "b x.wav").write_text("no sound")
    command = ["--corpus", str(tmp_path), "--layout", "table", "--split", "given"]
    with pytest.raises(SystemExit, match="b x.wav: unreadable audio"):
        clips_for_espnet.main([*command, "--output_dir", str(tmp_path / "out")])
