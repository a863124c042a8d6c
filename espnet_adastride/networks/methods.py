"""Parse the methods of a run and their options from one word::

avg_pool    adastride:sigma_square=0.5,score_bound=null    strided_conv+adastride

and split a stride into those of the stages, without torch: recipes check with it.
"""

import math
from typing import Any, Dict, List, NamedTuple, Optional, Sequence, Tuple, Union

from espnet_adastride.config import parse_yaml
from espnet_adastride.errors import UserError


def split_stride(
    stride: Union[float, Sequence[float]], stages: Optional[int] = None
) -> List[float]:
    """Return the stride of each stage: 8 -> [2, 2, 2], 6 -> [2, 3], 7.5 -> [7.5].

    Args:
        stride: overall, or of each stage; 1 or more.
        stages: the most stages of a whole number; the last takes the product of the
            rest: 8 -> [2, 4] for two.
    """
    if isinstance(stride, (list, tuple)):
        return list(stride)
    if stride != int(stride):
        return [stride]
    factors, rest, factor = [], int(stride), 2
    while factor * factor <= rest:
        while rest % factor == 0:
            factors.append(factor)
            rest //= factor
        factor += 1
    factors += [rest] if rest > 1 or not factors else []
    if stages and len(factors) > stages:
        factors[stages - 1 :] = [math.prod(factors[stages - 1 :])]
    return factors


class Method(NamedTuple):
    """The methods and options of a run, from :func:`parse_method`.

    Attributes:
        word: as written; names the run.
        names: one method, or one for every stride.
        options: options of the methods.
    """

    word: str
    names: Tuple[str, ...]
    options: Dict[str, Any]


def parse_method(word: str) -> Method:
    """Read ``avg_pool``, ``adastride:sigma_square=0.5,score_bound=null``, ``a+b+c``.

    After the colon come the options of the method, with YAML values; ``+`` gives every
    stride its own method.

    Raises:
        UserError: an option without a value, given twice, or whose value is no YAML.
            Names are checked by the network.
    """
    names, _, rest = word.partition(":")
    options = {}
    for pair in filter(None, rest.split(",")):
        key, equals, value = pair.partition("=")
        if not equals:
            raise UserError(f"method {word!r}: write METHOD:WORD=VALUE,WORD=VALUE")
        if key in options:
            raise UserError(f"method {word!r}: {key} is given twice")
        options[key] = parse_yaml(value, f"method {word!r}")
    return Method(word, tuple(names.split("+")), options)
