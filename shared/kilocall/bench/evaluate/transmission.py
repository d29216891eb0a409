"""Sends the crops of a clip through encoder, packet bytes and decoder."""

from __future__ import annotations

from collections import deque
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
        waiting: list[NDArray[np.float32]] = []  # keypoints before coding of frames that are not sent yet
        pictures: list[Picture] = []
        bits: list[float] = []
        errors: list[float] = []
        seen: Track | None = None
        decoded: list[Motion] = []
        plain: list[Motion] = []
        lost = 0
        times: deque[int] = deque()  # of the frames that wait
        for number, (when, track) in enumerate(zip(footage.times_us, footage.tracks, strict=True)):
            if track.certainty < _FACE_CERTAINTY:
                lost += 1
            else:
                seen = track
            packet = encoder.packets.push_track(seen or track, when)
            assert encoder.packets.last_motion is not None
            assert encoder.packets.extractor.plain is not None
            plain.append(encoder.packets.extractor.plain)
            times.append(when)
            waiting.append(family.keypoints(encoder.source, encoder.packets.last_motion))
            if number + 1 == len(footage.tracks):
                packet = packet or encoder.flush()
            layer.push(footage.crops[number], when)
            if packet is None:
                continue
            # Decoder.push, taken apart, because the motion is wanted as well.
            motions = decoder.packets.push(bytes(packet))
            if len(motions) != len(waiting):
                raise BadInput(f"packet {packet.sequence} was not decoded: {decoder.packets.last_problem}")
            bits += [8 * len(packet.payload) / packet.frame_count] * packet.frame_count
            for before, timed in zip(waiting, motions, strict=True):
                moved = family.keypoints(encoder.source, timed.motion) - before
                errors.append(float(np.linalg.norm(moved, axis=-1).mean()) * family.size / 2)
                # Some families make larger pictures than the crops that they are compared with.
                decoded.append(timed.motion)
                if show:
                    pictures.append(fitted(decoder.renderer.render(timed.motion, times[0]), family.size))
                times.popleft()
            waiting.clear()
        return Received(
            pictures,
            np.array(bits),
            float(np.mean(errors)),
            encoder.source_picture,
            encoder.source,
            decoded,
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
