"""Shows a stream in a window of the desktop, where OpenCV has one."""

from __future__ import annotations

import os
import queue
import sys
from contextlib import suppress
from typing import Final, Protocol

import cv2
import numpy as np

from kilocall.model.family import Picture
from kilocall.proto.errors import BadInput
from kilocall.receiver.playback import Playback, ReplayStream, Shown
from kilocall.runtime.pictures import with_bars

__all__ = ["WINDOW_KEYS", "DesktopWindow", "Window", "has_windows", "play_in", "show_in_window"]

STEP_US: Final = 1_000_000
KEY_WAIT_MS: Final = 5
WINDOW_KEYS: Final = "space play/pause, a/d one second back/on, l loop, q or Esc quit"


class Window(Protocol):
    """Where pictures are shown and keys are pressed."""

    @property
    def is_open(self) -> bool:
        """False once it has been closed."""

    def show(self, rgb: Picture) -> None: ...

    def key(self) -> str:
        """The next key that was pressed, waited for some milliseconds; nothing if there was none."""


def has_windows() -> bool:
    """Whether this OpenCV was built with windows (opencv-python-headless is not)."""
    lines = [line.split(":", 1)[1].strip() for line in cv2.getBuildInformation().splitlines() if "GUI:" in line]
    return bool(lines) and not lines[0].startswith("NONE")


class DesktopWindow:
    """A Window that OpenCV opens. Raises BadInput when it cannot."""

    def __init__(self, name: str) -> None:
        if not has_windows():
            raise BadInput(
                "--window: this OpenCV was built without windows; leave out --window to get the page in a browser, "
                "or replace opencv-python-headless by opencv-python"
            )
        # Qt, which opencv-python is built with, ends the process where it finds no display.
        named = any(os.environ.get(name) for name in ("DISPLAY", "WAYLAND_DISPLAY", "QT_QPA_PLATFORM"))
        if sys.platform.startswith("linux") and not named:
            raise BadInput("--window: no window can be opened here: neither DISPLAY nor WAYLAND_DISPLAY is set")
        self.name = name
        try:
            cv2.namedWindow(name, cv2.WINDOW_AUTOSIZE)
        except cv2.error as error:
            raise BadInput(f"--window: no window can be opened here ({error.err or 'no display'})") from error

    @property
    def is_open(self) -> bool:
        return cv2.getWindowProperty(self.name, cv2.WND_PROP_VISIBLE) >= 1

    def show(self, rgb: Picture) -> None:
        cv2.imshow(self.name, np.ascontiguousarray(rgb[..., ::-1]))

    def key(self) -> str:
        code = cv2.waitKey(KEY_WAIT_MS)
        return chr(code & 255) if code >= 0 else ""

    def close(self) -> None:
        cv2.destroyAllWindows()


def show_in_window(stream: ReplayStream, *, name: str, side: int = 512, loop: bool = False) -> None:
    """Plays until the window is closed, q or Esc is pressed. Raises BadInput when no window can be opened."""
    window = DesktopWindow(name)
    try:
        play_in(window, stream, side=side, loop=loop)
    finally:
        window.close()


def play_in(window: Window, stream: ReplayStream, *, side: int, loop: bool = False) -> None:
    """The same in any window, which stays open. Raises BadInput when playing ends by itself."""
    newest: queue.Queue[Shown] = queue.Queue(1)

    def put(shown: Shown) -> None:
        with suppress(queue.Empty):
            newest.get_nowait()
        newest.put_nowait(shown)

    playback = Playback(stream, on_shown=put)
    playback.start()
    playback.set_loop(loop)
    playback.play()
    try:
        while playback.alive and window.is_open:
            with suppress(queue.Empty):
                window.show(with_bars(newest.get_nowait().rgb, side, side))
            if not _press(window.key(), playback):
                return
        if playback.state.problem:
            raise BadInput(f"playing ended: {playback.state.problem}")
    finally:
        playback.close()


def _press(key: str, playback: Playback) -> bool:
    """Does what a key stands for; False to quit."""
    state = playback.state
    match key:
        case " ":
            (playback.pause if state.playing else playback.play)()
        case "a" | "d" as side:
            playback.skip(STEP_US if side == "d" else -STEP_US)
        case "l":
            playback.set_loop(not state.loop)
        case "q" | "\x1b":
            return False
    return True
