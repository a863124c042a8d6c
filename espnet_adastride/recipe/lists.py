"""Lists on a command line (methods, rates, seeds), and how many runs at a time."""

import re
from typing import List, Sequence

from espnet_adastride.recipe.errors import RecipeError


def split_list(words: Sequence[str]) -> List[str]:
    """Return ``["4", "8 12", "4"]`` as ``["4", "8", "12"]``: each once, in order."""
    return list(dict.fromkeys(word for part in words for word in part.split()))


def name_seeds(seeds: Sequence[int]) -> str:
    """Return ``0, 1, 2``, or ``0 to 5`` of more than three that follow each other."""
    seeds = list(seeds)
    if len(seeds) > 3 and seeds == list(range(seeds[0], seeds[-1] + 1)):
        return f"{seeds[0]} to {seeds[-1]}"
    return ", ".join(map(str, seeds))


def check_jobs(number: int) -> None:
    """Refuse a ``--nj`` below 1.

    Raises:
        RecipeError: naming it.
    """
    if number < 1:
        raise RecipeError(f"--nj {number}: give at least 1")


def read_seeds(words: Sequence[str]) -> List[int]:
    """Return the seeds of ``--seeds``.

    Raises:
        RecipeError: one is no whole number, or there is none.
    """
    seeds = split_list(words)
    for word in seeds or ["''"]:  # none at all is refused, too
        if not re.fullmatch(r"\d{1,6}", word):
            raise RecipeError(f"--seeds {word}: give whole numbers, e.g. 0 1 2")
    return [int(word) for word in seeds]
