"""version, doctor, bench speed: what is installed here and how fast it is; what is in a clip."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from kilocall.model.family import OWN_WEIGHTS
from kilocall.proto.errors import BadInput

__all__ = ["measure", "measure_at_once", "show_clip", "show_diagnosis", "show_version"]


def show_version() -> None:
    try:
        print(f"kilocall {version('kilocall')}")
    except PackageNotFoundError:
        print("kilocall, run from its source folders")


def show_diagnosis(engine: str, threads: int, as_json: bool) -> int:
    """Exit code: 0, or 2 when something that is needed does not work."""
    from kilocall.cli.doctor import diagnose
    from kilocall.cli.screen import print_facts

    found = diagnose(engine, threads)
    if as_json:
        print(json.dumps(asdict(found), indent=2))
        return found.exit_code
    marks = {"ok": "", "missing": " (optional)", "broken": " BROKEN"}
    for section in found.sections:
        print_facts(section.title, [(f.name, f.value + marks[f.state]) for f in section.findings])
        print()
    print(f"{len(found.broken)} things do not work" if found.broken else "everything that is needed works")
    return found.exit_code


def show_clip(clip: Path, engine: str, threads: int, as_json: bool) -> int:
    """Exit code: 0, or 2 when no face is found in it."""
    from kilocall.api import open_family
    from kilocall.cli.screen import console, print_facts, progress_bar
    from kilocall.sender.clip_report import look_at_clip

    family = open_family(engine=engine, threads=threads)
    with progress_bar(f"looking at {clip.name}") as progress:
        report = look_at_clip(clip, family, progress)
    if as_json:
        print(json.dumps(asdict(report), indent=2))
        return report.exit_code
    for section in report.sections:
        print_facts(section.title, [(found.name, found.value) for found in section.findings])
        print()
    if report.remarks:
        print_facts("worth knowing", [("-", remark) for remark in report.remarks])
        print()
    console().print("this clip can be encoded" if report.face else "this clip cannot be encoded")
    return report.exit_code


def measure(
    engines: Sequence[str],
    threads: Sequence[int],
    runs: int,
    as_json: bool,
    family: str | None = None,
    weights: Path | None = None,
) -> None:
    if family in OWN_WEIGHTS:
        _measure_own_weights(engines, threads, as_json, str(family), weights)
        return
    from kilocall.bench.speed import measure_speed
    from kilocall.cli.screen import print_facts, print_table, progress_bar

    with progress_bar("measuring") as progress:
        report = measure_speed(engines, threads, weights=weights, runs=runs, progress=progress)
    if as_json:
        print(json.dumps(asdict(report), indent=2))
        return
    print_facts(
        report.cpu,
        [
            ("cores", str(report.cores)),
            ("system", f"{report.system}, Python {report.python}"),
            ("family", f"{report.family}, {report.runs} calls each, on {report.picture}"),
            ("compared with", f"torch {report.compared_with}" if report.compared_with else "torch is not installed"),
            ("memory", f"{report.process_memory_mb:.0f} MB"),
        ],
    )
    for speed in report.engines:
        print_table(
            f"{speed.engine} {speed.version}, {speed.threads} threads, {speed.device}: sender "
            f"{speed.sender_fps:.0f} fps, receiver {speed.receiver_fps:.0f} fps, {speed.moving_on_fps:.0f} with "
            f"pictures moved on in between, loads in {speed.load_s:.1f} s, "
            f"{speed.memory_mb:.0f} MB",
            ["stage", "for", "ms", "95 %", "torch takes"],
            [
                [
                    s.stage,
                    s.kind,
                    f"{s.median_ms:.2f}",
                    f"{s.p95_ms:.2f}",
                    f"{s.times_torch:.1f} x" if s.times_torch else "",
                ]
                for s in speed.stages
            ],
        )


def measure_at_once(
    streams: int,
    engines: Sequence[str],
    threads: Sequence[int],
    as_json: bool,
    family: str | None,
    weights: Path | None,
) -> None:
    from kilocall.bench.streams import measure_streams
    from kilocall.cli.screen import console, print_table, progress_bar
    from kilocall.model.family import DEFAULT_FAMILY
    from kilocall.model.family_loader import FamilyChoice

    models = FamilyChoice(family or DEFAULT_FAMILY, weights)
    models.check()
    with progress_bar("measuring") as progress:
        report = measure_streams(streams, engines, threads, models=models, progress=progress)
    if as_json:
        print(json.dumps(asdict(report), indent=2))
        return
    print_table(
        f"{report.family} on {report.cpu}, {report.cores} cores: streams of {report.fps:g} fps",
        ["side, engine, threads each", "at once", "alone, fps", "first frame, s", "each more, MB"],
        [
            [
                f"{one.side}, {one.engine} {one.version}, {one.threads}",
                f"{one.at_once}" + (" or more" if one.at_once == one.tried else ""),
                f"{one.fps_alone:.1f}",
                f"{one.first_s:.1f}",
                "" if one.memory_mb is None else f"{one.memory_mb:.0f}",
            ]
            for one in report.speeds
        ],
    )
    console().print(
        "Each with networks and threads of its own, all in one process. At once: so many do every frame in time; "
        "0: not even one.\nAlone: what one does as fast as it can. Each more: by how much every further one lets the "
        "process grow."
    )


def _measure_own_weights(
    engines: Sequence[str], threads: Sequence[int], as_json: bool, family: str, weights: Path | None
) -> None:
    from kilocall.cli.screen import needs, print_facts, progress_bar

    if weights is None:
        raise BadInput(f"family {family} needs its weights, which are not in the package: --weights")
    needs("torch", "torch")
    from kilocall.bench.volume_speed import measure_volume

    for engine in engines or ["auto"]:
        for count in threads or [0]:
            with progress_bar(f"measuring {family}") as progress:
                found = measure_volume(family, weights, engine=engine, threads=count, progress=progress)
            if as_json:
                print(json.dumps({**asdict(found), "times_plain": found.times_plain}, indent=2))
                continue
            print_facts(
                f"{found.family}, {found.version}",
                [
                    ("machine", f"{found.cpu}, {found.threads} threads, {found.device}"),
                    ("engine", found.engine + (", sums in bfloat16" if found.bfloat16 else "")),
                    ("head pose and expression", f"{found.head_ms:.0f} ms"),
                    ("features, once per source", f"{found.source_ms:.0f} ms"),
                    ("frame", f"{found.frame_ms:.0f} ms"),
                    ("frame in plain torch", f"{found.plain_frame_ms:.0f} ms, {found.times_plain:.1f} times as long"),
                    ("against plain torch", f"{found.psnr_db:.1f} dB"),
                ],
            )
