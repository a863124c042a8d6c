"""Stage 12, last step: join the jobs' hypotheses; print their real-time factor."""

from espnet_adastride.bin.parsers import Parser, command
from espnet_adastride.options import parse_rate
from espnet_adastride.recipe.decoding import join_decoded


def get_parser():
    parser = Parser(__doc__)
    parser.add_argument("--logdir", required=True, help="folder of output.N and logs")
    parser.add_argument("--data", required=True, help="the decoded dump folder")
    parser.add_argument(
        "--output_dir", required=True, help="folder for text, token, ..."
    )
    parser.add_argument("--fs", default="16k", help="sampling rate")
    return parser


@command(get_parser)
def main(args):
    data = args.data
    line = join_decoded(
        args.logdir,
        args.output_dir,
        f"{data}/wav.scp",
        f"{data}/utt2num_samples",
        parse_rate(args.fs),
    )
    print(line)


if __name__ == "__main__":
    main()
