"""Numbers of the renderer that run time needs without torch."""

from __future__ import annotations

from typing import Final

#: Of the filter, in rows and in columns, that leaves no chequers.
TAPS: Final = (-1 / 16, 4 / 16, 10 / 16, 4 / 16, -1 / 16)
#: Cubic convolution halfway between two pixels, from the four around it (Keys 1981).
HALFWAY: Final = (-1 / 16, 9 / 16, 9 / 16, -1 / 16)
