"""The whole path on made pictures: a family of four lines that a person can predict stands in for the networks."""

from __future__ import annotations

import io
import json
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import cv2
import numpy as np
import pytest
from numpy.typing import NDArray
from rich.console import Console

from kilocall.bench.contact_sheet import CELL, SheetPair, SheetRow, contact_sheet, sheet_frames
from kilocall.bench.evaluate import footage
from kilocall.bench.evaluate.folder import evaluate_folder
from kilocall.bench.evaluate.results import ClipResult, Evaluation
from kilocall.bench.evaluate.tables import print_evaluation
from kilocall.codec.codebook import CONTEXTS, Codebook
from kilocall.model import landmarks as lm
from kilocall.model.family import Family, Made, Picture, Source, Track, place
from kilocall.model.motion import Motion
from kilocall.proto.errors import BadInput, NoFace

SIZE = 256
PIXEL = 2 / SIZE  # in crop units
BAR = (100, 140)  # columns of the blue mouth, whose height is the opening
OPEN = 8  # pixels of opening at rest


def _background() -> NDArray[np.uint8]:
    """Soft blobs, which the source picture's 6 KB hold easily."""
    small = np.random.default_rng(5).integers(100, 160, (9, 9, 3)).astype(np.uint8)
    return np.asarray(cv2.resize(small, (SIZE, SIZE), interpolation=cv2.INTER_CUBIC), np.uint8)


def _face(dx: int = 0, dy: int = 0, opening: int = OPEN) -> Picture:
    """A "face": a red square and a blue bar on blobs, moved as one."""
    picture = _background()
    picture[120:136, 112:128] = (250, 10, 10)
    picture[160 : 160 + opening, BAR[0] : BAR[1]] = (10, 10, 250)
    return np.roll(picture, (dy, dx), (0, 1))


class SquareFamily:
    """Follows the red square, reads the opening off the blue bar, moves the whole picture."""

    name = "square-256"
    weights_hash = "5" * 64
    size = SIZE

    def __init__(self) -> None:
        numbers = 7
        table = np.full(32, 64, np.int32)
        table[15] = 65536 - 31 * 64
        self.codebook = Codebook(
            base_steps=np.full(numbers, PIXEL / 4, np.float32),
            mean=np.zeros(numbers, np.int32),
            frequencies=table[None],
            shifts=np.zeros(1, np.int32),
            table_of=np.zeros((CONTEXTS, numbers), np.uint8),
        )
        self.rest = np.random.default_rng(2).uniform(-0.5, 0.5, (lm.LANDMARKS, 2)).astype(np.float32)
        for upper, lower in (*lm.LIP_PAIRS, *lm.LID_PAIRS):
            self.rest[lower] = self.rest[upper]

    def track(self, crop: Picture, previous: Track | None = None) -> Track:
        red, green, blue = (crop[..., c].astype(int) for c in range(3))
        rows, columns = np.nonzero((red > 180) & (green < 90) & (blue < 90))
        points, depth = self.rest.copy(), np.zeros(lm.LANDMARKS, np.float32)
        implicit = np.zeros((0, 2), np.float32)
        if len(rows) < 100:
            return Track(points, depth, implicit, 0.1)
        shift = np.array([columns.mean() - 119.5, rows.mean() - 127.5], np.float32) * PIXEL
        opening = ((blue > 180) & (red < 90)).sum() / (BAR[1] - BAR[0])
        points[[lower for _, lower in lm.LIP_PAIRS], 1] += np.float32(opening * PIXEL)
        return Track(points + shift, depth, implicit, 0.9)

    def source(self, picture: Picture, track: Track | None = None) -> Source:
        track = track or self.track(picture)
        if track.certainty < 0.5:
            raise NoFace("the source picture shows no red square")
        shift = track.points[lm.NOSE[0]] - self.rest[lm.NOSE[0]]
        shape = np.column_stack((track.points - shift, track.depth)).astype(np.float32)
        pose = Motion((0.0, 0.0, 0.0), (float(shift[0]), float(shift[1])), 1.0, np.zeros(1, np.float32))
        return Source(picture, pose, shape, track.implicit, track.certainty)

    def motion(self, track: Track, source: Source, previous: Motion | None = None) -> Motion:
        shift = track.points[lm.NOSE[0]] - self.rest[lm.NOSE[0]]
        lip = lm.LIP_PAIRS[0][1]
        further = float(track.points[lip, 1] - shift[1] - source.shape[lip, 1])
        return Motion((0.0, 0.0, 0.0), (float(shift[0]), float(shift[1])), 1.0, np.array([further], np.float32))

    def aligner(self, source: Source) -> None:
        return None

    def keypoints(self, source: Source, motion: Motion) -> NDArray[np.float32]:
        shape = source.shape.copy()
        shape[[lower for _, lower in lm.LIP_PAIRS], 1] += motion.expression[0]
        return place(shape, motion)

    def renderer(self, source: Source) -> SquareRenderer:
        return SquareRenderer(source)

    def fusion(self) -> None:
        return None


class SquareRenderer:
    can_hold = False

    def __init__(self, source: Source) -> None:
        self._source = source

    def render(self, motion: Motion) -> Picture:
        return self.make(motion).picture

    def restart(self) -> None:
        pass

    def make(self, motion: Motion, *, hold: float = 0.0) -> Made:
        dx, dy = (
            round((m - s) / PIXEL) for m, s in zip(motion.translation, self._source.pose.translation, strict=True)
        )
        picture = self._source.picture.copy()
        picture[156:190, BAR[0] - 4 : BAR[1] + 4] = _background()[156:190, BAR[0] - 4 : BAR[1] + 4]
        opening = OPEN + round(float(motion.expression[0]) / PIXEL)
        picture[160 : 160 + max(0, opening), BAR[0] : BAR[1]] = (10, 10, 250)
        return Made(np.roll(picture, (dy, dx), (0, 1)))


@pytest.fixture(scope="module")
def family() -> Family:
    return SquareFamily()


def _write(path: Path, pictures: list[Picture], label: bool = True) -> Path:
    """A lossless clip of 25 fps, beside it the label file that marks it as a face crop."""
    with av.open(str(path), "w") as container:
        stream: Any = container.add_stream("ffv1", rate=25)
        stream.height, stream.width = pictures[0].shape[:2]
        stream.pix_fmt = "bgr0"
        stream.codec_context.time_base = Fraction(1, 25)
        for number, picture in enumerate(pictures):
            frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(picture), format="rgb24")
            frame.pts = number
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    if label:
        np.savez(path.with_suffix(".npz"), valid=np.ones(len(pictures), bool))
    return path


def _talking(frames: int = 16) -> list[Picture]:
    """Walks 2 pixels a frame to the right while the mouth opens and closes."""
    return [_face(2 * i, 0, OPEN + round(6 * np.sin(i / 2) ** 2)) for i in range(frames)]


@pytest.fixture(scope="module")
def talk_and_rest(tmp_path_factory: pytest.TempPathFactory, family: Family) -> tuple[Evaluation, Path]:
    """A clip that moves, one that does not, one without a face: evaluated once for several tests."""
    folder = tmp_path_factory.mktemp("clips")
    _write(folder / "talk.mkv", _talking())
    _write(folder / "rest.mkv", [_face()] * 8)
    _write(folder / "wall.mkv", [_background()] * 4)
    (folder / "notes.txt").write_text("not a clip")
    out = folder / "out"
    return evaluate_folder(folder, out, family=family), out


def _of(evaluation: Evaluation, name: str) -> ClipResult:
    return next(clip for clip in evaluation.clips if clip.name == name)


def test_clip_that_moves_beats_the_frozen_picture_in_everything(
    talk_and_rest: tuple[Evaluation, Path],
) -> None:
    talk = _of(talk_and_rest[0], "talk.mkv")
    assert talk.crop_given
    assert talk.frames == talk.landmark_frames == 16
    assert talk.source_frame == talk.lost_frames == 0
    assert talk.decoded.psnr_db > talk.frozen.psnr_db + 3
    assert talk.decoded.ssim > talk.frozen.ssim + 0.05
    assert talk.decoded.l1 < talk.frozen.l1 / 2
    assert talk.decoded.landmark_px is not None
    assert talk.frozen.landmark_px is not None
    assert talk.decoded.landmark_px < 2
    assert talk.decoded.mouth_r is not None
    assert talk.decoded.mouth_r > 0.9
    assert talk.still_gain_db is None


def test_frozen_landmarks_are_as_far_off_as_the_face_moved(
    talk_and_rest: tuple[Evaluation, Path],
) -> None:
    talk = _of(talk_and_rest[0], "talk.mkv")
    lowered = {lower for _, lower in lm.LIP_PAIRS}
    wanted = []
    for i in range(16):
        dx, dy = 2.0 * i, float(round(6 * np.sin(i / 2) ** 2))
        wanted += [np.hypot(dx, dy if point in lowered else 0) for point in range(lm.LANDMARKS)]
    assert talk.frozen.landmark_px == pytest.approx(np.mean(wanted), abs=0.01)
    assert talk.frozen.mouth_r == 0
    assert talk.frozen.jitter_px == 0


def test_cost_is_that_of_the_payload(talk_and_rest: tuple[Evaluation, Path]) -> None:
    talk, rest = (_of(talk_and_rest[0], name) for name in ("talk.mkv", "rest.mkv"))
    assert 0 < rest.payload_bits_mean < talk.payload_bits_mean <= talk.payload_bits_p95
    assert talk.payload_bits_mean * 16 % 8 == pytest.approx(0, abs=1e-6)  # packets are whole bytes
    assert talk.payload_kbps == pytest.approx(talk.payload_bits_mean * 25 / 1000)
    assert 0 < talk.source_bytes <= 6144
    # Steps are a quarter of a pixel; the encoder may stay a step behind where that is cheaper.
    assert 0 < talk.coding_px < 0.5


def test_speaker_at_rest_is_compared_with_the_frozen_picture(
    talk_and_rest: tuple[Evaluation, Path],
) -> None:
    evaluation, _ = talk_and_rest
    rest = _of(evaluation, "rest.mkv")
    assert rest.frozen.psnr_db == 60
    assert rest.still_gain_db == pytest.approx(rest.decoded.psnr_db - 60)
    assert evaluation.mean.still_clips == 1
    assert evaluation.mean.still_gain_db == rest.still_gain_db


def test_openings_that_never_happen_are_left_out_of_the_mean(
    talk_and_rest: tuple[Evaluation, Path],
) -> None:
    evaluation, _ = talk_and_rest
    talk, rest = _of(evaluation, "talk.mkv"), _of(evaluation, "rest.mkv")
    assert rest.decoded.mouth_r is None
    assert evaluation.mean.mouth_clips == 1
    assert evaluation.mean.decoded.mouth_r == talk.decoded.mouth_r
    assert evaluation.mean.eye_clips == 0
    assert evaluation.mean.decoded.eye_r is None
    assert evaluation.mean.decoded.psnr_db == pytest.approx((talk.decoded.psnr_db + rest.decoded.psnr_db) / 2)


def test_clip_without_a_face_is_listed_and_the_rest_goes_on(
    talk_and_rest: tuple[Evaluation, Path],
) -> None:
    evaluation, _ = talk_and_rest
    assert [clip.name for clip in evaluation.clips] == ["rest.mkv", "talk.mkv"]
    assert [(f.name, f.reason) for f in evaluation.failures] == [("wall.mkv", "the source picture shows no red square")]


def test_results_are_written_and_read_back(talk_and_rest: tuple[Evaluation, Path]) -> None:
    evaluation, out = talk_and_rest
    assert Evaluation.model_validate_json((out / "evaluation.json").read_text()) == evaluation
    assert json.loads((out / "evaluation.json").read_text())["landmarks_by"].startswith("square-256")
    table = (out / "table.md").read_text()
    lines = [line for line in table.splitlines() if line.startswith("|")]
    assert [line.split("|")[1].strip() for line in lines] == [
        "clip", "---", "talk.mkv", "rest.mkv", "**mean**"
    ]  # fmt: skip
    assert len({line.count("|") for line in lines}) == 1
    assert "wall.mkv: the source picture shows no red square" in table
    sheet = cv2.imread(str(out / "contact_sheet.png"))
    assert sheet is not None
    assert sheet.shape[1] == 5 * CELL
    assert sorted(path.name for path in out.iterdir()) == ["contact_sheet.png", "evaluation.json", "table.md"]


def test_printed_table_says_what_was_measured_and_what_failed(
    talk_and_rest: tuple[Evaluation, Path],
) -> None:
    console = Console(width=80, file=io.StringIO())
    print_evaluation(talk_and_rest[0], console)
    assert isinstance(console.file, io.StringIO)
    text = console.file.getvalue()
    assert "talk" in text
    assert "mean" in text
    assert "frozen picture" in text
    assert "…" not in text
    assert "not scored: wall.mkv" in text
    assert "own extractor" in " ".join(text.split())


def test_progress_counts_clips_and_limit_takes_the_first(tmp_path: Path, family: Family) -> None:
    for name in ("b.mkv", "a.mkv", "c.mkv"):
        _write(tmp_path / name, [_face()] * 3)
    seen: list[tuple[int, int | None]] = []
    evaluation = evaluate_folder(
        tmp_path, tmp_path / "out", family=family, limit=2, progress=lambda d, t: seen.append((d, t))
    )
    assert [clip.name for clip in evaluation.clips] == ["a.mkv", "b.mkv"]
    assert seen == [(0, 2), (1, 2), (2, 2)]


def test_frames_that_are_gathered_do_not_change_the_pictures(tmp_path: Path, family: Family) -> None:
    _write(tmp_path / "talk.mkv", _talking(7))
    one, four = (evaluate_folder(tmp_path, tmp_path / "out", family=family, frames_per_packet=n) for n in (1, 4))
    assert one.clips[0].frames == four.clips[0].frames == 7
    assert four.clips[0].payload_bits_mean < one.clips[0].payload_bits_mean


def test_lost_face_repeats_the_last_motion(tmp_path: Path, family: Family) -> None:
    pictures = _talking(9)
    pictures[4] = _background()
    _write(tmp_path / "gap.mkv", pictures)
    clip = evaluate_folder(tmp_path, tmp_path / "out", family=family).clips[0]
    assert clip.lost_frames == 1
    assert clip.landmark_frames == 8


def test_long_clip_is_scored_to_the_bound_and_says_so(
    tmp_path: Path, family: Family, monkeypatch: pytest.MonkeyPatch
) -> None:
    _write(tmp_path / "long.mkv", _talking(9))
    monkeypatch.setattr(footage, "MAX_FRAMES", 8)
    clip = evaluate_folder(tmp_path, tmp_path / "out", family=family).clips[0]
    assert clip.frames == 8
    assert clip.frames_left_out


def test_folder_without_clips_is_refused_before_anything_is_written(tmp_path: Path, family: Family) -> None:
    (tmp_path / "talk.txt").write_text("no clip")
    with pytest.raises(BadInput, match="holds no clip"):
        evaluate_folder(tmp_path, tmp_path / "out", family=family)
    with pytest.raises(BadInput, match="no such folder"):
        evaluate_folder(tmp_path / "none", tmp_path / "out", family=family)
    assert not (tmp_path / "out").exists()


def test_folder_in_which_nothing_can_be_scored_is_refused_with_a_reason(tmp_path: Path, family: Family) -> None:
    _write(tmp_path / "one.mkv", [_face()])
    (tmp_path / "text.mp4").write_text("this is no video")
    with pytest.raises(BadInput, match=r"none of 2 clips could be scored; one\.mkv: has one frame.*1 more"):
        evaluate_folder(tmp_path, tmp_path / "out", family=family)
    assert list((tmp_path / "out").iterdir()) == []


def test_settings_out_of_range_are_refused(tmp_path: Path, family: Family) -> None:
    _write(tmp_path / "talk.mkv", _talking(3))
    with pytest.raises(BadInput, match="limit is 0"):
        evaluate_folder(tmp_path, tmp_path / "out", family=family, limit=0)
    with pytest.raises(BadInput, match="source is 'last'"):
        evaluate_folder(tmp_path, tmp_path / "out", family=family, source="last")  # type: ignore[arg-type]
    with pytest.raises(BadInput, match="frames_per_packet is 0"):
        evaluate_folder(tmp_path, tmp_path / "out", family=family, frames_per_packet=0)


def test_best_source_is_the_frame_an_encoder_would_choose(
    tmp_path: Path, family: Family, monkeypatch: pytest.MonkeyPatch
) -> None:
    _write(tmp_path / "talk.mkv", _talking(6))
    monkeypatch.setattr("kilocall.sender.source_picture.choose_source", lambda crops, *rest: len(crops) - 2)
    clip = evaluate_folder(tmp_path, tmp_path / "out", family=family, source="best").clips[0]
    assert clip.source_frame == 4


def test_contact_sheet_shows_the_original_above_what_was_decoded() -> None:
    red, green, blue = (np.full((SIZE, SIZE, 3), c, np.uint8) for c in ((255, 0, 0), (0, 255, 0), (0, 0, 255)))
    row = SheetRow("clip \u00fc", ("one", "two"), red, (SheetPair(0.5, green, blue),))
    sheet = contact_sheet([row, row])
    height = sheet.shape[0] // 2
    for top in (0, height):
        middle = top + 24 + CELL // 2
        assert sheet[middle, CELL // 2].tolist() == [255, 0, 0]
        assert sheet[middle, CELL + CELL // 2].tolist() == [0, 255, 0]
        assert sheet[middle + CELL, CELL + CELL // 2].tolist() == [0, 0, 255]
    assert (sheet[:24] < 128).any()  # the title is written
    with pytest.raises(BadInput, match="at least one clip"):
        contact_sheet([])


@pytest.mark.parametrize(("count", "shown"), [(1, [0]), (2, [0, 1]), (4, [0, 1, 2, 3]), (80, [10, 30, 50, 70])])
def test_sheet_shows_frames_from_all_over_the_clip(count: int, shown: list[int]) -> None:
    assert sheet_frames(count) == shown


def _portrait(angle: float, dx: float, dy: float) -> Picture:
    """The face of the public-domain portrait, tilted about its middle and shifted by pixels."""
    bgr = cv2.imread(str(Path(__file__).parents[1] / "data" / "astronaut.webp"))
    assert bgr is not None
    matrix = cv2.getRotationMatrix2D((224, 122), angle, 1.45)
    matrix[:, 2] += np.array([dx + 128 - 224, dy + 118 - 122])
    return np.asarray(cv2.warpAffine(bgr[..., ::-1], matrix, (SIZE, SIZE), flags=cv2.INTER_AREA), np.uint8)


def test_portrait_that_sways_is_followed_by_the_real_networks(tmp_path: Path) -> None:
    sway = np.sin(np.arange(12) / 3)
    _write(tmp_path / "sway.mkv", [_portrait(6 * s, 10 * s, 4 * s) for s in sway])
    evaluation = evaluate_folder(tmp_path, tmp_path / "out", threads=1)
    clip = evaluation.clips[0]
    assert clip.lost_frames == 0
    assert clip.landmark_frames == 12
    assert clip.decoded.landmark_px is not None
    assert clip.frozen.landmark_px is not None
    # By construction the face moves 7 pixels in the mean; followed well it is within a pixel or two.
    assert clip.frozen.landmark_px > 5
    assert clip.decoded.landmark_px < clip.frozen.landmark_px / 2
    assert clip.decoded.psnr_db > clip.frozen.psnr_db
    assert 0 < clip.coding_px < 1
    assert 0 < clip.payload_bits_mean < 150  # a short clip is mostly key frame


def test_further_pictures_are_measured_beside_one_on_the_same_frames(tmp_path: Path, family: Family) -> None:
    """A lamp goes out above the face half way: only a further picture shows that."""
    faces = [_face(dx=2 * i) for i in range(16)]
    for number, picture in enumerate(faces):
        if number > 7:
            picture[:90] = picture[:90] // 3
    _write(tmp_path / "lamp.mkv", faces)
    alone = evaluate_folder(tmp_path, tmp_path / "alone", family=family)
    evaluation = evaluate_folder(tmp_path, tmp_path / "out", gallery=3, gallery_kb=20, family=family)
    clip = evaluation.clips[0]
    assert clip.decoded == alone.clips[0].decoded  # what is measured without it does not change
    assert [row.at_most for row in clip.gallery] == [1, 2, 3]
    one, two, _ = clip.gallery
    assert (one.pictures, one.picture_bytes, one.changes) == (1, clip.source_bytes, 0)
    assert two.pictures == 2
    assert one.picture_bytes < two.picture_bytes <= 20 * 1024
    assert two.scores.psnr_db > one.scores.psnr_db + 1
    assert [row.at_most for row in evaluation.gallery] == [1, 2, 3]
    table = (tmp_path / "out" / "gallery.md").read_text()
    assert f"{two.scores.psnr_db:.2f}" in table
    assert (tmp_path / "out" / "gallery.png").read_bytes().startswith(b"\x89PNG")
    assert not (tmp_path / "alone" / "gallery.md").exists()


@pytest.mark.parametrize(("gallery", "kilobytes"), [(9, 40), (2, 0)])
def test_what_is_no_gallery_is_refused(tmp_path: Path, family: Family, gallery: int, kilobytes: float) -> None:
    _write(tmp_path / "face.mkv", [_face(), _face()])
    with pytest.raises(BadInput, match="allowed are"):
        evaluate_folder(tmp_path, tmp_path / "out", gallery=gallery, gallery_kb=kilobytes, family=family)
    assert not (tmp_path / "out").exists()
