"""Which further pictures of the speaker to send: the receiver's model is run here, on what this side sees.

A frame that was sent is kept now and then as a *probe*: the crop, and its motion. The picture that the receiver makes
of it is made here too, on the nearest of the pictures that it holds. A crop pays off as a further picture by how many
decibels nearer to the crops the probes come that would be shown on it; its own frame does not count.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass
from typing import Final

import cv2
import numpy as np
from numpy.typing import NDArray

from kilocall.model.family import Family, FrameRenderer, Picture, Source
from kilocall.model.motion import Motion
from kilocall.model.reference_pictures import Distance, ReferencePicture, base_reference, refer, retarget_to
from kilocall.proto.control import SourcePicture
from kilocall.proto.errors import BadInput, NoFace
from kilocall.runtime.pictures import DEFAULT_MAX_BYTES, LARGE_MAX_BYTES, decode_picture, encode_picture, fitted

__all__ = [
    "CAUSAL_SHORTLIST",
    "MOST_PROBES",
    "PROBE_EVERY",
    "Probe",
    "Proposal",
    "ReferenceSearch",
    "bytes_each",
    "choose_pictures",
]

#: Less than this is no picture any more, at 256x256.
SMALLEST_BYTES: Final = 1024
#: A picture that brings less, in dB over all probes, is not worth its bytes.
PAYS_DB: Final = 0.1
#: Crops of a clip that are looked at as further pictures.
SHORTLIST: Final = 16
#: The same while a speaker is still talking: what is found now need not be the best, and must not take long.
CAUSAL_SHORTLIST: Final = 4
#: Of all that was seen so far; each is a crop of 192 KB.
MOST_PROBES: Final = 48
#: Every such frame is a probe.
PROBE_EVERY: Final = 10
#: Decibels of equal pictures, as elsewhere.
MOST_DB: Final = 60.0


@dataclass(frozen=True, eq=False)
class Probe:
    """A frame that was sent."""

    crop: Picture
    """As the networks see it [S, S, 3]."""
    motion: Motion
    """As the landmarks and the detector have it: how it was placed belongs to the picture that it was shown on."""
    candidate: Picture | None = None
    """As it would be sent, [S, S, 3] or [2S, 2S, 3]; None: it is no candidate, only a measure."""


@dataclass(frozen=True, eq=False)
class Proposal:
    """A further picture, ready to be sent."""

    packed: SourcePicture
    reference: ReferencePicture
    probe: Probe
    gain_db: float
    """Mean over all probes."""


def bytes_each(pictures: int, kilobytes: float, source: SourcePicture, side: int) -> int:
    """Most bytes of each of `pictures` - 1 further pictures beside the source picture. BadInput for too few."""
    most = DEFAULT_MAX_BYTES if side <= 256 else LARGE_MAX_BYTES
    left = int(kilobytes * 1000) - len(source.data)
    each = min(most, left // max(1, pictures - 1))
    if each < SMALLEST_BYTES:
        raise BadInput(
            f"gallery_kb is {kilobytes:g}: beside a source picture of {len(source.data)} bytes {max(0, each)} are left "
            f"for each of {pictures - 1} further ones, at least {SMALLEST_BYTES} are needed"
        )
    return each


class _Trial:
    """A picture and how near it brings the probes; each is made once."""

    def __init__(self, family: Family, reference: ReferencePicture, *, moved: bool) -> None:
        self.reference = reference
        self._family, self._moved = family, moved
        self._renderer: FrameRenderer | None = None
        self._made: dict[Probe, float] = {}

    def decibels(self, probe: Probe) -> float:
        if probe not in self._made:
            if self._renderer is None:
                self._renderer = self._family.renderer(self.reference.source)
            motion = retarget_to(probe.motion, self.reference) if self._moved else probe.motion
            self._made[probe] = _decibels(fitted(self._renderer.render(motion), len(probe.crop)), probe.crop)
        return self._made[probe]

    def rest(self) -> None:
        """Gives the renderer's memory back, 7 MB; the next probe makes another."""
        self._renderer = None

    def forget(self, probe: Probe) -> None:
        self._made.pop(probe, None)


class ReferenceSearch:
    """Holds probes and the pictures that the receiver has, and finds the picture that would help most."""

    def __init__(
        self, family: Family, base: Source, *, max_bytes: int, most_probes: int | None = None, pays_db: float = PAYS_DB
    ) -> None:
        """`max_bytes` is of each picture. With more than `most_probes` every other one is dropped, and from then on
        only every other one is kept, so that they are spread over all that was seen."""
        self._family, self._base = family, base
        self._max_bytes, self._most, self._pays_db = max_bytes, most_probes, pays_db
        self._distance = Distance(family, base)
        self._held = [_Trial(family, base_reference(family, base), moved=False)]
        self._probes: list[Probe] = []
        self._nearest: list[float] = []  # distance of each probe from the picture it is shown on
        self._shown: list[float] = []  # decibels of each probe as it is shown
        self._packed: dict[Probe, tuple[SourcePicture, _Trial] | None] = {}
        self._stride, self._count = 1, 0

    @property
    def pictures(self) -> int:
        """Held by the receiver, the source picture included."""
        return len(self._held)

    @property
    def further(self) -> list[ReferencePicture]:
        """Those beside the source picture."""
        return [trial.reference for trial in self._held[1:]]

    @property
    def probes(self) -> tuple[Probe, ...]:
        """Those that are kept."""
        return tuple(self._probes)

    @property
    def shown_db(self) -> float:
        """How near the probes come with the pictures that are held: mean of their decibels; there must be one."""
        return sum(self._shown) / len(self._shown)

    def add(self, probe: Probe) -> None:
        """One more frame, made here as the receiver makes it."""
        self._count += 1
        if (self._count - 1) % self._stride:
            return
        distances = self._distance.to(probe.motion, [trial.reference for trial in self._held])
        nearest = int(distances.argmin())
        self._probes.append(probe)
        self._nearest.append(float(distances[nearest]))
        self._shown.append(self._held[nearest].decibels(probe))
        if self._most is not None and len(self._probes) > self._most:
            self._thin_out()

    def add_reference(self, reference: ReferencePicture) -> None:
        """The receiver holds this picture from now on."""
        packed = (found for found in self._packed.values() if found is not None)
        trial = next((trial for _, trial in packed if trial.reference is reference), None)
        if trial is None:
            trial = _Trial(self._family, reference, moved=True)
        self._held.append(trial)
        for number, apart in enumerate(self._to(reference)):
            if apart < self._nearest[number]:
                self._nearest[number] = float(apart)
                self._shown[number] = trial.decibels(self._probes[number])

    def best(self, most: int) -> Proposal | None:
        """The picture that helps most, of the `most` candidates that look best by distance; None if none pays off."""
        search = self.seek(most)
        while True:
            try:
                next(search)
            except StopIteration as end:
                found: Proposal | None = end.value
                return found

    def seek(self, most: int) -> Generator[None, None, Proposal | None]:
        """`best` in pieces of one picture made: who iterates may do other things between them, but not add or hold."""
        found: Proposal | None = None
        for number in self._shortlist(most):
            yield
            packed = self._pack(self._probes[number])
            if packed is None:
                continue
            picture, trial = packed
            gain = yield from self._gain(trial, number)
            trial.rest()
            if gain >= self._pays_db and (found is None or gain > found.gain_db):
                found = Proposal(picture, trial.reference, self._probes[number], gain)
        return found

    def _gain(self, trial: _Trial, own: int) -> Generator[None, None, float]:
        gain = 0.0
        for number, apart in enumerate(self._to(trial.reference)):
            if number != own and apart < self._nearest[number]:
                yield
                gain += trial.decibels(self._probes[number]) - self._shown[number]
        return gain / len(self._probes)

    def _shortlist(self, most: int) -> list[int]:
        """Probes whose faces lie nearest to those of many others, beside what is held."""
        candidates = [number for number, probe in enumerate(self._probes) if probe.candidate is not None]
        if not candidates:
            return []
        points = np.stack([self._family.keypoints(self._base, probe.motion) for probe in self._probes])
        apart = np.stack([self._distance.between(points[number], points) for number in candidates])  # [C, P]
        nearest = np.array(self._nearest)
        chosen: list[int] = []
        while len(chosen) < min(most, len(candidates)):
            saved = np.maximum(0, nearest - apart).sum(1)
            saved[[candidates.index(number) for number in chosen]] = -1
            best = int(saved.argmax())
            chosen.append(candidates[best])
            nearest = np.minimum(nearest, apart[best])
        return chosen

    def _pack(self, probe: Probe) -> tuple[SourcePicture, _Trial] | None:
        """As the receiver will have it; None where the face is not found in the compressed picture."""
        if probe not in self._packed:
            self._packed[probe] = None
            assert probe.candidate is not None
            try:
                format_, data = encode_picture(probe.candidate, self._max_bytes)
                reference = refer(self._family, decode_picture(data), self._base)
            except (BadInput, NoFace):
                return None
            trial = _Trial(self._family, reference, moved=True)
            self._packed[probe] = (SourcePicture(format=format_, data=data), trial)
        return self._packed[probe]

    def _to(self, reference: ReferencePicture) -> NDArray[np.float32]:
        distances = [self._distance.to(probe.motion, [reference])[0] for probe in self._probes]
        return np.array(distances, np.float32)

    def _thin_out(self) -> None:
        for probe in self._probes[1::2]:
            self._packed.pop(probe, None)
            for trial in (*self._held, *(found[1] for found in self._packed.values() if found is not None)):
                trial.forget(probe)
        for kept in (self._probes, self._nearest, self._shown):
            del kept[1::2]
        self._stride *= 2


def choose_pictures(
    family: Family,
    base: Source,
    probes: Sequence[Probe],
    *,
    pictures: int,
    max_bytes: int,
    progress: Callable[[int, int | None], None] = lambda done, total: None,
) -> list[Proposal]:
    """Up to `pictures` - 1 further pictures for frames that are all known, the most useful first; greedy."""
    search = ReferenceSearch(family, base, max_bytes=max_bytes)
    for probe in probes:
        search.add(probe)
    chosen: list[Proposal] = []
    while len(chosen) < pictures - 1:
        progress(len(chosen), pictures - 1)
        proposal = search.best(SHORTLIST)
        if proposal is None:
            break
        search.add_reference(proposal.reference)
        chosen.append(proposal)
    progress(pictures - 1, pictures - 1)
    return chosen


def _decibels(made: Picture, wanted: Picture) -> float:
    squared = float(cv2.norm(made, wanted, cv2.NORM_L2SQR)) / wanted.size
    return min(MOST_DB, 10 * float(np.log10(255**2 / squared))) if squared > 0 else MOST_DB
