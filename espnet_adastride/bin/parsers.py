"""The parser of all commands: argparse with better advice.

It adds ``--version``, shows the name of the program as it was called, suggests the
option closest to an unknown one, and shows defaults only where they carry information.
"""

import argparse
import sys
from pathlib import Path
from typing import List, Sequence, Tuple

from espnet_adastride.errors import RecipeError, nearest
from espnet_adastride.options import check_jobs, read_seeds, split_list, str2bool
from espnet_adastride.version import __version__


def called_program(name: str) -> str:
    """Return the command line name of this process; ``name`` if unknown."""
    path, called = Path(sys.argv[0]), name
    if path.suffix == ".py" and path.parts[-3:-1] == ("espnet_adastride", "bin"):
        called = f"python -m espnet_adastride.bin.{path.stem}"
    elif path.name.startswith(("adastride-", "adastride ")):
        called = path.name
    return name if name.startswith(called) else called  # for a mode, include the mode


class DefaultsFormatter(argparse.ArgumentDefaultsHelpFormatter):
    """Adds defaults to the help, except empty ones and those of required options."""

    def _get_help_string(self, action):
        if action.required or action.default in (None, "", [], ()):
            return action.help
        return super()._get_help_string(action)


class Parser(argparse.ArgumentParser):
    """ArgumentParser of the commands of this package.

    Args:
        prog: the command's name if it is not started as a program.
        **options: options of argparse.
    """

    def __init__(self, *args, prog=None, **options):
        name = prog or options.get("usage") or Path(sys.argv[0]).name
        super().__init__(*args, prog=called_program(name), **options)
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
        return super().parse_known_args(args, namespace)

    def _options(self):
        found = set(self._option_string_actions)
        for action in self._actions:
            if isinstance(action, argparse._SubParsersAction):
                for parser in action.choices.values():
                    found |= set(parser._option_string_actions)
        return found

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
        super().error(message)


def add_run_options(
    parser: argparse.ArgumentParser, corpus: str, config: str, methods: str, seeds: str
) -> None:
    """Add the options of a command that trains methods x seeds.

    Args:
        corpus, config: help of the options.
        methods, seeds: defaults, split at white space.
    """
    add = parser.add_argument
    add("--corpus", help=corpus)
    add("--config", help=config)
    add("--exp", required=True, help="Folder of the experiment")
    words = "METHOD[:WORD=VALUE,...]; or one for each stage, joined by +"
    words += "; or all" if methods == "all" else ""
    add("--methods", nargs="+", default=methods.split(), help=words)
    add("--seeds", nargs="+", default=seeds.split(), help="Numbers")
    add("--nj", type=int, default=1, help="Parallel runs, one core each")
    tested = "Method that others are tested against"
    add("--reference", default="strided_conv", help=tested)
    only = "false: only the table of finished runs"
    add("--train", type=str2bool, default=True, help=only)


def read_methods(args, every: Sequence[str] = ()) -> Tuple[list, List[int]]:
    """Return methods and seeds; a list may be one word with spaces.

    Args:
        every: the methods that ``all`` means.

    Raises:
        RecipeError: a seed is not an integer, no method, or --nj is below 1.
    """
    from espnet_adastride.networks.methods import parse_method  # not for --help

    words, seeds = split_list(args.methods), read_seeds(args.seeds)
    check_jobs(args.nj)
    if not words:
        raise RecipeError("--methods: give at least one")
    words = list(every) if every and words == ["all"] else words
    return [parse_method(word) for word in words], seeds
