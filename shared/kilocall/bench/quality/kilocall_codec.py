"""kilocall on the bench: a clip through encoder, packet bytes and decoder, as a call without loss would send it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import cv2
import numpy as np
from numpy.typing import NDArray

from kilocall.api import Decoder, Encoder
from kilocall.bench.quality.clips import BenchClip
from kilocall.model.family import Family, Picture
from kilocall.proto.errors import BadInput

__all__ = ["FRAMES_PER_PACKET", "QUALITIES", "SentMotion", "code_motion", "frozen_source"]

QUALITIES: Final = (10.0, 30.0, 50.0, 90.0)
#: The first is what pictures are made from; payloads are counted for all.
FRAMES_PER_PACKET: Final = (3, 1, 2, 4)


@dataclass(frozen=True)
class SentMotion:
    """What was sent of a clip and what the receiver shows, uint8 [T, S, S, 3] at the clip's size."""

    payloads: dict[int, tuple[int, ...]]  # frames per packet -> bytes of every packet's payload
    messages: dict[int, tuple[int, ...]]  # the same with the packet's own header
    source_bytes: int
    source_format: str
    shown: NDArray[np.uint8]


def code_motion(clip: BenchClip, family: Family, quality: float) -> SentMotion:
    """Sends the clip; its first frame is the source picture, as it is the classic codecs' key frame."""
    payloads, messages = {}, {}
    for count in FRAMES_PER_PACKET:
        encoder = Encoder(clip.crops[0], fps=clip.fps, quality=quality, frames_per_packet=count, family=family)
        packets = [encoder.packets.push_track(*pair) for pair in zip(clip.tracks, clip.times_us, strict=True)]
        sent = [packet for packet in (*packets, encoder.flush()) if packet is not None]
        payloads[count] = tuple(len(packet.payload) for packet in sent)
        messages[count] = tuple(len(bytes(packet)) for packet in sent)
        if count == FRAMES_PER_PACKET[0]:
            source = encoder.source_picture
            decoder = Decoder(source, family=family)
            made = [frame.rgb for packet in sent for frame in decoder.push(bytes(packet))]
    if len(made) != len(clip.frames):
        raise BadInput(f"{clip.name}: {len(clip.frames)} frames went in, {len(made)} came out")
    shown = np.stack([_resized(picture, clip.size) for picture in made])
    return SentMotion(payloads, messages, len(source.data), source.format, shown)


def frozen_source(clip: BenchClip, family: Family) -> tuple[Picture, int]:
    """The source picture as the receiver gets it, at the clip's size, and its bytes: the floor of every method."""
    from kilocall.runtime.pictures import decode_picture, encode_picture

    _, data = encode_picture(clip.crops[0])
    return _resized(decode_picture(data), clip.size), len(data)


def _resized(picture: Picture, size: int) -> Picture:
    if picture.shape[0] == size:
        return picture
    how = cv2.INTER_AREA if picture.shape[0] > size else cv2.INTER_CUBIC
    return np.asarray(cv2.resize(picture, (size, size), interpolation=how), np.uint8)
