"""AdaStride: downsampling with adaptive strides, as a layer and as an ESPnet plugin.

The names below need torch alone. The ESPnet side is ``espnet_adastride.plugin``:
importing that teaches ESPnet's encoders the new ``input_layer`` words. Importing this
package does not import ESPnet, and imports torch only when one of the names is used:
the recipe's small commands start in a tenth of a second.
"""

import importlib

from espnet_adastride.version import __version__

_LIBRARY = (
    "AdaStride",
    "AdaStrideF",
    "DownsamplingOutput",
    "alignment_matrix",
    "available_downsamplers",
    "build_downsampler",
    "downsampled_lengths",
    "position_steps",
    "positioning_loss",
)

__all__ = [*_LIBRARY, "__version__"]


def __getattr__(name):
    """Import the library at the first use of one of its names (PEP 562)."""
    if name in _LIBRARY:
        return getattr(importlib.import_module("espnet_adastride.downsampling"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__():
    return sorted([*globals(), *_LIBRARY])
