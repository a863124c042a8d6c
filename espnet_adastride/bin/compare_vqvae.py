"""Train VQ-VAEs with several downsampling methods, rates and seeds, and compare them.

    python -m espnet_adastride.bin.compare_vqvae --corpus /path/to/recordings \
        --config conf/train_vqvae.yaml --exp exp \
        --methods strided_conv avg_pool adastride_f --rates 4 8 16 --seeds 0 1 2

A method may carry options, and every stage may have its own method:
``adastride:sigma_square=2``, ``strided_conv+strided_conv+adastride_f``.

A run is a method, a rate and a seed, trained with ESPnet. Finished runs
(``EXP/records/*.json.gz``) are kept; interrupted ones resume after their last epoch.

    EXP/data, EXP/stats             train, valid, test; shapes and feature statistics
    EXP/METHOD_RATEx_seedN/         training.yaml, train.log, the model, listen/
    EXP/records/                    a record of every run (experiments/records.py)
    EXP/RESULTS.md, EXP/listen.html the table; a page to compare reconstructions by ear
"""

import re
from pathlib import Path

from espnet_adastride.bin.parsers import Parser, add_run_options, command, read_methods
from espnet_adastride.config import read_config
from espnet_adastride.corpora.unlabelled import find_recordings
from espnet_adastride.errors import UserError, resumable
from espnet_adastride.experiments.vqvae_training import train
from espnet_adastride.options import split_list, whole
from espnet_adastride.quiet import quiet_imports
from espnet_adastride.recipe.jobs import Interrupted


def get_parser():
    parser = Parser(__doc__)
    corpus = "folder of recordings; optional trans.txt: NAME TEXT"
    config, methods = "YAML file of all hyper-parameters", "strided_conv avg_pool"
    add_run_options(parser, corpus, config, f"{methods} adastride_f", "0 1 2")
    parser.add_argument(
        "--rates", nargs="+", default=["4", "8", "16"], help="powers of 2"
    )
    parser.add_argument(
        "--listen",
        type=whole(0),
        default=3,
        help="test recordings on the listening page",
    )
    return parser


def read_lists(args):
    """Return the methods, rates and seeds; a list may be one word with spaces.

    Raises:
        UserError: a word that is not a number, or an empty list.
    """
    methods, seeds = read_methods(args, hint=", or set RECORDINGS=")
    rates = split_list(args.rates)
    for word in rates:
        if not re.fullmatch(r"\d{1,4}", word) or bin(int(word)).count("1") != 1:
            raise UserError(f"--rates {word}: give powers of 2, e.g. 4 8 16")
    if "1" in rates:
        raise UserError("--rates 1: does not downsample; give at least 2")
    if not rates:
        raise UserError("--rates: give at least one")
    return methods, [int(word) for word in rates], seeds


@command(get_parser)
def main(args):
    import torch

    torch.set_num_threads(1)
    methods, rates, seeds = read_lists(args)
    if args.train:
        read_config(args.config)  # before ESPnet is imported
        find_recordings(args.corpus, Path(args.exp) / "data")
        with quiet_imports():
            import espnet_adastride.plugin.vqvae_task  # noqa: F401  (before forking)
        with resumable(Interrupted):
            train(args, methods, rates, seeds)
    from espnet_adastride.experiments.vqvae import report

    report(args.exp, args.reference)


if __name__ == "__main__":
    main()
