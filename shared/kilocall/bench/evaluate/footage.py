"""A clip as the sender sees it: face crops, where the faces are in them, and which of them is the source picture."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Final

import numpy as np

from kilocall.model.family import Family, Picture, Track

__all__ = ["MAX_FRAMES", "Footage", "best_frame", "read_footage"]

#: Scored of a clip at most; 2 x 750 pictures of 256x256 are 295 MB, and they are held until the clip is
#: scored.
MAX_FRAMES: Final = 750
#: Frames that are looked at as source picture.
_CANDIDATES: Final = 40


@dataclass(frozen=True)
class Footage:
    """The original as face crops, with what the sender sees in them."""

    crops: list[Picture]
    times_us: list[int]
    tracks: list[Track]
    fps: float
    crop_given: bool
    left_out: bool


def read_footage(path: Path, family: Family) -> Footage:
    """A clip of the family's size with a label file beside it is taken as it is; any other is cropped as the sender
    crops it."""
    # The sender's side is imported late: an image with the receiver alone can still import this package's parts.
    from kilocall.sender.capture import open_clip
    from kilocall.sender.clip import Tracker, crop_and_track
    from kilocall.sender.face_crop import FaceCropper, plan_crops

    video = open_clip(path)
    crops: list[Picture] = []
    times_us: list[int] = []
    tracks: list[Track] = []
    crop_given = (video.width, video.height) == (family.size, family.size) and path.with_suffix(".npz").is_file()
    tracker = Tracker(family)
    cropper = None if crop_given else FaceCropper(tracker, plan=plan_crops(video, tracker))
    frames = iter(video)
    for frame in islice(frames, MAX_FRAMES):
        crop, track = crop_and_track(frame, tracker, cropper)
        crops.append(crop)
        times_us.append(frame.capture_us)
        tracks.append(track)
    left_out = next(frames, None) is not None
    return Footage(crops, times_us, tracks, video.fps, crop_given, left_out)


def best_frame(footage: Footage) -> int:
    """The frame that an encoder would choose as source picture."""
    from kilocall.sender.clip import GROUPS
    from kilocall.sender.source_picture import choose_source

    numbers = range(0, len(footage.crops), -(-len(footage.crops) // _CANDIDATES))
    return numbers[
        choose_source(
            [footage.crops[i] for i in numbers],
            np.stack([footage.tracks[i].points for i in numbers]),
            [footage.tracks[i].certainty for i in numbers],
            GROUPS,
        )
    ]
