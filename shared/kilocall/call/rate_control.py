"""How much to send: frames a message, frame rate, quality and speech bit rate, from what the receiver reports.

A profile gives a ladder of plans, the best first; the control stands on one rung. It steps down when a queue
builds up on the way, far enough for what still gets through, and up again one rung at a time when all has been
quiet for a while; a rung that failed is left alone for longer each time. Loss without a queue is the link's
nature and no reason to send less, unless sending less helps. No clock of its own.

Headers cost more than motion, so the first steps put more frames into a message, within the latency budget,
and only the last ones take frames away.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal

from kilocall.proto.errors import BadInput
from kilocall.proto.limits import LEVELS, MAX_FRAMES
from kilocall.proto.wire_cost import wire_cost

__all__ = ["PROFILES", "Feedback", "Plan", "Profile", "RateControl", "audio_wire_bps", "ladder", "video_wire_bps"]

AUDIO_OVERHEAD_BYTES = 50
"""IP, UDP, RTP and SRTP of a speech packet, measured: 20 + 8 + 12 + 10."""
SACK_BPS = 1600
"""Acknowledgements of motion, measured at 3 to 5 frames a message when nothing else goes their way."""

QUEUE_MS = 120
"""A queueing delay above this that grows, or above SEVERE_MS in any case, asks for a step down."""
STEADY_MS = 60
SEVERE_MS = 250
SETTLE_US = 1_200_000
"""A step needs so long to show in the reports."""
SHARE = 0.85
"""Of what got through while a queue built up, a plan may use this much: the rest empties the queue."""
QUIET_US = 10_000_000
"""So long without a queue before a step up."""
BLOCK_US = 20_000_000
BLOCK_MOST_US = 160_000_000
LOSS = 0.15
LOSS_TRIAL_US = 4_000_000
RANDOM_LOSS_US = 60_000_000
SILENT_US = 3_500_000
"""No report for so long: step down, for one of the two directions does not get through."""


@dataclass(frozen=True)
class Profile:
    """What a call may use at most."""

    name: Literal["default", "saver"]
    video_bps: int
    """On the wire, acknowledgements included."""
    wait_ms: int
    """Longest that a frame may wait for others of its message."""
    fps: float
    level: int
    """Quality level of the best rung, 0..8."""
    audio_bps: int


PROFILES = {
    "default": Profile("default", video_bps=10_000, wait_ms=200, fps=25, level=4, audio_bps=12_000),
    "saver": Profile("saver", video_bps=6_000, wait_ms=200, fps=25, level=2, audio_bps=8_000),
}


@dataclass(frozen=True)
class Plan:
    """What to send."""

    frames_per_message: int
    fps: float
    level: int
    audio_bps: int
    """Opus' own, 6000 to 16000."""
    audio_packet_ms: int

    def wire_bps(self, bits_per_frame: float) -> float:
        """Everything on the wire for this plan, while someone speaks."""
        return video_wire_bps(self, bits_per_frame) + audio_wire_bps(self.audio_bps, self.audio_packet_ms)


def video_wire_bps(plan: Plan, bits_per_frame: float) -> float:
    """Motion with its headers and the acknowledgements that come back."""
    return wire_cost(bits_per_frame, plan.fps, plan.frames_per_message).forward_bps + SACK_BPS


def audio_wire_bps(bitrate_bps: int, packet_ms: int) -> float:
    """Speech with its headers."""
    return bitrate_bps + AUDIO_OVERHEAD_BYTES * 8 * 1000 / packet_ms


def ladder(profile: Profile, bits_per_frame: float = 40) -> tuple[Plan, ...]:
    """The plans of a profile, the best first, each cheaper than the one before."""
    most = min(MAX_FRAMES, 1 + int(profile.wait_ms * profile.fps / 1000))
    fewest = most
    for frames in range(most, 0, -1):
        plan = Plan(frames, profile.fps, profile.level, profile.audio_bps, 60)
        if video_wire_bps(plan, bits_per_frame) <= profile.video_bps:
            fewest = frames
    best = Plan(fewest, profile.fps, profile.level, profile.audio_bps, 60)
    wanted = [best]
    for audio_bps in (8000, 6000):
        frames = min(most, wanted[-1].frames_per_message + 1)
        wanted.append(replace(wanted[-1], frames_per_message=frames, audio_bps=min(audio_bps, profile.audio_bps)))
    thrifty = max(0, profile.level - 1)
    wanted.append(replace(wanted[-1], frames_per_message=most, level=thrifty, audio_packet_ms=120))
    thriftiest = max(0, profile.level - 2)
    wanted.append(Plan(4, profile.fps / 2, thriftiest, 6000, 120))
    # The last is no way to talk, but empties a queue: it is left as soon as the queue is gone.
    wanted.append(Plan(3, profile.fps / 5, thriftiest, 6000, 120))
    plans: list[Plan] = []
    for plan in wanted:
        if not plans or plan.wire_bps(bits_per_frame) < plans[-1].wire_bps(bits_per_frame):
            plans.append(plan)
    return tuple(plans)


@dataclass(frozen=True)
class Feedback:
    """One report of the receiver, as it arrived."""

    now_us: int
    loss: float
    """Share of the motion packets, 0..1."""
    delay_ms: float
    """Queueing: how much longer than the fastest the packets now take."""
    received_bps: float
    """All that arrived, on the wire; 0: not known."""
    rtt_ms: float | None = None


class RateControl:
    """Chooses a plan. `update` with every report, `tick` once a second or so; both return the plan to follow."""

    def __init__(self, profile: str = "default", *, bits_per_frame: float = 40) -> None:
        if profile not in PROFILES:
            raise BadInput(f"rate profile is {profile!r}, allowed are {', '.join(PROFILES)}")
        if not 1 <= bits_per_frame <= 2000:
            raise BadInput(f"bits_per_frame is {bits_per_frame:g}, allowed are 1 to 2000")
        self.profile = PROFILES[profile]
        self.bits_per_frame = bits_per_frame
        """What a frame takes; may be corrected by what the encoder measures."""
        self.plans = ladder(self.profile, bits_per_frame)
        self.rung = 0
        """Which of `plans` is followed; 0 is the best."""
        self.steps = 0
        """How often it has changed."""
        self._changed_us = 0
        self._quiet_from_us: int | None = None
        self._heard_us: int | None = None
        self._delay_ms = 0.0
        self._rtt_ms: float | None = None
        self._rtt_least_ms: float | None = None
        self._blocked_until_us = [0] * len(self.plans)
        self._blocks = [0] * len(self.plans)
        self._climbed_us: int | None = None
        self._back_to = len(self.plans) - 2
        self._loss_before: float | None = None
        self._loss_is_random_until_us = 0

    @property
    def plan(self) -> Plan:
        return replace(self.plans[self.rung], level=min(self.plans[self.rung].level, LEVELS - 1))

    def update(self, feedback: Feedback) -> Plan:
        """Takes one report."""
        now_us = feedback.now_us
        self._heard_us = now_us
        delay_ms = self._queueing_ms(feedback)
        growing = delay_ms > self._delay_ms + 15
        self._delay_ms = delay_ms
        settled = now_us - self._changed_us >= SETTLE_US
        if delay_ms > STEADY_MS:
            self._quiet_from_us = None
        elif self._quiet_from_us is None:
            self._quiet_from_us = now_us

        if delay_ms > SEVERE_MS and (settled or growing):
            self._step_down(now_us, self._rung_for(feedback.received_bps, drain=True))
        elif delay_ms > QUEUE_MS and growing and settled:
            self._step_down(now_us, self._rung_for(feedback.received_bps, drain=False))
        elif self.rung == len(self.plans) - 1 and delay_ms < QUEUE_MS and settled:
            self._go_to(now_us, self._back_to)  # off the rung that only empties queues
            self._back_to = self.rung
        elif not self._loss_asks_for_less(feedback, settled):
            self._maybe_climb(now_us)
        return self.plan

    def tick(self, now_us: int) -> Plan:
        """Notices that no report has come for a while."""
        heard_us = now_us if self._heard_us is None else self._heard_us
        self._heard_us = heard_us
        if now_us - max(heard_us, self._changed_us) > SILENT_US and self.rung < len(self.plans) - 2:
            self._quiet_from_us = None
            self._go_to(now_us, self.rung + 1)
        return self.plan

    def _queueing_ms(self, feedback: Feedback) -> float:
        """The reported delay, or what the round trip has grown by where that is more and the report knows none."""
        if feedback.rtt_ms is None:
            return feedback.delay_ms
        least = self._rtt_least_ms
        # Forgets a shorter way within some minutes: 0.1 ms a report.
        self._rtt_least_ms = feedback.rtt_ms if least is None else min(feedback.rtt_ms, least + 0.1)
        grown = feedback.rtt_ms - self._rtt_least_ms
        return feedback.delay_ms if feedback.delay_ms > STEADY_MS / 2 else min(grown, QUEUE_MS)

    def _rung_for(self, received_bps: float, *, drain: bool) -> int:
        """The best rung below this one that fits into what gets through."""
        last = len(self.plans) - 1
        if drain:
            return last
        for rung in range(self.rung + 1, last):
            if received_bps and self.plans[rung].wire_bps(self.bits_per_frame) <= SHARE * received_bps:
                return rung
        return max(self.rung, last - 1) if received_bps else min(self.rung + 1, last)

    def _step_down(self, now_us: int, rung: int) -> None:
        if self._climbed_us is not None and now_us - self._climbed_us < QUIET_US:
            # The step up was one too many: leave that rung, and those above, alone for longer each time.
            self._blocks[self.rung] += 1
            wait_us = min(BLOCK_US << (self._blocks[self.rung] - 1), BLOCK_MOST_US)
            for above in range(self.rung + 1):
                self._blocked_until_us[above] = max(self._blocked_until_us[above], now_us + wait_us)
            self._back_to = min(self.rung + 1, len(self.plans) - 2)
        elif rung == len(self.plans) - 1:
            self._back_to = rung - 1
        self._climbed_us = None
        self._go_to(now_us, rung)

    def _maybe_climb(self, now_us: int) -> None:
        if self.rung == 0 or self._quiet_from_us is None:
            return
        quiet_us = now_us - max(self._quiet_from_us, self._changed_us)
        if quiet_us >= QUIET_US and now_us >= self._blocked_until_us[self.rung - 1]:
            self._go_to(now_us, self.rung - 1)
            self._climbed_us = now_us

    def _loss_asks_for_less(self, feedback: Feedback, settled: bool) -> bool:
        """Tries one rung less against loss, once; True while that is being tried."""
        now_us = feedback.now_us
        if self._loss_before is not None:
            if now_us - self._changed_us < LOSS_TRIAL_US:
                return True
            if feedback.loss > 0.6 * self._loss_before:
                self._loss_is_random_until_us = now_us + RANDOM_LOSS_US
                self._loss_before = None
                self._go_to(now_us, self.rung - 1)
                return True
            self._loss_before = None
        if feedback.loss < LOSS or now_us < self._loss_is_random_until_us:
            return False
        if settled and self.rung < len(self.plans) - 2:
            self._loss_before = feedback.loss
            self._go_to(now_us, self.rung + 1)
        return True

    def _go_to(self, now_us: int, rung: int) -> None:
        if rung == self.rung:
            return
        self.rung = rung
        self.steps += 1
        self._changed_us = now_us
