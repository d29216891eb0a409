"""The receiving model thread: motion packets through the jitter buffer to pictures, each at its time."""

from __future__ import annotations

import logging
import time
from array import array
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, replace
from typing import Final

import numpy as np
from numpy.typing import NDArray

from kilocall.model.engine_choice import choose_engine
from kilocall.model.family import Picture, interrupt
from kilocall.model.family_loader import FamilyChoice
from kilocall.model.hello import hello_of
from kilocall.model.motion import Motion
from kilocall.proto.control import Hello, ReceiverReport
from kilocall.proto.errors import BadPacket
from kilocall.proto.layer_frame import LayerFragment
from kilocall.proto.motion_message import MotionMessage
from kilocall.proto.motion_packet import MotionPacket, time_in_full_us, wire_time_ms
from kilocall.receiver.camera_view import CameraView
from kilocall.receiver.decode import PacketDecoder
from kilocall.receiver.jitter_buffer import DueFrame, JitterBuffer, Verdict
from kilocall.receiver.layer_mixer import LayerMixer
from kilocall.receiver.layer_receiver import DecodedLayer, LayerReceiver
from kilocall.receiver.remote_speaker import RemoteSpeaker
from kilocall.receiver.render import FaceRenderer, View, makes_slowly
from kilocall.runtime.clock import now_us
from kilocall.runtime.pace import EvenSteps, Pace
from kilocall.runtime.pictures import as_jpeg
from kilocall.runtime.worker import Deliver, Milliseconds, WorkClock, Worker, work_clock

__all__ = ["Played", "ReceiveEvents", "ReceivePipeline", "Rendered"]

logger = logging.getLogger(__name__)

#: 90: on 256x256 pictures about 15 KB, no blocks to be seen.
JPEG_QUALITY: Final = 90
MOST_WAITING: Final = 64
#: Two minutes of packets: while a slow renderer makes one picture none may be lost that later ones are predicted from.
MOST_ARRIVED: Final = 1024
REST_S: Final = 0.1
#: After so long without a due frame a changed view is shown on the last one.
STILL_US: Final = 80_000
KEEP_MOST: Final = 1500
#: Times of pictures: 13 minutes at 25 a second.
TIMES_MOST: Final = 20_000


@dataclass(frozen=True)
class Rendered:
    """A picture made at its time."""

    jpeg: bytes
    time_us: int
    """Capture time on the sender's clock."""
    made_us: int
    """When it was ready, on this side's clock."""
    playout_us: int
    """How long the fastest packets wait here before their last frame is shown: what speech has to wait too."""
    camera: bool = False
    """Whether it is what the other side's camera saw, as it was, and not its speaker made from a picture."""


@dataclass(frozen=True)
class Played:
    """What a packet adds to what was shown before, as decoded, when the first of it is shown; for recording."""

    time_us: int
    packet: MotionPacket
    vectors: NDArray[np.float32]  # [n, D]


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
    """The same for frames of the video layer under the motion, as they are decoded."""
    layer_lost: Callable[[int | None], None] = lambda newest: None
    """The video layer cannot be shown until a key frame comes; number of the frame that was decoded last."""
    rate: Callable[[float], None] = lambda fps: None
    """So many pictures a second can be shown from now on; the other side should send no more."""
    problem: Callable[[str], None] = lambda text: None


class ReceivePipeline(Worker):
    """Owns jitter buffer, decoder and renderer of one other side.

    Every packet that is delivered is decoded, whether it can be shown or not: the sender predicts from it.
    """

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
        self.render_ms, self.decode_ms = Milliseconds(), Milliseconds()
        self.pace = Pace()
        """What this thread holds of what the other side has."""
        self._steps, self._clock, self._fps = EvenSteps(), clock, 25.0
        self.rendered = 0
        self.wanted = 0.0
        """Pictures that would be shown if this computer were fast enough; counts on like `rendered`."""
        self.malformed = 0
        self.inbox_dropped = 0
        self.kept: deque[Rendered] | None = deque(maxlen=KEEP_MOST) if keep else None
        self.kept_times = array("q")
        """Capture time and when it was ready, of every picture, one after the other; filled like `kept`."""
        self.speaker = RemoteSpeaker(lambda: self.events, deliver, self.ask)
        """The other side's pictures."""
        self._inbox: deque[tuple[bytes, int, int]] = deque()  # packet, arrival, connection
        self._connection = 0  # that packets come from now; the loop's
        self._followed = 0  # that jitter buffer and decoder belong to; the thread's
        self._jitter = JitterBuffer()
        self._motions: dict[int, NDArray[np.float32]] = {}
        self.layer = LayerReceiver()
        """Of the connection that is followed."""
        self._mixer: LayerMixer | None = None
        self._camera_view = CameraView()
        self._camera_jpeg: tuple[Picture, bytes] | None = None
        self.camera_pictures = 0
        """Of the pictures made, those of what the other side's camera sees."""
        self._slow = False  # this processor, at making pictures
        self._view = View()
        self._view_changed = False
        self._last: Motion | None = None
        self._played_sequence: int | None = None
        self.last_time_us = 0
        """Capture time of the frame played last, on the sender's clock."""
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
        self.ask(lambda: self.speaker.use(picture_hash, from_us))

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
        self.ask(lambda: self._switch_camera(shown, from_us))

    def forget(self) -> None:
        """Another speaker: nothing is shown until the next picture is ready."""
        self.ask(self._forget)

    def set_view(self, view: View) -> None:
        """Turns the head from the next picture on."""
        self.ask(lambda: self._set_view(view))

    def report(self, received_bytes: int) -> Future[ReceiverReport | None]:
        return self.ask(lambda: self._jitter.report(self._clock_us(), received_bytes))

    @property
    def jitter(self) -> JitterBuffer:
        """Its counters may be read on any thread."""
        return self._jitter

    @property
    def takes_layer(self) -> bool:
        """Once ready: whether this side makes use of a video layer."""
        return self._mixer is not None

    @property
    def layer_used(self) -> int:
        """Frames of the layer that a picture was compared with."""
        return 0 if self._mixer is None else self._mixer.used

    @property
    def unreadable(self) -> int:
        """Packets of this connection whose motion could not be decoded."""
        return self._decoder.dropped

    @property
    def decoded(self) -> int:
        """Packets whose motion is kept until it is shown, or until others push it out."""
        return len(self._motions)

    def interrupt(self) -> None:
        interrupt(getattr(self, "_family", None))

    def opened(self) -> None:
        self._family = self._models.load(choose_engine(self._engine, self._threads))
        self.speaker.open(self._family)
        self._decoder = PacketDecoder(self._family.codebook)
        # Loads every network now: the first picture of the call then takes 30 ms instead of 400.
        blank = np.zeros((self._family.size, self._family.size, 3), np.uint8)
        source = self._family.source(blank, replace(self._family.track(blank), certainty=1.0))
        self._slow = makes_slowly(self._family, source)
        fusion = self._family.fusion()
        self._mixer = None if fusion is None else LayerMixer(fusion)

    def closed(self) -> None:
        self.speaker.close()

    def step(self) -> float:
        while self._inbox:
            self._take(*self._inbox.popleft())
        due = self._jitter.pop(self._clock_us())
        chosen: list[tuple[int, Motion | None]] = []
        for frame in due:
            self._count_wanted(frame.time_us)
            self._play(frame)
            # Of more than can be shown, because the other side has not heard of it or does not care, even steps.
            if self._steps.take(frame.time_us, self.pace.fps) or self.pace.rung == 0:
                chosen.append((frame.time_us, self._last))
        if chosen:
            self._render(*chosen[-1], left_out=len(chosen) - 1)
        elif self._view_changed and self._last is not None and self._clock_us() - self._rendered_us > STILL_US:
            self._render(self.last_time_us, self._last)
        next_us = self._jitter.next_due_us()
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
        packet = message.packet
        verdict = self._jitter.push(packet, arrived_us)
        self._take_layer(message.fragments)
        if verdict in (Verdict.DUPLICATE, Verdict.OLD):
            return
        timed = self._decoder.push(packet)
        if timed:
            self._motions.pop(packet.sequence, None)
            self._motions[packet.sequence] = np.stack([frame.motion.vector for frame in timed])
            while len(self._motions) > MOST_WAITING:
                del self._motions[next(iter(self._motions))]
        self.decode_ms.add(time.perf_counter() - began)

    def _take_layer(self, fragments: Sequence[LayerFragment]) -> None:
        if self._mixer is None:
            return
        for fragment in fragments:
            for frame in self.layer.push(fragment, self._jitter.newest_us):
                if frame.whole:
                    self._camera_view.push(frame.time_us, frame.picture)
                    continue
                self._mixer.push(frame.time_us, frame.picture)
                if self.events.layer is not None:
                    self.events.layer(frame)
        if self.layer.asks_for_key(self._clock_us()):
            newest = self.layer.newest
            self._deliver(lambda: self.events.layer_lost(newest))

    def _count_wanted(self, time_us: int) -> None:
        """A frame of a lower rate than wanted, because this side has asked for it, stands for those not sent."""
        since_us, held_fps = time_us - self.last_time_us, self.pace.fps
        asked_for = held_fps < self._fps and 0 < since_us <= 1.5e6 / held_fps
        self.wanted += max(1.0, since_us * self._fps / 1e6) if asked_for else 1.0

    def _play(self, due: DueFrame) -> None:
        vectors = self._motions.get(due.packet.sequence)
        if vectors is None:  # could not be decoded: what was shown stays
            return
        self._last = Motion.from_vector(vectors[due.index])
        self.last_time_us = due.time_us
        if due.packet.sequence != self._played_sequence:
            # Its first frames may have been shown already, from the packet before.
            self._played_sequence = due.packet.sequence
            if self.events.played is not None:
                self.events.played(Played(due.time_us, due.packet, vectors[due.index :]))

    def _render(self, time_us: int, motion: Motion | None, left_out: int = 0) -> None:
        renderer, camera = self.speaker.renderer(time_us), self._camera_view.picture(time_us)
        if not self.watched:
            return
        began, (began_s, had_s) = time.perf_counter(), self._clock()
        self._view_changed = False
        if camera is not None:  # there may be no source picture yet
            rgb, jpeg = camera, self._as_camera_jpeg(camera)
            self.camera_pictures += 1
        elif renderer is not None and motion is not None:
            rgb = self._moved(renderer, motion, time_us)
            jpeg = as_jpeg(rgb, JPEG_QUALITY)
        else:
            return
        if self.events.rgb is not None:
            self.events.rgb(rgb)
        self.render_ms.add(time.perf_counter() - began)
        self._tell_made(time_us, jpeg, camera=camera is not None)
        ended_s, had_in_all_s = self._clock()
        if self.pace.done(round(1e6 * ended_s), ended_s - began_s, had_in_all_s - had_s, left_out):
            fps = self.pace.fps
            logger.info("pace: %g pictures a second can be shown (%s)", fps, self.pace.bound)
            self._deliver(lambda: self.events.rate(fps))

    def _moved(self, renderer: FaceRenderer, motion: Motion, time_us: int) -> Picture:
        """The speaker, made from a picture."""
        renderer.view = self._view
        # At a lower rate faces move further from frame to frame.
        renderer.hold = 25 / self.pace.fps if self._slow else 0.0
        if self._mixer is not None and renderer.layer is not self._mixer:
            self._mixer.reset()  # what was seen over another source picture does not fit this one
            renderer.layer = self._mixer
        return renderer.render(motion, time_us)

    def _as_camera_jpeg(self, picture: Picture) -> bytes:
        """One picture is shown for several frames."""
        if self._camera_jpeg is None or self._camera_jpeg[0] is not picture:
            self._camera_jpeg = picture, as_jpeg(picture, JPEG_QUALITY)
        return self._camera_jpeg[1]

    def _tell_made(self, time_us: int, jpeg: bytes, *, camera: bool) -> None:
        now_us = self._clock_us()
        self._rendered_us = now_us
        self.rendered += 1
        made = Rendered(jpeg, time_us, now_us, self._jitter.delay_us, camera)
        if self.kept is not None:
            self.kept.append(made)
            if len(self.kept_times) < 2 * TIMES_MOST:
                self.kept_times.extend((time_us, now_us))
        self._deliver(lambda: self.events.picture(made))

    def _expect(self, fps: float) -> None:
        if fps != self._fps:
            if self.pace.rung:  # what was told holds no more
                self._deliver(lambda: self.events.rate(fps))
            self._fps, self.pace, self._steps = fps, Pace(fps), EvenSteps(fps)

    def _forget(self) -> None:
        self.speaker.forget()
        self._last = None

    def _switch_camera(self, shown: bool, from_us: int) -> None:
        # Frame times are known but for multiples of 65.5 s, and to the ms: the nearest moment to theirs.
        near_us = time_in_full_us(wire_time_ms(from_us), self._jitter.newest_us)
        self._camera_view.switch(shown, near_us - 2000)

    def _set_view(self, view: View) -> None:
        self._view, self._view_changed = view, view != self._view

    def _follow(self, connection: int) -> None:
        """Begins anew for a newer connection.

        Its packets may be here before the word of it, and none may be lost: their sender has been told that they were
        delivered, and predicts from them.
        """
        if connection <= self._followed:
            return
        self._followed = connection
        self._jitter = JitterBuffer()
        self._decoder.reset()
        self._motions.clear()
        self.layer = LayerReceiver()
        self._camera_view = CameraView()
        if self._mixer is not None:
            self._mixer.reset()
        self.speaker.restart()
        self._played_sequence = None
