"""One point of the comparison: a clip through a codec at a setting, counted and scored."""

from __future__ import annotations

import base64
import hashlib
import json
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import lru_cache, partial
from pathlib import Path
from typing import Final, Literal

import cv2
import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel

from kilocall.bench.ffmpeg import find_ffmpeg
from kilocall.bench.landmark_measure import UNIT_SIZE, FamilyMeter, LandmarkMeter, MeasuredLandmarks, MediaPipeMeter
from kilocall.bench.quality.clips import MAX_SECONDS, BenchClip, read_clip
from kilocall.bench.quality.codecs import RatePoint, code_video, named
from kilocall.bench.quality.kilocall_codec import code_motion, frozen_source
from kilocall.bench.vmaf import vmaf
from kilocall.model import landmarks as lm
from kilocall.model import metrics
from kilocall.model.engine_choice import choose_engine
from kilocall.model.family import Family
from kilocall.model.family_loader import FamilyChoice
from kilocall.proto.errors import BadInput, KilocallError
from kilocall.runtime.pictures import as_jpeg

__all__ = [
    "STRIP_MOMENTS",
    "ClipFacts",
    "Job",
    "Outcome",
    "PointResult",
    "PointScores",
    "job_key",
    "measure",
    "measure_point",
    "originals",
]

#: Changes when a number would come out differently for the same job.
MEASURES_VERSION: Final = 1
#: Where in the clip the pictures of the strip are taken, as parts of its length.
STRIP_MOMENTS: Final = (0.25, 0.5, 0.75)
_STRIP_JPEG: Final = 92

Kind = Literal["kilocall", "video", "frozen"]


@dataclass(frozen=True)
class Job:
    """What one worker does; all that its numbers depend on."""

    clip: Path
    clip_digest: str  # of the file
    kind: Kind
    codec: str  # key of the video codec, or of the model family
    family: FamilyChoice = field(default_factory=FamilyChoice)  # for kilocall: where its weights are
    quality: float = 0.0  # kilocall's setting
    point: RatePoint | None = None
    size: int = 256
    fps: float | None = None
    crop: bool | None = None
    seconds: float = MAX_SECONDS
    engine: str = "auto"
    threads: int = 1
    mediapipe_python: Path | None = None
    lpips: tuple[Path, ...] = ()
    dists: tuple[Path, ...] = ()
    tools: str = ""  # versions of ffmpeg and landmark finder, hashes of all weights


class PointScores(BaseModel):
    """How close the pictures are to the original, over all frames. None: cannot be told for this clip."""

    psnr_db: float
    ssim: float
    ms_ssim: float | None
    vmaf: float | None
    face_found: float | None  # of the frames with a face in the original, the part with one in the decoded picture
    landmark_px: float | None  # at 256x256, over those frames
    mouth_r: float | None
    eye_r: float | None
    sharpness: float | None
    flicker: float | None
    jitter_px: float | None
    lpips: float | None = None  # over some of the frames, see `kilocall.bench.perceptual`
    dists: float | None = None


class ClipFacts(BaseModel):
    """The clip as it was used."""

    name: str
    frames: int
    fps: float
    size: int
    digest: str
    notes: list[str]
    lost_frames: int


class PointResult(BaseModel):
    """One clip, one codec, one setting. Bytes in the order of sending; what RTP or the data channel adds is not in
    them."""

    clip: ClipFacts
    kind: Kind
    codec: str
    setting: str
    quality: float
    units: list[list[int]]  # of every coded picture or packet the bytes of its parts
    frames_per_unit: int
    messages: dict[int, list[int]] = {}  # kilocall: frames per packet -> message bytes
    payloads: dict[int, list[int]] = {}  # kilocall: frames per packet -> payload bytes
    source_bytes: int  # kilocall and the frozen picture: sent once, beside the units
    file_bytes: int | None
    scores: PointScores
    code_s: float  # encoding and decoding
    strip: list[str] = []  # JPEG, base64, one of each moment


@dataclass(frozen=True)
class Outcome:
    """A result, or why there is none."""

    job: Job
    result: PointResult | None
    reason: str | None = None


def job_key(job: Job) -> str:
    """Name of the job in the cache: a hash of everything that its numbers depend on, and of nothing else."""
    what = {
        "version": MEASURES_VERSION,
        "clip": job.clip_digest,
        "kind": job.kind,
        "codec": job.codec,
        "quality": job.quality,
        "arguments": named(job.codec).arguments(job.point) if job.kind == "video" and job.point else None,
        "halved": [job.point.half_side, job.point.half_rate] if job.point else None,
        "size": job.size,
        "fps": job.fps,
        "crop": job.crop,
        "seconds": job.seconds,
        "tools": job.tools,
    }
    return hashlib.sha256(json.dumps(what, sort_keys=True).encode()).hexdigest()[:32]


@dataclass(frozen=True)
class _Prepared:
    clip: BenchClip
    truth: MeasuredLandmarks


# The default family, which cuts faces out, and the one that is measured.
@lru_cache(maxsize=2)
def _family(choice: FamilyChoice, engine: str, threads: int) -> Family:
    return choice.load(choose_engine(engine, threads))


@lru_cache(maxsize=1)
def _distances(
    lpips: tuple[Path, ...], dists: tuple[Path, ...], threads: int
) -> dict[str, Callable[[NDArray[np.uint8], NDArray[np.uint8], float], float]]:
    if not lpips and not dists:
        return {}  # torch is not needed then
    from kilocall.bench.perceptual import mean_distance, open_distances

    return {name: partial(mean_distance, one) for name, one in open_distances(lpips, dists, threads).items()}


@lru_cache(maxsize=1)
def _meter(python: Path | None, engine: str, threads: int) -> LandmarkMeter:
    return MediaPipeMeter(python) if python else FamilyMeter(_family(FamilyChoice(), engine, threads))


# A worker gets the jobs of one clip after another, so that one clip is all it has to hold.
@lru_cache(maxsize=1)
def _prepared(
    path: Path,
    digest: str,
    size: int,
    fps: float | None,
    crop: bool | None,
    seconds: float,
    choice: FamilyChoice,
    engine: str,
    threads: int,
    python: Path | None,
) -> _Prepared:
    # The default family cuts the face out whatever is measured: every codec gets the same pixels.
    finder = _family(FamilyChoice(), engine, threads)
    family = _family(choice, engine, threads)
    clip = read_clip(path, family, size=size, fps=fps, crop=crop, seconds=seconds, finder=finder)
    return _Prepared(clip, _measured(_meter(python, engine, threads), clip.frames))


def measure_point(job: Job) -> PointResult:
    """Codes and scores one clip at one setting. Raises BadInput when clip or codec cannot be used."""
    cv2.setNumThreads(1)
    choice = job.family if job.kind == "kilocall" else FamilyChoice()
    family = _family(choice, job.engine, job.threads)
    prepared = _prepared(
        job.clip,
        job.clip_digest,
        job.size,
        job.fps,
        job.crop,
        job.seconds,
        choice,
        job.engine,
        job.threads,
        job.mediapipe_python,
    )
    clip = prepared.clip
    meter = _meter(job.mediapipe_python, job.engine, job.threads)
    started = time.perf_counter()
    payloads: dict[int, list[int]] = {}
    messages: dict[int, list[int]] = {}
    source_bytes, file_bytes, step = 0, None, 1
    if job.kind == "video":
        assert job.point is not None
        coded = code_video(clip.frames, clip.fps, named(job.codec), job.point, find_ffmpeg())
        units, shown, step = [list(unit) for unit in coded.units], coded.shown, coded.frames_per_unit
        file_bytes, setting = coded.file_bytes, job.point.name
    elif job.kind == "kilocall":
        sent = code_motion(clip, family, job.quality)
        payloads = {count: list(sizes) for count, sizes in sent.payloads.items()}
        messages = {count: list(sizes) for count, sizes in sent.messages.items()}
        step = next(iter(payloads))
        units, shown, source_bytes = [[size] for size in payloads[step]], sent.shown, sent.source_bytes
        setting = f"quality {job.quality:g}"
    else:
        picture, source_bytes = frozen_source(clip, family)
        units, shown, setting = [], np.broadcast_to(picture, clip.frames.shape), "first frame"
    code_s = time.perf_counter() - started
    return PointResult(
        clip=_facts(clip),
        kind=job.kind,
        codec=job.codec,
        setting=setting,
        quality=job.quality if job.kind == "kilocall" else float(job.point.quantiser if job.point else 0),
        units=units,
        frames_per_unit=step,
        messages=messages,
        payloads=payloads,
        source_bytes=source_bytes,
        file_bytes=file_bytes,
        scores=_scores(shown, clip, prepared.truth, meter, job),
        code_s=code_s,
        strip=[_small(shown[number]) for number in strip_frames(len(clip.frames))],
    )


def measure(job: Job) -> Outcome:
    """`measure_point` for a pool: what cannot be measured comes back with its reason."""
    try:
        return Outcome(job, measure_point(job))
    except (KilocallError, OSError) as error:
        return Outcome(job, None, str(error).removeprefix(f"{job.clip}: "))


def originals(job: Job) -> list[str]:
    """The strip's pictures of the clip itself."""
    family = _family(FamilyChoice(), job.engine, job.threads)
    frames = read_clip(job.clip, family, size=job.size, fps=job.fps, crop=job.crop, seconds=job.seconds).frames
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


def _scores(
    shown: NDArray[np.uint8], clip: BenchClip, truth: MeasuredLandmarks, meter: LandmarkMeter, job: Job
) -> PointScores:
    # Of a picture that stands still, one measurement holds for all frames.
    made = _still(_measured(meter, shown[:1]), len(shown)) if job.kind == "frozen" else _measured(meter, shown)
    both = made.valid & truth.valid
    some = bool(both.any())
    face, true_face = made.face[both], truth.face[both]
    try:
        film: float | None = vmaf(clip.frames, shown, clip.fps)
    except BadInput:
        film = None
    apart = {
        name: distance(shown, clip.frames, clip.fps)
        for name, distance in _distances(job.lpips, job.dists, job.threads).items()
    }
    return PointScores(
        psnr_db=metrics.psnr(shown, clip.frames),
        ssim=metrics.ssim(shown, clip.frames),
        ms_ssim=metrics.ms_ssim(shown, clip.frames),
        vmaf=film,
        face_found=float(both.sum() / truth.valid.sum()) if truth.valid.any() else None,
        landmark_px=metrics.landmark_distance(made.points[both], truth.points[both]) if some else None,
        mouth_r=metrics.opening_correlation(face, true_face, lm.LIP_PAIRS) if some else None,
        eye_r=metrics.opening_correlation(face, true_face, lm.LID_PAIRS) if some else None,
        sharpness=metrics.sharpness(shown, clip.frames),
        flicker=metrics.flicker(shown, clip.frames),
        jitter_px=metrics.jitter(made.points, made.valid),
        **apart,
    )


def _measured(meter: LandmarkMeter, frames: NDArray[np.uint8]) -> MeasuredLandmarks:
    """At 256x256 whatever the size, so that the finder sees as much of every codec."""
    if frames.shape[1] == UNIT_SIZE:
        return meter.measure(list(frames))
    unit = (UNIT_SIZE, UNIT_SIZE)
    return meter.measure(
        [np.asarray(cv2.resize(frame, unit, interpolation=cv2.INTER_AREA), np.uint8) for frame in frames]
    )


def _still(one: MeasuredLandmarks, count: int) -> MeasuredLandmarks:
    return MeasuredLandmarks(np.repeat(one.points, count, 0), np.repeat(one.valid, count, 0), one.followed)
