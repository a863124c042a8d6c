"""A grid of recipe runs: systems x rates x seeds, some at a time, resumable.

:func:`run_all` is the one loop over the runs of any experiment: those that are not
done, some at a time, with progress and the time that is left. :class:`Grid` gives it
runs of a recipe, ``folders.py`` functions.

A run is one call of the recipe's ``run.sh`` for stages 11 to 13 with an ``--asr_tag``
of its own. When it has succeeded, a stamp beside its model says what it depended on; a
run whose stamp fits is not repeated. One that was interrupted resumes through the
recipe's own stages, which reject a folder with a training of other options.
"""

import os
import re
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Callable, Dict, List, NamedTuple, Optional, Sequence

from espnet_adastride.errors import RecipeError, UserError
from espnet_adastride.evaluation.learning_curves import read_epochs, training_seconds
from espnet_adastride.files import PathLike, lock
from espnet_adastride.progress import Progress, print_dated
from espnet_adastride.recipe.jobs import Job, run_jobs, run_queue
from espnet_adastride.recipe.stamps import Stamp, fingerprint


@dataclass(frozen=True)
class System:
    """A method, or a variant of one, at no particular rate.

    Attributes:
        name: In tables and names of folders.
        words: Training options, the rate left out.
    """

    name: str
    words: tuple


@dataclass(frozen=True)
class Run:
    """One training: a system at a rate, with a seed.

    Attributes:
        system: The system's name.
        rate: Overall downsampling.
        seed: Of the training.
        tag: Name of the experiment's folder behind ``asr_``.
        asr_args: Options that override the configuration.
    """

    system: str
    rate: float
    seed: int
    tag: str
    asr_args: str

    def __str__(self):
        return f"{self.system} {self.rate:g}x seed {self.seed}"


def method_system(name: str) -> System:
    """The system that a word of ``input_layer`` is, with its defaults."""
    return System(name, ("--encoder_conf", f"input_layer={name}"))


def read_variant(text: str) -> System:
    """Read ``NAME=METHOD [WORD=VALUE]... [--OPTION VALUE]...``.

    ``WORD`` is one of ``input_layer_conf``; what follows the first ``--OPTION`` are
    options of the training as they stand.

    Raises:
        RecipeError: The text has another form.
    """
    name, _, rest = text.partition("=")
    parts = rest.split()
    if not re.fullmatch(r"[\w.+-]+", name) or not parts or "=" in parts[0]:
        raise RecipeError(
            f"--variant {text!r}: give NAME=METHOD WORD=VALUE ..., such as "
            "'wide=adastride score_bound=2'"
        )
    words = list(method_system(parts[0]).words)
    for index, part in enumerate(parts[1:], 1):
        if part.startswith("--"):
            return System(name, tuple(words + parts[index:]))
        if not re.fullmatch(r"\w+=\S+", part):
            raise RecipeError(f"--variant {text!r}: {part!r} is not WORD=VALUE")
        words += ["--encoder_conf", f"input_layer_conf.{part}"]
    return System(name, tuple(words))


def make_runs(
    systems: Sequence[System],
    rates: Sequence[float],
    seeds: Sequence[int],
    prefix: str,
    common: str = "",
) -> List[Run]:
    """All runs, seed by seed, so that a part of the grid is a comparison already.

    Args:
        systems: Their names differ.
        rates: Overall downsampling; 12 means stages [2, 2, 3].
        seeds: Of the trainings.
        prefix: Of the tags.
        common: Training options of all runs; part of the tags.

    Raises:
        RecipeError: Something is given twice, or nothing at all.
    """
    for what, values in (
        ("systems", [s.name for s in systems]),
        ("rates", list(rates)),
        ("seeds", list(seeds)),
    ):
        if not values:
            raise RecipeError(f"no {what}: give at least one")
        twice = [v for v in values if values.count(v) > 1]
        if twice:
            raise RecipeError(f"{what}: {twice[0]} is given twice")
    # as the driver makes tags
    suffix = re.sub(r"[ |=/]", "", common.replace("--", "_"))
    runs = []
    for seed in seeds:
        for rate in rates:
            for system in systems:
                tag = f"{prefix}{suffix}_{system.name}_{rate:g}x_seed{seed}"
                words = list(system.words)
                words += ["--encoder_conf", f"input_layer_conf.stride={rate:g}"]
                words += ["--seed", str(seed), *common.split()]
                runs.append(Run(system.name, rate, seed, tag, " ".join(words)))
    return runs


class Grid:
    """The runs of one recipe, on disk.

    Args:
        recipe: Folder of ``run.sh``.
        test_set: The set that is decoded.
        asr_config: The configuration (absolute path).
        inference_tag: Name of the decoding's folder.
        sets: Prepared sets on which a run depends.
        options: Further options of ``run.sh`` on which the result depends.
        settings: Those on which it does not.
        script: In the recipe's folder.
        feats_type: ``raw`` or ``extracted``.
        dumpdir, expdir: Folders of data and experiments, in the recipe's if relative.
    """

    def __init__(
        self,
        recipe: PathLike,
        test_set: str,
        asr_config: PathLike,
        inference_tag: str = "decode",
        sets: Sequence[str] = ("train", "dev"),
        options: Sequence[str] = (),
        settings: Sequence[str] = (),
        script: str = "run.sh",
        feats_type: str = "raw",
        dumpdir: PathLike = "dump",
        expdir: PathLike = "exp",
    ):
        self.recipe = Path(recipe).absolute()
        self.script = self.recipe / script
        if not self.script.is_file():
            raise RecipeError(f"--recipe {recipe}: there is no {script} in it")
        if not Path(asr_config).is_file():
            raise RecipeError(f"--asr_config {asr_config}: there is no such file")
        self.test_set, self.asr_config = test_set, Path(asr_config).absolute()
        self.inference_tag, self.sets = inference_tag, list(sets)
        self.options, self.settings = list(options), list(settings)
        self.speech = "feats.scp" if feats_type == "extracted" else "wav.scp"
        self.dumpdir, self.expdir = str(dumpdir), str(expdir)
        self.data = self.recipe / dumpdir / feats_type

    @property
    def reference(self) -> Path:
        """Folder of the test set."""
        return self.data / self.test_set

    def experiment(self, run: Run) -> Path:
        """Folder of a run."""
        return self.recipe / self.expdir / f"asr_{run.tag}"

    def decoded(self, run: Run) -> Path:
        """The text that a run has recognised."""
        return self.experiment(run) / self.inference_tag / self.test_set / "text"

    def prepare_command(self) -> List[str]:
        """The call for the stages that the runs share."""
        return self._command("1", "10")

    def command(self, run: Run) -> List[str]:
        """The call for one run."""
        return self._command("11", "13") + [
            *("--asr_tag", run.tag),
            *("--asr_args", run.asr_args),
            *("--inference_tag", self.inference_tag),
            *("--inference_nj", "1"),
            *("--plan", "false"),  # of the same data, for every run again
        ]

    def _command(self, first: str, last: str) -> List[str]:
        return [
            *("bash", str(self.script)),
            *("--stage", first, "--stop_stage", last),
            *("--asr_config", str(self.asr_config)),
            *("--test_sets", self.test_set),
            *("--dumpdir", self.dumpdir, "--expdir", self.expdir),
            *self.options,
            *self.settings,
        ]

    def _stamp(self, run: Run) -> Stamp:
        return Stamp(self.experiment(run) / ".run_done")

    def _work(self, run: Run) -> dict:
        folders = [self.data / name for name in self.sets]
        files = [f / name for f in folders for name in (self.speech, "text")]
        files += [self.reference / name for name in (self.speech, "text")]
        return fingerprint(
            [*files, self.asr_config],
            options={"asr_args": run.asr_args, "options": " ".join(self.options)},
        )

    def is_done(self, run: Run) -> bool:
        """Return whether a run has succeeded with these very options and data."""
        return self._stamp(run).why_not_done(self._work(run)) is None

    def mark_done(self, run: Run, code: str = "") -> None:
        """Declare that a run has succeeded, with this state of the code."""
        self._stamp(run).write(self._work(run), [self.decoded(run)], code)

    def code(self, run: Run) -> str:
        """The state of the code that a finished run was started with."""
        return (self._stamp(run).read() or {}).get("summary", "")

    def stats(self, run: Run) -> Dict[str, float]:
        """What the last epoch reported of the input layer; minutes of all epochs."""
        stats: Dict[str, float] = {}
        epochs = read_epochs(self.experiment(run))
        if not epochs:
            return stats
        last = epochs[max(epochs)]
        for name in ("stride", "largest_jump", "empty_slots"):
            for phase in ("valid", "train"):
                if name not in stats and name in last.get(phase, {}):
                    stats[name] = float(last[phase][name])
        stats["minutes"] = training_seconds(epochs) / 60
        return stats


class Step(NamedTuple):
    """What :func:`run_all` needs to know of a run.

    Attributes:
        name: for the lines on the progress.
        job: that does it.
        is_done: whether it need not be done (again).
        finish: called when the job has succeeded; returns the run in words, or None
            where it was left to another process; a RecipeError is a failure.
    """

    name: str
    job: Job
    is_done: Callable[[], bool]
    finish: Callable[[], Optional[str]]


def run_all(
    steps: Sequence[Step],
    limit: int,
    say: Callable[[str], None] = partial(print, flush=True),
    keep_going: bool = False,
    environment: Optional[dict] = None,
    interval: float = 0.2,
) -> List[str]:
    """Do what is not done, in order, ``limit`` at a time, and tell how far it is.

    Args:
        steps: all runs of a grid.
        limit: parallel runs.
        say: takes lines: what was finished, what runs, when all will be.
        keep_going: a failed run stops no other.
        environment: of commands.
        interval: seconds between two looks at what runs.

    Returns:
        One line for each failed run, if the others should continue.

    Raises:
        RecipeError: a run has failed (the others are ended).
        Interrupted: a signal came; all runs are ended.
    """
    todo = [step for step in steps if not step.is_done()]
    progress = Progress(len(steps), len(steps) - len(todo), limit, say)
    failures: List[str] = []

    def ended(index: int, seconds: float, problem: Optional[str]) -> None:
        step, words = todo[index], None
        if problem is None:
            try:
                words = step.finish()
            except UserError as error:
                problem = str(error)
        if problem is not None:
            if not keep_going:
                raise RecipeError(problem)
            failures.append(f"{step.name}: {problem}")
            say(f"failed: {failures[-1]}")
        if words is not None:
            progress.finished(words, seconds)
        else:
            progress.total -= 1

    def poll(indices: List[int]) -> None:
        running = [todo[i] for i in indices if todo[i].job.log is not None]
        if running:  # others tell their progress themselves
            progress([s.name for s in running], [s.job.log for s in running])

    jobs = [step.job for step in todo]
    run_queue(jobs, limit, ended, poll, interval=interval, environment=environment)
    return failures


def with_threads(threads: int) -> Dict[str, str]:
    """Return this process's environment, in which jobs compute on so many threads."""
    names = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")
    return {**os.environ, **dict.fromkeys(names, str(threads))}


def run_grid(
    grid: Grid,
    runs: Sequence[Run],
    limit: int,
    folder: PathLike,
    describe: Callable[[Run], str],
    environment: Dict[str, str],
    code: str,
    check: Callable[[], None] = lambda: None,
) -> List[str]:
    """Prepare the data and do the runs that are not done, ``limit`` at a time.

    Args:
        grid: The recipe.
        runs: All runs.
        limit: Parallel runs.
        folder: Is locked, and receives what is printed: ``prepare.log``, ``TAG.log``.
        describe: A finished run in words; it may raise if there is nothing to say.
        environment: Of the commands.
        code: State of the code, to be remembered: no reason to do a run again.
        check: Of the prepared data.

    Returns:
        One line on every run that failed; the others went on.

    Raises:
        RecipeError: the preparation failed, or another process has the folder.
        Interrupted: a signal came.
    """
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)

    def finish(run: Run) -> str:
        words = describe(run)
        grid.mark_done(run, code)
        return words

    with (folder / ".lock").open("a") as file:
        lock(file.fileno(), folder / ".lock", False, f"process {os.getpid()}")
        log = folder / "prepare.log"
        print(f"preparing the data, log: {log}", flush=True)
        preparation = [Job(grid.prepare_command(), log)]
        run_jobs(preparation, environment=environment, grace=30.0)
        check()
        print(f"{len(runs)} runs, {limit} at once, logs: {folder}/*.log", flush=True)
        done = {run: grid.is_done(run) for run in runs}
        if any(done.values()):
            said = f"{sum(done.values())} of {len(runs)} runs are done and unchanged"
            print_dated(said)
        steps = [
            Step(
                str(run),
                Job(grid.command(run), folder / f"{run.tag}.log"),
                partial(done.get, run),
                partial(finish, run),
            )
            for run in runs
        ]
        return run_all(steps, limit, print_dated, True, environment)
