"""What this side of a call is like just now: told when it changes, and again on each new connection."""

from __future__ import annotations

from collections.abc import Iterator

from kilocall.proto.control import CameraState, ControlMessage, FaceState, LayerReport, MediaState, PictureRate

__all__ = ["OwnState"]


class OwnState:
    """As it was told last; None: never."""

    def __init__(self) -> None:
        self.media = MediaState(muted=False, camera_off=False)
        self.rate: PictureRate | None = None
        """Of the pictures that can be shown here."""
        self.layer_bps = 0
        """So much of a video layer is taken here."""
        self.camera = CameraState(shown=False, time_us=0)
        self.face: FaceState | None = None
        """Told after the pictures that it is about."""

    def standing(self) -> Iterator[ControlMessage]:
        """What a new connection is told before any picture, where it is not what is taken for granted."""
        if self.media.muted or self.media.camera_off:
            yield self.media
        if self.rate is not None:
            yield self.rate
        if self.layer_bps:
            yield from self.layer()

    def layer(self) -> Iterator[ControlMessage]:
        """Who takes a layer can show what a camera sees, and says so with what its own one does."""
        yield LayerReport(self.layer_bps, None, False)
        yield self.camera
