from __future__ import annotations

import dataclasses
import io
from collections.abc import Callable

import av
import numpy as np
import pytest
from numpy.typing import NDArray

from kilocall.bench.ffmpeg import find_ffmpeg
from kilocall.bench.quality.codecs import CODECS, RatePoint, VideoCodec, code_video, named, split_unit
from kilocall.model import metrics
from kilocall.proto.errors import BadInput

Frames = NDArray[np.uint8]


@pytest.fixture(scope="module")
def frames(swaying_pictures: Callable[..., list[Frames]]) -> Frames:
    return np.stack(swaying_pictures(9, 128))


@pytest.mark.parametrize("codec", CODECS, ids=[codec.key for codec in CODECS])
def test_every_codec_gives_back_every_frame_with_one_key_frame(codec: VideoCodec, frames: Frames) -> None:
    fine = code_video(frames, 25, codec, codec.ladder[0], find_ffmpeg())
    coarse = code_video(frames, 25, codec, codec.ladder[-1], find_ffmpeg())
    assert fine.shown.shape == coarse.shown.shape == frames.shape
    assert len(fine.units) == 9
    assert len(coarse.units) == 5  # every second frame, the last one shown once
    assert (coarse.shown[0] == coarse.shown[1]).all()
    assert metrics.psnr(fine.shown, frames) > max(25, metrics.psnr(coarse.shown, frames))
    sizes = [sum(unit) for unit in fine.units]
    assert sizes[0] == max(sizes)
    assert sum(map(sum, coarse.units)) < sum(sizes)
    assert codec.arguments(codec.ladder[0])[:2] == ["-c:v", codec.encoder]


def test_size_of_an_h264_stream_is_what_the_file_holds(frames: Frames) -> None:
    coded = code_video(frames, 25, named("x264"), RatePoint(30), find_ffmpeg())
    assert sum(map(len, coded.packets)) == coded.file_bytes
    # Everything in the file that is not payload is start codes of 3 or 4 bytes.
    parts = sum(map(len, coded.units))
    assert 3 * parts <= coded.file_bytes - sum(map(sum, coded.units)) <= 4 * parts
    # No text of the encoder's: it would be a NAL unit of type 6.
    assert all(part[0] & 31 != 6 for packet in coded.packets for part in split_unit(packet, "h264"))


def test_size_of_an_ivf_stream_is_what_the_file_holds(frames: Frames) -> None:
    for key in ("vp8-live", "svt-av1-live"):
        coded = code_video(frames, 25, named(key), named(key).ladder[1], find_ffmpeg())
        # IVF: 32 bytes for the file, 12 for every picture.
        assert coded.file_bytes == 32 + sum(12 + len(packet) for packet in coded.packets)


def test_pictures_are_those_that_another_decoder_finds(frames: Frames) -> None:
    coded = code_video(frames, 25, named("x264-live"), RatePoint(25), find_ffmpeg())
    with av.open(io.BytesIO(b"".join(coded.packets)), "r", format="h264") as container:
        other = np.stack([np.asarray(f.to_ndarray(format="rgb24"), np.uint8) for f in container.decode(video=0)])
    # The same luma; the other one enlarges the colours more simply.
    assert metrics.psnr(coded.shown, other) > 38
    assert metrics.psnr(coded.shown, frames) == pytest.approx(metrics.psnr(other, frames), abs=0.7)


def test_colours_survive_the_way_to_420_and_back() -> None:
    flat = np.broadcast_to(np.array([200, 60, 90], np.uint8), (6, 64, 64, 3)).copy()
    coded = code_video(flat, 25, named("x264"), RatePoint(1), find_ffmpeg())
    np.testing.assert_allclose(coded.shown.reshape(-1, 3).mean(0), (200, 60, 90), atol=2.5)


def test_missing_encoder_is_refused_by_name(frames: Frames) -> None:
    poor = dataclasses.replace(find_ffmpeg(), encoders=frozenset())
    with pytest.raises(BadInput, match="has no encoder libx265"):
        code_video(frames, 25, named("x265-live"), RatePoint(40), poor)
    with pytest.raises(BadInput, match=r"codec is 'h263'; allowed: x264, "):
        named("h263")


def test_h264_unit_is_split_at_its_start_codes() -> None:
    data = b"\0\0\0\1\x67AB\0\0\1\x68C\0\0\0\1\x65\0\0\3\1D"
    assert split_unit(data, "h264") == [b"\x67AB", b"\x68C", b"\x65\0\0\3\1D"]
    assert split_unit(data, "vp8") == [data]


def test_obus_lose_delimiter_and_size_field() -> None:
    delimiter = bytes([2 << 3 | 2, 0])
    sequence = bytes([1 << 3 | 2, 3]) + b"abc"
    frame = bytes([6 << 3 | 2, 0x81, 0x01]) + bytes(129)  # its size takes two bytes
    unsized = bytes([6 << 3]) + b"rest"
    assert split_unit(delimiter + sequence + frame + unsized, "av1") == [
        bytes([1 << 3]) + b"abc",
        bytes([6 << 3]) + bytes(129),
        unsized,
    ]
    with pytest.raises(BadInput, match="says 100 bytes"):
        split_unit(bytes([1 << 3 | 2, 100]), "av1")
