"""How much further lids must be asked to move than they shall: what the renderer holds back, measured and given back.

Losses on pixels leave lids between open and closed where they are unsure. On a trained renderer this is a factor,
nearly the same for everybody, and pictures come out no worse when the keypoints overstate by it.
"""

from __future__ import annotations

from typing import Final

import numpy as np

from kilocall.model import landmarks as lm
from kilocall.model.compact.family import CompactFamily, overstated
from kilocall.model.family import Picture
from kilocall.train.dataset import SIZE, Dataset

#: Tried in this order; the parabola through the best and its neighbours is not worth it.
GAINS: Final = (1.0, 1.1, 1.2, 1.3, 1.4, 1.5, 1.6)
CLIPS: Final = 32
FRAMES: Final = 10


def fit_lid_gain(family: CompactFamily, data: Dataset, *, clips: int = CLIPS, frames: int = FRAMES) -> float:
    """The gain of GAINS with which lids of made pictures open most nearly as the driving ones do (least squares).

    Lids are looked for by the family's own landmark networks. `family` must have none yet.
    """
    films = [c for c in range(len(data.names)) if len(data.clip(c)) >= 2 * frames]
    chosen = [films[i] for i in np.linspace(0, len(films) - 1, min(clips, len(films))).astype(int)]
    wanted: list[float] = []
    made: dict[float, list[float]] = {gain: [] for gain in GAINS}
    for clip in chosen:
        span = np.array(data.clip(clip))
        lids = lm.mean_opening(data.points[span, :, :2], lm.LID_PAIRS)
        source_rgb = _picture(data, int(span[int(lids.argsort()[len(lids) * 2 // 3])]))
        source = family.source(source_rgb)
        renderer = family.renderer(source)
        # From closed to open, whatever the clip mostly shows.
        for frame in span[lids.argsort()[np.linspace(0, len(lids) - 1, frames).astype(int)]]:
            track = family.track(_picture(data, int(frame)))
            motion = family.motion(track, source)
            wanted.append(_opening(track.points))
            for gain in GAINS:
                made[gain].append(_opening(family.track(renderer.render(overstated(motion, gain))).points))
    errors = {gain: float(np.square(np.array(seen) - wanted).mean()) for gain, seen in made.items()}
    return min(errors, key=errors.__getitem__)


def _picture(data: Dataset, frame: int) -> Picture:
    return np.ascontiguousarray(data.pictures[frame])


def _opening(points: np.ndarray[tuple[int, ...], np.dtype[np.float32]]) -> float:
    return float(lm.mean_opening(points, lm.LID_PAIRS)) * SIZE / 2
