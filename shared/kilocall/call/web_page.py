"""The page of a call in the browser, as the signalling server gives it to whoever opens a link.

    /ROOM                 the page; the link's secret is behind its # and is sent to nobody
    /web/HASH/...         what it loads: modules, engine, networks; HASH is that of all of them, so they never change

The page is that of `kilocall call`, which finds all that a program beside it does in one module, `program.js`: here
another takes its place, in which the page itself makes the call. The files are read once, when the first page is asked
for.
"""

from __future__ import annotations

import functools
import gzip
import hashlib
import logging
import re
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from fastapi import FastAPI, Request, Response
from starlette.concurrency import run_in_threadpool
from starlette.responses import StreamingResponse

from kilocall.runtime.web_bundle import bundled
from kilocall.runtime.web_files import (
    CALL_PAGE,
    ENGINE_FILES,
    NETWORK_FILES,
    WEB,
    WEIGHTS,
    for_browsers,
    gpu_files,
    has_engine,
)

__all__ = ["WebPage", "add_web_page", "read_web_page"]

logger = logging.getLogger(__name__)

ROOM: Final = re.compile(r"[A-Za-z0-9._~-]{1,64}")
#: What browsers and Prometheus ask for by themselves; nobody means a room by it.
NO_ROOMS: Final = frozenset({"favicon.ico", "metrics"})
HOST: Final = re.compile(r"[A-Za-z0-9.-]+(:[0-9]{1,5})?|\[[0-9A-Fa-f:]+\](:[0-9]{1,5})?")
OWN: Final = WEB / "call"
UNPREPARED: Final = OWN / "unprepared.html"
#: What the page's `program.js` has of a program that runs beside it.
OF_A_PROGRAM: Final = ("connection.js", "media.js", "pictures.js")
#: Files that the page names.
NAMED: Final = ('href="icon.svg"', 'href="style.css"', 'src="main.js"')
#: What the page and its workers begin with: served with all that they import.
ENTRIES: Final = ("call/main.js", "send_worker.js", "receive_worker.js")
MEDIA_TYPES: Final = {
    ".js": "text/javascript; charset=utf-8",
    ".mjs": "text/javascript; charset=utf-8",
    ".css": "text/css; charset=utf-8",
    ".html": "text/html; charset=utf-8",
    ".json": "application/json",
    ".svg": "image/svg+xml",
    ".wasm": "application/wasm",
    ".txt": "text/plain; charset=utf-8",
}
OTHER: Final = "application/octet-stream"
#: Shorter than that is hardly made shorter.
LEAST_GZIP_BYTES: Final = 512
PIECE_BYTES: Final = 64 << 10
FOR_EVER: Final = "public, max-age=31536000, immutable"
READING: Final = ["GET", "HEAD"]
HEADERS: Final = {
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    # Both together let the page's engine use several threads.
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Embedder-Policy": "require-corp",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Permissions-Policy": "camera=(self), microphone=(self), display-capture=(), geolocation=()",
}


@dataclass
class WebFile:
    """One file as it is sent."""

    data: bytes
    media_type: str
    packed: bytes | None = field(default=None, repr=False)
    """With gzip, once somebody has asked for it so; nothing where that is no shorter."""

    def gzipped(self) -> bytes:
        if self.packed is None:
            made = gzip.compress(self.data, 6) if len(self.data) >= LEAST_GZIP_BYTES else b""
            self.packed = made if len(made) < 0.95 * len(self.data) else b""
        return self.packed


@dataclass(frozen=True)
class WebPage:
    """The page and its files, by their path behind `/web/HASH/`."""

    version: str
    page: bytes
    files: dict[str, WebFile]


@functools.cache
def read_web_page() -> WebPage | None:
    """None where the engine for browsers is missing."""
    if not has_engine():
        return None
    found = {
        f"{place}{path.name}": path
        for place, folder in (("", WEB), ("call/", CALL_PAGE), ("call/", OWN))
        for path in folder.iterdir()
        if path.suffix in MEDIA_TYPES and path.suffix != ".html" and path.name not in OF_A_PROGRAM
    }
    found |= {f"vendor/{name}": WEB / "vendor" / name for name in ENGINE_FILES} | gpu_files()
    read = {name: path.read_bytes() for name, path in found.items()}
    for name in (*NETWORK_FILES, "manifest.json"):
        read[f"networks/{name}"] = for_browsers(name, (WEIGHTS / name).read_bytes())
    read |= {entry: bundled(entry, read) for entry in ENTRIES}
    files = {name: WebFile(data, MEDIA_TYPES.get(Path(name).suffix, OTHER)) for name, data in sorted(read.items())}
    digest = hashlib.sha256()
    for name, file in files.items():
        digest.update(f"{name}\n{len(file.data)}\n".encode() + file.data)
    version = digest.hexdigest()[:16]
    page = (CALL_PAGE / "index.html").read_text()
    for named in NAMED:
        page = page.replace(named, named.replace('="', f'="web/{version}/call/'))
    return WebPage(version, page.encode(), files)


def add_web_page(app: FastAPI) -> None:
    """After all other routes: a room may have any name that is none of theirs."""

    @app.api_route("/web/{version}/{name:path}", methods=READING)
    async def file(version: str, name: str, request: Request) -> Response:
        page = await run_in_threadpool(read_web_page)
        found = page.files.get(name) if page is not None and page.version == version else None
        if found is None:
            return Response(status_code=404, headers=HEADERS | {"Cache-Control": "no-store"})
        headers = _headers(request) | {"Cache-Control": FOR_EVER, "Vary": "Accept-Encoding"}
        accepted = request.headers.get("accept-encoding", "")
        packed = await run_in_threadpool(found.gzipped) if "gzip" in accepted else b""
        if packed:
            headers["Content-Encoding"] = "gzip"
        data = packed or found.data
        headers["Content-Length"] = str(len(data))
        return StreamingResponse(_pieces(data), headers=headers, media_type=found.media_type)

    @app.api_route("/robots.txt", methods=READING)
    async def robots() -> Response:
        return Response("User-agent: *\nDisallow: /\n", media_type=MEDIA_TYPES[".txt"])

    @app.api_route("/{room}", methods=READING)
    async def room_page(room: str, request: Request) -> Response:
        if room in NO_ROOMS or ROOM.fullmatch(room) is None:
            return Response(status_code=404, headers=HEADERS | {"Cache-Control": "no-store"})
        page = await run_in_threadpool(read_web_page)
        headers = _headers(request) | {"Cache-Control": "no-store"}
        if page is None:
            return Response(UNPREPARED.read_bytes(), 503, headers, MEDIA_TYPES[".html"])
        return Response(page.page, 200, headers, MEDIA_TYPES[".html"])


async def _pieces(data: bytes) -> AsyncIterator[bytes]:
    """So that of a file of 14 MB no copy is kept for each of those who do not read it."""
    for start in range(0, len(data), PIECE_BYTES):
        yield data[start : start + PIECE_BYTES]


def _headers(request: Request) -> dict[str, str]:
    """Some browsers do not take 'self' for WebSockets, so the page's own address is named beside it."""
    host = request.headers.get("host", "")
    sockets = f" ws://{host} wss://{host}" if HOST.fullmatch(host) else ""
    policy = (
        "default-src 'none'; script-src 'self' 'wasm-unsafe-eval'; worker-src 'self'; style-src 'self'; "
        f"img-src 'self' blob: data:; media-src 'self' blob:; connect-src 'self'{sockets}; "
        "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    )
    return HEADERS | {"Content-Security-Policy": policy}
