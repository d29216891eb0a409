"""Whether this side's face is seen in a call, and what of it the other side has to be told."""

from __future__ import annotations

__all__ = ["OwnFace"]


class OwnFace:
    """Belongs to the sending thread; `seen` may be read by anybody."""

    def __init__(self) -> None:
        self.seen = False
        self._told: bool | None = None
        self._again = False

    def restart(self) -> None:
        """A new connection: nothing has been told."""
        self._told = None
        self._again = False

    def look(self, seen: bool) -> bool:
        """After a frame: whether the other side is to be told."""
        self.seen = seen
        news = seen != self._told
        self._told = seen
        return news

    def tell_again(self, again: bool) -> None:
        """Whether the next frame that is coded is told once more: it is the first of a new source picture."""
        self._again = again

    def coded(self) -> bool:
        """A frame of the face is coded: whether that is to be told."""
        again, self._again = self._again, False
        return again
