"""The methods of the comparison: what each is called, what its numbers depend on, and how it codes a clip."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import astuple, dataclass, field
from typing import ClassVar, Final, Literal

import numpy as np
from numpy.typing import NDArray

from kilocall.bench.ffmpeg import find_ffmpeg
from kilocall.bench.quality.clips import BenchClip
from kilocall.bench.quality.codecs import RatePoint, VideoCodec, code_video
from kilocall.bench.quality.kilocall_codec import code_motion, frozen_source
from kilocall.model.family import Family
from kilocall.model.family_loader import FamilyChoice
from kilocall.sender.layer_encoder import setting_for

__all__ = ["FROZEN", "CodedClip", "FrozenPicture", "Kind", "Method", "Motion", "Video"]

Kind = Literal["kilocall", "video", "frozen"]
#: Name of the frozen picture among the codecs.
FROZEN: Final = "frozen"


@dataclass(frozen=True)
class CodedClip:
    """What a method sends of a clip, bytes in the order of sending, and what the receiver shows."""

    shown: NDArray[np.uint8]  # [T, S, S, 3]
    units: Sequence[Sequence[int]] = ()  # of every coded picture or packet the bytes of its parts
    frames_per_unit: int = 1
    messages: dict[int, list[int]] = field(default_factory=dict)  # kilocall: frames per packet -> message bytes
    payloads: dict[int, list[int]] = field(default_factory=dict)  # kilocall: frames per packet -> payload bytes
    source_bytes: int = 0  # kilocall and the frozen picture: sent once, beside the units
    first_layer: Sequence[int] = ()  # kilocall with a layer: bytes of the pieces of its first frame, beside them too
    file_bytes: int | None = None


@dataclass(frozen=True)
class Method(ABC):
    """A codec at one setting. `codec` and `setting` are its names in the report."""

    kind: ClassVar[Kind]
    stands_still: ClassVar[bool] = False
    """What it shows is one picture."""

    @property
    @abstractmethod
    def codec(self) -> str: ...

    @property
    @abstractmethod
    def setting(self) -> str: ...

    @property
    def quality(self) -> float:
        """The setting as a number: kilocall's precision, a video's quantiser."""
        return 0.0

    @property
    def family(self) -> FamilyChoice:
        """What tracks the face and, for kilocall, codes it."""
        return FamilyChoice()

    @property
    def depends_on(self) -> dict[str, object]:
        """What its numbers depend on, for the name of its results in the cache."""
        return {"kind": self.kind, "codec": self.codec, "quality": 0.0, "arguments": None, "halved": None}

    @abstractmethod
    def code(self, clip: BenchClip, family: Family) -> CodedClip:
        """Raises BadInput when the clip or the codec cannot be used."""


@dataclass(frozen=True)
class Motion(Method):
    """kilocall with the networks of a family, and with a video layer of so many kilobits a second where not 0."""

    kind = "kilocall"
    name: str
    choice: FamilyChoice
    precision: float
    layer: float = 0

    @property
    def codec(self) -> str:
        return self.name

    @property
    def setting(self) -> str:
        return f"quality {self.precision:g}" + (f", layer {self.layer:g}" if self.layer else "")

    @property
    def quality(self) -> float:
        return self.precision

    @property
    def family(self) -> FamilyChoice:
        return self.choice

    @property
    def depends_on(self) -> dict[str, object]:
        layer = setting_for(self.layer)
        known = super().depends_on | {"quality": self.precision}
        return known if layer is None else known | {"layer": astuple(layer)}

    def code(self, clip: BenchClip, family: Family) -> CodedClip:
        sent = code_motion(clip, family, self.precision, self.layer)
        payloads = {count: list(sizes) for count, sizes in sent.payloads.items()}
        step = next(iter(payloads))
        pairs = zip(payloads[step], sent.layer[step], strict=True)
        return CodedClip(
            shown=sent.shown,
            units=[[motion, layer] if self.layer else [motion] for motion, layer in pairs],
            frames_per_unit=step,
            messages={count: list(sizes) for count, sizes in sent.messages.items()},
            payloads=payloads,
            source_bytes=sent.source_bytes,
            first_layer=sent.first_layer,
        )


@dataclass(frozen=True)
class Video(Method):
    """A classic codec."""

    kind = "video"
    encoder: VideoCodec
    point: RatePoint

    @property
    def codec(self) -> str:
        return self.encoder.key

    @property
    def setting(self) -> str:
        return self.point.name

    @property
    def quality(self) -> float:
        return float(self.point.quantiser)

    @property
    def depends_on(self) -> dict[str, object]:
        halved = [self.point.half_side, self.point.half_rate]
        return super().depends_on | {"arguments": self.encoder.arguments(self.point), "halved": halved}

    def code(self, clip: BenchClip, family: Family) -> CodedClip:
        coded = code_video(clip.frames, clip.fps, self.encoder, self.point, find_ffmpeg())
        return CodedClip(
            shown=coded.shown,
            units=coded.units,
            frames_per_unit=coded.frames_per_unit,
            file_bytes=coded.file_bytes,
        )


@dataclass(frozen=True)
class FrozenPicture(Method):
    """The source picture held for the whole clip: the floor of every method."""

    kind = "frozen"
    stands_still = True

    @property
    def codec(self) -> str:
        return FROZEN

    @property
    def setting(self) -> str:
        return "first frame"

    def code(self, clip: BenchClip, family: Family) -> CodedClip:
        picture, source_bytes = frozen_source(clip, family)
        return CodedClip(np.broadcast_to(picture, clip.frames.shape), source_bytes=source_bytes)
