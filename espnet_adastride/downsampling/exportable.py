"""Exportable forms of the downsampling layers: ``torch.export`` and ONNX.

In training and evaluation, layers use operations that cannot be exported:
data-dependent sizes, custom gradients, ``embedding_bag``, ``searchsorted``. Every
method therefore has an
:meth:`~espnet_adastride.downsampling.output.Downsampler.export_form` for evaluation,
for one utterance of any length without padding:

    program = export_program(Exportable(layer), torch.zeros(1, 100, layer.size))

The helpers below are shared by several methods.
"""

from typing import Optional, Tuple

import torch

from espnet_adastride.downsampling.output import Downsampler


class Exportable(torch.nn.Module):
    """A layer as a function of one utterance, to be exported: x (1, T, D) -> z, p.

    A stride that was learned is a constant of the program.

    Args:
        layer: any downsampling layer.
    """

    def __init__(self, layer: Downsampler):
        super().__init__()
        self.layer, self.stride = layer, layer.current_stride()

    def forward(self, x: torch.Tensor) -> Tuple[torch.Tensor, Optional[torch.Tensor]]:
        """Return the output (1, T', D), and the positions (1, T) float64 or None."""
        return self.layer.export_form(x, self.stride)


def export_program(
    module: torch.nn.Module, example: torch.Tensor, shortest: int = 1
) -> torch.export.ExportedProgram:
    """Return the program of a module of one utterance (1, T, D), for any T.

    Args:
        module: in evaluation mode.
        example: (1, T, D) with a T that differs from all other sizes in the module.
        shortest: minimum T of the program.
    """
    from torch.fx.experimental import _config

    steps = torch.export.Dim("steps", min=shortest)
    # otherwise the program is for sizes of at least two, T' = 1 being a special case
    with (
        torch.no_grad(),
        _config.patch(backed_size_oblivious=True),  # type: ignore[attr-defined]
    ):
        return torch.export.export(
            module,
            (example,),
            dynamic_shapes=({1: steps},),
            strict=False,
            prefer_deferred_runtime_asserts_over_guards=True,
        )


def steps_before(positions: torch.Tensor, width: int) -> torch.Tensor:
    """Return the number of steps before each slot: #{t: p_t < l}, (1, T') int64.

    Computes ``searchsorted`` of sorted positions with a histogram: p < l for whole l
    if floor(p) < l.

    Args:
        positions: (1, T) in [0, T' - 1].
        width: T'.
    """
    # clamp in any case: NaN positions would be an index error
    slots = positions.floor().to(torch.int64).clamp(0, width - 1) + 1
    counts = torch.zeros(1, width + 1, dtype=torch.int64, device=positions.device)
    counts = counts.scatter_add(1, slots, torch.ones_like(slots))
    return counts[:, :-1].cumsum(dim=1)


def nearest_steps(positions: torch.Tensor, width: int) -> torch.Tensor:
    """Return the step nearest to each slot, (1, T') int64; the earlier of equals.

    Args:
        positions: (1, T) in [0, T' - 1], non-decreasing.
        width: T'.
    """
    slots = torch.arange(width, device=positions.device).to(positions.dtype)
    right = steps_before(positions, width).clamp(max=positions.size(1) - 1)
    left = (right - 1).clamp(min=0)
    left_is_nearer = slots - positions.gather(1, left) <= (
        positions.gather(1, right) - slots
    )
    return torch.where(left_is_nearer, left, right)


def scatter_rows(
    x: torch.Tensor,
    weights: torch.Tensor,
    steps: Optional[torch.Tensor],
    slots: torch.Tensor,
    width: int,
) -> torch.Tensor:
    """Return z_j = sum of w x_t over the entries (w, t, j), (1, T', D).

    Args:
        x: (1, T, D).
        weights: (1, E) in the dtype of x.
        steps: (1, E), t of every entry; None: every step has one, in order.
        slots: (1, E), j of every entry.
        width: T'.
    """
    frames = x[0] if steps is None else x[0].index_select(0, steps[0])
    z = x.new_zeros(width, x.size(2))
    return z.index_add(0, slots[0], frames * weights[0].unsqueeze(1)).unsqueeze(0)
