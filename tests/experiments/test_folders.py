"""Runs in folders of their own: kept, shared, ended together, and their records."""

import json
import os
import time
from functools import partial

import pytest

from espnet_adastride.errors import RecipeError
from espnet_adastride.experiments.folders import (
    RESULT,
    is_finished,
    read_results,
    run_folders,
    run_name,
    unfinished,
    write_result,
)
from espnet_adastride.recipe.jobs import Job, run_jobs


def work(folder, seed=0):
    print(f"process {os.getpid()}")
    write_result(folder, {"lr": 0.1}, {"method": "stack", "seed": seed})


def test_a_record_says_where_it_is_from_and_older_ones_are_read(tmp_path):
    name = run_name("adastride:sigma_square=2", "8x", "seed1")
    assert name == "adastride_sigma_square=2_8x_seed1"
    work(tmp_path / name, 1)
    text = (tmp_path / name / RESULT).read_text()
    assert text.count("\n") == 1 and not list(tmp_path.glob("*/.*"))
    record = json.loads(text)
    assert record["configuration"] == {"lr": 0.1} and record["seed"] == 1
    assert {"commit", "machine", "format"} <= set(record)
    assert {"python", "torch", "numpy"} <= set(record["versions"])
    old = tmp_path / "a_seed0"
    old.mkdir()
    (old / RESULT).write_text('{"method": "a", "seed": 0}\n')
    found = read_results(tmp_path)
    assert [path.name for path in found] == ["a_seed0", name]
    assert found[old] == {"method": "a", "seed": 0}
    assert unfinished(tmp_path, [name, "a_seed0", "a_seed1"]) == ["a_seed1"]
    with pytest.raises(RecipeError, match="no finished run"):
        read_results(old)


def test_what_is_finished_is_kept_and_progress_is_told(tmp_path, capfd):
    folders = [tmp_path / f"seed{n}" for n in range(3)]
    work(folders[1])
    before = (folders[1] / RESULT).stat().st_mtime_ns
    functions = {f: partial(work, f, n) for n, f in enumerate(folders)}
    capfd.readouterr()
    run_folders(functions, 2, describe=lambda result: f"number {result['seed']}")
    assert all(map(is_finished, folders))
    assert (folders[1] / RESULT).stat().st_mtime_ns == before
    logs = [(folders[n] / "train.log").read_text() for n in (0, 2)]
    assert len({*logs, f"process {os.getpid()}\n"}) == 3  # a process each
    out = capfd.readouterr().out
    assert "[2/3] number " in out and "[3/3] number " in out and "process" not in out
    assert f"logs: {tmp_path}/*/train.log" in out
    run_folders(functions, 2)
    assert capfd.readouterr().out == ""


def test_a_failed_run_ends_the_others_and_is_named(tmp_path):
    def fail():
        raise RecipeError("the disk is full")

    functions = {
        tmp_path / "slow": lambda: time.sleep(60),
        tmp_path / "bad": fail,
        tmp_path / "later": partial(work, tmp_path / "later"),
    }
    start = time.monotonic()
    with pytest.raises(RecipeError, match=r"bad/train\.log: .*the disk is full"):
        run_folders(functions, 2)
    assert time.monotonic() - start < 30 and not (tmp_path / "later").exists()


def test_without_a_log_a_failure_is_said_here(tmp_path, capfd):
    def fail():
        raise RecipeError("no finite gradient")

    with pytest.raises(SystemExit) as caught:
        run_folders({tmp_path / "bad": fail}, 1, log="")
    assert caught.value.code == 1
    assert capfd.readouterr().err == "error: no finite gradient\n"
    with pytest.raises(RecipeError, match="a process: "):
        run_folders({tmp_path / "killed": lambda: os.kill(os.getpid(), 9)}, 1, log="")


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
    # a training's log goes on, a command's begins anew
    assert [log.read_text() for log in logs] == ["before\nsaid\n", "heard\n"]
