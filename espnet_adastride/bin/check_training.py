#!/usr/bin/env python3
"""Read a training configuration before it is used; guard an experiment's folder.

``--action read``: see that the configuration is YAML; print the options on which the
statistics depend, for a stamp. ``--action start``: record the options of a training,
or refuse if its folder holds a training with others. ``--action merge``: lay several
configurations over each other, later ones override, into ``--output``.
"""

import argparse
from pathlib import Path

import yaml

from espnet_adastride.recipe.errors import one_line_errors
from espnet_adastride.recipe.files import write_text
from espnet_adastride.recipe.stamps import hash_file
from espnet_adastride.recipe.statistics import statistics_options
from espnet_adastride.recipe.training import (
    merge_configs,
    read_config,
    start_or_resume,
    training_options,
)


def get_parser():
    parser = argparse.ArgumentParser(
        description="Check a training configuration and its experiment folder",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    parser.add_argument("--action", choices=["read", "start", "merge"], required=True)
    parser.add_argument(
        "--config",
        nargs="+",
        default=[""],
        help="Training configuration; several: merge",
    )
    parser.add_argument("--output", help="What merge writes")
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
    if args.action == "merge":
        text = f"# {' '.join(args.config)}\n" + yaml.safe_dump(
            merge_configs(map(read_config, args.config)), sort_keys=False
        )
        write_text(args.output, text)
        return
    options = training_options(args.config[0], args.arguments)
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
