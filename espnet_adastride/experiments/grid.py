"""Grids of runs, systems x rates x seeds, and the one loop over the runs of all tasks.

:func:`run_all` does the runs that are not done, some at a time, with progress and the
time that is left: runs of a recipe (``runs.py``) and functions (``folders.py``).
"""

import os
import re
from dataclasses import dataclass
from functools import partial
from typing import Callable, Dict, List, NamedTuple, Optional, Sequence, Tuple

from espnet_adastride.errors import UserError, unknown_word
from espnet_adastride.experiments.run_progress import RunProgress
from espnet_adastride.recipe.jobs import Job, run_queue


@dataclass(frozen=True)
class System:
    """A method, or a variant of one, at no particular rate.

    Attributes:
        name: Name in tables and of folders.
        words: Training options without the rate.
    """

    name: str
    words: tuple


@dataclass(frozen=True)
class Run:
    """One training: a system at a rate, with a seed.

    Attributes:
        system: The system's name.
        rate: Overall downsampling.
        seed: Seed of the training.
        tag: Name of the experiment's folder behind ``asr_``.
        asr_args: Options that override the configuration.
    """

    system: str
    rate: float
    seed: int
    tag: str
    asr_args: str

    @property
    def key(self) -> Tuple[str, float, int]:
        """System, rate and seed."""
        return self.system, self.rate, self.seed

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
        UserError: The text has another form, or there is no such method.
    """
    from espnet_adastride.downsampling import available_downsamplers

    name, _, rest = text.partition("=")
    parts = rest.split()
    if not re.fullmatch(r"[\w.+-]+", name) or not parts or "=" in parts[0]:
        raise UserError(
            f"{text!r}: give NAME=METHOD WORD=VALUE ..., such as "
            "'wide=adastride score_bound=2'"
        )
    choices = available_downsamplers()
    if parts[0] not in choices:
        raise UserError(f"{text!r}: {unknown_word('method', parts[0], choices)}")
    words = list(method_system(parts[0]).words)
    for index, part in enumerate(parts[1:], 1):
        if part.startswith("--"):
            return System(name, tuple(words + parts[index:]))
        if not re.fullmatch(r"\w+=\S+", part):
            raise UserError(f"{text!r}: {part!r} is not WORD=VALUE")
        words += ["--encoder_conf", f"input_layer_conf.{part}"]
    return System(name, tuple(words))


def tag_of(name: str, asr_args: str) -> str:
    """Return the tag of a configuration and further options, as the driver makes it."""
    return name + re.sub(r"[ |=/]", "", asr_args.replace("--", "_"))


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
        UserError: Something is given twice, or nothing at all.
    """
    for what, values in (
        ("systems", [s.name for s in systems]),
        ("rates", list(rates)),
        ("seeds", list(seeds)),
    ):
        if not values:
            raise UserError(f"no {what}: give at least one")
        twice = [v for v in values if values.count(v) > 1]
        if twice:
            raise UserError(f"{what}: {twice[0]} is given twice")
    prefix = tag_of(prefix, common)
    runs = []
    for seed in seeds:
        for rate in rates:
            for system in systems:
                tag = f"{prefix}_{system.name}_{rate:g}x_seed{seed}"
                words = list(system.words)
                words += ["--encoder_conf", f"input_layer_conf.stride={rate:g}"]
                words += ["--seed", str(seed), *common.split()]
                runs.append(Run(system.name, rate, seed, tag, " ".join(words)))
    return runs


class Step(NamedTuple):
    """What :func:`run_all` needs to know about a run.

    Attributes:
        name: name in progress lines.
        job: the job that does the run.
        is_done: returns whether the run is done already.
        finish: called after the job has succeeded; returns a description of the run, or
            None if another process does it; an error marks the run as failed.
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
) -> List[str]:
    """Do the missing runs in order, ``limit`` at a time, and report progress.

    Args:
        steps: all runs of a grid.
        limit: number of parallel runs.
        say: receives progress lines: finished runs, current runs, remaining time.
        keep_going: whether the other runs continue after a failure.
        environment: environment of commands.

    Returns:
        One line for each failed run (``keep_going``).

    Raises:
        UserError: a run has failed, and the others were stopped.
        Interrupted: a signal arrived, and all runs were stopped.
    """
    todo = [step for step in steps if not step.is_done()]
    progress = RunProgress(len(steps), len(steps) - len(todo), limit, say)
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
                raise UserError(problem)
            failures.append(f"{step.name}: {problem}")
            say(f"failed: {failures[-1]}")
        if words is not None:
            progress.finished(step.name, words, seconds)
        else:
            progress.dropped(step.name)

    def poll(indices: List[int]) -> None:
        running = [todo[i] for i in indices if todo[i].job.log is not None]
        if running:  # others tell their progress themselves
            progress([s.name for s in running], [s.job.log for s in running])

    jobs = [step.job for step in todo]
    run_queue(jobs, limit, ended, poll, environment=environment)
    return failures


def with_threads(threads: int) -> Dict[str, str]:
    """Return this process's environment, in which jobs compute on so many threads."""
    names = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")
    return {**os.environ, **dict.fromkeys(names, str(threads))}
