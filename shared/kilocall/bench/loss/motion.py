"""kilocall on the link, as in a call: the source picture first and reliably, then motion that is never sent again.

A video layer goes in the same messages. What is lost of it ends it until a key frame, which the receiver asks for; its
asking takes the way back as acknowledgements do, and is lost like them.
"""

from __future__ import annotations

import heapq
from collections import deque
from typing import Final

import numpy as np
from numpy.typing import NDArray

from kilocall.bench.loss.link import PLAYOUT_S, Link
from kilocall.bench.loss.shown import Shown
from kilocall.bench.quality.clips import BenchClip
from kilocall.bench.quality.kilocall_codec import layer_mixer, layer_sender
from kilocall.codec.codebook import usual_quality
from kilocall.model.family import Family
from kilocall.proto.control import LayerReport, SourcePicture
from kilocall.proto.motion_message import MotionMessage
from kilocall.proto.wire_cost import DELAYED_SACK_S, message_bytes
from kilocall.receiver.decode import TimedMotion
from kilocall.receiver.layer_receiver import DecodedLayer, LayerReceiver
from kilocall.runtime.pictures import decode_picture, fitted

__all__ = ["send_motion"]

_FRAMES_PER_PACKET: Final = 3


def send_motion(clip: BenchClip, family: Family, link: Link, *, repeats: bool, layer_kbps: float = 0) -> Shown:
    """With `repeats` every packet has the frames of the one before as well, and every message the small frames of the
    layer that the one before had."""
    sender = _Sender(clip, family, repeats, layer_kbps)
    receiver = _Receiver(clip, family, sender.source_picture, layer_kbps)
    total = len(sender.source_picture.data)
    for number, time_us in enumerate(clip.times_us):
        now_s = time_us / 1e6
        message = sender.message(number, now_s)
        if message is None:
            continue
        data = bytes(message)
        total += message_bytes(len(data))
        if not link.forward.loses(now_s):
            receiver.take(data, now_s)
            if receiver.asks_for_key(now_s) and not link.back.loses(now_s):
                sender.will_hear_of_layer(now_s + link.round_trip_s, receiver.newest_layer)
        if receiver.acknowledges(now_s) and not link.back.loses(now_s):
            sender.will_hear(now_s + link.round_trip_s + DELAYED_SACK_S / 2, receiver.unacknowledged)
            receiver.unacknowledged.clear()
    pictures, new = receiver.show()
    return Shown(pictures, new, total, link.forward.lost_share)


class _Sender:
    """Codes against what it has heard of."""

    def __init__(self, clip: BenchClip, family: Family, repeats: bool, layer_kbps: float) -> None:
        from kilocall.api import Encoder
        from kilocall.sender.encoder import PacketEncoder

        packing = _FRAMES_PER_PACKET
        whole = Encoder(clip.crops[0], fps=clip.fps, frames_per_packet=packing, family=family)
        self.source_picture: SourcePicture = whole.source_picture
        self._clip = clip
        self._encoder = PacketEncoder(
            family,
            whole.source,
            fps=clip.fps,
            quality=usual_quality(layer_kbps),
            frames_per_packet=packing,
            reference="acknowledged",
        )
        self._encoder.redundant_frames = packing if repeats else 0
        self._hearing: list[tuple[float, int]] = []  # when it hears of which packet
        self._layer, self._repeats, self._layer_bps = layer_sender(layer_kbps), repeats, round(1000 * layer_kbps)
        self._asked: deque[tuple[float, int | None]] = deque()  # when it hears that the layer ended at which frame

    def message(self, number: int, now_s: float) -> MotionMessage | None:
        while self._hearing and self._hearing[0][0] <= now_s:
            self._encoder.codec.acknowledge(heapq.heappop(self._hearing)[1])
        while self._asked and self._asked[0][0] <= now_s:
            self._layer.asked(LayerReport(self._layer_bps, self._asked.popleft()[1], True))
        time_us = self._clip.times_us[number]
        self._layer.push(self._clip.crops[number], time_us)
        packet = self._encoder.push_track(self._clip.tracks[number], time_us)
        if number == len(self._clip.tracks) - 1:
            packet = packet or self._encoder.flush()
        return None if packet is None else self._layer.behind(packet, again=self._repeats)

    def will_hear(self, at_s: float, sequences: list[int]) -> None:
        for sequence in sequences:
            heapq.heappush(self._hearing, (at_s, sequence))

    def will_hear_of_layer(self, at_s: float, newest: int | None) -> None:
        self._asked.append((at_s, newest))


class _Receiver:
    """Shows a frame that comes in time, else what it showed before."""

    def __init__(self, clip: BenchClip, family: Family, source_picture: SourcePicture, layer_kbps: float) -> None:
        from kilocall.receiver.decode import PacketDecoder
        from kilocall.receiver.render import FaceRenderer

        self._source = decode_picture(source_picture.data)
        self._clip = clip
        self._decoder = PacketDecoder(family.codebook)
        self._renderer = FaceRenderer(family, family.source(self._source))
        self._motions: dict[int, TimedMotion] = {}
        self._layer = LayerReceiver()
        self._mixer = self._renderer.layer = layer_mixer(family, layer_kbps)
        self._layer_frames: deque[tuple[float, DecodedLayer]] = deque()  # when each was there
        self._next_sack_s = 0.0
        self.unacknowledged: list[int] = []
        """Since the last acknowledgement, and what an earlier, lost one named."""

    @property
    def newest_layer(self) -> int | None:
        """Number of the layer's frame that was decoded last."""
        return self._layer.newest

    def take(self, data: bytes, now_s: float) -> None:
        message = MotionMessage.parse(data)
        for piece in message.fragments:
            self._layer_frames.extend((now_s, frame) for frame in self._layer.push(piece, round(1e6 * now_s)))
        timed = self._decoder.push(message.packet)
        for motion in timed:
            index = round(motion.time_us * self._clip.fps / 1e6)
            if now_s - motion.time_us / 1e6 <= PLAYOUT_S:
                self._motions.setdefault(index, motion)
        if timed:
            self.unacknowledged.append(message.packet.sequence)

    def asks_for_key(self, now_s: float) -> bool:
        """Whether it asks for a key frame of the layer now."""
        return self._layer.asks_for_key(round(1e6 * now_s))

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
            self._take_layer(self._clip.times_us[number] / 1e6 + PLAYOUT_S)
            if number in self._motions:
                timed = self._motions[number]
                shown = fitted(self._renderer.render(timed.motion, timed.time_us), size)
            pictures.append(shown)
        return pictures, [number in self._motions for number in range(len(self._clip.tracks))]

    def _take_layer(self, now_s: float) -> None:
        """What of the layer is there when a frame is shown, which is as late as one may come."""
        while self._layer_frames and self._layer_frames[0][0] <= now_s:
            frame = self._layer_frames.popleft()[1]
            if self._mixer is not None:
                self._mixer.push(frame.time_us, frame.picture)
