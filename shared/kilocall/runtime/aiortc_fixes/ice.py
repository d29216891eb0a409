"""ICE: checks that are patient on an open connection and quick on a new one, and every datagram counted."""

from __future__ import annotations

from collections.abc import Callable, Coroutine
from typing import Any

from aioice import ice, stun

from kilocall.runtime.aiortc_fixes.correction import Correction, Undo, replace

__all__ = ["CORRECTIONS", "Datagram", "on_datagrams", "watch"]

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

    async def gather_andwatch(component: int, own: list[str]) -> list[Any]:
        found = await gather(component, addresses(own))
        for protocol in connection._protocols:
            watch(protocol, sent, received)
        return found

    def get_component_candidates(*, component: int, addresses: list[str]) -> Coroutine[Any, Any, list[Any]]:
        return gather_andwatch(component, addresses)

    connection.get_component_candidates = get_component_candidates  # type: ignore[assignment,method-assign]


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


CORRECTIONS = (
    Correction("patient consent checks", "aioice", _patient_consent),
    Correction("quick connectivity checks", "aioice", _quick_checks),
)
