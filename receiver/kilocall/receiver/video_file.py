"""Decoded pictures to a video file that exists whole or not at all."""

from __future__ import annotations

import os
from contextlib import suppress
from fractions import Fraction
from pathlib import Path
from types import TracebackType
from typing import Self

import av
import cv2
import numpy as np
from av.audio.stream import AudioStream
from av.video.reformatter import ColorPrimaries, ColorRange, Colorspace, ColorTrc
from av.video.stream import VideoStream
from numpy.typing import NDArray

from kilocall.model.family import Picture
from kilocall.proto.errors import BadInput
from kilocall.proto.sound import SAMPLE_RATE
from kilocall.runtime.sound import mono_frame

#: Containers that carry H.264 and play everywhere.
SUFFIXES = (".mp4", ".mkv", ".mov")
# Close to lossless: the file is there to be looked at and measured, not to be small.
CRF = "14"
#: As near to lossless for speech.
SOUND_BPS = 96_000
#: Of a whole frame; 8K.
LARGEST_SIDE = 8192


class VideoFile:
    """Writes RGB pictures [H, W, 3] at their times; resizes to `size`, width and height in even numbers of pixels.

    Times are rounded to multiples of 1 / `fps`, of a `variable` file to a millisecond.
    """

    def __init__(
        self,
        path: Path,
        *,
        fps: Fraction,
        size: int | tuple[int, int],
        variable: bool = False,
        sound: bool = False,
    ) -> None:
        if path.suffix.lower() not in SUFFIXES:
            raise BadInput(f"output {path} ends in {path.suffix!r}; allowed: {', '.join(SUFFIXES)}")
        if isinstance(size, int) and (not 64 <= size <= 1024 or size % 2):
            raise BadInput(f"size is {size}; allowed: even numbers from 64 to 1024")
        size = (size, size) if isinstance(size, int) else size
        if any(not 64 <= side <= LARGEST_SIDE or side % 2 for side in size):
            raise BadInput(f"size is {size[0]}x{size[1]}; allowed: even numbers from 64 to {LARGEST_SIDE}")
        if not path.parent.is_dir():
            raise BadInput(f"output {path}: the folder {path.parent} does not exist")
        self.path, self.size, self.fps = path, size, fps
        self._per_s = Fraction(1000) if variable else fps
        self._partial = path.with_name(f".{path.stem}.{os.getpid()}.part{path.suffix}")
        self._last_pts = -1
        self.frames = 0
        self.samples = 0
        try:
            self._container = av.open(str(self._partial), "w")
            stream = self._container.add_stream("libx264", rate=fps)
            assert isinstance(stream, VideoStream)
            stream.width, stream.height = size
            stream.pix_fmt = "yuv420p"
            stream.options = {"crf": CRF, "preset": "veryfast"}
            context = stream.codec_context
            context.time_base = 1 / self._per_s
            # Said in the file, or players guess by its size.
            context.colorspace, context.color_range = Colorspace.ITU709, ColorRange.MPEG
            context.color_primaries, context.color_trc = ColorPrimaries.BT709, ColorTrc.BT709
            self._stream = stream
            self._sound: AudioStream | None = None
            if sound:
                self._sound = self._container.add_stream("aac", rate=SAMPLE_RATE, layout="mono")
                self._sound.codec_context.bit_rate = SOUND_BPS
        except (av.error.FFmpegError, OSError) as error:
            self._partial.unlink(missing_ok=True)
            raise _as_os_error(error, path) from error

    def write(self, picture: Picture, time_us: int) -> None:
        """A picture shown from `time_us` on (microseconds since the first frame)."""
        if picture.shape[1::-1] != self.size:
            how = cv2.INTER_AREA if picture.shape[0] > self.size[1] else cv2.INTER_CUBIC
            picture = np.asarray(cv2.resize(picture, self.size, interpolation=how), np.uint8)
        frame = av.VideoFrame.from_ndarray(picture, format="rgb24").reformat(
            format="yuv420p", dst_colorspace=Colorspace.ITU709, dst_color_range=ColorRange.MPEG
        )
        self._last_pts = max(self._last_pts + 1, round(time_us * self._per_s / 1_000_000))
        frame.pts, frame.time_base = self._last_pts, 1 / self._per_s
        try:
            for packet in self._stream.encode(frame):
                self._container.mux(packet)
        except (av.error.FFmpegError, OSError) as error:
            raise _as_os_error(error, self.path) from error
        self.frames += 1

    def write_sound(self, samples: NDArray[np.int16]) -> None:
        """What follows the samples written before, mono at 48 kHz; the first are heard with the first frame's time 0.

        A file can be played as it grows if sound and pictures of one time are written one after the other.
        """
        assert self._sound is not None, "the file was opened without sound"
        frame = mono_frame(samples, self.samples)
        self.samples += len(samples)
        try:
            for packet in self._sound.encode(frame):
                self._container.mux(packet)
        except (av.error.FFmpegError, OSError) as error:
            raise _as_os_error(error, self.path) from error

    def close(self) -> None:
        try:
            for stream in (self._stream, self._sound):
                for packet in stream.encode() if stream is not None else ():
                    self._container.mux(packet)
            self._container.close()
            os.replace(self._partial, self.path)
        except (av.error.FFmpegError, OSError) as error:
            self.abort()
            raise _as_os_error(error, self.path) from error

    def abort(self) -> None:
        """Leaves nothing behind."""
        with suppress(av.error.FFmpegError, OSError):
            self._container.close()
        self._partial.unlink(missing_ok=True)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if kind is None:
            self.close()
        else:
            self.abort()


def _as_os_error(error: Exception, path: Path) -> Exception:
    number = getattr(error, "errno", None)
    if isinstance(error, OSError) and number:
        return OSError(number, os.strerror(number), str(path))
    return BadInput(f"output {path} cannot be written: {error}")
