"""A clip to a stream file."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import TYPE_CHECKING

from pydantic import BaseModel

from kilocall.api.families import Progress, face_of_picture, open_family, silent
from kilocall.api.live import GALLERY_KB, KEY_EVERY_S, pack_source_picture
from kilocall.codec.codebook import usual_quality
from kilocall.model.family import DETAIL, Family, Source, Track
from kilocall.model.motion import Motion
from kilocall.model.reference_pictures import check_reference_budget
from kilocall.proto.control import SourcePicture
from kilocall.proto.errors import BadInput
from kilocall.proto.motion_packet import MotionPacket
from kilocall.proto.sound import DEFAULT_KBPS, SoundPackets
from kilocall.proto.stream_file import StreamHeader, StreamWriter
from kilocall.runtime.files import check_output
from kilocall.runtime.pictures import fitted
from kilocall.runtime.version import program_version

if TYPE_CHECKING:
    from kilocall.sender.capture import Clip
    from kilocall.sender.clip import Crop, FollowedClip
    from kilocall.sender.encoder import PacketEncoder
    from kilocall.sender.layer_encoder import CodedLayer
    from kilocall.sender.reference_search import Proposal

__all__ = ["EncodeReport", "encode"]


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
    sound_kbps: float
    layer_kbps: float
    file_bytes: int
    faces: int
    reframings: int
    other_frames: int  # with another face than the source picture's, somebody else's or a hidden one: it holds still
    lost_frames: int  # without a face: they repeat the last motion, before the first face the source picture rests
    relative: bool  # the source picture was taken for somebody else
    warnings: list[str]
    wall_s: float


def encode(
    clip: Path | str,
    out: Path | str,
    *,
    source: Path | str | None = None,
    fps: float | None = None,
    quality: float | None = None,
    size: int | None = None,
    crop: Crop = "face",
    frames_per_packet: int = 3,
    gallery: int = 0,
    gallery_kb: float = GALLERY_KB,
    audio_kbps: float | None = DEFAULT_KBPS,
    layer: float = 0,
    check_speaker: bool = True,
    engine: str = "auto",
    threads: int = 0,
    progress: Progress | None = None,
    family: Family | None = None,
) -> EncodeReport:
    """Encodes a video file into a stream file.

    The source picture is the best frame of the clip unless `source` names a picture; `size` is its side, 256 unless
    512 is asked for and the face is large enough in the clip. A clip that was cut to the face before is taken as it is
    with `crop` "whole", and so is `source`: both must be square. With a `gallery` the file holds up to so many pictures
    of the speaker, the source picture included, in `gallery_kb` together, as far as they pay off. The clip's sound
    becomes speech of `audio_kbps`, none with None. A `layer` of so many kbit/s is real video, small and a few times a
    second, from which a receiver takes what the source picture does not show. The motion's `quality`, 0 to 100, is 50,
    beside a layer of 3 kbit/s or more 75. Where somebody else comes into the picture the source picture rests, unless
    `check_speaker` is off. Raises BadInput (NoFace for a clip without a face) and OSError; then no file is left behind.
    """
    from kilocall.sender.clip_sound import coded_sound
    from kilocall.sender.layer_encoder import check_layer_kbps

    started, progress = time.monotonic(), progress or silent
    check_layer_kbps(layer)
    check_reference_budget(gallery, gallery_kb)
    clip, out, source = Path(clip), Path(out), None if source is None else Path(source)
    check_output(out, (clip, source))
    family = family or open_family(engine=engine, threads=threads)
    if size not in (None, family.size, DETAIL * family.size):
        raise BadInput(f"size is {size}; allowed are {family.size} and {DETAIL * family.size}")
    seen = _see(clip, family, source=source, fps=fps, size=size, crop=crop, layer=layer, progress=progress)
    quality = usual_quality(0 if seen.relative else layer) if quality is None else quality
    warnings = [*seen.followed.warnings, *_left_out(seen, source, gallery)]
    encoder = _encoder(seen, family, quality, frames_per_packet, check_speaker)
    proposals = _further_pictures(family, seen, gallery, gallery_kb, check_speaker, progress)
    encoder.set_references([proposal.reference for proposal in proposals])
    sounds = iter(()) if audio_kbps is None else coded_sound(clip, seen.video.start_us, audio_kbps)
    contents = _Contents(
        pictures=[seen.packed, *(proposal.packed for proposal in proposals)],
        layer=() if seen.relative else seen.followed.layer,
        sound=_Sound(sounds, warnings),
    )
    with StreamWriter(out, _header(family, seen, quality)) as writer:
        coded = _write(writer, encoder, seen.followed, contents)
    warnings += _found_out(clip, seen, coded.other_frames)
    return _report(out, seen, contents, coded, warnings, started)


@dataclass(frozen=True)
class _Seen:
    """A clip that was looked through, and the source picture that its motion moves."""

    video: Clip
    fps: Fraction
    followed: FollowedClip
    packed: SourcePicture
    shown: Source
    """The source picture as its receivers have it."""
    reference: Source
    """The speaker's own picture, where `shown` is somebody else's."""
    relative: bool
    """Whether it is: then only what changes since `reference` is applied to it."""


def _see(
    clip: Path,
    family: Family,
    *,
    source: Path | None,
    fps: float | None,
    size: int | None,
    crop: Crop,
    layer: float,
    progress: Progress,
) -> _Seen:
    from kilocall.sender.capture import open_clip
    from kilocall.sender.clip import follow_clip
    from kilocall.sender.layer_encoder import LayerEncoder, setting_for

    video = open_clip(clip, fps)
    given = None if source is None else face_of_picture(source, family, size=size, crop=crop)
    setting = setting_for(layer)
    coder = None if setting is None else LayerEncoder(setting)
    followed = follow_clip(video, family, progress, size=size, crop=crop, layer=coder)
    own = followed.best_crop
    packed, shown = pack_source_picture(family, own if given is None else given)
    reference = family.source(own) if given is not None else shown
    relative = given is not None and not _same_person(reference, shown)
    rate = Fraction(video.fps).limit_denominator(1001)
    return _Seen(video, rate, followed, packed, shown, reference if relative else shown, relative)


def _left_out(seen: _Seen, source: Path | None, gallery: int) -> Iterator[str]:
    """What is asked for and cannot be shown over somebody else's picture."""
    if seen.relative and seen.followed.layer:
        yield f"source {source} shows somebody else: there is no layer"
    if seen.relative and gallery > 1:
        yield f"source {source} shows somebody else: it stays the only picture"


def _found_out(clip: Path, seen: _Seen, others: int) -> Iterator[str]:
    """What is known at the end: frames that show another face, and a clip that breaks off."""
    if others:
        yield (
            f"{others} of {len(seen.followed.tracks)} frames show another face than the source picture, somebody "
            "else's or a hidden one: there it holds still"
        )
    if seen.video.truncated:
        yield f"{clip} breaks off: {seen.video.truncated}; what came before is encoded"


def _encoder(seen: _Seen, family: Family, quality: float, frames_per_packet: int, check_speaker: bool) -> PacketEncoder:
    from kilocall.sender.encoder import PacketEncoder

    return PacketEncoder(
        family,
        seen.reference,
        target=seen.shown if seen.relative else None,
        fps=float(seen.fps),
        quality=quality,
        frames_per_packet=frames_per_packet,
        key_every_s=KEY_EVERY_S,
        check_speaker=check_speaker,
    )


@dataclass(frozen=True)
class _Coded:
    """What came of the motion."""

    bits: int
    duration_us: int
    other_frames: int
    """With another face than the source picture's."""


@dataclass(frozen=True)
class _Contents:
    """What is in the file beside motion."""

    pictures: list[SourcePicture]
    """Of the speaker, the source picture first."""
    layer: Sequence[CodedLayer]
    sound: _Sound


def _report(
    out: Path, seen: _Seen, contents: _Contents, coded: _Coded, warnings: list[str], started: float
) -> EncodeReport:
    """`started` is a time of the monotonic clock."""
    followed, lasts_us = seen.followed, max(1, coded.duration_us)
    return EncodeReport(
        stream=out,
        frames=len(followed.tracks),
        fps=float(seen.fps),
        seconds=coded.duration_us / 1e6,
        source_bytes=len(seen.packed.data),
        pictures=len(contents.pictures),
        picture_bytes=sum(len(picture.data) for picture in contents.pictures),
        payload_bits_per_frame=coded.bits / len(followed.tracks),
        payload_kbps=coded.bits / lasts_us * 1000,
        sound_kbps=8 * contents.sound.bytes / lasts_us * 1000,
        layer_kbps=8 * sum(len(frame.data) for frame in contents.layer) / lasts_us * 1000,
        file_bytes=out.stat().st_size,
        faces=followed.faces,
        reframings=followed.reframings,
        other_frames=coded.other_frames,
        lost_frames=followed.lost_frames,
        relative=seen.relative,
        warnings=warnings,
        wall_s=time.monotonic() - started,
    )


def _header(family: Family, seen: _Seen, quality: float) -> StreamHeader:
    return StreamHeader(
        family=family.name,
        weights_hash=family.weights_hash,
        codebook_hash=family.codebook.hash,
        fps=seen.fps,
        picture_size=family.size,
        frame_width=seen.video.width,
        frame_height=seen.video.height,
        quality=quality,
        tool=f"kilocall {program_version()}",
        frame_count=len(seen.followed.tracks),
    )


def _write(writer: StreamWriter, encoder: PacketEncoder, followed: FollowedClip, contents: _Contents) -> _Coded:
    """Everything, as it falls due."""
    source, *references = contents.pictures
    writer.add_picture(source)
    for picture in references:
        writer.add_reference(picture)
    places = iter(followed.places)
    place = next(places, None)
    layer, spoken = deque(contents.layer), contents.sound
    bits = 0
    for when, first_us, packet in _coded(encoder, followed.tracks):
        # A place holds from its own frame on; it goes before the packet that holds that frame.
        while place is not None and place.time_us <= when:
            writer.add_place(place)
            place = next(places, None)
        while layer and layer[0].time_us <= when:
            frame = layer.popleft()
            writer.add_layer(frame.time_us, frame.key, frame.data)
        for sound in spoken.until(when):
            writer.add_sound(sound)
        writer.add_packet(first_us, packet)
        bits += 8 * len(packet.payload)
    for sound in spoken.until(writer.duration_us):
        writer.add_sound(sound)
    return _Coded(bits, writer.duration_us, encoder.extractor.other_frames)


class _Sound:
    """The clip's speech as it falls due. What cannot be decoded of it is left out, with a warning."""

    def __init__(self, records: Iterator[SoundPackets], warnings: list[str]) -> None:
        self._records, self._warnings = records, warnings
        self._next: SoundPackets | None = None
        self.bytes = 0

    def until(self, time_us: int) -> Iterator[SoundPackets]:
        """Those that begin before this time."""
        while (record := self._next or self._take()) is not None and record.time_us < time_us:
            self._next = None
            self.bytes += len(bytes(record))
            yield record
        self._next = record

    def _take(self) -> SoundPackets | None:
        try:
            return next(self._records, None)
        except BadInput as error:
            self._warnings.append(f"{error}; what came before is heard")
            return None


def _coded(encoder: PacketEncoder, tracks: list[tuple[int, Track | None]]) -> Iterator[tuple[int, int, MotionPacket]]:
    """Packets with the times of their last and first frames; every frame lies at its own time."""
    before_us = 0
    for when, track in tracks:
        if encoder.breaks_off(when):
            packet = encoder.flush()
            assert packet is not None  # it holds what this frame is apart from
            yield before_us, encoder.first_us, packet
        packet = encoder.push_track(track, when)
        if packet is not None:
            yield when, encoder.first_us, packet
        before_us = when
    rest = encoder.flush()
    if rest is not None:
        yield before_us, encoder.first_us, rest


def _frames_of_others(family: Family, source: Source, followed: FollowedClip) -> frozenset[int]:
    """Numbers of the frames that may show somebody else than the source picture."""
    from kilocall.sender.motion import MotionExtractor

    extractor = MotionExtractor(family, source)
    found = set()
    for number, (when, track) in enumerate(followed.tracks):
        if track is not None:
            extractor.from_track(track, when)
            if extractor.speaker != "same":
                found.add(number)
    return frozenset(found)


def _further_pictures(
    family: Family, seen: _Seen, pictures: int, kilobytes: float, check_speaker: bool, progress: Progress
) -> list[Proposal]:
    """What to add to the source picture, the most useful first; with `check_speaker` of no frame of somebody else."""
    from kilocall.sender.reference_search import Probe, bytes_each, choose_pictures

    if pictures <= 1 or seen.relative:
        return []
    source, followed = seen.shown, seen.followed
    others = _frames_of_others(family, source, followed) if check_speaker else frozenset()
    side = len(source.picture if source.detail is None else source.detail)
    each = bytes_each(pictures, kilobytes, seen.packed, side)
    motions: list[Motion] = []
    for _, track in followed.tracks:
        motions.append(source.pose if track is None else family.motion(track, source, motions[-1] if motions else None))
    own = (one for one in followed.samples if one.frame not in others)
    probes = [Probe(fitted(one.crop, family.size), motions[one.frame], one.crop) for one in own]
    return choose_pictures(family, source, probes, pictures=pictures, max_bytes=each, progress=progress)


def _same_person(a: Source, b: Source) -> bool:
    """Whether two pictures may show one person: head-fixed shapes that differ by no more than expressions do."""
    from kilocall.model.shape import SAME_PERSON, shape_distance

    return shape_distance(a.shape, b.shape) <= SAME_PERSON
