"""ICE: checks that are patient on an open connection and quick on a new one, and every datagram counted."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Final, Literal

from aioice import Candidate, ice, stun

from kilocall.runtime.aiortc_fixes.correction import Correction, Undo, replace

__all__ = ["CORRECTIONS", "Datagram", "TurnServer", "on_datagrams", "use_relays", "watch"]

logger = logging.getLogger(__name__)

Datagram = Callable[[bytes, tuple[Any, ...]], None]

CONSENT_REPEATS = 2


def _patient_consent() -> Undo:
    """Waits 3.5 s, with two repetitions, for the answer to a consent check.

    aioice waits 0.5 s and asks once, and closes after six failures in a row. So every connection with a round
    trip above 0.5 s (a slow link with a full queue is enough) ended after 33 s, measured, and at 30 % loss one
    check in two failed. Nothing is sent more often while answers come in time. Drop when aioice repeats consent
    checks as RFC 7675 allows.
    """
    original = ice.StunProtocol.request

    async def request(
        self: ice.StunProtocol,
        request: Any,
        addr: tuple[str, int],
        integrity_key: bytes | None = None,
        retransmissions: int | None = None,
    ) -> Any:
        repeats = CONSENT_REPEATS if retransmissions == 0 else retransmissions
        return await original(self, request, addr, integrity_key=integrity_key, retransmissions=repeats)

    return replace(ice.StunProtocol, request=request)


CHECK_REPEATS_S = (0.15, 0.15, 0.2, 0.2, 0.3, 0.3, 0.5, 0.5, 1.0)
"""Waits before a connectivity check is sent again; the last one for all that follow."""
CHECKS = 20
"""So many in all: 13 s."""


def _quick_checks() -> Undo:
    """Repeats an unanswered connectivity check after 0.15 s, later ones after up to 1 s, for 13 s.

    aioice waits 0.5, 1, 2 s and so on. A check and its answer are one packet each, so that at 10 % loss one in five
    comes to nothing and at 30 % one in two, and a call that could begin after 0.1 s begins after 0.6 to 2. RFC 8445
    asks for 0.5 s where many checks run at once; two parties with a few addresses each have few. Drop when the
    timer can be set.
    """
    first, retry = stun.Transaction.__init__, stun.Transaction._Transaction__retry  # type: ignore[attr-defined]

    def init(
        self: stun.Transaction,
        request: stun.Message,
        addr: tuple[str, int],
        protocol: Any,
        retransmissions: int | None = None,
        **more: Any,
    ) -> None:
        self.__dict__["_kilocall_quick"] = retransmissions is None
        first(self, request, addr, protocol, CHECKS - 1 if retransmissions is None else retransmissions, **more)

    def new_retry(self: stun.Transaction) -> None:
        if self.__dict__.get("_kilocall_quick"):
            tries: int = self._Transaction__tries  # type: ignore[attr-defined]
            wait_s = CHECK_REPEATS_S[min(tries, len(CHECK_REPEATS_S) - 1)]
            self._Transaction__timeout_delay = wait_s  # type: ignore[attr-defined]
        retry(self)

    return replace(stun.Transaction, __init__=init, _Transaction__retry=new_retry)


def on_datagrams(
    connection: ice.Connection,
    *,
    sent: Datagram,
    received: Datagram,
    addresses: Callable[[list[str]], list[str]] = lambda own: own,
) -> None:
    """Calls `sent` and `received` with every datagram of `connection` and its address, STUN included.

    `addresses` may change the list of the machine's own addresses to offer, to which aioice never adds
    127.0.0.1. To be called before candidates are gathered; the queries of a STUN or TURN server while
    gathering are not seen.
    """
    gather = connection.get_component_candidates

    own_addresses = addresses

    async def gather_and_watch(component: int, addresses: list[str]) -> list[Any]:
        found = await gather(component, own_addresses(addresses))
        for protocol in connection._protocols:
            watch(protocol, sent, received)
        return found

    connection.get_component_candidates = gather_and_watch  # type: ignore[method-assign,assignment]


def watch(protocol: Any, sent: Datagram, received: Datagram) -> None:
    """The same for one of its protocols."""
    datagram_received, send_data, send_stun = protocol.datagram_received, protocol.send_data, protocol.send_stun

    def new_datagram_received(data: bytes, addr: tuple[Any, ...]) -> None:
        received(data, addr)
        datagram_received(data, addr)

    async def new_send_data(data: bytes, addr: tuple[str, int]) -> None:
        sent(data, addr)
        await send_data(data, addr)

    def new_send_stun(message: Any, addr: tuple[str, int]) -> None:
        sent(bytes(message), addr)
        send_stun(message, addr)

    protocol.datagram_received = new_datagram_received
    protocol.send_data = new_send_data
    protocol.send_stun = new_send_stun


#: Longest wait for relays, and for the others once there is one: where a network swallows UDP, a relay over TLS is
#: there at once and one over UDP never.
RELAYS_WITHIN_S: Final = 5.0
OTHER_RELAYS_WITHIN_S: Final = 0.7


@dataclass(frozen=True)
class TurnServer:
    host: str
    port: int
    transport: Literal["udp", "tcp"]
    tls: bool
    username: str | None
    password: str | None


def use_relays(connection: ice.Connection, servers: Sequence[TurnServer], *, hide_address: bool) -> None:
    """Adds a candidate of every TURN server that answers, those named first preferred.

    aiortc takes one server alone, so that a second one over TLS could not help where UDP does not pass.
    To be called before candidates are gathered.
    """
    gather = connection.get_component_candidates

    async def with_relays(component: int, addresses: list[str]) -> list[Any]:
        plain, relayed = await asyncio.gather(
            gather(component, addresses), _relayed(connection, component, servers, hide_address)
        )
        for candidate, protocol in relayed:
            plain.append(candidate)
            connection._protocols.append(protocol)
        return plain

    connection.get_component_candidates = with_relays  # type: ignore[method-assign,assignment]


async def _relayed(
    connection: ice.Connection, component: int, servers: Sequence[TurnServer], hide_address: bool
) -> list[tuple[Candidate, ice.StunProtocol]]:
    """Candidates with their protocols, of the servers that answered soon enough, in the servers' order."""
    tasks = [
        asyncio.create_task(
            ice.relayed_candidate(
                component=component,
                hide_related_address=hide_address,
                protocol_factory=lambda: ice.StunProtocol(connection),
                turn_server=(server.host, server.port),
                turn_username=server.username,
                turn_password=server.password,
                turn_ssl=server.tls,
                turn_transport=server.transport,
            )
        )
        for server in servers
    ]
    pending, until = set(tasks), asyncio.get_running_loop().time() + RELAYS_WITHIN_S
    try:
        while pending and (left_s := until - asyncio.get_running_loop().time()) > 0:
            done, pending = await asyncio.wait(pending, timeout=left_s, return_when=asyncio.FIRST_COMPLETED)
            if any(task.exception() is None for task in done):
                until = min(until, asyncio.get_running_loop().time() + OTHER_RELAYS_WITHIN_S)
    finally:
        for task in pending:
            task.cancel()
    found = []
    for place, (task, server) in enumerate(zip(tasks, servers, strict=True)):
        if task in pending or task.exception() is not None:
            why = "no answer" if task in pending else task.exception()
            logger.warning("TURN server %s:%d (%s): %s", server.host, server.port, server.transport, why)
            continue
        candidate, protocol = task.result()
        candidate.priority -= place << 8  # the local preference, RFC 8445, 5.1.2.1
        found.append((candidate, protocol))
    return found


CORRECTIONS = (
    Correction("patient consent checks", "aioice", _patient_consent),
    Correction("quick connectivity checks", "aioice", _quick_checks),
)
