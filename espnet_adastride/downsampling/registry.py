"""The names of the downsampling methods, as used in YAML files.

A new method is one new file and one ``_register`` line here (with its import): contract
tests, benchmarks and the ESPnet input layer find it through this registry. A worked
example: docs/adding_a_downsampler.md.
"""

import inspect
from typing import Any, Dict, List, Mapping, Sequence, Tuple, Type

from espnet_adastride.downsampling.adastride import AdaStride, AdaStrideF
from espnet_adastride.downsampling.blur import BlurPool, MaxBlurPool
from espnet_adastride.downsampling.cif import Cif
from espnet_adastride.downsampling.convolution import StridedConv
from espnet_adastride.downsampling.hnet import HNet
from espnet_adastride.downsampling.learned import SoftmaxPool, Stack
from espnet_adastride.downsampling.lifting import LiftPool
from espnet_adastride.downsampling.merge import Merge
from espnet_adastride.downsampling.output import Downsampler
from espnet_adastride.downsampling.pooling import AvgPool, MaxPool
from espnet_adastride.downsampling.random_strides import RandomStrides
from espnet_adastride.downsampling.soft import AdaPool, SoftPool
from espnet_adastride.downsampling.spectral import DiffStride, SpectralPool
from espnet_adastride.errors import unknown_word

DOWNSAMPLERS: Dict[str, Type[Downsampler]] = {}

#: networks use this method's stride in an existing convolution (that of the trunk, as
#: in ESPnet's conv2d; that of the residual block): the fair baseline, without an extra
#: convolution
STRIDED_CONV = "strided_conv"


def _register(name: str, method: Type[Downsampler]) -> None:
    if name in DOWNSAMPLERS:
        raise ValueError(f"downsampler {name!r} is registered already")
    DOWNSAMPLERS[name] = method


_register("adastride", AdaStride)
_register("adastride_f", AdaStrideF)
_register("strided_conv", StridedConv)
_register("avg_pool", AvgPool)
_register("max_pool", MaxPool)
_register("blur_pool", BlurPool)
_register("max_blur_pool", MaxBlurPool)
_register("spectral_pool", SpectralPool)
_register("diff_stride", DiffStride)
_register("lift_pool", LiftPool)
_register("soft_pool", SoftPool)
_register("ada_pool", AdaPool)
_register("softmax_pool", SoftmaxPool)
_register("stack", Stack)
_register("cif", Cif)
_register("merge", Merge)
_register("hnet", HNet)
_register("random_strides", RandomStrides)

Downsampler.any_stride = tuple(
    name
    for name, method in DOWNSAMPLERS.items()
    if not (method.integer_stride or method.learns_stride)
)


def available_downsamplers() -> Tuple[str, ...]:
    """Return the names for :func:`build_downsampler`."""
    return tuple(DOWNSAMPLERS)


def downsampler_class(name: str) -> Type[Downsampler]:
    """Return the class of a name.

    Raises:
        ValueError: naming the choices, if the name is unknown.
    """
    if name not in DOWNSAMPLERS:
        raise ValueError(unknown_word("downsampling method", name, DOWNSAMPLERS))
    return DOWNSAMPLERS[name]


def downsampler_options(name: str) -> Tuple[str, ...]:
    """Return the method's options: its constructor's arguments but size and stride."""
    words = list(inspect.signature(downsampler_class(name)).parameters)
    return tuple(word for word in words if word not in ("size", "stride"))


def stage_options(name: str, options: Mapping[str, Any]) -> Dict[str, Any]:
    """Return the options of a method as one stage of a network.

    Args:
        name: the method.
        options: the user's options for all stages; each method takes those that it
            knows, and its ``training_defaults`` for the others.
    """
    conf = dict(downsampler_class(name).training_defaults)
    conf.update({w: options[w] for w in downsampler_options(name) if w in options})
    return conf


def method_defaults(names: Sequence[str]) -> Dict[str, Any]:
    """Return the options that methods get as stages of a network if nothing is given.

    Args:
        names: of the methods, one or more.

    Returns:
        ``{word: value}``, without words whose values differ between the methods.
    """
    found: Dict[str, List[Any]] = {}
    for name in names:
        parameters = inspect.signature(downsampler_class(name)).parameters
        own = {word: parameters[word].default for word in downsampler_options(name)}
        for word, value in {**own, **stage_options(name, {})}.items():
            found.setdefault(word, []).append(value)
    return {
        word: values[0]
        for word, values in found.items()
        if all(value == values[0] for value in values)
    }


def build_downsampler(name: str, size: int, stride: float, **conf) -> Downsampler:
    """Build a downsampling layer by name.

    Args:
        name: one of :func:`available_downsamplers`.
        size: D, the number of features.
        stride: overall rate, a real number >= 1 (whole for some methods).
        **conf: options of the method.

    Raises:
        ValueError: for an unknown name or option, or a value out of range.
    """
    method = downsampler_class(name)
    options = downsampler_options(name)
    for word in conf:
        if word not in options:
            if not options:
                raise ValueError(f"{name} takes no option {word!r}: it has none")
            raise ValueError(unknown_word(f"option of {name}", word, options))
    return method(size, stride, **conf)
