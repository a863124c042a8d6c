"""The encoder of ESPnet's task ``asr_transducer``, taught the plugin's words.

It is built from blocks: an input block (``input_conf``), then those of ``body_conf``.
The input block may be the plugin's layer::

    encoder_conf:
        input_conf: {block_type: adastride, stride: 4}

with any word of ``available_downsamplers()`` as ``block_type``, and beside it the
options of :class:`~espnet_adastride.plugin.subsampling.AdaptiveSubsampling`. Without
such a word the encoder is ESPnet's.

Here ESPnet's masks are True in the padding, and positions are encoded behind the input
block, not in it. Frames are ceil(length / stride) of each utterance's own length;
ESPnet 202511's own input block counts those of padding, too.

Streaming is refused: it hands the encoder one chunk after another, and where a frame
of AdaStride is depends on the whole utterance.
"""

import math

import torch

from espnet_adastride.downsampling import available_downsamplers
from espnet_adastride.downsampling.registry import unknown_word
from espnet_adastride.plugin.errors import ConfigurationError
from espnet_adastride.plugin.subsampling import AdaptiveSubsampling

#: ``block_type`` of ESPnet's own input blocks: older recipes have it, ESPnet ignores it
ESPNET_BLOCKS = ("conv2d", "vgg")

#: options of the input layer that need the encoders of the other tasks
ELSEWHERE = ("after_blocks", "restore", "true_times")


class TransducerSubsampling(AdaptiveSubsampling):
    """The input layer as the transducer's encoder calls its input block.

    Args:
        input_size: mel bins F.
        output_size: width D of the first block.
        **conf: options of AdaptiveSubsampling.
    """

    def __init__(self, input_size: int, output_size: int, **conf):
        super().__init__(input_size, output_size, pos_enc=torch.nn.Identity(), **conf)
        self.output_size = output_size

    @property
    def subsampling_factor(self) -> float:
        """Return the overall stride it was built with.

        ESPnet refuses utterances by it: of less than 3 (stride 2), 7 (4) or 11 (6)
        frames, none at other strides.
        """
        return math.prod(self.strides)

    def forward(self, x, mask=None):
        """Shorten a padded batch.

        Args:
            x: (B, T, F) log-mel frames.
            mask: (B, T), True in the padding; None: there is none.

        Returns:
            frames (B, T', D) and their mask (B, T'), or None.
        """
        valid = None if mask is None else ~mask.unsqueeze(1)
        x, valid = super().forward(x, valid)
        return x, None if valid is None else ~valid.squeeze(1)


def _width(body_conf) -> int:
    """Return how many features the first block of the body takes."""
    first = body_conf[0] if body_conf else {}
    key = "output_size" if first.get("block_type") == "conv1d" else "hidden_size"
    if not isinstance(first.get(key), int):
        raise ConfigurationError(
            f"encoder_conf: body_conf: the first block needs a {key}, a whole number"
        )
    return first[key]


def input_block(input_size: int, output_size: int, conf) -> TransducerSubsampling:
    """Return the input block that an ``input_conf`` with one of our words asks for.

    Args:
        input_size: mel bins.
        output_size: features of its frames.
        conf: ``block_type`` and options.

    Raises:
        ConfigurationError: one line that names the wrong word and the choices.
    """
    conf = dict(conf)
    word = conf.pop("block_type")
    for key in ELSEWHERE:
        if conf.get(key):
            raise ConfigurationError(
                f"encoder_conf: input_conf: {key} does not go with the encoder of the "
                "task asr_transducer; leave it out, or use decoder: transducer in the "
                "task asr (examples/asr_rnnt.yaml)"
            )
    conf.setdefault("method", word)
    try:
        return TransducerSubsampling(input_size, output_size, **conf)
    except ConfigurationError as error:
        raise ConfigurationError(
            str(error).replace("input_layer_conf", "input_conf")
        ) from None


def refuse_other_tasks_words(conf) -> None:
    """Refuse ``input_layer`` and ``input_layer_conf``, with the words of this task."""
    given = {key: conf[key] for key in ("input_layer", "input_layer_conf") if key in conf}
    if not given:
        return
    block = {"block_type": given.get("input_layer", "adastride")}
    options = given.get("input_layer_conf")
    block.update(options if isinstance(options, dict) else {})
    words = ", ".join(f"{key}: {value}" for key, value in block.items())
    raise ConfigurationError(
        f"encoder_conf: the encoder of the task asr_transducer has no {list(given)[0]}; "
        f"write input_conf: {{{words}}}"
    )


def adaptive_encoder(stock: type) -> type:
    """Return ESPnet's encoder of the task ``asr_transducer`` with our words.

    Args:
        stock: ``espnet2.asr_transducer.encoder.encoder.Encoder``.
    """

    class TransducerEncoder(stock):
        """ESPnet's; ``input_conf: block_type`` may name a downsampling method."""

        knows_our_words = True

        def __init__(self, input_size, body_conf, input_conf=None, main_conf=None, **other):
            refuse_other_tasks_words(other)
            input_conf = {} if input_conf is None else input_conf
            main_conf = {} if main_conf is None else main_conf
            word = input_conf.get("block_type")
            if word not in available_downsamplers():
                if word is not None and word not in ESPNET_BLOCKS:
                    words = [*available_downsamplers(), *ESPNET_BLOCKS]
                    raise ConfigurationError(
                        "encoder_conf: input_conf: "
                        f"{unknown_word('block_type', word, words)}"
                    )
                super().__init__(input_size, body_conf, input_conf, main_conf, **other)
                return
            if main_conf.get("dynamic_chunk_training"):
                raise ConfigurationError(
                    "encoder_conf: main_conf: dynamic_chunk_training trains for "
                    f"streaming, which block_type: {word} cannot do; leave it out"
                )
            width = _width(body_conf)
            # ESPnet's own input block makes conv_size features of 7 bins: the blocks
            # are built for that many
            super().__init__(7, body_conf, {"conv_size": width}, main_conf, **other)
            self.embed = input_block(input_size, width, input_conf)

        def reset_cache(self, *args, **kwargs):
            """Prepare for streaming, which our words refuse.

            Raises:
                ConfigurationError: with our input block.
            """
            if isinstance(self.embed, TransducerSubsampling):
                raise ConfigurationError(
                    f"streaming: block_type: {self.embed.methods[0]} needs the whole "
                    "utterance, and streaming gives the encoder chunks; decode without "
                    "--streaming, or train with ESPnet's own input block"
                )
            return super().reset_cache(*args, **kwargs)

    TransducerEncoder.__name__ = TransducerEncoder.__qualname__ = stock.__name__
    return TransducerEncoder
