#!/usr/bin/env python3
"""Train, decode and compare methods x rates x seeds through a recipe.

    FSDD=/path python -m espnet_adastride.bin.compare --recipe egs/digits \
        --methods strided_conv adastride --rates 4 8 12 --seeds 0 1 2 --nj 2

``--nj`` trainings run at once, one thread each. After an interruption, the same command
resumes: finished and unchanged runs are not repeated. At the end, or with
``--table_only true``, the finished runs become ``RECIPE/exp/NAME.md``: error rates over
the seeds, and paired tests against the baseline at the same rate
(espnet_adastride/evaluation/statistics.py describes what these tests show).

Beside methods with their defaults it compares variants:

    --variant 'bound2=adastride score_bound=2' 'slow=adastride --optim_conf lr=0.001'
"""

import argparse
import datetime
import shlex
import sys
from collections import Counter
from pathlib import Path
from typing import Dict, List, Sequence, Tuple

import numpy as np

from espnet_adastride.bin.parsers import DefaultsFormatter, Parser
from espnet_adastride.corpora.kaldi import read_scp, read_text, shorten
from espnet_adastride.errors import RecipeError, one_line_errors, resumable
from espnet_adastride.evaluation.scoring import (
    characters,
    check_ids,
    percent,
    utterance_errors,
    words,
)
from espnet_adastride.experiments.comparison import (
    Reference,
    Result,
    format_comparison,
)
from espnet_adastride.experiments.grid import (
    Grid,
    Run,
    make_runs,
    method_system,
    read_variant,
    run_grid,
    with_threads,
)
from espnet_adastride.experiments.records import code_state
from espnet_adastride.files import write_text
from espnet_adastride.options import read_seeds, split_list, str2bool, whole
from espnet_adastride.recipe.jobs import Interrupted

ROOT = Path(__file__).resolve().parents[2]


def get_parser() -> argparse.ArgumentParser:
    """Build the command's argument parser."""
    parser = Parser(
        prog="compare",
        description="Train, decode and compare methods x rates x seeds",
        formatter_class=DefaultsFormatter,
    )
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
    parser.add_argument("--rates", nargs="+", default=["8"])
    parser.add_argument("--seeds", nargs="+", default=["0", "1", "2"])
    parser.add_argument("--baseline", default="strided_conv")
    parser.add_argument(
        "--asr_config", default=str(ROOT / "conf" / "train_digits.yaml")
    )
    parser.add_argument(
        "--asr_args",
        default="",
        help="training options of all runs, e.g. --max_epoch 3",
    )
    parser.add_argument(
        "--recipe_args", default="", help="further options of run.sh, e.g. --ngpu 1"
    )
    parser.add_argument("--test_set", default="test")
    parser.add_argument("--nj", type=int, default=1, help="parallel runs")
    parser.add_argument("--threads", type=int, default=1, help="threads per run")
    parser.add_argument("--python", default=sys.executable)
    parser.add_argument(
        "--name", default="comparison", help="name of the table: exp/NAME.md"
    )
    parser.add_argument(
        "--table_only",
        type=str2bool,
        default=False,
        help="only write the table of finished runs",
    )
    parser.add_argument(
        "--resamples", type=whole(1), default=10000, help="bootstrap resamples"
    )
    return parser


class Scores:
    """Errors of the runs; each file is read once.

    Args:
        grid: The recipe's runs on disk.
    """

    def __init__(self, grid: Grid):
        self.grid = grid
        self._reference: Dict[str, str] = {}
        self._errors: Dict[str, Tuple[np.ndarray, np.ndarray]] = {}

    @property
    def reference(self) -> Dict[str, str]:
        """The texts of the test set."""
        if not self._reference:
            self._reference = read_text(self.grid.reference / "text")
        return self._reference

    def errors(self, run: Run) -> Tuple[np.ndarray, np.ndarray]:
        """Word and character errors of every utterance."""
        if run.tag not in self._errors:
            recognised = read_text(self.grid.decoded(run), allow_empty=True)
            check_ids(self.reference, recognised)
            self._errors[run.tag] = tuple(
                utterance_errors(self.reference, recognised, tokenize)[0]
                for tokenize in (words, characters)
            )
        return self._errors[run.tag]

    def test_set(self) -> Reference:
        """Lengths and groups of the test utterances."""
        lengths = [
            np.array([len(tokenize(t)) for t in self.reference.values()], dtype=float)
            for tokenize in (words, characters)
        ]
        groups = read_scp(self.grid.reference / "utt2spk")
        return Reference(*lengths, [groups[key] for key in self.reference])

    def describe(self, run: Run) -> str:
        """Describe a finished run in one line."""
        rates = [
            percent(e.sum(), n.sum())
            for e, n in zip(
                self.errors(run), (self.test_set().words, self.test_set().chars)
            )
        ]
        return f"{run}: WER {rates[0]:.2f} CER {rates[1]:.2f}"

    def results(self, runs: Sequence[Run]) -> List[Result]:
        """Results of the finished runs for every rate and system."""
        results: Dict[tuple, Result] = {}
        for run in runs:
            result = results.setdefault(
                (run.rate, run.system), Result(run.system, run.rate)
            )
            word_errors, char_errors = self.errors(run)
            result.seeds.append(run.seed)
            result.word_errors.append(word_errors)
            result.char_errors.append(char_errors)
            result.stats.append(self.grid.stats(run))
        return list(results.values())


def write_table(args, grid: Grid, scores: Scores, runs: Sequence[Run]) -> str:
    """Write the table of the finished runs; return it."""
    done = [run for run in runs if grid.is_done(run)]
    missing = [str(run) for run in runs if run not in done]
    order = {
        key: n for n, key in enumerate(dict.fromkeys((r.rate, r.system) for r in runs))
    }
    results = sorted(scores.results(done), key=lambda r: order[r.rate, r.system])
    seeds = " ".join(map(str, args.seeds))
    text = (
        f"# {args.name}: {grid.recipe.name}, seeds {seeds}\n\n"
        f"`{grid.asr_config.name}`"
        + (f", `{args.asr_args}`" if args.asr_args else "")
        + "".join(f"; `{variant}`" for variant in args.variant)
        + f". {datetime.date.today()}\n\n"
    )
    if missing:
        text += f"Not finished, {len(missing)} of {len(runs)}: {shorten(missing)}.\n\n"
    codes = Counter(grid.code(run) for run in done)
    if len(codes) > 1:
        each = ", ".join(f"{code or 'unknown'} ({n} runs)" for code, n in codes.items())
        text += f"**The runs used different versions of the code**: {each}.\n\n"
    text += format_comparison(results, scores.test_set(), args.baseline, args.resamples)
    path = grid.recipe / "exp" / f"{args.name}.md"
    write_text(path, text)
    return f"{text}\n{path}"


def read_lists(args) -> None:
    """Split lists given as one word, and convert rates and seeds to numbers.

    Raises:
        RecipeError: An unknown method, with the choices, or a word that is not a
            number.
    """
    from espnet_adastride.downsampling import available_downsamplers

    args.methods = split_list(args.methods)
    args.seeds = read_seeds(args.seeds)
    rates = []
    for word in split_list(args.rates):
        try:
            rates.append(float(word))
        except ValueError:
            raise RecipeError(f"--rates {word}: give numbers, e.g. 4 8") from None
    args.rates = rates
    choices = available_downsamplers()
    for name in args.methods:
        if name not in choices:
            raise RecipeError(f"--methods {name}: choose among {', '.join(choices)}")


@one_line_errors
def main(cmd=None):
    args = get_parser().parse_args(cmd)
    for name in ("nj", "threads", "resamples"):
        if getattr(args, name) < 1:
            raise RecipeError(f"--{name} {getattr(args, name)}: give at least 1")
    read_lists(args)
    systems = [method_system(m) for m in args.methods]
    systems += [read_variant(v) for v in args.variant]
    if args.baseline not in [s.name for s in systems]:
        raise RecipeError(
            f"--baseline {args.baseline} is not compared: add it to --methods, or "
            f"choose among {', '.join(s.name for s in systems)}"
        )
    prefix = Path(args.asr_config).stem
    runs = make_runs(systems, args.rates, args.seeds, prefix, args.asr_args)
    grid = Grid(
        args.recipe,
        args.test_set,
        args.asr_config,
        options=["--ngpu", "0", *shlex.split(args.recipe_args)],
        settings=["--python", args.python, "--nj", str(args.nj)],
    )
    scores = Scores(grid)
    folder = grid.recipe / "exp" / args.name
    failures: List[str] = []
    with resumable(Interrupted):
        if not args.table_only:
            environment = with_threads(args.threads)
            failures = run_grid(
                grid,
                runs,
                args.nj,
                folder,
                scores.describe,
                environment,
                code_state(),
            )
        if len(failures) < len(runs):
            print(write_table(args, grid, scores, runs))
    if failures:
        raise RecipeError(
            f"{len(failures)} of {len(runs)} runs failed; the first: {failures[0]}"
        )


if __name__ == "__main__":
    main()
