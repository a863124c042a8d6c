"""ESPnet's encoders, taught the words of the downsampling registry.

Each class is ESPnet's own encoder; only ``input_layer`` knows more words, with their
options in ``input_layer_conf``. ESPnet's own words build the same as before.
"""

import inspect
from typing import Any, Dict, Optional

import torch

from espnet_adastride.downsampling import available_downsamplers
from espnet_adastride.errors import ConfigurationError, located, unknown_word
from espnet_adastride.plugin import espnet
from espnet_adastride.plugin.contextual import StreamingEncoder
from espnet_adastride.plugin.layer_conf import given_options
from espnet_adastride.plugin.strides import WHERE
from espnet_adastride.plugin.subsampling import AdaptiveSubsampling, fit_names
from espnet_adastride.plugin.true_times import TrueTimeAttention

#: ESPnet's own words, for the message on a wrong one
ESPNET_WORDS = ("conv2d", "conv2d1", "conv2d2", "conv2d6", "conv2d8", "linear", "embed")


class DownsamplingEncoder:
    """Mixin before an ESPnet encoder: ``input_layer`` may name a downsampling method.

    Args:
        input_size: mel bins.
        input_layer: ESPnet's words, or one of ``available_downsamplers()``; the default
            is that of the ESPnet encoder.
        input_layer_conf: options of
            :class:`~espnet_adastride.plugin.subsampling.AdaptiveSubsampling`.
        **kwargs: the ESPnet encoder's own. ``use_sdpa``, which ESPnet 202511 does not
            know, changes no result and is ignored there.

    Raises:
        ConfigurationError: for an unknown word or key, naming the choices.
    """

    #: ESPnet's own words, for the message on a wrong one
    espnet_words = ESPNET_WORDS
    #: whether tokens precede the frames, as OWSM-CTC's language and task
    takes_prefix = False
    #: the input layer
    layer_class = AdaptiveSubsampling
    #: whether positions are encoded after the input layer, not in it
    adds_positions = False

    def __init_subclass__(cls, **kwargs):
        super().__init_subclass__(**kwargs)
        # ESPnet writes an encoder's defaults into config.yaml by reading its signature
        ancestors = cls.__mro__
        cls.espnet_class = ancestors[ancestors.index(DownsamplingEncoder) + 1]
        parent = inspect.signature(cls.espnet_class)
        cls._espnet_parameters = parent.parameters
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
        input_layer_conf: Optional[Dict[str, Any]] = None,
        **kwargs: Any,
    ):
        with located(WHERE, ValueError, ConfigurationError):
            conf = given_options(input_layer_conf)
        known = self._espnet_parameters
        input_layer = kwargs.pop("input_layer", known["input_layer"].default)
        if "use_sdpa" not in known:  # a model trained under ESPnet 202611
            kwargs.pop("use_sdpa", None)
        for word in kwargs:
            if word not in known:
                words = ["input_layer_conf", *known]
                words.remove("input_size")  # which ESPnet gives
                raise ConfigurationError(
                    f"encoder_conf: {unknown_word('key', word, words)}"
                )
        if input_layer not in available_downsamplers():
            words = [*available_downsamplers(), *self.espnet_words]
            unknown = ConfigurationError(
                f"encoder_conf: {unknown_word('input_layer', input_layer, words)}"
            )
            if not isinstance(input_layer, (str, type(None))):
                raise unknown
            try:
                super().__init__(
                    input_size, output_size, input_layer=input_layer, **kwargs
                )
            except ValueError as error:
                if "unknown input_layer" not in str(error):
                    raise
                raise unknown from None
            if conf:
                raise ConfigurationError(
                    f"encoder_conf: input_layer_conf {conf} is for the words "
                    f"{', '.join(available_downsamplers())}; input_layer is "
                    f"{input_layer!r}, which has no input_layer_conf: leave it out"
                )
            return
        # of all ESPnet's input layers "linear" is the one that every encoder builds
        # with the positional encoding that its options ask for
        super().__init__(input_size, output_size, input_layer="linear", **kwargs)
        conf.setdefault("method", input_layer)
        self.embed = self.layer_class(
            input_size,
            output_size,
            kwargs.get("dropout_rate", 0.1),
            torch.nn.Identity() if self.adds_positions else self.embed[-1],
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
            if self.adds_positions:
                raise ConfigurationError(
                    "encoder_conf: input_layer_conf: after_blocks cannot be combined "
                    "with this encoder, which cuts the input of its first block into "
                    "blocks of its own; leave it out"
                )
            if self.takes_prefix:
                raise ConfigurationError(
                    "encoder_conf: input_layer_conf: after_blocks would shorten the "
                    "language and task tokens of this encoder, too; leave it out"
                )
            if self.embed.later.restore and getattr(self, "ctc_trim", False):
                raise ConfigurationError(
                    "encoder_conf: ctc_trim drops frames that input_layer_conf: "
                    "restore needs; leave one of them out"
                )
            interctc = getattr(self, "interctc_layer_idx", None)
            self.embed.later.connect(self.encoders, self.embed.out[1], interctc)

    def forward(self, *args, **kwargs):
        """Return what the ESPnet encoder returns.

        With ``restore``, the intermediate CTC gets as many frames as the last one.
        """
        output, *rest = super().forward(*args, **kwargs)
        if isinstance(self.embed, AdaptiveSubsampling):
            output = self.embed.later.lengthen_intermediate(output)
        return (output, *rest)

    def _load_from_state_dict(self, state_dict, prefix, *rest):
        # ESPnet 202511 cannot read the names of 202611, which reads both
        if self.embed is not None:
            own = [f"{prefix}embed.{name}" for name in self.embed.state_dict()]
            fit_names(state_dict, prefix + "embed.", own)
        super()._load_from_state_dict(state_dict, prefix, *rest)

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
            # the parameters are the same
            attention.__class__ = TrueTimeAttention


class ConformerEncoder(DownsamplingEncoder, espnet.ConformerEncoder):
    """ESPnet's ``conformer``."""


class EBranchformerEncoder(DownsamplingEncoder, espnet.EBranchformerEncoder):
    """ESPnet's ``e_branchformer``."""

    espnet_words = ("conv1d1", "conv1d2", "conv1d3", *ESPNET_WORDS)


class EBranchformerCTCEncoder(DownsamplingEncoder, espnet.EBranchformerCTCEncoder):
    """ESPnet's ``e_branchformer_ctc`` (OWSM-CTC): tokens before the frames."""

    espnet_words = EBranchformerEncoder.espnet_words
    takes_prefix = True


class BranchformerEncoder(DownsamplingEncoder, espnet.BranchformerEncoder):
    """ESPnet's ``branchformer``."""


class MultiConvConformerEncoder(DownsamplingEncoder, espnet.MultiConvConformerEncoder):
    """ESPnet's ``multiconv_conformer``."""


class TransformerEncoder(DownsamplingEncoder, espnet.TransformerEncoder):
    """ESPnet's ``transformer``."""


class ContextualBlockConformerEncoder(
    StreamingEncoder, DownsamplingEncoder, espnet.ContextualBlockConformerEncoder
):
    """ESPnet's ``contextual_block_conformer``, which streams."""


class ContextualBlockTransformerEncoder(
    StreamingEncoder, DownsamplingEncoder, espnet.ContextualBlockTransformerEncoder
):
    """ESPnet's ``contextual_block_transformer``, which streams."""


#: by ESPnet's words
ENCODERS = {
    "conformer": ConformerEncoder,
    "e_branchformer": EBranchformerEncoder,
    "e_branchformer_ctc": EBranchformerCTCEncoder,
    "branchformer": BranchformerEncoder,
    "multiconv_conformer": MultiConvConformerEncoder,
    "transformer": TransformerEncoder,
    "contextual_block_conformer": ContextualBlockConformerEncoder,
    "contextual_block_transformer": ContextualBlockTransformerEncoder,
}


def refusing(word: str, stock: type) -> type:
    """Return an ESPnet encoder that rejects the plugin's words in one line.

    Args:
        word: ESPnet's for the encoder.
        stock: the encoder, which has an ``input_layer`` of its own.
    """

    def __init__(self, *args, input_layer_conf=None, **kwargs):
        given = kwargs.get("input_layer")
        if input_layer_conf or given in available_downsamplers():
            raise ConfigurationError(
                f"encoder {word}: its input_layer knows only ESPnet's own words, not "
                f"{given!r} with an input_layer_conf; take one of {', '.join(ENCODERS)}"
            )
        stock.__init__(self, *args, **kwargs)

    members = {"__init__": __init__, "__signature__": inspect.signature(stock)}
    members.update(__module__=stock.__module__, __doc__=stock.__doc__, refuses=True)
    return type(stock.__name__, (stock,), members)
