"""Where the call's pictures come from: a camera, a clip that plays in a loop, or the page.

All hand over the newest picture with the monotonic time of its capture, and never a backlog.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Protocol

import numpy as np
from av.video.frame import VideoFrame

from kilocall.proto.errors import BadInput
from kilocall.runtime.clock import now_us
from kilocall.sender.capture import CameraCapture, Clip, Frame, open_clip
from kilocall.sender.newest import Newest

__all__ = ["BROWSER", "Camera", "ClipCamera", "PageCamera", "open_camera"]

logger = logging.getLogger(__name__)

BROWSER = "browser"
"""The camera that is the page's own."""

Clock = Callable[[], int]


class Camera(Protocol):
    """What the sending thread needs of a camera; CameraCapture is one."""

    error: str | None
    """Why there are no pictures; None while there are."""

    @property
    def dropped(self) -> int:
        """Frames that nobody asked for in time."""

    def start(self) -> None: ...
    def stop(self) -> None: ...
    def latest(self, timeout_s: float = 1.0) -> Frame | None:
        """The newest frame not handed over yet; None after `timeout_s` or at the end."""

    @property
    def ended(self) -> bool: ...


class ClipCamera:
    """A clip as a camera: its frames at their own pace, over and over."""

    def __init__(self, clip: Clip, clock_us: Clock = now_us) -> None:
        self.clip = clip
        self.error: str | None = None
        self._clock_us = clock_us
        self._newest = Newest[Frame]()
        self._ended = False
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="clip camera", daemon=True)

    @property
    def dropped(self) -> int:
        return self._newest.dropped

    @property
    def ended(self) -> bool:
        return self._ended

    def latest(self, timeout_s: float = 1.0) -> Frame | None:
        return self._newest.take(timeout_s, lambda: self._ended)

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        self._stop.set()
        if self._thread.is_alive():
            self._thread.join(timeout=2.0)
        self._end()

    def _run(self) -> None:
        index = 0
        try:
            while not self._stop.is_set():
                began_us = self._clock_us()
                for frame in self.clip:
                    due_us = began_us + frame.capture_us
                    if self._stop.wait(max(0, due_us - self._clock_us()) / 1e6):
                        return
                    self._newest.put(frame.at(self._clock_us(), index))
                    index += 1
                # The last frame is shown for its own length; a still picture comes at the clip's nominal rate.
                self._stop.wait(1 / self.clip.fps)
        except Exception as error:  # whatever a decoder raises must not leave latest() waiting
            logger.exception("clip camera %s ends", self.clip.path)
            self._end(f"camera {self.clip.path} failed: {error}")
        finally:
            self._end()

    def _end(self, error: str | None = None) -> None:
        self.error = self.error or error
        self._ended = True
        self._newest.wake()


class PageCamera:
    """Pictures that the page sends."""

    def __init__(self, clock_us: Clock = now_us) -> None:
        self.error: str | None = None
        self._clock_us = clock_us
        self._count = 0
        self._newest = Newest[tuple[VideoFrame, int]]()
        self._ended = False

    @property
    def dropped(self) -> int:
        return self._newest.dropped

    @property
    def ended(self) -> bool:
        return self._ended

    def start(self) -> None:
        """Nothing: the page starts by itself."""

    def stop(self) -> None:
        self._ended = True
        self._newest.wake()

    def put(self, frame: VideoFrame) -> None:
        """A picture that was taken just now."""
        self._newest.put((frame, self._clock_us()))

    def latest(self, timeout_s: float = 1.0) -> Frame | None:
        newest = self._newest.take(timeout_s, lambda: self._ended)
        if newest is None:
            return None
        self._count += 1
        picture, taken_us = newest
        return Frame(lambda: np.asarray(picture.to_ndarray(format="rgb24"), np.uint8), taken_us, self._count - 1)


def open_camera(name: str, fps: float) -> Camera:
    """The camera called `name`: "browser", a number, or a file. Raises BadInput when there is none; not started."""
    if name == BROWSER:
        return PageCamera()
    if name.isdecimal():
        return CameraCapture(int(name), fps=fps)
    path = Path(name)
    if path.is_file():
        clip = open_clip(path)
        # A clip of 60 fps is no reason to look at 60 frames a second.
        return ClipCamera(open_clip(path, fps) if clip.fps > fps + 0.5 else clip)
    if path.exists():  # a device file
        return CameraCapture(name, fps=fps)
    raise BadInput(f"camera is {name!r}; allowed: a number, an existing clip or device, or {BROWSER}")
