"""One party of a call: camera and model threads, the link to the other side, and what a page may ask for.

    camera -> Sending (thread) -> Session -> Peer  ~~~  Peer -> Session -> Receiving (thread) -> page

The event loop here only moves bytes. Pictures, landmarks and keypoints are made on the two model threads.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import time
from collections import deque
from collections.abc import Callable
from dataclasses import replace
from datetime import datetime
from fractions import Fraction
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, Final

from aiortc import MediaStreamTrack

from kilocall.call.audio_bridge import Holds, Loudspeaker, PageMedia, Speech, hear, pace, play_file, read_sound
from kilocall.call.link import Link, RoomAddress, Tasks, find_room
from kilocall.call.rate_control import Plan, RateControl
from kilocall.call.recording import Recorder, Recording
from kilocall.call.report import (
    CallReport,
    Delays,
    Pauses,
    PhaseChange,
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
from kilocall.call.session import PictureCache, Session, greeting
from kilocall.call.settings import CallSettings
from kilocall.call.virtual_camera import VirtualCamera, why_unavailable
from kilocall.model.family import Picture
from kilocall.proto.errors import BadInput, KilocallError
from kilocall.proto.motion_packet import TIMES_MS, MotionPacket
from kilocall.receiver.live import Played, Receiving, ReceivingEvents, Rendered
from kilocall.receiver.render import View
from kilocall.runtime.files import write_whole
from kilocall.runtime.lag import Excess, LoopLag
from kilocall.runtime.peer import Message, Peer, PeerSettings
from kilocall.runtime.worker import Worker, deliver_to
from kilocall.sender.camera import PageCamera, open_camera
from kilocall.sender.live import OwnSource, Sending, SendingEvents

__all__ = ["PICTURE", "PREVIEW", "CallNode", "program_version"]

logger = logging.getLogger(__name__)

PICTURE, PREVIEW = 1, 2
"""Kinds of binary messages to the page."""
REPORT_EVERY_S: Final = 2.0
#: While nothing comes there is nothing to report; a sign of life now and then is enough.
IDLE_REPORT_EVERY_S: Final = 10.0
TICK_S: Final = 1.0
#: After both pictures have gone over, so long until the rates count as steady.
SETTLE_S: Final = 2.0
SAMPLE_EVERY_S: Final = 10.0
SOURCE_WITHIN_S: Final = 3.0
MOST_SAMPLES: Final = 1000
MOST_PHASES: Final = 200
_WRAP_US: Final = TIMES_MS * 1000


def _now_us() -> int:
    return time.monotonic_ns() // 1000


def program_version() -> str:
    try:
        return version("kilocall")
    except PackageNotFoundError:
        return "from source"


class CallNode:
    """Runs one call. `run` returns its report; `stop` ends it from the event loop.

    `on_message` and `on_binary` (kind, time, JPEG) are for a page; they are called on the event loop, on which the
    node is made.
    """

    def __init__(
        self,
        settings: CallSettings,
        *,
        on_message: Callable[[dict[str, Any]], None] = lambda message: None,
        on_binary: Callable[[int, int, bytes], None] = lambda kind, time_us, jpeg: None,
    ) -> None:
        self.settings = settings
        self.address: RoomAddress = find_room(settings.room, settings.server)
        self.on_message, self.on_binary = on_message, on_binary
        self.speech, self.loudspeaker, self._holds = Speech(), Loudspeaker(), Holds()
        self._sound = read_sound(settings.microphone) if settings.microphone is not None else None
        self._tasks = Tasks()
        self.link = Link(
            self.address,
            PeerSettings(ice_servers=settings.ice_servers, relay_only=settings.relay_only, loopback=settings.loopback),
            self,
            self._tasks,
        )
        self._ended = asyncio.Event()
        self._source_taken = asyncio.Event()
        self._why_ended = ""
        self._camera = open_camera(settings.camera, settings.fps)
        page_camera = self._camera if isinstance(self._camera, PageCamera) else None
        self.media = PageMedia(self.speech, self.loudspeaker, page_camera, self._tasks.own)
        self.rate = RateControl(settings.profile)
        deliver = deliver_to(asyncio.get_running_loop())
        keep = settings.keep_pictures is not None
        self.sending = Sending(
            self._camera,
            SendingEvents(
                packet=self._send_packet,
                face=self._own_face,
                source=self._own_source,
                preview=lambda jpeg, time_us: self.on_binary(PREVIEW, time_us, jpeg),
                overlay=self.on_message,
                problem=self._problem,
            ),
            deliver,
            fps=settings.fps,
            engine=settings.engine,
            threads=settings.threads,
            models=settings.models,
            source=settings.source,
            size=settings.size if settings.size > 256 else None,
            plan=self.rate.plan,
            keep=keep,
        )
        self.receiving = Receiving(
            ReceivingEvents(
                picture=self._picture,
                ready=lambda name: self._with_session(lambda session: session.picture_ready(name)),
                refused=lambda name, why: self._with_session(lambda session: session.picture_refused(name, why)),
                problem=self._problem,
            ),
            deliver,
            engine=settings.engine,
            threads=settings.threads,
            models=settings.models,
            keep=keep,
        )
        self.receiving.watched = settings.headless or settings.virtual_camera
        self.session: Session | None = None
        self.view = View()
        self._recorder: Recorder | None = None
        self._virtual: VirtualCamera | None = None
        self._virtual_reason = why_unavailable()
        self._remote_hash: str | None = None
        self.picture_jpeg: bytes | None = None
        """The picture shown last."""
        self.refusal: str | None = None
        """Why the meeting point or the other side refused."""
        self._remote_taken_at: str | None = None
        # Numbers
        self._began = time.monotonic()
        self._paired_at: float | None = None
        self._opened_at: float | None = None
        self._lost_at: float | None = None
        self._first_picture: tuple[float, float] | None = None
        self._reconnects: list[float] = []
        self._pictures = 0
        self._pictures_before = 0
        self._sent_before = 0
        self._last_picture_us = 0
        self._longest_gap_us = 0
        self._delays, self._pauses = Delays(), Pauses()
        self._meter_out, self._meter_in = TrafficMeter(), TrafficMeter()
        self._whole, self._steady = Window(), Window()
        self._settled_at: float | None = None
        self._looked_at = time.monotonic()
        self._samples: deque[Sample] = deque(maxlen=MOST_SAMPLES)
        self._microphone_began: deque[int] = deque(maxlen=20)
        self._phases: deque[PhaseChange] = deque(maxlen=MOST_PHASES)
        self._lag, self._send_ms = LoopLag(), Excess()
        self._reported_at = 0.0
        self._reported_packets = 0
        self._reported_bytes = 0
        self._numbers: dict[str, Any] = {"type": "numbers"}

    # Running

    async def run(self) -> CallReport:
        """The whole call. Raises KilocallError when it cannot begin: no camera, no model, refused by the room."""
        settings = self.settings
        workers: list[Worker] = [self.sending, self.receiving]
        for worker in workers:
            worker.start()
        closing = 0.0
        try:
            await asyncio.gather(*(asyncio.wrap_future(worker.ready) for worker in workers))
            self._make_session()
            if settings.virtual_camera:
                self._use_virtual_camera(True)
            self._tasks.own(self._call(), "link")
            self._tasks.own(self._tick(), "numbers")
            self._tasks.own(self._lag.watch(), "lag")
            self._tasks.own(pace(self.loudspeaker, self.media.play), "loudspeaker")
            if self._sound is not None:
                self._tasks.own(play_file(self._sound, self.speech, self._microphone_began.append), "microphone")
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._ended.wait(), settings.seconds)
        finally:
            began = time.monotonic()
            await self._close(workers)
            closing = time.monotonic() - began
        report = self._report(1000 * closing)
        if settings.keep_pictures is not None:
            await asyncio.to_thread(_keep, settings.keep_pictures, self.sending.kept, self.receiving)
        if settings.report is not None:
            await asyncio.to_thread(write_whole, settings.report, (report.model_dump_json(indent=2) + "\n").encode())
        if self.refusal is not None and not self._pictures:
            raise BadInput(self.refusal)
        return report

    def stop(self, why: str = "hung up") -> None:
        """Ends `run`; on the event loop's thread."""
        self._why_ended = self._why_ended or why
        self._ended.set()

    def _make_session(self) -> None:
        family, weights, codebook, size = self.sending.hello_facts()
        self.session = Session(
            greeting(family, weights, codebook, size, self.settings.fps),
            self.sending,
            self.receiving,
            rate=self.rate,
            clock_us=_now_us,
            cache=PictureCache(self.settings.cache),
            on_change=self._tell_state,
            on_plan=self._follow_plan,
        )
        if self.sending.source is not None:
            self.session.own_source(self.sending.source.packed)

    async def _call(self) -> None:
        # Whoever joins should have a picture to show; nobody waits long for one.
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self._source_taken.wait(), SOURCE_WITHIN_S)
        try:
            await self.link.run()
        except BadInput as error:
            reason = self.refusal = str(error)
            self._with_session(lambda session: session.closed("refused", reason))
            if self.settings.headless:
                self.stop(reason)

    async def _close(self, workers: list[Worker]) -> None:
        session = self.session
        if session is not None:
            with contextlib.suppress(Exception):  # whatever goes wrong with a farewell, the rest must be closed
                await asyncio.wait_for(self.link.close(lambda: session.bye(self._why_ended or "hung up")), 1.0)
        self._look_at_traffic()
        await self._tasks.close()
        await self.media.close()
        if self._recorder is not None:
            with contextlib.suppress(KilocallError, OSError):
                await self.stop_recording()
        await asyncio.gather(*(asyncio.to_thread(worker.close) for worker in workers))
        if self._virtual is not None:
            self._virtual.close()

    # The link's events

    def joined(self, address: RoomAddress, others: int) -> None:
        self.address = address
        session = self.session
        if session is not None and session.phase in ("alone", "lost", "ended") and not others:
            session.closed("alone", session.reason)
        self.on_message(self.hello())

    def paired(self) -> None:
        now = time.monotonic()
        if self._paired_at is None:
            self._paired_at = now
        if self.session is not None and self.session.phase == "open":
            self._lost_at = now  # a silent connection is being replaced
        self._with_session(lambda session: session.connecting())

    def opened(self, peer: Peer) -> None:
        now = time.monotonic()
        self._opened_at = self._opened_at or now
        if self._lost_at is not None:
            self._reconnects.append(now - self._lost_at)
            self._lost_at = None
        self._meter_out.new_connection()
        self._meter_in.new_connection()
        self._reported_bytes = 0
        self._reported_packets = 0
        self._looked_at = now
        self.receiving.restart()
        self._with_session(lambda session: session.opened(peer.send_control))
        self.sending.begin()
        peer.set_speech(bitrate_bps=self.rate.plan.audio_bps, packet_ms=self.rate.plan.audio_packet_ms)
        if peer.remote_audio is not None:
            self._tasks.own(hear(peer.remote_audio, self.loudspeaker), "remote speech")

    def motion(self, message: Message) -> None:
        self.receiving.push(message.data, message.arrived_us)

    def control(self, message: Message) -> None:
        self._with_session(lambda session: session.control(message.data, message.arrived_us))
        session = self.session
        if session is not None and session.phase == "refused":
            self.refusal = session.reason
            if self.settings.headless:
                self.stop(session.reason)

    def delivered(self, data: bytes) -> None:
        self._with_session(lambda session: session.delivered(data))

    def closed(self, reason: str) -> None:
        self.sending.pause()
        session = self.session
        if session is None:
            return
        if session.said_bye is not None:
            if session.greeted:
                session.closed("ended", f"the other side has left: {session.said_bye}")
            else:
                self.refusal = session.said_bye
                session.closed("refused", session.said_bye)
                if self.settings.headless:
                    self.stop(session.said_bye)
        else:
            self._lost_at = time.monotonic()
            logger.info("the connection is lost: %s", reason)
            session.closed("lost", reason)

    def wants_another(self) -> bool:
        return (self.session is not None and self.session.phase == "lost") or self.expects_motion()

    def expects_motion(self) -> bool:
        session = self.session
        return session is not None and session.phase == "open" and session.remote.face

    def left(self) -> None:
        session = self.session
        if session is not None and session.phase not in ("open", "refused"):
            session.closed("alone" if session.phase != "ended" else "ended", session.reason)

    def audio(self) -> MediaStreamTrack | None:
        return self.speech.track()

    # The threads' events

    def _send_packet(self, packet: MotionPacket, data: bytes) -> None:
        peer: Peer | None = self.link.peer
        if peer is not None and peer.send_motion(data):
            self._with_session(lambda session: session.motion_sent(packet))
            last_ms = packet.time_ms + (packet.frame_count - 1) * packet.spacing_us // 1000
            self._send_ms.add((_now_us() // 1000 - last_ms) % TIMES_MS)

    def _own_face(self, seen: bool, time_us: int) -> None:
        self._with_session(lambda session: session.own_face(seen, time_us))
        self._tell_state()

    def _own_source(self, source: OwnSource) -> None:
        self._source_taken.set()
        self._with_session(lambda session: session.own_source(source.packed))
        self.on_message(self.sources())
        self._tell_state()

    def _problem(self, text: str) -> None:
        self._source_taken.set()
        logger.error("%s", text)
        self.on_message({"type": "error", "text": text})
        if self.settings.headless and not (self.sending.alive and self.receiving.alive):
            self.refusal = text
            self.stop(text)

    def _picture(self, rendered: Rendered) -> None:
        now = time.monotonic()
        if self._first_picture is None:
            since = self._paired_at or now
            self._first_picture = (now - since, now - (self._opened_at or now))
            logger.info("first picture of the other side after %.0f ms", 1000 * self._first_picture[0])
        session = self.session
        if session is not None and session.same_clock:
            delay_us = (rendered.made_us - rendered.time_us) % _WRAP_US
            self._delays.add((delay_us + self._holds.picture_us) / 1000)
        else:
            rtt_ms = session.rtt_ms if session is not None and session.rtt_ms is not None else 0.0
            delay_us = int(rendered.playout_us + 500 * rtt_ms)
        if self._last_picture_us and session is not None and session.remote.face:
            # A pause in which no face was seen is no gap of the transport.
            since_us = max(self._last_picture_us, session.remote.face_since_us)
            self._longest_gap_us = max(self._longest_gap_us, rendered.made_us - since_us)
            self._pauses.add(rendered.made_us, rendered.made_us - since_us)
        self._last_picture_us = rendered.made_us
        self._pictures += 1
        self.picture_jpeg = rendered.jpeg
        made_ms = self.receiving.render_ms.percentile(0.5) or 0.0
        speaks = session is not None and not session.remote.muted and self.loudspeaker.received_samples
        behind_ms = self.media.behind_ms if speaks else 0.0
        holds = self._holds
        holds.follow(rendered.playout_us, made_ms, packet_ms=self.loudspeaker.packet_ms, behind_ms=behind_ms)
        self.loudspeaker.hold_us = holds.sound_us
        time_us = rendered.made_us - delay_us
        if holds.picture_us:
            later = asyncio.get_running_loop().call_later
            later(holds.picture_us / 1e6, self.on_binary, PICTURE, time_us, rendered.jpeg)
        else:
            self.on_binary(PICTURE, time_us, rendered.jpeg)

    # Once a second

    async def _tick(self) -> None:
        while True:
            await asyncio.sleep(TICK_S)
            await self._report_to_sender()
            if self.session is not None:
                self.session.own_lag_ms = self._send_ms.value
                self.session.loop_lag_ms = self._lag.milliseconds
                self.session.tick()
            self._look_at_traffic()
            self.on_message(self._numbers)
            self._tell_state()

    async def _report_to_sender(self) -> None:
        session, peer = self.session, self.link.peer
        now = time.monotonic()
        if session is None or peer is None or not session.greeted or now - self._reported_at < REPORT_EVERY_S - 0.1:
            return
        packets = self.receiving.jitter.received
        if packets == self._reported_packets and now - self._reported_at < IDLE_REPORT_EVERY_S:
            return
        total = peer.traffic()[1].total_bytes
        received, self._reported_bytes = total - self._reported_bytes, total
        self._reported_at, self._reported_packets = now, packets
        with contextlib.suppress(asyncio.CancelledError):
            answer = self.receiving.report(max(0, received))
            if not answer.cancelled():
                report = await asyncio.wrap_future(answer)
                if report is not None:
                    # What this machine itself was late by would look like a queue on the way.
                    report = replace(report, delay_ms=max(0, report.delay_ms - round(self._lag.milliseconds)))
                session.report(report)

    def _look_at_traffic(self) -> None:
        peer: Peer | None = self.link.peer
        now = time.monotonic()
        seconds, self._looked_at = now - self._looked_at, now
        if peer is None or seconds <= 0:
            return
        sent, received = peer.traffic()
        out, into = self._meter_out.look(sent), self._meter_in.look(received)
        self._whole.add(seconds, out, into)
        session = self.session
        exchanged = session is not None and session.confirmed is not None and self._first_picture is not None
        if exchanged and self._settled_at is None:
            self._settled_at = now + SETTLE_S
        if self._settled_at is not None and now >= self._settled_at + seconds:
            self._steady.add(seconds, out, into)
        self._numbers = self._make_numbers(seconds, Rates.of(out, seconds), Rates.of(into, seconds))

    def _make_numbers(self, seconds: float, out: Rates, into: Rates) -> dict[str, Any]:
        sending, receiving, session = self.sending, self.receiving, self.session
        pictures, self._pictures_before = self._pictures - self._pictures_before, self._pictures
        sent, self._sent_before = sending.sent_frames - self._sent_before, sending.sent_frames
        delay_ms = self._delays.take_recent()
        if delay_ms is None and session is not None and session.rtt_ms is not None and pictures:
            delay_ms = receiving.jitter.delay_us / 1000 + session.rtt_ms / 2
        fps_out, fps_in = sent / seconds, pictures / seconds
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
            "payload_bits_per_frame": round(sending.payload_bits / max(1, sending.sent_frames), 1),
            "fps_out": round(fps_out, 1),
            "fps_in": round(fps_in, 1),
            "loss_pct": _rounded(None if session is None or session.loss is None else 100 * session.loss),
            "rtt_ms": _rounded(session.rtt_ms if session is not None else None),
            "delay_ms": _rounded(delay_ms),
            "frames_per_message": sending.plan.frames_per_message,
            "h264_kbps": round(h264_kbps(min(sending.plan.fps, self.settings.fps)), 1),
            "sender_ms": _rounded(sending.crop_ms.percentile(0.5)),
            "render_ms": _rounded(receiving.render_ms.percentile(0.5)),
            "dropped": self._dropped(),
        }

    def _dropped(self) -> dict[str, int]:
        receiving = self.receiving
        peer = self.link.peer
        return {
            "camera_frames": self._camera.dropped,
            "late_packets": receiving.jitter.late,
            "skipped_frames": receiving.jitter.skipped,
            "inbox": receiving.inbox_dropped + (peer.motion.dropped + peer.control.dropped if peer is not None else 0),
            "malformed": receiving.malformed
            + (peer.malformed if peer is not None else 0)
            + (self.session.malformed if self.session is not None else 0),
            "not_sent": peer.motion_dropped if peer is not None else 0,
        }

    # What a page sees

    @property
    def numbers(self) -> dict[str, Any]:
        return self._numbers

    def hello(self) -> dict[str, Any]:
        settings = self.settings
        camera = settings.camera if settings.camera.isdecimal() else Path(settings.camera).name
        family, size = "", 256
        if self.session is not None:
            family, size = self.session.hello.family, self.session.hello.picture_size
        return {
            "type": "hello",
            "room": self.address.room,
            "link": self.address.link,
            "camera": camera,
            "family": family,
            "version": program_version(),
            "size": size,
        }

    def state(self) -> dict[str, Any]:
        session = self.session
        remote = session.remote if session is not None else None
        now_us = _now_us()
        return {
            "type": "state",
            "phase": session.phase if session is not None else "alone",
            "reason": session.reason if session is not None else "",
            "muted": self.speech.muted,
            "camera_off": self.sending.camera_off,
            "recording": self._recorder is not None,
            "own_face": self.sending.face_seen,
            "remote": {
                "present": bool(remote and remote.present),
                "face": bool(remote and remote.face),
                "since_ms": (now_us - remote.face_since_us) // 1000 if remote and remote.face_since_us else 0,
                "source_taken_at": self._remote_taken_at if remote and remote.picture_hash else None,
                "reconstructed": True,
                "camera_off": bool(remote and remote.camera_off),
                "muted": bool(remote and remote.muted),
            },
            "own_source_at": self.sending.source.taken_at or None if self.sending.source is not None else None,
            "remote_view": {"yaw": self.view.yaw, "pitch": self.view.pitch, "roll": self.view.roll},
            "virtual_camera": {
                "available": self._virtual_reason is None,
                "on": self._virtual is not None,
                "reason": self._virtual_reason,
            },
        }

    def sources(self) -> dict[str, Any]:
        sending = self.sending
        recent = [
            {"id": source.id, "taken_at": source.taken_at or None, "thumb": f"/api/sources/{source.id}.jpg"}
            for source in sending.recent
        ]
        return {"type": "sources", "recent": recent, "current": recent[0]["id"] if recent else None}

    def own_picture(self, source_id: str | None = None) -> Picture | None:
        """The own source picture, or one of the recent ones, as RGB."""
        if source_id is None:
            return self.sending.source.picture if self.sending.source is not None else None
        return next((source.picture for source in self.sending.recent if source.id == source_id), None)

    def remote_picture(self) -> bytes | None:
        """The other side's source picture, encoded as it came."""
        picture = self.session.remote_picture if self.session is not None else None
        return picture.data if picture is not None else None

    # What a page may ask for. What cannot be done raises KilocallError or OSError.

    def mute(self, on: bool) -> None:
        self.speech.muted = on
        self._say_media()

    def camera(self, on: bool) -> None:
        self.sending.camera_off = not on
        self._say_media()

    def calibrate(self, on: bool) -> None:
        self.sending.overlay_wanted = on

    async def take_source(self) -> None:
        await asyncio.wrap_future(self.sending.take_source())

    async def use_source(self, source_id: str) -> None:
        await asyncio.wrap_future(self.sending.use_recent(source_id))
        self.on_message(self.sources())

    async def upload(self, data: bytes) -> None:
        await asyncio.wrap_future(self.sending.use_picture(data))

    def turn(self, view: View) -> None:
        self.view = view
        self.receiving.set_view(view)
        self._tell_state()

    async def record(self, on: bool) -> Recording | None:
        """Starts or ends a recording of what is received; what was written, when it ends."""
        if on == (self._recorder is not None):
            return None
        if not on:
            return await self.stop_recording()
        await self._start_recording()
        return None

    async def _start_recording(self) -> None:
        session = self.session
        picture = session.remote_picture if session is not None else None
        if session is None or picture is None:
            raise BadInput("there is nothing to record yet: the other side's picture has not come")
        self._recorder = await asyncio.to_thread(
            lambda: Recorder(
                self.settings.recordings,
                picture,
                self.sending.codebook,
                family=session.hello.family,
                weights_hash=session.hello.weights_hash,
                picture_size=session.hello.picture_size,
                fps=Fraction(self.settings.fps).limit_denominator(1001),
                tool=f"kilocall {program_version()}",
            )
        )
        recorder = self._recorder

        def played(item: Played) -> None:
            recorder.add_motion(item)

        self.receiving.events.played = played
        lag_us = self.loudspeaker.hold_us
        self.loudspeaker.on_samples = lambda samples, play_us: recorder.add_speech(
            samples, self._on_motion_clock(play_us - lag_us)
        )
        self._tell_state()

    async def stop_recording(self) -> Recording | None:
        recorder, self._recorder = self._recorder, None
        self.receiving.events.played = None
        self.loudspeaker.on_samples = None
        self._tell_state()
        return None if recorder is None else await asyncio.to_thread(recorder.close)

    def _on_motion_clock(self, play_us: int) -> int:
        """A time on this side's clock as the sender's motion has it: what is seen now was captured then."""
        last = self.receiving.last_time_us
        return last + (play_us - self._last_picture_us) if self._last_picture_us else last

    async def virtual_camera(self, on: bool) -> None:
        await asyncio.to_thread(self._use_virtual_camera, on)
        self._tell_state()

    def watch(self, visible: bool, previews: bool) -> None:
        """Whether anybody sees the remote picture, and the own preview."""
        self.receiving.watched = visible or self.settings.headless or self._virtual is not None
        self.sending.preview_wanted = previews

    def _use_virtual_camera(self, on: bool) -> None:
        if on == (self._virtual is not None):
            return
        if not on and self._virtual is not None:
            self.receiving.events.rgb = None
            self._virtual.close()
            self._virtual = None
            return
        try:
            self._virtual = VirtualCamera(self.settings.fps)
        except BadInput as error:
            self._virtual_reason = str(error)
            raise
        self._virtual_reason = None
        self.receiving.watched = True
        self.receiving.events.rgb = self._virtual.send

    # Helpers

    def _say_media(self) -> None:
        self._with_session(
            lambda session: session.own_media(muted=self.speech.muted, camera_off=self.sending.camera_off)
        )
        self._tell_state()

    def _follow_plan(self, plan: Plan) -> None:
        logger.info(
            "plan: %s frames a message and %s again, %.3g a second, level %s, speech %s bit/s%s",
            *(plan.frames_per_message, plan.repeat_frames, plan.fps, plan.level, plan.audio_bps),
            ", guarded against loss" if self.rate.guarded else "",
        )
        peer = self.link.peer
        if peer is not None:
            peer.set_speech(bitrate_bps=plan.audio_bps, packet_ms=plan.audio_packet_ms)

    def _with_session(self, call: Callable[[Session], None]) -> None:
        if self.session is not None:
            call(self.session)

    def _tell_state(self) -> None:
        session = self.session
        if session is not None and session.remote.picture_hash != self._remote_hash:
            self._remote_hash = session.remote.picture_hash
            self._remote_taken_at = datetime.now().strftime("%H:%M")
        if session is not None:
            last = self._phases[-1] if self._phases else None
            if last is None or (last.phase, last.reason) != (session.phase, session.reason):
                self._phases.append(PhaseChange(at_us=_now_us(), phase=session.phase, reason=session.reason))
        self.on_message(self.state())

    def _report(self, close_ms: float) -> CallReport:
        sending, receiving, session = self.sending, self.receiving, self.session
        seconds = time.monotonic() - self._began
        first = self._first_picture
        whole, steady, jitter = self._whole, self._steady, receiving.jitter
        delays = list(self._delays.all)
        span = max(whole.seconds, 1e-6)

        def stage(of: Any) -> Stage:
            return Stage(p50=of.percentile(0.5), p95=of.percentile(0.95))

        loudspeaker = self.loudspeaker
        return CallReport(
            room=self.address.room,
            profile=self.settings.profile,
            seconds=seconds,
            phase=session.phase if session is not None else "alone",
            reason=session.reason if session is not None else "",
            phases=list(self._phases),
            connections=self.link.connections,
            reconnect_s=self._reconnects,
            first_picture_ms=1000 * first[0] if first else None,
            first_picture_after_open_ms=1000 * first[1] if first else None,
            same_clock=session.same_clock if session is not None else None,
            delay_p50_ms=percentile(delays, 0.5),
            delay_p95_ms=percentile(delays, 0.95),
            out=Rates.of(whole.out, whole.seconds),
            into=Rates.of(whole.into, whole.seconds),
            steady_out=Rates.of(steady.out, steady.seconds),
            steady_into=Rates.of(steady.into, steady.seconds),
            payload_bits_per_frame=sending.payload_bits / max(1, sending.sent_frames),
            frames_sent=sending.sent_frames,
            packets_sent=sending.packets_sent,
            key_packets=sending.key_packets,
            frames_per_message=sending.plan.frames_per_message,
            fps_out=sending.sent_frames / span,
            fps_in=self._pictures / span,
            pictures=self._pictures,
            longest_gap_ms=self._longest_gap_us / 1000,
            gaps_ms=self._pauses.report(),
            loss_pct=100 * session.loss if session is not None and session.loss is not None else None,
            rtt_ms=session.rtt_ms if session is not None else None,
            packets_received=jitter.received,
            packets_late=jitter.late,
            packets_duplicate=jitter.duplicates,
            malformed=receiving.malformed + (session.malformed if session is not None else 0),
            dropped=self._dropped(),
            pictures_sent=session.pictures_sent if session is not None else 0,
            pictures_from_cache=session.pictures_from_cache if session is not None else 0,
            rate_steps=self.rate.steps,
            stages_ms={
                "crop_and_landmarks": stage(sending.crop_ms),
                "motion_and_code": stage(sending.motion_ms),
                "decode": stage(receiving.decode_ms),
                "render_and_jpeg": stage(receiving.render_ms),
            },
            memory_mib=memory_mib(),
            samples=list(self._samples),
            sound=Sound(
                sent_blocks=self.speech.blocks,
                received_s=loudspeaker.received_samples / 48_000,
                heard_s=loudspeaker.heard_samples / 48_000,
                level_db=loudspeaker.level_db,
                hold_ms=loudspeaker.hold_us / 1000,
                onsets_us=list(loudspeaker.onsets_us),
                microphone_began_us=list(self._microphone_began),
            ),
            close_ms=close_ms,
        )


def _rounded(value: float | None) -> float | None:
    return None if value is None else round(value, 1)


def _keep(folder: Path, sent: dict[int, bytes], receiving: Receiving) -> None:
    """Crops that were sent, pictures that were shown, and when: [[capture, made], ...] in microseconds."""
    folder.mkdir(exist_ok=True)
    times = receiving.kept_times.tolist()
    pairs = list(zip(times[::2], times[1::2], strict=True))
    write_whole(folder / "shown.json", json.dumps(pairs).encode())
    for time_us, jpeg in sent.items():
        (folder / f"sent_{time_us // 1000 % TIMES_MS:05d}.jpg").write_bytes(jpeg)
    for rendered in receiving.kept or ():
        (folder / f"shown_{rendered.time_us // 1000 % TIMES_MS:05d}.jpg").write_bytes(rendered.jpeg)
