"""Packets to motion: the receiver's first stage."""

from __future__ import annotations

from dataclasses import dataclass

from kilocall.codec.codebook import Codebook
from kilocall.codec.motion_codec import MotionDecoder
from kilocall.model.motion import Motion
from kilocall.proto.errors import BadPacket
from kilocall.proto.motion_packet import MotionPacket


@dataclass(frozen=True)
class TimedMotion:
    time_us: int
    motion: Motion


class PacketDecoder:
    """Motion packets to motions with their times.

    A packet that cannot be decoded is counted, its reason kept, and nothing comes of it: what was shown stays.
    """

    def __init__(self, codebook: Codebook) -> None:
        self._codec = MotionDecoder(codebook)
        self._near_us = 0
        self.dropped = 0
        self.last_problem: str | None = None

    def reset(self) -> None:
        """For a new stream, or after seeking."""
        self._codec.reset()
        self._near_us = 0

    def push(self, packet: MotionPacket | bytes) -> list[TimedMotion]:
        try:
            parsed = MotionPacket.parse(packet) if isinstance(packet, bytes) else packet
            vectors = self._codec.decode(parsed)
        except BadPacket as problem:
            self.dropped += 1
            self.last_problem = str(problem)
            return []
        times = parsed.frame_times_us(self._near_us)
        self._near_us = times[-1]
        return [TimedMotion(t, Motion.from_vector(v)) for t, v in zip(times, vectors, strict=True)]
