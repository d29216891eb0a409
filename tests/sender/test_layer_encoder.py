from __future__ import annotations

import cv2
import numpy as np
import pytest

from kilocall.api import StreamPlayer
from kilocall.model.family import Picture
from kilocall.proto.errors import BadInput
from kilocall.proto.layer_frame import MAX_LAYER_BYTES, fragment_bytes
from kilocall.receiver.layer_decoder import LayerDecoder
from kilocall.sender.layer_encoder import (
    CAMERA_LADDER,
    LADDER,
    SAVED_S,
    CodedLayer,
    LayerEncoder,
    LayerSetting,
    check_layer_kbps,
    fitted_size,
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


def test_a_scene_that_stands_still_does_not_take_all_of_a_high_rate(pictures: list[Picture]) -> None:
    frames = coded(LayerEncoder(LADDER[4]), pictures[:1] * 150)
    later = [frame for frame in frames if frame.time_us > 3_000_000]
    assert sum(8 * fragment_bytes(len(frame.data)) for frame in later) < 3 * 24_000 / 4


def test_a_rate_is_one_of_the_ladders_or_none() -> None:
    assert setting_for(0) is None
    assert setting_for(3.0) == LADDER[1]
    assert setting_for(5.9) == LADDER[1]
    assert check_layer_kbps(24) == 24
    with pytest.raises(BadInput, match=r"layer is 5 kbit/s; allowed are 0 \(none\), 1\.5, 3, 6, 12, 24"):
        check_layer_kbps(5)


@pytest.mark.parametrize("setting", CAMERA_LADDER, ids=lambda setting: f"{setting.kbps:g} kbit/s")
@pytest.mark.parametrize("shape", [(480, 640), (1080, 1920), (640, 360), (200, 200)])
def test_a_whole_picture_keeps_its_shape_and_has_no_more_pixels_than_the_square(
    setting: LayerSetting, shape: tuple[int, int]
) -> None:
    y, x = np.mgrid[0 : shape[0], 0 : shape[1]]
    picture = np.dstack([255 * x // shape[1], 255 * y // shape[0], 0 * x + 90]).astype(np.uint8)
    frame = LayerEncoder(setting).push(lambda: picture, 0)
    assert frame is not None
    made = LayerDecoder().push(frame.data, key=True, whole=True)
    assert made is not None
    assert made.shape[0] * made.shape[1] <= setting.side**2
    assert made.shape[1] / made.shape[0] == pytest.approx(shape[1] / shape[0], rel=0.06)
    assert decibels(made, np.asarray(cv2.resize(picture, made.shape[1::-1], interpolation=cv2.INTER_AREA))) > 25


def test_a_picture_that_is_no_square_is_refused_where_a_crop_is_expected() -> None:
    frame = LayerEncoder(CAMERA_LADDER[0]).push(np.zeros((480, 640, 3), np.uint8), 0)
    assert frame is not None
    decoder = LayerDecoder()
    assert decoder.push(frame.data, key=True) is None
    assert decoder.refused == 1


def test_the_most_stretched_pictures_are_squeezed() -> None:
    assert fitted_size(4000, 10, 96) == (192, 48)
    assert fitted_size(10, 4000, 96) == (48, 192)


def test_a_camera_that_is_turned_begins_a_new_run_of_frames() -> None:
    encoder, decoder = LayerEncoder(CAMERA_LADDER[1]), LayerDecoder()
    shapes, keys = [], []
    for number, shape in enumerate([(480, 640), (480, 640), (640, 480), (640, 480)]):
        frame = encoder.push(np.full((*shape, 3), 80, np.uint8), 500_000 * number)
        assert frame is not None
        keys.append(frame.key)
        made = decoder.push(frame.data, key=frame.key, whole=True)
        assert made is not None
        shapes.append(made.shape[:2])
    assert keys == [True, False, True, False]
    assert shapes[0] == shapes[1] == shapes[2][::-1] == shapes[3][::-1]


def test_noise_that_does_not_fit_into_a_message_is_coded_coarser_until_it_does() -> None:
    random = np.random.default_rng(3)
    encoder = LayerEncoder(CAMERA_LADDER[-1])
    made = [encoder.push(random.integers(0, 256, (480, 640, 3), np.uint8), 400_000 * number) for number in range(40)]
    sent = [frame for frame in made if frame is not None]
    assert sent
    assert sent[0].key
    assert max(len(frame.data) for frame in sent) <= MAX_LAYER_BYTES
