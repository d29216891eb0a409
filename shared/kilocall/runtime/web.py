"""What every server on this machine does: answers only to its own names, its own pages and to those who have its key.

A page is opened with a random key behind the # of its address, which browsers send to nobody. Its script brings it to
/api/enter once and gets a cookie; from then on its requests begin with the path that the cookie is for. Programs send
the key itself, as `Authorization: Bearer KEY`. Without either there are /health and the page's files, and no more.
"""

from __future__ import annotations

import contextlib
import hmac
import re
import secrets
import socket
import sys
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

import uvicorn
from fastapi import FastAPI, Request, Response
from fastapi.responses import JSONResponse, PlainTextResponse
from fastapi.staticfiles import StaticFiles
from starlette.datastructures import Headers, MutableHeaders
from starlette.middleware.trustedhost import TrustedHostMiddleware
from starlette.types import ASGIApp, Message, Receive, Scope, Send

__all__ = [
    "ANY",
    "COMMON",
    "LOOPBACK",
    "OPEN_PATHS",
    "PageKey",
    "QuietServer",
    "bounded_body",
    "guard",
    "guard_page",
    "listen",
    "mount_page",
    "part_of",
    "same_origin",
    "shown_address",
]

#: Names that this machine has for itself; starlette has written IPv6 addresses both ways.
LOOPBACK: Final = ("127.0.0.1", "localhost", "::1", "[::1]")
ANY: Final = ("0.0.0.0", "::")
COMMON: Final = Path(__file__).parent / "page"
OPEN_PATHS: Final = ("/health",)
ENTER: Final = "/api/enter"
COOKIE: Final = "kilocall"
MAX_KEY_BYTES: Final = 256
READING: Final = ("GET", "HEAD", "OPTIONS")
NO_KEY: Final = "open the address that kilocall printed; programs send its key as Authorization: Bearer KEY"
SECURITY_HEADERS: Final = {
    "Content-Security-Policy": "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' blob: data:; "
    "media-src 'self'; connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cache-Control": "no-cache",
}


def _random() -> str:
    return secrets.token_urlsafe(16)


@dataclass(frozen=True)
class PageKey:
    """What one page server lets in by: made anew in every process."""

    text: str = field(default_factory=_random, repr=False)
    # A browser sends a cookie to every port of a computer, so also to a server of another user there, but only to
    # the path that the cookie is for: this one nobody else can ask the browser to open.
    place: str = field(default_factory=lambda: f"/at/{_random()}", repr=False)
    """Path that the page's own requests begin with."""

    def opens(self, address: str) -> str:
        """The page's address for whoever may open it."""
        return f"{address}/#{self.text}"

    def fits(self, given: bytes) -> bool:
        return hmac.compare_digest(given, self.text.encode())


class _Lock:
    """Refuses requests that come from another site's page, and those without a key except for `open_paths`."""

    def __init__(
        self, app: ASGIApp, *, bearers: Sequence[str], open_paths: Collection[str], key: PageKey | None = None
    ) -> None:
        self.app = app
        self._bearers = [f"Bearer {bearer}".encode() for bearer in bearers]
        self._open = frozenset(open_paths)
        self._key = key

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] not in ("http", "websocket"):
            await self.app(scope, receive, send)
            return
        headers = Headers(scope=scope)
        changes = scope["type"] == "websocket" or scope["method"] not in READING
        if changes and not same_origin(headers.get("origin"), headers.get("host")):
            await _refuse(scope, receive, send, 403, "refused: another site asked")
            return
        entered = False
        if self._key is not None and scope["path"].startswith(f"{self._key.place}/"):
            entered = self._has_cookie(headers)
            path = scope["path"].removeprefix(self._key.place)
            scope = {**scope, "path": path, "raw_path": path.encode()}
        if entered or scope["path"] in self._open or self._has_bearer(headers):
            await self.app(scope, receive, send)
        else:
            await _refuse(scope, receive, send, 401, NO_KEY)

    def _has_bearer(self, headers: Headers) -> bool:
        given = headers.get("authorization", "").encode()
        return any(hmac.compare_digest(given, bearer) for bearer in self._bearers)

    def _has_cookie(self, headers: Headers) -> bool:
        # Any of them: a server on another port may have added one of the same name.
        pairs = (pair.strip().partition("=") for pair in headers.get("cookie", "").split(";"))
        given = [value.encode() for name, _, value in pairs if name == COOKIE]
        return self._key is not None and any(self._key.fits(value) for value in given)


async def _refuse(scope: Scope, receive: Receive, send: Send, status: int, reason: str) -> None:
    if scope["type"] == "websocket":
        await send({"type": "websocket.close", "code": 1008, "reason": reason})
    else:
        await JSONResponse({"error": reason}, status_code=status)(scope, receive, send)


class _SecurityHeaders:
    # Not a middleware function of FastAPI: that one would stand between an endless stream and its viewer's going away.
    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async def with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                MutableHeaders(scope=message).update(SECURITY_HEADERS)
            await send(message)

        await self.app(scope, receive, with_headers)


def guard(
    app: FastAPI,
    hosts: Sequence[str],
    bearers: Sequence[str],
    open_paths: Collection[str] = OPEN_PATHS,
    key: PageKey | None = None,
) -> None:
    """Refuses requests under other names than `hosts`, from other sites, and without one of `bearers`.

    What is asked under `open_paths` needs no key. Every response gets the security headers.
    """
    app.add_middleware(_Lock, bearers=bearers, open_paths=open_paths, key=key)
    app.add_middleware(TrustedHostMiddleware, allowed_hosts=list(hosts), www_redirect=False)
    app.add_middleware(_SecurityHeaders)


def guard_page(app: FastAPI, hosts: Sequence[str], page: Path, key: PageKey, bearers: Sequence[str] = ()) -> None:
    """As `guard`, for a server of the page in folder `page`, which is let in by `key`."""
    files = {f"/{file.name}" for file in page.iterdir()} | {f"/common/{file.name}" for file in COMMON.iterdir()}
    guard(app, hosts, (key.text, *bearers), {"/", ENTER, *OPEN_PATHS, *files}, key)

    @app.post(ENTER)
    async def enter(request: Request) -> Response:
        if not key.fits(await bounded_body(request, MAX_KEY_BYTES) or b""):
            return JSONResponse({"error": NO_KEY}, status_code=403)
        response = PlainTextResponse(key.place)
        response.set_cookie(COOKIE, key.text, path=key.place, httponly=True, samesite="strict")
        return response

    @app.get("/api/entered")
    async def entered() -> Response:
        return Response(status_code=204)


def mount_page(app: FastAPI, page: Path) -> None:
    """Serves the files of folder `page` at /, and at /common what every page shares; after all other routes."""
    app.mount("/common", StaticFiles(directory=COMMON), name="common")
    app.mount("/", StaticFiles(directory=page, html=True), name="page")


def same_origin(origin: str | None, host: str | None) -> bool:
    """Browsers always state the origin of a socket or a POST; programs need not."""
    return origin is None or (host is not None and origin.partition("://")[2] == host)


def part_of(data: bytes, media_type: str, wanted: str | None) -> Response:
    """What a request asks of `data` by its Range header (RFC 9110), which browsers need to go to a place in a film."""
    start, end, size = 0, len(data) - 1, len(data)
    asked = re.fullmatch(r"bytes=(\d*)-(\d*)", wanted or "")
    if asked is None or asked[0] == "bytes=-":
        return Response(data, media_type=media_type, headers={"Accept-Ranges": "bytes"})
    if asked[1]:
        start, end = int(asked[1]), min(end, int(asked[2] or end))
    else:
        start = max(0, size - int(asked[2]))
    if not start <= end:
        return Response(status_code=416, headers={"Content-Range": f"bytes */{size}"})
    headers = {"Accept-Ranges": "bytes", "Content-Range": f"bytes {start}-{end}/{size}"}
    return Response(data[start : end + 1], 206, headers, media_type)


async def bounded_body(request: Request, most: int) -> bytes | None:
    """The body, None as soon as it is longer than `most` bytes."""
    stated = request.headers.get("content-length", "")
    if stated.isdecimal() and int(stated) > most:
        return None
    data = bytearray()
    async for chunk in request.stream():
        data += chunk
        if len(data) > most:
            return None
    return bytes(data)


def listen(host: str, port: int) -> socket.socket:
    """A listening socket, so that a port in use is known before anything is loaded. OSError names the address."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    listening = socket.socket(family, socket.SOCK_STREAM)
    try:
        if sys.platform == "win32":
            # There the other option would let a second program take the same port.
            listening.setsockopt(socket.SOL_SOCKET, socket.SO_EXCLUSIVEADDRUSE, 1)
        else:
            listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listening.bind((host, port))
        listening.listen(64)
    except OSError as error:
        listening.close()
        raise OSError(error.errno, error.strerror, f"{host}:{port}") from error
    return listening


def shown_address(host: str, listening: socket.socket) -> str:
    """The address of a listening socket as somebody on this machine can open it."""
    shown = LOOPBACK[0] if host in ANY else f"[{host}]" if ":" in host else host
    return f"http://{shown}:{listening.getsockname()[1]}"


class QuietServer(uvicorn.Server):
    """uvicorn that says when it is ready and keeps quiet otherwise.

    Without `own_signals` it leaves Ctrl-C alone: what runs it decides when it ends.
    """

    def __init__(
        self, config: uvicorn.Config, on_ready: Callable[[], None] = lambda: None, *, own_signals: bool = False
    ) -> None:
        super().__init__(config)
        self._on_ready, self._own_signals = on_ready, own_signals

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets=sockets)
        if self.started and not self.should_exit:
            self._on_ready()

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        with super().capture_signals() if self._own_signals else contextlib.nullcontext():
            yield
