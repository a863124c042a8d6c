"""Numbers on a command line: what options take, and what they refuse."""

import argparse
import importlib

import pytest

from espnet_adastride.options import real, whole


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
    module = importlib.import_module(f"espnet_adastride.bin.{command}")
    with pytest.raises(SystemExit) as error:
        module.get_parser().parse_args([*words.split(), word])
    assert error.value.code == 2
    last = capsys.readouterr().err.splitlines()[-1]
    assert f"{words.split()[-1]}: '{word}': give a number" in last


@pytest.mark.parametrize(
    "command, words, said",
    [
        ("transcribe", "--model m a --stride 0.5", "give a number from 1 to 1000000"),
        ("transcribe", "--model m a --max_segment 0", "give a number, 1 or more"),
        ("transcribe", "--model m a --ngpu 2", "invalid choice: 2 (choose from 0, 1)"),
        ("plot", "corpus --speech_threshold -3", "give a number above 0"),
        ("plot", "corpus --utterances -1", "give a whole number, 0 or more"),
        ("rate_curve", "--strides 4 0.5", "give a number, 1 or more"),
        ("report", "exp --resamples 1", "give a whole number, 100 or more"),
        ("compare", "--resamples 1", "give a whole number, 100 or more"),
        ("results", "--resamples 99", "give a whole number, 100 or more"),
        ("report", "exp --worst -1", "give a whole number, 0 or more"),
        ("report", "exp --pictures -1", "give a whole number, 0 or more"),
        ("report", "exp --audio_seconds -1", "give a number, 0 or more"),
        ("prepare", "a.csv --valid_share 1.1", "give a number from 0 to 1"),
        ("prepare", "a.csv --nj 0", "give a whole number, 1 or more"),
        ("compare", "--nj 0", "give a whole number, 1 or more"),
        ("compare", "--threads 0", "give a whole number, 1 or more"),
        ("experiment", "a.yaml --limit 0", "give a whole number, 1 or more"),
        ("experiment", "a.yaml --nj 0", "give a whole number, 1 or more"),
        ("experiment", "a.yaml --threads 0", "give a whole number, 1 or more"),
        ("classify", "--exp e --nj 0", "give a whole number, 1 or more"),
        ("classify_espnet", "--exp e --nj 0", "give a whole number, 1 or more"),
    ],
)
def test_numbers_out_of_range_are_refused(command, words, said, capsys):
    module = importlib.import_module(f"espnet_adastride.bin.{command}")
    with pytest.raises(SystemExit) as error:
        module.get_parser().parse_args(words.split())
    assert error.value.code == 2
    option = [word for word in words.split() if word.startswith("--")][-1]
    last = capsys.readouterr().err.splitlines()[-1]
    assert f"argument {option}: " in last and last.endswith(said)


def test_the_home_folder_after_an_equals_sign(monkeypatch):
    """A shell leaves ~ there as it is, in options and in NAME=PATH."""
    monkeypatch.setenv("HOME", "/home/me")
    module = importlib.import_module("espnet_adastride.bin.rate_curve")
    words = [
        "--model",
        "a=~/exp",
        "--model",
        "b=x~/y",
        "--output_dir=~/o",
        "--data_dir",
        "~",
    ]
    args = module.get_parser().parse_args([*words, "--strides", "4"])
    assert args.model == ["a=/home/me/exp", "b=x~/y"]
    assert (args.output_dir, args.data_dir) == ("/home/me/o", "~")
