"""Download a corpus of classified recordings from its publisher and unpack it.

    python -m espnet_adastride.bin.download_corpus --name fsdd --corpus downloads/fsdd

A folder with content is left alone. An archive is unpacked next to its destination and
moved there when complete. The publishers give no checksums, so only gzip's own check is
made.
"""

from espnet_adastride.bin.parsers import Parser, command
from espnet_adastride.corpora.downloads import CORPORA, download_corpus


def get_parser():
    parser = Parser(__doc__)
    parser.add_argument(
        "--name", required=True, choices=list(CORPORA), help="the corpus"
    )
    parser.add_argument("--corpus", required=True, help="destination folder")
    parser.add_argument(
        "--url", default="", help="address of another .tar.gz, e.g. a mirror's"
    )
    return parser


@command(get_parser)
def main(args) -> None:
    download_corpus(args.name, args.corpus, args.url)


if __name__ == "__main__":
    main()
