"""What `kilocall bench loss` found out, as it is written to loss.json."""

from __future__ import annotations

from pydantic import BaseModel

from kilocall.bench.loss.link import Pattern

__all__ = ["LossPoint", "LossReport"]


class LossPoint(BaseModel):
    """One method on one link, mean over the clips."""

    method: str
    pattern: Pattern
    loss: float  # wanted
    lost: float  # of the packets that were sent
    wire_kbps: float  # sender to receiver, IP and all; first picture included
    new_pictures: float  # of all frames, the part in which something new was shown
    longest_freeze_s: float  # mean over the clips of the longest in each
    psnr_db: float
    ssim: float
    landmark_px: float | None
    mouth_r: float | None


class LossReport(BaseModel):
    """All that `kilocall bench loss` found out; `loss.json` is its dump."""

    clips: list[str]
    failures: list[tuple[str, str]]
    round_trip_s: float
    playout_s: float
    outage_s: float
    seconds: float
    seed: int
    landmarks_by: str
    methods: dict[str, str]
    points: list[LossPoint]
