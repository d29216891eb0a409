"""Implicit keypoints placed by the picture of the speaker that the receiver shows a frame on.

Which picture that is, the receiver decides by where the face lies; the same rule here says the same. Motion is told
against the source picture all the same: on another picture it is seen less that picture's own motion, which is fixed.
"""

from __future__ import annotations

from collections.abc import Sequence

from kilocall.model.family import Aligner, Family, Source, Track
from kilocall.model.motion import Motion
from kilocall.model.reference_pictures import Chooser, Distance, ReferencePicture, base_reference, retarget_to

__all__ = ["KeypointAligner"]


class KeypointAligner:
    """Aligns the frames of one speaker, one after the other, with the pictures that the receiver holds."""

    def __init__(self, family: Family, base: Source) -> None:
        """`base` is the source picture; further ones come with `set_references`."""
        self._family, self._base = family, base
        self._aligners: list[Aligner | None] = [family.aligner(base)]
        self._references = [base_reference(family, base)]
        self._distance = Distance(family, base)
        self.reset()

    @property
    def references(self) -> Sequence[ReferencePicture]:
        return tuple(self._references)

    def set_references(self, references: Sequence[ReferencePicture]) -> None:
        """The further pictures that the receiver holds from now on, in the order in which it got them."""
        kept = {id(one): aligner for one, aligner in zip(self._references, self._aligners, strict=True)}
        self._references = [self._references[0], *references]
        self._aligners = [
            kept[id(one)] if id(one) in kept else self._family.aligner(one.source) for one in self._references
        ]
        self.reset()

    def reset(self) -> None:
        """The next frame starts anew."""
        self._chooser = Chooser()
        self._shown: int | None = None
        self.likeness: float | None = None
        """`Aligner.likeness` of the last frame."""

    def align(self, motion: Motion, track: Track) -> Motion:
        """The motion of the next frame, its implicit keypoints where the copy lies on what is seen."""
        number = 0
        if len(self._references) > 1:
            number = self._chooser.choose(self._distance.to(motion, self._references)).picture
        aligner, reference = self._aligners[number], self._references[number]
        if aligner is None:
            return motion
        on = motion if number == 0 else retarget_to(motion, reference)
        if number != self._shown:
            self._shown = number
            aligner.reset()
            aligner.align(on, track)  # a frame that has none before it takes two steps
        change = aligner.align(on, track).expression - on.expression
        self.likeness = aligner.likeness
        return Motion(motion.rotation, motion.translation, motion.scale, motion.expression + change)
