"""The input layer: a convolutional trunk with a downsampler after each stage.

It stands where ESPnet's Conv2dSubsampling stands: log-mel frames (B, T, F) in, frames
for the encoder's blocks (B, T', D) out, positional encoding included. With stride 8::

    (B, T, 80) -> conv, ReLU -> downsample 2 -> conv, ReLU -> downsample 2
               -> conv, ReLU -> downsample 2 -> linear -> positional encoding

Output length: ceil(length / s) stage by stage, for whole strides ceil(length / stride);
of each utterance's own length, whatever else is in its batch. (ESPnet 202611 does so in
Conv2dSubsampling, too; 202511 sliced the mask from the padded end.) Where a stage
learns its stride (diff_stride), s is the one it has learned so far.

An hour of speech would need 14 GB for the first stage's output alone (conv2d, 256
channels). One long utterance is therefore decoded in chunks of time: the same numbers,
in bounded memory. A stage with positions reads what comes before it twice, for the
scores and for the frames; what fits is held, the rest computed again.
"""

import math
import numbers
from functools import partial
from typing import Any, Container, Dict, List, Optional, Sequence, Tuple, Union

import torch

from espnet_adastride.downsampling import (
    available_downsamplers,
    build_downsampler,
    downsampled_lengths,
    length_mask,
)
from espnet_adastride.downsampling.output import (
    check_number,
    check_stride,
    zero_padding,
)
from espnet_adastride.downsampling.registry import (
    STRIDED_CONV,
    downsampler_options,
    stage_options,
)
from espnet_adastride.downsampling.stages import StageTrace
from espnet_adastride.errors import ConfigurationError, unknown_word
from espnet_adastride.plugin.blocks import BlockLength, run_blocks, run_long
from espnet_adastride.plugin.espnet import (
    Conv2dSubsampling,
    PositionalEncoding,
    RelPositionalEncoding,
)
from espnet_adastride.plugin.later_stages import (
    LaterStage,
    give_back,
    in_backward,
    lengthen,
)
from espnet_adastride.plugin.timing import (
    TrueTimeEncoding,
    log_strides,
    slot_steps,
    times_at,
    uniform_steps,
)


def stage_strides(
    stride: Union[float, Sequence[float]], stages: Optional[int] = None
) -> List[float]:
    """Return the stride of each stage: 4 -> [2, 2], 6 -> [2, 3], 8 -> [2, 2, 2].

    A whole number is split into its prime factors, a list is taken as given, a
    non-integer number is one stage.

    Args:
        stride: overall, or of each stage.
        stages: how many are wanted. Where a whole number has more factors, the last
            stage takes the product of the rest: 8 -> [2, 4] for two.

    Raises:
        ValueError: for a stride below 1 or an empty list.
    """
    if isinstance(stride, (list, tuple)):
        if not stride:
            raise ValueError("stride: the list of stages is empty")
        return [check_stride(one) for one in stride]
    stride = check_stride(stride)
    if stride != int(stride):
        return [stride]
    factors, rest, factor = [], int(stride), 2
    while factor * factor <= rest:
        while rest % factor == 0:
            factors.append(factor)
            rest //= factor
        factor += 1
    factors += [rest] if rest > 1 or not factors else []
    if stages and len(factors) > stages:
        factors[stages - 1 :] = [math.prod(factors[stages - 1 :])]
    return factors


def fit_names(state_dict: Dict[str, Any], prefix: str, own: Container[str]) -> bool:
    """Name the parameters of an input layer's end as it does itself, in place.

    ESPnet 202611 calls ``out.0`` (a linear layer) ``out`` and ``out.1`` (the positional
    encoding, whose ``alpha`` is its only parameter) ``pos_enc``. The plugin's layer has
    202511's names under both.

    Args:
        state_dict: names and parameters.
        prefix: of the input layer's names.
        own: its own names, with the prefix.

    Returns:
        Whether a name was changed.
    """
    changed = False
    for old, new in (
        ("out.0.weight", "out.weight"),
        ("out.0.bias", "out.bias"),
        ("out.1.alpha", "pos_enc.alpha"),
    ):
        for wanted, given in ((old, new), (new, old)):
            if prefix + wanted in own and prefix + given in state_dict:
                state_dict[prefix + wanted] = state_dict.pop(prefix + given)
                changed = True
    return changed


class _TrunkStage(torch.nn.Module):
    """One convolution and ReLU: (B, T, input_width) -> (B, ceil(T / s), width).

    ``width`` is what the next stage (or the downsampler) sees as features.
    """

    width: int


class Conv2dStage(_TrunkStage):
    """Kernel 3, stride s in time (1 unless strided_conv) and 2 in frequency, ReLU.

    Conv2dSubsampling's convolution with its time stride taken out; time is padded by 1,
    frequency is not.
    """

    def __init__(self, input_channels, input_bins, channels, time_stride):
        super().__init__()
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


class Conv1dStage(_TrunkStage):
    """Kernel 3 over time with the mel bins as channels, ReLU: the cheap one."""

    def __init__(self, input_channels, input_bins, channels, time_stride):
        super().__init__()
        self.channels, self.bins = channels, 1
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

#: one utterance whose frames would take more bytes after a stage goes through in chunks
#: (not in training, nor in batches); in that case: about the bytes of a chunk, and how
#: much of the stages' outputs may be held rather than computed again
LONG_BYTES = 2**29
CHUNK_BYTES = 2**26
HELD_BYTES = 2**31

#: the input layer's own words in input_layer_conf; the rest are the methods' words
OWN_WORDS = (
    "stride",
    "method",
    "trunk",
    "channels",
    "vp_weight",
    "after_blocks",
    "restore",
    "train_strides",
    "tell_strides",
    "true_times",
    "block",
    "train_blocks",
)


def _convolve_chunks(stage, stride, frames):
    """Yield a stage's output for consecutive chunks, as for all of them at once.

    The convolution sees one frame more on both sides; chunks are held back until the
    next has come, and the output at the edge, which saw padding, is made again.
    """
    held, made = None, 0  # frames from the last made output's centre on; its number
    for chunk in frames():
        held = chunk if held is None else torch.cat([held, chunk], dim=1)
        ready = (held.size(1) - 2) // stride + 1  # whose right neighbours are there
        if ready > made:
            yield stage(held)[:, made:ready]
            held, made = held[:, (ready - 1) * stride :].clone(), 1
    if downsampled_lengths(held.size(1), stride) > made:
        yield stage(held)[:, made:]


def _joined(chunks, length):
    """Return all chunks as one tensor, holding no more than that and a chunk."""
    whole, start = None, 0
    for chunk in chunks:
        if whole is None:
            whole = chunk.new_empty(1, length, chunk.size(2))
        whole[:, start : start + chunk.size(1)] = chunk
        start += chunk.size(1)
    return whole


class AdaptiveSubsampling(Conv2dSubsampling):
    """Trunk, downsamplers, linear, positional encoding: in Conv2dSubsampling's place.

    It *is* a Conv2dSubsampling for ESPnet's encoders, which hand the mask to such
    modules only and refuse less than 7 frames for them (``TooShortUttError``).

    Args:
        idim: mel bins F.
        odim: the encoder's width D.
        dropout_rate: of the default positional encoding, as in Conv2dSubsampling.
        pos_enc: positional encoding module.
        method: a word of ``available_downsamplers()``, or one word per stage.
        stride: overall stride, or one per stage; see :func:`stage_strides`.
        trunk: ``conv1d``, ``conv2d`` or ``dwconv2d``. A convolution before a
            downsampler sees every frame: at full rate the two-dimensional ones cost
            more than they save behind them (docs/results/speed.md).
        channels: of the trunk's convolutions; None means ``odim``.
        train_strides: (lowest, highest) overall stride of a training batch, drawn
            anew for every batch, its logarithm evenly; ``stride`` is that of
            validation and decoding. One model then serves all rates between
            (:meth:`set_stride`).
        vp_weight: weight of the positioning loss in the training loss (1.0 in the
            authors' training); other auxiliary losses have weights of their own.
        after_blocks: the encoder's block behind which each stage stands, such as
            ``[0, 0, 2]``; 0 is this layer. A stage behind a block has no convolution
            of the trunk. The encoder connects them (:class:`LaterStage`). A whole
            ``stride`` is split into as many stages.
        restore: give back the rate of the stages behind blocks, behind the last block
            (True) or behind the block of this number; see
            :mod:`espnet_adastride.plugin.later_stages`. Another stride than the one
            that the layer was built with is then theirs alone.
        tell_strides: add a learned vector times the log of every frame's local stride.
        true_times: give the relative positional encoding the frames' true times, in
            mean output frames; see :mod:`espnet_adastride.plugin.timing`.
        block: seconds; place the frames of every block on a segment of its own, for
            streaming: see :mod:`espnet_adastride.plugin.blocks`. None: the whole
            utterance at once.
        train_blocks: (shortest, longest) block of a training batch in seconds, drawn
            anew for every batch, its logarithm evenly; ``block`` is that of validation
            and decoding.
        **options: the methods' own words (``sigma_square``, ``score_bound`` ...);
            what is not given takes the method's ``training_defaults``.

    Raises:
        ConfigurationError: one line that names the wrong word and the choices.
    """

    def __init__(
        self,
        idim: int,
        odim: int,
        dropout_rate: float = 0.1,
        pos_enc: Optional[torch.nn.Module] = None,
        method: Union[str, Sequence[str]] = "adastride",
        stride: Union[float, Sequence[float]] = 4,
        trunk: str = "conv1d",
        channels: Optional[int] = None,
        vp_weight: float = 1.0,
        train_strides: Optional[Sequence[float]] = None,
        after_blocks: Optional[Sequence[int]] = None,
        restore: Union[bool, int] = False,
        tell_strides: bool = False,
        true_times: bool = False,
        block: Optional[float] = None,
        train_blocks: Optional[Sequence[float]] = None,
        **options: Any,
    ):
        # not Conv2dSubsampling's: this layer makes all its parts itself, whose names in
        # a checkpoint are the same under every release of ESPnet
        torch.nn.Module.__init__(self)
        try:
            named = isinstance(after_blocks, (list, tuple))
            self.strides = stage_strides(stride, len(after_blocks) if named else None)
            self.methods = self._stage_methods(method, len(self.strides))
            self._check_options(options)
            after_blocks = self._checked_blocks(after_blocks)
            self.restore = self._checked_restore(restore, after_blocks)
            self.blocks = self._checked_block(block, train_blocks, after_blocks)
            if trunk not in TRUNKS:
                raise ValueError(unknown_word("trunk", trunk, TRUNKS))
            self.vp_weight = check_number("vp_weight", vp_weight, inclusive=True)
            channels = odim if channels is None else channels
            if not isinstance(channels, numbers.Integral) or channels < 1:
                raise ValueError(f"channels must be a whole number, got {channels!r}")
            stages, downsamplers, later = [], [], []
            maps, bins = 1, idim
            for name, rate, block in zip(self.methods, self.strides, after_blocks):
                if block:
                    stage = build_downsampler(
                        name, odim, rate, **stage_options(name, options)
                    )
                    later.append(LaterStage(block, stage, bool(self.restore)))
                    continue
                in_trunk = name == STRIDED_CONV
                if in_trunk:
                    rate = check_stride(rate, integer=True)
                stage = TRUNKS[trunk](maps, bins, channels, rate if in_trunk else 1)
                maps, bins = stage.channels, stage.bins
                stages.append(stage)
                downsamplers.append(
                    torch.nn.Identity()
                    if in_trunk
                    else build_downsampler(
                        name, stage.width, rate, **stage_options(name, options)
                    )
                )
        except (TypeError, ValueError) as error:
            raise ConfigurationError(f"encoder_conf: input_layer_conf: {error}")
        self.conv = torch.nn.ModuleList(stages)
        self.downsamplers = torch.nn.ModuleList(downsamplers)
        self.later = torch.nn.ModuleList(later)
        if pos_enc is None:
            pos_enc = PositionalEncoding(odim, dropout_rate)
        self.out = torch.nn.Sequential(torch.nn.Linear(stages[-1].width, odim), pos_enc)
        self.train_strides = self._checked_range(train_strides)
        self._decoding_stride = math.prod(self.strides)
        self.stride_vector = (
            torch.nn.Parameter(torch.zeros(odim)) if tell_strides else None
        )
        self.true_times = true_times
        if later and (tell_strides or true_times):
            raise ConfigurationError(
                "encoder_conf: input_layer_conf: after_blocks does not go with "
                "tell_strides and true_times, which speak of this layer's strides alone"
            )
        if self.blocks is not None and self.lengths_from_content():
            raise ConfigurationError(
                "encoder_conf: input_layer_conf: block needs output frames whose number"
                " does not depend on the content: set exact: true, or leave block out"
            )
        if true_times:
            self._use_true_times()
        self._trace: Tuple[StageTrace, ...] = ()
        self._lowest: Optional[torch.Tensor] = None  # mask of the lowest rate

    def _use_true_times(self):
        given = self.out[1]
        if type(given) is not RelPositionalEncoding:
            raise ConfigurationError(
                "encoder_conf: input_layer_conf: true_times needs rel_pos_type: latest,"
                " pos_enc_layer_type: rel_pos and rel_selfattn"
            )
        self.out[1] = TrueTimeEncoding(given.d_model, given.dropout.p)

    def _load_from_state_dict(self, state_dict, prefix, *rest):
        # a conv2d's parameters fit (--init_param), whichever ESPnet wrote them
        fit_names(state_dict, prefix, [prefix + name for name in self.state_dict()])
        # past Conv2dSubsampling's, which renames the other way
        torch.nn.Module._load_from_state_dict(self, state_dict, prefix, *rest)

    def __getitem__(self, key):
        """Return the positional encoding for -1: what ESPnet asks for, and no more."""
        if key != -1:
            raise NotImplementedError("only -1, the positional encoding")
        return self.out[1]

    @staticmethod
    def _stage_methods(method, stages) -> List[str]:
        methods = [method] * stages if isinstance(method, str) else list(method)
        if len(methods) != stages:
            raise ValueError(
                f"method names {len(methods)} stages ({', '.join(map(str, methods))}) "
                f"and stride has {stages}: give one method per stage"
            )
        for name in methods:
            if name not in available_downsamplers():
                raise ValueError(unknown_word("method", name, available_downsamplers()))
        return methods

    def _checked_blocks(self, after_blocks) -> List[int]:
        """Return the block of each stage, 0 for this layer."""
        if after_blocks is None:
            return [0] * len(self.strides)
        given = after_blocks if isinstance(after_blocks, (list, tuple)) else ()
        whole = all(isinstance(b, int) and not isinstance(b, bool) for b in given)
        if len(given) != len(self.strides) or not whole:
            raise ValueError(
                f"after_blocks must be a list of {len(self.strides)} whole numbers, "
                f"one for each stage of {self.strides}, got {after_blocks!r}"
            )
        if given[0] != 0 or list(given) != sorted(given):
            raise ValueError(
                f"after_blocks must begin with 0, this layer, and not decrease, got "
                f"{after_blocks!r}"
            )
        return list(given)

    @staticmethod
    def _checked_restore(restore, after_blocks) -> Union[bool, int]:
        """Return True, a block's number, or False."""
        if isinstance(restore, bool) and not restore:
            return False
        if not isinstance(restore, (bool, int)) or restore < 1:
            raise ValueError(
                "restore must be true (give the rate back behind the last block), "
                f"false, or the number of a block, got {restore!r}"
            )
        if not any(after_blocks):
            raise ValueError(
                "restore gives back the rate of stages behind blocks, and there is "
                "none: give after_blocks, such as [0, 1]"
            )
        if restore is not True and restore <= after_blocks[-1]:
            raise ValueError(
                f"restore: {restore} leaves no block to the rate of the stage behind "
                f"block {after_blocks[-1]}: give a later block, or true"
            )
        return restore

    def _checked_block(self, block, train_blocks, after_blocks):
        """Return the length of blocks, or None."""
        if block is None:
            if train_blocks is not None:
                raise ValueError(
                    "train_blocks draws what block is in training: give block, too"
                )
            return None
        if any(after_blocks):
            raise ValueError(
                "block does not go with after_blocks: a stage behind a block of the "
                "encoder places the whole utterance; leave one of them out"
            )
        return BlockLength(block, train_blocks, self.strides)

    def connect(self, blocks: torch.nn.ModuleList, interctc: Sequence[int] = ()):
        """Put the stages of ``after_blocks`` behind the encoder's blocks.

        Args:
            blocks: of the encoder.
            interctc: blocks whose frames go to the intermediate CTC, too.

        Raises:
            ConfigurationError: if the encoder has no such block, no block would run at
                the lowest rate, or the intermediate CTC would get other frames than
                the last one.
        """
        where = "encoder_conf: input_layer_conf:"
        for stage in self.later:
            if stage.block > len(blocks):
                raise ConfigurationError(
                    f"{where} after_blocks names block {stage.block} and the encoder "
                    f"has {len(blocks)}"
                )
            stage.listen(blocks, self.out[1])
        last = self.later[-1].block
        if self.restore:
            self.restore = len(blocks) if self.restore is True else self.restore
            if self.restore > len(blocks):
                raise ConfigurationError(
                    f"{where} restore names block {self.restore} and the encoder has "
                    f"{len(blocks)}"
                )
            if self.restore == last:
                raise ConfigurationError(
                    f"{where} after_blocks names block {last}, the encoder's last: "
                    "restore leaves no block to its rate; name an earlier one"
                )
            blocks[self.restore - 1].register_forward_hook(self._restore)
            return
        early = [block for block in interctc if block < last]
        if early:
            raise ConfigurationError(
                f"encoder_conf: interctc_layer_idx names block {early[0]}, before the "
                f"stage of input_layer_conf: after_blocks behind block {last}: its "
                "frames are not those of the last CTC; name later blocks, or set "
                "restore: true"
            )

    def _restore(self, block, inputs, outputs):
        frames, mask = outputs
        x, *place = frames if isinstance(frames, tuple) else (frames,)
        if not in_backward():
            self._lowest = mask
        x, place, mask = give_back(x, place, mask)
        return ((x, *place) if place else x), mask

    def lengthen_intermediate(self, output):
        """Bring what the intermediate CTC reads to the rate that is given back.

        Args:
            output: an encoder's frames, or (frames, [(block, frames of it)]).

        Returns:
            The same; the frames of blocks between the stages and ``restore`` lengthened
            by the stages' inverses, so that they are as many as the encoder gives.
        """
        lowest, self._lowest = self._lowest, None
        if lowest is None or not isinstance(output, tuple):
            return output
        frames, inner = output
        return frames, [
            (
                (one[0], lengthen(one[1], lowest, one[0]))
                if isinstance(one, tuple) and one[0] < self.restore
                else one
            )
            for one in inner
        ]

    def kept_stages(self) -> int:
        """Return how many of the first stages shorten what the encoder gives.

        All, unless ``restore`` gives back those behind blocks.
        """
        return len(self.downsamplers) if self.restore else len(self.stages())

    def output_strides(self) -> List[float]:
        """Return the strides of the stages that shorten what the encoder gives."""
        return self.current_strides()[: self.kept_stages()]

    def block_strides(self, blocks: int) -> List[float]:
        """Return the overall stride at which every block of the encoder works.

        Args:
            blocks: of the encoder.
        """
        first = len(self.downsamplers)
        strides = self.current_strides()
        overall = [math.prod(strides[:first])] * blocks
        for stage, stride in zip(self.later, strides[first:]):
            end = self.restore if self.restore else blocks
            for block in range(stage.block, end):
                overall[block] *= stride
        return overall

    def stages(self) -> List[torch.nn.Module]:
        """Return all downsamplers; Identity where the trunk's convolution is one."""
        return [*self.downsamplers, *(stage.downsampler for stage in self.later)]

    def lengths_from_content(self) -> bool:
        """Return whether output lengths depend on the frames, not on their number."""
        stages = self.stages()[: self.kept_stages()]
        stages = [s for s in stages if not isinstance(s, torch.nn.Identity)]
        return any(stage.lengths_from_content for stage in stages)

    def _check_options(self, options) -> None:
        """Refuse words that no stage's method knows."""
        known = [w for name in set(self.methods) for w in downsampler_options(name)]
        for word in options:
            if word not in known:
                choices = list(OWN_WORDS) + sorted(set(known))
                raise ValueError(unknown_word("key", word, choices))

    def current_strides(self) -> List[float]:
        """Return the stride of each stage, as learned so far where it is learned."""
        return [
            stride if isinstance(stage, torch.nn.Identity) else stage.current_stride()
            for stage, stride in zip(self.stages(), self.strides)
        ]

    def set_stride(self, stride: float) -> None:
        """Resample at another overall rate from now on.

        The change is spread evenly, as a factor, over the stages that take any real
        stride (adastride, adastride_f, spectral_pool), starting from the strides the
        layer was built with; a stage that would come below 1 stays at 1 and leaves its
        part to the others. The parameters stay as they are. With ``restore``, the
        stages behind blocks alone change: the rate that is given back stays.

        Args:
            stride: overall, a real number >= 1.

        Raises:
            ConfigurationError: if no stage takes it, or the other stages alone are
                above it.
        """
        self._decoding_stride = self._spread(stride)

    def _spread(self, stride: float) -> float:
        """Set the stages' strides; return the overall stride."""
        try:
            wanted = check_stride(stride)
        except ValueError as error:
            raise ConfigurationError(str(error)) from None
        stages = self.stages()
        first = len(self.downsamplers) if self.restore else 0
        free = [
            index
            for index, stage in enumerate(stages)
            if index >= first
            and not isinstance(stage, torch.nn.Identity)
            and stage.takes_any_stride()
        ]
        names = ", ".join(self.methods[first:])
        if not free:
            raise ConfigurationError(
                f"stride {wanted:g}: the stages of this model ({names}) are tied to "
                f"theirs, {math.prod(self.current_strides()):g} together; adastride "
                "and adastride_f take any"
            )
        current = self.current_strides()
        tied = math.prod(s for i, s in enumerate(current) if i not in free)
        if wanted < tied:
            raise ConfigurationError(
                f"stride {wanted:g}: the stages of this model ({names}) that are tied "
                f"to their strides make {tied:g} alone; ask for {tied:g} or more"
            )
        moving = list(free)
        while True:
            built = math.prod(self.strides[i] for i in moving)
            factor = (wanted / tied / built) ** (1 / len(moving))
            # log-even water filling: what is held at 1 is taken out and the rest redone
            held = [i for i in moving if self.strides[i] * factor < 1]
            if not held or len(held) == len(moving):
                break
            moving = [i for i in moving if i not in held]
        for i in free:
            new = max(self.strides[i] * factor, 1.0) if i in moving else 1.0
            # a factor of 1 gives the very strides that it was built with
            new = self.strides[i] if math.isclose(new, self.strides[i]) else new
            stages[i].set_stride(new)
        return wanted

    def _checked_range(self, train_strides) -> Optional[Tuple[float, float]]:
        """Return (lowest, highest); refuse what the stages cannot follow."""
        if train_strides is None:
            return None
        where = "encoder_conf: input_layer_conf: train_strides"
        try:
            low, high = (check_stride(one) for one in train_strides)
        except (TypeError, ValueError):
            low, high = 1.0, 0.0
        if low > high:
            raise ConfigurationError(
                f"{where} must be the lowest and the highest stride, such as [4, 12], "
                f"got {train_strides!r}"
            )
        try:
            for stride in (low, high, math.prod(self.strides)):
                self._spread(stride)
        except ConfigurationError as error:
            raise ConfigurationError(f"{where}: {error}") from None
        return low, high

    def _draw_stride(self) -> None:
        """Take a training batch's stride, or go back to the decoding one."""
        if self.train_strides is None:
            return
        stride = self._decoding_stride
        if self.training:
            low, high = map(math.log, self.train_strides)
            share = torch.rand(()).item()  # on the CPU: no device is waited for
            stride = math.exp(low + share * (high - low))
        self._spread(stride)

    def reported_stats(self) -> Dict[str, Union[float, torch.Tensor]]:
        """Return what the stages report of themselves, ``{name_stage: scalar}``.

        Stages count from 1. Where one learns its stride (``stride_1`` ...), ``stride``
        is that of all stages together.
        """
        stats = {}
        for number, stage in enumerate(self.stages(), 1):
            if not isinstance(stage, torch.nn.Identity):
                for name, value in stage.reported_stats().items():
                    stats[f"{name}_{number}"] = value
        for number, stage in enumerate(self.later, len(self.downsamplers) + 1):
            if self.restore:
                stats[f"bypass_{number}"] = stage.share()
        if any(name.startswith("stride_") for name in stats):
            stats["stride"] = float(math.prod(self.current_strides()))
        return stats

    def output_lengths(self, lengths):
        """Return the frames that come out for frames that go in (int or tensor).

        Of the encoder, with the stages behind its blocks; at the rate that is given
        back with ``restore``. Where lengths depend on the content (hnet, ``exact:
        false``): those aimed at. With ``block``, block by block.
        """
        if self.blocks is not None:
            return self.blocks.output_lengths(lengths, self.output_strides())
        for stride in self.output_strides():
            lengths = downsampled_lengths(lengths, stride)
        return lengths

    def forward(
        self,
        x: torch.Tensor,
        x_mask: Optional[torch.Tensor],
        prefix_embeds: Optional[torch.Tensor] = None,
    ):
        """Shorten a padded batch.

        Args:
            x: (B, T, F) log-mel frames.
            x_mask: (B, 1, T), True at valid frames; None if all are.
            prefix_embeds: (B, P, D), what to put before the frames of every utterance
                (OWSM-CTC's language and task); not shortened, P times before time 0.

        Returns:
            The positional encoding's result for (B, P + T', D): a tensor, or a pair
            with the positional embedding for rel_pos; and the mask (B, 1, P + T'), None
            for None.
        """
        # drawn again where checkpointing runs this layer again: it sets the random
        # numbers back, and dropout behind the drawing must get those that it had
        self._draw_stride()
        if x_mask is None:
            lengths = torch.full((x.size(0),), x.size(1), device=x.device)
        else:
            lengths = x_mask[:, 0].sum(dim=1)
        block = None if self.blocks is None else self.blocks.draw(self.training)
        if block is not None and x.size(1) > block:
            x = zero_padding(x, lengths)
            rest = block, prefix_embeds, x_mask is not None
            if self._is_long(x, x_mask):
                result, trace = run_long(self, x, *rest)
            else:
                result, trace = run_blocks(self, x, lengths, *rest)
            self.keep_trace(trace)
            return result
        if self._is_long(x, x_mask):
            return self._in_chunks(x, x_mask, prefix_embeds)
        x, times, lengths, trace = self.run_stages(zero_padding(x, lengths), lengths)
        self.keep_trace(trace)
        mask = None if x_mask is None else length_mask(lengths, x.size(1)).unsqueeze(1)
        told = self._told(times, lengths)
        return self.finish(self.out[0](x), times, told, mask, prefix_embeds)

    def run_stages(self, x, lengths, convolve=None):
        """Run trunk and downsamplers over sequences, zero beyond their lengths.

        Args:
            x: (B, T, F).
            lengths: (B,).
            convolve: what stands in for a stage's convolution: called with the stage's
                index, the stage, its stride and (B, T, C); None: the stage itself.

        Returns:
            x (B, T', C'), the frames' times or None, lengths, and a list of StageTrace.
        """
        trace = []
        times = self._start_times(x)
        for index, (stage, downsampler, stride) in enumerate(
            zip(self.conv, self.downsamplers, self.strides)
        ):
            in_trunk = isinstance(downsampler, torch.nn.Identity)
            if convolve is None:
                x = stage(x)
            else:
                x = convolve(index, stage, stride if in_trunk else 1, x)
            if in_trunk:
                positions, shorter = None, downsampled_lengths(lengths, stride)
                x = zero_padding(x, shorter)  # the bias reached the padding
            else:
                result = downsampler(x, lengths)
                # the output itself is not kept: the trace must not hold the activations
                trace.append(StageTrace(lengths, *result[1:], downsampler.loss_name))
                x, positions, shorter = result.output, result.positions, result.lengths
            times = self._next_times(times, positions, lengths, shorter, x.size(1))
            lengths = shorter
        return x, times, lengths, trace

    def _start_times(self, x):
        """Return the frames' times (B, T), in frames; None if nobody asks."""
        if self.stride_vector is None and not self.true_times:
            return None
        times = torch.arange(x.size(1), device=x.device, dtype=torch.float64)
        return times.expand(x.size(0), -1)

    def _next_times(self, times, positions, lengths, output_lengths, width):
        """Return the times behind a stage."""
        if times is None:
            return None
        if positions is None:
            steps = uniform_steps(lengths, output_lengths, width)
        else:
            steps = slot_steps(positions, lengths, output_lengths, width)
        return times_at(times, steps)

    def _told(self, times, lengths):
        """Return what tell_strides says of each frame (B, T'); None: nothing."""
        return None if self.stride_vector is None else log_strides(times, lengths)

    def finish(self, x, times, told, mask, prefix_embeds):
        """Tell of the strides, put the prefix before the frames, encode positions."""
        if told is not None:
            x = x + told.to(x.dtype).unsqueeze(2) * self.stride_vector
        if self.true_times:
            times = times / math.prod(self.current_strides())
        if prefix_embeds is not None:
            count = prefix_embeds.size(1)
            x = torch.cat([prefix_embeds, x], dim=1)
            if mask is not None:
                mask = torch.cat([mask.new_ones(mask.size(0), 1, count), mask], dim=2)
            if self.true_times:
                before = torch.arange(-count, 0, device=x.device, dtype=times.dtype)
                times = torch.cat([before.expand(x.size(0), -1), times], dim=1)
        return self.out[1](*((x, times) if self.true_times else (x,))), mask

    def _is_long(self, x, x_mask) -> bool:
        if torch.is_grad_enabled() or x.size(0) != 1:
            return False
        width = max(stage.width for stage in self.conv)
        if x.size(1) * width * x.element_size() <= LONG_BYTES:
            return False
        return x_mask is None or bool(x_mask.all())

    def _in_chunks(self, x, x_mask, prefix_embeds=None):
        """Do what forward does for one long utterance, without padding or gradients."""
        width = max(stage.width for stage in self.conv)
        size = max(CHUNK_BYTES // (width * x.element_size()), 1)
        frames, length, trace = partial(x.split, size, dim=1), x.size(1), []
        held, times = 0, self._start_times(x)
        lengths = torch.tensor([length], device=x.device)
        for stage, downsampler, stride in zip(
            self.conv, self.downsamplers, self.current_strides()
        ):
            in_trunk = isinstance(downsampler, torch.nn.Identity)
            frames = partial(_convolve_chunks, stage, stride if in_trunk else 1, frames)
            positions = None
            if not in_trunk:
                result = downsampler.in_chunks(frames, length)
                frames, positions = result.output, result.positions
                trace.append(StageTrace(lengths, *result[1:], downsampler.loss_name))
                length = int(result.lengths)  # not always what the stride says
            else:
                length = downsampled_lengths(length, stride)
            shorter = torch.tensor([length], device=x.device)
            times = self._next_times(times, positions, lengths, shorter, length)
            lengths = shorter
            needed = length * stage.width * x.element_size()
            if stage is not self.conv[-1] and held + needed <= HELD_BYTES:
                frames = partial(_joined(frames(), length).split, size, dim=1)
                held = needed  # what was held before has been read for the last time
        self._trace = tuple(trace)
        x = _joined(map(self.out[0], frames()), length)
        mask = None if x_mask is None else x_mask.new_ones(1, 1, length)
        told = self._told(times, lengths)
        return self.finish(x, times, told, mask, prefix_embeds)

    def keep_trace(self, trace) -> None:
        """Hold what the stages reported of a batch, for :meth:`take_trace`."""
        if not in_backward():  # its losses are in the training loss already
            self._trace = tuple(trace)

    def take_trace(self) -> Tuple[StageTrace, ...]:
        """Return what the last forward's downsamplers reported, once, in order.

        ESPnet's encoders return nothing but frames, so the model asks here for the
        positioning losses; taking them away keeps no graph alive until the next batch.
        """
        trace, self._trace = self._trace, ()
        for stage in self.later:
            trace, stage.trace = trace + stage.trace, ()
        return trace
