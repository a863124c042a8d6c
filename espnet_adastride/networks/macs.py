"""Multiply-accumulates of a model's forward, by module; torch only.

``torch.utils.flop_counter.FlopCounterMode`` counts matrix products and convolutions as
they are called, with two FLOPs per multiply-accumulate; here the counts are halved, and
the rows of AdaStride are added (one multiply-accumulate per entry and feature). Not
counted: additions in pooling, activations, norms, Fourier transforms, recurrent cells.
"""

from typing import Any, Dict

import torch
from torch.utils.flop_counter import FlopCounterMode


def _row_flops(table, index, *_, **__):
    """Count an embedding_bag: an addition of a weighted table row for every index."""
    return 2 * index[0] * table[1]


_FURTHER = {
    torch.ops.aten._embedding_bag: _row_flops,
    torch.ops.aten._embedding_bag_forward_only: _row_flops,
    torch.ops.aten.mv: lambda matrix, *_, **__: 2 * matrix[0] * matrix[1],
}


def macs_by_module(model: torch.nn.Module, *inputs: Any, **named: Any) -> Dict:
    """Return {module: multiply-accumulates} of a forward without gradients.

    Args:
        model: called with ``inputs`` and ``named``.

    Returns:
        Counts by the modules' names, prefixed by the model's class
        (``ESPnetASRModel.encoder.embed``); ``Global`` is all of it.
    """
    with FlopCounterMode(display=False, custom_mapping=_FURTHER) as counter:
        with torch.no_grad():
            model(*inputs, **named)
    counts = counter.get_flop_counts()
    return {name: sum(ops.values()) / 2 for name, ops in counts.items()}
