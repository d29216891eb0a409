"""A signalling server that cannot be reached is said to be, with what to look at, and nobody waits for nothing."""

from __future__ import annotations

import asyncio
import contextlib
import http.server
import socket
import socketserver
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from call.test_in_between import program
from kilocall.bench.call import empty_room
from kilocall.call.link import RoomAddress
from kilocall.call.signalling import Signalling, knock
from meeting import SECRET, Server


@contextlib.contextmanager
def another_web_server() -> Iterator[int]:
    class Handler(http.server.SimpleHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = False  # waited for, so that all sockets are closed
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield server.server_address[1]
    server.shutdown()
    server.server_close()


class Talker(socketserver.StreamRequestHandler):
    def handle(self) -> None:
        self.wfile.write(b"SSH-2.0-OpenSSH_9.2\r\n")


@contextlib.contextmanager
def another_server() -> Iterator[int]:
    with socketserver.TCPServer(("127.0.0.1", 0), Talker) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield server.server_address[1]
        server.shutdown()
        thread.join()


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as listening:
        return int(listening.getsockname()[1])


def why(server: str) -> str:
    """What whoever tries to join is told, both before and while it tries again."""

    async def ask() -> tuple[str, str]:
        asked = await knock(server, "tea", SECRET)
        async with Signalling(server, "tea", SECRET) as link:
            async with asyncio.timeout(15):
                while not link.trouble:  # noqa: ASYNC110  # nothing tells the test
                    await asyncio.sleep(0.02)
            return asked, link.trouble

    asked, tried = asyncio.run(ask())
    assert asked == tried
    assert tried.startswith("the meeting point cannot be reached: ")
    return tried


def test_nobody_listens() -> None:
    port = free_port()
    assert f"nothing listens at 127.0.0.1:{port}; is kilocall serve running there" in why(f"http://127.0.0.1:{port}")


def test_there_is_no_such_computer() -> None:
    assert "there is no computer of the name meeting.invalid:8700" in why("http://meeting.invalid:8700")


def test_another_web_server_is_there() -> None:
    with another_web_server() as port:
        assert "answers with 404: it is another web server" in why(f"http://127.0.0.1:{port}")


def test_something_else_is_there() -> None:
    with another_server() as port:
        assert "does not speak as a meeting point does" in why(f"http://127.0.0.1:{port}")


def test_https_is_asked_of_a_signalling_server_that_speaks_http() -> None:
    with another_web_server() as port:
        assert f"does not speak https, or has no valid certificate; try http://127.0.0.1:{port}" in why(
            f"https://127.0.0.1:{port}"
        )


def test_trouble_ends_with_joining() -> None:
    async def check() -> None:
        port = free_port()
        async with Signalling(f"http://127.0.0.1:{port}", "tea", SECRET, first_wait_s=0.05) as link:
            async with asyncio.timeout(10):
                while not link.trouble:  # noqa: ASYNC110
                    await asyncio.sleep(0.02)
            async with Server(port=port), asyncio.timeout(10):
                await link.next()
                assert link.connected
                assert not link.trouble
                await link.close()

    asyncio.run(check())


@pytest.mark.slow
def test_a_program_without_a_page_says_it_at_once_and_ends_with_2(tmp_path: Path) -> None:
    port = free_port()
    link = RoomAddress(f"http://127.0.0.1:{port}", "tea", SECRET).link
    began = time.monotonic()
    process = program(link, tmp_path, "--camera", str(empty_room(tmp_path)), "--headless", "--seconds", "120")
    try:
        said = " ".join(process.communicate(timeout=100)[0].split())
    finally:
        process.kill()
    assert process.returncode == 2, said
    assert time.monotonic() - began < 90
    assert "the meeting point cannot be reached: nothing listens at" in said
    assert "the other side joins with" not in said
