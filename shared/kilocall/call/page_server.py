"""The page's server on this machine: pictures as JPEG over a WebSocket, commands the other way, sound by WebRTC.

The messages are JSON with a `type`; a picture is one byte of kind, eight of capture time, and the JPEG.
"""

from __future__ import annotations

import asyncio
import struct
from pathlib import Path
from typing import Annotated, Any, Final, Literal

from fastapi import FastAPI, Request, Response, WebSocket
from fastapi.responses import JSONResponse
from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError

from kilocall.call.node import PICTURE, CallNode
from kilocall.model.family import Picture
from kilocall.proto.errors import KilocallError
from kilocall.proto.trust import SPOKEN_WORDS
from kilocall.receiver.display import MAX_UPLOAD_BYTES, MAX_VIEWERS
from kilocall.receiver.render import LARGEST_TURN_DEG, View
from kilocall.runtime.metrics import Metrics
from kilocall.runtime.pictures import as_jpeg
from kilocall.runtime.viewers import Hub, Viewer, parse_command, serve_viewer
from kilocall.runtime.web import LOOPBACK, PageKey, bounded_body, guard_page, mount_page

__all__ = [
    "COMMANDS",
    "MAX_COMMAND_BYTES",
    "PAGE",
    "PICTURE_HEADER",
    "Command",
    "create_page_app",
    "live_hub",
    "picture_message",
    "read_command",
]

PAGE: Final = Path(__file__).parent / "page"
PICTURE_HEADER: Final = struct.Struct(">BQ")
"""Kind of picture, capture time in microseconds on this machine's monotonic clock."""
MAX_COMMAND_BYTES: Final = 4096
MAX_OFFER_BYTES: Final = 128 << 10


MOST_CAMERAS: Final = 16


class _Command(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)


class Mute(_Command):
    type: Literal["mute"]
    on: bool


class CameraOn(_Command):
    type: Literal["camera"]
    on: bool


class ShowCamera(_Command):
    """What the camera sees is shown as it is, or no more."""

    type: Literal["show_camera"]
    on: bool


class ChooseCamera(_Command):
    type: Literal["choose_camera"]
    number: Annotated[int, Field(ge=0, le=MOST_CAMERAS - 1)]


class Calibrate(_Command):
    type: Literal["calibrate"]
    on: bool


Word = Annotated[str, Field(max_length=16)]


class ComparedWords(_Command):
    """The person has seen that the other side's words are the same as these."""

    type: Literal["compared"]
    words: Annotated[list[Word], Field(min_length=SPOKEN_WORDS, max_length=SPOKEN_WORDS)]


class TakeSource(_Command):
    type: Literal["take_source"]


class UseSource(_Command):
    type: Literal["use_source"]
    id: Annotated[str, Field(max_length=64)]


Degrees = Annotated[float, Field(ge=-LARGEST_TURN_DEG, le=LARGEST_TURN_DEG, strict=False, allow_inf_nan=False)]


class Turn(_Command):
    type: Literal["view"]
    yaw: Degrees
    pitch: Degrees
    roll: Degrees


class Record(_Command):
    type: Literal["record"]
    on: bool


class VirtualCameraOn(_Command):
    type: Literal["virtual_camera"]
    on: bool


class SoundBehind(_Command):
    """How much longer a sound needs in the page than a picture, as measured there."""

    type: Literal["sound_behind"]
    ms: Annotated[float, Field(ge=0, le=2000, strict=False, allow_inf_nan=False)]


class HangUp(_Command):
    type: Literal["hang_up"]


class Visible(_Command):
    type: Literal["visible"]
    on: bool


Command = (
    Mute
    | CameraOn
    | ShowCamera
    | ChooseCamera
    | Calibrate
    | ComparedWords
    | TakeSource
    | UseSource
    | Turn
    | Record
    | VirtualCameraOn
    | SoundBehind
    | HangUp
    | Visible
)
COMMANDS: Final[TypeAdapter[Command]] = TypeAdapter(Annotated[Command, Field(discriminator="type")])


def read_command(text: str | bytes) -> Command:
    """One command of a page. Raises ValueError that says what is wrong, in one line."""
    return parse_command(COMMANDS, text, MAX_COMMAND_BYTES)


def live_hub() -> Hub:
    """What brings a call to its pages."""
    return Hub(("hello", "state", "numbers", "sources"), PICTURE)


def picture_message(kind: int, time_us: int, jpeg: bytes) -> bytes:
    return PICTURE_HEADER.pack(kind, max(0, time_us)) + jpeg


class _Offer(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True)
    type: Literal["offer"]
    sdp: str


def create_page_app(node: CallNode, hub: Hub, *, key: PageKey, hosts: tuple[str, ...] = LOOPBACK) -> FastAPI:
    """The page of one node, let in by `key`.

    `hosts` are the names it may be asked under: no other site's page must reach it.
    """
    app = FastAPI(docs_url=None, redoc_url=None, openapi_url=None)
    guard_page(app, hosts, PAGE, key)
    counted = _metrics(node)

    @app.get("/health")
    async def health() -> Response:
        alive = node.sending.alive and node.receiving.alive
        return JSONResponse({"alive": alive, "viewers": len(hub.viewers)}, status_code=200 if alive else 503)

    @app.get("/metrics")
    async def metrics() -> Response:
        return counted.response()

    @app.get("/api/state")
    async def state() -> dict[str, Any]:
        return node.controls.state()

    @app.get("/api/numbers")
    async def numbers() -> dict[str, Any]:
        return node.controls.numbers

    _add_pictures(app, node)
    _add_uploads(app, node)

    @app.websocket("/live")
    async def live(socket: WebSocket) -> None:
        await socket.accept()
        if len(hub.viewers) >= MAX_VIEWERS:
            await socket.close(1013, f"{MAX_VIEWERS} viewers are the most")
            return
        await _serve_viewer(socket, node, hub)

    mount_page(app, PAGE)
    return app


def _add_pictures(app: FastAPI, node: CallNode) -> None:
    """The source pictures of both sides."""

    @app.get("/api/source.jpg")
    async def own_source() -> Response:
        return _picture_response(node.controls.own_picture())

    @app.get("/api/sources/{source_id}.jpg")
    async def recent_source(source_id: str) -> Response:
        return _picture_response(node.controls.own_picture(source_id))

    @app.get("/api/remote-source.jpg")
    async def remote_source() -> Response:
        data = node.controls.remote_picture()
        if data is None:
            return Response(status_code=404)
        from kilocall.runtime.picture_process import decode_from_others

        return _picture_response(await asyncio.to_thread(decode_from_others, data))


def _add_uploads(app: FastAPI, node: CallNode) -> None:
    """What the page sends: a picture of the user's, and the offer of its sound."""

    @app.post("/api/source")
    async def upload(request: Request, name: str = "") -> Response:
        data = await bounded_body(request, MAX_UPLOAD_BYTES)
        if not data:
            what = "empty" if data == b"" else f"more than {MAX_UPLOAD_BYTES >> 20} MiB, which is the most allowed"
            return JSONResponse({"error": f"{name[:80] or 'the file'} is {what}"}, status_code=422)
        try:
            await node.controls.upload(data)
        except KilocallError as error:
            return JSONResponse({"error": str(error)}, status_code=422)
        return Response(status_code=204)

    @app.post("/api/media")
    async def media(request: Request) -> Response:
        body = await bounded_body(request, MAX_OFFER_BYTES)
        try:
            offer = _Offer.model_validate_json(body or b"")
            return JSONResponse({"type": "answer", "sdp": await node.controls.connect_media(offer.sdp)})
        except (KilocallError, ValidationError) as error:
            return JSONResponse({"error": str(error)[:300]}, status_code=422)


async def _serve_viewer(socket: WebSocket, node: CallNode, hub: Hub) -> None:
    viewer = hub.join()
    for message in (node.controls.hello(), node.controls.state(), node.controls.sources()):
        viewer.put_text(message)
    _watch(node, hub)

    async def obey(text: str) -> None:
        await _obey(read_command(text), viewer, node, hub)

    try:
        await serve_viewer(socket, viewer, obey)
    finally:
        hub.viewers.discard(viewer)
        _watch(node, hub)


def _watch(node: CallNode, hub: Hub) -> None:
    seen = any(viewer.visible for viewer in hub.viewers)
    node.controls.watch(seen, seen)
    if not hub.viewers:
        node.controls.calibrate(False)


async def _obey(command: Command, viewer: Viewer, node: CallNode, hub: Hub) -> None:
    match command:
        case Mute():
            node.controls.mute(command.on)
        case CameraOn():
            node.controls.camera(command.on)
        case ShowCamera():
            node.controls.show_camera(command.on)
        case ChooseCamera():
            await node.controls.choose_camera(command.number)
        case Calibrate():
            node.controls.calibrate(command.on)
        case ComparedWords():
            node.controls.compared(tuple(command.words))
        case TakeSource():
            await node.controls.take_source()
        case UseSource():
            await node.controls.use_source(command.id)
        case Turn():
            node.controls.turn(View(command.yaw, command.pitch, command.roll))
        case Record():
            written = await node.controls.record(command.on)
            if written is not None:
                hub.text({"type": "recorded", "stream": str(written.stream), "frames": written.frames})
        case VirtualCameraOn():
            await node.controls.virtual_camera(command.on)
        case SoundBehind():
            node.controls.sound_behind(command.ms)
        case HangUp():
            node.stop("hung up")
        case Visible():
            viewer.visible = command.on
            _watch(node, hub)


def _metrics(node: CallNode) -> Metrics:
    metrics = Metrics()
    names = {
        "out_kbps": "Sent, kilobits a second on the wire",
        "in_kbps": "Received, kilobits a second on the wire",
        "payload_bits_per_frame": "Coded motion, bits a frame",
        "fps_out": "Frames sent a second",
        "fps_in": "Pictures shown a second",
        "rate_out": "Frames a second that are aimed at",
        "rate_in": "Pictures a second that this computer can show, 25 at most",
        "loss_pct": "Motion packets that the other side missed, percent",
        "delay_ms": "From capture to picture, milliseconds",
        "render_ms": "Rendering, milliseconds",
    }
    for name, text in names.items():
        metrics.gauge(name, text, lambda name=name: float(node.controls.numbers.get(name) or 0.0))  # type: ignore[misc]
    return metrics


def _picture_response(rgb: Picture | None) -> Response:
    if rgb is None:
        return Response(status_code=404)
    return Response(as_jpeg(rgb), media_type="image/jpeg")
