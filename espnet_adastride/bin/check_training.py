"""Check a training configuration before it is used; guard an experiment's folder.

``--action check`` rejects what ESPnet or the plugin would reject (unknown options,
words and keys, wrong values), and prints the name of the model file that decoding will
use: ``--model``, or the one that follows from the configuration. It writes nothing.
``--action read`` checks that the configuration is YAML and prints the options on which
the statistics depend, for a stamp. ``--action start`` records the options of a
training, or rejects a folder that holds a training with other options. ``--action
merge`` merges several configurations into ``--output``; later ones override earlier
ones.
"""

from pathlib import Path

import yaml

from espnet_adastride.bin.parsers import Parser, add_configurations, command
from espnet_adastride.config import merge_configs, read_config, training_options
from espnet_adastride.files import write_text
from espnet_adastride.options import str2bool
from espnet_adastride.recipe.configurations import check
from espnet_adastride.recipe.feature_statistics import (
    check_features,
    statistics_options,
)
from espnet_adastride.recipe.stamps import hash_file
from espnet_adastride.recipe.training import start_or_resume


def get_parser():
    parser = Parser(__doc__)
    parser.add_argument(
        "--action",
        choices=["check", "read", "start", "merge"],
        required=True,
        help="what to do",
    )
    add_configurations(parser)
    parser.add_argument("--output", help="the file that merge writes")
    parser.add_argument("--exp", help="the experiment's folder")
    parser.add_argument(
        "--option",
        action="append",
        default=[],
        metavar="NAME=VALUE",
        help="another setting the training depends on",
    )
    parser.add_argument(
        "--input", action="append", default=[], help="a file it depends on"
    )
    parser.add_argument(
        "--statistics",
        metavar="FOLDER",
        help="of start: its features' statistics must be those of the training",
    )
    group = parser.add_argument_group("of check")
    group.add_argument(
        "--task", choices=["asr", "lm"], default="asr", help="kind of model"
    )
    group.add_argument(
        "--train",
        type=str2bool,
        default=True,
        help="true: a training will follow; false: use the experiment's config.yaml",
    )
    group.add_argument("--fs", default="16k", help="sampling rate")
    group.add_argument("--model", default="", help="requested model file")
    group.add_argument("--inference_config", default="", help="decoding configuration")
    group.add_argument(
        "--inference_args",
        default="",
        help="options that override the decoding configuration",
    )
    group.add_argument(
        "--inference_command", default="", help="decoding module; empty: not checked"
    )
    return parser


@command(get_parser)
def main(args):
    if args.action == "merge":
        text = f"# {' '.join(args.config)}\n" + yaml.safe_dump(
            merge_configs(map(read_config, args.config)), sort_keys=False
        )
        write_text(args.output, text)
        return
    if args.action == "check":
        print(check(args))
        return
    options = training_options(args.config[0], args.arguments)
    if args.action == "read":
        print(statistics_options(options))
        return
    if args.statistics:
        check_features(args.statistics, options)
    options.update(o.partition("=")[::2] for o in args.option)
    options.update({f"file {path}": hash_file(path) for path in args.input})
    folder = Path(args.exp)
    print(
        f"{folder}:",
        start_or_resume(folder / ".training.json", folder / "checkpoint.pth", options),
    )


if __name__ == "__main__":
    main()
