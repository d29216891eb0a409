"""Files and cameras of every kind become frames with honest times, or a sentence that says why not."""

from __future__ import annotations

import itertools
import threading
import wave
from collections.abc import Callable
from pathlib import Path

import av
import cv2
import numpy as np
import pytest
from numpy.typing import NDArray

from kilocall.proto.errors import BadInput
from kilocall.sender import capture
from kilocall.sender.capture import CameraCapture, open_clip

Picture = NDArray[np.uint8]


def shade(level: int, size: tuple[int, int] = (64, 48)) -> Picture:
    return np.full((size[1], size[0], 3), level, np.uint8)


def level_of(rgb: Picture) -> int:
    return round(float(rgb.mean()))


@pytest.fixture
def ramp(tmp_path: Path, write_clip: Callable[..., Path]) -> Path:
    """Ten frames at 25 fps, each 20 levels brighter."""
    return write_clip(tmp_path / "ramp.mp4", [shade(20 + 20 * i) for i in range(10)])


def test_frames_come_in_order_with_their_own_times(ramp: Path) -> None:
    clip = open_clip(ramp)
    frames = list(clip)
    assert (clip.width, clip.height, clip.fps) == (64, 48, 25.0)
    assert clip.duration == pytest.approx(0.4)
    assert [f.index for f in frames] == list(range(10))
    assert [f.capture_us for f in frames] == [40_000 * i for i in range(10)]
    assert all(abs(level_of(f.rgb) - (20 + 20 * i)) <= 3 for i, f in enumerate(frames))
    assert clip.truncated is None


def test_a_clip_can_be_read_twice(ramp: Path) -> None:
    clip = open_clip(ramp)
    assert [f.capture_us for f in clip] == [f.capture_us for f in clip]


def test_other_frame_rates_take_the_nearest_frame(ramp: Path) -> None:
    halved = list(open_clip(ramp, fps=12.5))
    doubled = list(open_clip(ramp, fps=50))
    assert [f.capture_us for f in halved] == [0, 80_000, 160_000, 240_000, 320_000]
    assert [round((level_of(f.rgb) - 20) / 20) for f in halved] == [0, 2, 4, 6, 8]
    assert len(doubled) == 20
    assert [f.capture_us for f in doubled] == [20_000 * i for i in range(20)]


def test_same_frame_rate_keeps_every_frame(ramp: Path) -> None:
    assert [level_of(f.rgb) for f in open_clip(ramp, fps=25)] == [level_of(f.rgb) for f in open_clip(ramp)]


def test_variable_frame_rate_is_resampled_by_time(tmp_path: Path, write_clip: Callable[..., Path]) -> None:
    times = [0, 40, 80, 400, 440]
    path = write_clip(tmp_path / "vfr.mkv", [shade(20 + 40 * i) for i in range(5)], times=times)
    assert [f.capture_us for f in open_clip(path)] == [1000 * t for t in times]
    numbers = [round((level_of(f.rgb) - 20) / 40) for f in open_clip(path, fps=25)]
    assert numbers == [0, 1, 2, 2, 2, 2, 2, 3, 3, 3, 3, 4]


def test_rotated_file_comes_upright(tmp_path: Path, write_clip: Callable[..., Path]) -> None:
    picture = shade(40)
    picture[:24, :32] = 220  # bright corner: top left as stored
    path = write_clip(tmp_path / "phone.mp4", [picture] * 3, rotation=-90)
    clip = open_clip(path)
    rgb = next(iter(clip)).rgb
    assert (clip.width, clip.height) == (48, 64)
    assert rgb.shape == (64, 48, 3)
    assert rgb[:32, 24:].mean() > 200  # a clockwise quarter turn takes it to the top right
    assert rgb[32:].mean() < 60


def test_odd_sizes_survive(tmp_path: Path, write_clip: Callable[..., Path]) -> None:
    path = write_clip(tmp_path / "odd.mkv", [shade(99, (63, 47))] * 2, pixels="yuv444p")
    assert next(iter(open_clip(path))).rgb.shape == (47, 63, 3)


def test_ten_bit_video_becomes_eight_bit(tmp_path: Path, write_clip: Callable[..., Path]) -> None:
    path = write_clip(tmp_path / "deep.mkv", [shade(150)] * 2, pixels="yuv420p10le", codec="ffv1")
    rgb = next(iter(open_clip(path))).rgb
    assert rgb.dtype == np.uint8
    assert abs(level_of(rgb) - 150) <= 2


def test_grey_picture_is_a_clip_of_one_frame(tmp_path: Path) -> None:
    path = tmp_path / "grey.png"
    cv2.imwrite(str(path), np.full((40, 30), 77, np.uint8))
    frames = list(open_clip(path))
    assert len(frames) == 1
    assert frames[0].rgb.shape == (40, 30, 3)
    assert (frames[0].rgb == 77).all()


def test_still_picture_at_a_rate_is_still_one_frame(tmp_path: Path) -> None:
    path = tmp_path / "still.jpg"
    cv2.imwrite(str(path), np.full((40, 30, 3), 77, np.uint8))
    assert [f.capture_us for f in open_clip(path, fps=25)] == [0]


def test_transparent_picture_lies_on_grey(tmp_path: Path) -> None:
    path = tmp_path / "cutout.png"
    bgra = np.zeros((8, 8, 4), np.uint8)
    bgra[:4] = (0, 0, 255, 255)
    cv2.imwrite(str(path), bgra)
    rgb = next(iter(open_clip(path))).rgb
    assert rgb[0, 0].tolist() == [255, 0, 0]
    assert rgb[7, 7].tolist() == [128, 128, 128]


def test_missing_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match="no such file"):
        open_clip(tmp_path / "none.mp4")


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("-", "standard input is not supported"),
        ("https://example.org/clip.mp4", "addresses are not supported"),
        ("rtsp://camera/1", "addresses are not supported"),
        ("img%03d.png", "patterns for numbered pictures are not supported"),
        ("frames/*.png", "patterns for numbered pictures are not supported"),
    ],
)
def test_what_other_programs_read_is_said_to_be_unsupported(name: str, said: str) -> None:
    with pytest.raises(BadInput, match=said):
        open_clip(name)


def test_text_is_no_video(tmp_path: Path) -> None:
    path = tmp_path / "notes.mp4"
    path.write_text("this is no video " * 50)
    with pytest.raises(BadInput, match="not a readable video"):
        open_clip(path)


def test_empty_file_is_no_video(tmp_path: Path) -> None:
    path = tmp_path / "empty.mp4"
    path.touch()
    with pytest.raises(BadInput):
        open_clip(path)


def test_sound_alone_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "voice.wav"
    with wave.open(str(path), "wb") as sound:
        sound.setparams((1, 2, 8000, 0, "NONE", ""))
        sound.writeframes(bytes(16000))
    with pytest.raises(BadInput, match="sound but no picture"):
        open_clip(path)


@pytest.mark.parametrize("fps", [0.0, -5.0, 0.5, 241.0, float("nan"), float("inf")])
def test_impossible_frame_rates_are_refused(ramp: Path, fps: float) -> None:
    with pytest.raises(BadInput, match="allowed are 1 to 240"):
        open_clip(ramp, fps=fps)


def test_oversized_frames_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "wide.png"
    cv2.imwrite(str(path), np.zeros((2, capture.MAX_SIDE + 1), np.uint8))
    with pytest.raises(BadInput, match="8193x2, at most 8192x8192"):
        open_clip(path)


def test_file_cut_in_the_middle_gives_what_came_before(tmp_path: Path, write_clip: Callable[..., Path]) -> None:
    rng = np.random.default_rng(0)
    pictures = [rng.integers(0, 255, (48, 64, 3)).astype(np.uint8) for _ in range(50)]
    whole = write_clip(
        tmp_path / "whole.mp4",
        pictures,
        options={"x264-params": "bframes=0:keyint=5"},
        muxer={"movflags": "faststart"},
    )
    cut = tmp_path / "cut.mp4"
    data = whole.read_bytes()
    cut.write_bytes(data[: len(data) // 2])
    clip = open_clip(cut)
    count = len(list(clip))
    assert 5 <= count <= 35
    assert clip.truncated is not None
    assert open_clip(whole).truncated is None


def test_header_without_frames_is_refused(tmp_path: Path, ramp: Path) -> None:
    path = tmp_path / "header.mkv"
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=25)
        stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv420p"
        container.start_encoding()
    with pytest.raises(BadInput):
        open_clip(path)


def test_a_time_that_jumps_by_hours_ends_the_clip(tmp_path: Path, write_clip: Callable[..., Path]) -> None:
    path = write_clip(tmp_path / "gap.mkv", [shade(50)] * 3, times=[0, 40, 90_000_000])
    clip = open_clip(path, fps=25)
    assert len(list(clip)) <= 3
    assert "jump" in str(clip.truncated)


class SteppedDevice:
    """A camera that gives a frame whenever the test says so."""

    def __init__(self, frames: int) -> None:
        self.left = frames
        self.go = threading.Semaphore(0)
        self.taken = threading.Semaphore(0)
        self.released = threading.Event()
        self.number = 0

    def isOpened(self) -> bool:  # noqa: N802  (OpenCV's name)
        return True

    def set(self, setting: int, value: float, /) -> bool:
        return True

    def read(self) -> tuple[bool, Picture | None]:
        self.taken.release()
        self.go.acquire(timeout=5)
        if self.left == 0:
            return False, None
        self.left -= 1
        self.number += 1
        return True, shade(self.number)

    def release(self) -> None:
        self.released.set()


def test_camera_hands_over_only_the_newest_frame() -> None:
    device = SteppedDevice(frames=3)
    ticks = itertools.count(1000, 1000)
    camera = CameraCapture(0, open_device=lambda _: device, clock_us=lambda: next(ticks))
    camera.start()
    for _ in range(3):
        device.go.release()
    for _ in range(4):  # the fourth read has begun, so the third frame is stored
        assert device.taken.acquire(timeout=5)
    frame = camera.latest()
    assert frame is not None
    assert (frame.index, level_of(frame.rgb), frame.capture_us) == (2, 3, 3000)
    assert camera.dropped == 2
    device.go.release()
    assert camera.latest(timeout_s=5) is None
    assert "after 3 frames" in str(camera.error)
    assert device.released.is_set()
    camera.stop()
    assert camera.ended


def test_a_camera_that_was_unplugged_is_opened_again() -> None:
    plugged = threading.Event()
    plugged.set()
    made: list[SteppedDevice] = []

    class Device(SteppedDevice):
        def isOpened(self) -> bool:  # noqa: N802  (OpenCV's name)
            return plugged.is_set()

    def open_device(_: int | str) -> SteppedDevice:
        made.append(Device(frames=2))
        made[-1].go.release(3)
        return made[-1]

    with CameraCapture(0, open_device=open_device, again_s=0.02) as camera:
        plugged.clear()
        while camera.error is None:
            camera.latest(timeout_s=0.01)
        while len(made) < 4:
            camera.latest(timeout_s=0.05)
        assert not camera.ended
        assert camera.error
        plugged.set()
        seen: list[int] = []
        while len(seen) < 3:
            frame = camera.latest(timeout_s=5)
            if frame is not None:
                seen.append(frame.index)
        assert seen == sorted(set(seen))  # counted on
    assert all(device.released.is_set() for device in made)


def test_camera_waits_only_as_long_as_told() -> None:
    device = SteppedDevice(frames=1)
    with CameraCapture(0, open_device=lambda _: device) as camera:
        assert camera.latest(timeout_s=0.01) is None
        assert not camera.ended
        device.go.release(2)
    assert device.released.is_set()


def test_a_driver_that_raises_wakes_the_reader() -> None:
    class Broken(SteppedDevice):
        def read(self) -> tuple[bool, Picture | None]:
            raise OSError("unplugged")

    with CameraCapture(0, open_device=lambda _: Broken(0)) as camera:
        assert camera.latest(timeout_s=5) is None
        assert "unplugged" in str(camera.error)


def test_a_video_file_serves_as_camera(ramp: Path) -> None:
    with CameraCapture(str(ramp)) as camera:
        frames = []
        while not camera.ended:
            frame = camera.latest(timeout_s=5)
            if frame is not None:
                frames.append(frame)
    assert frames
    assert frames[0].rgb.shape == (48, 64, 3)
    times = [f.capture_us for f in frames]
    assert times == sorted(times)
    assert len(frames) + camera.dropped >= 9


def test_absent_camera_is_refused(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match="could not be opened"):
        CameraCapture(str(tmp_path / "none.mp4")).start()


def test_camera_settings_are_checked() -> None:
    with pytest.raises(BadInput, match="fps is 0"):
        CameraCapture(0, fps=0)
    with pytest.raises(BadInput, match="size is 1280x9000"):
        CameraCapture(0, height=9000)
