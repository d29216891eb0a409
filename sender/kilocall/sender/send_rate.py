"""How many frames a second go out, and what limits them."""

from __future__ import annotations

from typing import Final, Protocol

from kilocall.runtime.pace import EvenSteps, Limit, Pace, frames_in_message

__all__ = ["UNLIMITED", "Plan", "SendRate"]

UNLIMITED: Final = float("inf")


class Plan(Protocol):
    """What to send; the rate control's plans are such."""

    @property
    def frames_per_message(self) -> int: ...
    @property
    def fps(self) -> float: ...
    @property
    def level(self) -> int: ...
    @property
    def redundant_frames(self) -> int: ...
    @property
    def layer_bps(self) -> int: ...
    @property
    def camera_bps(self) -> int: ...


class SendRate:
    """The lowest of the camera's rate, the plan's, this computer's pace, and what the other side can show."""

    def __init__(self, camera_fps: float, plan: Plan) -> None:
        self.camera_fps, self.plan = camera_fps, plan
        self.pace = Pace(camera_fps)
        """What this thread holds."""
        self.shown_fps = UNLIMITED
        """What the other side can show."""
        self._steps = EvenSteps(camera_fps)

    @property
    def fps(self) -> float:
        """Frames a second that are sent now."""
        return min(self.wanted_fps, self.pace.fps)

    @property
    def wanted_fps(self) -> float:
        """What would be sent if this computer were fast enough."""
        return min(self.camera_fps, self.plan.fps, self.shown_fps)

    @property
    def limited_by(self) -> Limit:
        """Why `fps` is not the camera's rate."""
        if self.fps >= self.camera_fps:
            return "none"
        if self.pace.fps <= self.wanted_fps:
            return self.pace.bound
        return "the other side" if self.shown_fps <= self.plan.fps else "network"

    @property
    def frames_per_message(self) -> int:
        """At the rate that is sent now."""
        return frames_in_message(self.plan.frames_per_message, min(self.camera_fps, self.plan.fps), self.fps)

    def takes(self, capture_us: int) -> bool:
        """Whether this frame is sent: those that lie nearest to even steps are."""
        return self._steps.take(capture_us, self.fps)

    def done(self, at_us: int, took_s: float, had_s: float) -> bool:
        """A frame took so long, and had the processor for so long; whether the pace is another now."""
        return self.pace.done(at_us, took_s, had_s, self._steps.left_out)
