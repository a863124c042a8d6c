"""All that there is to measure on a GPU, in one command and 25 minutes.

    python benchmarks/gpu_kit.py run --output results

measures the layers and a training step of ESPnet's published Conformer, and runs the
tests that need a GPU; with ``--train LibriSpeech/train-clean-100`` and ``--dev
LibriSpeech/dev-clean`` it also trains four small models. For a machine without a
network, ``pack`` puts wheels and recordings into parts (on any machine), and ``run
--parts FOLDER`` takes them from there:

    python benchmarks/gpu_kit.py pack --train ... --dev ... --output parts
    python benchmarks/gpu_kit.py run --parts parts --output results --seconds 560

``run`` may be cut off, and given as often as needed: gpu_kit.json is written after
every measurement, what is there is not measured again, and parts may come one at a
time. Everything that remains between calls is in ``--work``. What matters most comes
first; every job has its share of the time, and gives way when it is used up.

    python benchmarks/gpu_kit.py report results/gpu_kit.json

writes the tables anew. ``run --dry_run`` does a little of everything on a CPU. More:
docs/gpu_kit.md.
"""

import argparse
import os
import re
import signal
import subprocess
import sys
import tempfile
import time
from importlib.util import find_spec
from pathlib import Path
from typing import NamedTuple, Tuple

import gpu_parts
from gpu_records import OTHER_MACHINE, TIME_OUT, Records
from gpu_report import write_report

ROOT = Path(__file__).resolve().parents[1]
TESTS = (
    "tests/downsampling/test_layers_on_devices.py",
    "tests/plugin/test_encoder_on_devices.py",
)
#: a process that ended within a cell is started again so often, for the cells behind it
STARTS = 6
#: seconds beyond a job's share until its process is ended
GRACE = 20


class Job(NamedTuple):
    """A process: sections of gpu.py, or the tests, with or without Triton kernels."""

    name: str
    sections: Tuple[str, ...]
    triton: str
    seconds: float


JOBS = (
    Job("layer", ("facts", "layer"), "0", 120),
    Job("layer, Triton", ("layer",), "1", 60),
    Job("tests", (), "0", 160),
    Job("tests, Triton", (), "1", 90),
    Job("step", ("step",), "0", 110),
    Job("step, Triton", ("step",), "1", 50),
    Job("train", ("train",), "", 1200),
    Job("more", ("more",), "0", 80),
    Job("more, Triton", ("more",), "1", 60),
)
DRY_JOBS = (
    Job("all", ("facts", "layer", "step", "train", "more"), "0", 600),
    Job("layer, Triton", ("layer",), "1", 60),
    Job("tests", (), "0", 120),
)


def get_parser():
    """Return the command's parser."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    commands = parser.add_subparsers(dest="command", required=True)

    pack = commands.add_parser("pack", help="put wheels and recordings into parts")
    pack.add_argument("--output", type=Path, required=True, help="folder for the parts")
    pack.add_argument("--part_mb", type=int, default=60, help="at most, in 10^6 bytes")
    pack.add_argument("--no_wheels", action="store_true", help="recordings alone")

    run = commands.add_parser("run", help="measure what is missing")
    run.add_argument("--output", type=Path, required=True, help="for JSON and Markdown")
    run.add_argument("--parts", type=Path, help="folder of parts that pack has made")
    run.add_argument(
        "--work",
        type=Path,
        default=Path(tempfile.gettempdir()) / "adastride_gpu_kit",
        help="what remains between calls; default: %(default)s",
    )
    run.add_argument("--seconds", type=float, default=1500, help="this call, about")
    run.add_argument("--train_seconds", type=float, default=150, help="each training")
    names = [job.name for job in JOBS]
    run.add_argument("--jobs", nargs="+", choices=names, default=names)
    run.add_argument("--retry", action="store_true", help="also what has failed")
    run.add_argument("--dry_run", action="store_true", help="small, on the CPU")

    for one in (pack, run):
        one.add_argument("--train", type=Path, help="LibriSpeech/train-clean-100")
        one.add_argument("--dev", type=Path, help="LibriSpeech/dev-clean")
        one.add_argument("--hours", type=float, help="of training speech at most")

    report = commands.add_parser("report", help="write the tables of a JSON file")
    report.add_argument("results", type=Path)
    report.add_argument("--output", type=Path, help="default: NAME.md beside it")
    return parser


def recordings_of(args):
    """Return {"train": folder, "dev": folder}, or {}; one alone is of no use."""
    given = {"train": args.train, "dev": args.dev}
    sets = {name: folder for name, folder in given.items() if folder is not None}
    if len(sets) == 1:
        raise gpu_parts.PartsError("give both --train and --dev, or neither")
    return sets


def run_pack(args):
    """Write the parts; say how large they are."""
    sets = recordings_of(args)
    if not sets and args.no_wheels:
        raise gpu_parts.PartsError("nothing to pack: give --train and --dev")
    with tempfile.TemporaryDirectory() as folder:
        wheels = [] if args.no_wheels else gpu_parts.download_wheels(folder)
        sizes = gpu_parts.pack(args.output, sets, wheels, args.part_mb, args.hours)
    for name, size in sizes.items():
        print(f"{args.output / name}: {size / gpu_parts.MB:.1f} MB")
    print(f"{args.output / 'parts.json'}: goes with the first part")


# --------------------------------------------------------------------------------- run


class Runner:
    """Does the jobs, each in a process of its own.

    Args:
        args: of ``run``.
    """

    def __init__(self, args):
        self.args, self.until = args, time.time() + args.seconds
        self.dry_run = args.dry_run
        self.jobs = [job for job in DRY_JOBS if self.dry_run]
        if not self.dry_run:
            self.jobs = [job for job in JOBS if job.name in args.jobs]
        name = "gpu_kit_dry_run.json" if self.dry_run else "gpu_kit.json"
        self.work = args.work.resolve()
        self.results, self.copy = self.work / name, args.output.resolve() / name
        if self.copy.exists() and not self.results.exists():
            self.work.mkdir(parents=True, exist_ok=True)  # of an earlier machine
            self.results.write_bytes(self.copy.read_bytes())

    def records(self):
        """Return the results as they are in the file."""
        return Records(self.results, self.copy)

    def prepare(self):
        """Unpack, or pack and unpack, and install; note what is missing."""
        sets, parts = recordings_of(self.args), self.args.parts
        complete = self.work / "data" / "complete"
        kept, wanted = self.work / "recordings", f"{sets} {self.args.hours}"
        if sets and not complete.exists():
            parts = self.work / "parts"
            gpu_parts.pack(parts, sets, hours=self.args.hours)
            kept.write_text(wanted, encoding="utf-8")
        elif sets and kept.exists() and kept.read_text(encoding="utf-8") != wanted:
            raise ValueError(
                f"--train, --dev, --hours: {self.work} has other recordings: remove "
                "it, or name another --work"
            )
        if parts is not None or (self.work / "parts.json").exists():
            missing = gpu_parts.unpack(parts or self.work, self.work)
            records = self.records()
            if missing:
                records.note("parts", f"waiting for {', '.join(missing)}")
            elif records.content["notes"].pop("parts", None):
                records.write()
            gpu_parts.install(self.work)

    def run(self):
        """Do the jobs in order within their shares, then what is left of them."""
        self.prepare()
        records = self.records()
        if self.args.retry:
            records.forget_errors()
        records.write()
        for share in (True, False):
            for job in self.jobs:
                self._do(job, share)
        write_report(self.records(), self.copy.with_suffix(".md"))

    def _do(self, job, share):
        records = self.records()
        state = records.content.setdefault("jobs", {}).setdefault(job.name, {})
        spent = state.get("spent", 0.0)
        left = self.until - time.time() - 5
        if state.get("done") and not self._something_new(job, records):
            return
        seconds = min(left, job.seconds - spent) if share else left
        if seconds < (1 if self.dry_run else 10):
            return
        print(f"--- {job.name}: {seconds:.0f} s at most", flush=True)
        start = time.time()
        done = (
            self._tests(job, seconds) if not job.sections else self._cells(job, seconds)
        )
        records = self.records()
        state = records.content.setdefault("jobs", {}).setdefault(job.name, {})
        state["spent"] = round(spent + time.time() - start, 1)
        state["done"] = done
        records.write()
        write_report(records, self.copy.with_suffix(".md"))

    def _something_new(self, job, records):
        """Return whether a job that was done has more to do: the speech has come."""
        if "train" not in job.sections or "train/updates" in records.cells:
            return False
        return (self.work / "data" / "complete").exists()

    def _cells(self, job, seconds):
        """Run gpu.py; return whether it came to its end."""
        until = time.time() + seconds
        for _ in range(STARTS):
            left = until - time.time()
            command = [sys.executable, str(ROOT / "benchmarks" / "gpu.py")]
            command += ["--results", self.results, "--copy", self.copy]
            command += ["--sections", *job.sections, "--seconds", left]
            command += [
                "--train_seconds",
                2 if self.dry_run else self.args.train_seconds,
            ]
            command += ["--data", self.work / "data"]
            command += ["--dry_run"] if self.dry_run else []
            status = self._child(command, job.triton, left + GRACE)
            if status is None:
                return False
            if status == OTHER_MACHINE:
                raise SystemExit(1)  # it has said why
            if status == 0:
                notes = self.records().content["notes"]
                names = [s + ", Triton" * (job.triton == "1") for s in job.sections]
                return not any(TIME_OUT in notes.get(name, "") for name in names)
            if time.time() > until - 5:
                return False
        return False

    def _child(self, command, triton, seconds, output=None):
        """Run a process; return its status, None if it had to be ended."""
        env = gpu_parts.environment(self.work, ROOT, triton)
        process = subprocess.Popen(
            list(map(str, command)),
            cwd=ROOT,
            env=env,
            stdout=output,
            stderr=subprocess.STDOUT if output else None,
            start_new_session=True,
        )
        limit = min(seconds, self.until - time.time() + GRACE)
        try:
            return process.wait(timeout=max(limit, 1))
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
            return None
        except BaseException:  # Ctrl-C: the child is in a session of its own
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
            raise

    def _tests(self, job, seconds):
        """Run the tests that need a GPU; keep every outcome, also if cut off."""
        files = list(TESTS[:1] if self.dry_run else TESTS)
        if not (self.work / "site").is_dir() and find_spec("espnet2") is None:
            files = files[:1]
        if find_spec("pytest") is None:
            self.records().note(job.name, "left out: pytest is not installed here")
            return True
        command = [sys.executable, "-m", "pytest", "-v", "-rfE", "--tb=short"]
        command += ["-p", "no:cacheprovider", "--color=no", *files]
        if self.dry_run:
            command += ["-k", "int32 and cpu"]
        else:
            command += ["-m", "cuda"]
            if job.triton == "1":  # what may run by the kernels
                command += ["-k", "adastride or random_strides"]
        # elsewhere another package may be called "tests", and hide a folder without an
        # __init__.py; one with it, that leads to the folder, comes first
        shim = self.work / "shim" / "tests" / "__init__.py"
        shim.parent.mkdir(parents=True, exist_ok=True)
        shim.write_text(f"__path__ = [{str(ROOT / 'tests')!r}]\n", encoding="utf-8")
        log = self.copy.parent / f"tests-triton{job.triton}.log"
        log.parent.mkdir(parents=True, exist_ok=True)
        start = time.time()
        with open(log, "w", encoding="utf-8") as output:
            status = self._child(command, job.triton, seconds, output)
        outcome = read_outcomes(log.read_text(encoding="utf-8", errors="replace"))
        outcome.update(took=round(time.time() - start, 1), cut_off=status is None)
        if status not in (0, 1, None):  # no tests, a crash, a wrong option
            outcome["status"] = status
        self.records().put(f"tests/triton{job.triton}", outcome)
        print(f"tests: {outcome}", flush=True)
        return status is not None


def read_outcomes(text):
    """Return the counts and the failures of a pytest log made with -v -rfE."""
    counts = dict.fromkeys(("passed", "failed", "skipped", "errors"), 0)
    words = dict(PASSED="passed", FAILED="failed", SKIPPED="skipped", ERROR="errors")
    failures = {}
    for line in text.splitlines():
        found = re.match(r"(\S+::.+?) (PASSED|FAILED|SKIPPED|ERROR)\b", line)
        if found:
            name, word = found.groups()
            counts[words[word]] += 1
            if word in ("FAILED", "ERROR"):
                failures.setdefault(name, "")
        found = re.match(r"(?:FAILED|ERROR) (\S+?)(?: - (.*))?$", line)
        if found:
            failures[found.group(1)] = (found.group(2) or "")[:300]
    return {**counts, "failures": failures}


def main(cmd=None):
    """Pack, run or report."""
    args = get_parser().parse_args(cmd)
    try:
        if args.command == "pack":
            run_pack(args)
        elif args.command == "report":
            if not args.results.is_file():
                raise ValueError(f"{args.results}: there is no such file")
            target = args.output or args.results.with_suffix(".md")
            write_report(Records(args.results), target)
            print(f"written: {target}")
        else:
            runner = Runner(args)
            runner.run()
            print(f"written: {runner.copy} and {runner.copy.with_suffix('.md')}")
    except (gpu_parts.PartsError, ValueError, OSError) as error:
        raise SystemExit(f"error: {error}") from None
    except KeyboardInterrupt:
        raise SystemExit("interrupted: the same command continues") from None


if __name__ == "__main__":
    main()
