from __future__ import annotations

import sys
from typing import Any

from aiortc.jitterbuffer import JitterBuffer
from aiortc.rtp import RtpPacket

from kilocall.runtime.aiortc_fixes import PromptVideoBuffer, SpeechJitterBuffer
from runtime.aiortc_fixes.ends import received_rtp


def rtcp_waits() -> list[float]:
    module: Any = sys.modules["aiortc.rtcrtpsender"]
    return [0.5 + module.random.random() for _ in range(200)]


def test_rtcp_waits_as_long_as_the_standard_asks() -> None:
    waits = rtcp_waits()
    assert min(waits) >= 2.5
    assert max(waits) <= 7.5
    assert max(waits) - min(waits) > 3


def test_without_the_correction_rtcp_comes_every_second(without: Any) -> None:
    without("slow RTCP")
    assert max(rtcp_waits()) <= 1.5


def rtp(number: int) -> RtpPacket:
    return received_rtp(bytes([number % 256]), sequence_number=number % 65536, timestamp=number * 2880)


def delays(buffer: JitterBuffer, numbers: list[int]) -> list[int]:
    """How many packets later each one comes out."""
    waited = []
    for number in numbers:
        _, frame = buffer.add(rtp(number))
        if frame is not None:
            waited.append(number - frame.timestamp // 2880)
    return waited


def test_speech_packet_is_handed_on_at_once_also_after_a_loss() -> None:
    numbers = [number for number in range(100) if number not in (20, 50)]
    assert delays(SpeechJitterBuffer(), numbers) == [0] * 98


def test_without_the_replacement_a_loss_delays_speech_for_good() -> None:
    numbers = [number for number in range(100) if number != 20]
    waited = delays(JitterBuffer(capacity=16, prefetch=4), numbers)
    assert waited[5] == 4
    assert waited[-1] == 14


def test_late_and_repeated_speech_packets_are_dropped_across_the_wrap() -> None:
    buffer = SpeechJitterBuffer()
    order = [65_533, 65_534, 65_534, 65_536, 65_535, 65_537]
    came = [frame.timestamp // 2880 for number in order if (frame := buffer.add(rtp(number))[1])]
    assert came == [65_533, 65_534, 65_536, 65_537]


def pictures(buffer: JitterBuffer, packets: list[tuple[int, int, bool, bytes]]) -> list[bytes | None]:
    """What comes out with each packet of (number, picture, marker, data)."""
    out = []
    for number, picture, marker, data in packets:
        packet = received_rtp(data, sequence_number=number % 65536, timestamp=picture * 3600, marker=int(marker))
        frame = buffer.add(packet)[1]
        out.append(None if frame is None else frame.data)
    return out


TWO_PICTURES = [(65_535, 1, False, b"a"), (65_536, 1, True, b"b"), (65_537, 2, False, b"c"), (65_538, 2, True, b"d")]


def test_picture_is_handed_on_with_its_last_packet() -> None:
    assert pictures(PromptVideoBuffer(), TWO_PICTURES) == [None, b"ab", None, b"cd"]


def test_without_the_replacement_a_picture_waits_for_the_next() -> None:
    assert pictures(JitterBuffer(capacity=512, is_video=True), TWO_PICTURES) == [None, None, b"ab", None]


def test_pictures_come_whole_and_in_order_when_packets_do_not() -> None:
    first, second, third, fourth = TWO_PICTURES
    assert pictures(PromptVideoBuffer(), [first, third, fourth, second]) == [None, None, None, b"ab"]
    padded = [first, second, (65_537, 1, False, b""), (65_538, 2, True, b"cd"), (65_539, 3, True, b"e")]
    assert pictures(PromptVideoBuffer(), padded) == [None, b"ab", None, b"cd", b"e"]


def test_picture_without_a_marker_still_comes() -> None:
    unmarked = [(1, 1, False, b"a"), (2, 2, False, b"b"), (3, 3, False, b"c")]
    assert pictures(PromptVideoBuffer(), unmarked) == [None, b"a", b"b"]
