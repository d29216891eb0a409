"""How much to send: frames a message, frame rate, quality and speech bit rate, from what the receiver reports.

A profile gives a ladder of plans, the best first; the control stands on one rung. It steps down when a queue
builds up on the way, far enough for what still gets through, and up again one rung at a time when all has been
quiet for a while; a rung that failed is left alone for longer each time. No clock of its own.

Headers cost more than motion, so the first steps put more frames into a message, within the latency budget,
and only the last ones take frames away.

Loss without a queue is the link's nature and no reason to send less, unless sending less helps. Against it the
plan is *guarded*: fewer frames a message, so that one lost costs less, and each message carries again the last frames
of those before, as far as they are not known to have arrived. That takes 4 kbit/s more than three frames a message,
most of it headers, and speech gives up as much. After four messages in a row were lost, which at 10 % happens every
quarter of an hour and at 5 % every four hours, the picture has stood for 280 ms with two frames carried again, for 240
with three and for 200 with four, and for 20 to 30 more on a busy machine. Simulated:

    frames a message + carried again        3 + 0   3 + 3   3 + 5   2 + 0   2 + 1   2 + 2   2 + 3   2 + 4
    kbit/s on the wire, 40 bits a frame       8.0     8.8     9.6    11.0    11.8    12.2    12.6    13.0
    pauses over 250 ms a minute, 10 % lost    4.1    0.64    0.44    0.84    0.07    0.05    0.04    0.04
                                 30 % lost                                            4.1             1.4
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, replace
from typing import Literal

from kilocall.codec.codebook import BASE_LEVEL, level_of_quality, usual_quality
from kilocall.proto.errors import BadInput
from kilocall.proto.limits import LEVELS, MAX_FRAMES
from kilocall.proto.wire_cost import wire_cost

__all__ = [
    "PROFILES",
    "Feedback",
    "FixedRate",
    "Plan",
    "Profile",
    "RateControl",
    "audio_wire_bps",
    "ladder",
    "video_wire_bps",
]

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
GUARD_LOSS = 0.04
"""Mean loss from which on plans are guarded."""
MUCH_LOSS = 0.06
"""Mean loss from which on a message carries as many frames again as it may."""
CALM_LOSS = 0.015
"""Below this for CALM_US the guard is given up."""
CALM_US = 20_000_000
LOSS_WEIGHT = 0.35
"""Of a new report in the mean."""
LOSS = 0.15
"""Mean loss over LOSS_REPORTS reports from which on sending less is tried, in case it is a limit that loses."""
LOSS_REPORTS = 3
LOSS_TRIAL_US = 6_000_000
RANDOM_LOSS_US = 120_000_000
SILENT_US = 3_500_000
"""No report for so long: step down, for one of the two directions does not get through."""
RTTS = 3
"""Of so many round trips the shortest counts: a report that was lost and repeated takes longer than the way."""


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
    """Quality level of the best rung without a video layer, 0..8."""
    audio_bps: int
    camera_bps: int
    """For what the camera sees, while it is shown instead of the speaker made from a picture."""
    guard: tuple[int, int, int]
    """On a link that loses: frames a message, and frames repeated from those before at little loss and at much."""


PROFILES = {
    "default": Profile(
        "default", video_bps=10_000, wait_ms=200, fps=25, level=4, audio_bps=12_000, camera_bps=24_000, guard=(2, 2, 4)
    ),
    # No repeated frames: they would cost the bits that the profile is there to save.
    "saver": Profile(
        "saver", video_bps=6_000, wait_ms=200, fps=25, level=2, audio_bps=8_000, camera_bps=6_000, guard=(4, 0, 0)
    ),
}
LAYER_SHARES = (1.0, 0.5)
"""Of the video layer's rate on the best rungs."""
LEAST_CAMERA_BPS = 1500
"""What the camera sees is shown on every rung: half as much on each as on the one before, and this at least."""
GUARDED_AUDIO = ((8000, 60), (6000, 60), (6000, 120))
"""Bit rate and packet length of speech on the guarded rungs, the best first; lower ones have no guard."""


@dataclass(frozen=True)
class Plan:
    """What to send."""

    frames_per_message: int
    fps: float
    level: int
    audio_bps: int
    """Opus' own, 6000 to 16000."""
    audio_packet_ms: int
    redundant_frames: int = 0
    """Frames of the messages before that are carried again at most."""
    layer_bps: int = 0
    """Most that the video layer may take, in the same messages."""
    camera_bps: int = 0
    """The same while it is what the camera sees."""

    def wire_bps(self, bits_per_frame: float) -> float:
        """Everything on the wire for this plan, while someone speaks."""
        return video_wire_bps(self, bits_per_frame) + audio_wire_bps(self.audio_bps, self.audio_packet_ms)


def video_wire_bps(plan: Plan, bits_per_frame: float) -> float:
    """Motion and video layer with their headers and the acknowledgements that come back."""
    repeated_bps = bits_per_frame * plan.redundant_frames * plan.fps / plan.frames_per_message
    motion_bps = wire_cost(bits_per_frame, plan.fps, plan.frames_per_message).forward_bps
    return motion_bps + repeated_bps + plan.layer_bps + SACK_BPS


def audio_wire_bps(bitrate_bps: int, packet_ms: int) -> float:
    """Speech with its headers."""
    return bitrate_bps + AUDIO_OVERHEAD_BYTES * 8 * 1000 / packet_ms


def ladder(profile: Profile, bits_per_frame: float = 40, layer_bps: int = 0) -> tuple[Plan, ...]:
    """The plans of a profile, the best first, each cheaper than the one before.

    The video layer goes first: half of it with the first step, all of it with the second; and what it has made worth
    coding more finely of the motion.
    """
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
    for rung, share in enumerate(LAYER_SHARES):
        share_bps = round(share * layer_bps)
        finer = level_of_quality(usual_quality(share_bps / 1000)) - BASE_LEVEL
        wanted[rung] = replace(wanted[rung], layer_bps=share_bps, level=wanted[rung].level + finer)
    wanted = [
        replace(plan, camera_bps=max(LEAST_CAMERA_BPS, profile.camera_bps >> rung)) for rung, plan in enumerate(wanted)
    ]
    plans: list[Plan] = []
    for plan in wanted:
        if not plans or plan.wire_bps(bits_per_frame) < plans[-1].wire_bps(bits_per_frame):
            plans.append(plan)
    return tuple(plans)


def guarded(profile: Profile, plans: tuple[Plan, ...]) -> tuple[Plan, ...]:
    """The plans of a ladder on a link that loses much: the best rungs guarded, the last ones as they were."""
    frames, _, repeats = profile.guard
    best = [
        replace(
            plan,
            frames_per_message=frames,
            redundant_frames=repeats,
            audio_bps=min(audio_bps, profile.audio_bps),
            audio_packet_ms=packet_ms,
        )
        for plan, (audio_bps, packet_ms) in zip(plans, GUARDED_AUDIO, strict=False)
    ]
    return (*best[: len(plans) - 2], *plans[min(len(best), len(plans) - 2) :])


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

    def __init__(self, profile: str = "default", *, bits_per_frame: float = 40, layer_bps: int = 0) -> None:
        if profile not in PROFILES:
            raise BadInput(f"rate profile is {profile!r}, allowed are {', '.join(PROFILES)}")
        if not 1 <= bits_per_frame <= 2000:
            raise BadInput(f"bits_per_frame is {bits_per_frame:g}, allowed are 1 to 2000")
        self.profile = PROFILES[profile]
        self.bits_per_frame = bits_per_frame
        """What a frame takes; may be corrected by what the encoder measures."""
        self.plans = ladder(self.profile, bits_per_frame, layer_bps)
        self.guarded_plans = guarded(self.profile, self.plans)
        self.rung = 0
        """Which of the plans is followed; 0 is the best."""
        self.guarded = False
        """Whether it is one of `guarded_plans`, where little is lost with fewer repeats."""
        self.camera = False
        """Whether what the camera sees is shown."""
        self.steps = 0
        """How often the rung has changed."""
        self._changed_us = 0
        self._quiet_from_us: int | None = None
        self._heard_us: int | None = None
        self.queue_ms = 0.0
        self._rtts_ms: deque[float] = deque(maxlen=RTTS)
        self._rtt_least_ms: float | None = None
        self._blocked_until_us = [0] * len(self.plans)
        self._blocks = [0] * len(self.plans)
        self._climbed_us: int | None = None
        self._back_to = len(self.plans) - 2
        self._before_silence: int | None = None
        self._loss = 0.0
        self._calm_from_us: int | None = None
        self._losses: deque[float] = deque(maxlen=LOSS_REPORTS)
        self._loss_before: float | None = None
        self._loss_is_random_until_us = 0

    @property
    def plan(self) -> Plan:
        plan = (self.guarded_plans if self.guarded else self.plans)[self.rung]
        if self._loss < MUCH_LOSS:
            plan = replace(plan, redundant_frames=min(plan.redundant_frames, self.profile.guard[1]))
        return replace(plan, level=min(plan.level, LEVELS - 1))

    def update(self, feedback: Feedback) -> Plan:
        """Takes one report."""
        now_us = feedback.now_us
        self._heard_us = now_us
        delay_ms = self._queueing_ms(feedback)
        growing = delay_ms > self.queue_ms + 15
        self.queue_ms = delay_ms
        settled = now_us - self._changed_us >= SETTLE_US
        if delay_ms > STEADY_MS:
            self._quiet_from_us = None
        elif self._quiet_from_us is None:
            self._quiet_from_us = now_us

        self._guard(feedback, queue=delay_ms > QUEUE_MS)
        if self._before_silence is not None and delay_ms <= STEADY_MS:
            # What was silent was the link, not too narrow: nothing is learned from going down.
            self._go_to(now_us, min(self.rung, self._before_silence))
            self._before_silence = None
        elif delay_ms > SEVERE_MS and (settled or growing):
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
            if self._before_silence is None:
                self._before_silence = self.rung
            self._quiet_from_us = None
            self._go_to(now_us, self.rung + 1)
        return self.plan

    def show_camera(self, on: bool) -> None:
        """What the camera sees is shown, which takes more; or no more."""
        self.camera = on

    def _queueing_ms(self, feedback: Feedback) -> float:
        """What the reported delay and the round trip's growth agree on.

        The report measures from the camera on, so that a busy machine's delays are in it, and a round trip may be
        that of a report which was lost and repeated. A full queue is in both.
        """
        if feedback.rtt_ms is None:
            return feedback.delay_ms
        self._rtts_ms.append(feedback.rtt_ms)
        shortest_ms, least_ms = min(self._rtts_ms), self._rtt_least_ms
        # Forgets a shorter way within some minutes: 0.1 ms a report.
        self._rtt_least_ms = shortest_ms if least_ms is None else min(shortest_ms, least_ms + 0.1)
        if feedback.delay_ms <= STEADY_MS / 2:
            return min(shortest_ms - self._rtt_least_ms, QUEUE_MS)
        return min(feedback.delay_ms, feedback.rtt_ms - self._rtt_least_ms + STEADY_MS / 2)

    def _rung_for(self, received_bps: float, *, drain: bool) -> int:
        """The best rung below this one that fits into what gets through."""
        last = len(self.plans) - 1
        if drain:
            return last
        for rung in range(self.rung + 1, last):
            if received_bps and self._wire_bps(rung) <= SHARE * received_bps:
                return rung
        return max(self.rung, last - 1) if received_bps else min(self.rung + 1, last)

    def _wire_bps(self, rung: int) -> float:
        plan = self.plans[rung]
        more_bps = plan.camera_bps - plan.layer_bps if self.camera else 0
        return plan.wire_bps(self.bits_per_frame) + more_bps

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

    def _guard(self, feedback: Feedback, *, queue: bool) -> None:
        """Keeps the mean loss, and decides whether plans are guarded."""
        if queue:
            return  # a full queue loses too, and more headers would not help it
        now_us = feedback.now_us
        self._loss += LOSS_WEIGHT * (feedback.loss - self._loss)
        self._losses.append(feedback.loss)
        if self._loss >= CALM_LOSS:
            self._calm_from_us = None
        elif self._calm_from_us is None:
            self._calm_from_us = now_us
        if self._loss >= GUARD_LOSS:
            self.guarded = True
        elif self._calm_from_us is not None and now_us - self._calm_from_us >= CALM_US:
            self.guarded = False

    def _loss_asks_for_less(self, feedback: Feedback, settled: bool) -> bool:
        """Tries one rung less against loss, once; True while that is being tried."""
        now_us = feedback.now_us
        if self._loss_before is not None:
            if now_us - self._changed_us < LOSS_TRIAL_US:
                return True
            if sum(self._losses) / len(self._losses) > 0.6 * self._loss_before:
                self._loss_is_random_until_us = now_us + RANDOM_LOSS_US
                self._loss_before = None
                self._go_to(now_us, self.rung - 1)
                return True
            self._loss_before = None
            for above in range(self.rung):  # it was a limit that lost
                self._blocked_until_us[above] = max(self._blocked_until_us[above], now_us + BLOCK_US)
        if len(self._losses) < LOSS_REPORTS or min(self._losses) < LOSS or now_us < self._loss_is_random_until_us:
            return False
        if settled and self.rung < len(self.plans) - 2:
            self._loss_before = sum(self._losses) / len(self._losses)
            self._losses.clear()
            self._go_to(now_us, self.rung + 1)
        return True

    def _go_to(self, now_us: int, rung: int) -> None:
        if rung == self.rung:
            return
        self.rung = rung
        self.steps += 1
        self._changed_us = now_us


class FixedRate:
    """One plan, whatever the other side reports."""

    rung = 0

    def __init__(self, plan: Plan) -> None:
        self.plan = plan

    def update(self, feedback: Feedback) -> Plan:
        return self.plan

    def tick(self, now_us: int) -> Plan:
        return self.plan

    def show_camera(self, on: bool) -> None:
        pass
