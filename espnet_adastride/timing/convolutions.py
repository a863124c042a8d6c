"""Frame times of convolutions over samples.

Frame l of a convolution of kernel k, stride s and padding p reads the steps l s - p to
l s - p + k - 1 of its input: its centre is step l s + (k - 1) / 2 - p. Over
steps that are themselves ``hop`` samples apart, the first centred on sample ``centre``,

    hop'    = hop s
    centre' = centre + hop ((k - 1) / 2 - p)
    field'  = field + hop (k - 1)

A window of a Fourier transform or mel filter bank is the first of these layers. All
code that needs hop, receptive field or length of a stack of convolutions uses this
module.
"""

from typing import Iterable, NamedTuple, Sequence


class Convolution(NamedTuple):
    """A convolution, or a window, along time.

    Attributes:
        kernel: steps in its window.
        stride: steps from one frame to the next.
        padding: steps added at both ends.
    """

    kernel: int
    stride: int
    padding: int = 0

    def length(self, steps: int) -> int:
        """Return the number of frames; 0 if the kernel does not fit."""
        return max((steps + 2 * self.padding - self.kernel) // self.stride + 1, 0)


class FrameRule(NamedTuple):
    """Frame l is centred on sample ``centre + l hop`` and reads ``field`` samples.

    Attributes:
        hop: samples from one frame to the next.
        centre: sample on which frame 0 is centred.
        field: receptive field of the convolutions in samples.
    """

    hop: float
    centre: float
    field: int


#: the samples themselves
SAMPLES = FrameRule(1, 0.0, 1)


def stack(convolutions: Iterable[Convolution], below: FrameRule = SAMPLES) -> FrameRule:
    """Return the frame times of a stack of convolutions, the first one first."""
    for kernel, stride, padding in convolutions:
        below = FrameRule(
            below.hop * stride,
            below.centre + below.hop * ((kernel - 1) / 2 - padding),
            int(below.field + below.hop * (kernel - 1)),
        )
    return below


def stacked_length(steps: int, convolutions: Iterable[Convolution]) -> int:
    """Return the number of frames of a stack of convolutions for a number of steps."""
    for convolution in convolutions:
        steps = convolution.length(steps)
    return steps


def shortest(convolutions: Sequence[Convolution], frames: int = 1) -> int:
    """Return the minimum number of steps for a number of frames.

    No layer may get fewer steps than its kernel needs: PyTorch raises an error.
    """
    for kernel, stride, padding in reversed(convolutions):
        frames = max((frames - 1) * stride + kernel - 2 * padding, 1)
    return frames
