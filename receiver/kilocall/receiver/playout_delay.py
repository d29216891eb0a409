"""How long packets wait so that frames come evenly: from when packets arrived to the offset that frames are shown by.

    offset = the higher of (arrival - capture of the packet's first frame), what nine of ten of late needed,
                       and (arrival - capture of its last frame), the highest of late;
             at least 60 and at most 250 ms more than the fastest packet needed

so that no packet comes too late altogether, and one in ten is shown from its second or third frame on. It jumps up with
a late packet and sinks slowly. Where packets are lost now and then, it makes room for frames that a later packet
repeats.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass

__all__ = ["LEAST_DELAY_US", "MOST_DELAY_US", "Arrival", "PlayoutDelay"]

LEAST_DELAY_US = 60_000
MOST_DELAY_US = 250_000
MARGIN_US = 10_000
"""Added to the worst offset of late; a tick of the display."""
SINK_US_PER_S = 40_000
"""How fast the offset comes down again: a frame every second at 25 fps."""
WINDOW_US = 4_000_000
"""How long an arrival counts for the offset and its lower bound."""
MOST_ARRIVALS = 256
QUEUE_BASE_S = 30
"""A queue on the way that stands for less long than this shows as delay in the reports."""
QUEUE_WITHIN_US = 700_000
RESYNC_AFTER_US = 250_000
RESYNC_PACKETS = 2
"""So many late packets in a row, with nothing played for so long, mean that the way has become longer."""
IN_TIME = 0.9
"""Share of the packets that are to arrive in time for their first frame."""
SECOND_CHANCES = 2
"""From so many packets on, within WINDOW_US, whose repeated frames made up for a lost one, the offset lets them."""


@dataclass(frozen=True)
class Arrival:
    """When a packet came, and the offsets by which its frames would be shown at that very moment."""

    now_us: int
    first_us: int
    """Of its first frame that is no repetition, as far as can be told."""
    last_us: int
    """Of its last frame."""
    unheard_us: int
    """Of its first frame that had not come before; more than `first_us` where it made up for a lost packet."""


class PlayoutDelay:
    """Told of every packet of one connection as it arrives. No clock of its own: every call says what time it is."""

    def __init__(self) -> None:
        self.offset_us: int | None = None
        """What is added to a frame's capture time to show it; None before the first packet."""
        self._offset_at_us = 0
        self._arrivals: deque[Arrival] = deque()
        self._seconds: deque[tuple[int, int]] = deque(maxlen=QUEUE_BASE_S)  # second, smallest offset in it
        self._late_in_a_row = 0
        self._late_from = (0, 0)  # arrival and capture of the first of them

    @property
    def delay_us(self) -> int:
        """How long a packet on the fastest way waits from its last frame's capture until that frame is shown."""
        if self.offset_us is None or not self._arrivals:
            return LEAST_DELAY_US
        return self.offset_us - self._fastest_us()

    def queueing_us(self, now_us: int) -> int:
        """How much longer than the fastest packet of half a minute the fastest of the last 0.7 s took.

        The fastest, not the mean: a queue holds all of them up, a busy machine only some.
        """
        recent = [arrival.last_us for arrival in self._arrivals if arrival.now_us > now_us - QUEUE_WITHIN_US]
        return min(recent) - min(fastest for _, fastest in self._seconds) if recent else 0

    def learn(self, arrival: Arrival) -> None:
        """A packet has arrived."""
        now_us = arrival.now_us
        self._arrivals.append(arrival)
        while self._arrivals[0].now_us < now_us - WINDOW_US or len(self._arrivals) > MOST_ARRIVALS:
            self._arrivals.popleft()
        second = now_us // 1_000_000
        if self._seconds and self._seconds[-1][0] == second:
            self._seconds[-1] = (second, min(self._seconds[-1][1], arrival.last_us))
        else:
            self._seconds.append((second, arrival.last_us))
        self.sink(now_us)
        wanted = self._bounded(self._needed_us() + MARGIN_US)
        if self.offset_us is None or wanted > self.offset_us:
            self.offset_us = wanted

    def sink(self, now_us: int) -> None:
        """Lets the offset come down towards what the arrivals of the window need."""
        elapsed_us = now_us - self._offset_at_us
        self._offset_at_us = now_us
        if self.offset_us is None or not self._arrivals:
            return
        needed = self._bounded(self._needed_us() + MARGIN_US)
        if self.offset_us > needed:
            self.offset_us = max(needed, self.offset_us - elapsed_us * SINK_US_PER_S // 1_000_000)
        # The upper bound holds at once: after a stall what was held up is not worth waiting for.
        self.offset_us = min(self.offset_us, self._fastest_us() + MOST_DELAY_US)

    def in_time(self) -> None:
        """The packet that has arrived can be shown."""
        self._late_in_a_row = 0

    def late(self, now_us: int, captured_us: int, played_at_us: int | None) -> bool:
        """The packet that has arrived, whose last frame was captured at `captured_us`, came after its time; whether the
        offset has been made to fit it, because the way has become longer. A frame was played last at `played_at_us`."""
        if not self._late_in_a_row:
            self._late_from = (now_us, captured_us)
        self._late_in_a_row += 1
        if not self._way_has_grown(now_us, captured_us, played_at_us):
            return False
        # Its last arrivals alone are the measure from now on.
        self._arrivals = deque(list(self._arrivals)[-self._late_in_a_row :])
        self.offset_us = self._bounded(max(arrival.first_us for arrival in self._arrivals) + MARGIN_US)
        self._offset_at_us = now_us
        return True

    def forget(self) -> None:
        """What was learnt is of another clock."""
        self._arrivals.clear()
        self._seconds.clear()
        self.offset_us = None

    def _fastest_us(self) -> int:
        return min(arrival.last_us for arrival in self._arrivals)

    def _needed_us(self) -> int:
        """The offset that the arrivals of the window ask for, without the margin."""
        firsts = sorted(arrival.first_us for arrival in self._arrivals)
        in_time_us = firsts[int(IN_TIME * (len(firsts) - 1) + 0.5)]
        needed = max(in_time_us, max(arrival.last_us for arrival in self._arrivals))
        made_up = [arrival.unheard_us for arrival in self._arrivals if arrival.unheard_us > arrival.first_us]
        return max(needed, *made_up) if len(made_up) >= SECOND_CHANCES else needed

    def _bounded(self, offset_us: int) -> int:
        fastest = self._fastest_us()
        return min(max(offset_us, fastest + LEAST_DELAY_US), fastest + MOST_DELAY_US)

    def _way_has_grown(self, now_us: int, captured_us: int, played_at_us: int | None) -> bool:
        if self._late_in_a_row < RESYNC_PACKETS:
            return False
        began_us, captured_then_us = self._late_from
        if now_us - began_us < (captured_us - captured_then_us) // 2:
            return False  # faster than they were made: a stall that is being made up for
        return played_at_us is None or now_us - played_at_us > RESYNC_AFTER_US
