"""Frames into packets: how many in each, at which times, and the same bytes however they come."""

from dataclasses import replace

import numpy as np
import pytest

from kilocall.codec.motion_codec import MotionDecoder
from kilocall.model.engine_choice import choose_engine
from kilocall.model.family import Family, Source, Track
from kilocall.model.family_loader import load_family
from kilocall.proto.errors import BadInput
from kilocall.proto.motion_packet import MotionPacket
from kilocall.proto.stream_file import StreamReader
from kilocall.runtime.pictures import decode_picture
from kilocall.sample import sample_stream
from kilocall.sender.encoder import PacketEncoder


@pytest.fixture(scope="module")
def family() -> Family:
    return load_family(engine=choose_engine("auto", 1))


@pytest.fixture(scope="module")
def source(family: Family) -> Source:
    picture = StreamReader(sample_stream("astronaut")).source_picture()
    assert picture is not None
    return family.source(decode_picture(picture.data))


@pytest.fixture(scope="module")
def track(family: Family, source: Source) -> Track:
    return family.track(source.picture)


def moved(track: Track, frame: int) -> Track:
    """The face a little further to the right with every frame."""
    return replace(track, points=track.points + np.array([0.004 * frame, 0], np.float32))


def test_a_packet_leaves_with_its_last_frame(family: Family, source: Source, track: Track) -> None:
    encoder = PacketEncoder(family, source, frames_per_packet=4)
    packets = [encoder.push_track(moved(track, i), i * 40_000) for i in range(6)]
    assert [p is not None for p in packets] == [False, False, False, True, False, False]
    rest = encoder.flush()
    assert rest is not None
    assert (rest.frame_count, rest.time_ms) == (2, 160)
    assert encoder.flush() is None


def test_packets_say_how_far_apart_the_frames_really_were(family: Family, source: Source, track: Track) -> None:
    encoder = PacketEncoder(family, source, fps=25, frames_per_packet=3)
    packet = None
    for i, time_us in enumerate((0, 50_000, 100_000)):  # a camera at 20 a second
        packet = encoder.push_track(moved(track, i), time_us)
    assert packet is not None
    assert packet.spacing_us == 50_000


def test_the_source_itself_costs_next_to_nothing(family: Family, source: Source, track: Track) -> None:
    encoder = PacketEncoder(family, source, frames_per_packet=8)
    packets = [encoder.push_track(track, i * 40_000) for i in range(24)]
    sizes = [len(p.payload) for p in packets if p is not None]
    assert sizes[0] < 60  # a key packet: the pose, absolutely
    assert max(sizes[1:]) <= 6  # eight frames of nothing new


def test_key_packets_come_as_often_as_asked(family: Family, source: Source, track: Track) -> None:
    encoder = PacketEncoder(family, source, fps=25, frames_per_packet=1, key_every_s=0.4)
    packets = [encoder.push_track(moved(track, i), i * 40_000) for i in range(21)]
    assert [i for i, p in enumerate(packets) if p is not None and p.is_key] == [0, 10, 20]


@pytest.mark.parametrize(("setting", "message"), [({"fps": 0}, "fps is 0"), ({"frames_per_packet": 9}, "is 9")])
def test_settings_out_of_range_are_refused(
    family: Family, source: Source, setting: dict[str, int], message: str
) -> None:
    with pytest.raises(BadInput, match=message):
        PacketEncoder(family, source, **setting)  # type: ignore[arg-type]


def carried(packet: MotionPacket) -> list[int]:
    """Capture times of its frames, milliseconds."""
    return [time_us // 1000 for time_us in packet.frame_times_us(0)]


def test_frames_of_packets_that_may_be_lost_are_carried_again(family: Family, source: Source, track: Track) -> None:
    encoder = PacketEncoder(family, source, fps=25, frames_per_packet=2, reference="acknowledged")
    encoder.redundant_frames = 4
    packets = list(filter(None, (encoder.push_track(track, 40_000 * n) for n in range(10))))
    assert [carried(packet) for packet in packets] == [
        [0, 40],
        [0, 40, 80, 120],
        [0, 40, 80, 120, 160, 200],
        [80, 120, 160, 200, 240, 280],
        [160, 200, 240, 280, 320, 360],
    ]


def test_frames_that_have_arrived_are_not_carried_again(family: Family, source: Source, track: Track) -> None:
    encoder = PacketEncoder(family, source, fps=25, frames_per_packet=2, reference="acknowledged")
    encoder.redundant_frames = 4
    packets: list[MotionPacket] = []
    for number in range(12):
        packet = encoder.push_track(track, 40_000 * number)
        if packet is None:
            continue
        packets.append(packet)
        if packet.sequence in (2, 4):
            encoder.codec.acknowledge(packet.sequence - 1)  # one packet behind
    assert carried(packets[3])[0] == 160  # 1 has arrived: 2 again
    assert carried(packets[5])[0] == 320  # 3 has arrived: 4 again


def test_what_is_carried_again_is_what_was_sent(family: Family, source: Source, track: Track) -> None:
    encoder = PacketEncoder(family, source, fps=25, frames_per_packet=2, reference="acknowledged")
    encoder.redundant_frames = 2
    decoder = MotionDecoder(family.codebook)
    first, second = filter(None, (encoder.push_track(moved(track, n), 40_000 * n) for n in range(4)))
    sent, again = decoder.decode(first), decoder.decode(second)
    # Quantised anew from the same key state; a step is the most that they may differ by.
    assert np.abs(sent - again[:2]).max() <= 1.01 * family.codebook.steps(first.level).max()


def test_nothing_is_carried_over_a_pause_or_to_another_source(family: Family, source: Source, track: Track) -> None:
    encoder = PacketEncoder(family, source, fps=25, frames_per_packet=2, reference="acknowledged")
    encoder.redundant_frames = 2
    times = (0, 40_000, 400_000, 440_000)
    _, after_pause = filter(None, (encoder.push_track(track, time_us) for time_us in times))
    assert carried(after_pause) == [400, 440]
    encoder.follow(source)
    (other,) = filter(None, (encoder.push_track(track, time_us) for time_us in (480_000, 520_000)))
    assert carried(other) == [480, 520]
