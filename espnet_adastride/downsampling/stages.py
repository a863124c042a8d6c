"""Reports of a network's stages for a batch, and their losses and statistics.

Shared by all networks with several downsamplers: the ESPnet input layer
and the residual network.
"""

from typing import Dict, NamedTuple, Optional, Sequence

import torch

from espnet_adastride.downsampling.adastride import (
    empty_slot_share,
    largest_jump,
    largest_stride,
    stride_entropy,
)
from espnet_adastride.downsampling.output import NO_FLOAT64


class StageTrace(NamedTuple):
    """The report of one stage's downsampler for a batch.

    Attributes:
        input_lengths: (B,) input frames.
        output_lengths: (B,) output frames.
        positions: (B, T) of its input frames on its output slots, or None.
        aux_loss: scalar, or None.
        loss_name: name under which it is reported and weighted.
    """

    input_lengths: torch.Tensor
    output_lengths: torch.Tensor
    positions: Optional[torch.Tensor]
    aux_loss: Optional[torch.Tensor]
    loss_name: str = "loss_vp"


def auxiliary_losses(stages: Sequence[StageTrace]) -> Dict[str, torch.Tensor]:
    """Return the stages' losses, summed and before weighting; {} if there are none.

    ``loss_vp`` are the positioning losses, ``loss_aux`` those of other methods, which
    have their own weights.
    """
    losses: Dict[str, torch.Tensor] = {}
    for stage in stages:
        if stage.aux_loss is not None:
            name = stage.loss_name
            losses[name] = losses.get(name, 0.0) + stage.aux_loss
    return losses


def add_auxiliary_losses(
    loss: torch.Tensor, losses: Dict[str, torch.Tensor], vp_weight: float
) -> torch.Tensor:
    """Return a task's loss with the stages' losses added.

    Args:
        loss: scalar.
        losses: from :func:`auxiliary_losses`.
        vp_weight: weight of the positioning losses (1.0 in the authors' training).
    """
    loss = loss + vp_weight * losses.get("loss_vp", 0.0)
    return loss + losses.get("loss_aux", 0.0)


def position_stats(stages: Sequence[StageTrace]) -> Dict[str, torch.Tensor]:
    """Return {name: scalar} about the stages with positions; {} if there are none.

    ``empty_slots`` and ``stride_entropy`` are means over the stages, ``largest_jump``
    and ``largest_stride`` the largest. float64, or float32 if the stages' device
    has no float64; on that device.
    """
    placed = [
        (stage.positions, stage.input_lengths, stage.output_lengths)
        for stage in stages
        if stage.positions is not None
    ]
    if not placed:
        return {}
    shares = [
        # no stage has more slots than steps
        empty_slot_share(positions, lengths, output_lengths, positions.size(1))
        for positions, lengths, output_lengths in placed
    ]
    given = [(positions, lengths) for positions, lengths, _ in placed]
    entropies = [stride_entropy(*one) for one in given]
    stats = {
        "empty_slots": _mean(shares),
        "largest_jump": torch.stack([largest_jump(*one) for one in given]).amax(),
        "largest_stride": torch.stack([largest_stride(*one) for one in given]).amax(),
        "stride_entropy": _mean(entropies),
    }
    device = given[0][1].device
    if device.type in NO_FLOAT64:
        stats = {k: v.to(torch.float32).to(device) for k, v in stats.items()}
    return stats


def _mean(values: Sequence[torch.Tensor]) -> torch.Tensor:
    return sum(values[1:], start=values[0]) / len(values)
