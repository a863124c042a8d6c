"""The trunk of the input layer: convolutions, and a downsampler after each.

With stride 8::

    (B, T, 80) -> conv, ReLU -> downsample 2 -> conv, ReLU -> downsample 2
               -> conv, ReLU -> downsample 2

A convolution keeps the rate, except with ``strided_conv``: there it has the stride
itself, and an :class:`InTrunk` replaces the downsampler.
"""

import torch

from espnet_adastride.downsampling import build_downsampler
from espnet_adastride.downsampling.output import (
    ChunkedOutput,
    Downsampler,
    DownsamplingOutput,
    check_stride,
    zero_padding,
)
from espnet_adastride.downsampling.registry import STRIDED_CONV, stage_options
from espnet_adastride.downsampling.stages import StageTrace
from espnet_adastride.plugin.true_times import next_times


class Conv2dStage(torch.nn.Module):
    """Kernel 3, stride s in time (1 unless strided_conv) and 2 in frequency; ReLU.

    Conv2dSubsampling's convolution with its time stride taken out; time is padded by 1,
    frequency is not. (B, T, input_width) -> (B, ceil(T / s), width), as all stages;
    ``width`` is the features that the next stage or the downsampler reads, ``stride``
    is s.
    """

    def __init__(self, input_channels, input_bins, channels, time_stride):
        super().__init__()
        self.stride = time_stride
        self.input_channels, self.input_bins = input_channels, input_bins
        self.channels, self.bins = channels, (input_bins - 1) // 2
        if self.bins < 1:
            raise ValueError(
                "this trunk halves the mel bins at each stage and "
                f"{input_bins} are left: use fewer stages, more mel bins "
                "or trunk: conv1d"
            )
        self.width = self.channels * self.bins
        self.conv = self.build(time_stride)

    def build(self, time_stride):
        return torch.nn.Conv2d(
            self.input_channels,
            self.channels,
            3,
            stride=(time_stride, 2),
            padding=(1, 0),
        )

    def forward(self, x):
        batch, time, _ = x.shape
        x = x.view(batch, time, self.input_channels, self.input_bins).transpose(1, 2)
        x = torch.relu(self.conv(x))
        return x.transpose(1, 2).reshape(batch, x.size(2), self.width)


class DepthwiseConv2dStage(Conv2dStage):
    """The same, depthwise separable after the first stage, as in FastConformer."""

    def build(self, time_stride):
        if self.input_channels == 1:
            return super().build(time_stride)
        return torch.nn.Sequential(
            torch.nn.Conv2d(
                self.input_channels,
                self.input_channels,
                3,
                stride=(time_stride, 2),
                padding=(1, 0),
                groups=self.input_channels,
            ),
            torch.nn.Conv2d(self.input_channels, self.channels, 1),
        )


class Conv1dStage(torch.nn.Module):
    """Kernel 3 over time with the mel bins as channels; ReLU. The cheapest."""

    def __init__(self, input_channels, input_bins, channels, time_stride):
        super().__init__()
        self.stride, self.channels, self.bins = time_stride, channels, 1
        self.width = channels
        self.conv = torch.nn.Conv1d(
            input_channels * input_bins, channels, 3, stride=time_stride, padding=1
        )

    def forward(self, x):
        return torch.relu(self.conv(x.transpose(1, 2))).transpose(1, 2)


TRUNKS = {
    "conv2d": Conv2dStage,
    "conv1d": Conv1dStage,
    "dwconv2d": DepthwiseConv2dStage,
}


class InTrunk(Downsampler):
    """The downsampler where the trunk's convolution has the stride: it zeroes padding.

    Its input is the convolution's output (B, ceil(T / stride), size); lengths are those
    of the convolution's input.
    """

    integer_stride = True

    def forward(self, x, lengths):
        """Return x, zero beyond ceil(lengths / stride), where a bias was added."""
        shorter = self.output_lengths(lengths)
        return DownsamplingOutput(zero_padding(x, shorter), shorter)

    def in_chunks(self, frames, length):
        """See :meth:`Downsampler.in_chunks`; the chunks stay as they are."""
        return ChunkedOutput(frames, torch.tensor([self.output_lengths(length)]))

    def export_form(self, x, stride):
        """See :meth:`Downsampler.export_form`."""
        return x, None

    def frame_shift(self):
        """See :meth:`Downsampler.frame_shift`: kernel 3, centred on step l stride."""
        return (1 - self.stride) / 2


def build_trunk(trunk: str, bins: int, channels: int, methods, strides, options):
    """Return the convolutions and the downsamplers after them, two ModuleLists.

    Args:
        trunk: a word of :data:`TRUNKS`.
        bins: mel bins of the feature frames.
        channels: of the convolutions.
        methods: a word of ``available_downsamplers()`` for each stage.
        strides: of the stages.
        options: the methods' own words.

    Raises:
        TypeError, ValueError: for a stride or an option that a method does not take,
            and for too few mel bins.
    """
    convolutions, downsamplers = torch.nn.ModuleList(), torch.nn.ModuleList()
    maps = 1
    for name, stride in zip(methods, strides):
        in_trunk = name == STRIDED_CONV
        if in_trunk:
            stride = check_stride(stride, integer=True)
        stage = TRUNKS[trunk](maps, bins, channels, stride if in_trunk else 1)
        maps, bins = stage.channels, stage.bins
        convolutions.append(stage)
        downsamplers.append(
            InTrunk(stage.width, stride)
            if in_trunk
            else build_downsampler(
                name, stage.width, stride, **stage_options(name, options)
            )
        )
    return convolutions, downsamplers


def run_trunk(convolutions, downsamplers, x, lengths, times=None, convolve=None):
    """Run the stages over sequences, zero beyond their lengths.

    Args:
        convolutions: of :func:`build_trunk`.
        downsamplers: the same.
        x: (B, T, F).
        lengths: (B,).
        times: (B, T) of the frames; None: not used.
        convolve: called in place of a convolution, with the stage's index, the
            convolution and (B, T, C); None: the convolution itself.

    Returns:
        x (B, T', C'), the frames' times or None, lengths, and a list of StageTrace.
    """
    trace = []
    for index, (stage, downsampler) in enumerate(zip(convolutions, downsamplers)):
        x = stage(x) if convolve is None else convolve(index, stage, x)
        result = downsampler(x, lengths)
        # without the output: a trace must not keep the activations
        trace.append(StageTrace(lengths, *result[1:], downsampler.loss_name))
        x, positions, shorter = result.output, result.positions, result.lengths
        times = next_times(times, positions, lengths, shorter, x.size(1))
        lengths = shorter
    return x, times, lengths, trace
