"""Training on two nodes through egs/asr.sh, espnet2.bin.launch and Slurm.

Slurm and its ``slurm.pl`` are stand-ins (tests/slurm_stand_ins.py): two tasks of this
machine that are told what Slurm tells two nodes. No GPU: gloo.
"""

import os
import re
import signal
import time
from pathlib import Path

import pytest

from tests.plugin.test_killed import Recipe, epochs_of, only
from tests.slurm_stand_ins import write_slurm, write_slurm_pl
from tests.tiny_recipe import write_corpus

CONF = "--config ../../conf/slurm.conf"
pytestmark = pytest.mark.skipif(not Path("/proc/self").exists(), reason="reads /proc")


@pytest.fixture(scope="module")
def recipe(tmp_path_factory, warm_python):
    """A recipe at stage 11, on whose PATH a Slurm is."""
    corpus = write_corpus(tmp_path_factory.mktemp("corpus"))
    folder = tmp_path_factory.mktemp("nodes")
    recipe = Recipe(folder, corpus, warm_python, "clone")  # slurm.pl bears no blank
    recipe.run("--stop_stage", "10")
    cluster = tmp_path_factory.mktemp("cluster")
    write_slurm_pl(cluster)
    write_slurm(cluster)
    path = f"{cluster}{os.pathsep}{recipe.environment['PATH']}"
    recipe.environment["PATH"] = path
    return recipe


def options(name, cuda_cmd, *more):
    words = [*only(11), "--asr_tag", name, "--num_nodes", "2", "--cuda_cmd", cuda_cmd]
    return [*words, *more]


def ranks(recipe):
    """Return {rank: process} of the training."""
    found = {}
    for pid, environment in recipe.processes("espnet2.bin.asr_train").items():
        command = Path(f"/proc/{pid}/cmdline").read_bytes().decode()
        number = [w for w in environment if w.startswith("SLURM_PROCID=")]
        if number and "warm_python.py" in command:
            found[int(number[0].split("=")[1])] = pid
    return found


def test_two_nodes_train_one_model(recipe):
    recipe.run(*options("nodes", f"slurm.pl {CONF}"))
    exp = recipe.folder / "exp/asr_nodes"
    assert epochs_of(exp / "train.log") == [1, 2, 3]  # one of two ranks writes
    assert (exp / "valid.acc.ave.pth").exists()
    log = (exp / "train.log").read_text()
    assert log.count("--dist_launcher slurm") >= 1
    job = (exp / "q" / "train.sh").read_text()
    assert "srun --export=ALL" in job and "--dist_backend gloo" in job

    # as two processes that torchrun starts
    recipe.run(*only(11), "--asr_tag", "torchrun", "--cpu_processes", "2")
    losses = []
    for name in ("nodes", "torchrun"):
        log = (recipe.folder / f"exp/asr_{name}/train.log").read_text()
        (line,) = re.findall(r" 1epoch results: .*", log)
        losses.append(float(re.search(r"\[valid\].*?loss=([\d.]+)", line)[1]))
    assert losses[0] == pytest.approx(losses[1], rel=1e-4)


def test_a_lost_node_ends_the_job_in_one_line_and_the_job_resumes(recipe):
    command = options("lost", f"slurm.pl {CONF}", "--asr_args")
    process = recipe.start(*command, "--max_epoch 1000")
    log = recipe.folder / "exp/asr_lost/train.log"
    deadline = time.monotonic() + 300
    while len(epochs_of(log)) < 2:
        assert process.poll() is None and time.monotonic() < deadline
        time.sleep(0.05)
    os.kill(ranks(recipe)[1], signal.SIGKILL)
    text, _ = process.communicate(timeout=120)
    assert process.returncode == 1
    (line,) = [line for line in text.splitlines() if line.startswith("error:")]
    assert "exp/asr_lost/launch.log: " in line
    last = len(epochs_of(log)) + 2
    text = recipe.run(*command, f"--max_epoch {last}")
    assert "going on from the last finished epoch" in text
    assert (recipe.folder / f"exp/asr_lost/{last}epoch.pth").exists()


def test_an_option_that_the_clusters_file_does_not_describe(recipe):
    process = recipe.start(*options("plain", "slurm.pl"))
    text, _ = process.communicate(timeout=120)
    (line,) = [line for line in text.splitlines() if line.startswith("error:")]
    assert "slurm.pl: Command line option name not described" in line
