"""The sender as a service: one speaker, one or more receivers, nothing comes back but acknowledgements.

A receiver posts its WebRTC offer to /receivers and gets the answer; motion and the source picture follow on the data
channels. Motion is predicted from what every receiver has acknowledged, so one encoder serves them all. A video layer
goes with it to those that take one, at what the least of them takes.

Offer and answer are authenticated as those of a call are (`kilocall.proto.trust`), with a token that both sides have
and no receiver sends: the receiver posts its commitment to /handshakes first and gets the sender's. Everything else but
/health wants the token as `Authorization: Bearer TOKEN`.

    POST /start {"camera": "0"}   POST /stop   PUT /source (a picture file)   GET /source.jpg
    POST /handshakes {"commitment": ...}   POST /receivers {"type": "offer", "sdp": ..., "commitment": ..., "tag": ...}
    GET /state   GET /health   GET /metrics
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Annotated, Any, Final, Literal

from fastapi import FastAPI, Request, Response
from fastapi.responses import JSONResponse
from pydantic import BaseModel, ConfigDict, Field, field_validator

from kilocall.codec.codebook import level_of_quality, usual_quality
from kilocall.control.rate_control import FixedRate, Plan
from kilocall.control.session import Session
from kilocall.model.family_loader import FamilyChoice
from kilocall.proto.control import (
    Bye,
    CameraState,
    ControlMessage,
    FaceState,
    HavePicture,
    Hello,
    LayerReport,
    PictureRate,
    ReceiverReport,
    SourcePicture,
    WantPicture,
)
from kilocall.proto.errors import BadInput, KilocallError, NotProven
from kilocall.proto.limits import HISTORY
from kilocall.proto.motion_packet import MotionPacket
from kilocall.proto.trust import ONE_WAY_ROOM, Handshake, LinkSecret
from kilocall.runtime.clock import now_us
from kilocall.runtime.metrics import Metrics
from kilocall.runtime.peer import MAX_SDP_BYTES, Peer
from kilocall.runtime.peer_settings import PeerSettings
from kilocall.runtime.picture_decoder import UPLOAD
from kilocall.runtime.picture_process import shared_decoder
from kilocall.runtime.pictures import as_jpeg
from kilocall.runtime.tasks import Tasks
from kilocall.runtime.web import LOOPBACK, OPEN_PATHS, bounded_body, guard
from kilocall.runtime.worker import deliver_to
from kilocall.sender.camera import BROWSER, open_camera
from kilocall.sender.layer_encoder import DEFAULT_LAYER_KBPS, check_layer_kbps
from kilocall.sender.live import OwnSource, SendEvents, SendPipeline
from kilocall.sender.send_rate import UNLIMITED

__all__ = ["SenderService", "SenderSettings", "create_app"]

logger = logging.getLogger(__name__)

MAX_PICTURE_BYTES: Final = 4 << 20
MOST_HANDSHAKES: Final = 64
HANDSHAKE_S: Final = 30.0
#: What a farewell needs to leave before the connection is closed.
BYE_S: Final = 0.15
#: All that somebody who only receives has to say.
TAKES: Final[frozenset[type[ControlMessage]]] = frozenset(
    {Hello, WantPicture, HavePicture, ReceiverReport, PictureRate, LayerReport, CameraState, Bye}
)


class SenderSettings(BaseModel):
    """What the service is started with."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    camera: str = "0"
    source: Path | None = None
    fps: Annotated[float, Field(ge=1, le=60)] = 25.0
    frames_per_message: Annotated[int, Field(ge=1, le=8)] = 3
    level: Annotated[int, Field(ge=0, le=8)] | None = None
    """Quality level of the motion; None: 4, beside a layer of 3 kbit/s or more 6."""
    layer: float = DEFAULT_LAYER_KBPS
    """Kilobits a second for a thin layer of real video under the motion, for receivers that take it; 0: none."""
    most_receivers: Annotated[int, Field(ge=1, le=64)] = 8
    models: FamilyChoice = Field(default_factory=FamilyChoice)
    """The same on both sides."""
    engine: str = "auto"
    threads: Annotated[int, Field(ge=0, le=64)] = 1
    loopback: Literal["exclude", "include", "only"] = "include"
    token: Annotated[str, Field(repr=False)]
    """A LinkSecret that receivers must have."""

    @field_validator("layer")
    @classmethod
    def _check_layer(cls, value: float) -> float:
        return check_layer_kbps(value)


class _Receiver:
    """One receiver: its connection and session. What the session asks of the sending side, all receivers share."""

    def __init__(self, service: SenderService, plan: Plan) -> None:
        self._service = service
        self.peer = Peer(
            PeerSettings(audio=False, loopback=service.settings.loopback),
            on_delivered=lambda data: self.session.delivered(data),
        )
        self.session = Session(
            self, _Nothing(), rate=FixedRate(plan), clock_us=now_us, link_name=ONE_WAY_ROOM, takes=TAKES
        )
        self.shown_fps = UNLIMITED
        """What it can show."""
        self.layer_bps = 0
        """So much of a video layer it takes."""
        self.delivered: set[int] = set()

    def acknowledge(self, sequence: int) -> None:
        self.delivered.add(sequence)
        if len(self.delivered) > 4 * HISTORY:
            self.delivered.clear()
        self._service.acknowledge()

    def confirm(self, picture_hash: str) -> None:
        self._service.confirm(picture_hash)

    def follow(self, plan: Plan) -> None:
        """The plan is the service's own, and stays."""

    def take_camera(self) -> None:
        """What the camera sees is never shown as it is: there is nobody who could say so."""

    def ask_layer(self, report: LayerReport) -> None:
        begins = report.wanted_bps > 0 and not self.layer_bps
        self.layer_bps = report.wanted_bps
        self._service.ask_layer(key_needed=report.key_needed or begins)

    def limit(self, fps: float) -> None:
        self.shown_fps = fps
        self._service.limit()


class _Nothing:
    """The receiving side of somebody who only sends: the session takes no message that would ask it for anything."""

    def prepare(self, picture_hash: str, data: bytes) -> None: ...
    def use(self, picture_hash: str, from_us: int) -> None: ...
    def adapt(self, file_hash: str, data: bytes) -> None: ...
    def refer(self, base_hash: str, picture_hash: str, data: bytes) -> None: ...
    def expect(self, fps: float) -> None: ...
    def show_camera(self, shown: bool, from_us: int) -> None: ...
    def forget(self) -> None: ...


class SenderService:
    """Belongs to the event loop; the model runs on a thread of its own."""

    def __init__(self, settings: SenderSettings) -> None:
        self.settings = settings
        self.sending: SendPipeline | None = None
        self.receivers: set[_Receiver] = set()
        self.problem: str | None = None
        self._hello: Hello | None = None
        self._own: SourcePicture | None = None
        self._face: FaceState | None = None
        self.not_proven = 0
        """Offers refused because they may be of somebody who has not the token."""
        self._secret = LinkSecret(settings.token)
        self._handshakes: dict[str, tuple[float, Handshake]] = {}  # by the receiver's commitment: when it came
        # No speech goes this way.
        self._plan = Plan(
            settings.frames_per_message,
            settings.fps,
            level_of_quality(usual_quality(settings.layer)) if settings.level is None else settings.level,
            audio_bps=0,
            audio_packet_ms=60,
            layer_bps=round(1000 * settings.layer),
        )
        self._tasks = Tasks()
        self._lock = asyncio.Lock()

    async def start(self, camera: str | None = None) -> None:
        """Opens the camera and the model; again, with another camera, after `stop`. Raises BadInput."""
        async with self._lock:
            if self.sending is not None:
                raise BadInput("the sender is running already; POST /stop first")
            name = camera or self.settings.camera
            if name == BROWSER:
                raise BadInput("camera is 'browser': this service has no page; give a number or a clip")
            self.problem = None
            source = open_camera(name, self.settings.fps)
            await asyncio.to_thread(source.start)
            sending = SendPipeline(
                source,
                SendEvents(packet=self._send, face=self._tell_face, source=self._offer, problem=self._note_problem),
                deliver_to(asyncio.get_running_loop()),
                fps=self.settings.fps,
                engine=self.settings.engine,
                threads=self.settings.threads,
                models=self.settings.models,
                source=self.settings.source,
                plan=self._plan,
            )
            self.sending = sending
            sending.start()
            try:
                await asyncio.wrap_future(sending.ready)
            except Exception:
                self.sending = None
                raise
            self._hello = sending.hello(self.settings.fps)
            sending.begin()

    async def stop(self) -> None:
        """Says goodbye to all receivers and closes the camera."""
        async with self._lock:
            for receiver in list(self.receivers):
                receiver.session.bye("the sender was stopped")
            if self.receivers:
                await asyncio.sleep(BYE_S)
            await asyncio.gather(*(receiver.peer.close("stopped") for receiver in list(self.receivers)))
            sending, self.sending = self.sending, None
            self._own = self._face = None
            if sending is not None:
                await asyncio.to_thread(sending.close)

    def meet(self, commitment: str) -> str:
        """A receiver's commitment to this side's; its offer follows within 30 s. Raises NotProven."""
        now = time.monotonic()
        self._handshakes = {key: one for key, one in self._handshakes.items() if now - one[0] < HANDSHAKE_S}
        while len(self._handshakes) >= MOST_HANDSHAKES:
            del self._handshakes[next(iter(self._handshakes))]
        handshake = Handshake(self._secret.key, ONE_WAY_ROOM, offers=False)
        handshake.meet(commitment)
        self._handshakes[commitment] = now, handshake
        return handshake.commitment

    async def answer_proven(self, offer: str, commitment: str, tag: str) -> tuple[str, str]:
        """As `answer`, with this side's tag. Raises NotProven unless the receiver has the token too."""
        _, handshake = self._handshakes.pop(commitment, (0.0, None))
        try:
            if handshake is None:
                raise NotProven("no handshake came before this offer: the receiver needs the same KILOCALL_TOKEN")
            handshake.check(offer, tag)
        except NotProven as error:
            self.not_proven += 1
            logger.warning("%s", error)
            raise
        answer = await self.answer(offer)
        return answer, handshake.seal(answer)

    async def answer(self, offer: str) -> str:
        """A receiver's offer to this side's answer. Raises BadInput, or BadPacket for an offer that is none."""
        if self.sending is None or self._hello is None:
            raise BadInput("the sender is not running; POST /start first")
        if len(self.receivers) >= self.settings.most_receivers:
            raise BadInput(f"{self.settings.most_receivers} receivers are connected already, which is the most")
        receiver = _Receiver(self, self._plan)
        receiver.session.introduce(self._hello)
        self.receivers.add(receiver)
        try:
            text = await receiver.peer.answer(offer)
        except BaseException:
            self.receivers.discard(receiver)
            await receiver.peer.close("no connection")
            raise
        self._tasks.own(self._converse(receiver), "receiver")
        return text

    def state(self) -> dict[str, Any]:
        sending = self.sending
        source = sending.pictures.source if sending is not None else None
        return {
            "running": sending is not None and sending.alive,
            "problem": self.problem,
            "face": bool(sending and sending.face.seen),
            "source": source.id if source is not None else None,
            "frames": sending.motion.sent_frames if sending is not None else 0,
            "layer_frames": sending.layer.frames if sending is not None else 0,
            "not_proven": self.not_proven,
            "payload_bits_per_frame": round(sending.motion.payload_bits_per_frame, 1) if sending else 0.0,
            "receivers": [
                {
                    "state": receiver.peer.state,
                    "has_source": receiver.session.confirmed is not None,
                    "loss": receiver.session.loss,
                    "sent_bytes": receiver.peer.traffic()[0].total_bytes,
                    "malformed": receiver.session.malformed + receiver.peer.malformed,
                }
                for receiver in self.receivers
            ],
        }

    # What receivers' sessions ask for

    def acknowledge(self) -> None:
        """Names the packets that every receiver has."""
        present = self._present()
        if self.sending is None or not present:
            return
        for sequence in set.intersection(*(receiver.delivered for receiver in present)):
            self.sending.acknowledge(sequence)
            for receiver in present:
                receiver.delivered.discard(sequence)

    def confirm(self, picture_hash: str) -> None:
        """Motion refers to a picture once every receiver can move it."""
        everyone = all(receiver.session.confirmed == picture_hash for receiver in self._present())
        if self.sending is not None and everyone:
            self.sending.confirm(picture_hash)

    def limit(self) -> None:
        """No more pictures are sent than the slowest receiver can show."""
        if self.sending is not None:
            self.sending.limit(min((receiver.shown_fps for receiver in self._present()), default=UNLIMITED))

    def ask_layer(self, *, key_needed: bool) -> None:
        """One layer for all that take it; a key frame for one of them is one for all."""
        if self.sending is not None:
            taken = min((one.layer_bps for one in self._present() if one.layer_bps), default=0)
            self.sending.ask_layer(LayerReport(taken, None, key_needed))

    def _present(self) -> list[_Receiver]:
        return [receiver for receiver in self.receivers if receiver.peer.state == "open"]

    async def _converse(self, receiver: _Receiver) -> None:
        peer, session = receiver.peer, receiver.session
        try:
            if not await peer.wait_open():
                return
            if self._own is not None:
                session.own_source(self._own)
            if self._face is not None:
                session.own_face(self._face.seen, self._face.time_us)
            session.opened(peer.send_control, None)
            self._begin_anew()
            while session.said_bye is None and session.phase != "refused":
                message = await peer.control.get()
                if message is None:
                    break
                session.control(message.data, message.arrived_us)
            if session.phase == "refused":
                await asyncio.sleep(BYE_S)
        finally:
            self.receivers.discard(receiver)
            await peer.close("the receiver has gone")
            self.acknowledge()
            self.limit()
            self.ask_layer(key_needed=False)

    def _begin_anew(self) -> None:
        """A receiver has joined: what the others have acknowledged it does not hold."""
        for receiver in self.receivers:
            receiver.delivered.clear()
        sending = self.sending
        if sending is not None:
            sending.forget_acknowledged()

    def _send(self, packet: MotionPacket, data: bytes) -> None:
        motion = bytes(packet)  # who has not said that he takes a layer may not even know it
        for receiver in self.receivers:
            receiver.peer.send_motion(data if receiver.layer_bps else motion)

    def _tell_face(self, seen: bool, time_us: int) -> None:
        self._face = FaceState(seen, time_us)
        for receiver in self.receivers:
            receiver.session.own_face(seen, time_us)

    def _offer(self, source: OwnSource) -> None:
        self._own = source.packed
        for receiver in self.receivers:
            receiver.session.own_source(source.packed)

    def _note_problem(self, text: str) -> None:
        logger.error("%s", text)
        self.problem = text


class _Start(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True)
    camera: str | None = None


class _Offer(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True)
    type: Literal["offer"]
    sdp: Annotated[str, Field(max_length=MAX_SDP_BYTES)]
    commitment: Annotated[str, Field(max_length=64)] = ""
    tag: Annotated[str, Field(max_length=64)] = ""


class _Commitment(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True)
    commitment: Annotated[str, Field(max_length=64)]


def create_app(settings: SenderSettings, *, start: bool = True, hosts: tuple[str, ...] = LOOPBACK) -> FastAPI:
    """The service; with `start` it begins at once. Its state is `app.state.service`.

    `hosts` are the names that it may be asked under, with or without the token.
    """
    counted = Metrics()

    @contextlib.asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        service = app.state.service = SenderService(settings)
        _gauges(counted, service)
        if start:
            await service.start()
        try:
            yield
        finally:
            await service.stop()

    app = FastAPI(title="kilocall sender", lifespan=lifespan, docs_url=None, redoc_url=None, openapi_url=None)
    # Receivers show that they have the token, and never send it.
    guard(app, hosts, [settings.token], (*OPEN_PATHS, "/handshakes", "/receivers"))

    @app.exception_handler(KilocallError)
    async def refuse(_: Request, error: Exception) -> Response:
        return JSONResponse({"error": str(error)}, status_code=422)

    @app.get("/health")
    async def health() -> Response:
        return JSONResponse({"running": app.state.service.state()["running"]})

    @app.get("/state")
    async def state() -> dict[str, Any]:
        found: dict[str, Any] = app.state.service.state()
        return found

    @app.get("/metrics")
    async def metrics() -> Response:
        return counted.response()

    @app.post("/start")
    async def start_sending(command: _Start | None = None) -> dict[str, Any]:
        await app.state.service.start(command.camera if command is not None else None)
        return await state()

    @app.post("/stop")
    async def stop_sending() -> dict[str, Any]:
        await app.state.service.stop()
        return await state()

    _add_source(app)
    _add_receivers(app)
    return app


def _add_source(app: FastAPI) -> None:
    """The own source picture, to be seen and to be replaced."""

    @app.put("/source")
    async def put_source(request: Request) -> Response:
        body = await bounded_body(request, MAX_PICTURE_BYTES)
        if body is None:
            raise BadInput(f"the picture has more than {MAX_PICTURE_BYTES >> 20} MiB, which is the most allowed")
        sending = app.state.service.sending
        if sending is None:
            raise BadInput("the sender is not running; POST /start first")
        picture = await asyncio.to_thread(shared_decoder().decode, body, UPLOAD)
        await asyncio.wrap_future(sending.use_picture(picture))
        return Response(status_code=204)

    @app.get("/source.jpg")
    async def get_source() -> Response:
        sending = app.state.service.sending
        source = sending.pictures.source if sending is not None else None
        if source is None:
            return Response(status_code=404)
        return Response(as_jpeg(source.picture), media_type="image/jpeg")


def _add_receivers(app: FastAPI) -> None:
    """How a receiver shows that it has the token, and connects."""

    @app.post("/handshakes")
    async def begin_handshake(theirs: _Commitment) -> dict[str, str]:
        return {"commitment": app.state.service.meet(theirs.commitment)}

    @app.post("/receivers")
    async def add_receiver(offer: _Offer) -> dict[str, str]:
        sdp, tag = await app.state.service.answer_proven(offer.sdp, offer.commitment, offer.tag)
        return {"type": "answer", "sdp": sdp, "tag": tag}


def _gauges(metrics: Metrics, service: SenderService) -> None:
    metrics.gauge("sender_receivers", "Connected receivers", lambda: len(service.receivers))
    metrics.gauge("sender_frames", "Frames sent", lambda: service.state()["frames"])
    metrics.gauge("sender_payload_bits_per_frame", "Coded motion", lambda: service.state()["payload_bits_per_frame"])
