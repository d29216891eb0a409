"""Motion fields that a network made for one frame, moved on for the next few.

A sender needs the receiver's field at every frame in order to align implicit keypoints, and a receiver to move the
picture; on a slow processor the network takes most of that time.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

import numpy as np

from kilocall.model import landmarks as lm
from kilocall.model.family import Array
from kilocall.runtime.engine import Network

__all__ = ["HELD_WITHIN", "MOST_HELD", "FieldFor", "HeldField"]

#: Places of the motion field along a side.
FIELD: Final = 64
#: A field is held for so many frames beside its own, while the face's points are no further from where they were then
#: (mean, crop units; 8 pixels of 256). On 15 clips the network runs for 19 % of the frames, for 0.016 dB.
MOST_HELD: Final = 6
HELD_WITHIN: Final = 8 / 128
_LINE: Final = (np.arange(FIELD, dtype=np.float32) + 0.5) * np.float32(2 / FIELD) - 1
_GRID: Final = np.dstack(np.meshgrid(_LINE, _LINE)).reshape(-1, 2)


class FieldFor:
    """The motion field that the network made for some driving keypoints, and what becomes of it when they move.

    The displacement of a place is a mean over all keypoints, weighed by its masks (First Order Motion Model, eq. 4).
    From frame to frame the keypoints move and the masks hardly do: the network says the masks, and where the keypoints
    are is put in anew for every frame, which takes a thirtieth of the time.
    """

    def __init__(self, made: Mapping[str, Array], x_s: Array, x_d: Array, jacobian: Array) -> None:
        """`made` has the network's `displacement` and `masks` for x_d [K, 2] and `family.jacobian`; `x_s` [K, 2] is
        the source's."""
        self._x_s = x_s
        self.x_d = x_d
        """The keypoints that it was made for."""
        self._displacement, self._masks = made["displacement"].reshape(-1, 2), made["masks"][0]
        self._by_head = self._masks[:, : lm.LANDMARKS].sum(1, keepdims=True)
        self._shift, self._turn = self._terms(x_d, jacobian)

    def at(self, x_d: Array, jacobian: Array) -> Array:
        """Displacement [F, F, 2] for keypoints near those that it was made for."""
        shift, turn = self._terms(x_d, jacobian)
        moved = self._masks[:, :-1] @ (shift - self._shift) + self._by_head * (_GRID @ (turn - self._turn).T)
        displacement: Array = (self._displacement + moved).reshape(FIELD, FIELD, 2)
        return displacement

    @property
    def displacement(self) -> Array:
        """As it was made [F, F, 2]."""
        return self._displacement.reshape(FIELD, FIELD, 2)

    @property
    def follows(self) -> Array:
        """How far each place goes with each implicit keypoint [N, F, F]."""
        return np.ascontiguousarray(self._masks[:, lm.LANDMARKS : -1].T).reshape(-1, FIELD, FIELD)

    def moved(self, x_d: Array) -> float:
        """How far the face's points are from where they were; the mean, crop units."""
        return float(np.linalg.norm((x_d - self.x_d)[: lm.LANDMARKS], axis=1).mean())

    def _terms(self, x_d: Array, jacobian: Array) -> tuple[Array, Array]:
        """What the masks weigh, as in `renderer.py`: of every keypoint [K, 2], and of the head's turn [2, 2]."""
        turn = jacobian - np.eye(2, dtype=np.float32)
        shift = self._x_s - x_d
        shift[: lm.LANDMARKS] -= x_d[: lm.LANDMARKS] @ turn.T
        return shift, turn


class HeldField:
    """The receiver's motion field of one source picture as the sender follows it."""

    def __init__(self, network: Network, cue: Array, x_s: Array) -> None:
        """`network` gives `displacement` and `masks`; `cue` is the appearance network's, `x_s` [K, 2] the source's."""
        self._network = network
        self._still = {"motion_cue": cue, "x_s": x_s[None]}
        self._x_s = x_s
        self.made = 0
        """How often the network ran."""
        self._field: FieldFor | None = None
        self._age = 0

    def reset(self) -> None:
        """The next frame has a field of its own."""
        self._field = None

    def expect(self, x_d: Array, jacobian: Array) -> None:
        """The next frame, with driving keypoints [K, 2] and `family.jacobian`: one that the field cannot be held over
        has another made."""
        self._age += 1
        if self._field is None or self._age > MOST_HELD or self._field.moved(x_d) > HELD_WITHIN:
            made = self._network(**self._still, x_d=x_d[None], jacobian=jacobian[None])
            self.made += 1
            self._field, self._age = FieldFor(made, self._x_s, x_d, jacobian), 0
            self.follows = self._field.follows
            """How far each place goes with each implicit keypoint [N, F, F]."""

    def at(self, x_d: Array, jacobian: Array) -> Array:
        """Displacement [F, F, 2] for keypoints near those of the frame."""
        assert self._field is not None, "no frame was expected yet"
        return self._field.at(x_d, jacobian)
