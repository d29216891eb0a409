"""A clip as every codec gets it: the same square pictures at a constant rate."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Final

import av
import av.error
import cv2
import numpy as np
from numpy.typing import NDArray

from kilocall.model.family import Family, Picture, Track, track_in_turn
from kilocall.proto.errors import BadInput, NoFace

__all__ = ["CLIP_SUFFIXES", "MAX_SECONDS", "MIN_SECONDS", "SIZES", "BenchClip", "is_crop", "read_clip"]

#: Of the files in a folder that are clips.
CLIP_SUFFIXES: Final = (".mp4", ".m4v", ".mov", ".mkv", ".webm", ".avi", ".y4m")
MIN_SECONDS: Final = 2.0
#: Two copies of 30 s at 512x512 and 25 fps are 1.2 GB.
MAX_SECONDS: Final = 30.0
SIZES: Final = (256, 512)
_FACE_CERTAINTY: Final = 0.5
#: Times between frames that differ by more than this from their median, in parts of it, are a variable rate.
_UNEVEN: Final = 0.25


@dataclass(frozen=True)
class BenchClip:
    """Square pictures uint8 RGB [T, S, S, 3] at `fps`, and what kilocall's sender needs of them."""

    name: str
    frames: NDArray[np.uint8]
    fps: float
    crops: list[Picture]  # the same at the family's size
    times_us: list[int]
    tracks: list[Track]
    lost_frames: int
    notes: tuple[str, ...]
    digest: str  # of the pixels and the rate

    @property
    def size(self) -> int:
        return int(self.frames.shape[1])

    @property
    def seconds(self) -> float:
        return len(self.frames) / self.fps


def read_clip(
    path: Path,
    family: Family,
    *,
    size: int = 256,
    fps: float | None = None,
    crop: bool | None = None,
    seconds: float = MAX_SECONDS,
    finder: Family | None = None,
) -> BenchClip:
    """Reads at most the first `seconds` of a clip.

    `family` tracks the face in it. `finder` (by default the same) cuts it out, so that several families can be given
    the same pixels.

    `crop` True cuts the tracked face, False takes the whole picture, which must be square; None takes it whole when
    it is square and a face fills it as in a crop, and cuts otherwise. Frames of a variable rate, or with `fps`, are
    resampled by nearest frame. Raises BadInput, NoFace among them.
    """
    if size not in SIZES:
        raise BadInput(f"size is {size}, allowed are {' and '.join(map(str, SIZES))}")
    if not MIN_SECONDS <= seconds <= MAX_SECONDS:
        raise BadInput(f"seconds is {seconds:g}, allowed are {MIN_SECONDS:g} to {MAX_SECONDS:g}")
    rate, notes = _rate(path, fps)
    most = round(seconds * rate)
    pictures = _square_pictures(path, rate, finder or family, size, crop, most + 1, notes)
    if len(pictures) > most:
        pictures = pictures[:most]
        notes.append(f"the first {seconds:g} s")
    if len(pictures) / rate < MIN_SECONDS:
        raise BadInput(f"{path}: is {len(pictures) / rate:.2f} s long, at least {MIN_SECONDS:g} s are needed")
    frames = np.stack(pictures)
    pictures.clear()
    crops = [_resized(frame, family.size) for frame in frames]
    tracks = track_in_turn(family, crops)
    lost = sum(track.certainty < _FACE_CERTAINTY for track in tracks)
    if lost == len(tracks):
        raise NoFace(f"{path}: no face in any of {len(tracks)} frames")
    if lost:
        notes.append(f"no face seen in {lost} frames")
    return BenchClip(
        name=path.name,
        frames=frames,
        fps=rate,
        crops=crops,
        times_us=[round(number * 1e6 / rate) for number in range(len(frames))],
        tracks=_held_over_gaps(tracks),
        lost_frames=lost,
        notes=tuple(notes),
        digest=hashlib.sha256(frames.tobytes() + f"{rate:.6f}".encode()).hexdigest(),
    )


def _rate(path: Path, fps: float | None) -> tuple[float, list[str]]:
    """The rate that the clip is read at, and what is to be noted about it."""
    # The sender's side is imported late: an image with the receiver alone can still import this package's parts.
    from kilocall.sender.capture import open_clip

    stored = open_clip(path).source_fps
    rate = stored if fps is None else fps
    if _uneven(path):
        return rate, [f"variable frame rate, resampled to {rate:g} fps"]
    if fps is not None and abs(fps - stored) > 0.01:
        return rate, [f"{stored:g} fps, resampled to {fps:g}"]
    return rate, []


def _square_pictures(
    path: Path, rate: float, finder: Family, size: int, crop: bool | None, most: int, notes: list[str]
) -> list[Picture]:
    """At most so many; what was done to them is added to `notes`."""
    from kilocall.sender.capture import open_clip

    video = open_clip(path, rate)
    whole = is_crop(path, finder) if crop is None else not crop
    if not whole:
        pictures = _cut_faces(path, rate, finder, size, most)
        notes.append(f"face cut from {video.width}x{video.height}")
        return pictures
    if video.width != video.height:
        raise BadInput(f"{path}: frames are {video.width}x{video.height}; without cropping they must be square")
    if video.width != size:
        notes.append(f"{video.width}x{video.height}, resized")
    return [_resized(frame.rgb, size) for frame in islice(video, most)]


def is_crop(path: Path, family: Family) -> bool:
    """Whether the clip is a face crop already: square, not larger than a crop may be, and a face in it."""
    from kilocall.sender.capture import open_clip

    clip = open_clip(path)
    if clip.width != clip.height or clip.width not in SIZES:
        return False
    return any(family.track(_resized(frame.rgb, family.size)).certainty >= _FACE_CERTAINTY for frame in islice(clip, 5))


def _cut_faces(path: Path, rate: float, family: Family, size: int, most: int) -> list[Picture]:
    from kilocall.sender.capture import open_clip
    from kilocall.sender.clip import Tracker
    from kilocall.sender.face_crop import CROP_SIDE, FaceCropper, cut, plan_crops

    video = open_clip(path, rate)
    tracker = Tracker(family)
    cropper = FaceCropper(tracker, plan=plan_crops(video, tracker))
    pictures = []
    for frame in islice(video, most):
        found = cropper.crop(frame)
        pictures.append(found.rgb if size == CROP_SIDE else cut(frame.rgb, found.place, size)[0])
    return pictures


def _held_over_gaps(tracks: list[Track]) -> list[Track]:
    """Where no face was seen the sender repeats the last motion; before the first, the first that was seen."""
    held = next(track for track in tracks if track.certainty >= _FACE_CERTAINTY)
    filled = []
    for track in tracks:
        if track.certainty >= _FACE_CERTAINTY:
            held = track
        filled.append(held)
    return filled


def _resized(picture: Picture, size: int) -> Picture:
    if picture.shape[:2] == (size, size):
        return picture
    how = cv2.INTER_AREA if picture.shape[0] > size else cv2.INTER_CUBIC
    return np.asarray(cv2.resize(picture, (size, size), interpolation=how), np.uint8)


def _uneven(path: Path) -> bool:
    """Whether the file's frames come at a variable rate; told from its packets, without decoding."""
    try:
        with av.open(str(path)) as container:
            times = sorted(packet.pts for packet in container.demux(video=0) if packet.pts is not None)
    except (av.error.FFmpegError, ValueError):
        return False
    steps = np.diff(times)
    steps = steps[steps > 0]
    if len(steps) < 2:
        return False
    usual = float(np.median(steps))
    return bool((np.abs(steps - usual) > _UNEVEN * usual + 1).mean() > 0.02)
