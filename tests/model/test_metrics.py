from __future__ import annotations

import cv2
import numpy as np
import pytest
from numpy.typing import NDArray

from kilocall.model import landmarks as lm
from kilocall.model import metrics
from kilocall.proto.errors import BadInput

RNG_SEED = 11


def _clip(frames: int = 2, size: int = 32) -> NDArray[np.uint8]:
    """Rough texture around middle grey, so that nothing below clips at 0 or 255."""
    return np.random.default_rng(RNG_SEED).integers(60, 196, (frames, size, size, 3)).astype(np.uint8)


def _face(frames: int) -> NDArray[np.float32]:
    """A face at rest, points [frames, LANDMARKS, 2] in pixels, lids 10 px and lips 6 px open."""
    face = np.random.default_rng(RNG_SEED).uniform(40, 200, (lm.LANDMARKS, 2)).astype(np.float32)
    for pairs, opening in ((lm.LID_PAIRS, 10.0), (lm.LIP_PAIRS, 6.0)):
        for upper, lower in pairs:
            face[lower] = face[upper] + np.array([0, opening], np.float32)
    return np.repeat(face[None], frames, 0)


def _opened(face: NDArray[np.float32], by: NDArray[np.float64]) -> NDArray[np.float32]:
    """Lower lips further down by `by` [T] pixels."""
    moved = face.copy()
    for _, lower in lm.LIP_PAIRS:
        moved[:, lower, 1] += by.astype(np.float32)
    return moved


def test_psnr_of_a_constant_error_is_the_textbook_value() -> None:
    truth = _clip()
    # 20 log10(255 / 5) = 34.1514
    assert metrics.psnr(truth + np.uint8(5), truth) == pytest.approx(34.1514, abs=1e-4)


def test_psnr_is_the_mean_of_the_frames_in_decibel() -> None:
    truth = _clip(2)
    made = truth.copy()
    made[0] += 1
    made[1] += 10
    # 48.1308 and 28.1308 dB; the mean error over both would give 31.1 dB.
    assert metrics.psnr(made, truth) == pytest.approx(38.1308, abs=1e-4)


def test_psnr_of_equal_frames_stays_finite() -> None:
    assert metrics.psnr(_clip(), _clip()) == 60


def test_l1_counts_white_as_one() -> None:
    truth = _clip()
    made = truth.copy()
    made[..., 0] += 51
    assert metrics.l1(made, truth) == pytest.approx(0.2 / 3)


def test_ssim_agrees_with_the_formula_written_out() -> None:
    truth, made = _clip(1, 24)[0], _clip(1, 24)[0][::-1].copy()
    x = np.arange(11) - 5
    line = np.exp(-(x**2) / (2 * 1.5**2))
    window = np.outer(line, line) / line.sum() ** 2
    a, b = (p @ np.array([0.299, 0.587, 0.114]) for p in (made, truth))
    values = []
    for row in range(14):
        for column in range(14):
            p, q = a[row : row + 11, column : column + 11], b[row : row + 11, column : column + 11]
            mean_p, mean_q = (window * p).sum(), (window * q).sum()
            var_p, var_q = (window * (p - mean_p) ** 2).sum(), (window * (q - mean_q) ** 2).sum()
            both = (window * (p - mean_p) * (q - mean_q)).sum()
            values.append(
                (2 * mean_p * mean_q + 6.5025)
                * (2 * both + 58.5225)
                / ((mean_p**2 + mean_q**2 + 6.5025) * (var_p + var_q + 58.5225))
            )
    assert metrics.ssim([made], [truth]) == pytest.approx(np.mean(values), abs=1e-9)


def test_ssim_of_a_clip_with_itself_is_one_and_falls_with_noise() -> None:
    truth = _clip()
    noise = np.random.default_rng(1).integers(-20, 21, truth.shape)
    noisy = (truth.astype(int) + noise).astype(np.uint8)
    assert metrics.ssim(truth, truth) == pytest.approx(1.0)
    assert 0.5 < metrics.ssim(noisy, truth) < 0.99


def test_sharpness_of_half_the_contrast_is_a_quarter() -> None:
    truth = (_clip() // 2 * 2).astype(np.uint8)
    assert metrics.sharpness(truth, truth) == pytest.approx(1.0)
    assert metrics.sharpness(truth // 2, truth) == pytest.approx(0.25)


def test_sharpness_leaves_flat_frames_out() -> None:
    truth = _clip(2)
    truth[1] = 90
    assert metrics.sharpness(_clip(2), truth) == pytest.approx(1.0)
    assert metrics.sharpness(_clip(2), np.full_like(truth, 90)) is None


def test_landmark_distance_of_a_shift_is_its_length() -> None:
    face = _face(3)
    assert metrics.landmark_distance(face + np.array([3, 4], np.float32), face) == pytest.approx(5.0)


def test_correlation_of_known_series() -> None:
    rising = np.array([1.0, 2, 3, 4])
    assert metrics.correlation(2 * rising + 7, rising) == pytest.approx(1.0)
    assert metrics.correlation(-rising, rising) == pytest.approx(-1.0)
    # By hand: deviations (-1.5, -.5, .5, 1.5) and (-1, 1, -1, 1): 2 / sqrt(5 * 4).
    assert metrics.correlation(np.array([0.0, 2, 0, 2]), rising) == pytest.approx(2 / np.sqrt(20))


def test_something_that_never_changes_correlates_with_nothing() -> None:
    assert metrics.correlation(np.full(4, 0.1), np.array([1.0, 2, 3, 4])) == 0


def test_mouth_that_opens_half_as_far_still_correlates() -> None:
    face, by = _face(40), 4 * (1 + np.sin(np.arange(40)))
    moved = _opened(face, by)
    assert metrics.opening_correlation(_opened(face, by / 2), moved, lm.LIP_PAIRS) == pytest.approx(1.0)
    assert metrics.opening_correlation(face, moved, lm.LIP_PAIRS) == 0


def test_opening_gain_tells_lips_that_move_half_as_far_from_lips_that_follow() -> None:
    face, wave = _face(40), 6 * np.sin(np.arange(40)) ** 2
    moved = _opened(face, wave)
    assert metrics.opening_gain(moved, moved, lm.LIP_PAIRS) == pytest.approx(1.0)
    assert metrics.opening_gain(_opened(face, wave / 2), moved, lm.LIP_PAIRS) == pytest.approx(0.5, abs=1e-5)
    assert metrics.opening_gain(face, moved, lm.LIP_PAIRS) == pytest.approx(0.0)
    assert metrics.opening_gain(moved, face, lm.LIP_PAIRS) is None


def test_irises_that_turn_half_as_far_follow_at_half_the_gain() -> None:
    face, aside = _face(40), 3 * np.sin(np.arange(40)).astype(np.float32)
    face[:, [*lm.RIGHT_EYE, *lm.LEFT_EYE], 1] = 100  # corners level, whatever the rest
    face[:, [lm.RIGHT_EYE[0], lm.RIGHT_EYE[4], lm.LEFT_EYE[4], lm.LEFT_EYE[0]], 0] = (80, 100, 150, 170)
    full, half = face.copy(), face.copy()
    full[:, [lm.RIGHT_IRIS, lm.LEFT_IRIS], 0] += aside[:, None]
    half[:, [lm.RIGHT_IRIS, lm.LEFT_IRIS], 0] += aside[:, None] / 2
    assert metrics.gaze_gain(half, full) == pytest.approx(0.5, abs=1e-4)
    assert metrics.gaze_correlation(half, full) == pytest.approx(1)
    assert metrics.gaze_gain(half, face) is None


def test_opening_of_a_clip_that_hardly_opens_is_not_told() -> None:
    face, wave = _face(40), np.sin(np.arange(40))
    barely = wave / wave.std() * metrics.MIN_OPENING_STD
    assert metrics.opening_correlation(face, _opened(face, barely * 0.98), lm.LIP_PAIRS) is None
    assert metrics.opening_correlation(face, _opened(face, barely * 1.02), lm.LIP_PAIRS) is not None
    assert metrics.opening_correlation(face, _opened(face, wave * 5), lm.LID_PAIRS) is None


def test_even_motion_has_no_jitter_and_a_zigzag_has_twice_its_swing() -> None:
    time = np.arange(10, dtype=np.float32)[:, None, None]
    assert metrics.jitter(_face(10) + 3 * time) == pytest.approx(0.0, abs=1e-4)
    zigzag = _face(10) + np.array([1, 0], np.float32) * (time % 2)
    assert metrics.jitter(zigzag) == pytest.approx(2.0, abs=1e-4)


def test_jitter_does_not_bridge_frames_without_a_face() -> None:
    face = _face(7)
    face[3] += 100
    valid = np.arange(7) != 3
    assert metrics.jitter(face, valid) == pytest.approx(0.0, abs=1e-4)
    assert (metrics.jitter(face) or 0) > 50
    assert metrics.jitter(face[2:5], valid[2:5]) is None
    assert metrics.jitter(face[:2]) is None


@pytest.mark.parametrize(
    ("made", "reason"),
    [
        (_clip(3), "3 and 2 frames"),
        (_clip(2, 16), "one shape"),
        (_clip(2).astype(np.float32), "wanted is uint8"),
        (_clip(2)[..., 0], "one shape"),
        (_clip(2)[:0], "0 and 2 frames"),
    ],
)
def test_clips_that_do_not_match_are_refused(made: NDArray[np.uint8], reason: str) -> None:
    with pytest.raises(BadInput, match=reason):
        metrics.psnr(made, _clip(2))


def test_landmarks_that_do_not_match_are_refused() -> None:
    with pytest.raises(BadInput, match="one shape"):
        metrics.landmark_distance(_face(2), _face(3))
    with pytest.raises(BadInput, match=r"\[T, K, 2\]"):
        metrics.jitter(_face(3)[0])
    with pytest.raises(BadInput, match="one length"):
        metrics.correlation(np.zeros(3), np.zeros(4))


def test_flicker_counts_what_comes_and_goes_and_not_what_moves_evenly() -> None:
    still = np.full((6, 32, 32, 3), 100, np.uint8)
    blinking = still.copy()
    blinking[1::2] += 4  # second differences of 8 everywhere
    fading = still + (2 * np.arange(6, dtype=np.uint8))[:, None, None, None]
    assert metrics.flicker(blinking, blinking) == pytest.approx(1)
    assert metrics.flicker(still, blinking) == 0
    assert metrics.flicker(fading, blinking) == pytest.approx(0, abs=1e-9)
    half = still.copy()
    half[1::2, :, :16] += 4
    assert metrics.flicker(half, blinking) == pytest.approx(0.5)
    assert metrics.flicker(blinking, still) is None
    assert metrics.flicker(blinking[:2], blinking[:2]) is None


def test_ms_ssim_falls_with_blur_and_is_one_for_equal_clips() -> None:
    noise = np.random.default_rng(3).integers(0, 255, (1, 192, 192, 3)).astype(np.uint8)
    blurred = [np.stack([cv2.GaussianBlur(noise[0], (0, 0), sigma)]).astype(np.uint8) for sigma in (0.5, 1.0, 2.0)]
    scores = [metrics.ms_ssim(clip, noise) for clip in blurred]
    assert metrics.ms_ssim(noise, noise) == pytest.approx(1)
    assert scores == sorted(scores, key=lambda score: -(score or 0))
    # Coarse scales survive the blur that the finest does not.
    assert (scores[-1] or 0) > metrics.ssim(blurred[-1], noise)


def test_ms_ssim_of_a_shift_in_brightness_is_the_luminance_term_of_the_coarsest_scale() -> None:
    flat = np.full((1, 176, 176, 3), 100, np.uint8)
    c1 = (0.01 * 255) ** 2
    term = (2 * 100 * 120 + c1) / (100**2 + 120**2 + c1)
    assert metrics.ms_ssim(flat + np.uint8(20), flat) == pytest.approx(term**0.1333)


def test_ms_ssim_of_small_pictures_cannot_be_told() -> None:
    assert metrics.ms_ssim(np.zeros((1, 175, 300, 3), np.uint8), np.zeros((1, 175, 300, 3), np.uint8)) is None


def test_teeth_that_are_missing_are_counted_in_grey_levels() -> None:
    face = _face(6)
    for number, (upper, lower) in enumerate(lm.LIP_PAIRS):
        face[:, upper], face[:, lower] = (100 + 10 * number, 120), (100 + 10 * number, 140)
    truth = np.full((6, 256, 256, 3), 120, np.uint8)
    made = truth.copy()
    truth[:, 121:140, 90:130] = 220
    made[:, 121:140, 90:130] = 180
    assert metrics.interior_error(truth, truth, face) == 0
    assert metrics.interior_error(made, truth, face) == pytest.approx(40, abs=1e-3)
    assert metrics.interior_error(made[:4], truth[:4], face[:4]) is None, "too few frames"
    closed = face.copy()
    for upper, lower in lm.LIP_PAIRS:
        closed[:, lower] = closed[:, upper] + (0, 2)
    assert metrics.interior_error(made, truth, closed) is None
