"""Shows a stream on a page in the browser: pictures as JPEG over a WebSocket, controls the other way.

The model runs on the playback's thread; the event loop here only moves bytes.

A message to the page is JSON text (`stream` once, then `state` and `error`), or a picture: FRAME_HEADER and a JPEG.
A message from the page is JSON text, one of the commands below.
"""

from __future__ import annotations

import asyncio
import struct
from collections.abc import AsyncIterator, Callable
from concurrent.futures import CancelledError
from contextlib import asynccontextmanager, suppress
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any, Final, Literal

import uvicorn
from fastapi import FastAPI, Request, Response, WebSocket
from fastapi.responses import JSONResponse
from pydantic import BaseModel, ConfigDict, Field, TypeAdapter

from kilocall.model.family import Picture
from kilocall.proto.errors import KilocallError
from kilocall.receiver.playback import SPEEDS, Playback, PlaybackState, ReplayStream, Shown
from kilocall.receiver.render import LARGEST_TURN_DEG, View
from kilocall.receiver.sound_track import SoundTrack, as_ogg
from kilocall.runtime.pictures import as_jpeg
from kilocall.runtime.viewers import Hub, parse_command, serve_viewer
from kilocall.runtime.web import LOOPBACK, PageKey, QuietServer, bounded_body, guard_page, mount_page, part_of

__all__ = [
    "FRAME_HEADER",
    "MAX_UPLOAD_BYTES",
    "MAX_VIEWERS",
    "create_app",
    "page_server",
]

PAGE: Final = Path(__file__).parent / "page"
FRAME_HEADER: Final = struct.Struct(">IQff?")
"""Frame number, time in microseconds, payload bits a frame, milliseconds that rendering took, whether it is what the
camera saw."""
MAX_UPLOAD_BYTES: Final = 4 << 20
MAX_VIEWERS: Final = 8
MAX_COMMAND_BYTES: Final = 4096
#: As long as a video that is decoded may last; the page's sound is held in memory.
LONGEST_SOUND_US: Final = 24 * 3600 * 1_000_000


class _Command(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True)


class Play(_Command):
    do: Literal["play"]


class Pause(_Command):
    do: Literal["pause"]


class Seek(_Command):
    do: Literal["seek"]
    time_us: int = Field(ge=0, le=1 << 40)


class Speed(_Command):
    do: Literal["speed"]
    speed: float = Field(ge=SPEEDS[0], le=SPEEDS[1], strict=False)


class Loop(_Command):
    do: Literal["loop"]
    loop: bool


Degrees = Annotated[float, Field(ge=-LARGEST_TURN_DEG, le=LARGEST_TURN_DEG, strict=False)]


class Turn(_Command):
    do: Literal["turn"]
    yaw: Degrees
    pitch: Degrees
    roll: Degrees


class OwnSource(_Command):
    do: Literal["own_source"]


Command = Play | Pause | Seek | Speed | Loop | Turn | OwnSource
COMMANDS: Final[TypeAdapter[Command]] = TypeAdapter(Annotated[Command, Field(discriminator="do")])


class ReplaySession:
    """The playback and the viewers of one stream; `name` and `source_name` are what people are told."""

    def __init__(
        self,
        stream: ReplayStream,
        *,
        name: str,
        source_name: str | None,
        read_face: Callable[[bytes], Picture],
        loop: bool,
    ) -> None:
        self.hub = Hub(("stream", "state"))
        self.name = name
        self._read_face = read_face
        self._events: asyncio.AbstractEventLoop | None = None
        self._repeat = loop
        self._has_sound = next(stream.reader.sounds(), None) is not None
        self._ogg: bytes | None = None
        self._making_ogg = asyncio.Lock()
        self.playback = Playback(stream, on_shown=self._shown, on_state=self._told, source=source_name)

    def open(self) -> None:
        """On the event loop that will serve the page."""
        self._events = asyncio.get_running_loop()
        self.hub.text(self.stream_facts())
        self.playback.start()
        self.playback.watch(False)
        self.playback.set_loop(self._repeat)

    def stream_facts(self) -> dict[str, Any]:
        header = self.playback.stream.reader.header
        return {
            "type": "stream",
            "name": self.name,
            "family": header.family,
            "frames": self.playback.frames,
            "duration_us": self.playback.duration_us,
            "fps": float(self.playback.fps),
            "size": header.picture_size,
            "keys_us": [entry.time_us for entry in self.playback.stream.reader.index],
            "bits_per_frame": self.playback.mean_bits_per_frame,
            "sound": self._has_sound,
            "damage": self.playback.stream.reader.damage,
            "speeds": SPEEDS,
            "largest_turn": LARGEST_TURN_DEG,
            "largest_upload": MAX_UPLOAD_BYTES,
        }

    async def execute(self, command: Command) -> None:
        """Raises KilocallError when it cannot."""
        playback = self.playback
        match command:
            case Play():
                playback.play()
            case Pause():
                playback.pause()
            case Seek():
                playback.seek(command.time_us)
            case Speed():
                playback.set_speed(command.speed)
            case Loop():
                playback.set_loop(command.loop)
            case Turn():
                playback.set_view(View(command.yaw, command.pitch, command.roll))
            case OwnSource():
                await asyncio.wrap_future(playback.show(lambda: None, None))

    async def take_upload(self, data: bytes, name: str) -> None:
        """Shows the face of an uploaded picture. Raises KilocallError when there is none."""
        await asyncio.wrap_future(self.playback.show(lambda: self._read_face(data), name))

    async def source_jpeg(self) -> bytes:
        """The picture that is moved."""
        return await asyncio.wrap_future(
            self.playback.ask(lambda: as_jpeg(self.playback.stream.renderer.source.picture))
        )

    async def sound_ogg(self) -> bytes | None:
        """The speech as a file that browsers play; None where there is none."""
        async with self._making_ogg:  # a browser asks for several parts of it at once
            if self._ogg is None and self._has_sound:
                track = SoundTrack(
                    self.playback.stream.reader.sounds(), min(self.playback.duration_us, LONGEST_SOUND_US)
                )
                self._ogg = await asyncio.to_thread(as_ogg, track)
        return self._ogg

    def _shown(self, shown: Shown) -> None:
        head = FRAME_HEADER.pack(shown.frame, shown.time_us, shown.bits_per_frame, shown.made_ms, shown.camera)
        self._deliver(self.hub.picture, head + as_jpeg(shown.rgb))

    def _told(self, state: PlaybackState) -> None:
        self._deliver(self.hub.text, {"type": "state", **asdict(state)})

    def _deliver(self, call: Callable[[Any], None], message: object) -> None:
        if self._events is not None:
            # The loop may have been closed while this picture was being made; nobody is left to see it.
            with suppress(RuntimeError):
                self._events.call_soon_threadsafe(call, message)


def create_app(
    stream: ReplayStream,
    *,
    name: str,
    source_name: str | None = None,
    read_face: Callable[[bytes], Picture],
    key: PageKey,
    hosts: tuple[str, ...] = LOOPBACK,
    loop: bool = False,
) -> FastAPI:
    """The page and its socket for an opened stream.

    `read_face` turns an uploaded picture file into a face crop, and raises BadInput; it runs on the model thread.
    `key` lets the page in. `hosts` are the names that it may be asked under: other pages must not reach it by a name of
    their own.
    """
    session = ReplaySession(stream, name=name, source_name=source_name, read_face=read_face, loop=loop)

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        session.open()
        try:
            yield
        finally:
            # The thread may be inside the model for some milliseconds.
            await asyncio.to_thread(session.playback.close)

    app = FastAPI(lifespan=lifespan, docs_url=None, redoc_url=None, openapi_url=None)
    guard_page(app, hosts, PAGE, key)

    @app.get("/health")
    async def health() -> Response:
        alive = session.playback.alive
        return JSONResponse(
            {"alive": alive, "viewers": len(session.hub.viewers), "pictures": session.hub.pictures},
            status_code=200 if alive else 503,
        )

    _add_media(app, session)

    @app.websocket("/live")
    async def live(socket: WebSocket) -> None:
        await socket.accept()
        if len(session.hub.viewers) >= MAX_VIEWERS:
            await socket.close(1013, f"{MAX_VIEWERS} viewers are the most")
            return
        await _serve_viewer(socket, session)

    mount_page(app, PAGE)
    return app


def _add_media(app: FastAPI, session: ReplaySession) -> None:
    """The picture that is moved, also another one, and the sound."""

    @app.get("/source.jpg")
    async def source() -> Response:
        with suppress(CancelledError, asyncio.CancelledError):
            return Response(await session.source_jpeg(), media_type="image/jpeg")
        return Response(status_code=503)

    @app.get("/sound.ogg")
    async def sound(request: Request) -> Response:
        data = await session.sound_ogg()
        return Response(status_code=404) if data is None else part_of(data, "audio/ogg", request.headers.get("range"))

    @app.post("/source")
    async def upload(request: Request, name: str = "") -> Response:
        data = await bounded_body(request, MAX_UPLOAD_BYTES)
        if data is None:
            return _upload_error(f"the file has more than {MAX_UPLOAD_BYTES >> 20} MiB, which is the most allowed", 413)
        if not data:
            return _upload_error("the file is empty", 422)
        try:
            await session.take_upload(data, _plain(name) or "your picture")
        except KilocallError as error:
            return _upload_error(str(error), 422)
        except CancelledError:
            return _upload_error("the stream is being closed", 503)
        return JSONResponse({"source": _plain(name)})


async def _serve_viewer(socket: WebSocket, session: ReplaySession) -> None:
    viewer = session.hub.join()
    if len(session.hub.viewers) == 1:
        session.playback.watch(True)
        session.playback.play()

    async def obey(text: str) -> None:
        await session.execute(parse_command(COMMANDS, text, MAX_COMMAND_BYTES))

    try:
        await serve_viewer(socket, viewer, obey)
    finally:
        session.hub.viewers.discard(viewer)
        if not session.hub.viewers:
            session.playback.watch(False)


def _upload_error(text: str, status: int) -> Response:
    return JSONResponse({"error": text}, status_code=status)


def _plain(name: str) -> str:
    """A file name to show: its last part, printable, not long."""
    last = name.replace("\\", "/").rpartition("/")[2]
    return "".join(c for c in last if c.isprintable()).strip()[:80]


def page_server(app: FastAPI, *, on_ready: Callable[[], None] = lambda: None) -> QuietServer:
    """What serves the page; `on_ready` is called once it does."""
    config = uvicorn.Config(
        app, log_level="warning", ws_max_size=MAX_COMMAND_BYTES, timeout_graceful_shutdown=3, lifespan="on"
    )
    return QuietServer(config, on_ready, own_signals=True)
