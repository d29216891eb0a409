from __future__ import annotations

import numpy as np
import pytest

from kilocall.model.family import Picture
from kilocall.model.motion import Motion
from kilocall.receiver.layer_receiver import DecodedLayer
from kilocall.receiver.live import ReceiveEvents
from kilocall.receiver.live_renderer import LiveRenderer
from kilocall.receiver.remote_speaker import RemoteSpeaker
from kilocall.receiver.switch_time import SwitchTime

STILL = Motion((0.0, 0.0, 0.0), (0.0, 0.0), 1.0, np.zeros(0, np.float32))


@pytest.fixture
def renderer() -> LiveRenderer:
    """Before any source picture has come."""
    events = ReceiveEvents(lambda made: None, lambda name: None, lambda name, why: None)
    return LiveRenderer(RemoteSpeaker(lambda: events, lambda call: call(), lambda call: call()))


def camera(time_us: int, grey: int) -> DecodedLayer:
    picture: Picture = np.full((72, 128, 3), grey, np.uint8)
    return DecodedLayer(time_us, key=True, data=b"", picture=picture, whole=True)


def test_nothing_is_shown_before_there_is_a_picture(renderer: LiveRenderer) -> None:
    assert renderer.picture(0, STILL, 25) is None


def test_what_the_camera_sees_is_shown_without_a_source_picture(renderer: LiveRenderer) -> None:
    renderer.push(camera(40_000, 90))
    renderer.switch_camera(True, SwitchTime(80_000, None))
    assert renderer.picture(40_000, STILL, 25) is None
    shown = [renderer.picture(time_us, STILL, 25) for time_us in (80_000, 120_000)]
    assert [one is not None and one.camera for one in shown] == [True, True]
    assert shown[0] is not None
    assert shown[1] is not None
    assert shown[0].jpeg is shown[1].jpeg  # one picture for several frames
    assert renderer.camera_pictures == 2


def test_what_is_told_for_a_frame_that_nobody_looks_at_holds_afterwards(renderer: LiveRenderer) -> None:
    renderer.push(camera(0, 90))
    renderer.switch_camera(True, SwitchTime(0, None))
    renderer.skip(0)
    renderer.switch_camera(False, SwitchTime(40_000, 0))
    renderer.skip(40_000)
    assert renderer.picture(80_000, STILL, 25) is None
    assert renderer.camera_pictures == 0


def test_another_connection_shows_nothing_of_the_camera_until_it_is_told(renderer: LiveRenderer) -> None:
    renderer.push(camera(0, 90))
    renderer.switch_camera(True, SwitchTime(0, None))
    renderer.restart()
    assert renderer.picture(40_000, STILL, 25) is None
