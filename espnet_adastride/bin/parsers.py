"""The parser of all commands: argparse with better advice.

It adds ``--version``, shows the name of the program as it was called, suggests the
option closest to an unknown one, and shows defaults only where they carry information.
"""

import argparse
import functools
import os
import re
import sys
from pathlib import Path
from typing import Callable, List, Optional, Sequence, Tuple

from espnet_adastride.errors import (
    UserError,
    called_command,
    located,
    named,
    nearest,
    no_such,
    one_line_errors,
)
from espnet_adastride.options import read_seeds, split_list, str2bool, whole
from espnet_adastride.version import __version__

#: the folder of this project; defaults in it are shown relative to it
ROOT = Path(__file__).resolve().parents[2]


def called_program() -> Optional[str]:
    """Return the command line name of this process; None: argparse's own choice."""
    path = Path(sys.argv[0])
    if path.suffix == ".py" and path.parts[-3:-1] == ("espnet_adastride", "bin"):
        return f"python -m espnet_adastride.bin.{path.stem}"
    return called_command() or None


def expand_home(word: str) -> str:
    """Return ``--name=~/x`` or ``NAME=~/x`` with the user's home folder.

    A shell expands ``~`` only at the beginning of a word.
    """
    name, equals, value = word.partition("=")
    expands = re.fullmatch(r"[\w.-]+=", name + equals) and value.startswith("~")
    return f"{name}={os.path.expanduser(value)}" if expands else word


def say(line: str) -> None:
    """Print a line to standard error, after the command's name."""
    print(named(line), file=sys.stderr, flush=True)


def summary(doc: str) -> str:
    """Return the first paragraph of a docstring, without its marks of code."""
    return doc.partition("\n\n")[0].replace("``", "")


class DefaultsFormatter(argparse.HelpFormatter):
    """Adds the defaults of options to their help, where it does not name them."""

    def _get_help_string(self, action):
        default = action.default
        if action.required or action.nargs == 0 or "default" in action.help:
            return action.help
        if default in (None, "", [], ()):
            return action.help
        if isinstance(default, (list, tuple)):
            default = " ".join(map(str, default))
        shown = str(default).replace(f"{ROOT}{os.sep}", "").replace("%", "%%")
        if isinstance(default, bool):
            shown = shown.lower()
        return f"{action.help} (default: {shown})"


class Parser(argparse.ArgumentParser):
    """ArgumentParser of the commands of this package.

    Args:
        doc: the command's docstring, whose first sentence the help begins with.
        **options: options of argparse.
    """

    def __init__(self, doc=None, prog=None, **options):
        options.setdefault("formatter_class", DefaultsFormatter)
        options.setdefault("description", doc and summary(doc))
        super().__init__(prog=prog or called_program(), **options)
        self._words = []
        if not any("--version" in a.option_strings for a in self._actions):
            self.add_argument(
                "--version",
                action="version",
                version=f"espnet_adastride {__version__}",
                help="show the version and exit",
            )

    def parse_known_args(self, args=None, namespace=None):
        """Parse as argparse does; keep the arguments for suggestions."""
        self._words = list(sys.argv[1:] if args is None else map(str, args))
        words = map(expand_home, self._words)
        parsed, rest = super().parse_known_args(list(words), namespace)
        for action in self._actions:
            self._reject_empty(action, getattr(parsed, action.dest, None))
        return parsed, rest

    def _reject_empty(self, action, value):
        """Reject an empty name: as a path, it would be the current folder.

        Options that may be empty have the default "". Words of other programs pass.
        """
        if isinstance(action, argparse._AppendAction) or action.default == "":
            return
        if action.nargs == argparse.REMAINDER or isinstance(action.default, list):
            return
        if value == "" or isinstance(value, list) and "" in value:
            name = "/".join(action.option_strings) or action.metavar or action.dest
            raise UserError(no_such("", option=name))

    def _options(self):
        found = set(self._option_string_actions)
        for action in self._actions:
            if isinstance(action, argparse._SubParsersAction):
                for parser in action.choices.values():
                    found |= set(parser._option_string_actions)
        return found

    def _advice_on_dashes(self, options):
        """Return how to give a file whose name was read as an option; or ""."""
        for word in self._words:
            if word == "--":
                break
            begins = word[:1] == "-" and word != "-" and word not in options
            if begins and os.path.lexists(word):
                return f"; for the file {word}, write ./{word}"
        return ""

    def error(self, message):
        """Exit with the usage, the message and a suggestion."""
        options = self._options()
        for word in self._words:
            name = word.partition("=")[0]
            if not name.startswith("--") or any(o.startswith(name) for o in options):
                continue
            near = nearest(name[2:], [o[2:] for o in options if o.startswith("--")])
            if near is not None:
                message += f"; unknown option {name}: did you mean --{near}?"
                break
        message += self._advice_on_dashes(options)
        self.print_usage(sys.stderr)
        self.exit(2, named(f"error: {message}") + "\n")


def command(get_parser: Callable[[], argparse.ArgumentParser]):
    """Decorate the function of a command, which takes the parsed options.

    It becomes the command's ``main(cmd=None)``; bad input ends it in one line.
    """

    def decorate(work):
        @functools.wraps(work)
        def main(cmd=None):
            return work(get_parser().parse_args(cmd))

        return one_line_errors(main)

    return decorate


def add_switch(parser, name: str, help: str) -> None:
    """Add an option that is ``true`` or, by default, ``false``."""
    kind = {"type": str2bool, "default": False, "metavar": "true|false"}
    parser.add_argument(name, help=f"{help} (default: false)", **kind)


def add_configurations(parser: argparse.ArgumentParser) -> None:
    """Add ``--config`` and ``--arguments`` of a training."""
    parser.add_argument(
        "--config",
        nargs="+",
        default=[""],
        help="training configuration; several are merged",
    )
    parser.add_argument(
        "--arguments", default="", help="options that override the configuration"
    )


def add_rerun_option(parser: argparse.ArgumentParser) -> None:
    """Add ``--rerun``, which ``recipe.stamps.Stamp.is_done`` takes."""
    add_switch(parser, "--rerun", "run the stage even if it is done")


def add_set_options(parser: argparse.ArgumentParser, what: str) -> None:
    """Add the options of stages 3 and 4; ``what`` is the help of ``--set``."""
    parser.add_argument(
        "--set",
        nargs=2,
        action="append",
        required=True,
        metavar=("SOURCE", "OUTPUT"),
        help=what,
    )
    parser.add_argument("--fs", default="16k", help="sampling rate")
    add_rerun_option(parser)


def add_record_options(parser: argparse.ArgumentParser) -> None:
    """Add the folders of records and pages."""
    pages = str(ROOT / "results")
    records = os.path.join(pages, "records")
    parser.add_argument("--records", default=records, help="folder of records")
    parser.add_argument("--results", default=pages, help="folder of the pages")


def add_job_options(parser: argparse.ArgumentParser) -> None:
    """Add the options of a command that runs a recipe several times."""
    add = parser.add_argument
    add("--nj", type=whole(1), default=1, help="parallel runs")
    add("--threads", type=whole(1), default=1, help="threads per run")
    python = "python of the recipe; default: this one"
    add("--python", default=sys.executable, help=python)


def from_caller(path: str) -> str:
    """Return a path that is not here, as the caller of a recipe's script sees it."""
    place = os.path.join(os.environ.get("ADASTRIDE_CALLER_DIR", ""), path)
    return path if os.path.exists(path) or not os.path.exists(place) else place


def add_run_options(
    parser: argparse.ArgumentParser, corpus: str, config: str, methods: str, seeds: str
) -> None:
    """Add the options of a command that trains methods x seeds.

    Args:
        corpus, config: help of the options.
        methods, seeds: defaults, split at white space.
    """
    add = parser.add_argument
    add("--corpus", type=from_caller, help=corpus)
    add("--config", type=from_caller, help=config)
    add("--exp", required=True, help="folder of the experiment")
    words = (
        "methods to train: METHOD[:WORD=VALUE,...]; or one for each stage, joined by +"
    )
    words += "; or all" if methods == "all" else ""
    add("--methods", nargs="+", default=methods.split(), help=words)
    add("--seeds", nargs="+", default=seeds.split(), help="random seeds")
    add("--nj", type=whole(1), default=1, help="parallel runs, one core each")
    tested = "method that others are tested against"
    add("--reference", default="strided_conv", help=tested)
    only = "false: only the table of finished runs"
    add("--train", type=str2bool, default=True, help=only)


def read_methods(
    args,
    every: Sequence[str] = (),
    needed: Sequence[str] = (),
    hint: str = "",
    others: Sequence[str] = (),
) -> Tuple[list, List[int]]:
    """Return methods and seeds; a list may be one word with spaces.

    Args:
        every: the methods that ``all`` means.
        needed: options without which nothing can be trained, beside corpus and config.
        hint: how else the corpus can be given.
        others: methods that are no downsamplers.

    Raises:
        UserError: one of those, a seed that is no integer, no method, or an unknown
            one, also as the reference or the method whose confusions are drawn.
    """
    # not for --help
    from espnet_adastride.downsampling.registry import downsampler_class
    from espnet_adastride.networks.methods import parse_method

    for name in ("corpus", "config", *needed) if args.train else ():
        if not getattr(args, name):
            other = hint if name == "corpus" else ""
            raise UserError(f"give --{name}{other} (or --train false)")
    words, seeds = split_list(args.methods), read_seeds(args.seeds)
    if not words:
        raise UserError("--methods: give at least one")
    words = list(every) if every and words == ["all"] else words

    def read(option, given):
        with located(option, (ValueError, UserError), UserError):
            methods = [parse_method(word) for word in given]
            for name in (name for method in methods for name in method.names):
                if name not in others:
                    downsampler_class(name)
        return methods

    for option in ("reference", "confusion"):  # used after hours of training
        word = getattr(args, option, None)
        read(f"--{option}", [word] if word else [])
    return read("--methods", words), seeds
