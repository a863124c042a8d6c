"""Values of options: truth values, numbers in a range, lists, seeds, a beam.

``float`` reads ``inf`` and ``nan``, which no option means, and neither ``float`` nor
``int`` knows a range::

    parser.add_argument("--nj", type=whole(1))
    parser.add_argument("--max_segment", type=real(1))
"""

import argparse
import math
import re
from fractions import Fraction
from typing import Any, Callable, Dict, List, Mapping, Optional, Sequence

from espnet_adastride.errors import ConfigurationError, UserError

#: Hz; no speech is sampled more slowly or faster: an option or a file's header is wrong
LOWEST_RATE, HIGHEST_RATE = 100, 1_000_000

#: a million log-mels are 2.8 hours; a longer window than any utterance would make one
#: frame of each, and windows and prime factors would take all memory and time
MAX_STRIDE = 10**6


def str2bool(word: str) -> bool:
    """Read ``true``/``false`` as ESPnet's options write them."""
    if word.lower() in ("true", "yes", "1"):
        return True
    if word.lower() in ("false", "no", "0"):
        return False
    raise argparse.ArgumentTypeError(f"{word!r}: give true or false")


# ----------------------------------------------------------------------------- numbers
def _range(low: Optional[float], high: Optional[float], above: bool) -> str:
    if low is None:
        return ""
    if high is not None and above:
        return f" above {low:g}, {high:.10g} at most"
    if high is not None:
        return f" from {low:g} to {high:.10g}"
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


#: an overall downsampling rate
stride_number = real(1, MAX_STRIDE)


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


def parse_rate(word: str) -> int:
    """Read a sampling rate in Hz: ``16000``, ``16k`` or ``22.05k``.

    Raises:
        UserError: no such number, or out of range.
    """
    number, factor = word.strip().lower(), 1
    if number.endswith("k"):
        number, factor = number[:-1], 1000
    found = re.fullmatch(r"\d{1,7}(\.\d{0,6})?", number)
    rate = Fraction(number) * factor if found else Fraction(0)
    if rate.denominator != 1 or not LOWEST_RATE <= rate <= HIGHEST_RATE:
        raise UserError(
            f"--fs {word}: give a sampling rate from {LOWEST_RATE} to {HIGHEST_RATE}, "
            "such as 16k or 16000"
        )
    return int(rate)


# ------------------------------------------------------------------------------- lists
def split_list(words: Sequence[str]) -> List[str]:
    """Return ``["4", "8 12", "4"]`` as ``["4", "8", "12"]``: each once, in order."""
    return list(dict.fromkeys(word for part in words for word in part.split()))


def name_seeds(seeds: Sequence[int]) -> str:
    """Return ``0, 1, 2``, or ``0 to 5`` of more than three that follow each other."""
    seeds = list(seeds)
    if len(seeds) > 3 and seeds == list(range(seeds[0], seeds[-1] + 1)):
        return f"{seeds[0]} to {seeds[-1]}"
    return ", ".join(map(str, seeds))


def read_seeds(words: Sequence[str]) -> List[int]:
    """Return the seeds of ``--seeds``.

    Raises:
        UserError: one is no whole number, or there is none.
    """
    seeds = split_list(words)
    for word in seeds or ["''"]:  # none at all is refused, too
        if not re.fullmatch(r"\d{1,6}", word):
            raise UserError(f"--seeds {word}: give whole numbers, e.g. 0 1 2")
    return [int(word) for word in seeds]


#: options of ESPnet's beam search: what is not in the range gives empty or strange text
SEARCH_NUMBERS = {
    "beam_size": whole(1),
    "ctc_weight": real(0, 1),
    "lm_weight": real(),
    "ngram_weight": real(),
    "penalty": real(),
    "maxlenratio": real(),
    "minlenratio": real(),
}


def search_numbers(
    options: Mapping[str, Any], where: Callable[[str], object]
) -> Dict[str, float]:
    """Return the numbers among options of ESPnet's beam search.

    Args:
        options: ``beam_size``, ``ctc_weight`` ...; others are ignored.
        where: returns the file or the option that has a word, for the message.

    Raises:
        ConfigurationError: one line on a value out of range.
    """
    numbers = {}
    for word, parse in SEARCH_NUMBERS.items():
        if word in options:
            try:
                numbers[word] = parse(str(options[word]))
            except argparse.ArgumentTypeError as error:
                raise ConfigurationError(f"{where(word)}: {word}: {error}") from None
    return numbers


def refuse_wide_beam(beam: int, tokens: int, where: object) -> None:
    """Reject a beam that is wider than the vocabulary.

    ESPnet's search then fails at its first step, which has one score for each token.

    Args:
        beam: ``beam_size``.
        tokens: the size of the vocabulary.
        where: file or option, for the message.

    Raises:
        ConfigurationError: one line with the widest beam.
    """
    if beam > tokens:
        raise ConfigurationError(
            f"{where}: beam_size is {beam} (ESPnet's default is 20), and the model "
            f"has {tokens} tokens; give beam_size: {tokens} or less"
        )
