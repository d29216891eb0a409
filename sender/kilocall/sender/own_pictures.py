"""Source pictures of this side's speaker in a call: which frame becomes one, and those that were used before."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Final

import numpy as np

from kilocall.model.family import Family, Picture, Source, Track
from kilocall.model.shape import SAME_PERSON, shape_distance
from kilocall.proto.control import SourcePicture
from kilocall.proto.errors import BadInput, NoFace
from kilocall.runtime.pictures import fitted
from kilocall.sender.capture import Frame
from kilocall.sender.clip import GROUPS, face_of_picture, larger_crop
from kilocall.sender.face_crop import FaceCrop
from kilocall.sender.source_picture import choose_source, pack_source
from kilocall.sender.speaker_check import Speaker

__all__ = ["OwnPictures", "OwnSource"]

#: The first source picture is the best of so many frames: longer than a blink at 25 fps.
FIRST_OF: Final = 10
#: Larger crops are cut of every fourth frame only; it takes 2 ms.
LARGE_EVERY: Final = 4
CANDIDATES: Final = 25
RECENT_SOURCES: Final = 6


@dataclass(frozen=True, eq=False)
class OwnSource:
    """A picture of this side's speaker, as it is sent."""

    packed: SourcePicture
    picture: Picture
    taken_at: str
    """hh:mm, local time; empty for a picture from a file."""

    @property
    def id(self) -> str:
        return self.packed.picture_hash[:16]


class OwnPictures:
    """`size` is the side of source pictures where the camera has the pixels; None: the networks' own."""

    def __init__(self, size: int | None) -> None:
        self.recent: deque[OwnSource] = deque(maxlen=RECENT_SOURCES)
        """Offered lately, the newest first."""
        self.source: OwnSource | None = None
        """What motion refers to."""
        self._offered: OwnSource | None = None
        self._size = size
        self._first_of = FIRST_OF if size is None else FIRST_OF // LARGE_EVERY + 1
        self._candidates: deque[tuple[Picture, Track]] = deque(maxlen=CANDIDATES)
        self._frames = 0
        self._speaker: Speaker = "same"
        self._retake = False

    @property
    def wants_first(self) -> bool:
        """Whether there is no source picture yet, and frames enough to take the best of."""
        return self.source is None and self._offered is None and self._enough

    @property
    def waiting(self) -> OwnSource | None:
        """What was offered and motion does not refer to yet."""
        return None if self._offered is self.source else self._offered

    @property
    def _enough(self) -> bool:
        return len(self._candidates) >= self._first_of

    def see(self, frame: Frame, crop: FaceCrop, track: Track) -> None:
        """A frame that may become a source picture."""
        self._frames += 1
        if self._size is None or self._frames % LARGE_EVERY == 0:
            self._candidates.append((self.large(frame, crop), track))

    def large(self, frame: Frame, crop: FaceCrop) -> Picture:
        """The crop in the size of source pictures."""
        return larger_crop(frame.rgb, crop, self._size or 0)

    def forget_frames(self) -> None:
        """What was seen is not of whoever is seen next."""
        self._candidates.clear()

    def best(self, family: Family) -> OwnSource:
        """The best of the last frames. Raises NoFace when there is none."""
        if not self._candidates:
            raise NoFace("no face in the last second: look into the camera")
        candidates = list(self._candidates)
        best = choose_source(
            [fitted(crop, family.size) for crop, _ in candidates],
            np.stack([track.points for _, track in candidates]),
            [track.certainty for _, track in candidates],
            GROUPS,
        )
        return _packed(candidates[best][0], datetime.now().strftime("%H:%M"))

    def of(self, picture: Path | Picture, family: Family) -> OwnSource:
        """The face of a picture [H, W, 3] or of a file. Raises NoFace, BadInput."""
        return _packed(face_of_picture(picture, family, size=self._size), "")

    def used_before(self, source_id: str) -> OwnSource:
        for source in self.recent:
            if source.id == source_id:
                return source
        raise BadInput(f"source {source_id!r:.40} is none of the recent ones")

    def offered(self, source: OwnSource) -> None:
        others = [recent for recent in self.recent if recent.id != source.id]
        self.recent.clear()
        self.recent.extend([source, *others][:RECENT_SOURCES])
        self._offered = source

    def is_offered(self, picture_hash: str) -> bool:
        """Whether the source picture offered last has this hash."""
        return self._offered is not None and self._offered.packed.picture_hash == picture_hash

    def somebody_else(self, source: OwnSource, shown: Source, family: Family) -> Source | None:
        """This side's own face, where `source` is a picture from a file that shows another's: then only what changes
        since that face is applied to the picture."""
        if source.taken_at or not self._candidates:
            return None
        own = family.source(*self._candidates[-1])
        return own if shape_distance(own.shape, shown.shape) > SAME_PERSON else None

    def shows_the_speaker(self, source: OwnSource) -> bool:
        """Whether that is known of a picture for which `somebody_else` found nobody: it was taken here, or what the
        camera sees could be compared with it."""
        return bool(source.taken_at or self._candidates)

    # Whether it is still the same person

    @property
    def another(self) -> bool:
        """Whether somebody else is seen than the speaker."""
        return self._speaker == "another"

    def adopted(self, source: OwnSource) -> None:
        """Motion refers to `source`, which is of whoever is seen now."""
        self.source = source
        self._speaker, self._retake = "same", False

    def mind(self, speaker: Speaker) -> str | None:
        """What is said of a frame of `speaker`: a sentence for people when somebody else has come in."""
        before, self._speaker = self._speaker, speaker
        if speaker == "same":
            return None
        if before == "same":
            self._candidates.clear()  # from now on they show whoever is there
        if speaker != "another" or before == "another":
            return None
        # One that the user has chosen rests until somebody decides.
        assert self.source is not None  # the frame was compared with it
        self._retake = bool(self.source.taken_at)
        what = "a new source picture is taken" if self._retake else "your source picture rests"
        return f"somebody else seems to have come into the picture: {what}"

    def must_retake(self) -> bool:
        """Whether a new source picture of somebody else is to be taken now; once."""
        if self._speaker == "another" and self._retake and self._enough:
            self._retake = False
            return True
        return False


def _packed(crop: Picture, taken_at: str) -> OwnSource:
    packed, picture = pack_source(crop)
    return OwnSource(packed, picture, taken_at)
