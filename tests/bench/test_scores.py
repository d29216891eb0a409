"""The one way from frames to scores, on pictures whose scores a person can work out."""

from __future__ import annotations

import dataclasses
from collections.abc import Collection, Sequence

import numpy as np
import pytest
from numpy.typing import NDArray

from kilocall.bench.landmark_measure import MeasuredLandmarks
from kilocall.bench.scores import MeasuredFrames, Part, Scorer, Scores, mean_of_known
from kilocall.model import landmarks as lm
from kilocall.model.family import Picture

SIZE = 64
FRAMES = 12
#: What every clip is scored by, asked or not.
ALWAYS = {"psnr_db", "ssim", "landmark_frames", "face_found", "landmark_px", "mouth_r"}


class BrightFace:
    """A meter that places all landmarks by the picture's brightness, and finds none in a black picture."""

    name = "brightness"

    def __init__(self) -> None:
        self.sides: set[int] = set()

    def measure(self, frames: Sequence[Picture]) -> MeasuredLandmarks:
        self.sides |= {frame.shape[0] for frame in frames}
        bright = np.array([frame.mean() for frame in frames], np.float32)
        points = np.zeros((len(frames), lm.LANDMARKS, 2), np.float32)
        points[:, [lower for _, lower in (*lm.LIP_PAIRS, *lm.LID_PAIRS)], 1] = bright[:, None]
        return MeasuredLandmarks(points, bright > 0, tuple(range(lm.LANDMARKS)))


def pulsing(offset: int = 0) -> NDArray[np.uint8]:
    """Blobs that grow brighter and darker."""
    blobs = np.random.default_rng(3).integers(60, 120, (SIZE, SIZE, 3))
    swing = (10 * np.sin(np.arange(FRAMES))).astype(int)
    return np.stack([blobs + step + offset for step in swing]).astype(np.uint8)


def scored(
    made: NDArray[np.uint8],
    truth: NDArray[np.uint8],
    *parts: Part,
    left_out: Collection[int] = (),
    landmarks_too: bool = False,
) -> Scores:
    scorer = Scorer(BrightFace(), parts)
    frames = scorer.measured(made), scorer.measured(truth)
    return scorer.score(*frames, 25, left_out=left_out, landmarks_too=landmarks_too)


@pytest.mark.parametrize(
    ("part", "names"),
    [
        (Part.L1, {"l1"}),
        (Part.VMAF, {"vmaf"}),
        (Part.SHARPNESS, {"sharpness"}),
        (Part.FLICKER, {"flicker"}),
        (Part.JITTER, {"jitter_px"}),
        (Part.LIDS, {"eye_r"}),
        (Part.GAINS, {"mouth_gain", "eye_gain"}),
    ],
)
def test_what_is_not_asked_for_is_not_measured(part: Part, names: set[str]) -> None:
    known = {
        name for name, value in dataclasses.asdict(scored(pulsing(3), pulsing(), part)).items() if value is not None
    }
    assert known == ALWAYS | names


def test_brighter_pictures_are_off_by_as_much() -> None:
    scores = scored(pulsing(3), pulsing(), Part.L1, Part.GAINS)
    assert scores.psnr_db == pytest.approx(10 * np.log10(255**2 / 3**2))
    assert scores.l1 == pytest.approx(3 / 255)
    assert scores.mouth_r == pytest.approx(1)
    assert scores.mouth_gain == pytest.approx(1, abs=1e-3)


def test_frames_that_are_left_out_count_in_landmarks_alone() -> None:
    made = pulsing()
    made[4] = 200
    whole = scored(made, pulsing())
    without = scored(made, pulsing(), left_out={4})
    neither = scored(made, pulsing(), left_out={4}, landmarks_too=True)
    assert whole.psnr_db < without.psnr_db == neither.psnr_db == 60
    assert whole.landmark_px == without.landmark_px
    assert without.landmark_px is not None
    assert without.landmark_px > 0
    assert neither.landmark_px == 0
    assert (without.landmark_frames, neither.landmark_frames) == (FRAMES, FRAMES - 1)


def test_frames_without_a_face_lower_what_was_found_and_no_distance() -> None:
    made = pulsing()
    made[:3] = 0
    scores = scored(made, pulsing())
    assert scores.landmark_frames == FRAMES - 3
    assert scores.face_found == pytest.approx((FRAMES - 3) / FRAMES)
    assert scores.landmark_px == 0
    nothing = scored(np.zeros_like(made), pulsing(), Part.LIDS, Part.GAINS, Part.GAZE)
    assert nothing.face_found == 0
    assert nothing.landmark_px is nothing.mouth_r is nothing.eye_r is nothing.mouth_gain is nothing.gaze_r is None
    assert scored(made, np.zeros_like(made)).face_found is None


def test_picture_held_for_a_clip_scores_as_if_each_frame_were_measured() -> None:
    scorer = Scorer(BrightFace(), (Part.JITTER, Part.FLICKER, Part.LIDS))
    truth = scorer.measured(pulsing())
    held = truth.held(2, FRAMES)
    measured = scorer.measured(np.repeat(pulsing()[2:3], FRAMES, 0))
    assert scorer.score(held, truth, 25) == scorer.score(measured, truth, 25)
    assert scorer.score(held, truth, 25).jitter_px == 0


def test_landmarks_are_looked_for_at_the_side_that_is_asked_for() -> None:
    meter = BrightFace()
    frames = Scorer(meter, landmark_side=32).measured(pulsing())
    assert meter.sides == {32}
    assert frames.pictures[0].shape[0] == SIZE


def test_distances_get_both_clips_whole() -> None:
    meter = BrightFace()
    scorer = Scorer(meter, distances={"lpips": lambda made, truth, fps: float(made.mean() - truth.mean()) * fps})
    scores = scorer.score(scorer.measured(pulsing(2)), scorer.measured(pulsing()), 10)
    assert scores.lpips == pytest.approx(20)
    assert scores.dists is None


def test_frames_may_be_a_list_as_well_as_an_array() -> None:
    parts = (Part.L1, Part.MS_SSIM, Part.SHARPNESS, Part.FLICKER, Part.INTERIOR)
    scorer = Scorer(BrightFace(), parts)
    array, truth = scorer.measured(pulsing(3)), scorer.measured(pulsing())
    assert scorer.score(MeasuredFrames(list(array.pictures), array.landmarks), truth, 25) == scorer.score(
        array, truth, 25
    )


def test_mean_is_over_what_is_known() -> None:
    assert mean_of_known([1.0, None, 3.0]) == 2
    assert mean_of_known([None]) is None
