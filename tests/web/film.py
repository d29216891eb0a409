"""What a browser's camera sees in the tests."""

from __future__ import annotations

import cv2
import numpy as np

from kilocall.api import StreamPlayer
from kilocall.model.family import Picture

__all__ = ["film_of"]


def film_of(player: StreamPlayer, fps: int) -> list[Picture]:
    """Two seconds of the built-in speaker before a grey wall, 640x480."""
    film = []
    for frame in list(player.frames())[: 2 * 25 : 25 // fps]:
        picture = np.full((480, 640, 3), 90, np.uint8)
        picture[60:420, 140:500] = cv2.resize(frame.rgb, (360, 360), interpolation=cv2.INTER_LINEAR)
        film.append(picture)
    return film
