"""One party of a call: camera and model threads, the link to the other side, and what a page may ask for.

    camera -> SendPipeline (thread) -> Session -> Peer  ~~~  Peer -> Session -> ReceivePipeline (thread) -> page

The event loop here only moves bytes. Pictures, landmarks and keypoints are made on the two model threads.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Callable
from typing import Any, Final

from aiortc import MediaStreamTrack

from kilocall.call.audio import CallAudio
from kilocall.call.controls import Controls
from kilocall.call.link import Link, RoomAddress, find_room
from kilocall.call.outputs import Outputs, keep_pictures
from kilocall.call.report import CallReport
from kilocall.call.reporting import Reporter
from kilocall.call.settings import CallSettings
from kilocall.call.statistics import CallStatistics
from kilocall.control.rate_control import Plan, RateControl
from kilocall.control.session import Session
from kilocall.proto.errors import BadInput
from kilocall.proto.motion_packet import TIMES_MS, MotionPacket
from kilocall.proto.trust import Handshake
from kilocall.receiver.layer_receiver import LAYER_TAKEN_BPS
from kilocall.receiver.live import ReceiveEvents, ReceivePipeline, Rendered
from kilocall.runtime.clock import now_us
from kilocall.runtime.files import write_whole
from kilocall.runtime.inbox import Message
from kilocall.runtime.lag import DelayAboveMinimum, LoopLag
from kilocall.runtime.peer import Peer
from kilocall.runtime.peer_settings import PeerSettings
from kilocall.runtime.tasks import Tasks
from kilocall.runtime.worker import Deliver, Worker, deliver_to
from kilocall.sender.camera import Camera, open_camera
from kilocall.sender.camera_view import Why
from kilocall.sender.live import OwnSource, SendEvents, SendPipeline
from kilocall.sender.reference_search import Proposal
from kilocall.sender.reference_selector import ReferenceSelector

__all__ = ["PICTURE", "PREVIEW", "CallNode"]

logger = logging.getLogger(__name__)

PICTURE, PREVIEW = 1, 2
"""Kinds of binary messages to the page."""
TICK_S: Final = 1.0
#: Without a page nobody can be told to look at the signalling server's address: then the call is over before it began.
UNREACHABLE_S: Final = 10.0
SOURCE_WITHIN_S: Final = 3.0
BYE_WITHIN_S: Final = 1.0


class CallNode:
    """Runs one call. `run` returns its report; `stop` ends it from the event loop; `controls` are for a page.

    `on_message` and `on_binary` (kind, time, JPEG) are for a page, too; they are called on the event loop, on which
    the node is made.
    """

    def __init__(
        self,
        settings: CallSettings,
        *,
        on_message: Callable[[dict[str, Any]], None] = lambda message: None,
        on_binary: Callable[[int, int, bytes], None] = lambda kind, time_us, jpeg: None,
    ) -> None:
        self.settings = settings
        self._on_message, self._on_binary = on_message, on_binary
        self._tasks = Tasks()
        self._ended, self._source_taken = asyncio.Event(), asyncio.Event()
        self._why_ended = ""
        self._refusal: str | None = None  # why the signalling server or the other side refused

        address = find_room(settings.room, settings.server)
        camera = open_camera(settings.camera, settings.fps)
        self._camera_open = False
        self._rate = RateControl(settings.profile, layer_bps=round(1000 * settings.layer_kbps))
        deliver = deliver_to(asyncio.get_running_loop())
        self.audio = CallAudio(camera, self._tasks, settings.microphone)
        self.link = self._make_link(address)
        self._selector = self._make_selector(deliver)
        self.sending = self._make_sending(camera, self._rate.plan, deliver)
        self.receiving = self._make_receiving(deliver)
        self.receiving.watched = settings.headless or settings.virtual_camera
        self.session = self._make_session(self._rate, address.secret.name)
        self._send_delay_ms, self._loop_lag = DelayAboveMinimum(), LoopLag()

        both = self.sending, self.receiving
        self._statistics = CallStatistics(settings, self.session, self.link, *both, self.audio, self._rate)
        self._reporter = Reporter(self.session, self.link, self.receiving, self._loop_lag)
        self._outputs = Outputs(
            settings,
            self.session,
            self.receiving,
            self.audio.loudspeaker,
            codebook=lambda: self.sending.codebook,
            picture_us=lambda: self._statistics.shown.last_us,
            on_problem=self._recording_failed,
        )
        self.controls = Controls(
            settings,
            self.session,
            self.link,
            *both,
            self.audio,
            outputs=self._outputs,
            statistics=self._statistics,
            on_message=on_message,
        )

    def _make_link(self, address: RoomAddress) -> Link:
        settings = self.settings
        peers = PeerSettings(
            ice_servers=settings.ice_servers, relay_only=settings.relay_only, loopback=settings.loopback
        )
        return Link(address, peers, self, self._tasks)

    def _make_selector(self, deliver: Deliver) -> ReferenceSelector | None:
        settings = self.settings
        if settings.pictures < 2:
            return None
        return ReferenceSelector(
            self._offer_reference,
            deliver,
            pictures=settings.pictures,
            kilobytes=settings.gallery_kb,
            engine=settings.engine,
            models=settings.models,
        )

    def _make_sending(self, camera: Camera, plan: Plan, deliver: Deliver) -> SendPipeline:
        settings = self.settings
        return SendPipeline(
            camera,
            SendEvents(
                packet=self._send_packet,
                face=self._own_face,
                source=self._own_source,
                preview=lambda jpeg, time_us: self._on_binary(PREVIEW, time_us, jpeg),
                camera=self._own_camera,
                overlay=self._on_message,
                problem=self._problem,
            ),
            deliver,
            fps=settings.fps,
            engine=settings.engine,
            threads=settings.threads,
            models=settings.models,
            source=settings.source,
            size=settings.size if settings.size > 256 else None,
            plan=plan,
            keep=settings.keep_pictures is not None,
            selector=self._selector,
            # Who wants no real video wants none unasked either.
            camera_when_away=settings.layer_kbps > 0,
        )

    def _make_receiving(self, deliver: Deliver) -> ReceivePipeline:
        settings = self.settings
        return ReceivePipeline(
            ReceiveEvents(
                picture=self._picture,
                ready=lambda picture_hash: self.session.picture_ready(picture_hash),
                refused=lambda picture_hash, why: self.session.picture_refused(picture_hash, why),
                adapter=self._adapter_used,
                reference=self._reference,
                rate=lambda fps: self.session.own_rate(fps),
                layer_lost=lambda newest: self.session.layer_lost(newest),
                problem=self._problem,
            ),
            deliver,
            engine=settings.engine,
            threads=settings.threads,
            models=settings.models,
            keep=settings.keep_pictures is not None,
        )

    def _make_session(self, rate: RateControl, link_name: str) -> Session:
        session = Session(
            self.sending,
            self.receiving,
            rate=rate,
            clock_us=now_us,
            link_name=link_name,
            cache=self.settings.cache,
            on_change=lambda: self.controls.tell_state(),
            on_plan=self._follow_plan,
            on_reference=self._reference_confirmed,
        )
        if self.settings.personal is not None:
            session.adapters.offer(self.settings.personal.read_bytes())
        return session

    # Running

    async def open_camera(self) -> None:
        """Before `run`, which does it otherwise. Raises BadInput when there is no such camera."""
        if not self._camera_open:
            await asyncio.to_thread(self.sending.camera.start)
            self._camera_open = True

    async def run(self) -> CallReport:
        """The whole call. Raises KilocallError when it cannot begin: no camera, no model, refused by the room."""
        await self.open_camera()
        workers: list[Worker] = [self.sending, self.receiving]
        for worker in workers:
            worker.start()
        clock = asyncio.get_running_loop().time
        try:
            await asyncio.gather(*(asyncio.wrap_future(worker.ready) for worker in workers))
            if self._selector is not None:
                # Last, and not waited for: the call begins without it.
                self._selector.start()
                workers.append(self._selector)
            self.session.introduce(self.sending.hello(self.settings.fps))
            if self.receiving.renderer.takes_layer:
                self.session.take_layer(LAYER_TAKEN_BPS)
            self._start_tasks()
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._ended.wait(), self.settings.seconds)
        finally:
            closes_at = clock()
            await self._close(workers)
            closing_s = clock() - closes_at
        report = self._statistics.report(1000 * closing_s)
        await self._write_down(report)
        if self._refusal is not None and (self.link.not_proven or not self._statistics.shown.count):
            raise BadInput(self._refusal)
        return report

    def stop(self, why: str = "hung up") -> None:
        """Ends `run`; on the event loop's thread."""
        self._why_ended = self._why_ended or why
        self._ended.set()

    def _start_tasks(self) -> None:
        if self.settings.virtual_camera:
            self._outputs.use_virtual_camera(True)
        self._tasks.own(self._call(), "link")
        self._tasks.own(self._tick(), "numbers")
        self._tasks.own(self._loop_lag.watch(), "lag")
        self.audio.start()

    async def _call(self) -> None:
        # Whoever joins should have a picture to show; nobody waits long for one.
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self._source_taken.wait(), SOURCE_WITHIN_S)
        try:
            await self.link.run()
        except BadInput as error:
            self.session.closed("refused", str(error))
            self._refused(str(error))

    async def _tick(self) -> None:
        session, began_s = self.session, asyncio.get_running_loop().time()
        while True:
            await asyncio.sleep(TICK_S)
            await self._reporter.tick()
            session.own_lag_ms = self._send_delay_ms.value
            session.loop_lag_ms = self._loop_lag.milliseconds
            session.tick()
            self._statistics.look()
            self._on_message(self._statistics.numbers)
            self.controls.tell_state()
            waited_s = asyncio.get_running_loop().time() - began_s
            trouble = self.link.trouble
            if trouble and not self.controls.in_room and waited_s > UNREACHABLE_S and self.settings.headless:
                self._refused(trouble)

    async def _close(self, workers: list[Worker]) -> None:
        with contextlib.suppress(Exception):  # whatever goes wrong with a farewell, the rest must be closed
            bye = self._why_ended or "hung up"
            await asyncio.wait_for(self.link.close(lambda: self.session.bye(bye)), BYE_WITHIN_S)
        self._statistics.look()
        await self._tasks.close()
        await self.audio.close()
        await self._outputs.close_recording()
        await asyncio.gather(*(asyncio.to_thread(worker.close) for worker in workers))
        self._outputs.close_virtual_camera()

    async def _write_down(self, report: CallReport) -> None:
        settings = self.settings
        if settings.keep_pictures is not None and self.receiving.kept is not None:
            await asyncio.to_thread(keep_pictures, settings.keep_pictures, self.sending.kept, self.receiving.kept)
        if settings.report is not None:
            text = report.model_dump_json(indent=2) + "\n"
            await asyncio.to_thread(write_whole, settings.report, text.encode())

    def _refused(self, reason: str) -> None:
        self._refusal = reason
        if self.settings.headless:
            self.stop(reason)

    # The link's events

    def joined(self, address: RoomAddress, others: int) -> None:
        self.controls.in_room = True
        if self.session.phase in ("alone", "lost", "ended") and not others:
            self.session.closed("alone", self.session.reason)
        self.controls.tell_hello()

    def paired(self) -> None:
        self._statistics.paired()
        if self.session.phase == "open":
            self._statistics.lost()  # a silent connection is being replaced
        self.session.connecting()

    def opened(self, peer: Peer, handshake: Handshake) -> None:
        logger.info("the connection is open")
        self._statistics.opened()
        self._reporter.opened()
        self.receiving.restart()
        self.session.opened(peer.send_control, handshake)
        self.sending.begin()
        plan = self.session.rate.plan
        peer.set_speech(bitrate_bps=plan.audio_bps, packet_ms=plan.audio_packet_ms)
        if peer.remote_audio is not None:
            self.audio.hear(peer.remote_audio)

    def motion(self, message: Message) -> None:
        self.receiving.push(message.data, message.arrived_us)

    def control(self, message: Message) -> None:
        self.session.control(message.data, message.arrived_us)
        if self.session.phase == "refused":
            self._refused(self.session.reason)
            # Nothing more is to be shown of whoever that is.
            self._tasks.own(self.link.close(lambda: None), "refused")

    def delivered(self, data: bytes) -> None:
        self.session.delivered(data)

    def closed(self, reason: str) -> None:
        self.sending.pause()
        session = self.session
        if session.said_bye is None:
            self._statistics.lost()
            logger.info("the connection is lost: %s", reason)
            session.closed("lost", reason)
        elif session.greeted:
            session.closed("ended", f"the other side has left: {session.said_bye}")
        else:
            session.closed("refused", session.said_bye)
            self._refused(session.said_bye)

    def wants_another(self) -> bool:
        return self.session.phase == "lost" or self.expects_motion()

    def expects_motion(self) -> bool:
        return self.session.phase == "open" and self.session.remote.face

    def left(self) -> None:
        if self.session.phase not in ("open", "refused"):
            self.session.closed("alone" if self.session.phase != "ended" else "ended", self.session.reason)

    def audio_track(self) -> MediaStreamTrack | None:
        return self.audio.speech.track()

    # The threads' events

    def _send_packet(self, packet: MotionPacket, data: bytes) -> None:
        peer = self.link.peer
        if peer is not None and peer.send_motion(data):
            self.session.motion_sent(packet)
            last_ms = packet.time_ms + (packet.frame_count - 1) * packet.spacing_us // 1000
            self._send_delay_ms.add((now_us() // 1000 - last_ms) % TIMES_MS)

    def _own_face(self, seen: bool, time_us: int) -> None:
        self.session.own_face(seen, time_us)
        self.controls.tell_state()

    def _own_camera(self, why: Why | None, time_us: int) -> None:
        self.session.own_camera(why is not None, time_us)
        self.controls.tell_state()

    def _own_source(self, source: OwnSource) -> None:
        self._source_taken.set()
        self.session.own_source(source.packed)
        self.controls.tell_sources()
        self.controls.tell_state()

    def _offer_reference(self, base_hash: str, proposal: Proposal) -> None:
        packed = proposal.packed
        self.sending.offered_reference(base_hash, packed.picture_hash, proposal.reference)
        self.session.own_reference(base_hash, packed)

    def _reference_confirmed(self, picture_hash: str) -> None:
        self.sending.confirm_reference(picture_hash)
        if self._selector is not None:
            self._selector.confirmed(picture_hash)

    def _reference(self, picture_hash: str, why: str | None) -> None:
        if why is None:
            self.session.references.ready(picture_hash)
            self._outputs.further_picture(picture_hash)
        else:
            self.session.references.refused(picture_hash, why)
        self.controls.tell_state()

    def _adapter_used(self, file_hash: str, size: int, why: str | None) -> None:
        if why is None:
            self.session.adapters.used(file_hash, size)
        else:
            self.session.adapters.refused(file_hash, why)

    def _picture(self, rendered: Rendered) -> None:
        delay_us = self._statistics.picture(rendered)
        render_ms = self.receiving.render_ms.percentile(0.5) or 0.0
        self.audio.meet(rendered, render_ms, muted=self.session.remote.muted)
        time_us, hold_us = rendered.made_us - delay_us, self.audio.av_sync.picture_us
        if hold_us:
            asyncio.get_running_loop().call_later(hold_us / 1e6, self._show, rendered, time_us)
        else:
            self._show(rendered, time_us)

    def _show(self, rendered: Rendered, time_us: int) -> None:
        self.controls.shows(rendered)
        self._on_binary(PICTURE, time_us, rendered.jpeg)

    def _problem(self, text: str) -> None:
        self._source_taken.set()
        logger.error("%s", text)
        self._on_message({"type": "error", "text": text})
        self.controls.tell_state()
        if self.settings.headless and not (self.sending.alive and self.receiving.alive):
            self._refused(text)

    def _recording_failed(self, text: str) -> None:
        self._on_message({"type": "error", "text": text})
        self.controls.tell_state()

    def _follow_plan(self, plan: Plan) -> None:
        logger.info(
            "plan: %s frames a message and %s again, %.3g a second, level %s, layer %s bit/s, speech %s bit/s%s",
            *(plan.frames_per_message, plan.redundant_frames, plan.fps, plan.level, plan.layer_bps, plan.audio_bps),
            ", guarded against loss" if self._rate.guarded else "",
        )
        peer = self.link.peer
        if peer is not None:
            peer.set_speech(bitrate_bps=plan.audio_bps, packet_ms=plan.audio_packet_ms)
