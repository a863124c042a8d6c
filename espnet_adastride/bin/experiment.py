"""Do the missing runs of an experiment; write a record of every run.

    LIBRISPEECH=/path python -m espnet_adastride.bin.experiment \
        conf/experiments/whisper_strides.yaml

A run with a record in ``results/records/EXPERIMENT/`` is finished, wherever it was
made: after an interruption, or on another machine, the same command resumes. ``--limit
N`` stops after N runs. Each training uses one thread; ``--nj`` run at once. The page
and the picture are written at the end; ``python -m espnet_adastride.bin.results`` (make
results) writes them from the records alone.
"""

import argparse
import os
from pathlib import Path

from espnet_adastride.bin.parsers import (
    Parser,
    add_job_options,
    add_record_options,
    command,
)
from espnet_adastride.errors import UserError, counted, resumable
from espnet_adastride.experiments.definition import ROOT, read_experiment
from espnet_adastride.experiments.grid import with_threads
from espnet_adastride.experiments.records import code_state
from espnet_adastride.experiments.runs import Grid, run_grid
from espnet_adastride.options import whole
from espnet_adastride.recipe.jobs import Interrupted


def get_parser() -> argparse.ArgumentParser:
    parser = Parser(__doc__)
    parser.add_argument("definition", help="definition, conf/experiments/NAME.yaml")
    add_record_options(parser)
    parser.add_argument("--dumpdir", default="dump", help="the recipe's dump folder")
    parser.add_argument(
        "--expdir", default="exp", help="the recipe's experiment folder"
    )
    parser.add_argument(
        "--limit", type=whole(1), help="stop after this many runs; default: all"
    )
    add_job_options(parser)
    return parser


@command(get_parser)
def main(args):
    experiment = read_experiment(args.definition)
    if experiment.task != "asr":
        raise UserError(
            f"{args.definition}: runs of {experiment.task} are trained by "
            f"{experiment.recipe}/{experiment.script}; copy EXP/records from there to "
            f"{args.records}/{experiment.name}"
        )
    environment = with_threads(args.threads)
    path = [str(ROOT), environment.get("PYTHONPATH", "")]
    environment["PYTHONPATH"] = os.pathsep.join(filter(None, path))
    grid = Grid(
        experiment,
        Path(args.records) / experiment.name,
        dumpdir=args.dumpdir,
        expdir=args.expdir,
        python=args.python,
        nj=args.nj,
        environment=environment,
    )
    runs, failures = experiment.runs(), []
    done = grid.finished()
    todo = [run for run in runs if run.key not in done]
    print(f"{len(runs) - len(todo)} of {len(runs)} runs have their records")
    if todo:
        todo = todo[: args.limit]
        with resumable(Interrupted):
            failures = run_grid(grid, todo, args.nj, code_state(), grid.check_data)
    from espnet_adastride.experiments.tables import write_results

    print(write_results(args.definition, args.records, args.results))
    if failures:
        raise UserError(
            f"{counted(len(failures), 'run')} failed; the first: {failures[0]}"
        )


if __name__ == "__main__":
    main()
