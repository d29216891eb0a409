"""Chooses the one picture from which the receiver will generate all others.

Everything the receiver shows is this picture, moved: closed eyes stay sewn, an open mouth leaves its
teeth everywhere, and blur never comes back.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from kilocall.proto.control import SourcePicture
from kilocall.proto.errors import BadInput, NoFace
from kilocall.runtime.pictures import DEFAULT_MAX_BYTES, LARGE_MAX_BYTES, decode_picture, encode_picture

__all__ = [
    "LandmarkGroups",
    "choose_source",
    "openness",
    "pack_source",
    "sharpness",
    "source_scores",
    "turn",
]

DEFAULT_SIDE = 256

# An open eye is 0.25 to 0.40 as high as wide; above 0.30 more is no merit.
OPEN_EYE = 0.30
# What each defect costs, relative to one another: blinks and turns spoil every frame, blur only some.
EYES, TURN, MOUTH, EXTREME, BLUR = 3.0, 2.5, 1.0, 2.0, 1.0


@dataclass(frozen=True)
class LandmarkGroups:
    """Which landmarks outline what; numbers count within the tracker's points."""

    left_eye: tuple[int, ...]
    right_eye: tuple[int, ...]
    inner_lips: tuple[int, ...]


def pack_source(crop: NDArray[np.uint8]) -> tuple[SourcePicture, NDArray[np.uint8]]:
    """A crop [S, S, 3] as it is sent, in 6 KB or above 256x256 in 14, and as the receiver will see it."""
    most = DEFAULT_MAX_BYTES if crop.shape[0] <= DEFAULT_SIDE else LARGE_MAX_BYTES
    format_, data = encode_picture(crop, most)
    return SourcePicture(format=format_, data=data), decode_picture(data)


def openness(points: NDArray[np.float32], outline: Sequence[int]) -> float:
    """Height over width of an eye or mouth, however the head is tilted.

    Width is the largest distance between two points of `outline`, height the extent across it.
    """
    ring = np.asarray(points, np.float64)[list(outline)]
    apart = np.linalg.norm(ring[:, None] - ring[None], axis=-1)
    a, b = np.unravel_index(int(apart.argmax()), apart.shape)
    width = float(apart[a, b])
    if width <= 0:
        return 0.0
    along = (ring[b] - ring[a]) / width
    across = ring @ np.array([-along[1], along[0]])
    return float(np.ptp(across)) / width


def turn(points: NDArray[np.float32], groups: LandmarkGroups) -> float:
    """How far the head looks aside or tilts: 0 is straight ahead, about 0.3 a half profile.

    The middle between the eyes leaves the middle of the face as the head turns; the tilt of the
    line between them counts half.
    """
    points = np.asarray(points, np.float64)
    left, right = points[list(groups.left_eye)].mean(axis=0), points[list(groups.right_eye)].mean(axis=0)
    across = left - right
    distance = float(np.hypot(*across))
    if distance <= 0:
        return 1.0
    along = across / distance
    spread = points @ along
    middle = float(spread.min() + spread.max()) / 2
    aside = (float((left + right) / 2 @ along) - middle) / max(float(np.ptp(spread)), 1e-9)
    return 2 * abs(aside) + 0.5 * abs(float(np.arctan2(along[1], abs(along[0]))))


def sharpness(rgb: NDArray[np.uint8]) -> float:
    """Variance of the Laplacian over the middle of a crop, where the face is."""
    height, width = rgb.shape[:2]
    middle = np.ascontiguousarray(rgb[height // 5 : -height // 5, width // 5 : -width // 5])
    grey = cv2.cvtColor(middle, cv2.COLOR_RGB2GRAY)
    return float(cv2.Laplacian(grey, cv2.CV_32F).var())


def source_scores(
    crops: Sequence[NDArray[np.uint8]], landmarks: NDArray[np.float32], groups: LandmarkGroups
) -> NDArray[np.float64]:
    """Score of each frame as source picture, higher is better; meant for comparison within one clip."""
    middle = np.median(landmarks, axis=0)
    size = max(float(np.ptp(middle, axis=0).max()), 1e-9)
    blur = np.array([sharpness(crop) for crop in crops])
    sharpest = max(float(np.percentile(blur, 90)), 1e-9)
    scores = np.zeros(len(crops))
    for i, points in enumerate(landmarks):
        eyes = min(openness(points, groups.left_eye), openness(points, groups.right_eye))
        extreme = float(np.linalg.norm(points - middle, axis=-1).mean()) / size
        scores[i] = -(
            EYES * max(0.0, 1 - eyes / OPEN_EYE)
            + TURN * turn(points, groups)
            + MOUTH * openness(points, groups.inner_lips)
            + EXTREME * extreme
            + BLUR * max(0.0, 1 - blur[i] / sharpest)
        )
    return scores


def choose_source(
    crops: Sequence[NDArray[np.uint8]],
    landmarks: NDArray[np.float32],
    confidences: Sequence[float] | NDArray[np.float32],
    groups: LandmarkGroups,
    min_confidence: float = 0.5,
) -> int:
    """Index of the frame that serves best as source: eyes open, frontal, sharp, mouth closed.

    `crops` N pictures uint8 [H, W, 3], `landmarks` [N, K, 2] in [-1, 1]. Frames under
    `min_confidence` are left out; NoFace when that leaves none.
    """
    points = np.asarray(landmarks, np.float32)
    sure = np.asarray(confidences, np.float64)
    if not len(crops) == len(points) == len(sure):
        raise BadInput(f"{len(crops)} crops, {len(points)} landmark sets and {len(sure)} confidences do not match")
    usable = [i for i in range(len(crops)) if sure[i] >= min_confidence and np.isfinite(points[i]).all()]
    if not usable:
        raise NoFace(f"none of {len(crops)} frames shows a face surely enough ({min_confidence:g})")
    scores = source_scores([crops[i] for i in usable], points[usable], groups)
    return usable[int(scores.argmax())]
