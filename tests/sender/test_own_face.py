from __future__ import annotations

from kilocall.sender.own_face import OwnFace


def test_a_change_is_told_once() -> None:
    face = OwnFace()
    assert [face.look(seen) for seen in (False, False, True, True, False)] == [True, False, True, False, True]
    assert not face.seen


def test_the_next_connection_is_told_what_has_not_changed() -> None:
    face = OwnFace()
    face.look(True)
    face.tell_again(True)
    face.restart()
    assert face.look(True)
    assert not face.coded()  # one word for one frame


def test_the_first_frame_of_a_new_source_picture_is_told_once_more() -> None:
    face = OwnFace()
    face.look(True)
    face.tell_again(True)
    assert not face.look(True)
    assert [face.coded() for _ in range(3)] == [True, False, False]
