"""A picture for people: a row per clip, the source beside originals and what was decoded in their place."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import cv2
import numpy as np
from numpy.typing import NDArray

from kilocall.proto.errors import BadInput

__all__ = ["CELL", "MAX_ROWS", "SheetPair", "SheetRow", "contact_sheet", "sheet_frames"]

Picture = NDArray[np.uint8]

PAIRS: Final = 4
CELL: Final = 192
#: 40 rows are a picture of 960 x 16480; more could hardly be opened.
MAX_ROWS: Final = 40
_LABEL, _GAP = 24, 4
_ROW: Final = _LABEL + 2 * CELL + _GAP
_INK, _PAPER = (30, 30, 30), 255


@dataclass(frozen=True)
class SheetPair:
    """An original frame, uint8 RGB [S, S, 3], what was decoded in its place, and when it was, in seconds."""

    seconds: float
    truth: Picture
    decoded: Picture


@dataclass(frozen=True)
class SheetRow:
    """What is shown of a clip: `title` above, `lines` of numbers below the source picture."""

    title: str
    lines: tuple[str, ...]
    source: Picture
    pairs: tuple[SheetPair, ...]


def sheet_frames(count: int) -> list[int]:
    """Numbers of the frames to show of a clip of `count` frames: the middles of four equal parts."""
    return sorted({(2 * part + 1) * count // (2 * PAIRS) for part in range(PAIRS)})


def contact_sheet(rows: Sequence[SheetRow]) -> Picture:
    """Draws at most MAX_ROWS rows, uint8 RGB; originals above decoded. BadInput without any row."""
    if not rows:
        raise BadInput("a contact sheet needs at least one clip")
    shown = rows[:MAX_ROWS]
    sheet = np.full((len(shown) * _ROW, (1 + PAIRS) * CELL, 3), _PAPER, np.uint8)
    for number, row in enumerate(shown):
        _draw(sheet[number * _ROW : (number + 1) * _ROW], row)
    return sheet


def _draw(strip: Picture, row: SheetRow) -> None:
    _write(strip, row.title, 4, 17)
    _place(strip, row.source, 0, 0)
    for number, line in enumerate(("source", *row.lines)):
        _write(strip, line, 4, _LABEL + CELL + 20 + 18 * number)
    for column, pair in enumerate(row.pairs[:PAIRS], 1):
        _place(strip, pair.truth, column, 0)
        _place(strip, pair.decoded, column, 1)
        # White on a dark line, so that it can be read on any picture.
        for colour, width in (((0, 0, 0), 3), ((255, 255, 255), 1)):
            _write(strip, f"{pair.seconds:.1f} s", column * CELL + 4, _LABEL + CELL - 6, colour, width)


def _place(strip: Picture, picture: Picture, column: int, level: int) -> None:
    small = cv2.resize(picture, (CELL, CELL), interpolation=cv2.INTER_AREA)
    top = _LABEL + level * CELL
    strip[top : top + CELL, column * CELL : (column + 1) * CELL] = small


def _write(strip: Picture, text: str, x: int, y: int, colour: tuple[int, int, int] = _INK, width: int = 1) -> None:
    # OpenCV's font has ASCII only.
    plain = text.encode("ascii", "replace").decode()
    cv2.putText(strip, plain, (x, y), cv2.FONT_HERSHEY_SIMPLEX, 0.42, colour, width, cv2.LINE_AA)
