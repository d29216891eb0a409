"""The networks as a browser gets them, made from the shipped ones by `make web`.

    NAME-HASH.onnx       rewritten beforehand as its engine would rewrite them at each start: a quarter of the time that
                         the engine needs to load them, for the same numbers; needs onnxruntime
    NAME-HASH.gpu.onnx   for graphics processors, which gain nothing from 8-bit activations and lose time with each
                         rounding: these are left out, weights stay in 8 bits; needs onnx

A page without the first gets the networks as they are, one without the second runs none on a graphics processor.
"""

from __future__ import annotations

from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Final

import numpy as np

from kilocall.runtime.web_files import GPU_NETWORKS, NETWORK_FILES, WEB, WEIGHTS, gpu_path, rewritten_path

__all__ = ["for_graphics", "rewrite", "rewritten"]

#: Input channels that WebGPU's convolution takes at a time where they come so; in threes wrongly.
FOUR: Final = 4
THREE: Final = 3


def rewrite(folder: Path, *, for_processor: bool = True, for_gpu: bool = True) -> int:
    """Writes every network that is missing in `folder`, and removes all else there; how many there are."""
    folder.mkdir(parents=True, exist_ok=True)
    wanted: dict[Path, tuple[Callable[[bytes], bytes], bytes]] = {}
    for name in NETWORK_FILES:
        data = (WEIGHTS / name).read_bytes()
        if for_processor and name.endswith(".onnx"):
            wanted[rewritten_path(folder, name, data)] = rewritten, data
        if for_gpu and name in GPU_NETWORKS:
            wanted[gpu_path(folder, name, data)] = for_graphics, data
    for other in set(folder.iterdir()) - set(wanted):
        other.unlink()
    for path, (make, data) in wanted.items():
        if path.is_file():
            continue
        partial = path.with_suffix(".part")
        partial.write_bytes(make(data))
        partial.replace(path)
    return len(wanted)


def rewritten(data: bytes) -> bytes:
    """The graph as onnxruntime would rewrite it for any processor."""
    import tempfile

    import onnxruntime

    options = onnxruntime.SessionOptions()
    # More would be for this processor rather than for any.
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_EXTENDED
    options.log_severity_level = 3
    with tempfile.TemporaryDirectory() as folder:
        made = Path(folder) / "network.onnx"
        options.optimized_model_filepath = str(made)
        onnxruntime.InferenceSession(data, options, providers=["CPUExecutionProvider"])
        return made.read_bytes()


def for_graphics(data: bytes) -> bytes:
    """The graph for the engine's WebGPU part."""
    import onnx

    model = onnx.load_model_from_string(data)
    _without_roundings(model.graph)
    _widened(model.graph)
    del model.graph.value_info[:]
    onnx.checker.check_model(model, full_check=True)
    return bytes(model.SerializeToString())


def _without_roundings(graph: Any) -> None:
    """Takes out the pairs of QuantizeLinear and DequantizeLinear that round activations.

    onnxruntime can leave them out by itself (`session.enable_quant_qdq_cleanup`), but takes along the ReLUs before
    them, because rounding has clipped what these would: pictures of another kind.
    """
    rounded = {node.output[0]: node.input[0] for node in graph.node if node.op_type == "QuantizeLinear"}
    exact = {
        node.output[0]: rounded[node.input[0]]
        for node in graph.node
        if node.op_type == "DequantizeLinear" and node.input[0] in rounded
    }
    kept = [node for node in graph.node if node.output[0] not in exact]
    for node in kept:
        for place, name in enumerate(node.input):
            while name in exact:
                name = exact[name]
            node.input[place] = name
    used = {name for node in kept for name in node.input} | {output.name for output in graph.output}
    kept = [node for node in kept if node.output[0] not in rounded or node.output[0] in used]
    used = {name for node in kept for name in node.input}
    constants = [constant for constant in graph.initializer if constant.name in used]
    for field, left in ((graph.node, kept), (graph.initializer, constants)):
        del field[:]
        field.extend(left)


def _widened(graph: Any) -> None:
    """Gives channels of zeros to convolutions whose input comes in threes, but not in fours.

    For 6, 9 and 18 input channels the WebGPU part of onnxruntime 1.30 gives other numbers than for 5, 7 and 8:
    https://github.com/microsoft/onnxruntime/issues/29651. Three alone are right.
    """
    from onnx import helper, numpy_helper

    constants = {constant.name: constant for constant in graph.initializer}
    stored_as = {node.output[0]: node for node in graph.node if node.op_type in ("DequantizeLinear", "Cast")}
    nodes = []
    for node in graph.node:
        nodes.append(node)
        if node.op_type != "Conv" or any(one.name == "group" and one.i != 1 for one in node.attribute):
            continue
        stored = stored_as.get(node.input[1])
        constant = constants[stored.input[0] if stored is not None else node.input[1]]
        weights = numpy_helper.to_array(constant)
        channels = weights.shape[1]
        if channels == THREE or channels % THREE or channels % FOUR == 0:
            continue
        zeros = np.zeros((len(weights), -channels % FOUR, *weights.shape[2:]), weights.dtype)
        if stored is not None and len(stored.input) > 2:  # what stands for zero in 8 bits
            zeros += numpy_helper.to_array(constants[stored.input[2]]).reshape(-1, *[1] * (weights.ndim - 1))
        constant.CopyFrom(numpy_helper.from_array(np.concatenate((weights, zeros), 1), constant.name))
        pads = numpy_helper.from_array(np.array([0, 0, 0, 0, 0, zeros.shape[1], 0, 0], np.int64), f"{node.name}.pads")
        graph.initializer.append(pads)
        wide = f"{node.name}.wide"
        nodes.insert(-1, helper.make_node("Pad", [node.input[0], pads.name], [wide]))
        node.input[0] = wide
    del graph.node[:]
    graph.node.extend(nodes)


def main() -> None:
    """Says what was done."""
    for_processor, for_gpu = find_spec("onnxruntime") is not None, find_spec("onnx") is not None
    if not for_processor:
        print("networks stay as they are, and load slower in a browser: onnxruntime is not installed")
    if not for_gpu:
        print("browsers run no networks on a graphics processor: onnx is not installed")
    count = rewrite(WEB / "vendor" / "networks", for_processor=for_processor, for_gpu=for_gpu)
    print(f"{count} networks made for browsers")


if __name__ == "__main__":
    main()
