"""Stage 3: check the audio of data folders and write their dump folders.

A finished and unchanged ``--set SOURCE OUTPUT`` is skipped.
"""

from pathlib import Path

from espnet_adastride.bin.parsers import Parser, add_set_options, command
from espnet_adastride.corpora.datadir import MADE, TABLES, audio_files, format_data_dir
from espnet_adastride.options import parse_rate, whole
from espnet_adastride.recipe.stamps import Stamp, fingerprint, hash_listing


def get_parser():
    parser = Parser(__doc__)
    add_set_options(parser, "a data folder and its dump folder")
    parser.add_argument("--nj", type=whole(1), default=4, help="threads")
    return parser


@command(get_parser)
def main(args):
    rate = parse_rate(args.fs)
    for source, output in args.set:
        stamp = Stamp(Path(output) / ".stage_done")
        # name, size and time stand for the audio: reading it all would take minutes
        options = {"fs": rate, "audio": hash_listing(audio_files(source))}
        work = fingerprint([Path(source) / t for t in TABLES], options=options)
        if stamp.is_done(work, args.rerun, output):
            continue
        summary = format_data_dir(source, output, rate, args.nj)
        stamp.write(work, [Path(output) / name for name in MADE], summary)
        print(summary)


if __name__ == "__main__":
    main()
