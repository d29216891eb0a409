"""Motion packets of a live call to the motion of each frame, at its time."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from kilocall.codec.codebook import Codebook
from kilocall.model.motion import Motion
from kilocall.proto.motion_packet import MotionPacket
from kilocall.receiver.decode import PacketDecoder
from kilocall.receiver.jitter_buffer import DueFrame, JitterBuffer, Verdict

__all__ = ["DueMotion", "MotionReceiver", "Played"]

#: Packets whose motion is kept.
MOST_WAITING: Final = 64


@dataclass(frozen=True)
class Played:
    """What a packet adds to what was shown before, as decoded, when the first of it is shown; for recording."""

    time_us: int
    packet: MotionPacket
    vectors: NDArray[np.float32]  # [n, D]


@dataclass(frozen=True)
class DueMotion:
    """A frame whose time has come."""

    time_us: int
    """Capture time on the sender's clock."""
    motion: Motion | None
    """None where its packet could not be decoded: what was shown stays."""
    played: Played | None
    """With the first frame that is shown of a packet."""


class MotionReceiver:
    """Belongs to the receiving thread; its counters to anybody. `open` comes before all else.

    Every packet that is delivered is decoded, whether it can be shown or not: the sender predicts from it.
    """

    def __init__(self) -> None:
        self.jitter = JitterBuffer()
        """Of the connection that is followed."""
        self._motions: dict[int, NDArray[np.float32]] = {}
        self._played_sequence: int | None = None

    @property
    def unreadable(self) -> int:
        """Packets whose motion could not be decoded."""
        return self._decoder.dropped

    @property
    def decoded(self) -> int:
        """Packets whose motion is kept until it is shown, or until others push it out."""
        return len(self._motions)

    def open(self, codebook: Codebook) -> None:
        self._decoder = PacketDecoder(codebook)

    def restart(self) -> None:
        """Another connection: its sender predicts from none of the packets before."""
        self.jitter = JitterBuffer()
        self._decoder.reset()
        self._motions.clear()
        self._played_sequence = None

    def push(self, packet: MotionPacket, arrived_us: int) -> bool:
        """Takes one packet; whether it had to be decoded, which one that has come before or is old has not."""
        if self.jitter.push(packet, arrived_us) in (Verdict.DUPLICATE, Verdict.OLD):
            return False
        timed = self._decoder.push(packet)
        if timed:
            self._motions.pop(packet.sequence, None)
            self._motions[packet.sequence] = np.stack([frame.motion.vector for frame in timed])
            while len(self._motions) > MOST_WAITING:
                del self._motions[next(iter(self._motions))]
        return True

    def pop(self, now_us: int) -> list[DueMotion]:
        """The frames that are due at `now_us`, in play order."""
        return [self._play(due) for due in self.jitter.pop(now_us)]

    def _play(self, due: DueFrame) -> DueMotion:
        vectors = self._motions.get(due.packet.sequence)
        if vectors is None:
            return DueMotion(due.time_us, None, None)
        played: Played | None = None
        if due.packet.sequence != self._played_sequence:
            # Its first frames may have been shown already, from the packet before.
            self._played_sequence = due.packet.sequence
            played = Played(due.time_us, due.packet, vectors[due.index :])
        return DueMotion(due.time_us, Motion.from_vector(vectors[due.index]), played)
