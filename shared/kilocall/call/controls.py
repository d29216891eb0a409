"""What a page sees of a call, and what it may ask for."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from datetime import datetime
from pathlib import Path
from typing import Any

from kilocall.call.audio import CallAudio
from kilocall.call.link import Link
from kilocall.call.outputs import Outputs
from kilocall.call.recording import Recording
from kilocall.call.settings import CallSettings
from kilocall.call.statistics import CallStatistics
from kilocall.control.session import Session
from kilocall.model.family import Picture
from kilocall.proto.errors import BadInput
from kilocall.receiver.live import ReceivePipeline
from kilocall.receiver.render import View
from kilocall.receiver.rendered import Rendered
from kilocall.runtime.clock import now_us
from kilocall.runtime.picture_decoder import UPLOAD
from kilocall.runtime.picture_process import shared_decoder
from kilocall.runtime.version import program_version
from kilocall.sender.camera import PageCamera
from kilocall.sender.capture import CameraCapture
from kilocall.sender.live import SendPipeline

__all__ = ["Controls"]


class Controls:
    """`on_message` brings a message to the pages. What cannot be done raises KilocallError or OSError."""

    def __init__(
        self,
        settings: CallSettings,
        session: Session,
        link: Link,
        sending: SendPipeline,
        receiving: ReceivePipeline,
        audio: CallAudio,
        *,
        outputs: Outputs,
        statistics: CallStatistics,
        on_message: Callable[[dict[str, Any]], None],
    ) -> None:
        self.view = View()
        self.in_room = False
        """Whether the signalling server has let this side in: its link is good for something from then on."""
        self.reconstructed = True
        """Whether the other side's picture that is shown was made from another: its camera may be shown as it is."""
        self.layered = False
        """Whether a video layer is under it."""
        self._settings, self._session, self._link = settings, session, link
        self._sending, self._receiving, self._audio = sending, receiving, audio
        self._outputs, self._statistics, self._on_message = outputs, statistics, on_message
        self._remote_hash: str | None = None
        self._remote_taken_at: str | None = None

    # What it sees

    @property
    def numbers(self) -> dict[str, Any]:
        return self._statistics.numbers

    def hello(self) -> dict[str, Any]:
        settings, address, session = self._settings, self._link.address, self._session
        family, size = "", 256
        if session.introduced:
            family, size = session.hello.family, session.hello.picture_size
        return {
            "type": "hello",
            "room": address.room,
            "link": address.link,
            "camera": settings.camera if settings.camera.isdecimal() else Path(settings.camera).name,
            "family": family,
            "version": program_version(),
            "size": size,
        }

    def state(self) -> dict[str, Any]:
        session, sending, outputs = self._session, self._sending, self._outputs
        remote = session.remote
        return {
            "type": "state",
            "phase": session.phase,
            "reason": session.reason,
            "trouble": self._link.trouble,
            "in_room": self.in_room,
            "muted": self._audio.speech.muted,
            "camera_off": sending.camera_off,
            "camera": self._camera(),
            "recording": outputs.recording,
            "own_face": sending.face.seen,
            "camera_view": {"available": remote.takes_camera, "shown": sending.camera_view.shown},
            "slow": {"shows": self._statistics.load.receives.text, "sends": self._statistics.load.sends.text},
            "remote": {
                "present": remote.present,
                "face": remote.face,
                "since_ms": (now_us() - remote.face_since_us) // 1000 if remote.face_since_us else 0,
                "source_taken_at": self._remote_taken_at if remote.picture_hash else None,
                "reconstructed": self.reconstructed,
                "layered": self.layered,
                "pictures": 1 + len(session.references.held),
                "camera_off": remote.camera_off,
                "muted": remote.muted,
            },
            "trust": self._trust(),
            "own_source_at": sending.pictures.source.taken_at or None if sending.pictures.source is not None else None,
            "remote_view": {"yaw": self.view.yaw, "pitch": self.view.pitch, "roll": self.view.roll},
            "virtual_camera": {
                "available": outputs.virtual_reason is None,
                "on": outputs.virtual,
                "reason": outputs.virtual_reason,
            },
        }

    def _camera(self) -> dict[str, Any]:
        """Its number, where it is a camera of this computer, and what is wrong with it."""
        camera = self._sending.camera
        device = camera.device if isinstance(camera, CameraCapture) else None
        return {
            "number": device if isinstance(device, int) else None,
            "problem": camera.error or ("the camera has ended" if camera.ended else ""),
        }

    def _trust(self) -> dict[str, Any]:
        acquaintance = self._session.acquaintance
        return {
            "words": list(acquaintance.words),
            "verified": bool(acquaintance.words) and acquaintance.verified,
            "expected": acquaintance.expected,
        }

    def sources(self) -> dict[str, Any]:
        recent = [
            {"id": source.id, "taken_at": source.taken_at or None, "thumb": f"/api/sources/{source.id}.jpg"}
            for source in self._sending.pictures.recent
        ]
        return {"type": "sources", "recent": recent, "current": recent[0]["id"] if recent else None}

    def own_picture(self, source_id: str | None = None) -> Picture | None:
        """The own source picture, or one of the recent ones, as RGB."""
        pictures = self._sending.pictures
        if source_id is None:
            return pictures.source.picture if pictures.source is not None else None
        return next((source.picture for source in pictures.recent if source.id == source_id), None)

    def remote_picture(self) -> bytes | None:
        """The other side's source picture, encoded as it came."""
        picture = self._session.remote_picture
        return picture.data if picture is not None else None

    def tell_hello(self) -> None:
        self._on_message(self.hello())

    def shows(self, made: Rendered) -> None:
        """Of the other side: what kind of picture it is, is told where it was another before."""
        kind = not made.camera, made.layered
        if kind != (self.reconstructed, self.layered):
            self.reconstructed, self.layered = kind
            self.tell_state()

    def tell_state(self) -> None:
        """Whatever may have changed it ends with this."""
        picture_hash = self._session.remote.picture_hash
        if picture_hash != self._remote_hash:
            self._remote_hash = picture_hash
            self._remote_taken_at = datetime.now().strftime("%H:%M")
        self._statistics.phase()
        self._on_message(self.state())

    def tell_sources(self) -> None:
        self._on_message(self.sources())

    # What it may ask for

    def mute(self, on: bool) -> None:
        self._audio.speech.muted = on
        self._say_media()

    def camera(self, on: bool) -> None:
        self._sending.camera_off = not on
        self._say_media()

    def show_camera(self, on: bool) -> None:
        """What the camera sees is shown as it is, or no more. Raises BadInput where the other side cannot show it."""
        if on and not self._session.remote.takes_camera:
            raise BadInput("the other side cannot show what your camera sees")
        self._sending.show_camera(on)

    async def choose_camera(self, number: int) -> None:
        """Another camera of this computer. Raises BadInput when it cannot be opened; then the one before stays."""
        sending = self._sending
        if isinstance(sending.camera, PageCamera):
            raise BadInput("the camera is the page's own: the browser chooses it")
        if self._camera()["number"] == number and not sending.camera.error:
            return
        camera = CameraCapture(number, fps=self._settings.fps)
        await asyncio.to_thread(camera.start)
        try:
            await asyncio.wrap_future(sending.use_camera(camera))
        except BaseException:
            camera.stop()
            raise
        self.tell_state()

    def compared(self, words: tuple[str, ...]) -> None:
        """The person has seen that the other side's words are these. Raises BadInput if they have changed since."""
        self._session.acquaintance.compared(words)

    def calibrate(self, on: bool) -> None:
        self._sending.preview.overlay_wanted = on

    async def take_source(self) -> None:
        await asyncio.wrap_future(self._sending.take_source())

    async def use_source(self, source_id: str) -> None:
        await asyncio.wrap_future(self._sending.use_recent(source_id))
        self.tell_sources()

    async def upload(self, data: bytes) -> None:
        """The face of a picture file becomes the source picture. BadInput or NoFace where it cannot."""
        picture = await asyncio.to_thread(shared_decoder().decode, data, UPLOAD)
        await asyncio.wrap_future(self._sending.use_picture(picture))

    def turn(self, view: View) -> None:
        self.view = view
        self._receiving.set_view(view)
        self.tell_state()

    async def record(self, on: bool) -> Recording | None:
        """Starts or ends a recording of what is received; what was written, when it ends."""
        if on == self._outputs.recording:
            return None
        try:
            if not on:
                return await self._outputs.stop_recording()
            await self._outputs.start_recording()
            return None
        finally:
            self.tell_state()

    async def virtual_camera(self, on: bool) -> None:
        await asyncio.to_thread(self._outputs.use_virtual_camera, on)
        self.tell_state()

    def watch(self, visible: bool, previews: bool) -> None:
        """Whether anybody sees the remote picture, and the own preview."""
        self._receiving.watched = visible or self._settings.headless or self._outputs.virtual
        self._sending.preview.wanted = previews

    def sound_behind(self, milliseconds: float) -> None:
        """How much longer than a picture a sound needs from here to the person, as the page has measured it."""
        self._audio.media.behind_ms = milliseconds

    async def connect_media(self, offer: str) -> str:
        """The page's own loopback connection, for microphone, camera and loudspeaker: its offer's answer."""
        return await self._audio.media.answer(offer)

    def _say_media(self) -> None:
        self._session.own_media(muted=self._audio.speech.muted, camera_off=self._sending.camera_off)
        self.tell_state()
