"""Looks for further pictures of the speaker while a call runs, on a thread of its own with networks of its own."""

from __future__ import annotations

import logging
import os
import sys
import threading
import time
from collections.abc import Callable, Generator
from typing import Final

from kilocall.model.engine_choice import choose_engine
from kilocall.model.family import Family, Picture, interrupt
from kilocall.model.family_loader import FamilyChoice
from kilocall.model.motion import Motion
from kilocall.model.reference_pictures import check_reference_budget
from kilocall.proto.control import SourcePicture
from kilocall.proto.errors import BadInput
from kilocall.runtime.worker import Deliver, Worker
from kilocall.sender.reference_search import Probe, Proposal, ReferenceSearch, bytes_each

__all__ = ["ReferenceSelector"]

logger = logging.getLogger(__name__)

#: A frame is made here as the receiver makes it this often: 1 % of a core.
LOOK_EVERY_S: Final = 0.5
NICENESS: Final = 10
#: How often the best candidate is sought, and how many are tried then: some tenths of a second of work each time, one
#: picture made at a time with pauses between, so that those of the call are not held up.
SEEK_EVERY_S: Final = 5.0
CANDIDATES: Final = 2
PAUSE_S: Final = 0.08
#: A pause is so many times as long as what was done before it: on a slow processor the call needs what there is.
PAUSES: Final = 9.0
#: A picture must not be chosen on the first seconds alone.
FEWEST_PROBES: Final = 16
MOST_PROBES: Final = 32


class ReferenceSelector(Worker):
    """Is shown frames that were sent, and finds pictures that pay off; one at a time, until the budget is spent.

    The motion is that before implicit keypoints are aligned and before coding.
    """

    def __init__(
        self,
        found: Callable[[str, Proposal], None],
        deliver: Deliver,
        *,
        pictures: int,
        kilobytes: float,
        engine: str = "auto",
        threads: int = 1,
        models: FamilyChoice | None = None,
        problem: Callable[[str], None] = lambda text: None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """`found` is called on the event loop with the source picture's hash and a picture to send; BadInput for a
        gallery that is not allowed."""
        super().__init__("selector", lambda text: deliver(lambda: problem(text)))
        check_reference_budget(pictures, kilobytes)
        self._found, self._deliver, self._clock = found, deliver, clock
        self._pictures, self._kilobytes = pictures, kilobytes
        self._engine, self._threads, self._models = engine, threads, models or FamilyChoice()
        self._base_hash = ""
        self._search: ReferenceSearch | None = None
        self._seeking: Generator[None, None, Proposal | None] | None = None
        self._on_its_way: dict[str, Proposal] = {}
        self._waiting: Probe | None = None
        self._looked = self._sought = 0.0
        self._pause_s = 0.0  # what was done last is followed by

    def follow(self, packed: SourcePicture | None, picture: Picture | None = None) -> None:
        """Another source picture, as the receiver has it; None: somebody else's, of which this side has no more."""
        self.ask(lambda: self._follow(packed, picture))

    def wants(self) -> bool:
        """Whether a frame should be shown now; may be asked on any thread."""
        free = self._search is not None and self._seeking is None and self._waiting is None
        return free and self._clock() - self._looked >= max(LOOK_EVERY_S, self._pause_s)

    def look(self, crop: Picture, motion: Motion, candidate: Picture) -> None:
        """A frame that was sent: the crop [S, S, 3] and the same as it would be sent as a picture."""
        self._looked = self._clock()
        own = crop.copy()
        self._waiting = Probe(own, motion, own if candidate is crop else candidate.copy())
        self.wake()

    def confirmed(self, picture_hash: str) -> None:
        """The receiver holds this picture."""
        self.ask(lambda: self._confirmed(picture_hash))

    def interrupt(self) -> None:
        interrupt(getattr(self, "_family", None))

    def opened(self) -> None:
        # What is seen and heard now goes first. Linux counts niceness by thread, others by program.
        if sys.platform == "linux":
            os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), NICENESS)
        self._family: Family = self._models.load(choose_engine(self._engine, self._threads))

    def step(self) -> float:
        began = time.perf_counter()
        rest_s = self._work()
        self._pause_s = PAUSES * (time.perf_counter() - began)
        return max(rest_s, self._pause_s)

    def _work(self) -> float:
        """Something of what is to be done; seconds until there may be more."""
        probe, self._waiting = self._waiting, None
        search = self._search
        if search is None:
            return LOOK_EVERY_S
        if self._seeking is not None:
            try:
                next(self._seeking)
            except StopIteration as end:
                self._seeking = None
                if end.value is not None:
                    self._propose(end.value)
            return PAUSE_S
        if probe is not None:
            search.add(probe)
        elif self._may_seek(search):
            self._sought = self._clock()
            self._seeking = search.seek(CANDIDATES)
            return PAUSE_S
        return LOOK_EVERY_S

    def _may_seek(self, search: ReferenceSearch) -> bool:
        # While one is on its way the next cannot be told: what the receiver will have counts.
        if self._on_its_way or search.pictures >= self._pictures:
            return False
        return len(search.probes) >= FEWEST_PROBES and self._clock() - self._sought >= SEEK_EVERY_S

    def _propose(self, proposal: Proposal) -> None:
        packed, base_hash = proposal.packed, self._base_hash
        self._on_its_way[packed.picture_hash] = proposal
        logger.info("a further picture of %d bytes brings %.2f dB", len(packed.data), proposal.gain_db)
        self._deliver(lambda: self._found(base_hash, proposal))

    def _confirmed(self, picture_hash: str) -> None:
        proposal = self._on_its_way.pop(picture_hash, None)
        if self._search is not None and proposal is not None:
            self._search.add_reference(proposal.reference)

    def _follow(self, packed: SourcePicture | None, picture: Picture | None) -> None:
        self._search, self._seeking, self._waiting = None, None, None
        self._on_its_way.clear()
        if packed is None or picture is None:
            return
        try:
            each = bytes_each(self._pictures, self._kilobytes, packed, len(picture))
        except BadInput as error:  # a source picture that fills the budget; the call goes on without
            logger.warning("no further pictures: %s", error)
            return
        base = self._family.source(picture)
        self._base_hash = packed.picture_hash
        self._search = ReferenceSearch(self._family, base, max_bytes=each, most_probes=MOST_PROBES)
