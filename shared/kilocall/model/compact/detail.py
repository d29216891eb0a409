"""Pictures of twice the networks' size: what was copied from the source picture is copied in its full detail.

The networks work at 256 and say where each pixel comes from and how much of it is a copy. The enlarged picture takes
its coarse half from them and its fine half, the difference between a picture and itself halved and enlarged again
(Burt and Adelson 1983), from the source picture at 512, moved by the same displacement:

    out = up(made) + (1 - painted_share) * (moved - up(down(moved)))

At rest this is the source picture itself. Painted parts get no detail and stay as soft as enlarging makes them.
"""

from __future__ import annotations

import cv2
import numpy as np
from numpy.typing import NDArray

from kilocall.model.compact.compose import still_grid
from kilocall.model.family import DETAIL, Picture

__all__ = ["Detail", "halved"]


class Detail:
    """Holds one source picture [2S, 2S, 3]."""

    def __init__(self, picture: Picture) -> None:
        self._picture = np.ascontiguousarray(picture)
        self._side = picture.shape[0]
        self._still = still_grid(self._side)

    def add(self, made: Picture, displacement: NDArray[np.float32], painted: NDArray[np.float32]) -> Picture:
        """The picture [2S, 2S, 3] for `made` [S, S, 3].

        displacement [F, F, 2]: source minus driving position (x, y) in crop units; painted [S, S]: 0 where the pixel is
        a copy, 1 where it is painted.
        """
        side = (self._side, self._side)
        flow = cv2.resize(displacement, side, interpolation=cv2.INTER_LINEAR)
        where = cv2.scaleAdd(flow, self._side / 2, self._still)
        # Edges repeat, as in the networks' own warp.
        moved = cv2.remap(self._picture, where, None, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)  # type: ignore[call-overload]
        fine = cv2.subtract(moved, _doubled(halved(moved)), dtype=cv2.CV_16S)
        copied = np.asarray(np.rint((1 - painted) * 255), np.uint8)
        share = cv2.cvtColor(cv2.resize(copied, side, interpolation=cv2.INTER_LINEAR), cv2.COLOR_GRAY2BGR)
        fine = cv2.multiply(fine, share, scale=1 / 255, dtype=cv2.CV_16S)
        return np.asarray(cv2.add(_doubled(made), fine, dtype=cv2.CV_8U), np.uint8)


def halved(picture: Picture) -> Picture:
    """The mean of each 2x2 pixels: what the networks see of a picture of twice their size."""
    half = (picture.shape[1] // DETAIL, picture.shape[0] // DETAIL)
    return np.asarray(cv2.resize(picture, half, interpolation=cv2.INTER_AREA), np.uint8)


def _doubled(picture: NDArray[np.uint8]) -> NDArray[np.uint8]:
    size = (picture.shape[1] * DETAIL, picture.shape[0] * DETAIL)
    return np.asarray(cv2.resize(picture, size, interpolation=cv2.INTER_LINEAR), np.uint8)
