"""Run commands or functions in parallel, each with its log; stop them all together.

It replaces Kaldi's ``run.pl``. Each job gets its own process group, so that an
interruption also ends data-loader workers and spawned ranks; if this process itself is
killed, Linux ends the jobs with it. A function runs in a forked process, which has what
was imported or loaded before, such as libraries that take seconds.
"""

import ctypes
import logging
import multiprocessing
import os
import re
import signal
import subprocess
import sys
import time
import traceback
from contextlib import contextmanager
from pathlib import Path
from typing import Callable, Dict, List, NamedTuple, Optional, Sequence, Tuple, Union

from espnet_adastride.errors import UserError, describe_os_error, named
from espnet_adastride.evaluation.logs import describe_signal, last_error
from espnet_adastride.progress import cores

_STOPPING = (signal.SIGINT, signal.SIGTERM)

#: how PyTorch refuses a backward pass in a forked process, if its parent has done one
#: beside a GPU, or after torch.compile, which pretends that there are some: autograd
#: then has threads, which a fork loses
_LOST_THREADS = "Unable to handle autograd's threading"


class Job(NamedTuple):
    """One command or function, and the file for its output.

    The output of a function is appended; with the log None it is printed.
    """

    command: Union[List[str], Callable[[], None]]
    log: Optional[Path]


class Interrupted(BaseException):
    """SIGINT or SIGTERM arrived while jobs were running."""


class _Interrupting:
    """A signal handler that raises Interrupted, but not while a process starts.

    A process that was forked, but is not yet known as running, would not be stopped.
    """

    def __init__(self):
        self.waits = self.arrived = False

    def __call__(self, number, frame):
        self.arrived = True
        if not self.waits:
            raise Interrupted

    @contextmanager
    def deferred(self):
        """Raise Interrupted at the end, if a signal arrives in between."""
        self.waits = True
        try:
            yield
        finally:
            self.waits = False
        if self.arrived:
            raise Interrupted


def die_with_parent() -> None:
    """Ask Linux to send this process SIGTERM when its parent dies."""
    if sys.platform == "linux":
        pr_set_pdeathsig = 1
        ctypes.CDLL(None).prctl(pr_set_pdeathsig, signal.SIGTERM, 0, 0, 0)


def _prepare_child() -> None:
    # a shell starts background commands with SIGINT ignored, which is inherited
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    die_with_parent()


def _signal_group(process: subprocess.Popen, number: int) -> None:
    try:
        os.killpg(process.pid, number)
    except (ProcessLookupError, PermissionError):
        pass


def _stop(processes: List[subprocess.Popen], grace: float) -> None:
    """End the process groups: SIGTERM first, then SIGKILL."""
    # further signals must not interrupt the clean-up
    for number in _STOPPING:
        signal.signal(number, signal.SIG_IGN)
    running = [p for p in processes if p.poll() is None]
    for process in running:
        _signal_group(process, signal.SIGTERM)
    deadline = time.monotonic() + grace
    while any(p.poll() is None for p in running) and time.monotonic() < deadline:
        time.sleep(0.05)
    for process in processes:  # also members that outlive their leader
        _signal_group(process, signal.SIGKILL)
        process.wait()


def describe_failure(status: int, log: Optional[Path]) -> str:
    """Return one line on a failed command: its log and the last error in it."""
    if status < 0:
        what = describe_signal(signal.Signals(-status).name)
        if log is None:
            return f"a process: {what}"
        return f"{log}: {what}; last words: {last_error(log)}"
    return f"{log}: {last_error(log)}"


class _Forked:
    """A function in a forked process, with what is used of ``subprocess.Popen``."""

    def __init__(self, job: Job):
        context = multiprocessing.get_context("fork")
        self.process = context.Process(target=self._work, args=(job,))
        # a signal that reaches the child before its handlers are set waits for them
        before = signal.pthread_sigmask(signal.SIG_BLOCK, _STOPPING)
        try:
            self.process.start()
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, before)
        self.pid = self.process.pid
        try:
            os.setpgid(self.pid, self.pid)  # the child does so, too: one of them first
        except OSError:
            pass

    def poll(self) -> Optional[int]:
        return self.process.exitcode

    def wait(self) -> None:
        self.process.join()

    @staticmethod
    def _work(job: Job) -> None:
        os.setpgid(0, 0)
        _prepare_child()
        signal.pthread_sigmask(signal.SIG_UNBLOCK, _STOPPING)
        if job.log is not None:
            file = os.open(job.log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o666)
            for stream in (1, 2):
                os.dup2(file, stream)
            sys.stdout = os.fdopen(os.dup(1), "w", buffering=1)
            sys.stderr = os.fdopen(os.dup(2), "w", buffering=1)
            logging.root.handlers.clear()  # the parent's, which write elsewhere
        try:
            job.command()
        except UserError as error:
            print(named(f"error: {error}"), file=sys.stderr)
        except OSError as error:  # of a disk or a folder, as in one_line_errors
            print(named(f"error: {describe_os_error(error)}"), file=sys.stderr)
        except SystemExit as error:
            if not error.code:
                return
            print(error.code, file=sys.stderr)
        except BaseException as error:
            if _LOST_THREADS not in str(error):
                traceback.print_exc()
            else:
                line = (
                    "error: this Python process has computed gradients beside a GPU or "
                    "after torch.compile, and what it forks cannot: restart it (in a "
                    "notebook, the kernel) and start the runs before any other training"
                )
                print(named(line), file=sys.stderr)
        else:
            return
        raise SystemExit(1) from None


def numbered(word: str, number: int) -> str:
    """Put a job's number for the word ``JOB`` in the names of files; folders keep it.

    A word may name several, as in ``ark,scp:a/raw.JOB.ark,a/raw.JOB.scp``.
    """
    return re.sub(r"\bJOB\b(?=[^/,:\s]*([,:\s]|$))", str(number), word)


def rotate(log: Path) -> None:
    """Rename ``train.log`` to ``train.1.log`` and so on, as ESPnet's launch does."""
    names = [log]
    while names[-1].exists():
        names.append(log.with_name(f"{log.stem}.{len(names)}{log.suffix}"))
    for newer, older in reversed(list(zip(names, names[1:]))):
        os.replace(newer, older)


def _start(job: Job, environment: Optional[dict]) -> Union[subprocess.Popen, _Forked]:
    if job.log is not None:
        job.log.parent.mkdir(parents=True, exist_ok=True)
    if callable(job.command):
        return _Forked(job)
    with job.log.open("wb") as log:
        try:
            return subprocess.Popen(
                job.command,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                env=environment,
                start_new_session=True,
                preexec_fn=_prepare_child,
            )
        except OSError as error:
            raise UserError(
                f"cannot start {job.command[0]}: {error}; install it, or correct its "
                "path"
            ) from None


@contextmanager
def signals_handled_by(handler):
    """Handle SIGINT and SIGTERM; restore the previous handlers at the end."""
    before = {n: signal.getsignal(n) for n in _STOPPING}
    try:
        for number in before:
            signal.signal(number, handler)
        yield
    finally:
        for number, old in before.items():
            signal.signal(number, old)


def run_here(command: List[str]) -> None:
    """Run a command; forward signals to it; exit with its status if it fails."""
    process = subprocess.Popen(command)
    with signals_handled_by(lambda *_: process.send_signal(signal.SIGTERM)):
        status = process.wait()
    if status != 0:
        raise SystemExit(status if status > 0 else 128 - status)


@contextmanager
def _handling_signals(processes: List[subprocess.Popen], grace: float):
    """Turn signals into Interrupted; at the end, stop running jobs."""
    interrupting = _Interrupting()
    with signals_handled_by(interrupting):
        try:
            yield interrupting
        finally:
            _stop(processes, grace)


def job_environment(jobs: int) -> dict:
    """Return an environment in which the jobs share the cores evenly.

    Only if the user has not set OMP_NUM_THREADS.
    """
    environment = dict(os.environ)
    if jobs > 1:
        environment.setdefault("OMP_NUM_THREADS", str(max(1, cores() // jobs)))
    return environment


def run_jobs(
    jobs: List[Job],
    poll: Optional[Callable[[], None]] = None,
    environment: Optional[dict] = None,
    grace: float = 10.0,
) -> None:
    """Run all jobs at once and wait for them.

    Args:
        jobs: The jobs.
        poll: Called every 0.3 s and once at the end: progress.
        environment: Environment of the jobs; default is this process's.
        grace: Seconds that stopped jobs have to end by themselves.

    Raises:
        UserError: A job failed (the others are stopped); names log and error.
        Interrupted: A signal arrived; all jobs are stopped.
    """

    def ended(index: int, spent: float, problem: Optional[str]) -> None:
        if problem is not None:
            if poll:
                poll()
            raise UserError(problem)

    every = None if poll is None else lambda running: poll()
    run_queue(jobs, len(jobs), ended, every, 0.3, environment, grace)
    if poll:
        poll()


def run_queue(
    jobs: Sequence[Job],
    limit: int,
    ended: Callable[[int, float, Optional[str]], None],
    poll: Optional[Callable[[List[int]], None]] = None,
    interval: float = 0.2,
    environment: Optional[dict] = None,
    grace: float = 30.0,
) -> None:
    """Run jobs in order, at most ``limit`` at once; a failure does not stop others.

    Args:
        jobs: The jobs.
        limit: Maximum number of parallel jobs.
        ended: Called with a job's index, its wall-clock seconds and the error
            (None: no error).
        poll: Called every ``interval`` seconds with the indices of the running jobs.
        environment: Environment of the jobs; default is this process's.
        grace: Seconds that stopped jobs have to end by themselves.

    Raises:
        UserError: A command cannot be started (the others are stopped).
        SystemExit: A function without a log failed and has printed why.
        Interrupted: A signal arrived; all jobs are stopped.
    """
    alive: List[subprocess.Popen] = []
    running: Dict[int, Tuple[subprocess.Popen, float]] = {}
    waiting = list(range(len(jobs)))
    with _handling_signals(alive, grace) as interrupting:
        while running or waiting:
            while waiting and len(running) < limit:
                index = waiting.pop(0)
                with interrupting.deferred():
                    alive.append(_start(jobs[index], environment))
                running[index] = alive[-1], time.monotonic()
            time.sleep(interval)
            for index, (process, start) in list(running.items()):
                status = process.poll()
                if status is None:
                    continue
                # processes that outlive the job must not take a core from the next one,
                # and its id may be reused by the time that all jobs are done
                _signal_group(process, signal.SIGKILL)
                alive.remove(process)
                del running[index]
                problem = None
                if status > 0 and jobs[index].log is None:
                    raise SystemExit(status)
                if status != 0:
                    problem = describe_failure(status, jobs[index].log)
                ended(index, time.monotonic() - start, problem)
            if poll and running:
                poll(list(running))
