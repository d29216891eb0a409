"""Counts and measures a call while it runs: the page's numbers once a second, and the report at its end."""

from __future__ import annotations

import logging
import time
from collections import deque
from typing import Any, Final

from kilocall.call.audio import CallAudio
from kilocall.call.link import Link
from kilocall.call.report import (
    CallReport,
    Delays,
    LayerCounts,
    Minutes,
    Pauses,
    PhaseChange,
    RateInUse,
    Rates,
    Sample,
    Sound,
    Stage,
    TrafficMeter,
    Window,
    h264_kbps,
    memory_mib,
    percentile,
)
from kilocall.call.settings import CallSettings
from kilocall.control.rate_control import RateControl
from kilocall.control.session import Session
from kilocall.model.family import DEFAULT_FAMILY
from kilocall.proto.motion_packet import TIMES_MS
from kilocall.receiver.live import ReceivePipeline, Rendered
from kilocall.runtime.clock import now_us
from kilocall.runtime.overload_monitor import OverloadMonitor
from kilocall.runtime.worker import Milliseconds
from kilocall.sender.live import SendPipeline

__all__ = ["CallStatistics"]

logger = logging.getLogger(__name__)

#: After both pictures have gone over, so long until the rates count as steady.
SETTLE_S: Final = 2.0
#: After the last motion and speech, so long until a connection counts as idle.
IDLE_AFTER_S: Final = 5.0
SAMPLE_EVERY_S: Final = 10.0
MOST_SAMPLES: Final = 1000
MOST_PHASES: Final = 200
_WRAP_US: Final = TIMES_MS * 1000


class CallStatistics:
    """Is told what happens to the call, and looks at it once a second."""

    def __init__(
        self,
        settings: CallSettings,
        session: Session,
        link: Link,
        sending: SendPipeline,
        receiving: ReceivePipeline,
        audio: CallAudio,
        rate: RateControl,
    ) -> None:
        self.numbers: dict[str, Any] = {"type": "numbers"}
        """What the page shows, as of the last look."""
        self.pictures = 0
        """Shown of the other side."""
        self.last_picture_us = 0
        """When the newest of them was ready, on this side's clock."""
        self.receives = OverloadMonitor("shows", settings.family, settings.fps, light=DEFAULT_FAMILY)
        self.sends = OverloadMonitor("sends", settings.family, settings.fps, light=DEFAULT_FAMILY)
        """Their texts say what this computer is too slow for."""
        self._remarks: dict[OverloadMonitor, str] = {}
        self._frames_due = 0.0
        self._settings, self._session, self._link = settings, session, link
        self._sending, self._receiving, self._audio, self._rate = sending, receiving, audio, rate
        self._began = time.monotonic()
        self._paired_at: float | None = None
        self._opened_at: float | None = None
        self._lost_at: float | None = None
        self._first_picture: tuple[float, float] | None = None
        self._reconnects: list[float] = []
        self._pictures_before = 0
        self._sent_before = 0
        self._packets_before = (0, 0)
        self._longest_gap_us = 0
        self._delays, self._pauses, self._minutes = Delays(), Pauses(), Minutes()
        self._meter_out, self._meter_in = TrafficMeter(), TrafficMeter()
        self._whole, self._steady, self._idle = Window(), Window(), Window()
        self._busy_at = time.monotonic()
        self._settled_at: float | None = None
        self._looked_at = time.monotonic()
        self._samples: deque[Sample] = deque(maxlen=MOST_SAMPLES)
        self._phases: deque[PhaseChange] = deque(maxlen=MOST_PHASES)

    # What happens

    def paired(self) -> None:
        """Two are in the room."""
        self._paired_at = self._paired_at or time.monotonic()

    def lost(self) -> None:
        """The connection is gone, or about to be replaced."""
        self._lost_at = time.monotonic()

    def opened(self) -> None:
        """Another connection, whose traffic is counted from nothing."""
        now = self._looked_at = self._busy_at = time.monotonic()
        self._opened_at = self._opened_at or now
        if self._lost_at is not None:
            self._reconnects.append(now - self._lost_at)
            self._lost_at = None
        self._meter_out.new_connection()
        self._meter_in.new_connection()

    def phase(self) -> None:
        """The session's phase may have changed."""
        session, last = self._session, self._phases[-1] if self._phases else None
        if last is None or (last.phase, last.reason) != (session.phase, session.reason):
            self._phases.append(PhaseChange(at_us=now_us(), phase=session.phase, reason=session.reason))

    def picture(self, rendered: Rendered) -> int:
        """A picture of the other side is ready; how long ago it was captured, microseconds."""
        now = time.monotonic()
        if self._first_picture is None:
            since = self._paired_at or now
            self._first_picture = (now - since, now - (self._opened_at or now))
            logger.info("first picture of the other side after %.0f ms", 1000 * self._first_picture[0])
        session = self._session
        if session.same_clock:
            delay_us = (rendered.made_us - rendered.time_us) % _WRAP_US
            delay_ms: float | None = (delay_us + self._audio.av_sync.picture_us) / 1000
        else:
            delay_ms = None
            rtt_ms = session.rtt_ms or 0.0
            delay_us = int(rendered.playout_us + 500 * rtt_ms)
        if delay_ms is not None:
            self._delays.add(delay_ms)
        self._minutes.add(now, delay_ms)
        if self.last_picture_us and session.remote.face:
            # A pause in which no face was seen is no gap of the transport.
            since_us = max(self.last_picture_us, session.remote.face_since_us)
            self._longest_gap_us = max(self._longest_gap_us, rendered.made_us - since_us)
            self._pauses.add(rendered.made_us, rendered.made_us - since_us)
        self.last_picture_us = rendered.made_us
        self.pictures += 1
        return delay_us

    # Once a second

    def look(self) -> None:
        """Counts the traffic since the last look, and makes the numbers anew."""
        peer = self._link.peer
        now = time.monotonic()
        seconds, self._looked_at = now - self._looked_at, now
        if peer is None or seconds <= 0:
            return
        sent, received = peer.traffic()
        out, into = self._meter_out.look(sent), self._meter_in.look(received)
        self._whole.add(seconds, out, into)
        exchanged = self._session.confirmed is not None and self._first_picture is not None
        if exchanged and self._settled_at is None:
            self._settled_at = now + SETTLE_S
        if self._settled_at is not None and now >= self._settled_at + seconds:
            self._steady.add(seconds, out, into)
        self._watch_load(seconds)
        packets = self._sending.motion.packets_sent, self._receiving.motion.jitter.received
        if packets != self._packets_before or out["audio"] or into["audio"]:
            self._packets_before, self._busy_at = packets, now
        elif now - seconds >= self._busy_at + IDLE_AFTER_S:
            self._idle.add(seconds, out, into)
        self.numbers = self._make_numbers(seconds, Rates.of(out, seconds), Rates.of(into, seconds))

    def _make_numbers(self, seconds: float, out: Rates, into: Rates) -> dict[str, Any]:
        sending, receiving, session = self._sending, self._receiving, self._session
        pictures, self._pictures_before = self.pictures - self._pictures_before, self.pictures
        sent, self._sent_before = sending.motion.sent_frames - self._sent_before, sending.motion.sent_frames
        delay_ms = self._delays.take_recent()
        if delay_ms is None and session.rtt_ms is not None and pictures:
            delay_ms = receiving.motion.jitter.delay_us / 1000 + session.rtt_ms / 2
        fps_out, fps_in = sent / seconds, pictures / seconds
        self._minutes.look(time.monotonic())
        total_s = time.monotonic() - self._began
        if not self._samples or total_s - self._samples[-1].seconds >= SAMPLE_EVERY_S:
            self._samples.append(
                Sample(seconds=total_s, memory_mib=memory_mib(), delay_ms=delay_ms, out_kbps=out.total, fps_in=fps_in)
            )
        return {
            "type": "numbers",
            "counted_at": time.time(),
            "out_kbps": round(out.total, 2),
            "in_kbps": round(into.total, 2),
            "out_motion_kbps": round(out.data, 2),
            "in_motion_kbps": round(into.data, 2),
            "audio_out_kbps": round(out.audio, 2),
            "audio_in_kbps": round(into.audio, 2),
            "payload_bits_per_frame": round(sending.motion.payload_bits_per_frame, 1),
            "fps_out": round(fps_out, 1),
            "fps_in": round(fps_in, 1),
            "loss_pct": _rounded(None if session.loss is None else 100 * session.loss),
            "rtt_ms": _rounded(session.rtt_ms),
            "delay_ms": _rounded(delay_ms),
            "rate_out": sending.rate.fps,
            "rate_out_limit": sending.rate.limited_by,
            "rate_in": receiving.rate.pace.fps,
            "rate_in_limit": receiving.rate.pace.bound,
            "frames_per_message": sending.rate.frames_per_message,
            "h264_kbps": round(h264_kbps(sending.rate.fps), 1),
            "sender_ms": _rounded(sending.crop_ms.percentile(0.5)),
            "render_ms": _rounded(receiving.render_ms.percentile(0.5)),
            "gallery_pictures": self._own_pictures(),
            "gallery_kb": round(self._own_bytes() / 1000, 1),
            "dropped": self._dropped(),
        }

    def _dropped(self) -> dict[str, int]:
        receiving, peer = self._receiving, self._link.peer
        return {
            "camera_frames": self._sending.camera.dropped,
            "late_packets": receiving.motion.jitter.late,
            "skipped_frames": receiving.motion.jitter.skipped,
            "inbox": receiving.inbox_dropped + (peer.motion.dropped + peer.control.dropped if peer is not None else 0),
            "malformed": receiving.malformed + (peer.malformed if peer is not None else 0) + self._session.malformed,
            "not_sent": peer.motion_dropped if peer is not None else 0,
        }

    def _watch_load(self, seconds: float) -> None:
        """Whether the two model threads make all pictures that there are to make."""
        sending, receiving = self._sending, self._receiving
        opened = self._session.phase == "open"
        if opened and not sending.camera_off:
            self._frames_due += sending.rate.wanted_fps * seconds
            each_ms = (sending.crop_ms.percentile(0.5) or 0.0) + (sending.motion_ms.percentile(0.5) or 0.0)
            at_us, slow_by = round(1e6 * self._looked_at), sending.rate.pace.slow_by
            self.sends.look(at_us, self._frames_due, sending.frames, each_ms, slow_by)
        else:
            self.sends.reset()
        if opened and receiving.watched and receiving.speaker.shown_hash is not None:
            # By the frames' own times: a thread that is inside a network for seconds takes them in bursts.
            due, at_us = receiving.rate.wanted + receiving.motion.jitter.skipped, receiving.last_time_us
            render_ms, slow_by = receiving.render_ms.percentile(0.5), receiving.rate.pace.slow_by
            self.receives.look(at_us, due, receiving.rendered, render_ms, slow_by)
        else:
            self.receives.reset()
        for stage in (self.receives, self.sends):
            if stage.text and stage not in self._remarks:
                logger.warning("%s", stage.text)
            if stage.text:
                self._remarks[stage] = stage.text

    def _own_pictures(self) -> int:
        """Of this side's speaker that the other side holds."""
        return 0 if self._session.confirmed is None else 1 + len(self._session.references.confirmed)

    def _own_bytes(self) -> int:
        """Of all pictures of this side's speaker that were offered."""
        source = self._sending.pictures.source
        return self._session.references.own_bytes + (len(source.packed.data) if source is not None else 0)

    # At the end

    def report(self, close_ms: float) -> CallReport:
        """The whole call; closing it took `close_ms`."""
        sending, receiving, session = self._sending, self._receiving, self._session
        first, jitter = self._first_picture, receiving.motion.jitter
        whole, steady, idle = self._whole, self._steady, self._idle
        delays = list(self._delays.all)
        span = max(whole.seconds, 1e-6)
        return CallReport(
            room=self._link.address.room,
            profile=self._settings.profile,
            seconds=time.monotonic() - self._began,
            phase=session.phase,
            reason=session.reason,
            phases=list(self._phases),
            connections=self._link.connections,
            reconnect_s=self._reconnects,
            first_picture_ms=1000 * first[0] if first else None,
            first_picture_after_open_ms=1000 * first[1] if first else None,
            same_clock=session.same_clock,
            delay_p50_ms=percentile(delays, 0.5),
            delay_p95_ms=percentile(delays, 0.95),
            out=Rates.of(whole.out, whole.seconds),
            into=Rates.of(whole.into, whole.seconds),
            steady_out=Rates.of(steady.out, steady.seconds),
            steady_into=Rates.of(steady.into, steady.seconds),
            idle_out=Rates.of(idle.out, idle.seconds),
            idle_into=Rates.of(idle.into, idle.seconds),
            payload_bits_per_frame=sending.motion.payload_bits_per_frame,
            layer=self._layer(),
            frames_sent=sending.motion.sent_frames,
            packets_sent=sending.motion.packets_sent,
            key_packets=sending.motion.key_packets,
            frames_per_message=sending.rate.frames_per_message,
            rate_out=RateInUse.of(sending.rate.pace, sending.rate.fps, sending.rate.limited_by),
            rate_in=RateInUse.of(receiving.rate.pace, receiving.rate.pace.fps, receiving.rate.pace.bound),
            fps_out=sending.motion.sent_frames / span,
            fps_in=self.pictures / span,
            pictures=self.pictures,
            longest_gap_ms=self._longest_gap_us / 1000,
            gaps_ms=self._pauses.report(),
            loss_pct=100 * session.loss if session.loss is not None else None,
            rtt_ms=session.rtt_ms,
            packets_received=jitter.received,
            packets_late=jitter.late,
            packets_duplicate=jitter.duplicates,
            malformed=receiving.malformed + session.malformed,
            not_proven=self._link.not_proven,
            verified=session.acquaintance.verified,
            dropped=self._dropped(),
            pictures_sent=session.pictures.sent,
            pictures_from_cache=session.pictures.from_cache,
            gallery_pictures=self._own_pictures(),
            gallery_bytes=session.references.sent_bytes,
            gallery_held=len(session.references.held),
            rate_steps=self._rate.steps,
            stages_ms={
                "crop_and_landmarks": _stage(sending.crop_ms),
                "motion_and_code": _stage(sending.motion_ms),
                "decode": _stage(receiving.decode_ms),
                "render_and_jpeg": _stage(receiving.render_ms),
            },
            memory_mib=memory_mib(),
            samples=list(self._samples),
            minutes=self._minutes.report(time.monotonic()),
            sound=self._sound(),
            close_ms=close_ms,
            remarks=list(self._remarks.values()),
        )

    def _layer(self) -> LayerCounts:
        sent, received = self._sending.layer, self._receiving.layer
        return LayerCounts(
            sent=sent.frames,
            sent_keys=sent.key_frames,
            sent_bytes=sent.bytes_sent,
            decoded=received.frames,
            missing=received.lost_frames,
            refused=received.refused,
            used=self._receiving.renderer.layer_used,
            camera_pictures=self._receiving.renderer.camera_pictures,
        )

    def _sound(self) -> Sound:
        loudspeaker = self._audio.loudspeaker
        return Sound(
            sent_blocks=self._audio.speech.blocks,
            received_s=loudspeaker.received_samples / 48_000,
            heard_s=loudspeaker.heard_samples / 48_000,
            level_db=loudspeaker.level_db,
            hold_ms=loudspeaker.hold_us / 1000,
            onsets_us=list(loudspeaker.onsets_us),
            microphone_began_us=list(self._audio.microphone_began),
        )


def _stage(of: Milliseconds) -> Stage:
    return Stage(p50=of.percentile(0.5), p95=of.percentile(0.95))


def _rounded(value: float | None) -> float | None:
    return None if value is None else round(value, 1)
