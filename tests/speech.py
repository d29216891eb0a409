"""Speech as a stream holds it."""

from __future__ import annotations

from fractions import Fraction

import av
import numpy as np
from av.audio.codeccontext import AudioCodecContext

from kilocall.proto.sound import SAMPLE_RATE, SoundPackets

__all__ = ["tone"]


def tone(seconds: float) -> list[SoundPackets]:
    """Records of speech, 20 ms a packet: a tone that begins after half a second."""
    encoder = av.CodecContext.create("libopus", "w")
    assert isinstance(encoder, AudioCodecContext)
    encoder.sample_rate, encoder.layout, encoder.format, encoder.bit_rate = SAMPLE_RATE, "mono", "s16", 16_000
    encoder.time_base = Fraction(1, SAMPLE_RATE)
    time = np.arange(round(seconds * SAMPLE_RATE))
    samples = np.rint(8000 * np.sin(time * 0.06) * (time > SAMPLE_RATE // 2)).astype(np.int16)
    packets = []
    for start in range(0, len(samples) - 959, 960):
        frame = av.AudioFrame.from_ndarray(samples[None, start : start + 960].copy(), "s16", "mono")
        frame.sample_rate, frame.time_base, frame.pts = SAMPLE_RATE, Fraction(1, SAMPLE_RATE), start
        packets += [bytes(packet) for packet in encoder.encode(frame)]
    each_us = 50 * 20_000
    return [
        SoundPackets(each_us * number, 312 if not number else 0, tuple(packets[50 * number : 50 * number + 50]))
        for number in range((len(packets) + 49) // 50)
    ]
