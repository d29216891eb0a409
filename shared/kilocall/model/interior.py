"""What is seen between the lips: how bright it is above, in the middle and below.

Landmarks say how far lips are open, but not whether teeth, a tongue or the dark is seen between them; a renderer that
must guess paints the mean of all, grey. Three numbers a frame tell it: the brightness of three bands between the lips
less that of the cheeks, times how open the mouth is, so that they vanish as lips close.
"""

from __future__ import annotations

from typing import Final

import cv2
import numpy as np
from numpy.typing import NDArray

from kilocall.model import landmarks as lm

__all__ = [
    "BANDS",
    "BAND_CENTRES",
    "BASIS",
    "LUMA",
    "SAMPLES",
    "SEEN_FROM_PX",
    "SEEN_WHOLLY_PX",
    "interior",
    "openness",
]

_Array = NDArray[np.float32]

BANDS: Final = 3
#: Brightness of red, green and blue (BT.601).
LUMA: Final = (0.299, 0.587, 0.114)
#: Where between upper and lower lip they lie; nearer to a lip, landmarks a pixel off would take its colour.
BAND_CENTRES: Final = (0.25, 0.5, 0.75)
#: Lips less far apart, in pixels of a 256x256 crop, show nothing between them; from the second number on all counts.
SEEN_FROM_PX: Final = 1.5
SEEN_WHOLLY_PX: Final = 5.5


#: What is sent of a change of the bands: all together, and the upper ones against the lower ones. Orthonormal rows; the
#: middle against both others is left out.
BASIS: Final[_Array] = (np.array([[1, 1, 1], [1, 0, -1]]) / np.sqrt([[3], [2]])).astype(np.float32)


def _samples() -> _Array:
    """Weights [BANDS + 1, S, LANDMARKS] of landmarks that give the places where each band and the cheeks are read."""
    pairs = lm.LIP_PAIRS
    across = [(pairs[0],), (pairs[0], pairs[1]), (pairs[1],), (pairs[1], pairs[2]), (pairs[2],)]
    weights = np.zeros((BANDS + 1, len(across), lm.LANDMARKS), np.float32)
    for band, share in enumerate(BAND_CENTRES):
        for place, between in enumerate(across):
            for upper, lower in between:
                weights[band, place, upper] += (1 - share) / len(between)
                weights[band, place, lower] += share / len(between)
    weights[BANDS, range(len(across)), list(lm.CHEEKS)] = 1
    return weights


SAMPLES: Final = _samples()


def openness(points: _Array) -> _Array:
    """0 with lips closed to 1 with all between them seen, for points [..., LANDMARKS, 2] in crop units."""
    apart = lm.mean_opening(points, lm.LIP_PAIRS) * 128
    return np.asarray(np.clip((apart - SEEN_FROM_PX) / (SEEN_WHOLLY_PX - SEEN_FROM_PX), 0, 1), np.float32)


def interior(picture: NDArray[np.uint8], points: _Array) -> _Array:
    """Brightness [BANDS] of what lies between the lips of points [LANDMARKS, 2], from the upper one down, less the
    cheeks', of 1 for white, times `openness`; 0.3 of it is tooth against skin."""
    how_open = openness(points)
    if how_open == 0:
        return np.zeros(BANDS, np.float32)
    size = picture.shape[0]
    places = ((SAMPLES @ points + 1) * size - 1) / 2  # [BANDS + 1, S, 2] as pixel indices
    x, y = (np.ascontiguousarray(places[..., axis], np.float32) for axis in (0, 1))
    read = cv2.remap(picture, x, y, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)
    light = read.astype(np.float32) @ np.array(LUMA, np.float32) / 255
    mean = light.mean(1)
    return np.asarray((mean[:BANDS] - mean[BANDS]) * how_open, np.float32)
