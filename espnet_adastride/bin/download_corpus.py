"""Download a corpus of classified recordings from its publisher and unpack it.

    python -m espnet_adastride.bin.download_corpus --name fsdd --corpus downloads/fsdd

An existing folder is left alone. An archive is unpacked next to its destination and
moved there when complete. The publishers give no checksums, so only gzip's own check is
made.
"""

import argparse
import os
from pathlib import Path
from typing import NamedTuple

from espnet_adastride.bin.download_librispeech import fetch, unpacked
from espnet_adastride.bin.parsers import Parser, command
from espnet_adastride.errors import UserError


class Corpus(NamedTuple):
    """A published corpus.

    Attributes:
        url: address of a .tar.gz.
        size: download size, shown to the user.
        top: True to strip the archive's only top folder.
    """

    url: str
    size: str
    top: bool


CORPORA = {
    "speech_commands": Corpus(
        "https://storage.googleapis.com/download.tensorflow.org/data/"
        "speech_commands_v0.02.tar.gz",
        "2.3 GB",
        False,
    ),
    "fsdd": Corpus(
        "https://github.com/Jakobovski/free-spoken-digit-dataset/archive/refs/heads/"
        "master.tar.gz",
        "20 MB",
        True,
    ),
    "esc10": Corpus(
        "https://github.com/karolpiczak/ESC-50/archive/refs/heads/master.tar.gz",
        "600 MB",
        True,
    ),
}


def download_corpus(name: str, folder, url: str = "") -> Path:
    """Download and unpack a corpus into ``folder``.

    Args:
        name: a key of :data:`CORPORA`.
        folder: destination; left alone if it exists.
        url: address of another .tar.gz, e.g. a mirror's.

    Raises:
        UserError: no connection, no space, or an archive that cannot be unpacked.
    """
    corpus, folder = CORPORA[name], Path(folder).expanduser().absolute()
    if folder.is_dir():
        print(f"{name}: already in {folder}")
        return folder
    folder.parent.mkdir(parents=True, exist_ok=True)
    archive = folder.with_name(f"{folder.name}.tar.gz.part")
    print(f"{name}: {corpus.size} from {url or corpus.url}")
    fetch(url or corpus.url, archive)
    with unpacked(archive, folder.with_name(f".{folder.name}.unpacking")) as staging:
        inside = list(staging.iterdir())
        if corpus.top and len(inside) != 1:
            raise UserError(
                f"{archive}: contains {len(inside)} top folders instead of one; delete "
                "it, and give another --url"
            )
        os.replace(inside[0] if corpus.top else staging, folder)
    archive.unlink()
    print(f"{name}: in {folder}")
    return folder


def get_parser() -> argparse.ArgumentParser:
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
