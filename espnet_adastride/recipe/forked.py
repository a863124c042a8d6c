"""Run functions in parallel, each in a forked process with its log.

For trainings by ESPnet: it is imported once, in seconds, and every fork has it. Where
commands are to be run instead: ``recipe/jobs.py``.
"""

import logging
import multiprocessing
import multiprocessing.connection
import os
import sys
import time
import traceback
from functools import partial
from pathlib import Path
from typing import Callable, Dict, List, NamedTuple, Sequence

from espnet_adastride.errors import RecipeError
from espnet_adastride.progress import Progress
from espnet_adastride.recipe.jobs import describe_failure, die_with_parent


class Task(NamedTuple):
    """One function, and the file that takes all that it says."""

    name: str
    log: Path
    function: Callable[[], None]


def _start(task: Task) -> multiprocessing.Process:
    task.log.parent.mkdir(parents=True, exist_ok=True)

    def work():
        die_with_parent()
        file = os.open(task.log, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        for stream in (1, 2):
            os.dup2(file, stream)
        sys.stdout = os.fdopen(os.dup(1), "w", buffering=1)
        sys.stderr = os.fdopen(os.dup(2), "w", buffering=1)
        logging.root.handlers.clear()  # the parent's, which write elsewhere
        try:
            task.function()
        except SystemExit as error:
            if error.code:
                print(error.code, file=sys.stderr)
                raise SystemExit(1) from None
        except BaseException:
            traceback.print_exc()
            raise SystemExit(1) from None

    process = multiprocessing.get_context("fork").Process(target=work, name=task.name)
    process.start()
    return process


def run_forked(
    tasks: Sequence[Task],
    limit: int,
    say: Callable[[str], None] = partial(print, flush=True),
    every: float = 300.0,
) -> None:
    """Do tasks, at most ``limit`` at a time.

    Args:
        tasks: in their order.
        limit: how many may run at once.
        say: takes lines: what starts, what was finished, when all will be.
        every: seconds between two lines on what runs.

    Raises:
        RecipeError: one has failed (the others are ended); names its log.
    """
    waiting = list(tasks)
    running: Dict[multiprocessing.Process, Task] = {}
    started: Dict[multiprocessing.Process, float] = {}
    progress = Progress(len(waiting), 0, limit, say, every)
    try:
        while waiting or running:
            while waiting and len(running) < limit:
                task = waiting.pop(0)
                say(f"{task.name}: log {task.log}")
                process = _start(task)
                running[process], started[process] = task, time.monotonic()
            multiprocessing.connection.wait([p.sentinel for p in running], timeout=5.0)
            for process in [p for p in running if p.exitcode is not None]:
                task = running.pop(process)
                if process.exitcode:
                    raise RecipeError(describe_failure(process.exitcode, task.log))
                progress.finished(task.name, time.monotonic() - started[process])
            names: List[str] = [task.name for task in running.values()]
            progress(names, [task.log for task in running.values()])
    finally:
        for process in running:
            process.terminate()
        for process in running:
            process.join()
