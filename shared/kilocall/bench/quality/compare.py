"""Plans the comparison, runs it through cache and pool, and gathers what came of it."""

from __future__ import annotations

import hashlib
import importlib.util
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from kilocall.bench.ffmpeg import Ffmpeg, find_ffmpeg
from kilocall.bench.landmark_measure import open_meter
from kilocall.bench.quality.cache import Cache
from kilocall.bench.quality.clips import CLIP_SUFFIXES, MAX_SECONDS, MIN_SECONDS, SIZES, is_crop
from kilocall.bench.quality.codecs import CODECS, VideoCodec, named
from kilocall.bench.quality.jobs import Job, Outcome
from kilocall.bench.quality.methods import FrozenPicture, Method, Motion, Video
from kilocall.bench.quality.pool import run_jobs
from kilocall.bench.quality.results import PointResult
from kilocall.bench.quality.settings import QualitySettings
from kilocall.codec.codebook import usual_quality
from kilocall.model.engine_choice import choose_engine
from kilocall.model.family import DEFAULT_FAMILY
from kilocall.model.family_loader import FamilyChoice
from kilocall.proto.errors import BadInput
from kilocall.runtime.progress import Progress, silent
from kilocall.sender.layer_encoder import check_layer_kbps

if TYPE_CHECKING:
    from kilocall.bench.perceptual import PictureDistance

__all__ = ["Comparison", "Missing", "compare", "find_clips", "installed_families"]


@dataclass(frozen=True)
class Missing:
    """A clip, a codec, or one of both, that is not in the comparison, and why."""

    clip: str | None
    codec: str | None
    reason: str


@dataclass(frozen=True)
class Comparison:
    """All results, and what the report needs to say how they came about."""

    settings: QualitySettings
    results: list[PointResult]
    missing: list[Missing]
    families: dict[str, str]  # name -> hash of the weights
    codecs: tuple[VideoCodec, ...]
    ffmpeg: Ffmpeg
    landmarks_by: str
    distances_by: list[str]  # LPIPS, DISTS: which network and the hash of its weights
    engine: str
    clips: dict[str, Path]
    cached: int


def installed_families() -> list[str]:
    """Names of the model families whose weights are in the package."""
    from kilocall.model.family import weights_folder

    return sorted(path.parent.name for path in weights_folder(DEFAULT_FAMILY).parent.glob("*/manifest.json"))


def find_clips(paths: Sequence[Path]) -> list[Path]:
    """The clips named, folders opened. BadInput for one that is not there, for two of one name, or for none."""
    found: list[Path] = []
    for path in paths:
        if path.is_dir():
            found += sorted(p for p in path.iterdir() if p.suffix.lower() in CLIP_SUFFIXES and p.is_file())
        elif path.is_file():
            found.append(path)
        else:
            raise BadInput(f"{path}: no such file or folder")
    if not found:
        raise BadInput(f"no clip in {', '.join(map(str, paths)) or 'nothing'} ({', '.join(CLIP_SUFFIXES)})")
    names = [path.name for path in found]
    for name in names:
        if names.count(name) > 1:
            raise BadInput(f"two clips are called {name}; the report needs different names")
    return found


def compare(
    clips: Sequence[Path], settings: QualitySettings, *, cache: Path | None = None, progress: Progress = silent
) -> Comparison:
    """Codes and scores every clip with every codec at every setting.

    What is in the `cache` already is not measured again. `progress` gets points done and points in all. BadInput when
    a setting is out of range, ffmpeg is missing, or no clip at all can be used.
    """
    _check(settings)
    paths = find_clips(clips)
    ffmpeg = find_ffmpeg()
    usable, missing = _usable_codecs(settings, ffmpeg)
    plan = _Plan(settings, ffmpeg, usable)
    run = _Run(settings, Cache(cache), missing, progress)
    # The frozen picture first: a clip that cannot be used at all is found out once, not with every codec.
    first = [plan.frozen(path) for path in paths]
    rest = {path: plan.coded(path) for path in paths}
    total = len(first) + sum(map(len, rest.values()))
    unusable = {job.clip for job in run.measure(first, 0, total)}
    if len(unusable) == len(paths):
        raise BadInput(f"none of {len(paths)} clips can be used; {missing[-1].clip}: {missing[-1].reason}")
    jobs = [job for path in paths if path not in unusable for job in rest[path]]
    run.measure(jobs, len(first), len(first) + len(jobs))
    return Comparison(
        settings=settings,
        results=_in_order(run.results, first, rest),
        missing=missing,
        families=plan.families,
        codecs=usable,
        ffmpeg=ffmpeg,
        landmarks_by=plan.landmarks_by,
        distances_by=plan.distances_by,
        engine=plan.engine,
        clips={path.name: path for path in paths if path not in unusable},
        cached=run.store.hits,
    )


def _check(settings: QualitySettings) -> None:
    if settings.size not in SIZES:
        raise BadInput(f"size is {settings.size}, allowed are {' and '.join(map(str, SIZES))}")
    if not MIN_SECONDS <= settings.seconds <= MAX_SECONDS:
        raise BadInput(f"seconds is {settings.seconds:g}, allowed are {MIN_SECONDS:g} to {MAX_SECONDS:g}")
    for quality in settings.qualities:
        if not 0 <= quality <= 100:
            raise BadInput(f"quality is {quality:g}, allowed are 0 to 100")
    for kbps in settings.layers:
        check_layer_kbps(kbps)


def _usable_codecs(settings: QualitySettings, ffmpeg: Ffmpeg) -> tuple[tuple[VideoCodec, ...], list[Missing]]:
    """Those of the codecs chosen that this ffmpeg has, and those that it has not."""
    wanted = [key for key in settings.codecs if key != "none"]
    chosen = tuple(map(named, wanted)) if settings.codecs else CODECS
    missing = [
        Missing(None, codec.key, f"ffmpeg {ffmpeg.version} has no encoder {codec.encoder}")
        for codec in chosen
        if codec.encoder not in ffmpeg.encoders
    ]
    return tuple(codec for codec in chosen if codec.encoder in ffmpeg.encoders), missing


class _Run:
    """Takes jobs through cache and pool; keeps results, and in `missing` why there is none."""

    def __init__(self, settings: QualitySettings, store: Cache, missing: list[Missing], progress: Progress) -> None:
        self.settings, self.store, self.missing, self.progress = settings, store, missing, progress
        self.results: list[PointResult] = []

    def measure(self, jobs: Sequence[Job], done: int, total: int) -> list[Job]:
        """The jobs that failed. `done` of `total` jobs were done before."""
        failed, waiting = [], []
        for job in jobs:
            known = self.store.get(job)
            if known is None:
                waiting.append(job)
            else:
                self.results.append(known)
                done += 1
        self.progress(done, total)
        for outcome in run_jobs(waiting, workers=self.settings.workers, ray_address=self.settings.ray_address):
            if outcome.result is None:
                failed.append(outcome.job)
                self.missing.append(_missing(outcome))
            else:
                self.store.put(outcome.job, outcome.result)
                self.results.append(outcome.result)
            done += 1
            self.progress(done, total)
        return failed


def _missing(outcome: Outcome) -> Missing:
    """Where not even the frozen picture can be measured, the clip is what fails."""
    job = outcome.job
    codec = None if isinstance(job.method, FrozenPicture) else job.method.codec
    return Missing(job.clip.name, codec, outcome.reason or "no reason given")


class _Plan:
    """Makes the jobs; everything that their numbers depend on is in them."""

    def __init__(self, settings: QualitySettings, ffmpeg: Ffmpeg, codecs: Sequence[VideoCodec]) -> None:
        self.settings, self.codecs = settings, codecs
        engine = choose_engine(settings.engine, settings.threads)
        self._choices = _named_choices(settings.families)
        opened = {name: choice.load(engine) for name, choice in self._choices.items()}
        default = opened[DEFAULT_FAMILY]
        meter = open_meter(settings.mediapipe_python, default)
        self.families = {name: family.weights_hash for name, family in opened.items()}
        self._made_with = {name: f"{one.weights_hash} {one.codebook.hash}" for name, one in opened.items()}
        self._layered = [name for name, one in opened.items() if settings.layers and one.fusion() is not None]
        self.landmarks_by = meter.name
        distances = _open_distances(settings)
        self.distances_by = [f"{one.name}, {one.frames_per_s} frames a second, {one.hash[:12]}" for one in distances]
        self.engine = str(getattr(getattr(default, "engine", None), "name", settings.engine))
        self._default = default
        # What the default family's networks cut or measure changes with its weights, for every codec.
        self._own_meter = settings.mediapipe_python is None
        # Without LPIPS and DISTS the name is as it was before they could be measured: old results are found.
        self._tools = " ".join([ffmpeg.version, meter.name, self.engine, *(one.hash for one in distances)])
        self._clips: dict[Path, tuple[str, bool | None]] = {}

    def frozen(self, clip: Path) -> Job:
        return self._job(clip, FrozenPicture())

    def coded(self, clip: Path) -> list[Job]:
        motion = [
            self._job(clip, Motion(name, self._choices[name], quality), made_with)
            for name, made_with in self._made_with.items()
            for quality in self.settings.qualities
        ] + [
            self._job(clip, Motion(name, self._choices[name], usual_quality(kbps), kbps), self._made_with[name])
            for name in self._layered
            for kbps in dict.fromkeys(self.settings.layers)
            if kbps
        ]
        video = [self._job(clip, Video(codec, point)) for codec in self.codecs for point in codec.ladder]
        return motion + video

    def _job(self, clip: Path, method: Method, weights: str = "") -> Job:
        digest, crop = self._about(clip)
        own = self._default.weights_hash if self._own_meter or crop is not False else ""
        return Job(clip, digest, method, self.settings, crop, tools=f"{self._tools} {own} {weights}")

    def _about(self, clip: Path) -> tuple[str, bool | None]:
        """Digest of the file, and whether the face is cut out of it; None where the file cannot be read."""
        if clip not in self._clips:
            crop = self.settings.crop
            if crop is None:
                try:
                    crop = not is_crop(clip, self._default)
                except BadInput:
                    crop = None  # the worker will say what is wrong with it
            self._clips[clip] = (hashlib.sha256(clip.read_bytes()).hexdigest(), crop)
        return self._clips[clip]


def _named_choices(own: Sequence[FamilyChoice]) -> dict[str, FamilyChoice]:
    """Every model by the name that its curve has: its family's, with the file's where that is taken."""
    choices = {name: FamilyChoice(name) for name in installed_families()}
    for choice in own:
        if choice.weights is None:
            raise BadInput(f"family {choice.name} is given without --weights; what is installed is measured anyway")
        name = choice.name if choice.name not in choices else f"{choice.name} {choice.weights.stem}"
        if name in choices:
            raise BadInput(
                f"weights {choice.weights}: another family is called {name!r} in the report; rename the file"
            )
        choices[name] = choice
    return choices


def _open_distances(settings: QualitySettings) -> list[PictureDistance]:
    """Opened before anything is measured: what does not fit is said at once."""
    if not settings.lpips and not settings.dists:
        return []
    if importlib.util.find_spec("torch") is None:
        raise BadInput("LPIPS and DISTS need torch, which is not installed: pip install 'kilocall[torch]'")
    from kilocall.bench.perceptual import open_distances

    return list(open_distances(settings.lpips, settings.dists, settings.threads).values())


def _in_order(results: Sequence[PointResult], first: Sequence[Job], rest: dict[Path, list[Job]]) -> list[PointResult]:
    """By clip and then as planned, whatever the order in which workers were done."""
    place: dict[tuple[str, str, str, float], int] = {}
    for frozen in first:
        for job in (frozen, *rest[frozen.clip]):
            place.setdefault(_name_of(job), len(place))
    return sorted(results, key=lambda r: place[(r.clip.name, r.codec, r.setting, r.quality)])


def _name_of(job: Job) -> tuple[str, str, str, float]:
    return job.clip.name, job.method.codec, job.method.setting, job.method.quality
