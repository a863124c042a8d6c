"""Run a command in parallel jobs with a log each (replaces Kaldi's run.pl).

    run_jobs [options] JOB=1:4 exp/logdir/stats.JOB.log  command --part JOB ...

``JOB`` is replaced by the job's number in the log's name and in the command, but not in
the names of folders. If a job fails, the others are stopped and one line is printed: its
log and the last error in it. SIGINT and SIGTERM stop all jobs; the status is then 130.
The command also works as ``espnet2.bin.launch --cmd``.
"""

import argparse
import re
import sys
from pathlib import Path

from espnet_adastride.bin.parsers import Parser, add_switch, command
from espnet_adastride.errors import UserError
from espnet_adastride.evaluation.logs import TrainingLog
from espnet_adastride.options import real, whole
from espnet_adastride.recipe.decoding import DecodingProgress
from espnet_adastride.recipe.jobs import (
    Interrupted,
    Job,
    die_with_parent,
    job_environment,
    numbered,
    rotate,
    run_jobs,
)


def get_parser():
    parser = Parser(__doc__)
    for name in ("gpu", "num_threads", "num_nodes", "name", "mem"):
        parser.add_argument(f"--{name}", help="accepted and ignored, as in run.pl")
    add_switch(parser, "--rotate", "keep the previous log as .1.log")
    parser.add_argument("--training_log", help="print a line per epoch from this log")
    parser.add_argument(
        "--decoding_dir", help="print decoding progress from this folder"
    )
    parser.add_argument(
        "--total", type=whole(0), default=0, help="utterances to decode"
    )
    parser.add_argument(
        "--grace",
        type=real(0),
        default=10.0,
        help="seconds to wait for jobs that are stopped",
    )
    parser.add_argument("rest", nargs=argparse.REMAINDER, help="[JOB=1:N] LOG COMMAND")
    return parser


@command(get_parser)
def main(args):
    rest, numbers = args.rest, range(1, 2)
    if rest and rest[0] == "--":
        rest = rest[1:]
    found = re.fullmatch(r"JOB=(\d+):(\d+)", rest[0]) if rest else None
    if found:
        numbers, rest = range(int(found[1]), int(found[2]) + 1), rest[1:]
    if len(rest) < 2:
        raise UserError("give a log and a command: run_jobs [JOB=1:N] LOG COMMAND")
    if found:
        jobs = [[numbered(word, n) for word in rest] for n in numbers]
    else:
        jobs = [rest]
    jobs = [Job(command[1:], Path(command[0])) for command in jobs]
    if args.rotate:
        for job in jobs:
            rotate(job.log)

    polls, log = [], None
    if args.training_log:
        log = TrainingLog(args.training_log)
        polls.append(lambda: [print(x, flush=True) for x in log.new_lines()])
    if args.decoding_dir:
        polls.append(DecodingProgress(args.decoding_dir, args.total))
    die_with_parent()
    try:
        run_jobs(
            jobs,
            poll=lambda: [poll() for poll in polls],
            environment=job_environment(len(jobs)),
            grace=args.grace,
        )
    except Interrupted:
        sys.exit(130)
    if log is not None and log.given_up:  # ESPnet then exits with status 0
        raise UserError(
            f"{args.training_log}: {log.given_up}; the training gave up: fewer batches "
            "than accum_grad, non-finite values in the data, or too high a "
            "learning rate"
        )


if __name__ == "__main__":
    main()
