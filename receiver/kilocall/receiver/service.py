"""The receiver as a service: connects to a sender service and shows what it sends.

POST /start {"sender": "http://host:8720"}   POST /stop   GET /state   GET /health   GET /metrics
GET /  a page with the picture   GET /stream.mjpg   GET /picture.jpg   GET /source.jpg   POST /view

Everything but /health and the page's files wants the token as `Authorization: Bearer TOKEN`, or comes from a page that
was opened with this process's key. /start names a sender only where none was configured.
"""

from __future__ import annotations

import asyncio
import contextlib
import http.client
import json
import logging
import time
import urllib.error
import urllib.request
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Annotated, Any, Final, Literal
from urllib.parse import urlsplit

from fastapi import FastAPI, Request, Response
from fastapi.responses import JSONResponse, StreamingResponse
from pydantic import BaseModel, ConfigDict, Field

from kilocall.control.rate_control import FixedRate, Plan
from kilocall.control.session import Session
from kilocall.model.family import DEFAULT_FAMILY
from kilocall.model.family_loader import FamilyChoice
from kilocall.proto.control import Bye, ControlMessage, CropPlace, FaceState, Hello, LayerReport, SourcePicture
from kilocall.proto.errors import BadInput, KilocallError, NotProven
from kilocall.proto.trust import ONE_WAY_ROOM, Handshake, LinkSecret
from kilocall.receiver.layer_receiver import LAYER_TAKEN_BPS
from kilocall.receiver.live import ReceiveEvents, ReceivePipeline, Rendered
from kilocall.receiver.render import LARGEST_TURN_DEG, View
from kilocall.runtime.clock import now_us
from kilocall.runtime.metrics import Metrics
from kilocall.runtime.overload_monitor import OverloadMonitor
from kilocall.runtime.peer import Peer
from kilocall.runtime.peer_settings import PeerSettings
from kilocall.runtime.picture_process import decode_from_others
from kilocall.runtime.pictures import as_jpeg
from kilocall.runtime.tasks import Tasks
from kilocall.runtime.web import LOOPBACK, PageKey, guard_page, mount_page
from kilocall.runtime.worker import deliver_to

__all__ = ["ReceiverService", "ReceiverSettings", "create_app"]

logger = logging.getLogger(__name__)

REPORT_EVERY_S: Final = 2.0
USUAL_FPS: Final = 25.0
TRY_AGAIN_S: Final = (0.5, 8.0)
ANSWER_WITHIN_S: Final = 8.0
MAX_ANSWER_BYTES: Final = 64 << 10
MAX_MJPEG_VIEWERS: Final = 8
#: All that somebody who only sends has to say.
TAKES: Final[frozenset[type[ControlMessage]]] = frozenset({Hello, SourcePicture, FaceState, CropPlace, Bye})
PAGE: Final = Path(__file__).parent / "service_page"


class ReceiverSettings(BaseModel):
    """What the service is started with."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    sender: str | None = None
    """Address of a sender service; None: POST /start names it."""
    token: Annotated[str, Field(repr=False)]
    """A LinkSecret: the sender's, which proves to have it too."""
    models: FamilyChoice = Field(default_factory=FamilyChoice)
    """The same on both sides."""
    engine: str = "auto"
    threads: Annotated[int, Field(ge=0, le=64)] = 1
    loopback: Literal["exclude", "include", "only"] = "include"


class _Nothing:
    """The sending side of somebody who only receives: nothing is asked of it."""

    def acknowledge(self, sequence: int) -> None: ...
    def confirm(self, picture_hash: str) -> None: ...
    def follow(self, plan: Plan) -> None: ...
    def ask_layer(self, report: LayerReport) -> None: ...
    def take_camera(self) -> None: ...
    def limit(self, fps: float) -> None: ...


class ReceiverService:
    """Belongs to the event loop; the model runs on a thread of its own. Tries again when the connection is lost."""

    def __init__(self, settings: ReceiverSettings) -> None:
        self.settings = settings
        self.not_proven = 0
        """Answers refused because they may be of somebody who has not the token."""
        self._secret = LinkSecret(settings.token)
        self.sender: str | None = None
        self.problem: str | None = None
        self.peer: Peer | None = None
        self.pictures = 0
        self.jpeg: bytes | None = None
        self.layered = False
        """Whether a video layer is under the newest picture."""
        self._receiving: ReceivePipeline | None = None
        self._session: Session | None = None
        self._news = asyncio.Event()
        self._tasks = Tasks()
        self._task: asyncio.Task[None] | None = None
        self._overload = OverloadMonitor("shows", settings.models.name, USUAL_FPS, light=DEFAULT_FAMILY)

    @property
    def source(self) -> SourcePicture | None:
        """The picture that is moved."""
        return self._session.remote_picture if self._session is not None else None

    async def open(self) -> None:
        """Loads the model."""
        session: Session
        receiving = ReceivePipeline(
            ReceiveEvents(
                picture=self.show,
                ready=lambda picture_hash: session.picture_ready(picture_hash),
                refused=self._refused,
                rate=lambda fps: session.own_rate(fps),
                layer_lost=lambda newest: session.layer_lost(newest),
                problem=self._note,
            ),
            deliver_to(asyncio.get_running_loop()),
            engine=self.settings.engine,
            threads=self.settings.threads,
            models=self.settings.models,
        )
        rate = FixedRate(Plan(1, USUAL_FPS, 0, audio_bps=0, audio_packet_ms=60))  # for nothing that is sent
        session = Session(_Nothing(), receiving, rate=rate, clock_us=now_us, link_name=ONE_WAY_ROOM, takes=TAKES)
        receiving.start()
        await asyncio.wrap_future(receiving.ready)
        session.introduce(receiving.hello(USUAL_FPS))
        if receiving.renderer.takes_layer:
            session.take_layer(LAYER_TAKEN_BPS)
        self._receiving, self._session = receiving, session

    async def close(self) -> None:
        await self.stop()
        if self._receiving is not None:
            await asyncio.to_thread(self._receiving.close)

    async def start(self, sender: str | None = None) -> None:
        """Connects to the sender that was configured; where none was, to `sender`.

        Raises BadInput for an address that is none or not to be given, or when already started.
        """
        configured = self.settings.sender
        if sender is not None and configured is not None:
            raise BadInput(f"this receiver belongs to {configured}; start it without --sender to name one here")
        sender = sender or configured
        if sender is None:
            raise BadInput("sender is missing: the address of a sender service, http://host:port")
        _check_address(sender)
        if self._task is not None:
            raise BadInput(f"already receiving from {self.sender}; POST /stop first")
        self.sender = sender.rstrip("/")
        self._task = self._tasks.own(self._run(self.sender), "receiving")

    async def stop(self) -> None:
        """Ends the connection; the last picture stays."""
        task, self._task = self._task, None
        if task is not None:
            if self._session is not None:
                self._session.bye("the receiver was stopped")
                await asyncio.sleep(0.1)
            task.cancel()
            await asyncio.wait([task])
            self.problem = None

    def turn(self, view: View) -> None:
        if self._receiving is not None:
            self._receiving.set_view(view)

    def state(self) -> dict[str, Any]:
        receiving, session = self._receiving, self._session
        jitter = receiving.motion.jitter if receiving is not None else None
        return {
            "sender": self.sender if self._task is not None else None,
            "connection": self.peer.state if self.peer is not None else "closed",
            "problem": self.problem,
            "slow": self._overload.text,
            "face": session is not None and session.remote.face,
            "pictures": self.pictures,
            "layered": self.layered,
            "packets": jitter.received if jitter else 0,
            "late": jitter.late if jitter else 0,
            "playout_ms": jitter.delay_us / 1000 if jitter else None,
            "render_ms": receiving.render_ms.percentile(0.5) if receiving is not None else None,
            "received_bytes": self.peer.traffic()[1].total_bytes if self.peer is not None else 0,
            "malformed": session.malformed if session is not None else 0,
            "not_proven": self.not_proven,
        }

    async def next_picture(self) -> bytes | None:
        """Waits for a new picture; None after two seconds without one."""
        self._news.clear()
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self._news.wait(), 2.0)
            return self.jpeg
        return None

    async def _run(self, sender: str) -> None:
        wait_s = TRY_AGAIN_S[0]
        while True:
            began = time.monotonic()
            try:
                await self._converse(sender)
            except (OSError, KilocallError, ValueError) as error:
                self.problem = f"{sender}: {error}"
                logger.warning("%s", self.problem)
            if time.monotonic() - began > 10:
                wait_s = TRY_AGAIN_S[0]
            await asyncio.sleep(wait_s)
            wait_s = min(2 * wait_s, TRY_AGAIN_S[1])

    async def _converse(self, sender: str) -> None:
        """One connection, from offer to end."""
        receiving, session = self._receiving, self._session
        assert receiving is not None  # opened first
        assert session is not None
        peer = self.peer = Peer(PeerSettings(audio=False, loopback=self.settings.loopback))
        beside = Tasks()
        try:
            await peer.accept(await asyncio.to_thread(self._ask, sender, await peer.offer()))
            if not await peer.wait_open():
                raise BadInput(peer.closed_because)
            self.problem = None
            receiving.restart()
            session.opened(peer.send_control, None)
            beside.own(self._take_motion(peer, receiving), "motion")
            beside.own(self._report(peer, receiving, session), "reports")
            while (message := await peer.control.get()) is not None:
                session.control(message.data, message.arrived_us)
                if session.phase == "refused":
                    raise BadInput(session.reason)
                if session.said_bye is not None:
                    raise BadInput(f"the sender has said goodbye: {session.said_bye}")
            self.problem = self.problem or peer.closed_because
        finally:
            session.closed("lost", peer.closed_because)
            await beside.close()
            await peer.close("ended")

    def _ask(self, sender: str, offer: str) -> str:
        """Brings the offer to the sender and returns its answer; on a thread of its own. Raises NotProven, BadInput."""
        handshake = Handshake(self._secret.key, ONE_WAY_ROOM, offers=True)
        met = _post(f"{sender}/handshakes", {"commitment": handshake.commitment})
        try:
            handshake.meet(_text(met, "commitment"))
            mine = {"commitment": handshake.commitment, "tag": handshake.seal(offer)}
            answer = _post(f"{sender}/receivers", {"type": "offer", "sdp": offer, **mine})
            sdp = _text(answer, "sdp")
            handshake.check(sdp, _text(answer, "tag"))
        except NotProven:
            self.not_proven += 1
            raise
        return sdp

    async def _take_motion(self, peer: Peer, receiving: ReceivePipeline) -> None:
        while (message := await peer.motion.get()) is not None:
            receiving.push(message.data, message.arrived_us)

    async def _report(self, peer: Peer, receiving: ReceivePipeline, session: Session) -> None:
        before = 0
        self._overload.reset()
        while True:
            await asyncio.sleep(REPORT_EVERY_S)
            self._watch_load(receiving)
            total = peer.traffic()[1].total_bytes
            report = await asyncio.wrap_future(receiving.report(total - before))
            before = total
            session.report(report)

    def _watch_load(self, receiving: ReceivePipeline) -> None:
        told, each_ms = self._overload.text, receiving.render_ms.percentile(0.5)
        due, slow_by = receiving.rate.wanted + receiving.motion.jitter.skipped, receiving.rate.pace.slow_by
        self._overload.look(receiving.last_time_us, due, receiving.rendered, each_ms, slow_by)
        if self._overload.text and not told:
            logger.warning("%s", self._overload.text)

    def _refused(self, picture_hash: str, reason: str) -> None:
        if self._session is not None:
            self._session.picture_refused(picture_hash, reason)
        self.problem = f"the source picture cannot be used: {reason}"

    def show(self, rendered: Rendered) -> None:
        """The newest picture, for the page and whoever asks."""
        self.pictures += 1
        self.jpeg, self.layered = rendered.jpeg, rendered.layered
        self._news.set()

    def _note(self, text: str) -> None:
        self.problem = text


def _check_address(sender: str) -> None:
    with contextlib.suppress(ValueError):  # of a host that is none
        parts = urlsplit(sender)
        plain = not set("?#@").intersection(sender)
        if parts.scheme in ("http", "https") and parts.hostname and plain:
            return
    raise BadInput(f"sender is {sender!r:.120}; allowed: http://host:port")


class _NoRedirect(urllib.request.HTTPRedirectHandler):
    """The sender is where it was said to be: what answers there must not choose whom this computer asks next."""

    def redirect_request(self, *_: Any) -> None:
        return None


def _post(address: str, body: dict[str, str]) -> dict[str, Any]:
    """Raises BadInput, OSError. Of what refuses or is no sender only the status is told: it may be any server."""
    request = urllib.request.Request(address, json.dumps(body).encode(), {"Content-Type": "application/json"})
    try:
        with urllib.request.build_opener(_NoRedirect).open(request, timeout=ANSWER_WITHIN_S) as response:
            answer = json.loads(response.read(MAX_ANSWER_BYTES))
    except urllib.error.HTTPError as error:
        error.close()
        raise BadInput(f"refused with status {error.code}") from None
    except (http.client.HTTPException, ValueError, RecursionError):
        raise BadInput("the answer is not a sender's") from None
    if not isinstance(answer, dict):
        raise BadInput("the answer is not a sender's")
    return answer


def _text(answer: dict[str, Any], name: str) -> str:
    value = answer.get(name)
    if not isinstance(value, str):
        raise BadInput("the answer is not a sender's")
    return value


class _Start(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True)
    sender: Annotated[str, Field(max_length=500)] | None = None


Degrees = Annotated[float, Field(ge=-LARGEST_TURN_DEG, le=LARGEST_TURN_DEG, allow_inf_nan=False)]


class _View(BaseModel):
    model_config = ConfigDict(extra="forbid")
    yaw: Degrees = 0.0
    pitch: Degrees = 0.0
    roll: Degrees = 0.0


def create_app(settings: ReceiverSettings, *, key: PageKey, hosts: tuple[str, ...] = LOOPBACK) -> FastAPI:
    """The service. Its state is `app.state.service`.

    `key` lets its page in. `hosts` are the names that it may be asked under.
    """
    counted = Metrics()

    @contextlib.asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        service = app.state.service = ReceiverService(settings)
        _gauges(counted, service)
        await service.open()
        if settings.sender is not None:
            await service.start()
        try:
            yield
        finally:
            await service.close()

    app = FastAPI(title="kilocall receiver", lifespan=lifespan, docs_url=None, redoc_url=None, openapi_url=None)
    guard_page(app, hosts, PAGE, key, [settings.token])

    @app.exception_handler(KilocallError)
    async def refuse(_: Request, error: Exception) -> Response:
        return JSONResponse({"error": str(error)}, status_code=422)

    @app.get("/health")
    async def health() -> Response:
        return JSONResponse({"connection": app.state.service.state()["connection"]})

    @app.get("/state")
    async def state() -> dict[str, Any]:
        found: dict[str, Any] = app.state.service.state()
        return found

    @app.get("/metrics")
    async def metrics() -> Response:
        return counted.response()

    @app.post("/start")
    async def start(command: _Start | None = None) -> dict[str, Any]:
        await app.state.service.start(command.sender if command is not None else None)
        return await state()

    @app.post("/stop")
    async def stop() -> dict[str, Any]:
        await app.state.service.stop()
        return await state()

    @app.post("/view")
    async def view(command: _View) -> Response:
        app.state.service.turn(View(command.yaw, command.pitch, command.roll))
        return Response(status_code=204)

    _add_pictures(app)
    mount_page(app, PAGE)
    return app


def _gauges(metrics: Metrics, service: ReceiverService) -> None:
    for name in ("pictures", "packets", "late", "received_bytes", "render_ms"):
        metrics.gauge(f"receiver_{name}", name, lambda name=name: float(service.state()[name] or 0))  # type: ignore[misc]


def _add_pictures(app: FastAPI) -> None:
    """What is shown, as a picture and as a stream of them, and the picture that is moved."""
    viewers = 0

    @app.get("/picture.jpg")
    async def picture() -> Response:
        jpeg = app.state.service.jpeg
        return Response(jpeg, media_type="image/jpeg") if jpeg is not None else Response(status_code=404)

    @app.get("/source.jpg")
    async def source() -> Response:
        packed = app.state.service.source
        if packed is None:
            return Response(status_code=404)
        rgb = await asyncio.to_thread(decode_from_others, packed.data)
        return Response(as_jpeg(rgb), media_type="image/jpeg")

    @app.get("/stream.mjpg")
    async def stream(request: Request) -> Response:
        nonlocal viewers
        if viewers >= MAX_MJPEG_VIEWERS:
            return Response(f"{MAX_MJPEG_VIEWERS} viewers are the most", status_code=503)

        async def parts() -> AsyncIterator[bytes]:
            nonlocal viewers
            viewers += 1
            try:
                while not await request.is_disconnected():
                    jpeg = await app.state.service.next_picture()
                    if jpeg is not None:
                        head = f"--picture\r\nContent-Type: image/jpeg\r\nContent-Length: {len(jpeg)}\r\n\r\n"
                        yield head.encode() + jpeg + b"\r\n"
            finally:
                viewers -= 1

        return StreamingResponse(parts(), media_type="multipart/x-mixed-replace; boundary=picture")
