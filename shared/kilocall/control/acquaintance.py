"""Whether the other side is who the person here takes it for: words to compare, and what is kept of having compared.

The words differ with every connection, so that nobody can choose them. When they have been compared once, both sides
keep a secret that only the ends of that very connection can know, and recognise each other by it the next time on the
same link: whoever merely has the link does not get by with it.

    opened      -> Reveal
    Reveal      words are known; -> Recognise for each secret kept
    Recognise   one of the secrets kept here: the other side was there when the words were compared
    the button  kept as compared by the person here; -> Compared, for the other side to keep
"""

from __future__ import annotations

import hmac
import logging
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Final, SupportsBytes

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from kilocall.proto.control import Compared, Recognise, Reveal
from kilocall.proto.errors import BadInput
from kilocall.proto.trust import Handshake
from kilocall.runtime.files import keep_newest

__all__ = ["Acquaintance"]

logger = logging.getLogger(__name__)

MOST_LINKS: Final = 500
FOLDER: Final = "links"

Key = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]


class _Kept(BaseModel):
    """What a file holds: secrets of the connections whose words were last said to be the same, by whom."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)

    here: Key | None = None
    there: Key | None = None
    """By the person on the other side alone."""


class Acquaintance:
    """Of one link, through all its connections. `name` is the link's, `folder` outlives the call."""

    def __init__(
        self,
        name: str,
        *,
        say: Callable[[SupportsBytes], None],
        drop: Callable[[str], None],
        changed: Callable[[], None],
        folder: Path | None,
    ) -> None:
        self.verified = False
        """Whether the person here has compared words with whoever is on the other end of this connection, or was."""
        self._name, self._say, self._drop, self._changed = name, say, drop, changed
        self._folder = folder / FOLDER if folder is not None else None
        self._kept = self._read()
        self._handshake: Handshake | None = None

    @property
    def words(self) -> tuple[str, ...]:
        """Of this connection; none while there is none."""
        return self._handshake.words if self._handshake is not None else ()

    @property
    def expected(self) -> bool:
        """Whether the words were compared on this link once: another other side is worth a warning."""
        return self._kept.here is not None

    def opened(self, handshake: Handshake) -> None:
        """Another connection."""
        self._handshake = handshake
        self.verified = False
        self._say(Reveal(handshake.nonce))

    def closed(self) -> None:
        """There are no words until the next one."""
        self._handshake = None

    def compared(self, words: tuple[str, ...]) -> None:
        """The person here has seen that these are the same. Raises BadInput if they are not those of now."""
        if not self.words or words != self.words:
            raise BadInput("the words have changed with the connection: please compare them again")
        self.verified = True
        self._keep(self._kept.model_copy(update={"here": self._key()}))
        self._say(Compared())
        self._changed()

    def take(self, message: Reveal | Recognise | Compared) -> None:
        """Raises NotProven for a nonce that is not the one committed to."""
        handshake = self._handshake
        if handshake is None or (not self.words and not isinstance(message, Reveal)):
            self._drop(f"{type(message).__name__} before Reveal")
            return
        match message:
            case Reveal(nonce):
                if self.words:
                    self._drop("second Reveal")
                    return
                handshake.reveal(nonce)
                for secret in self._secrets():
                    self._say(Recognise(handshake.recognition(secret, mine=True)))
            case Recognise(proof):
                here = self._kept.here
                if here is not None and _proves(handshake, here, proof):
                    self.verified = True
            case Compared():
                self._keep(self._kept.model_copy(update={"there": self._key()}))
        self._changed()

    def _key(self) -> str:
        assert self._handshake is not None  # there are words
        return self._handshake.acquaintance.hex()

    def _secrets(self) -> list[bytes]:
        return [bytes.fromhex(key) for key in {self._kept.here, self._kept.there} if key is not None]

    def _read(self) -> _Kept:
        if self._folder is None:
            return _Kept()
        try:
            return _Kept.model_validate_json((self._folder / self._name).read_bytes())
        except FileNotFoundError:
            return _Kept()
        except (OSError, ValidationError) as error:
            # Not what pydantic says: that may show what is in the file.
            why = error.strerror if isinstance(error, OSError) else "the file is broken"
            logger.warning("what was kept of this link cannot be read, its words are to be compared again: %s", why)
            return _Kept()

    def _keep(self, kept: _Kept) -> None:
        if kept == self._kept:
            return
        self._kept = kept
        if self._folder is None:
            return
        try:
            self._folder.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
            keep_newest(self._folder, self._name, kept.model_dump_json().encode(), MOST_LINKS)
        except OSError as error:
            logger.warning("that the words were compared cannot be kept: %s", error)


def _proves(handshake: Handshake, key: str, proof: bytes) -> bool:
    return hmac.compare_digest(handshake.recognition(bytes.fromhex(key), mine=False), proof)
