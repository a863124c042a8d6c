"""ESPnet's encoders, taught the words of the downsampling registry.

Each class is ESPnet's own encoder; only ``input_layer`` knows more words, with their
options in ``input_layer_conf``. ESPnet's own words build what they
always built.
"""

import inspect
from typing import Any, Dict, Optional

from espnet_adastride.downsampling import available_downsamplers
from espnet_adastride.downsampling.registry import unknown_word
from espnet_adastride.plugin import espnet
from espnet_adastride.plugin.errors import ConfigurationError
from espnet_adastride.plugin.subsampling import AdaptiveSubsampling
from espnet_adastride.plugin.timing import TrueTimeAttention

#: what ESPnet's encoders call their own input layers, for the message on a wrong one
ESPNET_WORDS = ("conv2d", "conv2d1", "conv2d2", "conv2d6", "conv2d8", "linear", "embed")


class DownsamplingEncoder:
    """Mixin before an ESPnet encoder: ``input_layer`` may name a downsampling method.

    Args:
        input_size: mel bins.
        input_layer: ESPnet's words, or one of ``available_downsamplers()``.
        input_layer_conf: options of
            :class:`~espnet_adastride.plugin.subsampling.AdaptiveSubsampling`.
        **kwargs: the ESPnet encoder's own.

    Raises:
        ConfigurationError: for an unknown word or key, naming the choices.
    """

    def __init_subclass__(cls, **kwargs):
        super().__init_subclass__(**kwargs)
        # ESPnet writes an encoder's defaults into config.yaml by reading its signature
        parent = inspect.signature(cls.__mro__[2])
        extra = inspect.Parameter(
            "input_layer_conf", inspect.Parameter.KEYWORD_ONLY, default={}
        )
        cls.__signature__ = parent.replace(
            parameters=[*parent.parameters.values(), extra]
        )

    def __init__(
        self,
        input_size: int,
        output_size: int = 256,
        input_layer: Optional[str] = "conv2d",
        input_layer_conf: Optional[Dict[str, Any]] = None,
        **kwargs: Any,
    ):
        conf = dict(input_layer_conf or {})
        if input_layer not in available_downsamplers():
            if conf:
                raise ConfigurationError(
                    f"encoder_conf: input_layer_conf {conf} is for the words "
                    f"{', '.join(available_downsamplers())}; input_layer is "
                    f"{input_layer!r}, which takes none"
                )
            try:
                super().__init__(
                    input_size, output_size, input_layer=input_layer, **kwargs
                )
            except ValueError as error:
                if "unknown input_layer" not in str(error):
                    raise
                words = [*available_downsamplers(), *ESPNET_WORDS]
                raise ConfigurationError(
                    f"encoder_conf: {unknown_word('input_layer', input_layer, words)}"
                ) from None
            return
        # of all ESPnet's input layers "linear" is the one that every encoder builds
        # with the positional encoding that its options ask for
        super().__init__(input_size, output_size, input_layer="linear", **kwargs)
        conf.setdefault("method", input_layer)
        self.embed = AdaptiveSubsampling(
            input_size,
            output_size,
            kwargs.get("dropout_rate", 0.1),
            self.embed[-1],
            **conf,
        )
        if self.embed.true_times:
            self._use_true_times()
        if self.embed.later:
            if kwargs.get("layer_drop_rate"):
                raise ConfigurationError(
                    "encoder_conf: layer_drop_rate would drop a stage of "
                    "input_layer_conf: after_blocks with its block; set it to 0"
                )
            self.embed.connect(self.encoders)

    def _use_true_times(self):
        blocks = [
            module
            for module in self.modules()
            if type(module) is espnet.RelPositionMultiHeadedAttention
        ]
        for attention in blocks:
            if attention.zero_triu:
                raise ConfigurationError(
                    "encoder_conf: zero_triu has no meaning with input_layer_conf: "
                    "true_times; leave it out"
                )
            # the same parameters, read in another way
            attention.__class__ = TrueTimeAttention


class ConformerEncoder(DownsamplingEncoder, espnet.ConformerEncoder):
    """ESPnet's ``conformer``."""


class EBranchformerEncoder(DownsamplingEncoder, espnet.EBranchformerEncoder):
    """ESPnet's ``e_branchformer``."""


class BranchformerEncoder(DownsamplingEncoder, espnet.BranchformerEncoder):
    """ESPnet's ``branchformer``."""


class TransformerEncoder(DownsamplingEncoder, espnet.TransformerEncoder):
    """ESPnet's ``transformer``."""
