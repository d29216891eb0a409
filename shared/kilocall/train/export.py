"""Trained networks to a weights folder: ONNX for the CPU engines, packed tensors for torch, one manifest.

manifest.json              family, sizes, training steps and the SHA-256 of every file
extractor.safetensors      state dicts, convolutions as 8-bit integers with scales
renderer.safetensors
shape.safetensors          mean, basis, deviation of the face shape model; by how much lids and gaze are
                           amplified
codebook.safetensors       when there is one already
fusion .onnx .safetensors  the same: takes a video layer
face eye mouth implicit appearance field generator .onnx
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Final

from rich.console import Console
from safetensors.numpy import load_file as load_arrays
from safetensors.numpy import save_file as save_arrays
from safetensors.torch import save_file as save_tensors

from kilocall.model import landmarks as lm
from kilocall.model.compact.export_modules import NETWORKS, SIZE, ExportModule
from kilocall.model.compact.expression_gain import ExpressionGain
from kilocall.model.compact.family import CompactFamily
from kilocall.model.compact.fusion_network import FusionNetwork
from kilocall.model.compact.int8_checkpoint import pack, unpack
from kilocall.model.compact.renderer import IMPLICIT
from kilocall.model.engine_choice import choose_engine
from kilocall.model.shape import ShapeModel
from kilocall.proto.errors import BadInput
from kilocall.train.calibration import Calibration, calibration
from kilocall.train.checkpoint import State, read_checkpoint
from kilocall.train.dataset import Dataset
from kilocall.train.expression_gain import fit_expression_gain
from kilocall.train.quantise import AppearanceCheck, Check, PictureCheck, Quantised, quantise, write_float

FAMILY: Final = "compact-256"
FORMAT: Final = 1
CODEBOOK: Final = "codebook.safetensors"
SHAPE: Final = "shape.safetensors"
#: What takes a video layer, when it is there already.
LOCAL_FILES: Final = ("fusion.onnx", "fusion.safetensors")
CALIBRATION_PAIRS: Final = 40
CHECK_PAIRS: Final = 24


def export_run(
    extractor_checkpoint: Path, renderer_checkpoint: Path, data: Path, cache: Path, out: Path, console: Console
) -> tuple[Quantised, ...]:
    """Exports the averaged weights of two training runs; a codebook that `out` holds already is kept.

    `data` is a folder of labelled clips, decoded into `cache`. Raises BadInput for checkpoints or data that cannot
    be used; `out` is then as it was.
    """
    extractor, extractor_steps = read_checkpoint(extractor_checkpoint)
    renderer, renderer_steps = read_checkpoint(renderer_checkpoint)
    dataset = Dataset.open(data, cache)
    codebook = out / CODEBOOK
    made = export(
        extractor,
        renderer,
        dataset.shape_model(),
        codebook if codebook.exists() else None,
        out,
        dataset,
        trained_steps={"extractor": extractor_steps, "renderer": renderer_steps},
        say=lambda line: console.print(line, soft_wrap=True),
    )
    gain = fit_expression_gain(CompactFamily(out, choose_engine("auto", 1)), dataset)
    put_expression_gain(gain, out)
    console.print(f"overstated are lids by {gain.lids:g}, lips by {gain.lips:g}, gaze by {gain.gaze:g}")
    return made


def export(
    extractor_state: State,
    renderer_state: State,
    shape_model: ShapeModel,
    codebook: Path | None,
    out: Path,
    data: Dataset,
    *,
    trained_steps: Mapping[str, int],
    calibration_pairs: int = CALIBRATION_PAIRS,
    check_pairs: int = CHECK_PAIRS,
    say: Callable[[str], None] = lambda line: None,
) -> tuple[Quantised, ...]:
    """Writes the weights folder `out` whole or not at all; what each network became is returned and said."""
    stored = {"extractor": pack(extractor_state), "renderer": pack(renderer_state)}
    # The rounded weights are exported, so that torch and the other engines run the same numbers.
    states = {part: unpack(values) for part, values in stored.items()}
    networks = {name: _network(name, states) for name in NETWORKS}
    fitted = calibration(data, networks, shape_model, pairs=calibration_pairs, seed=0)
    held = calibration(data, networks, shape_model, pairs=check_pairs, seed=1)
    partial = out.with_name(out.name + ".part")
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    try:
        for part, values in stored.items():
            save_tensors(values, partial / f"{part}.safetensors")
        save_arrays(
            {"mean": shape_model.mean, "basis": shape_model.basis, "deviation": shape_model.deviation},
            partial / SHAPE,
        )
        if codebook is not None:
            shutil.copyfile(codebook, partial / CODEBOOK)
        for name in LOCAL_FILES:
            if (out / name).exists():
                shutil.copyfile(out / name, partial / name)
        made = []
        for name, module in networks.items():
            path = partial / f"{name}.onnx"
            made.append(quantise(module, name, path, fitted.inputs[name], _check(name, module, held)))
            say(_line(made[-1]))
        manifest = {
            "family": FAMILY,
            "format": FORMAT,
            "size": SIZE,
            "landmarks": lm.LANDMARKS,
            "free_points": IMPLICIT,
            "expressions": shape_model.expressions,
            "trained_steps": dict(trained_steps),
            "precision": {q.network: q.precision for q in made},
        }
        _write_manifest(partial, manifest)
        for path in partial.iterdir():
            path.chmod(0o644)  # safetensors writes files that only their owner may read
        _swap(partial, out)
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    say(f"wrote {out}: {sum(p.stat().st_size for p in out.iterdir()) / 1e6:.1f} MB")
    return tuple(made)


def put_codebook(codebook: Path, weights: Path) -> None:
    """Adds or replaces the codebook of a weights folder and brings the manifest up to date."""
    manifest = json.loads((weights / "manifest.json").read_text())
    partial = weights / (CODEBOOK + ".part")
    shutil.copyfile(codebook, partial)
    os.replace(partial, weights / CODEBOOK)
    _write_manifest(weights, manifest)


def put_expression_gain(expression_gain: ExpressionGain, weights: Path) -> None:
    """Sets by how much lids and gaze are amplified for the renderer and brings the manifest up to date."""
    manifest = json.loads((weights / "manifest.json").read_text())
    path = weights / SHAPE
    partial = path.with_suffix(".part")
    save_arrays({**load_arrays(path), **expression_gain.arrays}, partial)
    partial.chmod(0o644)
    os.replace(partial, path)
    _write_manifest(weights, manifest)


def _network(name: str, states: Mapping[str, State]) -> ExportModule:
    kind = NETWORKS[name]
    try:
        return kind.from_state(states[kind.part]).eval().requires_grad_(False)
    except RuntimeError as error:
        first = " ".join(str(error).split())[:200]
        raise BadInput(f"{kind.part} weights do not fit network {name}: {first}") from error


def _check(name: str, module: ExportModule, held: Calibration) -> Check:
    kinds = {"appearance": AppearanceCheck, "field": PictureCheck, "generator": PictureCheck}
    return kinds.get(name, Check)(name, module, held)


def _line(made: Quantised) -> str:
    kept = f", {', '.join(made.kept_float)} in float" if made.kept_float else ""
    cost = f"{made.difference:.3f} {made.unit} from float"
    return f"{made.network}: {made.precision}{kept}, {cost}, {made.bytes / 1e6:.2f} MB"


def put_fusion(state: State, weights: Path) -> None:
    """Adds or replaces the network that takes a video layer, and brings the manifest up to date.

    The weights' hash stays: what a receiver makes of a layer is its own affair.
    """
    manifest = json.loads((weights / "manifest.json").read_text())
    network = FusionNetwork.from_state(state).eval().requires_grad_(False)
    for name in LOCAL_FILES:
        partial = weights / (name + ".part")
        if name.endswith(".onnx"):
            write_float(network, partial)
        else:
            # A training's are channels last, which the file cannot say.
            save_tensors({key: value.contiguous() for key, value in state.items()}, partial)
        partial.chmod(0o644)
        os.replace(partial, weights / name)
    _write_manifest(weights, manifest)


def _write_manifest(folder: Path, manifest: dict[str, Any]) -> None:
    files = sorted(p for p in folder.iterdir() if p.suffix in (".onnx", ".safetensors"))
    hashes = {p.name: hashlib.sha256(p.read_bytes()).hexdigest() for p in files}
    manifest["files"] = {name: found for name, found in hashes.items() if name not in LOCAL_FILES}
    manifest["local_files"] = {name: found for name, found in hashes.items() if name in LOCAL_FILES}
    partial = folder / "manifest.json.part"
    partial.write_text(json.dumps(manifest, indent=2) + "\n")
    os.replace(partial, folder / "manifest.json")


def _swap(partial: Path, out: Path) -> None:
    before = out.with_name(out.name + ".before")
    shutil.rmtree(before, ignore_errors=True)
    if out.exists():
        os.replace(out, before)
    try:
        os.replace(partial, out)
    except OSError:
        if before.exists():
            os.replace(before, out)
        raise
    shutil.rmtree(before, ignore_errors=True)
