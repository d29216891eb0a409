"""Speaker adapters between two parties: what makes the other side's renderer this side's own.

    offer: hash and size  ->
                          <-  WantPersonal 0, unless it is in the cache
    piece at 0            ->
                          <-  WantPersonal 16000 ...
                          <-  WantPersonal size: it is in use

A megabyte takes minutes beside a call; it is no hurry, and the next call finds it in the cache. Like a Session this
does no input or output of its own but the cache's.
"""

from __future__ import annotations

import hashlib
import logging
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Final, SupportsBytes

from kilocall.control.exchange import Arriving
from kilocall.proto.control import MAX_PERSONAL_BYTES, MAX_PIECE_BYTES, PersonalPiece, WantPersonal
from kilocall.proto.errors import BadInput
from kilocall.runtime.files import keep_newest

__all__ = ["AdapterExchange"]

logger = logging.getLogger(__name__)

FOLDER: Final = "people"
KEPT: Final = 8
#: Of different files that are looked at on one connection; a person has one face.
MOST_OFFERS: Final = 4
#: So many times in a minute, whatever the connections, is a file asked for or taken from the cache.
MOST_TAKEN: Final = 4
TAKEN_IN_US: Final = 60_000_000
#: Files that could not be used, and are not looked at again.
MOST_REFUSED: Final = 64


class AdapterExchange:
    """Both directions, over one connection after the other.

    `got` is called with each file of the other side's that is whole, and answered by `used` or `refused`; `forget` when
    the other side offers another one.
    """

    def __init__(
        self,
        *,
        say: Callable[[SupportsBytes], None],
        drop: Callable[[str], None],
        got: Callable[[str, bytes], None],
        clock_us: Callable[[], int],
        folder: Path | None = None,
    ) -> None:
        self._say, self._drop, self._got, self._clock_us = say, drop, got, clock_us
        self._folder = None if folder is None else folder / FOLDER
        self._own: bytes | None = None
        self._own_hash = ""
        self.confirmed = False
        """Whether the other side renders with this side's file."""
        self.theirs: str | None = None
        """Hash of the other side's file that is in use here."""
        self.from_cache = 0
        self._coming: Arriving | None = None
        self._offers: set[str] = set()
        self._taken_us: deque[int] = deque(maxlen=MOST_TAKEN)
        self._preparing: str | None = None  # given to `got`, and not answered
        self._refused: deque[str] = deque(maxlen=MOST_REFUSED)

    def opened(self) -> None:
        """Another connection."""
        self.confirmed = False
        self._coming = None
        self._offers.clear()
        if self._own is not None:
            self._say(PersonalPiece(self._own_hash, len(self._own), 0, b""))

    def offer(self, data: bytes) -> None:
        """This side's file, offered now and with every connection. BadInput where it is too large."""
        if not 1 <= len(data) <= MAX_PERSONAL_BYTES:
            raise BadInput(f"personal file is {len(data)} bytes, allowed are 1 to {MAX_PERSONAL_BYTES}")
        self._own, self._own_hash = data, hashlib.sha256(data).hexdigest()
        self._say(PersonalPiece(self._own_hash, len(data), 0, b""))

    def send(self, want: WantPersonal) -> None:
        """Answers for a piece of this side's file."""
        if self._own is None or want.file_hash != self._own_hash or want.offset > len(self._own):
            self._drop("WantPersonal for what was not offered")
        elif want.offset == len(self._own):
            self.confirmed = True
            logger.info("the other side uses this side's personal file %s", want.file_hash[:12])
        else:
            piece = self._own[want.offset : want.offset + MAX_PIECE_BYTES]
            self._say(PersonalPiece(self._own_hash, len(self._own), want.offset, piece))

    def take(self, piece: PersonalPiece) -> None:
        """An offer, or the piece that was asked for."""
        if not piece.data:
            self._take_offer(piece)
            return
        coming = self._coming
        known = coming is not None and (coming.blob_hash, coming.size) == (piece.file_hash, piece.size)
        if coming is None or not known or not coming.take(piece.offset, piece.data):
            self._drop("a piece of a personal file that was not asked for")
            return
        if coming.offset < coming.size:
            self._say(WantPersonal(piece.file_hash, coming.offset))
            return
        self._coming = None
        data = coming.whole()
        if data is None:
            self._drop("personal file without the hash that it was offered by")
            return
        self._preparing = piece.file_hash
        self._keep(piece.file_hash, data)
        self._got(piece.file_hash, data)

    def used(self, file_hash: str, size: int) -> None:
        """The other side's pictures are made with this file from now on."""
        self.theirs, self._preparing = file_hash, None
        logger.info("the other side's pictures are made with its personal file %s, %d bytes", file_hash[:12], size)
        self._say(WantPersonal(file_hash, size))

    def refused(self, file_hash: str, reason: str) -> None:
        """This file cannot be used; the pictures stay as they are, and nobody waits for it."""
        logger.warning("the other side's personal file %s is not used: %s", file_hash[:12], reason)
        self._refused.append(file_hash)
        if self._preparing == file_hash:
            self._preparing = None
        if self._folder is not None:
            with suppress(OSError):
                (self._folder / file_hash).unlink(missing_ok=True)

    def forget(self) -> None:
        """Another speaker: none is in use."""
        self.theirs = self._preparing = None

    def _take_offer(self, offer: PersonalPiece) -> None:
        if offer.file_hash not in self._offers and len(self._offers) >= MOST_OFFERS:
            self._drop("too many personal files are offered")
            return
        self._offers.add(offer.file_hash)
        if offer.file_hash == self.theirs:
            self._say(WantPersonal(offer.file_hash, offer.size))
            return
        coming = self._coming.blob_hash if self._coming is not None else None
        if offer.file_hash in (self._preparing, coming):
            return  # an answer will follow
        if offer.file_hash in self._refused:
            self._drop("a personal file is offered again that could not be used")
            return
        if not self._in_time():
            self._drop(f"more than {MOST_TAKEN} personal files in {TAKEN_IN_US // 1_000_000} s are offered")
            return
        kept = self._kept(offer.file_hash)
        if kept is not None:
            self.from_cache += 1
            self._preparing = offer.file_hash
            self._got(offer.file_hash, kept)
            return
        self._coming = Arriving(offer.file_hash, offer.size)
        self._say(WantPersonal(offer.file_hash, 0))

    def _in_time(self) -> bool:
        """Whether another file may be looked at; it counts."""
        now_us, taken = self._clock_us(), self._taken_us
        if len(taken) == MOST_TAKEN and now_us - taken[0] < TAKEN_IN_US:
            return False
        taken.append(now_us)
        return True

    def _kept(self, file_hash: str) -> bytes | None:
        """From the cache; a file that is damaged is as good as none."""
        if self._folder is None:
            return None
        try:
            with (self._folder / file_hash).open("rb") as file:
                data = file.read(MAX_PERSONAL_BYTES + 1)
        except OSError:
            return None
        return data if hashlib.sha256(data).hexdigest() == file_hash else None

    def _keep(self, file_hash: str, data: bytes) -> None:
        if self._folder is None:
            return
        try:
            keep_newest(self._folder, file_hash, data, KEPT)
        except OSError as error:  # a full disk costs the next call some time, not this one
            logger.warning("the other side's personal file cannot be kept in %s: %s", self._folder, error)
