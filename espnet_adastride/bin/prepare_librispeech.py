"""Turn parts of LibriSpeech into a Kaldi-style data directory (stage 1).

    python -m espnet_adastride.bin.prepare_librispeech \
        --corpus /path/to/LibriSpeech --part dev-clean dev-other --output data/dev

Every recording is decoded. Unusable utterances are summarised on the terminal and
listed by name in ``excluded.txt`` of the data directory; ``--strict`` makes them an
error.
"""

import argparse
import time
from pathlib import Path

from espnet_adastride.bin.parsers import Parser, command
from espnet_adastride.corpora.kaldi import shorten, write_data_dir
from espnet_adastride.corpora.librispeech import (
    find_librispeech,
    scan_librispeech,
    summarise,
)
from espnet_adastride.errors import UserError
from espnet_adastride.options import whole
from espnet_adastride.progress import cores


def prepare_librispeech(
    corpus: str,
    part,
    output: str,
    fs: int = 16000,
    nj: int = 1,
    strict: bool = False,
    skip_missing_parts: bool = False,
    max_names: int = 5,
    progress: bool = True,
) -> None:
    """Write ``output`` from the named parts; the options are those of the command.

    Raises:
        UserError: The corpus or a part is missing, no usable utterance is left, or
            ``strict`` is set and something would have been left out.
    """
    started = time.time()
    root, available = find_librispeech(corpus)
    # A part named twice is read once.
    part = list(dict.fromkeys(part))
    missing = [p for p in part if p not in available]
    if missing:
        line = (
            f"not in {root}: {', '.join(missing)}; "
            f"parts found there: {', '.join(available)}"
        )
        part = [p for p in part if p in available]
        if strict or not skip_missing_parts or not part:
            raise UserError(
                f"{line}. Download the missing parts (python -m "
                "espnet_adastride.bin.download_librispeech), name an available "
                "part, or set LIBRISPEECH= (db.sh) to another copy"
            )
        print(f"{output}: {line}; continuing with {', '.join(part)} only")

    scan = scan_librispeech(root, part, fs=fs, nj=nj, progress=progress)
    print(
        f"{output}: {' + '.join(part)}: {scan.recordings} recordings, "
        f"{scan.transcripts} transcripts in {root}"
    )
    for line in summarise(scan, max_names):
        print(f"{output}: {line}")
    if strict and (scan.excluded or scan.notes):
        why = [f"{e.id} ({e.kind})" for e in scan.excluded] + scan.notes
        raise UserError(
            f"--strict: not prepared because of {shorten(why, max_names)}; fix the "
            "corpus, or run without --strict to leave them out"
        )
    if not scan.utterances:
        raise UserError(
            f"no usable utterance in {', '.join(part)} of {root}; "
            "the lines above say why (standard output)"
        )
    write_data_dir(output, scan.utterances, scan.excluded)
    seconds = sum(u.samples for u in scan.utterances) / fs
    speakers = len({u.speaker for u in scan.utterances})
    listed = (
        f", {len(scan.excluded)} exclusions listed in {Path(output) / 'excluded.txt'}"
        if scan.excluded
        else ", nothing left out"
    )
    print(
        f"{output}: {len(scan.utterances)} utterances, {seconds / 3600:.2f} h, "
        f"{speakers} speaker-chapters{listed} [{time.time() - started:.1f} s]"
    )


def get_parser() -> argparse.ArgumentParser:
    parser = Parser(__doc__)
    parser.add_argument(
        "--corpus",
        required=True,
        help="LibriSpeech/ or the folder that contains it",
    )
    parser.add_argument(
        "--part",
        required=True,
        nargs="+",
        help="e.g. train-clean-100; several parts form one set",
    )
    parser.add_argument(
        "--output", required=True, help="the data directory, e.g. data/train_clean_100"
    )
    parser.add_argument(
        "--fs", type=whole(1), default=16000, help="sampling rate in Hz"
    )
    parser.add_argument(
        "--nj", type=whole(1), default=cores(), help="number of decoding processes"
    )
    parser.add_argument(
        "--strict",
        action="store_true",
        help="fail on unusable utterances instead of leaving them out",
    )
    parser.add_argument(
        "--skip_missing_parts",
        action="store_true",
        help="continue with the available parts if some are missing",
    )
    parser.add_argument(
        "--max_names",
        type=whole(0),
        default=5,
        help="names shown per line of the summary; excluded.txt has all of them",
    )
    return parser


@command(get_parser)
def main(args) -> None:
    prepare_librispeech(**vars(args))


if __name__ == "__main__":
    main()
