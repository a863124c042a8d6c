"""The input layer: trunk, linear layer, positional encoding.

It replaces ESPnet's Conv2dSubsampling: log-mel frames (B, T, F) in, frames for the
encoder's blocks (B, T', D) out, positional encoding included::

    (B, T, F) -> trunk (trunk.py) -> linear -> positional encoding

Output length: ceil(length / s) stage by stage, for whole strides ceil(length / stride).
It depends on the utterance alone, not on its batch. (So does that of Conv2dSubsampling
in ESPnet 202611; 202511 sliced the mask from the padded end.) If a stage learns its
stride (diff_stride), s is its current value.

The parts of the layer, one file each:

* ``layer_conf.py``: the words of ``input_layer_conf`` and their checks;
* ``strides.py``: the strides of the stages;
* ``trunk.py``: convolutions and downsamplers;
* ``later_stages.py``: stages after blocks of the encoder, and ``restore``;
* ``true_times.py``: ``tell_strides`` and ``true_times``;
* ``blocks.py``: a batch, a stream or a recording block by block;
* ``long_input.py``: one long utterance in chunks.
"""

import math
from typing import Any, Container, Dict, List, Optional, Sequence, Tuple, Union

import torch

from espnet_adastride.downsampling import downsampled_lengths, length_mask
from espnet_adastride.downsampling.output import (
    check_number,
    check_switch,
    zero_padding,
)
from espnet_adastride.downsampling.stages import StageTrace
from espnet_adastride.errors import ConfigurationError, located
from espnet_adastride.networks.resnet import stage_methods
from espnet_adastride.plugin import layer_conf, long_input
from espnet_adastride.plugin.blocks import run_blocks, run_long
from espnet_adastride.plugin.espnet import Conv2dSubsampling, PositionalEncoding
from espnet_adastride.plugin.later_stages import LaterStages, Traced
from espnet_adastride.plugin.strides import (
    WHERE,
    checked_range,
    drawn,
    spread_stride,
    stage_strides,
)
from espnet_adastride.plugin.true_times import TrueTimeEncoding, log_strides
from espnet_adastride.plugin.trunk import build_trunk, run_trunk


def fit_names(state_dict: Dict[str, Any], prefix: str, own: Container[str]) -> bool:
    """Rename the parameters at the end of an input layer to its own names, in place.

    ESPnet 202611 calls ``out.0`` (a linear layer) ``out`` and ``out.1`` (the positional
    encoding, whose ``alpha`` is its only parameter) ``pos_enc``. The plugin's layer has
    202511's names with both.

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


def run_whole(layer, x, lengths):
    """Run ``layer.run_stages`` and the linear layer for a padded batch."""
    x, *rest = layer.run_stages(x, lengths)
    return (layer.out[0](x), *rest)


class AdaptiveSubsampling(Traced, Conv2dSubsampling):
    """Trunk, downsamplers, linear, positional encoding: in Conv2dSubsampling's place.

    It *is* a Conv2dSubsampling: ESPnet's encoders pass the mask only to such modules,
    and raise ``TooShortUttError`` for fewer than 7 frames.

    Args:
        idim: mel bins F.
        odim: the encoder's width D.
        dropout_rate: of the default positional encoding, as in Conv2dSubsampling.
        pos_enc: positional encoding module.
        method: a word of ``available_downsamplers()``, or one word per stage.
        stride: overall stride, or one per stage; see :func:`stage_strides`.
        trunk: ``conv1d``, ``conv2d`` or ``dwconv2d``. A convolution before a
            downsampler works at the full rate, where the two-dimensional ones cost
            more than downsampling saves (docs/results/speed.md).
        channels: of the trunk's convolutions; None means ``odim``.
        train_strides: (lowest, highest) overall stride of a training batch, drawn
            log-uniformly for every batch; ``stride`` is that of validation and
            decoding. One model then serves all rates in this range
            (:meth:`set_stride`).
        vp_weight: weight of the positioning loss in the training loss (1.0 in the
            authors' training); other auxiliary losses have weights of their own.
        after_blocks: the encoder's block before each stage, such as ``[0, 0, 2]``; 0 is
            this layer. A stage after a block has no convolution of the trunk. The
            encoder connects them (:class:`LaterStages`). A whole ``stride`` is split
            into as many stages.
        restore: restore the rate of the stages after blocks: after the last block
            (True) or after the block of this number; see
            :mod:`espnet_adastride.plugin.later_stages`. :meth:`set_stride` then changes
            these stages alone.
        score_from_ctc: start the scores of the stages after blocks from 1 - p(blank) of
            the intermediate CTC there, times 1 (True) or this number; see the same.
        tell_strides: add a learned vector times the log of every frame's local stride.
        true_times: give the relative positional encoding the frames' true times, in
            mean output frames; see :mod:`espnet_adastride.plugin.true_times`.
        block: seconds; place the frames of every block on a segment of its own, for
            streaming: see :mod:`espnet_adastride.plugin.blocks`. None: the whole
            utterance at once.
        train_blocks: (shortest, longest) block of a training batch in seconds, drawn
            log-uniformly for every batch; ``block`` is that of validation and
            decoding.
        **options: the methods' own words (``sigma_square``, ``score_bound`` ...);
            defaults are the method's ``training_defaults``.

    Raises:
        ConfigurationError: naming the wrong word and the choices.
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
        score_from_ctc: Union[bool, float] = False,
        tell_strides: bool = False,
        true_times: bool = False,
        block: Optional[float] = None,
        train_blocks: Optional[Sequence[float]] = None,
        **options: Any,
    ):
        # not Conv2dSubsampling's: the layer makes all its parts itself, so their names
        # in a checkpoint are the same with every release of ESPnet
        torch.nn.Module.__init__(self)
        with located(WHERE, (TypeError, ValueError), ConfigurationError):
            named = isinstance(after_blocks, (list, tuple))
            self.strides = stage_strides(stride, len(after_blocks) if named else None)
            self.methods = stage_methods(method, len(self.strides))
            layer_conf.check_options(options, self.methods)
            places = layer_conf.stage_blocks(after_blocks, self.strides)
            restore = layer_conf.checked_restore(restore, places)
            ctc_start = layer_conf.checked_ctc_start(
                score_from_ctc, self.methods, places, options
            )
            self.blocks = layer_conf.block_length(
                block, train_blocks, places, self.strides
            )
            channels = odim if channels is None else channels
            layer_conf.check_trunk(trunk, channels)
            check_switch("tell_strides", tell_strides)
            check_switch("true_times", true_times)
            self.vp_weight = check_number("vp_weight", vp_weight, inclusive=True)
            first = places.count(0)  # stages of the trunk
            methods, strides = self.methods[:first], self.strides[:first]
            self.conv, self.downsamplers = build_trunk(
                trunk, idim, channels, methods, strides, options
            )
            methods, strides = self.methods[first:], self.strides[first:]
            self.later = LaterStages(
                odim, methods, strides, places[first:], restore, options, ctc_start
            )
        if pos_enc is None:
            pos_enc = PositionalEncoding(odim, dropout_rate)
        self.out = torch.nn.Sequential(
            torch.nn.Linear(self.conv[-1].width, odim), pos_enc
        )
        self.train_strides = checked_range(train_strides, self._spread, self.strides)
        self._decoding_stride = math.prod(self.strides)
        self.stride_vector = (
            torch.nn.Parameter(torch.zeros(odim)) if tell_strides else None
        )
        self.true_times = true_times
        layer_conf.check_together(self)
        if true_times:
            self.out[1] = self.timed_encoding(self.out[1])

    def timed_encoding(self, given: torch.nn.Module) -> torch.nn.Module:
        """Return the positional encoding of true times, in place of the given one."""
        return TrueTimeEncoding.of(given)

    def _load_from_state_dict(self, state_dict, prefix, *rest):
        # a conv2d's parameters fit (--init_param), whichever ESPnet wrote them
        fit_names(state_dict, prefix, [prefix + name for name in self.state_dict()])
        # not Conv2dSubsampling's, which renames the other way
        torch.nn.Module._load_from_state_dict(self, state_dict, prefix, *rest)

    def __getitem__(self, key):
        """Return the positional encoding for -1, the only index that ESPnet uses."""
        if key != -1:
            raise NotImplementedError("only -1, the positional encoding")
        return self.out[1]

    def kept_stages(self) -> int:
        """Return how many of the first stages shorten the encoder's output.

        All, unless ``restore`` restores the rate of those after blocks.
        """
        return len(self.downsamplers) if self.later.restore else len(self.stages())

    def output_strides(self) -> List[float]:
        """Return the strides of the stages that shorten the encoder's output."""
        return self.current_strides()[: self.kept_stages()]

    def block_strides(self, blocks: int) -> List[float]:
        """Return the overall stride at which every block of the encoder works.

        Args:
            blocks: of the encoder.
        """
        first, strides = len(self.downsamplers), self.current_strides()
        overall = [math.prod(strides[:first])] * blocks
        self.later.multiply(overall, strides[first:])
        return overall

    def stages(self) -> List[torch.nn.Module]:
        """Return all downsamplers, in order."""
        return [*self.downsamplers, *(stage.downsampler for stage in self.later)]

    def has_positions(self) -> bool:
        """Return whether a stage places frames, so that strides adapt."""
        return any(stage.has_positions for stage in self.stages())

    def describe(self) -> str:
        """Return methods and overall rate, e.g. ``adastride, 8x``."""
        # one word if all stages share it
        words = self.methods if len(set(self.methods)) > 1 else self.methods[:1]
        text = f"{', '.join(words)}, {math.prod(self.current_strides()):g}x"
        if self.later.restore:
            text += f", back to {math.prod(self.output_strides()):g}x"
        return text

    def lengths_from_content(self) -> bool:
        """Return whether output lengths depend on the frames, not on their number."""
        stages = self.stages()[: self.kept_stages()]
        return any(stage.lengths_from_content for stage in stages)

    def current_strides(self) -> List[float]:
        """Return the stride of each stage, as learned so far where it is learned."""
        return [stage.current_stride() for stage in self.stages()]

    def set_stride(self, stride: float) -> None:
        """Set another overall stride.

        The change is spread over the stages that take any real stride
        (``Downsampler.any_stride``), the same factor for each, starting from the
        strides as built; a stage that would get below 1 stays at 1, and the others take
        its part. The parameters stay the same. With ``restore``, only the stages after
        blocks change: the restored rate stays.

        Args:
            stride: overall, a real number >= 1.

        Raises:
            ConfigurationError: if no stage takes it, or the fixed stages alone exceed
                it.
        """
        self._decoding_stride = self._spread(stride)

    def _spread(self, stride: float) -> float:
        """Set the stages' strides; return the overall stride."""
        first = len(self.downsamplers) if self.later.restore else 0
        return spread_stride(stride, self.stages(), self.strides, self.methods, first)

    def _draw_stride(self) -> None:
        """Set a drawn stride for a training batch, the decoding one otherwise."""
        if self.train_strides is not None:
            self._spread(
                drawn(*self.train_strides) if self.training else self._decoding_stride
            )

    def train(self, mode: bool = True):
        """Set the mode; evaluation begins with the stride and block of decoding."""
        super().train(mode)
        if not mode:
            self._draw_stride()
            if self.blocks is not None and self.blocks.frames is not None:
                self.blocks.draw(False)
        return self

    def reported_stats(self) -> Dict[str, Union[float, torch.Tensor]]:
        """Return the stages' own stats, ``{name_stage: scalar}``.

        Stages count from 1. If one learns its stride (``stride_1`` ...), ``stride``
        is the product of all.
        """
        stats = {}
        for number, stage in enumerate(self.stages(), 1):
            for name, value in stage.reported_stats().items():
                stats[f"{name}_{number}"] = value
        for number, stage in enumerate(self.later, len(self.downsamplers) + 1):
            if self.later.restore:
                stats[f"bypass_{number}"] = stage.share()
            if stage.from_ctc:
                stats[f"ctc_score_{number}"] = stage.ctc_score()
        if any(name.startswith("stride_") for name in stats):
            stats["stride"] = float(math.prod(self.current_strides()))
        return stats

    def output_lengths(self, lengths):
        """Return the encoder's output frames for input frames (int or tensor).

        Stages after blocks are included, unless ``restore`` restores their rate. If
        lengths depend on the content (hnet, ``exact: false``), the target lengths. With
        ``block``, block by block.
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
            prefix_embeds: (B, P, D), to put before the frames of every utterance
                (OWSM-CTC's language and task); not shortened, at P times before 0.

        Returns:
            The positional encoding's result for (B, P + T', D): a tensor, or a pair
            with the positional embedding for rel_pos; and the mask (B, 1, P + T'), None
            for None.
        """
        # also where checkpointing runs this layer again: it resets the random numbers,
        # and dropout, which comes later, must get the same ones
        self._draw_stride()
        if x_mask is None:
            lengths = torch.full((x.size(0),), x.size(1), device=x.device)
        else:
            lengths = x_mask[:, 0].sum(dim=1)
        long = long_input.is_long(self, x, x_mask)
        x = x if long else zero_padding(x, lengths)
        block = None if self.blocks is None else self.blocks.draw(self.training)
        if block is not None and x.size(1) > block:
            run = run_long if long else run_blocks
            x, times, told, lengths, trace = run(self, x, lengths, block)
        else:
            run = long_input.run_in_chunks if long else run_whole
            x, times, lengths, trace = run(self, x, lengths)
            told = None if self.stride_vector is None else log_strides(times, lengths)
        self.keep_trace(trace)
        mask = None if x_mask is None else length_mask(lengths, x.size(1)).unsqueeze(1)
        return self.finish(x, times, told, mask, prefix_embeds)

    def run_stages(self, x, lengths, convolve=None):
        """Run the trunk; see :func:`run_trunk`."""
        times = self.start_times(x)
        return run_trunk(self.conv, self.downsamplers, x, lengths, times, convolve)

    def start_times(self, x):
        """Return the frames' times (B, T), in frames; None if they are not used."""
        if self.stride_vector is None and not self.true_times:
            return None
        times = torch.arange(x.size(1), device=x.device, dtype=torch.float64)
        return times.expand(x.size(0), -1)

    def finish(self, x, times, told, mask, prefix_embeds):
        """Add the strides, put the prefix before the frames, encode positions."""
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

    def take_trace(self) -> Tuple[StageTrace, ...]:
        """Return the traces of all stages of the last forward, once, in order."""
        return sum((stage.take_trace() for stage in self.later), super().take_trace())
