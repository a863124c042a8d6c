"""Stage 14: pack a trained model and its card with ``espnet2.bin.pack``.

    python -m espnet_adastride.bin.pack_model \
        --asr_train_config exp/asr_x/config.yaml \
        --asr_model_file exp/asr_x/valid.acc.ave.pth \
        --results exp/asr_x/RESULTS.md --outpath exp/asr_x/asr_x.zip

The model is built and loaded before it is packed. ``unpack_model`` unpacks the archive.
"""

import argparse
from pathlib import Path
from typing import Dict

from espnet_adastride.bin.parsers import Parser, command
from espnet_adastride.errors import UserError
from espnet_adastride.quiet import quiet_imports

NAMED = ("asr_train_config", "lm_train_config", "asr_model_file", "lm_file")


def get_parser():
    """Return the parser: the options of ``espnet2.bin.pack asr`` and of the card."""
    parser = Parser(__doc__)
    parser.add_argument("--asr_train_config", required=True, help="config.yaml")
    parser.add_argument("--asr_model_file", required=True, help="parameters")
    parser.add_argument("--lm_train_config", help="the language model's config.yaml")
    parser.add_argument("--lm_file", help="the language model's parameters")
    parser.add_argument(
        "--option",
        action="append",
        default=[],
        help="another file to pack, beside those that the configuration reads; may be "
        "given several times",
    )
    parser.add_argument("--results", help="RESULTS.md for the card")
    parser.add_argument("--license", default="cc-by-4.0", help="the model's license")
    parser.add_argument(
        "--lang", default="noinfo", help="the model's language, e.g. en"
    )
    parser.add_argument(
        "--dtype",
        choices=("float32", "float16"),
        default="float32",
        help="type of the packed parameters; float16 halves the size and loads as "
        "float32",
    )
    parser.add_argument(
        "--outpath", required=True, help="output archive: .zip, .tgz ..."
    )
    return parser


def named_files(args: argparse.Namespace) -> Dict[str, str]:
    """Return {option: file} of configurations and parameters.

    Raises:
        UserError: One of them, or of the other files, is missing.
    """
    named = {k: getattr(args, k) for k in NAMED if getattr(args, k)}
    for path in (*named.values(), *args.option):
        if not Path(path).is_file():
            raise UserError(f"{path} is missing: train first (stages 6-11)")
    return named


@command(get_parser)
def main(args):
    named = named_files(args)  # before the slow imports
    with quiet_imports():
        from espnet_adastride.plugin.packing import pack_model
    line = pack_model(
        named,
        args.outpath,
        others=args.option,
        results=args.results,
        license_name=args.license,
        language=args.lang,
        dtype=args.dtype,
    )
    print(line)


if __name__ == "__main__":
    main()
