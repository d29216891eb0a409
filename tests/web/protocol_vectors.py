"""What the modules of a call's protocol must give, said by the Python that they mirror.

    PYTHONPATH=shared:sender:receiver:proto:tests python -m web.protocol_vectors

writes it to `tests/vectors` anew, from the folder tests; `test_protocol_vectors.py` says whether it still holds.
"""

from __future__ import annotations

import json
import random
from dataclasses import astuple
from pathlib import Path
from typing import Annotated, Any, Final

from pydantic import Field, TypeAdapter, ValidationError

from handshakes import ANSWER, OFFER, ROOM
from kilocall.call.signalling import Event, Refused
from kilocall.control.rate_control import PROFILES, Feedback, Plan, RateControl
from kilocall.control.session import Session
from kilocall.proto.control import (
    MAX_REFERENCE_BYTES,
    Acknowledge,
    Bye,
    CameraState,
    Compared,
    ControlMessage,
    CropPlace,
    FaceState,
    HavePicture,
    Hello,
    LayerReport,
    MediaState,
    Part,
    PersonalPiece,
    PictureRate,
    ReceiverReport,
    Recognise,
    ReferenceOffer,
    ReferencePiece,
    Reveal,
    SourcePicture,
    WantPersonal,
    WantPicture,
    parse_control,
)
from kilocall.proto.errors import BadInput, BadPacket
from kilocall.proto.motion_packet import MotionPacket
from kilocall.proto.trust import Handshake
from kilocall.runtime.long_messages import Assembly
from meeting import SECRET

VECTORS: Final = Path(__file__).parents[1] / "vectors"
A, B, C = "0f" * 32, "a5" * 32, "5a" * 32
HELLO: Final = Hello("compact-256", A, B, 25_000, 1000, 256)
SAID_BY_HAND: Final = (
    "9201",
    "93c0c0c0",
    "9115",
    "92cf0000000000000004cf0000000000009c40",
    "92d304cd9c40",
    "9204cf0020000000000000",
    "9308c2cf0020000000000000",
    "9308c2cf0020000000000001",
    "9308c2ffff",
    "920580",
    "9205a2c328",
    "9205a3eda080",
    "9502c420" + B + "01c40080",
    "9502c420" + B + "01c400c40401020304",
    "9502c420" + B + "01c400c4047fc00000",
    "9502c420" + B + "01c400c403010203",
    "9502c420" + B + "02c400c0",
    "9502c420" + B + "c3c400c0",
    "970300ca7fc00000ca00000000ca44200000cd0500cd02d0",
    "970300cb3ff0000000000000cb0000000000000000cb40840000000000000a0a",
    "9703cb3ff000000000000000000000",
    "970300c900000000010203",
    "9808",
    "01",
    "dd000000020412",
    "dc00029204",
    "c1",
    "",
    "98" + "02" + "ab636f6d706163742d323536c420" + A + "c420" + B + "cd7530cd03e9cd0100",
    "9302a3612e31c0",
)


def golden_messages() -> dict[str, bytes]:
    found: dict[str, str] = json.loads((VECTORS / "control_messages.json").read_text())
    return {name: bytes.fromhex(data) for name, data in found.items()}


def _read(data: bytes) -> str | None:
    """What is written of what was read, or nothing where it is refused."""
    try:
        return bytes(parse_control(data)).hex()
    except BadPacket:
        return None


def _changed(data: bytes, at: int, change: int) -> bytes:
    return data[:at] + bytes([data[at] ^ change]) + data[at + 1 :]


def control() -> dict[str, Any]:
    """Control messages with each byte changed, and some made by hand."""
    golden = golden_messages()
    changed = {
        name: [_read(_changed(data, at, change)) for at in range(len(data)) for change in (0x55, 1)]
        for name, data in golden.items()
    }
    return {
        "changed": changed,
        "by hand": [[data, _read(bytes.fromhex(data))] for data in SAID_BY_HAND],
        "parts": parts(),
    }


def parts() -> dict[str, Any]:
    """A long message in parts, and what an Assembly makes of parts in disorder."""
    long = bytes(SourcePicture("webp", bytes(n * 7 % 256 for n in range(2500))))
    other = bytes(Bye("x" * 150)) * 8  # no message, but bytes
    pieces = [bytes(one) for one in (*Part.split(long), *Part.split(other))]
    order = [0, 1, 2, 3, 0, 1, 0, 2, 0, 3, 4, 0, 1, 2, 1, 0, 1, 2, 3, 4, 5]
    assembly, made = Assembly(), list[str | None]()
    for number in order:
        try:
            whole = assembly.add(pieces[number % len(pieces)])
            made.append(None if whole is None else whole[:8].hex())
        except BadPacket:
            made.append("refused")
    return {
        "messages": [long.hex(), other.hex()],
        "pieces": [one.hex() for one in pieces],
        "order": order,
        "made": made,
    }


def server_messages() -> list[Any]:
    """Texts of a signalling server, and what a client takes them for: nothing, what they say (True), or more."""
    # As `Signalling` reads them.
    reader: TypeAdapter[Any] = TypeAdapter(Annotated[Event | Refused, Field(discriminator="type")])
    relay = {"url": "turn:turn.example:3478?transport=udp", "username": "1:a", "credential": "b="}
    texts: list[Any] = [
        {"type": "joined", "member": "m" * 16, "others": 0},
        {"type": "joined", "member": "m" * 64, "others": 1, "ice": None},
        {"type": "joined", "member": "m" * 22, "others": 1, "ice": [relay] * 4},
        {"type": "joined", "member": "m" * 22, "others": 1, "ice": [relay] * 5},
        {"type": "joined", "member": "m" * 22, "others": 1, "ice": [relay | {"url": "https://turn.example"}]},
        {"type": "joined", "member": "m" * 22, "others": 1, "ice": [relay | {"more": 1}]},
        {"type": "joined", "member": "m" * 22, "others": 1, "ice": [relay | {"url": "turn:" + "a" * 296}]},
        {"type": "joined", "member": "m" * 22, "others": 1, "ice": {"url": 1}},
        {"type": "joined", "member": "m" * 15, "others": 1},
        {"type": "joined", "member": "m" * 20, "others": 2},
        {"type": "joined", "member": "m" * 20, "others": True},
        {"type": "joined", "member": "m" * 20},
        {"type": "joined", "member": 5, "others": 0},
        {"type": "paired", "session": 0, "offer": True},
        {"type": "paired", "session": 2**32 - 1, "offer": False},
        {"type": "paired", "session": 2**32, "offer": False},
        {"type": "paired", "session": -1, "offer": False},
        {"type": "paired", "session": 1.5, "offer": False},
        {"type": "paired", "session": "1", "offer": False},
        {"type": "paired", "session": 1, "offer": 1},
        {"type": "paired", "session": 1, "offer": True, "more": None},
        {"type": "commit", "session": 1, "commitment": "0a" * 32},
        {"type": "commit", "session": 1, "commitment": "0A" * 32},
        {"type": "commit", "session": 1, "commitment": "0a" * 32 + "\n"},
        {"type": "signal", "session": 1, "kind": "offer", "sdp": "v=0"},
        {"type": "signal", "session": 1, "kind": "answer", "sdp": "", "tag": "x" * 64},
        {"type": "signal", "session": 1, "kind": "answer", "sdp": "", "tag": "x" * 65},
        {"type": "signal", "session": 1, "kind": "answer", "sdp": "", "tag": None},
        {"type": "signal", "session": 1, "kind": "pranswer", "sdp": "", "tag": ""},
        {"type": "signal", "session": 1, "kind": "offer", "sdp": "x" * 16384, "tag": ""},
        {"type": "signal", "session": 1, "kind": "offer", "sdp": "x" * 16385, "tag": ""},
        {"type": "left"},
        {"type": "left", "why": "tired"},
        {"type": "refused", "code": "full", "reason": "room tea has two parties already"},
        {"type": "refused", "code": "tired", "reason": ""},
        {"type": "refused", "code": "rate", "reason": "\N{GRINNING FACE}" * 300},
        {"type": "refused", "code": "rate", "reason": "\N{GRINNING FACE}" * 301},
        {"type": "free"},
        {"type": "toString"},
        {"type": ["left"]},
        {},
        [],
        "left",
        None,
    ]
    said = [text if isinstance(text, str) else json.dumps(text) for text in texts]
    said += ["", "{", '{"type":"left"} ', '{"type":"left"}x']
    return [[text, _taken(reader, text)] for text in said]


def _taken(reader: TypeAdapter[Any], text: str) -> Any:
    try:
        taken = reader.validate_json(text).model_dump(mode="json")
    except ValidationError:
        return None
    return True if taken == json.loads(text) else taken


def rate() -> list[dict[str, Any]]:
    """Traces of rate controls: reports and ticks, and the plan after each."""
    links = ((1, 40, 0), (2, 40, 3000), (3, 75, 24_000), (4, 20, 0))
    return [_trace(profile, *link) for profile in PROFILES for link in links]


def _trace(profile: str, seed: int, bits: float, layer_bps: int) -> dict[str, Any]:
    chance = random.Random(seed)
    control = RateControl(profile, bits_per_frame=bits, layer_bps=layer_bps)
    now_us, plans, steps = 1_000_000, list[list[Any]](), list[list[Any]]()
    delay_ms, loss = 0.0, 0.0
    rtt_ms: int | None = 40
    for number in range(300):
        now_us += chance.choice((500_000, 1_000_000, 1_000_000, 1_050_000))
        if number % 25 == 0:  # another kind of link
            control.show_camera(number % 100 == 50)
            delay_ms = chance.choice((0, 0, 0, 20, 90, 200, 400))
            loss = chance.choice((0, 0, 0, 0.01, 0.05, 0.1, 0.3))
            rtt_ms = chance.choice((None, 20, 40, 120))
        if chance.random() < 0.08:
            now_us += 1_500_000 if chance.random() < 0.5 else 4_000_000
            control.tick(now_us)
            steps.append([now_us])
        else:
            lately = delay_ms * chance.choice((0.1, 1, 1.5))
            rtt = None if rtt_ms is None else rtt_ms + chance.randrange(30) + lately * chance.choice((0, 1))
            received = chance.choice((0, 9000, 14_000, 22_000, 40_000))
            feedback = Feedback(now_us, loss * chance.choice((0, 1, 2)), lately, received, rtt)
            control.update(feedback)
            steps.append([*astuple(feedback)])
        plans.append([control.rung, control.guarded, control.steps, *astuple(control.plan)])
    return {"profile": profile, "bits": bits, "layer": layer_bps, "steps": steps, "plans": plans}


class Recorder:
    """A session whose ports write down what is asked of them."""

    def __init__(self) -> None:
        self.now_us = 5_000_000
        self.asked: list[list[Any]] = []
        self._told: list[Any] = []
        self.session = Session(
            self,
            self,
            rate=RateControl(layer_bps=3000),
            clock_us=lambda: self.now_us,
            link_name=SECRET.name,
            on_plan=lambda plan: self.note("plan"),
            on_reference=lambda picture_hash: self.note("reference", picture_hash),
        )
        self.session.introduce(HELLO)

    def note(self, what: str, *values: Any) -> None:
        self.asked.append([what, *values])

    def send(self, data: bytes) -> bool:
        self.note("say", data.hex())
        return True

    def acknowledge(self, sequence: int) -> None: ...  # the modules take it from reports instead
    def confirm(self, picture_hash: str) -> None:
        self.note("confirm", picture_hash)

    def follow(self, plan: Plan) -> None:
        self.note("follow", *astuple(plan))

    def ask_layer(self, report: LayerReport) -> None:
        self.note("askLayer", bytes(report).hex())

    def take_camera(self) -> None:
        self.note("takeCamera")

    def show_camera(self, shown: bool, from_us: int) -> None:
        self.note("showCamera", shown, from_us)

    def limit(self, fps: float) -> None:
        self.note("limit", fps)

    def expect(self, fps: float) -> None:
        self.note("expect", fps)

    def prepare(self, picture_hash: str, data: bytes) -> None:
        self.note("prepare", picture_hash, data.hex())

    def use(self, picture_hash: str, from_us: int) -> None:
        self.note("use", picture_hash, from_us)

    def adapt(self, file_hash: str, data: bytes) -> None: ...
    def refer(self, base_hash: str, picture_hash: str, data: bytes) -> None:
        self.note("refer", base_hash, picture_hash, data.hex())

    def forget(self) -> None:
        self.note("forget")

    def news(self) -> tuple[list[list[Any]], list[Any] | None]:
        """What was asked since the last time, and what is known, if that is another than then."""
        (asked, self.asked), (told, self._told) = (self.asked, []), (self._told, self.state())
        return asked, None if told == self._told else self._told

    def state(self) -> list[Any]:
        session = self.session
        remote = session.remote
        return [
            *(session.phase, session.reason, session.malformed, session.said_bye, session.confirmed, session.greeted),
            *(session.rtt_ms, session.loss, session.same_clock, session.rate.rung),
            [remote.present, remote.face, remote.face_since_us, remote.muted, remote.camera_off],
            [remote.takes_camera, remote.picture_hash],
            [*session.acquaintance.words],
            session.acquaintance.verified,
            sorted(session.references.held),
            [session.pictures.sent, session.pictures.from_cache, session.references.from_cache],
        ]


#: Pictures of both sides: bytes, not pictures.
OWN: Final = tuple(SourcePicture("webp", f"mine {n}".encode()) for n in range(3))
THEIRS: Final = tuple(SourcePicture("avif", f"theirs {n}".encode()) for n in range(3))
FURTHER: Final = tuple(SourcePicture("webp", bytes([n]) * (40, 300, 1100)[n]) for n in range(3))


def _others(chance: random.Random, theirs: Handshake, now_us: int) -> bytes:
    """A message of the other side's, of which some make no sense."""
    picture, own, further = chance.choice(THEIRS), chance.choice(OWN), chance.choice(FURTHER)
    offset = chance.choice((0, 0, 0, 800, 1000)) % len(further.data)
    choices: list[ControlMessage] = [
        chance.choice(
            (
                HELLO,
                HELLO,
                HELLO,
                HELLO,
                Hello("compact-256", A, C, 25, 1, 256),
                Hello("other", A, B, 25, 1, 256),
                Hello("liveportrait", A, B, 25, 1, 256),
                Hello("compact-256", A, B, 30, 1, 512),
            )
        ),
        *(picture.offer(), picture.offer(), picture, picture),
        *(WantPicture(own.picture_hash), WantPicture(further.picture_hash), WantPicture(C)),
        *(HavePicture(own.picture_hash), HavePicture(further.picture_hash), WantPicture(further.picture_hash)),
        *(offer_of(picture, further), offer_of(picture, further)),
        ReferenceOffer(picture.picture_hash, further.picture_hash, "webp", chance.choice((900, MAX_REFERENCE_BYTES))),
        ReferencePiece(further.picture_hash, offset, further.data[offset : offset + 800]),
        ReferencePiece(further.picture_hash, 0, further.data[:1000]),
        Reveal(chance.choice((theirs.nonce, theirs.nonce, theirs.nonce, bytes(32)))),
        *(Recognise(bytes(32)), Compared()),
        FaceState(chance.random() < 0.8, now_us + chance.choice((0, 10_000, -5_000_000))),
        MediaState(chance.random() < 0.5, chance.random() < 0.5),
        _report(chance),
        PictureRate(chance.choice((12_500, 25_000))),
        CameraState(chance.random() < 0.5, now_us),
        LayerReport(chance.choice((0, 24_000)), chance.choice((None, 7)), chance.random() < 0.3),
        *(
            CropPlace(0, 0, 0, 10, 10, 10),
            Acknowledge(3),
            Part(0, b"x"),
            PersonalPiece(A, 9, 0, b"x"),
            WantPersonal(C, 0),
        ),
    ]
    data = bytes(chance.choice(choices))
    if chance.random() < 0.03:
        return data[: chance.randrange(len(data))]
    if chance.random() < 0.004:
        return bytes(Bye("good night"))
    if chance.random() < 0.01:
        return bytes.fromhex("9202a178")  # too few fields
    if data[1] == Hello.TYPE and chance.random() < 0.1:
        return b"\x98\x01\x02" + data[3:]  # of another version
    return data


def offer_of(base: SourcePicture, further: SourcePicture) -> ReferenceOffer:
    return ReferenceOffer(base.picture_hash, further.picture_hash, "webp", len(further.data))


def _report(chance: random.Random) -> ReceiverReport:
    expected = chance.choice((0, 8, 9))
    lost = min(expected, chance.choice((0, 0, 0, 1, 3)))
    delay = chance.choice((0, 0, 5, 40, 200, 400))
    return ReceiverReport(
        chance.randrange(12), chance.choice((0, 15)), chance.choice((0, 1000)), expected, lost, 0, delay, 3000
    )


def _handshakes(number: int) -> tuple[Handshake, Handshake]:
    """Both sides of a connection with nonces that are known, this side first."""
    nonces = [bytes([16 * side + number % 16]) * 32 for side in range(2)]
    offering = Handshake(SECRET.key, ROOM, offers=True, nonce=nonces[0])
    answering = Handshake(SECRET.key, ROOM, offers=False, nonce=nonces[1])
    offering.meet(answering.commitment)
    answering.meet(offering.commitment)
    answering.check(OFFER, offering.seal(OFFER))
    offering.check(ANSWER, answering.seal(ANSWER))
    return offering, answering


#: Between them they ask for everything, as `test_protocol_vectors.py` says.
SEEDS: Final = (8, 11, 13, 28, 34, 137)
#: What is done to a session, and how often.
OFTEN: Final = {
    "control": 60,
    "tick": 12,
    "ownSource": 2,
    "ownReference": 6,
    "ownFace": 3,
    "ownMedia": 1,
    "ownRate": 1,
    "ownCamera": 1,
    "ready": 5,
    "refused": 1,
    "motionSent": 8,
    "closed": 1,
    "compared": 1,
    "furtherReady": 3,
    "furtherRefused": 1,
    "report": 1,
    "lag": 1,
    "bye": 0.5,
}


def sessions() -> list[list[Any]]:
    """Traces of sessions: what is done, what they ask for, and what is known then."""
    return [_session(seed) for seed in SEEDS]


def _session(seed: int) -> list[Any]:
    chance = random.Random(seed)
    recorder = Recorder()
    session = recorder.session
    _, theirs = _handshakes(0)
    trace: list[Any] = []
    connections = 0
    for number in range(120):
        recorder.now_us += chance.choice((0, 1000, 40_000, 300_000, 1_100_000))
        begins = number == 0 or session.phase in ("lost", "ended", "refused") or chance.random() < 0.015
        does: list[Any]
        if begins:
            connections += 1
            mine, theirs = _handshakes(connections)
            session.opened(recorder.send, mine)
            does = ["opened", connections]
            if chance.random() < 0.8:  # the greeting comes next
                trace.append(_noted(recorder, does))
                session.control(bytes(HELLO), recorder.now_us)
                does = ["control", bytes(HELLO).hex()]
        else:
            does = _do(chance, session, theirs, recorder)
        trace.append(_noted(recorder, does))
        if number == 4:
            session.take_layer(24_000)
            trace.append(_noted(recorder, ["takeLayer", 24_000]))
        if number % 30 == 20:
            newest = None if number == 20 else number
            session.layer_lost(newest)
            trace.append(_noted(recorder, ["layerLost", newest]))
    return trace


def _noted(recorder: Recorder, does: list[Any]) -> list[Any]:
    return [recorder.now_us, does, *recorder.news()]


def _do(chance: random.Random, session: Session, theirs: Handshake, recorder: Recorder) -> list[Any]:
    now_us = recorder.now_us
    what = chance.choices([*OFTEN], [*OFTEN.values()])[0]
    picture, further = chance.choice(THEIRS), chance.choice(FURTHER)
    match what:
        case "control":
            data = _others(chance, theirs, now_us)
            session.control(data, now_us)
            return [what, data.hex()]
        case "tick":
            session.tick()
        case "ownSource":
            own = chance.choice((OWN[0], *OWN))
            session.own_source(own)
            return [what, bytes(own).hex()]
        case "ownReference":
            base = OWN[0].picture_hash
            try:
                session.own_reference(base, further)
            except BadInput:
                return [what, base, bytes(further).hex(), "refused"]
            return [what, base, bytes(further).hex()]
        case "ownFace":
            seen = chance.random() < 0.8
            session.own_face(seen, now_us)
            return [what, seen]
        case "ownMedia":
            muted, camera_off = chance.random() < 0.5, chance.random() < 0.5
            session.own_media(muted=muted, camera_off=camera_off)
            return [what, muted, camera_off]
        case "ownRate":
            fps = chance.choice((12.5, 25.0, 6.0))
            session.own_rate(fps)
            return [what, fps]
        case "ownCamera":
            shown = chance.random() < 0.5
            session.own_camera(shown, now_us)
            return [what, shown]
        case "ready":
            session.picture_ready(picture.picture_hash)
            return [what, picture.picture_hash]
        case "refused":
            session.picture_refused(picture.picture_hash, "no face")
            return [what, picture.picture_hash]
        case "motionSent":
            sequence = chance.randrange(12)
            session.motion_sent(MotionPacket(sequence, 0, 40_000, 3, None, 4, b""))
            return [what, sequence]
        case "closed":
            session.closed("lost", "nothing has arrived for 9 s")
        case "compared":
            try:
                session.acquaintance.compared(session.acquaintance.words)
            except BadInput:
                return [what, "refused"]
        case "furtherReady":
            session.references.ready(further.picture_hash)
            return [what, further.picture_hash]
        case "furtherRefused":
            session.references.refused(further.picture_hash, "no face")
            return [what, further.picture_hash]
        case "report":
            report = _report(chance)
            session.report(report)
            return [what, bytes(report).hex()]
        case "lag":
            session.own_lag_ms, session.loop_lag_ms = chance.choice((0.0, 30.0)), chance.choice((0.0, 150.0))
            return [what, session.own_lag_ms, session.loop_lag_ms]
        case "bye":
            reason = chance.choice(("hung up", "\N{GRINNING FACE}" * 60))
            session.bye(reason)
            return [what, reason]
    return [what]


def everything() -> dict[str, Any]:
    """By the end of the file's name."""
    made = {"control": control(), "signalling": server_messages(), "rate": rate(), "session": sessions()}
    return {name: json.loads(json.dumps(one)) for name, one in made.items()}


def write() -> None:
    for name, made in everything().items():
        (VECTORS / f"web_{name}.json").write_text(json.dumps(made, separators=(",", ":")) + "\n")


if __name__ == "__main__":
    write()
