"""How close a decoded clip is to its original: pictures, landmarks, openings, calm.

Clips are uint8 RGB, arrays [T, H, W, 3] or lists of T pictures [H, W, 3], made first and truth second;
landmarks are float32 [T, K, 2] in pixels of a 256x256 crop. A score of a clip is the mean over its frames.
Clips and landmarks that do not match are refused with BadInput.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Final

import cv2
import numpy as np
from numpy.typing import NDArray

from kilocall.model.interior import interior, openness
from kilocall.model.landmarks import gaze, mean_opening
from kilocall.proto.errors import BadInput

__all__ = [
    "MIN_OPENING_STD",
    "correlation",
    "flicker",
    "gaze_correlation",
    "gaze_gain",
    "interior_error",
    "jitter",
    "l1",
    "landmark_distance",
    "ms_ssim",
    "opening_correlation",
    "opening_gain",
    "psnr",
    "sharpness",
    "ssim",
]

Picture = NDArray[np.uint8]
Clip = Sequence[Picture] | Picture
Points = NDArray[np.float32]

#: The PSNR of equal frames. The mean of a clip must stay finite; 8-bit video of 60 dB already looks equal.
MAX_PSNR: Final = 60.0

#: Pixels at 256x256. Where lids or lips move less than this (standard deviation over the clip), the measured
#: opening is mostly the noise of the landmark finder, and a correlation with it says nothing.
MIN_OPENING_STD: Final = 0.35

#: Lips less far open than this share of what shows all between them are left out, and clips with fewer such frames.
MIN_OPENNESS: Final = 0.5
FEWEST_OPEN: Final = 5

#: A flat frame has no sharpness to compare with: variance of the Laplacian of luma in grey levels squared.
_MIN_LAPLACIAN_VARIANCE: Final = 1.0

#: Grey levels; a still clip has nothing to compare with.
_MIN_RESTLESSNESS: Final = 0.05

_WINDOW, _SIGMA = 11, 1.5
_C1, _C2 = (0.01 * 255) ** 2, (0.03 * 255) ** 2
_SCALE_WEIGHTS: Final = (0.0448, 0.2856, 0.3001, 0.2363, 0.1333)


def psnr(made: Clip, truth: Clip) -> float:
    """Mean over frames of 10 log10(255^2 / MSE) over all three colours, dB; a frame counts 60 at most."""
    return _mean_over_frames(_frame_psnr, made, truth)


def ssim(made: Clip, truth: Clip) -> float:
    """Mean structural similarity of luma (Wang et al. 2004): Gaussian 11x11, sigma 1.5, K 0.01 and 0.03.

    The outer 5 pixels, where the window leaves the picture, are not counted.
    """
    return _mean_over_frames(_frame_ssim, made, truth)


def ms_ssim(made: Clip, truth: Clip) -> float | None:
    """Mean multi-scale SSIM of luma (Wang, Simoncelli, Bovik 2003): five scales, each half the one before.

    Windows as for `ssim`. None where the fifth scale is smaller than the window: below 176x176.
    """
    _check_clips(made, truth)
    if min(truth[0].shape[:2]) < _WINDOW << (len(_SCALE_WEIGHTS) - 1):
        return None
    return _mean_over_frames(_frame_ms_ssim, made, truth)


def l1(made: Clip, truth: Clip) -> float:
    """Mean absolute difference, with white as 1."""
    return _mean_over_frames(_frame_l1, made, truth)


def sharpness(made: Clip, truth: Clip) -> float | None:
    """Mean over frames of var(Laplacian(made)) / var(Laplacian(truth)) of luma; None for a flat truth."""
    _check_clips(made, truth)
    ratios = []
    for made_frame, truth_frame in zip(made, truth, strict=True):
        reference = _laplacian_variance(truth_frame)
        if reference >= _MIN_LAPLACIAN_VARIANCE:
            ratios.append(_laplacian_variance(made_frame) / reference)
    return float(np.mean(ratios)) if ratios else None


def flicker(made: Clip, truth: Clip) -> float | None:
    """Mean |second difference over time| of luma, made / truth; None for fewer than three frames or a still truth.

    What moves evenly has little of it, what comes and goes from frame to frame has much. Below 1 where the made
    pictures are calmer than the camera's, which has noise.
    """
    _check_clips(made, truth)
    reference = _restlessness(truth)
    return None if len(truth) < 3 or reference < _MIN_RESTLESSNESS else _restlessness(made) / reference


def landmark_distance(made: Points, truth: Points) -> float:
    """Mean distance of the points, over points and frames, in the unit of the points."""
    _check_points(made, truth)
    return float(np.linalg.norm(made.astype(np.float64) - truth, axis=-1).mean())


def correlation(made: NDArray[Any], truth: NDArray[Any]) -> float:
    """Pearson's r of two series [T]; 0 when one of them never changes."""
    if made.shape != truth.shape or made.ndim != 1 or len(made) < 2:
        raise BadInput(f"series are {made.shape} and {truth.shape}, wanted are two of one length from 2 on")
    a, b = made.astype(np.float64), truth.astype(np.float64)
    a, b = a - a.mean(), b - b.mean()
    size = float(np.sqrt((a @ a) * (b @ b)))
    # 1e-9: what is left after taking the mean off a constant series is rounding.
    return float(a @ b) / size if size > 1e-9 else 0.0


def opening_correlation(made: Points, truth: Points, pairs: tuple[tuple[int, int], ...]) -> float | None:
    """Pearson's r over the clip of the mean distance of the point pairs (`LID_PAIRS`, `LIP_PAIRS`).

    None when the original opens by less than MIN_OPENING_STD, or the clip has fewer than two frames.
    """
    _check_points(made, truth)
    return _correlation_of(mean_opening(made, pairs), mean_opening(truth, pairs))


def opening_gain(made: Points, truth: Points, pairs: tuple[tuple[int, int], ...]) -> float | None:
    """By how much the point pairs open for each pixel that the original opens: slope of the least-squares line.

    A correlation does not tell lids that close from lids that only twitch at the right time. None as above.
    """
    _check_points(made, truth)
    return _gain_of(mean_opening(made, pairs), mean_opening(truth, pairs))


def gaze_correlation(made: Points, truth: Points) -> float | None:
    """Pearson's r over the clip of how far irises lie from the middles of their eyes; None as for openings."""
    _check_points(made, truth)
    return _correlation_of(gaze(made), gaze(truth))


def gaze_gain(made: Points, truth: Points) -> float | None:
    """By how much irises turn aside for each pixel that the original's do; None as for openings."""
    _check_points(made, truth)
    return _gain_of(gaze(made), gaze(truth))


def interior_error(made: Clip, truth: Clip, face: Points) -> float | None:
    """Grey levels by which what is seen between the lips is too bright or too dark, mean over three bands from the
    upper lip to the lower one and over the frames of an open mouth; None for fewer than five of these.

    Teeth that are missing, or that are there where the original is dark. `face` [T, LANDMARKS, 2] is the original's.
    """
    _check_clips(made, truth)
    errors = []
    for shown, wanted, points in zip(made, truth, (face + 0.5) / 128 - 1, strict=True):
        if openness(points) >= MIN_OPENNESS:
            errors.append(np.abs(interior(shown, points) - interior(wanted, points)).mean() * 255)
    return float(np.mean(errors)) if len(errors) >= FEWEST_OPEN else None


def _correlation_of(made: Points, wanted: Points) -> float | None:
    return correlation(made, wanted) if _moves(wanted) else None


def _gain_of(made: Points, wanted: Points) -> float | None:
    if not _moves(wanted):
        return None
    centred = wanted.astype(np.float64) - wanted.mean(dtype=np.float64)
    return float(centred @ made / (centred @ centred))


def _moves(wanted: Points) -> bool:
    return len(wanted) >= 2 and float(wanted.std()) >= MIN_OPENING_STD


def jitter(points: Points, valid: NDArray[np.bool_] | None = None) -> float | None:
    """Mean length of the second difference over time, in points' units a frame squared.

    A face that moves evenly has none, a tracker that trembles has much. Only runs of three `valid` [T] frames
    count; None when there is no such run.
    """
    if points.ndim != 3 or points.shape[2] != 2:
        raise BadInput(f"landmarks are {points.shape}, wanted is [T, K, 2]")
    if len(points) < 3:
        return None
    known = np.ones(len(points), bool) if valid is None else valid
    inside = known[:-2] & known[1:-1] & known[2:]
    bend = np.linalg.norm(np.diff(points.astype(np.float64), n=2, axis=0), axis=-1)
    return float(bend[inside].mean()) if inside.any() else None


def _frame_psnr(made: Picture, truth: Picture) -> float:
    squared = float(cv2.norm(made, truth, cv2.NORM_L2SQR)) / truth.size
    return min(MAX_PSNR, 10 * float(np.log10(255**2 / squared))) if squared > 0 else MAX_PSNR


def _frame_l1(made: Picture, truth: Picture) -> float:
    return float(cv2.norm(made, truth, cv2.NORM_L1)) / truth.size / 255


def _frame_ssim(made: Picture, truth: Picture) -> float:
    return _ssim_of_luma(_luma(made), _luma(truth))[0]


def _frame_ms_ssim(made: Picture, truth: Picture) -> float:
    a, b = _luma(made), _luma(truth)
    product = 1.0
    for scale, weight in enumerate(_SCALE_WEIGHTS):
        full, contrast = _ssim_of_luma(a, b)
        # Luminance counts at the coarsest scale only. A negative product has no root: as dissimilar as can be.
        last = scale + 1 == len(_SCALE_WEIGHTS)
        product *= max(0.0, full if last else contrast) ** weight
        a, b = (_halved(luma) for luma in (a, b))
    return product


def _halved(luma: NDArray[np.float64]) -> NDArray[np.float64]:
    """Means of 2x2 pixels; an odd last row or column is left out."""
    height, width = (side // 2 * 2 for side in luma.shape)
    whole = luma[:height, :width]
    halved: NDArray[np.float64] = (whole[::2, ::2] + whole[1::2, ::2] + whole[::2, 1::2] + whole[1::2, 1::2]) / 4
    return halved


def _ssim_of_luma(a: NDArray[np.float64], b: NDArray[np.float64]) -> tuple[float, float]:
    """Mean SSIM, and the mean of its contrast-structure term alone."""
    # Plane by plane: on five interleaved ones the arithmetic below took three times as long.
    mean_a, mean_b, squares, ab = (_windowed(plane) for plane in (a, b, a * a + b * b, a * b))
    product = mean_a * mean_b
    covariance = ab - product
    both = mean_a * mean_a + mean_b * mean_b
    spread = squares - both
    contrast = (2 * covariance + _C2) / (spread + _C2)
    return float(np.mean((2 * product + _C1) / (both + _C1) * contrast)), float(np.mean(contrast))


def _windowed(plane: NDArray[np.float64]) -> NDArray[np.float64]:
    """Gaussian mean around every pixel whose window lies inside."""
    edge = _WINDOW // 2
    blurred = np.asarray(cv2.GaussianBlur(plane, (_WINDOW, _WINDOW), _SIGMA), np.float64)
    return np.ascontiguousarray(blurred[edge:-edge, edge:-edge])


def _restlessness(clip: Clip) -> float:
    """Mean |a - 2 b + c| of luma over runs of three frames, in grey levels."""
    total, before = 0.0, [_luma(picture) for picture in clip[:2]]
    for picture in clip[2:]:
        now = _luma(picture)
        total += float(np.abs(before[0] - 2 * before[1] + now).mean())
        before = [before[1], now]
    return total / max(1, len(clip) - 2)


def _laplacian_variance(rgb: Picture) -> float:
    return float(cv2.Laplacian(_luma(rgb), cv2.CV_64F).var())


def _luma(rgb: Picture) -> NDArray[np.float64]:
    """BT.601, not rounded, in double: the variances of SSIM are small differences of large squares."""
    return np.asarray(cv2.transform(rgb.astype(np.float64), np.array([[0.299, 0.587, 0.114]])), np.float64)


def _mean_over_frames(score: Callable[[Picture, Picture], float], made: Clip, truth: Clip) -> float:
    _check_clips(made, truth)
    return float(np.mean([score(a, b) for a, b in zip(made, truth, strict=True)]))


def _check_clips(made: Clip, truth: Clip) -> None:
    if not 0 < len(made) == len(truth):
        raise BadInput(f"clips have {len(made)} and {len(truth)} frames, wanted is one count from 1 on")
    for a, b in zip(made, truth, strict=True):
        if a.dtype != np.uint8 or b.dtype != np.uint8:
            raise BadInput(f"pictures are {a.dtype} and {b.dtype}, wanted is uint8")
        if a.shape != b.shape or a.ndim != 3 or a.shape[2] != 3 or min(a.shape[:2]) < _WINDOW:
            raise BadInput(
                f"pictures are {a.shape} and {b.shape}, wanted are two of one shape [H, W, 3], "
                f"at least {_WINDOW}x{_WINDOW}"
            )


def _check_points(made: Points, truth: Points) -> None:
    if made.shape != truth.shape or made.ndim != 3 or made.shape[2] != 2 or 0 in made.shape:
        raise BadInput(f"landmarks are {made.shape} and {truth.shape}, wanted are two of one shape [T, K, 2]")
