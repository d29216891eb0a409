"""Opus for speech, and nothing in silence: an encoder in the place of the one for music."""

from __future__ import annotations

import fractions
import math
from typing import Any

import aiortc.codecs.base
import aiortc.rtcrtpsender as rtp_sender
import numpy as np
from av import AudioFrame, AudioResampler
from av.audio.codeccontext import AudioCodecContext
from av.frame import Frame
from av.packet import Packet

__all__ = ["PACKET_MS", "SilenceGate", "SpeechEncoder", "set_speech_encoder"]

SAMPLE_RATE = 48_000
PACKET_MS = (20, 40, 60, 120)


class SilenceGate:
    """Says whether a block of speech is worth sending: discontinuous transmission.

    FFmpeg's libopus encoder has no switch for the codec's own DTX (tried with PyAV 18.1), so this one compares
    the block's level with a noise floor that falls at once and rises slowly. Word ends are kept by a hang-over,
    and one block every 2 s still goes out, so that the other side hears the room: 0.3 kbit/s.
    """

    OVER_FLOOR_DB = 9.0
    FLOOR_DB = (-75.0, -45.0)
    """Nothing above -36 dB is ever taken for silence."""
    FIRST_FLOOR_DB = -60.0
    RISE_DB_PER_S = 1.0
    HANG_OVER_MS = 240
    REFRESH_MS = 2000

    def __init__(self) -> None:
        self._floor_db = self.FIRST_FLOOR_DB
        self._hang_ms = 0
        self._silent_ms = 0

    def is_worth_sending(self, level_db: float, block_ms: int) -> bool:
        """For the next block, `block_ms` long with an RMS of `level_db` dB below full scale."""
        low, high = self.FLOOR_DB
        rising = self._floor_db + self.RISE_DB_PER_S * block_ms / 1000
        self._floor_db = min(max(min(level_db, rising), low), high)
        if level_db > self._floor_db + self.OVER_FLOOR_DB:
            self._hang_ms = self.HANG_OVER_MS
        else:
            self._hang_ms = max(0, self._hang_ms - block_ms)
        if self._hang_ms > 0:
            self._silent_ms = 0
            return True
        self._silent_ms += block_ms
        if self._silent_ms >= self.REFRESH_MS:
            self._silent_ms = 0
            return True
        return False


class SpeechEncoder(aiortc.codecs.base.Encoder):
    """Opus for speech: mono, 6 to 16 kbit/s, 60 ms packets, nothing in silence.

    aiortc's encoder is fixed at 96 kbit/s stereo in 20 ms packets, 168 kbit/s on the wire whether anyone speaks
    or not. `bitrate_bps` and `packet_ms` may be changed at any time and hold from the next packet on.
    """

    def __init__(self, bitrate_bps: int = 12_000, packet_ms: int = 60, *, dtx: bool = True) -> None:
        if packet_ms not in PACKET_MS:
            raise ValueError(f"packet_ms is {packet_ms}, allowed are {', '.join(map(str, PACKET_MS))}")
        self.bitrate_bps = bitrate_bps
        self.packet_ms = packet_ms
        self.dtx = dtx
        self._made_for: tuple[int, int] | None = None
        self._codec: AudioCodecContext
        self._resampler: AudioResampler
        self._gate = SilenceGate()
        self._samples = 0

    def encode(self, frame: Frame, force_keyframe: bool = False) -> tuple[list[bytes], int]:
        """At most one packet of a frame that is no longer than a packet, with its RTP time in samples."""
        if not isinstance(frame, AudioFrame):
            raise TypeError(f"speech encoder takes audio frames, not {type(frame).__name__}")
        if self._made_for != (self.bitrate_bps, self.packet_ms):
            self._make()
        packets: list[bytes] = []
        time = self._samples
        for block in self._resampler.resample(frame):
            begin = self._samples
            self._samples += block.samples
            if self.dtx and not self._gate.is_worth_sending(_level_db(block), self.packet_ms):
                continue
            block.pts = begin
            time = begin
            packets = [bytes(packet) for packet in self._codec.encode(block)] or packets
        return packets, time

    def pack(self, packet: Packet[Any]) -> tuple[list[bytes], int]:
        """A packet that is Opus already."""
        return [bytes(packet)], int(packet.pts or 0)

    def _make(self) -> None:
        self._made_for = (self.bitrate_bps, self.packet_ms)
        codec = AudioCodecContext.create("libopus", "w")
        codec.bit_rate = self.bitrate_bps
        codec.format = "s16"
        codec.layout = "mono"
        codec.sample_rate = SAMPLE_RATE
        codec.time_base = fractions.Fraction(1, SAMPLE_RATE)
        codec.options = {"application": "voip", "frame_duration": str(self.packet_ms), "vbr": "on"}
        self._codec = codec
        size = SAMPLE_RATE * self.packet_ms // 1000
        self._resampler = AudioResampler(format="s16", layout="mono", rate=SAMPLE_RATE, frame_size=size)


def _level_db(block: AudioFrame) -> float:
    samples = block.to_ndarray().astype(np.float32) / 32768
    return 10 * math.log10(float(np.mean(samples * samples)) + 1e-10)


def set_speech_encoder(sender: rtp_sender.RTCRtpSender, encoder: SpeechEncoder) -> None:
    """Makes one sender use `encoder`; before it starts."""
    sender._RTCRtpSender__encoder = encoder  # type: ignore[attr-defined]
