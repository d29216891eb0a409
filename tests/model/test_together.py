"""Pictures of several speakers made at once are those made one by one."""

from __future__ import annotations

import cv2
import numpy as np
import pytest

from kilocall.model.compact.family import CompactFamily
from kilocall.model.compact.together import Together
from kilocall.model.family import Picture, turn_head, weights_folder
from kilocall.proto.errors import BadInput
from kilocall.runtime.engine import choose_engine
from kilocall.runtime.engines.torch import TorchEngine
from kilocall.sample.perform import portrait


@pytest.fixture(scope="module")
def crop() -> Picture:
    return np.asarray(cv2.resize(portrait(), (256, 256), interpolation=cv2.INTER_AREA), np.uint8)


def test_each_speaker_gets_the_picture_they_would_get_alone(crop: Picture) -> None:
    family = CompactFamily(weights_folder(), TorchEngine(1, "test", device="cpu"))
    pictures = [crop, np.ascontiguousarray(crop[:, ::-1]), np.ascontiguousarray(np.roll(crop, 10, 1))]
    sources = [family.source(picture) for picture in pictures]
    motions = [turn_head(source.pose, 0.1 * n, 0.05, -0.05 * n) for n, source in enumerate(sources)]
    made = Together(family, sources).render(motions)
    for source, motion, picture in zip(sources, motions, made, strict=True):
        alone = family.renderer(source).render(motion)
        assert alone.std() > 20
        # Sums are in another order: a value half-way between two may be rounded to either.
        assert np.abs(picture.astype(int) - alone).max() <= 1


def test_what_cannot_be_made_together_is_refused(crop: Picture) -> None:
    family = CompactFamily(weights_folder(), TorchEngine(1, "test", device="cpu"))
    source = family.source(crop)
    with pytest.raises(BadInput, match="motions are 2, wanted is one for each of 1"):
        Together(family, [source]).render([source.pose] * 2)
    with pytest.raises(BadInput, match="at least one"):
        Together(family, [])
    large = family.source(np.asarray(cv2.resize(crop, (512, 512)), np.uint8))
    with pytest.raises(BadInput, match="twice the networks' size"):
        Together(family, [large])
    with pytest.raises(BadInput, match="allowed is torch"):
        Together(CompactFamily(weights_folder(), choose_engine("openvino", 1)), [source])
