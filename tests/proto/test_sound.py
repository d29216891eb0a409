"""Records of speech are read as they were written, and nothing else is taken for one."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kilocall.proto.errors import BadInput
from kilocall.proto.sound import MAX_OPUS_BYTES, MAX_SOUND_PACKETS, SoundPackets

PACKETS = st.lists(st.binary(min_size=1, max_size=MAX_OPUS_BYTES), min_size=1, max_size=MAX_SOUND_PACKETS)


@given(st.integers(0, (1 << 40) - 1), st.integers(0, 65535), PACKETS)
def test_what_is_written_is_read(time_us: int, skip: int, packets: list[bytes]) -> None:
    sound = SoundPackets(time_us, skip, tuple(packets))
    assert SoundPackets.parse(bytes(sound)) == sound


def test_bytes_are_those_of_the_documentation() -> None:
    sound = SoundPackets(480_000, 312, (b"\xf8\xff\xfe", bytes(130)))
    assert bytes(sound).hex() == "0000075300" + "0138" + "03f8fffe" + "8201" + "00" * 130


@given(st.binary(max_size=200))
def test_other_bytes_are_refused_or_read(data: bytes) -> None:
    try:
        sound = SoundPackets.parse(data)
    except BadInput:
        return
    assert SoundPackets.parse(bytes(sound)) == sound


@pytest.mark.parametrize(
    ("body", "said"),
    [
        (bytes(6), "needs? 7|need 7"),
        (bytes(7), "has 0 packets"),
        (bytes(7) + b"\x00", "is 0 bytes"),
        (bytes(7) + b"\x05abc", "cut after 3"),
        (bytes(7) + b"\x85", "cut inside a length"),
        (bytes(7) + b"\xfc\x09" + bytes(1276), "is 1276 bytes"),
        (bytes(7) + b"\x01a" * 65, "more than 64 packets"),
    ],
)
def test_what_is_none_is_refused(body: bytes, said: str) -> None:
    with pytest.raises(BadInput, match=said):
        SoundPackets.parse(body)
