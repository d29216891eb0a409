"""face-vid2vid and LivePortrait behind the seam. The weights are noise, so pictures are too; numbers are not."""

from __future__ import annotations

import importlib.util
import sys
import threading
from dataclasses import replace
from fractions import Fraction
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch

from kilocall.api import info
from kilocall.cli import run
from kilocall.model import geometry as geo
from kilocall.model.engine_choice import choose_engine
from kilocall.model.family import Family, Picture, Source, retarget, turn_head
from kilocall.model.family_loader import load_family
from kilocall.model.motion import Motion
from kilocall.model.volume.family import VolumeFamily, VolumeSource
from kilocall.model.volume.networks import AbandonedError, OpenVinoRunner, TorchRunner
from kilocall.proto.errors import BadInput
from kilocall.receiver.video_file import VideoFile
from kilocall.sample.perform import portrait


@pytest.fixture(scope="module")
def crop() -> Picture:
    return np.asarray(cv2.resize(portrait(), (256, 256), interpolation=cv2.INTER_AREA), np.uint8)


@pytest.fixture(scope="module")
def first(facevid2vid_file: Path) -> VolumeFamily:
    family = load_family("facevid2vid", engine=choose_engine("openvino", 2), folder=facevid2vid_file)
    assert isinstance(family, VolumeFamily)
    return family


@pytest.fixture(scope="module")
def second(liveportrait_folder: Path) -> VolumeFamily:
    family = load_family("liveportrait", engine=choose_engine("openvino", 2), folder=liveportrait_folder)
    assert isinstance(family, VolumeFamily)
    return family


@pytest.fixture(params=["compact-256", "facevid2vid", "liveportrait"])
def family(request: pytest.FixtureRequest) -> Family:
    if request.param == "compact-256":
        return load_family(engine=choose_engine("openvino", 2))
    named: Family = request.getfixturevalue({"facevid2vid": "first", "liveportrait": "second"}[request.param])
    return named


def head_points(family: Family, source: Source, motion: Motion) -> np.ndarray:
    """Keypoints that turn with the head, without the deltas, which no rotation touches in the two big families."""
    made = family.keypoints(source, motion)
    if isinstance(source, VolumeSource):
        return made - source.head.expression[:, :2] * motion.scale
    return made[: len(source.shape)]


def test_a_turn_of_twenty_degrees_is_one_in_every_family(family: Family, crop: Picture) -> None:
    source = family.source(crop)
    turn = np.deg2rad(20)
    turned = turn_head(source.pose, turn, 0, 0, source.neck)
    matrix = geo.rotation_matrix(*turned.rotation) @ geo.rotation_matrix(*source.pose.rotation).T
    assert np.rad2deg(np.arccos((np.trace(matrix) - 1) / 2)) == pytest.approx(20, abs=0.02)
    # Every point of the head goes where 20 degrees about the vertical through the neck take it.
    shape = source.canonical if isinstance(source, VolumeSource) else source.shape
    arm = source.pose.scale * (shape - np.asarray(source.neck)) @ geo.rotation_matrix(*source.pose.rotation).T
    before, after = head_points(family, source, source.pose), head_points(family, source, turned)
    x = np.cos(turn) * arm[:, 0] - np.sin(turn) * arm[:, 2]
    np.testing.assert_allclose(after[:, 0] - before[:, 0], x - arm[:, 0], atol=2e-4)
    np.testing.assert_allclose(after[:, 1], before[:, 1], atol=2e-4)
    # What lies in front of the neck goes to the right of the picture.
    front = arm[:, 2] < 0
    if front.any():
        assert np.mean((after - before)[front, 0]) > 0


def test_relative_motion_starts_from_the_other_pictures_own_pose(family: Family, crop: Picture) -> None:
    mirrored = np.ascontiguousarray(crop[:, ::-1])
    ours, theirs = family.source(crop), family.source(mirrored)
    still = retarget(ours.pose, ours.pose, theirs.pose)
    np.testing.assert_allclose(still.vector, theirs.pose.vector, atol=1e-4)
    np.testing.assert_allclose(family.keypoints(theirs, still), family.keypoints(theirs, theirs.pose), atol=1e-4)


def test_a_frame_of_the_source_picture_has_its_keypoints(
    first: VolumeFamily, second: VolumeFamily, crop: Picture
) -> None:
    for family in (first, second):
        track = family.track(crop)
        source = family.source(crop, track)
        motion = family.motion(track, source)
        np.testing.assert_allclose(motion.vector, source.pose.vector, atol=1e-6)
        # What is sent and put together again is what the public formula gives: x = s (R x_c + delta) + t.
        head = source.head
        wanted = (source.canonical @ head.rotation.T + head.expression) * head.scale + head.translation
        np.testing.assert_allclose(family.keypoints_3d(source, motion), wanted, atol=1e-5)


def test_another_frames_motion_gives_that_frames_keypoints(first: VolumeFamily, crop: Picture) -> None:
    moved = np.ascontiguousarray(np.roll(crop, 9, 1))
    source, track = first.source(crop), first.track(moved)
    made = first.keypoints_3d(source, first.motion(track, source))
    wanted = source.canonical @ track.head.rotation.T + track.head.expression + track.head.translation
    np.testing.assert_allclose(made, wanted, atol=1e-5)


def test_openvino_and_torch_make_the_same_picture(first: VolumeFamily, crop: Picture) -> None:
    networks = first.runner.networks
    exact, fast = OpenVinoRunner(networks, 2, bfloat16=False), OpenVinoRunner(networks, 2)
    plain = TorchRunner(networks, torch.device("cpu"))
    source = first.source(crop)
    x_s = first.keypoints_3d(source, source.pose)
    x_d = first.keypoints_3d(source, turn_head(source.pose, 0.2, -0.1, 0.05))
    appearance = plain.appearance(crop)
    wanted = plain.render(appearance, x_s, x_d).astype(np.int32)
    assert wanted.std() > 5  # noise, but a picture
    # A value half-way between two may be rounded to either.
    assert np.abs(exact.render(appearance, x_s, x_d) - wanted).max() <= 1
    rough = np.square(fast.render(appearance, x_s, x_d) - wanted).mean()
    assert 10 * np.log10(255**2 / max(rough, 1e-9)) > 35


def test_a_picture_that_nobody_waits_for_any_more_is_ended(first: VolumeFamily, crop: Picture) -> None:
    runner = OpenVinoRunner(first.runner.networks, 1)
    source = first.source(crop)
    appearance, x_s = runner.appearance(crop), first.keypoints_3d(source, source.pose)
    ended: list[BaseException] = []

    def make() -> None:
        try:
            for _ in range(50):
                runner.render(appearance, x_s, x_s)
        except AbandonedError as error:
            ended.append(error)

    making = threading.Thread(target=make)
    making.start()
    making.join(0.2)
    runner.interrupt()
    making.join(60)
    assert len(ended) == 1


def test_features_are_computed_once_per_source(
    first: VolumeFamily, crop: Picture, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[int] = []
    volume = first.runner.networks.volume

    def counted(picture: torch.Tensor) -> torch.Tensor:
        asked.append(1)
        return volume(picture)

    monkeypatch.setattr(first.runner.networks, "volume", counted)
    source = first.source(crop)
    renderer = first.renderer(source)
    still = renderer.render(source.pose)
    assert still.shape == (256, 256, 3)
    assert not np.array_equal(still, renderer.render(turn_head(source.pose, 0.3, 0, 0)))
    assert len(asked) == 1


def test_parameters_are_those_of_the_file_and_no_copies(first: VolumeFamily) -> None:
    networks = first.runner.networks
    stored = first.checkpoint.modules["generator"]
    for name, parameter in networks.modules()[2].state_dict().items():
        assert parameter.data_ptr() == stored[name].data_ptr(), name


def test_halves_make_the_same_motion(
    first: VolumeFamily, facevid2vid_file: Path, crop: Picture, tmp_path: Path
) -> None:
    halves = tmp_path / "halves.safetensors"
    assert run(["weights", "convert", str(facevid2vid_file), "-o", str(halves), "--fp16"]) == 0
    assert halves.stat().st_size < 0.51 * facevid2vid_file.stat().st_size
    family = load_family("facevid2vid", engine=choose_engine("openvino", 2), folder=halves)
    assert isinstance(family, VolumeFamily)
    assert family.weights_hash == first.weights_hash
    ours, theirs = first.source(crop), family.source(crop)
    np.testing.assert_allclose(ours.pose.vector, theirs.pose.vector, atol=2e-3)
    np.testing.assert_allclose(ours.canonical, theirs.canonical, atol=2e-3)
    picture = family.renderer(theirs).render(theirs.pose)
    wanted = first.renderer(ours).render(ours.pose)
    halves.unlink()
    assert np.square(picture.astype(np.float64) - wanted).mean() < 30  # 33 dB


def test_a_larger_source_picture_is_reduced(first: VolumeFamily, crop: Picture) -> None:
    large = np.asarray(cv2.resize(crop, (512, 512), interpolation=cv2.INTER_CUBIC), np.uint8)
    source = first.source(large)
    assert source.picture.shape == (256, 256, 3)
    assert source.detail is None


def test_encode_and_decode_with_weights_of_ones_own(
    facevid2vid_file: Path, crop: Picture, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    clip, stream, made = (tmp_path / name for name in ("clip.mp4", "clip.kcs", "made.mp4"))
    with VideoFile(clip, fps=Fraction(5), size=256) as video:
        for number in range(3):
            video.write(np.ascontiguousarray(np.roll(crop, 2 * number, 1)), 200_000 * number)
    models = ["--family", "facevid2vid", "--weights", str(facevid2vid_file), "--threads", "2"]
    assert run(["encode", str(clip), "-o", str(stream), *models]) == 0
    assert "not for commercial use" in capsys.readouterr().err
    found = info(stream)
    assert (found.family, found.frames, found.keypoints, found.motion_numbers) == ("facevid2vid", 3, 15, 52)
    assert run(["decode", str(stream), "-o", str(made), "--weights", str(facevid2vid_file), "--yaw", "10"]) == 0
    assert made.is_file()
    capsys.readouterr()

    # A receiver that lacks something says what to get.
    assert run(["decode", str(stream), "-o", str(tmp_path / "no.mp4")]) == 2
    text = capsys.readouterr().err
    assert "facevid2vid weights" in text
    assert "--weights FILE" in text
    assert run(["decode", str(stream), "-o", str(tmp_path / "no.mp4"), "--family", "liveportrait"]) == 2
    assert "is of family facevid2vid" in capsys.readouterr().err
    assert not (tmp_path / "no.mp4").exists()


def test_pictures_of_liveportrait_are_512_wide(second: VolumeFamily, crop: Picture) -> None:
    source = second.source(crop)
    motion = replace(source.pose, scale=source.pose.scale * 1.02)
    assert second.renderer(source).render(motion).shape == (512, 512, 3)
    assert second.picture_size == 512


def test_what_is_missing_is_said(facevid2vid_file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    engine = choose_engine("openvino", 1)
    with pytest.raises(BadInput, match="--weights FOLDER"):
        load_family("liveportrait", engine=engine)
    monkeypatch.setitem(sys.modules, "torch", None)
    assert importlib.util.find_spec("torch") is None
    with pytest.raises(BadInput, match=r"pip install 'kilocall\[torch\]'"):
        load_family("facevid2vid", engine=engine, folder=facevid2vid_file)


def test_onnxruntime_has_no_warp_for_volumes(facevid2vid_file: Path) -> None:
    with pytest.raises(BadInput, match="allowed are openvino and torch"):
        load_family("facevid2vid", engine=choose_engine("onnxruntime", 1), folder=facevid2vid_file)
