"""Where pictures come from: video files, still pictures and cameras, all as `Frame`s with times.

`open_clip` reads a file once from front to back, `CameraCapture` hands over the newest picture of
a device and never a backlog.
"""

from __future__ import annotations

import logging
import math
import re
import threading
from collections.abc import Callable, Iterator
from contextlib import suppress
from functools import cached_property, partial
from pathlib import Path
from types import TracebackType
from typing import Any, Protocol

import av
import av.error
import cv2
import numpy as np
from av.container import InputContainer
from av.stream import Disposition
from av.video.frame import VideoFrame
from av.video.stream import VideoStream
from numpy.typing import NDArray

from kilocall.proto.errors import BadInput
from kilocall.runtime.clock import now_us
from kilocall.sender.isobmff import StillPicture, missing_bytes, put_together, read_still
from kilocall.sender.newest import Newest
from kilocall.sender.upright import Upright

__all__ = ["CameraCapture", "Clip", "Frame", "open_clip", "open_container"]

logger = logging.getLogger(__name__)

MAX_SIDE = 8192
MIN_FPS, MAX_FPS = 1.0, 240.0
FALLBACK_FPS = 25.0
# A forged timestamp must not make resampling repeat one picture for years.
MAX_GAP_US = 60_000_000
# A cover beside the film is a video stream too, and so is each tile of a photograph.
STILLS = Disposition.attached_pic | Disposition.still_image | Disposition.timed_thumbnails | Disposition.dependent
TRANSPORT_STREAMS = (".ts", ".mts", ".m2ts")


class Frame:
    """One picture, its `capture_us` in monotonic microseconds, and its `index` from 0."""

    def __init__(
        self, picture: NDArray[np.uint8] | Callable[[], NDArray[np.uint8]], capture_us: int, index: int
    ) -> None:
        """`picture` [H, W, 3], or what makes it: most of a camera's frames may never be looked at."""
        self._picture = picture
        self.capture_us, self.index = capture_us, index

    @cached_property
    def rgb(self) -> NDArray[np.uint8]:
        """[H, W, 3]; made when it is first asked for, on the thread that asks."""
        return self._picture() if callable(self._picture) else self._picture

    def at(self, capture_us: int, index: int) -> Frame:
        """The same picture at another time."""
        return Frame(lambda: self.rgb, capture_us, index)


def open_clip(path: str | Path, fps: float | None = None) -> Clip:
    """Opens a video file or still picture.

    With `fps` (1..240) the frames are resampled to that rate by nearest frame, otherwise each frame
    of the file comes once with its own time. Raises BadInput when the file is missing, is no video,
    has sound only, has no frame that can be decoded, or is larger than 8192x8192.
    """
    return Clip(path, fps)


def open_container(path: Path) -> InputContainer:
    """The file as FFmpeg sees it, for `with`. Raises BadInput where it cannot be read."""
    try:
        return av.open(str(path), mode="r", metadata_errors="replace")
    except (av.error.FFmpegError, OSError, ValueError) as error:
        if path.suffix.lower() in TRANSPORT_STREAMS:
            # Behind some kilobytes of something else FFmpeg does not see what it is.
            with suppress(av.error.FFmpegError, OSError, ValueError):
                return av.open(str(path), mode="r", format="mpegts", metadata_errors="replace")
        raise BadInput(f"{path}: not a readable video ({_reason(error)})") from error


class Clip:
    """Frames of one file, times counted from the first frame; iterate as often as needed.

    `width` and `height` are those of the upright picture. `fps` is the rate of the iterated frames
    (nominal for a file of variable rate), `duration` seconds or None where the file does not say.
    `start_us` is where the first frame lies in the file's own time, to line sound up with it.
    `truncated` is None, or after iteration the reason why the file ended early. `upright` makes
    pictures of frames as `stored`.
    """

    def __init__(self, path: str | Path, fps: float | None = None) -> None:
        if fps is not None and not (math.isfinite(fps) and MIN_FPS <= fps <= MAX_FPS):
            raise BadInput(f"fps is {fps}, allowed are {MIN_FPS:g} to {MAX_FPS:g}")
        self.path = Path(path)
        self.truncated: str | None = None
        if self.path.is_dir():
            raise BadInput(f"{self.path} is a folder: folders of pictures are not supported, give one video or picture")
        if not self.path.is_file():
            raise BadInput(_why_no_file(str(path)))
        with self.open() as container:
            self._boxed = "mp4" in container.format.name
            self._still = read_still(self.path) if self._boxed else None
            stream = self.film(container)
            rate = stream.average_rate or stream.guessed_rate
            self.source_fps = min(max(float(rate), MIN_FPS), MAX_FPS) if rate else FALLBACK_FPS
            self.fps = float(fps) if fps is not None else self.source_fps
            self._resample = fps is not None
            first = next(self._decode(container, stream), None)
            if first is None:
                raise BadInput(f"{self.path}: {_why_no_frame(self.path, self.truncated)}")
            self.truncated = None
            self.start_us = _time_us(first) or 0
            known = self._still.orientation if self._still else None
            self.upright = Upright.of(self.path, first, stream.sample_aspect_ratio, known)
            self.height, self.width = self.upright.size(first)
            self.duration = self._duration_s(container, stream)

    def __iter__(self) -> Iterator[Frame]:
        timed = self.stored()
        yield from self._nearest(timed) if self._resample else self._as_stored(timed)

    def open(self) -> InputContainer:
        """The file itself, which the caller closes; BadInput where it cannot be read."""
        return open_container(self.path)

    def film(self, container: InputContainer) -> VideoStream:
        """The stream of `container` that is read: one that moves rather than a cover, one that is shown rather than one
        that its maker has switched off. BadInput where there is none."""
        if not container.streams.video:
            what = "has sound but no picture" if container.streams.audio else "has no video stream"
            raise BadInput(f"{self.path}: {what}")
        if self._still:
            stream = self._parts(container, self._still)[0]
            _check_size(self.path, self._still.width, self._still.height)
        else:
            stream = min(container.streams.video, key=_least_wanted)
        context = stream.codec_context
        _check_size(self.path, context.width, context.height)
        stream.thread_type = "AUTO"
        return stream

    def _parts(self, container: InputContainer, still: StillPicture) -> list[VideoStream]:
        """The streams of its tiles, row by row; one for a picture that is whole."""
        streams = {stream.id: stream for stream in container.streams.video}
        if not all(item in streams for item in still.items):
            raise BadInput(
                f"{self.path}: pictures of kind {still.kind!r} are not supported here, allowed are HEVC and AV1 "
                "stills and grids of them"
            )
        return [streams[item] for item in still.items]

    def _grid(self, container: InputContainer, still: StillPicture) -> Iterator[VideoFrame]:
        parts = self._parts(container, still)
        for stream in parts:
            stream.codec_context.thread_count = 1  # a phone's photograph has up to two hundred
        tiles: dict[int, VideoFrame] = {}
        for packet in container.demux(parts):
            for frame in packet.decode():
                if isinstance(frame, VideoFrame):
                    tiles[packet.stream.id] = frame
        missing = sum(item not in tiles for item in still.items)
        if missing:
            raise ValueError(f"{missing} of its {len(parts)} tiles are missing")
        yield put_together(still, [tiles[item] for item in still.items])

    def _decode(self, container: InputContainer, stream: VideoStream) -> Iterator[VideoFrame]:
        """Decoded frames; on damage sets `truncated` and stops."""
        still = self._still
        try:
            for frame in self._grid(container, still) if still and still.kind == "grid" else container.decode(stream):
                _check_size(self.path, frame.width, frame.height)
                yield frame
        except (av.error.FFmpegError, OSError, ValueError) as error:
            if isinstance(error, BadInput):
                raise
            self.truncated = _reason(error)

    def _duration_s(self, container: InputContainer, stream: VideoStream) -> float | None:
        if stream.duration is not None and stream.time_base is not None:
            return float(stream.duration * stream.time_base)
        return container.duration / 1e6 if container.duration is not None else None

    def stored(self) -> Iterator[tuple[int, VideoFrame]]:
        """Each frame as the file has it: (microseconds since the first frame, strictly growing; frame)."""
        self.truncated = None
        step_us = round(1e6 / self.source_fps)
        last_us = -1
        with self.open() as container:
            for frame in self._decode(container, self.film(container)):
                stamp = _time_us(frame)
                if stamp is None:
                    now_us = last_us + step_us if last_us >= 0 else 0
                else:
                    now_us = stamp - self.start_us
                # Broken muxers repeat or reverse a time; order matters more than the microsecond.
                now_us = max(now_us, last_us + 1)
                if now_us - last_us > MAX_GAP_US:
                    self.truncated = f"times jump by {(now_us - last_us) / 1e6:.0f} s, allowed are 60"
                    return
                last_us = now_us
                yield now_us, frame
        self._note_missing_end(last_us)

    def _note_missing_end(self, last_us: int) -> None:
        # A cut-off MP4 ends without an error: only its boxes and the promised duration tell.
        if self.truncated or last_us < 0:
            return
        lacks = missing_bytes(self.path) if self._boxed else 0
        if lacks:
            self.truncated = f"the file ends {lacks} bytes before the end of its last part"
        if self.duration is None:
            return
        missing_s = self.duration - (last_us + 1e6 / self.source_fps) / 1e6
        if missing_s > max(0.5, 2 / self.source_fps):
            self.truncated = f"the file ends {missing_s:.2f} s before its stated end"

    def _as_stored(self, timed: Iterator[tuple[int, VideoFrame]]) -> Iterator[Frame]:
        for index, (time_us, frame) in enumerate(timed):
            yield Frame(partial(self.upright.rgb, frame), time_us, index)

    def _nearest(self, timed: Iterator[tuple[int, VideoFrame]]) -> Iterator[Frame]:
        """Constant rate: output k is the frame whose time is nearest to k / fps."""
        period_us = 1e6 / self.fps
        index = 0
        held: Frame | None = None
        for time_us, frame in timed:
            if held is not None:
                turn_us = (held.capture_us + time_us) / 2
                while index * period_us <= turn_us:
                    yield held.at(round(index * period_us), index)
                    index += 1
            held = Frame(partial(self.upright.rgb, frame), time_us, index)
        if held is None:
            return
        # The last frame is shown for its own length, so that 10 frames at 10 fps give 25 at 25 fps.
        end_us = held.capture_us + 1e6 / self.source_fps - period_us / 2
        while index * period_us < end_us or index == 0:
            yield held.at(round(index * period_us), index)
            index += 1


def _from_bgr(bgr: NDArray[np.uint8]) -> NDArray[np.uint8]:
    return np.asarray(cv2.cvtColor(bgr, cv2.COLOR_BGR2RGB), np.uint8)


def _why_no_file(name: str) -> str:
    """What other programs read in this way is said to be unsupported rather than missing."""
    if name == "-":
        return "-: standard input is not supported, give a file"
    if re.match(r"[a-z][a-z0-9+.-]+:/", name, re.IGNORECASE):
        # As a path it has lost a slash.
        return f"{re.sub(':/+', '://', name, count=1)}: addresses are not supported, give a file"
    if re.search(r"%0?\d*d|[*?]", name):
        return f"{name}: patterns for numbered pictures are not supported, give one file"
    return f"{name}: no such file"


def _why_no_frame(path: Path, damage: str | None) -> str:
    with path.open("rb") as file:
        head = file.read(21)
    if head[:4] == b"RIFF" and head[8:16] == b"WEBPVP8X" and head[20] & 2:
        return "animated WebP is not supported, give a video, an animated GIF, PNG or AVIF, or a still WebP"
    return f"no frame could be decoded ({damage or 'it is empty'})"


def _least_wanted(stream: VideoStream) -> tuple[bool, ...]:
    # An animated AVIF has its first picture beside the film, and nothing else says that it stands still.
    return bool(stream.disposition & STILLS), stream.frames == 1, not stream.disposition & Disposition.default


def _reason(error: BaseException) -> str:
    return str(getattr(error, "strerror", None) or error)


def _check_size(path: Path, width: int, height: int) -> None:
    if width > MAX_SIDE or height > MAX_SIDE:
        raise BadInput(f"{path}: frames are {width}x{height}, at most {MAX_SIDE}x{MAX_SIDE} are read")


def _time_us(frame: VideoFrame) -> int | None:
    if frame.pts is None or frame.time_base is None:
        return None
    return round(frame.pts * frame.time_base * 1_000_000)


class Device(Protocol):
    """What CameraCapture needs of cv2.VideoCapture."""

    def isOpened(self) -> bool: ...  # noqa: N802  (OpenCV's name)
    def read(self) -> Any: ...
    def release(self) -> None: ...
    def set(self, setting: int, value: float, /) -> bool: ...


def _open_camera(device: int | str) -> Device:
    # What is wrong with a camera is told by its user; OpenCV's own lines name files of its source.
    cv2.utils.logging.setLogLevel(cv2.utils.logging.LOG_LEVEL_SILENT)
    return cv2.VideoCapture(device)


class CameraCapture:
    """A thread that reads a camera and keeps only its newest frame.

    `device` is a number, or a path for OpenCV. `open_device` and `clock_us` are there for tests.
    Used as a context manager, or `start()` and `stop()`. A device that gives no more frames (unplugged, taken by
    another program) is opened again every `again_s` seconds; `error` says what is wrong as long as there are none.
    """

    def __init__(
        self,
        device: int | str,
        *,
        width: int = 1280,
        height: int = 720,
        fps: float = 25.0,
        open_device: Callable[[int | str], Device] = _open_camera,
        clock_us: Callable[[], int] = now_us,
        again_s: float = 2.0,
    ) -> None:
        if not (math.isfinite(fps) and MIN_FPS <= fps <= MAX_FPS):
            raise BadInput(f"camera fps is {fps}, allowed are {MIN_FPS:g} to {MAX_FPS:g}")
        if not (16 <= width <= MAX_SIDE and 16 <= height <= MAX_SIDE):
            raise BadInput(f"camera size is {width}x{height}, allowed are 16 to {MAX_SIDE} each way")
        self.device = device
        self.error: str | None = None
        self._settings = (
            (cv2.CAP_PROP_FRAME_WIDTH, width),
            (cv2.CAP_PROP_FRAME_HEIGHT, height),
            (cv2.CAP_PROP_FPS, fps),
            (cv2.CAP_PROP_BUFFERSIZE, 1),
        )
        self._open_device = open_device
        self._clock_us = clock_us
        self._again_s = again_s
        self._index = 0
        self._newest = Newest[Frame]()
        self._ended = False
        self._stop = threading.Event()
        self._thread: threading.Thread | None = None

    def start(self) -> None:
        """Opens the device and begins to read. Raises BadInput when there is no such device."""
        if self._thread is not None:
            raise RuntimeError("a CameraCapture starts only once")
        device = self._opened()
        if device is None:
            raise BadInput(
                f"camera {self.device!r} could not be opened: give the number of a connected camera or a path"
            )
        self._thread = threading.Thread(target=self._run, args=(device,), name="capture", daemon=True)
        self._thread.start()

    def latest(self, timeout_s: float = 1.0) -> Frame | None:
        """The newest frame not yet handed over; waits for one, None after `timeout_s` or at the end."""
        return self._newest.take(timeout_s, lambda: self.error is not None or self._ended)

    @property
    def dropped(self) -> int:
        """Frames that nobody asked for in time."""
        return self._newest.dropped

    @property
    def ended(self) -> bool:
        """Whether no more frames will come: `stop()` was called, or a file has come to its end."""
        return self._ended

    def stop(self) -> None:
        """Ends the thread and releases the device; may be called at any time, and again."""
        self._stop.set()
        if self._thread is not None:
            self._thread.join(timeout=5.0)
            if self._thread.is_alive():
                logger.warning("camera %r still blocks in a read; its thread is left to end", self.device)

    def __enter__(self) -> CameraCapture:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    def _opened(self) -> Device | None:
        device = self._open_device(self.device)
        if not device.isOpened():
            device.release()
            return None
        for name, value in self._settings:
            device.set(name, value)
        return device

    def _run(self, device: Device) -> None:
        again = not (isinstance(self.device, str) and Path(self.device).is_file())
        opened: Device | None = device
        try:
            while not self._stop.is_set():
                if opened is not None:
                    self._read(opened)
                    if not again or self._stop.is_set():
                        return
                    logger.warning("%s; it is tried again", self.error)
                    self._newest.wake()
                if self._stop.wait(self._again_s):
                    return
                opened = self._opened()
        except Exception as error:  # whatever a driver raises must not leave latest() waiting
            logger.exception("camera %r failed", self.device)
            self.error = f"camera {self.device!r} failed: {error}"
        finally:
            self._ended = True
            self._newest.wake()

    def _read(self, device: Device) -> None:
        """Reads until there is nothing to be read; `error` says why."""
        count = 0
        try:
            while not self._stop.is_set():
                ok, bgr = device.read()
                now_us = self._clock_us()
                if not ok or bgr is None:
                    self.error = f"camera {self.device!r} gave no frame after {count} frames"
                    return
                if bgr.shape[0] > MAX_SIDE or bgr.shape[1] > MAX_SIDE:
                    self.error = f"camera {self.device!r} gives {bgr.shape[1]}x{bgr.shape[0]} frames"
                    return
                self.error = None
                self._newest.put(Frame(partial(_from_bgr, bgr), now_us, self._index))
                self._index += 1
                count += 1
        except (OSError, cv2.error) as error:
            self.error = f"camera {self.device!r} failed: {error}"
        finally:
            device.release()
