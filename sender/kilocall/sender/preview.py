"""What this side's own page shows of the camera: a small picture, and where the face should be."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final, Protocol, cast

import cv2
import numpy as np

from kilocall.model.family import Family, Picture, Track
from kilocall.model.shape import ShapeModel
from kilocall.runtime.pictures import as_jpeg
from kilocall.sender.calibration import Calibration, Face
from kilocall.sender.capture import Frame
from kilocall.sender.face_crop import FaceCrop

__all__ = ["Preview"]

WIDTH: Final = 320
EVERY_US: Final = 80_000
OVERLAY_EVERY_US: Final = 100_000


class HasShape(Protocol):
    """Families whose landmarks have a mean shape: all that there are."""

    @property
    def shape_model(self) -> ShapeModel: ...


class Preview:
    """`preview` gets JPEG and capture time, `overlay` a message for the page. `open` comes before all else."""

    def __init__(self, *, preview: Callable[[bytes, int], None], overlay: Callable[[dict[str, Any]], None]) -> None:
        self.wanted = False
        """Whether anybody looks at the picture."""
        self.overlay_wanted = False
        """Whether anybody looks at where the face is."""
        self._preview, self._overlay = preview, overlay
        self._preview_us = self._overlay_us = 0

    def open(self, family: Family) -> None:
        self._family, self._calibration = family, Calibration(cast(HasShape, family).shape_model.mean)

    def show(self, frame: Frame) -> None:
        """The frame itself, now and then, where it is wanted."""
        if self.wanted and frame.capture_us - self._preview_us >= EVERY_US:
            self._preview_us = frame.capture_us
            self._preview(as_jpeg(_narrowed(frame.rgb, WIDTH), 80), frame.capture_us)

    def advise(self, frame: Frame, crop: FaceCrop | None, track: Track | None) -> None:
        """Where the face is and what to change, now and then, where it is wanted; both None: there is none."""
        if not self.overlay_wanted or frame.capture_us - self._overlay_us < OVERLAY_EVERY_US:
            return
        self._overlay_us = frame.capture_us
        size = (frame.rgb.shape[1], frame.rgb.shape[0])
        face = None
        if crop is not None and track is not None:
            pose = self._family.source(crop.rgb, track).pose
            face = Face(track.points, crop.place, pose, crop.rgb, crop.faces, size)
        self._overlay(self._calibration.look(face, size).message())


def _narrowed(rgb: Picture, width: int) -> Picture:
    if rgb.shape[1] <= width:
        return rgb
    height = max(1, round(rgb.shape[0] * width / rgb.shape[1]))
    return np.asarray(cv2.resize(rgb, (width, height), interpolation=cv2.INTER_AREA), np.uint8)
