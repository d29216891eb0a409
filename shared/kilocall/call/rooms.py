"""A room of the signalling server and how it changes: who comes, is paired, is lost and leaves.

Nothing here waits or sends. A change returns letters, each for one connection of a party; the store that keeps the room
delivers them. So the same rules hold wherever rooms are kept.
"""

from __future__ import annotations

import hashlib
import hmac
import secrets
from dataclasses import dataclass, field

from pydantic import BaseModel

from kilocall.call.signalling import (
    SIGNALLING_VERSION,
    Commit,
    Join,
    Joined,
    Knock,
    Left,
    Paired,
    Refused,
    Relay,
    Signal,
)
from kilocall.call.signalling_settings import SignallingSettings

__all__ = ["Letter", "Member", "RefusedError", "Room", "other_version", "refuse"]


class RefusedError(Exception):
    """What a party is told before its connection is closed."""

    def __init__(self, refusal: Refused) -> None:
        super().__init__(refusal.reason)
        self.refusal = refusal


def refuse(code: str, reason: str) -> RefusedError:
    return RefusedError(Refused.model_validate({"code": code, "reason": reason}))


@dataclass(frozen=True)
class Letter:
    """A message for one connection; None closes it."""

    to: str
    message: BaseModel | None


@dataclass
class Member:
    token: str
    """What it comes back with; empty for a place that is kept for whoever has the connection `live`."""
    order: int
    connection: str
    """Name of its WebSocket, one after the other."""
    live: int | None = None
    """Session whose connection it had and wanted to keep when it joined."""
    lost_at: float | None = None
    """When its connection broke, or its place was set aside; None while it is connected."""


@dataclass
class Room:
    name: str
    token_hash: str
    """SHA-256 of what both show, as hexadecimal digits."""
    changed_at: float
    """When anyone last came, went or was paired; `now` everywhere is the store's clock in seconds."""
    members: list[Member] = field(default_factory=list)
    session: int = field(default_factory=lambda: secrets.randbelow(1 << 31))
    """Counts up from a random number: a signalling server that was started anew must not give an old number again."""
    paired: list[str] = field(default_factory=list)
    """Tokens of the two of the present session, in order."""
    joinings: int = 0

    @classmethod
    def make(cls, join: Join, now: float) -> Room:
        """An empty one, for whoever has this joiner's token."""
        return cls(join.room, _hash(join.token), now)

    @property
    def connected(self) -> list[Member]:
        return [member for member in self.members if member.lost_at is None]

    def member(self, connection: str) -> Member | None:
        return next((member for member in self.members if member.connection == connection), None)

    def knock(self, knock: Knock, settings: SignallingSettings, now: float) -> None:
        """Raises RefusedError for what a join would be refused for, except by who may still come back."""
        self._check_token(knock.token)
        if len(self.connected) == 2:
            raise self._full(settings, now)

    def join(
        self, join: Join, connection: str, relays: tuple[Relay, ...] | None, settings: SignallingSettings, now: float
    ) -> list[Letter]:
        """Takes a place. Raises RefusedError and changes nothing when there is none."""
        self._check_token(join.token)
        # Again by the same connection, when a store does not know whether it has taken the first.
        self.members = [member for member in self.members if member.connection != connection]
        letters = self.give_up(settings, now)
        old = self._place(join)
        if old is None and len(self.members) == 2:
            raise self._full(settings, now)
        self.joinings += 1
        token = old.token if old is not None else ""
        order = old.order if old is not None and old.token else self.joinings
        member = Member(token or join.member or secrets.token_urlsafe(16), order, connection, join.live)
        if old is not None:
            self.members.remove(old)
            letters.append(Letter(old.connection, Refused(code="replaced", reason="joined again from elsewhere")))
            letters.append(Letter(old.connection, None))
        self.members.append(member)
        if self.joinings == 1 and join.live is not None:
            # The signalling server was started anew. Whoever is on the other end of that connection comes back as well.
            self.members.append(Member("", 0, "", join.live, lost_at=now))
        self.changed_at = now
        others = len(self.connected) - 1
        letters.append(Letter(connection, Joined(member=member.token, others=others, ice=relays)))
        if others and self.paired != sorted(one.token for one in self.connected):
            letters += self._pair_unless_alive(now)
        return letters

    def pass_on(self, connection: str, message: Commit | Signal) -> list[Letter]:
        """To the other one, in the present session."""
        if message.session != self.session or self.member(connection) is None:
            return []
        return [Letter(member.connection, message) for member in self.members if member.connection != connection]

    def renew(self, session: int, now: float) -> list[Letter]:
        """Begins another session than this one."""
        # Both sides notice; the second one's wish has been fulfilled already.
        return self._pair(now) if session == self.session and len(self.connected) == 2 else []

    def leave(self, connection: str, now: float) -> list[Letter]:
        """Frees a place, unless another connection has taken it."""
        member = self.member(connection)
        return self._remove(member, now) if member is not None else []

    def lose(self, connection: str, now: float) -> None:
        """Keeps a place for a while, unless another connection has taken it."""
        member = self.member(connection)
        if member is not None:
            member.lost_at = self.changed_at = now

    def give_up(self, settings: SignallingSettings, now: float) -> list[Letter]:
        """Frees the places of those who did not come back."""
        late = [m for m in self.members if m.lost_at is not None and now - m.lost_at > settings.come_back_within_s]
        return [letter for member in late for letter in self._remove(member, now)]

    def expire(self, settings: SignallingSettings, now: float) -> list[Letter] | None:
        """Letters to those in it when the room is not used any more; None while it is."""
        idle_s = now - self.changed_at
        if not self.members and idle_s > settings.empty_room_s:
            return []
        if len(self.members) == 2 or idle_s <= settings.waiting_room_s:
            return None
        reason = Refused(code="expired", reason="nobody came to the room for an hour")
        return [Letter(member.connection, said) for member in self.members for said in (reason, None)]

    def _check_token(self, token: str) -> None:
        if not hmac.compare_digest(self.token_hash, _hash(token)):
            raise refuse("token", f"room {self.name} exists and has another secret; ask for its link")

    def _place(self, join: Join) -> Member | None:
        """The place that this joiner had, or that is kept for it."""
        # The one who comes back takes the old place, even if the old connection still looks alive.
        for member in self.members:
            if member.token and member.token == join.member:
                return member
        return next((member for member in self.members if not member.token and member.live == join.live), None)

    def _full(self, settings: SignallingSettings, now: float) -> RefusedError:
        away = [member.lost_at for member in self.members if member.lost_at is not None]
        kept = ""
        if away:
            left_s = max(0.0, min(away) + settings.come_back_within_s - now)
            kept = f"; one has lost its connection and keeps its place for {left_s:.0f} s more"
        return refuse("full", f"room {self.name} has two parties already{kept}")

    def _pair_unless_alive(self, now: float) -> list[Letter]:
        """Begins a session, unless both say that they are connected already and by which session."""
        first, second = self.connected
        if first.live is None or first.live != second.live:
            return self._pair(now)
        self.session = first.live
        self.paired = sorted((first.token, second.token))
        return []

    def _pair(self, now: float) -> list[Letter]:
        self.session += 1
        self.changed_at = now
        self.paired = sorted(member.token for member in self.connected)
        first = min(self.connected, key=lambda member: member.order)
        for member in self.connected:
            member.live = None
        return [
            Letter(member.connection, Paired(session=self.session, offer=member is first)) for member in self.connected
        ]

    def _remove(self, member: Member, now: float) -> list[Letter]:
        self.members.remove(member)
        self.changed_at = now
        return [Letter(other.connection, Left()) for other in self.members]


def other_version(version: int) -> RefusedError:
    older = "the caller" if version < SIGNALLING_VERSION else "the meeting point"
    said = f"caller speaks version {version}, meeting point {SIGNALLING_VERSION}: please update {older}"
    return refuse("version", said)


def _hash(token: str) -> str:
    return hashlib.sha256(token.encode()).hexdigest()
