"""The receiver's motion field as the sender follows it: made by the network for some frames, moved on for the others.

The network takes most of the time that aligning implicit keypoints takes.
"""

from __future__ import annotations

from typing import Final

import numpy as np

from kilocall.model import landmarks as lm
from kilocall.model.family import Array
from kilocall.runtime.engine import Network

__all__ = ["HELD_WITHIN", "MOST_HELD", "HeldField"]

#: Places of the motion field along a side.
FIELD: Final = 64
#: A field is held for so many frames beside its own, while the face's points are no further from where they were then
#: (mean, crop units; 4 pixels of 256). On 15 clips the network runs for 41 % of the frames, for 0.002 dB.
MOST_HELD: Final = 2
HELD_WITHIN: Final = 4 / 128


class HeldField:
    """The receiver's motion field of one source picture, made for a frame and moved on for the next few.

    The displacement of a place is a mean over all keypoints, weighed by its masks (First Order Motion Model, eq. 4).
    From frame to frame the keypoints move and the masks hardly do: the network says the masks, and where the keypoints
    are is put in anew for every frame, which takes a thirtieth of the time.
    """

    def __init__(self, network: Network, cue: Array, x_s: Array) -> None:
        """`network` gives `displacement` and `masks`; `cue` is the appearance network's, `x_s` [K, 2] the source's."""
        self._network = network
        self._still = {"motion_cue": cue, "x_s": x_s[None]}
        self._x_s = x_s
        self._is_head = (np.arange(len(x_s)) < lm.LANDMARKS).astype(np.float32)[:, None]
        line = (np.arange(FIELD, dtype=np.float32) + 0.5) * (2 / FIELD) - 1
        self._grid = np.dstack(np.meshgrid(line, line)).reshape(-1, 2)
        self.made = 0
        """How often the network ran."""
        self.reset()

    def reset(self) -> None:
        """The next frame has a field of its own."""
        self._age = MOST_HELD + 1

    def expect(self, x_d: Array, jacobian: Array) -> None:
        """The next frame, with driving keypoints [K, 2] and `family.jacobian`: one that the field cannot be held over
        has another made."""
        self._age += 1
        if self._age > MOST_HELD or self._moved(x_d) > HELD_WITHIN:
            self._make(x_d, jacobian)

    def at(self, x_d: Array, jacobian: Array) -> Array:
        """Displacement [F, F, 2] for keypoints near those of the frame."""
        shift, turn = self._terms(x_d, jacobian)
        moved = self._masks[:, :-1] @ (shift - self._shift) + self._by_head * (self._grid @ (turn - self._turn).T)
        displacement: Array = (self._displacement + moved).reshape(FIELD, FIELD, 2)
        return displacement

    def _terms(self, x_d: Array, jacobian: Array) -> tuple[Array, Array]:
        """What the masks weigh, as in `renderer.py`: of every keypoint [K, 2], and of the head's turn [2, 2]."""
        turn = jacobian - np.eye(2, dtype=np.float32)
        return self._x_s - x_d - (x_d @ turn.T) * self._is_head, turn

    def _moved(self, x_d: Array) -> float:
        """How far the face's points are from where they were when the field was made; the mean, crop units."""
        return float(np.linalg.norm((x_d - self._x_d)[: lm.LANDMARKS], axis=1).mean())

    def _make(self, x_d: Array, jacobian: Array) -> None:
        made = self._network(**self._still, x_d=x_d[None], jacobian=jacobian[None])
        self.made += 1
        self._displacement, self._masks = made["displacement"].reshape(-1, 2), made["masks"][0]
        self._by_head = self._masks[:, : lm.LANDMARKS].sum(1, keepdims=True)
        self.follows = np.ascontiguousarray(self._masks[:, lm.LANDMARKS : -1].T).reshape(-1, FIELD, FIELD)
        """How far each place goes with each implicit keypoint [N, F, F]."""
        self._age, self._x_d = 0, x_d
        self._shift, self._turn = self._terms(x_d, jacobian)
