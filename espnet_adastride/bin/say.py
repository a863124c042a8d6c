#!/usr/bin/env python3
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
from typing import List, Sequence, Set

from espnet_adastride.bin.parsers import Parser
from espnet_adastride.corpora.espeak import Voice, synthesise
from espnet_adastride.corpora.kaldi import read_text
from espnet_adastride.errors import UserError, one_line_errors

RATE = 16000
#: a test voice of the demo
VOICE = Voice("en-us", "f4", rate=150)


def get_parser() -> argparse.ArgumentParser:
    """Build the command's argument parser."""
    parser = Parser(
        description="Synthesise a sentence with eSpeak NG.",
    )
    parser.add_argument("text", help="the sentence, in English words")
    parser.add_argument("--output", required=True, help="output file, .wav or .flac")
    parser.add_argument(
        "--vocabulary", help="text file of a training set, lines 'id words'"
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


def unknown_words(words: Sequence[str], vocabulary: Set[str]) -> List[str]:
    """Return the words missing from the vocabulary, each once, in order."""
    return [word for word in dict.fromkeys(words) if word not in vocabulary]


def say(args: argparse.Namespace) -> List[str]:
    """Write the recording; return the lines to print."""
    import soundfile

    words = spoken_words(args.text)
    vocabulary = None
    if args.vocabulary is not None:
        texts = read_text(args.vocabulary)
        vocabulary = {word for text in texts.values() for word in text.upper().split()}
    voice = Voice(VOICE.accent, args.variant, VOICE.rate)
    samples = synthesise(" ".join(words).lower(), voice, RATE)
    # half a second of silence around it, as in the corpus
    import numpy as np

    pause = np.zeros(RATE // 4, dtype=samples.dtype)
    output = Path(args.output)
    output.parent.mkdir(parents=True, exist_ok=True)
    try:
        soundfile.write(output, np.concatenate([pause, samples, pause]), RATE)
    except (ValueError, RuntimeError, TypeError) as error:
        raise UserError(f"--output {output}: {error}; name a .wav") from None
    lines = [f"said ({voice.name}): {' '.join(words)}"]
    if vocabulary is not None:
        unknown = unknown_words(words, vocabulary)
        if unknown:
            lines.append(
                f"not among the {len(vocabulary)} training words, so recognition "
                f"errors are likely: {' '.join(unknown)}"
            )
        else:
            lines.append(f"all words are among the {len(vocabulary)} training words")
    return lines


@one_line_errors
def main(cmd=None) -> None:
    """Run the command; bad input ends in one line, status 1."""
    for line in say(get_parser().parse_args(cmd)):
        print(line)


if __name__ == "__main__":
    main()
