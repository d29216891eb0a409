"""Pictures that others have made, decoded in a process of its own: what it costs is bounded, whatever the bytes are.

The process is started with the first picture, or by `start`, and kept; one that takes too long is killed, and the next
picture starts another. It ends with this one, however that ends: its stdin closes.
"""

from __future__ import annotations

import atexit
import subprocess
import threading
from contextlib import suppress
from functools import cache
from typing import IO, Final

import numpy as np
from numpy.typing import NDArray

from kilocall.proto.errors import BadInput
from kilocall.runtime import picture_decoder
from kilocall.runtime.children import module_command, same_modules
from kilocall.runtime.picture_decoder import FROM_OTHERS, READY, REQUEST, RGB, SIZE, WHY, PictureRule, packed_rule

__all__ = ["PictureDecoder", "decode_from_others", "shared_decoder"]

#: Importing Pillow takes a tenth of a second, or seconds on a machine that is busy.
START_WITHIN_S: Final = 30.0


class PictureDecoder:
    """One decoding process. `decode` may be called on any thread and blocks it; one picture at a time."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._process: subprocess.Popen[bytes] | None = None
        self._closed = False

    @property
    def pid(self) -> int | None:
        """Of the process that waits for a picture; None while there is none."""
        process = self._process
        return None if process is None else process.pid

    def start(self) -> None:
        """Starts the process now, so that the first picture need not wait. Raises BadInput where there can be none."""
        with self._lock:
            self._running()

    def decode(self, data: bytes, rule: PictureRule = FROM_OTHERS) -> NDArray[np.uint8]:
        """A picture [H, W, 3]. Raises BadInput for one that is against the rule, damaged, none, or takes too much."""
        if len(data) > rule.max_bytes:
            raise BadInput(f"picture has {len(data)} bytes, at most {rule.max_bytes}")
        with self._lock:
            process = self._running()
            alarm = _Alarm(process, rule.seconds)
            try:
                return _asked(process, data, rule)
            except (OSError, EOFError) as error:
                self._end()
                if alarm.rang:
                    raise BadInput(f"picture takes more than the {rule.seconds:g} s allowed to decode") from error
                raise BadInput("picture has ended the process that decoded it") from error
            finally:
                if alarm.stop():
                    self._end()

    def close(self) -> None:
        """Ends the process, also while it decodes; that picture and all later ones raise BadInput."""
        self._closed = True
        process = self._process
        if process is not None:
            process.kill()
        with self._lock:
            self._end()

    def _running(self) -> subprocess.Popen[bytes]:
        if self._closed:
            raise BadInput("the decoder of pictures is closed")
        if self._process is not None and self._process.poll() is None:
            return self._process
        self._end()
        self._process = _started()
        return self._process

    def _end(self) -> None:
        process, self._process = self._process, None
        if process is None:
            return
        process.kill()
        for pipe in (process.stdin, process.stdout):
            with suppress(OSError):  # what could not be written any more
                if pipe is not None:
                    pipe.close()
        process.wait()


class _Alarm:
    """Kills a process after some time: the one wait that every system has for a pipe."""

    def __init__(self, process: subprocess.Popen[bytes], seconds: float) -> None:
        self._process = process
        self.rang = False
        self._timer = threading.Timer(seconds, self._ring)
        self._timer.daemon = True
        self._timer.start()

    def _ring(self) -> None:
        self.rang = True
        self._process.kill()

    def stop(self) -> bool:
        """Whether it rang."""
        self._timer.cancel()
        self._timer.join()
        return self.rang


def _started() -> subprocess.Popen[bytes]:
    # One arena, and large blocks given back at once: what a picture took does not count for the next.
    malloc = {"MALLOC_ARENA_MAX": "1", "MALLOC_MMAP_THRESHOLD_": "131072"}
    command = module_command(picture_decoder.__name__)
    try:
        process = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            env={**same_modules(), **malloc},
            # Ctrl-C is for this process; its child ends by its stdin.
            start_new_session=True,
            creationflags=getattr(subprocess, "CREATE_NO_WINDOW", 0),
        )
    except OSError as error:
        raise BadInput(f"no process can be started to decode pictures in: {error}") from error
    alarm = _Alarm(process, START_WITHIN_S)
    try:
        if process.stdout is None or process.stdout.read(1) != READY:
            process.kill()
            raise BadInput(f"the process that decodes pictures ends with {process.wait()}: {' '.join(command)}")
    finally:
        alarm.stop()
    return process


def _asked(process: subprocess.Popen[bytes], data: bytes, rule: PictureRule) -> NDArray[np.uint8]:
    requests, answers = process.stdin, process.stdout
    assert requests is not None  # both are pipes
    assert answers is not None
    packed = packed_rule(rule)
    requests.write(REQUEST.pack(len(packed), len(data)) + packed)
    requests.write(data)
    requests.flush()
    if _read(answers, 1) != RGB:
        raise BadInput(_read(answers, WHY.unpack(_read(answers, WHY.size))[0]).decode())
    width, height = SIZE.unpack(_read(answers, SIZE.size))
    # What it says is believed no more than the picture: it may be under another's control by now.
    if not (0 < width <= rule.max_side and 0 < height <= rule.max_side and width * height <= rule.max_pixels):
        raise EOFError(f"a picture of {width}x{height}")
    return np.frombuffer(bytearray(_read(answers, 3 * width * height)), np.uint8).reshape(height, width, 3)


def _read(pipe: IO[bytes], size: int) -> bytes:
    data = pipe.read(size)
    if len(data) < size:
        raise EOFError(f"{len(data)} of {size} bytes")
    return data


@cache
def shared_decoder() -> PictureDecoder:
    """The one for stream files and pages; a call has another of its own for its other side."""
    decoder = PictureDecoder()
    atexit.register(decoder.close)
    return decoder


def decode_from_others(data: bytes) -> NDArray[np.uint8]:
    """A picture [H, W, 3] from a stream file or a link: AVIF or WebP, at most 1024x1024. BadInput for any other."""
    return shared_decoder().decode(data, FROM_OTHERS)
