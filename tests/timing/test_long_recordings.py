"""How recordings are cut: training lengths, alignment in little memory, options."""

import argparse

import numpy as np
import pytest
import torch
import yaml

from espnet_adastride.bin import training_lengths
from espnet_adastride.corpora.lengths import find_lengths, read_lengths
from espnet_adastride.corpora.recordings import cut_at_pauses, energy, find_pauses
from espnet_adastride.errors import UserError
from espnet_adastride.options import real, whole
from espnet_adastride.recipe.sources import RECORDS_NAME, Sources
from espnet_adastride.timing import ctc

RATE = 8000


@pytest.mark.parametrize("seed", range(8))
def test_alignment_in_little_memory_is_the_same(seed, monkeypatch):
    random = np.random.default_rng(seed)
    frames, vocabulary = int(random.integers(1, 60)), 5
    scores = torch.from_numpy(random.standard_normal((frames, vocabulary)) * 2)
    log_probs = scores.float().log_softmax(1)
    ids, most = [], int(random.integers(0, frames))
    while len(ids) < most:
        ids.append(int(random.integers(1, vocabulary)))
        if ctc.needed_frames(ids) > frames:
            ids.pop()
            break
    ids = ids or [1]
    path, values = ctc.force_align(log_probs, ids)
    monkeypatch.setattr(ctc, "MOST_CELLS", 0)
    mine, own = ctc.force_align(log_probs, ids)
    assert mine == path
    np.testing.assert_allclose(own, values, rtol=1e-5)
    assert [span.token for span in ctc.path_spans(mine)] == ids


def test_a_long_alignment_finds_what_was_planted(monkeypatch):
    """20,000 frames and 3,001 states, where tokens are where they were put."""
    monkeypatch.setattr(ctc, "MOST_CELLS", 0)
    random = np.random.default_rng(0)
    ids = random.integers(1, 9, 1500).tolist()
    places = np.sort(random.choice(np.arange(0, 20000, 2), 1500, replace=False))
    log_probs = torch.full((20000, 9), -8.0)
    log_probs[:, 0] = -0.01
    log_probs[places, 0] = -8.0
    log_probs[places, ids] = -0.01
    path, _ = ctc.force_align(log_probs, ids)
    assert [s.first for s in ctc.path_spans(path)] == places.tolist()


# ------------------------------------------------------------------- lengths


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


# -------------------------------------------------------------------- pauses


def test_pauses_where_the_noise_changes():
    """Two sentences of 2 s in a quiet room, two in a noisy one: 30 dB more noise."""
    random = np.random.default_rng(0)
    wave = []
    for floor in (0.0005, 0.0005, 0.016, 0.016):
        said = 0.2 * random.standard_normal(2 * RATE)
        pause = np.zeros(RATE // 2)
        room = np.concatenate([said, pause])
        wave.append(room + floor * random.standard_normal(len(room)))
    wave = np.concatenate(wave).astype(np.float32)
    pauses = find_pauses(energy(wave, RATE))
    expected = [(200 + 250 * n, 250 + 250 * n) for n in range(4)]
    assert len(pauses) == 4
    for (a, b), (begin, end) in zip(pauses, expected):
        assert abs(a - begin) <= 3 and abs(b - end) <= 3
    cuts = [end / RATE for _, end in cut_at_pauses(wave, RATE, 3.0)][:-1]
    np.testing.assert_allclose(cuts, [2.25, 4.75, 7.25], atol=0.05)


def test_energy_is_the_same_in_blocks(monkeypatch):
    from espnet_adastride.corpora import recordings

    wave = np.random.default_rng(0).standard_normal(RATE * 3 + 17).astype(np.float32)
    whole_curve = energy(wave, RATE)
    monkeypatch.setattr(recordings, "ENERGY_BLOCK", 7)
    np.testing.assert_allclose(energy(wave, RATE), whole_curve, atol=1e-9)


# ------------------------------------------------------------------- options


@pytest.mark.parametrize("word", ["inf", "-inf", "nan", "x", "", "0.5"])
def test_numbers_that_an_option_does_not_take(word):
    with pytest.raises(argparse.ArgumentTypeError, match="give a number, 1 or more"):
        real(1)(word)


def test_numbers_that_it_takes():
    assert real(1)("1") == 1.0 and real()("-2.5") == -2.5
    assert real(0, infinite=True)("inf") == float("inf")
    with pytest.raises(argparse.ArgumentTypeError, match="from 0 to 1"):
        real(0, 1)("1.1")
    with pytest.raises(argparse.ArgumentTypeError, match="above 0"):
        real(0, above=True)("0")
    assert whole(1)("3") == 3
    for word in ("0", "1.0", "inf"):
        with pytest.raises(argparse.ArgumentTypeError, match="whole number, 1 or mo"):
            whole(1)(word)


@pytest.mark.parametrize("word", ["inf", "nan"])
@pytest.mark.parametrize(
    "command, words",
    [
        ("transcribe", "--model m a.wav --max_segment"),
        ("transcribe", "--model m a.wav --stride"),
        ("align", "--model m --audio a --text t --output_dir o --max_segment"),
        ("plot", "utterance --model m --audio a --output o.png --max_segment"),
        ("plot", "corpus --model m --data_dir d --output o.png --speech_threshold"),
        ("filter_data", "--set a b --min_wav_duration"),
        ("plan_training", "--max_unalignable"),
        ("plan_training", "--plan_seconds"),
        ("report", "exp --output o.html --audio_seconds"),
        ("make_token_list", "--text t --output o --bpe_char_cover"),
        ("make_espeak_corpus", "--output o --train_minutes"),
        ("run_jobs", "--grace"),
    ],
)
def test_no_command_takes_them(command, words, word, capsys):
    import importlib

    module = importlib.import_module(f"espnet_adastride.bin.{command}")
    with pytest.raises(SystemExit) as error:
        module.get_parser().parse_args([*words.split(), word])
    assert error.value.code == 2
    last = capsys.readouterr().err.splitlines()[-1]
    assert f"{words.split()[-1]}: '{word}': give a number" in last


# ------------------------------------------------------------------- sources


def test_what_was_done_remembers_its_source(tmp_path):
    first, other = tmp_path / "p0.ogg", tmp_path / "p0.mp3"
    first.write_bytes(b"one sound")
    other.write_bytes(b"two sound")
    Sources(tmp_path / "out").add("p0", first)
    known = Sources(tmp_path / "out")
    assert known.relation("p0", first) == "same"
    assert known.relation("p0", other) == "other"
    assert known.relation("p1", first) == ""
    # moved, it is the same; changed in its place, it is not
    (tmp_path / "moved").mkdir()
    first = first.rename(tmp_path / "moved" / "p0.ogg")
    assert known.relation("p0", first) == "same"
    known.add("p0", first)
    first.write_bytes(b"new sound")
    assert known.relation("p0", first) == "changed"
    # a line that was cut off is passed over, and stays a line of its own
    path = tmp_path / "out" / RECORDS_NAME
    path.write_text(path.read_text() + '{"name": "p')
    Sources(tmp_path / "out").add("p3", other)
    assert Sources(tmp_path / "out").relation("p3", other) == "same"
    assert Sources(tmp_path / "out").relation("p0", first) == "changed"
