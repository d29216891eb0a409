"""Counts and measures a call while it runs: the page's numbers once a second, and the report at its end."""

from __future__ import annotations

import logging
import time
from collections import deque
from typing import Any, Final

from kilocall.call.audio import CallAudio
from kilocall.call.call_load import CallLoad
from kilocall.call.call_traffic import CallTraffic
from kilocall.call.link import Link
from kilocall.call.milestones import Milestones
from kilocall.call.report import (
    CallReport,
    LayerCounts,
    RateInUse,
    Rates,
    Sample,
    Sound,
    Stage,
    h264_kbps,
    memory_mib,
)
from kilocall.call.settings import CallSettings
from kilocall.call.shown_pictures import ShownPictures
from kilocall.control.rate_control import RateControl
from kilocall.control.session import Session
from kilocall.proto.motion_packet import TIMES_MS
from kilocall.receiver.live import ReceivePipeline, Rendered
from kilocall.runtime.clock import now_us
from kilocall.runtime.worker import Milliseconds
from kilocall.sender.live import SendPipeline

__all__ = ["CallStatistics"]

logger = logging.getLogger(__name__)

SAMPLE_EVERY_S: Final = 10.0
MOST_SAMPLES: Final = 1000
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
        self.shown = ShownPictures()
        """Of the other side."""
        self.load = CallLoad(sending, receiving, family=settings.family, fps=settings.fps)
        self._settings, self._session, self._link = settings, session, link
        self._sending, self._receiving, self._audio, self._rate = sending, receiving, audio, rate
        now = self._looked_at = time.monotonic()
        self._milestones, self._traffic = Milestones(now), CallTraffic(now)
        self._sent_before = 0
        self._samples: deque[Sample] = deque(maxlen=MOST_SAMPLES)

    # What happens

    def paired(self) -> None:
        """Two are in the room."""
        self._milestones.paired(time.monotonic())

    def lost(self) -> None:
        """The connection is gone, or about to be replaced."""
        self._milestones.lost(time.monotonic())

    def opened(self) -> None:
        """Another connection, whose traffic is counted from nothing."""
        now = self._looked_at = time.monotonic()
        self._milestones.opened(now)
        self._traffic.opened(now)

    def phase(self) -> None:
        """The session's phase may have changed."""
        self._milestones.phase(now_us(), self._session.phase, self._session.reason)

    def picture(self, rendered: Rendered) -> int:
        """A picture of the other side is ready; how long ago it was captured, microseconds."""
        now = time.monotonic()
        after_s = self._milestones.picture(now)
        if after_s is not None:
            logger.info("first picture of the other side after %.0f ms", 1000 * after_s)
        session = self._session
        if session.same_clock:
            delay_us = (rendered.made_us - rendered.time_us) % _WRAP_US
            delay_ms: float | None = (delay_us + self._audio.av_sync.picture_us) / 1000
        else:
            delay_ms = None
            rtt_ms = session.rtt_ms or 0.0
            delay_us = int(rendered.playout_us + 500 * rtt_ms)
        face_since_us = session.remote.face_since_us if session.remote.face else None
        self.shown.add(now, rendered.made_us, delay_ms=delay_ms, face_since_us=face_since_us)
        return delay_us

    # Once a second

    def look(self) -> None:
        """Counts the traffic since the last look, and makes the numbers anew."""
        peer = self._link.peer
        now = time.monotonic()
        seconds, self._looked_at = now - self._looked_at, now
        if peer is None or seconds <= 0:
            return
        exchanged = self._session.confirmed is not None and self._milestones.first_picture is not None
        packets = self._sending.motion.packets_sent, self._receiving.motion.jitter.received
        out, into = self._traffic.look(now, seconds, peer.traffic(), packets=packets, exchanged=exchanged)
        for text in self.load.look(now, seconds, opened=self._session.phase == "open"):
            logger.warning("%s", text)
        self.numbers = self._make_numbers(now, seconds, out, into)

    def _make_numbers(self, now: float, seconds: float, out: Rates, into: Rates) -> dict[str, Any]:
        sending, receiving, session = self._sending, self._receiving, self._session
        pictures, delay_ms = self.shown.look(now)
        sent, self._sent_before = sending.motion.sent_frames - self._sent_before, sending.motion.sent_frames
        if delay_ms is None and session.rtt_ms is not None and pictures:
            delay_ms = receiving.motion.jitter.delay_us / 1000 + session.rtt_ms / 2
        fps_out, fps_in = sent / seconds, pictures / seconds
        total_s = now - self._milestones.began
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
        now, jitter = time.monotonic(), receiving.motion.jitter
        span = max(self._traffic.seconds, 1e-6)
        return CallReport(
            room=self._link.address.room,
            profile=self._settings.profile,
            **self._milestones.report(now),
            **self._traffic.report(),
            **self.shown.report(now),
            phase=session.phase,
            reason=session.reason,
            connections=self._link.connections,
            same_clock=session.same_clock,
            payload_bits_per_frame=sending.motion.payload_bits_per_frame,
            layer=self._layer(),
            frames_sent=sending.motion.sent_frames,
            packets_sent=sending.motion.packets_sent,
            key_packets=sending.motion.key_packets,
            frames_per_message=sending.rate.frames_per_message,
            rate_out=RateInUse.of(sending.rate.pace, sending.rate.fps, sending.rate.limited_by),
            rate_in=RateInUse.of(receiving.rate.pace, receiving.rate.pace.fps, receiving.rate.pace.bound),
            fps_out=sending.motion.sent_frames / span,
            fps_in=self.shown.count / span,
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
            sound=self._sound(),
            close_ms=close_ms,
            remarks=self.load.remarks,
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
