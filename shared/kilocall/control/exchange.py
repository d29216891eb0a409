"""What one side holds as bytes and the other may hold already, brought over on the reliable channel by its hash.

    offer (the hash alone)  ->
                            <-  WantPicture, unless it is in memory or in the cache
    the message with data   ->      a Peer sends it in parts, at a bounded rate, with motion in between
                            <-  HavePicture, once it can be used

An Exchange does this for one Kind, in both directions; a Session has one for each kind. Another kind needs a message
class in `proto/control.py` that fits `Blob`, a Kind, and a Session that hands such messages to its Exchange.
"""

from __future__ import annotations

import hashlib
import logging
from collections import OrderedDict, deque
from collections.abc import Callable, Collection
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Generic, Protocol, SupportsBytes, TypeVar

from kilocall.proto.control import (
    MAX_PICTURE_BYTES,
    HavePicture,
    SourcePicture,
    WantPicture,
    parse_control,
)
from kilocall.proto.errors import BadInput, BadPacket
from kilocall.runtime.files import keep_newest

__all__ = ["PICTURES", "Arriving", "Blob", "Cache", "Exchange", "Kind"]

logger = logging.getLogger(__name__)

PAST: Final = 16


class Blob(Protocol):
    """A control message that carries bytes, or, with none, offers them."""

    @property
    def data(self) -> bytes: ...
    @property
    def picture_hash(self) -> str:
        """SHA-256 of the data, which the message checks."""

    def offer(self) -> SupportsBytes:
        """The same without its data."""

    def __bytes__(self) -> bytes: ...


B = TypeVar("B", bound=Blob)


@dataclass(frozen=True)
class Kind(Generic[B]):
    """What is exchanged, and its bounds. `message` bounds what is parsed, and a Peer what it puts together."""

    name: str
    """Of the cache's folder."""
    message: type[B]
    most_bytes: int
    """Of data; a larger one is not offered, and dropped when it comes."""
    offers: int
    """So many are open at a time in each direction; another takes the place of the oldest."""
    every_us: int
    """In this time no more than `offers` new ones are looked at."""
    kept: int
    """Of the other side's, in memory, for as long as the call lasts; what is in use comes on top."""


#: A new picture for the other side to keep and prepare; more often than twice a second is no wish of a person.
PICTURES: Final = Kind("pictures", SourcePicture, MAX_PICTURE_BYTES, offers=1, every_us=500_000, kept=3)


class Arriving:
    """Bytes of a known hash and size on their way, put together from pieces that come in order."""

    def __init__(self, blob_hash: str, size: int) -> None:
        self.blob_hash, self.size = blob_hash, size
        self._data = bytearray()

    @property
    def offset(self) -> int:
        """Where the next piece begins; `size` when all are here."""
        return len(self._data)

    def take(self, offset: int, piece: bytes) -> bool:
        """Adds the next piece; False for one that does not begin where the last ended, or goes past the end."""
        if offset != self.offset or offset + len(piece) > self.size:
            return False
        self._data += piece
        return True

    def whole(self) -> bytes | None:
        """All of it once it is here; None where the hash is another than the one that was told."""
        data = bytes(self._data)
        return data if hashlib.sha256(data).hexdigest() == self.blob_hash else None


class Cache(Generic[B]):
    """The other sides' blobs by hash: some in memory, more in a folder of their own in `folder` if that is given."""

    def __init__(
        self, name: str, message: type[B], folder: Path | None = None, *, in_memory: int = 8, on_disk: int = 64
    ) -> None:
        self._message, self._most, self._most_files = message, in_memory, on_disk
        self._folder = folder / name if folder is not None else None
        self._memory: OrderedDict[str, B] = OrderedDict()

    def get(self, blob_hash: str) -> B | None:
        found = self._memory.get(blob_hash)
        if found is None and self._folder is not None:
            # A file that is damaged, or not ours, is as good as none.
            with suppress(OSError, BadPacket):
                read = parse_control((self._folder / blob_hash).read_bytes())
                if isinstance(read, self._message) and read.data and read.picture_hash == blob_hash:
                    found = read
        if found is not None:
            self._remember(found)
        return found

    def put(self, blob: B) -> None:
        self._remember(blob)
        if self._folder is None:
            return
        try:
            keep_newest(self._folder, blob.picture_hash, bytes(blob), self._most_files)
        except OSError as error:  # a full disk costs the next call some bytes, not this one
            logger.warning("what the other side sent cannot be kept in %s: %s", self._folder, error)

    def _remember(self, blob: B) -> None:
        self._memory[blob.picture_hash] = blob
        self._memory.move_to_end(blob.picture_hash)
        while len(self._memory) > self._most:
            self._memory.popitem(last=False)


class Exchange(Generic[B]):
    """Both directions of one kind, over one connection after the other.

    `say` sends a control message over what is open now, `drop` counts one that makes no sense. `got` is called with
    everything of the other side's that is here, and answered by `ready` or `refused`; `offered` with each hash and
    whether it is the connection's first, before that; `confirmed` with a hash of this side's that the other side can
    use from now on. `in_use` are hashes of the other side's that stay in memory.
    """

    def __init__(
        self,
        kind: Kind[B],
        *,
        say: Callable[[SupportsBytes], None],
        drop: Callable[[str], None],
        clock_us: Callable[[], int],
        got: Callable[[B], None],
        offered: Callable[[str, bool], None] = lambda blob_hash, first: None,
        confirmed: Callable[[str], None] = lambda blob_hash: None,
        in_use: Callable[[], Collection[str | None]] = lambda: (),
        cache_folder: Path | None = None,
    ) -> None:
        self.kind = kind
        self.sent = 0
        self.sent_bytes = 0
        self.from_cache = 0
        self.confirmed: set[str] = set()
        """This side's that the other side has confirmed on this connection."""
        self._say, self._drop, self._clock_us = say, drop, clock_us
        self._got, self._offered, self._confirmed, self._in_use = got, offered, confirmed, in_use
        self._cache = Cache(kind.name, kind.message, cache_folder)
        self._own: OrderedDict[str, B] = OrderedDict()
        self._theirs: dict[str, B] = {}
        self._wanted: OrderedDict[str, None] = OrderedDict()
        # What a newer one has taken the place of may still be asked for, or come: nobody's fault.
        self._past_own: deque[str] = deque(maxlen=PAST)
        self._past_wanted: deque[str] = deque(maxlen=PAST)
        self._offers_us: deque[int] = deque(maxlen=kind.offers)

    def opened(self) -> None:
        """Another connection: what this side has is offered again."""
        self.confirmed.clear()
        self._wanted.clear()
        self._offers_us.clear()
        for blob in self._own.values():
            self._say(blob.offer())

    # This side's

    def offer(self, blob: B) -> None:
        """Offers something now, and again with every connection. Raises BadInput when it is too large."""
        if len(blob.data) > self.kind.most_bytes:
            raise BadInput(f"{self.kind.name}: {len(blob.data)} bytes, most is {self.kind.most_bytes}")
        self._own.pop(blob.picture_hash, None)
        self._own[blob.picture_hash] = blob
        while len(self._own) > self.kind.offers:
            self._past_own.append(self._own.popitem(last=False)[0])
        self._say(blob.offer())

    def send(self, blob_hash: str) -> bool:
        """Answers WantPicture; False when that was never offered here."""
        blob = self._own.get(blob_hash)
        if blob is None:
            return blob_hash in self._past_own
        self.sent += 1
        self.sent_bytes += len(blob.data)
        self._say(blob)
        return True

    def confirm(self, blob_hash: str) -> bool:
        """Takes HavePicture; False when that was never offered here."""
        if blob_hash not in self._own:
            return blob_hash in self._past_own
        self.confirmed.add(blob_hash)
        self._confirmed(blob_hash)
        return True

    # The other side's

    def take(self, blob: B) -> None:
        """An offer, or what was asked for."""
        if blob.data:
            self._take_data(blob)
        elif self._in_time():
            self._take_offer(blob.picture_hash)
        else:
            self._drop("offers follow each other too fast")

    def get(self, blob_hash: str | None) -> B | None:
        """What is here of the other side's."""
        return self._theirs.get(blob_hash or "")

    def ready(self, blob_hash: str) -> None:
        """This side can use it: the other side learns that."""
        self._say(HavePicture(blob_hash))

    def refused(self, blob_hash: str) -> None:
        """This side cannot use it."""
        self._theirs.pop(blob_hash, None)

    def _in_time(self) -> bool:
        offers = self._offers_us
        return len(offers) < self.kind.offers or self._clock_us() - offers[0] >= self.kind.every_us

    def _take_offer(self, blob_hash: str) -> None:
        self._offered(blob_hash, not self._offers_us)
        self._offers_us.append(self._clock_us())
        held = self._theirs.get(blob_hash) or self._cache.get(blob_hash)
        if held is not None:
            self.from_cache += 1
            self._keep(held)
            return
        self._wanted[blob_hash] = None
        while len(self._wanted) > self.kind.offers:
            self._past_wanted.append(self._wanted.popitem(last=False)[0])
        self._say(WantPicture(blob_hash))

    def _take_data(self, blob: B) -> None:
        if blob.picture_hash not in self._wanted:
            if blob.picture_hash in self._past_wanted:
                return
            self._drop(f"{type(blob).__name__} that was not asked for")
            return
        del self._wanted[blob.picture_hash]
        if len(blob.data) > self.kind.most_bytes:
            self._drop(f"{type(blob).__name__} of {len(blob.data)} bytes, most is {self.kind.most_bytes}")
            return
        self._cache.put(blob)
        self._keep(blob)

    def _keep(self, blob: B) -> None:
        self._theirs[blob.picture_hash] = blob
        stay = {blob.picture_hash, *self._in_use()}
        for old in list(self._theirs):
            if len(self._theirs) > self.kind.kept and old not in stay:
                del self._theirs[old]
        self._got(blob)
