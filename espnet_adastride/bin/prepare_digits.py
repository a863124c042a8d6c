"""Make connected digits from the Free Spoken Digit Dataset (stage 1 of egs/digits).

    python -m espnet_adastride.bin.prepare_digits \
        --corpus /path/to/free-spoken-digit-dataset --output data --audio corpus

It writes ``corpus/{train,dev,test}/*.flac`` and the data directories
``data/{train,dev,test}``; ``utt2recordings`` lists the recordings of each utterance. An
unusable recording is rejected by name.
"""

import argparse
import time

from espnet_adastride.bin.parsers import Parser, command
from espnet_adastride.corpora.digits import build_digits, find_recordings, plan_digits
from espnet_adastride.options import real, whole


def get_parser() -> argparse.ArgumentParser:
    parser = Parser(__doc__)
    parser.add_argument(
        "--corpus",
        required=True,
        default="",  # empty: a message of its own, which says how a recipe sets it
        help="the data set: the folder that contains recordings/",
    )
    parser.add_argument(
        "--output", required=True, help="folder for the data directories, e.g. data"
    )
    parser.add_argument("--audio", required=True, help="folder for the audio files")
    parser.add_argument("--seed", type=int, default=0, help="random seed of the data")
    parser.add_argument(
        "--train_minutes",
        type=real(0, above=True),
        default=78.0,
        help="length of train",
    )
    parser.add_argument(
        "--dev_utterances",
        type=whole(1),
        default=200,
        help="number of utterances in dev",
    )
    parser.add_argument(
        "--test_utterances",
        type=whole(1),
        default=1100,
        help="number of utterances in test",
    )
    parser.add_argument(
        "--test_speakers",
        nargs="+",
        default=["jackson"],
        help="speakers held out for the test set",
    )
    parser.add_argument(
        "--dev_takes",
        type=whole(1),
        default=5,
        help="recordings of each digit by each other speaker that are used for dev",
    )
    return parser


@command(get_parser)
def main(args) -> None:
    options = vars(args)
    corpus, output, audio = (options.pop(k) for k in ("corpus", "output", "audio"))
    started = time.time()
    lines = build_digits(plan_digits(find_recordings(corpus), **options), output, audio)
    print("\n".join(lines) + f" [{time.time() - started:.1f} s]")


if __name__ == "__main__":
    main()
