"""What two parties agree on above a connection: who they are, their source pictures, faces, reports and farewell.

A Session outlives connections: after a change of network the next one goes on with the same pictures. It does no
input or output of its own and runs no network: it is told what arrived, and asks its ports to do things.

    introduce    this side's Hello, once its models are loaded
    opened    -> Hello, Reveal, MediaState, the own picture's offer
    Hello     checked: version, family, weights; a difference ends the call with a Bye that says what to update
    offer     -> WantPicture, unless the picture is in the cache; HavePicture once it can be moved
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Container
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final, Literal, Protocol, SupportsBytes

from kilocall.control.acquaintance import Acquaintance
from kilocall.control.adapter_exchange import AdapterExchange
from kilocall.control.exchange import PICTURES, Exchange
from kilocall.control.own_state import OwnState
from kilocall.control.rate_control import Feedback, Plan
from kilocall.control.references import ReferenceExchange
from kilocall.control.sent_motion import SentMotion
from kilocall.model.family import OWN_WEIGHTS
from kilocall.proto.control import (
    CONTROL_TYPES,
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
from kilocall.proto.errors import BadPacket, NotProven
from kilocall.proto.motion_message import MotionMessage
from kilocall.proto.motion_packet import MotionPacket
from kilocall.proto.trust import Handshake

__all__ = ["EVERY_KIND", "Incoming", "Outgoing", "Phase", "Rate", "Remote", "Session"]

logger = logging.getLogger(__name__)

Phase = Literal["alone", "connecting", "open", "lost", "ended", "refused"]

BUSY_MS: Final = 100
#: No more often is it said in the log what the other side got wrong.
DROPPED_EVERY_US: Final = 1_000_000
#: Clocks this near are one clock: both parties are on one machine.
SAME_CLOCK_US: Final = 3_000_000


class Outgoing(Protocol):
    """What the session asks of the sending side."""

    def acknowledge(self, sequence: int) -> None: ...
    def confirm(self, picture_hash: str) -> None: ...
    def follow(self, plan: Plan) -> None: ...
    def ask_layer(self, report: LayerReport) -> None: ...
    def take_camera(self) -> None: ...
    def limit(self, fps: float) -> None: ...


class Rate(Protocol):
    """What decides how much is sent: RateControl, or a plan that stays as it is."""

    @property
    def rung(self) -> int: ...
    @property
    def plan(self) -> Plan: ...
    def update(self, feedback: Feedback) -> Plan: ...
    def tick(self, now_us: int) -> Plan: ...
    def show_camera(self, on: bool) -> None: ...


class Incoming(Protocol):
    """What the session asks of the receiving side."""

    def prepare(self, picture_hash: str, data: bytes) -> None: ...
    def use(self, picture_hash: str, from_us: int) -> None: ...
    def adapt(self, file_hash: str, data: bytes) -> None: ...
    def refer(self, base_hash: str, picture_hash: str, data: bytes) -> None: ...
    def expect(self, fps: float) -> None: ...
    def show_camera(self, shown: bool, from_us: int) -> None: ...
    def forget(self) -> None: ...


@dataclass(frozen=True)
class Remote:
    """What is known of the other side."""

    present: bool = False
    face: bool = False
    face_since_us: int = 0
    """On this side's clock."""
    muted: bool = False
    camera_off: bool = False
    takes_camera: bool = False
    """Whether it can show what this side's camera sees."""
    picture_hash: str | None = None
    """Of the picture that is moved."""


EVERY_KIND: Final = frozenset(CONTROL_TYPES.values())


class Session:
    """One call's state. Times in microseconds of `clock_us`; `cache` is a folder that outlives the call, `link_name` is
    LinkSecret.name. Messages that are not of the kinds in `takes` are dropped: one side of a one-way stream is silent.

    `on_reference` is told the hash of each further picture of this side's that the other side holds.
    """

    def __init__(
        self,
        outgoing: Outgoing,
        incoming: Incoming,
        *,
        rate: Rate,
        clock_us: Callable[[], int],
        link_name: str,
        cache: Path | None = None,
        takes: Container[type[ControlMessage]] = EVERY_KIND,
        on_change: Callable[[], None] = lambda: None,
        on_plan: Callable[[Plan], None] = lambda plan: None,
        on_reference: Callable[[str], None] = lambda picture_hash: None,
    ) -> None:
        self.rate = rate
        self.phase: Phase = "alone"
        self.reason = ""
        """Why the phase is what it is: for people."""
        self.remote = Remote()
        self.malformed = 0
        """Control messages that made no sense here and were dropped."""
        self.same_clock: bool | None = None
        """Whether both sides read one clock, so that delays can be measured exactly; None: not known yet."""
        self.own_lag_ms = 0.0
        """Delay between camera and wire above its minimum: this machine's, not the network's."""
        self.loop_lag_ms = 0.0
        """How late this machine reads what has arrived."""
        self.said_bye: str | None = None
        """The other side's farewell on this connection."""
        self.confirmed: str | None = None
        """Hash of this side's picture that the other side is known to hold."""
        self._outgoing, self._incoming = outgoing, incoming
        self._clock_us = clock_us
        self.pictures = self._picture_exchange(cache)
        """Source pictures, both sides'."""
        self.adapters = AdapterExchange(
            say=self._say, drop=self._drop, got=incoming.adapt, clock_us=clock_us, folder=cache
        )
        """What makes a renderer one person's, both sides'."""
        self.references = ReferenceExchange(
            say=self._say,
            drop=self._drop,
            got=incoming.refer,
            confirmed=self._reference_confirmed,
            cache_folder=cache,
        )
        """Further pictures of the speaker, both sides'."""
        self.acquaintance = Acquaintance(link_name, say=self._say, drop=self._drop, changed=on_change, folder=cache)
        """Whether the other side is who the person here takes it for."""
        self._hello: Hello | None = None
        self._takes = takes
        self._on_change, self._on_plan, self._on_reference = on_change, on_plan, on_reference
        self._send: Callable[[bytes], bool] | None = None
        self._greeted = False
        self._own = OwnState()
        self._sent_motion = SentMotion()
        self._dropped_us: int | None = None
        self._ready: str | None = None
        self._followed: Plan | None = None

    def _picture_exchange(self, cache: Path | None) -> Exchange[SourcePicture]:
        return Exchange(
            PICTURES,
            say=self._say,
            drop=self._drop,
            clock_us=self._clock_us,
            got=lambda picture: self._incoming.prepare(picture.picture_hash, picture.data),
            offered=self._picture_offered,
            confirmed=self._picture_confirmed,
            in_use=lambda: (self.remote.picture_hash,),
            cache_folder=cache,
        )

    @property
    def introduced(self) -> bool:
        """Whether this side's Hello is known."""
        return self._hello is not None

    @property
    def hello(self) -> Hello:
        """This side's, once introduced."""
        assert self._hello is not None
        return self._hello

    @property
    def remote_picture(self) -> SourcePicture | None:
        """The other side's picture that is moved."""
        return self.pictures.get(self.remote.picture_hash)

    @property
    def rtt_ms(self) -> float | None:
        """The way there and back; None: not known yet."""
        return self._sent_motion.rtt_ms

    @property
    def loss(self) -> float | None:
        """Share of this side's motion packets that the other side missed lately."""
        return self._sent_motion.loss

    @property
    def greeted(self) -> bool:
        """Whether the other side's Hello has come and fits."""
        return self._greeted

    # The connection

    def introduce(self, hello: Hello) -> None:
        """What the other side is told of this one's models; before the first connection is opened."""
        self._hello = hello

    def connecting(self, reason: str = "") -> None:
        self._to("connecting", reason)

    def opened(self, send: Callable[[bytes], bool], handshake: Handshake | None) -> None:
        """A connection can be used from now on; `handshake` is how it was made, where people are to compare words."""
        self._send = send
        self._greeted = False
        self.said_bye = None
        self.confirmed = None
        self._sent_motion.restart()
        self._say(self.hello)
        if handshake is not None:
            self.acquaintance.opened(handshake)
        for message in self._own.standing():
            self._say(message)
        self.pictures.opened()
        self.adapters.opened()
        self.references.opened()
        if self._own.face is not None:
            self._say(self._own.face)
        self._to("connecting", "")

    def closed(self, phase: Phase, reason: str) -> None:
        """The connection is gone; nothing is sent until the next one."""
        self._send = None
        self._greeted = False
        self.acquaintance.closed()
        self.remote = replace(self.remote, present=False, face=False, takes_camera=False)
        if self.phase != "refused":
            self._to(phase, reason)

    def bye(self, reason: str) -> None:
        """The last message of this side."""
        self._say(Bye(reason.encode()[:200].decode(errors="ignore")))

    # This side

    def own_source(self, picture: SourcePicture) -> None:
        """A new source picture: offered now, or with the next connection."""
        self.references.follow(picture.picture_hash)
        self.pictures.offer(picture)

    def own_reference(self, base_hash: str, picture: SourcePicture) -> None:
        """A further picture of the speaker of the source picture `base_hash`: sent in the background."""
        self.references.offer(base_hash, picture)

    def own_face(self, seen: bool, time_us: int) -> None:
        self._own.face = FaceState(seen, time_us)
        self._say(self._own.face)

    def own_media(self, *, muted: bool, camera_off: bool) -> None:
        self._own.media = MediaState(muted=muted, camera_off=camera_off)
        self._say(self._own.media)

    def own_rate(self, fps: float) -> None:
        """So many pictures a second can be shown here."""
        self._own.rate = PictureRate(round(1000 * fps))
        self._say(self._own.rate)

    def take_layer(self, wanted_bps: int) -> None:
        """So much of a video layer is taken here, on this and every later connection."""
        self._own.layer_bps = wanted_bps
        for message in self._own.layer():
            self._say(message)

    def layer_lost(self, newest: int | None) -> None:
        """A frame of the layer is missing; number of the one that was decoded last."""
        self._say(LayerReport(self._own.layer_bps, newest, True))

    def own_camera(self, shown: bool, time_us: int) -> None:
        """What this side's camera sees is shown as it is from this capture time on, or no more."""
        self._own.camera = CameraState(shown, time_us)
        self._say(self._own.camera)
        self.rate.show_camera(shown)

    def picture_ready(self, picture_hash: str) -> None:
        """The receiving side can move this picture."""
        self._ready = picture_hash
        self.pictures.ready(picture_hash)
        if self.remote.picture_hash is None:
            self._shown(picture_hash)
        self._on_change()

    def picture_refused(self, picture_hash: str, reason: str) -> None:
        """The receiving side cannot use this picture; what was shown stays."""
        self.malformed += 1
        self.pictures.refused(picture_hash)
        logger.warning("the other side's source picture cannot be used: %s", reason)
        if self.remote.picture_hash is None:
            self.reason = f"the other side's picture cannot be used: {reason}"
            self._on_change()

    def motion_sent(self, packet: MotionPacket) -> None:
        self._sent_motion.sent(packet.sequence, self._clock_us())

    def delivered(self, data: bytes) -> None:
        """The other side's transport has acknowledged this motion message, so its decoder has it."""
        with suppress(BadPacket):
            self._outgoing.acknowledge(MotionMessage.parse(data).packet.sequence)

    def report(self, report: ReceiverReport | None) -> None:
        """What the receiving side has to tell."""
        if report is not None:
            self._say(report)

    def tick(self) -> None:
        """Once a second while a connection is open."""
        # Reports that this machine has not come round to reading are not missing.
        if self._greeted and self.loop_lag_ms < BUSY_MS:
            self._plan(self.rate.tick(self._clock_us()))
        if self._greeted and self.rate.rung == 0:
            self.references.tick(self._clock_us())

    # The other side

    def control(self, data: bytes, arrived_us: int) -> None:
        """A control message as it arrived; whatever makes no sense is counted and dropped."""
        try:
            message = parse_control(data)
        except BadPacket as error:
            if "protocol version" in str(error) and not self._greeted:
                self._refuse(
                    f"the two programs speak different protocol versions ({error}): please update the older kilocall"
                )
            else:
                self._drop(str(error))
            return
        if not self._greeted and not isinstance(message, Hello | Bye):
            self._drop(f"{type(message).__name__} before Hello")
            return
        if type(message) not in self._takes:
            self._drop(f"{type(message).__name__} is not expected")
            return
        self._take(message, arrived_us)

    def _take(self, message: ControlMessage, arrived_us: int) -> None:
        match message:
            case Hello():
                self._take_hello(message)
            case SourcePicture():
                self.pictures.take(message)
            case PersonalPiece():
                self.adapters.take(message)
            case WantPersonal():
                self.adapters.send(message)
            case WantPicture(blob_hash):
                if not self.pictures.send(blob_hash) and not self.references.send(blob_hash):
                    self._drop("WantPicture for a picture that was not offered")
            case HavePicture(blob_hash):
                self.pictures.confirm(blob_hash)
                self.references.confirm(blob_hash)
            case ReferenceOffer():
                self.references.take_offer(message)
            case ReferencePiece():
                self.references.take_piece(message)
            case Reveal() | Recognise() | Compared():
                self._take_acquaintance(message)
            case FaceState():
                self._take_face(message, arrived_us)
            case MediaState():
                self.remote = replace(self.remote, muted=message.muted, camera_off=message.camera_off)
                self._on_change()
            case ReceiverReport():
                self._take_report(message, arrived_us)
            case PictureRate():
                self._outgoing.limit(message.fps)
            case LayerReport():
                self._outgoing.ask_layer(message)
            case CameraState():
                self._take_camera(message)
            case Bye():
                self.said_bye = message.reason
            case CropPlace():
                pass  # for files; a call shows the square alone
            case _:
                self._drop(f"{type(message).__name__} is not expected")

    def _take_hello(self, theirs: Hello) -> None:
        if self._greeted:
            self._drop("second Hello")
            return
        mine = self.hello
        problem = ""
        if theirs.family != mine.family:
            problem = f"the other side uses the models {theirs.family!r:.40}, this side {mine.family!r}"
        elif not mine.same_weights(theirs):
            problem = (
                f"the other side has {theirs.family} weights {theirs.weights_hash[:12]}, this side "
                f"{mine.weights_hash[:12]}"
            )
        elif theirs.picture_size != mine.picture_size:
            problem = f"the other side's pictures are {theirs.picture_size} wide, this side's {mine.picture_size}"
        if problem:
            self._refuse(f"{problem}: {_cure(mine.family, theirs.family)}")
            return
        self._greeted = True
        self._incoming.expect(theirs.fps)
        self.remote = replace(self.remote, present=True, muted=False, camera_off=False)
        self._to("open", "")

    def _take_acquaintance(self, message: Reveal | Recognise | Compared) -> None:
        try:
            self.acquaintance.take(message)
        except NotProven as error:
            self.malformed += 1
            self._refuse(str(error))

    def _picture_offered(self, picture_hash: str, first: bool) -> None:
        if first and picture_hash != self.remote.picture_hash:
            # Somebody else, or the same person after a new start: motion refers to the new picture at once.
            self.remote = replace(self.remote, picture_hash=None)
            self.adapters.forget()
            self.references.show(None)
            self._incoming.forget()

    def _picture_confirmed(self, picture_hash: str) -> None:
        self.confirmed = picture_hash
        self._outgoing.confirm(picture_hash)
        self.references.base_confirmed(picture_hash)
        self._on_change()

    def _reference_confirmed(self, picture_hash: str) -> None:
        self._on_reference(picture_hash)
        self._on_change()

    def _take_face(self, face: FaceState, arrived_us: int) -> None:
        if not self.same_clock:  # one that was lost at first comes late
            self.same_clock = abs(arrived_us - face.time_us) < SAME_CLOCK_US
        self.remote = replace(self.remote, face=face.seen, face_since_us=arrived_us)
        ready = self._ready
        if face.seen and ready is not None and ready != self.remote.picture_hash:
            self._incoming.use(ready, face.time_us)
            self._shown(ready)
        self._on_change()

    def _take_camera(self, state: CameraState) -> None:
        if not self.remote.takes_camera:
            self._outgoing.take_camera()
        self._incoming.show_camera(state.shown, state.time_us)
        self.remote = replace(self.remote, takes_camera=True)
        self._on_change()

    def _shown(self, picture_hash: str) -> None:
        self.references.show(picture_hash)
        self.remote = replace(self.remote, picture_hash=picture_hash)

    def _take_report(self, report: ReceiverReport, arrived_us: int) -> None:
        feedback = self._sent_motion.take(
            report,
            arrived_us,
            now_us=self._clock_us(),
            own_lag_ms=self.own_lag_ms,
            loop_lag_ms=self.loop_lag_ms,
        )
        self._plan(self.rate.update(feedback))

    def _plan(self, plan: Plan) -> None:
        if plan != self._followed:
            self._followed = plan
            self._outgoing.follow(plan)
            self._on_plan(plan)

    def _refuse(self, reason: str) -> None:
        self.bye(reason)
        self._to("refused", reason)

    def _drop(self, why: str) -> None:
        self.malformed += 1
        now_us = self._clock_us()
        if self._dropped_us is None or now_us - self._dropped_us >= DROPPED_EVERY_US:
            self._dropped_us = now_us
            logger.warning("control message dropped: %s", why)

    def _say(self, message: SupportsBytes) -> None:
        if self._send is not None and not self._send(bytes(message)):
            logger.warning("%s could not be sent", type(message).__name__)

    def _to(self, phase: Phase, reason: str) -> None:
        if (phase, reason) != (self.phase, self.reason):
            self.phase, self.reason = phase, reason
            self._on_change()


def _cure(mine: str, theirs: str) -> str:
    if mine in OWN_WEIGHTS or theirs in OWN_WEIGHTS:
        return "start both sides with the same --family, --weights and --codebook"
    return "install the same version of kilocall on both sides"
