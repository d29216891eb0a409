"""How close what was shown of a clip is to the original: its pictures, landmarks and openings as one value.

`evaluate`, `bench quality` and `bench loss` all score with this; each report keeps the scores that it has fields for.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from enum import Enum, auto
from typing import Final, ParamSpec

import cv2
import numpy as np
from numpy.typing import NDArray

from kilocall.bench.landmark_measure import LandmarkMeter, MeasuredLandmarks
from kilocall.bench.vmaf import vmaf
from kilocall.model import landmarks as lm
from kilocall.model import metrics
from kilocall.model.family import Picture
from kilocall.proto.errors import BadInput

__all__ = ["Distance", "MeasuredFrames", "Part", "Scorer", "Scores", "mean_of_known"]

P = ParamSpec("P")

Frames = Sequence[Picture] | NDArray[np.uint8]
Distance = Callable[[NDArray[np.uint8], NDArray[np.uint8], float], float]
"""Of two clips uint8 RGB [T, S, S, 3], made and truth, at a frame rate."""


class Part(Enum):
    """What is measured only where it is asked for."""

    L1 = auto()
    MS_SSIM = auto()
    VMAF = auto()
    SHARPNESS = auto()
    FLICKER = auto()
    LIDS = auto()
    GAZE = auto()
    GAINS = auto()
    """Of lips and lids."""
    INTERIOR = auto()
    JITTER = auto()


#: What cannot be told where no frame has a face in both.
_OF_FACES: Final = frozenset((Part.LIDS, Part.GAZE, Part.GAINS))


@dataclass(frozen=True)
class Scores:
    """How close the pictures are to the original. None: not asked for, or cannot be told for this clip."""

    psnr_db: float
    ssim: float
    landmark_frames: int  # frames with a measured face in both, over which landmarks are scored
    face_found: float | None  # of the frames with a face in the original, the part with one in what was shown
    landmark_px: float | None  # at 256x256
    mouth_r: float | None  # correlation of the opening; None where the original hardly opens
    eye_r: float | None = None
    mouth_gain: float | None = None  # how far it opens for each pixel of the original; None as above
    eye_gain: float | None = None
    gaze_r: float | None = None  # the same of how far irises lie from the middles of their eyes
    gaze_gain: float | None = None
    interior_off: float | None = None  # grey levels by which it is too bright or dark between open lips
    jitter_px: float | None = None  # mean second difference of the landmarks over time
    l1: float | None = None
    ms_ssim: float | None = None
    vmaf: float | None = None  # None where there is no ffmpeg with libvmaf, or it fails
    sharpness: float | None = None  # Laplacian variance against the original's
    flicker: float | None = None  # second difference of luma over time against the original's
    lpips: float | None = None  # over some of the frames, see `kilocall.bench.perceptual`
    dists: float | None = None


@dataclass(frozen=True)
class MeasuredFrames:
    """Square pictures uint8 RGB of one size in the order of time, and the landmarks that were measured in them."""

    pictures: Frames
    landmarks: MeasuredLandmarks

    def held(self, number: int, count: int) -> MeasuredFrames:
        """One of the pictures as a clip of `count` frames that stands still."""
        picture = self.pictures[number]
        return MeasuredFrames(np.broadcast_to(picture, (count, *picture.shape)), self.landmarks.held(number, count))


@dataclass(frozen=True)
class Scorer:
    """Scores clips, each against its original: PSNR, SSIM, landmarks, mouth, and what is asked for."""

    meter: LandmarkMeter
    parts: Collection[Part] = ()
    distances: Mapping[str, Distance] = field(default_factory=dict)
    """By the names that scores have."""
    landmark_side: int | None = None
    """Landmarks are looked for in pictures of this side, whatever theirs is; None: as they are."""

    def measured(self, pictures: Frames) -> MeasuredFrames:
        """The pictures with landmarks in them."""
        side = self.landmark_side
        if side is None or side == pictures[0].shape[0]:
            return MeasuredFrames(pictures, self.meter.measure(list(pictures)))
        small = [np.asarray(cv2.resize(p, (side, side), interpolation=cv2.INTER_AREA), np.uint8) for p in pictures]
        return MeasuredFrames(pictures, self.meter.measure(small))

    def score(
        self,
        shown: MeasuredFrames,
        truth: MeasuredFrames,
        fps: float,
        *,
        left_out: Collection[int] = (),
        landmarks_too: bool = False,
    ) -> Scores:
        """Pictures of the frames `left_out` are not scored; their landmarks are, unless `landmarks_too`."""
        made, wanted = (_without(frames.pictures, left_out) for frames in (shown, truth))
        both = shown.landmarks.valid & truth.landmarks.valid
        if landmarks_too:
            both[list(left_out)] = False
        some, faces = bool(both.any()), int(truth.landmarks.valid.sum())
        points, true_points = shown.landmarks.points[both], truth.landmarks.points[both]
        face, true_face = shown.landmarks.face[both], truth.landmarks.face[both]
        parts = set(self.parts) if some else set(self.parts) - _OF_FACES

        def asked(part: Part, measure: Callable[P, float | None], *args: P.args, **more: P.kwargs) -> float | None:
            return measure(*args, **more) if part in parts else None

        return Scores(
            psnr_db=metrics.psnr(made, wanted),
            ssim=metrics.ssim(made, wanted),
            landmark_frames=int(both.sum()),
            face_found=float(both.sum() / faces) if faces else None,
            landmark_px=metrics.landmark_distance(points, true_points) if some else None,
            mouth_r=metrics.opening_correlation(face, true_face, lm.LIP_PAIRS) if some else None,
            eye_r=asked(Part.LIDS, metrics.opening_correlation, face, true_face, lm.LID_PAIRS),
            mouth_gain=asked(Part.GAINS, metrics.opening_gain, face, true_face, lm.LIP_PAIRS),
            eye_gain=asked(Part.GAINS, metrics.opening_gain, face, true_face, lm.LID_PAIRS),
            gaze_r=asked(Part.GAZE, metrics.gaze_correlation, face, true_face),
            gaze_gain=asked(Part.GAZE, metrics.gaze_gain, face, true_face),
            interior_off=asked(Part.INTERIOR, _interior_error, shown, truth, left_out),
            jitter_px=asked(Part.JITTER, metrics.jitter, shown.landmarks.points, shown.landmarks.valid),
            l1=asked(Part.L1, metrics.l1, made, wanted),
            ms_ssim=asked(Part.MS_SSIM, metrics.ms_ssim, made, wanted),
            vmaf=asked(Part.VMAF, _vmaf, made, wanted, fps),
            sharpness=asked(Part.SHARPNESS, metrics.sharpness, made, wanted),
            flicker=asked(Part.FLICKER, metrics.flicker, made, wanted),
            **{name: apart(np.asarray(made), np.asarray(wanted), fps) for name, apart in self.distances.items()},
        )


def mean_of_known(values: Iterable[float | None]) -> float | None:
    """None where no value is known."""
    known = [value for value in values if value is not None]
    return float(np.mean(known)) if known else None


def _without(pictures: Frames, left_out: Collection[int]) -> Frames:
    if not left_out:
        return pictures
    return [picture for number, picture in enumerate(pictures) if number not in left_out]


def _interior_error(shown: MeasuredFrames, truth: MeasuredFrames, left_out: Collection[int]) -> float | None:
    seen = [int(number) for number in np.flatnonzero(truth.landmarks.valid) if number not in left_out]
    made, wanted = ([frames.pictures[number] for number in seen] for frames in (shown, truth))
    return metrics.interior_error(made, wanted, truth.landmarks.face[seen]) if seen else None


def _vmaf(made: Frames, wanted: Frames, fps: float) -> float | None:
    try:
        return vmaf(wanted, made, fps)
    except BadInput:
        return None
