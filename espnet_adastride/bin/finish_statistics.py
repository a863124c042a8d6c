"""Stages 6 and 10, last step: complete the joined statistics and install them."""

from espnet_adastride.bin.parsers import Parser, add_switch, command
from espnet_adastride.recipe.feature_statistics import finish


def get_parser():
    parser = Parser(__doc__)
    parser.add_argument("--input_dir", required=True, help="joined statistics")
    parser.add_argument("--output_dir", required=True, help="asr_ or lm_stats_dir")
    parser.add_argument(
        "--token_type", required=True, help="kind of tokens: bpe, char, ..."
    )
    parser.add_argument("--token_list", required=True, help="tokens.txt")
    add_switch(parser, "--text_only", "statistics of a language model")
    return parser


@command(get_parser)
def main(args):
    print(
        finish(
            args.input_dir,
            args.output_dir,
            args.token_type,
            args.token_list,
            args.text_only,
        )
    )


if __name__ == "__main__":
    main()
