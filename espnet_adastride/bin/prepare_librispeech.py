"""Turn parts of LibriSpeech into a Kaldi-style data directory (stage 1).

    python -m espnet_adastride.bin.prepare_librispeech \
        --corpus /path/to/LibriSpeech --part dev-clean dev-other --output data/dev

Every recording is decoded. Unusable utterances are summarised on the terminal and
listed by name in ``excluded.txt`` of the data directory; ``--strict`` makes them an
error.
"""

from espnet_adastride.bin.parsers import Parser, command
from espnet_adastride.corpora.librispeech import prepare_librispeech
from espnet_adastride.options import whole
from espnet_adastride.progress import cores


def get_parser():
    parser = Parser(__doc__)
    parser.add_argument(
        "--corpus",
        required=True,
        default="",  # empty: a message of its own, which says how a recipe sets it
        help="LibriSpeech/ or the folder that contains it",
    )
    parser.add_argument(
        "--part",
        required=True,
        nargs="+",
        help="e.g. train-clean-100; several parts form one set",
    )
    parser.add_argument(
        "--output", required=True, help="the data directory, e.g. data/train_clean_100"
    )
    parser.add_argument(
        "--fs", type=whole(1), default=16000, help="sampling rate in Hz"
    )
    parser.add_argument(
        "--nj", type=whole(1), default=cores(), help="number of decoding processes"
    )
    parser.add_argument(
        "--strict",
        action="store_true",
        help="fail on unusable utterances instead of leaving them out",
    )
    parser.add_argument(
        "--skip_missing_parts",
        action="store_true",
        help="continue with the available parts if some are missing",
    )
    parser.add_argument(
        "--max_names",
        type=whole(0),
        default=5,
        help="names shown per line of the summary; excluded.txt has all of them",
    )
    return parser


@command(get_parser)
def main(args) -> None:
    prepare_librispeech(**vars(args))


if __name__ == "__main__":
    main()
