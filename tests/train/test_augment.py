"""Labels move with the picture: a coloured dot is found where its landmark says."""

import numpy as np

from kilocall.model import landmarks as lm
from kilocall.train.augment import SIZE, augment_face, warp_face

EYE, NOSE = lm.RIGHT_EYE[0], lm.NOSE[2]


def dotted(points: np.ndarray) -> np.ndarray:
    """Black, with a green disc at the nose's tip and a blue one at the corner of an eye."""
    ys, xs = np.mgrid[0:SIZE, 0:SIZE]
    picture = np.zeros((SIZE, SIZE, 3), np.uint8)
    for channel, index in ((1, NOSE), (2, EYE)):
        x, y = (points[index, :2] + 1) * (SIZE / 2) - 0.5
        picture[..., channel] = 255 * np.exp(-((xs - x) ** 2 + (ys - y) ** 2) / 32)
    return picture


def centre_near(channel: np.ndarray, where: np.ndarray) -> np.ndarray:
    """Centre of mass, in crop units, of what is bright within 16 pixels of `where`; NaN when nothing is."""
    x, y = (int(v) for v in (where + 1) * (SIZE / 2))
    ys, xs = slice(max(0, y - 16), y + 17), slice(max(0, x - 16), x + 17)
    patch = channel[ys, xs].astype(np.float64)
    gy, gx = np.mgrid[ys.start : ys.start + patch.shape[0], xs.start : xs.start + patch.shape[1]]
    with np.errstate(invalid="ignore"):
        centre = np.array([(gx * patch).sum(), (gy * patch).sum()]) / patch.sum()
    return np.asarray((centre + 0.5) / (SIZE / 2) - 1)


def test_landmarks_follow_the_warp_within_a_pixel() -> None:
    rng = np.random.default_rng(7)
    points = rng.uniform(-0.3, 0.3, (lm.LANDMARKS, 3)).astype(np.float32)
    points[NOSE, :2], points[EYE, :2] = (0.02, 0.1), (-0.3, -0.15)
    checked = 0
    for _ in range(60):
        picture, moved = warp_face(dotted(points), points, rng)
        for channel, index in ((1, NOSE), (2, EYE)):
            where = moved[index, :2]
            if np.abs(where).max() < 0.85:  # wholly inside, away from the border's reflection
                assert np.abs(centre_near(picture[..., channel], where) - where).max() < 1 / 128
                checked += 1
    assert checked > 80


def test_the_same_seed_gives_the_same_sample() -> None:
    points = np.zeros((lm.LANDMARKS, 3), np.float32)
    picture = np.random.default_rng(1).integers(0, 255, (SIZE, SIZE, 3), np.uint8)
    a, b = (augment_face(picture, points, np.random.default_rng(3)) for _ in range(2))
    assert (a.picture == b.picture).all()
    assert (a.points == b.points).all()


def test_some_samples_are_no_faces() -> None:
    points = np.zeros((lm.LANDMARKS, 3), np.float32)
    picture = np.zeros((SIZE, SIZE, 3), np.uint8)
    rng = np.random.default_rng(5)
    share = np.mean([not augment_face(picture, points, rng).is_face for _ in range(200)])
    assert 0.02 < share < 0.12
