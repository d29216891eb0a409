"""Made picture and video layer as one: the layer says what is there, the made picture how it looks in detail.

The layer is small, coarse and some frames old; the made picture is sharp and in time, and lacks whatever its source
picture never showed. A small network compares the two at the moment at which the layer was taken. What it finds, a
correction of colours and a gain of the made picture's detail, is moved with the face to each frame that is shown
after:

    out = made + offset + (gain - 1) * (made - low(made))

where `low` is the picture at half its side. Without a layer, or once its last frame is old, offset is zero and gain
one: exactly the made picture.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cache
from typing import TYPE_CHECKING, Any, Final

import cv2
import numpy as np
from numpy.typing import NDArray

from kilocall.model import landmarks as lm
from kilocall.model.compact.compose import places, traced
from kilocall.model.family import LayerCorrection, Made, Placement

if TYPE_CHECKING:
    from kilocall.runtime.engine import Network

__all__ = ["COARSE", "FAR", "FEATURES", "SIDE", "WORK_SIDE", "Correction", "Fusion"]

Bytes = NDArray[np.uint8]
Array = NDArray[np.float32]

#: Of the pictures that are fused, and of what the network sees.
SIDE: Final = 256
WORK_SIDE: Final = 128
#: Channels that the network sees: made picture 3, coarse and fine difference to the layer 3 and 3, detail of both 2,
#: how much of it is painted and visible in the source 2, the layer's size 1.
FEATURES: Final = 14
#: Side of a block over which a difference counts as coarse, in places of WORK_SIDE.
COARSE: Final = 4
_LUMA: Final = np.array([[0.299, 0.587, 0.114]], np.float32)
#: What an offset of one level of 255 is stored as, and a gain of one.
_LEVEL: Final = 16
_ONE: Final = 4096
#: Places of the motion field, and how much finer masks are drawn.
_FIELD: Final = 64
_PARTS_FINER: Final = 4
#: Lips and lids with so much of the crop around them belong to the parts that speak.
_AROUND: Final = 3 / 256
#: Grey levels by which layer and made picture differ around mouth or eyes, over a ninth of the crop's width, where
#: nothing lies before them, and where something does.
_UNCOVERED: Final = 12.0
_COVERED: Final = 24.0
_COVER_SIDE: Final = 27
_LIGHT_SIDE: Final = 8
#: A layer of the full side that is never late says so much of lips and lids; any says so much of what is painted of a
#: mouth, most of it between the lips: what the source picture did not show there, teeth or the dark, is guessed.
_SAYS_OF_PARTS: Final = 0.7
#: A mouth counts as painted where so much of it is.
_PAINTED: Final = 0.5
#: Corrections that differ by fewer grey levels, over so many places each way, differ by what the layer's coder made of
#: the same: each counts so much of what the next one says. Those twice as far apart do not.
_ALIKE: Final = 4.0
_ALIKE_SIDE: Final = 5
_ALIKE_SHARE: Final = 0.5
#: Of a change that is none of these, the first picture shows so much.
_AT_FIRST: Final = 0.85
#: Half of a correction is left at a place that has moved so far since, crop units: things turn as they move, and less
#: and less of it fits. Below that share of the square of it nothing is reckoned.
FAR: Final = 16 * 2 / SIDE
_NEARLY_STILL: Final = 0.02


@dataclass(frozen=True)
class Correction:
    """What a layer frame changes of the picture that was made for its moment."""

    changes: NDArray[np.int16]
    """[C, C, 4]: offsets of red, green and blue in sixteenths of a level, and the gain of detail in 4096ths.

    C is 128, or 256 where the layer has detail of its own."""
    placement: Placement
    """Of that moment."""

    def moved_to(self, made: Made) -> Correction:
        """For another moment's picture: each place changes what it was a part of."""
        now = made.placement
        if now is None or now is self.placement:
            return self
        if now.number != self.placement.number:  # moved from another picture: where places were is not known
            return self
        way = traced(now.displacement, self.placement.displacement)
        where = places(way, len(self.changes))
        # Of 32 bits: OpenCV moves them in half the time that it takes for integers of 16.
        changes = self.changes.astype(np.float32)
        changes = cv2.remap(changes, where, None, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)  # type: ignore[call-overload]
        return Correction(_whole(_carried(changes, way)), now)

    def after(self, before: LayerCorrection, made: Made) -> tuple[Correction, Correction]:
        """What is shown of it in the first picture and from then on, where `before` was shown until `made`, the picture
        that it was made for: a change from one picture to the next is seen as flicker."""
        shown = before.moved_to(made)
        if not isinstance(shown, Correction) or shown.placement is not self.placement:
            return self, self
        if shown.changes.shape != self.changes.shape:
            return self, self
        old, new = shown.changes, self.changes
        red, green, blue, _ = cv2.split(cv2.absdiff(new, old))
        # Three changes of a byte in sixteenths fit into 16 bits.
        apart = cv2.blur(cv2.add(cv2.add(red, green), blue).astype(np.float32), (_ALIKE_SIDE, _ALIKE_SIDE))
        share = _ALIKE_SHARE * np.clip(2 - apart / np.float32(3 * _LEVEL * _ALIKE), 0, 1)
        settled = cv2.blendLinear(old.astype(np.float32), new.astype(np.float32), share, 1 - share)
        then = _whole(settled)
        first = np.asarray(cv2.addWeighted(old, 1 - _AT_FIRST, then, _AT_FIRST, 0), np.int16)
        return replace(self, changes=first), replace(self, changes=then)

    def apply(self, picture: Bytes, strength: float = 1.0) -> Bytes:
        """The picture [S, S, 3] changed; with a `strength` below one, less."""
        side = len(picture)
        changes = _resized(self.changes, side, cv2.INTER_LINEAR)
        # Detail is what half of 256 cannot hold, at any size.
        low = _resized(_resized(picture, WORK_SIDE, cv2.INTER_AREA), side, cv2.INTER_LINEAR)
        gain = cv2.extractChannel(changes, 3).astype(np.float32)
        gain *= strength / _ONE
        gain += 1 - strength
        blended = cv2.blendLinear(picture, low, gain, 1 - gain)
        # NumPy takes 30 times as long to leave the gain out.
        offset = cv2.cvtColor(changes.view(np.uint16), cv2.COLOR_RGBA2RGB).view(np.int16)
        return np.asarray(cv2.addWeighted(blended, 1, offset, strength / _LEVEL, 0, dtype=cv2.CV_8U), np.uint8)


class Fusion:
    """Compares made pictures with layer frames. One thread at a time may use it: its network has working memory."""

    def __init__(self, network: Network) -> None:
        self._network = network

    def correction(self, made: Made, layer: Bytes, *, in_step: bool = False) -> Correction:
        """For a layer frame [L, L, 3] of the moment for which `made` was made; `in_step`: there is one for each picture
        that is shown."""
        placement, side = made.placement, len(layer)
        assert placement is not None  # this family tells it of every picture
        picture = made.picture if len(made.picture) == SIDE else _resized(made.picture, SIDE, cv2.INTER_AREA)
        large = layer if side == SIDE else _resized(layer, SIDE, cv2.INTER_AREA if side > SIDE else cv2.INTER_CUBIC)
        ours, theirs = _low(picture), _low(large)
        difference = theirs - ours
        coarse = _resized(_resized(difference, WORK_SIDE // COARSE, cv2.INTER_AREA), WORK_SIDE, cv2.INTER_LINEAR)
        fine = difference - coarse
        size = np.full((WORK_SIDE, WORK_SIDE), np.log2(side / SIDE), np.float32)
        painted = _resized(placement.painted, WORK_SIDE, cv2.INTER_LINEAR)
        features = cv2.merge(
            (
                ours - np.float32(0.5),
                4 * coarse,
                8 * fine,
                10 * _energy(picture),
                10 * _energy(large),
                painted,
                _resized(placement.visible, WORK_SIDE, cv2.INTER_LINEAR),
                size,
            )
        )
        said = self._network(features=features[None])["changes"][0]
        of_coarse, of_fine, *more, gain, detail = _split(_resized(said, WORK_SIDE, cv2.INTER_LINEAR))
        offset = _times(coarse, of_coarse) + _times(fine, of_fine) + cv2.merge(more)
        all_told = in_step and side >= SIDE
        speaking = placement.speaking if all_told else _less_painted(placement.speaking, painted)
        ours_alone = _resized(_kept(speaking, coarse), WORK_SIDE, cv2.INTER_LINEAR)
        if all_told:
            ours_alone *= 1 - _SAYS_OF_PARTS
        offset += _times(_light(offset) - offset, ours_alone)
        gain += ours_alone * (1 - gain)
        offset *= 255 * _LEVEL
        gain *= _ONE
        if side > WORK_SIDE:
            offset, gain = _resized(offset, SIDE, cv2.INTER_LINEAR), _resized(gain, SIDE, cv2.INTER_LINEAR)
            share = _resized(detail * (1 - ours_alone), SIDE, cv2.INTER_LINEAR)
            offset += _times(_high(large), share * _LEVEL)
        return Correction(_whole(cv2.merge((offset, gain))), placement)


def _split(channels: Array) -> list[Array]:
    """[S, S, C] as C of [S, S]."""
    return [np.asarray(channel, np.float32) for channel in cv2.split(channels)]


def _times(picture: Array, share: Array) -> Array:
    """[S, S, 3] times [S, S], in a sixth of the time that NumPy takes."""
    return np.asarray(cv2.multiply(picture, cv2.merge((share, share, share))))


def _carried(changes: Array, way: Array) -> Array:
    """What is left of changes [C, C, 4] that were fetched from so far away [F, F, 2], crop units."""
    far = np.square(way).sum(-1) * np.float32(1 / FAR**2)
    if far.max() < _NEARLY_STILL:
        return changes
    share = _resized(1 / (1 + far), len(changes), cv2.INTER_LINEAR)
    return np.asarray(cv2.blendLinear(changes, _no_changes(len(changes)), share, 1 - share), np.float32)


def _whole(changes: NDArray[Any]) -> NDArray[np.int16]:
    return np.asarray(cv2.addWeighted(changes, 1, changes, 0, 0, dtype=cv2.CV_16S), np.int16)


@cache
def _no_changes(side: int) -> Array:
    return np.full((side, side, 4), (0, 0, 0, _ONE), np.float32)


def speaking_parts(points: Array) -> Array:
    """Where mouth and eyes are in a picture [F, F, 2], 0..1, for its landmarks [K, 2] in crop units."""
    large = _FIELD * _PARTS_FINER
    parts = []
    for regions in ((lm.OUTER_LIPS,), (lm.RIGHT_EYE, lm.LEFT_EYE)):
        part: NDArray[Any] = np.zeros((large, large), np.uint8)
        for region in regions:
            hull = cv2.convexHull(((points[list(region)] + 1) * (large / 2)).astype(np.float32))
            cv2.fillConvexPoly(part, np.rint(hull).astype(np.int32), 255)
        around = round(_AROUND * large)
        part = cv2.dilate(part, cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (2 * around + 1,) * 2))
        parts.append(_resized(cv2.GaussianBlur(part, (0, 0), around / 2), _FIELD, cv2.INTER_AREA))
    return (np.dstack(parts) / np.float32(255)).astype(np.float32)


def _less_painted(speaking: Array, painted: Array) -> Array:
    """`speaking` [F, F, 2] with less of a mouth where the picture is painted [W, W]."""
    mouth, eyes = _split(speaking)
    share = np.minimum(1, _resized(painted, len(mouth), cv2.INTER_AREA) / np.float32(_PAINTED))
    return np.asarray(cv2.merge((mouth * (1 - np.float32(_SAYS_OF_PARTS) * share), eyes)))


def _kept(speaking: Array, coarse: Array) -> Array:
    """Where the made picture says what is there, whatever the layer says [F, F]: lips, lids and irises, which motion
    has 25 times a second. Not where something lies before them: then the two differ all around as well."""
    apart = _resized(np.abs(coarse).mean(-1), _COVER_SIDE, cv2.INTER_AREA)
    apart = _resized(cv2.blur(apart, (3, 3)), len(speaking), cv2.INTER_LINEAR)
    kept = np.zeros(speaking.shape[:2], np.float32)
    for part in np.moveaxis(speaking, -1, 0):
        level = 255 * float((part * apart).sum()) / max(1e-3, float(part.sum()))
        kept += part * np.float32(min(1.0, max(0.0, (_COVERED - level) / (_COVERED - _UNCOVERED))))
    return np.minimum(kept, 1)


def _light(offset: Array) -> Array:
    """What of an offset is light and colour, and no shape."""
    return _resized(_resized(offset, _LIGHT_SIDE, cv2.INTER_AREA), len(offset), cv2.INTER_CUBIC)


def _low(picture: Bytes) -> Array:
    """What half the side holds of a picture [256, 256, 3]: [128, 128, 3], 0..1."""
    return np.asarray(_resized(picture, WORK_SIDE, cv2.INTER_AREA) * np.float32(1 / 255), np.float32)


def _high(picture: Bytes) -> Array:
    """The rest [256, 256, 3], levels."""
    low = _resized(_resized(picture, WORK_SIDE, cv2.INTER_AREA), SIDE, cv2.INTER_LINEAR)
    return np.asarray(cv2.subtract(picture, low, dtype=cv2.CV_32F), np.float32)


def _energy(picture: Bytes) -> Array:
    """Mean amount of the rest's luma [128, 128], 0..1."""
    luma = cv2.transform(picture, _LUMA).astype(np.float32)
    low = _resized(_resized(luma, WORK_SIDE, cv2.INTER_AREA), SIDE, cv2.INTER_LINEAR)
    return np.asarray(_resized(cv2.absdiff(luma, low), WORK_SIDE, cv2.INTER_AREA) * np.float32(1 / 255), np.float32)


def _resized(values: NDArray[Any], side: int, method: int) -> NDArray[Any]:
    return values if len(values) == side else np.asarray(cv2.resize(values, (side, side), interpolation=method))
