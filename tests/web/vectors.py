"""What the modules of `shared/kilocall/web/` must give, said by the Python that they mirror.

    PYTHONPATH=shared:sender:receiver:proto:tests python tests/web/vectors.py

writes it to `tests/vectors` anew; `test_vectors.py` says whether it still holds.
"""

from __future__ import annotations

import base64
import hashlib
import json
import struct
from dataclasses import replace
from pathlib import Path
from typing import Any, Final

import cv2
import numpy as np
from numpy.typing import NDArray

from kilocall.api import StreamPlayer
from kilocall.api.web_page import faces_of
from kilocall.codec.codebook import Codebook
from kilocall.codec.motion_codec import CodedMotion, MotionDecoder, MotionEncoder
from kilocall.model import landmarks as lm
from kilocall.model.compact.align import look_at
from kilocall.model.compact.compose import Painted
from kilocall.model.compact.family import CompactFamily
from kilocall.model.compact.fusion import Correction, speaking_parts
from kilocall.model.compact.held_field import FieldFor
from kilocall.model.compact.held_picture import HeldPicture
from kilocall.model.compact.likeness import face_colour, face_mask
from kilocall.model.family import Made, Picture, Placement, Source, Track, retarget
from kilocall.model.motion import Motion
from kilocall.model.reference_pictures import Chooser, Distance, ReferencePicture, base_reference, retarget_to
from kilocall.proto.errors import BadInput, BadPacket
from kilocall.proto.layer_frame import LayerAssembly, LayerFragment, LayerFrame
from kilocall.proto.motion_message import MotionMessage
from kilocall.proto.motion_packet import MotionPacket
from kilocall.proto.stream_file import StreamReader
from kilocall.receiver.jitter_buffer import JitterBuffer
from kilocall.receiver.render import FaceRenderer, View
from kilocall.runtime.pace import LADDER, EvenSteps, Pace, frames_in_message
from kilocall.runtime.pictures import as_png
from kilocall.sample import sample_stream
from kilocall.sender.capture import Frame
from kilocall.sender.clip import GROUPS, Tracker
from kilocall.sender.crop_plan import plan_crops
from kilocall.sender.encoder import PacketEncoder
from kilocall.sender.face_finder import FaceBox
from kilocall.sender.keypoint_aligner import KeypointAligner
from kilocall.sender.layer_encoder import LayerEncoder, LayerSetting
from kilocall.sender.motion import MotionExtractor
from kilocall.sender.reframe import ReframePolicy
from kilocall.sender.source_picture import openness, sharpness, source_scores, turn

VECTORS: Final = Path(__file__).parents[1] / "vectors"
SAMPLE: Final = "astronaut"
#: A frame that stands for a further picture of the speaker.
OTHER: Final = 133
#: A wide smile, a turned head with closing lids, and the same one turned further by the viewer.
FRAMES: Final = ((40, View()), (133, View()), (133, View(yaw=20, pitch=-10, roll=5)))
#: Of FRAMES, the one that is rendered.
RENDERED: Final = 1
#: Frames of which the last seven are the first one's picture moved on.
HELD: Final = (100, 107)
#: The portrait tilted by 20 degrees, shifted and a ninth smaller: pixel of the new one to pixel of the portrait.
TILT: Final = ((1.05, 0.38, -45.5), (-0.38, 1.05, 51.25))
#: Where the portrait lies in a larger picture: left, top, side.
PASTED: Final = ((0, 0, 256), (384, 224, 256), (20, 340, 128))


def what_is_read() -> dict[str, Any]:
    """Of streams and packets that are cut or changed: refused, or what is found."""
    stream = (VECTORS / "stream.kcs").read_bytes()
    golden = json.loads((VECTORS / "motion_packets.json").read_text())
    packets = [bytes.fromhex(packet["bytes"]) for packet in golden]
    payloads = json.loads((VECTORS / "motion_codec.json").read_text())["packets"]
    return {
        "stream prefixes": [_stream(stream[:length]) for length in range(len(stream))],
        "stream bytes flipped": [_stream(flipped(stream, at)) for at in range(len(stream))],
        # The header alone: what follows is any bytes.
        "packet bytes flipped": [[_packet(flipped(one, at)) for at in range(min(len(one), 12))] for one in packets],
        "payload bytes flipped": [
            [_payload(one, flipped(payload, at)) for at in range(len(payload))]
            for one in payloads
            if one["reference"] is None
            for payload in [bytes.fromhex(one["payload"])]
        ],
    }


def flipped(data: bytes, at: int) -> bytes:
    changed = bytearray(data)
    changed[at] ^= 0x55
    return bytes(changed)


def _stream(data: bytes) -> list[Any] | None:
    try:
        reader = StreamReader(data)
    except BadInput:
        return None
    kinds = [type(record).__name__ for record in reader.records()]
    index = [[entry.time_us, entry.offset, entry.frame] for entry in reader.index]
    return [reader.truncated, reader.frame_count, reader.duration_us, len(kinds), index]


def _packet(data: bytes) -> bool:
    try:
        MotionPacket.parse(data)
    except BadPacket:
        return False
    return True


def _payload(packet: dict[str, Any], payload: bytes) -> list[list[int]] | None:
    codebook = Codebook.load(VECTORS / "codebook.safetensors")
    coded = CodedMotion(packet["sequence"], None, packet["level"], packet["frame_count"], payload)
    try:
        frames = MotionDecoder(codebook).decode(coded)
    except BadPacket:
        return None
    steps: list[list[int]] = np.rint(frames / codebook.steps(packet["level"])).astype(int).tolist()
    return steps


def what_is_encoded() -> dict[str, Any]:
    """Frames, among them some far out, and the packets they become at several qualities and with several references."""
    codebook = Codebook.load(VECTORS / "codebook.safetensors")
    place = np.arange(40)[:, None] * np.array([3, 7, 11, 13])
    # Of whole numbers, the same on every machine: a walk, with leaps that no symbol stands for.
    walk = np.cumsum((place * place // 5 % 9 - 4) * (place % 3 == 0), 0) + 4000 * (place % 83 == 0)
    frames = (walk / 8 * codebook.base_steps).astype(np.float32)
    packets = []
    encoder = MotionEncoder(codebook, reference="acknowledged")
    first = 0
    for count, quality, acknowledged in ((3, 50, 0), (8, 50, 1), (1, 100, 1), (4, 0, 3), (8, 62, 3), (8, 37, None)):
        encoder.set_quality(quality)
        packets.append(encoder.encode(frames[first : first + count]))
        if acknowledged is not None:
            encoder.acknowledge(acknowledged)
        first += count
    packets += MotionEncoder(codebook, 75, key_interval=9).encode_clip(frames, 3)
    packets += MotionEncoder(codebook, 50, rd_lambda=0, dead_zone=0.5).encode_clip(frames, 8)
    return {
        "frames": frames.tolist(),
        "packets": [{"reference": one.reference, "level": one.level, "payload": one.payload.hex()} for one in packets],
    }


#: How packets come: milliseconds they take at least and beyond that at most, share lost, frames in each, of those
#: repeated, milliseconds between frames, and when the way stands still for how long, or how much longer it then is.
WAYS: Final = {
    "even": (20, 0, 0.0, 3, 0, 40, None),
    "uneven": (30, 60, 0.0, 3, 0, 40, None),
    "lossy": (50, 20, 0.12, 2, 1, 40, None),
    "lossy and slow": (80, 90, 0.2, 4, 2, 80, None),
    "one frame each": (10, 40, 0.05, 1, 0, 100, None),
    "stalled": (20, 10, 0.02, 3, 0, 40, (3000, 900, 0)),
    "longer": (20, 10, 0.0, 3, 0, 40, (3000, 0, 700)),
    "silent": (20, 10, 0.0, 3, 0, 40, (3000, 30_000, 0)),
}
TICK_US: Final = 7_300


def what_is_played() -> list[dict[str, Any]]:
    """Of packets that arrive in eight ways: what becomes of each, and which frames are due when."""
    return [_played(number, name, *way) for number, (name, way) in enumerate(WAYS.items())]


def _played(
    seed: int, name: str, least: int, more: int, lost: float, frames: int, again: int, spacing: int, event: Any
) -> dict[str, Any]:
    random = np.random.default_rng(seed)
    sent: list[tuple[int, MotionPacket]] = []
    # Near the wrap of both the sequence numbers and the times.
    first_us, own = 65_000_000, frames - again
    for n in range(8000 // (own * spacing)):
        time_us = first_us + 1000 * spacing * own * n
        packet = MotionPacket((65_500 + n) % 65_536, time_us // 1000 % 65_536, 1000 * spacing, frames, None, 4, b"")
        taken_ms = least + int(random.integers(0, more + 1))
        arrived_us = time_us + 1000 * (spacing * (frames - 1) + taken_ms) + int(random.integers(0, 1000))
        if event is not None and time_us - first_us > 1000 * event[0]:
            arrived_us = max(arrived_us, first_us + 1000 * (event[0] + event[1])) + 1000 * event[2]
        copies = 0 if random.random() < lost else 2 if random.random() < 0.03 else 1
        sent += [(arrived_us + 150_000 * copy, packet) for copy in range(copies)]
    sent.sort(key=lambda one: one[0])
    jitter = JitterBuffer()
    steps: list[Any] = []
    now_us, next_report = sent[0][0], sent[0][0]
    while sent and now_us < first_us + 60_000_000:
        pushed = []
        while sent and sent[0][0] <= now_us:
            arrived_us, packet = sent.pop(0)
            pushed.append([arrived_us, bytes(packet).hex(), jitter.push(packet, arrived_us).value])
        due = [[one.packet.sequence, one.index, one.time_us, one.due_us, one.lost_before] for one in jitter.pop(now_us)]
        report = None
        if now_us >= next_report:
            next_report = now_us + 1_000_000
            said = jitter.report(now_us, 1000)
            assert said is not None
            report = [said.highest, said.held_ms, said.interval_ms, said.expected, said.lost, said.late, said.delay_ms]
        if pushed or due or report:
            steps.append([now_us, pushed, due, report, jitter.delay_us, jitter.next_due_us()])
        now_us += TICK_US
    packets = [jitter.received, jitter.late, jitter.duplicates, jitter.old]
    return {"way": name, "steps": steps, "counts": [*packets, jitter.played, jitter.skipped, jitter.repeated]}


def what_pace_holds() -> list[dict[str, Any]]:
    """Pictures that take longer and shorter for a while, and the rates that come of it."""
    random, pace, steps = np.random.default_rng(5), Pace(), EvenSteps()
    said: list[Any] = []
    free_us = 0
    for n in range(4000):
        now_us = 40_000 * n + int(random.integers(0, 9000))
        if not steps.take(now_us, pace.fps):
            continue
        left_out = steps.left_out
        if now_us < free_us:
            continue
        wall_s = (0.02, 0.13, 0.07, 0.2, 0.01)[n // 500 % 5] * (0.8 + 0.4 * float(random.random()))
        free_us = now_us + round(1e6 * wall_s)
        changed = pace.done(free_us, wall_s, wall_s, left_out)
        said.append([now_us, free_us, wall_s, left_out, changed, pace.fps])
    messages = [[planned, fps, frames_in_message(planned, 25.0, fps)] for planned in (1, 2, 3, 8) for fps in LADDER]
    return [{"pictures": said, "messages": messages}]


def what_becomes_of_fragments() -> dict[str, Any]:
    """Messages that are cut or changed: taken or not. Fragments in any order, repeated, lost, changed: what is made of
    them, and what is counted."""
    messages = [bytes.fromhex(one["bytes"]) for one in json.loads((VECTORS / "motion_messages.json").read_text())]
    random = np.random.default_rng(7)
    assembly = LayerAssembly()
    steps: list[list[Any]] = []
    number, time_ms = 250, 65_000
    for _ in range(150):
        jump = int(random.choice((1, 1, 1, 1, 2, 100, 130, 200)))
        number, time_ms = (number + jump) % 256, (time_ms + 80 * jump) % 65_536
        # Some frames are given before others that were taken before them.
        frames = [
            LayerFrame(
                (number + n) % 256,
                (time_ms + 80 * n) % 65_536,
                bool(random.random() < 0.2),
                random.bytes(size),
                whole=bool(random.random() < 0.2),
            )
            for n, size in enumerate(random.integers(1, 30, 3))
        ]
        pieces = [piece for frame in frames for piece in frame.fragments(4)]
        order = random.permutation(len(pieces)) if random.random() < 0.5 else np.arange(len(pieces))
        for at in order:
            run = [bytes(pieces[at])] * int(random.choice((0, 1, 1, 1, 1, 1, 1, 2)))
            if random.random() < 0.1:
                run.append(bytes(pieces[int(random.integers(len(pieces)))]))
            data = bytearray(b"".join(run))
            if data and random.random() < 0.15:
                # Number, flags, time, length or data.
                data[int(random.integers(min(8, len(data))))] ^= 1 << int(random.integers(8))
            steps.append([bytes(data).hex(), _assembled(assembly, bytes(data))])
    return {
        "message prefixes": [[_message(one[:length]) for length in range(len(one))] for one in messages],
        "message bytes flipped": [[_message(flipped(one, at)) for at in range(min(len(one), 200))] for one in messages],
        "steps": steps,
        "counts": [assembly.given_up, assembly.unused, assembly.refused],
    }


def _assembled(assembly: LayerAssembly, data: bytes) -> list[Any] | None:
    try:
        fragments = LayerFragment.parse_run(data)
    except BadPacket:
        return None
    made = [assembly.add(fragment) for fragment in fragments]
    return [None if one is None else [one.number, one.time_ms, one.key, one.data.hex(), one.whole] for one in made]


def _message(data: bytes) -> int | None:
    """How many fragments it has."""
    try:
        return len(MotionMessage.parse(data).fragments)
    except BadPacket:
        return None


#: Sides of the layer; the last two have detail of their own.
LAYER_SIDES: Final = (64, 128, 192, 256)


def wave(length: int, step: float) -> NDArray[np.float32]:
    """0..1"""
    return np.asarray(0.5 + 0.5 * np.sin(step * np.arange(length)), np.float32)


def layer_of(picture: Picture, side: int) -> Picture:
    """Every so many pixels of a picture, with its right half redder."""
    places = np.arange(side) * 256 // side
    small = picture[np.ix_(places, places)].astype(int)
    small[:, side // 2 :, 0] += 60
    return np.asarray(np.clip(small, 0, 255), np.uint8)


def units() -> dict[str, str]:
    """A key frame of the layer, the frame after it, and a key frame of a side that is not taken."""
    y, x = np.mgrid[:256, :256]
    pictures = [np.stack(((x + 4 * n) // 2, y // 2, (x + y) // 4), -1).astype(np.uint8) for n in range(2)]
    coded = []
    for side in (64, 288):
        encoder = LayerEncoder(LayerSetting(6.0, side, 10.0, 56))
        for number, picture in enumerate(pictures):
            crop = np.asarray(cv2.resize(picture, (max(side, 256),) * 2), np.uint8)
            coded.append(encoder.push(crop, 200_000 * number))
    key, after, larger, _ = (frame.data.hex() for frame in coded if frame is not None)
    return {"key": key, "next": after, "larger": larger}


def what_the_layer_changes(player: StreamPlayer, source: Source, made: Picture) -> dict[str, Any]:
    """A picture compared with layers of all sides: what is found, some of it, and how it looks a moment later."""
    fusion = player.family.fusion()
    assert fusion is not None
    placement = Placement(
        displacement=0.1 * wave(64 * 64 * 2, 0.003).reshape(64, 64, 2),
        painted=wave(256 * 256, 0.0007).reshape(256, 256),
        visible=wave(64 * 64, 0.002).reshape(64, 64),
        speaking=wave(64 * 64 * 2, 0.001).reshape(64, 64, 2),
    )
    later = replace(placement, displacement=0.1 * wave(64 * 64 * 2, 0.0031).reshape(64, 64, 2))
    found, before = list[dict[str, Any]](), None
    for side in LAYER_SIDES:
        in_step = side == LAYER_SIDES[-1]
        correction = fusion.correction(Made(made, placement), layer_of(source.picture, side), in_step=in_step)
        assert isinstance(correction, Correction)
        moved = correction.moved_to(Made(made, later))
        first, then = correction.after(before or moved, Made(made, placement))
        before = moved
        found.append(
            {
                "side": side,
                "changes": correction.changes.reshape(-1)[::101].tolist(),
                "moved": moved.changes.reshape(-1)[::101].tolist(),
                "shown": moved.apply(made, 0.75).reshape(-1)[::103].tolist(),
                "first": first.changes.reshape(-1)[::101].tolist(),
                "then": then.changes.reshape(-1)[::101].tolist(),
            }
        )
    points = source.keypoints[: lm.LANDMARKS]
    return {"points": _list(points), "speaking": _list(speaking_parts(points)), "compared": found}


def faces(player: StreamPlayer) -> dict[str, Any]:
    """Where the networks find the face in the sample's picture."""
    assert isinstance(player.family, CompactFamily)
    return faces_of(player.reader, player.family, sample_stream(SAMPLE))


def source_of(faces: dict[str, Any], picture: Picture) -> Source:
    """The picture with its face where `faces` has it, whatever networks find on this machine."""
    found = faces["pictures"][0]
    yaw, pitch, roll, x, y, scale = found["pose"]["pose"]
    pose = Motion((yaw, pitch, roll), (x, y), scale, np.array(found["pose"]["expression"], np.float32))
    shape, implicit = np.array(found["shape"], np.float32), np.array(found["implicit"], np.float32)
    neck: tuple[float, float, float] = tuple(found["neck"])
    interior = np.array(found["interior"], np.float32)
    return Source(picture, pose, shape.reshape(-1, 3), implicit.reshape(-1, 2), 1.0, None, neck, interior)


def motion(player: StreamPlayer, source: Source) -> dict[str, Any]:
    """Of the sample: its numbers, and where they put the face."""
    family = player.family
    assert isinstance(family, CompactFamily)
    timed = list(player.motions())
    packed = b"".join(struct.pack(f"<{len(vector)}f", *vector) for vector in decoded_vectors(player))
    base = base_reference(family, source)
    # A picture of the speaker that there is not: what is computed of it needs no pixels.
    other = ReferencePicture(source, timed[OTHER].motion, family.keypoints(source, timed[OTHER].motion))
    distances = [Distance(family, source).to(one.motion, [base, other]) for one in timed]
    chooser, cutting = Chooser(), Chooser(fade_frames=0)
    choices = [chooser.choose(one) for one in distances]
    return {
        "times": [one.time_us for one in timed],
        "vectors_sha256": hashlib.sha256(packed).hexdigest(),
        "driving": [
            _driving(family, source, timed[number].motion, view) | {"frame": number} for number, view in FRAMES
        ],
        "references": {
            "distances": [[float(value) for value in one] for one in distances[::20]],
            "retargeted": _pose(retarget_to(timed[40].motion, other)),
            "choices": [[one.picture, one.before, round(one.share, 6)] for one in choices],
            "cuts": [cutting.choose(one).picture for one in distances],
        },
    }


def decoded_vectors(player: StreamPlayer) -> list[Any]:
    """What the codec gives, before it becomes motion."""
    decoder = MotionDecoder(player.family.codebook)
    return [vector for timed in player.reader.packets() for vector in decoder.decode(timed.packet)]


def _driving(family: CompactFamily, source: Source, motion: Motion, view: View) -> dict[str, Any]:
    seen = view.apply(motion, source.neck)
    found = family.driving(source, seen)
    said = {name: [float(value) for value in values.reshape(-1)] for name, values in found.items()}
    return {"view": [view.yaw, view.pitch, view.roll], "pose": _pose(seen), **said}


def _pose(motion: Motion) -> list[float]:
    return [*motion.rotation, *motion.translation, motion.scale, *(float(value) for value in motion.expression[:3])]


def rendered(player: StreamPlayer, source: Source) -> Picture:
    """One of the sample's frames."""
    number, view = FRAMES[RENDERED]
    renderer = FaceRenderer(player.family, source)
    renderer.view = view
    return renderer.render(list(player.motions())[number].motion)


def held(player: StreamPlayer, source: Source) -> Picture:
    """One of the sample's frames as a slow processor shows it."""
    renderer = FaceRenderer(player.family, source)
    renderer.hold = 1.0
    first, last = HELD
    return [renderer.render(timed.motion) for timed in list(player.motions())[first : last + 1]][-1]


def what_is_held(player: StreamPlayer, source: Source) -> list[bool]:
    """Which frames of the sample are moved on from one before."""
    assert isinstance(player.family, CompactFamily)
    said: list[bool] = []
    nothing = np.zeros((1, 4096, len(source.keypoints) + 1), np.float32)
    found = {"displacement": np.zeros((1, 64, 64, 2), np.float32), "masks": nothing}
    blank = np.zeros((64, 64), np.float32)
    nothing_painted = Painted(np.zeros((256, 256, 4), np.uint8), blank)
    kept: HeldPicture | None = None
    for timed in player.motions():
        driving = player.family.driving(source, timed.motion)
        x_d = driving["x_d"][0]
        said.append(kept is not None and kept.reaches(x_d))
        if kept is None or not said[-1]:
            field = FieldFor(found, source.keypoints, x_d, driving["jacobian"][0])
            kept = HeldPicture(field, blank, nothing_painted)
    return said


def tilted(picture: Picture) -> Picture:
    flags = cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP
    matrix, size = np.array(TILT), (picture.shape[1], picture.shape[0])
    return np.asarray(cv2.warpAffine(picture, matrix, size, flags=flags, borderMode=cv2.BORDER_REPLICATE), np.uint8)


def pasted(picture: Picture, left: int, top: int, side: int) -> Picture:
    """In a picture of 640x480 whose ground changes slowly."""
    y, x = np.mgrid[:480, :640]
    made = np.stack((x // 4 + 40, y // 4 + 60, (x + y) // 8 + 50), -1).astype(np.uint8)
    small = cv2.resize(picture, (side, side), interpolation=cv2.INTER_AREA)
    made[top : top + side, left : left + side] = small
    return made


def tracked(player: StreamPlayer, picture: Picture) -> dict[str, Any]:
    """The portrait, and tilted, as pictures that a person gives: where the face is, and where motion puts it."""
    family = player.family
    assert isinstance(family, CompactFamily)
    pictures = []
    for one in (picture, tilted(picture)):
        track = family.track(one)
        source = family.source(one, track)
        pictures.append(
            {
                "points": _list(track.points),
                "depth": _list(track.depth),
                "implicit": _list(track.implicit),
                "interior": _list(track.interior),
                "certainty": track.certainty,
                "pose": _pose(source.pose)[:6],
                "shape": _list(source.shape),
            }
        )
    stream, motion = player.stream_source.pose, list(player.motions())[OTHER].motion
    return {
        "tilt": [value for row in TILT for value in row],
        "tilted": tilted(picture).reshape(-1, 3)[::997].tolist(),
        "pictures": pictures,
        "retargeted": {
            "frame": OTHER,
            "stream": _pose(stream)[:6],
            **_driving(family, source, retarget(motion, stream, source.pose), View()),
        },
        "pasted": [[*where, *_place(family, pasted(picture, *where))] for where in PASTED],
    }


class _Given:
    """An extractor that has the motion already."""

    def __init__(self, motions: list[Motion]) -> None:
        self._motions = iter(motions)

    def from_track(self, track: Track, time_us: int) -> Motion:
        return next(self._motions)

    def reset(self) -> None:
        pass


#: What happens before a frame of `what_is_packed`: plan (frames, level, repeated, spacing), acknowledged packet, ...
PACKED: Final[dict[int, dict[str, Any]]] = {
    0: {"plan": [3, 4, 0, 40_000]},
    12: {"acknowledge": 1},
    20: {"plan": [2, 6, 1, 50_000]},
    31: {"acknowledge": 6},
    40: {"flush": True, "pause": 700_000},
    46: {"plan": [1, 2, 2, 100_000]},
    55: {"acknowledge": 14},
    60: {"restart": True, "plan": [4, 4, 3, 40_000]},
    70: {"acknowledge": 1},
}


def what_is_packed(player: StreamPlayer) -> dict[str, Any]:
    """The sample's motion as packets, while plans and acknowledgements come."""
    motions = [timed.motion for timed in player.motions()][:80]
    encoder = PacketEncoder(player.family, player.stream_source, key_every_s=2.0, reference="acknowledged")
    setattr(encoder, "extractor", _Given(motions))  # noqa: B010
    track = player.family.track(player.stream_source.picture)
    packets: list[str | None] = []
    times: list[int] = []
    now_us, spacing = 65_000_000, 40_000
    for number in range(len(motions)):
        event = PACKED.get(number, {})
        if "flush" in event:
            flushed = encoder.flush()
            packets.append(None if flushed is None else bytes(flushed).hex())
        if "restart" in event:
            encoder.restart()
        if "acknowledge" in event:
            encoder.codec.acknowledge(event["acknowledge"])
        if "plan" in event:
            encoder.frames_per_packet, level, encoder.redundant_frames, spacing = event["plan"]
            encoder.codec.set_quality(100 * level / 8)
            encoder.spacing_us = spacing
        now_us += spacing + event.get("pause", 0) + number * number % 7 * 400
        times.append(now_us)
        packet = encoder.push_track(track, now_us)
        packets.append(None if packet is None else bytes(packet).hex())
    vectors = [_list(motion.vector) for motion in motions]
    return {"events": PACKED, "vectors": vectors, "times": times, "packets": packets}


#: Every third frame of the sample, from here on.
SEEN: Final = range(20, 56, 3)


def what_is_extracted(player: StreamPlayer, source: Source) -> dict[str, Any]:
    """Motion of tracked faces against the portrait: as it is fitted, with implicit keypoints aligned, and filtered."""
    family = player.family
    assert isinstance(family, CompactFamily)
    frames = list(player.motions())
    renderer = FaceRenderer(family, source)
    crops = [renderer.render(frames[number].motion) for number in SEEN]
    aligner, steady = KeypointAligner(family, source), MotionExtractor(family, source, check_speaker=False)
    seen: list[dict[str, Any]] = []
    track: Track | None = None
    previous: Motion | None = None
    for number, crop in zip(SEEN, crops, strict=True):
        track = family.track(crop, track)
        assert track.look is not None
        previous = family.motion(track, source, previous)
        filtered = steady.from_track(track, 40_000 * number)
        assert track.colour is not None
        aligned = aligner.align(previous, track)
        seen.append(
            {
                "points": _list(track.points),
                "depth": _list(track.depth),
                "implicit": _list(track.implicit),
                "interior": _list(track.interior),
                "look": base64.b64encode(np.ascontiguousarray(track.look).tobytes()).decode(),
                "time": 40_000 * number,
                "fitted": _list(previous.vector),
                "aligned": _list(aligned.vector),
                "likeness": aligner.likeness,
                "colour": [float(value) - 128 for value in track.colour],
                "filtered": _list(filtered.vector),
            }
        )
    points = np.array([one["points"] for one in seen], np.float32).reshape(len(seen), -1, 2)
    scores = source_scores([source.picture] * len(points), points, GROUPS)
    mask = face_mask(points[0], 64)
    looks = [[openness(one, GROUPS.left_eye), openness(one, GROUPS.inner_lips), turn(one, GROUPS)] for one in points]
    return {
        "seen": seen,
        "portrait": base64.b64encode(look_at(source.picture).tobytes()).decode(),
        "sharpness": sharpness(source.picture),
        "mask": int(np.count_nonzero(mask)),
        "colour": [float(value) for value in face_colour(source.picture, mask)],
        "openings": looks,
        "best": int(scores.argmax()),
    }


def what_is_reframed() -> list[list[float]]:
    """A face that wanders, comes nearer and leaps, and where the crop goes: box, elapsed seconds, place."""
    random = np.random.default_rng(3)
    policy = ReframePolicy((640, 480))
    x, y, width = 300.0, 220.0, 120.0
    said: list[list[float]] = []
    for n in range(240):
        x += 4 * np.sin(n / 20) + float(random.normal())
        y += 1.5 * np.cos(n / 15) + float(random.normal())
        width *= 1 + 0.01 * np.sin(n / 30)
        if n == 150:
            x -= 250
        box = FaceBox(x - width / 2, y - 0.6 * width, width, 1.2 * width, 1.0)
        elapsed = 0.04 if n % 11 else 0.16
        place = policy.step(box, elapsed)
        said.append([box.x0, box.y0, box.width, box.height, elapsed, place.x0, place.y0, place.side])
    return said


def _place(family: CompactFamily, rgb: Picture) -> tuple[float, float, float]:
    place = plan_crops([Frame(rgb, 0, 0)], Tracker(family)).parts[0].place
    return place.x0, place.y0, place.side


def _list(values: Any) -> list[float]:
    return [float(f"{value:.9g}") for value in np.asarray(values).reshape(-1)]


def write() -> None:
    player = StreamPlayer(sample_stream(SAMPLE), threads=1)
    found = faces(player)
    source = source_of(found, player.stream_source.picture)
    said = {
        "read": what_is_read(),
        "encoded": what_is_encoded(),
        "played": what_is_played(),
        "pace": what_pace_holds(),
        "packed": what_is_packed(player),
        "fragments": what_becomes_of_fragments(),
        "units": units(),
        "layer": what_the_layer_changes(player, source, rendered(player, source)),
        "extracted": what_is_extracted(player, source),
        "reframed": what_is_reframed(),
        "faces": found,
        "motion": motion(player, source),
        "held": what_is_held(player, source),
        "tracked": tracked(player, source.picture),
    }
    for name, made in said.items():
        (VECTORS / f"web_{name}.json").write_text(json.dumps(made, separators=(",", ":")) + "\n")
    pictures = {"source": source.picture, "rendered": rendered(player, source), "held": held(player, source)}
    for name, picture in pictures.items():
        (VECTORS / f"web_{name}.png").write_bytes(as_png(picture))


if __name__ == "__main__":
    write()
