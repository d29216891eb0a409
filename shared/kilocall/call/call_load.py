"""Whether the two model threads of a call make all pictures that there are to make."""

from __future__ import annotations

from collections.abc import Iterator

from kilocall.model.family import DEFAULT_FAMILY
from kilocall.receiver.live import ReceivePipeline
from kilocall.runtime.overload_monitor import OverloadMonitor
from kilocall.sender.live import SendPipeline

__all__ = ["CallLoad"]


class CallLoad:
    """Looks at both threads once a second."""

    def __init__(self, sending: SendPipeline, receiving: ReceivePipeline, *, family: str, fps: float) -> None:
        self.receives = OverloadMonitor("shows", family, fps, light=DEFAULT_FAMILY)
        self.sends = OverloadMonitor("sends", family, fps, light=DEFAULT_FAMILY)
        """Their texts say what this computer is too slow for."""
        self._sending, self._receiving = sending, receiving
        self._remarks: dict[OverloadMonitor, str] = {}
        self._frames_due = 0.0

    @property
    def remarks(self) -> list[str]:
        """What this computer was too slow for, as told last."""
        return list(self._remarks.values())

    def look(self, now: float, seconds: float, *, opened: bool) -> list[str]:
        """`seconds` after the last look; `opened` says whether there is a connection. What this computer is too slow
        for, where that is new."""
        sending, receiving = self._sending, self._receiving
        if opened and not sending.camera_off:
            self._frames_due += sending.rate.wanted_fps * seconds
            each_ms = (sending.crop_ms.percentile(0.5) or 0.0) + (sending.motion_ms.percentile(0.5) or 0.0)
            self.sends.look(round(1e6 * now), self._frames_due, sending.frames, each_ms, sending.rate.pace.slow_by)
        else:
            self.sends.reset()
        if opened and receiving.watched and receiving.speaker.shown_hash is not None:
            # By the frames' own times: a thread that is inside a network for seconds takes them in bursts.
            due, at_us = receiving.rate.wanted + receiving.motion.jitter.skipped, receiving.last_time_us
            render_ms, slow_by = receiving.render_ms.percentile(0.5), receiving.rate.pace.slow_by
            self.receives.look(at_us, due, receiving.rendered, render_ms, slow_by)
        else:
            self.receives.reset()
        return list(self._news())

    def _news(self) -> Iterator[str]:
        for stage in (self.receives, self.sends):
            if stage.text and stage not in self._remarks:
                yield stage.text
            if stage.text:
                self._remarks[stage] = stage.text
