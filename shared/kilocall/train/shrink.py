"""Stores the large float constants of an ONNX file in half precision; engines widen them again when they load it."""

from __future__ import annotations

from pathlib import Path
from typing import Final

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

#: Smaller constants are not worth a node.
LEAST_ELEMENTS: Final = 2048


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
