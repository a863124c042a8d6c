"""Faults of input and of disks: one line gives the cause and the fix, nothing is
lost.

Others are tested where the work is done: recordings and transcripts of LibriSpeech in
test_corpus.py, archives in test_archive.py, signals in test_recipe.py and
test_driver.py; killed stages and trainings in recipe/test_killed.py.
"""

import os
import pickle
import resource
import subprocess
import sys
import tempfile
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch

from espnet_adastride import files
from espnet_adastride.bin import (
    check_training,
    filter_data,
    format_data,
    make_token_list,
    perturb_speed,
    prepare_librispeech,
    score_times,
)
from espnet_adastride.corpora import datadir
from espnet_adastride.errors import UserError
from espnet_adastride.networks import saving

ROOT = Path(__file__).resolve().parents[1]
NOISE = np.random.default_rng(0).integers(-3000, 3000, 40000).astype("int16")
LARGEST = 4096  # bytes that a file may have where the disk is full


def make_set(folder, waves, text="SOME WORDS", rate=16000):
    """Write a data folder of audio {utterance: samples}."""
    folder.mkdir(parents=True)
    for key, wave in waves.items():
        soundfile.write(folder / f"{key}.flac", wave, rate)
    values = {"wav.scp": f"{folder}/{{}}.flac", "text": text, "utt2spk": "s"}
    for name, value in values.items():
        datadir.write_table(folder / name, {k: value.format(k) for k in waves})
    return folder


def one_line(command, words):
    """Return the one line in which a command refuses."""
    with pytest.raises(SystemExit) as error:
        command.main([str(word) for word in words])
    line = str(error.value)
    assert line.startswith("error: ") and "\n" not in line
    return line


def content(folder):
    """Return {name: bytes} of all files below a folder."""
    paths = (p for p in folder.rglob("*") if p.is_file())
    return {str(p.relative_to(folder)): p.read_bytes() for p in paths}


# ------------------------------------------------------------------ many and small
def test_ten_thousand_utterances_of_one_frame(tmp_path, capsys):
    """They are counted, named in a file, and the message stays a line."""
    source = tmp_path / "data"
    source.mkdir()
    soundfile.write(source / "a.flac", NOISE[:160], 16000)
    soundfile.write(source / "b.flac", NOISE[:16000], 16000)
    keys = [f"u{i:05}" for i in range(10000)]
    waves = {k: f"{source}/a.flac" for k in keys}
    waves["whole"] = f"{source}/b.flac"
    datadir.write_table(source / "wav.scp", waves)
    datadir.write_table(source / "text", dict.fromkeys(waves, "A"))
    datadir.write_table(source / "utt2spk", dict.fromkeys(waves, "s"))
    format_data.main(["--set", str(source), str(tmp_path / "org")])
    filter_data.main(["--set", str(tmp_path / "org"), str(tmp_path / "dump")])
    out = capsys.readouterr().out
    assert "kept 1 of 10001 utterances; left out: 10000 too short" in out
    assert len(out.splitlines()) == 2 and max(map(len, out.splitlines())) < 300
    removed = datadir.read_table(tmp_path / "dump" / "removed.txt")
    assert list(removed) == keys and set(removed.values()) == {"too short 0.010 s"}

    datadir.write_table(source / "wav.scp", waves, keys)
    for name in ("text", "utt2spk"):
        datadir.write_table(source / name, dict.fromkeys(keys, "A"))
    format_data.main(["--set", str(source), str(tmp_path / "org")])
    words = ["--set", tmp_path / "org", tmp_path / "dump"]
    line = one_line(filter_data, words)
    assert "all 10000 are shorter than 0.1 s" in line and len(line) < 300
    assert list(datadir.read_table(tmp_path / "dump" / "text")) == ["whole"]


def test_a_corrupt_flac_among_thousands(tmp_path, capsys):
    """It alone is left out, and named with its path."""
    keys = [f"12-34-{i:04}" for i in range(2000)]
    folder = tmp_path / "my corpus" / "dev-x" / "12" / "34"
    folder.mkdir(parents=True)
    soundfile.write(folder / "sound.flac", NOISE[:800], 16000)
    sound = (folder / "sound.flac").read_bytes()
    (folder / "sound.flac").unlink()
    for key in keys:
        (folder / f"{key}.flac").write_bytes(sound)
    damaged = bytearray(sound)
    damaged[-400:-350] = bytes(50)
    (folder / "12-34-1234.flac").write_bytes(damaged)
    (folder / "12-34.trans.txt").write_text("".join(f"{k} A B\n" for k in keys))
    output = tmp_path / "data"
    words = ["--corpus", tmp_path / "my corpus", "--part", "dev-x", "--output", output]
    prepare_librispeech.main([*map(str, words), "--nj", "1"])
    kept = [k for k in keys if k != "12-34-1234"]
    assert list(datadir.read_table(output / "text")) == kept
    (line,) = (output / "excluded.txt").read_text().splitlines()[1:]
    assert line.startswith(f"12-34-1234\t{folder}/12-34-1234.flac\t")
    assert "(12-34-1234)" in capsys.readouterr().out


# ------------------------------------------------------------------ transcripts
@pytest.mark.parametrize(
    "text, sentences",
    [
        ("u1\tA B\nu2 C\n", ["A B", "C"]),
        ("u1 A B\r\nu2 C\r\n", ["A B", "C"]),
        ("u1 A\tB\nu2   C  \n", ["A\tB", "C"]),
        ("u1\nu2 C\n", ["", "C"]),
        ("\ufeffu1 A B\nu2 C\n", ["A B", "C"]),
    ],
)
def test_tabs_crlf_and_no_text(tmp_path, text, sentences):
    (tmp_path / "text").write_bytes(text.encode())
    table = datadir.read_table(tmp_path / "text")
    assert list(table) == ["u1", "u2"] and list(table.values()) == sentences


def test_a_tab_between_words_is_a_space(tmp_path):
    source = make_set(tmp_path / "data", {"u1": NOISE[:8000]}, text="A\tB  C")
    format_data.main(["--set", str(source), str(tmp_path / "dump")])
    assert (tmp_path / "dump" / "text").read_text() == "u1 A B  C\n"


@pytest.mark.parametrize("kind", ["char", "bpe"])
def test_unseen_characters_are_told_with_their_utterance(tmp_path, capsys, kind):
    (tmp_path / "text").write_text("u1 THE CAT\nu2 THAT HAT\n")
    lines = "v1 THE HAT\nv2 \uff34HE CAF\u00c9\nv3 ATE! \u00c9\n"
    (tmp_path / "dev").write_text(lines)
    (tmp_path / "good").write_text("v1 THE HAT\n")
    words = ["--text", tmp_path / "text", "--output", tmp_path / "out"]
    words += ["--token_type", kind, "--nbpe", "12", "--check_text", tmp_path / "dev"]
    for _ in range(2):  # also when the list is there already
        words += ["--check_text", tmp_path / "good"]
        make_token_list.main([str(word) for word in words])
        line = capsys.readouterr().out.splitlines()[-1]
        assert line.startswith(f"warning: {tmp_path}/dev: 2 of 3 utterances have")
        assert "'!' (v3), 'F' (v2), 'É' (v2)" in line and "\uff34" not in line


@pytest.mark.parametrize(
    "text, words",
    [
        (b"u1 CAF\xc9\n", "text:1: not UTF-8"),
        (b"u1 A\nu2 B\xff\nu3 C\n", "text:2: not UTF-8"),
        (b"u1 A\n\nu3 C\n", "text:2: blank line; remove it"),
        (b"u1\n", "no text in"),
        (b"", "no text in"),
    ],
)
def test_transcripts_that_cannot_be_used(tmp_path, text, words):
    (tmp_path / "text").write_bytes(text)
    options = ["--text", tmp_path / "text", "--output", tmp_path / "char"]
    line = one_line(make_token_list, [*options, "--token_type", "char"])
    assert words in line and f"{tmp_path}/text" in line
    assert not (tmp_path / "char").exists()


# ------------------------------------------------------------------ disks
def full_disk():
    """Let no file of this process and its children grow beyond LARGEST bytes."""
    resource.setrlimit(resource.RLIMIT_FSIZE, (LARGEST, LARGEST))


def under(limit, module, words):
    """Run a command in a process of its own; return its status and last words."""
    done = subprocess.run(
        [sys.executable, "-m", f"espnet_adastride.bin.{module}", *map(str, words)],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        preexec_fn=limit,
    )
    return done.returncode, done.stderr


def test_a_full_disk_is_named_and_leaves_what_was_there(tmp_path):
    """Tables and resampled audio; the same command finishes when there is room."""
    rate, waves = 8000, {f"u{i}": NOISE[:8000] for i in range(3)}
    source = make_set(tmp_path / "data", waves, rate=rate)
    words = ["--set", source, tmp_path / "dump", "--nj", "2"]
    status, text = under(full_disk, "format_data", words)
    assert status == 1 and len(text.splitlines()) == 1, text
    assert "u0.flac cannot be written" in text and "raise the limit" in text
    assert "give the same command again" in text
    assert not (tmp_path / "dump").exists()
    format_data.main([str(word) for word in words])
    assert len(datadir.read_table(tmp_path / "dump" / "wav.scp")) == 3

    # more utterances than a table of that size has lines for: the old one stays
    before = content(tmp_path / "dump")
    keys = [f"{'k' * 40}{i:04}" for i in range(100)]
    audio = datadir.read_table(tmp_path / "dump" / "wav.scp")["u0"]
    datadir.write_table(source / "wav.scp", dict.fromkeys(keys, audio))
    for name in ("text", "utt2spk"):
        datadir.write_table(source / name, dict.fromkeys(keys, "A"))
    status, text = under(full_disk, "format_data", words)
    assert status == 1 and len(text.splitlines()) == 1, text
    assert "/wav.scp cannot be written" in text
    del before[".stage_done"]  # it is to be done again
    assert content(tmp_path / "dump") == before


@pytest.mark.slow
def test_a_full_disk_while_copies_are_made_keeps_the_finished_ones(tmp_path):
    quiet = np.zeros(8000, "int16")  # a few bytes of FLAC
    source = make_set(tmp_path / "data", {"a": quiet, "b": NOISE[:8000]})
    output = tmp_path / "data_sp"
    words = ["--source", source, "--output", output, "--nj", "1", "--factors", "0.9"]
    status, text = under(full_disk, "perturb_speed", words)
    assert status == 1 and len(text.splitlines()) == 1, text
    assert "sp0.9-b.flac cannot be written" in text
    (made,) = output.rglob("*.flac*")
    assert made.name == "sp0.9-a.flac"
    time_made = made.stat().st_mtime_ns
    perturb_speed.main([str(word) for word in words])
    assert made.stat().st_mtime_ns == time_made
    assert len(datadir.read_table(output / "wav.scp")) == 2


def test_the_error_number_of_a_full_disk(tmp_path, monkeypatch):
    path = tmp_path / "tokens.txt"
    path.write_text("old")

    def full(self, *args, **kwargs):
        with open("/dev/full", "w") as file:
            file.write("x")

    if os.path.exists("/dev/full"):
        monkeypatch.setattr(Path, "write_text", full)
        with pytest.raises(OSError, match="No space left.*tokens.txt"):
            files.write_text(path, "new")
        datadir_text = tmp_path / "text"
        datadir_text.write_bytes(b"u1 A\n")
        options = ["--text", datadir_text, "--output", tmp_path / "char"]
        line = one_line(make_token_list, [*options, "--token_type", "char"])
        assert "tokens.txt cannot be written" in line and "the disk is full" in line
    assert path.read_bytes() == b"old"


def test_a_device_or_an_input_is_not_replaced(tmp_path):
    """As root, a file would take the place of /dev/full, for all programs."""
    device, words = tmp_path / "device", tmp_path / "words.ctm"
    os.mkfifo(device)
    words.write_text("u1 1 0.10 0.30 A\n")
    with pytest.raises(UserError, match=f"{device}: a device or a pipe; give the name"):
        files.write_text(device, "text")
    assert device.is_fifo()
    command = ["--ctm", words, "--ref", words, "--output"]
    assert "is an input" in one_line(score_times, [*command, words])
    assert "a device or a pipe" in one_line(score_times, [*command, device])
    assert words.read_text() == "u1 1 0.10 0.30 A\n"


@contextmanager
def as_a_plain_user():
    """Give up, for a while, root's right to write everywhere."""
    root = os.geteuid() == 0
    if root:
        os.seteuid(65534)
    try:
        yield
    finally:
        if root:
            os.seteuid(0)


def test_a_folder_that_cannot_be_written():
    with tempfile.TemporaryDirectory() as name:  # tmp_path is closed to other users
        os.chmod(name, 0o755)
        source = make_set(Path(name) / "data", {"u1": NOISE[:8000]})
        dump = Path(name) / "dump"
        dump.mkdir()
        dump.chmod(0o555)
        with as_a_plain_user():
            if not os.access(source, os.R_OK, effective_ids=True):
                pytest.skip(f"another user cannot read {name}")
            line = one_line(format_data, ["--set", source, dump / "train"])
        dump.chmod(0o755)
        assert f"{dump}/" in line and "permission denied" in line
        assert list(dump.iterdir()) == []


def test_a_file_where_a_folder_must_be(tmp_path):
    source = make_set(tmp_path / "data", {"u1": NOISE[:8000]})
    (tmp_path / "dump").write_text("a file")
    line = one_line(format_data, ["--set", source, tmp_path / "dump" / "train"])
    assert "dump" in line and "a file is where a folder must be" in line


# ------------------------------------------------------------------ checkpoints
def trained(folder, epochs=(1, 2), checkpoint=2):
    """Write what ESPnet's trainer leaves, and its record."""
    folder.mkdir(exist_ok=True)
    for epoch in epochs:
        torch.save({"w": torch.full((64,), float(epoch))}, folder / f"{epoch}epoch.pth")
    state = {"model": {"w": torch.full((64,), float(checkpoint))}}
    state["reporter"] = {"epoch": checkpoint, "stats": {}}
    torch.save(state, folder / "checkpoint.pth")
    return folder


def cut(path, share=0.5):
    data = path.read_bytes()
    path.write_bytes(data[: int(len(data) * share)])


@pytest.mark.parametrize("share", [0.0, 0.4, 0.99])
def test_a_checkpoint_that_is_cut_off(tmp_path, share):
    """Refused before anything is started; the newest whole model is named."""
    exp = trained(tmp_path / "asr_x", epochs=(1, 2, 10))
    words = ["--action", "start", "--exp", exp]
    check_training.main([str(word) for word in words])
    cut(exp / "10epoch.pth")
    cut(exp / "checkpoint.pth", share)
    before = content(exp)
    line = one_line(check_training, words)
    assert f"{exp}/checkpoint.pth is truncated" in line
    assert f"--asr_tag NAME --pretrained_model {exp}/2epoch.pth" in line
    assert content(exp) == before


def test_a_model_that_is_cut_off_is_named(tmp_path):
    load = saving.naming(torch.load)
    path = trained(tmp_path / "exp") / "2epoch.pth"
    cut(path)
    with pytest.raises(OSError, match="2epoch.pth is truncated.*another model"):
        load(path, map_location="cpu", weights_only=False)
    path.write_bytes(b"")
    with pytest.raises(OSError, match="2epoch.pth is truncated"):
        load(path)


def test_what_the_trainer_reads_is_named_under_202611_too(tmp_path):
    """There it loads with weights_only, and takes any error for unsafe content."""
    load = saving.naming(torch.load)
    exp = trained(tmp_path / "exp")
    for name, share in (("2epoch.pth", 0.5), ("checkpoint.pth", 0.0)):
        cut(exp / name, share)
        with pytest.raises(OSError, match=f"{name} is truncated.*another model"):
            load(exp / name, map_location="cpu", weights_only=True)
    (exp / "1epoch.pth").write_bytes(b"half a fi")
    with pytest.raises(OSError, match="1epoch.pth is truncated or not a PyTorch"):
        load(exp / "1epoch.pth", weights_only=True)
    # what is whole, but could run code, is refused in PyTorch's words
    torch.save({"x": Path("x")}, exp / "3epoch.pth")
    with pytest.raises(pickle.UnpicklingError, match="Unsupported"):
        load(exp / "3epoch.pth", weights_only=True)


@pytest.mark.parametrize("weights_only", [False, True], ids=["202511", "202611"])
def test_an_epoch_whose_model_was_not_written_any_more(tmp_path, weights_only):
    """Killed between checkpoint.pth and 2epoch.pth: the average needs both."""
    exp = trained(tmp_path / "exp", epochs=(1,))
    load = saving.naming(torch.load)
    load(exp / "checkpoint.pth", weights_only=weights_only)
    assert torch.equal(torch.load(exp / "2epoch.pth")["w"], torch.full((64,), 2.0))
    torch.save({"w": torch.zeros(1)}, exp / "2epoch.pth")  # one that is there stays
    load(exp / "checkpoint.pth", weights_only=False)
    assert len(torch.load(exp / "2epoch.pth")["w"]) == 1


def test_a_full_disk_while_a_checkpoint_is_written(tmp_path):
    exp = trained(tmp_path / "exp")
    code = "from espnet_adastride.networks import saving; import torch, sys\n"
    code += "saving.install(); torch.save(torch.zeros(9000), sys.argv[1])"
    done = subprocess.run(
        [sys.executable, "-c", code, str(exp / "checkpoint.pth")],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        preexec_fn=full_disk,
    )
    line = done.stderr.splitlines()[-1]
    assert done.returncode == 1 and "could not be written" in line
    assert f"{exp}/checkpoint.pth" in line and "free some space" in line
    assert torch.load(exp / "checkpoint.pth")["reporter"]["epoch"] == 2
    names = {"1epoch.pth", "2epoch.pth", "checkpoint.pth"}
    assert set(os.listdir(exp)) == names
