"""Landmarks of pictures, to score with: by the project's own extractor, or by MediaPipe in another Python.

The own extractor is at hand everywhere, but it judges its own work: what it cannot see in the original it
will not miss in the decoded picture. MediaPipe 0.10.21 is independent, and the data set's labels come from
it; it needs numpy below 2 and therefore an environment of its own (`python -m venv mp; mp/bin/pip install
mediapipe==0.10.21`).
"""

from __future__ import annotations

import contextlib
import json
import subprocess
import tempfile
import threading
import weakref
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Protocol

import numpy as np
from numpy.typing import NDArray

from kilocall.model import landmarks as lm
from kilocall.model.family import Family, Picture, Track
from kilocall.proto.errors import BadInput

__all__ = ["UNIT_SIZE", "FamilyMeter", "LandmarkMeter", "MeasuredLandmarks", "MediaPipeMeter", "open_meter"]

#: Landmark distances are told in pixels of this picture size, whatever the family's is.
UNIT_SIZE: Final = 256
FACE_CERTAINTY: Final = 0.5

_WORKER: Final = Path(__file__).with_name("mediapipe_worker.py")
_START_TIMEOUT_S: Final = 120.0
_END_TIMEOUT_S: Final = 10.0
# 15 ms a frame on a slow core; ten times that means that it hangs.
_TIMEOUT_PER_FRAME_S: Final = 0.15


@dataclass(frozen=True)
class MeasuredLandmarks:
    """points float32 [T, P, 2] in pixels of a 256x256 crop; valid bool [T], False where no face was found.

    `followed` [LANDMARKS] are the numbers within P of the family's landmarks, in the family's order.
    """

    points: NDArray[np.float32]
    valid: NDArray[np.bool_]
    followed: tuple[int, ...]

    @property
    def face(self) -> NDArray[np.float32]:
        """The family's landmarks alone [T, LANDMARKS, 2], for openings."""
        return self.points[:, list(self.followed)]

    def held(self, number: int, count: int) -> MeasuredLandmarks:
        """What was measured in one frame, for a clip of `count` frames that all show it."""
        one = slice(number, number + 1)
        points, valid = np.repeat(self.points[one], count, 0), np.repeat(self.valid[one], count, 0)
        return MeasuredLandmarks(points, valid, self.followed)


class LandmarkMeter(Protocol):
    """Finds landmarks in all frames of a clip."""

    @property
    def name(self) -> str:
        """Who measured, for the report."""

    def measure(self, frames: Sequence[Picture]) -> MeasuredLandmarks:
        """Landmarks of square pictures uint8 RGB [S, S, 3], in the order of time."""


class FamilyMeter:
    """The project's own extractor, every frame for itself, unfiltered."""

    def __init__(self, family: Family) -> None:
        self.family = family
        self.name = f"{family.name}'s own extractor ({lm.LANDMARKS} points)"

    def measure(self, frames: Sequence[Picture]) -> MeasuredLandmarks:
        return self.of_tracks([self.family.track(frame) for frame in frames])

    @staticmethod
    def of_tracks(tracks: Sequence[Track]) -> MeasuredLandmarks:
        """The same from tracks that are known already."""
        points = np.stack([track.points for track in tracks])
        valid = np.array([track.certainty >= FACE_CERTAINTY for track in tracks])
        # Crop units to pixels: pixel centre i lies at (2i + 1) / 256 - 1.
        pixels = ((points + 1) * (UNIT_SIZE / 2) - 0.5).astype(np.float32)
        return MeasuredLandmarks(pixels, valid, tuple(range(lm.LANDMARKS)))


class MediaPipeMeter:
    """MediaPipe Face Mesh run by another interpreter; BadInput when that fails to start or lacks MediaPipe.

    It is started with the first clip, serves all further ones, and ends with this object: importing MediaPipe takes
    longer than measuring a hundred frames.
    """

    def __init__(self, python: Path | str) -> None:
        # Not resolved: a virtual environment's python is a link, and only by its own name finds its packages.
        self.python = Path(python)
        if not self.python.is_file():
            raise BadInput(f"mediapipe_python {self.python}: no such file; wanted is a Python with mediapipe 0.10.21")
        self._server: subprocess.Popen[str] | None = None
        answer = self._run(["--version"], _START_TIMEOUT_S)
        try:
            version = str(json.loads(answer.splitlines()[-1])["mediapipe"])
        except (ValueError, LookupError, TypeError) as error:
            raise BadInput(f"mediapipe_python {self.python}: is not a Python, it answered {answer[:80]!r}") from error
        self.name = f"MediaPipe {version} ({lm.MESH_POINTS} points)"

    def measure(self, frames: Sequence[Picture]) -> MeasuredLandmarks:
        with tempfile.TemporaryDirectory(prefix="kilocall-") as folder:
            pictures, landmarks, valid = (Path(folder, f"{name}.npy") for name in ("frames", "landmarks", "valid"))
            stored = np.lib.format.open_memmap(pictures, "w+", dtype=np.uint8, shape=(len(frames), *frames[0].shape))
            for index, frame in enumerate(frames):
                stored[index] = frame
            stored.flush()
            del stored
            files = (str(pictures), str(landmarks), str(valid))
            self._ask("\t".join(files), _START_TIMEOUT_S + _TIMEOUT_PER_FRAME_S * len(frames))
            points = np.load(landmarks, allow_pickle=False)
            found = np.load(valid, allow_pickle=False)
        if points.shape != (len(frames), lm.MESH_POINTS, 3) or found.shape != (len(frames),):
            raise BadInput(f"MediaPipe gave landmarks of shape {points.shape} for {len(frames)} frames")
        pixels = (points[..., :2] * UNIT_SIZE - 0.5).astype(np.float32)
        return MeasuredLandmarks(pixels, found, lm.MESH_INDEX)

    def _ask(self, line: str, timeout_s: float) -> None:
        """One clip measured by the serving process."""
        server = self._server or self._serve()
        assert server.stdin is not None
        assert server.stdout is not None
        # Killed when it takes too long, its pipe ends and readline returns.
        guard = threading.Timer(timeout_s, server.kill)
        guard.start()
        try:
            print(line, file=server.stdin, flush=True)
            answer = server.stdout.readline()
        except OSError:
            answer = ""
        finally:
            guard.cancel()
        if answer.strip() != "done":
            self._server = None
            _end(server)
            raise BadInput(f"mediapipe_python {self.python}: ended with code {server.returncode} within a clip")

    def _serve(self) -> subprocess.Popen[str]:
        try:
            server = subprocess.Popen(
                self._command("--serve"),
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
                text=True,
            )
        except OSError as error:
            raise BadInput(f"mediapipe_python {self.python}: cannot be started ({error})") from error
        weakref.finalize(self, _end, server)
        self._server = server
        return server

    def _command(self, *arguments: str) -> list[str]:
        # -I: this process' PYTHONPATH and the worker's own folder must not feed the other interpreter.
        return [str(self.python), "-I", str(_WORKER), *arguments]

    def _run(self, arguments: list[str], timeout_s: float) -> str:
        command = self._command(*arguments)
        try:
            done = subprocess.run(command, capture_output=True, text=True, timeout=timeout_s, check=False)
        except subprocess.TimeoutExpired as error:
            raise BadInput(f"mediapipe_python {self.python}: no answer within {timeout_s:.0f} s") from error
        except OSError as error:
            raise BadInput(f"mediapipe_python {self.python}: cannot be started ({error})") from error
        if done.returncode:
            said = (done.stderr.strip().splitlines() or ["nothing"])[-1]
            raise BadInput(f"mediapipe_python {self.python}: ended with code {done.returncode} ({said})")
        return done.stdout


def open_meter(mediapipe_python: Path | None, family: Family) -> LandmarkMeter:
    """MediaPipe where a Python that has it is named, else the extractor of `family`."""
    return MediaPipeMeter(mediapipe_python) if mediapipe_python else FamilyMeter(family)


def _end(server: subprocess.Popen[str]) -> None:
    """Ends a serving process: without input it stops by itself, and is killed where it does not."""
    with contextlib.suppress(OSError):
        if server.stdin:
            server.stdin.close()
    try:
        server.wait(_END_TIMEOUT_S)
    except subprocess.TimeoutExpired:
        server.kill()
        server.wait()
    if server.stdout:
        server.stdout.close()
