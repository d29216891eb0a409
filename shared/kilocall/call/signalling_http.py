"""uvicorn as a signalling server needs it: what a connection may cost is bounded before the application hears of it."""

from __future__ import annotations

import asyncio
import ipaddress
import logging
from typing import Any

import h11
import uvicorn
from fastapi import FastAPI
from uvicorn.protocols.http.h11_impl import H11Protocol
from uvicorn.protocols.websockets.websockets_sansio_impl import WebSocketsSansIOProtocol

from kilocall.call.addresses import Addresses, Bucket
from kilocall.call.signalling import MAX_MESSAGE_BYTES
from kilocall.call.signalling_settings import SignallingSettings
from kilocall.proto.errors import BadInput

__all__ = ["SignallingConfig", "check_proxies", "raise_open_files"]

logger = logging.getLogger(__name__)

#: Parsed at a time: 64 KiB hold 10,000 pings, which took 0.1 s before the first of them was counted.
SLICE_BYTES = 2048
POLICY = 1008
NOT_UTF8 = 1007
SPARE_FILES = 64
"""Left for what is no connection: the program's own files."""


class SignallingConfig(uvicorn.Config):
    """Of the server that runs `create_app`."""

    def __init__(self, app: FastAPI, **more: Any) -> None:
        point = app.state.signalling_server
        self.addresses: Addresses = point.addresses
        self.settings: SignallingSettings = point.settings
        super().__init__(
            app,
            http=_Http,
            ws=_WebSocket,
            ws_max_size=MAX_MESSAGE_BYTES,
            # Messages are short and few; two zlib states would be most of what a connection keeps in memory.
            ws_per_message_deflate=False,
            # By default uvicorn believes everybody on 127.0.0.1, and so whatever comes through a tunnel.
            proxy_headers=bool(self.settings.proxies),
            forwarded_allow_ips=list(self.settings.proxies),
            log_config=None,
            # Its warnings are about single requests: whoever sends nonsense would fill the log.
            log_level=logging.ERROR,
            access_log=False,
            server_header=False,
            timeout_graceful_shutdown=1,
            **more,
        )


class _Http(H11Protocol):
    """A connection before it becomes a WebSocket: counted, and cut off when nobody asks, or reads the answer."""

    config: SignallingConfig
    _host = ""
    _counted = False
    _deadline: asyncio.TimerHandle | None = None
    _answer_deadline: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self._host = self.client[0] if self.client else ""
        self._counted = self.config.addresses.enter(self._host)
        if self._counted:
            self._watch()
        else:
            transport.abort()

    def data_received(self, data: bytes) -> None:
        super().data_received(data)
        self._watch()
        # Files of the page are long, and who asks for one need not read it.
        answers = self.conn.their_state is h11.DONE and not self._upgraded
        if answers and self._answer_deadline is None:
            within_s = self.config.settings.answer_within_s
            self._answer_deadline = self.loop.call_later(within_s, self.transport.abort)

    def on_response_complete(self) -> None:
        self._stop_waiting()
        super().on_response_complete()
        self._watch()

    def handle_websocket_upgrade(self, event: h11.Request) -> None:
        super().handle_websocket_upgrade(event)
        # From here on the WebSocket's protocol gets what happens. The party may be gone and its address unknown there.
        protocol = self.transport.get_protocol()
        if isinstance(protocol, _WebSocket):
            self._counted = False
            protocol.counted_host = self._host
        self._stop_watching()
        self._stop_waiting()

    def connection_lost(self, exc: Exception | None) -> None:
        self._stop_watching()
        self._stop_waiting()
        if self._counted:
            self._counted = False
            self.config.addresses.leave(self._host)
        super().connection_lost(exc)

    def _watch(self) -> None:
        """One deadline for a whole request, however slowly its parts come."""
        # Between two requests uvicorn's own keep-alive timer runs; the first byte ends that.
        if self.conn.their_state not in (h11.IDLE, h11.SEND_BODY) or self._upgraded or self.transport.is_closing():
            self._stop_watching()
        elif self._deadline is None:
            self._deadline = self.loop.call_later(self.config.settings.request_within_s, self.transport.abort)

    @property
    def _upgraded(self) -> bool:
        return self.transport.get_protocol() is not self

    def _stop_waiting(self) -> None:
        if self._answer_deadline is not None:
            self._answer_deadline.cancel()
            self._answer_deadline = None

    def _stop_watching(self) -> None:
        if self._deadline is not None:
            self._deadline.cancel()
            self._deadline = None


class _WebSocket(WebSocketsSansIOProtocol):
    """A WebSocket whose frames are counted, pings and parts of messages too."""

    config: SignallingConfig
    counted_host: str | None = None

    def __init__(self, config: uvicorn.Config, *args: Any, **more: Any) -> None:
        super().__init__(config, *args, **more)
        settings = self.config.settings
        self._frames = Bucket(settings.frame_rate, settings.frame_burst, self.loop.time())

    def connection_lost(self, exc: Exception | None) -> None:
        if self.counted_host is not None:
            self.config.addresses.leave(self.counted_host)
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        for start in range(0, len(data), SLICE_BYTES):
            if self.transport.is_closing():
                return
            super().data_received(data[start : start + SLICE_BYTES])
        # The request comes whole; one that it does not take for one is followed by nothing, and uvicorn would wait.
        if not self.handshake_initiated:
            self.transport.abort()

    def handle_events(self) -> None:
        now = self.loop.time()
        events = self.conn.events_received()
        allowed = []
        for event in events:
            if self.handshake_initiated and not self._frames.take(now):
                self._fail(POLICY, f"more than {self.config.settings.frame_rate:g} frames a second")
                return
            allowed.append(event)
        self.conn.events.extend(allowed)
        super().handle_events()

    def send_receive_event_to_app(self) -> None:
        if self.curr_msg_data_type == "text":
            try:
                b"".join(self.frames).decode()
            except UnicodeDecodeError:
                self._fail(NOT_UTF8, "not UTF-8")  # uvicorn logs a traceback for it
                return
        super().send_receive_event_to_app()

    def _fail(self, code: int, reason: str) -> None:
        """Ends the connection with a reason; the application sees a party that has gone."""
        self.frames = []
        self.handshake_complete = True  # or uvicorn complains of an application that has not answered
        self.stop_keepalive()
        if not self.close_sent:
            self.conn.fail(code, reason)
            self.close_sent = True
            self.queue.put_nowait({"type": "websocket.disconnect", "code": code, "reason": reason})
            self.transport.write(b"".join(self.conn.data_to_send()))
        self.transport.close()


def check_proxies(proxies: tuple[str, ...]) -> None:
    """Raises BadInput for one that is neither an address nor a network."""
    for proxy in proxies:
        try:
            ipaddress.ip_network(proxy)
        except ValueError as error:
            raise BadInput(f"proxy is {proxy!r:.80}: {error}; allowed is an address or a network") from None


def raise_open_files() -> int | None:
    """Lets this process open as many files as it may, and returns how many connections that leaves room for.

    None where there is no such limit.
    """
    try:
        import resource
    except ModuleNotFoundError:  # Windows
        return None
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
    return None if most == resource.RLIM_INFINITY else max(1, most - SPARE_FILES)
