"""The classic codecs, each driven by ffmpeg at settings that are written out in full.

All run at constant quality with a single key frame at the start, on one thread, without the encoder's own texts in
the stream. Constant quality favours them: a call has to hold a rate. "Live" settings neither look ahead nor reorder
frames; the others may, and would add their look-ahead to the delay of a call. Where even the coarsest quantiser costs
more than wanted, the picture is sent at half its side, and at half the frame rate, as call programs do.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Literal

import av
import numpy as np
from numpy.typing import NDArray

from kilocall.bench.ffmpeg import Ffmpeg
from kilocall.proto.errors import BadInput

__all__ = ["CODECS", "CodedVideo", "Format", "RatePoint", "VideoCodec", "code_video", "named", "split_unit"]

Format = Literal["h264", "hevc", "vvc", "vp8", "vp9", "av1"]

#: No key frame after the first in any clip.
_NEVER: Final = "9999"
_TIMEOUT_S: Final = 900.0
_FLAGS: Final = "lanczos+accurate_rnd+full_chroma_int"


@dataclass(frozen=True)
class RatePoint:
    """One setting of a codec: its quantiser, and whether side and frame rate are halved."""

    quantiser: int
    half_side: bool = False
    half_rate: bool = False

    @property
    def name(self) -> str:
        return f"q{self.quantiser}" + (", half side" if self.half_side else "") + (", half rate" * self.half_rate)


@dataclass(frozen=True)
class VideoCodec:
    """An encoder at fixed settings; `options` hold `{q}` where the quantiser goes."""

    key: str
    title: str
    encoder: str
    format: Format
    container: str
    live: bool
    options: tuple[str, ...]
    ladder: tuple[RatePoint, ...]
    pixels: str = "yuv420p"

    def arguments(self, point: RatePoint) -> list[str]:
        """The encoder's part of ffmpeg's command line."""
        return self._arguments(point.quantiser)

    @property
    def command(self) -> str:
        """The same for people, with Q for the quantiser."""
        return f"ffmpeg {' '.join(self._arguments('Q'))}, {self.pixels}"

    def _arguments(self, quantiser: int | str) -> list[str]:
        return ["-c:v", self.encoder, *(option.format(q=quantiser) for option in self.options)]


def _ladder(*fine: int, coarsest: int) -> tuple[RatePoint, ...]:
    """From about 60 kbit/s down to about 3, for a head that fills a picture of 256x256 at 25 fps."""
    return (
        *(RatePoint(q) for q in (*fine, coarsest)),
        RatePoint(coarsest, half_side=True),
        RatePoint(coarsest, half_side=True, half_rate=True),
    )


# filter_units drops the message in which x264 spells out its settings: 0.7 KB that no call would send.
_X264: Final = (
    "-preset",
    "veryslow",
    "-threads",
    "1",
    "-g",
    _NEVER,
    "-crf",
    "{q}",
    "-bsf:v",
    "filter_units=remove_types=6",
)
_X265: Final = "info=0:log-level=none:keyint=-1:open-gop=0:pools=none:frame-threads=1:wpp=0"

CODECS: Final = (
    VideoCodec(
        "x264", "x264 veryslow", "libx264", "h264", "264", False, _X264, _ladder(33, 42, coarsest=51)
    ),
    VideoCodec(
        "x264-live", "x264 live", "libx264", "h264", "264", True,
        ("-tune", "zerolatency", *_X264), _ladder(36, 44, coarsest=51),
    ),
    VideoCodec(
        "x265-live", "x265 live", "libx265", "hevc", "265", True,
        ("-preset", "slow", "-tune", "zerolatency", "-crf", "{q}", "-x265-params", _X265),
        _ladder(34, 42, coarsest=51),
    ),
    VideoCodec(
        "vp8-live", "VP8 live", "libvpx", "vp8", "ivf", True,
        # A negative cpu-used is a fixed speed; a positive one would depend on how busy the machine is.
        ("-deadline", "realtime", "-cpu-used", "-5", "-lag-in-frames", "0", "-auto-alt-ref", "0", "-threads", "1",
         "-g", _NEVER, "-qmin", "{q}", "-qmax", "{q}", "-b:v", "1M"),
        _ladder(46, 56, coarsest=63),
    ),
    VideoCodec(
        "vp9", "VP9 good", "libvpx-vp9", "vp9", "ivf", False,
        ("-deadline", "good", "-cpu-used", "1", "-lag-in-frames", "25", "-auto-alt-ref", "1", "-threads", "1",
         "-row-mt", "0", "-g", _NEVER, "-crf", "{q}", "-b:v", "0"),
        _ladder(48, 57, coarsest=63),
    ),
    VideoCodec(
        "vp9-live", "VP9 live", "libvpx-vp9", "vp9", "ivf", True,
        ("-deadline", "realtime", "-cpu-used", "5", "-lag-in-frames", "0", "-threads", "1", "-row-mt", "0",
         "-g", _NEVER, "-crf", "{q}", "-b:v", "0"),
        _ladder(50, 58, coarsest=63),
    ),
    VideoCodec(
        "svt-av1-live", "AV1 live (SVT)", "libsvtav1", "av1", "ivf", True,
        ("-preset", "8", "-crf", "{q}", "-g", _NEVER, "-svtav1-params", "pred-struct=1:lp=1"),
        _ladder(46, 56, coarsest=63),
    ),
    VideoCodec(
        "aom-av1-live", "AV1 live (libaom)", "libaom-av1", "av1", "ivf", True,
        ("-usage", "realtime", "-cpu-used", "6", "-lag-in-frames", "0", "-threads", "1", "-row-mt", "0",
         "-g", _NEVER, "-crf", "{q}", "-b:v", "0"),
        _ladder(44, 54, coarsest=63),
    ),
    VideoCodec(
        "vvenc", "VVC (VVenC fast)", "libvvenc", "vvc", "266", False,
        ("-preset", "fast", "-qp", "{q}", "-qpa", "0", "-period", _NEVER, "-threads", "1",
         "-vvenc-params", f"IntraPeriod={_NEVER}"),
        _ladder(34, 42, coarsest=50), "yuv420p10le",
    ),
)  # fmt: skip


@dataclass(frozen=True)
class CodedVideo:
    """What came out: coded pictures in the order in which they are sent, and what the receiver shows."""

    units: tuple[tuple[int, ...], ...]  # of every coded picture, the bytes of its parts (see `split_unit`)
    frames_per_unit: int  # 2 at half rate: a picture is shown twice
    shown: NDArray[np.uint8]  # [T, S, S, 3]
    file_bytes: int
    packets: tuple[bytes, ...]


def named(key: str) -> VideoCodec:
    """The codec called `key`; BadInput for an unknown one."""
    for codec in CODECS:
        if codec.key == key:
            return codec
    raise BadInput(f"codec is {key!r}; allowed: {', '.join(codec.key for codec in CODECS)}")


def code_video(
    frames: NDArray[np.uint8], fps: float, codec: VideoCodec, point: RatePoint, ffmpeg: Ffmpeg
) -> CodedVideo:
    """Encodes and decodes uint8 RGB [T, S, S, 3]. BadInput when this ffmpeg lacks the encoder, or it fails."""
    if codec.encoder not in ffmpeg.encoders:
        raise BadInput(f"ffmpeg {ffmpeg.version} has no encoder {codec.encoder}")
    size = frames.shape[1]
    step = 2 if point.half_rate else 1
    side = size // 2 if point.half_side else size
    sent = frames[::step]
    rate = fps / step
    with tempfile.TemporaryDirectory(prefix="kilocall-") as name:
        folder = Path(name)
        coded = f"coded.{codec.container}"
        ffmpeg.run(
            [*_raw_input(size, rate), "-i", "-",
             "-vf", f"scale={side}:{side}:flags={_FLAGS}:out_color_matrix=bt601:out_range=tv,format={codec.pixels}",
             *codec.arguments(point), coded],
            folder=folder, stdin=sent.tobytes(), timeout_s=_TIMEOUT_S,
        )  # fmt: skip
        raw = ffmpeg.run(
            ["-i", coded, "-fps_mode", "passthrough",
             "-vf", f"scale={size}:{size}:flags={_FLAGS}:in_color_matrix=bt601:in_range=tv,format=rgb24",
             "-f", "rawvideo", "-"],
            folder=folder, timeout_s=_TIMEOUT_S,
        )  # fmt: skip
        file_bytes = (folder / coded).stat().st_size
        packets = tuple(_packets(folder / coded))
    shown = np.frombuffer(raw, np.uint8).reshape(-1, size, size, 3)
    if len(shown) != len(sent):
        raise BadInput(f"{codec.title} {point.name}: {len(sent)} pictures went in, {len(shown)} came out")
    units = tuple(tuple(len(part) for part in split_unit(packet, codec.format)) for packet in packets)
    held = np.repeat(shown, step, axis=0)[: len(frames)] if step > 1 else shown
    return CodedVideo(units, step, held, file_bytes, packets)


def _raw_input(size: int, rate: float) -> list[str]:
    return ["-f", "rawvideo", "-pix_fmt", "rgb24", "-video_size", f"{size}x{size}", "-framerate", f"{rate:.6f}"]


def _packets(path: Path) -> Iterator[bytes]:
    with av.open(str(path)) as container:
        for packet in container.demux(video=0):
            if packet.size:
                yield bytes(packet)


def split_unit(data: bytes, format: Format) -> list[bytes]:
    """The parts of a coded picture that RTP carries: NAL units without start codes, OBUs without temporal
    delimiters, or for VP8 and VP9 the picture as it is."""
    if format in ("vp8", "vp9"):
        return [data]
    return list(_obus(data)) if format == "av1" else list(_nal_units(data))


def _nal_units(data: bytes) -> Iterator[bytes]:
    """NAL units of an Annex B byte stream (ITU-T H.264, H.265, H.266 annex B)."""
    start = data.find(b"\0\0\1")
    while start >= 0:
        end = data.find(b"\0\0\1", start + 3)
        # Zeros before a start code belong to it, or are padding.
        yield (data[start + 3 :] if end < 0 else data[start + 3 : end]).rstrip(b"\0")
        start = end


_TEMPORAL_DELIMITER: Final = 2
_HAS_EXTENSION, _HAS_SIZE = 4, 2


def _obus(data: bytes) -> Iterator[bytes]:
    """OBUs without their size fields, as RTP wants them (AV1 section 5.3, AV1 RTP section 4.4)."""
    at = 0
    while at < len(data):
        header = data[at]
        head = 2 if header & _HAS_EXTENSION else 1
        body, size = at + head, len(data) - at - head
        if header & _HAS_SIZE:
            size, taken = _leb128(data, body)
            body += taken
        if body + size > len(data):
            raise BadInput(f"OBU at byte {at} says {size} bytes, {len(data) - body} are left")
        if header >> 3 & 15 != _TEMPORAL_DELIMITER:
            yield bytes([header & ~_HAS_SIZE]) + data[at + 1 : at + head] + data[body : body + size]
        at = body + size


def _leb128(data: bytes, at: int) -> tuple[int, int]:
    value = 0
    for taken, byte in enumerate(data[at : at + 8]):
        value |= (byte & 127) << (7 * taken)
        if not byte & 128:
            return value, taken + 1
    raise BadInput(f"OBU size at byte {at} does not end")
