"""Runs in folders of their own: kept, shared, ended together, and their records."""

import errno
import json
import os
import subprocess
import sys
import time
from functools import partial
from pathlib import Path

import pytest

from espnet_adastride.bin import experiment, results
from espnet_adastride.errors import UserError
from espnet_adastride.experiments import tables
from espnet_adastride.experiments.classification.results import read_runs
from espnet_adastride.experiments.definition import read_experiment
from espnet_adastride.experiments.folders import (
    OLD_RESULT,
    claim_run,
    is_finished,
    read_results,
    record_of,
    run_folders,
    run_name,
    unfinished,
    write_result,
)
from espnet_adastride.experiments.records import (
    Record,
    read_record,
    read_records,
    split_records,
    write_record,
)
from espnet_adastride.recipe.jobs import Job, run_jobs

ROOT = Path(__file__).resolve().parents[2]


def work(folder, seed=0):
    print(f"process {os.getpid()}")
    training = {"learning": {}, "timing": {"training_seconds": 60.0, "epochs": 1}}
    scores = {"measured": {"parameters": 7}, "test": {"utterances": {}}}
    settings = {"network_conf": {"strides": [2, 4]}}
    write_result(folder, "vqvae", "stack", seed, settings, **training, **scores)


def test_a_record_says_where_it_is_from(tmp_path):
    name = run_name("adastride:sigma_square=2", "8x", "seed1")
    assert name == "adastride_sigma_square=2_8x_seed1"
    work(tmp_path / name, 1)
    assert record_of(tmp_path / name) == tmp_path / "records" / f"{name}.json.gz"
    (record,) = read_results(tmp_path)
    assert (record.task, record.key) == ("vqvae", ("stack", 8.0, 1))
    assert record.figures["parameters"] == 7 and record.figures["utterances"] == {}
    assert {"commit", "machine", "format"} <= set(record.content)
    assert {"python", "torch", "numpy"} <= set(record.content["versions"])
    assert unfinished(tmp_path, [name, "stack_8x_seed2"]) == ["stack_8x_seed2"]
    with pytest.raises(UserError, match="no finished run"):
        read_results(tmp_path / name)
    with pytest.raises(UserError, match=f"{name}.*of the task vqvae, but the table is"):
        read_runs(tmp_path)


#: of 0.1: without a configuration, which is in a file beside
CLASSIFIED = {
    **{"method": "adastride:sigma_square=2", "seed": 3, "round": 3, "accuracy": 50.0},
    **{"valid_accuracy": 40.0, "parameters": 9, "rate": 7.8, "stats": {}},
    **{"cpu_seconds": 4.5, "seconds": 8.5, "torch": "2.0", "command": "python /x/y"},
    "history": [{"loss": 2.0, "valid_accuracy": v} for v in (30.0, 40.0)],
    "predictions": {"yes/1": "yes", "no/1": "yes"},
    "groups": {"yes/1": "1", "no/1": "1"},
}
RECONSTRUCTED = {
    **{"method": "stack", "rate": 4, "seed": 0, "parameters": 9, "minutes": 2.0},
    **{"error": 5.5, "commit": "abc", "machine": "a", "versions": {"torch": "2.1"}},
    "history": [{"train_loss_mse": 3.0, "valid_loss_mse": 2.5}],
    "utterances": {"u": {"frames": 3, "error": 5.5, "group": "g"}},
    "configuration": {"network_conf": {"strides": [2, 2]}},
}
THROUGH_ESPNET = {
    **{"method": "conv2d", "seed": 0, "rate": 4.2, "seconds": 3.0},
    "history": {"acc": {"train": [0.5], "valid": [0.4]}},
    **{key: CLASSIFIED[key] for key in ("predictions", "groups")},
}


@pytest.mark.parametrize(
    "old, key, timing, learning",
    [
        (
            CLASSIFIED,
            ("adastride:sigma_square=2", 16.0, 3),
            {"training_seconds": 8.5, "cpu_seconds": 4.5, "epochs": 2},
            {"train": {"loss": [2.0, 2.0]}, "valid": {"accuracy": [30.0, 40.0]}},
        ),
        (
            RECONSTRUCTED,
            ("stack", 4.0, 0),
            {"training_seconds": 120.0, "epochs": 1},
            {"train": {"loss_mse": [3.0]}, "valid": {"loss_mse": [2.5]}},
        ),
        (
            THROUGH_ESPNET,
            ("conv2d", 4.2, 0),
            {"training_seconds": 3.0, "epochs": 1},
            {"train": {"acc": [0.5]}, "valid": {"acc": [0.4]}},
        ),
    ],
)
def test_results_of_earlier_versions_are_records(tmp_path, old, key, timing, learning):
    folder = tmp_path / "old"
    folder.mkdir()
    (folder / OLD_RESULT).write_text(json.dumps(old))
    if old is CLASSIFIED:
        (tmp_path / "config.yaml").write_text("network: {strides: [4, 1, 4]}\n")
    assert is_finished(folder)
    (record,) = read_results(tmp_path)
    assert record.key == key and record.path == folder / OLD_RESULT
    assert record.content["timing"] == timing
    assert record.content["learning"] == learning
    assert record.content["versions"] == old.get(
        "versions", {"torch": old["torch"]} if "torch" in old else {}
    )
    kept = ("predictions", "groups", "utterances", "error", "accuracy")
    for name in filter(old.get, kept):
        assert record.figures[name] == old[name]
    assert "/x/y" not in json.dumps(record.content)


@pytest.mark.parametrize(
    "configuration, rate",
    [
        ({"network": {"strides": [4, 1, 4]}}, 16.0),
        ({"network": None, "encoder_conf": {"strides": [2, 2]}}, 4.0),
        ({"encoder_conf": {"input_layer_conf": {"stride": 5.5}}}, 5.5),
        ({"encoder_conf": {"input_layer": "conv2d", "input_layer_conf": None}}, 4.2),
    ],
)
def test_the_rate_is_the_configured_one_or_else_the_measured(
    tmp_path, configuration, rate
):
    parts = {"learning": {}, "timing": {}, "measured": {"rate": 4.18}, "test": {}}
    write_result(tmp_path / "run", "classification", "x", 0, configuration, **parts)
    assert read_results(tmp_path)[0].rate == rate


def test_a_run_of_another_configuration_is_refused(tmp_path):
    folder, config = tmp_path / "a_4x_seed0", {"network_conf": {"strides": [2, 4]}}
    claim_run(folder, {"lr": 1})
    claim_run(folder, config)  # not begun yet
    (folder / "checkpoint.pth").touch()
    with pytest.raises(UserError, match="a run of another.*strides was .2, 4., is 2"):
        claim_run(folder, {"network_conf": {"strides": 2}})
    work(folder)
    (folder / "training.yaml").unlink()  # the record alone came from another machine
    with pytest.raises(UserError, match="strides was .2, 4., is 2"):
        claim_run(folder, {"network_conf": {"strides": 2}})
    claim_run(folder, config)
    assert (folder / "training.yaml").is_file()


def test_runs_of_a_folder_share_their_settings(tmp_path):
    work(tmp_path / "stack_8x_seed0")
    other = {"network_conf": {"strides": [2, 2], "method": "cif"}, "seed": 3}
    claim_run(tmp_path / "cif_4x_seed3", other)  # the grid's words
    message = f"{tmp_path} holds runs of another configuration: lr was None, is 1"
    with pytest.raises(UserError, match=message):
        claim_run(tmp_path / "b_8x_seed0", {"lr": 1})
    # a record from elsewhere
    path = record_of(tmp_path / "stack_8x_seed0")
    content = {**read_record(path).content, "configuration": {"lr": 1}, "seed": 1}
    write_record(path.with_name("stack_8x_seed1.json.gz"), content)
    with pytest.raises(UserError, match="seed0.* and .*seed1.*: None and 1"):
        read_results(tmp_path)


@pytest.mark.parametrize(
    "word, value",
    [
        ("training", {"lr": 0.001}),
        ("network", {"strides": [8], "kernel_size": 3}),  # 8x all the same
    ],
)
def test_other_records_are_left_out_of_a_page_and_named(word, value):
    definition = ROOT / "conf" / "experiments" / "speech_commands_8x.yaml"
    folder = ROOT / "results" / "records" / "speech_commands_8x"
    experiment, found = read_experiment(definition), read_records(folder)

    def page_of(records):
        return tables.write_page(experiment, *split_records(experiment, records), 50)

    page = page_of(found)
    assert "left out" not in page
    (one,) = (r for r in found if r.key == ("cif", 8.0, 1))
    changed = {**one.content["configuration"]}
    changed[word] = {**changed[word], **value}
    strange = Record({**one.content, "configuration": changed})
    beyond = Record({**one.content, "seed": 3})
    rest = [r for r in found if r is not one]
    # even if it comes first
    mixed = page_of([strange, *rest, beyond])
    assert "Not run yet, 1 of 27: cif 8x seed 1.\n" in mixed
    assert "Records of other settings, left out: cif 8x seed 1.\n" in mixed
    assert "Records outside the grid, left out: cif 8x seed 3.\n" in mixed
    without = page_of(rest)
    said = [line for line in mixed.splitlines() if "left out" not in line]
    assert [line for line in said if line] == [x for x in without.splitlines() if x]


def test_the_page_of_a_classification_is_made_from_records(tmp_path, capsys):
    words = ["--results", str(tmp_path), "--records"]
    definition = str(ROOT / "conf" / "experiments" / "speech_commands_32x.yaml")
    results.main([definition, *words, str(ROOT / "results" / "records")])
    page = (tmp_path / "speech_commands_32x.md").read_text()
    assert page == (ROOT / "results" / "speech_commands_32x.md").read_text()
    row = "| `strided_conv` | 103,113 | 31.0 | 92.1 ± 1.9 | [89.5, 94.4] | -3.6 ["
    assert "27 of 27" in capsys.readouterr().out and row in page
    # of the baseline alone
    exp = tmp_path / "records" / "speech_commands_32x"
    exp.mkdir(parents=True)
    name = "adastride_seed0.json.gz"
    record = ROOT / "results" / "records" / exp.name / name
    (exp / name).write_bytes(record.read_bytes())
    results.main([definition, *words, str(tmp_path / "records")])
    assert "1 of 27 runs; missing: adastride_f 32x" in capsys.readouterr().out
    with pytest.raises(SystemExit, match="are trained by egs/speech_commands/run.sh"):
        experiment.main([definition])


def test_the_page_of_vqvaes_is_made_from_records(tmp_path):
    names = "bits entropy_bits perplexity tokens_per_second rms_error error_exact"
    figures = dict.fromkeys(names.split(), 100.0)
    figures.update(codebook_size=16, seconds_of_speech=6.0, side_bits=0.0)
    training = {"learning": {}, "timing": {"training_seconds": 60.0, "epochs": 1}}
    settings = {"network_conf": {"strides": [2, 2]}}
    for method, error in (("strided_conv", 5.0), ("stack", 4.0)):
        own = {"u": {"frames": 3, "error": error, "group": "g"}}
        measured, test = {**figures, "error": error}, {"utterances": own}
        scores = {"measured": measured, "test": test, **training}
        write_result(
            tmp_path / "v" / f"{method}_0", "vqvae", method, 0, settings, **scores
        )
    (tmp_path / "v" / "records").rename(tmp_path / "mine")
    (tmp_path / "mine.yaml").write_text(
        "{title: Codes, task: vqvae, recipe: egs/arctic_vqvae, grid: "
        "[{methods: [strided_conv, stack], rates: [4], seeds: [0, 1]}]}"
    )
    words = ["--results", tmp_path, "--records", tmp_path, "--resamples", 100]
    results.main([str(tmp_path / "mine.yaml"), *map(str, words)])
    page = (tmp_path / "mine.md").read_text()
    assert "Not run yet, 2 of 4" in page and "| 4x | `stack` | 0 | -1.00 |" in page
    assert (tmp_path / "mine.png").is_file()
    assert page.endswith("without the side bits.\n")  # what the picture's bars are


def test_what_is_finished_is_kept_and_progress_is_told(tmp_path, capfd):
    folders = [tmp_path / f"seed{n}" for n in range(3)]
    work(folders[1])
    before = record_of(folders[1]).stat().st_mtime_ns
    functions = {f: partial(work, f, n) for n, f in enumerate(folders)}
    capfd.readouterr()
    run_folders(functions, 2, describe=lambda result: f"number {result['seed']}")
    assert all(map(is_finished, folders))
    assert record_of(folders[1]).stat().st_mtime_ns == before
    logs = [(folders[n] / "train.log").read_text() for n in (0, 2)]
    assert len({*logs, f"process {os.getpid()}\n"}) == 3  # a process each
    out = capfd.readouterr().out
    assert "[2/3] number " in out and "[3/3] number " in out and "process" not in out
    assert f"logs: {tmp_path}/*/train.log" in out
    run_folders(functions, 2)
    assert capfd.readouterr().out == ""


def test_a_failed_run_ends_the_others_and_is_named(tmp_path):
    def fail():
        raise UserError("the disk is full")

    functions = {
        tmp_path / "slow": lambda: time.sleep(600),
        tmp_path / "bad": fail,
        tmp_path / "later": partial(work, tmp_path / "later"),
    }
    start = time.monotonic()
    with pytest.raises(UserError, match=r"bad/train\.log: .*the disk is full"):
        run_folders(functions, 2)
    assert time.monotonic() - start < 300 and not (tmp_path / "later").exists()


def test_without_a_log_a_failure_is_said_here(tmp_path, capfd):
    def fail():
        raise UserError("no finite gradient")

    with pytest.raises(SystemExit) as caught:
        run_folders({tmp_path / "bad": fail}, 1, log="")
    assert caught.value.code == 1
    assert capfd.readouterr().err == "error: no finite gradient\n"

    def fill():
        raise OSError(errno.ENOSPC, "No space left on device", "model.pth")

    with pytest.raises(SystemExit):
        run_folders({tmp_path / "full": fill}, 1, log="")
    line = capfd.readouterr().err
    assert line.startswith("error: model.pth cannot be written or read: the disk is")
    assert line.count("\n") == 1
    with pytest.raises(UserError, match="a process: "):
        run_folders({tmp_path / "killed": lambda: os.kill(os.getpid(), 9)}, 1, log="")


AFTER_GRADIENTS = """
import torch
from tests.downsampling import device_without_float64

device_without_float64.device()  # beside it, as beside a GPU, autograd has threads
torch.ones(1, requires_grad=True).sum().backward()

from pathlib import Path
from espnet_adastride.errors import UserError
from espnet_adastride.experiments.folders import run_folders

def train():
    torch.ones(1, requires_grad=True).sum().backward()

try:
    run_folders({Path("exp/run"): train}, 1)
except UserError as error:
    print("UserError:", error)
"""


def test_gradients_before_a_fork_are_explained(tmp_path):
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", AFTER_GRADIENTS],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
    )
    line = done.stdout.splitlines()[-1]
    assert line.startswith("UserError: exp/run/train.log: this Python process")
    assert "in a notebook, the kernel" in line
    assert "Traceback" not in (tmp_path / "exp/run/train.log").read_text()


def test_a_run_that_another_process_is_at_is_left_to_it(tmp_path, capfd):
    other = tmp_path / "other"
    mine = tmp_path / "mine"
    run_folders({other: lambda: None, mine: partial(work, mine)}, 1)
    out = capfd.readouterr().out
    assert "[1/1] mine" in out and "] other" not in out


def test_functions_and_commands_run_side_by_side(tmp_path):
    logs = [tmp_path / "a.log", tmp_path / "b.log"]
    logs[0].write_text("before\n")
    jobs = [Job(lambda: print("said"), logs[0]), Job(["echo", "heard"], logs[1])]
    run_jobs(jobs)
    # a training's log is appended to, a command's starts again
    assert [log.read_text() for log in logs] == ["before\nsaid\n", "heard\n"]
