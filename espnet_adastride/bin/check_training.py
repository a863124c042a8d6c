#!/usr/bin/env python3
"""Read a training configuration before it is used; guard an experiment's folder.

``--action read``: see that the configuration is YAML; print the options on which the
statistics depend, for a stamp. ``--action start``: record the options of a training,
or refuse if its folder holds a training with others.
"""

import argparse
from pathlib import Path

from espnet_adastride.recipe.errors import one_line_errors
from espnet_adastride.recipe.stamps import hash_file
from espnet_adastride.recipe.statistics import statistics_options
from espnet_adastride.recipe.training import start_or_resume, training_options


def get_parser():
    parser = argparse.ArgumentParser(
        description="Check a training configuration and its experiment folder",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    parser.add_argument("--action", choices=["read", "start"], required=True)
    parser.add_argument("--config", default="", help="Training configuration")
    parser.add_argument("--arguments", default="", help="Options that override it")
    parser.add_argument("--exp", help="The experiment's folder")
    parser.add_argument(
        "--option",
        action="append",
        default=[],
        metavar="NAME=VALUE",
        help="Another setting the training depends on",
    )
    parser.add_argument(
        "--input", action="append", default=[], help="A file it depends on"
    )
    return parser


@one_line_errors
def main(cmd=None):
    args = get_parser().parse_args(cmd)
    options = training_options(args.config, args.arguments)
    if args.action == "read":
        print(statistics_options(options))
        return
    options.update(o.partition("=")[::2] for o in args.option)
    options.update({f"file {path}": hash_file(path) for path in args.input})
    folder = Path(args.exp)
    print(
        f"{folder}:",
        start_or_resume(folder / ".training.json", folder / "checkpoint.pth", options),
    )


if __name__ == "__main__":
    main()
