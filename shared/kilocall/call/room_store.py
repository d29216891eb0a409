"""Where rooms are kept: in this process, or in Redis for several signalling servers that share them."""

from __future__ import annotations

import time
from collections.abc import Callable, Collection
from dataclasses import dataclass
from typing import Protocol

from kilocall.call.rooms import Letter, Room

__all__ = ["Change", "Changed", "Deliver", "MemoryStore", "RoomStore", "StoreLost", "post"]

Deliver = Callable[[str, str | None], None]
"""Takes the name of a connection of this process and what it is to be sent; None closes it."""


class StoreLost(Exception):  # noqa: N818  # a state of the network, not a mistake
    """The rooms cannot be reached just now."""


@dataclass(frozen=True)
class Changed:
    room: Room | None
    """As it is from now on; None: there is none."""
    letters: list[Letter]


Change = Callable[[Room | None, float], Changed]
"""From the room as it is and the store's time in seconds. May be called again with a newer one, and may raise."""


class RoomStore(Protocol):
    """Rooms by name. `deliver` is set by whoever holds the connections."""

    deliver: Deliver
    instance: str
    """What the names of this process's connections begin with, up to a full stop."""
    sweep_s: float

    async def open(self) -> None: ...
    async def close(self) -> None: ...

    @property
    def well(self) -> bool:
        """Whether it can be reached."""

    async def change(self, name: str, change: Change) -> Changed:
        """Changes one room and delivers the letters; nobody sees a state in between. Raises StoreLost."""

    def swept_here(self, held: Collection[str]) -> Collection[str]:
        """Names of the rooms that this process looks after, of which it holds a connection in those of `held`."""


def post(letter: Letter) -> str | None:
    """A letter as it goes to a party."""
    return None if letter.message is None else letter.message.model_dump_json(exclude_none=True)


class MemoryStore:
    """In this process: a signalling server that is started anew knows nothing. `clock` is monotonic seconds."""

    def __init__(self, sweep_s: float = 1.0, clock: Callable[[], float] = time.monotonic) -> None:
        self.rooms: dict[str, Room] = {}
        self.deliver: Deliver = lambda to, text: None
        self.instance = "here"
        self.sweep_s = sweep_s
        self.well = True
        self._clock = clock

    async def open(self) -> None:
        """Nothing to open."""

    async def close(self) -> None:
        self.rooms.clear()

    async def change(self, name: str, change: Change) -> Changed:
        changed = change(self.rooms.get(name), self._clock())
        if changed.room is None:
            self.rooms.pop(name, None)
        else:
            self.rooms[name] = changed.room
        for letter in changed.letters:
            self.deliver(letter.to, post(letter))
        return changed

    def swept_here(self, held: Collection[str]) -> Collection[str]:
        return list(self.rooms)
