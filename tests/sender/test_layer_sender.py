"""From a crop to the other side's small picture: fragments behind motion, lost and repeated."""

from __future__ import annotations

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kilocall.model.family import Picture
from kilocall.proto.control import LayerReport
from kilocall.proto.layer_frame import LayerFragment
from kilocall.proto.motion_message import MAX_LAYERED_BYTES
from kilocall.proto.motion_packet import MotionPacket
from kilocall.receiver.layer_receiver import KEY_EVERY_US, LayerReceiver
from kilocall.sender.layer_encoder import QUICK_PRESET
from kilocall.sender.layer_sender import LayerSender

STEP_US = 100_000
ROOM = MAX_LAYERED_BYTES - 60


def crop(number: int) -> Picture:
    y, x = np.mgrid[0:256, 0:256]
    shade = (2 * x + y + 7 * number) % 256
    return np.dstack([shade, 255 - shade, shade // 2]).astype(np.uint8)


def sender(kbps: float = 6, asked_bps: int = 24_000) -> LayerSender:
    made = LayerSender()
    made.follow(round(1000 * kbps))
    made.begin()
    made.asked(LayerReport(asked_bps, None, False))
    return made


def messages(layer: LayerSender, count: int, *, start: int = 0, again: bool = False) -> list[tuple[LayerFragment, ...]]:
    """What goes with `count` messages of one frame each."""
    taken = []
    for number in range(start, start + count):
        layer.push(crop(number), number * STEP_US)
        taken.append(layer.take(ROOM, again=again))
    return taken


def decoded(receiver: LayerReceiver, sent: list[tuple[LayerFragment, ...]]) -> list[int]:
    """Capture times of the pictures that came of them."""
    near_us = 0
    times = []
    for fragments in sent:
        for fragment in fragments:
            for frame in receiver.push(fragment, near_us):
                assert frame.picture.shape[0] == frame.picture.shape[1]
                times.append(frame.time_us)
        near_us += STEP_US
    return times


def test_message_is_the_packet_with_what_fits_behind_it() -> None:
    layer = sender(24)
    patches = np.random.default_rng(0).integers(0, 256, (48, 48, 3), np.uint8)
    layer.push(np.asarray(cv2.resize(patches, (256, 256), interpolation=cv2.INTER_CUBIC), np.uint8), 0)
    packet = MotionPacket(1, 0, 40_000, 3, None, 4, bytes(150))
    sent = [layer.behind(packet, again=False) for _ in range(3)]
    assert [message.packet for message in sent] == [packet] * 3
    # A piece of 900 bytes leaves too little for the next.
    assert [len(message.fragments) for message in sent] == [1, 1, 1]
    assert all(1000 < len(bytes(message)) <= MAX_LAYERED_BYTES for message in sent)


def test_nothing_is_sent_before_the_other_side_has_asked() -> None:
    layer = LayerSender()
    layer.follow(6000)
    layer.begin()
    assert not any(messages(layer, 5))
    layer.asked(LayerReport(24_000, None, False))
    assert any(messages(layer, 5, start=5))


@pytest.mark.parametrize(
    ("planned", "asked", "sent"), [(6000, 24_000, 6.0), (24_000, 3000, 3.0), (6000, 1000, None), (0, 24_000, None)]
)
def test_the_lower_of_what_is_planned_and_asked_for_is_sent(planned: int, asked: int, sent: float | None) -> None:
    setting = sender(planned / 1000, asked).setting
    assert (None if setting is None else setting.kbps) == sent


def test_a_computer_that_is_short_of_time_codes_quickly() -> None:
    layer = LayerSender()
    layer.hurry()
    layer.follow(3000)
    layer.asked(LayerReport(24_000, None, False))
    assert layer.setting is not None
    assert (layer.setting.kbps, layer.setting.preset) == (3.0, QUICK_PRESET)
    assert any(messages(layer, 10))
    with_time = sender(3).setting
    assert with_time is not None
    assert with_time.preset < QUICK_PRESET


def test_a_key_frame_goes_out_whole_where_messages_are_rare() -> None:
    """Four messages a second, and a picture whose key frame takes several of them."""
    layer, random = sender(24), np.random.default_rng(1)
    noisy = cv2.resize(random.integers(60, 200, (40, 40, 3), np.uint8), (256, 256))
    receiver, times = LayerReceiver(), []
    for number in range(60):
        layer.push(np.asarray(np.roll(noisy, number, 1), np.uint8), number * STEP_US)
        if number % 3:
            continue
        for fragment in layer.take(ROOM, again=False):
            times += [frame.time_us for frame in receiver.push(fragment, number * STEP_US)]
    assert layer.key_frames == 1
    assert len(times) >= 6
    assert times[-1] > 40 * STEP_US


def test_a_frame_that_has_too_many_pieces_is_coded_coarser() -> None:
    layer, random, sizes = sender(24), np.random.default_rng(1), []
    for number in range(40):
        layer.push(random.integers(80, 176, (256, 256, 3), np.uint8), 5 * number * STEP_US)
        while taken := layer.take(ROOM, again=False):
            sizes.append(sum(len(one.data) for one in taken))
    assert layer.frames >= 3
    assert sizes


def test_nothing_is_sent_while_somebody_elses_picture_is_moved() -> None:
    layer = sender()
    messages(layer, 3)
    layer.allow(False)
    assert not any(messages(layer, 5, start=3))
    layer.allow(True)
    back = messages(layer, 5, start=8)
    assert back[0][0].key


def test_all_frames_are_decoded_at_their_times() -> None:
    sent = messages(sender(), 12)
    receiver = LayerReceiver()
    times = decoded(receiver, sent)
    assert times == [number * STEP_US for number in range(12)]
    assert (receiver.frames, receiver.lost_frames, receiver.refused) == (12, 0, 0)


def test_a_large_frame_goes_in_pieces_within_each_message() -> None:
    layer = sender(24)
    noise = np.random.default_rng(0).integers(0, 256, (256, 256, 3), np.uint8)
    layer.push(np.asarray(cv2.GaussianBlur(noise, (0, 0), 1.4), np.uint8), 0)
    sent = []
    while fragments := layer.take(ROOM, again=False):
        sent.append(fragments)
        assert sum(len(bytes(one)) for one in fragments) <= ROOM
    assert len(sent) > 1
    assert decoded(LayerReceiver(), sent) == [0]


def test_after_a_lost_frame_a_key_frame_is_asked_for_and_goes_on() -> None:
    layer, receiver = sender(), LayerReceiver()
    sent = messages(layer, 10)
    del sent[4]
    assert decoded(receiver, sent) == [n * STEP_US for n in range(4)]
    assert receiver.lost_frames == 1
    assert not receiver.asks_for_key(0)  # it may be on its way
    assert receiver.asks_for_key(KEY_EVERY_US)
    assert not receiver.asks_for_key(KEY_EVERY_US + 1)
    layer.asked(LayerReport(24_000, receiver.newest, True))
    more = messages(layer, 4, start=10)
    assert more[0][0].key
    assert decoded(receiver, more)
    assert not receiver.asks_for_key(3 * KEY_EVERY_US)


def test_on_a_link_that_loses_every_second_message_may_be_lost() -> None:
    sent = messages(sender(), 12, again=True)
    del sent[3::2]
    receiver = LayerReceiver()
    assert len(decoded(receiver, sent)) >= 10
    assert receiver.lost_frames == 0


def test_messages_that_overtake_each_other_lose_nothing() -> None:
    sent = messages(sender(), 9)
    sent[3], sent[4] = sent[4], sent[3]
    receiver = LayerReceiver()
    assert len(decoded(receiver, sent)) == 9


def test_messages_of_several_frames_that_overtake_each_other_lose_nothing() -> None:
    layer, frame_us = sender(24), 40_000
    sent = []
    for number in range(30):
        layer.push(crop(number), number * frame_us)
        if number % 3 == 2:
            sent.append((number * frame_us, layer.take(ROOM, again=False)))
    sent[4], sent[5] = sent[5], sent[4]
    receiver = LayerReceiver()
    found = [frame for near_us, fragments in sent for one in fragments for frame in receiver.push(one, near_us)]
    assert len(found) == layer.frames > 20
    assert receiver.lost_frames == 0
    # A whole message that is lost is not waited for.
    lost = LayerReceiver()
    for near_us, fragments in sent[:4] + sent[6:]:
        for one in fragments:
            list(lost.push(one, near_us))
    assert lost.lost_frames == 1


def test_a_queue_that_nobody_takes_is_dropped_and_begins_with_a_key_frame() -> None:
    layer = sender(24)
    for number in range(40):
        layer.push(crop(number), number * STEP_US)
    waiting: list[LayerFragment] = []
    while fragments := layer.take(ROOM, again=False):
        waiting += fragments
    assert len(waiting) <= 24
    first_keys = [one.key for one in waiting[:1]] + [one.key for one in layer.take(ROOM, again=False)]
    assert all(first_keys) or not first_keys


@settings(max_examples=40)
@given(st.lists(st.sampled_from(["keep", "lose", "twice"]), min_size=20, max_size=20), st.booleans())
def test_whatever_is_lost_or_comes_twice_nothing_is_shown_from_a_broken_reference(fate: list[str], again: bool) -> None:
    layer, receiver = sender(), LayerReceiver()
    whole = LayerReceiver()
    truth: dict[int, Picture] = {}
    shown: dict[int, Picture] = {}
    for number, what in enumerate(fate):
        layer.push(crop(number), number * STEP_US)
        fragments = layer.take(ROOM, again=again)
        for fragment in fragments:
            truth.update((f.time_us, f.picture) for f in whole.push(fragment, number * STEP_US))
        for _ in range({"keep": 1, "lose": 0, "twice": 2}[what]):
            for fragment in fragments:
                shown.update((f.time_us, f.picture) for f in receiver.push(fragment, number * STEP_US))
        if receiver.asks_for_key(number * STEP_US):
            layer.asked(LayerReport(24_000, receiver.newest, True))
    for time_us, picture in shown.items():
        assert np.array_equal(picture, truth[time_us])
