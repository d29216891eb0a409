"""Advice on how to sit before the source picture is taken: where the face should be, and what to change."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from typing import Any, Final, Literal

import numpy as np

from kilocall.model.family import Array, Picture
from kilocall.model.motion import Motion
from kilocall.sender.clip import GROUPS
from kilocall.sender.crop_place import FACE_HEIGHT, FACE_WIDTH, FACE_X, FACE_Y, CropPlace, box_from_landmarks
from kilocall.sender.source_picture import openness, sharpness

__all__ = ["IDEAL_SHARE", "Calibration", "Edge", "Face", "Overlay", "edges_that_cut"]

Edge = Literal["upper", "lower", "left", "right"]

#: Height of the face's box that is asked for, of the frame's shorter side: what the training crops showed.
IDEAL_SHARE: Final = FACE_HEIGHT
#: The crop follows the face, so that place and size need not be exact: beyond these the crop leaves the frame.
CLOSER, BACK = 0.55, 1.30
ASIDE, UP_DOWN = 0.16, 0.14
#: A head reaches past the box of its landmarks by so much of the box: hair above, an ear at each side, the neck below.
HAIR, EAR, NECK = 0.25, 0.08, 0.02
CUT_OFF: Final = "your head is cut off by the picture: "
#: Radians that count as looking straight ahead; half a profile is about 0.7.
YAW, PITCH, ROLL = 0.13, 0.16, 0.14
OPEN_EYES = 0.16
SHARP = 25.0
#: A face that moves by less than this share of its size between two looks holds still.
STILL = 0.012


@dataclass(frozen=True)
class Face:
    """What the sender has found in a frame of `frame_size` (width, height) pixels."""

    points: Array  # [K, 2] in [-1, 1] over the crop
    place: CropPlace
    pose: Motion
    crop: Picture
    faces: int
    frame_size: tuple[int, int]


@dataclass(frozen=True)
class Overlay:
    """What the page draws; coordinates 0..1 of the own preview, which shows the whole frame."""

    face: bool
    faces: int
    box: tuple[float, float, float, float] | None
    points: list[list[float]]
    ideal_box: tuple[float, float, float, float]
    ideal_points: list[list[float]]
    advice: str
    good: bool
    eyes_open: bool
    sharp: bool

    def message(self) -> dict[str, Any]:
        return {"type": "overlay", **asdict(self)}


class Calibration:
    """Looks at one frame after the other. `mean_face` [K, 2 or 3] is the frontal face that is asked for."""

    def __init__(self, mean_face: Array) -> None:
        flat = np.asarray(mean_face[:, :2], np.float64)
        self._ideal = (flat - flat.min(0)) / np.maximum(np.ptp(flat, axis=0), 1e-9)
        self._aspect = float(np.ptp(flat[:, 0]) / max(np.ptp(flat[:, 1]), 1e-9))
        self._last: tuple[float, float, float] | None = None

    def look(self, face: Face | None, frame_size: tuple[int, int]) -> Overlay:
        """`face` is None when there is none in the frame."""
        ideal_box = self.ideal_box(frame_size)
        ideal_points = _in_box(self._ideal, ideal_box)
        if face is None:
            self._last = None
            return Overlay(
                False, 0, None, [], ideal_box, ideal_points, "no face: look into the camera", False, False, False
            )
        width, height = frame_size
        found = box_from_landmarks(face.points, face.place)
        box = (
            found.x0 / width,
            found.y0 / height,
            (found.x0 + found.width) / width,
            (found.y0 + found.height) / height,
        )
        scale = face.place.side / 2
        points = (face.points + 1) * scale + (face.place.x0, face.place.y0)
        eyes_open = min(openness(face.points, GROUPS.left_eye), openness(face.points, GROUPS.right_eye)) > OPEN_EYES
        sharp = sharpness(face.crop) > SHARP
        advice = self._advice(box, ideal_box, frame_size, face, eyes_open, sharp)
        return Overlay(
            True,
            face.faces,
            box,
            np.round(points / (width, height), 4).tolist(),
            ideal_box,
            ideal_points,
            advice,
            advice == "good",
            eyes_open,
            sharp,
        )

    def ideal_box(self, frame_size: tuple[int, int]) -> tuple[float, float, float, float]:
        """Where the face should be, as the training crops had it, in the middle of the frame."""
        width, height = frame_size
        side = min(width, height)
        tall = IDEAL_SHARE * side
        wide = min(self._aspect * tall, FACE_WIDTH * side * 1.2)
        left = (width - side) / 2 + FACE_X * side - wide / 2
        top = (height - side) / 2 + FACE_Y * side - tall / 2
        return (left / width, top / height, (left + wide) / width, (top + tall) / height)

    def _advice(
        self,
        box: tuple[float, float, float, float],
        ideal: tuple[float, float, float, float],
        frame_size: tuple[int, int],
        face: Face,
        eyes_open: bool,
        sharp: bool,
    ) -> str:
        """The one thing to change first. The preview is mirrored as a mirror is: left is the person's left."""
        width, height = frame_size
        side = min(width, height)
        size = max((box[3] - box[1]) * height, (box[2] - box[0]) * width / self._aspect)
        wanted = (ideal[3] - ideal[1]) * height
        x = ((box[0] + box[2]) - (ideal[0] + ideal[2])) / 2 * width / side
        y = ((box[1] + box[3]) - (ideal[1] + ideal[3])) / 2 * height / side
        moved = self._moved(x, y, size / side)
        yaw, pitch, roll = face.pose.rotation
        if size < CLOSER * wanted:
            return "move closer"
        if cut := _cut_off(box):
            return CUT_OFF + ("move back" if size > BACK * wanted else cut)
        if size > BACK * wanted:
            return "move back"
        if abs(x) > ASIDE:
            # Pixels to the right are the person's left.
            return "move right" if x > 0 else "move left"
        if abs(y) > UP_DOWN:
            return "move up" if y > 0 else "move down"
        if abs(yaw) > YAW:
            return "turn right" if yaw > 0 else "turn left"
        if abs(pitch) > PITCH:
            return "look up" if pitch > 0 else "look down"
        if abs(roll) > ROLL:
            return "hold your head upright"
        if not eyes_open:
            return "open your eyes"
        if moved > STILL:
            return "hold still"
        if not sharp:
            return "more light, or clean the camera"
        return "good"

    def _moved(self, x: float, y: float, size: float) -> float:
        last, self._last = self._last, (x, y, size)
        return math.inf if last is None else math.dist(last, self._last)


def edges_that_cut(box: tuple[float, float, float, float]) -> tuple[Edge, ...]:
    """Past which edges of the picture a head reaches, by its face's box: left, top, right, bottom in 0..1 of it."""
    x0, y0, x1, y1 = box
    wide, tall = x1 - x0, y1 - y0
    edges: dict[Edge, bool] = {
        "upper": y0 < HAIR * tall,
        "lower": y1 > 1 - NECK * tall,
        "left": x0 < EAR * wide,
        "right": x1 > 1 - EAR * wide,
    }
    return tuple(edge for edge, past in edges.items() if past)


def _cut_off(box: tuple[float, float, float, float]) -> str:
    """What to do so that the whole head is in the frame; nothing when it is."""
    # The preview is mirrored: at the left edge of the pixels is the person's right.
    cures: dict[Edge, str] = {"upper": "move down", "lower": "move up", "left": "move left", "right": "move right"}
    out = edges_that_cut(box)
    return "" if not out else cures[out[0]] if len(out) == 1 else "move back"


def _in_box(points: Array, box: tuple[float, float, float, float]) -> list[list[float]]:
    x0, y0, x1, y1 = box
    placed: list[list[float]] = np.round(points * (x1 - x0, y1 - y0) + (x0, y0), 4).tolist()
    return placed
