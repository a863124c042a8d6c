"""The options of what ESPnet does with the text of a training."""

import argparse
from typing import Callable


def add_text_options(parser: argparse.ArgumentParser) -> None:
    """Add what ESPnet does with the text of a training."""
    parser.add_argument("--cleaner", default="none", help="ESPnet's text cleaner")
    symbols = "file of non-linguistic symbols, one a line"
    parser.add_argument("--nlsyms_txt", default="none", help=symbols)


def load_cleaner(name: str) -> Callable[[str], str]:
    """Return the function of ``--cleaner``; ``none`` changes nothing, without ESPnet.

    Raises:
        UserError: what the cleaner needs is not installed.
    """
    if name == "none":
        return str
    from espnet_adastride.plugin.text_cleaner import text_cleaner

    return text_cleaner(name)
