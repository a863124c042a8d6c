"""Training on two nodes through egs/asr.sh, espnet2.bin.launch, and Slurm or MPI.

Slurm, Grid Engine, PBS and their runners are stand-ins (cluster_stand_ins.py): two
tasks of this machine that are told what two nodes are told. So is MPI where there is no
``mpirun`` or no mpi4py. No GPU: gloo.
"""

import importlib.util
import os
import re
import shutil
import signal
import sys
import time
from pathlib import Path

import pytest

from tests.cluster_stand_ins import write_grid, write_mpi, write_runner, write_slurm
from tests.recipe.test_killed import Recipe, epochs_of, only
from tests.tiny_recipe import write_corpus

SLURM = "slurm.pl --config ../../conf/slurm.conf"
GRID = "queue.pl --config ../../conf/queue.conf"
PBS = "pbs.pl --config ../../conf/pbs.conf"
MPI_IS_HERE = bool(shutil.which("mpirun") and importlib.util.find_spec("mpi4py"))
pytestmark = pytest.mark.skipif(not Path("/proc/self").exists(), reason="reads /proc")


@pytest.fixture(scope="module")
def recipe(tmp_path_factory, warm_python):
    """A recipe at stage 11, on whose PATH the clusters are."""
    corpus = write_corpus(tmp_path_factory.mktemp("corpus"))
    folder = tmp_path_factory.mktemp("nodes")
    recipe = Recipe(folder, corpus, warm_python, "clone")  # no space for slurm.pl
    recipe.run("--stop_stage", "10")
    cluster = tmp_path_factory.mktemp("cluster")
    for name in ("slurm.pl", "queue.pl", "pbs.pl"):
        write_runner(cluster, name)
    write_slurm(cluster)
    write_grid(cluster)
    if MPI_IS_HERE:
        allowed = {"OMPI_ALLOW_RUN_AS_ROOT": "1", "OMPI_ALLOW_RUN_AS_ROOT_CONFIRM": "1"}
        recipe.environment.update(allowed, OMPI_MCA_rmaps_base_oversubscribe="1")
    else:
        write_mpi(cluster)
        words = [str(cluster), os.environ.get("PYTHONPATH", "")]
        recipe.environment["PYTHONPATH"] = os.pathsep.join(filter(None, words))
    path = f"{cluster}{os.pathsep}{recipe.environment['PATH']}"
    recipe.environment["PATH"] = path
    return recipe


def options(name, cuda_cmd, *more):
    words = [*only(11), "--asr_tag", name, "--num_nodes", "2", "--cuda_cmd", cuda_cmd]
    return [*words, *more]


def ranks(recipe, variable):
    """Return {rank: process} of the training, by the variable that tells the rank."""
    found = {}
    for pid, environment in recipe.processes("espnet2.bin.asr_train").items():
        command = Path(f"/proc/{pid}/cmdline").read_bytes().decode()
        number = [w for w in environment if w.startswith(f"{variable}=")]
        if number and "mpirun" not in command:
            found.setdefault(int(number[0].split("=")[1]), pid)
    return found


@pytest.fixture(scope="module")
def loss_of_two_processes(recipe):
    """The validation loss after an epoch of two processes that torchrun starts."""
    recipe.run(*only(11), "--asr_tag", "torchrun", "--cpu_processes", "2")
    return first_loss(recipe, "torchrun")


def first_loss(recipe, name):
    log = (recipe.folder / f"exp/asr_{name}/train.log").read_text()
    (line,) = re.findall(r" 1epoch results: .*", log)
    return float(re.search(r"\[valid\].*?loss=([\d.]+)", line)[1])


@pytest.fixture
def python_of_its_own(recipe, monkeypatch):
    """MPI itself tells a process its rank before it starts: a fork would not know."""
    if MPI_IS_HERE:
        monkeypatch.setattr(recipe, "python", sys.executable)


@pytest.mark.slow
@pytest.mark.usefixtures("python_of_its_own")
def test_two_nodes_by_mpi(recipe, loss_of_two_processes):
    recipe.run(*options("pbs", PBS))
    exp = recipe.folder / "exp/asr_pbs"
    assert epochs_of(exp / "train.log") == [1, 2, 3]
    job = (exp / "q" / "train.sh").read_text()
    assert "mpirun -np 2" in job and "--dist_launcher mpi" in job
    assert first_loss(recipe, "pbs") == pytest.approx(loss_of_two_processes, rel=1e-4)


def test_two_nodes_by_slurm(recipe, loss_of_two_processes):
    recipe.run(*options("nodes", SLURM))
    exp = recipe.folder / "exp/asr_nodes"
    assert epochs_of(exp / "train.log") == [1, 2, 3]  # one of two ranks writes
    assert (exp / "valid.acc.ave.pth").exists()
    log = (exp / "train.log").read_text()
    assert log.count("--dist_launcher slurm") >= 1
    job = (exp / "q" / "train.sh").read_text()
    assert "srun --export=ALL" in job and "--dist_backend gloo" in job
    assert first_loss(recipe, "nodes") == pytest.approx(loss_of_two_processes, rel=1e-4)


def lose_a_node(recipe, command, name, variable):
    """Kill one rank after two epochs; then train two more."""
    process = recipe.start(*command, "--max_epoch 1000")
    log = recipe.folder / f"exp/asr_{name}/train.log"
    deadline = time.monotonic() + 300
    while len(epochs_of(log)) < 2:
        assert process.poll() is None and time.monotonic() < deadline
        time.sleep(0.05)
    os.kill(ranks(recipe, variable)[1], signal.SIGKILL)
    text, _ = process.communicate(timeout=120)
    assert process.returncode == 1
    (line,) = [line for line in text.splitlines() if line.startswith("error:")]
    assert f"exp/asr_{name}/launch.log: " in line
    last = len(epochs_of(log)) + 2
    text = recipe.run(*command, f"--max_epoch {last}")
    assert "resuming from the last finished epoch" in text
    assert (recipe.folder / f"exp/asr_{name}/{last}epoch.pth").exists()


def test_a_lost_node_ends_the_job_in_one_line_and_the_job_resumes(recipe):
    lose_a_node(recipe, options("lost", SLURM, "--asr_args"), "lost", "SLURM_PROCID")


@pytest.mark.slow
@pytest.mark.usefixtures("python_of_its_own")
def test_a_lost_node_of_mpi(recipe):
    variable = "OMPI_COMM_WORLD_RANK" if MPI_IS_HERE else "STAND_IN_RANK"
    lose_a_node(recipe, options("lost_mpi", GRID, "--asr_args"), "lost_mpi", variable)


@pytest.mark.parametrize("runner", ["slurm.pl", "queue.pl"])
def test_an_option_that_the_clusters_file_does_not_describe(recipe, runner):
    process = recipe.start(*options("plain", runner))
    text, _ = process.communicate(timeout=120)
    (line,) = [line for line in text.splitlines() if line.startswith("error:")]
    assert f"{runner}: Command line option name not described" in line
