"""Download parts of LibriSpeech from OpenSLR (SLR12) and unpack them.

    python -m espnet_adastride.bin.download_librispeech \
        --corpus /path/to/data --part train-clean-100 dev-clean test-clean

It makes ``/path/to/data/LibriSpeech/PART``. A part with content is left alone. An
interrupted download resumes where it stopped. An archive is unpacked only if its MD5
sum is the published one, next to its destination, and moved there when complete.
"""

from espnet_adastride.bin.parsers import Parser, command
from espnet_adastride.corpora.downloads import MD5, URL, download_part
from espnet_adastride.errors import UserError


def get_parser():
    parser = Parser(__doc__)
    parser.add_argument(
        "--corpus",
        required=True,
        default="",  # empty: a message of its own, which says how a recipe sets it
        help="folder that will hold LibriSpeech/",
    )
    parser.add_argument(
        "--part", required=True, nargs="+", help=f"one or more of {', '.join(MD5)}"
    )
    parser.add_argument("--url", default=URL, help="OpenSLR's folder or a mirror")
    parser.add_argument(
        "--keep_archive", action="store_true", help="keep PART.tar.gz after unpacking"
    )
    return parser


@command(get_parser)
def main(args) -> None:
    if not args.corpus.strip():
        raise UserError("--corpus is empty: set LIBRISPEECH= or edit db.sh")
    for part in args.part:
        download_part(args.corpus, part, args.url, args.keep_archive)


if __name__ == "__main__":
    main()
