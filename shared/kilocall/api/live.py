"""The two ends of a link, frame by frame: crops in, packets out, and the reverse."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from kilocall.api.families import fitted_to, open_family
from kilocall.model.family import Family, Picture, Source
from kilocall.model.reference_pictures import check_reference_budget
from kilocall.proto.control import SourcePicture
from kilocall.proto.motion_packet import MotionPacket
from kilocall.runtime.picture_process import decode_from_others

if TYPE_CHECKING:
    from kilocall.receiver.render import FaceRenderer
    from kilocall.sender.encoder import PacketEncoder
    from kilocall.sender.reference_search import ReferenceSearch

__all__ = ["GALLERY_KB", "KEY_EVERY_S", "DecodedFrame", "Decoder", "Encoder", "pack_source_picture"]


KEY_EVERY_S = 2.0
#: Of all pictures of a gallery together.
GALLERY_KB = 40.0


@dataclass(frozen=True)
class DecodedFrame:
    """A picture uint8 RGB [S, S, 3], or [H, W, 3] of a camera, and its time in microseconds."""

    time_us: int
    rgb: Picture
    camera: bool = False
    """Whether it is what the speaker's camera saw, as it was, and not the speaker made from a picture."""


class Encoder:
    """The sender, frame by frame: crops of one speaker in, motion packets out.

    `source_picture` is what the receiver must get before the first packet. The crops are uint8 RGB [256, 256, 3];
    `kilocall.sender.face_crop.FaceCropper` cuts them from whole frames. With a `gallery`, the most pictures of the
    speaker that the receiver will hold, `next_picture` says now and then what further picture to send it.
    """

    def __init__(
        self,
        source_rgb: Picture,
        *,
        fps: float = 25.0,
        quality: float = 50,
        frames_per_packet: int = 3,
        key_every_s: float = KEY_EVERY_S,
        gallery: int = 0,
        gallery_kb: float = GALLERY_KB,
        engine: str = "auto",
        threads: int = 0,
        family: Family | None = None,
    ) -> None:
        from kilocall.sender.encoder import PacketEncoder
        from kilocall.sender.reference_search import MOST_PROBES, ReferenceSearch, bytes_each

        self.family = family or open_family(engine=engine, threads=threads)
        self.source_picture, self.source = pack_source_picture(self.family, source_rgb)
        self.packets: PacketEncoder = PacketEncoder(
            self.family,
            self.source,
            fps=fps,
            quality=quality,
            frames_per_packet=frames_per_packet,
            key_every_s=key_every_s,
        )
        self._search: ReferenceSearch | None = None
        self._gallery, self._pushed = gallery, 0
        check_reference_budget(gallery, gallery_kb)
        if gallery > 1:
            each = bytes_each(gallery, gallery_kb, self.source_picture, self.source.picture.shape[0])
            self._search = ReferenceSearch(self.family, self.source, max_bytes=each, most_probes=MOST_PROBES)

    def push(self, crop_rgb: Picture, capture_us: int) -> MotionPacket | None:
        """One crop; a packet when enough frames are gathered."""
        from kilocall.sender.reference_search import PROBE_EVERY, Probe

        packet = self.packets.push(crop_rgb, capture_us)
        if self._search is not None and self._pushed % PROBE_EVERY == 0 and self.packets.extractor.plain is not None:
            self._search.add(Probe(crop_rgb, self.packets.extractor.plain, crop_rgb))
        self._pushed += 1
        return packet

    def next_picture(self) -> SourcePicture | None:
        """A further picture that would pay off by all that was pushed so far; None if there is none.

        It counts as held by the receiver from now on. Takes some tenths of a second.
        """
        from kilocall.sender.reference_search import CAUSAL_SHORTLIST

        search = self._search
        if search is None or search.pictures >= self._gallery:
            return None
        proposal = search.best(CAUSAL_SHORTLIST)
        if proposal is None:
            return None
        search.add_reference(proposal.reference)
        self.packets.set_references(search.further)
        return proposal.packed

    def flush(self) -> MotionPacket | None:
        """What is gathered, as a shorter packet."""
        return self.packets.flush()


class Decoder:
    """The receiver, packet by packet: pictures of the source's face, moved.

    `source` is the sender's `source_picture`, or a picture uint8 [256, 256, 3]. With `shown`, another picture is
    moved in its place (relative motion). The head can be turned at any time through `view`.
    """

    def __init__(
        self,
        source: SourcePicture | Picture,
        *,
        shown: Picture | None = None,
        engine: str = "auto",
        threads: int = 0,
        family: Family | None = None,
    ) -> None:
        from kilocall.receiver.decode import PacketDecoder
        from kilocall.receiver.render import FaceRenderer

        self.family = family or open_family(engine=engine, threads=threads)
        picture = decode_from_others(source.data) if isinstance(source, SourcePicture) else source
        own = self.family.source(fitted_to(picture, self.family))
        self.packets = PacketDecoder(self.family.codebook)
        self.renderer: FaceRenderer = FaceRenderer(
            self.family,
            own,
            self.family.source(fitted_to(shown, self.family)) if shown is not None else None,
        )

    def add_picture(self, picture: SourcePicture | Picture) -> None:
        """A further picture of the speaker; each frame is shown on the nearest of those held.

        BadInput for one too many or with `shown`, NoFace; then nothing has changed.
        """
        rgb = decode_from_others(picture.data) if isinstance(picture, SourcePicture) else picture
        self.renderer.add_picture(fitted_to(rgb, self.family))

    def push(self, packet: MotionPacket | bytes) -> list[DecodedFrame]:
        """The packet's frames; none when it cannot be decoded (`packets.dropped` counts those)."""
        return [DecodedFrame(m.time_us, self.renderer.render(m.motion)) for m in self.packets.push(packet)]


def pack_source_picture(family: Family, picture: Picture) -> tuple[SourcePicture, Source]:
    """The picture as it is sent, and its keypoints as the receiver will find them: from the compressed picture."""
    from kilocall.sender.source_picture import pack_source

    packed, seen = pack_source(fitted_to(picture, family))
    return packed, family.source(seen)
