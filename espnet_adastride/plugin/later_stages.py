"""Stages between the encoder's blocks, ``restore`` and ``score_from_ctc``.

A stage of ``input_layer_conf: after_blocks`` shortens the output of a block; the blocks
after it run at the lower rate. With ``restore`` the rate is restored before CTC and
decoder read the frames. With x the T frames before the stage, z the T' frames that the
next blocks made of D(x), and U the stage's inverse (``Downsampler.upsample``: for
AdaStride the transposed alignment, its columns divided by their sums)::

    x' = x + s (U z - x),    s = 1/2 + bypass

s has one value per feature: the bypass of Zipformer (Yao et al., "Zipformer: A faster
and better encoder for automatic speech recognition", ICLR 2024), here without its
limits. At the start both parts have the same weight: a residual connection, up to a
factor that a following norm removes; without a norm, the frames keep their scale. The
difference to 1/2 is learned, so weight decay prefers neither part. With several stages,
the last one is restored first.

What restoring needs (x, the lengths, the positions) is an attribute of the mask of the
shortened frames, which ESPnet's blocks pass on: a layer that gradient checkpointing
runs again finds that of its own run, and nothing outlives the graph.

With ``score_from_ctc``, the scores of AdaStride after block k start from the model's
CTC, which ESPnet trains after that block, too (``interctc_layer_idx``)::

    a_t = w . x_t + v (1 - p_t),    p_t = softmax(ctc(norm(x_t)))[blank]

with x_t the frames that the stage reads, w = 0 and v = 1 (or the given number) at the
start, both learned, and norm the encoder's last where ESPnet applies it before an
intermediate CTC. ``score_bound`` follows. AdaStride reads D + 1 features, the last of
them 1 - p_t, and its output is without the last.

1 - p_t has no gradient. The CTC head is also that of the output: a gradient of the
positions would let the model move frames by changing which of them are blank, and its
logits, (B, T, vocabulary) before the stage, would be kept for it. Positions reach the
blocks before the stage through w . x_t.
"""

from typing import Iterator, List, NamedTuple, Optional, Sequence, Tuple, Union

import torch

from espnet_adastride.downsampling import build_downsampler, length_mask
from espnet_adastride.downsampling.output import Downsampler
from espnet_adastride.downsampling.registry import stage_options
from espnet_adastride.downsampling.stages import StageTrace
from espnet_adastride.errors import ConfigurationError
from espnet_adastride.plugin.strides import WHERE

#: attribute of a mask: its frames before the stage that shortened them
_BEFORE = "_before_stage"


def in_backward() -> bool:
    """Return whether this is a backward pass: a checkpointed layer runs again."""
    return torch._C._current_graph_task_id() != -1


class Traced:
    """Mixin of a module with downsamplers: their start, their reports of a batch."""

    _trace: Tuple[StageTrace, ...] = ()

    def __getstate__(self):
        # copies are of the module: a trace is of one batch, and has its graph
        return {**self.__dict__, "_trace": ()}

    def espnet_initialization_fn(self) -> None:
        """Set the methods' own start; ESPnet calls it after ``init: xavier_uniform``.

        It would otherwise begin at random strides, since that draws all matrices.
        """
        # a LaterStage sets more than its downsampler, and comes before it
        for module in reversed(list(self.modules())):
            if isinstance(module, (Downsampler, LaterStage)):
                module.set_start()

    def keep_trace(self, trace) -> None:
        """Keep the stages' traces of a batch, for :meth:`take_trace`."""
        if not in_backward():  # its losses are in the training loss already
            self._trace = tuple(trace)

    def take_trace(self) -> Tuple[StageTrace, ...]:
        """Return the downsamplers' traces of the last forward, once, in order.

        ESPnet's encoders return only frames, so the model takes the positioning losses
        from here. Taking them away lets the graph be freed before the next batch.
        """
        trace, self._trace = self._trace, ()
        return trace


class Before(NamedTuple):
    """The input of a stage, to restore its rate.

    Attributes:
        stage: the stage.
        frames: (B, T, D).
        place: [positional embedding], or [] where frames have had theirs added.
        mask: (B, 1, T); has the input of the previous stage, if that is restored, too.
        lengths: (B,) valid frames.
        positions: (B, T) of the stage's output, or None.
    """

    stage: "LaterStage"
    frames: torch.Tensor
    place: List[torch.Tensor]
    mask: torch.Tensor
    lengths: torch.Tensor
    positions: Optional[torch.Tensor]


def stages_before(mask: torch.Tensor) -> Iterator[Before]:
    """Yield the inputs of the stages that shortened a mask's frames, the last first."""
    while hasattr(mask, _BEFORE):
        before = getattr(mask, _BEFORE)
        yield before
        mask = before.mask


def give_back(frames, place, mask):
    """Restore the rate of all stages that shortened these frames, the last stage first.

    Args:
        frames: (B, T', D).
        place: [positional embedding] or [].
        mask: (B, 1, T') of a :class:`LaterStage` that restores.

    Returns:
        The same three at the rate before the first of the stages.
    """
    for before in stages_before(mask):
        frames = before.stage.restored(frames, before)
        place, mask = before.place, before.mask
    return frames, place, mask


def lengthen(frames: torch.Tensor, mask: torch.Tensor, block: int) -> torch.Tensor:
    """Lengthen the output of a block between the stages, without the bypass.

    Args:
        frames: (B, T', D) after the block.
        mask: of the lowest rate.
        block: number of the block, from 1.

    Returns:
        (B, T, D) at the rate before the first stage.
    """
    for before in stages_before(mask):
        if before.stage.block <= block:
            frames = before.stage.upsampled(frames, before)
    return frames


class LaterStage(Traced, torch.nn.Module):
    """A downsampler after a block of the encoder.

    Args:
        block: number of the block, from 1.
        downsampler: of the encoder's width D; of D + 1 with ``ctc_start``.
        restore: its rate is restored; it then has a parameter ``bypass`` (D,).
        ctc_start: v at the start; None: the CTC is not used.
    """

    def __init__(
        self,
        block: int,
        downsampler: torch.nn.Module,
        restore: bool = False,
        ctc_start: Optional[float] = None,
    ):
        super().__init__()
        self.block, self.downsampler = block, downsampler
        self.from_ctc, self.ctc_start = ctc_start is not None, ctc_start
        self.size = downsampler.size - self.from_ctc
        self.set_start()
        self.bypass = torch.nn.Parameter(torch.zeros(self.size)) if restore else None
        self._ctc: Tuple[torch.nn.Module, ...] = ()

    def set_start(self) -> None:
        """Set the downsampler's scores to where training starts."""
        self.downsampler.set_start()
        if self.ctc_start is not None:
            start = self.ctc_start / self.downsampler.score_rate
            with torch.no_grad():
                self.downsampler.score.weight[0, -1] = start

    def listen(self, blocks: torch.nn.ModuleList, positional_encoding) -> None:
        """Shorten the output of the block, by a hook.

        With a hook, the encoder's blocks keep their numbers, in its code and in
        checkpoints.
        """
        # in a tuple: the encoding is not to be registered here, too
        self._positional_encoding = (positional_encoding,)
        blocks[self.block - 1].register_forward_hook(self._shorten)

    def _shorten(self, block, inputs, outputs):
        frames, mask = outputs
        x, *place = frames if isinstance(frames, tuple) else (frames,)
        lengths = mask[:, 0].sum(dim=1)
        result = self.downsampler(self.given(x), lengths)
        losses = self.downsampler.loss_name
        self.keep_trace([StageTrace(lengths, *result[1:], losses)])
        z = result.output[..., : self.size]
        shorter = length_mask(result.lengths, z.size(1)).unsqueeze(1)
        if self.bypass is not None:
            before = Before(self, x, place, mask, lengths, result.positions)
            setattr(shorter, _BEFORE, before)
        if not place:
            return z, shorter
        _, place = self._positional_encoding[0](z)  # of fewer frames; z has had its own
        return (z, place), shorter

    def given(self, x: torch.Tensor) -> torch.Tensor:
        """Return what the downsampler reads of a block's frames x (B, T, D)."""
        return torch.cat([x, self.not_blank(x)], dim=2) if self.from_ctc else x

    def use_ctc(self, encoder: torch.nn.Module, ctc: torch.nn.Module) -> None:
        """Set the encoder, which has the norm, and the model's CTC."""
        self._ctc = (encoder, ctc)  # in a tuple: their parameters are the model's

    @torch.no_grad()
    def not_blank(self, x: torch.Tensor) -> torch.Tensor:
        """Return 1 - p(blank), (B, T, 1) in the dtype of x (B, T, D), detached.

        Raises:
            ConfigurationError: there is no CTC, in an encoder without a model.
        """
        if not self._ctc:
            raise ConfigurationError(
                f"{WHERE}: score_from_ctc needs the CTC of a model, and this encoder is"
                " used without one; build it by the task"
            )
        encoder, ctc = self._ctc
        # as ESPnet reads intermediate frames: e_branchformer's are not normalised
        normed = getattr(encoder, "normalize_before", False)
        probabilities = ctc.softmax(encoder.after_norm(x) if normed else x)
        return (1 - probabilities[..., :1]).to(x.dtype)  # ESPnet's CTC has blank 0

    def ctc_score(self) -> torch.Tensor:
        """Return v, a scalar."""
        return self.downsampler.score_weight(torch.float32)[-1].detach()

    def upsampled(self, z: torch.Tensor, before: Before) -> torch.Tensor:
        """Return U z, (B, T, D) for z (B, T', D)."""
        return self.downsampler.upsample(
            z, before.lengths, before.frames.size(1), before.positions
        )

    def restored(self, z: torch.Tensor, before: Before) -> torch.Tensor:
        """Return x + s (U z - x), (B, T, D)."""
        return self.mixed(before.frames, self.upsampled(z, before))

    def mixed(self, x: torch.Tensor, upsampled: torch.Tensor) -> torch.Tensor:
        """Return x + s (U z - x), (B, T, D), of x and U z."""
        return x + (0.5 + self.bypass) * (upsampled - x)

    def share(self) -> torch.Tensor:
        """Return the mean of s, a scalar: the weight of the lower rate."""
        return (0.5 + self.bypass.detach()).mean()


class LaterStages(torch.nn.ModuleList):
    """All stages after blocks of the encoder, in order, and where the rate is restored.

    Args:
        size: the encoder's width D.
        methods: a word of ``available_downsamplers()`` for each stage.
        strides: of the stages.
        blocks: the block before each stage.
        restore: restore their rate after the last block (True) or after the block of
            this number.
        options: the methods' own words.
        ctc_start: of every stage, see :class:`LaterStage`.

    Attributes:
        lowest: mask of the lowest rate, from the hook that restores the rate, for
            :meth:`lengthen_intermediate`.
    """

    def __init__(self, size, methods, strides, blocks, restore, options, ctc_start):
        super().__init__()
        self.restore: Union[bool, int] = restore
        self.lowest: Optional[torch.Tensor] = None
        size = size if ctc_start is None else size + 1
        for name, stride, block in zip(methods, strides, blocks):
            own = stage_options(name, options)
            stage = build_downsampler(name, size, stride, **own)
            self.append(LaterStage(block, stage, bool(restore), ctc_start))

    def connect(
        self,
        blocks: torch.nn.ModuleList,
        positional_encoding: torch.nn.Module,
        interctc: Optional[Sequence[int]] = (),
    ) -> None:
        """Put the stages of ``after_blocks`` after the encoder's blocks.

        Args:
            blocks: of the encoder.
            positional_encoding: of the input layer.
            interctc: blocks whose frames the intermediate CTC reads; None: the encoder
                knows none.

        Raises:
            ConfigurationError: if the encoder has no such block, no block would run at
                the lowest rate, the intermediate CTC would read other frames than
                the last one, or ``score_from_ctc`` misses it.
        """
        for stage in self:
            if stage.block > len(blocks):
                raise ConfigurationError(
                    f"{WHERE}: after_blocks names block {stage.block} and the encoder "
                    f"has {len(blocks)}: name an earlier one"
                )
            if stage.from_ctc and interctc is None:
                raise ConfigurationError(
                    f"{WHERE}: score_from_ctc needs an intermediate CTC, and this "
                    "encoder has none; take conformer, e_branchformer, "
                    "multiconv_conformer or transformer"
                )
            if stage.from_ctc and stage.block not in interctc:
                raise ConfigurationError(
                    f"{WHERE}: score_from_ctc needs an intermediate CTC after block "
                    f"{stage.block}, where a stage is: encoder_conf: "
                    f"interctc_layer_idx must have {stage.block}, got {list(interctc)}"
                )
            stage.listen(blocks, positional_encoding)
        last = self[-1].block
        if self.restore:
            self.restore = len(blocks) if self.restore is True else self.restore
            if self.restore > len(blocks):
                raise ConfigurationError(
                    f"{WHERE}: restore names block {self.restore} and the encoder has "
                    f"{len(blocks)}: name an earlier one, or set restore: true"
                )
            if self.restore == last:
                raise ConfigurationError(
                    f"{WHERE}: after_blocks names block {last}, the encoder's last: "
                    "restore leaves no block at its rate; name an earlier one"
                )
            blocks[self.restore - 1].register_forward_hook(self._restore)
            return
        early = [block for block in interctc or () if block < last]
        if early:
            needed = any(stage.from_ctc and stage.block in early for stage in self)
            later = "" if needed else "name later blocks, or "
            raise ConfigurationError(
                f"encoder_conf: interctc_layer_idx names block {early[0]}, before the "
                f"stage that input_layer_conf: after_blocks puts after block {last}: "
                f"its frames are not those of the last CTC; {later}set restore: true"
            )

    def _restore(self, block, inputs, outputs):
        frames, mask = outputs
        x, *place = frames if isinstance(frames, tuple) else (frames,)
        if not in_backward():
            self.lowest = mask
        x, place, mask = give_back(x, place, mask)
        return ((x, *place) if place else x), mask

    def lengthen_intermediate(self, output):
        """Bring the frames of the intermediate CTC to the restored rate.

        Args:
            output: an encoder's frames, or (frames, [(block, frames of it)]).

        Returns:
            The same, with the frames of blocks between the stages and ``restore``
            lengthened by the stages' inverses to the length of the encoder's output.
        """
        lowest, self.lowest = self.lowest, None
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

    def multiply(self, strides: List[float], own: Sequence[float]) -> None:
        """Multiply the blocks' overall strides by those of the stages before them.

        Args:
            strides: of the encoder's blocks, changed in place.
            own: of the stages.
        """
        end = self.restore if self.restore else len(strides)
        for stage, stride in zip(self, own):
            for block in range(stage.block, end):
                strides[block] *= stride
