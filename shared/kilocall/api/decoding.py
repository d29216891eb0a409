"""A stream file to a video, as it is or with the face put back into a whole frame."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator
from dataclasses import replace
from fractions import Fraction
from pathlib import Path
from typing import TYPE_CHECKING, Final

from pydantic import BaseModel

from kilocall.api.families import Progress, silent
from kilocall.api.player import StreamPlayer
from kilocall.model.family import Family
from kilocall.proto.errors import BadInput
from kilocall.proto.sound import SAMPLE_RATE
from kilocall.proto.stream_file import StreamReader
from kilocall.runtime.files import check_output
from kilocall.runtime.pictures import with_bars

if TYPE_CHECKING:
    from kilocall.api.live import DecodedFrame
    from kilocall.receiver.video_file import VideoFile
    from kilocall.receiver.whole_frame import WholeFrames

__all__ = ["DecodeReport", "decode"]

#: Cameras tremble by less around their rate.
OFF_THE_GRID_US: Final = 2000
#: Of a video. A gap of days between two frames is more than a container can say.
LONGEST_H: Final = 24


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
    sound_s: float
    damaged_sounds: int  # packets of speech that could not be decoded
    layer_frames: int  # of the video layer that pictures were compared with
    damaged_layer: int  # of it that could not be decoded
    camera_frames: int  # pictures that are what the speaker's camera saw
    wall_s: float


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
    constant_rate: bool = False,
    sound: bool = True,
    layer: bool = True,
    engine: str = "auto",
    threads: int = 0,
    progress: Progress | None = None,
    family: Family | None = None,
) -> DecodeReport:
    """Decodes a stream file into a video, optionally with another picture and the head turned (degrees).

    `size` is the video's side, that of the source picture (256 or 512) unless given. With `full_frame` the face is
    put back into the whole frame: of `background`, a picture or the clip that was encoded, or of `source`.

    Every frame is shown at its own time, in a file of variable rate where the stream's rate is one. With
    `constant_rate` frames are repeated and left out to have the stream's nominal rate throughout. The stream's speech
    is heard with it unless `sound` is False; without `layer` its video layer is left alone. Where the stream shows what
    the speaker's camera saw, that is fitted into the video, with bars.
    """
    from kilocall.receiver.render import View
    from kilocall.receiver.video_file import VideoFile

    started, progress = time.monotonic(), progress or silent
    check_output(Path(out), [Path(path) for path in (stream, source, background) if path is not None])
    _check_angles(yaw=yaw, pitch=pitch, roll=roll)
    player = StreamPlayer(
        stream, source=source, largest=size, engine=engine, threads=threads, layer=layer, family=family
    )
    frames = _whole_frames(player, source, background) if full_frame else None
    if frames is not None and size is not None:
        raise BadInput(f"size is {size}; a full frame has the size of its background, {frames.width}x{frames.height}")
    if background is not None and not full_frame:
        raise BadInput(f"background {background} is for full frames alone")
    size = size or player.size
    player.renderer.view = View(yaw, pitch, roll)
    reader, fps = player.reader, player.reader.header.fps
    total = _checked_frames(reader, str(stream))
    shape = (frames.width, frames.height) if frames else (size, size)
    variable = not constant_rate and not _of_one_rate(reader)
    shown = _at_constant_rate(player.frames(), fps, reader.duration_us) if constant_rate else player.frames()
    speech = _Speech(reader, wanted=sound)
    camera_frames = 0
    with VideoFile(Path(out), fps=fps, size=shape, variable=variable, sound=speech.heard) as video:
        for frame in shown:
            rgb = frame.rgb
            if frame.camera:
                camera_frames += 1
                rgb = with_bars(rgb, *shape)
            elif frames:
                rgb = frames.put(rgb, frame.time_us)
            video.write(rgb, frame.time_us)
            speech.write(video, frame.time_us)
            progress(min(video.frames, total), total)
        speech.write(video, reader.duration_us)
        if not video.frames:
            raise BadInput(f"{stream}: no packet could be decoded ({player.packets.last_problem})")
    return _report(player, video, speech, size=size, camera_frames=camera_frames, started=started)


def _report(
    player: StreamPlayer, video: VideoFile, speech: _Speech, *, size: int, camera_frames: int, started: float
) -> DecodeReport:
    return DecodeReport(
        video=video.path,
        frames=video.frames,
        seconds=player.reader.duration_us / 1e6,
        size=size,
        width=video.size[0],
        height=video.size[1],
        pictures=player.renderer.pictures,
        relative=player.relative,
        truncated=player.reader.damage,
        sound_s=video.samples / SAMPLE_RATE,
        damaged_sounds=speech.damaged,
        layer_frames=0 if player.layer is None else player.layer.used,
        damaged_layer=0 if player.layer is None else player.layer.damaged,
        camera_frames=camera_frames,
        dropped_packets=player.packets.dropped,
        wall_s=time.monotonic() - started,
    )


def _check_angles(**angles: float) -> None:
    from kilocall.receiver.render import LARGEST_TURN_DEG

    for name, angle in angles.items():
        if not abs(angle) <= LARGEST_TURN_DEG:
            raise BadInput(f"{name} is {angle}; allowed are -{LARGEST_TURN_DEG:g} to {LARGEST_TURN_DEG:g} degrees")


class _Speech:
    """The stream's speech, written beside its pictures where it is wanted and there is any."""

    def __init__(self, reader: StreamReader, *, wanted: bool) -> None:
        from kilocall.receiver.sound_track import SoundTrack

        self.heard = wanted and next(reader.sounds(), None) is not None
        self._track = SoundTrack(reader.sounds(), reader.duration_us)
        self._samples = self._track.parts()

    @property
    def damaged(self) -> int:
        """Packets that could not be decoded."""
        return self._track.damaged

    def write(self, video: VideoFile, until_us: int) -> None:
        """What is heard up to this time."""
        until = until_us * SAMPLE_RATE // 1_000_000
        while self.heard and video.samples < until:
            part = next(self._samples, None)
            if part is None:
                return
            video.write_sound(part)


def _checked_frames(reader: StreamReader, stream: str) -> int:
    """How many frames there are. BadInput where there is none, or where they make no video that anybody would watch."""
    frames, end_us = 0, 0
    for timed in reader.packets():
        frames += timed.packet.frame_count
        end_us = max(end_us, timed.frame_times_us(reader.header.fps)[-1])
    if not frames:
        raise BadInput(f"{stream}: holds no complete motion packet ({reader.damage or 'it is empty'})")
    hours = end_us / 3.6e9
    if hours > LONGEST_H:
        raise BadInput(f"{stream}: its last frame comes after {hours:.1f} h, a video may last {LONGEST_H} h")
    most = round(LONGEST_H * 3600 * reader.header.fps)
    if frames > most:
        raise BadInput(f"{stream}: holds {frames} frames, a video of {LONGEST_H} h has {most}")
    return frames


def _of_one_rate(reader: StreamReader) -> bool:
    """Whether all frames lie at multiples of 1 / fps, each at one of its own; left out ones do no harm."""
    fps, before = reader.header.fps, -1
    for timed in reader.packets():
        for when in timed.frame_times_us(fps):
            number = round(when * fps / 1_000_000)
            if number <= before or abs(_at(number, fps) - when) > OFF_THE_GRID_US:
                return False
            before = number
    return True


def _at_constant_rate(frames: Iterable[DecodedFrame], fps: Fraction, end_us: int) -> Iterator[DecodedFrame]:
    """For each multiple of 1 / fps the frame that is shown then, from the first frame's time on."""
    number, held = 0, None
    for frame in frames:
        while held is not None and _at(number, fps) < frame.time_us:
            yield replace(held, time_us=_at(number, fps))
            number += 1
        held = frame
    while held is not None and (_at(number, fps) < end_us or not number):
        yield replace(held, time_us=_at(number, fps))
        number += 1


def _at(number: int, fps: Fraction) -> int:
    return round(number * 1_000_000 / fps)


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
