"""The page of a call that the signalling server gives to whoever opens a link, and its files."""

from __future__ import annotations

import asyncio
import contextlib
import gzip
import logging
import re

import httpx2
import pytest

from kilocall.call import web_page
from kilocall.call.signalling_settings import SignallingSettings
from kilocall.call.web_page import ENTRIES, read_web_page
from kilocall.runtime.web_files import (
    CALL_PAGE,
    ENGINE_FILES,
    NETWORK_FILES,
    WEB,
    WEIGHTS,
    for_browsers,
    has_engine,
    modules_of,
)
from links import run
from meeting import Server

needs_engine = pytest.mark.skipif(not has_engine(), reason="the browser's engine is missing: run `make web`")
ISOLATED = {
    "cross-origin-opener-policy": "same-origin",
    "cross-origin-embedder-policy": "require-corp",
    "x-content-type-options": "nosniff",
    "referrer-policy": "no-referrer",
}


def policy(reply: httpx2.Response) -> dict[str, str]:
    parts = reply.headers["content-security-policy"].split("; ")
    return {name: allowed for name, _, allowed in (part.partition(" ") for part in parts)}


def has_headers(reply: httpx2.Response) -> None:
    assert {name: reply.headers[name] for name in ISOLATED} == ISOLATED
    rules = policy(reply)
    assert rules["default-src"] == "'none'"
    assert rules["script-src"] == "'self' 'wasm-unsafe-eval'"
    assert rules["worker-src"] == rules["style-src"] == "'self'"
    assert rules["frame-ancestors"] == rules["base-uri"] == rules["form-action"] == "'none'"
    assert "unsafe-inline" not in reply.headers["content-security-policy"]
    assert "camera=(self), microphone=(self)" in reply.headers["permissions-policy"]


@needs_engine
def test_a_room_is_answered_with_a_page_that_is_not_kept_and_names_files_that_are() -> None:
    async def check() -> None:
        async with Server() as server:
            for room in ("tea", "Stand-up.2~x", "x" * 64):
                reply = await server.get(f"/{room}")
                assert reply.status_code == 200
                assert reply.headers["content-type"] == "text/html; charset=utf-8"
                assert reply.headers["cache-control"] == "no-store"
                has_headers(reply)
                host = f"127.0.0.1:{server.port}"
                assert policy(reply)["connect-src"] == f"'self' ws://{host} wss://{host}"
                assert not re.search(r"\sstyle=|\son\w+=|<script>|<style", reply.text)
                assert room not in reply.text
            named = re.findall(r'(?:href|src)="([^"#]+)"', reply.text)
            assert len(named) >= 3
            for path in named:
                assert (await server.get(f"/{path}")).status_code == 200, path
            # No room is made by that.
            assert server.rooms == {}

    run(check())


@needs_engine
def test_every_file_of_the_page_is_served_for_ever() -> None:
    async def check() -> None:
        page = read_web_page()
        assert page is not None
        call = [f"call/{path.name}" for path in (WEB / "call").glob("*.js")]
        wanted = modules_of(["worker.js", "session.js", "link.js", *call]) | {f"vendor/{name}" for name in ENGINE_FILES}
        wanted |= {f"networks/{name}" for name in (*NETWORK_FILES, "manifest.json")}
        assert wanted <= set(page.files)
        async with Server() as server, httpx2.AsyncClient(trust_env=False, base_url=server.url) as client:
            for name in sorted(wanted):
                reply = await client.get(f"/web/{page.version}/{name}")
                assert reply.status_code == 200
                assert reply.headers["cache-control"] == "public, max-age=31536000, immutable"
                has_headers(reply)
                if name in ENTRIES:
                    continue  # served with all that they import
                folder = WEIGHTS.parent if name.startswith("networks/") else WEB
                stored = folder / name.replace("networks/", f"{WEIGHTS.name}/")
                if not stored.is_file():  # of the page itself, which has nothing in its place
                    stored = CALL_PAGE / name.removeprefix("call/")
                # A plain truth: pytest would take minutes to tell how two files of a megabyte differ.
                same = reply.content == for_browsers(stored.name, stored.read_bytes())
                assert same, name
            kinds = {"link.js": "text/javascript", f"vendor/{ENGINE_FILES[1]}": "application/wasm"}
            for name, kind in kinds.items():
                reply = await client.head(f"/web/{page.version}/{name}")
                assert reply.headers["content-type"].startswith(kind)
                assert reply.content == b""

    run(check())


@needs_engine
def test_the_page_and_its_workers_import_nothing_that_would_have_to_be_asked_for() -> None:
    page = read_web_page()
    assert page is not None
    for entry in ENTRIES:
        text = page.files[entry].data.decode()
        assert not re.search(r"^(import|export)\b", text, re.M), entry
        for name in modules_of([entry]):
            assert text.count(f"=> {{ // {name}\n") == 1, name


@needs_engine
def test_files_are_packed_for_whoever_takes_that_and_not_for_others() -> None:
    async def check() -> None:
        page = read_web_page()
        assert page is not None
        path, data = f"/web/{page.version}/session.js", (WEB / "session.js").read_bytes()
        async with Server() as server, httpx2.AsyncClient(trust_env=False, base_url=server.url) as client:
            plain = await client.get(path, headers={"accept-encoding": "identity"})
            assert (plain.headers.get("content-encoding"), plain.content) == (None, data)
            async with client.stream("GET", path, headers={"accept-encoding": "gzip"}) as packed:
                assert packed.headers["content-encoding"] == "gzip"
                raw = b"".join([part async for part in packed.aiter_raw()])
            assert len(raw) == int(packed.headers["content-length"]) < len(data) / 2
            assert gzip.decompress(raw) == data

    run(check())


@needs_engine
@pytest.mark.parametrize(
    "path",
    [
        "/",
        "/web/0123456789abcdef/link.js",
        "/web/HASH/nothing.js",
        "/web/HASH/../signalling.py",
        "/web/HASH/%2e%2e/%2e%2e/call/link.py",
        "/web/HASH/call/index.html",
        "/web/HASH/",
        f"/{'x' * 65}",
        "/tea%20time",
        "/tea/more",
        "/%3Cscript%3E",
        "/favicon.ico",
        "/metrics",
    ],
)
def test_what_is_no_room_and_no_file_is_not_there(path: str) -> None:
    async def check() -> None:
        page = read_web_page()
        assert page is not None
        async with Server() as server, httpx2.AsyncClient(trust_env=False, follow_redirects=True) as client:
            reply = await client.get(server.url + path.replace("HASH", page.version))
            assert reply.status_code == 404
            assert "immutable" not in reply.headers.get("cache-control", "")

    run(check())


@needs_engine
def test_a_slash_behind_the_room_leads_to_its_page() -> None:
    async def check() -> None:
        async with Server() as server:
            reply = await server.get("/tea/")
            assert reply.is_redirect
            assert reply.headers["location"] == f"{server.url}/tea"

    run(check())


@needs_engine
def test_whoever_does_not_read_what_he_asked_for_is_cut_off() -> None:
    page = read_web_page()
    assert page is not None
    longest = f"/web/{page.version}/vendor/{ENGINE_FILES[1]}"

    async def check() -> None:
        async with Server(SignallingSettings(answer_within_s=2.0)) as server:
            reader, writer = await asyncio.open_connection("127.0.0.1", server.port, limit=1 << 12)
            writer.write(f"GET {longest} HTTP/1.1\r\nHost: {server.url[7:]}\r\n\r\n".encode())
            await asyncio.sleep(2.5)
            taken = 0
            with contextlib.suppress(ConnectionError):
                while part := await reader.read(1 << 16):
                    taken += len(part)
            assert taken < len(page.files[f"vendor/{ENGINE_FILES[1]}"].data)
            writer.close()
            # Who reads gets all of it, and may ask for more on the same connection after a while.
            plain = {"Accept-Encoding": "identity"}  # packing takes a while, once
            async with httpx2.AsyncClient(trust_env=False, base_url=server.url, headers=plain) as client:
                assert len((await client.get(longest)).content) > 10_000_000
                await asyncio.sleep(2.2)
                assert (await client.get("/health")).status_code == 200

    run(check())


def test_robots_are_asked_to_stay_away() -> None:
    async def check() -> None:
        async with Server() as server:
            assert (await server.get("/robots.txt")).text == "User-agent: *\nDisallow: /\n"

    run(check())


def test_without_the_engine_the_page_says_how_to_get_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(web_page, "has_engine", lambda: False)
    read_web_page.cache_clear()

    async def check() -> None:
        async with Server() as server:
            reply = await server.get("/tea")
            assert reply.status_code == 503
            assert "make web" in reply.text
            has_headers(reply)
            assert "<script" not in reply.text
            assert (await server.get("/web/0123456789abcdef/link.js")).status_code == 404
            assert (await server.get("/health")).status_code == 200

    try:
        run(check())
    finally:
        read_web_page.cache_clear()


@needs_engine
def test_the_version_changes_with_any_file_and_with_nothing_else() -> None:
    page = read_web_page()
    read_web_page.cache_clear()
    again = read_web_page()
    assert page is not None
    assert again is not None
    assert again.version == page.version
    assert re.fullmatch("[0-9a-f]{16}", page.version)
    assert b"VERSION" not in page.page


def test_a_strange_host_does_not_get_into_the_policy() -> None:
    async def check() -> None:
        async with Server() as server, httpx2.AsyncClient(trust_env=False) as client:
            for host in ("evil.example; script-src *", "a b", "x,y"):
                reply = await client.get(f"{server.url}/tea", headers={"host": host})
                assert policy(reply)["connect-src"] == "'self'"

    run(check())


def test_rooms_that_are_looked_at_are_in_no_log(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    logging.getLogger("uvicorn").propagate = True

    async def check() -> None:
        async with Server() as server:
            await server.get("/very-private-room")
            await server.get("/very-private-room/and/more")
            assert "very-private-room" not in server.metrics

    run(check())
    said = [record.getMessage() for record in caplog.records if not record.name.startswith(("httpx", "httpcore"))]
    assert not any("very-private-room" in one for one in said)
