"""Crops, or the camera's whole pictures, to frames of the video layer: small AV1 a few times a second, within a rate.

SVT-AV1 in its low-delay mode gives each frame at once. The quantiser stays as it is: the encoder's own rate control
does not hold low rates, and codes less well. What is too much for the rate is left out in whole frames.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from fractions import Fraction
from typing import Final, TypeAlias

import av
import cv2
import numpy as np
from av.video.codeccontext import VideoCodecContext
from av.video.frame import PictureType
from numpy.typing import NDArray

from kilocall.proto.errors import BadInput
from kilocall.proto.layer_frame import MAX_LAYER_BYTES, fragment_bytes
from kilocall.runtime.obu import is_key, without_delimiter
from kilocall.runtime.pace import EvenSteps
from kilocall.runtime.thread_priority import priorities_kept

__all__ = [
    "CAMERA_LADDER",
    "DEFAULT_LAYER_KBPS",
    "LADDER",
    "CodedLayer",
    "LayerEncoder",
    "LayerSetting",
    "ToCode",
    "check_layer_kbps",
    "setting_for",
]


@dataclass(frozen=True)
class LayerSetting:
    """What a rate is spent on."""

    kbps: float
    """What is used at most, in the mean."""
    side: int
    """Of the square that is coded; a picture of another shape has at most as many pixels."""
    fps: float
    crf: int
    """The quantiser, of 63."""
    preset: int = 8
    """Of SVT-AV1, on a computer that has the time. From 8 to 4 a layer gains half a decibel at the same rate, and takes
    three times as long to code; to 3 another tenth, for twice the time."""


#: By rate. Held-out speakers need about as much as the rate says; see docs/layer.md.
LADDER: Final = (
    LayerSetting(1.5, 96, 6.25, 61, 4),
    LayerSetting(3.0, 176, 6.25, 62, 4),
    LayerSetting(6.0, 192, 12.5, 61, 4),
    LayerSetting(12.0, 256, 25 / 1.5, 58, 4),
    LayerSetting(24.0, 256, 25.0, 49, 4),
)
#: The same for the camera's whole picture, which is looked at as it is: fewer frames, each in more detail.
CAMERA_LADDER: Final = (
    LayerSetting(1.5, 96, 2.0, 55, 4),
    LayerSetting(3.0, 128, 2.5, 52, 4),
    LayerSetting(6.0, 176, 3.125, 50, 4),
    LayerSetting(12.0, 216, 5.0, 48, 5),
    LayerSetting(24.0, 256, 6.25, 44, 5),
)
#: Where nobody says otherwise and the other side takes a layer.
DEFAULT_LAYER_KBPS: Final = 3.0
#: For a computer on which all else takes long already.
QUICK_PRESET: Final = 8
#: A picture whose frames are too large for a message's pieces is coded so much coarser, until they fit.
COARSER: Final = 6
COARSEST: Final = 63
#: Wider or taller ones are squeezed.
MOST_STRETCHED: Final = 4.0
LEAST_SIDE: Final = 16
#: How much of the rate may be saved up: about what a key frame takes.
SAVED_S: Final = 2.0
#: pred-struct 1: low delay; nothing is looked at ahead, and a cut makes no key frame.
_SVT: Final = "pred-struct=1:lp=1:lookahead=0:scd=0"


#: A picture [H, W, 3], or what makes it; None: it is not worth coding.
ToCode: TypeAlias = NDArray[np.uint8] | Callable[[], NDArray[np.uint8] | None]


@dataclass(frozen=True)
class CodedLayer:
    """A coded frame of the layer."""

    time_us: int
    key: bool
    data: bytes


def check_layer_kbps(kbps: float) -> float:
    """The rate, if it is one of the ladder's or 0; BadInput for another."""
    if kbps and kbps not in [setting.kbps for setting in LADDER]:
        allowed = ", ".join(f"{setting.kbps:g}" for setting in LADDER)
        raise BadInput(f"layer is {kbps:g} kbit/s; allowed are 0 (none), {allowed}")
    return kbps


def setting_for(kbps: float, ladder: tuple[LayerSetting, ...] = LADDER) -> LayerSetting | None:
    """The richest setting that fits into a rate; None where none does."""
    return next((setting for setting in reversed(ladder) if setting.kbps <= kbps), None)


class LayerEncoder:
    """Takes every picture and codes some. Times in microseconds of one clock."""

    def __init__(self, setting: LayerSetting, most_bytes: int = MAX_LAYER_BYTES) -> None:
        """`most_bytes` of a frame can be sent."""
        self.setting, self._most_bytes = setting, most_bytes
        self._steps = EvenSteps()
        self._crf = setting.crf
        self._size = (setting.side, setting.side)
        self._encoder = self._open()
        self._key_wanted = False
        self._last_us: int | None = None
        self._saved_bits = 1000 * setting.kbps * SAVED_S

    def want_key(self) -> None:
        """The next frame can be decoded without any other."""
        self._key_wanted = True

    @property
    def key_wanted(self) -> bool:
        """Whether the next frame is to be such a one."""
        return self._key_wanted

    def push(self, picture: ToCode, time_us: int) -> CodedLayer | None:
        """None where it is not the picture's turn, it is not worth it, or the rate has been used up."""
        self._save(time_us)
        if not self._steps.take(time_us, self.setting.fps) or self._saved_bits < 0:
            return None
        whole = picture() if callable(picture) else picture
        if whole is None:
            return None
        small = self._small(whole)
        frame = av.VideoFrame.from_ndarray(np.asarray(small, np.uint8), "rgb24").reformat(
            format="yuv420p", dst_colorspace="ITU601"
        )
        frame.pts = time_us
        if self._key_wanted:
            frame.pict_type = PictureType.I
        unit = without_delimiter(b"".join(bytes(packet) for packet in self._encoder.encode(frame)))
        if not unit:
            return None
        self._saved_bits -= 8 * fragment_bytes(len(unit))
        self._key_wanted = False
        if len(unit) > self._most_bytes:
            # Too large for a message's pieces, as noise is: nobody gets it, so nothing may refer to it.
            self._crf = min(COARSEST, self._crf + COARSER)
            self._encoder = self._open()
            return None
        return CodedLayer(time_us, is_key(unit), unit)

    def _small(self, picture: NDArray[np.uint8]) -> NDArray[np.uint8]:
        """The picture as it is coded; one of another shape than before begins a new run of frames."""
        size = fitted_size(picture.shape[1], picture.shape[0], self.setting.side)
        if size != self._size:
            self._size = size
            self._encoder = self._open()
        if picture.shape[1::-1] == size:
            return picture
        return np.asarray(cv2.resize(picture, size, interpolation=cv2.INTER_AREA), np.uint8)

    def _save(self, time_us: int) -> None:
        since_us = 0 if self._last_us is None else max(0, time_us - self._last_us)
        self._last_us = time_us
        rate = 1000 * self.setting.kbps
        self._saved_bits = min(rate * SAVED_S, self._saved_bits + rate * since_us / 1e6)

    def _open(self) -> VideoCodecContext:
        # Otherwise the library writes its settings to the terminal, whatever its caller's log level is.
        os.environ.setdefault("SVT_LOG", "0")
        encoder = av.CodecContext.create("libsvtav1", "w")
        assert isinstance(encoder, VideoCodecContext)
        encoder.width, encoder.height = self._size
        encoder.pix_fmt = "yuv420p"
        encoder.time_base = Fraction(1, 1_000_000)
        encoder.framerate = Fraction(self.setting.fps).limit_denominator(100)
        encoder.thread_count = 1
        encoder.options = {
            "preset": str(self.setting.preset),
            "g": "999999",
            "svtav1-params": _SVT,
            "crf": str(self._crf),
        }
        with priorities_kept():
            encoder.open()
        return encoder


def fitted_size(width: int, height: int, side: int) -> tuple[int, int]:
    """Width and height, even, of a picture of this shape with at most `side` x `side` pixels."""
    if width == height:
        return side, side
    shape = min(MOST_STRETCHED, max(1 / MOST_STRETCHED, width / height))

    def even(length: float) -> int:
        return 2 * max(LEAST_SIDE // 2, int(length / 2))

    return even(side * shape**0.5), even(side / shape**0.5)
