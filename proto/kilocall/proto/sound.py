"""Speech in a stream file: some packets of Opus (RFC 6716) in a row."""

from __future__ import annotations

from dataclasses import dataclass

from kilocall.proto.errors import BadInput
from kilocall.proto.leb128 import leb128

__all__ = [
    "DEFAULT_KBPS", "LEAST_KBPS", "MAX_OPUS_BYTES", "MAX_SOUND_PACKETS", "MOST_KBPS", "SAMPLE_RATE", "SoundPackets",
]  # fmt: skip

SAMPLE_RATE = 48_000
DEFAULT_KBPS = 12.0
LEAST_KBPS, MOST_KBPS = 6.0, 64.0
MAX_OPUS_BYTES = 1275
MAX_SOUND_PACKETS = 64
_TIME_BYTES, _SKIP_BYTES = 5, 2


@dataclass(frozen=True)
class SoundPackets:
    """Mono speech from `time_us` after the stream's start on.

        time u40 | skip u16 | for each packet: length LEB128, one packet of Opus

    Each packet says how long it is. What follows in the next record follows without a gap if its time says so. Raises
    BadInput for a field out of range.
    """

    time_us: int
    """Of the first sample that counts."""
    skip: int
    """Samples at 48 kHz, 0..65535, that the first packet begins with and that do not count: the encoder's delay."""
    packets: tuple[bytes, ...]

    def __post_init__(self) -> None:
        if not 0 <= self.time_us < 1 << 8 * _TIME_BYTES:
            raise BadInput(f"sound time is {self.time_us} us, allowed is 0 to {(1 << 8 * _TIME_BYTES) - 1}")
        if not 0 <= self.skip < 1 << 8 * _SKIP_BYTES:
            raise BadInput(f"sound skip is {self.skip} samples, allowed is 0 to {(1 << 8 * _SKIP_BYTES) - 1}")
        if not 1 <= len(self.packets) <= MAX_SOUND_PACKETS:
            raise BadInput(f"sound record has {len(self.packets)} packets, allowed are 1 to {MAX_SOUND_PACKETS}")
        for packet in self.packets:
            if not 1 <= len(packet) <= MAX_OPUS_BYTES:
                raise BadInput(f"sound packet is {len(packet)} bytes, allowed are 1 to {MAX_OPUS_BYTES}")

    def __bytes__(self) -> bytes:
        head = self.time_us.to_bytes(_TIME_BYTES, "big") + self.skip.to_bytes(_SKIP_BYTES, "big")
        return head + b"".join(leb128(len(packet)) + packet for packet in self.packets)

    @classmethod
    def parse(cls, body: bytes) -> SoundPackets:
        """Raises BadInput for bytes that are none."""
        start = _TIME_BYTES + _SKIP_BYTES
        if len(body) < start:
            raise BadInput(f"sound record is {len(body)} bytes, its time and skip need {start}")
        packets: list[bytes] = []
        place = start
        while place < len(body) and len(packets) < MAX_SOUND_PACKETS:
            length, place = body[place], place + 1
            if length > 127:
                if place == len(body):
                    raise BadInput("sound record is cut inside a length")
                length, place = length & 127 | body[place] << 7, place + 1
            if place + length > len(body):
                raise BadInput(f"sound packet of {length} bytes is cut after {len(body) - place}")
            packets.append(body[place : place + length])
            place += length
        if place < len(body):
            raise BadInput(f"sound record has more than {MAX_SOUND_PACKETS} packets")
        time_us, skip = int.from_bytes(body[:_TIME_BYTES], "big"), int.from_bytes(body[_TIME_BYTES:start], "big")
        return cls(time_us, skip, tuple(packets))
