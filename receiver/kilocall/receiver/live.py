"""The receiving model thread: motion packets through the jitter buffer to pictures, each at its time."""

from __future__ import annotations

import logging
import time
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from typing import Final

from kilocall.model.engine_choice import choose_engine
from kilocall.model.family import Picture, interrupt
from kilocall.model.family_loader import FamilyChoice
from kilocall.model.hello import hello_of
from kilocall.model.motion import Motion
from kilocall.proto.control import Hello, ReceiverReport
from kilocall.proto.errors import BadPacket
from kilocall.proto.layer_frame import LayerFragment
from kilocall.proto.motion_message import MotionMessage
from kilocall.receiver.layer_receiver import DecodedLayer, LayerReceiver
from kilocall.receiver.live_renderer import LiveRenderer, Shown
from kilocall.receiver.motion_receiver import MotionReceiver, Played
from kilocall.receiver.remote_speaker import RemoteSpeaker
from kilocall.receiver.render import View
from kilocall.receiver.render_rate import RenderRate
from kilocall.receiver.rendered import KeptPictures, Rendered
from kilocall.receiver.switch_time import SwitchTime
from kilocall.runtime.clock import now_us
from kilocall.runtime.worker import Deliver, Milliseconds, WorkClock, Worker, work_clock

__all__ = ["Played", "ReceiveEvents", "ReceivePipeline", "Rendered"]

logger = logging.getLogger(__name__)

#: Two minutes of packets: while a slow renderer makes one picture none may be lost that later ones are predicted from.
MOST_ARRIVED: Final = 1024
REST_S: Final = 0.1
#: After so long without a due frame a changed view is shown on the last one.
STILL_US: Final = 80_000


@dataclass
class ReceiveEvents:
    """What the thread tells; every call is made on the event loop."""

    picture: Callable[[Rendered], None]
    ready: Callable[[str], None]
    """The picture with this hash can be moved."""
    refused: Callable[[str, str], None]
    """The picture with this hash cannot: why."""
    adapter: Callable[[str, int, str | None], None] = lambda file_hash, size, why: None
    """The speaker adapter with this hash and size is in use, or why it cannot be."""
    reference: Callable[[str, str | None], None] = lambda picture_hash, why: None
    """Frames can be shown on the further picture with this hash, or why not."""
    rgb: Callable[[Picture], None] | None = None
    """Called on the model thread with every picture, for a virtual camera."""
    played: Callable[[Played], None] | None = None
    """Called on the model thread, while something records."""
    layer: Callable[[DecodedLayer], None] | None = None
    """The same for frames of the video layer and of the camera, as they are decoded."""
    camera_ended: Callable[[int], None] = lambda time_us: None
    """The same: from the frame of this time on the speaker is shown, where the camera's frames that were told before
    would say otherwise."""
    layer_lost: Callable[[int | None], None] = lambda newest: None
    """The video layer cannot be shown until a key frame comes; number of the frame that was decoded last."""
    rate: Callable[[float], None] = lambda fps: None
    """So many pictures a second can be shown from now on; the other side should send no more."""
    problem: Callable[[str], None] = lambda text: None


class ReceivePipeline(Worker):
    """Owns what makes pictures of one other side: MotionReceiver, LayerReceiver, RemoteSpeaker and LiveRenderer."""

    def __init__(
        self,
        events: ReceiveEvents,
        deliver: Deliver,
        *,
        engine: str = "auto",
        threads: int = 1,
        models: FamilyChoice | None = None,
        keep: bool = False,
        clock_us: Callable[[], int] = now_us,
        clock: WorkClock = work_clock,
    ) -> None:
        super().__init__("receiver", lambda text: deliver(lambda: events.problem(text)))
        self.events = events
        self._deliver, self._clock_us = deliver, clock_us
        self._engine, self._threads = engine, threads
        self._models = models or FamilyChoice()
        self.watched = True
        """Whether anybody looks; otherwise nothing is rendered."""
        # Counted here, read anywhere.
        self.render_ms, self.decode_ms = Milliseconds(), Milliseconds()
        self.rendered = 0
        self.malformed = 0
        self.inbox_dropped = 0
        self.last_time_us = 0
        """Capture time of the frame played last, on the sender's clock."""
        self.kept = KeptPictures() if keep else None
        self.rate = RenderRate()
        self.speaker = RemoteSpeaker(lambda: self.events, deliver, self.ask)
        """The other side's pictures."""
        self.motion = MotionReceiver()
        self.layer = LayerReceiver()
        """Of the connection that is followed."""
        self.renderer = LiveRenderer(self.speaker)
        self._clock = clock
        self._inbox: deque[tuple[bytes, int, int]] = deque()  # packet, arrival, connection
        self._connection = 0  # that packets come from now; the loop's
        self._followed = 0  # that jitter buffer and decoder belong to; the thread's
        self._view_changed = False
        self._camera_us: int | None = None  # of the camera's frame that a recording was told of last
        self._last: Motion | None = None
        self._rendered_us = 0

    def hello(self, fps: float) -> Hello:
        """Once ready."""
        return hello_of(self._family, fps)

    # Asked from the event loop; everything below runs on the thread.

    def push(self, data: bytes, arrived_us: int) -> None:
        """A motion packet as it arrived."""
        self._inbox.append((data, arrived_us, self._connection))
        while len(self._inbox) > MOST_ARRIVED:
            self._inbox.popleft()
            self.inbox_dropped += 1
        self.wake()

    def restart(self) -> Future[None]:
        """A new connection; the picture and its renderer stay."""
        self._connection += 1
        connection = self._connection
        return self.ask(lambda: self._follow(connection))

    def prepare(self, picture_hash: str, data: bytes) -> None:
        """Makes a source picture ready to be moved; `ready` or `refused` follows."""
        self.ask(lambda: self.speaker.prepare(picture_hash, data))

    def use(self, picture_hash: str, from_us: int) -> None:
        """Moves this prepared picture from the frame captured at `from_us` (sender's clock) on."""
        self.ask(lambda: self.speaker.use(picture_hash, self._switch_time(from_us)))

    def adapt(self, file_hash: str, data: bytes) -> None:
        """Has the speaker's pictures made with a speaker adapter once its networks are ready; `adapter` follows."""
        self.ask(lambda: self.speaker.adapt(file_hash, data))

    def refer(self, base_hash: str, picture_hash: str, data: bytes) -> None:
        """Adds a further picture of the speaker of a prepared source picture; `reference` follows."""
        self.ask(lambda: self.speaker.refer(base_hash, picture_hash, data))

    def expect(self, fps: float) -> None:
        """The other side has a camera of `fps`; 25 unless told."""
        self.ask(lambda: self._expect(fps))

    def show_camera(self, shown: bool, from_us: int) -> None:
        """What the other side's camera sees is shown from the frame captured at `from_us` (sender's clock) on, or no
        more."""
        self.ask(lambda: self.renderer.switch_camera(shown, self._switch_time(from_us)))

    def forget(self) -> None:
        """Another speaker: nothing is shown until the next picture is ready."""
        self.ask(self._forget)

    def set_view(self, view: View) -> None:
        """Turns the head from the next picture on."""
        self.ask(lambda: self._set_view(view))

    def report(self, received_bytes: int) -> Future[ReceiverReport | None]:
        return self.ask(lambda: self.motion.jitter.report(self._clock_us(), received_bytes))

    def interrupt(self) -> None:
        interrupt(getattr(self, "_family", None))

    def opened(self) -> None:
        self._family = self._models.load(choose_engine(self._engine, self._threads))
        self.speaker.open(self._family)
        self.motion.open(self._family.codebook)
        self.renderer.open(self._family)

    def closed(self) -> None:
        self.speaker.close()

    def step(self) -> float:
        while self._inbox:
            self._take(*self._inbox.popleft())
        chosen: list[tuple[int, Motion | None]] = []
        for frame in self.motion.pop(self._clock_us()):
            self.rate.count(frame.time_us - self.last_time_us)
            if frame.motion is not None:
                self._last, self.last_time_us = frame.motion, frame.time_us
            if frame.played is not None and self.events.played is not None:
                self.events.played(frame.played)
            self._tell_camera_ended(frame.time_us)
            if self.rate.takes(frame.time_us):
                chosen.append((frame.time_us, self._last))
        if chosen:
            self._render(*chosen[-1], left_out=len(chosen) - 1)
        elif self._view_changed and self._last is not None and self._clock_us() - self._rendered_us > STILL_US:
            self._render(self.last_time_us, self._last)
        next_us = self.motion.jitter.next_due_us()
        return REST_S if next_us is None else min(REST_S, max(0.0, (next_us - self._clock_us()) / 1e6))

    def _take(self, data: bytes, arrived_us: int, connection: int) -> None:
        self._follow(connection)
        if connection < self._followed:
            return
        began = time.perf_counter()
        try:
            message = MotionMessage.parse(data)
        except BadPacket as error:
            self.malformed += 1
            logger.debug("dropped: %s", error)
            return
        decoded = self.motion.push(message.packet, arrived_us)
        self._take_layer(message.fragments)
        if decoded:
            self.decode_ms.add(time.perf_counter() - began)

    def _take_layer(self, fragments: Sequence[LayerFragment]) -> None:
        newest_us = self.motion.jitter.newest_us
        if not self.renderer.takes_layer or newest_us is None:
            return
        for fragment in fragments:
            for frame in self.layer.push(fragment, newest_us):
                self.renderer.push(frame)
                if self.events.layer is not None:
                    self.events.layer(frame)
                    self._camera_us = frame.time_us if frame.whole else self._camera_us
        if self.layer.asks_for_key(self._clock_us()):
            newest = self.layer.newest
            self._deliver(lambda: self.events.layer_lost(newest))

    def _tell_camera_ended(self, time_us: int) -> None:
        """Whatever ended it: the other side's word, or a new connection."""
        if self._camera_us is None or self._camera_us > time_us or self.renderer.shows_camera(time_us):
            return
        self._camera_us = None
        self.events.camera_ended(time_us)

    def _render(self, time_us: int, motion: Motion | None, left_out: int = 0) -> None:
        if not self.watched:
            self.renderer.skip(time_us)
            return
        began, (began_s, had_s) = time.perf_counter(), self._clock()
        self._view_changed = False
        shown = self.renderer.picture(time_us, motion, self.rate.pace.fps)
        if shown is None:
            return
        if self.events.rgb is not None:
            self.events.rgb(shown.rgb)
        self.render_ms.add(time.perf_counter() - began)
        self._tell_made(time_us, shown)
        ended_s, had_in_all_s = self._clock()
        if self.rate.pace.done(round(1e6 * ended_s), ended_s - began_s, had_in_all_s - had_s, left_out):
            fps = self.rate.pace.fps
            logger.info("pace: %g pictures a second can be shown (%s)", fps, self.rate.pace.bound)
            self._deliver(lambda: self.events.rate(fps))

    def _tell_made(self, time_us: int, shown: Shown) -> None:
        now_us = self._clock_us()
        self._rendered_us = now_us
        self.rendered += 1
        made = Rendered(shown.jpeg, time_us, now_us, self.motion.jitter.delay_us, shown.camera, shown.layered)
        if self.kept is not None:
            self.kept.add(made)
        self._deliver(lambda: self.events.picture(made))

    def _expect(self, fps: float) -> None:
        if self.rate.expect(fps):
            self._deliver(lambda: self.events.rate(fps))

    def _forget(self) -> None:
        self.speaker.forget()
        self._last = None

    def _switch_time(self, from_us: int) -> SwitchTime:
        return SwitchTime(from_us, self.motion.jitter.newest_us)

    def _set_view(self, view: View) -> None:
        self._view_changed = view != self.renderer.view
        self.renderer.view = view

    def _follow(self, connection: int) -> None:
        """Begins anew for a newer connection.

        Its packets may be here before the word of it, and none may be lost: their sender has been told that they were
        delivered, and predicts from them.
        """
        if connection <= self._followed:
            return
        self._followed = connection
        self.motion.restart()
        self.layer = LayerReceiver()
        self.renderer.restart()
        self.speaker.restart()
