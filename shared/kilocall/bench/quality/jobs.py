"""One point of the comparison: a clip coded by a method, counted and scored."""

from __future__ import annotations

import base64
import hashlib
import json
import time
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache, partial
from pathlib import Path
from typing import Final

import cv2
import numpy as np
from numpy.typing import NDArray

from kilocall.bench.landmark_measure import UNIT_SIZE, open_meter
from kilocall.bench.quality.clips import BenchClip, read_clip
from kilocall.bench.quality.methods import CodedClip, Method
from kilocall.bench.quality.results import ClipFacts, PointResult, PointScores
from kilocall.bench.quality.settings import QualitySettings
from kilocall.bench.scores import Distance, MeasuredFrames, Part, Scorer
from kilocall.model.engine_choice import choose_engine
from kilocall.model.family import Family
from kilocall.model.family_loader import FamilyChoice
from kilocall.proto.errors import KilocallError
from kilocall.runtime.pictures import as_jpeg

__all__ = ["STRIP_MOMENTS", "Job", "Outcome", "job_key", "measure", "measure_point", "originals"]

#: Changes when a number would come out differently for the same job.
MEASURES_VERSION: Final = 1
#: Where in the clip the pictures of the strip are taken, as parts of its length.
STRIP_MOMENTS: Final = (0.25, 0.5, 0.75)
_STRIP_JPEG: Final = 92
#: What a comparison asks for.
SCORED: Final = (Part.MS_SSIM, Part.VMAF, Part.SHARPNESS, Part.FLICKER, Part.LIDS, Part.JITTER)


@dataclass(frozen=True)
class Job:
    """What one worker does; all that its numbers depend on."""

    clip: Path
    clip_digest: str  # of the file
    method: Method
    settings: QualitySettings
    crop: bool | None
    """Whether the face is cut out, found out where the settings leave it open; None where the file cannot be read."""
    tools: str  # versions of ffmpeg and landmark finder, hashes of all weights


@dataclass(frozen=True)
class Outcome:
    """A result, or why there is none."""

    job: Job
    result: PointResult | None
    reason: str | None = None


def job_key(job: Job) -> str:
    """Name of the job in the cache: a hash of everything that its numbers depend on, and of nothing else."""
    what = job.method.depends_on | {
        "version": MEASURES_VERSION,
        "clip": job.clip_digest,
        "size": job.settings.size,
        "fps": job.settings.fps,
        "crop": job.crop,
        "seconds": job.settings.seconds,
        "tools": job.tools,
    }
    return hashlib.sha256(json.dumps(what, sort_keys=True).encode()).hexdigest()[:32]


# The default family, which cuts faces out, and the one that is measured.
@lru_cache(maxsize=2)
def _family(choice: FamilyChoice, engine: str, threads: int) -> Family:
    return choice.load(choose_engine(engine, threads))


@lru_cache(maxsize=1)
def _distances(lpips: tuple[Path, ...], dists: tuple[Path, ...], threads: int) -> Mapping[str, Distance]:
    if not lpips and not dists:
        return {}  # torch is not needed then
    from kilocall.bench.perceptual import mean_distance, open_distances

    return {name: partial(mean_distance, one) for name, one in open_distances(lpips, dists, threads).items()}


@lru_cache(maxsize=1)
def _scorer(settings: QualitySettings) -> Scorer:
    family = _family(FamilyChoice(), settings.engine, settings.threads)
    return Scorer(
        open_meter(settings.mediapipe_python, family),
        SCORED,
        _distances(settings.lpips, settings.dists, settings.threads),
        # Whatever the size, so that the finder sees as much of every codec.
        landmark_side=UNIT_SIZE,
    )


# A worker gets the jobs of one clip after another, so that one clip is all it has to hold.
@lru_cache(maxsize=1)
def _prepared(
    path: Path, digest: str, crop: bool | None, settings: QualitySettings, choice: FamilyChoice
) -> tuple[BenchClip, MeasuredFrames]:
    # The default family cuts the face out whatever is measured: every codec gets the same pixels.
    finder = _family(FamilyChoice(), settings.engine, settings.threads)
    family = _family(choice, settings.engine, settings.threads)
    clip = read_clip(
        path, family, size=settings.size, fps=settings.fps, crop=crop, seconds=settings.seconds, finder=finder
    )
    return clip, _scorer(settings).measured(clip.frames)


def measure_point(job: Job) -> PointResult:
    """Codes and scores one clip at one setting. Raises BadInput when clip or codec cannot be used."""
    cv2.setNumThreads(1)
    method, settings = job.method, job.settings
    family = _family(method.family, settings.engine, settings.threads)
    clip, truth = _prepared(job.clip, job.clip_digest, job.crop, settings, method.family)
    scorer = _scorer(settings)
    started = time.perf_counter()
    coded = method.code(clip, family)
    code_s = time.perf_counter() - started
    scores = scorer.score(_shown(method, coded, scorer), truth, clip.fps)
    return PointResult(
        clip=_facts(clip),
        kind=method.kind,
        codec=method.codec,
        setting=method.setting,
        quality=method.quality,
        units=[list(unit) for unit in coded.units],
        frames_per_unit=coded.frames_per_unit,
        messages=coded.messages,
        payloads=coded.payloads,
        source_bytes=coded.source_bytes,
        first_layer=list(coded.first_layer),
        file_bytes=coded.file_bytes,
        scores=PointScores.of(scores),
        code_s=code_s,
        strip=[_small(coded.shown[number]) for number in strip_frames(len(clip.frames))],
    )


def _shown(method: Method, coded: CodedClip, scorer: Scorer) -> MeasuredFrames:
    # Of a picture that stands still, one measurement holds for all frames.
    if method.stands_still:
        return scorer.measured(coded.shown[:1]).held(0, len(coded.shown))
    return scorer.measured(coded.shown)


def measure(job: Job) -> Outcome:
    """`measure_point` for a pool: what cannot be measured comes back with its reason."""
    try:
        return Outcome(job, measure_point(job))
    except (KilocallError, OSError) as error:
        return Outcome(job, None, str(error).removeprefix(f"{job.clip}: "))


def originals(clip: Path, settings: QualitySettings) -> list[str]:
    """The strip's pictures of the clip itself."""
    family = _family(FamilyChoice(), settings.engine, settings.threads)
    frames = read_clip(
        clip, family, size=settings.size, fps=settings.fps, crop=settings.crop, seconds=settings.seconds
    ).frames
    return [_small(frames[number]) for number in strip_frames(len(frames))]


def strip_frames(count: int) -> list[int]:
    return [int(moment * count) for moment in STRIP_MOMENTS]


def _small(picture: NDArray[np.uint8]) -> str:
    return base64.b64encode(as_jpeg(picture, _STRIP_JPEG)).decode()


def _facts(clip: BenchClip) -> ClipFacts:
    return ClipFacts(
        name=clip.name,
        frames=len(clip.frames),
        fps=clip.fps,
        size=clip.size,
        digest=clip.digest,
        notes=list(clip.notes),
        lost_frames=clip.lost_frames,
    )
