"""One word says what makes the strides of a run: methods, and options of their own.

avg_pool    adastride:sigma_square=0.5,score_bound=null    strided_conv+adastride
"""

from typing import Any, Dict, NamedTuple, Tuple

import yaml

from espnet_adastride.errors import RecipeError


class Method(NamedTuple):
    """What makes the strides of a run, read from one word by :func:`parse_method`.

    Attributes:
        word: as written; names the run.
        names: one method, or one for every stride.
        options: the methods' own words.
    """

    word: str
    names: Tuple[str, ...]
    options: Dict[str, Any]


def parse_method(word: str) -> Method:
    """Read ``avg_pool``, ``adastride:sigma_square=0.5,score_bound=null``, ``a+b+c``.

    Behind the colon stand the method's own words, their values as in YAML; ``+`` gives
    every stride a method of its own.

    Raises:
        RecipeError: an option without a value. Names are checked by the network.
    """
    names, _, rest = word.partition(":")
    options = {}
    for pair in filter(None, rest.split(",")):
        key, equals, value = pair.partition("=")
        if not equals:
            raise RecipeError(f"method {word!r}: write METHOD:WORD=VALUE,WORD=VALUE")
        options[key] = yaml.safe_load(value)
    return Method(word, tuple(names.split("+")), options)
