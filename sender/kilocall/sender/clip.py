"""Follows the face through a whole clip: crops, landmarks and the frame that serves best as source picture."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from kilocall.model import landmarks as lm
from kilocall.model.family import Family, Picture, Track
from kilocall.proto.control import CropPlace
from kilocall.proto.errors import NoFace
from kilocall.runtime.pictures import fitted
from kilocall.sender.capture import Clip, Frame, open_clip
from kilocall.sender.crop_plan import whole_frame
from kilocall.sender.face_crop import FaceCrop, FaceCropper, cut, plan_crops
from kilocall.sender.layer_encoder import CodedLayer, LayerEncoder
from kilocall.sender.source_picture import LandmarkGroups, choose_source

GROUPS = LandmarkGroups(left_eye=lm.LEFT_EYE, right_eye=lm.RIGHT_EYE, inner_lips=lm.INNER_LIPS)

# Enough to find open eyes and a closed mouth in; 40 crops are 8 MB.
CANDIDATES = 40
FACE_CERTAINTY = 0.5
# A slow glide moves by whole pixels, with frames in between in which the crop stands.
GLIDE_PAUSE = 10
#: A crop of fewer of the camera's pixels each way gains nothing from being kept larger than the networks' size.
DETAIL_FROM = 1.25


#: "face": the face is found and followed. "whole": the picture was cut to the face before, as training clips are.
Crop = Literal["face", "whole"]


class Tracker:
    """The family's landmark networks, each frame tracked from the one before."""

    def __init__(self, family: Family) -> None:
        self.family = family
        self._last: Track | None = None

    def track(self, crop_rgb: NDArray[np.uint8]) -> Track:
        self._last = self.family.track(crop_rgb, self._last)
        return self._last

    def reset(self) -> None:
        """The next frame has nothing to do with the last."""
        self._last = None


def crop_and_track(frame: Frame, tracker: Tracker, cropper: FaceCropper | None) -> tuple[Picture, Track]:
    """The face's crop of a frame, tracked by `tracker`; without a cropper the frame is one already."""
    if cropper is None:
        return frame.rgb, tracker.track(frame.rgb)
    crop = cropper.crop(frame)
    assert crop.track is not None  # the cropper tracks every frame that it cuts
    return crop.rgb, crop.track


@dataclass(frozen=True)
class Sample:
    """One of the frames whose crop is kept."""

    frame: int
    crop: Picture  # as large as the source picture
    track: Track


@dataclass(frozen=True)
class FollowedClip:
    """All that the encoder needs of a clip; the frames themselves are not kept."""

    tracks: list[tuple[int, Track | None]]  # capture time in microseconds, landmarks; None before the first face
    places: list[CropPlace]  # where the crop lies, whenever that changes
    best_crop: Picture
    samples: list[Sample]  # spread over the clip, faces only
    faces: int
    reframings: int
    lost_frames: int
    warnings: tuple[str, ...]
    layer: tuple[CodedLayer, ...] = ()  # of the video layer, where one was asked for


def follow_clip(
    clip: Clip,
    family: Family,
    progress: Callable[[int, int | None], None],
    *,
    size: int | None = None,
    crop: Crop = "face",
    layer: LayerEncoder | None = None,
) -> FollowedClip:
    """Reads the clip twice: to plan where the crop stands still, then to cut and track. NoFace if there is none.

    With `crop` "whole" nothing is planned: the clip was cut to the face before. BadInput unless it is square then.

    `size` is the side of the best crop that is kept; the networks' own unless given, and that too, with a warning,
    where the face is too small in the clip. `layer` is shown every crop.
    """
    tracker = Tracker(family)
    if crop == "whole":
        plan = whole_frame(clip.width, clip.height, str(clip.path))
    else:
        plan = plan_crops(clip, tracker)
    warnings: list[str] = []
    cropper = FaceCropper(tracker, plan=plan, on_warning=warnings.append)
    total = round(clip.duration * clip.fps) if clip.duration else None
    followed = _Frames(size or family.size)
    layer_frames: list[CodedLayer] = []
    for count, frame in enumerate(clip):
        cropped = cropper.crop(frame)
        followed.add(frame, cropped)
        coded = None if layer is None else layer.push(cropped.rgb, frame.capture_us)
        if coded is not None:
            layer_frames.append(coded)
        progress(count + 1, total)
    tracks, samples = followed.tracks, followed.samples
    if not samples:
        raise NoFace(f"{clip.path}: no face could be followed in any of {len(tracks)} frames")
    before = sum(track is None for _, track in tracks)
    if before:
        warnings.append(f"no face in the first {before} of {len(tracks)} frames: there the source picture rests")
    chosen = _best_crop(samples, family)
    if size is not None and chosen.shape[0] < size:
        warnings.append(
            f"the crop has only {round(followed.places[0].side)} pixels of the clip each way: the source picture stays "
            f"{family.size} wide"
        )
    return FollowedClip(
        tracks,
        followed.places,
        chosen,
        samples,
        plan.faces,
        followed.reframings,
        followed.lost,
        tuple(warnings),
        tuple(layer_frames),
    )


class _Frames:
    """What is kept of a clip's frames. `size` is the side of samples where a frame has the pixels."""

    def __init__(self, size: int) -> None:
        self.tracks: list[tuple[int, Track | None]] = []
        self.places: list[CropPlace] = []
        self.samples: list[Sample] = []
        self.lost = self.reframings = 0
        self._size = size
        self._stride = 1  # of the frames, every so manyth is a sample
        self._still = GLIDE_PAUSE  # frames since the crop moved

    def add(self, frame: Frame, cropped: FaceCrop) -> None:
        track = cropped.track
        assert track is not None  # the cropper tracks every frame that it cuts
        if track.certainty < FACE_CERTAINTY:
            self.lost += 1
            track = self.tracks[-1][1] if self.tracks else None
        elif len(self.tracks) % self._stride == 0:
            self._sample(Sample(len(self.tracks), larger_crop(frame.rgb, cropped, self._size), track))
        self.tracks.append((frame.capture_us, track))
        height, width = frame.rgb.shape[:2]
        place = CropPlace(frame.capture_us, cropped.place.x0, cropped.place.y0, cropped.place.side, width, height)
        if not place.same_place(self.places[-1] if self.places else None):
            self.places.append(place)
        self.reframings += cropped.reframed and self._still >= GLIDE_PAUSE
        self._still = 0 if cropped.reframed else self._still + 1

    def _sample(self, sample: Sample) -> None:
        """One more; of too many every second one stays, so that they are spread over the clip however long it is."""
        self.samples.append(sample)
        if len(self.samples) > 2 * CANDIDATES:
            self.samples, self._stride = self.samples[::2], 2 * self._stride


def _best_crop(samples: list[Sample], family: Family) -> Picture:
    """That of the frame that serves best as source picture."""
    best = choose_source(
        [fitted(sample.crop, family.size) for sample in samples],
        np.stack([sample.track.points for sample in samples]),
        [sample.track.certainty for sample in samples],
        GROUPS,
    )
    return samples[best].crop


def larger_crop(frame_rgb: NDArray[np.uint8], crop: FaceCrop, size: int) -> Picture:
    """The same crop [size, size, 3] where the frame has the pixels for it, otherwise as it is."""
    own = crop.rgb.shape[0]
    if size <= own or crop.place.side < DETAIL_FROM * own:
        return crop.rgb
    return cut(frame_rgb, crop.place, size)[0]


def face_of_picture(
    picture: Path | Picture, family: Family, *, size: int | None = None, crop: Crop = "face"
) -> Picture:
    """The largest face of a picture file or of uint8 RGB [H, W, 3], as a crop [S, S, 3]; NoFace if there is none.

    `size` asks for a larger crop than the networks', see `larger_crop`. With `crop` "whole" it is the whole picture,
    and BadInput unless that is square.
    """
    if isinstance(picture, Path):
        name, frame = f" {picture}", next(iter(open_clip(picture)))
    else:
        name, frame = "", Frame(picture, 0, 0)
    if crop == "whole":
        place = whole_frame(frame.rgb.shape[1], frame.rgb.shape[0], f"source picture{name}").parts[0].place
        enough = size is not None and place.side >= DETAIL_FROM * family.size
        return cut(frame.rgb, place, size if enough and size is not None else family.size)[0]
    side = frame.rgb.shape[0]
    looks_cut = frame.rgb.shape[1] == side and side in (family.size, size)
    if looks_cut and family.track(fitted(frame.rgb, family.size)).certainty > FACE_CERTAINTY:
        return frame.rgb
    tracker = Tracker(family)
    try:
        plan = plan_crops([frame], tracker)
    except NoFace as error:
        raise NoFace(f"source picture{name}: {error}") from error
    return larger_crop(frame.rgb, FaceCropper(tracker, plan=plan).crop(frame), size or family.size)
