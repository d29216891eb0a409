from __future__ import annotations

from kilocall.control.own_state import OwnState
from kilocall.proto.control import CameraState, FaceState, LayerReport, MediaState, PictureRate


def test_what_is_taken_for_granted_is_not_told() -> None:
    own = OwnState()
    assert list(own.standing()) == []
    own.camera = CameraState(shown=True, time_us=5)  # who takes no layer shows no camera, and is not told of one
    own.face = FaceState(True, 5)  # after its picture
    assert list(own.standing()) == []


def test_what_has_changed_is_told_in_order() -> None:
    own = OwnState()
    own.media = MediaState(muted=True, camera_off=False)
    own.rate = PictureRate(12_500)
    own.layer_bps = 24_000
    own.camera = CameraState(shown=True, time_us=5)
    assert list(own.standing()) == [own.media, own.rate, LayerReport(24_000, None, False), own.camera]
    own.media = MediaState(muted=False, camera_off=False)
    assert list(own.standing()) == [own.rate, LayerReport(24_000, None, False), own.camera]
