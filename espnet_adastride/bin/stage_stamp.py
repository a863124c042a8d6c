"""Check whether a stage is done and unchanged; mark it as done.

``check``: status 0 if it is done (prints what was made), 3 if it must be done (prints
why, if it had been done before). ``write``: mark it as done. ``run``: check, run the
command after ``--`` if needed, write. Inputs are fingerprinted before the work starts,
so that the next check detects a change during the work.
"""

import json
import sys
from pathlib import Path

from espnet_adastride.bin.parsers import Parser, add_rerun_option
from espnet_adastride.errors import UserError, one_line_errors
from espnet_adastride.files import write_text
from espnet_adastride.recipe.jobs import run_here
from espnet_adastride.recipe.stamps import (
    LATER,
    Stamp,
    expand,
    fingerprint,
    recorded_options,
)

NOT_DONE = 3


def get_parser():
    parser = Parser(__doc__, epilog="run: the command follows at the end, after --")
    parser.add_argument(
        "action",
        choices=["check", "write", "run"],
        help="check the stamp, write it, or run a command and write it",
    )
    parser.add_argument("--stamp", required=True, help="stamp file")
    parser.add_argument(
        "--input", action="append", default=[], help="a file that the stage reads"
    )
    parser.add_argument(
        "--tree", action="append", default=[], help="a folder that the stage reads"
    )
    parser.add_argument(
        "--option",
        action="append",
        default=[],
        metavar="NAME=VALUE",
        help="a setting that the stage depends on",
    )
    parser.add_argument(
        "--audio",
        action="append",
        default=[],
        metavar="FOLDER",
        help="a formatted folder whose audio the stage reads: it is compared as stage "
        "3 found it, by names, sizes and times",
    )
    parser.add_argument(
        "--output",
        action="append",
        default=[],
        help="a file that the stage makes (or a glob)",
    )
    parser.add_argument("--summary", default="", help="one line: what was made")
    add_rerun_option(parser)
    return parser


@one_line_errors
def main(cmd=None):
    words, command = list(sys.argv[1:] if cmd is None else cmd), []
    if "--" in words:
        command = words[words.index("--") + 1 :]
        words = words[: words.index("--")]
    args = get_parser().parse_args(words)
    if (args.action == "run") != bool(command):
        raise UserError("only 'run' takes a command after --, and it needs one")
    stamp = Stamp(args.stamp)
    pending = stamp.path.with_name(stamp.path.name + ".pending")
    what = stamp.path.parent.name

    if args.action in ("check", "run"):
        options = dict(o.partition("=")[::2] for o in args.option)
        for folder in args.audio:
            made = recorded_options(Stamp(Path(folder) / ".stage_done"))
            if "audio" in made:
                options[f"{LATER}{folder}"] = made["audio"]
        work = fingerprint(args.input, args.tree, options)
        if stamp.is_done(work, args.rerun, what):
            return
    if args.action == "check":
        write_text(pending, json.dumps(work))
        sys.exit(NOT_DONE)
    if args.action == "run":
        run_here(command)
    else:
        try:
            work = json.loads(pending.read_text(encoding="utf-8"))
        except (OSError, ValueError):
            raise UserError(f"{pending}: 'write' without a previous 'check'") from None
    stamp.write(work, expand(args.output), args.summary)
    pending.unlink(missing_ok=True)


if __name__ == "__main__":
    main()
