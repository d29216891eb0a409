"""Networks as ONNX files in every precision of the study, and what of a file is weights."""

from __future__ import annotations

import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import ml_dtypes
import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper
from onnxruntime.quantization import QuantType, quantize_dynamic

from kilocall.train.calibration import Inputs
from kilocall.train.quantise import quantise_convolutions, quiet

__all__ = ["Sizes", "halved", "measure_sizes", "quantise_dynamic", "quantise_static"]

_HALVES: Final = {"fp16": TensorProto.FLOAT16, "bf16": TensorProto.BFLOAT16}


@dataclass(frozen=True)
class Sizes:
    """Bytes of a network."""

    file: int
    weights: int  # what the convolutions and linear layers read: weights, biases, scales, zero points
    deflated: int  # the file as a download compresses it


def measure_sizes(path: Path) -> Sizes:
    data = path.read_bytes()
    graph = onnx.load_model_from_string(data).graph
    made_by = {output: node for node in graph.node for output in node.output}
    constants = {c.name: c for c in graph.initializer}
    reached: set[str] = set()

    def reach(name: str) -> None:
        if name in constants:
            reached.add(name)
        elif name in made_by and made_by[name].op_type in ("DequantizeLinear", "Cast"):
            for source in made_by[name].input:
                reach(source)

    for node in graph.node:
        # Not MatMul: those multiply with fixed grids.
        if node.op_type in ("Conv", "Gemm", "ConvInteger", "MatMulInteger"):
            for name in node.input[1:]:
                reach(name)
    # Dynamic quantisation multiplies the scales and adds the biases apart.
    reached |= {n for n in constants if n.endswith(("_scale", "_zero_point", ".bias"))}
    weights = sum(numpy_helper.to_array(constants[name]).nbytes for name in reached)
    return Sizes(len(data), weights, len(zlib.compress(data, 6)))


def halved(source: Path, target: Path, precision: str) -> None:
    """Float32 constants in 16 bits with a Cast behind, as far as they take a byte at all."""
    kind = _HALVES[precision]
    model = onnx.load(str(source))
    graph = model.graph
    casts = []
    for index, constant in enumerate(graph.initializer):
        if constant.data_type != TensorProto.FLOAT or not constant.dims:
            continue
        name = constant.name
        value = numpy_helper.to_array(constant)
        dtype = np.float16 if precision == "fp16" else ml_dtypes.bfloat16
        small = helper.make_tensor(name + ".half", kind, constant.dims, value.astype(dtype).tobytes(), raw=True)
        graph.initializer[index].CopyFrom(small)
        casts.append(helper.make_node("Cast", [name + ".half"], [name], name=name + ".widen", to=TensorProto.FLOAT))
    for cast in reversed(casts):
        graph.node.insert(0, cast)
    onnx.checker.check_model(model)
    target.write_bytes(model.SerializeToString())


def quantise_dynamic(source: Path, target: Path) -> None:
    """8-bit weights; inputs are rounded by the range that each call finds."""
    with quiet():
        quantize_dynamic(str(source), str(target), weight_type=QuantType.QInt8)


def quantise_static(source: Path, target: Path, calibration: Sequence[Inputs], kept_float: Sequence[str] = ()) -> None:
    """8-bit convolutions, weights by channel, inputs by the ranges that `calibration` shows."""
    quantise_convolutions(source, target, list(calibration), tuple(kept_float))
