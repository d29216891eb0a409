"""What `kilocall evaluate` found out, as it is written to evaluation.json."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from pydantic import BaseModel

from kilocall.bench.scores import Scores

__all__ = [
    "ClipResult",
    "ClipScores",
    "Evaluation",
    "Failure",
    "Means",
    "ReferenceMeans",
    "ReferenceScores",
    "SourceChoice",
]

SourceChoice = Literal["first", "best"]


class ClipScores(BaseModel):
    """Those of a clip's scores that an evaluation has, see `kilocall.bench.scores`; or their means."""

    psnr_db: float
    ssim: float
    l1: float
    vmaf: float | None
    sharpness: float | None
    flicker: float | None
    landmark_px: float | None
    mouth_r: float | None
    eye_r: float | None
    mouth_gain: float | None
    eye_gain: float | None
    gaze_r: float | None = None
    gaze_gain: float | None = None
    interior_off: float | None = None
    jitter_px: float | None

    @classmethod
    def of(cls, scores: Scores) -> ClipScores:
        return cls.model_validate(scores, from_attributes=True)


class ReferenceScores(BaseModel):
    """A clip with so many pictures. All of a clip's leave out the frames that any of them took as a picture."""

    at_most: int
    pictures: int
    """The source picture included; fewer than `at_most` where more did not pay off."""
    picture_bytes: int
    changes: int
    """Of picture, over the whole clip."""
    scores: ClipScores


class ReferenceMeans(BaseModel):
    """Means over the clips with at most so many pictures each."""

    at_most: int
    pictures: float
    picture_bytes: float
    changes: float
    scores: ClipScores


class ClipResult(BaseModel):
    """One clip: what it cost and how it looks."""

    name: str
    crop_given: bool
    frames: int
    frames_left_out: bool  # longer than MAX_FRAMES
    fps: float
    source_frame: int
    source_bytes: int
    lost_frames: int  # no face seen by the sender; they repeat the last motion
    landmark_frames: int  # frames with a measured face in original and decoded picture
    payload_bits_mean: float
    payload_bits_p95: float
    payload_kbps: float
    layer_kbps: float = 0  # of the video layer, key frame and headers in a message included
    coding_px: float  # mean distance of the keypoints as coded from those before coding
    decoded: ClipScores
    frozen: ClipScores
    truth_jitter_px: float | None
    still_gain_db: float | None  # PSNR over the frozen picture's, for a speaker who hardly moves
    gallery: list[ReferenceScores] = []  # with 1, 2, 4, 8 pictures, where asked for

    @property
    def worse_than_frozen(self) -> bool:
        """In PSNR or in SSIM."""
        return self.decoded.psnr_db < self.frozen.psnr_db or self.decoded.ssim < self.frozen.ssim


class Failure(BaseModel):
    """A clip that could not be scored."""

    name: str
    reason: str


class Means(BaseModel):
    """Means over the clips; each over those clips that have the number."""

    payload_bits_mean: float
    payload_bits_p95: float
    payload_kbps: float
    layer_kbps: float = 0
    coding_px: float
    decoded: ClipScores
    frozen: ClipScores
    truth_jitter_px: float | None
    mouth_clips: int
    eye_clips: int
    still_clips: int
    worse_than_frozen: int  # clips
    still_gain_db: float | None


class Evaluation(BaseModel):
    """All that `kilocall evaluate` found out; `evaluation.json` is its dump."""

    folder: Path
    family: str
    weights_hash: str
    engine: str
    threads: int
    quality: float
    frames_per_packet: int
    layer: float = 0
    hold: bool = False
    source: SourceChoice
    landmarks_by: str
    min_opening_std_px: float
    still_psnr_db: float
    mean: Means
    clips: list[ClipResult]
    gallery: list[ReferenceMeans] = []
    gallery_kb: float | None = None
    failures: list[Failure]
    wall_s: float
