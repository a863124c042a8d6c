"""Write a corpus of classified recordings in the format of ESPnet's task ``cls``.

    python -m espnet_adastride.bin.clips_for_espnet --corpus /path/to/speech_commands \
        --layout speech_commands --split rotating --seed 0 --output_dir data

Splits and layouts are those of ``classify`` (``corpora/clips.py``), so that an ESPnet
training is tested on the same clips as the runs with that seed there. Recordings that
are not mono at ``--rate``, or have white space in their names, are mixed down,
resampled and written to ``data/wav``. ``classify_espnet`` does all steps.
"""

from pathlib import Path

from espnet_adastride.bin.parsers import Parser, command
from espnet_adastride.corpora.clips import LAYOUTS, SPLITS, describe_clips, find_clips
from espnet_adastride.corpora.espnet_clips import write_data
from espnet_adastride.errors import counted
from espnet_adastride.options import whole


def get_parser():
    parser = Parser(__doc__)
    parser.add_argument("--corpus", required=True, help="folder of the corpus")
    parser.add_argument(
        "--layout", required=True, choices=list(LAYOUTS), help="layout of the corpus"
    )
    parser.add_argument(
        "--split", default="rotating", choices=list(SPLITS), help="how clips are split"
    )
    parser.add_argument("--seed", type=int, default=0, help="seed of the split")
    parser.add_argument(
        "--rate", type=whole(1), default=16000, help="sampling rate of the model in Hz"
    )
    parser.add_argument("--output_dir", required=True, help="output folder")
    return parser


@command(get_parser)
def main(args):
    clips = find_clips(args.corpus, args.layout)
    print(describe_clips(clips, args.split, [args.seed]))
    folder = Path(args.output_dir)
    number = write_data(clips, args.split, args.seed, folder, args.rate, folder / "wav")
    if number:
        what = f"one channel, {args.rate} Hz"
        print(f"{counted(number, 'recording')} converted to {what}: {folder / 'wav'}")


if __name__ == "__main__":
    main()
