"""Markdown tables, and how their cells write numbers."""

import math
from statistics import mean, stdev
from typing import Sequence


def markdown_table(names: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Return a Markdown table; its last line ends in a line feed."""
    # an empty first name, over the names of the rows, takes no place
    lines = ["| " + " | ".join(names).lstrip() + " |", "|" + "---|" * len(names)]
    lines += ["| " + " | ".join(row) + " |" for row in rows]
    return "\n".join(lines) + "\n"


def spread(values: Sequence[float], digits: int = 2) -> str:
    """Return e.g. ``4.20 ± 0.31``: mean and, of several, standard deviation."""
    text = f"{mean(values):.{digits}f}"
    return text + (f" ± {stdev(values):.{digits}f}" if len(values) > 1 else "")


def format_interval(
    low: float, high: float, form: str = "+.2f", unknown: str = "none"
) -> str:
    """Return e.g. ``[-1.25, +0.50]``; ``unknown`` for not-a-number."""
    if math.isnan(low) or math.isnan(high):
        return unknown
    return f"[{low:{form}}, {high:{form}}]"


def format_known(value: float, digits: int = 2) -> str:
    """Return a number; "" for not-a-number."""
    return "" if math.isnan(value) else f"{value:.{digits}f}"


def format_p(value: float) -> str:
    """Return three decimals, or that it is smaller."""
    return f"{value:.3f}" if value >= 0.001 else "< 0.001"


def short_count(number: float) -> str:
    """Return e.g. ``38.5 M``."""
    for size, unit in ((1e12, " T"), (1e9, " G"), (1e6, " M"), (1e3, " k")):
        if number >= size:
            return f"{number / size:.3g}{unit}"
    return f"{number:.3g}"
