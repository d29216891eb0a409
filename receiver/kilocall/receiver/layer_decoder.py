"""Frames of the video layer to small pictures, by dav1d.

What the other side has made is decoded in this process: a unit is at most 8000 bytes and one picture of at most
256x256, so what it takes is bounded, and dav1d decodes what strangers send in every browser.
"""

from __future__ import annotations

from typing import Final

import av
import numpy as np
from av.video.codeccontext import VideoCodecContext
from numpy.typing import NDArray

from kilocall.proto.errors import BadPacket
from kilocall.runtime.obu import checked_unit

__all__ = ["LEAST_SIDE", "MOST_SIDE", "LayerDecoder"]

LEAST_SIDE: Final = 16
MOST_SIDE: Final = 256


class LayerDecoder:
    """Decodes frame after frame. After one that is missing nothing is decoded until the next key frame: what refers to
    a picture that is not held would show something else."""

    def __init__(self) -> None:
        self.refused = 0
        """Frames that could not be decoded."""
        self._decoder: VideoCodecContext | None = None
        self._whole = False  # the frame before

    @property
    def needs_key(self) -> bool:
        return self._decoder is None

    def lost(self) -> None:
        """A frame is missing."""
        self._decoder = None

    def push(self, data: bytes, *, key: bool, whole: bool = False) -> NDArray[np.uint8] | None:
        """The picture [L, L, 3], or of any shape where it is the camera's `whole` one; None while a key frame is waited
        for, or where it cannot be decoded."""
        if key:
            self._decoder = _decoder()
        elif whole != self._whole:
            self.lost()  # what the camera saw must not get into a face, nor a face into what it sees
        self._whole = whole
        if self._decoder is None:
            return None
        try:
            frames = self._decoder.decode(av.Packet(checked_unit(data)))
        except (BadPacket, av.FFmpegError):
            frames = []
        if len(frames) != 1 or not _fits(frames[0], whole):
            self.refused += 1
            self.lost()
            return None
        picture = frames[0].reformat(format="rgb24", src_colorspace="ITU601").to_ndarray()
        return np.asarray(picture, np.uint8)


def _fits(frame: av.VideoFrame, whole: bool) -> bool:
    sides = frame.width, frame.height
    square = sides[0] == sides[1]
    return (whole or square) and min(sides) >= LEAST_SIDE and sides[0] * sides[1] <= MOST_SIDE * MOST_SIDE


def _decoder() -> VideoCodecContext:
    decoder = av.CodecContext.create("libdav1d", "r")
    assert isinstance(decoder, VideoCodecContext)
    decoder.thread_count = 1
    # dav1d refuses a larger frame before it takes memory for it.
    decoder.options = {"max_pixels": str(MOST_SIDE * MOST_SIDE), "max_frame_delay": "1"}
    return decoder
