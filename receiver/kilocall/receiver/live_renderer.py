"""What a call shows of the other side at a time: its speaker made from a picture, or what its camera sees."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from kilocall.model.family import Family, Picture, nobody
from kilocall.model.motion import Motion
from kilocall.receiver.camera_view import CameraView
from kilocall.receiver.layer_mixer import LayerMixer
from kilocall.receiver.layer_receiver import DecodedLayer
from kilocall.receiver.remote_speaker import RemoteSpeaker
from kilocall.receiver.render import FaceRenderer, View, makes_slowly
from kilocall.receiver.switch_time import SwitchTime
from kilocall.runtime.pictures import as_jpeg

__all__ = ["LiveRenderer", "Shown"]

#: 90: on 256x256 pictures about 15 KB, no blocks to be seen.
JPEG_QUALITY: Final = 90


@dataclass(frozen=True)
class Shown:
    """A picture, as pixels [H, W, 3] and as JPEG."""

    rgb: Picture
    jpeg: bytes
    camera: bool
    """Whether it is what the other side's camera saw, as it was."""
    layered: bool
    """Whether a video layer of this connection is under it."""


class LiveRenderer:
    """Belongs to the receiving thread; its counters to anybody. `open` comes before all else."""

    def __init__(self, speaker: RemoteSpeaker) -> None:
        self.view = View()
        """How the head is turned."""
        self.camera_pictures = 0
        """Of the pictures made, those of what the other side's camera sees."""
        self._speaker = speaker
        self._mixer: LayerMixer | None = None
        self._camera_view = CameraView()
        self._camera_jpeg: tuple[Picture, bytes] | None = None
        self._slow = False  # this processor, at making pictures
        self._used_before = 0  # this connection

    @property
    def takes_layer(self) -> bool:
        """Once open: whether this side makes use of a video layer."""
        return self._mixer is not None

    @property
    def layer_used(self) -> int:
        """Frames of the layer that a picture was compared with."""
        return 0 if self._mixer is None else self._mixer.used

    def open(self, family: Family) -> None:
        """Loads every network now: the first picture of the call then takes 30 ms instead of 400."""
        self._slow = makes_slowly(family, nobody(family))
        fusion = family.fusion()
        self._mixer = None if fusion is None else LayerMixer(fusion)

    def restart(self) -> None:
        """Another connection, of which no frame of the layer has come."""
        self._camera_view = CameraView()
        if self._mixer is not None:
            self._mixer.reset()
        self._used_before = self.layer_used

    def push(self, frame: DecodedLayer) -> None:
        """A frame of the video layer, where one is taken."""
        if frame.whole:
            self._camera_view.push(frame.time_us, frame.picture)
        elif self._mixer is not None:
            self._mixer.push(frame.time_us, frame.picture)

    def switch_camera(self, shown: bool, since: SwitchTime) -> None:
        """From the frame of that time on what the camera sees is shown, or no more."""
        self._camera_view.switch(shown, since)

    def shows_camera(self, time_us: int) -> bool:
        """Whether the frame of this time is what the camera sees; the one before was asked for before."""
        return self._camera_view.picture(time_us) is not None

    def skip(self, time_us: int) -> None:
        """Nobody looks at the frame of this time; what holds from it on holds all the same."""
        self._speaker.renderer(time_us)
        self._camera_view.picture(time_us)

    def picture(self, time_us: int, motion: Motion | None, fps: float) -> Shown | None:
        """The frame of this time, of `fps` a second; None while there is nothing to show."""
        renderer, camera = self._speaker.renderer(time_us), self._camera_view.picture(time_us)
        if camera is not None:  # there may be no source picture yet
            self.camera_pictures += 1
            return Shown(camera, self._as_camera_jpeg(camera), camera=True, layered=False)
        if renderer is None or motion is None:
            return None
        rgb = self._moved(renderer, motion, time_us, fps)
        return Shown(rgb, as_jpeg(rgb, JPEG_QUALITY), camera=False, layered=self.layer_used > self._used_before)

    def _moved(self, renderer: FaceRenderer, motion: Motion, time_us: int, fps: float) -> Picture:
        """The speaker, made from a picture."""
        renderer.view = self.view
        # At a lower rate faces move further from frame to frame.
        renderer.hold = 25 / fps if self._slow else 0.0
        if self._mixer is not None and renderer.layer is not self._mixer:
            self._mixer.reset()  # what was seen over another source picture does not fit this one
            renderer.layer = self._mixer
        return renderer.render(motion, time_us)

    def _as_camera_jpeg(self, picture: Picture) -> bytes:
        """One picture is shown for several frames."""
        if self._camera_jpeg is None or self._camera_jpeg[0] is not picture:
            self._camera_jpeg = picture, as_jpeg(picture, JPEG_QUALITY)
        return self._camera_jpeg[1]
