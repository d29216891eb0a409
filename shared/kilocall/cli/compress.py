"""compress-study: pruning and fewer bits, measured."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from kilocall.cli.screen import console, needs, progress_bar
from kilocall.proto.errors import BadInput
from kilocall.runtime.files import check_output_folder

__all__ = ["study_compression"]


def study_compression(
    out: Path,
    *,
    quick: bool,
    network: list[str],
    data: Path | None,
    weights: Path | None,
    pose_weights: Path | None,
    steps: int | None,
    rounds: int | None,
    threads: int,
) -> None:
    for module in ("torch", "onnx", "onnxruntime", "jinja2", "matplotlib"):
        needs(module, "train")
    from kilocall.bench.compress.networks import STUDIED
    from kilocall.bench.compress.page import print_study
    from kilocall.bench.compress.study import QUICK, StudySettings, compress_study

    check_output_folder(out)
    wrong = [n for n in network if n not in STUDIED]
    if wrong:
        raise BadInput(f"network is {wrong[0]!r}, allowed are {', '.join(STUDIED)}")
    settings = replace(QUICK if quick else StudySettings(), threads=threads)
    if network:
        settings = replace(settings, networks=tuple(n for n in STUDIED if n in network))
    if steps is not None:
        settings = replace(settings, steps=steps)
    if rounds is not None:
        settings = replace(settings, rounds=rounds)
    with progress_bar("networks") as progress:
        study = compress_study(out, settings, data=data, weights=weights, pose_weights=pose_weights, progress=progress)
    print_study(study, console())
    console().print(f"wrote index.html, table.md, study.json and plot.png to {out}", soft_wrap=True)
