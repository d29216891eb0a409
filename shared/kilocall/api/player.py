"""A stream file opened for decoding, with seeking, another picture, and the head turned."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from kilocall.api.families import check_family, face_of_picture, fitted_to, open_family
from kilocall.api.live import DecodedFrame
from kilocall.model.family import DETAIL, Family, Picture, Source
from kilocall.proto.control import SourcePicture
from kilocall.proto.errors import BadInput
from kilocall.proto.stream_file import StreamReader, TimedPacket
from kilocall.runtime.picture_process import decode_from_others
from kilocall.runtime.pictures import fitted

if TYPE_CHECKING:
    from kilocall.receiver.decode import TimedMotion
    from kilocall.receiver.layer_track import LayerTrack
    from kilocall.receiver.render import FaceRenderer

__all__ = ["StreamPlayer"]


class StreamPlayer:
    """A stream file opened for decoding: its family, its pictures, its motion, with seeking."""

    def __init__(
        self,
        stream: Path | str,
        *,
        source: Path | str | None = None,
        largest: int | None = None,
        engine: str = "auto",
        threads: int = 0,
        layer: bool = True,
        family: Family | None = None,
    ) -> None:
        """`source` is moved in place of the stream's own picture. Pictures are 256 wide, or 512 where the source
        picture is, but no more than `largest`. Without `layer` the video layer is left alone, if there is one, and what
        the camera saw."""
        from kilocall.receiver.decode import PacketDecoder
        from kilocall.receiver.render import FaceRenderer

        self._largest = largest
        self.reader = StreamReader(stream)
        header = self.reader.header
        picture = self.reader.source_picture()
        if picture is None:
            why = self.reader.damage or "it has none"
            raise BadInput(f"{stream}: the file breaks off before its source picture ({why}); nothing can be shown")
        self.family = family or open_family(header.family, engine=engine, threads=threads)
        check_family(header, self.family, str(stream))
        self.source_picture = picture
        self.stream_source = self._sized(_decoded(picture, str(stream)))
        self._make: Callable[[Source], FaceRenderer] = lambda shown: FaceRenderer(
            self.family, self.stream_source, shown
        )
        self._own = FaceRenderer(self.family, self.stream_source)
        self.renderer: FaceRenderer = self._own
        self.unused_pictures = 0
        """Further pictures in the file that cannot be used: damaged, or without a face."""
        for reference in self.reader.references():
            try:
                self._own.add_picture(fitted_to(decode_from_others(reference.data), self.family))
            except BadInput:
                self.unused_pictures += 1
        self.packets = PacketDecoder(self.family.codebook)
        self.layer: LayerTrack | None = self._layer_track() if layer else None
        self._own.layer = self.layer
        if source is not None:
            self.show(face_of_picture(Path(source), self.family, size=DETAIL * self.family.size))

    def _layer_track(self) -> LayerTrack | None:
        from kilocall.receiver.layer_mixer import LayerMixer
        from kilocall.receiver.layer_track import LayerTrack

        frames = self.reader.video()
        fusion = self.family.fusion() if frames else None
        return None if fusion is None else LayerTrack(frames, LayerMixer(fusion))

    def _sized(self, picture: Picture) -> Source:
        if self._largest is not None and self._largest < DETAIL * self.family.size:
            return self.family.source(fitted(picture, self.family.size))
        return self.family.source(fitted_to(picture, self.family))

    @property
    def relative(self) -> bool:
        """Whether another picture than the stream's own is shown."""
        return self.renderer.source is not self.stream_source

    @property
    def size(self) -> int:
        """Side of the pictures made."""
        source = self.renderer.source
        made: int = getattr(self.family, "picture_size", self.family.size)
        return max(made, len(source.picture if source.detail is None else source.detail))

    def show(self, picture: Picture | None) -> None:
        """Moves this crop [256, 256, 3] or [512, 512, 3] in place of the stream's own picture; None goes back.

        NoFace if it has none.
        """
        view = self.renderer.view
        self.renderer = self._own if picture is None else self._make(self._sized(picture))
        self.renderer.view = view

    def motions(self, from_us: int = 0) -> Iterator[TimedMotion]:
        """Motion of every frame from the key packet at or before `from_us` on, with times from the stream's start."""
        from kilocall.receiver.decode import TimedMotion

        start = self.reader.seek(from_us)
        self.packets.reset()
        self.renderer.restart()
        for record in self.reader.records(start.offset if start else None):
            if isinstance(record, TimedPacket):
                times = record.frame_times_us(self.reader.header.fps)
                for when, timed in zip(times, self.packets.push(record.packet), strict=False):
                    yield TimedMotion(when, timed.motion)

    def camera(self, time_us: int) -> Picture | None:
        """What the speaker's camera saw [H, W, 3], where that is shown at this time in place of the speaker; never with
        another picture than the stream's own, for it shows who moves that."""
        return None if self.layer is None or self.relative else self.layer.camera(time_us)

    def frames(self, from_us: int = 0) -> Iterator[DecodedFrame]:
        """Pictures of every frame from `from_us` on."""
        for timed in self.motions(from_us):
            if timed.time_us < from_us:
                continue
            camera = self.camera(timed.time_us)
            if camera is not None:
                yield DecodedFrame(timed.time_us, camera.copy(), camera=True)
            else:
                yield DecodedFrame(timed.time_us, self.renderer.render(timed.motion, timed.time_us))


def _decoded(picture: SourcePicture, stream: str) -> Picture:
    try:
        return decode_from_others(picture.data)
    except BadInput as error:
        raise BadInput(f"{stream}: its source picture cannot be used: {error}") from error
