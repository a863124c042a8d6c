"""Numbers on the command line: what argparse's ``float`` lets through is refused.

``float`` reads ``inf`` and ``nan``, which no option means, and neither ``float`` nor
``int`` knows a range::

    parser.add_argument("--nj", type=whole(1))
    parser.add_argument("--max_segment", type=real(1))
"""

import argparse
import math
from typing import Callable, Optional


def _range(low: Optional[float], high: Optional[float], above: bool) -> str:
    if low is None:
        return ""
    if high is not None:
        return f" from {low:g} to {high:g}"
    return f" above {low:g}" if above else f", {low:g} or more"


def real(
    low: Optional[float] = None,
    high: Optional[float] = None,
    above: bool = False,
    infinite: bool = False,
) -> Callable[[str], float]:
    """Return an option's type: a finite number.

    Args:
        low: the least that is allowed; None: any.
        high: the most; None: any.
        above: ``low`` itself is refused.
        infinite: inf is allowed, for a limit that is none.
    """

    def parse(word: str) -> float:
        try:
            value = float(word)
        except ValueError:
            value = math.nan
        fits = not math.isnan(value) and (infinite or math.isfinite(value))
        if fits and low is not None:
            fits = value > low if above else value >= low
        if not fits or (high is not None and value > high):
            raise argparse.ArgumentTypeError(
                f"{word!r}: give a number{_range(low, high, above)}"
            )
        return value

    return parse


def whole(low: Optional[int] = None) -> Callable[[str], int]:
    """Return an option's type: a whole number, not below ``low``."""

    def parse(word: str) -> int:
        try:
            value = int(word)
        except ValueError:
            value = None
        if value is None or (low is not None and value < low):
            raise argparse.ArgumentTypeError(
                f"{word!r}: give a whole number{_range(low, None, False)}"
            )
        return value

    return parse
