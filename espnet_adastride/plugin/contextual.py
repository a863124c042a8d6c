"""ESPnet's contextual block encoders, with an input layer that works block by block.

``contextual_block_conformer`` and ``contextual_block_transformer`` (Tsunoo et al.,
"Transformer ASR with contextual block processing", ASRU 2019) attend within blocks of
encoder frames. Between calls, ESPnet's ``forward_infer`` keeps as many feature frames
as its convolutions see, counted in ``subsample``. A layer that places blocks needs
whole blocks: here the feature frames of the incomplete block are kept instead. The rest
of ESPnet's method, after the input layer, runs unchanged.
"""

import math
from typing import Any, Dict

import torch

from espnet_adastride.errors import ConfigurationError
from espnet_adastride.plugin.blocks import start_stream, stream_blocks
from espnet_adastride.plugin.espnet import Conv2dSubsamplingWOPosEnc
from espnet_adastride.plugin.strides import WHERE
from espnet_adastride.plugin.subsampling import AdaptiveSubsampling

#: key of the layer's state in ESPnet's
STREAM = "adastride_stream"


class ContextualSubsampling(AdaptiveSubsampling, Conv2dSubsamplingWOPosEnc):
    """The input layer of contextual block encoders, which add positions per block.

    It *is* a Conv2dSubsamplingWOPosEnc: they pass the mask to no other class.
    """

    def timed_encoding(self, given: torch.nn.Module) -> torch.nn.Module:
        """Reject ``true_times``."""
        raise ConfigurationError(
            f"{WHERE}: true_times needs relative positions, and contextual encoders "
            "have absolute ones: leave it out, or set tell_strides"
        )


def begin_stream(layer: AdaptiveSubsampling) -> Dict[str, Any]:
    """Return the state of ``forward_infer`` at the start of a stream.

    Raises:
        ConfigurationError: if the input layer places whole utterances, or gives too few
            frames per block.
    """
    stream = start_stream(layer)
    if layer.output_lengths(stream.block) < 2:
        raise ConfigurationError(
            f"a block of {layer.blocks.seconds:g} s makes one output frame at this "
            "stride, and ESPnet's encoder takes two or more: take longer blocks, or a "
            "smaller stride"
        )
    return {STREAM: stream}


class _BehindInputLayer:
    """An encoder for ESPnet's ``forward_infer`` that takes frames as its features."""

    embed, subsample = None, 1

    def __init__(self, encoder):
        self._encoder = encoder

    def pos_enc(self, x, start_idx: int = 0):
        """Do what ESPnet's ``pos_enc`` does, without a table.

        Beyond 5000 frames, ESPnet makes the table of all positions again for every hop.
        """
        own, size = self._encoder.pos_enc, x.size(2)
        steps = torch.arange(start_idx, start_idx + x.size(1), device=x.device)
        even = torch.arange(0, size, 2, dtype=torch.float32, device=x.device)
        angles = steps.float().unsqueeze(1) * torch.exp(
            even * -(math.log(10000.0) / size)
        )
        encoding = torch.stack([angles.sin(), angles.cos()], dim=2).flatten(1)
        return own.dropout(x * own.xscale + encoding.to(x.dtype))

    def __getattr__(self, name):
        return getattr(self._encoder, name)


class StreamingEncoder:
    """What the two encoders share, a mixin before ``DownsamplingEncoder``."""

    espnet_words = ("conv2d", "conv2d6", "conv2d8", "linear", "embed")
    layer_class = ContextualSubsampling
    adds_positions = True

    def forward_infer(self, xs_pad, ilens, prev_states=None, is_final=True):
        """Run ESPnet's ``forward_infer``, with whole blocks for the input layer.

        Unchanged with ESPnet's own input layers.

        Args:
            xs_pad: (1, T, F) new feature frames.
            ilens: not read.
            prev_states: None at the start, else the state returned last.
            is_final: whether they are the last.

        Returns:
            Frames (1, T', D), ESPnet's lengths of them, and the new state.

        Raises:
            ConfigurationError: see :func:`begin_stream`.
        """
        layer = self.embed
        if not isinstance(layer, AdaptiveSubsampling):
            return super().forward_infer(xs_pad, ilens, prev_states, is_final)
        states = dict(prev_states or begin_stream(layer))
        stream = states.pop(STREAM)
        frames, trace, stream = stream_blocks(layer, stream, xs_pad, is_final)
        layer.keep_trace(trace)
        count = frames.size(1)
        if not count:  # no block is complete, or the utterance has no frames
            lengths = xs_pad.new_zeros(1)
            return frames, lengths, None if is_final else {**states, STREAM: stream}
        if not is_final:
            # ESPnet computes all but the last of these, and keeps the last two for
            # convolutions, which do not follow here
            frames = torch.cat([frames, frames[:, -1:]], dim=1)
        ilens = torch.tensor([frames.size(1)], device=frames.device)
        output, lengths, states = self.espnet_class.forward_infer(
            _BehindInputLayer(self), frames, ilens, states or None, is_final
        )
        if states is not None:
            states["buffer_before_downsampling"] = frames[:, :0]
            states["ilens_buffer"] = torch.zeros_like(ilens)
            states[STREAM] = stream
        return output, lengths, states
