"""Build the parts of a model once, before data are prepared for its training.

    python -m espnet_adastride.bin.check_model --config conf/train_asr_conformer.yaml

Values that only running code can check, such as heads that do not divide a size, would
otherwise end stage 10 or 11, after hours of preparation
(``espnet_adastride/plugin/parts.py``).
"""

from espnet_adastride.bin.parsers import Parser, add_configurations, command
from espnet_adastride.config import merge_configs, override
from espnet_adastride.errors import located
from espnet_adastride.options import str2bool
from espnet_adastride.quiet import quiet_imports
from espnet_adastride.recipe.configurations import read_given


def get_parser():
    parser = Parser(__doc__)
    add_configurations(parser)
    parser.add_argument(
        "--frontend", type=str2bool, default=True, help="false: features are the input"
    )
    return parser


@command(get_parser)
def main(args):
    paths, words = [path for path in args.config if path], args.arguments.split()
    config = override(merge_configs(map(read_given, paths)), words)
    with quiet_imports():
        from espnet_adastride.plugin.parts import build_parts
    with located(" and ".join([*paths, *(["--asr_args"] if words else [])])):
        build_parts(config, args.frontend)


if __name__ == "__main__":
    main()
