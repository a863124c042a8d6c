"""Make the demo's corpus: synthetic speech in the layout of LibriSpeech.

    python -m espnet_adastride.bin.make_espeak_corpus --output downloads/mini_espeak

It makes about 1.5 h of training speech, 4 min of dev and 8 min of test with eSpeak NG,
and text for a language model. A complete corpus is left alone; an interrupted one is
completed.
"""

import argparse
import os

from espnet_adastride.bin.parsers import Parser, command
from espnet_adastride.corpora.mini_espeak.build import build_corpus
from espnet_adastride.corpora.mini_espeak.plan import (
    DEFAULT_LM_SENTENCES,
    DEFAULT_MINUTES,
)
from espnet_adastride.errors import resumable
from espnet_adastride.options import real, whole


def get_parser() -> argparse.ArgumentParser:
    parser = Parser(__doc__)
    parser.add_argument(
        "--output", required=True, help="folder that will hold LibriSpeech/"
    )
    parser.add_argument("--seed", type=int, default=0, help="random seed of the corpus")
    for part, minutes in DEFAULT_MINUTES.items():
        parser.add_argument(
            f"--{part.split('-')[0]}_minutes",
            type=real(0, above=True),
            default=minutes,
            help=f"length of {part}",
        )
    parser.add_argument(
        "--lm_sentences",
        type=whole(0),
        default=DEFAULT_LM_SENTENCES,
        help="number of extra sentences for a language model",
    )
    parser.add_argument(
        "--nj",
        type=whole(1),
        default=2,
        help="number of processes; the files do not depend on it",
    )
    return parser


@command(get_parser)
def main(args) -> None:
    minutes = {p: getattr(args, f"{p.split('-')[0]}_minutes") for p in DEFAULT_MINUTES}
    # One thread per process.
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    with resumable():
        build_corpus(
            args.output, args.seed, minutes, args.nj, lm_sentences=args.lm_sentences
        )


if __name__ == "__main__":
    main()
