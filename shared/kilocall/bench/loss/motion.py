"""kilocall on the link, as in a call: the source picture first and reliably, then motion that is never sent again."""

from __future__ import annotations

import heapq
from typing import Final

import numpy as np
from numpy.typing import NDArray

from kilocall.bench.loss.link import PLAYOUT_S, Link
from kilocall.bench.loss.shown import Shown
from kilocall.bench.quality.clips import BenchClip
from kilocall.model.family import Family
from kilocall.model.motion import Motion
from kilocall.proto.control import SourcePicture
from kilocall.proto.motion_packet import MotionPacket
from kilocall.proto.wire_cost import DELAYED_SACK_S, message_bytes
from kilocall.runtime.pictures import decode_picture, fitted

__all__ = ["send_motion"]

_FRAMES_PER_PACKET: Final = 3


def send_motion(clip: BenchClip, family: Family, link: Link, *, repeats: bool) -> Shown:
    """With `repeats` every packet has the frames of the one before as well."""
    sender = _Sender(clip, family, repeats)
    receiver = _Receiver(clip, family, sender.source_picture)
    total = len(sender.source_picture.data)
    for number, time_us in enumerate(clip.times_us):
        now_s = time_us / 1e6
        packet = sender.packet(number, now_s)
        if packet is None:
            continue
        data = bytes(packet)
        total += message_bytes(len(data))
        if not link.forward.loses(now_s):
            receiver.take(packet.sequence, data, now_s)
        if receiver.acknowledges(now_s) and not link.back.loses(now_s):
            sender.will_hear(now_s + link.round_trip_s + DELAYED_SACK_S / 2, receiver.unacknowledged)
            receiver.unacknowledged.clear()
    pictures, new = receiver.show()
    return Shown(pictures, new, total, link.forward.lost_share)


class _Sender:
    """Codes against what it has heard of."""

    def __init__(self, clip: BenchClip, family: Family, repeats: bool) -> None:
        from kilocall.api import Encoder
        from kilocall.sender.encoder import PacketEncoder

        packing = _FRAMES_PER_PACKET
        whole = Encoder(clip.crops[0], fps=clip.fps, frames_per_packet=packing, family=family)
        self.source_picture: SourcePicture = whole.source_picture
        self._clip = clip
        self._encoder = PacketEncoder(
            family, whole.source, fps=clip.fps, frames_per_packet=packing, reference="acknowledged"
        )
        self._encoder.redundant_frames = packing if repeats else 0
        self._hearing: list[tuple[float, int]] = []  # when it hears of which packet

    def packet(self, number: int, now_s: float) -> MotionPacket | None:
        while self._hearing and self._hearing[0][0] <= now_s:
            self._encoder.codec.acknowledge(heapq.heappop(self._hearing)[1])
        packet = self._encoder.push_track(self._clip.tracks[number], self._clip.times_us[number])
        if number == len(self._clip.tracks) - 1:
            packet = packet or self._encoder.flush()
        return packet

    def will_hear(self, at_s: float, sequences: list[int]) -> None:
        for sequence in sequences:
            heapq.heappush(self._hearing, (at_s, sequence))


class _Receiver:
    """Shows a frame that comes in time, else what it showed before."""

    def __init__(self, clip: BenchClip, family: Family, source_picture: SourcePicture) -> None:
        from kilocall.receiver.decode import PacketDecoder
        from kilocall.receiver.render import FaceRenderer

        self._source = decode_picture(source_picture.data)
        self._clip = clip
        self._decoder = PacketDecoder(family.codebook)
        self._renderer = FaceRenderer(family, family.source(self._source))
        self._motions: dict[int, Motion] = {}
        self._next_sack_s = 0.0
        self.unacknowledged: list[int] = []
        """Since the last acknowledgement, and what an earlier, lost one named."""

    def take(self, sequence: int, data: bytes, now_s: float) -> None:
        timed = self._decoder.push(data)
        for motion in timed:
            index = round(motion.time_us * self._clip.fps / 1e6)
            if now_s - motion.time_us / 1e6 <= PLAYOUT_S:
                self._motions.setdefault(index, motion.motion)
        if timed:
            self.unacknowledged.append(sequence)

    def acknowledges(self, now_s: float) -> bool:
        """Whether one acknowledgement for all is sent now."""
        if not self.unacknowledged or now_s < self._next_sack_s:
            return False
        self._next_sack_s = now_s + DELAYED_SACK_S
        return True

    def show(self) -> tuple[list[NDArray[np.uint8]], list[bool]]:
        """The picture at every frame, and whether it is a new one."""
        size = self._clip.size
        shown = fitted(self._source, size)
        pictures = []
        for number in range(len(self._clip.tracks)):
            if number in self._motions:
                shown = fitted(self._renderer.render(self._motions[number]), size)
            pictures.append(shown)
        return pictures, [number in self._motions for number in range(len(self._clip.tracks))]
