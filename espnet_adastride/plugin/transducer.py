"""The encoder of ESPnet's task ``asr_transducer``, taught the plugin's words.

It is built from blocks: an input block (``input_conf``), then those of ``body_conf``.
The input block may be the plugin's layer::

    encoder_conf:
        input_conf: {block_type: adastride, stride: 4}

with any word of ``available_downsamplers()`` as ``block_type``, and the options of
:class:`~espnet_adastride.plugin.subsampling.AdaptiveSubsampling`. Without such a word
the encoder is ESPnet's.

In this encoder, masks are True in the padding, and positions are encoded after the
input block, not in it. Frames are ceil(length / stride) of each utterance's own length;
ESPnet 202511's own input block also counts frames of padding.

Streaming is rejected in this task; other encoders stream in blocks (docs/streaming.md).
"""

import math

import torch

from espnet_adastride.downsampling import available_downsamplers
from espnet_adastride.errors import ConfigurationError, located, unknown_word
from espnet_adastride.plugin.espnet import TransducerAttention
from espnet_adastride.plugin.layer_conf import given_options
from espnet_adastride.plugin.strides import WHERE
from espnet_adastride.plugin.subsampling import AdaptiveSubsampling
from espnet_adastride.plugin.true_times import time_encoding, time_scores

#: ``block_type`` of ESPnet's own input blocks: older recipes have it, ESPnet ignores it
ESPNET_BLOCKS = ("conv2d", "vgg")

#: options of the input layer that need the encoders of the other tasks
ELSEWHERE = ("after_blocks", "restore", "score_from_ctc")


class NotedTimes(torch.nn.Module):
    """Passes the times of frames from the input block to the positional encoding."""

    def __init__(self):
        super().__init__()
        self.times = None

    def forward(self, x, times):
        """Return x unchanged; keep the times (B, T')."""
        self.times = times
        return x

    def take(self) -> torch.Tensor:
        """Return the times (B, T') of the last forward, once."""
        times, self.times = self.times, None
        return times


class TransducerSubsampling(AdaptiveSubsampling):
    """The input layer with the interface of the transducer's input block.

    Args:
        input_size: mel bins F.
        output_size: width D of the first block.
        **conf: options of AdaptiveSubsampling.
    """

    def __init__(self, input_size: int, output_size: int, **conf):
        super().__init__(input_size, output_size, pos_enc=torch.nn.Identity(), **conf)
        self.output_size = output_size

    def timed_encoding(self, given):
        """Return what keeps the times for the encoder, which encodes positions."""
        return NotedTimes()

    @property
    def subsampling_factor(self) -> float:
        """Return the overall stride as built.

        By it, ESPnet rejects utterances of fewer than 3 (stride 2), 7 (4) or 11 (6)
        frames, none at other strides.
        """
        return math.prod(self.strides)

    def forward(self, x, mask=None):
        """Shorten a padded batch.

        Args:
            x: (B, T, F) log-mel frames.
            mask: (B, T), True in the padding; None: no padding.

        Returns:
            frames (B, T', D) and their mask (B, T'), or None.
        """
        valid = None if mask is None else ~mask.unsqueeze(1)
        x, valid = super().forward(x, valid)
        return x, None if valid is None else ~valid.squeeze(1)


class TrueTimes(torch.nn.Module):
    """The encoder's positional encoding, with ``true_times``.

    Args:
        noted: of the input block.
        size: width D of the blocks.
        dropout_rate: of the encoding.
    """

    def __init__(self, noted: NotedTimes, size: int, dropout_rate: float):
        super().__init__()
        self.noted = noted
        self.size, self.dropout = size, torch.nn.Dropout(dropout_rate)

    def forward(self, x):
        """Return the encoding (B, T', D) of the times of x (B, T', D)."""
        times = self.noted.take()
        return self.dropout(time_encoding(times, self.size).to(x.dtype))


class TrueTimeTransducerAttention(TransducerAttention):
    """Its attention, with the encoding that :class:`TrueTimes` makes.

    The parameters are ESPnet's; at t_i = i the scores are ESPnet's.
    """

    def compute_attention_score(self, query, key, pos_enc, left_context=0):
        """Return the scores (B, H, T, T) of queries and keys (B, H, T, d_k)."""
        bias_u, bias_v = self.pos_bias_u.unsqueeze(1), self.pos_bias_v.unsqueeze(1)
        basis = self.linear_pos.weight.view(self.num_heads, self.d_k, -1)
        content = torch.matmul(query + bias_u, key.transpose(-2, -1))
        place = time_scores(torch.matmul(query + bias_v, basis), pos_enc)
        return (content + place) / math.sqrt(self.d_k)

    def compute_simplified_attention_score(self, query, key, pos_enc, left_context=0):
        """Return the same where the place term does not depend on the query."""
        place = time_scores(self.linear_pos.weight.unsqueeze(1), pos_enc)
        place = place + self.linear_pos.bias[:, None, None]
        content = torch.matmul(query, key.transpose(-2, -1))
        return (content + place) / math.sqrt(self.d_k)


def use_true_times(encoder) -> None:
    """Give an encoder's attention the times of its input block's frames.

    Raises:
        ConfigurationError: if a block changes the positional encoding itself.
    """
    blocks = encoder.encoders.blocks
    for number, block in enumerate(blocks, 1):
        if hasattr(block, "create_new_pos_enc"):
            raise ConfigurationError(
                f"encoder_conf: body_conf: block {number} is a conv1d, which shortens "
                "the positional encoding by counting frames; leave it out, or leave "
                "input_conf: true_times out"
            )
    given = encoder.pos_enc
    encoder.pos_enc = TrueTimes(encoder.embed.out[1], given.size, given.dropout.p)
    for module in blocks.modules():
        if type(module) is TransducerAttention:
            # the parameters are the same; ESPnet keeps the bound method
            name = module.compute_att_score.__name__
            module.__class__ = TrueTimeTransducerAttention
            module.compute_att_score = getattr(module, name)


def _width(body_conf) -> int:
    """Return the width of the first block of the body."""
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
                f"encoder_conf: input_conf: {key} cannot be combined with the "
                "encoder of the task asr_transducer; leave it out, or use decoder: "
                "transducer in the task asr (examples/asr_rnnt.yaml)"
            )
    conf.setdefault("method", word)
    try:
        with located(WHERE, ValueError, ConfigurationError):
            conf = given_options(conf)
        return TransducerSubsampling(input_size, output_size, **conf)
    except ConfigurationError as error:
        raise ConfigurationError(
            str(error).replace("input_layer_conf", "input_conf")
        ) from None


def refuse_other_tasks_words(conf) -> None:
    """Refuse ``input_layer`` and ``input_layer_conf``, with the words of this task."""
    keys = [key for key in ("input_layer", "input_layer_conf") if key in conf]
    if not keys:
        return
    block = {"block_type": conf.get("input_layer", "adastride")}
    options = conf.get("input_layer_conf")
    block.update(options if isinstance(options, dict) else {})
    words = ", ".join(f"{key}: {value}" for key, value in block.items())
    raise ConfigurationError(
        f"encoder_conf: the encoder of the task asr_transducer has no {keys[0]}; write "
        f"input_conf: {{{words}}}"
    )


class TransducerEncoder:
    """Mixin before ESPnet's encoder: ``input_conf`` may name a downsampling method."""

    knows_our_words = True

    def __init__(self, input_size, body_conf, input_conf=None, main_conf=None, **other):
        refuse_other_tasks_words(other)
        input_conf = {} if input_conf is None else input_conf
        main_conf = {} if main_conf is None else main_conf
        word = input_conf.get("block_type")
        if word not in available_downsamplers():
            if word is not None and word not in ESPNET_BLOCKS:
                words = [*available_downsamplers(), *ESPNET_BLOCKS]
                wrong = unknown_word("block_type", word, words)
                raise ConfigurationError(f"encoder_conf: input_conf: {wrong}")
            super().__init__(input_size, body_conf, input_conf, main_conf, **other)
            return
        if main_conf.get("dynamic_chunk_training"):
            raise ConfigurationError(
                "encoder_conf: main_conf: dynamic_chunk_training trains for streaming, "
                f"which block_type: {word} does not do in this task; "
                "leave it out"
            )
        width = _width(body_conf)
        # ESPnet's own input block makes conv_size features of 7 bins: the blocks are
        # built for that many
        super().__init__(7, body_conf, {"conv_size": width}, main_conf, **other)
        self.embed = input_block(input_size, width, input_conf)
        if self.embed.true_times:
            use_true_times(self)

    def reset_cache(self, *args, **kwargs):
        """Prepare for streaming, which our words refuse.

        Raises:
            ConfigurationError: with our input block.
        """
        if isinstance(self.embed, TransducerSubsampling):
            raise ConfigurationError(
                f"streaming: block_type: {self.embed.methods[0]} does not stream in "
                "this task; decode without --streaming, or train with ESPnet's own "
                "input block (for streaming see docs/streaming.md)"
            )
        return super().reset_cache(*args, **kwargs)


def adaptive_encoder(stock: type) -> type:
    """Return ``espnet2.asr_transducer.encoder.encoder.Encoder`` with our words."""
    return type(stock.__name__, (TransducerEncoder, stock), {"__module__": __name__})
