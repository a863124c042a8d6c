"""Stage 4: leave out utterances that are too short, too long or without text.

A finished and unchanged ``--set SOURCE OUTPUT`` is skipped.
"""

from pathlib import Path

from espnet_adastride.bin.parsers import Parser, add_set_options, command
from espnet_adastride.corpora.datadir import (
    FEATURE_FILES,
    FEATURE_TABLES,
    MADE,
    TABLES,
    filter_data_dir,
)
from espnet_adastride.options import parse_rate, real
from espnet_adastride.recipe.stamps import Stamp, fingerprint


def get_parser():
    parser = Parser(__doc__)
    add_set_options(parser, "a dump folder and its filtered output folder")
    parser.add_argument(
        "--min_wav_duration",
        type=real(0),
        default=0.1,
        help="seconds; utterances that are not longer are left out",
    )
    parser.add_argument(
        "--max_wav_duration",
        type=real(0, infinite=True),
        default=20.0,
        help="seconds; utterances that are not shorter are left out",
    )
    return parser


@command(get_parser)
def main(args):
    rate, bounds = parse_rate(args.fs), (args.min_wav_duration, args.max_wav_duration)
    for source, output in args.set:
        stamp = Stamp(Path(output) / ".stage_done")
        options = {"min_wav_duration": bounds[0], "max_wav_duration": bounds[1]}
        inputs = [Path(source) / name for name in (*TABLES, "utt2num_samples")]
        more = [Path(source) / name for name in (*FEATURE_TABLES, *FEATURE_FILES)]
        inputs += [path for path in more if path.exists()]
        work = fingerprint(inputs, options={"fs": rate, **options})
        if stamp.is_done(work, args.rerun, output):
            continue
        summary = filter_data_dir(source, output, rate, *bounds)
        made = [Path(output) / name for name in (*MADE, "removed.txt")]
        made += [Path(output) / path.name for path in more if path.exists()]
        stamp.write(work, made, summary)
        print(summary)


if __name__ == "__main__":
    main()
