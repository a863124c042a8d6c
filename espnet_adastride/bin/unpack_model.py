"""Unpack a packed model safely, also one from an unknown source; print how to use it.

    python -m espnet_adastride.bin.unpack_model MODEL.zip FOLDER

Nothing is written outside the folder and no code in the archive is run. Links, paths
that point elsewhere, pickles with more than tensors and broken files are rejected, and
the folder is then not created.
"""

from espnet_adastride.bin.parsers import Parser, command
from espnet_adastride.networks.unpacking import unpack


def get_parser():
    parser = Parser(__doc__)
    parser.add_argument("archive", help="zip or tar, as espnet2.bin.pack writes it")
    parser.add_argument("folder", help="a new (or empty) folder")
    return parser


@command(get_parser)
def main(args):
    for option, path in unpack(args.archive, args.folder).items():
        print(f"--{option} {path}")


if __name__ == "__main__":
    main()
