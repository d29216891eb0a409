from __future__ import annotations

import cv2
import numpy as np
import pytest

from kilocall.api import StreamPlayer
from kilocall.model.family import Picture
from kilocall.proto.errors import BadInput
from kilocall.proto.layer_frame import fragment_bytes
from kilocall.receiver.layer_decoder import LayerDecoder
from kilocall.sender.layer_encoder import (
    LADDER,
    SAVED_S,
    CodedLayer,
    LayerEncoder,
    LayerSetting,
    check_layer_kbps,
    setting_for,
)
from layers import FRAME_US, decibels, pictures_with_card


@pytest.fixture(scope="module")
def pictures(player: StreamPlayer) -> list[Picture]:
    return pictures_with_card(player, 60)


def coded(encoder: LayerEncoder, pictures: list[Picture]) -> list[CodedLayer]:
    made = [encoder.push(picture, number * FRAME_US) for number, picture in enumerate(pictures)]
    return [frame for frame in made if frame is not None]


@pytest.mark.parametrize("setting", LADDER, ids=lambda setting: f"{setting.kbps:g} kbit/s")
def test_what_is_decoded_is_the_crop_made_small(setting: LayerSetting, pictures: list[Picture]) -> None:
    decoder = LayerDecoder()
    for frame in coded(LayerEncoder(setting), pictures):
        made = decoder.push(frame.data, key=frame.key)
        assert made is not None
        assert made.shape == (setting.side, setting.side, 3)
        small = np.asarray(np.round(shrunk(pictures[frame.time_us // FRAME_US], setting.side)), np.uint8)
        assert decibels(made, small) > 20


def shrunk(picture: Picture, side: int) -> Picture:
    return np.asarray(cv2.resize(picture, (side, side), interpolation=cv2.INTER_AREA), np.uint8)


def test_the_first_frame_alone_is_a_key_frame(pictures: list[Picture]) -> None:
    frames = coded(LayerEncoder(LADDER[1]), pictures)
    assert [frame.key for frame in frames] == [True] + [False] * (len(frames) - 1)


def test_a_key_frame_comes_when_it_is_wanted(pictures: list[Picture]) -> None:
    encoder = LayerEncoder(LADDER[2])
    coded(encoder, pictures[:30])
    encoder.want_key()
    frames = [encoder.push(picture, (30 + n) * FRAME_US) for n, picture in enumerate(pictures[30:])]
    keys = [frame.key for frame in frames if frame is not None]
    assert keys[0]
    assert not any(keys[1:])


@pytest.mark.parametrize("setting", LADDER, ids=lambda setting: f"{setting.kbps:g} kbit/s")
def test_frames_come_at_the_settings_rate_at_most(setting: LayerSetting, pictures: list[Picture]) -> None:
    frames = coded(LayerEncoder(setting), pictures[:1] * 100)
    assert len(frames) <= 4 * setting.fps + 1
    gaps = np.diff([frame.time_us for frame in frames])
    assert gaps.min() >= 1e6 / setting.fps - FRAME_US


def test_a_clip_that_costs_too_much_has_fewer_frames_and_keeps_the_rate() -> None:
    patches = np.random.default_rng(0).integers(0, 256, (100, 8, 8, 3), np.uint8)
    setting = LADDER[2]
    large = [np.asarray(cv2.resize(one, (256, 256), interpolation=cv2.INTER_CUBIC), np.uint8) for one in patches]
    frames = coded(LayerEncoder(setting), large)
    bits = sum(8 * fragment_bytes(len(frame.data)) for frame in frames)
    # The last frame may be spent ahead of what it is paid from.
    most = 1000 * setting.kbps * (100 * FRAME_US / 1e6 + SAVED_S) + 8 * max(len(frame.data) for frame in frames)
    assert 2 < len(frames) < 4 * setting.fps / 2
    assert bits <= most


def test_a_rate_is_one_of_the_ladders_or_none() -> None:
    assert setting_for(0) is None
    assert setting_for(3.0) == LADDER[1]
    assert setting_for(5.9) == LADDER[1]
    assert check_layer_kbps(24) == 24
    with pytest.raises(BadInput, match=r"layer is 5 kbit/s; allowed are 0 \(none\), 1\.5, 3, 6, 12, 24"):
        check_layer_kbps(5)
