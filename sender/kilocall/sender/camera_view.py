"""When the other side is shown what the camera sees, instead of the speaker made from a picture."""

from __future__ import annotations

from typing import Final, Literal

__all__ = ["AWAY_US", "BACK_US", "CameraView", "Why"]

Why = Literal["asked", "away"]
"""Somebody has said so, or no face is seen."""

#: Without a face for so long: shorter is a hand, or a head that turns round.
AWAY_US: Final = 2_000_000
#: A face that stays for so long is moved again.
BACK_US: Final = 400_000


class CameraView:
    """Told of every frame whether a face is seen; says whether the camera's picture is to be shown as it is.

    Times are the frames' capture times, microseconds.
    """

    def __init__(self, *, when_away: bool) -> None:
        """`when_away`: also while nobody is seen, without being asked."""
        self.asked = False
        self.when_away = when_away
        self.taken = False
        """Whether the other side of this connection can show it."""
        self.shown: Why | None = None
        """Why the other side is shown what the camera sees; None: it is not. May be read by anybody."""
        self._since_us: int | None = None
        self._seen: bool | None = None
        self._away = False

    def restart(self) -> None:
        """What was seen before says nothing about now."""
        self._since_us = self._seen = None
        self._away = False

    def look(self, seen: bool, capture_us: int) -> Why | None:
        """After a frame."""
        if seen != self._seen or self._since_us is None:
            self._seen, self._since_us = seen, capture_us
        long_enough = capture_us - self._since_us >= (BACK_US if seen else AWAY_US)
        if self.when_away and long_enough:
            self._away = not seen
        return "asked" if self.asked else "away" if self._away and self.when_away else None
