"""kilocall on the bench: a clip through encoder, messages and decoder, as a call without loss would send it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Final

import cv2
import numpy as np
from numpy.typing import NDArray

from kilocall.api import Decoder, Encoder
from kilocall.bench.quality.clips import BenchClip
from kilocall.model.family import Family, Picture
from kilocall.proto.control import LayerReport
from kilocall.proto.errors import BadInput
from kilocall.proto.layer_frame import LayerFragment
from kilocall.proto.motion_message import MotionMessage
from kilocall.receiver.layer_mixer import LayerMixer
from kilocall.receiver.layer_receiver import LayerReceiver
from kilocall.sender.layer_sender import LayerSender

__all__ = [
    "FRAMES_PER_PACKET",
    "QUALITIES",
    "SentMotion",
    "code_motion",
    "frozen_source",
    "layer_mixer",
    "layer_sender",
]

QUALITIES: Final = (10.0, 30.0, 50.0, 90.0)
#: The first is what pictures are made from; payloads are counted for all.
FRAMES_PER_PACKET: Final = (3, 1, 2, 4)


@dataclass(frozen=True)
class SentMotion:
    """What was sent of a clip and what the receiver shows, uint8 [T, S, S, 3] at the clip's size."""

    payloads: dict[int, tuple[int, ...]]  # frames per packet -> bytes of every packet's payload
    layer: dict[int, tuple[int, ...]]  # the same of the video layer behind each, after its first frame
    messages: dict[int, tuple[int, ...]]  # both with their headers
    first_layer: tuple[int, ...]
    """Bytes of the pieces of the layer's first frame, a key frame as every codec's first picture; none without one."""
    source_bytes: int
    source_format: str
    shown: NDArray[np.uint8]


def code_motion(clip: BenchClip, family: Family, quality: float, layer_kbps: float = 0) -> SentMotion:
    """Sends the clip; its first frame is the source picture, as it is the classic codecs' key frame. With `layer_kbps`
    a video layer goes with the motion."""
    payloads, layer, messages = {}, {}, {}
    for count in FRAMES_PER_PACKET:
        encoder = Encoder(clip.crops[0], fps=clip.fps, quality=quality, frames_per_packet=count, family=family)
        sent = list(_messages(clip, encoder, layer_sender(layer_kbps)))
        first, rest = _without_first_frame(sent)
        payloads[count] = tuple(len(message.packet.payload) for message in rest)
        layer[count] = tuple(sum(len(piece.data) for piece in message.fragments) for message in rest)
        messages[count] = tuple(len(bytes(message)) for message in rest)
        if count == FRAMES_PER_PACKET[0]:
            source = encoder.source_picture
            first_layer = tuple(len(piece.data) for piece in first)
            decoder = Decoder(source, family=family)
            mixer = decoder.renderer.layer = layer_mixer(family, layer_kbps)
            made = list(_shown(sent, decoder, mixer))
    if len(made) != len(clip.frames):
        raise BadInput(f"{clip.name}: {len(clip.frames)} frames went in, {len(made)} came out")
    shown = np.stack([_resized(picture, clip.size) for picture in made])
    return SentMotion(payloads, layer, messages, first_layer, len(source.data), source.format, shown)


def layer_sender(kbps: float) -> LayerSender:
    """Of a call with a video layer of this rate, or 0 for none, whose other side has asked for it."""
    sender = LayerSender()
    sender.follow(round(1000 * kbps))
    sender.asked(LayerReport(round(1000 * kbps), None, False))
    return sender


def layer_mixer(family: Family, kbps: float) -> LayerMixer | None:
    """What mixes a layer of this rate into the family's pictures; None for 0. BadInput where the family takes none."""
    if not kbps:
        return None
    fusion = family.fusion()
    if fusion is None:
        raise BadInput(f"layer is {kbps:g} kbit/s; family {family.name} takes no video layer")
    return LayerMixer(fusion)


def _messages(clip: BenchClip, encoder: Encoder, layer: LayerSender) -> Iterator[MotionMessage]:
    """As a call's sender makes them."""
    for crop, track, time_us in zip(clip.crops, clip.tracks, clip.times_us, strict=True):
        layer.push(crop, time_us)
        packet = encoder.packets.push_track(track, time_us)
        if packet is not None:
            yield layer.behind(packet, again=False)
    last = encoder.flush()
    if last is not None:
        yield layer.behind(last, again=False)


def _without_first_frame(sent: Sequence[MotionMessage]) -> tuple[list[LayerFragment], list[MotionMessage]]:
    """The pieces of the layer's first frame, and the messages without them."""
    first: list[LayerFragment] = []
    rest = []
    for message in sent:
        pieces = list(message.fragments)
        while pieces and not (first and first[-1].last):
            first.append(pieces.pop(0))
        rest.append(replace(message, fragments=tuple(pieces)))
    return first, rest


def _shown(sent: Sequence[MotionMessage], decoder: Decoder, mixer: LayerMixer | None) -> Iterator[Picture]:
    """Every frame as soon as its message is there."""
    layer = LayerReceiver()
    for message in map(MotionMessage.parse, map(bytes, sent)):
        timed = decoder.packets.push(message.packet)
        if mixer is not None and timed:
            for piece in message.fragments:
                for frame in layer.push(piece, timed[0].time_us):
                    mixer.push(frame.time_us, frame.picture)
        for one in timed:
            yield decoder.renderer.render(one.motion, one.time_us)


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
