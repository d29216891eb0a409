from __future__ import annotations

import json
from contextlib import suppress
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kilocall.call.page_server import PICTURE_HEADER, picture_message, read_command


@pytest.mark.parametrize(
    "command",
    [
        {"type": "mute", "on": True},
        {"type": "camera", "on": False},
        {"type": "calibrate", "on": True},
        {"type": "take_source"},
        {"type": "compared", "words": ["acorn", "river", "panda", "velvet"]},
        {"type": "use_source", "id": "0123456789abcdef"},
        {"type": "view", "yaw": 10, "pitch": -5.5, "roll": 0},
        {"type": "record", "on": True},
        {"type": "virtual_camera", "on": True},
        {"type": "sound_behind", "ms": 71.5},
        {"type": "hang_up"},
        {"type": "visible", "on": False},
    ],
)
def test_every_command_is_read(command: dict[str, Any]) -> None:
    assert read_command(json.dumps(command)).model_dump() == command


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "Invalid JSON"),
        ("[]", "command"),
        ('{"type": "explode"}', "explode"),
        ('{"type": "mute"}', "on"),
        ('{"type": "compared", "words": ["acorn"]}', "words"),
        ('{"type": "mute", "on": 1}', "on"),
        ('{"type": "mute", "on": true, "more": 1}', "more"),
        ('{"type": "view", "yaw": 91, "pitch": 0, "roll": 0}', "yaw"),
        ('{"type": "view", "yaw": NaN, "pitch": 0, "roll": 0}', "yaw"),
        ('{"type": "sound_behind", "ms": -1}', "ms"),
        ('{"type": "sound_behind", "ms": Infinity}', "ms"),
        ("x" * 5000, "5000 bytes"),
    ],
)
def test_what_is_no_command_is_refused_with_the_reason(text: str, said: str) -> None:
    with pytest.raises(ValueError, match=said) as refusal:
        read_command(text)
    assert "\n" not in str(refusal.value)


json_values = st.recursive(
    st.none() | st.booleans() | st.floats() | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4),
    max_leaves=8,
)


@settings(deadline=None)  # a loaded machine pauses anywhere
@given(st.text(max_size=200) | json_values.map(json.dumps) | st.binary(max_size=100))
def test_no_text_breaks_the_parser(text: str | bytes) -> None:
    with suppress(ValueError):
        assert read_command(text).type


def test_a_picture_goes_with_its_kind_and_capture_time() -> None:
    message = picture_message(2, 99, b"jpeg")
    assert PICTURE_HEADER.unpack_from(message) == (2, 99)
    assert message[PICTURE_HEADER.size :] == b"jpeg"
