"""SIGKILL in every stage of egs/asr.sh; then the same command again.

The result is, byte for byte, that of an undisturbed run; a training resumes after its
last finished epoch, with two processes too. The corpus' folder and its speakers have
spaces and shell characters in their names.
"""

import os
import random
import re
import shutil
import signal
import subprocess
import time
import zipfile
from pathlib import Path

import pytest

from tests.tiny_recipe import CONFIG, LM_CONFIG, SETS, copy_recipes, write_corpus
from tests.warm_python import wait_idle

EXP = Path("exp/asr_tiny")
LM_EXP = Path("exp/lm_tiny")
DECODED = EXP / "inference" / "test_x"
SUBSETS = ("train", "valid")
STAGES = {  # what each makes
    1: ["data/train_x", "data/dev_x", "data/test_x"],
    2: ["data/train_x_sp"],
    3: ["dump/raw/org", "dump/raw/test_x"],
    4: ["dump/raw/train_x", "dump/raw/dev_x"],
    5: ["data/en_token_list"],
    6: ["dump/raw/lm_train.txt", *(f"exp/lm_stats_en_char/{s}" for s in SUBSETS)],
    8: [LM_EXP / "perplexity_test" / name for name in ("ppl", "utt2ppl")],
    10: [f"exp/asr_stats_raw_en_char/{s}" for s in SUBSETS],
    12: [DECODED / name for name in ("text", "token", "token_int")],
    13: [DECODED / f"score_{kind}" for kind in ("wer", "cer")],
    14: [EXP / "asr_tiny_valid.acc.ave.zip"],
}
LM = ("--use_lm", "true", "--lm_config", "tiny_lm.yaml", "--lm_tag", "tiny")
OPTIONS = {  # that one stage alone is given
    2: ("--speed_perturb_factors", "0.9 1.0 1.1"),
    **{stage: LM for stage in (6, 7, 8)},
}
pytestmark = pytest.mark.skipif(not Path("/proc/self").exists(), reason="reads /proc")


class Recipe:
    """A folder of the librispeech_100 recipe, and its driver."""

    def __init__(self, folder, corpus, python, name="a clone"):
        repo = copy_recipes(folder / name)
        self.folder, self.python = repo / "egs" / "librispeech_100", python
        (self.folder / "tiny.yaml").write_text(CONFIG)
        (self.folder / "tiny_lm.yaml").write_text(LM_CONFIG)
        self.environment = {
            **os.environ,
            "LIBRISPEECH": str(corpus),
            "PYTHON_EXEC": str(python),  # of torchrun's processes
            "ADASTRIDE_TEST": str(folder),
            "OMP_NUM_THREADS": "1",
        }

    def start(self, *options):
        words = [*SETS, "--python", self.python, "--asr_config", "tiny.yaml"]
        words += ["--asr_tag", "tiny", "--inference_tag", "inference", "--ngpu", "0"]
        words += ["--speed_perturb_factors", "", "--token_type", "char", "--nj", "1"]
        beam = "--beam_size 2 --ctc_weight 0.0 --minlenratio 0.2 --maxlenratio 0.5"
        words += ["--inference_config", "", "--inference_args", beam, "--plan", "false"]
        return subprocess.Popen(
            ["bash", "run.sh", *map(str, words), "--inference_nj", "1", *options],
            cwd=self.folder,
            env=self.environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
        )

    def run(self, *options):
        process = self.start(*options)
        text, _ = process.communicate(timeout=600)
        assert process.returncode == 0, text
        return text

    def processes(self, words=""):
        """Return {process: its environment} of the driver and all below it."""
        found = {}
        for path in Path("/proc").glob("[0-9]*"):
            try:
                environment = (path / "environ").read_bytes().decode(errors="replace")
                command = (path / "cmdline").read_bytes().decode(errors="replace")
            except OSError:
                continue
            if f"ADASTRIDE_TEST={self.environment['ADASTRIDE_TEST']}\0" in environment:
                if words in command.replace("\0", " "):
                    found[int(path.name)] = environment.split("\0")
        return found

    def kill(self, process):
        """SIGKILL all of it at once, as far as that goes; wait until all is gone."""
        while pids := self.processes():
            for pid in pids:
                try:
                    os.kill(pid, signal.SIGKILL)
                except ProcessLookupError:
                    pass
            process.poll()
            time.sleep(0.02)
        text, _ = process.communicate()
        wait_idle(self.python)
        return text

    def content(self, names):
        """Return {name: bytes} of all that is there, but for times and locks."""
        found = {}
        for name in names:
            top = self.folder / name
            for path in [top] if top.is_file() else top.rglob("*"):
                name = str(path.relative_to(self.folder))
                if path.suffix == ".zip":
                    with zipfile.ZipFile(path) as packed:
                        found.update({n: packed.read(n) for n in packed.namelist()})
                elif path.is_file() and path.name not in (".lock", ".stage_done"):
                    found[name] = path.read_bytes()
        # these tell when they were made
        timed = ("RESULTS.md", "README.md", "meta.yaml")
        return {k: b"" if k.endswith(timed) else v for k, v in found.items()}


def only(stage):
    return "--stage", str(stage), "--stop_stage", str(stage), *OPTIONS.get(stage, ())


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
    return write_corpus(tmp_path_factory.mktemp("corpus"))


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory, corpus, warm_python):
    """A recipe that has run all stages, and how long each took."""
    recipe = Recipe(tmp_path_factory.mktemp("undisturbed"), corpus, warm_python)
    seconds = {}
    for stage in sorted([*STAGES, 7, 11]):
        start = time.monotonic()
        recipe.run(*only(stage))
        seconds[stage] = time.monotonic() - start
    return recipe, seconds


@pytest.fixture(scope="module")
def killed(tmp_path_factory, corpus, warm_python):
    """A recipe that has run nothing yet."""
    return Recipe(tmp_path_factory.mktemp("killed"), corpus, warm_python)


@pytest.mark.slow
def test_stages_killed_at_random_moments(undisturbed, killed):
    reference, seconds = undisturbed
    drawn = random.Random(2026)
    for stage, names in STAGES.items():
        if stage == 8:  # with the same model: training is not exact to the last bit
            shutil.copytree(
                reference.folder / LM_EXP, killed.folder / LM_EXP, symlinks=True
            )
            shutil.rmtree(killed.folder / LM_EXP / "perplexity_test")
        if stage == 12:
            model = shutil.copytree(
                reference.folder / EXP, killed.folder / EXP, symlinks=True
            )
            for path in (DECODED.parent, EXP / "README.md", EXP / ".packing_done"):
                path = killed.folder / path
                shutil.rmtree(path) if path.is_dir() else path.unlink()
            (model / "RESULTS.md").unlink()
        for _ in range(2 if stage in (3, 10, 12) else 1):
            moment = drawn.uniform(0.15, 1.0) * seconds[stage]
            print(
                f"stage {stage}: SIGKILL after {moment:.2f} s of {seconds[stage]:.2f}"
            )
            process = killed.start(*only(stage))
            time.sleep(moment)
            print(killed.kill(process))
        print(killed.run(*only(stage)))
        made, expected = killed.content(names), reference.content(names)
        assert expected and made.keys() == expected.keys(), stage
        for name in expected:
            assert made[name] == expected[name], name
    hypotheses = killed.content([DECODED / "text"])[str(DECODED / "text")]
    assert len(hypotheses.split()) > 4  # more than the utterances' names
    assert not list(killed.folder.rglob("owned"))


def epochs_of(log):
    """Return the numbers of the epochs that a training's log reports."""
    text = log.read_text() if log.exists() else ""
    return [int(n) for n in re.findall(r" (\d+)epoch results", text)]


def rank(recipe, number):
    """Return the process of one rank."""
    for pid, environment in recipe.processes("espnet2.bin.asr_train").items():
        if f"RANK={number}" in environment:
            return pid
    raise AssertionError(f"there is no rank {number}")


@pytest.mark.parametrize("task, processes", [("asr", 1), ("asr", 2), ("lm", 1)])
def test_a_killed_training_goes_on_from_its_last_epoch(undisturbed, task, processes):
    """Also if one of two processes is killed; a second run is refused meanwhile."""
    recipe, _ = undisturbed
    name = f"killed{processes}"
    exp, best = recipe.folder / f"exp/{task}_{name}", {"asr": "acc", "lm": "loss"}[task]
    log = exp / "train.log"
    options = [*only({"asr": 11, "lm": 7}[task]), f"--{task}_tag", name]
    options += ["--cpu_processes", str(processes), f"--{task}_args"]
    process = recipe.start(*options, "--max_epoch 1000")
    deadline = time.monotonic() + 300
    while len(epochs_of(log)) < 2 or not (exp / "checkpoint.pth").exists():
        assert process.poll() is None and time.monotonic() < deadline
        time.sleep(0.05)
    if processes == 1:
        second = recipe.start(*options, "--max_epoch 1000")
        text, _ = second.communicate()
        assert second.returncode == 1
        (line,) = [line for line in text.splitlines() if line.startswith("error:")]
        assert f"another driver works in exp/{task}_{name} (process " in line
        assert process.poll() is None
        recipe.kill(process)
    else:
        pid = rank(recipe, 1)
        os.kill(pid, signal.SIGKILL)
        text, _ = process.communicate(timeout=120)
        assert process.returncode == 1
        (line,) = [line for line in text.splitlines() if line.startswith("error:")]
        assert f"{name}/train.log: rank 1, process {pid}, was ended by SIGKILL" in line
        assert "run the same command to resume" in line
        wait_idle(recipe.python)
        assert recipe.processes() == {}

    done = epochs_of(log)
    last = len(done) + 2
    text = recipe.run(*options, f"--max_epoch {last}")
    assert "resuming from the last finished epoch" in text
    again = epochs_of(log)
    # the last report may be of an epoch whose checkpoint was not written any more
    assert again in (list(range(last - 1, last + 1)), list(range(last - 2, last + 1)))
    assert (exp / f"valid.{best}.ave.pth").exists()
    assert (exp / f"{last}epoch.pth").exists()
