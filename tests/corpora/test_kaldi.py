"""Data directories whose paths are relative to a recipe, read from another folder."""

import os
from argparse import Namespace
from pathlib import Path

import pytest

from espnet_adastride.bin import align, plot
from espnet_adastride.corpora.kaldi import read_recordings
from espnet_adastride.errors import UserError
from espnet_adastride.report.experiments import Decoded, find_audio


def make_recipe(folder, *sets):
    """Two utterances per set, named as ESPnet's asr.sh does."""
    for name in sets:
        data = folder / name
        (data / "data").mkdir(parents=True)
        for key in ("u1", "u2"):
            (data / "data" / f"{key}.flac").write_text("")
        lines = [f"{key} {name}/data/{key}.flac\n" for key in ("u1", "u2")]
        (data / "wav.scp").write_text("".join(lines))
        (data / "text").write_text("u1 A\nu2 B\n")
    return folder


@pytest.mark.parametrize("name", ["dump/raw/test", "dump/raw/org/test", "data/test"])
@pytest.mark.parametrize("relative", [False, True])
def test_paths_of_a_recipe_from_another_folder(name, relative, tmp_path, monkeypatch):
    recipe = make_recipe(tmp_path / "recipe", name)
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    folder = Path("..", "recipe", name) if relative else recipe / name
    first = str(recipe / name / "data" / "u1.flac")
    options = {"audio": None, "text": None, "utt_id": "u1", "data_dir": str(folder)}
    assert align.read_jobs(Namespace(**options))["u1"] == (first, "A")
    assert plot.choose(Namespace(**options)).audio == first
    decoded = Decoded("decode", "other", {"u1": "A"}, {"u1": "A"}, {}, tmp_path)
    assert find_audio(decoded, tmp_path / "exp" / "asr", [folder]) == {"u1": first}


def test_the_data_of_another_recipe_are_not_mistaken(tmp_path, monkeypatch):
    """Two recipes have files of the same names."""
    one, two = (make_recipe(tmp_path / name, "data/test") for name in ("one", "two"))
    monkeypatch.chdir(one)
    assert read_recordings("data/test")["u1"] == "data/test/data/u1.flac"
    waves = read_recordings(two / "data" / "test")
    assert waves["u1"] == str(two / "data" / "test" / "data" / "u1.flac")


def test_other_paths_are_unchanged(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("here.flac").write_text("")
    folder = tmp_path / "a" / "b" / "c" / "d" / "e" / "set"
    folder.mkdir(parents=True)
    Path("odd |").write_text("")
    paths = ("here.flac", "none.flac", "/none.flac", "odd |")
    lines = [f"u{number} {path}\n" for number, path in enumerate(paths)]
    (folder / "wav.scp").write_text("".join(lines))
    assert tuple(read_recordings(folder).values()) == paths
    assert os.path.samefile(read_recordings(folder)["u0"], tmp_path / "here.flac")


def test_the_dump_of_a_recipe_may_be_a_link(tmp_path, monkeypatch):
    """Its target, on a large disk, has another name and is below another folder."""
    recipe = make_recipe(tmp_path / "recipe", "dump/raw/test")
    (tmp_path / "disk").mkdir()
    (recipe / "dump").rename(tmp_path / "disk" / "large")
    (recipe / "dump").symlink_to(tmp_path / "disk" / "large")
    monkeypatch.chdir(tmp_path)
    waves = read_recordings("recipe/dump/raw/test")
    assert waves["u1"] == str(recipe / "dump" / "raw" / "test" / "data" / "u1.flac")


def test_a_file_named_like_a_pipe_is_found_from_another_folder(tmp_path, monkeypatch):
    folder = make_recipe(tmp_path / "recipe", "data/test") / "data" / "test"
    (folder / "data" / "odd |").write_text("")
    (folder / "wav.scp").write_bytes(b"u1 data/test/data/odd |\r\n")
    monkeypatch.chdir(tmp_path)
    assert read_recordings(folder) == {"u1": str(folder / "data" / "odd |")}


def test_the_command_that_cuts_recordings_can_be_copied(tmp_path, monkeypatch):
    folder = tmp_path / "my data"
    folder.mkdir()
    (folder / "segments").write_text("")
    with pytest.raises(UserError, match=f"prepare 'my_data={folder}' --output"):
        read_recordings(folder)
    monkeypatch.chdir(folder)
    with pytest.raises(UserError, match="prepare my_data=. --output"):
        read_recordings(".")


@pytest.mark.parametrize(
    "name, line, problem",
    [
        ("segments", "u1-a u1 0 1", "/segments: cut the recordings into a new folder"),
        ("wav.scp", "u1 flac -c -d -s u1.flac |", "/wav.scp: u1 is a pipe; give audio"),
    ],
)
def test_what_is_no_file_per_utterance_is_rejected(name, line, problem, tmp_path):
    folder = make_recipe(tmp_path, "data/test") / "data" / "test"
    (folder / name).write_text(line + "\n")
    options = {"audio": None, "text": None, "utt_id": None, "data_dir": str(folder)}
    for read in (align.read_jobs, plot.choose):
        with pytest.raises(UserError) as refusal:
            read(Namespace(**options))
        assert str(refusal.value).startswith(f"{folder}{problem}")
