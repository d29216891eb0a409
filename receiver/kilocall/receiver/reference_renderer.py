"""Several pictures of the speaker, moved: each frame on the picture that is nearest to it."""

from __future__ import annotations

from dataclasses import replace
from typing import Final

import cv2
import numpy as np

from kilocall.model.family import Family, FrameRenderer, Made, Picture, Source
from kilocall.model.motion import Motion
from kilocall.model.reference_pictures import (
    MOST_PICTURES,
    Chooser,
    Distance,
    ReferencePicture,
    base_reference,
    refer,
    retarget_to,
)
from kilocall.proto.errors import BadInput
from kilocall.runtime.pictures import fitted

__all__ = ["ReferenceRenderer", "faded"]

#: Side of the grid on which two pictures are compared: a lip is about one cell of it high.
GRID: Final = 32
#: Fine differences, in 8-bit levels, up to which both pictures are seen, and from which on the new one alone. Faded
#: everywhere, mouths, glasses and outlines are seen twice and pictures are soft (flicker 0.94 of the original's and
#: sharpness .55 on the liveliest of three clips); nowhere, hair and walls jump (1.19 and .70); so 1.06 and .64.
ALIKE: Final = 3.0
APART: Final = 8.0


class ReferenceRenderer:
    """A FrameRenderer that holds the source picture and up to seven further ones.

    With the source picture alone it makes that picture's renderer's pictures, to the bit. A change of picture is
    faded where both look alike: those frames are made twice.
    """

    def __init__(self, family: Family, base: Source, renderer: FrameRenderer | None = None) -> None:
        """`renderer` is the base's, where it is there already."""
        self._family, self._base = family, base
        self._references: list[ReferencePicture] = [base_reference(family, base)]
        self._renderers: list[FrameRenderer] = [renderer or family.renderer(base)]
        self._distance = Distance(family, base)
        self._chooser = Chooser()
        self.shown: Final[list[int]] = [0]
        """Frames shown on each picture."""
        self.changes = 0
        self._last = 0

    @property
    def can_hold(self) -> bool:
        return self._renderers[0].can_hold

    @property
    def pictures(self) -> int:
        return len(self._references)

    @property
    def references(self) -> tuple[ReferencePicture, ...]:
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
        """The next frame does not follow the last one: it is shown on the nearest picture at once, and made anew."""
        self._chooser.reset()
        for renderer in self._renderers:
            renderer.restart()

    def render(self, motion: Motion) -> Picture:
        """uint8 RGB, as large as the source picture makes it; the caller owns it."""
        return self.make(motion).picture

    def make(self, motion: Motion, *, hold: float = 0.0) -> Made:
        """Placed on the picture that was chosen."""
        if self.pictures == 1:
            self.shown[0] += 1
            return self._renderers[0].make(motion, hold=hold)
        choice = self._chooser.choose(self._distance.to(motion, self._references))
        self.changes += choice.picture != self._last
        self._last = choice.picture
        self.shown[choice.picture] += 1
        made = self._on(choice.picture, motion, hold)
        if choice.before is None:
            return made
        before = self._on(choice.before, motion, hold)
        return replace(made, picture=faded(made.picture, before.picture, choice.share))

    def _on(self, number: int, motion: Motion, hold: float) -> Made:
        if number == 0:
            return self._renderers[0].make(motion, hold=hold)
        made = self._renderers[number].make(retarget_to(motion, self._references[number]), hold=hold)
        own, picture = self._base.detail, made.picture
        # A further picture need not have the detail of the source, nor the source that of a further one.
        picture = fitted(picture, len(own)) if own is not None else self._without_detail(number, picture)
        placement = None if made.placement is None else replace(made.placement, number=number)
        return Made(picture, placement)

    def _without_detail(self, number: int, made: Picture) -> Picture:
        detail = self._references[number].source.detail
        return made if detail is None else fitted(made, len(made) // 2)


def faded(new: Picture, old: Picture, share: float) -> Picture:
    """`share` of `new` [S, S, 3] over `old` where both show the same things, however light or dark; elsewhere `new`.

    0.4 ms at 256.
    """
    grid, side = (GRID, GRID), (new.shape[1], new.shape[0])
    apart = cv2.resize(cv2.absdiff(new, old), grid, interpolation=cv2.INTER_AREA)
    light = cv2.absdiff(*(cv2.resize(one, grid, interpolation=cv2.INTER_AREA) for one in (new, old)))
    fine = cv2.cvtColor(cv2.subtract(apart, light), cv2.COLOR_RGB2GRAY)
    # What differs in a cell is seen twice around it as well.
    fine = cv2.blur(cv2.dilate(fine, np.ones((3, 3), np.uint8)), (3, 3))
    of_new = np.clip((fine - np.float32(ALIKE)) / np.float32(APART - ALIKE), np.float32(share), np.float32(1))
    weight = cv2.resize(of_new, side, interpolation=cv2.INTER_LINEAR)
    return np.asarray(cv2.blendLinear(new, old, weight, 1 - weight), np.uint8)
