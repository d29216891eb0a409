"""The other side's pictures in a call: decoded, made ready to be moved, and moved by networks of their speaker's own.

All of it runs on the receiving thread, but for two things that take long: pictures are decoded in a process of their
own, and the networks of a speaker adapter are made on a thread.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Final, Protocol

from kilocall.model.compact.family import CompactFamily
from kilocall.model.compact.speaker_adapter import SpeakerAdapter
from kilocall.model.family import DETAIL, Family, Picture, Source
from kilocall.proto.errors import BadInput, BadPacket
from kilocall.proto.limits import MOST_PICTURES
from kilocall.receiver.render import FaceRenderer
from kilocall.receiver.switch_time import SwitchTime
from kilocall.runtime.picture_process import PictureDecoder
from kilocall.runtime.worker import CLOSE_WITHIN_S, Deliver

__all__ = ["MOST_UNDECODED", "RemoteSpeaker", "SpeakerEvents"]

#: The other side's pictures that wait to be decoded: its source picture, twice over, and all that it may add.
MOST_UNDECODED: Final = 2 + MOST_PICTURES
#: Source pictures that are ready at a time.
MOST_READY: Final = 3


class SpeakerEvents(Protocol):
    """What is told on the event loop."""

    @property
    def ready(self) -> Callable[[str], None]: ...
    @property
    def refused(self) -> Callable[[str, str], None]: ...
    @property
    def reference(self) -> Callable[[str, str | None], None]: ...
    @property
    def adapter(self) -> Callable[[str, int, str | None], None]: ...


class RemoteSpeaker:
    """`ask` runs something on the receiving thread, `deliver` on the event loop. `open` comes before all else."""

    def __init__(
        self, events: Callable[[], SpeakerEvents], deliver: Deliver, ask: Callable[[Callable[[], None]], object]
    ) -> None:
        self.shown_hash: str | None = None
        """Of the source picture that is moved."""
        self._events, self._deliver, self._ask = events, deliver, ask
        self._renderers: dict[str, FaceRenderer] = {}
        self._references: dict[str, set[str]] = {}
        """Hashes of the further pictures that each renderer has."""
        self._next: tuple[str, SwitchTime] | None = None
        self._adapted: Family | None = None  # that renders the speaker shown; None: everybody's
        self._speaker = 0  # how often another one has come
        self._making: threading.Thread | None = None
        self._make_next: tuple[str, bytes] | None = None  # the newest speaker adapter, while one before is made ready
        self._pictures = PictureDecoder()
        self._decoding = ThreadPoolExecutor(1, "pictures")
        self._undecoded = 0

    @property
    def prepared(self) -> dict[str, int]:
        """Hashes of the source pictures that can be moved, and how many pictures of their speaker are held for each."""
        return {picture_hash: renderer.pictures for picture_hash, renderer in self._renderers.items()}

    @property
    def undecoded(self) -> int:
        """Pictures of the other side that wait to be decoded."""
        return self._undecoded

    @property
    def shown_on(self) -> tuple[int, ...]:
        """Frames that were shown on each picture of the speaker whose source picture is moved."""
        renderer = self._renderers.get(self.shown_hash or "")
        return () if renderer is None else renderer.shown

    def open(self, family: Family) -> None:
        self._family = family
        self._pictures.start()

    def close(self) -> None:
        self._pictures.close()
        self._decoding.shutdown(wait=False, cancel_futures=True)
        # A process that ends while a thread compiles networks is aborted.
        if self._making is not None:
            self._making.join(CLOSE_WITHIN_S)

    def renderer(self, time_us: int) -> FaceRenderer | None:
        """For a frame of this capture time on the sender's clock; None while no picture can be moved."""
        if self._next is not None and self._next[1].reached(time_us) and self._next[0] in self._renderers:
            self._show(self._next[0])
        return self._renderers.get(self.shown_hash or "")

    def restart(self) -> None:
        """A new connection: pictures stay, and what was to be shown next is told anew."""
        self._next = None

    def use(self, picture_hash: str, since: SwitchTime) -> None:
        """Moves this picture from the frame of that time on."""
        self._next = (picture_hash, since)

    def forget(self) -> None:
        """Another speaker: nothing is shown until the next picture is ready."""
        self._speaker += 1
        self._make_next = None
        if self._adapted is not None:
            self._adapted = None
            self._renderers.clear()
        self.shown_hash = self._next = None

    def _show(self, picture_hash: str) -> None:
        self.shown_hash = picture_hash
        self._renderers = {picture_hash: self._renderers[picture_hash]}
        self._next = None

    def prepare(self, picture_hash: str, data: bytes) -> None:
        if picture_hash in self._renderers:
            self._prepared(picture_hash, None)
        else:
            self._decode(
                data,
                lambda picture: self._prepared(picture_hash, picture),
                lambda why: self._events().refused(picture_hash, why),
            )

    def _prepared(self, picture_hash: str, picture: Picture | None) -> None:
        """`picture` is needed where there is no renderer yet."""
        if picture is not None and picture_hash not in self._renderers:
            try:
                source = self._family.source(picture)
                self._renderers[picture_hash] = FaceRenderer(self._adapted or self._family, source)
                self._references[picture_hash] = set()
            except ValueError as error:  # NoFace, BadInput
                text = str(error)
                self._deliver(lambda: self._events().refused(picture_hash, text))
                return
            while len(self._renderers) > MOST_READY:
                oldest = next(name for name in self._renderers if name not in (self.shown_hash, picture_hash))
                del self._renderers[oldest]
        if self.shown_hash is None:
            self._show(picture_hash)
        self._deliver(lambda: self._events().ready(picture_hash))

    def refer(self, base_hash: str, picture_hash: str, data: bytes) -> None:
        if picture_hash in self._references.get(base_hash, ()):
            self._deliver(lambda: self._events().reference(picture_hash, None))
        else:
            self._decode(
                data,
                lambda picture: self._referred(base_hash, picture_hash, picture),
                lambda why: self._events().reference(picture_hash, why),
            )

    def _referred(self, base_hash: str, picture_hash: str, picture: Picture) -> None:
        why: str | None = None
        renderer, known = self._renderers.get(base_hash), self._references.setdefault(base_hash, set())
        if renderer is None:
            why = "its source picture is not held"
        elif picture_hash not in known:
            try:
                renderer.add_picture(picture)
                known.add(picture_hash)
            except ValueError as error:  # NoFace, BadInput
                why = str(error)
        self._references = {name: held for name, held in self._references.items() if name in self._renderers}
        self._deliver(lambda: self._events().reference(picture_hash, why))

    def _decode(self, data: bytes, then: Callable[[Picture], None], refuse: Callable[[str], None]) -> None:
        """`then` on this thread once the picture is decoded, in the order they came; pictures are made meanwhile.

        Nothing follows where the speaker is another by then: what was to be shown is forgotten.
        """
        if self._undecoded >= MOST_UNDECODED:
            self._deliver(lambda: refuse(f"{MOST_UNDECODED} pictures wait to be decoded already"))
            return
        self._undecoded += 1
        speaker = self._speaker

        def take(picture: Picture | None) -> None:
            self._undecoded -= 1
            if picture is not None and speaker == self._speaker:
                then(picture)

        def work() -> None:
            picture: Picture | None = None
            try:
                picture = self._picture_of(data)
            except ValueError as error:  # BadInput, BadPacket
                text = str(error)
                self._deliver(lambda: refuse(text))
            self._ask(lambda: take(picture))

        self._decoding.submit(work)

    def _picture_of(self, data: bytes) -> Picture:
        """A picture from the other side [S, S, 3] or [2S, 2S, 3]; BadInput or BadPacket for what is none."""
        picture = self._pictures.decode(data)
        sides = (self._family.size, DETAIL * self._family.size)
        if picture.shape[0] != picture.shape[1] or picture.shape[0] not in sides:
            raise BadPacket(f"picture is {picture.shape[1]}x{picture.shape[0]}, wanted is a side of {sides}")
        return picture

    def adapt(self, file_hash: str, data: bytes) -> None:
        """Reading and compiling take a second, in which pictures must go on: another thread does it, one file after
        the other. Of those that come meanwhile the newest is made ready next, the others never."""
        if self._making is not None:
            self._make_next = (file_hash, data)
            return
        sources = [renderer.source for renderer in self._renderers.values()]
        arguments = (file_hash, data, sources[:1], self._speaker)
        self._making = threading.Thread(target=self._make_adapted, args=arguments, name="personal", daemon=True)
        self._making.start()

    def _make_adapted(self, file_hash: str, data: bytes, sources: list[Source], speaker: int) -> None:
        # Networks that this thread runs are the personal ones alone: each has working memory of its own.
        family: Family | None = None
        try:
            if not isinstance(self._family, CompactFamily):
                raise BadInput(f"family {self._family.name} takes no personal files")
            family = self._family.adapted(SpeakerAdapter.parse(data))
            for source in sources:
                family.renderer(source).render(source.pose)
        # Whatever an engine raises over another's numbers, whoever offered them must be told and the next be made.
        except Exception as error:
            family, text = None, str(error)
            self._deliver(lambda: self._events().adapter(file_hash, len(data), text))
        self._ask(lambda: self._made_adapted(file_hash, len(data), family, speaker))

    def _made_adapted(self, file_hash: str, size: int, family: Family | None, speaker: int) -> None:
        if family is not None:
            self._use_adapted(file_hash, size, family, speaker)
        if self._making is not None:
            self._making.join()  # it asked for this as its last act
        self._making = None
        if self._make_next is not None:
            following, self._make_next = self._make_next, None
            self.adapt(*following)

    def _use_adapted(self, file_hash: str, size: int, family: Family, speaker: int) -> None:
        if speaker != self._speaker:
            return
        self._adapted = family
        self._renderers = {name: renderer.made_by(family) for name, renderer in self._renderers.items()}
        self._deliver(lambda: self._events().adapter(file_hash, size, None))
