"""Which of the frames that are due in a call are rendered: as many a second as this computer holds."""

from __future__ import annotations

from kilocall.runtime.pace import EvenSteps, Pace

__all__ = ["RenderRate"]


class RenderRate:
    """Belongs to the receiving thread; its counters to anybody."""

    def __init__(self) -> None:
        self.camera_fps = 25.0
        """What the other side's camera gives."""
        self.pace = Pace(self.camera_fps)
        """What this thread holds of that."""
        self.wanted = 0.0
        """Frames that would be shown if this computer were fast enough; counts on over connections."""
        self._steps = EvenSteps(self.camera_fps)

    def expect(self, camera_fps: float) -> bool:
        """The other side has such a camera; whether what it was told of this side's pace holds no more."""
        if camera_fps == self.camera_fps:
            return False
        lower = self.pace.rung > 0
        self.camera_fps, self.pace, self._steps = camera_fps, Pace(camera_fps), EvenSteps(camera_fps)
        return lower

    def count(self, since_us: int) -> None:
        """A frame is due that was captured so long after the one played last.

        One of a lower rate than the camera's, because this side has asked for it, stands for those not sent.
        """
        asked_for = self.pace.fps < self.camera_fps and 0 < since_us <= 1.5e6 / self.pace.fps
        self.wanted += max(1.0, since_us * self.camera_fps / 1e6) if asked_for else 1.0

    def takes(self, time_us: int) -> bool:
        """Whether the frame of this capture time is rendered: of more than can be shown, because the other side has not
        heard of it or does not care, those that lie nearest to even steps are."""
        return self._steps.take(time_us, self.pace.fps) or self.pace.rung == 0
