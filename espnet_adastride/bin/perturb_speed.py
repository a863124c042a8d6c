"""Stage 2: a set with copies of it at other speeds.

    python -m espnet_adastride.bin.perturb_speed --source data/train_clean_100 \
        --output data/train_clean_100_sp --factors 0.9 1.0 1.1

Copies are 16-bit FLAC below ``<output>/perturbed``; utterances and speakers get the
prefix ``sp0.9-`` and so on. An interrupted run resumes.
"""

from pathlib import Path

from espnet_adastride.bin.parsers import Parser, add_rerun_option, command
from espnet_adastride.corpora.datadir import TABLES, audio_files
from espnet_adastride.corpora.perturb import RECORD, parse_factors, perturb_data_dir
from espnet_adastride.options import whole
from espnet_adastride.recipe.stamps import Stamp, fingerprint, hash_listing


def get_parser():
    parser = Parser(__doc__)
    parser.add_argument("--source", required=True, help="a data folder")
    parser.add_argument("--output", required=True, help="the output data folder")
    parser.add_argument(
        "--factors",
        nargs="+",
        required=True,
        help="speed factors, e.g. 0.9 1.0 1.1; 1.0 is the unchanged set",
    )
    parser.add_argument("--nj", type=whole(1), default=4, help="threads")
    add_rerun_option(parser)
    return parser


@command(get_parser)
def main(args):
    parse_factors(args.factors)  # report a mistake before the stamp is removed
    output = Path(args.output)
    stamp = Stamp(output / ".stage_done")
    # name, size and time stand for the audio: reading it all would take minutes
    options = {
        "speed_perturb_factors": " ".join(args.factors),
        "audio": hash_listing(audio_files(args.source)),
    }
    work = fingerprint([Path(args.source) / t for t in TABLES], options=options)
    if not all(Path(path).exists() for path in audio_files(output)):
        stamp.clear()
    if stamp.is_done(work, args.rerun, str(output)):
        return
    if args.rerun:
        (output / RECORD).unlink(missing_ok=True)
    summary = perturb_data_dir(args.source, output, args.factors, args.nj, work)
    stamp.write(work, [output / t for t in (*TABLES, "spk2utt")], summary)
    print(summary)


if __name__ == "__main__":
    main()
