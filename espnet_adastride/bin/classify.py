"""Train classifiers of recordings with every downsampling method, and compare them.

    python -m espnet_adastride.bin.classify --corpus /path/to/speech_commands \
        --config conf/train_speech_commands.yaml --exp exp/speech_commands \
        --methods strided_conv avg_pool adastride --seeds 0 1 2 --nj 2

The corpus is Speech Commands, spoken digits (FSDD), ESC-10, or any folder of recordings
with a table ``labels.csv`` of the columns file and label (``data.layout`` of the
configuration; espnet_adastride/corpora/clips.py).

A method may carry options, and every stride may have its own method:
``adastride:sigma_square=0.5``, ``strided_conv+strided_conv+adastride``.

A run is a method and a seed. Finished runs (``EXP/records/*.json.gz``) are kept;
interrupted ones resume after their last epoch. The command then writes
``EXP/RESULTS.md``, the table of all runs in the folder, and
``EXP/confusion_METHOD.png``; with ``--curve sigma_square`` also
``EXP/sigma_square.png``, accuracy over that option.

    python -m espnet_adastride.bin.classify --train false --curve sigma_square \
        --exp exp/speech_commands --beside ../fsdd/exp/fsdd ../esc10/exp/esc10

also prints a table of methods x data sets, with the option's value chosen for each on
its validation clips, and draws it: ``EXP/data_sets.png``.
"""

from pathlib import Path

from espnet_adastride.bin.parsers import (
    Parser,
    add_run_options,
    command,
    read_methods,
)
from espnet_adastride.corpora.clips import describe_clips, find_clips
from espnet_adastride.errors import UserError, located, resumable, unknown_word
from espnet_adastride.experiments.folders import run_name, unfinished
from espnet_adastride.recipe.jobs import Interrupted


def get_parser():
    parser = Parser(__doc__)
    corpus, config = "folder of the corpus", "YAML file of all hyper-parameters"
    add_run_options(parser, corpus, config, "all", "0 1 2")
    parser.add_argument("--feats", help="folder of the features; default: EXP/feats")
    parser.add_argument(
        "--confusion",
        help="method whose confusions are drawn; default: adastride, if it has runs",
    )
    parser.add_argument(
        "--curve",
        help="option of a method, e.g. sigma_square: draws accuracy over its values",
    )
    parser.add_argument(
        "--beside",
        nargs="+",
        default=[],
        help="experiments on other data sets, to be put into one table and picture",
    )
    return parser


def run_names(methods, seeds):
    """Return the names of the runs' folders."""
    return [run_name(m.word, f"seed{seed}") for m in methods for seed in seeds]


def train(args, methods, seeds):
    """Train the unfinished runs.

    Raises:
        UserError: bad input, or a run that was killed.
    """
    from espnet_adastride.experiments.classification.features import load_features
    from espnet_adastride.experiments.classification.options import read_options
    from espnet_adastride.experiments.classification.training import (
        claim_experiment,
        train_all,
    )
    from espnet_adastride.networks.classifier import Classifier

    options = read_options(args.config)
    for method in methods:  # find a wrong word now, not after an hour
        with located(method.word, (TypeError, ValueError), UserError):
            Classifier(2, options.features.n_mels, options.network, method)
    clips = find_clips(args.corpus, options.data.layout)
    described = describe_clips(clips, options.data.split, seeds)
    claim_experiment(args.exp, options, clips)
    print(described, flush=True)
    names = run_names(methods, seeds)
    left = len(unfinished(args.exp, names))
    if left < len(names):
        print(f"{len(names) - left} of {len(names)} runs are finished", flush=True)
    if not left:
        return
    feats = args.feats or Path(args.exp) / "feats"
    data = load_features(clips, options.features, feats)
    train_all(data, options, methods, seeds, args.exp, args.nj)


def check_report(args):
    """Reject before hours of training what :func:`report_all` cannot use.

    Raises:
        UserError: --curve is no option of a method, or --beside names a folder without
            runs or two of one name.
    """
    from espnet_adastride.downsampling.registry import DOWNSAMPLERS, downsampler_options
    from espnet_adastride.experiments.classification.results import read_runs

    known = sorted(
        {word for name in DOWNSAMPLERS for word in downsampler_options(name)}
    )
    if args.curve and args.curve not in known:
        raise UserError(f"--curve: {unknown_word('option', args.curve, known)}")
    for exp in args.beside:
        with located("--beside"):
            read_runs(exp)
    names = [Path(exp).resolve().name for exp in (args.exp, *args.beside)]
    if len(set(names)) != len(names):
        raise UserError(
            "--beside: two experiment folders have the same name; rename one"
        )


def report_all(args, methods, seeds):
    """Write and print the tables, and draw the pictures."""
    from espnet_adastride.experiments.classification.pictures import (
        plot_data_sets,
        plot_option,
    )
    from espnet_adastride.experiments.classification.results import compare, read_runs
    from espnet_adastride.experiments.classification.tables import (
        format_data_sets,
        report,
    )
    from espnet_adastride.report.style import save_figure

    rows = report(args.exp, args.reference, args.confusion)
    if args.curve:
        picture = Path(args.exp).resolve() / f"{args.curve}.png"
        save_figure(plot_option(rows, args.curve, args.reference), picture)
        print(f"Accuracy over {args.curve}: {picture}")
    if args.beside:
        tables = {
            Path(exp).resolve().name: compare(read_runs(exp), args.reference)
            for exp in args.beside
        }
        tables = {Path(args.exp).resolve().name: rows, **tables}
        print("\n" + format_data_sets(tables, args.reference, args.curve or ""))
        picture = Path(args.exp).resolve() / "data_sets.png"
        save_figure(plot_data_sets(tables, args.reference), picture)
        print(f"Methods on the data sets: {picture}")
    missing = unfinished(args.exp, run_names(methods, seeds))
    if args.train and missing:
        print(f"{len(missing)} runs are not finished: another process is training them")


@command(get_parser)
def main(args):
    import torch

    from espnet_adastride import available_downsamplers

    torch.set_num_threads(1)
    methods, seeds = read_methods(args, available_downsamplers())
    check_report(args)
    if args.train:
        with resumable(Interrupted):
            train(args, methods, seeds)
    report_all(args, methods, seeds)


if __name__ == "__main__":
    main()
