"""Plays a stream on its own clock: which frame is due, made on the model thread, with everything a viewer may change.

The playhead turns wall time into stream time, the cursor stream time into a frame's motion, and the playback renders
it. A viewer too slow, or a model too slow, costs frames and never time.
"""

from __future__ import annotations

import time
from bisect import bisect_right
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from dataclasses import dataclass
from typing import Final, Protocol

from kilocall.model.family import Picture
from kilocall.proto.errors import BadInput
from kilocall.proto.stream_file import StreamReader
from kilocall.receiver.decode import TimedMotion
from kilocall.receiver.render import FaceRenderer, View
from kilocall.runtime.clock import now_us
from kilocall.runtime.worker import Worker

__all__ = ["SPEEDS", "FrameCursor", "Playback", "PlaybackState", "Playhead", "ReplayStream", "Shown"]

#: Slowest and fastest a stream is played, times real time.
SPEEDS: Final = (0.1, 4.0)
#: Motion is decoded and not shown up to this far; a jump over more starts at a key packet.
SKIM_US: Final = 2_000_000
IDLE_S: Final = 3600.0


class ReplayStream(Protocol):
    """A stream that is opened for playing."""

    @property
    def reader(self) -> StreamReader: ...
    @property
    def renderer(self) -> FaceRenderer: ...
    @property
    def relative(self) -> bool:
        """Whether another picture than the stream's own is shown."""

    def motions(self, from_us: int = 0) -> Iterator[TimedMotion]:
        """From the key packet at or before `from_us` on; a new call ends the one before."""

    def camera(self, time_us: int) -> Picture | None:
        """What the speaker's camera saw, where that is to be shown at this time in place of the speaker."""

    def show(self, picture: Picture | None) -> None:
        """Moves this crop instead of the stream's own picture; None goes back."""


@dataclass(frozen=True)
class Shown:
    """A picture on its way to a screen."""

    frame: int
    """1 to the number of frames."""
    time_us: int
    bits_per_frame: float
    """Payload of the packet that carried it, over its frames."""
    made_ms: float
    """What rendering took."""
    rgb: Picture
    camera: bool = False
    """Whether it is what the speaker's camera saw, as it was, of any shape."""


@dataclass(frozen=True)
class PlaybackState:
    """What a viewer's controls show."""

    playing: bool
    position_us: int
    speed: float
    loop: bool
    view: View
    relative: bool
    source: str | None
    """Name of the picture that is moved; None for the stream's own."""
    source_number: int
    """Counts the changes of the source picture."""
    pictures: int
    """Of the speaker, that are moved."""
    problem: str | None = None
    """Why nothing is shown any more."""


class Playhead:
    """Where in the stream the viewer is. All times in microseconds; the clock is given with every call."""

    def __init__(self, duration_us: int) -> None:
        self.duration_us = duration_us
        self.playing, self.loop, self.speed = False, False, 1.0
        self._from_us, self._since_us = 0, 0

    def position(self, now_us: int) -> int:
        """Stream time, from 0 to the end."""
        ahead = round((now_us - self._since_us) * self.speed) if self.playing else 0
        return min(self._from_us + ahead, self.duration_us)

    def play(self, now_us: int) -> None:
        """From the beginning if it stands at the end."""
        start = self.position(now_us)
        self._from_us, self._since_us = (0 if start >= self.duration_us else start), now_us
        self.playing = True

    def pause(self, now_us: int) -> None:
        self._from_us, self.playing = self.position(now_us), False

    def seek(self, time_us: int, now_us: int) -> None:
        self._from_us, self._since_us = max(0, min(time_us, self.duration_us)), now_us

    def set_speed(self, speed: float, now_us: int) -> None:
        """Raises BadInput outside SPEEDS."""
        if not SPEEDS[0] <= speed <= SPEEDS[1]:
            raise BadInput(f"speed is {speed}, allowed is {SPEEDS[0]} to {SPEEDS[1]}")
        self.seek(self.position(now_us), now_us)
        self.speed = speed

    def turn_at_end(self, now_us: int) -> bool:
        """At the end: begins again when it loops, otherwise stops. Whether it did either."""
        if not self.playing or self.position(now_us) < self.duration_us:
            return False
        if self.loop:
            self.seek(0, now_us)
        else:
            self.pause(now_us)
        return True

    def wait_s(self, time_us: int, now_us: int) -> float | None:
        """Seconds until stream time reaches `time_us`; None while it stands still."""
        if not self.playing:
            return None
        return max(0.0, (time_us - self.position(now_us)) / self.speed / 1_000_000)


class FrameCursor:
    """The frame that is on screen at a stream time. Going on is cheap; going back starts at a key packet."""

    def __init__(self, stream: ReplayStream) -> None:
        self._stream = stream
        self._keys = [entry.time_us for entry in stream.reader.index]
        self._ahead: Iterator[TimedMotion] | None = None
        self._current: TimedMotion | None = None
        self._next: TimedMotion | None = None

    @property
    def next_us(self) -> int | None:
        """When the frame after the current one is due; None at the end."""
        return self._next.time_us if self._next else None

    def at(self, time_us: int) -> TimedMotion | None:
        """The last frame at or before `time_us`, else the first; None in a stream without frames."""
        if self._ahead is None or self._current is None or self._must_jump(self._current.time_us, time_us):
            self._ahead = self._stream.motions(time_us)
            self._current = self._next = None
            self._current, self._next = next(self._ahead, None), next(self._ahead, None)
        while self._next is not None and self._next.time_us <= time_us:
            self._current, self._next = self._next, next(self._ahead, None)
        return self._current

    def _must_jump(self, from_us: int, to_us: int) -> bool:
        if to_us < from_us:
            # Before the very first frame there is nothing to go back to.
            return bool(self._keys) and from_us > self._keys[0]
        if to_us - from_us <= SKIM_US:
            return False
        return self._keys_before(to_us) > self._keys_before(from_us)

    def _keys_before(self, time_us: int) -> int:
        return bisect_right(self._keys, time_us)


class Playback(Worker):
    """Runs a stream on a thread of its own, where alone the stream is touched.

    `on_shown` and `on_state` are called on that thread and must return at once. While nobody watches, nothing is
    rendered and stream time stands still.
    """

    def __init__(
        self,
        stream: ReplayStream,
        *,
        on_shown: Callable[[Shown], None],
        on_state: Callable[[PlaybackState], None] = lambda state: None,
        source: str | None = None,
        clock: Callable[[], int] = now_us,
    ) -> None:
        super().__init__("model", on_problem=lambda problem: self._tell())
        self.stream = stream
        reader = stream.reader
        if not reader.frame_count:
            raise BadInput(f"{reader.name}: holds no complete motion packet ({reader.damage or 'it is empty'})")
        self.frames, self.duration_us, self.fps = reader.frame_count, reader.duration_us, reader.header.fps
        self._on_shown, self._on_state, self._clock = on_shown, on_state, clock
        self._head = Playhead(self.duration_us)
        self._cursor = FrameCursor(stream)
        self._bit_times, self._bits = _bits_by_time(reader)
        self._watched = True
        self._source, self._source_number = source, 0
        self._last: TimedMotion | None = None
        self.state = self._state()

    @property
    def mean_bits_per_frame(self) -> float:
        """Payload of the whole stream over its frames."""
        return sum(bits * count for bits, count in self._bits) / self.frames

    def play(self) -> None:
        self._change(lambda: self._head.play(self._clock()))

    def pause(self) -> None:
        self._change(lambda: self._head.pause(self._clock()))

    def seek(self, time_us: int) -> None:
        self._change(lambda: self._head.seek(time_us, self._clock()))

    def skip(self, by_us: int) -> None:
        """Seeks from where it is."""

        def change() -> None:
            now = self._clock()
            self._head.seek(self._head.position(now) + by_us, now)

        self._change(change)

    def set_speed(self, speed: float) -> None:
        self._change(lambda: self._head.set_speed(speed, self._clock()))

    def set_loop(self, loop: bool) -> None:
        self._change(lambda: setattr(self._head, "loop", loop))

    def set_view(self, view: View) -> None:
        """Turns the head from the next picture on."""
        self._change(lambda: setattr(self.stream.renderer, "view", view), again=True)

    def watch(self, watched: bool) -> None:
        """Whether anybody looks; starts with True."""

        def change() -> None:
            if not watched:
                self._head.pause(self._clock())
            self._watched = watched

        self._change(change)

    def show(self, make: Callable[[], Picture | None], name: str | None) -> Future[None]:
        """Moves another picture, made by `make` on the model thread, and calls it `name`; None is the stream's own.

        The future carries what `make` raises; the picture then stays as it was.
        """

        def change() -> None:
            self.stream.show(make())
            self._source, self._source_number = name, self._source_number + 1

        return self._change(change, again=True)

    def _change(self, change: Callable[[], None], again: bool = False) -> Future[None]:
        def changed() -> None:
            change()
            if again:
                self._last = None
            self._tell()

        return self.ask(changed)

    def step(self) -> float:
        """Shows what is due; while nobody watches, or nothing is left, the next command wakes the thread."""
        wait_s = self._show_due() if self._watched else None
        return IDLE_S if wait_s is None else wait_s

    def _show_due(self) -> float | None:
        """Shows what is due; seconds until there is more to do, None for nothing before the next command."""
        now = self._clock()
        if self._head.turn_at_end(now):
            self._tell()
        found = self._cursor.at(self._head.position(now))
        if found is not None and found is not self._last:
            started = time.perf_counter()
            camera = self.stream.camera(found.time_us)
            rgb = self.stream.renderer.render(found.motion, found.time_us) if camera is None else camera
            made_ms = (time.perf_counter() - started) * 1000
            self._last = found
            number = 1 + round(found.time_us * self.fps / 1_000_000)
            bits = self._bits_at(found.time_us)
            self._on_shown(Shown(min(number, self.frames), found.time_us, bits, made_ms, rgb, camera is not None))
        due = self._cursor.next_us
        return self._head.wait_s(self.duration_us if due is None else due, self._clock())

    def _bits_at(self, time_us: int) -> float:
        return self._bits[max(0, bisect_right(self._bit_times, time_us) - 1)][0]

    def _tell(self) -> None:
        self.state = self._state()
        self._on_state(self.state)

    def _state(self) -> PlaybackState:
        head = self._head
        return PlaybackState(
            playing=head.playing,
            position_us=head.position(self._clock()),
            speed=head.speed,
            loop=head.loop,
            view=self.stream.renderer.view,
            relative=self.stream.relative,
            source=self._source,
            source_number=self._source_number,
            pictures=self.stream.renderer.pictures,
            problem=self.problem,
        )


def _bits_by_time(reader: StreamReader) -> tuple[list[int], list[tuple[float, int]]]:
    """Time of every packet, and its payload bits a frame with its number of frames."""
    packets = list(reader.packets())
    times = [timed.time_us for timed in packets]
    return times, [(8 * len(t.packet.payload) / t.packet.frame_count, t.packet.frame_count) for t in packets]
