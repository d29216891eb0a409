"""Sends the crops of a clip through encoder, packet bytes and decoder."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from kilocall.api import Decoder, Encoder
from kilocall.bench.evaluate.footage import Footage
from kilocall.model.family import Family, Picture, Source, Track
from kilocall.model.motion import Motion
from kilocall.model.reference_pictures import ReferencePicture
from kilocall.proto.control import SourcePicture
from kilocall.proto.errors import BadInput
from kilocall.proto.layer_frame import fragment_bytes
from kilocall.proto.motion_packet import MotionPacket
from kilocall.receiver.layer_decoder import LayerDecoder
from kilocall.receiver.layer_mixer import LayerMixer
from kilocall.runtime.pictures import fitted
from kilocall.sender.layer_encoder import LayerEncoder, setting_for

__all__ = ["Received", "Transmission"]

_FACE_CERTAINTY: Final = 0.5


@dataclass(frozen=True)
class Received:
    """What came of a clip at the receiver, and what it cost."""

    pictures: list[Picture]
    bits: NDArray[np.float64]  # payload of every frame
    coding_px: float
    packed: SourcePicture
    source: Source
    motions: list[Motion]
    layer_bytes: int
    """Of the video layer, headers in a message included."""
    plain: list[Motion]
    """Before implicit keypoints were aligned, and before coding."""
    lost: int

    @property
    def source_bytes(self) -> int:
        return len(self.packed.data)


@dataclass(frozen=True)
class Transmission:
    """A clip, and how it is sent."""

    footage: Footage
    source_frame: int
    family: Family
    quality: float
    frames_per_packet: int
    layer_kbps: float = 0
    hold: bool = False

    def send(self, references: Sequence[ReferencePicture] = (), *, show: bool = True) -> Received:
        """To a receiver that holds `references` beside the source picture; without `show` it renders nothing."""
        family, footage = self.family, self.footage
        encoder = Encoder(
            footage.crops[self.source_frame],
            fps=footage.fps,
            quality=self.quality,
            frames_per_packet=self.frames_per_packet,
            family=family,
        )
        encoder.packets.set_references(references)
        decoder = Decoder(encoder.source_picture, family=family)
        decoder.renderer.hold = float(self.hold)
        layer = self._layer(decoder)
        receiver = _Receiver(decoder, family, encoder.source, show=show)
        waiting: list[tuple[int, NDArray[np.float32]]] = []  # time and keypoints of frames that are not sent yet
        seen: Track | None = None
        plain: list[Motion] = []
        lost = 0
        for number, (when, track) in enumerate(zip(footage.times_us, footage.tracks, strict=True)):
            if track.certainty < _FACE_CERTAINTY:
                lost += 1
            else:
                seen = track
            packet = encoder.packets.push_track(seen or track, when)
            assert encoder.packets.last_motion is not None
            assert encoder.packets.extractor.plain is not None
            plain.append(encoder.packets.extractor.plain)
            waiting.append((when, family.keypoints(encoder.source, encoder.packets.last_motion)))
            if number + 1 == len(footage.tracks):
                packet = packet or encoder.flush()
            layer.push(footage.crops[number], when)
            if packet is not None:
                receiver.take(packet, waiting)
                waiting.clear()
        return Received(
            receiver.pictures,
            np.array(receiver.bits),
            float(np.mean(receiver.errors)),
            encoder.source_picture,
            encoder.source,
            receiver.motions,
            layer.bytes,
            plain,
            lost,
        )

    def _layer(self, decoder: Decoder) -> _LayerWay:
        fusion = self.family.fusion() if self.layer_kbps else None
        if self.layer_kbps and fusion is None:
            raise BadInput(f"layer is {self.layer_kbps:g} kbit/s; family {self.family.name} takes no video layer")
        setting = setting_for(self.layer_kbps)
        if fusion is None or setting is None:
            return _LayerWay(None, None)
        mixer = LayerMixer(fusion)
        decoder.renderer.layer = mixer
        return _LayerWay(LayerEncoder(setting), mixer)


class _Receiver:
    """What comes of packets; with `show` pictures as well. `source` is the sender's."""

    def __init__(self, decoder: Decoder, family: Family, source: Source, *, show: bool) -> None:
        self.pictures: list[Picture] = []
        self.motions: list[Motion] = []
        self.bits: list[float] = []
        """Payload of every frame."""
        self.errors: list[float] = []
        """Of every frame's keypoints by coding, pixels in the mean."""
        self._decoder, self._family, self._source, self._show = decoder, family, source, show

    def take(self, packet: MotionPacket, sent: Sequence[tuple[int, NDArray[np.float32]]]) -> None:
        """`sent` are the times of its frames, and their keypoints before coding."""
        # Decoder.push, taken apart, because the motion is wanted as well.
        packets, size = self._decoder.packets, self._family.size
        motions = packets.push(bytes(packet))
        if len(motions) != len(sent):
            raise BadInput(f"packet {packet.sequence} was not decoded: {packets.last_problem}")
        self.bits += [8 * len(packet.payload) / packet.frame_count] * packet.frame_count
        for (when, before), timed in zip(sent, motions, strict=True):
            moved = self._family.keypoints(self._source, timed.motion) - before
            self.errors.append(float(np.linalg.norm(moved, axis=-1).mean()) * size / 2)
            self.motions.append(timed.motion)
            if self._show:
                # Some families make larger pictures than the crops that they are compared with.
                self.pictures.append(fitted(self._decoder.renderer.render(timed.motion, when), size))


class _LayerWay:
    """The video layer from encoder to decoder, where there is one."""

    def __init__(self, encoder: LayerEncoder | None, mixer: LayerMixer | None) -> None:
        self._encoder, self._mixer, self._decoder = encoder, mixer, LayerDecoder()
        self.bytes = 0

    def push(self, crop: Picture, time_us: int) -> None:
        coded = None if self._encoder is None else self._encoder.push(crop, time_us)
        if coded is None or self._mixer is None:
            return
        self.bytes += fragment_bytes(len(coded.data))
        picture = self._decoder.push(coded.data, key=coded.key)
        if picture is None:
            raise BadInput(f"layer frame at {time_us} us was not decoded")
        self._mixer.push(time_us, picture)
