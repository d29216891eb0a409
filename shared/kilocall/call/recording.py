"""Records what is received: motion with its picture, video layer and camera as .kcs, speech beside it as .ogg.

Both have their names from the start and can be read at any time: when the program is killed, the last second is
missing.
"""

from __future__ import annotations

import logging
import os
import queue
import threading
from collections.abc import Callable, Iterable
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime
from fractions import Fraction
from pathlib import Path
from typing import Final

import av
import numpy as np
from av.audio.stream import AudioStream
from numpy.typing import NDArray

from kilocall.codec.codebook import Codebook
from kilocall.codec.motion_codec import MotionEncoder
from kilocall.proto.control import CropPlace, SourcePicture
from kilocall.proto.errors import KilocallError
from kilocall.proto.limits import LEVELS, MOST_PICTURES
from kilocall.proto.motion_packet import MotionPacket
from kilocall.proto.sound import SAMPLE_RATE
from kilocall.proto.stream_file import StreamHeader, StreamWriter
from kilocall.receiver.layer_receiver import DecodedLayer
from kilocall.receiver.live import Played
from kilocall.runtime.sound import mono_frame

__all__ = ["Recorder", "Recording"]

logger = logging.getLogger(__name__)

SPEECH_BPS: Final = 24_000
KEY_EVERY_FRAMES: Final = 50
#: Some seconds of either; a disk that stalls for longer costs a gap in the file, never a delay of the call.
MOST_WAITING: Final = 500
#: Frames of the layer that come before the first motion is shown: some tenths of a second of them.
MOST_EARLY: Final = 16
#: Differences of arrival below this are the network's, not a pause in speech.
SPEECH_SLACK_US: Final = 200_000


_TROUBLE: Final = (OSError, KilocallError, av.error.FFmpegError)


@dataclass(frozen=True)
class _CameraEnd:
    """From this time on the speaker is shown again."""

    time_us: int


#: A packet that was shown, a frame of the video layer or the camera, the latter's end, a further picture, or samples
#: and when they were heard.
_Item = Played | DecodedLayer | _CameraEnd | SourcePicture | tuple[NDArray[np.int16], int]


@dataclass(frozen=True)
class Recording:
    """What was written."""

    stream: Path
    sound: Path | None
    frames: int


class Recorder:
    """Writes on a thread of its own. The motion is coded anew, exactly, because the received packets refer to others
    that were sent before the recording began. When writing fails (disk full), `on_problem` is told on that thread,
    once; what was written by then stays, and nothing more is.
    """

    def __init__(
        self,
        folder: Path,
        picture: SourcePicture,
        codebook: Codebook,
        *,
        family: str,
        weights_hash: str,
        picture_size: int,
        fps: Fraction,
        tool: str,
        further: Iterable[SourcePicture] = (),
        now: datetime | None = None,
        on_problem: Callable[[str], None] = lambda text: None,
    ) -> None:
        """`further` are pictures of the same speaker that are held when the recording begins; `add_picture` takes those
        that come later."""
        stamp = (now or datetime.now()).strftime("%Y-%m-%d-%H%M%S")
        self.problem: str | None = None
        """Why the recording has ended by itself."""
        self._on_problem = on_problem
        header = StreamHeader(
            family=family,
            weights_hash=weights_hash,
            codebook_hash=codebook.hash,
            fps=fps,
            picture_size=picture_size,
            frame_width=picture_size,
            frame_height=picture_size,
            quality=50,
            tool=tool,
        )
        # Integers decoded from the call are met exactly by an encoder that neither rounds nor saves.
        self._codec = MotionEncoder(codebook, key_interval=KEY_EVERY_FRAMES, rd_lambda=0.0, dead_zone=0.5)
        self._writer = _new_stream(folder / f"call-{stamp}.kcs", header)
        self.stream = self._writer.path
        self.sound = self.stream.with_suffix(".ogg")
        self._further: set[str] = set()
        self._early: list[DecodedLayer] = []  # from a key frame on, before any motion
        self._layer_whole: bool | None = None  # what kind the layer's last frame in the file was
        self._last_layer_us = 0
        self._camera_us: int | None = None  # of the camera's last frame, while it is shown
        try:
            self._writer.add_picture(picture)
            for another in further:
                self._write_picture(another)
            self._writer.add_place(CropPlace(0, 0.0, 0.0, float(picture_size), picture_size, picture_size))
        except (OSError, KilocallError):
            self._writer.abort()
            self.stream.unlink(missing_ok=True)
            raise
        self._waiting: queue.Queue[_Item | None] = queue.Queue(MOST_WAITING)
        self._start_us: int | None = None
        self._last_us = 0
        self._frames = 0
        self._speech: _SpeechFile | None = None
        self._thread = threading.Thread(target=self._run, name="recorder", daemon=True)
        self._thread.start()

    def add_motion(self, played: Played) -> None:
        """A packet that was shown; called on any thread."""
        self._put(played)

    def add_layer(self, frame: DecodedLayer) -> None:
        """A frame of the video layer or of the camera; the file has either from its first key frame on."""
        self._put(frame)

    def end_camera(self, time_us: int) -> None:
        """From the frame of this time on the speaker is shown, and not what the camera saw."""
        self._put(_CameraEnd(time_us))

    def add_speech(self, samples: NDArray[np.int16], time_us: int) -> None:
        """Mono samples [n] at 48 kHz, heard at `time_us` on the clock of the motion's times."""
        self._put((samples, time_us))

    def add_picture(self, picture: SourcePicture) -> None:
        """A further picture of the same speaker, on which frames are shown from now on; once in the file."""
        self._put(picture)

    def close(self) -> Recording | None:
        """Ends the files; None when nothing was received, then there are none. Raises OSError, KilocallError."""
        # A full queue means a stalled disk: waiting a while is all that can be done.
        with suppress(queue.Full):
            self._waiting.put(None, timeout=1.0)
        self._thread.join(5.0)
        if self.problem is None:
            try:
                self._end()
            except _TROUBLE as error:
                self._fail(error)
        if self.problem is not None:
            raise OSError(self.problem)
        if not self._frames:
            return None
        return Recording(self.stream, self.sound if self._speech is not None else None, self._frames)

    def _put(self, item: _Item) -> None:
        if self.problem is not None:
            return
        try:
            self._waiting.put_nowait(item)
        except queue.Full:
            logger.warning("recording %s: the disk is too slow, something is left out", self.stream.name)

    def _run(self) -> None:
        while (item := self._waiting.get()) is not None:
            try:
                if isinstance(item, Played):
                    self._write_motion(item)
                elif isinstance(item, DecodedLayer):
                    self._write_layer(item)
                elif isinstance(item, _CameraEnd):
                    self._write_camera_end(item.time_us)
                elif isinstance(item, SourcePicture):
                    self._write_picture(item)
                else:
                    self._write_speech(*item)
            except _TROUBLE as error:
                self._fail(error)
                return

    def _end(self) -> None:
        """Completes both files, or removes them where no frame is in them."""
        if self._frames:
            self._writer.close()
            if self._speech is not None:
                self._speech.close()
            return
        self._writer.abort()
        self.stream.unlink(missing_ok=True)
        if self._speech is not None:
            self._speech.abort()
            self.sound.unlink(missing_ok=True)

    def _fail(self, error: Exception) -> None:
        self._writer.abort()
        if self._speech is not None:
            self._speech.abort()
        why = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
        kept = "nothing was written"
        if self._frames:
            kept = f"its first {self._frames} frames can be played"
        else:
            with suppress(OSError):
                self._end()
        self.problem = f"recording {self.stream} failed: {why}; {kept}"
        logger.error("%s", self.problem)
        self._on_problem(self.problem)

    def _write_motion(self, played: Played) -> None:
        if self._start_us is None:
            self._start_us = played.time_us
            early, self._early = self._early, []
            for frame in early:
                self._write_layer(frame)
        time_us = max(played.time_us - self._start_us, self._last_us)
        self._last_us = time_us
        self._codec.set_quality(100 * played.packet.level / (LEVELS - 1))
        coded = self._codec.encode(played.vectors)
        self._writer.add_packet(time_us, MotionPacket.carry(coded, time_us, played.packet.spacing_us))
        self._frames += coded.frame_count

    def _write_layer(self, frame: DecodedLayer) -> None:
        if self._start_us is None:
            # The stream begins with its first motion; what is decoded before is needed for what comes after.
            follows = 0 < len(self._early) < MOST_EARLY
            self._early = [frame] if frame.key else [*self._early, frame] if follows else []
            return
        if not frame.key and frame.whole != self._layer_whole:
            return  # what it refers to is not in the file
        # Readers decode in the order of times, and times are the other side's.
        time_us = self._last_layer_us = max(frame.time_us - self._start_us, self._last_layer_us)
        self._layer_whole = frame.whole
        if frame.whole:
            self._camera_us = time_us
            self._writer.add_camera(time_us, frame.key, frame.data)
        else:
            self._writer.add_layer(time_us, frame.key, frame.data)

    def _write_camera_end(self, time_us: int) -> None:
        if self._start_us is not None and self._camera_us is not None:
            self._writer.add_camera(max(time_us - self._start_us, self._camera_us), False, b"")
            self._camera_us = None

    def _write_picture(self, picture: SourcePicture) -> None:
        # A reader takes no more; those that came first have been shown for longest.
        if picture.picture_hash not in self._further and len(self._further) < MOST_PICTURES - 1:
            self._further.add(picture.picture_hash)
            self._writer.add_reference(picture)

    def _write_speech(self, samples: NDArray[np.int16], time_us: int) -> None:
        if self._start_us is None or time_us < self._start_us:
            return  # the stream begins with its first picture
        if self._speech is None:
            self._speech = _SpeechFile(self.sound)
        self._speech.add(samples, time_us - self._start_us)


class _SpeechFile:
    """Opus in Ogg, from the stream's start on; pauses are written as silence. Readable at any time, to the second."""

    def __init__(self, path: Path) -> None:
        self._file = open(path, "xb", buffering=0)  # noqa: SIM115  # close() or abort() closes it
        # A page a second, each given to the system at once.
        options = {"page_duration": "1000000", "flush_packets": "1"}
        self._container = av.open(self._file, "w", format="ogg", options=options)
        stream = self._container.add_stream("libopus", rate=SAMPLE_RATE, layout="mono")
        assert isinstance(stream, AudioStream)
        stream.bit_rate = SPEECH_BPS
        self._stream = stream
        self._samples = 0
        self._synced = 0

    def add(self, samples: NDArray[np.int16], time_us: int) -> None:
        missing = time_us * SAMPLE_RATE // 1_000_000 - self._samples
        if missing * 1_000_000 > SPEECH_SLACK_US * SAMPLE_RATE:
            while missing > 0:
                self._write(np.zeros(min(missing, SAMPLE_RATE), np.int16))
                missing -= SAMPLE_RATE
        self._write(samples)
        if self._samples - self._synced >= SAMPLE_RATE:
            self._synced = self._samples
            os.fsync(self._file.fileno())

    def _write(self, samples: NDArray[np.int16]) -> None:
        frame = mono_frame(samples, self._samples)
        self._samples += len(samples)
        for packet in self._stream.encode(frame):
            self._container.mux(packet)

    def close(self) -> None:
        for packet in self._stream.encode():
            self._container.mux(packet)
        self._container.close()
        os.fsync(self._file.fileno())
        self._file.close()

    def abort(self) -> None:
        """What is written stays."""
        with suppress(av.error.FFmpegError, OSError):
            self._container.close()
        with suppress(OSError):
            self._file.close()


def _new_stream(path: Path, header: StreamHeader) -> StreamWriter:
    """A growing stream at `path`, or with a number behind when it or the .ogg beside it exists."""
    number = 1
    free = path
    while True:
        if not free.exists() and not free.with_suffix(".ogg").exists():
            with suppress(FileExistsError):
                return StreamWriter(free, header, growing=True)
        number += 1
        free = path.with_stem(f"{path.stem}-{number}")
