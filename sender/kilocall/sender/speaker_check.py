"""Whether the frames still show the speaker of the source picture, or somebody else has come into the picture.

A head that turns away grows less like its source picture as well, but little by little: within 0.12 s by 0.2 at most,
measured on 15 clips. Another person is there from one frame to the next.
"""

from __future__ import annotations

from typing import Final, Literal

from kilocall.model.family import ANOTHER

__all__ = ["Speaker", "SpeakerCheck"]

#: "doubtful": for less than ANOTHER_AFTER_US; a hand before the face looks like it too.
Speaker = Literal["same", "doubtful", "another"]

#: The likeness falls by no less when somebody else is seen.
DROP: Final = 0.22
#: Where nobody was seen before: below this it is somebody else from the start.
STRANGER: Final = 0.5
#: So long nothing of the speaker must be seen before it is somebody else.
ANOTHER_AFTER_US: Final = 1_000_000
#: So many frames in turn bring the speaker back.
BACK_FRAMES: Final = 3


class SpeakerCheck:
    """Judges frame after frame by the likeness of both faces."""

    def __init__(self) -> None:
        self.reset()

    def reset(self) -> None:
        """Nobody has been seen yet."""
        self.speaker: Speaker = "same"
        self._before: float | None = None
        self._since_us = 0
        self._alike = 0

    def look(self, likeness: float | None, time_us: int) -> Speaker:
        """The next frame; None says nothing, and what was believed stays."""
        if likeness is None:
            return self.speaker
        if self.speaker == "same":
            fell = likeness < STRANGER if self._before is None else self._before - likeness >= DROP
            if likeness < ANOTHER and fell:
                self.speaker, self._since_us, self._alike = "doubtful", time_us, 0
            else:
                self._before = likeness
            return self.speaker
        self._alike = self._alike + 1 if likeness >= ANOTHER else 0
        if self._alike >= (BACK_FRAMES if self.speaker == "another" else 1):
            self.speaker, self._before = "same", likeness
        elif time_us - self._since_us >= ANOTHER_AFTER_US:
            self.speaker = "another"
        return self.speaker
