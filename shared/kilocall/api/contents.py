"""What is in a stream file, read without running a network."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from pydantic import BaseModel

from kilocall.api.families import open_family
from kilocall.model.family import OWN_WEIGHTS
from kilocall.proto.control import CropPlace
from kilocall.proto.errors import BadInput
from kilocall.proto.layer_frame import TimedLayerFrame
from kilocall.proto.stream_file import StreamHeader, StreamReader
from kilocall.proto.wire_cost import wire_cost

__all__ = ["StreamInfo", "WireRate", "info"]


class WireRate(BaseModel):
    """Kilobits per second on a data channel over IPv4, one way and back."""

    frames_per_packet: int
    forward_kbps: float
    sack_kbps: float
    delayed_sack_kbps: float


class StreamInfo(BaseModel):
    """What is in a stream file."""

    path: Path
    family: str
    installed_weights_match: bool | None  # None when the family is not installed
    tool: str
    frames: int
    fps: float
    seconds: float
    keypoints: int | None
    motion_numbers: int | None
    picture_size: int
    frame_width: int
    frame_height: int
    whole_frames: bool  # what is coded is all of the clip's picture, not the face cut out of it
    quality: float
    source_format: str | None
    source_bytes: int
    pictures: int
    picture_bytes: int
    packets: int
    key_packets: int
    frames_per_packet: float
    payload_bits_mean: float
    payload_bits_p95: float
    payload_bits_max: float
    payload_kbps: float
    sound_bytes: int
    sound_kbps: float
    layer_frames: int
    layer_bytes: int
    layer_kbps: float
    camera_frames: int  # pictures of what the speaker's camera saw
    camera_bytes: int
    camera_s: float  # that they are shown for
    file_bytes: int
    wire: list[WireRate]
    truncated: str | None


def info(stream: Path | str) -> StreamInfo:
    """Reads a stream file without running any network."""
    reader = StreamReader(stream)
    header = reader.header
    packets, places = list(reader.packets()), [one for one in reader.records() if isinstance(one, CropPlace)]
    per_frame = [8 * len(p.packet.payload) / p.packet.frame_count for p in packets for _ in range(p.packet.frame_count)]
    bits = np.array(per_frame or [0.0])
    picture = reader.source_picture()
    pictures = [one for one in (picture, *reader.references()) if one is not None]
    fps = float(header.fps)
    numbers, keypoints, match = _installed(header)
    frames = len(per_frame)
    sound_bytes = sum(len(bytes(sound)) for sound in reader.sounds())
    video = reader.video()
    layer = [frame for frame in video if not frame.whole]
    camera = [frame for frame in video if frame.whole and frame.data]
    layer_bytes = sum(len(frame.data) for frame in layer)
    return StreamInfo(
        path=Path(stream),
        family=header.family,
        installed_weights_match=match,
        tool=header.tool,
        frames=frames,
        fps=fps,
        seconds=reader.duration_us / 1e6,
        keypoints=keypoints,
        motion_numbers=numbers,
        picture_size=header.picture_size,
        frame_width=header.frame_width,
        frame_height=header.frame_height,
        whole_frames=bool(places) and all(_is_whole(place) for place in places),
        quality=header.quality,
        source_format=picture.format if picture else None,
        source_bytes=len(picture.data) if picture else 0,
        pictures=len(pictures),
        picture_bytes=sum(len(one.data) for one in pictures),
        packets=len(packets),
        key_packets=sum(p.packet.is_key for p in packets),
        frames_per_packet=frames / len(packets) if packets else 0.0,
        payload_bits_mean=float(bits.mean()),
        payload_bits_p95=float(np.percentile(bits, 95)),
        payload_bits_max=float(bits.max()),
        sound_bytes=sound_bytes,
        sound_kbps=8 * sound_bytes / max(1, reader.duration_us) * 1000,
        layer_frames=len(layer),
        layer_bytes=layer_bytes,
        layer_kbps=8 * layer_bytes / max(1, reader.duration_us) * 1000,
        camera_frames=len(camera),
        camera_bytes=sum(len(frame.data) for frame in camera),
        camera_s=_camera_us(video, reader.duration_us) / 1e6,
        payload_kbps=float(bits.sum()) / max(1, reader.duration_us) * 1000,
        file_bytes=Path(stream).stat().st_size,
        wire=[_wire_rate(float(bits.mean()), fps, n) for n in (1, 2, 3)],
        truncated=reader.damage,
    )


def _camera_us(video: list[TimedLayerFrame], end_us: int) -> int:
    """How long what the camera saw is shown: from each picture to what comes next."""
    ends = [*(frame.time_us for frame in video[1:]), end_us]
    return sum(
        max(0, min(end, end_us) - frame.time_us)
        for frame, end in zip(video, ends, strict=False)
        if frame.whole and frame.data
    )


def _is_whole(place: CropPlace) -> bool:
    size = (place.frame_width, place.frame_height)
    return (place.x0, place.y0) == (0, 0) and place.side == max(size) and max(size) - min(size) <= 1


def _installed(header: StreamHeader) -> tuple[int | None, int | None, bool | None]:
    """Numbers of motion and keypoints of the stream's family and whether the weights match, if it is installed."""
    if header.family in OWN_WEIGHTS:
        from kilocall.model.fit import KEYPOINTS, default_coding

        # A codebook of their own may send fewer numbers.
        coding = default_coding(header.family).codebook
        numbers = coding.coefficients if coding.hash == header.codebook_hash else None
        return numbers, KEYPOINTS[header.family], None
    try:
        family = open_family(header.family)
    except BadInput:
        return None, None, None
    manifest: dict[str, Any] = getattr(family, "manifest", {})
    keypoints = manifest.get("landmarks", 0) + manifest.get("free_points", 0)
    return family.codebook.coefficients, keypoints, family.weights_hash == header.weights_hash


def _wire_rate(bits_per_frame: float, fps: float, frames_per_packet: int) -> WireRate:
    cost = wire_cost(bits_per_frame, fps, frames_per_packet)
    return WireRate(
        frames_per_packet=frames_per_packet,
        forward_kbps=cost.forward_bps / 1000,
        sack_kbps=cost.sack_bps / 1000,
        delayed_sack_kbps=cost.delayed_sack_bps / 1000,
    )
