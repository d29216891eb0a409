"""What lies between and after the renderer's networks: moving features and picture into place, and the final mix.

    out = copied + gate * share * (painted - copied)

All of it is OpenCV on the processor: it moves 256x256 pixels in less than half a millisecond, a fifth of what engines
take. Positions are rounded to 1/32 pixel there.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from functools import cache
from typing import Any, Final

import cv2
import numpy as np
from numpy.typing import NDArray

from kilocall.model.compact.renderer_constants import HALFWAY, TAPS
from kilocall.model.family import Picture

__all__ = [
    "TRACE_STEPS",
    "Composer",
    "Copy",
    "Painted",
    "densely",
    "move",
    "places",
    "still_grid",
    "together",
    "traced",
]

Array = NDArray[np.float32]
Bytes = NDArray[np.uint8]

_TAPS: Final = np.array(TAPS, np.float32)
#: Steps that find where a place was before; the third moves it by less than a tenth of a pixel.
TRACE_STEPS: Final = 2


def still_grid(side: int, pixels: float = 1.0) -> Array:
    """Where each of `side` times `side` places lies in a picture with so many pixels a place [side, side, 2] (x, y)."""
    line = np.arange(side, dtype=np.float32) * np.float32(pixels)
    return np.dstack(np.meshgrid(line, line))


def move(features: Array, displacement: Array, still: Array) -> Array:
    """Features [S, S, C] fetched for displacement [S, S, 2] in crop units; `still` is `still_grid(S)`. Edges repeat."""
    side = len(features)
    where = cv2.scaleAdd(displacement, side / 2, still)
    return np.asarray(cv2.remap(features, where, None, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE))  # type: ignore[call-overload]


def traced(now: Array, then: Array) -> Array:
    """How far from each place it lay at another moment [F, F, 2], crop units, by the displacements of both.

    What shows the same place of the source picture is the same: x0 + then(x0) = x + now(x).
    """
    side = len(now)
    half = np.float32(side / 2)
    still = _grid(side)
    moved = now - then
    for _ in range(TRACE_STEPS):
        there = cv2.remap(then, still + half * moved, None, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)  # type: ignore[call-overload]
        moved = now - np.asarray(there, np.float32)
    return moved


def places(way: Array, side: int) -> Array:
    """Where `side` times `side` places are fetched from [side, side, 2], so far away [F, F, 2] in crop units."""
    return np.asarray(cv2.scaleAdd(_sized(way, side), side / 2, _grid(side)), np.float32)


@cache
def _grid(side: int) -> Array:
    return still_grid(side)


class Copy:
    """Holds one source picture [S, S, 3], dense, and fetches moved ones from it."""

    def __init__(self, picture: Picture) -> None:
        side = len(picture)
        # Four colours: pixels of four bytes are moved as fast as of three, and put in order faster.
        self._dense = cv2.cvtColor(densely(picture), cv2.COLOR_RGB2RGBA)
        self._still = still_grid(side, 2)
        self._size = (side, side)

    def at(self, displacement: Array) -> Bytes:
        """The picture [S, S, 4] for a displacement [F, F, 2] in crop units."""
        flow = cv2.resize(displacement, self._size, interpolation=cv2.INTER_LINEAR)
        where = cv2.scaleAdd(flow, self._size[0], self._still)
        return np.asarray(cv2.remap(self._dense, where, None, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE))  # type: ignore[call-overload]


def together(pixels: Bytes) -> Bytes:
    """[S / 2, S / 2, 16] with each 2x2 pixels as one to [S, S, 4]: a pixel shuffle, pixel first."""
    # Two pixels as one 64-bit number: numpy copies single bytes slowly.
    pairs = np.ascontiguousarray(pixels).view(np.uint64).reshape(len(pixels), -1, 2)
    return np.ascontiguousarray(pairs.transpose(0, 2, 1)).view(np.uint8).reshape(2 * len(pixels), -1, 4)


@dataclass(frozen=True, eq=False)
class Painted:
    """What was painted for a picture, ready to be mixed with the copy."""

    picture: Bytes
    """[S, S, 4]"""
    share: Array
    """How far each pixel is painted [S, S], 0..1."""

    @staticmethod
    def of(pixels: Bytes, gate: Array) -> Painted:
        """Of the generator's picture [S / 2, S / 2, 16] and the gate [F, F]."""
        smooth = cv2.sepFilter2D(together(pixels), -1, _TAPS, _TAPS, borderType=cv2.BORDER_REPLICATE)
        wide = cv2.resize(gate, smooth.shape[:2], interpolation=cv2.INTER_LINEAR)
        share = cv2.multiply(wide, cv2.extractChannel(smooth, 3), scale=1 / 255, dtype=cv2.CV_32F)
        return Painted(np.asarray(smooth), np.asarray(share, np.float32))

    def at(self, where: Array) -> Painted:
        """Fetched from these pixels [S, S, 2]."""
        picture, share = (
            cv2.remap(one, where, None, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)  # type: ignore[call-overload]
            for one in (self.picture, self.share)
        )
        return Painted(np.asarray(picture), np.asarray(share, np.float32))

    def over(self, copied: Bytes) -> Picture:
        """The picture [S, S, 3] of this and a copy [S, S, 4]."""
        mixed = cv2.blendLinear(copied, self.picture, 1 - self.share, self.share)
        return np.asarray(cv2.cvtColor(mixed, cv2.COLOR_RGBA2RGB), np.uint8)


class Composer:
    """Holds one source picture [S, S, 3] and its features as the appearance network gives them."""

    def __init__(self, picture: Picture, appearance: Mapping[str, Array], wanted: Collection[str]) -> None:
        """`wanted` names the inputs of the generator."""
        sides = {"seen_128": "at_128", "seen_64": "at_64", "seen_32": "at_32"}
        self._features = {name: appearance[source][0] for name, source in sides.items() if name in wanted}
        self._still = {name: still_grid(len(features)) for name, features in self._features.items()}
        self.copy: Final = Copy(picture)
        self._copied: Bytes | None = None

    def move(self, field: Mapping[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
        """What the generator wants of the motion field's outputs: features and picture in place, others as they are."""
        flow, visible = field["displacement"][0], field["visible"][0, ..., 0]
        made: dict[str, NDArray[Any]] = {}
        for name, features in self._features.items():
            side = len(features)
            moved = move(features, _sized(flow, side), self._still[name])
            # What the source picture does not show counts nothing.
            moved *= _sized(visible, side)[..., None]
            made[name] = moved[None]
        self._copied = self.copy.at(flow)
        return {**made, **{name: field[name] for name in ("fine", "coarse")}}

    def mix(self, painted: Bytes, gate: Array) -> tuple[Picture, Painted]:
        """With the picture as it was moved last, for `painted` and `gate` of a batch of one."""
        assert self._copied is not None, "nothing was moved yet"
        ready = Painted.of(painted[0], gate[0])
        return ready.over(self._copied), ready


def _sized(field: Array, side: int) -> Array:
    """A field [F, F] or [F, F, C] for so many places a side: means where they are fewer, else interpolated."""
    if len(field) == side:
        return field
    method = cv2.INTER_AREA if side < len(field) else cv2.INTER_LINEAR
    return np.asarray(cv2.resize(field, (side, side), interpolation=method), np.float32)


def densely(picture: Picture) -> Picture:
    """`renderer.densely` of bytes [S, S, 3]: [2 S, 2 S, 3]."""
    made = picture.astype(np.float32)
    for axis in (0, 1):
        padding = [(0, 0)] * 3
        padding[axis] = (1, 2)
        wide = np.pad(made, padding, mode="edge")
        size = made.shape[axis]
        between = sum(tap * np.take(wide, range(k, k + size), axis) for k, tap in enumerate(HALFWAY))
        shape = list(made.shape)
        shape[axis] *= 2
        made = np.stack((made, np.asarray(between)), axis + 1).reshape(shape)
    return np.clip(np.rint(made), 0, 255).astype(np.uint8)
