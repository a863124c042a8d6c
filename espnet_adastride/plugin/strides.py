"""The strides of the stages: split, spread at another rate, drawn in training."""

import math
from typing import List, Optional, Sequence, Tuple, Union

import torch

from espnet_adastride.downsampling.output import Downsampler, check_stride
from espnet_adastride.errors import ConfigurationError, located
from espnet_adastride.networks.methods import split_stride

#: the place in a training's configuration that messages name
WHERE = "encoder_conf: input_layer_conf"


def stage_strides(
    stride: Union[float, Sequence[float]], stages: Optional[int] = None
) -> List[float]:
    """Return the stride of each stage: 4 -> [2, 2], 6 -> [2, 3], 8 -> [2, 2, 2].

    A whole number is split into its prime factors, a list is taken as given, a
    non-integer number is one stage.

    Args:
        stride: overall, or of each stage.
        stages: the number of stages. If a whole number has more factors, the last stage
            takes the product of the rest: 8 -> [2, 4] for two.

    Raises:
        ValueError: for a stride below 1 or an empty list.
    """
    if isinstance(stride, (list, tuple)):
        if not stride:
            raise ValueError("stride: the list of stages is empty")
        return [check_stride(one) for one in stride]
    return split_stride(check_stride(stride), stages)


def drawn(low: float, high: float) -> float:
    """Return a random number from low to high, drawn log-uniformly."""
    low, high = math.log(low), math.log(high)
    share = torch.rand(()).item()  # on the CPU: a GPU would be waited for
    return math.exp(low + share * (high - low))


def spread_stride(
    stride: float,
    stages: Sequence[torch.nn.Module],
    built: Sequence[float],
    methods: Sequence[str],
    first: int = 0,
) -> float:
    """Set the stages' strides to give an overall one, and return it.

    Args:
        stride: overall, a real number >= 1.
        stages: the downsamplers.
        built: the strides that they were built with.
        methods: their words.
        first: the stages from this one on may change.

    Raises:
        ConfigurationError: if no stage takes it, or the fixed stages alone exceed it.
    """
    with located("", ValueError, ConfigurationError):
        wanted = check_stride(stride)
    names = ", ".join(methods[first:])
    current = [stage.current_stride() for stage in stages]
    free = [i for i in range(first, len(stages)) if stages[i].takes_any_stride()]
    if not free:
        # a method of this model may be among them: hnet with exact: false
        others = [
            name for name in Downsampler.any_stride if name not in methods[first:]
        ]
        raise ConfigurationError(
            f"stride {wanted:g}: the stages of this model ({names}) have fixed "
            f"strides ({math.prod(current):g} overall); "
            f"{', '.join(others)} take any"
        )
    tied = math.prod(s for i, s in enumerate(current) if i not in free)
    if wanted < tied:
        kept = ", ".join(name for i, name in enumerate(methods) if i not in free)
        raise ConfigurationError(
            f"stride {wanted:g}: the stages of this model that keep their strides "
            f"({kept}) make {tied:g} alone; ask for {tied:g} or more"
        )
    moving = list(free)
    while True:
        whole = math.prod(built[i] for i in moving)
        factor = (wanted / tied / whole) ** (1 / len(moving))
        # as in water filling: stages held at 1 are left out, the rest computed again
        held = [i for i in moving if built[i] * factor < 1]
        if not held or len(held) == len(moving):
            break
        moving = [i for i in moving if i not in held]
    for i in free:
        new = max(built[i] * factor, 1.0) if i in moving else 1.0
        # a factor of 1 gives exactly the strides as built
        new = built[i] if math.isclose(new, built[i]) else new
        stages[i].set_stride(new)
    return wanted


def checked_range(train_strides, spread, built) -> Optional[Tuple[float, float]]:
    """Return (lowest, highest); reject strides that the stages cannot have.

    Args:
        train_strides: of ``input_layer_conf``.
        spread: sets an overall stride.
        built: the strides that the stages were built with, and are set to again.
    """
    if train_strides is None:
        return None
    where = f"{WHERE}: train_strides"
    try:
        low, high = (check_stride(one) for one in train_strides)
    except (TypeError, ValueError):
        low, high = 1.0, 0.0
    if low > high:
        raise ConfigurationError(
            f"{where} must be the lowest and the highest stride, such as [4, 12], "
            f"got {train_strides!r}"
        )
    with located(where, ConfigurationError):
        for stride in (low, high, math.prod(built)):
            spread(stride)
    return low, high
