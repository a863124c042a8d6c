"""Synthesise a sentence with eSpeak NG, to try a model on your own words.

    python -m espnet_adastride.bin.say "THE TRAIN TO PARIS IS LATE" --output said.wav \
        --vocabulary data/train_mini/text

The voice does not occur in the demo's training. With ``--vocabulary`` the command lists
the words that do not occur there: a model can at best spell unseen words by their
sound, and a language model trained on other words makes them less likely.
"""

import argparse
import re
from pathlib import Path
from typing import List

import numpy as np
import soundfile

from espnet_adastride.bin.parsers import Parser, command
from espnet_adastride.corpora.espeak import Voice, synthesise
from espnet_adastride.corpora.kaldi import read_text
from espnet_adastride.errors import UserError

RATE = 16000
#: a test voice of the demo
VOICE = Voice("en-us", "f4", rate=150)


def get_parser() -> argparse.ArgumentParser:
    parser = Parser(__doc__)
    parser.add_argument("text", help="the sentence, in English words")
    parser.add_argument("--output", required=True, help="output file, .wav or .flac")
    parser.add_argument(
        "--vocabulary",
        help="text file of a training set, lines 'id words'; words that are not in it "
        "are listed",
    )
    parser.add_argument(
        "--variant", default=VOICE.variant, help="eSpeak NG voice variant"
    )
    return parser


def spoken_words(text: str) -> List[str]:
    """Return the words of a text in the form of the demo's transcripts.

    Raises:
        UserError: if there is no word, or a word has other characters than letters.
    """
    words = re.sub(
        r"[.,;:!?\"()\u201c\u201d-]", " ", text.replace("\u2019", "'")
    ).split()
    if not words:
        raise UserError("no word to synthesise: give a sentence")
    for word in words:
        if not re.fullmatch(r"[A-Za-z']+", word):
            raise UserError(
                f"{word!r} cannot be synthesised and compared: use English letters "
                "(numbers as words: seven)"
            )
    return [word.upper() for word in words]


def say(args: argparse.Namespace) -> List[str]:
    """Write the recording; return the lines to print."""
    words = spoken_words(args.text)
    texts = {} if args.vocabulary is None else read_text(args.vocabulary)
    voice = Voice(VOICE.accent, args.variant, VOICE.rate)
    samples = synthesise(" ".join(words).lower(), voice, RATE)
    # half a second of silence around it, as in the corpus
    pause = np.zeros(RATE // 4, dtype=samples.dtype)
    output = Path(args.output)
    output.parent.mkdir(parents=True, exist_ok=True)
    try:
        soundfile.write(output, np.concatenate([pause, samples, pause]), RATE)
    except (ValueError, RuntimeError, TypeError) as error:
        raise UserError(f"--output {output}: {error}; name a .wav") from None
    lines = [f"said ({voice.name}): {' '.join(words)}"]
    known = {word for text in texts.values() for word in text.upper().split()}
    unknown = [word for word in dict.fromkeys(words) if word not in known]
    if texts and unknown:
        lines.append(
            f"not among the {len(known)} training words, so recognition errors are "
            f"likely: {' '.join(unknown)}"
        )
    elif texts:
        lines.append(f"all words are among the {len(known)} training words")
    return lines


@command(get_parser)
def main(args) -> None:
    for line in say(args):
        print(line)


if __name__ == "__main__":
    main()
