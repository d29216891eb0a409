"""Shows a stream in a window of the desktop, where OpenCV has one."""

from __future__ import annotations

import queue
from contextlib import suppress
from typing import Final

import cv2
import numpy as np

from kilocall.proto.errors import BadInput
from kilocall.receiver.playback import Playback, ReplayStream, Shown

__all__ = ["WINDOW_KEYS", "has_windows", "show_in_window"]

STEP_US: Final = 1_000_000
WINDOW_KEYS: Final = "space play/pause, a/d one second back/on, l loop, q or Esc quit"


def has_windows() -> bool:
    """Whether this OpenCV was built with windows (opencv-python-headless is not)."""
    lines = [line.split(":", 1)[1].strip() for line in cv2.getBuildInformation().splitlines() if "GUI:" in line]
    return bool(lines) and not lines[0].startswith("NONE")


def show_in_window(stream: ReplayStream, *, name: str, side: int = 512, loop: bool = False) -> None:
    """Plays until the window is closed, q or Esc is pressed. Raises BadInput when no window can be opened."""
    if not has_windows():
        raise BadInput(
            "--window: this OpenCV was built without windows; leave out --window to get the page in a browser, "
            "or replace opencv-python-headless by opencv-python"
        )
    try:
        cv2.namedWindow(name, cv2.WINDOW_AUTOSIZE)
    except cv2.error as error:
        raise BadInput(f"--window: no window can be opened here ({error.err or 'no display'})") from error
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
        while playback.alive and cv2.getWindowProperty(name, cv2.WND_PROP_VISIBLE) >= 1:
            with suppress(queue.Empty):
                picture = cv2.resize(newest.get_nowait().rgb, (side, side), interpolation=cv2.INTER_CUBIC)
                cv2.imshow(name, np.ascontiguousarray(picture[..., ::-1]))
            if not _press(cv2.waitKey(5), playback):
                return
        if playback.state.problem:
            raise BadInput(f"playing ended: {playback.state.problem}")
    finally:
        playback.close()
        cv2.destroyAllWindows()


def _press(key: int, playback: Playback) -> bool:
    """Does what a key stands for; False to quit."""
    state = playback.state
    match chr(key & 255) if key >= 0 else "":
        case " ":
            (playback.pause if state.playing else playback.play)()
        case "a" | "d" as side:
            playback.skip(STEP_US if side == "d" else -STEP_US)
        case "l":
            playback.set_loop(not state.loop)
        case "q" | "\x1b":
            return False
    return True
