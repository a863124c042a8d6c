"""ESPnet's contextual block encoders, with an input layer that works block by block.

``contextual_block_conformer`` and ``contextual_block_transformer`` (Tsunoo et al.,
"Transformer ASR with contextual block processing", ASRU 2019) attend within blocks of
encoder frames. Between calls, ESPnet's ``forward_infer`` keeps as many feature frames
as its convolutions see, counted in ``subsample``. A layer that places blocks needs
whole blocks: here the feature frames of the incomplete block are kept instead. The rest
of ESPnet's method, after the input layer, runs unchanged.
"""

import torch

from espnet_adastride.errors import ConfigurationError
from espnet_adastride.plugin.blocks import start_stream, stream_blocks
from espnet_adastride.plugin.espnet import Conv2dSubsamplingWOPosEnc
from espnet_adastride.plugin.subsampling import AdaptiveSubsampling

#: key of the layer's state in ESPnet's
STREAM = "adastride_stream"


class ContextualSubsampling(AdaptiveSubsampling, Conv2dSubsamplingWOPosEnc):
    """The input layer of contextual block encoders, which add positions per block.

    It *is* a Conv2dSubsamplingWOPosEnc: they pass the mask to no other class.
    """


class _BehindInputLayer:
    """An encoder for ESPnet's ``forward_infer`` that takes frames as its features."""

    embed, subsample = None, 1

    def __init__(self, encoder):
        self._encoder = encoder

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
            ConfigurationError: if the input layer places whole utterances.
        """
        layer = self.embed
        if not isinstance(layer, AdaptiveSubsampling):
            return super().forward_infer(xs_pad, ilens, prev_states, is_final)
        states = dict(prev_states or {})
        stream = states.pop(STREAM, None) or start_stream(layer)
        frames, trace, stream = stream_blocks(layer, stream, xs_pad, is_final)
        layer.keep_trace(trace)
        count = frames.size(1)
        if not count:  # no block is complete, or the utterance has no frames
            lengths = xs_pad.new_zeros(1)
            return frames, lengths, None if is_final else {**states, STREAM: stream}
        if not is_final:
            if count < 2:
                raise ConfigurationError(
                    f"a block of {layer.blocks.seconds:g} s makes one output frame at "
                    "this stride, and ESPnet's encoder takes two or more: take longer "
                    "blocks, or a smaller stride"
                )
            # ESPnet computes all but the last of these, and keeps the last two for
            # convolutions, which do not follow here
            frames = torch.cat([frames, frames[:, -1:]], dim=1)
        lengths = torch.tensor([frames.size(1)], device=frames.device)
        output, lengths, states = self.espnet_class.forward_infer(
            _BehindInputLayer(self), frames, lengths, states or None, is_final
        )
        if states is not None:
            states["buffer_before_downsampling"] = frames[:, :0]
            states["ilens_buffer"] = torch.zeros(1, dtype=torch.int64)
            states[STREAM] = stream
        return output, lengths, states
