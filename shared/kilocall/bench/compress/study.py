"""Runs the compression study: every method on every network, sized, timed side by side and compared.

Everything that is compared runs in one process, on the same inputs, with the same number of threads.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Final

import numpy as np
import torch

from kilocall.bench.compress.networks import STUDIED, NetworkName, Studied, psnr, sample_data, studied_networks
from kilocall.bench.compress.page import markdown, page
from kilocall.bench.compress.plot import study_plot
from kilocall.bench.compress.prune import prune_channels, prune_weights, zero_share
from kilocall.bench.compress.qat import distil, with_eight_bits, without_eight_bits
from kilocall.bench.compress.results import MethodKind, Row, Speed, Study
from kilocall.bench.compress.timing import time_side_by_side
from kilocall.bench.compress.write import halved, measure_sizes, quantise_dynamic, quantise_static
from kilocall.model.compact.export_modules import ExportModule
from kilocall.model.compact.family import CompactFamily
from kilocall.model.engine_choice import choose_engine
from kilocall.model.family import weights_folder
from kilocall.proto.errors import BadInput, KilocallError
from kilocall.runtime.engine import Engine, EngineName, Network, installed_engines
from kilocall.runtime.files import write_whole
from kilocall.runtime.machine import cpu_model, instruction_sets
from kilocall.runtime.progress import Progress
from kilocall.train.dataset import Dataset
from kilocall.train.quantise import write_float

__all__ = ["REPORTED", "StudySettings", "compress_study"]


BASE: Final = "fp32"
#: What the report found (figures from its text), to stand beside what is measured here.
REPORTED: Final = (
    "static 8-bit quantisation of the pose estimator: 3.91 times smaller, 0.9 to 1.5 times as fast",
    "pruning, unstructured and structured: no gain in size or speed",
)
#: Engines of the study; torch runs none of the 8-bit files.
_ENGINES: Final[tuple[EngineName, ...]] = ("openvino", "onnxruntime")


@dataclass(frozen=True)
class StudySettings:
    networks: tuple[NetworkName, ...] = STUDIED
    shares: tuple[float, ...] = (0.3, 0.5, 0.7, 0.9)  # of weights pruned
    channel_shares: tuple[float, ...] = (0.25, 0.5)
    pairs: int = 24  # inputs to calibrate with, and as many others to compare on
    steps: int = 60  # of training, quantisation-aware and after pruning
    rounds: int = 40  # timed calls
    threads: int = 1
    engines: tuple[EngineName, ...] = field(
        default_factory=lambda: tuple(e for e in _ENGINES if installed_engines()[e])
    )


#: What a test can wait for: one small network, every method once.
QUICK: Final = StudySettings(networks=("extractor",), shares=(0.5,), channel_shares=(0.25,), pairs=2, steps=2, rounds=3)


@dataclass(frozen=True)
class _Variant:
    method: str
    kind: MethodKind
    path: Path
    note: str = ""
    hint: str = "f32"  # what OpenVINO computes floats in
    zeros: float = 0.0
    steps: int = 0


def compress_study(
    out: Path,
    settings: StudySettings | None = None,
    *,
    data: Path | None = None,
    weights: Path | None = None,
    pose_weights: Path | None = None,
    progress: Progress = lambda done, total: None,
) -> Study:
    """Runs the study and writes study.json, table.md, plot.png and index.html to `out`.

    `data` is a folder of labelled clips, else the built-in speakers serve; `weights` replaces the package's;
    `pose_weights` is a Vox-256 checkpoint, without it the pose estimator has random weights and no quality.
    Raises BadInput for what cannot be used, before anything is written.
    """
    started = time.monotonic()
    chosen = settings or StudySettings()
    _check(chosen)
    torch.set_num_threads(chosen.threads)
    family = CompactFamily(weights or weights_folder(), choose_engine("auto", chosen.threads))
    with TemporaryDirectory(prefix="kilocall-") as scratch:
        frames = sample_data(family) if data is None else Dataset.open(data, Path(scratch) / "data")
        networks = studied_networks(chosen.networks, family, frames, pairs=chosen.pairs, pose_weights=pose_weights)
        rows: list[Row] = []
        kinds: dict[str, MethodKind] = {}
        for number, network in enumerate(networks):
            progress(number, len(networks))
            folder = Path(scratch) / network.name
            folder.mkdir()
            variants = _variants(network, folder, chosen)
            kinds |= {variant.method: variant.kind for variant in variants}
            rows += _rows(network, variants, chosen)
        progress(len(networks), len(networks))
    study = Study(
        machine=f"{cpu_model()} ({', '.join(instruction_sets() or ())})",
        data="built-in speakers" if data is None else data.name,
        threads=chosen.threads,
        pairs=chosen.pairs,
        rounds=chosen.rounds,
        units={n.name: n.unit for n in networks},
        titles={n.name: n.title for n in networks},
        reported=REPORTED,
        rows=rows,
        wall_s=time.monotonic() - started,
    )
    out.mkdir(parents=True, exist_ok=True)
    plot = study_plot(study, kinds)
    write_whole(out / "study.json", study.model_dump_json(indent=2).encode())
    write_whole(out / "table.md", markdown(study).encode())
    write_whole(out / "plot.png", plot)
    write_whole(out / "index.html", page(study, plot, kinds).encode())
    return study


def _check(settings: StudySettings) -> None:
    if not settings.engines:
        raise BadInput("no engine is installed that runs the study's files: openvino or onnxruntime")
    wrong = [e for e in settings.engines if e not in _ENGINES]
    if wrong:
        raise BadInput(f"engine is {wrong[0]!r}; the study allows {', '.join(_ENGINES)}")
    for share in (*settings.shares, *settings.channel_shares):
        if not 0 < share < 1:
            raise BadInput(f"share is {share}, allowed is between 0 and 1")
    for name in ("pairs", "rounds"):
        if getattr(settings, name) < 1:
            raise BadInput(f"{name} is {getattr(settings, name)}, at least 1")
    if settings.steps < 0:
        raise BadInput(f"steps is {settings.steps}, at least 0")


def _variants(network: Studied, folder: Path, settings: StudySettings) -> list[_Variant]:
    """fp32 first, then every method, each in a file of its own."""
    base = folder / "fp32.onnx"
    write_float(network.module, base)
    made = [_Variant(BASE, MethodKind.FP32, base)]
    halves: tuple[tuple[str, str, MethodKind], ...] = (
        ("fp16", "f16", MethodKind.FP16),
        ("bf16", "bf16", MethodKind.BF16),
    )
    for precision, hint, kind in halves:
        path = folder / f"{precision}.onnx"
        halved(base, path, precision)
        made.append(
            _Variant(precision, kind, path, "computed in float32 where the engine has no such arithmetic", hint)
        )
    path = folder / "dynamic.onnx"
    quantise_dynamic(base, path)
    made.append(_Variant("int8 dynamic", MethodKind.INT8, path))
    path = folder / "static.onnx"
    quantise_static(base, path, network.calibration)
    made.append(_Variant("int8 static", MethodKind.INT8, path, "all convolutions"))
    if network.kept_float:
        path = folder / "static_kept.onnx"
        quantise_static(base, path, network.calibration, network.kept_float)
        made.append(_Variant("int8 static, kept", MethodKind.INT8, path, f"{', '.join(network.kept_float)} in float"))
    made.append(_aware(network, folder, settings))
    for share in settings.shares:
        sparser = prune_weights(network.module, share)
        made.append(_pruned(network, folder, settings, sparser, MethodKind.PRUNED, share))
    for share in settings.channel_shares:
        smaller = prune_channels(network.module, share)
        made.append(_pruned(network, folder, settings, smaller, MethodKind.CHANNELS, share))
    if network.shipped is not None:
        made.append(_Variant("shipped", MethodKind.SHIPPED, network.shipped, "the file in the package"))
    return made


def _steps(network: Studied, settings: StudySettings) -> int:
    """Random weights have nothing to keep."""
    return settings.steps if network.unit is not None else 0


def _trained(network: Studied, student: ExportModule, steps: int) -> ExportModule:
    inputs = [{k: torch.from_numpy(v) for k, v in given.items()} for given in network.calibration]
    return distil(student, network.module, inputs, network.forward, steps=steps) if steps else student


def _aware(network: Studied, folder: Path, settings: StudySettings) -> _Variant:
    steps = _steps(network, settings)
    student = _trained(network, with_eight_bits(network.module, network.kept_float), steps)
    whole, path = folder / "aware_float.onnx", folder / "aware.onnx"
    write_float(without_eight_bits(student), whole)
    quantise_static(whole, path, network.calibration, network.kept_float)
    return _Variant("int8 aware", MethodKind.INT8, path, "trained for 8 bits, then static", steps=steps)


def _pruned(
    network: Studied, folder: Path, settings: StudySettings, student: ExportModule, kind: MethodKind, share: float
) -> _Variant:
    steps = _steps(network, settings)
    zeros = zero_share(student)
    word = kind.name.lower()
    path = folder / f"{word}_{share:g}.onnx"
    write_float(_trained(network, student, steps), path)
    note = "float32, trained on after pruning" if steps else "float32"
    return _Variant(f"{word} {share:.0%}", kind, path, note, zeros=zeros, steps=steps)


def _rows(network: Studied, variants: Sequence[_Variant], settings: StudySettings) -> list[Row]:
    speeds: dict[str, list[Speed]] = {v.method: [] for v in variants}
    quality: dict[str, tuple[float, float | None]] = {}
    for name in settings.engines:
        loaded: dict[str, Network] = {}
        for variant in variants:
            try:
                candidate = _engine(name, settings.threads, variant.hint).load(variant.path)
                candidate(**network.check[0])
                loaded[variant.method] = candidate
            except (KilocallError, RuntimeError, ValueError) as error:
                reason = " ".join(str(error).replace(str(variant.path.parent), "").split())[:160]
                speeds[variant.method].append(
                    Speed(engine=name, median_ms=None, fastest_ms=None, ratio=None, refused=reason)
                )
        if BASE not in loaded:
            raise BadInput(f"engine {name} does not run the {network.name} in fp32")
        for method, timed in time_side_by_side(loaded, network.check, settings.rounds).items():
            speeds[method].append(
                Speed(
                    engine=name,
                    median_ms=timed.median_ms,
                    fastest_ms=timed.fastest_ms,
                    ratio=timed.ratio,
                    refused=None,
                )
            )
        new = {method: candidate for method, candidate in loaded.items() if method not in quality}
        quality.update(_qualities(network, loaded[BASE], new))
    sizes = {v.method: measure_sizes(v.path) for v in variants}
    base_truth = quality.get(BASE, (None, None))[1]
    rows = []
    for v in variants:
        from_base, truth = quality.get(v.method, (None, None))
        rows.append(
            Row(
                network=network.name,
                method=v.method,
                note=v.note,
                file_bytes=sizes[v.method].file,
                weight_bytes=sizes[v.method].weights,
                deflated_bytes=sizes[v.method].deflated,
                times_smaller=sizes[BASE].weights / sizes[v.method].weights,
                zeros=v.zeros,
                trained_steps=v.steps,
                speeds=speeds[v.method],
                from_fp32=from_base,
                truth_psnr_db=truth,
                truth_loss_db=None if truth is None or base_truth is None else base_truth - truth,
            )
        )
    return rows


def _engine(name: EngineName, threads: int, hint: str) -> Engine:
    if name == "openvino":
        from kilocall.runtime.engines.openvino import OpenVinoEngine

        return OpenVinoEngine(threads, "study", precision=hint)
    return choose_engine(name, threads)


def _qualities(network: Studied, base: Network, loaded: dict[str, Network]) -> dict[str, tuple[float, float | None]]:
    """How far from fp32's output on the same engine, and PSNR against the truth, by method."""
    if network.unit is None or not loaded:
        return {}
    wanted = [base(**given) for given in network.check]
    found: dict[str, tuple[float, float | None]] = {}
    for method, candidate in loaded.items():
        made = [candidate(**given) for given in network.check]
        apart = float(np.mean([network.quality(m, w) for m, w in zip(made, wanted, strict=True)]))
        truth = None
        if network.truth is not None:
            pairs = zip(made, network.pictures, network.truth, strict=True)
            truth = float(np.mean([psnr(picture(m), t) for m, picture, t in pairs]))
        found[method] = (apart, truth)
    return found
