"""Whether lips and sound arrive together: when a mouth was seen to open in one page and in the other, and the beeps.

Made for the clip of `two_pages.speaking_clip`: a mouth that opens every two seconds, every time with a beep. Openings
are told by what the face looks like, not by how much one picture differs from the one before: a busy machine leaves
pictures out, and those that are left differ by more.
"""

from __future__ import annotations

import base64
import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from kilocall.proto.errors import BadInput

__all__ = ["EVERY_S", "FIRST_AT_S", "OPEN_S", "LipSync", "lip_sync", "openings"]

#: An opening of the mouth every so often, and a beep with it.
EVERY_S: Final = 2.0
OPEN_S: Final = 0.4
FIRST_AT_S: Final = 1.0
#: What the mouth is compared with is the median of so long before: it is closed for most of that.
LOOK_BACK_MS: Final = 1700.0
LEAST_BEFORE: Final = 4
#: Between the last picture of a closed mouth and the first of an open one; after longer nobody knows when it opened.
MOST_APART_MS: Final = 250.0
CLOSED_FOR_MS: Final = 1000.0
#: Of the pixels, those that differ most: the mouth is a small part of a picture.
DIFFERENT_SHARE: Final = 0.05
#: How much more an open mouth must differ than a closed one does, and by how many grey levels at least.
OPEN_RATIO: Final = 2.0
OPEN_LEVELS: Final = 4.0
#: What takes longer from one page to the other belongs to the next opening.
MOST_MS: Final = 900 * EVERY_S

Array = NDArray[np.float64]


@dataclass(frozen=True)
class LipSync:
    """How lips and sound of one side arrived at the other, milliseconds, one number an opening of the mouth."""

    picture_ms: Array
    """From the camera's frame in the page to the canvas of the other page."""
    sound_ms: Array
    """From the microphone's sample in the page to the other page's loudspeaker."""
    output_latency_ms: float
    """The share of `sound_ms` that the browser states for its way to the loudspeaker."""

    @property
    def offset_ms(self) -> Array:
        """How much later than its lips each sound was: sound after picture is positive."""
        return self.sound_ms - self.picture_ms


def lip_sync(seen: Array, drawn: Array, spoken: Array, heard: Array, *, output_latency_ms: float) -> LipSync:
    """From the moments at which a mouth opened in both pages and a beep sounded in both, milliseconds of one clock.

    Raises BadInput when no opening is known with its beep.
    """
    pictures, sounds = _ways(seen, drawn), _ways(spoken, heard)
    # Camera and microphone begin apart: an opening goes with the beep next to it.
    pairs = []
    for at, picture_ms in pictures:
        near = min(sounds, key=lambda sound: abs(sound[0] - at), default=None)
        if near is not None and abs(near[0] - at) < 500 * EVERY_S + 1:
            pairs.append((picture_ms, near[1]))
    if not pairs:
        raise BadInput(
            f"lip sync: {len(seen)} openings seen and {len(drawn)} drawn, {len(spoken)} beeps spoken and "
            f"{len(heard)} heard, but none of them together"
        )
    picture, sound = np.array(pairs).T
    return LipSync(picture, sound, output_latency_ms)


def openings(frames: Sequence[tuple[float, str]], from_ms: float = 0.0) -> Array:
    """When the mouth opened, from `from_ms` on, in milliseconds; none where it cannot be told.

    `frames` are moments and pictures of probe.js: square, grey, 8 bits, in base64.
    """
    when = np.array([at for at, _ in frames])
    grey = np.array([np.frombuffer(base64.b64decode(picture), np.uint8) for _, picture in frames], np.float64)
    differs = np.array([_differs(when, grey, number) for number in range(len(frames))])
    known = np.isfinite(differs) & (when >= from_ms)
    if known.sum() < LEAST_BEFORE:
        return np.zeros(0)
    closed, opened = np.percentile(differs[known], (50, 100 * (1 - OPEN_S / EVERY_S / 2)))
    if opened < max(OPEN_RATIO * closed, closed + OPEN_LEVELS):
        return np.zeros(0)
    is_open = known & (differs > (closed + opened) / 2)
    found: list[float] = []
    last_open = -np.inf
    for number, (before, at) in enumerate(itertools.pairwise(when), 1):
        if not is_open[number]:
            continue
        if known[number - 1] and at - last_open > CLOSED_FOR_MS and at - before <= MOST_APART_MS:
            found.append(float(at))
        last_open = at
    return np.array(found)


def _differs(when: Array, grey: Array, number: int) -> float:
    """Grey levels between a picture and those before it, where they differ most; NaN with too few of them."""
    first = int(np.searchsorted(when, when[number] - LOOK_BACK_MS))
    if number - first < LEAST_BEFORE:
        return float("nan")
    apart = np.abs(grey[number] - np.median(grey[first:number], axis=0))
    count = max(1, round(DIFFERENT_SHARE * apart.size))
    return float(np.partition(apart, -count)[-count:].mean())


def _ways(begun: Array, ended: Array) -> list[tuple[float, float]]:
    """(when it began, how long it took) for each beginning whose end is known."""
    ways = []
    for at in begun:
        after = ended[(ended > at) & (ended < at + MOST_MS)]
        if len(after):
            ways.append((float(at), float(after[0] - at)))
    return ways
