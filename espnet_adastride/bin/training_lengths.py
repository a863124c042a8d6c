"""Write the lengths of a model's training utterances (stage 11).

    python -m espnet_adastride.bin.training_lengths --fs 16k \
        --shape_file exp/asr_stats_raw_en_char/train/speech_shape \
        --output_dir exp/asr_train_...

It makes ``training_lengths.yaml`` there, which determines how recordings are cut later
(``corpora/lengths.py``).
"""

from pathlib import Path

from espnet_adastride.bin.parsers import Parser, command
from espnet_adastride.corpora.lengths import (
    LENGTHS_NAME,
    measure_lengths,
    write_lengths,
)
from espnet_adastride.options import parse_rate


def get_parser():
    parser = Parser(__doc__)
    parser.add_argument(
        "--shape_file", required=True, help="shape file of the training set"
    )
    parser.add_argument("--fs", default="16k", help="samples per second")
    parser.add_argument(
        "--upstream",
        help="upstream.yaml, if lengths are in frames of extracted features",
    )
    parser.add_argument("--output_dir", required=True, help="the experiment's folder")
    return parser


@command(get_parser)
def main(args):
    per_second = float(parse_rate(args.fs))
    if args.upstream:
        from espnet_adastride.corpora.upstream_record import read_record

        per_second = 1.0 / read_record(args.upstream).step
    lengths = measure_lengths(args.shape_file, per_second)
    path = Path(args.output_dir) / LENGTHS_NAME
    write_lengths(path, lengths)
    told = ", ".join(f"{name} {value:g} s" for name, value in lengths.seconds.items())
    print(f"{path}: {lengths.utterances} training utterances: {told}")


if __name__ == "__main__":
    main()
