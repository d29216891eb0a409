"""A clip for the video layer: the built-in astronaut, and a yellow card that no source picture shows."""

from __future__ import annotations

import cv2
import numpy as np

from kilocall.api import StreamPlayer
from kilocall.model.family import Picture

FRAME_US = 40_000
#: When the card comes, in frames.
CARD_FROM = 10
_YELLOW = (235, 205, 40)


def pictures_with_card(player: StreamPlayer, count: int) -> list[Picture]:
    """`count` frames; from CARD_FROM on the card stands in a lower corner and moves a little."""
    made: list[Picture] = []
    for frame in player.frames():
        picture = frame.rgb.copy()
        if len(made) >= CARD_FROM:
            x = 24 + len(made) // 2
            cv2.rectangle(picture, (x, 170), (x + 60, 240), _YELLOW, -1)
        made.append(picture)
        if len(made) == count:
            break
    return made


def decibels(made: Picture, truth: Picture) -> float:
    error = np.square(made.astype(np.float32) - truth).mean()
    return float(10 * np.log10(255**2 / max(error, 1e-9)))
