"""Motion packets as they arrive to frames in play order, each at its time.

A frame plays at its capture time plus an offset that `playout_delay.py` keeps as small as arrivals allow. What comes
after its time is never played, but it is worth decoding, because later packets may refer to it: decode every packet
when it comes, unless it is a duplicate or old. No clock of its own: every call says what time it is.

A packet may begin with frames of the one before, told by their times: a frame less than half a spacing after the one
played last is that one again.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum

from kilocall.proto.control import ReceiverReport
from kilocall.proto.limits import HISTORY, SEQUENCES
from kilocall.proto.motion_packet import MotionPacket
from kilocall.receiver.playout_delay import MOST_DELAY_US, Arrival, PlayoutDelay

__all__ = ["DueFrame", "JitterBuffer", "Verdict"]

STALE_US = 100_000
"""A frame that nobody asked for in time, or that was held up with others, is not shown after so long, or after the time
between two frames where that is longer."""
FORGET_CLOCK_US = 20_000_000
"""After so long a silence the packets' 65.5 s clock has to be read anew."""
MOST_PACKETS = 64
_HALF = SEQUENCES // 2


class Verdict(Enum):
    """What became of a packet."""

    QUEUED = "queued"
    LATE = "late"
    """None of its frames will be played; worth decoding all the same."""
    DUPLICATE = "duplicate"
    OLD = "old"
    """Behind by more than either side remembers: a replay, or a stray. Not to be decoded."""


@dataclass(frozen=True)
class DueFrame:
    """One frame whose time has come."""

    packet: MotionPacket
    index: int
    """Which of the packet's frames."""
    time_us: int
    """Capture time on the sender's clock, not cut to 65 s."""
    due_us: int
    """When it was to be shown, on the caller's clock."""
    lost_before: int
    """Packets missing between the frame played last and this one; 0 for the first frame ever."""


@dataclass
class _Held:
    packet: MotionPacket
    number: int
    first_us: int
    next_index: int = 0


class JitterBuffer:
    """Orders and times one sender's motion packets. Make a new one for a new sender or connection.

    `push` every packet when it arrives, `pop` at every tick of the display: it returns the frames that have
    become due, oldest first; who shows only one takes the last. Holds at most 64 packets.
    """

    def __init__(self) -> None:
        self.received = 0
        self.late = 0
        self.duplicates = 0
        self.old = 0
        self.played = 0
        """Frames."""
        self.skipped = 0
        """Frames that were due before one that had been played already, or too old when their packet came."""
        self.repeated = 0
        """Frames that had been played from another packet."""
        self.playout = PlayoutDelay()
        """How long packets wait."""
        self._held: list[_Held] = []
        self._highest: int | None = None  # counted on across the wrap
        self._seen: set[int] = set()
        self._last_time_us: int | None = None
        self._last_arrival_us = 0
        self._played_number: int | None = None
        self._played_time_us: int | None = None
        self._played_at_us: int | None = None
        self._report_from: tuple[int, int, int, int] | None = None  # now, highest, received, late

    @property
    def delay_us(self) -> int:
        """How long a packet on the fastest way waits from its last frame's capture until that frame is shown."""
        return self.playout.delay_us

    @property
    def waiting(self) -> int:
        """Packets that are held until their frames are due."""
        return len(self._held)

    @property
    def highest(self) -> int | None:
        """Sequence number of the newest packet."""
        return None if self._highest is None else self._highest % SEQUENCES

    @property
    def newest_us(self) -> int | None:
        """Newest capture time heard of; None before the first packet."""
        return self._last_time_us

    def push(self, packet: MotionPacket, now_us: int) -> Verdict:
        """Takes one packet that arrived at `now_us`."""
        number = packet.sequence
        if self._highest is not None:
            number = self._highest + (packet.sequence - self._highest + _HALF) % SEQUENCES - _HALF
            if number <= self._highest - HISTORY:
                self.old += 1
                return Verdict.OLD
            if number in self._seen:
                self.duplicates += 1
                return Verdict.DUPLICATE
        self.received += 1
        newest = self._highest is None or number > self._highest
        missing = number - self._highest - 1 if self._highest is not None and newest else 0
        self._highest = number if self._highest is None else max(number, self._highest)
        self._seen = {seen for seen in self._seen if seen > self._highest - HISTORY} | {number}

        first_us = self._time_in_full(packet, now_us)
        last_us = first_us + (packet.frame_count - 1) * packet.spacing_us
        own_us, unheard_us = self._first_needed(packet, first_us, missing) if newest else (first_us, first_us)
        if newest:
            self._last_time_us, self._last_arrival_us = last_us, now_us
        self.playout.learn(Arrival(now_us, now_us - own_us, now_us - last_us, now_us - unheard_us))
        if not self._is_on_time(last_us, now_us) and not self.playout.late(now_us, last_us, self._played_at_us):
            self.late += 1
            return Verdict.LATE
        self.playout.in_time()
        place = len(self._held)
        while place and self._held[place - 1].number > number:
            place -= 1
        self._held.insert(place, _Held(packet, number, first_us))
        if len(self._held) > MOST_PACKETS:
            self.skipped += self._held[0].packet.frame_count - self._held[0].next_index
            del self._held[0]
        return Verdict.QUEUED

    def pop(self, now_us: int) -> list[DueFrame]:
        """The frames that are due at `now_us`, in play order."""
        frames: list[DueFrame] = []
        self.playout.sink(now_us)
        offset_us = self.playout.offset_us
        if offset_us is None:
            return frames
        while self._held:
            held = self._held[0]
            while held.next_index < held.packet.frame_count:
                time_us = held.first_us + held.next_index * held.packet.spacing_us
                if time_us + offset_us > now_us:
                    return frames
                if self._is_repeated(held, time_us):
                    self.repeated += 1
                elif (
                    self._played_time_us is not None and time_us <= self._played_time_us
                ) or time_us + offset_us < now_us - self._stale_us(held, time_us):
                    self.skipped += 1
                else:
                    lost = 0
                    if self._played_number is not None:
                        lost = max(0, held.number - self._played_number - 1)
                    due_us = time_us + offset_us
                    frames.append(DueFrame(held.packet, held.next_index, time_us, due_us, lost))
                    self._played_number, self._played_time_us = held.number, time_us
                    self._played_at_us = now_us
                    self.played += 1
                held.next_index += 1
            del self._held[0]
        return frames

    def _is_repeated(self, held: _Held, time_us: int) -> bool:
        """Whether this frame of a later packet is one that has been played, or one before it."""
        if self._played_time_us is None or self._played_number is None or held.number <= self._played_number:
            return False
        return time_us <= self._played_time_us + held.packet.spacing_us // 2

    def _stale_us(self, held: _Held, time_us: int) -> int:
        """How late this frame may be: at few frames a second the next is far off, and one is made while it waits."""
        apart_us = held.packet.spacing_us
        if not apart_us and self._played_time_us is not None:
            apart_us = time_us - self._played_time_us
        return min(max(STALE_US, apart_us), MOST_DELAY_US)

    def next_due_us(self) -> int | None:
        """When `pop` will have something; None while nothing is held."""
        if not self._held or self.playout.offset_us is None:
            return None
        held = self._held[0]
        return held.first_us + held.next_index * held.packet.spacing_us + self.playout.offset_us

    def report(self, now_us: int, received_bytes: int) -> ReceiverReport | None:
        """What to tell the sender of the time since the report before; None before the first packet.

        `received_bytes` is what arrived from this sender meanwhile, on the wire.
        """
        if self._highest is None:
            return None
        before = self._report_from
        self._report_from = (now_us, self._highest, self.received, self.late)
        if before is None:
            before = (now_us, self._highest, self.received, self.late)
        expected = min(self._highest - before[1], SEQUENCES - 1)
        # A packet of the interval before that came in this one makes up for one lost.
        lost = min(max(0, expected - (self.received - before[2])), expected)
        return ReceiverReport(
            highest=self._highest % SEQUENCES,
            held_ms=_milliseconds(now_us - self._last_arrival_us),
            interval_ms=_milliseconds(now_us - before[0]),
            expected=expected,
            lost=lost,
            late=min(self.late - before[3], SEQUENCES - 1),
            delay_ms=_milliseconds(self.playout.queueing_us(now_us)),
            received_bytes=min(received_bytes, (1 << 32) - 1),
        )

    def _time_in_full(self, packet: MotionPacket, now_us: int) -> int:
        if self._last_time_us is None:
            return packet.time_us(near_us=0)
        silence_us = now_us - self._last_arrival_us
        near_us = self._last_time_us + silence_us
        first_us = packet.time_us(near_us)
        if silence_us > FORGET_CLOCK_US and abs(first_us - near_us) > MOST_DELAY_US:
            # The extrapolated clock may be off by any multiple of 65.5 s: begin again.
            self._forget()
        return first_us

    def _is_on_time(self, last_us: int, now_us: int) -> bool:
        """Whether at least the packet's last frame can still be shown."""
        if self.playout.offset_us is None:
            return True
        if self._played_time_us is not None and last_us <= self._played_time_us:
            return False
        return last_us + self.playout.offset_us >= now_us

    def _first_needed(self, packet: MotionPacket, first_us: int, missing: int) -> tuple[int, int]:
        """Times of the packet's first own frame, as far as can be told, and of its first that has not come before.

        They differ when packets before it are `missing` and it repeats frames of theirs.
        """
        heard_us = self._last_time_us
        if heard_us is None or packet.frame_count < 2:
            return first_us, first_us
        times = [first_us + index * packet.spacing_us for index in range(packet.frame_count)]
        unheard = [time_us for time_us in times if time_us > heard_us + packet.spacing_us // 2] or times[-1:]
        # What came since is taken to be spread evenly over the missing packets and this one.
        own_from_us = times[-1] - (times[-1] - heard_us) // (missing + 1) + packet.spacing_us // 2
        own = [time_us for time_us in unheard if time_us > own_from_us] or unheard[-1:]
        return own[0], unheard[0]

    def _forget(self) -> None:
        self.playout.forget()
        self._held.clear()
        self._played_time_us = None


def _milliseconds(microseconds: int) -> int:
    return min(max(0, microseconds // 1000), 60_000)
