"""Two peers on this machine's loopback, or one and another program, and ways to spoil what runs between them."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable, Coroutine, Iterable
from dataclasses import dataclass
from typing import Any

import pytest
from aioice import ice
from aiortc import RTCConfiguration, RTCDataChannel, RTCPeerConnection, RTCSessionDescription

from kilocall.runtime.peer import CONTROL_ID, MOTION_ID, Peer
from kilocall.runtime.peer_settings import PeerSettings


def run(coroutine: Coroutine[Any, Any, None], *, within_s: float = 20) -> None:
    """Runs a test's coroutine; TimeoutError when it hangs."""

    async def limited() -> None:
        async with asyncio.timeout(within_s):
            await coroutine

    asyncio.run(limited())


@contextlib.asynccontextmanager
async def two_peers(
    settings: PeerSettings | None = None, **more: Callable[..., object] | None
) -> AsyncIterator[tuple[Peer, Peer]]:
    """A pair whose channels are open; the first made the offer, and takes `more`."""
    settings = settings or PeerSettings(loopback="only")
    first, second = Peer(settings, **more), Peer(settings)  # type: ignore[arg-type]
    try:
        await connect(first, second)
        yield first, second
    finally:
        await first.close()
        await second.close()


@dataclass
class Stranger:
    """Another program at the other end: it has the two channels and sends on them what it likes."""

    connection: RTCPeerConnection
    motion: RTCDataChannel
    control: RTCDataChannel


@contextlib.asynccontextmanager
async def peer_and_stranger(settings: PeerSettings) -> AsyncIterator[tuple[Peer, Stranger]]:
    """A peer without audio whose channels are open; the stranger made the offer."""
    peer, connection = Peer(settings), RTCPeerConnection(RTCConfiguration(iceServers=[]))
    stranger = Stranger(
        connection,
        connection.createDataChannel("motion", negotiated=True, id=MOTION_ID, ordered=False, maxRetransmits=0),
        connection.createDataChannel("control", negotiated=True, id=CONTROL_ID),
    )
    try:
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(ice, "get_host_addresses", lambda use_ipv4, use_ipv6: ["127.0.0.1"])
            await connection.setLocalDescription(await connection.createOffer())
        answer = await peer.answer(connection.localDescription.sdp)
        await connection.setRemoteDescription(RTCSessionDescription(answer, "answer"))
        assert await peer.wait_open(), peer.closed_because
        while not stranger.motion.readyState == stranger.control.readyState == "open":  # noqa: ASYNC110
            await asyncio.sleep(0.005)
        yield peer, stranger
    finally:
        await connection.close()
        await peer.close()


async def connect(first: Peer, second: Peer) -> None:
    await first.accept(await second.answer(await first.offer()))
    assert await first.wait_open(), first.closed_because
    assert await second.wait_open(), second.closed_because


def lose(peer: Peer, is_lost: Callable[[bytes], bool]) -> None:
    """Loses the datagrams of `peer` that `is_lost` says; its `traffic` does not count them."""
    for protocol in peer.endpoints:
        _filter(protocol, is_lost)


def lose_all(peer: Peer) -> None:
    lose(peer, lambda data: True)


def delay(peer: Peer, seconds: float) -> None:
    """Holds up every datagram of `peer`."""
    loop = asyncio.get_running_loop()
    for protocol in peer.endpoints:
        transport: Any = protocol.transport
        sendto = transport.sendto

        def later(data: bytes, addr: Any, sendto: Any = sendto, transport: Any = transport) -> None:
            loop.call_later(seconds, lambda: None if transport.is_closing() else sendto(data, addr))

        protocol.transport = _Delayed(transport, later)  # type: ignore[assignment]


class _Delayed:
    """A datagram transport whose sendto is another."""

    def __init__(self, transport: Any, sendto: Callable[..., None]) -> None:
        self._transport, self.sendto = transport, sendto

    def __getattr__(self, name: str) -> Any:
        return getattr(self._transport, name)


def lose_pattern(peer: Peer, pattern: Iterable[bool]) -> None:
    """Loses the DTLS datagrams that are True in `pattern`; all arrive after its end."""
    lost = iter(pattern)
    lose(peer, lambda data: 20 <= data[0] < 64 and next(lost, False))


def _filter(protocol: Any, is_lost: Callable[[bytes], bool]) -> None:
    send_data, send_stun = protocol.send_data, protocol.send_stun

    async def new_send_data(data: bytes, addr: tuple[str, int]) -> None:
        if not is_lost(data):
            await send_data(data, addr)

    def new_send_stun(message: Any, addr: tuple[str, int]) -> None:
        if not is_lost(bytes(message)):
            send_stun(message, addr)

    protocol.send_data, protocol.send_stun = new_send_data, new_send_stun
