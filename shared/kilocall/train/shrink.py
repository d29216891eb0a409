"""Stores the large float constants of an ONNX file in 8 or 16 bits; engines widen them again when they load it."""

from __future__ import annotations

from pathlib import Path
from typing import Final

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

#: Smaller constants are not worth a node.
LEAST_ELEMENTS: Final = 2048
#: Weights that lie no further than this from whole steps of their row's scale, in steps, are 8-bit numbers already.
ON_THE_GRID: Final = 0.02


def store_eight_bits(path: Path) -> None:
    """Rewrites `path`: weights that are whole steps of a scale a row become int8 with a DequantizeLinear behind.

    Stored weights are such steps (`model/compact/int8_checkpoint.py`), and folding a batch norm in leaves them so:
    layers that are kept in float lose nothing. Weights that are anything else stay as they are.
    """
    model = onnx.load(str(path))
    graph = model.graph
    # Rows are outputs: of a convolution always, of a Gemm where it transposes its weights.
    rows = {n.input[1] for n in graph.node if n.op_type == "Conv" or (n.op_type == "Gemm" and _transposed(n))}
    widened = []
    for constant in [c for c in graph.initializer if c.name in rows and c.data_type == TensorProto.FLOAT]:
        weight = numpy_helper.to_array(constant)
        if weight.size < LEAST_ELEMENTS:
            continue
        largest = np.abs(weight).reshape(len(weight), -1).max(1)
        scale = np.where(largest > 0, largest / 127, 1).astype(np.float32)
        steps = weight / scale.reshape(-1, *[1] * (weight.ndim - 1))
        if np.abs(steps - np.rint(steps)).max() > ON_THE_GRID:
            continue
        name = constant.name
        constant.CopyFrom(numpy_helper.from_array(np.rint(steps).astype(np.int8), name + ".steps"))
        graph.initializer.append(numpy_helper.from_array(scale, name + ".step"))
        widened.append(
            helper.make_node(
                "DequantizeLinear", [name + ".steps", name + ".step"], [name], name=name + ".widen", axis=0
            )
        )
    for node in reversed(widened):
        graph.node.insert(0, node)
    onnx.checker.check_model(model)
    path.write_bytes(model.SerializeToString())


def _transposed(node: onnx.NodeProto) -> bool:
    return any(a.name == "transB" and a.i == 1 for a in node.attribute)


def halve_constants(path: Path) -> None:
    """Rewrites `path`: float32 initialisers of LEAST_ELEMENTS and more become float16 with a Cast behind."""
    model = onnx.load(str(path))
    graph = model.graph
    casts = []
    for index, constant in enumerate(graph.initializer):
        if constant.data_type != TensorProto.FLOAT or np.prod(constant.dims) < LEAST_ELEMENTS:
            continue
        name = constant.name
        half = numpy_helper.from_array(numpy_helper.to_array(constant).astype(np.float16), name + ".half")
        graph.initializer[index].CopyFrom(half)
        casts.append(helper.make_node("Cast", [name + ".half"], [name], name=name + ".widen", to=TensorProto.FLOAT))
    for cast in reversed(casts):
        graph.node.insert(0, cast)
    onnx.checker.check_model(model)
    path.write_bytes(model.SerializeToString())
