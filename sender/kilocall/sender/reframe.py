"""Decides when the crop moves, and how: a background that swims costs more than a face that is not quite centred."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from kilocall.sender.crop_place import CropPlace, as_place, as_vector, holds, ideal_place
from kilocall.sender.face_finder import FaceBox

__all__ = ["MAX_SPEED", "ReframePolicy"]

EDGE_MARGIN = 0.02
GLIDE_RATE = 8.0  # 1/s; critically damped: 95 % of the way after 0.6 s
MAX_SPEED = 1.5  # crop sides per second
PATIENCE = 3  # frames that must agree before the crop leaves its place
JUMP = 0.5  # crop sides between two looks: a cut, not a walk


class ReframePolicy:
    """Decides when the crop moves, and how: stands still, glides when it must, jumps at a cut.

    Causal and free of pictures: boxes in, places out.
    """

    def __init__(self, frame_size: tuple[int, int]) -> None:
        self.frame_size = frame_size
        self._place: NDArray[np.float64] | None = None  # centre x, centre y, log side
        self._velocity = np.zeros(3)
        self._target = np.zeros(3)
        self._moving = False
        self._strikes = 0

    @property
    def place(self) -> CropPlace | None:
        """Where to cut now; None before the first box."""
        return None if self._place is None else as_place(self._place)

    @property
    def moving(self) -> bool:
        return self._moving

    def restart(self, box: FaceBox) -> CropPlace:
        """Jumps to `box`: the first one, or another scene."""
        self._place = as_vector(ideal_place(box, self.frame_size))
        self._velocity = np.zeros(3)
        self._moving = False
        self._strikes = 0
        return as_place(self._place)

    def step(self, box: FaceBox, elapsed_s: float) -> CropPlace:
        """Place for the next frame, given the box of this one and the time since the one before."""
        if self._place is None:
            return self.restart(box)
        ideal = as_vector(ideal_place(box, self.frame_size))
        stray = self._stray(ideal)
        if max(abs(stray[0]), abs(stray[1])) > JUMP:
            return self.restart(box)
        outside = self._outside(box)
        if not self._moving:
            stays = holds(as_place(self._place), box, self.frame_size)
            self._strikes = 0 if stays else self._strikes + 1
            if self._strikes < PATIENCE and not outside:
                return as_place(self._place)
            self._moving = True
            self._strikes = 0
            self._target = ideal
        self._glide(ideal, min(max(elapsed_s, 0.0), 0.5))
        self._keep_inside(box)
        return as_place(self._place)

    def _stray(self, ideal: NDArray[np.float64]) -> NDArray[np.float64]:
        """How far `ideal` is from the present place: x and y in sides, size as logarithm."""
        assert self._place is not None
        side = math.exp(self._place[2])
        stray: NDArray[np.float64] = (ideal - self._place) / np.array([side, side, 1.0])
        return stray

    def _outside(self, box: FaceBox) -> bool:
        assert self._place is not None
        place = as_place(self._place)
        margin = EDGE_MARGIN * place.side
        return (
            box.x0 < place.x0 + margin
            or box.y0 < place.y0 + margin
            or box.x0 + box.width > place.x0 + place.side - margin
            or box.y0 + box.height > place.y0 + place.side - margin
        )

    def _glide(self, ideal: NDArray[np.float64], elapsed_s: float) -> None:
        """One exact step of a critically damped spring towards the target."""
        assert self._place is not None
        side = math.exp(self._place[2])
        unit = np.array([side, side, 1.0])
        # The target has a dead zone too, or the jitter of the box would be followed while gliding.
        if np.abs((ideal - self._target) / unit).max() > 0.04:
            self._target = ideal
        away = self._place - self._target
        pull = self._velocity + GLIDE_RATE * away
        decay = math.exp(-GLIDE_RATE * elapsed_s)
        move = self._target + (away + pull * elapsed_s) * decay - self._place
        self._velocity = (self._velocity - GLIDE_RATE * pull * elapsed_s) * decay
        longest = float(np.hypot(*(move[:2] / side)))
        if longest > MAX_SPEED * elapsed_s:
            shorten = MAX_SPEED * elapsed_s / longest
            move[:2] *= shorten
            self._velocity[:2] *= shorten
        self._place = self._place + move
        rest = np.abs((self._place - self._target) / unit).max()
        if rest < 0.004 and np.abs(self._velocity / unit).max() < 0.05:
            self._moving = False
            self._velocity = np.zeros(3)

    def _keep_inside(self, box: FaceBox) -> None:
        """The last resort for a face that outruns the glide: the crop takes it along."""
        assert self._place is not None
        self._place[2] = max(self._place[2], math.log(max(box.width, box.height)))
        half = math.exp(self._place[2]) / 2
        for axis, (start, length) in enumerate(((box.x0, box.width), (box.y0, box.height))):
            self._place[axis] = min(max(self._place[axis], start + length - half), start + half)
