"""Make data directories from your own recordings (stage 1 for your own corpus).

    adastride prepare recordings.csv                        # data/{train,valid,test}
    adastride prepare train=train.tsv valid=dev.tsv test=test.tsv
    adastride prepare my_kaldi_folder
    adastride prepare folder_of_audio_and_txt --speaker_from folder
    adastride prepare cv-corpus/en

A source is a table (.csv, .tsv, .jsonl) with the columns path and text (and speaker,
start, end, set, id), a Kaldi folder (wav.scp, text), a folder of recordings with .txt
files of the same name, a folder with metadata.csv (Hugging Face), or Common Voice. A
single source is split into training, validation and test sets with different speakers.
"""

import argparse
import os
import re
import shlex
from pathlib import Path
from typing import Dict, List, Sequence, Tuple

from espnet_adastride.bin.parsers import Parser, add_switch, command
from espnet_adastride.corpora.own.layouts import read_source
from espnet_adastride.corpora.own.prepare import prepare, written_before
from espnet_adastride.corpora.own.rows import Options
from espnet_adastride.corpora.own.source import Source
from espnet_adastride.corpora.own.split import PARTS
from espnet_adastride.corpora.own.tables import COLUMNS
from espnet_adastride.errors import UserError, no_such, resumable
from espnet_adastride.files import check_folder, shown
from espnet_adastride.options import parse_rate, real, whole
from espnet_adastride.progress import cores


def get_parser() -> argparse.ArgumentParser:
    parser = Parser(
        __doc__,
        epilog="\n\n".join(__doc__.split("\n\n")[1:]),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "source",
        nargs="+",
        metavar="[SET=]SOURCE",
        help="table or folder; several sources of one set are joined",
    )
    parser.add_argument(
        "--output",
        default="data",
        help="output folder, with one folder per set (default: data)",
    )
    parser.add_argument(
        "--audio_dir", default="", help="folder to which paths in a table are relative"
    )
    parser.add_argument(
        "--columns",
        nargs="+",
        default=[],
        metavar="ROLE=NAME",
        help=f"columns of a table that are not found automatically; roles: "
        f"{' '.join(COLUMNS)}",
    )
    parser.add_argument(
        "--speaker_from",
        default="",
        metavar="folder|REGEX",
        help="speaker if the source does not give it: the first sub-folder, or the "
        "group of a regular expression on the path, e.g. '([a-z]+)_[0-9]+'",
    )
    parser.add_argument(
        "--split",
        default="auto",
        choices=["auto", "speaker", "utterance", "none"],
        help="auto: by speaker if known, otherwise by utterance (default: auto)",
    )
    parser.add_argument(
        "--seed", type=int, default=0, help="random seed of the split (default: 0)"
    )
    for part in PARTS[1:]:
        parser.add_argument(
            f"--{part}_share",
            type=real(0, 1),
            default=0.1,
            help=f"share of the utterances for {part} (default: 0.1; 0: none)",
        )
    add_switch(parser, "--skip_bad", "leave out and count unusable utterances")
    add_switch(parser, "--run_pipes", "run commands in wav.scp")
    add_switch(parser, "--overwrite", "replace data directories with other content")
    parser.add_argument(
        "--fs", default="16k", help="sampling rate of written FLAC files (default: 16k)"
    )
    parser.add_argument(
        "--nj", type=whole(1), default=cores(), help="threads (default: all CPUs)"
    )
    return parser


def read_sources(
    words: Sequence[str], columns: Dict[str, str], leave_out: Sequence[Path] = ()
) -> List[Tuple[str, Source]]:
    """Read ``[SET=]SOURCE`` words; ``leave_out`` is that of :func:`read_source`.

    Raises:
        UserError: A set has a bad name, only some of the sources name a set, or
            columns are named and no source has any.
    """
    named = []
    for word in words:
        name, equals, path = word.partition("=")
        if not equals or os.path.exists(word):
            name, path = "", word
        elif not re.fullmatch(r"[\w-][\w.-]*", name):
            raise UserError(
                f"{word}: a set's name may only have letters, digits, _ - ."
            )
        if not path:  # it would be the current folder
            raise UserError(no_such(path, option=f"source {word}".rstrip()))
        named.append((name, path))
    if len({bool(name) for name, _ in named}) > 1:
        raise UserError("give all sources as SET=SOURCE, or none of them")
    found = [(name, read_source(path, columns, leave_out)) for name, path in named]
    if columns and not any(source.has_table() for _, source in found):
        kinds = " and ".join(dict.fromkeys(source.kind for _, source in found))
        raise UserError(f"--columns is for tables; found: {kinds}; omit it")
    return found


def read_columns(words: Sequence[str]) -> Dict[str, str]:
    """Read ``ROLE=NAME`` words.

    Raises:
        UserError: A word has another form or an unknown role.
    """
    columns = {}
    for word in words:
        role, equals, name = word.partition("=")
        if not equals or role not in COLUMNS:
            raise UserError(
                f"--columns {word}: write ROLE=NAME; roles: {' '.join(COLUMNS)}"
            )
        columns[role] = name
    return columns


def read_options(args: argparse.Namespace) -> Options:
    """Check the numbers; return the options.

    Raises:
        UserError: A value is out of range.
    """
    shares = {part: getattr(args, f"{part}_share") for part in PARTS[1:]}
    if sum(shares.values()) >= 1:
        raise UserError("--valid_share and --test_share leave nothing for training")
    if args.speaker_from not in ("", "folder"):
        try:
            groups = re.compile(args.speaker_from).groups
        except re.error as error:
            raise UserError(f"--speaker_from: not a valid regular expression ({error})")
        if groups != 1:
            raise UserError(
                f"--speaker_from {args.speaker_from}: put one pair of parentheses "
                "around the speaker, or use --speaker_from folder"
            )
    if args.audio_dir and not os.path.isdir(args.audio_dir):
        raise UserError(no_such(args.audio_dir, what="folder", option="--audio_dir"))
    given = {k: v for k, v in vars(args).items() if k in Options.__dataclass_fields__}
    return Options(**{**given, "fs": parse_rate(args.fs), "shares": shares})


def next_command(output: Path) -> List[str]:
    """Return the command that trains on the sets, if the driver can find them."""
    if output.name != "data" or not all((output / part).is_dir() for part in PARTS):
        return []
    driver = Path(__file__).resolve().parents[2] / "egs" / "asr.sh"
    if not driver.is_file():
        return []
    here = output.resolve().parent == Path.cwd()
    place = "" if here else f"cd {shlex.quote(str(output.parent))}; "
    return [
        f"next: {place}{shlex.quote(str(driver))} --train_set train --valid_set valid "
        "--test_sets test --token_type char --asr_config train_asr_own.yaml "
        "--inference_config decode_ctc_greedy.yaml"
    ]


@command(get_parser)
def main(args) -> None:
    options = read_options(args)
    check_folder(args.output, "--output")
    made = written_before(args.output)
    named = read_sources(args.source, read_columns(args.columns), made)
    with resumable():
        lines = prepare(named, args.output, options)
    for line in lines + next_command(Path(args.output)):
        print(shown(line))


if __name__ == "__main__":
    main()
