"""Playing in a window: what is shown in it, and what its keys do."""

from __future__ import annotations

import os
import struct
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import displays
from kilocall.model.family import Picture
from kilocall.proto.errors import BadInput
from kilocall.receiver.window import WINDOW_KEYS, DesktopWindow, has_windows, play_in, show_in_window
from receiver.conftest import FRAME_US

LAST = 59
ESC = "\x1b"
ROOT = Path(__file__).parents[2]


class ScriptedWindow:
    """A window whose user presses a key, or closes it, when a picture of a certain brightness has come.

    The stream's pictures are as bright as their numbers, so each step waits until its frame is seen.
    """

    def __init__(self, *steps: tuple[Callable[[int], bool], str]) -> None:
        self.steps = list(steps)
        self.shown: list[int] = []
        self.sizes: set[tuple[int, ...]] = set()
        self.is_open = True
        self.ends = time.monotonic() + 20

    def show(self, rgb: Picture) -> None:
        self.sizes.add(rgb.shape)
        assert rgb.min() == rgb.max()
        self.shown.append(int(rgb[0, 0, 0]))

    @property
    def times_back(self) -> int:
        """How often a picture came that is before the one shown."""
        return int((np.diff(self.shown) < 0).sum())

    def key(self) -> str:
        time.sleep(0.002)
        assert time.monotonic() < self.ends, self.shown
        if not self.steps or not self.shown or not self.steps[0][0](self.shown[-1]):
            return ""
        _, key = self.steps.pop(0)
        if key == "close":
            self.is_open = False
            return ""
        return key


def anything(frame: int) -> bool:
    return True


def early(frame: int) -> bool:
    return frame < 20


def late(frame: int) -> bool:
    return frame >= 40


def last(frame: int) -> bool:
    """Where it loops a busy machine may leave it out."""
    return frame == LAST


@pytest.mark.parametrize("key", ["q", ESC, "close"])
def test_pictures_are_shown_in_order_until_the_user_quits_or_closes_the_window(key: str, replay_stream: Any) -> None:
    threads = threading.active_count()
    window = ScriptedWindow((last, key))
    play_in(window, replay_stream, side=48)
    assert window.shown == sorted(set(window.shown))
    assert len(window.shown) > LAST / 3  # in real time, by a machine that may be busy
    assert window.sizes == {(48, 48, 3)}
    assert threading.active_count() == threads


def test_it_begins_again_when_it_loops(replay_stream: Any) -> None:
    window = ScriptedWindow((late, ""), (early, "q"))
    play_in(window, replay_stream, side=32, loop=True)
    assert window.times_back == 1


def test_l_makes_it_loop_and_no_longer(replay_stream: Any) -> None:
    window = ScriptedWindow((anything, "l"), (late, ""), (early, "l"), (last, "q"))
    play_in(window, replay_stream, side=32)
    assert window.times_back == 1


def test_space_holds_the_picture_and_goes_on_from_it(replay_stream: Any) -> None:
    held: list[float] = []

    def after_half_a_second(frame: int) -> bool:
        held.append(time.monotonic())
        return held[-1] - held[0] > 0.5

    window = ScriptedWindow(
        (lambda frame: frame >= 10, " "), (after_half_a_second, " "), (lambda frame: frame >= 30, "q")
    )
    play_in(window, replay_stream, side=32)
    # Half a second is a dozen frames; those that were left out are so few where it was held and where not.
    assert max(np.diff(window.shown)) < 10
    assert window.shown == sorted(window.shown)


def test_a_and_d_go_a_second_back_and_on(replay_stream: Any) -> None:
    second = 1_000_000 // FRAME_US
    window = ScriptedWindow((anything, "d"), (lambda frame: frame >= second, "a"), (lambda frame: frame < second, "q"))
    play_in(window, replay_stream, side=32)
    moved = np.diff(window.shown)
    assert max(moved) >= second
    assert -second <= moved[-1] < -second / 2  # it plays on while the key is pressed


def test_other_keys_do_nothing(replay_stream: Any) -> None:
    window = ScriptedWindow(*[(anything, key) for key in "xyz1"], (last, "q"))
    play_in(window, replay_stream, side=32)
    assert window.shown == sorted(set(window.shown))


def test_every_key_that_is_printed_is_one_that_is_tested() -> None:
    assert WINDOW_KEYS == "space play/pause, a/d one second back/on, l loop, q or Esc quit"


def test_a_model_that_breaks_ends_it_with_the_reason(replay_stream: Any) -> None:
    replay_stream.renderer.fails = True
    with pytest.raises(BadInput, match="playing ended: RuntimeError: the model broke"):
        play_in(ScriptedWindow((anything, "q")), replay_stream, side=32)


@pytest.mark.skipif(has_windows(), reason="this OpenCV has windows: opencv-python-headless has none")
def test_an_opencv_without_windows_is_told_with_what_to_install(replay_stream: Any) -> None:
    with pytest.raises(BadInput, match="replace opencv-python-headless by opencv-python"):
        show_in_window(replay_stream, name="none")


@pytest.fixture
def display(tmp_path: Path) -> Iterator[tuple[str, Path]]:
    """Name of an X display without a screen, and the file that holds its pixels."""
    if not has_windows():
        pytest.skip("this OpenCV has no windows: pip install opencv-python in place of opencv-python-headless")
    if displays.XVFB is None:
        pytest.skip("there is no Xvfb: apt install xvfb")
    with displays.display(640, 480, "-nocursor", "-fbdir", str(tmp_path)) as name:
        yield name, tmp_path / "Xvfb_screen0"


def pixels(file: Path) -> Picture:
    """What is on the display, uint8 RGB [H, W, 3], of an X window dump with 32 bits a pixel."""
    data = file.read_bytes()
    header = struct.unpack(">25I", data[:100])
    size, width, height, line, colours = header[0], header[4], header[5], header[12], header[19]
    start = size + 12 * colours
    rows = np.frombuffer(data, np.uint8, height * line, start).reshape(height, line)
    return np.asarray(rows[:, : 4 * width].reshape(height, width, 4)[..., 2::-1], np.uint8)


SHOW = """
import sys
import numpy as np
from kilocall.receiver.window import DesktopWindow
window = DesktopWindow("a picture")
picture = np.zeros((300, 300, 3), np.uint8)
picture[:] = (200, 60, 20)
window.show(picture)
while window.key() != "q" and window.is_open:
    print(flush=True)
window.close()
"""


def test_a_picture_is_on_the_desktop_with_its_colours(display: tuple[str, Path]) -> None:
    name, file = display
    path = os.pathsep.join([*(str(ROOT / root) for root in ("shared", "sender", "receiver", "proto")), *sys.path])
    env = {**os.environ, "DISPLAY": name, "PYTHONPATH": path}
    with subprocess.Popen([sys.executable, "-c", SHOW], env=env, stdout=subprocess.PIPE) as process:
        try:
            assert process.stdout is not None
            until, found = time.monotonic() + 30, 0
            while found < 300 * 300:
                assert process.stdout.readline(), "the window has gone"
                found = int((pixels(file) == (200, 60, 20)).all(-1).sum())
                assert time.monotonic() < until, found
        finally:
            process.terminate()


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="elsewhere the desktop is always there")
def test_no_display_is_told_before_opencv_ends_the_process(monkeypatch: pytest.MonkeyPatch) -> None:
    if not has_windows():
        pytest.skip("this OpenCV has no windows: pip install opencv-python in place of opencv-python-headless")
    for name in ("DISPLAY", "WAYLAND_DISPLAY", "QT_QPA_PLATFORM"):
        monkeypatch.delenv(name, raising=False)
    with pytest.raises(BadInput, match="no window can be opened here: neither DISPLAY nor WAYLAND_DISPLAY is set"):
        DesktopWindow("none")


def test_what_the_camera_saw_has_bars(replay_stream: Any) -> None:
    replay_stream.camera_frames = range(60)
    shown: list[Picture] = []

    class Looking(ScriptedWindow):
        def show(self, rgb: Picture) -> None:
            shown.append(rgb)
            self.is_open = False

    play_in(Looking(), replay_stream, side=64)
    picture = shown[0]
    assert picture.shape == (64, 64, 3)
    assert (picture[14:50] > 190).all()
    assert not picture[:14].any()
    assert not picture[50:].any()
