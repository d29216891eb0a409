"""Whether what a camera sees is what it saw before: a room that nobody is in is not worth ten pictures a second."""

from __future__ import annotations

from typing import Final

import cv2
import numpy as np
from numpy.typing import NDArray

from kilocall.model.family import Picture

__all__ = ["AGAIN_US", "StillScene"]

#: So often a picture is shown although nothing has changed: what was lost is missing no longer.
AGAIN_US: Final = 1_000_000
#: Places whose mean levels are compared, and by how many grey levels (of 255) one of them must differ. A camera's noise
#: is a tenth of that in a mean of a thousand pixels; lamps on the mains are one level.
_COLUMNS: Final = 24
_ROWS: Final = 18
_CHANGED: Final = 2.5


class StillScene:
    """Told of pictures [H, W, 3] as they come; times are their capture times, microseconds."""

    def __init__(self) -> None:
        self._shown: NDArray[np.float32] | None = None
        self._shown_us = 0

    def restart(self) -> None:
        """The next picture is shown whatever it is."""
        self._shown = None

    def shows(self, picture: Picture, time_us: int) -> bool:
        """Whether this one should be: it differs from the last one that was, or that is a second ago."""
        seen = cv2.resize(picture, (_COLUMNS, _ROWS), interpolation=cv2.INTER_AREA).astype(np.float32)
        if 0 <= time_us - self._shown_us < AGAIN_US and not self._differs(seen):
            return False
        self._shown, self._shown_us = seen, time_us
        return True

    def _differs(self, seen: NDArray[np.float32]) -> bool:
        return self._shown is None or float(np.abs(seen - self._shown).mean(-1).max()) >= _CHANGED
