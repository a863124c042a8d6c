"""Split a set's keys into near-equal lists for parallel jobs; print their number."""

from espnet_adastride.bin.parsers import Parser, command
from espnet_adastride.corpora.datadir import read_table, split_keys, write_table
from espnet_adastride.options import whole
from espnet_adastride.recipe.jobs import numbered


def get_parser():
    parser = Parser(__doc__)
    parser.add_argument(
        "--nj", type=whole(1), required=True, help="maximum number of parts"
    )
    parser.add_argument(
        "--split",
        nargs=2,
        action="append",
        required=True,
        metavar=("SCP", "PATTERN"),
        help="a file and the name of its parts, with JOB for the number; "
        "several files are split into the same number of parts",
    )
    return parser


@command(get_parser)
def main(args):
    tables = [(read_table(scp), pattern) for scp, pattern in args.split]
    jobs = min(args.nj, *(len(table) for table, _ in tables), 10**6)
    for table, pattern in tables:
        for number, keys in enumerate(split_keys(sorted(table), jobs), 1):
            write_table(numbered(pattern, number), table, keys)
    print(max(1, jobs))


if __name__ == "__main__":
    main()
