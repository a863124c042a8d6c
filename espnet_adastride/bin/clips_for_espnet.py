#!/usr/bin/env python3
"""Write a corpus of classified recordings as ESPnet's task ``cls`` reads it.

    python -m espnet_adastride.bin.clips_for_espnet --corpus /path/to/speech_commands \
        --layout speech_commands --split rotating --seed 0 --output_dir data

makes ``data/{train,valid,test}`` with ``wav.scp``, ``label``, ``utt2spk`` (the group)
and ``shape`` (samples at 16 kHz), and ``data/classes.txt``, the token list. Splits and
layouts are those of :mod:`espnet_adastride.clips`, so that an ESPnet training is tested
on the clips of the same seed's runs of ``classify``.
"""

import argparse
import re
from pathlib import Path

import soundfile

from espnet_adastride.clips import (
    LAYOUTS,
    SPLITS,
    describe_clips,
    find_clips,
    split_clips,
)
from espnet_adastride.recipe.errors import RecipeError, one_line_errors
from espnet_adastride.recipe.files import write_text

#: what ESPnet's tools read as more than a path, or cannot hold in a line
UNFIT = re.compile(r"[\s|]")


def get_parser():
    """Return the command's parser."""
    parser = argparse.ArgumentParser(
        description="Write a corpus of classified recordings for ESPnet's task cls",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    parser.add_argument("--corpus", required=True, help="Folder of the corpus")
    parser.add_argument("--layout", required=True, choices=list(LAYOUTS))
    parser.add_argument("--split", default="rotating", choices=list(SPLITS))
    parser.add_argument("--seed", type=int, default=0, help="Which split of its kind")
    parser.add_argument("--rate", type=int, default=16000, help="Hz that are asked for")
    parser.add_argument("--output_dir", required=True, help="Folder to be made")
    return parser


def utterance_id(clip_id: str) -> str:
    """Return a clip's id as a word, without white space."""
    return UNFIT.sub("_", clip_id).replace("/", "-")


def write_part(clips, folder: Path, rate: int) -> None:
    """Write one part's files.

    Raises:
        RecipeError: a recording of another rate or of several channels, which ESPnet
            would take as it is, or a path with white space, which wav.scp cannot hold.
    """
    rows = []
    for clip in clips:
        path = clip.path.absolute()
        if UNFIT.search(str(path)):
            raise RecipeError(f"{path}: white space or | in a path; rename it")
        try:
            info = soundfile.info(path)
        except (RuntimeError, OSError) as error:
            reason = " ".join(str(error).split())
            raise RecipeError(f"{path}: cannot be decoded ({reason})") from None
        if info.samplerate != rate or info.channels != 1 or not info.frames:
            raise RecipeError(
                f"{path}: {info.frames} samples, {info.channels} channels, "
                f"{info.samplerate} Hz; ESPnet takes one channel at --rate {rate}"
            )
        label = UNFIT.sub("_", clip.label)
        group = UNFIT.sub("_", clip.group)
        rows.append((utterance_id(clip.id), path, label, group, info.frames))
    rows.sort()
    for one, other in zip(rows, rows[1:]):
        if one[0] == other[0]:
            raise RecipeError(f"{one[1]} and {other[1]} are both {one[0]}; rename one")
    for name, column in (("wav.scp", 1), ("label", 2), ("utt2spk", 3), ("shape", 4)):
        write_text(folder / name, "".join(f"{row[0]} {row[column]}\n" for row in rows))


@one_line_errors
def main(cmd=None):
    """Run the command; bad input ends in one line."""
    args = get_parser().parse_args(cmd)
    clips = find_clips(args.corpus, args.layout)
    print(describe_clips(clips, args.split, [args.seed]))
    folder = Path(args.output_dir)
    for part, indices in split_clips(clips, args.split, args.seed).items():
        (folder / part).mkdir(parents=True, exist_ok=True)
        write_part([clips[index] for index in indices], folder / part, args.rate)
    labels = sorted({UNFIT.sub("_", clip.label) for clip in clips})
    if len(labels) < len({clip.label for clip in clips}):
        raise RecipeError("two labels differ in white space or | alone; rename one")
    # ESPnet's classifier takes the list's last entry for unknown ones off its classes
    write_text(folder / "classes.txt", "\n".join([*labels, "<unk>"]) + "\n")


if __name__ == "__main__":
    main()
