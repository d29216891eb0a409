"""The receiving thread's steps, taken one by one on a clock of the test."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from queue import Queue

import cv2
import numpy as np
import pytest
from safetensors.numpy import load_file

from kilocall.codec.motion_codec import MotionEncoder
from kilocall.model.compact.speaker_adapter import WEIGHTS, SpeakerAdapter, base_hash
from kilocall.model.engine_choice import choose_engine
from kilocall.model.family import Family, Picture, Source, weights_folder
from kilocall.model.family_loader import load_family
from kilocall.model.motion import Motion
from kilocall.proto.layer_frame import LayerFragment, LayerFrame
from kilocall.proto.motion_message import MotionMessage
from kilocall.proto.motion_packet import TIMES_MS, MotionPacket
from kilocall.proto.stream_file import StreamReader
from kilocall.receiver.live import Played, ReceiveEvents, ReceivePipeline, Rendered
from kilocall.receiver.remote_speaker import MOST_UNDECODED
from kilocall.receiver.render import FaceRenderer
from kilocall.runtime.picture_process import PictureDecoder
from kilocall.runtime.pictures import decode_picture, encode_picture
from kilocall.sample import sample_stream
from kilocall.sender.layer_encoder import CAMERA_LADDER, LADDER, LayerEncoder
from runtime.attacks import avif_that_lies, jpeg_of_many_scans

SPACING_US = 40_000


@pytest.fixture(scope="module")
def family() -> Family:
    return load_family(engine=choose_engine("auto", 1))


@pytest.fixture(scope="module")
def picture() -> tuple[str, bytes]:
    """Hash and data of a source picture."""
    packed = StreamReader(sample_stream("astronaut")).source_picture()
    assert packed is not None
    return packed.picture_hash, packed.data


@pytest.fixture(scope="module")
def source(family: Family, picture: tuple[str, bytes]) -> Source:
    return family.source(decode_picture(picture[1]))


@dataclass
class Rig:
    receiving: ReceivePipeline
    pictures: list[Rendered] = field(default_factory=list)
    played: list[Played] = field(default_factory=list)
    rates: list[float] = field(default_factory=list)
    now_us: int = 5_000_000
    waits_for_pictures: bool = True
    refused: list[tuple[str, str]] = field(default_factory=list)

    def step(self, seconds: float = 0.0) -> None:
        """Runs the thread's work for so long; what was asked of it comes first, as on the thread."""
        until_us = self.now_us + round(seconds * 1e6)
        while True:
            self.receiving.do_what_was_asked()
            while self.receiving.speaker.undecoded and self.waits_for_pictures:
                time.sleep(0.005)
                self.receiving.do_what_was_asked()
            self.receiving.step()
            if self.now_us >= until_us:
                return
            self.now_us += 10_000


@pytest.fixture
def rig(picture: tuple[str, bytes]) -> Iterator[Rig]:
    rig: Rig

    def deliver(call: object) -> None:
        call()  # type: ignore[operator]

    events = ReceiveEvents(
        picture=lambda made: rig.pictures.append(made),
        ready=lambda name: None,
        refused=lambda *what: rig.refused.append(what),
        played=lambda item: rig.played.append(item),
        rate=lambda fps: rig.rates.append(fps),
    )

    def clock() -> tuple[float, float]:
        return rig.now_us / 1e6, rig.now_us / 1e6

    receiving = ReceivePipeline(events, deliver, threads=1, clock_us=lambda: rig.now_us, clock=clock)
    receiving.opened()
    rig = Rig(receiving)
    receiving.prepare(*picture)
    rig.step()
    yield rig
    receiving.closed()


def coded(
    encoder: MotionEncoder, shown: Source | Motion, first_us: int, frames: int, spacing_us: int = SPACING_US
) -> bytes:
    still = shown if isinstance(shown, Motion) else shown.pose
    vectors = np.repeat(still.vector[None], frames, 0)
    return bytes(MotionPacket.carry(encoder.encode(vectors), first_us, spacing_us))


def test_packet_that_comes_with_a_new_connection_is_kept_for_those_that_refer_to_it(
    rig: Rig, family: Family, source: Source
) -> None:
    """The other side has been told of its delivery, whatever this thread was busy with then."""
    old = MotionEncoder(family.codebook, reference="acknowledged")
    rig.receiving.push(coded(old, source, rig.now_us - 120_000, 3), rig.now_us)
    rig.step(0.3)
    assert len(rig.pictures) == 3
    new = MotionEncoder(family.codebook, reference="acknowledged")
    rig.receiving.restart()
    rig.receiving.push(coded(new, source, rig.now_us - 120_000, 3), rig.now_us)
    new.acknowledge(0)
    rig.step(0.3)
    rig.receiving.push(coded(new, source, rig.now_us - 120_000, 3), rig.now_us)
    rig.step(0.3)
    assert len(rig.pictures) == 9


def test_packet_of_the_connection_before_is_not_taken_for_one_of_the_next(
    rig: Rig, family: Family, source: Source
) -> None:
    old = MotionEncoder(family.codebook, reference="acknowledged")
    rig.receiving.push(coded(old, source, rig.now_us - 120_000, 3), rig.now_us)
    rig.receiving.restart()
    rig.step(0.3)
    assert rig.pictures == []
    assert rig.receiving.motion.jitter.received == 0


def test_frames_that_come_again_are_rendered_and_recorded_once(rig: Rig, family: Family, source: Source) -> None:
    encoder = MotionEncoder(family.codebook, reference="acknowledged")
    start_us = rig.now_us
    for number, (first, frames) in enumerate([(0, 2), (0, 4), (0, 6), (2, 6)]):
        while rig.now_us < start_us + (2 * number + 1) * SPACING_US:
            rig.step(0.01)
        rig.receiving.push(coded(encoder, source, start_us + first * SPACING_US, frames), rig.now_us)
    rig.step(0.4)
    assert len(rig.pictures) == 8
    assert [len(item.vectors) for item in rig.played] == [2, 2, 2, 2]
    assert [round((item.time_us - rig.played[0].time_us) / 1e3) for item in rig.played] == [0, 80, 160, 240]


def test_a_renderer_slower_than_the_motion_makes_the_newest_picture_and_loses_no_packet(
    rig: Rig, family: Family, source: Source, monkeypatch: pytest.MonkeyPatch
) -> None:
    """12 s a picture: 100 packets come meanwhile, each of which the next may be predicted from."""
    encoder = MotionEncoder(family.codebook, reference="acknowledged")
    start_us, sent = rig.now_us, 0

    def arrive() -> None:
        nonlocal sent
        while start_us + (3 * sent + 2) * SPACING_US <= rig.now_us:
            data = coded(encoder, source, start_us + 3 * sent * SPACING_US, 3)
            rig.receiving.push(data, start_us + (3 * sent + 2) * SPACING_US)
            encoder.acknowledge(sent)
            sent += 1

    usual = FaceRenderer.render

    def slow(renderer: FaceRenderer, motion: Motion, time_us: int | None = None) -> np.ndarray:
        rig.now_us += 12_000_000
        return usual(renderer, motion, time_us)

    monkeypatch.setattr(FaceRenderer, "render", slow)
    while len(rig.pictures) < 4:
        arrive()
        rig.step()
        rig.now_us += 10_000
    # From the capture of a picture's frame to when it is ready: what the buffer waits and the picture itself takes.
    delays = [made.made_us - made.time_us for made in rig.pictures]
    assert all(12_000_000 < delay < 12_500_000 for delay in delays)
    assert rig.receiving.inbox_dropped == 0
    assert rig.receiving.motion.unreadable == 0
    assert rig.receiving.motion.jitter.received > 250
    assert rig.receiving.motion.decoded <= 64


@pytest.mark.parametrize(("render_ms", "fps", "heeds"), [(66, 12.5, True), (66, 12.5, False), (105, 8, True)])
def test_a_slow_renderer_says_what_it_can_show_and_shows_that_evenly(
    rig: Rig, family: Family, source: Source, monkeypatch: pytest.MonkeyPatch, render_ms: float, fps: float, heeds: bool
) -> None:
    """Whether the other side heeds it or, being older, sends on as before."""
    encoder = MotionEncoder(family.codebook, reference="acknowledged")
    usual = FaceRenderer.render

    def slow(renderer: FaceRenderer, motion: Motion, time_us: int | None = None) -> np.ndarray:
        rig.now_us += round(1000 * render_ms)
        return usual(renderer, motion, time_us)

    monkeypatch.setattr(FaceRenderer, "render", slow)
    next_us, sent = rig.now_us, 0
    began_us = rig.now_us
    while rig.now_us < began_us + 8_000_000:
        rate = rig.rates[-1] if heeds and rig.rates else 25.0
        frames, spacing_us = (3 if rate == 25 else 1), round(1e6 / rate)
        last_us = next_us + (frames - 1) * spacing_us
        if last_us <= rig.now_us:
            rig.receiving.push(coded(encoder, source, next_us, frames, spacing_us), last_us)
            encoder.acknowledge(sent)
            sent, next_us = sent + 1, last_us + spacing_us
        rig.step()
        rig.now_us += 2_000
    assert rig.rates[-1] == fps
    assert rig.receiving.rate.pace.bound == "processor"
    shown = [made for made in rig.pictures if made.made_us > began_us + 4_000_000]
    period_ms = 1000 / fps
    moved_ms = np.diff([made.time_us / 1000 for made in shown])
    shown_ms = np.diff([made.made_us / 1000 for made in shown])
    assert moved_ms.mean() == pytest.approx(period_ms, rel=0.03)
    assert moved_ms.std() < 3
    assert shown_ms.std() < 0.15 * period_ms
    # What would have come is counted, not what was asked for.
    assert rig.receiving.rate.wanted == pytest.approx(8 * 25, rel=0.1)


def test_the_rate_of_the_other_sides_camera_is_what_there_is_to_hold(rig: Rig) -> None:
    rig.receiving.expect(10)
    rig.step()
    assert rig.receiving.rate.pace.rates == (10, 8, 6, 5)
    assert rig.rates == []
    for number in range(20):
        rig.receiving.rate.pace.done(number * 100_000, 0.15, 0.15)
    rig.receiving.expect(25)
    rig.step()
    assert rig.rates == [25]  # the other side is not kept at what was asked of the one before
    rig.receiving.expect(25)
    rig.step()
    assert rig.rates == [25]


def test_a_personal_file_changes_the_pictures_of_its_speaker_and_of_nobody_else(
    rig: Rig,
    family: Family,
    picture: tuple[str, bytes],
    source: Source,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    shown: list[Picture] = []
    rig.receiving.events.rgb = shown.append
    encoder = MotionEncoder(family.codebook, reference="acknowledged")  # of key packets: nothing is acknowledged
    turned = replace(source.pose, rotation=(0.3, 0.0, 0.0))

    def turned_head() -> Picture:
        """The picture of it, for which a connection is made anew."""
        encoder.reset()
        rig.receiving.restart()
        rig.receiving.push(coded(encoder, turned, rig.now_us - 120_000, 3), rig.now_us)
        rig.step(0.3)
        return shown[-1]

    everybodys = turned_head()
    answers: Queue[tuple[str, int, str | None]] = Queue()
    rig.receiving.events.adapter = lambda *answer: answers.put(answer)
    base = load_file(weights_folder() / WEIGHTS)
    brighter = {**base, "generator.paint.bias": base["generator.paint.bias"] + np.float16(0.5)}
    files = json.loads((weights_folder() / "manifest.json").read_text())["files"]
    file = bytes(SpeakerAdapter.between(base, brighter, family="compact-256", base=base_hash(files)))
    rig.receiving.adapt("ab" * 32, file[:-1])
    rig.step()
    file_hash, size, why = answers.get(timeout=60)
    assert (file_hash, size) == ("ab" * 32, len(file) - 1)
    assert why is not None

    rig.receiving.adapt("cd" * 32, file)
    rig.step()
    while answers.empty():  # the other thread asks this one, once it has compiled the networks
        rig.step()
        time.sleep(0.02)
    assert answers.get() == ("cd" * 32, len(file), None)
    assert np.abs(turned_head().astype(int) - everybodys).max() > 3
    rig.receiving.forget()
    rig.receiving.prepare(*picture)
    rig.step()
    assert np.array_equal(turned_head(), everybodys)


def test_a_further_picture_is_held_once_and_only_beside_its_source_picture(
    rig: Rig, family: Family, picture: tuple[str, bytes], source: Source
) -> None:
    told: list[tuple[str, str | None]] = []
    rig.receiving.events.reference = lambda picture_hash, why: told.append((picture_hash, why))
    data = encode_picture(source.picture, 5000)[1]
    faceless = encode_picture(np.full((256, 256, 3), 90, np.uint8), 5000)[1]
    small = encode_picture(source.picture[:128, :128], 5000)[1]
    for base, name, content in (
        (picture[0], "aa", data),
        (picture[0], "aa", data),  # offered again on the next connection
        ("00" * 32, "bb", data),
        (picture[0], "cc", faceless),
        (picture[0], "dd", small),
    ):
        rig.receiving.refer(base, name, content)
    rig.step()
    # What cannot be decoded is told at once, what can once it is on the thread.
    assert [one for one in told if one[0] == "aa"] == [("aa", None), ("aa", None)]
    reasons = dict(told)
    assert reasons["bb"] == "its source picture is not held"
    assert "no face" in (reasons["cc"] or "")
    assert "128x128" in (reasons["dd"] or "")
    assert rig.receiving.speaker.prepared == {picture[0]: 2}
    encoder = MotionEncoder(family.codebook, reference="acknowledged")
    rig.receiving.push(coded(encoder, source, rig.now_us - 120_000, 3), rig.now_us)
    rig.step(0.3)
    assert len(rig.pictures) == 3


@pytest.mark.parametrize(
    ("attack", "why"),
    [(lambda: jpeg_of_many_scans(20_000), "no AVIF or WebP"), (lambda: avif_that_lies(256, 4000), "4000x4000")],
    ids=["jpeg of 20,000 scans", "avif that lies"],
)
def test_a_picture_that_would_take_a_minute_or_a_gigabyte_is_refused_at_once(
    rig: Rig, family: Family, source: Source, attack: Callable[[], bytes], why: str
) -> None:
    data = attack()
    began = time.monotonic()
    rig.receiving.prepare("ee" * 32, data)
    rig.step()
    assert time.monotonic() - began < 5
    assert rig.refused[0][0] == "ee" * 32
    assert why in rig.refused[0][1]
    encoder = MotionEncoder(family.codebook, reference="acknowledged")
    rig.receiving.push(coded(encoder, source, rig.now_us - 120_000, 3), rig.now_us)
    rig.step(0.3)
    assert len(rig.pictures) == 3


@pytest.fixture
def go_on(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> threading.Event:
    """No picture is decoded before it is set."""
    event = threading.Event()
    usual = PictureDecoder.decode

    def slow(decoder: PictureDecoder, data: bytes) -> np.ndarray:
        assert event.wait(60)
        return usual(decoder, data)

    monkeypatch.setattr(PictureDecoder, "decode", slow)
    rig.waits_for_pictures = False
    return event


def test_pictures_are_made_while_another_is_decoded(
    rig: Rig, family: Family, source: Source, picture: tuple[str, bytes], go_on: threading.Event
) -> None:
    rig.receiving.prepare("ee" * 32, picture[1])
    encoder = MotionEncoder(family.codebook, reference="acknowledged")
    rig.receiving.push(coded(encoder, source, rig.now_us - 120_000, 3), rig.now_us)
    rig.step(0.3)
    assert len(rig.pictures) == 3
    assert "ee" * 32 not in rig.receiving.speaker.prepared
    go_on.set()
    rig.waits_for_pictures = True
    rig.step()
    assert "ee" * 32 in rig.receiving.speaker.prepared


def test_pictures_that_come_faster_than_they_are_decoded_are_refused(
    rig: Rig, picture: tuple[str, bytes], go_on: threading.Event
) -> None:
    for number in range(MOST_UNDECODED + 5):
        rig.receiving.prepare(f"{number:064x}", picture[1])
    rig.step()
    assert [why for _, why in rig.refused] == [f"{MOST_UNDECODED} pictures wait to be decoded already"] * 5
    go_on.set()
    rig.waits_for_pictures = True
    rig.step()
    assert len(rig.receiving.speaker.prepared) == 3
    assert rig.receiving.speaker.shown_hash in rig.receiving.speaker.prepared


def test_a_picture_of_the_speaker_before_is_not_shown_as_that_of_the_next(
    rig: Rig, picture: tuple[str, bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    rig.receiving.prepare("ee" * 32, picture[1])
    rig.receiving.forget()
    rig.step()
    assert rig.receiving.speaker.shown_hash is None
    rig.receiving.prepare("dd" * 32, picture[1])
    rig.step()
    assert rig.receiving.speaker.shown_hash == "dd" * 32


def test_personal_files_that_come_fast_are_made_ready_one_at_a_time_and_the_last_of_them(
    rig: Rig, monkeypatch: pytest.MonkeyPatch
) -> None:
    answers: Queue[str] = Queue()
    rig.receiving.events.adapter = lambda file_hash, size, why: answers.put(file_hash)
    usual, at_once, most = SpeakerAdapter.parse, 0, 0

    def parse(data: bytes) -> SpeakerAdapter:
        nonlocal at_once, most
        at_once += 1
        most = max(most, at_once)
        time.sleep(0.2)
        at_once -= 1
        return usual(data)

    monkeypatch.setattr(SpeakerAdapter, "parse", parse)
    before = threading.active_count()
    for number in range(206):
        rig.receiving.adapt(f"{number:064x}", b"no personal file")
        rig.step()
        assert threading.active_count() <= before + 2
    until = time.monotonic() + 30
    made: list[str] = []
    while f"{205:064x}" not in made and time.monotonic() < until:
        rig.step()
        time.sleep(0.01)
        made += [answers.get() for _ in range(answers.qsize())]
    assert most == 1
    assert 2 <= len(made) < 206
    assert made[-1] == f"{205:064x}"


def seen(made: Rendered) -> Picture:
    bgr = cv2.imdecode(np.frombuffer(made.jpeg, np.uint8), cv2.IMREAD_COLOR)
    return np.asarray(cv2.cvtColor(np.asarray(bgr, np.uint8), cv2.COLOR_BGR2RGB), np.uint8)


def test_what_the_other_sides_camera_sees_is_shown_from_the_frame_that_is_named_and_no_longer(
    rig: Rig, source: Source, family: Family
) -> None:
    encoder, layer = MotionEncoder(family.codebook), LayerEncoder(CAMERA_LADDER[-1])
    room = np.full((360, 640, 3), (40, 90, 160), np.uint8)
    number = 0

    def send(*, whole: bool) -> int:
        nonlocal number
        now_us = rig.now_us
        packet = MotionPacket.parse(coded(encoder, source, now_us, 1))
        frame = layer.push(room, now_us) if whole else None
        pieces: list[LayerFragment] = []
        if frame is not None:
            number += 1
            pieces = LayerFrame(number, packet.time_ms, frame.key, frame.data, whole=True).fragments(900)
        rig.receiving.push(bytes(MotionMessage(packet, tuple(pieces))), now_us)
        rig.step(0.2)
        return now_us

    send(whole=False)
    send(whole=True)  # ahead of the word of it: nothing of it is mixed into the face
    alone = FaceRenderer(family, source).render(source.pose)
    assert np.abs(seen(rig.pictures[-1]).astype(int) - alone).mean() < 3
    rig.receiving.show_camera(True, rig.now_us)
    for _ in range(3):
        send(whole=True)
    shown = seen(rig.pictures[-1])
    assert shown.shape[1] > 1.7 * shown.shape[0]
    assert np.abs(shown.mean((0, 1)) - (40, 90, 160)).max() < 6
    assert rig.receiving.renderer.camera_pictures >= 2
    # Each picture says what it is: word of the camera comes before its first picture does.
    assert [made.camera for made in rig.pictures] == [
        seen(made).shape[0] != seen(made).shape[1] for made in rig.pictures
    ]
    rig.receiving.show_camera(False, rig.now_us)
    send(whole=False)
    assert np.abs(seen(rig.pictures[-1]).astype(int) - alone).mean() < 3


def test_what_a_video_layer_saw_over_one_source_picture_changes_nothing_on_the_next(
    rig: Rig, source: Source, family: Family
) -> None:
    drawing = StreamReader(sample_stream("drawing")).source_picture()
    assert drawing is not None
    encoder, layer = MotionEncoder(family.codebook), LayerEncoder(LADDER[1])
    card = source.picture.copy()
    card[170:240, 30:110] = (235, 205, 40)

    def send(number: int, shown: Source) -> None:
        packet = MotionPacket.parse(coded(encoder, shown, rig.now_us, 1))
        frame = layer.push(card, rig.now_us)
        coded_frame = LayerFrame(number, packet.time_ms, frame.key, frame.data).fragments(900) if frame else []
        rig.receiving.push(bytes(MotionMessage(packet, tuple(coded_frame))), rig.now_us)
        rig.step(0.4)

    for number in range(4):
        send(number, source)
    assert rig.receiving.renderer.layer_used >= 2
    assert np.abs(seen(rig.pictures[-1])[190:220, 50:90].mean((0, 1)) - (235, 205, 40)).max() < 60
    rig.receiving.prepare(drawing.picture_hash, drawing.data)
    rig.receiving.use(drawing.picture_hash, rig.now_us)
    rig.step()
    other = family.source(decode_picture(drawing.data))
    rig.receiving.push(coded(encoder, other, rig.now_us, 1), rig.now_us)
    rig.step(0.4)
    alone = FaceRenderer(family, other).render(other.pose)
    assert np.abs(seen(rig.pictures[-1]).astype(int) - alone).mean() < 3


@pytest.mark.parametrize("pause_s", [33, 45, 65])
@pytest.mark.parametrize("said", ["before", "after"])
def test_a_picture_that_is_named_around_a_long_pause_is_moved_from_the_first_frame_after_it(
    rig: Rig, source: Source, family: Family, pause_s: int, said: str
) -> None:
    drawing = StreamReader(sample_stream("drawing")).source_picture()
    assert drawing is not None
    encoder = MotionEncoder(family.codebook)
    rig.receiving.prepare(drawing.picture_hash, drawing.data)
    rig.receiving.push(coded(encoder, source, rig.now_us, 1), rig.now_us)
    rig.step(0.3)
    assert rig.receiving.speaker.shown_hash != drawing.picture_hash
    if said == "before":
        rig.receiving.use(drawing.picture_hash, rig.now_us)
        rig.step()
    rig.now_us += pause_s * 1_000_000
    if said == "after":
        rig.receiving.use(drawing.picture_hash, rig.now_us)
        rig.step()
    rig.receiving.push(coded(encoder, source, rig.now_us, 1), rig.now_us)
    rig.step(0.3)
    assert len(rig.pictures) == 2
    assert rig.receiving.speaker.shown_hash == drawing.picture_hash


def test_what_the_camera_sees_is_shown_at_once_whatever_the_clock_says_when_the_first_frame_comes(
    rig: Rig, source: Source, family: Family
) -> None:
    """Times of frames begin at whichever multiple of 65.5 s is nearest: here the switch and the frame lie on two sides
    of where that changes."""
    rig.now_us = TIMES_MS * 500 + 20_000
    rig.receiving.show_camera(True, rig.now_us - 40_000)
    rig.step()
    packet = MotionPacket.parse(coded(MotionEncoder(family.codebook), source, rig.now_us, 1))
    frame = LayerEncoder(CAMERA_LADDER[-1]).push(np.full((360, 640, 3), (40, 90, 160), np.uint8), rig.now_us)
    assert frame is not None
    pieces = LayerFrame(1, packet.time_ms, frame.key, frame.data, whole=True).fragments(900)
    rig.receiving.push(bytes(MotionMessage(packet, tuple(pieces))), rig.now_us)
    rig.step(0.3)
    assert [made.camera for made in rig.pictures] == [True]
