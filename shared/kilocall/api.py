"""The library behind the command line: clips to streams, streams to clips, and both frame by frame.

encode("clip.mp4", "clip.kcs")              decode("clip.kcs", "out.mp4", yaw=10)
encoder = Encoder(picture); packet = encoder.push(crop, capture_us)
decoder = Decoder(encoder.source_picture); frames = decoder.push(packet)
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from fractions import Fraction
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from pydantic import BaseModel

from kilocall.model.family import DEFAULT_FAMILY, DETAIL, OWN_WEIGHTS, Family, Picture, Source, Track, load_family
from kilocall.model.gallery import check_gallery
from kilocall.proto.control import SourcePicture
from kilocall.proto.errors import BadInput, WrongFamily
from kilocall.proto.motion_packet import MotionPacket
from kilocall.proto.stream_file import StreamHeader, StreamReader, StreamWriter, TimedPacket
from kilocall.proto.wire_cost import wire_cost
from kilocall.runtime.engine import choose_engine
from kilocall.runtime.pictures import decode_picture, fitted

if TYPE_CHECKING:
    from kilocall.receiver.decode import TimedMotion
    from kilocall.receiver.render import FaceRenderer
    from kilocall.receiver.whole_frame import WholeFrames
    from kilocall.sender.clip import FollowedClip
    from kilocall.sender.encoder import PacketEncoder
    from kilocall.sender.gallery import GallerySearch

__all__ = [
    "DecodeReport",
    "DecodedFrame",
    "Decoder",
    "EncodeReport",
    "Encoder",
    "StreamInfo",
    "StreamPlayer",
    "WireRate",
    "decode",
    "encode",
    "info",
    "open_family",
]

Progress = Callable[[int, int | None], None]
KEY_EVERY_S = 2.0
#: Of all pictures of a gallery together.
GALLERY_KB = 40.0


class EncodeReport(BaseModel):
    """What an encoding made and cost."""

    stream: Path
    frames: int
    fps: float
    seconds: float
    source_bytes: int
    pictures: int  # of the speaker in the file, the source picture included
    picture_bytes: int  # of all of them
    payload_bits_per_frame: float
    payload_kbps: float
    file_bytes: int
    faces: int
    reframings: int
    lost_frames: int  # frames in which no face was seen; they repeat the last motion
    relative: bool  # the source picture was taken for somebody else
    warnings: list[str]
    wall_s: float


class DecodeReport(BaseModel):
    """What a decoding made."""

    video: Path
    frames: int
    seconds: float
    size: int
    width: int
    height: int
    pictures: int  # of the speaker that were moved
    relative: bool
    truncated: str | None  # what is wrong with the stream, if it breaks off
    dropped_packets: int
    wall_s: float


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
    file_bytes: int
    wire: list[WireRate]
    truncated: str | None


@dataclass(frozen=True)
class DecodedFrame:
    """A picture uint8 RGB [S, S, 3] and its time in microseconds."""

    time_us: int
    rgb: Picture


def open_family(
    name: str = DEFAULT_FAMILY,
    *,
    weights: Path | None = None,
    codebook: Path | None = None,
    engine: str = "auto",
    threads: int = 0,
    progress: Progress | None = None,
) -> Family:
    """A model family on the engine asked for; BadInput when one of them is not installed.

    `weights` names the file or folder of a family that is not in the package, `codebook` what `kilocall fit` wrote.
    """
    return load_family(
        name, engine=choose_engine(engine, threads), folder=weights, codebook=codebook, progress=progress or _silent
    )


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
        from kilocall.sender.gallery import MOST_PROBES, GallerySearch, bytes_each

        self.family = family or open_family(engine=engine, threads=threads)
        self.source_picture, self.source = _pack_source(self.family, source_rgb)
        self.packets: PacketEncoder = PacketEncoder(
            self.family,
            self.source,
            fps=fps,
            quality=quality,
            frames_per_packet=frames_per_packet,
            key_every_s=key_every_s,
        )
        self._search: GallerySearch | None = None
        self._gallery, self._pushed = gallery, 0
        check_gallery(gallery, gallery_kb)
        if gallery > 1:
            each = bytes_each(gallery, gallery_kb, self.source_picture, self.source.picture.shape[0])
            self._search = GallerySearch(self.family, self.source, max_bytes=each, most_probes=MOST_PROBES)

    def push(self, crop_rgb: Picture, capture_us: int) -> MotionPacket | None:
        """One crop; a packet when enough frames are gathered."""
        from kilocall.sender.gallery import PROBE_EVERY, Probe

        packet = self.packets.push(crop_rgb, capture_us)
        if self._search is not None and self._pushed % PROBE_EVERY == 0 and self.packets.last_motion is not None:
            self._search.add(Probe(crop_rgb, self.packets.last_motion, crop_rgb))
        self._pushed += 1
        return packet

    def next_picture(self) -> SourcePicture | None:
        """A further picture that would pay off by all that was pushed so far; None if there is none.

        It counts as held by the receiver from now on. Takes some tenths of a second.
        """
        from kilocall.sender.gallery import CAUSAL_SHORTLIST

        search = self._search
        if search is None or search.pictures >= self._gallery:
            return None
        proposal = search.best(CAUSAL_SHORTLIST)
        if proposal is None:
            return None
        search.hold(proposal.reference)
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
        picture = decode_picture(source.data) if isinstance(source, SourcePicture) else source
        own = self.family.source(_fitted(picture, self.family))
        self.packets = PacketDecoder(self.family.codebook)
        self.renderer: FaceRenderer = FaceRenderer(
            self.family,
            own,
            self.family.source(_fitted(shown, self.family)) if shown is not None else None,
        )

    def add_picture(self, picture: SourcePicture | Picture) -> None:
        """A further picture of the speaker; each frame is shown on the nearest of those held.

        BadInput for one too many or with `shown`, NoFace; then nothing has changed.
        """
        rgb = decode_picture(picture.data) if isinstance(picture, SourcePicture) else picture
        self.renderer.add_picture(_fitted(rgb, self.family))

    def push(self, packet: MotionPacket | bytes) -> list[DecodedFrame]:
        """The packet's frames; none when it cannot be decoded (`packets.dropped` counts those)."""
        return [DecodedFrame(m.time_us, self.renderer.render(m.motion)) for m in self.packets.push(packet)]


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
        family: Family | None = None,
    ) -> None:
        """`source` is moved in place of the stream's own picture. Pictures are 256 wide, or 512 where the source
        picture is, but no more than `largest`."""
        from kilocall.receiver.decode import PacketDecoder
        from kilocall.receiver.render import FaceRenderer

        self._largest = largest
        self.reader = StreamReader(stream)
        header = self.reader.header
        picture = self.reader.source_picture()
        if picture is None:
            raise BadInput(f"{stream}: the file breaks off before its source picture; nothing can be shown")
        self.family = family or open_family(header.family, engine=engine, threads=threads)
        _check_family(header, self.family, str(stream))
        self.source_picture = picture
        self.stream_source = self._sized(decode_picture(picture.data))
        self._make: Callable[[Source], FaceRenderer] = lambda shown: FaceRenderer(
            self.family, self.stream_source, shown
        )
        self._own = FaceRenderer(self.family, self.stream_source)
        self.renderer: FaceRenderer = self._own
        self.unused_pictures = 0
        """Further pictures in the file that cannot be used: damaged, or without a face."""
        for reference in self.reader.references():
            try:
                self._own.add_picture(_fitted(decode_picture(reference.data), self.family))
            except BadInput:
                self.unused_pictures += 1
        self.packets = PacketDecoder(self.family.codebook)
        if source is not None:
            self.show(face_of_picture(Path(source), self.family, size=DETAIL * self.family.size))

    def _sized(self, picture: Picture) -> Source:
        if self._largest is not None and self._largest < DETAIL * self.family.size:
            return self.family.source(fitted(picture, self.family.size))
        return self.family.source(_fitted(picture, self.family))

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

    def frames(self, from_us: int = 0) -> Iterator[DecodedFrame]:
        """Pictures of every frame from `from_us` on."""
        for timed in self.motions(from_us):
            if timed.time_us >= from_us:
                yield DecodedFrame(timed.time_us, self.renderer.render(timed.motion))


def encode(
    clip: Path | str,
    out: Path | str,
    *,
    source: Path | str | None = None,
    fps: float | None = None,
    quality: float = 50,
    size: int | None = None,
    frames_per_packet: int = 3,
    gallery: int = 0,
    gallery_kb: float = GALLERY_KB,
    engine: str = "auto",
    threads: int = 0,
    progress: Progress | None = None,
    family: Family | None = None,
) -> EncodeReport:
    """Encodes a video file into a stream file.

    The source picture is the best frame of the clip unless `source` names a picture; `size` is its side, 256 unless
    512 is asked for and the face is large enough in the clip. With a `gallery` the file holds up to so many pictures
    of the speaker, the source picture included, in `gallery_kb` together, as far as they pay off. Raises BadInput
    (NoFace for a clip without a face) and OSError; then no file is left behind.
    """
    from kilocall.sender.capture import open_clip
    from kilocall.sender.clip import follow_clip
    from kilocall.sender.encoder import PacketEncoder

    started = time.monotonic()
    check_gallery(gallery, gallery_kb)
    out = Path(out)
    if not out.parent.is_dir():
        raise BadInput(f"output {out}: the folder {out.parent} does not exist")
    if out.is_dir():
        raise BadInput(f"output {out} is a folder")
    family = family or open_family(engine=engine, threads=threads)
    if size not in (None, family.size, DETAIL * family.size):
        raise BadInput(f"size is {size}; allowed are {family.size} and {DETAIL * family.size}")
    video = open_clip(clip, fps)
    followed = follow_clip(video, family, progress or _silent, size=size)
    own = followed.best_crop
    given = None if source is None else face_of_picture(Path(source), family, size=size)
    packed, shown = _pack_source(family, own if given is None else given)
    reference = family.source(own) if given is not None else shown
    relative = given is not None and not _same_person(reference, shown)
    rate = Fraction(video.fps).limit_denominator(1001)
    encoder = PacketEncoder(
        family,
        reference if relative else shown,
        onto=shown if relative else None,
        fps=float(rate),
        quality=quality,
        frames_per_packet=frames_per_packet,
        key_every_s=KEY_EVERY_S,
    )
    header = StreamHeader(
        family=family.name,
        weights_hash=family.weights_hash,
        codebook_hash=family.codebook.hash,
        fps=rate,
        picture_size=family.size,
        frame_width=video.width,
        frame_height=video.height,
        quality=quality,
        tool=f"kilocall {_version()}",
        frame_count=len(followed.tracks),
    )
    # A gallery is chosen by what the receiver will make of the packets, so they come first, and the file after it.
    coded = _coded(encoder, followed.tracks)
    warnings = [*followed.warnings]
    further: list[SourcePicture] = []
    if gallery > 1 and relative:
        warnings.append(f"source {source} shows somebody else: it stays the only picture")
    elif gallery > 1:
        packets = list(coded)
        coded = iter(packets)
        further = _further_pictures(family, shown, packed, followed, packets, gallery, gallery_kb, progress or _silent)
    bits = 0
    with StreamWriter(out, header) as writer:
        writer.add_picture(packed)
        for picture in further:
            writer.add_reference(picture)
        places = iter(followed.places)
        place = next(places, None)
        for when, first_us, packet in coded:
            # A place holds from its own frame on; it goes before the packet that holds that frame.
            while place is not None and place.time_us <= when:
                writer.add_place(place)
                place = next(places, None)
            writer.add_packet(first_us, packet)
            bits += 8 * len(packet.payload)
    frames = len(followed.tracks)
    if video.truncated:
        warnings.append(f"{clip} breaks off: {video.truncated}; what came before is encoded")
    return EncodeReport(
        stream=out,
        frames=frames,
        fps=float(rate),
        seconds=frames / float(rate),
        source_bytes=len(packed.data),
        pictures=1 + len(further),
        picture_bytes=sum(len(picture.data) for picture in (packed, *further)),
        payload_bits_per_frame=bits / frames,
        payload_kbps=bits / frames * float(rate) / 1000,
        file_bytes=out.stat().st_size,
        faces=followed.faces,
        reframings=followed.reframings,
        lost_frames=followed.lost_frames,
        relative=relative,
        warnings=warnings,
        wall_s=time.monotonic() - started,
    )


def decode(
    stream: Path | str,
    out: Path | str,
    *,
    source: Path | str | None = None,
    yaw: float = 0.0,
    pitch: float = 0.0,
    roll: float = 0.0,
    size: int | None = None,
    background: Path | str | None = None,
    full_frame: bool = False,
    engine: str = "auto",
    threads: int = 0,
    progress: Progress | None = None,
    family: Family | None = None,
) -> DecodeReport:
    """Decodes a stream file into a video, optionally with another picture and the head turned (degrees).

    `size` is the video's side, that of the source picture (256 or 512) unless given. With `full_frame` the face is
    put back into the whole frame: of `background`, a picture or the clip that was encoded, or of `source`.
    """
    from kilocall.receiver.render import LARGEST_TURN_DEG, View
    from kilocall.receiver.video_file import VideoFile

    started = time.monotonic()
    for name, angle in (("yaw", yaw), ("pitch", pitch), ("roll", roll)):
        if not abs(angle) <= LARGEST_TURN_DEG:
            raise BadInput(f"{name} is {angle}; allowed are -{LARGEST_TURN_DEG:g} to {LARGEST_TURN_DEG:g} degrees")
    player = StreamPlayer(stream, source=source, largest=size, engine=engine, threads=threads, family=family)
    frames = _whole_frames(player, source, background) if full_frame else None
    if frames is not None and size is not None:
        raise BadInput(f"size is {size}; a full frame has the size of its background, {frames.width}x{frames.height}")
    if background is not None and not full_frame:
        raise BadInput(f"background {background} is for full frames alone")
    size = size or player.size
    player.renderer.view = View(yaw, pitch, roll)
    report = progress or _silent
    total = player.reader.frame_count
    if not total:
        raise BadInput(f"{stream}: holds no complete motion packet ({player.reader.damage or 'it is empty'})")
    shape = (frames.width, frames.height) if frames else (size, size)
    with VideoFile(Path(out), fps=player.reader.header.fps, size=shape) as video:
        for frame in player.frames():
            video.write(frames.put(frame.rgb, frame.time_us) if frames else frame.rgb, frame.time_us)
            report(video.frames, total)
        if not video.frames:
            raise BadInput(f"{stream}: no packet could be decoded ({player.packets.last_problem})")
    return DecodeReport(
        video=Path(out),
        frames=video.frames,
        seconds=player.reader.duration_us / 1e6,
        size=size,
        width=shape[0],
        height=shape[1],
        pictures=player.renderer.pictures,
        relative=player.relative,
        truncated=player.reader.damage,
        dropped_packets=player.packets.dropped,
        wall_s=time.monotonic() - started,
    )


def info(stream: Path | str) -> StreamInfo:
    """Reads a stream file without running any network."""
    reader = StreamReader(stream)
    header = reader.header
    packets = list(reader.packets())
    per_frame = [8 * len(p.packet.payload) / p.packet.frame_count for p in packets for _ in range(p.packet.frame_count)]
    bits = np.array(per_frame or [0.0])
    picture = reader.source_picture()
    pictures = [one for one in (picture, *reader.references()) if one is not None]
    fps = float(header.fps)
    numbers, keypoints, match = _installed(header)
    frames = len(per_frame)
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
        payload_kbps=float(bits.mean()) * fps / 1000,
        file_bytes=Path(stream).stat().st_size,
        wire=[_wire_rate(float(bits.mean()), fps, n) for n in (1, 2, 3)],
        truncated=reader.damage,
    )


def face_of_picture(picture: Path | Picture, family: Family, *, size: int | None = None) -> Picture:
    """The largest face of a picture file or of uint8 RGB [H, W, 3], as a crop [S, S, 3]; NoFace if there is none.

    S is the networks' size, or `size` where the picture has the pixels for it.
    """
    from kilocall.sender import clip

    return clip.face_of_picture(picture, family, size=size)


def _whole_frames(player: StreamPlayer, source: Path | str | None, background: Path | str | None) -> WholeFrames:
    """Where the face goes in the whole frame: as the stream says, or where it was found in the source picture."""
    from kilocall.proto.control import CropPlace
    from kilocall.receiver.whole_frame import PastePlace, WholeFrames
    from kilocall.sender.capture import open_clip
    from kilocall.sender.clip import Tracker
    from kilocall.sender.face_crop import FaceCropper, plan_crops

    behind = background or source
    if behind is None:
        raise BadInput("a stream holds the face alone; a full frame needs --background or a wide --source")
    clip = open_clip(Path(behind))
    if background is None:
        tracker = Tracker(player.family)
        first = next(iter(clip))
        found = FaceCropper(tracker, plan=plan_crops([first], tracker)).crop(first).place
        places = [PastePlace(0, found.x0, found.y0, found.side)]
    else:
        said = [record for record in player.reader.records() if isinstance(record, CropPlace)]
        for place in said:
            if (place.frame_width, place.frame_height) != (clip.width, clip.height):
                raise BadInput(
                    f"background {behind} is {clip.width}x{clip.height}, the stream was made from frames of "
                    f"{place.frame_width}x{place.frame_height}"
                )
        start = said[0].time_us if said else 0
        places = [PastePlace(max(0, place.time_us - start), place.x0, place.y0, place.side) for place in said]
    return WholeFrames(((frame.capture_us, frame.rgb) for frame in clip), places)


def _pack_source(family: Family, picture: Picture) -> tuple[SourcePicture, Source]:
    """The picture as it is sent, and its keypoints as the receiver will find them: from the compressed picture."""
    from kilocall.sender.source_picture import pack_source

    packed, seen = pack_source(_fitted(picture, family))
    return packed, family.source(seen)


def _coded(encoder: PacketEncoder, tracks: list[tuple[int, Track]]) -> Iterator[tuple[int, int, MotionPacket]]:
    """Packets with the times of their last and first frames."""
    for count, (when, track) in enumerate(tracks):
        packet = encoder.push_track(track, when)
        if count + 1 == len(tracks):
            packet = packet or encoder.flush()
        if packet is not None:
            yield when, encoder.first_us, packet


def _further_pictures(
    family: Family,
    source: Source,
    packed: SourcePicture,
    followed: FollowedClip,
    packets: list[tuple[int, int, MotionPacket]],
    pictures: int,
    kilobytes: float,
    progress: Progress,
) -> list[SourcePicture]:
    """What to add to the source picture, the most useful first."""
    from kilocall.codec.motion_codec import MotionDecoder
    from kilocall.model.motion import Motion
    from kilocall.sender.gallery import Probe, bytes_each, choose_pictures

    side = len(source.picture if source.detail is None else source.detail)
    each = bytes_each(pictures, kilobytes, packed, side)
    decoder = MotionDecoder(family.codebook)
    motions = [Motion.from_vector(vector) for _, _, packet in packets for vector in decoder.decode(packet)]
    probes = [Probe(fitted(one.crop, family.size), motions[one.frame], one.crop) for one in followed.samples]
    chosen = choose_pictures(family, source, probes, pictures=pictures, max_bytes=each, progress=progress)
    return [proposal.packed for proposal in chosen]


def _same_person(a: Source, b: Source) -> bool:
    """Whether two pictures may show one person: head-fixed shapes that differ by no more than expressions do."""
    from kilocall.model.shape import SAME_PERSON, shape_distance

    return shape_distance(a.shape, b.shape) <= SAME_PERSON


def _fitted(picture: Picture, family: Family) -> Picture:
    """A square picture at the networks' size, or at twice that where it has the pixels."""
    large = DETAIL * family.size
    return fitted(picture, large if picture.shape[0] >= large else family.size)


def _check_family(header: StreamHeader, family: Family, name: str) -> None:
    if header.family != family.name:
        raise WrongFamily(f"{name} is of family {header.family}, wanted is {family.name}: --family {header.family}")
    if header.weights_hash != family.weights_hash:
        raise WrongFamily(
            f"{name} was made with {header.family} weights {header.weights_hash[:12]}, {_here(family)} are "
            f"{family.weights_hash[:12]}: {_cure(header, family)} or encode the clip again"
        )
    if header.codebook_hash != family.codebook.hash:
        raise WrongFamily(
            f"{name} was made with codebook {header.codebook_hash[:12]}, here is {family.codebook.hash[:12]}: name the "
            f"file that `kilocall fit` wrote for it with --codebook, or leave the option out"
        )


def _here(family: Family) -> str:
    return "given" if family.name in OWN_WEIGHTS else "installed"


def _cure(header: StreamHeader, family: Family) -> str:
    if family.name in OWN_WEIGHTS:
        return "name those with --weights (`kilocall weights check` shows their hash)"
    return f"install the version that made it ({header.tool})"


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


def _version() -> str:
    try:
        return version("kilocall")
    except PackageNotFoundError:
        return "from source"


def _silent(done: int, total: int | None) -> None:
    pass
