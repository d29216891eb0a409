from __future__ import annotations

from fractions import Fraction

import numpy as np
import pytest

from kilocall.receiver.layer_decoder import LayerDecoder
from kilocall.runtime.obu import without_delimiter
from kilocall.runtime.thread_priority import priorities_kept
from kilocall.sender.layer_encoder import LADDER, CodedLayer, LayerEncoder, LayerSetting


def frames(count: int, setting: LayerSetting = LADDER[2]) -> list[CodedLayer]:
    encoder = LayerEncoder(setting)
    y, x = np.mgrid[0:256, 0:256]
    made = []
    for number in range(count):
        shade = (x + y + 5 * number) % 256
        coded = encoder.push(np.dstack([shade, shade // 2, 255 - shade]).astype(np.uint8), 100_000 * number)
        assert coded is not None
        made.append(coded)
    return made


def test_nothing_is_decoded_before_a_key_frame() -> None:
    decoder = LayerDecoder()
    key, after, _ = frames(3)
    assert decoder.needs_key
    assert decoder.push(after.data, key=False) is None
    assert decoder.push(key.data, key=True) is not None
    assert decoder.push(after.data, key=False) is not None
    assert decoder.refused == 0


def test_after_a_lost_frame_a_key_frame_is_waited_for() -> None:
    decoder = LayerDecoder()
    key, first, second = frames(3)
    decoder.push(key.data, key=True)
    decoder.push(first.data, key=False)
    decoder.lost()
    assert decoder.needs_key
    assert decoder.push(second.data, key=False) is None
    assert decoder.push(key.data, key=True) is not None


@pytest.mark.parametrize("data", [b"", b"\x12\x00", b"\x32\x03abc", b"x" * 500], ids=["none", "end", "frame", "junk"])
def test_what_is_no_frame_is_counted_and_asks_for_a_key_frame(data: bytes) -> None:
    decoder = LayerDecoder()
    decoder.push(frames(1)[0].data, key=True)
    assert decoder.push(data, key=False) is None
    assert decoder.refused == 1
    assert decoder.needs_key


def test_changed_bytes_give_a_picture_of_the_allowed_size_or_none() -> None:
    key, *rest = frames(6)
    random = np.random.default_rng(1)
    decoded = 0
    for _ in range(150):
        decoder = LayerDecoder()
        decoder.push(key.data, key=True)
        for frame in rest:
            data = bytearray(frame.data)
            data[random.integers(2, len(data))] = random.integers(0, 256)
            picture = decoder.push(bytes(data), key=False)
            if picture is not None:
                decoded += 1
                assert picture.shape == (LADDER[2].side, LADDER[2].side, 3)
    assert decoded  # dav1d makes something of most of them


def test_a_larger_picture_is_refused_before_it_is_decoded() -> None:
    import av

    encoder = av.CodecContext.create("libsvtav1", "w")
    encoder.width = encoder.height = 512
    encoder.framerate = Fraction(25)
    encoder.pix_fmt = "yuv420p"
    encoder.options = {"preset": "10", "svtav1-params": "pred-struct=1:lp=1:lookahead=0"}
    frame = av.VideoFrame.from_ndarray(np.full((512, 512, 3), 90, np.uint8), "rgb24").reformat(format="yuv420p")
    with priorities_kept():
        unit = without_delimiter(b"".join(bytes(packet) for packet in encoder.encode(frame)))
    decoder = LayerDecoder()
    assert decoder.push(unit, key=True) is None
    assert decoder.refused == 1


def test_a_frame_of_the_other_kind_is_decoded_only_if_it_needs_no_other() -> None:
    """A face's frame that refers to what a camera saw would show it in the face."""
    decoder = LayerDecoder()
    key, first, second = frames(3)
    assert decoder.push(key.data, key=True, whole=True) is not None
    assert decoder.push(first.data, key=False, whole=False) is None
    assert decoder.needs_key
    assert decoder.push(second.data, key=False, whole=True) is None
    assert decoder.push(key.data, key=True, whole=False) is not None
    assert decoder.push(first.data, key=False, whole=False) is not None
