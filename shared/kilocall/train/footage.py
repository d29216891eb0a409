"""Clips of one person as face crops with what the sender's networks find in them: fine-tuning needs no labels.

The crops are cut as a sender cuts them. A clip of the networks' own size with a label file (`name.npz`) beside it is a
face crop already and is taken as it is.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np
from numpy.typing import NDArray

from kilocall.model.family import Family, Track
from kilocall.model.shape import SAME_PERSON, shape_distance
from kilocall.proto.errors import BadInput, NoFace
from kilocall.sender.capture import Clip, open_clip
from kilocall.sender.clip import FACE_CERTAINTY, Tracker, crop_and_track
from kilocall.sender.face_crop import FaceCropper, plan_crops
from kilocall.sender.face_finder import FaceFinder

__all__ = ["LEAST_SECONDS", "Footage", "read_footage"]

#: Less face than this teaches more of the moment than of the person.
LEAST_SECONDS: Final = 10.0
#: Kept of all clips together, evenly spread: 590 MB of pictures, more than a training of an hour looks at.
MOST_FRAMES: Final = 3000
#: Pictures of a clip in which all faces are counted, and the share with two from which on it has two people. The
#: cascades take one thing in a few pictures for a face that is none.
COUNTED: Final = 16
TWO_PEOPLE: Final = 0.34
#: A second face must be so much of the first one's width: not somebody on a poster behind.
SECOND_WIDTH: Final = 0.4


@dataclass(frozen=True)
class Footage:
    """N face crops of C clips in the order of time; every clip's frames are equally far apart."""

    pictures: NDArray[np.uint8]  # [N, S, S, 3], mapped from a file
    tracks: list[Track]  # N
    clip_start: tuple[int, ...]  # [C + 1]: frames of clip c are clip_start[c]..clip_start[c + 1]
    seconds: float  # of video with a face
    warnings: tuple[str, ...]

    @property
    def clips(self) -> list[range]:
        return [range(a, b) for a, b in zip(self.clip_start, self.clip_start[1:], strict=False)]


def read_footage(
    paths: Sequence[Path],
    family: Family,
    folder: Path,
    *,
    least_seconds: float = LEAST_SECONDS,
    progress: Callable[[int, int | None], None] = lambda done, total: None,
) -> Footage:
    """Follows the face through all clips; the crops are kept in `folder`, which must outlive them.

    Raises BadInput for a clip with two people or less than `least_seconds` of face in all, NoFace where a clip has
    none, OSError where `folder` is full.
    """
    videos = [open_clip(path) for path in paths]
    expected = sum(round((v.duration or 60.0) * v.fps) for v in videos)
    stride = max(1, math.ceil(expected / MOST_FRAMES))
    tracks: list[Track] = []
    start = [0]
    seconds = 0.0
    warnings: list[str] = []
    done = 0
    with (folder / "crops.u8").open("wb") as sink:
        for video in videos:
            crop_given = (video.width, video.height) == (family.size,) * 2 and video.path.with_suffix(".npz").is_file()
            tracker = Tracker(family)
            cropper = None
            if not crop_given:
                _refuse_two_people(video)
                cropper = FaceCropper(tracker, plan=plan_crops(video, tracker))
            for count, frame in enumerate(video):
                done += 1
                progress(done, max(expected, done))
                if count % stride:
                    continue
                crop, track = crop_and_track(frame, tracker, cropper)
                if track.certainty < FACE_CERTAINTY:
                    continue
                sink.write(np.ascontiguousarray(crop).data)
                tracks.append(track)
            kept = len(tracks) - start[-1]
            if not kept:
                raise NoFace(f"{video.path}: no face could be followed in any frame")
            start.append(len(tracks))
            seconds += kept * stride / video.fps
    if seconds < least_seconds:
        raise BadInput(f"the clips show a face for {seconds:.1f} s; at least {least_seconds:g} s are needed")
    size = family.size
    pictures = np.memmap(folder / "crops.u8", np.uint8, "r", shape=(len(tracks), size, size, 3))
    footage = Footage(pictures, tracks, tuple(start), seconds, ())
    if not _alike(footage, family):
        warnings.append(
            "the face's proportions at the beginning and at the end differ as those of two people do; "
            "the clips should show one person"
        )
    return Footage(pictures, tracks, tuple(start), seconds, tuple(warnings))


def _refuse_two_people(video: Clip) -> None:
    finder = FaceFinder()
    total = round((video.duration or 60.0) * video.fps)
    every = max(1, total // COUNTED)
    looked = both = 0
    for count, frame in enumerate(video):
        if count % every:
            continue
        widths = sorted((box.width for box in finder.find(frame.rgb)), reverse=True)
        looked += bool(widths)
        both += len(widths) > 1 and widths[1] >= SECOND_WIDTH * widths[0]
    if looked and both / looked >= TWO_PEOPLE:
        raise BadInput(
            f"{video.path}: two or more people in {both} of {looked} pictures looked at; a clip of one is needed"
        )


def _alike(footage: Footage, family: Family) -> bool:
    """Whether first and last third show the same head-fixed shape, expressions averaged out."""
    numbers = np.linspace(0, len(footage.tracks) - 1, 48).astype(int)
    shapes = [family.source(np.array(footage.pictures[n]), footage.tracks[n]).shape for n in numbers]
    first, last = (np.median(some, 0).astype(np.float32) for some in (shapes[:16], shapes[-16:]))
    return shape_distance(first, last) <= SAME_PERSON
