"""What a clip is and what `kilocall encode` will make of it, told before it is encoded."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Literal

import numpy as np
from av.container import InputContainer
from av.stream import Disposition
from av.video.frame import VideoFrame
from av.video.reformatter import ColorRange, ColorTrc
from numpy.typing import NDArray

from kilocall.model.family import DETAIL, Family
from kilocall.proto.errors import BadInput
from kilocall.runtime.findings import Finding, Section
from kilocall.runtime.progress import Progress, silent
from kilocall.sender.calibration import Edge, edges_that_cut
from kilocall.sender.capture import STILLS, Clip, open_clip
from kilocall.sender.clip import DETAIL_FROM, FACE_CERTAINTY, Tracker
from kilocall.sender.clip_sound import coded_sound
from kilocall.sender.crop_place import CropPlace, as_place, as_vector, cut, holds, ideal_place
from kilocall.sender.crop_plan import LOOK_EVERY
from kilocall.sender.face_finder import FaceBox, FaceFinder
from kilocall.sender.face_locator import FaceLocator
from kilocall.sender.upright import EXIF

__all__ = ["ClipReport", "ColourFacts", "FaceFacts", "FileFacts", "Hole", "SoundFacts", "TimeFacts", "look_at_clip"]

#: Frames in which a face is looked for; up to twice as many where the file does not know its own length.
LOOKS: Final = 24
HOLE_US: Final = 1_000_000
#: Containers round times to a millisecond.
ROUNDING_US: Final = 2_000
#: A crop of a square picture that takes this share of its side says that the clip was cut to the face before.
WHOLE: Final = 0.9

CODECS: Final = {"h264": "H.264", "hevc": "H.265 (HEVC)", "mjpeg": "Motion JPEG", "opus": "Opus", "vorbis": "Vorbis"}
#: By the number of ITU-T H.273.
MATRICES: Final = {1: "BT.709", 4: "FCC", 5: "BT.601", 6: "BT.601", 7: "SMPTE 240M", 9: "BT.2020", 10: "BT.2020"}
HDR: Final[dict[int, Literal["PQ", "HLG"]]] = {ColorTrc.SMPTE2084: "PQ", ColorTrc.ARIB_STD_B67: "HLG"}
#: What is done with the stored picture, by EXIF's number.
ORIENTATIONS: Final = {
    1: "upright as it is stored",
    2: "mirrored left to right",
    3: "turned by 180 degrees",
    4: "mirrored top to bottom",
    5: "turned by 90 degrees to the right, then mirrored left to right",
    6: "turned by 90 degrees to the right",
    7: "turned by 90 degrees to the left, then mirrored left to right",
    8: "turned by 90 degrees to the left",
}


@dataclass(frozen=True)
class SoundFacts:
    """The sound that is taken, the file's first. `problem` says why it cannot be used."""

    codec: str
    channels: str  # mono, stereo, 5.1
    rate_hz: int
    problem: str | None


@dataclass(frozen=True)
class FileFacts:
    """Container and streams; `passed_over` are those that nothing is taken from, in words."""

    container: str
    video_codec: str
    stored_size: tuple[int, int]  # width, height
    pixel_aspect: float  # width of a pixel by its height
    size: tuple[int, int]  # width, height as it is shown: upright, square pixels
    orientation: str
    sound: SoundFacts | None
    passed_over: tuple[str, ...]


@dataclass(frozen=True)
class Hole:
    """A while without frames."""

    start_s: float
    seconds: float


@dataclass(frozen=True)
class TimeFacts:
    """When frames come. Steps are from a frame to the next, in milliseconds, 0 for one frame alone."""

    frames: int
    seconds: float
    fps: float
    constant: bool
    shortest_ms: float
    median_ms: float
    longest_ms: float
    holes: tuple[Hole, ...]
    breaks_off: str | None  # why the file ends before its end


@dataclass(frozen=True)
class ColourFacts:
    """How colours are stored; None where the file does not say."""

    pixels: str  # FFmpeg's name
    bits: int
    range: Literal["limited", "full"] | None
    matrix: str | None
    hdr: Literal["PQ", "HLG"] | None
    alpha: bool


@dataclass(frozen=True)
class FaceFacts:
    """The face in the frames looked at; places and sizes are medians, in pixels of the upright picture."""

    found_in: int
    faces: int  # the most in one frame
    height_px: int
    height_share: float  # of the picture's
    crop: CropPlace
    held_in: int  # of the frames with a face: the crop need not move
    beyond: dict[Edge, float]  # share of the crop that lies past this edge of the picture
    cut_off_at: tuple[Edge, ...]  # where the head is not whole in most frames
    whole_picture: bool  # the clip was cut to the face before
    first_s: float  # of the first frame with a face
    source_side: int  # of the source picture that may be asked for with --size


@dataclass(frozen=True)
class ClipReport:
    """All of it. `face` is None where there is none; `remarks` say what is worth knowing, the gravest first."""

    path: str
    file: FileFacts
    times: TimeFacts
    colours: ColourFacts
    looked_at: int
    face: FaceFacts | None
    family_side: int  # of the networks' pictures
    remarks: tuple[str, ...]

    @property
    def exit_code(self) -> int:
        """0, or 2 where nothing can be sent."""
        return 0 if self.face else 2

    @property
    def sections(self) -> tuple[Section, ...]:
        """The same in words."""
        title = f"face, in {self.looked_at} frames spread over the clip" if self.looked_at > 1 else "face"
        parts = [(self.path, _file(self)), (title, _face(self)), ("what `kilocall encode` will do", _encode(self))]
        return tuple(Section(name, tuple(findings)) for name, findings in parts)


def look_at_clip(path: Path | str, family: Family, progress: Progress = silent) -> ClipReport:
    """Reads the clip to its end, and once or twice more where frames looked at show no face.

    Raises BadInput as `open_clip` does, and not where there is no face.
    """
    clip = open_clip(path)
    eyes = _Eyes(family)
    times: list[int] = []
    looks: list[_Look] = []
    first: VideoFrame | None = None
    total = round(clip.duration * clip.fps) if clip.duration else None
    step_us = max(1.0, 1e6 * (clip.duration or 10) / LOOKS)
    for now_us, frame in clip.stored():
        times.append(now_us)
        first = first or frame
        if not looks or now_us // step_us > looks[-1].time_us // step_us:
            looks.append(eyes.look(clip.upright.rgb(frame), now_us))
            if len(looks) >= 2 * LOOKS:
                looks, step_us = looks[::2], 2 * step_us
        progress(len(times), total)
    assert first is not None  # a clip that opens has a frame
    with clip.open() as container:
        file = _file_facts(clip, container, first)
    time_facts = _time_facts(clip, times)
    if not any(look.box for look in looks):
        looks = _thorough_looks(clip, eyes, looks)
    if any(look.box for look in looks) and not all(look.box for look in looks):
        looks = _second_looks(clip, eyes, looks)
    face = _face_facts(looks, (clip.width, clip.height), family.size)
    remarks = (*_face_remarks(looks, face, family.size), *_file_remarks(file, time_facts))
    return ClipReport(str(path), file, time_facts, _colour_facts(first), len(looks), face, family.size, remarks)


# The file


def _file_facts(clip: Clip, container: InputContainer, first: VideoFrame) -> FileFacts:
    film = clip.film(container)
    heard = container.streams.audio[0] if container.streams.audio else None
    # What is dependent is a part of the picture: a tile of a photograph.
    others = [
        _named(stream)
        for stream in container.streams
        if stream not in (film, heard) and not stream.disposition & Disposition.dependent
    ]
    number = next(number for number, how in EXIF.items() if how == clip.upright.orientation)
    return FileFacts(
        container.format.long_name,
        _codec(film),
        (first.width, first.height),
        round(clip.upright.pixel_aspect, 4),
        (clip.width, clip.height),
        ORIENTATIONS[number],
        None if heard is None else _sound_facts(clip, heard),
        tuple(what if count == 1 else f"{what} ({count} times)" for what, count in Counter(others).items()),
    )


def _sound_facts(clip: Clip, stream: Any) -> SoundFacts:
    problem = None
    try:
        if next(coded_sound(clip.path, clip.start_us), None) is None:
            problem = "it has no sound in it"
    except BadInput as error:
        problem = str(error).removeprefix(f"{clip.path}: ")
    if stream.codec_context is None:
        return SoundFacts("unknown", "unknown", 0, problem or "its codec is not known")
    return SoundFacts(_codec(stream), stream.codec_context.layout.name, stream.codec_context.sample_rate, problem)


def _codec(stream: Any) -> str:
    if stream.codec_context is None:
        return "unknown codec"
    name = str(stream.codec_context.codec.canonical_name)
    return CODECS.get(name, name.upper())


def _named(stream: Any) -> str:
    """A stream that nothing is taken from."""
    if stream.type == "video":
        return "a cover picture" if stream.disposition & STILLS else f"a further video ({_codec(stream)})"
    if stream.type == "audio":
        return f"a further sound ({_codec(stream)})"
    return "subtitles" if stream.type == "subtitle" else "a track without picture or sound"


def _colour_facts(frame: VideoFrame) -> ColourFacts:
    full = frame.color_range == ColorRange.JPEG or frame.format.name.startswith("yuvj")
    limited = frame.color_range == ColorRange.MPEG
    parts = frame.format.components
    return ColourFacts(
        frame.format.name,
        max(part.bits for part in parts),
        "full" if full or frame.format.is_rgb else "limited" if limited else None,
        "RGB" if frame.format.is_rgb else MATRICES.get(int(frame.colorspace)),
        HDR.get(int(frame.color_trc)),
        any(part.is_alpha for part in parts),
    )


def _time_facts(clip: Clip, times_us: list[int]) -> TimeFacts:
    count = len(times_us)
    if count < 2:
        seconds = clip.duration or 1 / clip.source_fps
        return TimeFacts(count, round(seconds, 3), round(clip.fps, 3), True, 0, 0, 0, (), clip.truncated)
    steps = np.diff(times_us)
    median, mean = float(np.median(steps)), float(np.mean(steps))
    holes = np.flatnonzero((steps > HOLE_US) & (steps > 1.5 * median))
    return TimeFacts(
        count,
        round(times_us[-1] / 1e6 + 1 / clip.source_fps, 3),  # the last one is shown as long as usual
        round(1e6 / mean, 3),
        bool(np.abs(steps - median).max() <= max(ROUNDING_US, 0.02 * median)),
        round(float(steps.min()) / 1000, 1),
        round(median / 1000, 1),
        round(float(steps.max()) / 1000, 1),
        tuple(Hole(round(times_us[at] / 1e6, 3), round(float(steps[at]) / 1e6, 3)) for at in holes),
        clip.truncated,
    )


# The face


@dataclass(frozen=True)
class _Look:
    time_us: int
    box: FaceBox | None
    faces: int


class _Eyes:
    """Looks at frames that may lie far apart, as the encoder does at those that follow each other."""

    def __init__(self, family: Family) -> None:
        self._tracker = Tracker(family)
        self._locator = FaceLocator(self._tracker, FaceFinder(), FACE_CERTAINTY)

    def look(self, rgb: NDArray[np.uint8], time_us: int, near: FaceBox | None = None) -> _Look:
        """Anywhere in the picture, or by the landmarks alone where the face is `near`."""
        locator, before = self._locator, self._locator.box
        self._tracker.reset()  # the last frame is too long ago to start from
        locator.next_frame()
        if near is not None:
            locator.box = near
        else:
            locator.search(rgb, at_once=True)
            # A turned head escapes the cascades; landmarks find it where it was.
            locator.box = locator.box or before
        for _ in range(2):
            if locator.box is not None:
                locator.track(*cut(rgb, ideal_place(locator.box, (rgb.shape[1], rgb.shape[0]))))
        if locator.found_track is None or locator.found_track.certainty < FACE_CERTAINTY:
            locator.box = before
            return _Look(time_us, None, 0)
        return _Look(time_us, locator.box, 1 if near else max(1, locator.faces))


def _thorough_looks(clip: Clip, eyes: _Eyes, looks: list[_Look]) -> list[_Look]:
    """With those at each frame where the encoder looks, up to the first face: it may have come between `looks`."""
    every = {look.time_us: look for look in looks}
    for number, (now_us, frame) in enumerate(clip.stored()):
        if number % LOOK_EVERY or now_us in every:
            continue
        look = eyes.look(clip.upright.rgb(frame), now_us)
        if look.box:
            return sorted((*looks, look), key=lambda one: one.time_us)
        every[now_us] = look
    return sorted(every.values(), key=lambda one: one.time_us)


def _second_looks(clip: Clip, eyes: _Eyes, looks: list[_Look]) -> list[_Look]:
    """Looks again where no face was found, at the place of the one that was found nearest in time: the encoder's crop
    lies there, even before the first face."""
    found = [(look.time_us, look.box) for look in looks if look.box]
    missed = {look.time_us for look in looks if not look.box}
    again: dict[int, _Look] = {}
    for now_us, frame in clip.stored():
        if now_us in missed:
            _, near = min(found, key=lambda one: abs(one[0] - now_us))
            again[now_us] = eyes.look(clip.upright.rgb(frame), now_us, near)
    return [again.get(look.time_us, look) for look in looks]


def _face_facts(looks: list[_Look], size: tuple[int, int], family_side: int) -> FaceFacts | None:
    found = [(look.time_us, look.box) for look in looks if look.box]
    if not found:
        return None
    boxes = [box for _, box in found]
    width, height = size
    tall = float(np.median([box.height for box in boxes]))
    place = as_place(np.median([as_vector(ideal_place(box, size)) for box in boxes], axis=0))
    ends = (-place.y0, place.y0 + place.side - height, -place.x0, place.x0 + place.side - width)
    edges: tuple[Edge, ...] = ("upper", "lower", "left", "right")
    cuts = Counter(edge for box in boxes for edge in edges_that_cut(_shares(box, size)))
    return FaceFacts(
        len(found),
        max(look.faces for look in looks),
        round(tall),
        round(tall / height, 3),
        CropPlace(*(round(number, 1) for number in (place.x0, place.y0, place.side))),
        sum(holds(place, box, size) for box in boxes),
        {edge: round(end / place.side, 3) for edge, end in zip(edges, ends, strict=True) if end > 0.005 * place.side},
        tuple(edge for edge in edges if 2 * cuts[edge] > len(boxes)),
        width == height and place.side >= WHOLE * width,
        round(found[0][0] / 1e6, 3),
        DETAIL * family_side if place.side >= DETAIL_FROM * family_side else family_side,
    )


def _shares(box: FaceBox, size: tuple[int, int]) -> tuple[float, float, float, float]:
    width, height = size
    return (box.x0 / width, box.y0 / height, (box.x0 + box.width) / width, (box.y0 + box.height) / height)


# What is worth knowing


def _face_remarks(looks: list[_Look], face: FaceFacts | None, family_side: int) -> Iterator[str]:
    if face is None:
        yield (
            f"no face was found in {_counted(len(looks), 'frame')}: nothing can be sent of this clip. A face must look "
            "at the camera and be wider than 8 % of the picture's longer side"
        )
        return
    if looks[0].box is None:
        yield f"the first face is found at {face.first_s:.1f} s: until about then the source picture rests"
    missed = len(looks) - face.found_in - sum(look.time_us < 1e6 * face.first_s for look in looks)
    if missed:
        yield f"no face was found in {missed} of the later frames looked at: in such frames the face stands still"
    if face.cut_off_at:
        yield (
            f"the head is cut off at the {' and '.join(face.cut_off_at)} edge of the picture: what is not seen is not "
            "sent; leave room around the head when recording"
        )
    if face.faces > 1:
        yield f"{face.faces} faces were seen at once: the largest is followed, the others are not sent"
    if face.crop.side < family_side:
        yield (
            f"the face is small: its crop of {face.crop.side:.0f} pixels is enlarged to {family_side} and looks soft; "
            "move closer to the camera or record a larger picture"
        )


def _file_remarks(file: FileFacts, times: TimeFacts) -> Iterator[str]:
    if times.breaks_off:
        yield f"the clip breaks off: {times.breaks_off}; what came before is used"
    for hole in times.holes[:3]:
        yield f"no frames for {hole.seconds:.1f} s from {hole.start_s:.1f} s on: the picture stands still there"
    if len(times.holes) > 3:
        yield f"{len(times.holes) - 3} more times there is no frame for longer than a second"
    if file.sound and file.sound.problem:
        yield f"the sound cannot be used: {file.sound.problem}"


# In words


def _file(report: ClipReport) -> Iterator[Finding]:
    file, times = report.file, report.times
    if times.frames == 1:
        yield Finding("length", "one picture, which does not move")
    else:
        yield Finding("file", file.container)
        yield Finding("length", f"{times.seconds:.2f} s, {times.frames} frames")
        yield Finding("frame rate", _rate(times))
    size = "{}x{}".format(*file.stored_size)
    if file.pixel_aspect != 1:
        size += ", pixels {:g} times as wide as high: stretched to {}x{}".format(file.pixel_aspect, *_square(file))
    yield Finding("picture", f"{file.video_codec}, {size}")
    asked = "" if file.orientation == ORIENTATIONS[1] else ", as the file asks: {}x{}".format(*file.size)
    yield Finding("orientation", file.orientation + asked)
    yield Finding("colours", _colours(report.colours))
    sound = file.sound
    yield Finding("sound", f"{sound.codec}, {sound.channels}, {sound.rate_hz / 1000:g} kHz" if sound else "none")
    if file.passed_over:
        yield Finding("passed over", ", ".join(file.passed_over))


def _square(file: FileFacts) -> tuple[int, int]:
    """Width and height with square pixels, before the picture is turned."""
    width, height = file.size
    return (height, width) if "90 degrees" in file.orientation else (width, height)


def _rate(times: TimeFacts) -> str:
    if times.constant:
        return f"{times.fps:.4g} frames a second, evenly spaced"
    return (
        f"varies: {times.fps:.4g} frames a second on average; {times.shortest_ms:.0f} to {times.longest_ms:.0f} ms "
        f"from one to the next, mostly {times.median_ms:.0f}"
    )


def _colours(colours: ColourFacts) -> str:
    said = [f"{colours.bits} bits a colour"]
    if colours.matrix == "RGB":
        said.append("RGB")
    elif not colours.range and not colours.matrix:
        said.append("range and colour matrix not said (taken as 16 to 235 and BT.601)")
    else:
        ranges = {"limited": "limited range (16 to 235)", "full": "full range (0 to 255)"}
        said.append(ranges[colours.range] if colours.range else "range not said (taken as 16 to 235)")
        said.append(f"colour matrix {colours.matrix or 'not said (taken as BT.601)'}")
    if colours.hdr:
        said.append(f"high dynamic range ({colours.hdr})")
    if colours.alpha:
        said.append("transparency")
    return ", ".join(said)


def _face(report: ClipReport) -> Iterator[Finding]:
    face = report.face
    yield Finding("found in", f"{face.found_in if face else 0} of {report.looked_at}")
    if face is None:
        return
    share = f"{100 * face.height_share:.0f} % of the picture's height"
    yield Finding("height", f"{face.height_px} pixels from hair line to chin, {share}")
    yield Finding("faces at once", "1" if face.faces == 1 else f"up to {face.faces}")
    cut_off = " and ".join(face.cut_off_at)
    yield Finding("head", f"cut off at the {cut_off} edge of the picture" if cut_off else "whole in the picture")
    yield Finding("first seen", "at once" if not face.first_s else f"after {face.first_s:.1f} s")


def _encode(report: ClipReport) -> Iterator[Finding]:
    face, times, colours, sound = report.face, report.times, report.colours, report.file.sound
    if face is None:
        yield Finding("nothing", "without a face it ends with an error and writes no file", "broken")
        return
    side = report.family_side
    picture = f"{side}x{side}, from the frame that suits best"
    if face.source_side > side:
        picture += f"; --size {face.source_side} keeps more detail, the face is large enough for it"
    else:
        picture += f"; the face is too small for --size {DETAIL * side}"
    yield Finding("source picture", picture)
    yield Finding("crop", _crop(report, face))
    if times.frames > 1:
        even = "" if times.constant else "; --fps 25 makes them even"
        yield Finding("frames", f"all {times.frames}, each at its own time{even}")
    if colours.hdr:
        yield Finding("brightness", f"brought from {colours.hdr} into the range of an ordinary screen (tone mapping)")
    if colours.alpha:
        yield Finding("transparency", "laid over plain grey")
    if sound is None:
        yield Finding("sound", "none, the clip has none")
    elif sound.problem:
        yield Finding("sound", f"left out: {sound.problem}")
    else:
        yield Finding("sound", "kept, as speech in mono; --no-audio leaves it out")


def _crop(report: ClipReport, face: FaceFacts) -> str:
    width, height = report.file.size
    place = face.crop
    if face.whole_picture:
        where = "nearly the whole picture: the clip was cut to the face before, --crop whole takes it as it is"
    else:
        where = (
            f"a square of {place.side:.0f} pixels, {max(0, place.x0):.0f} from the left and {max(0, place.y0):.0f} "
            f"from the top of {width}x{height}"
        )
    if face.held_in < face.found_in:
        elsewhere = face.found_in - face.held_in
        where += f"; it follows the face, which is elsewhere in {elsewhere} of {face.found_in} frames"
    if face.beyond:
        past = ", ".join(f"the {edge} edge by {100 * share:.0f} %" for edge, share in face.beyond.items())
        where += f"; it reaches past {past} of its side, which is filled with the colours there"
    return where


def _counted(count: int, what: str) -> str:
    return f"{count} {what}" + ("" if count == 1 else "s")
