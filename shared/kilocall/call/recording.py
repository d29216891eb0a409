"""Records what is received: motion with its picture as .kcs, speech beside it as .ogg."""

from __future__ import annotations

import logging
import os
import queue
import threading
from collections.abc import Iterable
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
from kilocall.proto.stream_file import StreamHeader, StreamWriter
from kilocall.receiver.live import Played

__all__ = ["Recorder", "Recording"]

logger = logging.getLogger(__name__)

RATE: Final = 48_000
SPEECH_BPS: Final = 24_000
KEY_EVERY_FRAMES: Final = 50
#: Some seconds of either; a disk that stalls for longer costs a gap in the file, never a delay of the call.
MOST_WAITING: Final = 500
#: Differences of arrival below this are the network's, not a pause in speech.
SPEECH_SLACK_US: Final = 200_000


#: A packet that was shown, a further picture, or samples and when they were heard.
_Item = Played | SourcePicture | tuple[NDArray[np.int16], int]


@dataclass(frozen=True)
class Recording:
    """What was written."""

    stream: Path
    sound: Path | None
    frames: int


class Recorder:
    """Writes on a thread of its own. The motion is coded anew, exactly, because the received packets refer to others
    that were sent before the recording began. The files exist whole or not at all.
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
    ) -> None:
        """`further` are pictures of the same speaker that are held when the recording begins; `add_picture` takes those
        that come later."""
        stamp = (now or datetime.now()).strftime("%Y-%m-%d-%H%M%S")
        self.stream = _free_name(folder / f"call-{stamp}.kcs")
        self.sound = self.stream.with_suffix(".ogg")
        self.problem: str | None = None
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
        self._codec = MotionEncoder(codebook, key_interval=KEY_EVERY_FRAMES, thrift=0.0, still=0.5)
        self._writer = StreamWriter(self.stream, header)
        self._writer.add_picture(picture)
        self._further: set[str] = set()
        for another in further:
            self._write_picture(another)
        self._writer.add_place(CropPlace(0, 0.0, 0.0, float(picture_size), picture_size, picture_size))
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
        if self.problem is not None or not self._frames:
            self._writer.abort()
            if self._speech is not None:
                self._speech.abort()
            if self.problem is not None:
                raise OSError(f"recording {self.stream.name} failed: {self.problem}")
            return None
        self._writer.close()
        if self._speech is not None:
            self._speech.close()
        return Recording(self.stream, self.sound if self._speech is not None else None, self._frames)

    def _put(self, item: _Item) -> None:
        try:
            self._waiting.put_nowait(item)
        except queue.Full:
            logger.warning("recording %s: the disk is too slow, something is left out", self.stream.name)

    def _run(self) -> None:
        while (item := self._waiting.get()) is not None:
            if self.problem is not None:
                continue
            try:
                if isinstance(item, Played):
                    self._write_motion(item)
                elif isinstance(item, SourcePicture):
                    self._write_picture(item)
                else:
                    self._write_speech(*item)
            except (OSError, KilocallError, av.error.FFmpegError) as error:
                logger.error("recording %s: %s", self.stream.name, error)
                self.problem = str(error)

    def _write_motion(self, played: Played) -> None:
        if self._start_us is None:
            self._start_us = played.time_us
        time_us = max(played.time_us - self._start_us, self._last_us)
        self._last_us = time_us
        self._codec.set_quality(100 * played.packet.level / (LEVELS - 1))
        coded = self._codec.encode(played.vectors)
        self._writer.add_packet(time_us, MotionPacket.carry(coded, time_us, played.packet.spacing_us))
        self._frames += coded.frame_count

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
    """Opus in Ogg, from the stream's start on; pauses are written as silence."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._partial = path.with_name(f".{path.stem}.{os.getpid()}.part.ogg")
        self._container = av.open(str(self._partial), "w", format="ogg")
        stream = self._container.add_stream("libopus", rate=RATE, layout="mono")
        assert isinstance(stream, AudioStream)
        stream.bit_rate = SPEECH_BPS
        self._stream = stream
        self._samples = 0

    def add(self, samples: NDArray[np.int16], time_us: int) -> None:
        missing = time_us * RATE // 1_000_000 - self._samples
        if missing * 1_000_000 > SPEECH_SLACK_US * RATE:
            while missing > 0:
                self._write(np.zeros(min(missing, RATE), np.int16))
                missing -= RATE
        self._write(samples)

    def _write(self, samples: NDArray[np.int16]) -> None:
        frame = av.AudioFrame.from_ndarray(np.ascontiguousarray(samples[None]), format="s16", layout="mono")
        frame.sample_rate = RATE
        frame.time_base = Fraction(1, RATE)
        frame.pts = self._samples
        self._samples += len(samples)
        for packet in self._stream.encode(frame):
            self._container.mux(packet)

    def close(self) -> None:
        for packet in self._stream.encode():
            self._container.mux(packet)
        self._container.close()
        os.replace(self._partial, self.path)

    def abort(self) -> None:
        with suppress(av.error.FFmpegError, OSError):
            self._container.close()
        self._partial.unlink(missing_ok=True)


def _free_name(path: Path) -> Path:
    """`path`, or with a number when that exists."""
    number = 2
    free = path
    while free.exists():
        free = path.with_stem(f"{path.stem}-{number}")
        number += 1
    return free
