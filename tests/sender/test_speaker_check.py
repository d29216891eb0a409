"""Somebody else comes into the picture: nobody moves the picture of another person unasked."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest

from kilocall import api
from kilocall.codec.motion_codec import MotionDecoder
from kilocall.model.family import ANOTHER, Family, Picture, Source
from kilocall.proto.motion_packet import MotionPacket
from kilocall.sender.capture import open_clip
from kilocall.sender.clip import face_of_picture
from kilocall.sender.live import SendPipeline
from kilocall.sender.motion import MotionExtractor
from kilocall.sender.speaker_check import ANOTHER_AFTER_US, SpeakerCheck
from sender.test_clip_kinds import write
from sender.test_live import FixedPlan, Frames, Running, Told, WorkClock

PERIOD_US = 40_000
LOW, HIGH = 0.4, 0.9


def judged(*likenesses: float | None, period_us: int = PERIOD_US) -> str:
    """First letters of what a new check says of frames."""
    check = SpeakerCheck()
    return "".join(check.look(value, number * period_us)[0] for number, value in enumerate(likenesses))


def test_another_person_is_doubted_at_once_and_believed_after_a_second() -> None:
    frames = ANOTHER_AFTER_US // PERIOD_US
    assert judged(HIGH, *[LOW] * (frames + 2)) == "s" + "d" * frames + "aa"


def test_who_comes_back_is_believed_after_one_frame_of_doubt_or_three() -> None:
    assert judged(HIGH, LOW, LOW, HIGH, HIGH) == "sddss"
    assert judged(HIGH, LOW, LOW, HIGH, HIGH, HIGH, HIGH, period_us=ANOTHER_AFTER_US)[2:] == "aaass"


def test_a_head_that_turns_away_stays_the_same_person() -> None:
    assert set(judged(*np.linspace(HIGH, 0.1, 9))) == {"s"}
    assert judged(HIGH, *[None] * 60, HIGH) == "s" * 62
    assert judged(ANOTHER, ANOTHER - 0.1) == "ss"


def test_whoever_is_there_from_the_start_must_be_quite_another() -> None:
    assert judged(LOW, LOW) == "dd"
    assert judged(ANOTHER - 0.1, ANOTHER - 0.1) == "ss"


def test_what_says_nothing_changes_nothing() -> None:
    assert judged(HIGH, LOW, None, LOW, None) == "sdddd"


@pytest.fixture(scope="module")
def family() -> Family:
    return api.open_family()


@pytest.fixture(scope="module")
def speakers(astronaut_clip: Path, drawing_clip: Path) -> list[list[Picture]]:
    """Two seconds of each of the built-in speakers, whole frames."""
    return [
        [frame.rgb for frame, _ in zip(open_clip(clip), range(50), strict=False)]
        for clip in (astronaut_clip, drawing_clip)
    ]


def test_likeness_tells_the_two_speakers_apart_whoever_has_the_source_picture(
    family: Family, speakers: list[list[Picture]]
) -> None:
    crops = [[face_of_picture(frame, family) for frame in frames[::12]] for frames in speakers]
    for own, other in ((0, 1), (1, 0)):
        source = family.source(crops[own][0])
        assert min(likenesses(family, source, crops[own])) > ANOTHER + 0.1
        assert max(likenesses(family, source, crops[other])) < ANOTHER - 0.1


def likenesses(family: Family, source: Source, crops: list[Picture]) -> list[float]:
    found = []
    for crop in crops:
        extractor = MotionExtractor(family, source, check_speaker=False)
        extractor.extract(crop, 0)
        assert extractor.keypoint_aligner is not None
        assert extractor.keypoint_aligner.likeness is not None
        found.append(extractor.keypoint_aligner.likeness)
    return found


@pytest.fixture(scope="module")
def cut(speakers: list[list[Picture]], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One speaker, from 2 s to 4 s the other, then the first again."""
    first, second = speakers
    return write(tmp_path_factory.mktemp("cut") / "cut.mp4", [*first, *second, *first])


def motions(stream: Path, family: Family) -> np.ndarray:
    player = api.StreamPlayer(stream, family=family)
    return np.stack([timed.motion.vector for timed in player.motions()])


def test_picture_holds_still_while_a_clip_shows_somebody_else(family: Family, cut: Path, tmp_path: Path) -> None:
    report = api.encode(cut, tmp_path / "a.kcs", source=None, family=family, audio_kbps=None)
    # The source picture is one of either speaker's; he moves, the other does not.
    assert 45 <= report.other_frames <= 105
    assert any("another face" in warning for warning in report.warnings)
    moved = np.abs(np.diff(motions(tmp_path / "a.kcs", family), axis=0)).max(1)
    spoken = {"first": np.r_[2:48, 104:148], "second": np.r_[52:98]}
    still = {name: np.median(moved[frames]) for name, frames in spoken.items()}
    mine, other = ("first", "second") if still["first"] > still["second"] else ("second", "first")
    assert still[other] < 0.05 * still[mine]
    assert np.quantile(moved[spoken[other]], 0.9) < 0.05 * still[mine]


def test_check_can_be_left_out(family: Family, cut: Path, tmp_path: Path) -> None:
    report = api.encode(cut, tmp_path / "b.kcs", family=family, audio_kbps=None, check_speaker=False)
    assert report.other_frames == 0
    assert not any("another face" in warning for warning in report.warnings)


def test_gallery_has_no_picture_of_somebody_else(family: Family, cut: Path, tmp_path: Path) -> None:
    api.encode(cut, tmp_path / "c.kcs", family=family, audio_kbps=None, gallery=4)
    player = api.StreamPlayer(tmp_path / "c.kcs", family=family)
    list(player.motions())
    base, *further = player.renderer.references
    assert further
    for reference in further:
        assert min(likenesses(family, base.source, [reference.source.picture])) > ANOTHER - 0.2


def test_ordinary_clip_is_one_persons(family: Family, astronaut_clip: Path, tmp_path: Path) -> None:
    assert api.encode(astronaut_clip, tmp_path / "d.kcs", family=family).other_frames == 0


def spread(packets: list[MotionPacket], sending: SendPipeline) -> float:
    """How far the motion of some packets goes; each must be a key packet."""
    vectors = np.concatenate([MotionDecoder(sending.codebook).decode(packet) for packet in packets])
    return float(np.ptp(vectors, axis=0).max())


@pytest.mark.parametrize("chosen", [False, True], ids=["taken by itself", "chosen by the user"])
def test_in_a_call_somebody_else_gets_a_source_picture_of_his_own(
    speakers: list[list[Picture]], chosen: bool, tmp_path: Path
) -> None:
    first, second = speakers
    camera, told, clock, problems = Frames(), Told(), WorkClock(), list[str]()
    picture = tmp_path / "own.png"
    cv2.imwrite(str(picture), first[0][..., ::-1])
    sending = SendPipeline(
        camera,
        replace(told.events, problem=problems.append),
        lambda call: call(),
        plan=FixedPlan(),
        source=picture if chosen else None,
        clock=clock,
    )
    running = Running(sending, camera, told, clock)
    sending.opened()
    running.show(*first[:12])
    running.begin()
    running.show(*first[12:20])
    assert spread(told.packets[-2:], sending) > 0
    assert len(told.sources) == 1
    mine = sending.pictures.source
    running.show(*second[:40])
    assert len(problems) == 1
    assert "somebody else" in problems[0]
    assert ("a new source picture is taken" in problems[0]) is not chosen
    # The other side moves the old picture until it has the new one: not by this person.
    assert sending.pictures.source == mine
    assert spread(told.packets[-3:], sending) == 0
    assert len(told.sources) == (1 if chosen else 2)
    if chosen:
        return
    sending.confirm(told.sources[1].packed.picture_hash)
    sending.do_what_was_asked()
    running.show(*second[40:])
    assert spread(told.packets[-2:], sending) > 0
    assert len(problems) == 1
