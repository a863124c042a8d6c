"""Lengths of a training set, which decide how long recordings are cut."""

import pytest
import yaml

from espnet_adastride.bin import training_lengths
from espnet_adastride.corpora.lengths import find_lengths, read_lengths
from espnet_adastride.errors import UserError


def write_shapes(path, lengths):
    path.write_text("".join(f"u{i} {n}\n" for i, n in enumerate(lengths)))
    return path


def test_lengths_of_a_training(tmp_path, capsys):
    shapes = write_shapes(tmp_path / "speech_shape", [8000 * n for n in range(101)])
    command = ["--shape_file", str(shapes), "--fs", "8k"]
    training_lengths.main([*command, "--output_dir", str(tmp_path / "exp")])
    assert "101 training utterances: median 50 s" in capsys.readouterr().out
    lengths = read_lengths(tmp_path / "exp" / "training_lengths.yaml")
    assert lengths.utterances == 101
    assert (lengths.usual, lengths.longest) == (99.0, 100.0)
    assert lengths.seconds["90%"] == 90.0
    (tmp_path / "text").write_text("u1 hello\n")
    with pytest.raises(
        SystemExit, match="error: .*text: not lines of the form 'utterance len"
    ):
        training_lengths.main(
            ["--shape_file", str(tmp_path / "text"), "--output_dir", str(tmp_path)]
        )
    (tmp_path / "exp" / "training_lengths.yaml").write_text("seconds: {median: a}\n")
    with pytest.raises(UserError, match="not the lengths of a training set"):
        read_lengths(tmp_path / "exp" / "training_lengths.yaml")


def test_lengths_of_an_older_experiment(tmp_path):
    write_shapes(tmp_path / "speech_shape", [8000, 16000, 24000])
    options = {"train_shape_file": ["speech_shape"], "frontend_conf": {"fs": "8k"}}
    found = find_lengths(options, tmp_path / "exp", [tmp_path / "none", tmp_path])
    assert (found.utterances, found.longest) == (3, 3.0)
    assert find_lengths(options, tmp_path / "exp", [tmp_path / "none"]) is None
    assert find_lengths({}, tmp_path / "exp", [tmp_path]) is None
    (tmp_path / "exp").mkdir()
    seconds = {"median": 2.0, "90%": 3.0, "99%": 4.0, "longest": 5.0}
    text = yaml.safe_dump({"utterances": 7, "seconds": seconds})
    (tmp_path / "exp" / "training_lengths.yaml").write_text(text)
    assert find_lengths(options, tmp_path / "exp", [tmp_path]).usual == 4.0
