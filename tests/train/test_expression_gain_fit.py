"""By how much lids and irises are amplified, fitted on the built-in speaker, whose motion is known."""

from pathlib import Path

import cv2
import numpy as np
import pytest

from kilocall.model import landmarks as lm
from kilocall.model.compact.expression_gain import ExpressionGain
from kilocall.model.compact.family import CompactFamily
from kilocall.model.engine_choice import choose_engine
from kilocall.model.family import Array, Source
from kilocall.model.family_loader import load_family
from kilocall.model.motion import Motion
from kilocall.sender.capture import open_clip
from kilocall.train.dataset import SIZE, Dataset
from kilocall.train.expression_gain import GAZE_GAINS, LID_GAINS, LIP_GAINS, fit_expression_gain, opening_px


@pytest.fixture(scope="module")
def family() -> CompactFamily:
    found = load_family(engine=choose_engine("auto", 1))
    assert isinstance(found, CompactFamily)
    return found


@pytest.fixture(scope="module")
def data(family: CompactFamily, astronaut_clip: Path) -> Dataset:
    frames = open_clip(astronaut_clip)
    crops = np.stack([cv2.resize(f.rgb, (SIZE, SIZE), interpolation=cv2.INTER_AREA) for f in list(frames)[::3]])
    meshes = np.zeros((len(crops), lm.MESH_POINTS, 3), np.float32)
    for mesh, crop in zip(meshes, crops, strict=True):
        track = family.track(crop)
        mesh[list(lm.MESH_INDEX)] = np.column_stack((track.points, track.depth))
    return Dataset(crops.astype(np.uint8), meshes, np.array([0, len(crops)]), ("astronaut",))


def test_fit_finds_by_how_much_lids_are_held_back(
    family: CompactFamily, data: Dataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    fitted = fit_expression_gain(family, data, clips=1, frames=6)
    driving = CompactFamily.driving

    def held_back(self: CompactFamily, source: Source, motion: Motion, gain: ExpressionGain) -> dict[str, Array]:
        return driving(self, source, ExpressionGain(lids=0.7).motion(motion), gain)

    monkeypatch.setattr(CompactFamily, "driving", held_back)
    assert fit_expression_gain(family, data, clips=1, frames=6).lids >= fitted.lids + 0.2
    assert fitted.lids in LID_GAINS
    assert fitted.lips in LIP_GAINS
    assert fitted.gaze in GAZE_GAINS


def test_amplified_lids_close_further(family: CompactFamily, data: Dataset) -> None:
    openings = opening_px(data.points[..., :2])
    wide, shut = data.pictures[int(openings.argmax())], data.pictures[int(openings.argmin())]
    source = family.source(np.ascontiguousarray(wide))
    renderer = family.renderer(source)
    blink = family.motion(family.track(np.ascontiguousarray(shut)), source)
    seen = []
    for gain in (0.2, 0.5, 0.8):
        renderer.expression_gain = ExpressionGain(lids=gain)
        seen.append(float(opening_px(family.track(renderer.render(blink)).points)))
    assert seen[0] > seen[1] + 0.5 > seen[2] + 1.0
