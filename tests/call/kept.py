"""What calls leave behind with --keep-pictures, and how far a face that was shown is from the one that was sent."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import cv2
import numpy as np

from kilocall.model.family import Family, Picture
from kilocall.proto.motion_packet import TIMES_MS

#: A packet gives the mean spacing of its frames, which may be some milliseconds off for one of them.
SAME_FRAME_MS = 12


def kept(folder: Path, kind: str) -> dict[int, Path]:
    """Files of the pictures of a kind, "sent" or "shown", by capture time in milliseconds modulo TIMES_MS."""
    return {int(file.stem.split("_")[1]): file for file in folder.glob(f"{kind}_*.jpg")}


def points(family: Family, picture: Picture | Path) -> np.ndarray:
    """Landmarks [N, 2] in pixels of the family's size."""
    if isinstance(picture, Path):
        bgr = cv2.imread(str(picture))
        assert bgr is not None
        picture = np.ascontiguousarray(bgr[..., ::-1], dtype=np.uint8)
    return (family.track(picture).points + 1) * family.size / 2


def apart_ms(one: int, other: int) -> int:
    """Between two capture times, either of which may have wrapped."""
    return abs((other - one + TIMES_MS // 2) % TIMES_MS - TIMES_MS // 2)


def distances(
    family: Family,
    sent: dict[int, Path],
    shown: Iterable[tuple[int, Picture | Path]],
    *,
    within_ms: int = SAME_FRAME_MS,
) -> list[float]:
    """Mean landmark distance in pixels of each picture shown and what was sent of the same frame, where it was kept."""
    found = []
    for time_ms, picture in shown:
        near = min(sent, key=lambda other: apart_ms(other, time_ms), default=None)
        if near is not None and apart_ms(near, time_ms) <= within_ms:
            between = points(family, picture) - points(family, sent[near])
            found.append(float(np.linalg.norm(between, axis=1).mean()))
    return found
