"""Check that data folders were made with the options that a stage is given.

    python -m espnet_adastride.bin.check_dump --stage 4 --fs 16k \
        --max_wav_duration 20 dump/raw/train dump/raw/valid

The options that are given are compared with those in the folders' stamps, which
``--stage`` has written.
"""

from espnet_adastride.bin.parsers import Parser, command
from espnet_adastride.options import parse_rate, real, whole
from espnet_adastride.recipe.dumps import check_model, check_options, check_upstream


def get_parser():
    parser = Parser(__doc__)
    parser.add_argument("folder", nargs="+", help="data folders")
    add = parser.add_argument
    add("--stage", type=whole(1), default=3, help="the stage that makes the folders")
    add("--fs", help="sampling rate")
    add("--min_wav_duration", type=real(0), help="shortest utterance in seconds")
    add("--max_wav_duration", type=real(0, infinite=True), help="longest one")
    add("--speed_perturb_factors", help="speeds of the copies")
    add("--upstream", help="encoder that features are from")
    add("--layers", default="last", help="its layers")
    add("--model", metavar="EXP", help="a trained model that is to decode the folders")
    return parser


@command(get_parser)
def main(args):
    options = {
        "fs": args.fs and parse_rate(args.fs),
        "min_wav_duration": args.min_wav_duration,
        "max_wav_duration": args.max_wav_duration,
        "speed_perturb_factors": args.speed_perturb_factors,
    }
    options = {name: value for name, value in options.items() if value is not None}
    for folder in args.folder:
        check_options(folder, options, args.stage)
        if args.upstream:
            check_upstream(folder, args.upstream, args.layers)
        if args.model:
            check_model(folder, args.model)


if __name__ == "__main__":
    main()
