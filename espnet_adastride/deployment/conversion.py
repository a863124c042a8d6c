"""Convert programs of ``torch.export`` to ONNX, and ONNX to 8 bits."""

import contextlib
import io
import logging
import operator
from pathlib import Path
from typing import Callable, Dict, Optional, Sequence

import numpy as np
import torch

from espnet_adastride.version import __version__


def to_onnx(
    program: torch.export.ExportedProgram,
    output_names: Sequence[str],
    input_names: Optional[Sequence[str]] = None,
):
    """Return the ONNX model of a program.

    Args:
        program: from ``downsampling.exportable.export_program``.
        output_names: names of its outputs.
        input_names: names of its inputs; None: the program's own.

    Returns:
        ``onnx.ModelProto``; without the exporter's source locations.
    """
    with _quiet():
        converted = torch.onnx.export(
            program,
            dynamo=True,
            verbose=False,
            input_names=input_names,
            output_names=list(output_names),
            custom_translation_table=_translations(),
        )
    model = converted.model_proto
    graphs = [model.graph, *model.functions]
    for part in graphs:
        del part.metadata_props[:]
        for node in part.node:
            del node.metadata_props[:]
            node.doc_string = ""
        for value in part.value_info:
            del value.metadata_props[:]
    for value in (*model.graph.input, *model.graph.output, *model.graph.initializer):
        del value.metadata_props[:]
    _make_vectors_matrices(model)
    return model


def _make_vectors_matrices(model) -> None:
    """Replace products with vectors by products with one-column matrices, in place.

    onnxruntime 1.32 moves a transposition (and a cast) of the first factor into the
    product, and then misreads the first factor if the second is a vector.
    """
    from onnx import TensorProto, helper

    vectors = {t.name: t for t in model.graph.initializer if len(t.dims) == 1}
    last = helper.make_tensor("last_axis", TensorProto.INT64, [1], [-1])
    nodes, changed = [], False
    for node in model.graph.node:
        nodes.append(node)
        if node.op_type != "MatMul" or node.input[1] not in vectors:
            continue
        vector = vectors[node.input[1]]
        column = type(vector)()
        column.CopyFrom(vector)
        column.name = f"{node.output[0]}_column"
        column.dims.append(1)
        model.graph.initializer.append(column)
        node.input[1], result = column.name, node.output[0]
        node.output[0] = f"{result}_columns"
        nodes.append(helper.make_node("Squeeze", [node.output[0], last.name], [result]))
        changed = True
    if changed:
        model.graph.initializer.append(last)
        del model.graph.node[:]
        model.graph.node.extend(nodes)
        used = {name for node in nodes for name in node.input}
        kept = [t for t in model.graph.initializer if t.name in used]
        del model.graph.initializer[:]
        model.graph.initializer.extend(kept)


def write_onnx(
    program: torch.export.ExportedProgram,
    output_names: Sequence[str],
    metadata: Dict[str, str],
    path: Path,
) -> None:
    """Write a program of one input to an ONNX file with metadata."""
    import onnx

    model = to_onnx(program, output_names, ["features"])
    model.producer_name, model.producer_version = "espnet_adastride", __version__
    onnx.helper.set_model_props(model, metadata)
    onnx.save_model(model, str(path))


def runner(path: Path) -> Callable[[np.ndarray], np.ndarray]:
    """Return the function of features (1, T, F) to the first output of a file."""
    import onnxruntime

    session = onnxruntime.InferenceSession(str(path))
    return lambda features: session.run(None, {"features": features})[0]


def quantize(path: Path) -> None:
    """Quantise the weights of a file's matrix products to 8 bits, in place.

    It uses onnxruntime's dynamic quantisation: their inputs are quantised at run time.
    Products of two computed matrices, such as the alignment's, are not changed.
    """
    import onnx
    from onnxruntime.quantization import QuantType, quantize_dynamic

    metadata = {p.key: p.value for p in onnx.load(str(path)).metadata_props}
    made = path.with_suffix(".int8.onnx")
    with _quiet():
        quantize_dynamic(
            str(path),
            str(made),
            op_types_to_quantize=["MatMul", "Gemm"],
            weight_type=QuantType.QInt8,
            per_channel=True,
        )
    model = onnx.load(str(made))
    onnx.helper.set_model_props(model, metadata)
    onnx.save_model(model, str(path))


def _translations():
    """Return operators that the exporter lacks or only supports in float32."""
    from onnx import TensorProto, helper
    from onnxscript import opset18 as op

    def stable_sort(x, stable: bool = True, dim: int = -1, descending: bool = False):
        # TopK returns equal values in the order of their indices
        size = op.Shape(x, start=dim, end=dim + 1)
        return op.TopK(x, size, axis=dim, largest=int(descending), sorted=1)

    # sizes such as ceil(T / 2.7), as Python computes them
    def to_double(number):
        return op.Cast(number, to=11)

    def divided(number, by):
        if isinstance(by, (int, float)):  # otherwise a float32 constant
            by = op.Constant(
                value=helper.make_tensor("by", TensorProto.DOUBLE, [], [by])
            )
        return op.Div(op.Cast(number, to=11), op.Cast(by, to=11))

    return {
        torch.ops.aten.sort.stable: stable_sort,
        torch.sym_float: to_double,
        operator.truediv: divided,
    }


@contextlib.contextmanager
def _quiet():
    """Hide the exporter's progress and advice from the user."""
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with contextlib.redirect_stdout(io.StringIO()):
            yield
    finally:
        logging.disable(before)
