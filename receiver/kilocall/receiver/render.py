"""Motion to pictures: the receiver's second stage, with everything a viewer may change."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Final, Protocol

from kilocall.model.family import Family, Made, Picture, Source, retarget, turn_head
from kilocall.model.motion import Motion
from kilocall.model.reference_pictures import ReferencePicture
from kilocall.proto.errors import BadInput
from kilocall.receiver.reference_renderer import ReferenceRenderer
from kilocall.runtime.timing import takes_longer

LARGEST_TURN_DEG = 90.0
#: Where a picture takes longer, a quarter of the time from one to the next at 25 a second, a video is shown with
#: pictures that are moved on between those that the networks make.
HOLD_FROM_S: Final = 0.01


class Layer(Protocol):
    """The video layer of a stream, as far as it has come."""

    def mix(self, made: Made, time_us: int) -> Picture:
        """The picture of this capture time with what the layer knows."""

    def reset(self) -> None:
        """What follows has nothing to do with what was before."""


@dataclass(frozen=True)
class View:
    """The head turned further at the receiver, degrees."""

    yaw: float = 0.0
    pitch: float = 0.0
    roll: float = 0.0

    def apply(self, motion: Motion, neck: tuple[float, float, float]) -> Motion:
        """The motion as seen from here; the head turns about `neck`."""
        if not (self.yaw or self.pitch or self.roll):
            return motion
        yaw, pitch, roll = (math.radians(angle) for angle in (self.yaw, self.pitch, self.roll))
        return turn_head(motion, yaw, pitch, roll, neck)


def makes_slowly(family: Family, source: Source) -> bool:
    """Whether a video should be shown with `FaceRenderer.hold` on this processor; makes a few pictures to find out."""
    renderer = family.renderer(source)
    renderer.make(source.pose)  # networks are loaded, and slow, the first time
    if not renderer.can_hold:
        return False
    return takes_longer(HOLD_FROM_S, lambda: renderer.make(source.pose))


class FaceRenderer:
    """Moves one picture's face, or that of several pictures of the same speaker.

    The stream's motion is absolute for the stream's own source. On another picture only what changed since the
    stream's source is applied (relative motion), so that a stranger keeps their own face shape and pose.
    """

    def __init__(self, family: Family, stream_source: Source, shown: Source | None = None) -> None:
        self._stream_pose = stream_source.pose
        self.source = shown or stream_source
        self._relative = shown is not None
        self._renderer = ReferenceRenderer(family, self.source)
        self.view = View()
        self.layer: Layer | None = None
        """The video layer of the stream, where it has one."""
        self.hold = 0.0
        """How far the frames that come, one after the other, may be moved on from pictures of frames before; see
        `FrameRenderer.make`."""

    @property
    def pictures(self) -> int:
        """How many are held, the source picture included."""
        return self._renderer.pictures

    @property
    def references(self) -> tuple[ReferencePicture, ...]:
        """The pictures that frames are shown on, the source picture first."""
        return self._renderer.references

    @property
    def shown(self) -> tuple[int, ...]:
        """Frames that were shown on each of them."""
        return tuple(self._renderer.shown)

    def add_picture(self, picture: Picture) -> None:
        """A further picture of the stream's speaker; each frame is then shown on the nearest.

        BadInput for one too many or where somebody else's picture is shown, NoFace; then nothing has changed.
        """
        if self._relative:
            raise BadInput("somebody else's picture is shown: further pictures of the speaker do not fit it")
        self._renderer.add(picture)

    def restart(self) -> None:
        """The next frame does not follow the last one: after seeking."""
        self._renderer.restart()
        if self.layer is not None:
            self.layer.reset()

    def made_by(self, family: Family) -> FaceRenderer:
        """The stream's pictures and view on networks that render otherwise and agree in all else: one person's."""
        other = FaceRenderer(family, self.source)
        for reference in self.references[1:]:
            source = reference.source
            other.add_picture(source.picture if source.detail is None else source.detail)
        other.view, other.layer, other.hold = self.view, self.layer, self.hold
        return other

    def render(self, motion: Motion, time_us: int | None = None) -> Picture:
        """uint8 RGB [S, S, 3]; the caller owns it.

        With the frame's capture time it shows what the video layer knows, if there is one. What the layer saw fits
        neither another picture nor a head turned further.
        """
        if self._relative:
            motion = retarget(motion, self._stream_pose, self.source.pose)
        made = self._renderer.make(self.view.apply(motion, self.source.neck), hold=self.hold)
        if self.layer is None or time_us is None or self._relative or self.view != View():
            return made.picture
        return self.layer.mix(made, time_us)
