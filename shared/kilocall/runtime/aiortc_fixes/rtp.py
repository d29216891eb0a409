"""RTP and RTCP: rare reports, speech and pictures handed on as they come."""

from __future__ import annotations

import aiortc.rtcrtpreceiver as rtp_receiver
import aiortc.rtcrtpsender as rtp_sender
import numpy as np
from aiortc.jitterbuffer import JitterBuffer, JitterFrame
from aiortc.rtp import RtpPacket

from kilocall.runtime.aiortc_fixes.correction import Correction, Undo, replace

__all__ = ["CORRECTIONS", "PromptVideoBuffer", "SpeechJitterBuffer", "set_prompt_video", "set_speech_decoder"]


class _SlowRandom:
    """Stands in for the `random` module where aiortc waits `0.5 + random.random()` seconds between reports."""

    @staticmethod
    def random() -> float:
        return 2.0 + 5.0 * float(np.random.default_rng().random())


def _slow_rtcp() -> Undo:
    """RTCP reports every 2.5 to 7.5 seconds, the least that RFC 3550 asks for, instead of every second.

    They cost 1.0 kbit/s each way even when nobody speaks, measured, and 0.2 now. Nothing here reads them.
    Drop when aiortc scales the interval with the bandwidth.
    """
    undo_sender = replace(rtp_sender, random=_SlowRandom)
    undo_receiver = replace(rtp_receiver, random=_SlowRandom)

    def undo() -> None:
        undo_sender()
        undo_receiver()

    return undo


class SpeechJitterBuffer(JitterBuffer):
    """Hands on each speech packet as it comes, in order, and never waits for one that is missing.

    aiortc's buffer holds four packets back, 240 ms here, waits for a lost one until sixteen have come, and stays
    fourteen packets late from then on, measured: one loss makes speech 840 ms late for good. A packet is a whole
    Opus frame, and what smooths the arrival times is the page that plays it, so nothing is held here.
    """

    def __init__(self) -> None:
        super().__init__(capacity=16)
        self._last: int | None = None

    def add(self, packet: RtpPacket) -> tuple[bool, JitterFrame | None]:
        ahead = 1 if self._last is None else (packet.sequence_number - self._last) & 0xFFFF
        # More than 1000 back is no late packet but a sender that began again.
        if ahead == 0 or ahead > 0x10000 - 1000:
            return False, None
        self._last = packet.sequence_number
        data: bytes = packet._data  # type: ignore[attr-defined]  # set by RTCRtpReceiver
        return False, JitterFrame(data=data, timestamp=packet.timestamp)


class PromptVideoBuffer(JitterBuffer):
    """Hands on a picture with its last packet, which RTP marks.

    aiortc's buffer knows a picture to be whole only by the first packet of the next one: a camera of 25 frames a second
    is 40 ms late, and one of 15 is 67. Drop when aiortc reads the marker.
    """

    def __init__(self) -> None:
        super().__init__(capacity=512, is_video=True)
        self._handed_on: int | None = None

    def _remove_frame(self, sequence_number: int) -> JitterFrame | None:
        packets: list[RtpPacket] = []
        assert self._origin is not None  # set by the first packet
        # What comes after the marker with the same time is padding, and no picture of its own.
        while (first := self._packets[self._origin % self.capacity]) and first.timestamp == self._handed_on:
            self.remove(1)
        for count in range(self.capacity):
            packet = self._packets[(self._origin + count) % self.capacity]
            if packet is None or (packets and packet.timestamp != packets[0].timestamp):
                break
            packets.append(packet)
            if packet.marker:
                data = b"".join(part._data for part in packets)  # type: ignore[attr-defined]  # set by RTCRtpReceiver
                self.remove(len(packets))
                self._handed_on = packet.timestamp
                return JitterFrame(data=data, timestamp=packet.timestamp)
        return super()._remove_frame(sequence_number)


def set_prompt_video(receiver: rtp_receiver.RTCRtpReceiver) -> None:
    """Makes one receiver hand on each picture as soon as it is whole; before it starts."""
    receiver._RTCRtpReceiver__jitter_buffer = PromptVideoBuffer()  # type: ignore[attr-defined]


def set_speech_decoder(receiver: rtp_receiver.RTCRtpReceiver) -> None:
    """Makes one receiver hand on speech packets as they come; before it starts."""
    receiver._RTCRtpReceiver__jitter_buffer = SpeechJitterBuffer()  # type: ignore[attr-defined]


CORRECTIONS = (Correction("slow RTCP", "aiortc", _slow_rtcp),)
