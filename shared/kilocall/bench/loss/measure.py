"""Runs every method over every link and scores what was shown."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np

from kilocall.bench.landmark_measure import UNIT_SIZE, open_meter
from kilocall.bench.loss.link import OUTAGE_S, PLAYOUT_S, Link, Outages, Pattern
from kilocall.bench.loss.methods import METHODS, Method, layered
from kilocall.bench.loss.results import LossPoint, LossReport
from kilocall.bench.loss.shown import Shown
from kilocall.bench.quality.clips import BenchClip, read_clip
from kilocall.bench.scores import Scorer, Scores, mean_of_known
from kilocall.proto.errors import BadInput, KilocallError
from kilocall.runtime.progress import Progress, silent
from kilocall.sender.layer_encoder import DEFAULT_LAYER_KBPS, check_layer_kbps

__all__ = ["LAYERS", "LOSSES", "LossSettings", "measure_loss"]

LOSSES: Final = (0.0, 0.05, 0.1, 0.2, 0.3, 0.4)
#: What a call has unless told otherwise.
LAYERS: Final = (DEFAULT_LAYER_KBPS,)


@dataclass(frozen=True)
class LossSettings:
    """What is measured."""

    losses: tuple[float, ...] = LOSSES
    layers: tuple[float, ...] = LAYERS
    """Rates of a video layer under kilocall's motion, kilobits a second: a method each, 0 for none."""
    patterns: tuple[Pattern, ...] = ("random", "bursts")
    round_trip_s: float = 0.1
    seconds: float = 10.0
    seed: int = 1
    size: int = 256
    fps: float | None = None
    crop: bool | None = None
    engine: str = "auto"
    threads: int = 1
    mediapipe_python: Path | None = None


def measure_loss(clips: Sequence[Path], settings: LossSettings, *, progress: Progress = silent) -> LossReport:
    """Runs every method over every link. A clip that cannot be used is listed with its reason; BadInput when that goes
    for all, or a setting is out of range."""
    from kilocall.api import open_family

    for loss in settings.losses:
        Outages(loss, "random", "")
    for kbps in settings.layers:
        check_layer_kbps(kbps)
    methods = [*METHODS, *(layered(kbps) for kbps in dict.fromkeys(settings.layers) if kbps)]
    if not 0 <= settings.round_trip_s <= 2:
        raise BadInput(f"round trip is {settings.round_trip_s} s, allowed are 0 to 2")
    family = open_family(engine=settings.engine, threads=settings.threads)
    scorer = Scorer(open_meter(settings.mediapipe_python, family), landmark_side=UNIT_SIZE)
    runs = [(pattern, loss, method) for pattern, loss in _links(settings) for method in methods]
    total = len(clips) * len(runs)
    rows: dict[tuple[Method, Pattern, float], list[LossPoint]] = {}
    used: list[str] = []
    failures: list[tuple[str, str]] = []
    for number, path in enumerate(clips):
        progress(number * len(runs), total)
        try:
            clip = read_clip(
                path, family, size=settings.size, fps=settings.fps, crop=settings.crop, seconds=settings.seconds
            )
        except (KilocallError, OSError) as error:
            failures.append((path.name, str(error).removeprefix(f"{path}: ")))
            continue
        used.append(clip.name)
        truth = scorer.measured(clip.frames)
        for done, (pattern, loss, method) in enumerate(runs, number * len(runs) + 1):
            shown = method.send(clip, family, _link(clip, pattern, loss, settings))
            scores = scorer.score(scorer.measured(shown.pictures), truth, clip.fps)
            rows.setdefault((method, pattern, loss), []).append(_point(method, pattern, loss, clip, shown, scores))
            progress(done, total)
    if not used:
        raise BadInput(f"none of {len(clips)} clips can be used; {failures[0][0]}: {failures[0][1]}")
    return LossReport(
        clips=used,
        failures=failures,
        round_trip_s=settings.round_trip_s,
        playout_s=PLAYOUT_S,
        outage_s=OUTAGE_S,
        seconds=settings.seconds,
        seed=settings.seed,
        landmarks_by=scorer.meter.name,
        methods={method.title: method.about for method in methods},
        points=[_mean(points) for points in rows.values()],
    )


def _links(settings: LossSettings) -> list[tuple[Pattern, float]]:
    links = [(pattern, loss) for pattern in settings.patterns for loss in settings.losses]
    # Without loss both patterns are the same link.
    return [link for number, link in enumerate(links) if link[1] > 0 or number == 0]


def _link(clip: BenchClip, pattern: Pattern, loss: float, settings: LossSettings) -> Link:
    """A new one, but with the same outages for every method."""
    forward, back = (Outages(loss, pattern, f"{settings.seed} {clip.name} {way}") for way in ("forward", "back"))
    return Link(forward, back, settings.round_trip_s)


def _point(method: Method, pattern: Pattern, loss: float, clip: BenchClip, shown: Shown, scores: Scores) -> LossPoint:
    return LossPoint(
        method=method.title,
        pattern=pattern,
        loss=loss,
        lost=shown.lost,
        wire_kbps=8 * shown.bytes / clip.seconds / 1000,
        new_pictures=float(np.mean(shown.new)),
        longest_freeze_s=shown.longest_freeze / clip.fps,
        psnr_db=scores.psnr_db,
        ssim=scores.ssim,
        landmark_px=scores.landmark_px,
        mouth_r=scores.mouth_r,
    )


def _mean(points: Sequence[LossPoint]) -> LossPoint:
    numbers = {
        name: mean_of_known(getattr(point, name) for point in points)
        for name in LossPoint.model_fields
        if name not in ("method", "pattern", "loss")
    }
    first = points[0]
    return LossPoint.model_validate({"method": first.method, "pattern": first.pattern, "loss": first.loss, **numbers})
