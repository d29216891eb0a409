"""The sending model thread: camera pictures to motion packets, the source picture, the own preview and its overlay."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np

from kilocall.codec.codebook import Codebook
from kilocall.model.engine_choice import choose_engine
from kilocall.model.family import Family, Picture, Track, interrupt, nobody
from kilocall.model.family_loader import FamilyChoice
from kilocall.model.hello import hello_of
from kilocall.model.reference_pictures import ReferencePicture
from kilocall.proto.control import Hello, LayerReport
from kilocall.proto.motion_packet import MotionPacket
from kilocall.runtime.clock import now_us
from kilocall.runtime.pictures import as_jpeg
from kilocall.runtime.timing import takes_longer
from kilocall.runtime.worker import Deliver, Milliseconds, WorkClock, Worker, work_clock
from kilocall.sender.camera import Camera
from kilocall.sender.camera_view import CameraView, Why
from kilocall.sender.capture import Frame
from kilocall.sender.clip import Tracker
from kilocall.sender.face_crop import FaceCrop, FaceCropper
from kilocall.sender.layer_sender import LayerSender
from kilocall.sender.motion import MotionExtractor
from kilocall.sender.motion_sender import MotionSender
from kilocall.sender.own_face import OwnFace
from kilocall.sender.own_pictures import OwnPictures, OwnSource
from kilocall.sender.preview import Preview
from kilocall.sender.reference_selector import ReferenceSelector
from kilocall.sender.send_rate import UNLIMITED, Plan, SendRate
from kilocall.sender.still_scene import StillScene

__all__ = ["OwnSource", "SendEvents", "SendPipeline"]

logger = logging.getLogger(__name__)

FACE_CERTAINTY: Final = 0.5
CAMERA_WAIT_S: Final = 0.04
KEEP_EVERY: Final = 5
KEEP_MOST: Final = 400
#: Where a face takes longer to look at, a third of the time from one picture to the next at 25 a second, there is none
#: to spare for a slow coding of the video layer.
HURRY_FROM_S: Final = 0.012


@dataclass
class SendEvents:
    """What the thread tells; every call is made on the event loop."""

    packet: Callable[[MotionPacket, bytes], None]
    face: Callable[[bool, int], None]
    """Whether a face is seen, and since which capture time."""
    source: Callable[[OwnSource], None]
    """A new source picture, to be offered to the other side."""
    camera: Callable[[Why | None, int], None] = lambda why, time_us: None
    """What the camera sees is shown from this capture time on, and why; None: no more."""
    preview: Callable[[bytes, int], None] = lambda jpeg, time_us: None
    overlay: Callable[[dict[str, Any]], None] = lambda message: None
    problem: Callable[[str], None] = lambda text: None


class SendPipeline(Worker):
    """Owns the camera and the face cropper; OwnPictures, OwnFace, MotionSender, LayerSender, CameraView and Preview do
    the rest of the work.

    Motion is sent from `begin` until `pause`, and only while a face is seen. A new source picture is first offered;
    motion refers to it from `confirm` on, so that the other side is never shown motion of a picture it lacks.
    """

    def __init__(
        self,
        camera: Camera,
        events: SendEvents,
        deliver: Deliver,
        *,
        fps: float = 25.0,
        engine: str = "auto",
        threads: int = 1,
        models: FamilyChoice | None = None,
        source: Path | None = None,
        size: int | None = None,
        plan: Plan,
        keep: bool = False,
        selector: ReferenceSelector | None = None,
        camera_when_away: bool = False,
        clock: WorkClock = work_clock,
    ) -> None:
        """`camera` is started by whoever made it, and stopped here. `fps` is what it is asked for; fewer are sent where
        the plan, the other side or this computer's pace say so. `size` is the side of source pictures where the camera
        has the pixels; the networks' own unless given.

        `selector` is shown what is sent, to find further pictures of the speaker; who made it starts and ends it.
        `camera_when_away`: where the other side can, it is shown what the camera sees while that is no face.
        """
        super().__init__("sender", lambda text: deliver(lambda: events.problem(text)))
        self.camera = camera
        self._events, self._deliver = events, deliver
        self._engine, self._threads = engine, threads
        self._models = models or FamilyChoice()
        self._source_file = source
        self._keep: dict[int, bytes] | None = {} if keep else None
        self._selector = selector
        self._clock = clock
        self.rate = SendRate(fps, plan)
        self.motion = MotionSender(self.rate, self._emit)
        self.layer = LayerSender()
        """Real video under the motion, where the other side takes it."""
        self.layer.follow(plan.layer_bps, plan.camera_bps)
        self.camera_view = CameraView(when_away=camera_when_away)
        self._scene = StillScene()
        self.pictures = OwnPictures(size)
        self.face = OwnFace()
        self.preview = Preview(
            preview=lambda jpeg, time_us: deliver(lambda: events.preview(jpeg, time_us)),
            overlay=lambda message: deliver(lambda: events.overlay(message)),
        )
        self.camera_off = False
        # Counted here, read anywhere.
        self.frames = 0
        self.faces = 0
        self.crop_ms, self.motion_ms = Milliseconds(), Milliseconds()
        self._sending = False
        self._wanted = 0  # connection that packets are wanted for; the loop's
        self._begun = 0  # that the encoder codes for; the thread's
        self._camera_told = False

    # Asked from the event loop; everything below runs on the thread.

    def begin(self) -> Future[None]:
        """A new connection: the encoder starts anew, motion is sent from now on, with the newest source picture."""
        self._wanted += 1
        connection = self._wanted
        return self.ask(lambda: self._begin(connection))

    def pause(self) -> Future[None]:
        """Nothing is sent any more."""
        return self.ask(lambda: setattr(self, "_sending", False))

    def acknowledge(self, sequence: int) -> None:
        self.ask(lambda: self.motion.acknowledge(sequence))

    def forget_acknowledged(self) -> None:
        """Key packets until the next acknowledgement, for a receiver that has come in late."""
        self.ask(self.motion.forget_acknowledged)

    def confirm(self, picture_hash: str) -> None:
        """The other side is ready to move this picture."""
        self.ask(lambda: self._confirm(picture_hash))

    def offered_reference(self, base_hash: str, picture_hash: str, reference: ReferencePicture) -> None:
        """A further picture of this side's speaker goes to the other side."""
        self.ask(lambda: self.motion.offered_reference(base_hash, picture_hash, reference))

    def confirm_reference(self, picture_hash: str) -> None:
        """The other side holds it, and shows frames on it from now on."""
        self.ask(lambda: self._hold(picture_hash))

    def follow(self, plan: Plan) -> None:
        self.ask(lambda: self._follow(plan))

    def ask_layer(self, report: LayerReport) -> None:
        """The other side takes a video layer, or misses a frame of it."""
        self.ask(lambda: self.layer.asked(report))

    def take_camera(self) -> None:
        """The other side can show what the camera sees; forgotten with the next connection."""
        self.ask(lambda: setattr(self.camera_view, "taken", True))

    def show_camera(self, on: bool) -> None:
        """Shows what the camera sees, where the other side can, until it is switched off again."""
        self.ask(lambda: setattr(self.camera_view, "asked", on))

    def limit(self, fps: float) -> None:
        """The other side shows no more pictures a second; forgotten with the next connection."""
        self.ask(lambda: self._limit(fps))

    def take_source(self) -> Future[None]:
        """The best of the last frames becomes the source picture; the future carries NoFace when there is none."""
        return self.ask(self._take_from_camera)

    def use_picture(self, picture: Picture) -> Future[None]:
        """The face of a picture [H, W, 3]; the future carries NoFace where there is none."""
        return self.ask(lambda: self._offer(self.pictures.of(picture, self._family)))

    def use_camera(self, camera: Camera) -> Future[None]:
        """Another one from now on, which is running; the one before is stopped."""
        return self.ask(lambda: self._use_camera(camera))

    def use_recent(self, source_id: str) -> Future[None]:
        """One of `pictures.recent` again."""
        return self.ask(lambda: self._offer(self.pictures.used_before(source_id)))

    def hello(self, fps: float) -> Hello:
        """Once ready."""
        return hello_of(self._family, fps)

    @property
    def codebook(self) -> Codebook:
        """Once ready."""
        return self._family.codebook

    @property
    def kept(self) -> dict[int, bytes]:
        """Crops that were coded, as JPEG by capture time; for measuring."""
        return dict(self._keep or {})

    def interrupt(self) -> None:
        interrupt(getattr(self, "_family", None))

    def opened(self) -> None:
        self._family: Family = self._models.load(choose_engine(self._engine, self._threads))
        self._cropper = FaceCropper(Tracker(self._family))
        self.preview.open(self._family)
        # Loads the networks and the cascades now rather than in the first second of the call.
        self._cropper.crop(Frame(np.zeros((256, 256, 3), np.uint8), 0, 0))
        blank = nobody(self._family)
        self._family.aligner(blank)
        self._cropper.reset()
        if takes_longer(HURRY_FROM_S, lambda: self._family.track(blank.picture)):
            self.layer.hurry()
        if self._source_file is not None:
            self._offer(self.pictures.of(self._source_file, self._family))

    def closed(self) -> None:
        self.camera.stop()

    def _use_camera(self, camera: Camera) -> None:
        before, self.camera = self.camera, camera
        before.stop()
        self.motion.reset()
        self._cropper.reset()
        self.pictures.forget_frames()

    def step(self) -> float:
        frame = self.camera.latest(CAMERA_WAIT_S)
        self.motion.flush_overdue()
        if frame is None:
            gone = self.camera.ended or self.camera.error is not None
            if gone and not self._camera_told:
                self._camera_told = True
                self._note_face(False, now_us())
                text = self.camera.error or "the camera has ended"
                self._deliver(lambda: self._events.problem(text))
            return 0.1 if gone else 0.0
        if self._camera_told:
            self._camera_told = False
            self._deliver(lambda: self._events.problem("the camera gives pictures again"))
        if not self.rate.takes(frame.capture_us):
            return 0.0
        if self.camera_off:
            self._note_face(False, frame.capture_us)
            self.camera_view.restart()
            if self.camera_view.shown is not None:
                self._switch_camera(None, frame.capture_us)
            return 0.0
        began_s, had_s = self._clock()
        self._look(frame)
        if self._sending:  # before, what loads the machine is the program's own start
            self._keep_pace(began_s, had_s)
        return 0.0

    def _keep_pace(self, began_s: float, had_s: float) -> None:
        """After a frame whose work began at this time of the clock."""
        ended_s, had_in_all_s = self._clock()
        if self.rate.done(round(1e6 * ended_s), ended_s - began_s, had_in_all_s - had_s):
            logger.info("pace: %g pictures a second can be sent (%s)", self.rate.pace.fps, self.rate.pace.bound)
            self.motion.fit_messages()

    def _look(self, frame: Frame) -> None:
        self.frames += 1
        # Whoever is in a picture that is shown as it is, is looked for only to be told where to be.
        if self.camera_view.asked and self._can_show_camera and not self.preview.overlay_wanted:
            self._show_camera(frame)
        else:
            self._look_for_face(frame)
        self.preview.show(frame)

    def _look_for_face(self, frame: Frame) -> None:
        began = time.perf_counter()
        crop = self._cropper.crop(frame)
        cropped = time.perf_counter()
        self.crop_ms.add(cropped - began)
        self.faces = crop.faces
        track = crop.track
        seen = crop.found and track is not None and track.certainty >= FACE_CERTAINTY
        # A frame or two without landmarks is a blur: nothing is sent, and nobody is told.
        if seen or not crop.found:
            self._note_face(seen, frame.capture_us)
        showing = self._show_camera(frame)
        if seen and track is not None:
            self.pictures.see(frame, crop, track)
            if self.pictures.wants_first:
                self._take_from_camera()
            if showing:
                self._look_who(track, frame.capture_us)
            else:
                self._code(crop, track, frame)
            self.motion_ms.add(time.perf_counter() - cropped)
        elif not showing:
            self.motion.flush()
        self.preview.advise(frame, crop if seen else None, track)

    @property
    def _can_show_camera(self) -> bool:
        return self._sending and self.camera_view.taken and self.layer.may_show_camera

    def _show_camera(self, frame: Frame) -> bool:
        """Sends the camera's whole picture where that is what is shown; the face stands still meanwhile."""
        why = self.camera_view.look(self.face.seen and not self.pictures.another, frame.capture_us)
        # Not unasked while somebody else's picture is moved: it would show who moves it.
        if not self._can_show_camera or (why == "away" and not self.layer.allowed):
            why = None
        if why != self.camera_view.shown:
            self._switch_camera(why, frame.capture_us)
        if why is None:
            return False
        if self.motion.extractor is None:
            self.motion.refer_to(self._family, nobody(self._family), None)  # pictures go with motion, be it of nobody
        self.layer.push(lambda: self._worth_showing(frame), frame.capture_us)
        if self.layer.waits:  # who is not moved needs no messages but for these
            self.motion.push(None, frame.capture_us)
            self.motion.flush()
        return True

    def _worth_showing(self, frame: Frame) -> Picture | None:
        return frame.rgb if self._scene.shows(frame.rgb, frame.capture_us) or self.layer.key_wanted else None

    def _look_who(self, track: Track, capture_us: int) -> None:
        """Whether it is the speaker whose face is there again."""
        extractor = self.motion.extractor
        if extractor is not None and self.pictures.source is not None:
            extractor.from_track(track, capture_us)
            self._mind(extractor)

    def _switch_camera(self, why: Why | None, capture_us: int) -> None:
        shown_before, self.camera_view.shown = self.camera_view.shown, why
        if (why is None) != (shown_before is None):
            self.motion.flush()
            self.motion.face_again()
            self.layer.show_camera(why is not None)
            self._scene.restart()
            if why is None and shown_before == "asked":
                self._cropper.reset()  # whoever was looked for meanwhile may be anywhere
        self._deliver(lambda: self._events.camera(why, capture_us))

    def _code(self, crop: FaceCrop, track: Track, frame: Frame) -> None:
        if not self._sending or self.pictures.source is None:
            return
        capture_us = frame.capture_us
        if self.face.coded():
            self._deliver(lambda: self._events.face(True, capture_us))
        if self._keep is not None and self.motion.sent_frames % KEEP_EVERY == 0 and len(self._keep) < KEEP_MOST:
            self._keep[capture_us] = as_jpeg(crop.rgb, 95)
        # First, so that it goes with the message that this frame may complete.
        self.layer.push(crop.rgb, capture_us)
        extractor = self.motion.push(track, capture_us)
        if extractor is None:
            return
        self._mind(extractor)
        plain = extractor.plain
        if self._selector is not None and plain is not None and self._selector.wants():
            self._selector.look(crop.rgb, plain, self.pictures.large(frame, crop))

    def _mind(self, extractor: MotionExtractor) -> None:
        """Somebody else in the picture gets a source picture of his own; one that the user has chosen rests."""
        text = self.pictures.mind(extractor.speaker)
        if text is not None:
            self._deliver(lambda: self._events.problem(text))
        if self.pictures.must_retake():
            self._take_from_camera()

    def _emit(self, packet: MotionPacket) -> None:
        message = self.layer.behind(packet, again=self.rate.plan.redundant_frames > 0)
        data, begun = bytes(message), self._begun

        def tell() -> None:
            # One of the connection before would come to the next with a sequence number from far ahead.
            if begun == self._wanted:
                self._events.packet(packet, data)

        self._deliver(tell)

    def _note_face(self, seen: bool, capture_us: int) -> None:
        if not self.face.look(seen):
            return
        if seen:
            self.motion.face_again()
        else:
            self.motion.flush()
        self._deliver(lambda: self._events.face(seen, capture_us))

    # Source pictures

    def _take_from_camera(self) -> None:
        self._offer(self.pictures.best(self._family))

    def _offer(self, source: OwnSource) -> None:
        self._family.source(source.picture)  # NoFace before anybody is offered anything
        self.pictures.offered(source)
        if not self._sending or self.pictures.source is None:
            self._adopt(source)
        self._deliver(lambda: self._events.source(source))

    def _confirm(self, picture_hash: str) -> None:
        if not self.pictures.is_offered(picture_hash):
            return
        if self.pictures.waiting is not None:
            self._adopt(self.pictures.waiting)
        self.face.tell_again(self._sending)

    def _adopt(self, source: OwnSource) -> None:
        """Motion refers to `source` from the next frame on."""
        shown = self._family.source(source.picture)
        own = self.pictures.somebody_else(source, shown, self._family)
        self.motion.refer_to(self._family, own or shown, None if own is None else shown)
        self.layer.allow(own is None and self.pictures.shows_the_speaker(source))
        self.pictures.adopted(source)
        if self._selector is not None:
            self._selector.follow(*((source.packed, source.picture) if own is None else (None,)))

    def _hold(self, picture_hash: str) -> None:
        source = self.pictures.source
        if source is not None:
            self.motion.hold_reference(source.packed.picture_hash, picture_hash)

    def _begin(self, connection: int) -> None:
        self._begun = connection
        if self.pictures.waiting is not None:
            self._adopt(self.pictures.waiting)
        self.motion.begin()
        self.layer.begin()
        self.camera_view.taken = False
        self.camera_view.restart()
        if self.camera_view.shown is not None:
            self._switch_camera(None, now_us())
        self._limit(UNLIMITED)
        self.face.restart()
        self._sending = True

    def _follow(self, plan: Plan) -> None:
        self.motion.follow(plan)
        self.layer.follow(plan.layer_bps, plan.camera_bps)

    def _limit(self, fps: float) -> None:
        self.rate.shown_fps = fps
        self.motion.fit_messages()
