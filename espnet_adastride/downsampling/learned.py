"""Learned combinations of the frames of a window, the same for every window.

``softmax_pool`` is the learned average of the Zipformer encoder's SimpleDownsample
("Zipformer: A faster and better encoder for automatic speech recognition", Yao et al.,
ICLR 2024): with x_1 .. x_s the frames of a window and s numbers a, shared by all
features,

    z = sum_i softmax_i(a) x_i

``stack`` is frame stacking, as in many transducers ("Fast and Accurate Recurrent Neural
Network Acoustic Models for Speech Recognition", Sak et al., 2015), with a projection
back to the width of a frame:

    z = W [x_1; ...; x_s] + b
"""

import torch

from espnet_adastride.downsampling.output import (
    DownsamplingOutput,
    at_least_float32,
    length_mask,
)
from espnet_adastride.downsampling.pooling import WindowPool, window_softmax


class SoftmaxPool(WindowPool):
    """Mean over each window with learned weights, one per place in the window.

    They start even: average pooling. In a window truncated by the utterance's end,
    the softmax is over the existing places (Zipformer repeats the last
    frame instead).

    Args:
        size: D, input and output features.
        stride: whole number >= 1; also the number of learned parameters.
    """

    def __init__(self, size: int, stride: int):
        super().__init__(size, stride)
        self.scores = torch.nn.Parameter(torch.zeros(self.stride))

    def downsample(self, x, lengths, output_lengths):
        """See :meth:`Downsampler.downsample`."""
        windows = self.windows(x, lengths)
        valid = self.valid_steps(lengths, windows)
        scores = at_least_float32(self.scores).reshape(1, 1, -1, 1)
        weights = window_softmax(scores.expand(valid.shape), valid).to(x.dtype)
        return DownsamplingOutput((weights * windows).sum(dim=2), output_lengths)


class Stack(WindowPool):
    """Concatenation of each window's frames, projected back to one frame's width.

    Frames beyond the utterance's end are zeros. The projection has stride D^2 + D
    parameters: little for a Conformer's width, but after the ESPnet input layer's
    ``conv2d`` trunk D is channels x mel bins (256 x 39 after its first convolution:
    200 million parameters at stride 2); use ``trunk: conv1d`` there.

    Args:
        size: D, input and output features.
        stride: whole number >= 1.
    """

    unit_gain = False

    def __init__(self, size: int, stride: int):
        super().__init__(size, stride)
        self.project = torch.nn.Linear(self.stride * self.size, self.size)

    def downsample(self, x, lengths, output_lengths):
        """See :meth:`Downsampler.downsample`."""
        output = self.project(self.windows(x, lengths).flatten(start_dim=2))
        # the bias reaches the padding
        valid = length_mask(output_lengths, output.size(1)).unsqueeze(2)
        return DownsamplingOutput(output.masked_fill(~valid, 0.0), output_lengths)
