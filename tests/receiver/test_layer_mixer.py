"""The astronaut's motion, with a card in front that its source picture never showed."""

from __future__ import annotations

from dataclasses import replace

import cv2
import numpy as np
import pytest

from kilocall.api import StreamPlayer
from kilocall.model.family import Family, Fusion, LayerCorrection, Made, Picture
from kilocall.proto.layer_frame import TimedLayerFrame
from kilocall.receiver.layer_decoder import LayerDecoder
from kilocall.receiver.layer_mixer import FRESH_US, OLD_US, LayerMixer
from kilocall.receiver.layer_track import LayerTrack
from kilocall.receiver.reference_renderer import ReferenceRenderer
from kilocall.sender.layer_encoder import CAMERA_LADDER, LADDER, LayerEncoder, LayerSetting
from layers import CARD_FROM, FRAME_US, decibels, pictures_with_card

COUNT = 40


@pytest.fixture(scope="module")
def truth(player: StreamPlayer) -> list[Picture]:
    return pictures_with_card(player, COUNT)


@pytest.fixture(scope="module")
def made(player: StreamPlayer) -> list[Made]:
    renderer = ReferenceRenderer(player.family, player.stream_source)
    motions = player.motions()
    return [renderer.make(next(motions).motion) for _ in range(COUNT)]


@pytest.fixture(scope="module")
def layer(truth: list[Picture]) -> list[TimedLayerFrame]:
    return coded(LADDER[2], truth)


def coded(setting: LayerSetting, pictures: list[Picture], first: int = 0) -> list[TimedLayerFrame]:
    """As a file has them, from the time of the frame `first` on."""
    encoder, whole = LayerEncoder(setting), setting in CAMERA_LADDER
    frames = [encoder.push(picture, number * FRAME_US) for number, picture in enumerate(pictures, first)]
    return [TimedLayerFrame(one.time_us, one.key, one.data, whole) for one in frames if one is not None]


def mixer(family: Family) -> LayerMixer:
    fusion = family.fusion()
    assert fusion is not None
    return LayerMixer(fusion)


def shown(track: LayerTrack, made: list[Made]) -> list[Picture]:
    return [track.mix(one, number * FRAME_US) for number, one in enumerate(made)]


def test_without_a_layer_the_made_picture_is_shown_to_the_bit(family: Family, made: list[Made]) -> None:
    mixed = mixer(family)
    for number, one in enumerate(made):
        assert np.array_equal(mixed.mix(one, number * FRAME_US), one.picture)
    assert mixed.used == 0


def test_what_the_source_picture_never_showed_is_there(
    family: Family, made: list[Made], truth: list[Picture], layer: list[TimedLayerFrame]
) -> None:
    pictures = shown(LayerTrack(layer, mixer(family)), made)
    later = range(CARD_FROM + 5, COUNT)
    before = np.mean([decibels(made[n].picture, truth[n]) for n in later])
    after = np.mean([decibels(pictures[n], truth[n]) for n in later])
    assert after > before + 4
    card = np.mean([pictures[n][190:220, 40 + n // 2 : 60 + n // 2].mean((0, 1)) for n in later], axis=0)
    assert np.abs(card - (235, 205, 40)).max() < 25


def test_the_face_stays_as_sharp_as_motion_makes_it(
    family: Family, made: list[Made], layer: list[TimedLayerFrame]
) -> None:
    import cv2

    def fine(picture: Picture) -> float:
        return float(cv2.Laplacian(cv2.cvtColor(picture[60:160, 80:180], cv2.COLOR_RGB2GRAY), cv2.CV_32F).var())

    pictures = shown(LayerTrack(layer, mixer(family)), made)
    assert np.mean([fine(p) for p in pictures]) > 0.8 * np.mean([fine(one.picture) for one in made])


def test_a_layer_says_more_of_what_is_painted_of_a_mouth_and_no_more_of_lips_that_are_not(
    family: Family, made: list[Made]
) -> None:
    fusion, one = family.fusion(), made[0]
    assert fusion is not None
    assert one.placement is not None
    rows, columns = np.nonzero(cv2.resize(one.placement.speaking[..., 0], (256, 256)) > 0.9)
    y, x = round(rows.mean()), round(columns.mean())
    between_lips = np.s_[y - 3 : y + 3, x - 10 : x + 10]
    dark = one.picture.copy()
    dark[between_lips] //= 2
    darker = []
    for painted in (np.zeros((256, 256), np.float32), np.ones((256, 256), np.float32)):
        seen = Made(one.picture, replace(one.placement, painted=painted))
        shown = fusion.correction(seen, np.asarray(cv2.resize(dark, (192, 192)), np.uint8)).apply(one.picture)
        darker.append(float(one.picture[between_lips].mean() - shown[between_lips].mean()))
    asked = float(one.picture[between_lips].mean() - dark[between_lips].mean())
    assert darker[0] < 0.4 * asked
    assert darker[1] > darker[0] + 0.2 * asked


def test_a_layer_that_ends_fades_within_a_second_and_a_half(
    family: Family, made: list[Made], layer: list[TimedLayerFrame]
) -> None:
    mixed = mixer(family)
    decoder = LayerDecoder()
    for frame in layer[:3]:
        picture = decoder.push(frame.data, key=frame.key)
        assert picture is not None
        mixed.push(frame.time_us, picture)
    last_us = layer[2].time_us
    one = made[layer[2].time_us // FRAME_US]

    def change(at_us: int) -> float:
        return float(np.abs(mixed.mix(one, at_us).astype(int) - one.picture).mean())

    fresh, old = change(last_us), change(last_us + (FRESH_US + OLD_US) // 2)
    assert 0 < old < 0.8 * fresh
    assert change(last_us + OLD_US) == 0


def test_a_layer_frame_that_comes_late_changes_what_is_shown_from_then_on(
    family: Family, made: list[Made], truth: list[Picture], layer: list[TimedLayerFrame]
) -> None:
    mixed, decoder = mixer(family), LayerDecoder()
    late = {frame.time_us // FRAME_US + 4: frame for frame in layer}
    pictures = []
    for number, one in enumerate(made):
        frame = late.get(number)
        if frame is not None:
            picture = decoder.push(frame.data, key=frame.key)
            assert picture is not None
            mixed.push(frame.time_us, picture)
        pictures.append(mixed.mix(one, number * FRAME_US))
    assert mixed.used == len([number for number in late if number < COUNT])
    later = range(CARD_FROM + 8, COUNT)
    gains = [decibels(pictures[n], truth[n]) - decibels(made[n].picture, truth[n]) for n in later]
    assert np.mean(gains) > 3


@pytest.mark.parametrize(("step", "used"), [(1, COUNT), (2, COUNT // 4)], ids=["25 a second", "12.5"])
def test_a_layer_as_fast_as_the_pictures_is_compared_with_each_where_these_are_many(
    family: Family, made: list[Made], truth: list[Picture], step: int, used: int
) -> None:
    mixed = mixer(family)
    for number in range(0, COUNT, step):
        mixed.push(number * FRAME_US, truth[number])
        mixed.mix(made[number], number * FRAME_US)
    assert mixed.used == pytest.approx(used, abs=1)


class Asked:
    """Compares as another does, and keeps whether the layer was said to be in step."""

    def __init__(self, fusion: Fusion) -> None:
        self._fusion, self.in_step = fusion, list[bool]()

    def correction(self, made: Made, layer: Picture, *, in_step: bool = False) -> LayerCorrection:
        self.in_step.append(in_step)
        return self._fusion.correction(made, layer, in_step=in_step)


def test_a_layer_is_in_step_while_its_frames_are_those_of_the_motion(
    family: Family, made: list[Made], truth: list[Picture]
) -> None:
    fusion = family.fusion()
    assert fusion is not None
    asked = Asked(fusion)
    mixed = LayerMixer(asked)
    for number in (0, 1, 2, 3, 5, 6, 8, 9, 10, 11):
        mixed.push(number * FRAME_US, truth[number])
    for number, one in enumerate(made[:12]):
        mixed.mix(one, number * FRAME_US)
    assert asked.in_step == [False, False, True, True, False, False, False, False, True, True]


def test_a_change_is_seen_in_part_at_first_and_none_of_it_is_left_out(
    family: Family, made: list[Made], truth: list[Picture]
) -> None:
    """The pictures themselves as a layer: nothing in them is the coder's noise."""
    mixed, alone, one = mixer(family), mixer(family), made[CARD_FROM + 8]
    mixed.push(0, one.picture)
    mixed.push(2 * FRAME_US, truth[CARD_FROM + 8])
    shown = [mixed.mix(one, number * FRAME_US).astype(int) for number in range(4)][2:]
    alone.push(0, truth[CARD_FROM + 8])
    whole = alone.mix(one, 0).astype(int)
    card = np.abs(whole - one.picture).mean(-1) > 60
    assert card.sum() > 500
    share = np.abs(shown[0] - one.picture)[card].mean() / np.abs(whole - one.picture)[card].mean()
    assert 0.75 < share < 0.95
    assert np.abs(shown[1] - whole)[card].mean() < 2


def test_a_still_scene_is_calmer_than_its_layer(family: Family, made: list[Made]) -> None:
    """Noise of three levels in each layer frame, none in the scene."""
    rng, one = np.random.default_rng(1), made[0]
    mixed, last = mixer(family), list[Picture]()
    apart = []
    for number in range(12):
        noisy = np.clip(one.picture + rng.normal(0, 3, (64, 64, 3)).repeat(4, 0).repeat(4, 1), 0, 255).astype(np.uint8)
        alone = mixer(family)
        at_us = 2 * FRAME_US * number
        for each in (mixed, alone):
            each.push(at_us, noisy)
        pictures = [each.mix(one, at_us).astype(int) for each in (mixed, alone)]
        mixed.mix(one, at_us + FRAME_US)
        if last:
            apart.append([np.abs(now - before).mean() for now, before in zip(pictures, last, strict=True)])
        last = pictures
    calm, restless = np.mean(apart, axis=0)
    assert calm < 0.75 * restless


def test_after_a_jump_the_layer_starts_at_the_key_frame_before(
    family: Family, made: list[Made], truth: list[Picture], layer: list[TimedLayerFrame]
) -> None:
    track = LayerTrack(layer, mixer(family))
    played = shown(track, made)
    at = COUNT - 1
    track.reset()
    jumped = track.mix(made[at], at * FRAME_US)
    assert decibels(jumped, truth[at]) > decibels(made[at].picture, truth[at]) + 3
    assert decibels(jumped, played[at]) > 32
    track.reset()
    assert np.array_equal(track.mix(made[0], 0), played[0])
    assert track.damaged == 0


def test_after_a_step_forward_the_layer_of_that_moment_is_seen_at_once(
    family: Family, made: list[Made], truth: list[Picture], layer: list[TimedLayerFrame]
) -> None:
    track, at = LayerTrack(layer, mixer(family)), 30
    track.mix(made[0], 0)
    stepped = track.mix(made[at], at * FRAME_US)
    assert track.used == 2
    assert decibels(stepped, truth[at]) > decibels(made[at].picture, truth[at]) + 3


def test_frames_that_are_damaged_cost_themselves_and_those_after_until_a_key_frame(
    family: Family, made: list[Made], layer: list[TimedLayerFrame]
) -> None:
    broken = [*layer[:4], TimedLayerFrame(layer[4].time_us, False, b"\x32\x05junk!"), *layer[5:]]
    track = LayerTrack(broken, mixer(family))
    shown(track, made)
    assert track.damaged == 1
    assert track.used == 4
