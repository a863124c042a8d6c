"""The command and the recipes: training, skipping, comparison, bad input."""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import soundfile
import yaml

from espnet_adastride.bin import classify
from espnet_adastride.corpora.clips import find_clips, split_clips
from espnet_adastride.experiments.classification.results import (
    read_runs,
    round_accuracies,
)
from espnet_adastride.experiments.records import read_record
from tests.tones import TONES, noisy_tone

ROOT = Path(__file__).resolve().parents[3]


def test_the_command_trains_compares_and_skips_what_is_done(
    corpus, config, tmp_path, capsys
):
    exp = tmp_path / "exp"
    command = ["--corpus", str(corpus), "--config", str(config), "--exp", str(exp)]
    command += ["--methods", "strided_conv adastride:sigma_square=20", "--seeds", "0"]
    command += ["--confusion", "adastride:sigma_square=20"]
    classify.main(command)
    first = capsys.readouterr().out
    assert "120 clips of 3 classes in 40 groups; train/valid/test: " in first
    runs = {
        path.name.removesuffix(".json.gz"): path
        for path in exp.glob("records/*.json.gz")
    }
    assert set(runs) == {"strided_conv_seed0", "adastride_sigma_square=20_seed0"}
    for path in runs.values():
        record = read_record(path)
        run = record.figures
        assert run["accuracy"] > 95 and run["training_seconds"] > 0
        assert (record.task, record.rate) == ("classification", 8.0)
        assert len(record.content["learning"]["train"]["loss"]) == 8
        assert str(corpus.parent) not in json.dumps(record.content)
        clips = find_clips(corpus, "speech_commands")
        test = [clips[index].id for index in split_clips(clips, "rotating", 0)["test"]]
        assert set(run["predictions"]) == set(test)
    table = (exp / "RESULTS.md").read_text()
    assert table in first and table.count("\n| `") == 2
    assert "Different from `strided_conv` at 0.05 after the correction: none" in table
    picture = exp / "confusion_adastride_sigma_square=20.png"
    assert picture.read_bytes().startswith(b"\x89PNG")

    classify.main(command)
    again = capsys.readouterr().out
    assert " epoch " not in again and table in again
    shutil.rmtree(exp / "feats")
    table_only = ["--exp", str(exp), "--train", "false"]
    classify.main(table_only)
    assert table in capsys.readouterr().out
    line = failure(*table_only, "--confusion", "avg_pool")  # a method without runs
    assert "unknown method 'avg_pool'; choose from: " in line


@pytest.mark.slow
def test_the_recipe_shares_the_runs_among_processes(corpus, config, tmp_path):
    environment = {**os.environ, "SPEECH_COMMANDS": "speech_commands"}
    environment["PYTHON"] = sys.executable
    command = ["bash", str(ROOT / "egs" / "speech_commands" / "run.sh")]
    command += ["--config", str(config), "--exp", str(tmp_path / "exp"), "--nj", "2"]
    command += ["--methods", "avg_pool", "--seeds", "0 1"]
    done = subprocess.run(
        command, cwd=corpus.parent, env=environment, capture_output=True, text=True
    )
    assert done.returncode == 0 and not done.stderr, done.stderr
    for seed in (0, 1):
        assert f"avg_pool seed {seed}: test accuracy" in done.stdout
    counts = re.findall(r"^\[(\d)/2\] avg_pool seed", done.stdout, re.M)
    assert len(counts) == 2 and max(counts) == "2"
    assert "| `avg_pool` |" in done.stdout and "not finished" not in done.stdout
    shutil.rmtree(tmp_path / "exp" / "feats")
    again = subprocess.run(
        command, cwd=corpus.parent, env=environment, capture_output=True, text=True
    )
    assert again.stdout.count("2 of 2 runs are finished\n") == 1
    assert (
        not (tmp_path / "exp" / "feats").exists() and "| `avg_pool` |" in again.stdout
    )


@pytest.mark.slow
def test_an_interruption_says_what_goes_on(corpus, config, tmp_path):
    command = [sys.executable, "-W", "ignore", "-m", "espnet_adastride.bin.classify"]
    command += ["--corpus", str(corpus), "--config", str(config), "--nj", "2"]
    command += ["--exp", str(tmp_path / "exp"), "--methods", "adastride"]
    process = subprocess.Popen(
        [*command, "--seeds", *map(str, range(40))],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    while "test accuracy" not in process.stdout.readline():
        assert process.poll() is None
    process.send_signal(signal.SIGINT)
    assert process.communicate(timeout=60)[1] == (
        "interrupted; nothing is lost: run the same command to resume\n"
    )
    assert process.returncode == 130
    assert list((tmp_path / "exp").glob("records/*.json.gz"))


def write_tones(folder, recipe):
    """Write tones in the layout of a corpus: three speakers, or three folds."""
    random = np.random.default_rng(0)
    names = {  # of the class, the speaker or fold, and a number
        "fsdd": "recordings/{0}_s{1}_{2}.wav",
        "esc10": "00{0} - class {0}/{1}-{1}{2}{0}-A.ogg",
    }
    for label, hertz in enumerate(TONES.values()):
        for group in range(1, 4):
            for number in range(6):
                wave = noisy_tone(random, hertz, 8000)
                path = folder / names[recipe].format(label, group, number)
                path.parent.mkdir(parents=True, exist_ok=True)
                soundfile.write(path, wave, 8000)
    return folder


@pytest.mark.slow
@pytest.mark.parametrize("recipe", ["fsdd", "esc10"])
def test_a_recipe_of_cross_validation(recipe, tmp_path):
    """Its own configuration, small; every clip is tested once, by what has not
    heard its speaker or fold."""
    words = yaml.safe_load((ROOT / "conf" / f"train_{recipe}.yaml").read_text())
    words["network"].update(width=8, strides=[2, 2, 2])
    words["features"].update(sample_rate=8000, n_fft=512, hop_length=128, n_mels=20)
    words["training"].update(epochs=10, batch_size=6, lr=0.01, decay=0.8)
    words["training"].update(mask_mels=2, mask_frames=2)
    (tmp_path / "tiny.yaml").write_text(yaml.safe_dump(words))
    write_tones(tmp_path / "corpus", recipe)
    exp = tmp_path / "exp"
    command = ["bash", ROOT / "egs" / recipe / "run.sh", "--exp", exp, "--nj", "2"]
    command += ["--config", tmp_path / "tiny.yaml", "--seeds", "0 1 2"]
    done = subprocess.run(
        [*command, "--methods", "strided_conv adastride"],
        cwd=tmp_path,
        env={**os.environ, "PYTHON": sys.executable, recipe.upper(): "corpus"},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0 and not done.stderr, done.stderr
    assert "54 clips of 3 classes in " in done.stdout
    for method in ("strided_conv", "adastride"):
        runs = read_runs(exp)[method]
        assert [run["round"] for run in runs.values()] == [0, 0, 0]
        clips = [clip for run in runs.values() for clip in run["predictions"]]
        assert len(clips) == len(set(clips)) == 54
        assert round_accuracies(runs)[0] > 80, done.stdout
    table = (exp / "RESULTS.md").read_text()
    assert table in done.stdout and table.count("\n| `") == 2
    assert (exp / "confusion_adastride.png").exists()


def test_a_recipe_says_where_its_corpus_is_to_be_named(tmp_path):
    environment = {**os.environ, "PYTHON": sys.executable}
    for name in ("FSDD", "ESC10", "SPEECH_COMMANDS"):
        environment.pop(name, None)

    def run(recipe, *options):
        command = ["bash", str(ROOT / "egs" / recipe / "run.sh"), *options]
        return subprocess.run(
            command, cwd=tmp_path, env=environment, capture_output=True, text=True
        )

    if not (ROOT / "egs" / "esc10" / "downloads").is_dir():
        done = run("esc10")
        line = "error: give the folder of the corpus: ESC10=/path/to/esc10 ./run.sh"
        assert done.returncode == 2 and done.stderr.startswith(line)
    done = run("fsdd", "--download", "yes")
    assert done.returncode == 2 and "--download yes: give true or false" in done.stderr
    done = run("fsdd", "--download=yes")
    assert "--download yes: give true or false" in done.stderr
    done = run("esc10", "--help")
    assert "--download true" in done.stdout and "--methods" in done.stdout
    (tmp_path / "mine").mkdir()  # where the caller stands
    done = run("esc10", "--corpus", "mine", "--exp", str(tmp_path / "exp"))
    assert f"{tmp_path}/mine" in done.stderr and done.stderr.count("\n") == 1
    done = run("esc10", "--corpus=no folder", "--exp", str(tmp_path / "exp"))
    assert done.returncode == 1 and "no folder: no such folder" in done.stderr


def failure(*command):
    with pytest.raises(SystemExit) as caught:
        classify.main([str(word) for word in command])
    line = str(caught.value)
    assert line.startswith("error: ") and "\n" not in line
    return line


def test_bad_input_ends_in_one_line(corpus, config, tmp_path):
    exp, empty = tmp_path / "exp", tmp_path / "empty"
    empty.mkdir()
    common = ["--config", config, "--exp", exp, "--seeds", "0"]
    known = ["--corpus", corpus, *common]
    assert "give --corpus" in failure(*common)
    assert "no such folder" in failure("--corpus", tmp_path / "none", *common)
    assert "no WORD/*.wav of Speech Commands" in failure("--corpus", empty, *common)
    line = failure(*known, "--methods", "adastrid")
    assert "did you mean 'adastride'?" in line and "avg_pool" in line
    later = failure(*common, "--methods", "adastrid", "--train", "false")
    assert later == line and line.startswith("error: --methods: unknown downsampling")
    line = failure(*known, "--methods", "avg_pool:sigma_square=2")
    assert "sigma_square" in line and "avg_pool" in line
    assert "above 0" in failure(*known, "--methods", "adastride:sigma_square=-1")
    assert "METHOD:WORD=VALUE" in failure(*known, "--methods", "adastride:sharp")
    twice = "adastride:sigma_square=1,sigma_square=2"
    assert "sigma_square is given twice" in failure(*known, "--methods", twice)
    assert "2 methods" in failure(*known, "--methods", "avg_pool+stack")
    line = failure(*known, "--reference", "strided_con")
    assert (
        "--reference: unknown downsampling method 'strided_con' (did you mean" in line
    )
    line = failure(*known, "--confusion", "adastrid")
    assert "--confusion: unknown downsampling method 'adastrid' (did you mean" in line
    line = failure(*known, "--curve", "sigma_squar")
    assert "--curve: unknown option 'sigma_squar' (did you mean 'sigma_square'?" in line
    line = failure(*known, "--beside", empty)
    assert line.startswith(f"error: --beside: {empty}: no finished run")
    assert "--seeds x" in failure(*known, "--seeds", "x")
    assert "no finished run" in failure("--exp", exp, "--train", "false")
    line = failure("--corpus", corpus, "--config", empty / "no.yaml", "--exp", exp)
    assert "no such configuration" in line
    assert not exp.exists()


@pytest.mark.parametrize(
    "name, content, words",
    [
        ("00000001_nohash_1.wav", b"", "an empty file"),
        ("00000001_nohash_1.wav", b"RIFF", "unreadable audio"),
        ("00000001_nohash_1.wav", np.zeros(0), "no samples"),
        ("hello.wav", np.zeros(9), "so the speaker is unknown"),
    ],
)
def test_a_bad_recording_is_named(corpus, config, tmp_path, name, content, words):
    copy = tmp_path / "copy"
    shutil.copytree(corpus, copy)
    path = copy / "low" / name
    if isinstance(content, bytes):
        path.write_bytes(content)
    else:
        soundfile.write(path, content, 16000)
    line = failure("--corpus", copy, "--config", config, "--exp", tmp_path / "exp")
    assert str(path) in line and words in line


def test_other_hyper_parameters_or_clips_want_another_folder(corpus, config, tmp_path):
    exp = tmp_path / "exp"
    command = ["--corpus", corpus, "--config", config, "--exp", exp]
    command += ["--methods", "avg_pool", "--seeds", "0"]
    classify.main([str(word) for word in command])
    other = tmp_path / "other.yaml"
    text = config.read_text()
    other.write_text(text.replace("lr: 0.01", "lr: 0.02"))
    line = failure("--corpus", corpus, "--config", other, "--exp", exp)
    assert "training.lr was 0.01, is 0.02; give this one another --exp" in line
    copy = tmp_path / "copy"
    shutil.copytree(corpus, copy)
    clip = next((copy / "low").glob("*.wav"))
    os.utime(clip)
    moved = ["--corpus", copy, *command[2:]]
    classify.main([str(word) for word in moved])  # the same content
    content = clip.read_bytes()
    clip.write_bytes(content[:-2] + b"ab")
    line = failure(*moved[:6])
    assert f"{clip} was changed after the runs in {exp} began; give these" in line
    clip.write_bytes(content)
    classify.main([str(word) for word in moved])
    next((copy / "low").glob("*.wav")).unlink()
    line = failure("--corpus", copy, "--config", config, "--exp", exp)
    assert "clips was 120" in line
