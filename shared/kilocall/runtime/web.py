"""What every page server on this machine does: answers only to its own names and pages, runs only its own scripts."""

from __future__ import annotations

import re
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path
from typing import Final

from fastapi import FastAPI, Request, Response
from fastapi.staticfiles import StaticFiles
from starlette.middleware.trustedhost import TrustedHostMiddleware

#: Names that this machine has for itself; starlette has written IPv6 addresses both ways.
LOOPBACK: Final = ("127.0.0.1", "localhost", "::1", "[::1]")
COMMON: Final = Path(__file__).parent / "page"
SECURITY_HEADERS: Final = {
    "Content-Security-Policy": "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' blob: data:; "
    "media-src 'self'; connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cache-Control": "no-cache",
}


def guard(app: FastAPI, hosts: Sequence[str]) -> None:
    """Refuses requests under other names than `hosts` and adds the security headers to every response."""
    app.add_middleware(TrustedHostMiddleware, allowed_hosts=list(hosts), www_redirect=False)

    @app.middleware("http")
    async def add_headers(request: Request, call_next: Callable[[Request], Awaitable[Response]]) -> Response:
        response = await call_next(request)
        response.headers.update(SECURITY_HEADERS)
        return response


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
