"""Motion to pictures: the receiver's second stage, with everything a viewer may change."""

from __future__ import annotations

import math
from dataclasses import dataclass

from kilocall.model.family import Family, Picture, Source, transfer, turn_head
from kilocall.model.motion import Motion

LARGEST_TURN_DEG = 90.0


@dataclass(frozen=True)
class View:
    """The head turned further at the receiver, degrees."""

    yaw: float = 0.0
    pitch: float = 0.0
    roll: float = 0.0

    def apply(self, motion: Motion, neck: tuple[float, float, float]) -> Motion:
        """The motion as seen from here; the head turns about `neck`."""
        if not (self.yaw or self.pitch or self.roll):
            return motion
        yaw, pitch, roll = (math.radians(angle) for angle in (self.yaw, self.pitch, self.roll))
        return turn_head(motion, yaw, pitch, roll, neck)


class FaceRenderer:
    """Moves one picture's face.

    The stream's motion is absolute for the stream's own source. On another picture only what changed since the
    stream's source is applied (relative motion), so that a stranger keeps their own face shape and pose.
    """

    def __init__(self, family: Family, stream_source: Source, shown: Source | None = None) -> None:
        self._stream_pose = stream_source.pose
        self.source = shown or stream_source
        self._relative = shown is not None
        self._renderer = family.renderer(self.source)
        self.view = View()

    def render(self, motion: Motion) -> Picture:
        """uint8 RGB [S, S, 3]; the caller owns it."""
        if self._relative:
            motion = transfer(motion, self._stream_pose, self.source.pose)
        return self._renderer.render(self.view.apply(motion, self.source.neck))
