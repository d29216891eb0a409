"""A call's sound: what is spoken here, what is heard of the other side, and how both meet the pictures."""

from __future__ import annotations

from collections import deque
from pathlib import Path

from aiortc import MediaStreamTrack

from kilocall.call.audio_bridge import AvSync, Loudspeaker, PageMedia, Speech, hear, pace, play_file, read_sound
from kilocall.receiver.live import Rendered
from kilocall.runtime.tasks import Tasks
from kilocall.sender.camera import Camera, PageCamera

__all__ = ["CallAudio"]


class CallAudio:
    """Lives as long as the call; `tasks` own what runs. `microphone` is a sound file that is spoken in place of the
    page's microphone; BadInput where it is none."""

    def __init__(self, camera: Camera, tasks: Tasks, microphone: Path | None = None) -> None:
        self._sound = read_sound(microphone) if microphone is not None else None
        self._tasks = tasks
        self.speech, self.loudspeaker = Speech(), Loudspeaker()
        self.media = PageMedia(self.speech, camera if isinstance(camera, PageCamera) else None, tasks.own)
        self.av_sync = AvSync()
        self.microphone_began: deque[int] = deque(maxlen=20)
        """When the microphone's file began."""

    def start(self) -> None:
        """From now on there is a loudspeaker, and the file is spoken."""
        self._tasks.own(pace(self.loudspeaker, self.media.play), "loudspeaker")
        if self._sound is not None:
            self._tasks.own(play_file(self._sound, self.speech, self.microphone_began.append), "microphone")

    def hear(self, track: MediaStreamTrack) -> None:
        """The other side's speech."""
        self._tasks.own(hear(track, self.loudspeaker), "remote speech")

    def meet(self, rendered: Rendered, render_ms: float, *, muted: bool) -> None:
        """Lets speech and pictures wait so that they meet; `muted` is the other side. Once a picture."""
        heard = not muted and self.loudspeaker.received_samples
        self.av_sync.follow(
            rendered.playout_us,
            render_ms,
            packet_ms=self.loudspeaker.packet_ms,
            behind_ms=self.media.behind_ms if heard else 0.0,
        )
        self.loudspeaker.hold_us = self.av_sync.sound_us

    async def close(self) -> None:
        await self.media.close()
