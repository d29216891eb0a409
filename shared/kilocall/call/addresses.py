"""What each address takes of a signalling server: open connections, joins a second, rooms a minute."""

from __future__ import annotations

import ipaddress
import time
from collections.abc import Callable
from ipaddress import IPv6Address

from kilocall.call.signalling_settings import SignallingSettings

__all__ = ["Address", "Addresses", "Bucket", "network_of"]

MOST_NAME = 64
"""Characters of an address that is none: a proxy may forward anything."""


class Bucket:
    """So many a second, so many at once."""

    def __init__(self, rate: float, burst: float, now: float) -> None:
        self._rate, self._burst = rate, burst
        self._tokens, self._then = float(burst), now

    def take(self, now: float) -> bool:
        """Whether one more is allowed."""
        self._fill(now)
        if self._tokens < 1:
            return False
        self._tokens -= 1
        return True

    def full(self, now: float) -> bool:
        """Whether it remembers nothing."""
        self._fill(now)
        return self._tokens >= self._burst

    def _fill(self, now: float) -> None:
        self._tokens = min(self._burst, self._tokens + (now - self._then) * self._rate)
        self._then = now


def network_of(host: str) -> str:
    """The address that is counted: of IPv6 the /64, because whoever has one address there has all of them."""
    try:
        address = ipaddress.ip_address(host.partition("%")[0])
    except ValueError:
        return host[:MOST_NAME]
    if not isinstance(address, IPv6Address):
        return str(address)
    if address.ipv4_mapped is not None:
        return str(address.ipv4_mapped)
    return str(ipaddress.ip_network((int(address) >> 64 << 64, 64)))


class Address:
    """What one address has."""

    def __init__(self, settings: SignallingSettings, now: float) -> None:
        self.sockets = 0
        """Open TCP connections."""
        self.connections = 0
        """Open WebSockets; behind a proxy there are these alone."""
        self.joins = Bucket(settings.joins_per_second, settings.join_burst, now)
        self.rooms = Bucket(settings.rooms_per_minute / 60, max(1.0, settings.rooms_per_minute), now)

    def idle(self, now: float) -> bool:
        """Whether it can be forgotten."""
        return not self.sockets and not self.connections and self.joins.full(now) and self.rooms.full(now)


class Addresses:
    """All that have something. `clock` is monotonic seconds."""

    def __init__(self, settings: SignallingSettings, clock: Callable[[], float] = time.monotonic) -> None:
        self._settings, self._clock = settings, clock
        self._known: dict[str, Address] = {}
        self._proxies = [ipaddress.ip_network(proxy) for proxy in settings.proxies]
        self.sockets = 0
        """Open TCP connections of all."""

    def __len__(self) -> int:
        return len(self._known)

    def of(self, host: str) -> Address:
        name = network_of(host)
        address = self._known.get(name)
        if address is None:
            address = self._known[name] = Address(self._settings, self._clock())
        return address

    def enter(self, host: str) -> bool:
        """Counts a TCP connection; False for one too many, which is not counted."""
        if self.sockets >= 2 * self._settings.most_connections:
            return False
        # All who come through a proxy have its address; they are told apart by the header, one by one.
        address = self.of(host)
        if address.sockets >= 2 * self._settings.connections_per_address and not self._is_proxy(host):
            return False
        address.sockets += 1
        self.sockets += 1
        return True

    def leave(self, host: str) -> None:
        """A counted TCP connection has ended."""
        self.of(host).sockets -= 1
        self.sockets -= 1

    def forget(self) -> None:
        """Drops those that have nothing any more. Once a second or so."""
        now = self._clock()
        for name in [name for name, address in self._known.items() if address.idle(now)]:
            del self._known[name]

    def _is_proxy(self, host: str) -> bool:
        try:
            address = ipaddress.ip_address(host)
        except ValueError:
            return False
        return any(address in proxy for proxy in self._proxies)
