"""Where the other side's picture and speech go beside the page: a recording, and a camera for other programs."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from contextlib import suppress
from fractions import Fraction
from pathlib import Path

from kilocall.call.audio_bridge import Loudspeaker
from kilocall.call.recording import Recorder, Recording
from kilocall.call.settings import CallSettings
from kilocall.call.virtual_camera import VirtualCamera, why_unavailable
from kilocall.codec.codebook import Codebook
from kilocall.control.session import Session
from kilocall.proto.errors import BadInput, KilocallError
from kilocall.proto.motion_packet import TIMES_MS
from kilocall.receiver.live import Played, ReceivePipeline
from kilocall.receiver.rendered import KeptPictures
from kilocall.runtime.files import write_whole
from kilocall.runtime.version import program_version
from kilocall.runtime.worker import deliver_to

__all__ = ["Outputs", "keep_pictures"]


class Outputs:
    """`codebook` is the one that motion is coded with, `picture_us` when the newest picture was ready, on this side's
    clock; 0 before there is one. `on_problem` is told on the event loop why a recording has ended by itself."""

    def __init__(
        self,
        settings: CallSettings,
        session: Session,
        receiving: ReceivePipeline,
        loudspeaker: Loudspeaker,
        *,
        codebook: Callable[[], Codebook],
        picture_us: Callable[[], int],
        on_problem: Callable[[str], None],
    ) -> None:
        self.virtual_reason = why_unavailable()
        """Why there is no virtual camera; None: there may be one."""
        self._settings, self._session, self._receiving, self._loudspeaker = settings, session, receiving, loudspeaker
        self._codebook, self._picture_us, self._on_problem = codebook, picture_us, on_problem
        self._recorder: Recorder | None = None
        self._recorded = ""  # hash of the source picture that the recording shows
        self._virtual: VirtualCamera | None = None

    @property
    def recording(self) -> bool:
        return self._recorder is not None

    @property
    def virtual(self) -> bool:
        """Whether the virtual camera is on."""
        return self._virtual is not None

    async def start_recording(self) -> None:
        """Records what is received from now on. Raises BadInput when there is no picture yet."""
        session, settings = self._session, self._settings
        picture = session.remote_picture
        if picture is None:
            raise BadInput("there is nothing to record yet: the other side's picture has not come")
        further = tuple(session.references.held.values())
        deliver = deliver_to(asyncio.get_running_loop())
        self._recorder = recorder = await asyncio.to_thread(
            lambda: Recorder(
                settings.recordings,
                picture,
                self._codebook(),
                family=session.hello.family,
                weights_hash=session.hello.weights_hash,
                picture_size=session.hello.picture_size,
                fps=Fraction(settings.fps).limit_denominator(1001),
                tool=f"kilocall {program_version()}",
                further=further,
                on_problem=lambda text: deliver(lambda: self._recording_failed(text)),
            )
        )
        self._recorded = picture.picture_hash
        # Those that came while the file was opened; the recorder leaves out what it has.
        for name in session.references.held:
            self.further_picture(name)

        def played(item: Played) -> None:
            recorder.add_motion(item)

        self._receiving.events.played = played
        self._receiving.events.layer = recorder.add_layer
        self._receiving.events.camera_ended = recorder.end_camera
        if self._receiving.renderer.takes_layer:
            session.layer_lost(self._receiving.layer.newest)  # the file's layer begins with a key frame
        lag_us = self._loudspeaker.hold_us
        self._loudspeaker.on_samples = lambda samples, play_us: recorder.add_speech(
            samples, self._on_motion_clock(play_us - lag_us)
        )

    def further_picture(self, picture_hash: str) -> None:
        """A further picture of the other side's can be used: a recording has it from now on."""
        if self._recorder is None or self._session.remote.picture_hash != self._recorded:
            return
        further = self._session.references.held.get(picture_hash)
        if further is not None:
            self._recorder.add_picture(further)

    async def stop_recording(self) -> Recording | None:
        """What was written; None when nothing was."""
        recorder = self._let_go()
        return None if recorder is None else await asyncio.to_thread(recorder.close)

    def _recording_failed(self, text: str) -> None:
        if self._recorder is not None:
            self._let_go()
            self._on_problem(text)

    def _let_go(self) -> Recorder | None:
        recorder, self._recorder = self._recorder, None
        self._receiving.events.played = self._receiving.events.layer = None
        self._receiving.events.camera_ended = lambda time_us: None
        self._loudspeaker.on_samples = None
        return recorder

    def use_virtual_camera(self, on: bool) -> None:
        """Takes a moment. Raises BadInput that says what is missing."""
        receiving = self._receiving
        if on == self.virtual:
            return
        if not on and self._virtual is not None:
            receiving.events.rgb = None
            self._virtual.close()
            self._virtual = None
            return
        try:
            self._virtual = VirtualCamera(self._settings.fps)
        except BadInput as error:
            self.virtual_reason = str(error)
            raise
        self.virtual_reason = None
        receiving.watched = True
        receiving.events.rgb = self._virtual.send

    async def close_recording(self) -> None:
        """At the end of a call, where a failing disk must keep nothing else from closing."""
        if self.recording:
            with suppress(KilocallError, OSError):
                await self.stop_recording()

    def close_virtual_camera(self) -> None:
        """After the receiving thread, which sends to it, has ended."""
        if self._virtual is not None:
            self._virtual.close()

    def _on_motion_clock(self, play_us: int) -> int:
        """A time on this side's clock as the sender's motion has it: what is seen now was captured then."""
        last, picture_us = self._receiving.last_time_us, self._picture_us()
        return last + (play_us - picture_us) if picture_us else last


def keep_pictures(folder: Path, sent: dict[int, bytes], shown: KeptPictures) -> None:
    """Writes crops that were sent, pictures that were shown, and when: [[capture, made], ...] in microseconds."""
    folder.mkdir(exist_ok=True)
    write_whole(folder / "shown.json", json.dumps(shown.times_us).encode())
    for time_us, jpeg in sent.items():
        (folder / f"sent_{time_us // 1000 % TIMES_MS:05d}.jpg").write_bytes(jpeg)
    for rendered in shown.pictures:
        (folder / f"shown_{rendered.time_us // 1000 % TIMES_MS:05d}.jpg").write_bytes(rendered.jpeg)
