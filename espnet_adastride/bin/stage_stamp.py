"""Check whether a stage is done and unchanged; mark it as done.

``check``: status 0 if it is done (prints what was made), 3 if it must be done (prints
why, if it had been done before). ``write``: mark it as done. ``run``: check, run the
command after ``--`` if needed, write. Inputs are fingerprinted before the work starts,
so that the next check detects a change during the work.
"""

import argparse
import glob
import json
import os
import signal
import subprocess
import sys

from espnet_adastride.bin.parsers import Parser, add_switch
from espnet_adastride.errors import UserError, one_line_errors
from espnet_adastride.files import write_text
from espnet_adastride.recipe.jobs import signals_handled_by
from espnet_adastride.recipe.stamps import Stamp, fingerprint

NOT_DONE = 3


def get_parser():
    parser = Parser(
        __doc__,
        epilog="run: the command follows at the end, after --",
    )
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
        "--output",
        action="append",
        default=[],
        help="a file that the stage makes (or a glob)",
    )
    parser.add_argument("--summary", default="", help="one line: what was made")
    add_rerun_option(parser)
    return parser


def add_rerun_option(parser: argparse.ArgumentParser) -> None:
    """Add ``--rerun``, which :func:`check` takes."""
    add_switch(parser, "--rerun", "run the stage even if it is done")


def check(stamp: Stamp, work: dict, rerun: bool, what: str) -> bool:
    """Return whether the work is done; print this, or why it is done again."""
    reason = "--rerun true" if rerun else stamp.why_not_done(work)
    if reason is None:
        print(f"done and unchanged: {stamp.read()['summary'] or what}")
        return True
    if stamp.path.exists():
        print(f"doing {what} again: {reason}")
    stamp.clear()
    return False


def _expand(patterns):
    """Expand globs; a name that is a file or matches nothing is unchanged."""
    names = []
    for pattern in patterns:
        found = [] if os.path.exists(pattern) else sorted(glob.glob(pattern))
        names += found or [pattern]
    return names


def _run(command) -> None:
    """Run a command; forward signals to it; exit with its status if it fails."""
    process = subprocess.Popen(command)
    with signals_handled_by(lambda *_: process.send_signal(signal.SIGTERM)):
        status = process.wait()
    if status != 0:
        raise SystemExit(status if status > 0 else 128 - status)


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
        work = fingerprint(args.input, args.tree, options)
        if check(stamp, work, args.rerun, what):
            return
    if args.action == "check":
        write_text(pending, json.dumps(work))
        sys.exit(NOT_DONE)
    if args.action == "run":
        _run(command)
    else:
        try:
            work = json.loads(pending.read_text(encoding="utf-8"))
        except (OSError, ValueError):
            raise UserError(f"{pending}: 'write' without a previous 'check'") from None
    stamp.write(work, _expand(args.output), args.summary)
    pending.unlink(missing_ok=True)


if __name__ == "__main__":
    main()
