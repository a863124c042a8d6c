"""Files and folders that are written whole or not at all."""

import os

import pytest

from espnet_adastride.corpora.kaldi import Utterance, read_scp, write_data_dir
from espnet_adastride.files import (
    files_in,
    fresh_dir,
    name_fits,
    replace_dir,
    write_text,
)


def put(folder, text):
    """Replace a folder by one whose only file is ``new`` with this text."""
    made = fresh_dir(folder)
    (made / "new").write_text(text)
    replace_dir(made, folder)


def names(folder):
    return sorted(path.name for path in folder.iterdir())


@pytest.mark.parametrize("there", [True, False])
def test_a_link_to_a_folder_stays(tmp_path, there):
    """What it leads to is replaced, beside itself: it may be on another disk."""
    target = tmp_path / "big" / "train"
    if there:
        target.mkdir(parents=True)
        (target / "old").write_text("x")
    link = tmp_path / "data" / "train"
    link.parent.mkdir()
    link.symlink_to("../big/train")
    assert os.path.realpath(fresh_dir(link).parent) == str(tmp_path / "big")
    put(link, "1")
    put(link, "2")
    assert os.readlink(link) == "../big/train" and names(link.parent) == ["train"]
    assert names(target.parent) == ["train"] and names(target) == ["new"]
    assert (target / "new").read_text() == "2"


def test_files_and_folders_that_are_left_out(tmp_path, monkeypatch):
    for name in ("a", "out/b", "out/own/c", "out/own/d/e", "more/own/f"):
        write_text(tmp_path / name, "x")
    (tmp_path / "link").symlink_to("out/own")

    def found(*leave_out, start="."):
        paths = files_in(start, leave_out=[*map(str, leave_out)])
        return [str(path) for path in paths]

    monkeypatch.chdir(tmp_path)
    assert found() == ["a", "more/own/f", "out/b", "out/own/c", "out/own/d/e"]
    left = ["a", "more/own/f", "out/b"]
    assert found("out/own") == found("link") == found(tmp_path / "out" / "own") == left
    assert found("out/b", "none", "out/own/d") == ["a", "more/own/f", "out/own/c"]
    # the folder itself is not below it
    assert found(tmp_path, "out/own/c", start="out") == ["out/b", "out/own/d/e"]


def test_links_that_a_failed_call_left(tmp_path):
    """0.4.0 left one behind that could not be removed; it led to the user's folder."""
    mine = tmp_path / "mine"
    mine.mkdir()
    (mine / "text").write_text("x")
    folder = tmp_path / "train"
    folder.mkdir()
    for target in ("mine", "none"):
        (tmp_path / ".train.old").symlink_to(target)
        put(folder, target)
        assert (folder / "new").read_text() == target
        assert names(tmp_path) == ["mine", "train"] and names(mine) == ["text"]


def test_a_data_directory_that_is_a_link(tmp_path, monkeypatch):
    """No file is renamed from beside the link: that may be another disk."""
    (tmp_path / "disk" / "big").mkdir(parents=True)
    (tmp_path / "set").symlink_to("disk/big")
    renamed, replace = [], os.replace

    def noted(old, new):
        renamed.append(os.path.realpath(old))
        replace(old, new)

    monkeypatch.setattr(os, "replace", noted)
    write_data_dir(tmp_path / "set", [Utterance("u", "u.wav", "A", "s")])
    assert read_scp(tmp_path / "set" / "wav.scp") == {"u": "u.wav"}
    assert (tmp_path / "set").is_symlink()
    assert names(tmp_path) == ["disk", "set"] and names(tmp_path / "disk") == ["big"]
    assert renamed and all(str(tmp_path / "disk") in old for old in renamed)


@pytest.mark.parametrize("name", ["x" * 251, "é" * 125 + "x", "x" * 250 + "\udcff"])
def test_the_longest_names_are_written(tmp_path, name):
    """255 bytes; the temporary name beside the file is shorter."""
    path = tmp_path / f"{name}.txt"
    assert name_fits(path) and not name_fits(f"{path}x")
    write_text(path, "1")
    write_text(path, "2")
    assert path.read_text() == "2" and names(tmp_path) == [path.name]
    # its folder need not be there
    assert name_fits(tmp_path / "a" / "b" / path.name)
    assert not name_fits(tmp_path / "a" / "b" / f"{path.name}x")
