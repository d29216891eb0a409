"""The sending model thread: camera pictures to motion packets, the source picture, the own preview and its overlay."""

from __future__ import annotations

import logging
import time
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass, replace
from datetime import datetime
from pathlib import Path
from typing import Any, Final, Protocol, cast

import cv2
import numpy as np

from kilocall.codec.codebook import Codebook
from kilocall.model.engine_choice import choose_engine
from kilocall.model.family import Family, Picture, Track, interrupt
from kilocall.model.family_loader import FamilyChoice
from kilocall.model.hello import hello_of
from kilocall.model.reference_pictures import ReferencePicture
from kilocall.model.shape import SAME_PERSON, ShapeModel, shape_distance
from kilocall.proto.control import Hello, SourcePicture
from kilocall.proto.errors import BadInput, NoFace
from kilocall.proto.limits import LEVELS
from kilocall.proto.motion_packet import MotionPacket
from kilocall.runtime.clock import now_us
from kilocall.runtime.pace import EvenSteps, Limit, Pace, frames_in_message
from kilocall.runtime.pictures import as_jpeg, fitted
from kilocall.runtime.worker import Deliver, Milliseconds, WorkClock, Worker, work_clock
from kilocall.sender.calibration import Calibration, Face
from kilocall.sender.camera import Camera
from kilocall.sender.capture import Frame
from kilocall.sender.clip import GROUPS, Tracker, face_of_picture, larger_crop
from kilocall.sender.encoder import PacketEncoder
from kilocall.sender.face_crop import FaceCrop, FaceCropper
from kilocall.sender.reference_selector import ReferenceSelector
from kilocall.sender.source_picture import choose_source, pack_source
from kilocall.sender.speaker_check import Speaker

__all__ = ["OwnSource", "SendEvents", "SendPipeline"]

logger = logging.getLogger(__name__)

FACE_CERTAINTY: Final = 0.5
#: The first source picture is the best of so many frames: longer than a blink at 25 fps.
FIRST_OF: Final = 10
#: Larger crops are cut of every fourth frame only; it takes 2 ms.
LARGE_EVERY: Final = 4
CANDIDATES: Final = 25
RECENT_SOURCES: Final = 6
#: A packet may say that its frames lie 204 ms apart, and no frame waits longer for others.
LONGEST_WAIT_US: Final = 200_000
#: What a frame's way from the camera to its message takes beside the wait.
ON_THE_WAY_US: Final = 50_000
#: Robustness against a receiver that has lost its state although packets were delivered; 1 bit a frame.
KEY_EVERY_S: Final = 4.0
CAMERA_WAIT_S: Final = 0.04
PREVIEW_WIDTH: Final = 320
PREVIEW_EVERY_US: Final = 80_000
OVERLAY_EVERY_US: Final = 100_000
KEEP_EVERY: Final = 5


class HasShape(Protocol):
    """Families whose landmarks have a mean shape: all that there are."""

    @property
    def shape_model(self) -> ShapeModel: ...


class Plan(Protocol):
    """What to send; the rate control's plans are such."""

    @property
    def frames_per_message(self) -> int: ...
    @property
    def fps(self) -> float: ...
    @property
    def level(self) -> int: ...
    @property
    def redundant_frames(self) -> int: ...


@dataclass(frozen=True, eq=False)
class OwnSource:
    """A picture of this side's speaker, as it is sent."""

    packed: SourcePicture
    picture: Picture
    taken_at: str
    """hh:mm, local time; empty for a picture from a file."""

    @property
    def id(self) -> str:
        return self.packed.picture_hash[:16]


@dataclass
class SendEvents:
    """What the thread tells; every call is made on the event loop."""

    packet: Callable[[MotionPacket, bytes], None]
    face: Callable[[bool, int], None]
    """Whether a face is seen, and since which capture time."""
    source: Callable[[OwnSource], None]
    """A new source picture, to be offered to the other side."""
    preview: Callable[[bytes, int], None] = lambda jpeg, time_us: None
    overlay: Callable[[dict[str, Any]], None] = lambda message: None
    problem: Callable[[str], None] = lambda text: None


class SendPipeline(Worker):
    """Owns the camera, the face cropper and the encoder.

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
        clock: WorkClock = work_clock,
    ) -> None:
        """`camera` is started by whoever made it, and stopped here. `fps` is what it is asked for; fewer are sent where
        the plan, the other side or this computer's pace say so. `size` is the side of source pictures where the camera
        has the pixels; the networks' own unless given.

        `selector` is shown what is sent, to find further pictures of the speaker; who made it starts and ends it.
        """
        super().__init__("sender", lambda text: deliver(lambda: events.problem(text)))
        self.camera = camera
        self._events, self._deliver = events, deliver
        self._engine, self._threads, self._fps = engine, threads, fps
        self._models = models or FamilyChoice()
        self._source_file, self._size = source, size
        self._first_of = FIRST_OF if size is None else FIRST_OF // LARGE_EVERY + 1
        self._keep: dict[int, bytes] | None = {} if keep else None
        self._selector = selector
        self.plan = plan
        self.pace = Pace(fps)
        """What this thread holds."""
        self.shown_fps = float("inf")
        """What the other side can show."""
        self._steps, self._clock = EvenSteps(fps), clock
        self.preview_wanted = False
        self.overlay_wanted = False
        self.camera_off = False
        # Counted here, read anywhere.
        self.frames = 0
        self.sent_frames = 0
        self.payload_bits = 0
        self.key_packets = 0
        self.packets_sent = 0
        self.crop_ms, self.motion_ms = Milliseconds(), Milliseconds()
        self.face_seen = False
        self.faces = 0
        self.source: OwnSource | None = None
        self.recent: deque[OwnSource] = deque(maxlen=RECENT_SOURCES)
        self._offered: OwnSource | None = None
        self._encoder: PacketEncoder | None = None
        self._sending = False
        self._wanted = 0  # connection that packets are wanted for; the loop's
        self._begun = 0  # that the encoder codes for; the thread's
        self._candidates: deque[tuple[Picture, Track]] = deque(maxlen=CANDIDATES)
        # Further pictures of the speaker by hash, with their source picture's, and those that the other side holds.
        self._known: dict[str, tuple[str, ReferencePicture]] = {}
        self._held: list[str] = []
        self._last_sent_us = 0
        self._gathered_since_us: int | None = None
        self._alone_once = False
        self._announce = False
        self._face_told: bool | None = None
        self._preview_us = self._overlay_us = 0
        self._camera_told = False
        self._speaker: Speaker = "same"
        self._retake = False

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
        self.ask(lambda: self._encoder.codec.acknowledge(sequence) if self._encoder else None)

    def forget_acknowledged(self) -> None:
        """On the thread: key packets until the next acknowledgement, for a receiver that has come in late."""
        if self._encoder is not None:
            codec = self._encoder.codec
            codec.state = replace(codec.state, reference=None)

    def confirm(self, picture_hash: str) -> None:
        """The other side is ready to move this picture."""
        self.ask(lambda: self._confirm(picture_hash))

    def offered_reference(self, base_hash: str, picture_hash: str, reference: ReferencePicture) -> None:
        """A further picture of this side's speaker goes to the other side."""
        self.ask(lambda: self._known.setdefault(picture_hash, (base_hash, reference)))

    def confirm_reference(self, picture_hash: str) -> None:
        """The other side holds it, and shows frames on it from now on."""
        self.ask(lambda: self._hold(picture_hash))

    def follow(self, plan: Plan) -> None:
        self.ask(lambda: self._follow(plan))

    def limit(self, fps: float) -> None:
        """The other side shows no more pictures a second; forgotten with the next connection."""
        self.ask(lambda: self._limit(fps))

    @property
    def fps(self) -> float:
        """Frames a second that are sent now."""
        return min(self._fps, self.plan.fps, self.pace.fps, self.shown_fps)

    @property
    def wanted_fps(self) -> float:
        """What would be sent if this computer were fast enough."""
        return min(self._fps, self.plan.fps, self.shown_fps)

    @property
    def limited_by(self) -> Limit:
        """Why `fps` is not the camera's rate."""
        if self.fps >= self._fps:
            return "none"
        if self.pace.fps <= self.wanted_fps:
            return self.pace.bound
        return "the other side" if self.shown_fps <= self.plan.fps else "network"

    @property
    def frames_per_message(self) -> int:
        """At the rate that is sent now."""
        return frames_in_message(self.plan.frames_per_message, min(self._fps, self.plan.fps), self.fps)

    def take_source(self) -> Future[None]:
        """The best of the last frames becomes the source picture; the future carries NoFace when there is none."""
        return self.ask(self._take_from_camera)

    def use_picture(self, picture: Picture) -> Future[None]:
        """The face of a picture [H, W, 3]; the future carries NoFace where there is none."""
        return self.ask(lambda: self._take(self._face_of(picture), from_file=True))

    def use_camera(self, camera: Camera) -> Future[None]:
        """Another one from now on, which is running; the one before is stopped."""
        return self.ask(lambda: self._use_camera(camera))

    def use_recent(self, source_id: str) -> Future[None]:
        """One of `recent` again."""
        return self.ask(lambda: self._use_recent(source_id))

    def hello(self, fps: float) -> Hello:
        """Once ready."""
        return hello_of(self._family, fps)

    @property
    def pictures(self) -> int:
        """How many pictures of the speaker frames are placed by: the source picture, and further ones that the other
        side holds."""
        aligner = self._encoder.extractor.keypoint_aligner if self._encoder is not None else None
        return 0 if aligner is None else len(aligner.references)

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
        self._tracker = Tracker(self._family)
        self._cropper = FaceCropper(self._tracker)
        self._calibration = Calibration(cast(HasShape, self._family).shape_model.mean)
        # Loads the networks and the cascades now rather than in the first second of the call.
        self._cropper.crop(Frame(np.zeros((256, 256, 3), np.uint8), 0, 0))
        blank = np.zeros((self._family.size, self._family.size, 3), np.uint8)
        self._family.aligner(self._family.source(blank, replace(self._family.track(blank), certainty=1.0)))
        self._cropper.reset()
        if self._source_file is not None:
            self._take(self._face_of(self._source_file), from_file=True)

    def closed(self) -> None:
        self.camera.stop()

    def _use_camera(self, camera: Camera) -> None:
        before, self.camera = self.camera, camera
        before.stop()
        # The next frame is of somewhere else.
        self._flush()
        self._cropper.reset()
        self._candidates.clear()
        if self._encoder is not None:
            self._encoder.extractor.reset()

    def step(self) -> float:
        frame = self.camera.latest(CAMERA_WAIT_S)
        self._flush_overdue()
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
        if not self._steps.take(frame.capture_us, self.fps):
            return 0.0
        if self.camera_off:
            self._note_face(False, frame.capture_us)
            return 0.0
        began_s, had_s = self._clock()
        self._look(frame)
        if self._sending:  # before, what loads the machine is the program's own start
            self._keep_pace(began_s, had_s)
        return 0.0

    def _keep_pace(self, began_s: float, had_s: float) -> None:
        """After a frame whose work began at this time of the clock."""
        ended_s, had_in_all_s = self._clock()
        if self.pace.done(round(1e6 * ended_s), ended_s - began_s, had_in_all_s - had_s, self._steps.left_out):
            logger.info("pace: %g pictures a second can be sent (%s)", self.pace.fps, self.pace.bound)
            self._fit_messages()

    def _look(self, frame: Frame) -> None:
        began = time.perf_counter()
        crop = self._cropper.crop(frame)
        cropped = time.perf_counter()
        self.crop_ms.add(cropped - began)
        self.frames += 1
        self.faces = crop.faces
        track = self._tracker.last
        seen = crop.found and crop.landmarks is not None and crop.confidence >= FACE_CERTAINTY
        # A frame or two without landmarks is a blur: nothing is sent, and nobody is told.
        if seen or not crop.found:
            self._note_face(seen, frame.capture_us)
        if seen and track is not None:
            if self._size is None or self.frames % LARGE_EVERY == 0:
                self._candidates.append((larger_crop(frame.rgb, crop, self._size or 0), track))
            if self.source is None and self._offered is None and len(self._candidates) >= self._first_of:
                self._take_from_camera()
            self._code(crop, track, frame)
            self.motion_ms.add(time.perf_counter() - cropped)
        else:
            self._flush()
        self._show(frame, crop if seen else None, track)

    def _code(self, crop: FaceCrop, track: Track, frame: Frame) -> None:
        encoder, capture_us = self._encoder, frame.capture_us
        if encoder is None or not self._sending:
            return
        if self._announce:
            # Tells the other side which frame is the first of the new source picture.
            self._announce = False
            self._deliver(lambda: self._events.face(True, capture_us))
        if self._keep is not None and self.sent_frames % KEEP_EVERY == 0 and len(self._keep) < 400:
            self._keep[capture_us] = as_jpeg(crop.rgb, 95)
        if self._gathered_since_us is None:
            self._gathered_since_us = capture_us
        elif capture_us - self._last_sent_us > LONGEST_WAIT_US:
            self._flush()
            self._gathered_since_us = capture_us
        self._last_sent_us = capture_us
        self.sent_frames += 1
        self._emit(encoder.push_track(track, capture_us))
        self._mind(encoder.extractor.speaker)
        plain = encoder.extractor.plain
        if self._selector is not None and plain is not None and self._selector.wants():
            self._selector.look(crop.rgb, plain, larger_crop(frame.rgb, crop, self._size or 0))
        if self._alone_once:
            self._alone_once = False
            self._flush()

    def _mind(self, speaker: Speaker) -> None:
        """Somebody else in the picture gets a source picture of his own; one that the user has chosen rests."""
        before, self._speaker = self._speaker, speaker
        if speaker == "same" or self.source is None:
            return
        if before == "same":
            self._candidates.clear()  # from now on they show whoever is there
        if speaker == "another" and before != "another":
            taken = bool(self.source.taken_at)
            self._retake = taken
            what = "a new source picture is taken" if taken else "your source picture rests"
            text = f"somebody else seems to have come into the picture: {what}"
            self._deliver(lambda: self._events.problem(text))
        if speaker == "another" and self._retake and len(self._candidates) >= self._first_of:
            self._retake = False
            self._take_from_camera()

    def _emit(self, packet: MotionPacket | None) -> None:
        if packet is None:
            return
        self._gathered_since_us = None
        self.payload_bits += 8 * len(packet.payload)
        self.packets_sent += 1
        self.key_packets += packet.is_key
        data, begun = bytes(packet), self._begun

        def tell() -> None:
            # One of the connection before would come to the next with a sequence number from far ahead.
            if begun == self._wanted:
                self._events.packet(packet, data)

        self._deliver(tell)

    def _flush(self) -> None:
        if self._encoder is not None:
            self._emit(self._encoder.flush())
        self._gathered_since_us = None

    def _flush_overdue(self) -> None:
        since_us = self._gathered_since_us
        # One frame that does not come is waited for; a camera that stands still is not.
        wait_us = min(LONGEST_WAIT_US, round(1e6 * self.frames_per_message / self.fps))
        if since_us is not None and now_us() - since_us > wait_us + ON_THE_WAY_US:
            self._flush()

    def _note_face(self, seen: bool, capture_us: int) -> None:
        self.face_seen = seen
        if seen == self._face_told:
            return
        if seen and self._encoder is not None:
            self._encoder.extractor.reset()
            self._alone_once = True  # the first frame goes at once: the other side has been waiting
        if not seen:
            self._flush()
        self._face_told = seen
        self._deliver(lambda: self._events.face(seen, capture_us))

    # Source pictures

    def _take_from_camera(self) -> None:
        if not self._candidates:
            raise NoFace("no face in the last second: look into the camera")
        candidates = list(self._candidates)
        best = choose_source(
            [fitted(crop, self._family.size) for crop, _ in candidates],
            np.stack([track.points for _, track in candidates]),
            [track.certainty for _, track in candidates],
            GROUPS,
        )
        self._take(candidates[best][0], from_file=False)

    def _take(self, crop: Picture, *, from_file: bool) -> None:
        packed, picture = pack_source(crop)
        self._offer(OwnSource(packed, picture, "" if from_file else datetime.now().strftime("%H:%M")))

    def _face_of(self, picture: Path | Picture) -> Picture:
        return face_of_picture(picture, self._family, size=self._size)

    def _use_recent(self, source_id: str) -> None:
        for source in self.recent:
            if source.id == source_id:
                self._offer(source)
                return
        raise BadInput(f"source {source_id!r:.40} is none of the recent ones")

    def _offer(self, source: OwnSource) -> None:
        self._family.source(source.picture)  # NoFace before anybody is offered anything
        others = [recent for recent in self.recent if recent.id != source.id]
        self.recent.clear()
        self.recent.extend([source, *others][:RECENT_SOURCES])
        self._offered = source
        if not self._sending or self.source is None:
            self._adopt(source)
        self._deliver(lambda: self._events.source(source))

    def _confirm(self, picture_hash: str) -> None:
        offered = self._offered
        if offered is None or offered.packed.picture_hash != picture_hash:
            return
        if offered is not self.source:
            self._adopt(offered)
        self._announce = self._sending

    def _adopt(self, source: OwnSource) -> None:
        """Motion refers to `source` from the next frame on."""
        self._flush()
        shown = self._family.source(source.picture)
        reference, target = shown, None
        if not source.taken_at and self._candidates:
            own = self._family.source(*self._candidates[-1])
            # Somebody else's picture: only what changes since this side's own face is applied to it.
            if shape_distance(own.shape, shown.shape) > SAME_PERSON:
                reference, target = own, shown
        if self._encoder is None:
            self._encoder = PacketEncoder(
                self._family,
                reference,
                fps=self._fps,
                frames_per_packet=self.frames_per_message,
                key_every_s=KEY_EVERY_S,
                reference="acknowledged",
                target=target,
            )
            self._follow(self.plan)
        else:
            self._encoder.follow(reference, target=target)
        self._speaker, self._retake = "same", False
        self.source = source
        self._known.clear()
        self._held.clear()
        if self._selector is not None:
            self._selector.follow(*((source.packed, source.picture) if target is None else (None,)))

    def _hold(self, picture_hash: str) -> None:
        base_hash, reference = self._known.get(picture_hash, ("", None))
        of_this = self.source is not None and self.source.packed.picture_hash == base_hash
        if self._encoder is not None and of_this and reference is not None and picture_hash not in self._held:
            self._held.append(picture_hash)
            self._encoder.set_references([self._known[name][1] for name in self._held])

    def _begin(self, connection: int) -> None:
        self._begun = connection
        if self._offered is not None and self._offered is not self.source:
            self._adopt(self._offered)
        self._held.clear()
        if self._encoder is not None:
            self._encoder.restart()
            self._encoder.set_references(())
        self._limit(float("inf"))
        self._gathered_since_us = None
        self._face_told = None
        self._announce = False
        self._alone_once = True
        self._sending = True

    def _follow(self, plan: Plan) -> None:
        self.plan = plan
        if self._encoder is not None:
            self._encoder.redundant_frames = plan.redundant_frames
            self._encoder.codec.set_quality(100 * plan.level / (LEVELS - 1))
        self._fit_messages()

    def _limit(self, fps: float) -> None:
        self.shown_fps = fps
        self._fit_messages()

    def _fit_messages(self) -> None:
        """After a change of the rate."""
        if self._encoder is not None:
            self._encoder.frames_per_packet = self.frames_per_message
            self._encoder.spacing_us = round(1e6 / self.fps)
            self._encoder.codec.key_interval = max(1, round(KEY_EVERY_S * self.fps))

    # What the own page shows

    def _show(self, frame: Frame, crop: FaceCrop | None, track: Track | None) -> None:
        if self.preview_wanted and frame.capture_us - self._preview_us >= PREVIEW_EVERY_US:
            self._preview_us = frame.capture_us
            jpeg = as_jpeg(_narrowed(frame.rgb, PREVIEW_WIDTH), 80)
            self._deliver(lambda: self._events.preview(jpeg, frame.capture_us))
        if self.overlay_wanted and frame.capture_us - self._overlay_us >= OVERLAY_EVERY_US:
            self._overlay_us = frame.capture_us
            size = (frame.rgb.shape[1], frame.rgb.shape[0])
            face = None
            if crop is not None and track is not None:
                pose = self._family.source(crop.rgb, track).pose
                face = Face(track.points, crop.place, pose, crop.rgb, crop.faces, size)
            message = self._calibration.look(face, size).message()
            self._deliver(lambda: self._events.overlay(message))


def _narrowed(rgb: Picture, width: int) -> Picture:
    if rgb.shape[1] <= width:
        return rgb
    height = max(1, round(rgb.shape[0] * width / rgb.shape[1]))
    return np.asarray(cv2.resize(rgb, (width, height), interpolation=cv2.INTER_AREA), np.uint8)
