"""What came of one clip with one method, as the cache keeps it."""

from __future__ import annotations

from pydantic import BaseModel

from kilocall.bench.quality.methods import Kind
from kilocall.bench.scores import Scores

__all__ = ["ClipFacts", "PointResult", "PointScores"]


class PointScores(BaseModel):
    """Those of a clip's scores that a comparison has, see `kilocall.bench.scores`; over all frames."""

    psnr_db: float
    ssim: float
    ms_ssim: float | None
    vmaf: float | None
    face_found: float | None
    landmark_px: float | None
    mouth_r: float | None
    eye_r: float | None
    sharpness: float | None
    flicker: float | None
    jitter_px: float | None
    lpips: float | None = None
    dists: float | None = None

    @classmethod
    def of(cls, scores: Scores) -> PointScores:
        return cls.model_validate(scores, from_attributes=True)


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
    first_layer: list[int] = []  # kilocall with a layer: bytes of the pieces of its first frame, beside them too
    file_bytes: int | None
    scores: PointScores
    code_s: float  # encoding and decoding
    strip: list[str] = []  # JPEG, base64, one of each moment
