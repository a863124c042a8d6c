"""Stages between the encoder's blocks, and the rate given back behind them.

A stage of ``input_layer_conf: after_blocks`` shortens what a block gives; the blocks
behind it run at the lower rate. With ``restore`` the rate is given back before CTC and
decoder read the frames. With x the frames before the stage (T of them), z what the
blocks behind it made of D(x) (T'), and U the stage's inverse (``Downsampler.upsample``:
for AdaStride the transposed alignment, its columns divided by their sums)::

    x' = x + s (U z - x),    s = 1/2 + bypass

s has a number for each feature: the bypass of Zipformer (Yao et al., "Zipformer: A
faster and better encoder for automatic speech recognition", ICLR 2024), here without
its limits. At the start both parts count the same, which is the sum of a residual
connection but for a factor that a norm behind it takes out; where no norm follows, the
frames keep their scale. What is learned is the difference to 1/2, so that weight decay
does not prefer one of the parts. With several stages the last one is given back first.

What giving back needs (x, the lengths, the positions) travels with the mask of the
shortened frames, through ESPnet's blocks, which hand on the mask that they are given:
so a layer that gradient checkpointing runs again finds that of its own run, and nothing
outlives the graph.
"""

from typing import List, NamedTuple, Optional, Tuple

import torch

from espnet_adastride.downsampling import length_mask
from espnet_adastride.downsampling.stages import StageTrace

#: attribute of a mask: what its frames were before the stage that shortened them
_BEFORE = "_before_stage"


def in_backward() -> bool:
    """Return whether autograd is at work here: a checkpointed layer runs again."""
    return torch._C._current_graph_task_id() != -1


class Before(NamedTuple):
    """What a stage shortened.

    Attributes:
        stage: the stage.
        frames: (B, T, D).
        place: [positional embedding], or [] where frames have had theirs added.
        mask: (B, 1, T); tells of the stage before, if that is given back, too.
        lengths: (B,) valid frames.
        positions: (B, T) of the stage's output, or None.
    """

    stage: "LaterStage"
    frames: torch.Tensor
    place: List[torch.Tensor]
    mask: torch.Tensor
    lengths: torch.Tensor
    positions: Optional[torch.Tensor]


def before_stage(mask: torch.Tensor) -> Optional[Before]:
    """Return what a mask's frames were before they were shortened; None if not."""
    return getattr(mask, _BEFORE, None)


def give_back(frames, place, mask):
    """Give back the rate of all stages whose frames these are, the last stage first.

    Args:
        frames: (B, T', D).
        place: [positional embedding] or [].
        mask: (B, 1, T') of a :class:`LaterStage` that restores.

    Returns:
        The same three at the rate before the first of the stages.
    """
    before = before_stage(mask)
    while before is not None:
        frames = before.stage.restored(frames, before)
        place, mask = before.place, before.mask
        before = before_stage(mask)
    return frames, place, mask


def lengthen(frames: torch.Tensor, mask: torch.Tensor, block: int) -> torch.Tensor:
    """Lengthen what a block between the stages gave, without what ran beside it.

    Args:
        frames: (B, T', D) behind the block.
        mask: of the lowest rate.
        block: number of the block, from 1.

    Returns:
        (B, T, D) at the rate before the first stage.
    """
    before = before_stage(mask)
    while before is not None:
        if before.stage.block <= block:
            frames = before.stage.upsampled(frames, before)
        before = before_stage(before.mask)
    return frames


class LaterStage(torch.nn.Module):
    """A downsampler behind a block of the encoder, where features mean more.

    Args:
        block: number of the block, from 1.
        downsampler: of the encoder's width.
        restore: its rate will be given back; it then has a parameter ``bypass`` (D,).
    """

    def __init__(self, block: int, downsampler: torch.nn.Module, restore: bool = False):
        super().__init__()
        self.block, self.downsampler = block, downsampler
        self.bypass = (
            torch.nn.Parameter(torch.zeros(downsampler.size)) if restore else None
        )
        self.trace: Tuple[StageTrace, ...] = ()

    def listen(self, blocks: torch.nn.ModuleList, positional_encoding) -> None:
        """From now on shorten what the block gives.

        As a hook: the encoder's blocks keep their numbers, in its own code and in
        checkpoints.
        """
        # in a tuple, so that the encoding is not registered here, too
        self._positional_encoding = (positional_encoding,)
        blocks[self.block - 1].register_forward_hook(self._shorten)

    def _shorten(self, block, inputs, outputs):
        frames, mask = outputs
        x, *place = frames if isinstance(frames, tuple) else (frames,)
        lengths = mask[:, 0].sum(dim=1)
        result = self.downsampler(x, lengths)
        if not in_backward():
            losses = self.downsampler.loss_name
            self.trace = (StageTrace(lengths, *result[1:], losses),)
        z = result.output
        shorter = length_mask(result.lengths, z.size(1)).unsqueeze(1)
        if self.bypass is not None:
            before = Before(self, x, place, mask, lengths, result.positions)
            setattr(shorter, _BEFORE, before)
        if not place:
            return z, shorter
        _, place = self._positional_encoding[0](z)  # of fewer frames; z has had its own
        return (z, place), shorter

    def upsampled(self, z: torch.Tensor, before: Before) -> torch.Tensor:
        """Return U z, (B, T, D) for z (B, T', D)."""
        return self.downsampler.upsample(
            z, before.lengths, before.frames.size(1), before.positions
        )

    def restored(self, z: torch.Tensor, before: Before) -> torch.Tensor:
        """Return x + s (U z - x), (B, T, D)."""
        x = before.frames
        return x + (0.5 + self.bypass) * (self.upsampled(z, before) - x)

    def share(self) -> torch.Tensor:
        """Return the mean of s, a scalar: how much comes through the lower rate."""
        return (0.5 + self.bypass.detach()).mean()
