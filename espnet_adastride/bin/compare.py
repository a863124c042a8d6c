"""Train, decode and compare methods x rates x seeds through a recipe.

    FSDD=/path python -m espnet_adastride.bin.compare --recipe egs/digits \
        --methods strided_conv adastride --rates 4 8 12 --seeds 0 1 2 --nj 2

``--nj`` trainings run at once, one thread each; the logs are in ``RECIPE/exp/CONFIG/``.
A finished run leaves its record in ``RECIPE/exp/records/CONFIG/``. After an
interruption, the same command resumes: a run that has a record with the same options
and data is not repeated, whatever ``--name`` says. Another ``--test_set`` is added to
the record; a model that is still there is only decoded. At the end, or with
``--table_only true``, the records become ``RECIPE/exp/NAME.md``: error rates over the
seeds, and paired tests against the baseline at the same rate
(espnet_adastride/evaluation/statistics.py describes what these tests show).

Beside methods with their defaults it compares variants:

    --variant 'bound2=adastride score_bound=2' 'slow=adastride --optim_conf lr=0.001'
"""

import argparse
import datetime
import os
import shlex
from collections import Counter
from pathlib import Path
from typing import List, Sequence

from espnet_adastride.bin.parsers import Parser, add_job_options, add_switch, command
from espnet_adastride.corpora.kaldi import shorten
from espnet_adastride.errors import UserError, counted, located, no_such, resumable
from espnet_adastride.experiments.comparison import format_comparison
from espnet_adastride.experiments.definition import ROOT, Experiment
from espnet_adastride.experiments.grid import Run, read_variant, tag_of, with_threads
from espnet_adastride.experiments.records import code_state
from espnet_adastride.experiments.runs import Grid, run_grid
from espnet_adastride.files import write_text
from espnet_adastride.options import (
    read_seeds,
    real,
    split_list,
    whole,
)
from espnet_adastride.recipe.jobs import Interrupted


def get_parser() -> argparse.ArgumentParser:
    parser = Parser(__doc__)
    parser.add_argument(
        "--recipe", default=str(ROOT / "egs" / "digits"), help="folder with run.sh"
    )
    parser.add_argument(
        "--methods",
        nargs="*",
        default=["strided_conv", "adastride", "adastride_f"],
        help="values of input_layer",
    )
    parser.add_argument(
        "--variant",
        nargs="+",
        action="extend",
        default=[],
        metavar="'NAME=METHOD WORD=VALUE ...'",
        help="a method with other values of input_layer_conf or other options",
    )
    parser.add_argument("--rates", nargs="+", default=["8"], help="overall strides")
    parser.add_argument(
        "--seeds", nargs="+", default=["0", "1", "2"], help="random seeds"
    )
    parser.add_argument(
        "--baseline",
        default="strided_conv",
        help="method that others are tested against",
    )
    parser.add_argument(
        "--asr_config",
        default=str(ROOT / "conf" / "train_digits.yaml"),
        help="training configuration",
    )
    parser.add_argument(
        "--asr_args",
        default="",
        help="training options of all runs, e.g. --max_epoch 3",
    )
    parser.add_argument(
        "--recipe_args", default="", help="further options of run.sh, e.g. --ngpu 1"
    )
    parser.add_argument("--test_set", default="test", help="test set of the table")
    add_job_options(parser)
    parser.add_argument(
        "--name", default="comparison", help="title and file of the table: exp/NAME.md"
    )
    add_switch(parser, "--table_only", "only write the table of finished runs")
    parser.add_argument(
        "--resamples", type=whole(100), default=10000, help="bootstrap resamples"
    )
    return parser


def define(args) -> Experiment:
    """Return the experiment of the command's options.

    Raises:
        UserError: there is no such recipe or configuration.
    """
    config = Path(args.asr_config).absolute()
    script = Path(args.recipe).absolute() / "run.sh"
    if not script.is_file():
        raise UserError(
            f"--recipe {args.recipe}: no run.sh in it; give a recipe's folder"
        )
    if not config.is_file():
        raise UserError(no_such(args.asr_config, option="--asr_config"))
    with located("--variant"):
        variants = [read_variant(text).name for text in args.variant]
    methods = [*args.methods, *variants]
    if args.baseline not in methods:
        raise UserError(
            f"--baseline {args.baseline} is not compared: add it to --methods, or "
            f"choose among {', '.join(methods)}"
        )
    return Experiment(
        name=tag_of(config.stem, args.asr_args),
        title=args.name,
        recipe=os.path.relpath(script.parent, ROOT),
        asr_config=str(config),
        grid=[{"methods": methods, "rates": args.rates, "seeds": args.seeds}],
        test_sets=[args.test_set],
        asr_args=args.asr_args,
        options={"recipe_args": args.recipe_args},
        baseline=args.baseline,
        variants=args.variant,
        tag=config.stem,
    )


def write_table(args, grid: Grid, runs: Sequence[Run]) -> str:
    """Write the table of the finished runs; return it."""
    from espnet_adastride.experiments.cells import make_cells

    done = grid.finished()
    missing = [run for run in runs if run.key not in done]
    seeds = " ".join(map(str, args.seeds))
    text = (
        f"# {args.name}: {grid.recipe.name}, seeds {seeds}\n\n"
        f"`{grid.what.config_path.name}`"
        + (f", `{args.asr_args}`" if args.asr_args else "")
        + "".join(f"; `{variant}`" for variant in args.variant)
        + f". {datetime.date.today()}\n\n"
    )
    if missing:
        names = shorten(list(map(str, missing)))
        text += f"Not finished, {len(missing)} of {len(runs)}: {names}.\n\n"
    if any((grid.experiment(run) / ".run_done").is_file() for run in missing):
        print(
            "runs of version 0.2 have no records: without --table_only, they get them"
        )
    codes = Counter(record.content["commit"] for record in done.values())
    if len(codes) > 1:
        each = ", ".join(
            f"{code or 'unknown'} ({counted(n, 'run')})" for code, n in codes.items()
        )
        text += f"**The runs used different versions of the code**: {each}.\n\n"
    cells = make_cells(grid.what, done)
    text += format_comparison(cells, args.baseline, args.resamples)
    path = grid.recipe / "exp" / f"{args.name}.md"
    write_text(path, text)
    return f"{text}\n{path}"


def read_lists(args) -> None:
    """Split lists given as one word, and convert rates and seeds to numbers.

    Raises:
        UserError: An unknown method, with the choices, or a word that is not a
            number.
    """
    from espnet_adastride.downsampling import available_downsamplers

    args.methods = split_list(args.methods)
    args.seeds = read_seeds(args.seeds)
    rates = []
    for word in split_list(args.rates):
        try:
            rates.append(real(1)(word))
        except argparse.ArgumentTypeError:
            raise UserError(
                f"--rates {word}: give numbers of at least 1, e.g. 4 8"
            ) from None
    args.rates = rates
    choices = available_downsamplers()
    for name in args.methods:
        if name not in choices:
            raise UserError(f"--methods {name}: choose among {', '.join(choices)}")


@command(get_parser)
def main(args):
    read_lists(args)
    experiment = define(args)
    runs = experiment.runs()
    exp = experiment.recipe_folder / "exp"
    grid = Grid(
        experiment,
        exp / "records" / experiment.name,
        python=args.python,
        nj=args.nj,
        environment=with_threads(args.threads),
        options=shlex.split(args.recipe_args),
        measure=False,
    )
    failures: List[str] = []
    with resumable(Interrupted):
        if args.table_only:
            grid.note_data()
        else:
            failures = run_grid(
                grid, runs, args.nj, code_state(), grid.note_data, "--asr_config"
            )
        if len(failures) < len(runs):
            print(write_table(args, grid, runs))
    if failures:
        raise UserError(
            f"{len(failures)} of {len(runs)} runs failed; the first: {failures[0]}"
        )


if __name__ == "__main__":
    main()
