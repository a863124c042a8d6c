"""Decode at many rates with one model and compare with fixed-rate models: table, curve.

    python -m espnet_adastride.bin.rate_curve --strides 4 6 8 10 12 \
        --model any=exp/asr_any --fixed each=exp/asr_4x --fixed each=exp/asr_8x \
        --data_dir dump/raw/test --output_dir exp/rates

A model that supports any stride (adastride, adastride_f) is decoded at its own stride
and at each of ``--strides``. Other models, and those of ``--fixed``, are decoded at
their own stride only. Models with the same name form one line; models with the same
name and rate, such as seeds, are averaged.

Decoding is greedy CTC, one utterance at a time, on one thread: the work is the same for
all, so that real-time factors are comparable. If other work ran during a measurement,
decode that rate again with a separate ``--output_dir``. Finished points are kept: the
same command resumes.

Writes ``rates.md``, ``rates.png`` and a file of every point into ``--output_dir``.
"""

import os
from pathlib import Path

from espnet_adastride.bin.model_options import check_model_file
from espnet_adastride.bin.parsers import Parser, command
from espnet_adastride.errors import UserError
from espnet_adastride.options import real


def get_parser():
    parser = Parser(__doc__)
    parser.add_argument(
        "--model",
        action="append",
        default=[],
        metavar="[NAME=]PATH",
        help="experiment folder or packed .zip; may be given several times; models of "
        "one NAME are averaged",
    )
    parser.add_argument(
        "--fixed",
        action="append",
        default=[],
        metavar="[NAME=]PATH",
        help="a model that is decoded only at its own rate; may be given several times",
    )
    parser.add_argument(
        "--strides",
        type=real(1),
        nargs="+",
        default=[4, 6, 8, 10, 12],
        help="overall strides at which the models of --model are decoded",
    )
    parser.add_argument(
        "--data_dir",
        required=True,
        help="folder with wav.scp and text; with utt2spk, intervals are over speakers",
    )
    parser.add_argument("--output_dir", required=True, help="output folder")
    parser.add_argument(
        "--asr_model_file", help="parameter file in the models' folders"
    )
    return parser


def named_models(given):
    """Return (name, path) for each word of the form NAME=PATH or PATH.

    Raises:
        UserError: no model, a model given twice, two models with one default name, or
            a name that is not one of files.
    """
    models = []
    for word in given:
        name, equals, path = word.partition("=")
        if not equals:
            # of "." it is the current folder's name
            name, path = Path(os.path.abspath(word)).name.removeprefix("asr_"), word
            if name in [other for other, _ in models]:
                raise UserError(
                    f"--model {word}: a second model is called {name}; write NAME=PATH"
                )
        if not name or "/" in name:  # it begins the names of files
            raise UserError(
                f"--model {word}: {name!r} cannot name a model; write NAME=PATH, "
                "with a name without /"
            )
        if (name, path) in models:
            raise UserError(f"--model {word} is given twice")
        models.append((name, path))
    if not models:
        raise UserError("no model: give --model or --fixed")
    return models


@command(get_parser)
def main(args):
    import torch

    from espnet_adastride.experiments.rate_curves import Compared, compare_models

    torch.set_num_threads(1)
    models = [
        Compared(name, path, args.strides if number < len(args.model) else None)
        for number, (name, path) in enumerate(named_models(args.model + args.fixed))
    ]
    for model in models:
        check_model_file(model.path)
    compare_models(models, args.data_dir, args.output_dir, args.asr_model_file)


if __name__ == "__main__":
    main()
