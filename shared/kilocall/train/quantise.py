"""ONNX files from torch networks, and 8-bit convolutions where they do no harm.

Convolutions alone are quantised (weights per channel); coordinates, softmax and sampling stay in float. How much of
a network may be quantised is measured, not assumed: see `LADDERS`.
"""

from __future__ import annotations

import contextlib
import logging
import tempfile
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
import onnx
import onnxruntime as ort
import torch
from onnxruntime.quantization import CalibrationDataReader, QuantFormat, QuantType, quantize_static

from kilocall.model.compact.export_modules import ExportModule
from kilocall.train.calibration import Calibration, Inputs, Picture, run_module
from kilocall.train.shrink import halve_constants, store_eight_bits

OPSET: Final = 18

# Per network what stays in float, boldest first; None is the whole network in float. Heat-map scores and the first
# layers decide tenths of a pixel (all of `face` in 8 bits: 0.18 px, without these: under 0.1); `adjust` is the residual
# displacement and visibility; `assign` and `paint` are the last layers before a softmax and the picture. The implicit
# points moved by 0.3 px and take 0.1 ms, the appearance runs once a source picture: nothing to gain there.
LADDERS: Final[dict[str, tuple[tuple[str, ...] | None, ...]]] = {
    "face": (("score",), ("score", "stem"), ("score", "stem", "quarter.0"), None),
    "eye": ((), ("score",), ("score", "stem.0"), None),
    "mouth": ((), ("score",), ("score", "stem.0"), None),
    "implicit": (None,),
    "appearance": (None,),
    "field": (("adjust",), ("adjust", "assign"), None),
    "generator": ((), ("paint",), None),
}
MOST_SHIFT_PX: Final = 0.1
MOST_LOSS_DB: Final = 0.05


@dataclass(frozen=True)
class Quantised:
    """How a network was written and what that cost against float."""

    network: str
    precision: str  # "int8" or "float32"
    kept_float: tuple[str, ...]
    difference: float
    unit: str  # "px" mean shift of points, "dB" mean loss of PSNR
    bytes: int


def write_float(module: ExportModule, path: Path) -> None:
    """The network in float with all that is constant folded."""
    examples = module.examples()
    with tempfile.TemporaryDirectory() as folder:
        traced, folded = str(Path(folder) / "traced.onnx"), str(Path(folder) / "folded.onnx")
        with warnings.catch_warnings():
            # Shapes are fixed, so what the tracer sees as constant is constant.
            warnings.simplefilter("ignore")
            torch.onnx.export(
                module.eval(),
                tuple(examples.values()),
                traced,
                input_names=list(examples),
                output_names=list(module.outputs),
                opset_version=OPSET,
                dynamo=False,
            )
        options = ort.SessionOptions()
        options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_ENABLE_BASIC
        options.optimized_model_filepath = folded
        options.log_severity_level = 3
        ort.InferenceSession(traced, options, providers=["CPUExecutionProvider"])
        onnx.save(_tidy(onnx.load(folded)), path)


def quantise(module: ExportModule, name: str, path: Path, calibration: list[Inputs], check: Check) -> Quantised:
    """Writes `path`: the boldest step of the network's ladder whose `check` stays within its limit."""
    with tempfile.TemporaryDirectory() as folder:
        whole = Path(folder) / "float.onnx"
        write_float(module, whole)
        for kept in LADDERS[name]:
            if kept is None:
                onnx.save(onnx.load(whole), path)
            else:
                quantise_convolutions(whole, path, calibration, kept)
            if module.part == "extractor":
                # Not the renderer's: speaker adapters are written over its constants, which are halves or all 8-bit.
                store_eight_bits(path)
            halve_constants(path)
            difference = check.difference(path)
            if kept is None or difference <= check.limit:
                precision = "float32" if kept is None else "int8"
                return Quantised(name, precision, kept or (), difference, check.unit, path.stat().st_size)
    raise AssertionError("every ladder ends in float")


class Check:
    """Compares an ONNX file with the float network on inputs it was not calibrated on: the mean shift of its points in
    pixels."""

    unit, limit = "px", MOST_SHIFT_PX

    def __init__(self, name: str, module: ExportModule, held: Calibration) -> None:
        self.inputs, self.held = held.inputs[name], held
        self.outputs = list(module.outputs)
        # Half the side in pixels that the points' -1..1 stand for; the close-ups are about as fine as the crop.
        self.half_side = 32 if name in ("eye", "mouth") else 128
        self.wanted = [run_module(module, i) for i in self.inputs]

    def difference(self, path: Path) -> float:
        session = open_quietly(path)
        made = [dict(zip(self.outputs, session.run(self.outputs, i), strict=True)) for i in self.inputs]
        return self.between(made)

    def between(self, made: list[Inputs]) -> float:
        shift = [
            np.linalg.norm(m["points"] - w["points"], axis=-1).mean() for m, w in zip(made, self.wanted, strict=True)
        ]
        return float(np.mean(shift)) * self.half_side


class PictureCheck(Check):
    """What becomes of motion field or generator: mean loss of PSNR of whole pictures against the truth, dB (negative:
    better)."""

    unit, limit = "dB", MOST_LOSS_DB

    def between(self, made: list[Inputs]) -> float:
        pairs = zip(made, self.wanted, self.held.pictures, self.held.truth, strict=True)
        return float(np.mean([_psnr(picture(w), truth) - _psnr(picture(m), truth) for m, w, picture, truth in pairs]))


class AppearanceCheck(Check):
    """The appearance has no points and no picture: its largest difference in feature units, times a pixel."""

    def between(self, made: list[Inputs]) -> float:
        first = self.outputs[0]
        return float(max(np.abs(m[first] - w[first]).max() for m, w in zip(made, self.wanted, strict=True)))


def open_quietly(path: Path) -> Any:
    options = ort.SessionOptions()
    options.log_severity_level = 3
    return ort.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])


def quantise_convolutions(source: Path, target: Path, calibration: list[Inputs], kept: tuple[str, ...]) -> None:
    nodes = [n.name for n in onnx.load(source).graph.node if n.op_type == "Conv"]
    with quiet():
        quantize_static(
            str(source),
            str(target),
            _Reader(calibration),
            quant_format=QuantFormat.QDQ,
            op_types_to_quantize=["Conv"],
            per_channel=True,
            # Unsigned: nearly every convolution follows a ReLU.
            activation_type=QuantType.QUInt8,
            weight_type=QuantType.QInt8,
            # Seven bits: processors without VNNI add pairs of products in 16 bits, and full weights overflow them
            # (0.25 px of error in the eyes' close-ups with AVX2, 0.03 with room).
            reduce_range=True,
            nodes_to_exclude=[n for n in nodes if any(part in n for part in kept)],
            extra_options={"WeightSymmetric": True},
        )
    onnx.save(_tidy(onnx.load(target)), target)


class _Reader(CalibrationDataReader):  # type: ignore[misc]
    def __init__(self, inputs: list[Inputs]) -> None:
        self._rest = iter(inputs)

    def get_next(self) -> Inputs | None:
        return next(self._rest, None)


def _tidy(model: Any) -> Any:
    """Without the domains, notes and producer marks that say nothing to an engine."""
    used = {node.domain for node in model.graph.node}
    kept = [o for o in model.opset_import if o.domain in used]
    del model.opset_import[:]
    model.opset_import.extend(kept)
    del model.metadata_props[:]
    model.doc_string, model.producer_name, model.producer_version = "", "kilocall", ""
    for node in model.graph.node:
        node.doc_string = ""
        del node.metadata_props[:]
    onnx.checker.check_model(model)
    return model


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """The quantiser recommends its own preparation on every call; constants are folded already."""
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(before)


def _psnr(made: Picture, truth: Picture) -> float:
    error = ((made.astype(np.float32) - truth.astype(np.float32)) ** 2).mean()
    return float(10 * np.log10(255**2 / max(float(error), 1e-6)))
