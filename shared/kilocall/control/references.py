"""Further pictures of the speaker between two parties, in the background of a call.

    ReferenceOffer, once the source picture is confirmed  ->
                                                          <-  WantPicture, unless it is in the cache
    ReferencePiece, ReferencePiece ...                    ->      one every few seconds
                                                          <-  HavePicture, once frames can be shown on it

Motion never waits for these and never refers to them. A piece of 800 bytes every 4 s takes 2.1 kbit/s on the wire with
its acknowledgement, beside 27.5 of motion and speech; while the link is narrow, none is sent. Like a Session this does
no input or output of its own but the cache's.
"""

from __future__ import annotations

import logging
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Final, SupportsBytes

from kilocall.control.exchange import Arriving, Cache
from kilocall.proto.control import (
    MAX_REFERENCE_BYTES,
    HavePicture,
    ReferenceOffer,
    ReferencePiece,
    SourcePicture,
    WantPicture,
)
from kilocall.proto.errors import BadInput
from kilocall.proto.limits import MOST_PICTURES

__all__ = ["PIECE_BYTES", "PIECE_EVERY_US", "ReferenceExchange"]

logger = logging.getLogger(__name__)

PIECE_BYTES: Final = 800
PIECE_EVERY_US: Final = 4_000_000
MOST: Final = MOST_PICTURES - 1
#: Offers looked at on one connection: some people change their source picture now and then.
MOST_OFFERS: Final = 10 * MOST


@dataclass
class _Coming:
    """A picture of the other side's that is on its way."""

    base_hash: str
    format: str
    pieces: Arriving


class ReferenceExchange:
    """Both directions, over one connection after the other.

    `got` is called with base, hash and data of each picture of the other side's that is whole, and answered by `ready`
    or `refused`; `confirmed` with the hash of each of this side's that the other side holds.
    """

    def __init__(
        self,
        *,
        say: Callable[[SupportsBytes], None],
        drop: Callable[[str], None],
        got: Callable[[str, str, bytes], None],
        confirmed: Callable[[str], None] = lambda picture_hash: None,
        cache_folder: Path | None = None,
    ) -> None:
        self._say, self._drop, self._got, self._told = say, drop, got, confirmed
        self._cache = Cache("references", SourcePicture, cache_folder, in_memory=MOST, on_disk=128)
        self._base = ""
        self._base_confirmed = False
        self._own: OrderedDict[str, SourcePicture] = OrderedDict()
        self._sending: OrderedDict[str, int] = OrderedDict()  # bytes sent of what was asked for
        self._sent_us: int | None = None
        self._coming: OrderedDict[str, _Coming] = OrderedDict()
        self._offers = 0
        self.confirmed: set[str] = set()
        """This side's that the other side holds."""
        self._arrived: OrderedDict[str, tuple[str, SourcePicture]] = OrderedDict()  # with its source picture's hash
        self._held: dict[str, tuple[str, SourcePicture]] = {}
        self._shown: str | None = None
        self.sent_bytes = 0
        """Of pieces, all connections together."""
        self.from_cache = 0

    @property
    def held(self) -> dict[str, SourcePicture]:
        """The other side's on which frames can be shown here, by hash: those of the source picture that is shown."""
        return {name: picture for name, (base, picture) in self._held.items() if base == self._shown}

    @property
    def coming(self) -> int:
        """How many of the other side's were asked for and are not here yet."""
        return len(self._coming)

    @property
    def own_bytes(self) -> int:
        """Of this side's pictures, sent or not."""
        return sum(len(picture.data) for picture in self._own.values())

    def opened(self) -> None:
        """Another connection: this side's are offered again once the source picture is confirmed."""
        self.confirmed.clear()
        self._base_confirmed = False
        self._sending.clear()
        self._coming.clear()
        self._offers = 0

    # This side's

    def follow(self, base_hash: str) -> None:
        """Another source picture of this side's; pictures of the one before mean nothing beside it."""
        if base_hash == self._base:
            return
        self._base, self._base_confirmed = base_hash, False
        self._own.clear()
        self._sending.clear()
        self.confirmed.clear()

    def base_confirmed(self, base_hash: str) -> None:
        """The other side can move this source picture of this side's."""
        if base_hash == self._base and not self._base_confirmed:
            self._base_confirmed = True
            for picture in self._own.values():
                self._offer(picture)

    def offer(self, base_hash: str, picture: SourcePicture) -> bool:
        """A further picture, offered now and with every connection; False when the source picture is another by now.

        Raises BadInput for one too many or too large.
        """
        if not 1 <= len(picture.data) <= MAX_REFERENCE_BYTES:
            raise BadInput(f"a further picture is {len(picture.data)} bytes, allowed are 1 to {MAX_REFERENCE_BYTES}")
        if base_hash != self._base:
            return False
        if len(self._own) >= MOST and picture.picture_hash not in self._own:
            raise BadInput(f"{1 + len(self._own)} pictures of the speaker are offered, most are {MOST_PICTURES}")
        self._own[picture.picture_hash] = picture
        if self._base_confirmed:
            self._offer(picture)
        return True

    def send(self, picture_hash: str) -> bool:
        """Answers WantPicture, some seconds from now on; False when that was not offered here."""
        if picture_hash not in self._own:
            return False
        self._sending[picture_hash] = 0
        return True

    def confirm(self, picture_hash: str) -> bool:
        """Takes HavePicture; False when that was not offered here."""
        if picture_hash not in self._own:
            return False
        self._sending.pop(picture_hash, None)
        if picture_hash not in self.confirmed:
            self.confirmed.add(picture_hash)
            self._told(picture_hash)
        return True

    def tick(self, now_us: int) -> None:
        """Sends a piece if one is due. Called about once a second, while there is room on the link."""
        if not self._sending or (self._sent_us is not None and now_us - self._sent_us < PIECE_EVERY_US):
            return
        picture_hash, offset = next(iter(self._sending.items()))
        data = self._own[picture_hash].data
        piece = data[offset : offset + PIECE_BYTES]
        self._say(ReferencePiece(picture_hash, offset, piece))
        self._sent_us = now_us
        self.sent_bytes += len(piece)
        self._sending[picture_hash] = offset + len(piece)
        if offset + len(piece) >= len(data):
            del self._sending[picture_hash]

    def _offer(self, picture: SourcePicture) -> None:
        self._say(ReferenceOffer(self._base, picture.picture_hash, picture.format, len(picture.data)))

    # The other side's

    def take_offer(self, offer: ReferenceOffer) -> None:
        """Asks for the picture unless it is here."""
        self._offers += 1
        if self._offers > MOST_OFFERS:
            self._drop("too many further pictures are offered")
            return
        kept = self._cache.get(offer.picture_hash)
        if kept is not None:
            self.from_cache += 1
            self._arrive(offer.base_hash, kept)
            return
        self._coming[offer.picture_hash] = _Coming(
            offer.base_hash, offer.format, Arriving(offer.picture_hash, offer.size)
        )
        while len(self._coming) > MOST:
            self._coming.popitem(last=False)
        self._say(WantPicture(offer.picture_hash))

    def take_piece(self, piece: ReferencePiece) -> None:
        """Puts the picture together; one whose hash is not the one offered is dropped."""
        coming = self._coming.get(piece.picture_hash)
        if coming is None or not coming.pieces.take(piece.offset, piece.data):
            self._drop("a piece of a further picture that was not asked for")
            return
        if coming.pieces.offset < coming.pieces.size:
            return
        del self._coming[piece.picture_hash]
        data = coming.pieces.whole()
        if data is None:
            self._drop("a further picture without the hash that it was offered by")
            return
        picture = SourcePicture(coming.format, data, piece.picture_hash)
        self._cache.put(picture)
        self._arrive(coming.base_hash, picture)

    def _arrive(self, base_hash: str, picture: SourcePicture) -> None:
        self._arrived[picture.picture_hash] = (base_hash, picture)
        while len(self._arrived) > MOST:
            self._arrived.popitem(last=False)
        self._got(base_hash, picture.picture_hash, picture.data)

    def ready(self, picture_hash: str) -> None:
        """Frames can be shown on it from now on."""
        if picture_hash in self._arrived:
            self._held[picture_hash] = self._arrived.pop(picture_hash)
        self._say(HavePicture(picture_hash))

    def refused(self, picture_hash: str, reason: str) -> None:
        """It cannot be used; nobody waits for it."""
        self._arrived.pop(picture_hash, None)
        logger.warning("a further picture of the other side is not used: %s", reason)

    def show(self, base_hash: str | None) -> None:
        """The other side's source picture that is shown from now on; the further ones of others are forgotten."""
        self._shown = base_hash
        self._held = {name: (base, picture) for name, (base, picture) in self._held.items() if base == base_hash}
