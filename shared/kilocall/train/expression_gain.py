"""How much further lids, lips and irises must be asked to move than they shall: what the renderer holds back, measured.

Losses on pixels leave lids between open and closed where they are unsure, and irises in the middle. On a trained
renderer this is a factor, nearly the same for everybody, and pictures come out no worse when keypoints are moved
further by it.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Final

import numpy as np
from numpy.typing import NDArray

from kilocall.model import landmarks as lm
from kilocall.model.compact.expression_gain import ExpressionGain
from kilocall.model.compact.family import CompactFamily
from kilocall.model.family import Picture
from kilocall.train.dataset import SIZE, Dataset

#: Tried in this order; the parabola through the best and its neighbours is not worth it.
LID_GAINS: Final = (1.0, 1.1, 1.2, 1.3, 1.4, 1.5, 1.6)
# More, and those whose eyes follow fully would overshoot.
LIP_GAINS: Final = (1.0, 1.05, 1.1, 1.15, 1.2, 1.25, 1.3)
GAZE_GAINS: Final = (1.0, 1.2, 1.4, 1.6, 1.8, 2.0, 2.2)
CLIPS: Final = 32
FRAMES: Final = 10

Measure = Callable[[NDArray[np.float32]], NDArray[np.float32]]


def fit_expression_gain(
    family: CompactFamily, data: Dataset, *, clips: int = CLIPS, frames: int = FRAMES
) -> ExpressionGain:
    """The factors with which lids and lips of made pictures open, and irises turn, most nearly as those of the driving
    ones do (least squares, one after the other).

    Both are looked for by the family's own landmark networks.
    """
    usable = [c for c in range(len(data.names)) if len(data.clip(c)) >= 2 * frames]
    chosen = [usable[i] for i in np.linspace(0, len(usable) - 1, min(clips, len(usable))).astype(int)]
    spans = [np.array(data.clip(clip)) for clip in chosen]
    lids = _best(family, data, spans, frames, opening_px, [ExpressionGain(lids=g) for g in LID_GAINS])
    lips = _best(family, data, spans, frames, lip_opening_px, [replace(lids, lips=gain) for gain in LIP_GAINS])
    return _best(family, data, spans, frames, gaze_px, [replace(lips, gaze=gain) for gain in GAZE_GAINS])


def opening_px(points: NDArray[np.float32]) -> NDArray[np.float32]:
    """How far lids of points [..., LANDMARKS, 2] are open, pixels."""
    return lm.mean_opening(points, lm.LID_PAIRS) * (SIZE / 2)


def lip_opening_px(points: NDArray[np.float32]) -> NDArray[np.float32]:
    """How far lips of points [..., LANDMARKS, 2] are open, pixels."""
    return lm.mean_opening(points, lm.LIP_PAIRS) * (SIZE / 2)


def gaze_px(points: NDArray[np.float32]) -> NDArray[np.float32]:
    """How far irises of points [..., LANDMARKS, 2] lie to the right of the middles of their eyes, pixels."""
    return lm.gaze(points) * (SIZE / 2)


def _best(
    family: CompactFamily,
    data: Dataset,
    spans: list[NDArray[np.int64]],
    frames: int,
    measure: Measure,
    candidates: list[ExpressionGain],
) -> ExpressionGain:
    errors = np.zeros(len(candidates))
    for span in spans:
        order = measure(data.points[span, :, :2]).argsort()
        source = family.source(_picture(data, int(span[order[len(order) * 2 // 3]])))
        renderer = family.renderer(source)
        # From one end to the other, whatever the clip mostly shows.
        for frame in span[order[np.linspace(0, len(order) - 1, frames).astype(int)]]:
            track = family.track(_picture(data, int(frame)))
            motion = family.motion(track, source)
            for i, candidate in enumerate(candidates):
                renderer.expression_gain = candidate
                errors[i] += (measure(family.track(renderer.render(motion)).points) - measure(track.points)) ** 2
    return candidates[int(errors.argmin())]


def _picture(data: Dataset, frame: int) -> Picture:
    return np.ascontiguousarray(data.pictures[frame])
