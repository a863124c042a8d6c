"""A residual network over time whose strides can use any downsampling method.

The pre-activation form ("Identity Mappings in Deep Residual Networks", He et al., ECCV
2016) in one dimension, each block being::

    h = relu(norm(conv(relu(norm(x)))))
    h, x = downsample(h), downsample(x)      only where the block has a stride
    x = x + conv(h)

and a final relu(norm(x)) after the blocks. The downsampler comes after the
non-linearity, as in the ESPnet input layer's trunk.

**Branch and shortcut are resampled with the same alignment.** Both go through one
downsampler as one tensor of twice the width: AdaStride's positions, DiffStride's stride
and AdaPool's beta are the same for both. AdaStride's scores only read the branch, which
is the layer's input in the paper, where the shortcut is resampled "by the same A".
Methods that work feature by feature do so on both (maxima, SoftPool's weights,
LiftPool's filters); ``stack`` projects both together, with 8 width^2 parameters.

**strided_conv** is the usual strided block: the stride is in the block's first
convolution, and the shortcut is a convolution of one tap with the same stride.

An utterance's result does not depend on its batch: normalisation only uses statistics
of valid frames, and convolutions see zeros in the padding.
"""

from typing import Any, Dict, List, NamedTuple, Optional, Sequence, Tuple, Union

import torch
from torch.nn.utils import parametrize

from espnet_adastride.downsampling import (
    available_downsamplers,
    build_downsampler,
    downsampled_lengths,
    length_mask,
)
from espnet_adastride.downsampling.output import (
    check_stride,
    check_whole,
    zero_padding,
)
from espnet_adastride.downsampling.registry import (
    STRIDED_CONV,
    downsampler_options,
    stage_options,
)
from espnet_adastride.downsampling.stages import StageTrace
from espnet_adastride.errors import unknown_word


def stage_methods(
    method: Union[str, Sequence[str]], stages: int, what: str = "stages"
) -> List[str]:
    """Return the method of each stage.

    Args:
        method: one for all stages, or a list of one for each.
        stages: number of stages.
        what: the stages, in the message.

    Raises:
        ValueError: neither, another number of methods, or an unknown one.
    """
    if not isinstance(method, (str, list, tuple)):
        raise ValueError(f"method must be a word or a list of words, got {method!r}")
    methods = [method] * stages if isinstance(method, str) else list(method)
    if len(methods) != stages:
        raise ValueError(
            f"{len(methods)} methods ({' + '.join(map(str, methods))}) for {stages} "
            f"{what}: give one method, or one for each"
        )
    for name in methods:
        if name not in available_downsamplers():
            raise ValueError(unknown_word("method", name, available_downsamplers()))
    return methods


class Encoded(NamedTuple):
    """Output of the network.

    Attributes:
        output: (B, T', width), zero beyond ``lengths``.
        lengths: (B,).
        stages: one for each downsampler; none if the stride is in a convolution.
    """

    output: torch.Tensor
    lengths: torch.Tensor
    stages: Tuple[StageTrace, ...]


class FrameNorm(torch.nn.BatchNorm1d):
    """Batch normalisation of frames (B, T, D) whose statistics exclude the padding.

    ``forward(x, valid)`` takes the indices (frames,) of the valid frames among B T, and
    returns zeros for the others.
    """

    def forward(self, x: torch.Tensor, valid: torch.Tensor) -> torch.Tensor:
        frames = x.flatten(0, 1)
        normal = super().forward(frames.index_select(0, valid))
        padded = normal.new_zeros(frames.shape)
        return padded.index_copy(0, valid, normal).view(x.shape)


class TimeConv(torch.nn.Conv1d):
    """A convolution over time for (B, T, D), padded so that T becomes ceil(T / s)."""

    def __init__(self, size, output_size, kernel_size, stride=1, bias=False):
        super().__init__(
            size,
            output_size,
            kernel_size,
            stride=stride,
            padding=kernel_size // 2,
            bias=bias,
        )

    def forward(self, x):
        # (B, T, D) is an image of height 1 in channels-last format: read in place, it
        # took 0.4 of the time of a one-dimensional convolution
        output = torch.nn.functional.conv2d(
            x.transpose(1, 2).unsqueeze(2),
            self.weight.unsqueeze(2),
            self.bias,
            stride=(1, *self.stride),
            padding=(0, *self.padding),
        )
        return output.squeeze(2).transpose(1, 2)


class _FirstFeatures(torch.nn.Module):
    """Parametrisation of a weight (H, D, ...): zero beyond the first features."""

    def __init__(self, features: int, size: int):
        super().__init__()
        self.features, self.others = features, size - features

    def forward(self, weight):
        before = (0, 0) * (weight.dim() - 2)
        return torch.nn.functional.pad(weight, (*before, 0, self.others))

    def right_inverse(self, weight):
        return weight[:, : self.features]


class SharedAlignment(torch.nn.Module):
    """One downsampler for a branch and its shortcut, each (B, T, width).

    Args:
        name: name of the method.
        width: features of the branch, and of the shortcut.
        stride: stride of the method.
        options: options of the method.
    """

    def __init__(self, name: str, width: int, stride: float, options: Dict[str, Any]):
        super().__init__()
        self.downsampler = build_downsampler(name, 2 * width, stride, **options)
        reader = getattr(self.downsampler, "score", None)
        network = getattr(self.downsampler, "score_network", None)
        # with score_hidden the network mixes the features, and the score its output
        if network is not None and network.groups == 1:
            reader = network
        if reader is not None:
            parametrize.register_parametrization(
                reader, "weight", _FirstFeatures(width, 2 * width)
            )

    def forward(
        self, branch: torch.Tensor, shortcut: torch.Tensor, lengths: torch.Tensor
    ) -> Tuple[torch.Tensor, torch.Tensor, StageTrace]:
        both = self.downsampler(torch.cat([branch, shortcut], dim=2), lengths)
        branch, shortcut = both.output.chunk(2, dim=2)
        stage = StageTrace(lengths, *both[1:], self.downsampler.loss_name)
        return branch, shortcut, stage


class ResidualBlock(torch.nn.Module):
    """One block; see the module docstring.

    Args:
        width: D.
        kernel_size: odd.
        stride: 1, or a stride of the method.
        method: None for a block without a stride.
        options: options of the method.
    """

    def __init__(self, width, kernel_size, stride=1, method=None, options=None):
        super().__init__()
        self.stride = stride
        self.downsampler = self.projection = None
        in_convolution = method == STRIDED_CONV
        if in_convolution:
            self.stride = check_stride(stride, integer=True)
            self.projection = TimeConv(width, width, 1, self.stride)
        elif method is not None:
            self.downsampler = SharedAlignment(method, width, stride, options or {})
        self.norm1 = FrameNorm(width)
        self.conv1 = TimeConv(
            width, width, kernel_size, self.stride if in_convolution else 1
        )
        self.norm2 = FrameNorm(width)
        self.conv2 = TimeConv(width, width, kernel_size)

    def forward(self, x, frames: "_Frames"):
        """Return the output, its lengths, and the StageTrace if any."""
        stage = None
        branch = self.conv1(torch.relu(self.norm1(x, frames.valid)))
        if self.projection is not None:
            x = self.projection(x)
            frames = _Frames(downsampled_lengths(frames.lengths, self.stride), x)
        branch = torch.relu(self.norm2(branch, frames.valid))
        if self.downsampler is not None:
            branch, x, stage = self.downsampler(branch, x, frames.lengths)
            frames = _Frames(stage.output_lengths, x)
        x = zero_padding(x + self.conv2(branch), frames.lengths)
        return x, frames, stage


class _Frames:
    """Which frames of a padded batch are valid: ``lengths``, and indices ``valid``."""

    def __init__(self, lengths: torch.Tensor, x: torch.Tensor):
        self.lengths = lengths
        mask = length_mask(lengths, x.size(1))
        self.valid = mask.flatten().nonzero().squeeze(1)


class ResNet(torch.nn.Module):
    """(B, T, F) -> (B, T', width); T' is T divided by each block's stride, rounded up.

    Args:
        input_size: F.
        width: features of all blocks (256 in the paper).
        strides: one per block; 1 for a block that keeps its length.
        kernel_size: odd (3 in the paper).
        method: a name in ``available_downsamplers()``, or one for every stride above 1.
        options: options of the methods; each method takes those it knows, and its
            ``training_defaults`` for the others.

    Raises:
        ValueError: one line with the wrong option or value, and the choices.
    """

    def __init__(
        self,
        input_size: int,
        width: int,
        strides: Sequence[float],
        kernel_size: int,
        method: Union[str, Sequence[str]],
        options: Optional[Dict[str, Any]] = None,
    ):
        super().__init__()
        options = options or {}
        self.width = check_whole("width", width)
        check_whole("kernel_size", kernel_size)
        if kernel_size % 2 == 0:
            raise ValueError(f"kernel_size must be odd, got {kernel_size}")
        if not isinstance(strides, (list, tuple)):
            raise ValueError(f"strides must be a list of numbers, got {strides!r}")
        strides = [check_stride(stride) for stride in strides]
        if isinstance(method, (list, tuple)) and len(method) == 1:
            method = method[0]
        stages = sum(stride > 1 for stride in strides)
        methods = stage_methods(method, stages, "strides above 1")
        known = [word for name in set(methods) for word in downsampler_options(name)]
        for word in options:
            if word not in known:
                kind = f"option of {' + '.join(dict.fromkeys(methods))}"
                raise ValueError(unknown_word(kind, word, sorted(set(known))))
        self.methods = tuple(methods)
        self.stem = TimeConv(input_size, width, kernel_size, bias=True)
        blocks, waiting = [], iter(methods)
        for stride in strides:
            name = next(waiting) if stride > 1 else None
            own = {} if name is None else stage_options(name, options)
            blocks.append(ResidualBlock(width, kernel_size, stride, name, own))
        self.blocks = torch.nn.ModuleList(blocks)
        self.norm = FrameNorm(width)

    def forward(self, x: torch.Tensor, lengths: torch.Tensor) -> Encoded:
        """Encode a padded batch.

        Args:
            x: (B, T, F); the padding may contain anything.
            lengths: (B,), at least one of them above 0.
        """
        stages = []
        x = zero_padding(x, lengths)
        frames = _Frames(lengths, x)
        x = zero_padding(self.stem(x), lengths)  # the bias reached the padding
        for block in self.blocks:
            x, frames, stage = block(x, frames)
            if stage is not None:
                stages.append(stage)
        x = torch.relu(self.norm(x, frames.valid))
        return Encoded(x, frames.lengths, tuple(stages))

    def reported_stats(self) -> Dict[str, float]:
        """Return learned values to monitor, ``{name_stage: number}``, from 1."""
        stats, number = {}, 0
        for block in self.blocks:
            number += block.stride > 1
            if block.downsampler is not None:
                layer = block.downsampler.downsampler
                for name, value in layer.reported_stats().items():
                    stats[f"{name}_{number}"] = float(value)
        return stats
