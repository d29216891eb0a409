"""Several pictures of the speaker, moved: each frame on the picture that is nearest to it."""

from __future__ import annotations

from typing import Final

import cv2
import numpy as np

from kilocall.model.family import Family, FrameRenderer, Picture, Source
from kilocall.model.gallery import MOST_PICTURES, Chooser, Distance, Reference, base_reference, onto, refer
from kilocall.model.motion import Motion
from kilocall.proto.errors import BadInput
from kilocall.runtime.pictures import fitted

__all__ = ["GalleryRenderer"]


class GalleryRenderer:
    """A FrameRenderer that holds the source picture and up to seven further ones.

    With the source picture alone it makes that picture's renderer's pictures, to the bit. A change of picture is
    faded: those frames are made twice.
    """

    def __init__(self, family: Family, base: Source, renderer: FrameRenderer | None = None) -> None:
        """`renderer` is the base's, where it is there already."""
        self._family, self._base = family, base
        self._references: list[Reference] = [base_reference(family, base)]
        self._renderers: list[FrameRenderer] = [renderer or family.renderer(base)]
        self._distance = Distance(family, base)
        self._chooser = Chooser()
        self.shown: Final[list[int]] = [0]
        """Frames shown on each picture."""
        self.changes = 0
        self._last = 0

    @property
    def pictures(self) -> int:
        return len(self._references)

    @property
    def references(self) -> tuple[Reference, ...]:
        return tuple(self._references)

    def add(self, picture: Picture) -> None:
        """A further picture [S, S, 3] or [2S, 2S, 3] of the same speaker, shown where it is nearer than the others.

        BadInput when MOST_PICTURES are held, NoFace if it shows no face; then nothing has changed.
        """
        if self.pictures >= MOST_PICTURES:
            raise BadInput(f"gallery holds {self.pictures} pictures, most are {MOST_PICTURES}")
        reference = refer(self._family, picture, self._base)
        self._renderers.append(self._family.renderer(reference.source))
        self._references.append(reference)
        self.shown.append(0)

    def restart(self) -> None:
        """The next frame does not follow the last one: it is shown on the nearest picture at once."""
        self._chooser.reset()

    def render(self, motion: Motion) -> Picture:
        """uint8 RGB, as large as the source picture makes it; the caller owns it."""
        if self.pictures == 1:
            self.shown[0] += 1
            return self._renderers[0].render(motion)
        choice = self._chooser.choose(self._distance.to(motion, self._references))
        self.changes += choice.picture != self._last
        self._last = choice.picture
        self.shown[choice.picture] += 1
        made = self._on(choice.picture, motion)
        if choice.before is None:
            return made
        before = self._on(choice.before, motion)
        return np.asarray(cv2.addWeighted(made, choice.share, before, 1 - choice.share, 0), np.uint8)

    def _on(self, number: int, motion: Motion) -> Picture:
        if number == 0:
            return self._renderers[0].render(motion)
        made = self._renderers[number].render(onto(motion, self._references[number]))
        own = self._base.detail
        # A further picture need not have the detail of the source, nor the source that of a further one.
        return fitted(made, len(own)) if own is not None else self._without_detail(number, made)

    def _without_detail(self, number: int, made: Picture) -> Picture:
        detail = self._references[number].source.detail
        return made if detail is None else fitted(made, len(made) // 2)
