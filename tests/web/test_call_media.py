"""A call's media in a real browser: what Python sends is shown, and what a camera sees is sent and shown again."""

from __future__ import annotations

import base64
import io
import json
import os
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final
from unittest.mock import ANY

import cv2
import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from kilocall.api import StreamPlayer
from kilocall.api.web_page import WEB
from kilocall.codec.motion_codec import MotionDecoder
from kilocall.model.family import Family, Picture
from kilocall.model.motion import Motion
from kilocall.proto.layer_frame import LayerFragment, LayerFrame
from kilocall.proto.motion_message import MotionMessage
from kilocall.proto.motion_packet import TIMES_MS, MotionPacket, wire_time_ms
from kilocall.receiver.layer_receiver import DecodedLayer, LayerReceiver
from kilocall.receiver.render import FaceRenderer
from kilocall.runtime.picture_header import read_header
from kilocall.runtime.pictures import decode_picture, encode_picture
from kilocall.sender.encoder import PacketEncoder
from kilocall.sender.layer_encoder import CAMERA_LADDER, LADDER, CodedLayer, LayerEncoder
from layers import FRAME_US, decibels, pictures_with_card
from web.hosting import CHROMIUM, Hosted, has_browser, has_engine, put_modules
from web.test_modules import needs_node, node

pytestmark = [has_engine, has_browser]

WEIGHTS: Final = WEB.parent / "model" / "weights" / "compact-256"
PAGE: Final = """<!doctype html><title>media</title><link rel="icon" href="data:,"><body>
<script type="module">import * as media from "./media_page.mjs"; window.media = media;</script>"""
#: A frame of the sample with its head turned and lids closing.
TURNED: Final = 133
#: Mean difference of two pictures, grey levels: the same 8-bit networks on two engines, and two decoders of AVIF.
NEAR: Final = 1.5
#: Crop units are half a picture of 256 wide.
PX: Final = 128
#: Of the sample with a card before it.
CARD_FRAMES: Final = 75
PLAN: Final = {
    "framesPerMessage": 1,
    "fps": 25,
    "level": 4,
    "redundantFrames": 0,
    "layerBps": 3000,
    "cameraBps": 24_000,
}


@pytest.fixture(scope="module")
def camera(player: StreamPlayer, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A face that rests for four seconds and is turned for four, in a film that is shown over and over."""
    path = tmp_path_factory.mktemp("camera") / "face.y4m"
    ground = _ground()
    rests, turned = _faces(player)
    with path.open("wb") as film:
        film.write(b"YUV4MPEG2 W640 H480 F5:1 Ip A1:1 C420\n")
        for face in [rests] * 20 + [turned] * 20:
            ground[90:390, 170:470] = cv2.resize(face, (300, 300), interpolation=cv2.INTER_LINEAR)
            film.write(b"FRAME\n" + cv2.cvtColor(ground, cv2.COLOR_RGB2YUV_I420).tobytes())
    return path


def _ground() -> Picture:
    """What is behind the face."""
    y, x = np.mgrid[:480, :640]
    return np.stack((x // 4 + 40, y // 4 + 60, (x + y) // 8 + 50), -1).astype(np.uint8)


def _faces(player: StreamPlayer) -> tuple[Picture, Picture]:
    """At rest, and turned."""
    turned = FaceRenderer(player.family, player.stream_source).render(list(player.motions())[TURNED].motion)
    return player.stream_source.picture, turned


@pytest.fixture(scope="module")
def browser(camera: Path) -> Iterator[Any]:
    playwright = pytest.importorskip("playwright.sync_api")
    film = ["--use-fake-ui-for-media-stream", "--use-fake-device-for-media-stream"]
    with playwright.sync_playwright() as engine:
        arguments = ["--no-sandbox", *film, f"--use-file-for-fake-video-capture={camera}"]
        browser = engine.chromium.launch(executable_path=CHROMIUM, args=arguments)
        yield browser
        browser.close()


@pytest.fixture(scope="module")
def hosted(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Hosted]:
    folder = tmp_path_factory.mktemp("media")
    put_modules(folder, PAGE)
    (folder / "networks").symlink_to(WEIGHTS)
    server = Hosted(folder)
    server.isolate()
    yield server
    server.close()


class MediaPage:
    """The test's page, with everything that goes wrong on it."""

    def __init__(self, browser: Any, address: str) -> None:
        self.page = browser.new_page()
        self.page.set_default_timeout(60_000)
        self.problems: list[str] = []
        self.page.on("pageerror", lambda error: self.problems.append(str(error)))
        self.page.on("console", lambda said: self.problems.append(said.text) if said.type == "error" else None)
        self.page.goto(address)
        self.until("window.media !== undefined")

    def until(self, condition: str, seconds: float = 60) -> None:
        deadline = time.monotonic() + seconds
        while not self.page.evaluate(condition):
            assert time.monotonic() < deadline, f"{condition}; {self.problems}"
            self.page.wait_for_timeout(50)

    def counted(self, condition: str) -> dict[str, Any]:
        """The receiving side's numbers once they are such, however slow this machine is."""
        self.until(f"receiving.pipeline.numbers().then(({{ layer, received }}) => {condition})")
        numbers: dict[str, Any] = self.page.evaluate("receiving.pipeline.numbers()")
        return numbers

    def told(self, side: str, what: str) -> list[Any]:
        found: list[Any] = self.page.evaluate(f"{side}.all({what!r})")
        return found

    def prepare(self, name: str, data: bytes) -> None:
        self.page.evaluate("([name, data]) => receiving.pipeline.prepare(name, media.bytes(data))", [name, _text(data)])

    def shown(self) -> Picture:
        return _picture(self.page.evaluate("receiving.shown()"))

    def close(self) -> None:
        self.page.close()
        assert not self.problems


@pytest.fixture
def page(browser: Any, hosted: Hosted) -> Iterator[MediaPage]:
    page = MediaPage(browser, hosted.address)
    page.page.evaluate("async () => { window.receiving = await media.Receiving.open(1); }")
    yield page
    page.close()


def _text(data: bytes) -> str:
    return base64.b64encode(data).decode()


def _picture(png: str) -> Picture:
    return np.asarray(Image.open(io.BytesIO(base64.b64decode(png))).convert("RGB"), np.uint8)


def _packets(player: StreamPlayer) -> list[dict[str, Any]]:
    timed = list(player.reader.packets())
    return [{"timeUs": one.time_us + 80_000, "data": _text(bytes(one.packet))} for one in timed]


def test_what_python_sends_is_shown_at_its_time(page: MediaPage, player: StreamPlayer) -> None:
    source = player.reader.source_picture()
    assert source is not None
    page.prepare(source.picture_hash, source.data)
    page.until("receiving.all('ready').length")
    packets = _packets(player)[:20]
    page.page.evaluate("packets => receiving.play(packets)", packets)
    page.page.wait_for_timeout(500)
    made = page.page.evaluate("receiving.pictures")
    assert len(made) >= 2  # however slow this machine is
    times = [one["timeUs"] for one in made]
    assert times == sorted(times)
    assert all(60_000 <= one["playoutUs"] <= 250_000 for one in made)
    numbers = page.page.evaluate("receiving.pipeline.numbers()")
    assert numbers["received"] == 20
    assert numbers["undecodable"] == numbers["malformed"] == 0
    said = page.page.evaluate("receiving.pipeline.report(1234)")
    assert (said["highest"], said["receivedBytes"]) == (19, 1234)
    page.page.wait_for_timeout(300)
    motions = [timed.motion for timed in player.motions()]
    frame = round(times[-1] / 40_000)
    wanted = FaceRenderer(player.family, player.stream_source).render(motions[frame])
    assert np.abs(page.shown().astype(int) - wanted).mean() < NEAR
    assert not page.told("receiving", "problem")


def _coded(player: StreamPlayer) -> list[CodedLayer]:
    """A layer of the first seconds of the sample with a card before it, which the layer alone shows."""
    encoder = LayerEncoder(LADDER[1])
    pictures = pictures_with_card(player, CARD_FRAMES)
    coded = [encoder.push(picture, FRAME_US * number) for number, picture in enumerate(pictures)]
    return [frame for frame in coded if frame is not None]


def _layered(player: StreamPlayer, missing: int | None = None) -> list[dict[str, Any]]:
    """Motion and layer in the same messages, without the layer frame of a number."""
    coming = [
        (one.time_us, LayerFrame(number, one.time_us // 1000, one.key, one.data).fragments(200))
        for number, one in enumerate(_coded(player))
        if number != missing
    ]
    waiting: list[LayerFragment] = []
    packets = []
    for timed in player.reader.packets():
        last_us = timed.time_us + FRAME_US * (timed.packet.frame_count - 1)
        if last_us >= FRAME_US * CARD_FRAMES:
            break
        while coming and coming[0][0] <= last_us:
            waiting += coming.pop(0)[1]
        # What does not fit goes with the next one.
        data = bytes(MotionMessage(timed.packet, tuple(waiting[:4])))
        del waiting[:4]
        packets.append({"timeUs": timed.time_us + 80_000, "data": _text(data)})
    assert not waiting
    return packets


def test_a_layer_that_python_sends_is_shown(page: MediaPage, player: StreamPlayer) -> None:
    source = player.reader.source_picture()
    assert source is not None
    page.prepare(source.picture_hash, source.data)
    page.until("receiving.all('ready').length")
    assert page.page.evaluate("receiving.pipeline.takesLayer")
    packets, wanted = _layered(player), len(_coded(player))
    pictures, motions = pictures_with_card(player, CARD_FRAMES), list(player.motions())
    gains: list[float] = []
    # A machine that is busy with something else makes few pictures, and may decode the layer too late for the last one.
    while not gains or (gains[-1] <= 3 and len(gains) < 5):
        page.page.evaluate("packets => receiving.pipeline.restart() ?? receiving.play(packets)", packets)
        numbers = page.counted(f"layer.decoded === {wanted} && received === {len(packets)}")
        assert numbers["malformed"] == 0
        # All were decoded; how many of them were compared, this machine's speed decides.
        assert numbers["layer"] == {"decoded": wanted, "missing": 0, "refused": 0, "used": ANY, "newest": wanted - 1}
        count = -1
        while count != (count := page.page.evaluate("receiving.pictures.length")):
            page.page.wait_for_timeout(1000)
        frame = round(page.page.evaluate("receiving.pictures.at(-1).timeUs") / FRAME_US)
        plain = FaceRenderer(player.family, player.stream_source).render(motions[frame].motion)
        gains.append(decibels(page.shown(), pictures[frame]) - decibels(plain, pictures[frame]))
    assert gains[-1] > 3, gains
    assert numbers["layer"]["used"] >= 1
    assert not page.told("receiving", "problem")
    assert not page.told("receiving", "layerLost")
    # A new connection begins without one.
    page.page.evaluate("receiving.pipeline.restart()")
    numbers = page.page.evaluate("receiving.pipeline.numbers()")
    assert (numbers["layer"]["decoded"], numbers["layer"]["newest"]) == (0, None)


#: A wall with a yellow card and, in the other corner, a blue one: neither turned nor mirrored they are where they are.
ROOM: Final = np.full((360, 640, 3), (60, 110, 170), np.uint8)
ROOM[30:130, 40:200] = (235, 205, 40)
ROOM[250:330, 480:600] = (20, 30, 120)


def test_what_a_camera_sees_is_shown_as_it_is_and_the_speaker_again_after(
    page: MediaPage, player: StreamPlayer
) -> None:
    encoder, packets = LayerEncoder(CAMERA_LADDER[-1]), []
    for number, timed in enumerate(player.reader.packets()):
        coded = encoder.push(ROOM, timed.time_us) if number < 20 else None
        pieces: list[LayerFragment] = []
        if coded is not None:
            pieces = LayerFrame(number, wire_time_ms(timed.time_us), coded.key, coded.data, whole=True).fragments(900)
        packets.append((timed.time_us + 80_000, bytes(MotionMessage(timed.packet, tuple(pieces)))))
    messages = [{"timeUs": time_us, "data": _text(data)} for time_us, data in packets[:30]]
    page.page.evaluate("receiving.pipeline.setRecording(true)")
    page.page.evaluate("receiving.pipeline.showCamera(true, 0)")
    page.page.evaluate("packets => receiving.play(packets)", messages[:20])
    page.until("receiving.pictures.length > 3")  # without a source picture
    shown = page.shown()
    assert shown.shape[1] / shown.shape[0] == pytest.approx(16 / 9, rel=0.03)
    assert page.page.evaluate("receiving.pictures.every(({ camera }) => camera)")
    wanted = cv2.resize(ROOM, shown.shape[1::-1], interpolation=cv2.INTER_AREA)
    assert decibels(shown, np.asarray(wanted, np.uint8)) > 28
    source = player.reader.source_picture()
    assert source is not None
    page.prepare(source.picture_hash, source.data)
    page.until("receiving.all('ready').length")
    page.page.evaluate("receiving.pipeline.showCamera(false, 0)")
    page.page.evaluate("packets => receiving.play(packets)", messages[20:])
    page.until("document.getElementById('shown').height == 256")
    page.page.wait_for_timeout(300)
    assert page.shown().shape == (256, 256, 3)
    assert page.page.evaluate("receiving.pictures.at(-1).camera") is False
    # A recording is told of the pictures, once there are any, and from which frame on the speaker is shown again.
    told = "receiving.all('layer').map(([{ timeUs, key, whole, data }]) => [timeUs, key, whole, data.length])"
    page.until(f"{told}.at(-1)[3] === 0")
    recorded = page.page.evaluate(told)
    assert all(whole for _, _, whole, _ in recorded)
    assert [key for _, key, _, _ in recorded] == [True, *[False] * (len(recorded) - 1)]
    assert [size for *_, size in recorded].count(0) == 1
    times = [time_us for time_us, *_ in recorded]
    assert times == sorted(times)
    last_us = max(one["timeUs"] for one in page.page.evaluate("receiving.pictures") if one["camera"])
    assert last_us < times[-1]
    assert not page.told("receiving", "problem")


def test_for_a_layer_that_misses_a_frame_a_key_frame_is_asked_for(page: MediaPage, player: StreamPlayer) -> None:
    packets = _layered(player, missing=4)
    page.page.evaluate("packets => receiving.play(packets)", packets)
    numbers = page.counted(f"layer.decoded === 4 && received === {len(packets)}")
    assert numbers["layer"]["missing"] == 1
    # At most once a second, and the first time a second after the loss; the newest is named. A machine that was busy
    # may have read everything within that second: only what comes after it brings the question.
    for _ in range(20):
        if page.told("receiving", "layerLost"):
            break
        page.page.evaluate("packets => receiving.play(packets)", packets[-1:])
        page.page.wait_for_timeout(250)
    lost = page.told("receiving", "layerLost")
    assert 1 <= len(lost) <= 3
    assert lost[0] == [3]


def test_a_view_turns_the_head_that_stands_still(page: MediaPage, player: StreamPlayer) -> None:
    source = player.reader.source_picture()
    assert source is not None
    page.prepare(source.picture_hash, source.data)
    page.until("receiving.all('ready').length")
    page.page.evaluate("packets => receiving.play(packets)", _packets(player)[:3])
    page.until("receiving.pictures.length >= 1")
    page.page.wait_for_timeout(1000)
    before = page.shown().astype(int)
    page.page.evaluate("receiving.pipeline.setView({ yaw: 25, pitch: 0, roll: 0 })")
    deadline = time.monotonic() + 30
    while np.abs(page.shown() - before).mean() < 3:
        assert time.monotonic() < deadline, "the head is not turned"
        page.page.wait_for_timeout(100)


def test_pictures_that_cannot_be_used_are_refused_with_the_reason(page: MediaPage, player: StreamPlayer) -> None:
    source = player.reader.source_picture()
    assert source is not None
    plain = np.full((256, 256, 3), 110, np.uint8)
    small = np.zeros((64, 64, 3), np.uint8)
    for name, data in {
        "cut": source.data[:40],
        "damaged": source.data[:-2000] + bytes(2000),
        "no picture": b"GIF89a" + bytes(100),
        "small": encode_picture(small)[1],
        "empty": encode_picture(plain)[1],
    }.items():
        page.prepare(name, data)
    page.until("receiving.all('refused').length + receiving.all('ready').length >= 5")
    why = dict(page.told("receiving", "refused"))
    assert "AVIF box meta" in why["cut"]
    assert "no AVIF or WebP" in why["no picture"]
    assert "64x64" in why["small"]
    assert "no face" in why["empty"]
    page.page.evaluate("receiving.pipeline.adapt('a'.repeat(64), new Uint8Array(10))")
    page.until("receiving.all('adapter').length")
    [[_, size, reason]] = page.told("receiving", "adapter")
    assert size == 10
    assert "everybody's networks" in reason
    # All the same the next one is taken, and further ones of the speaker with it.
    page.prepare(source.picture_hash, source.data)
    page.until("receiving.all('ready').length")
    page.page.evaluate(
        "([base, data]) => { receiving.pipeline.refer(base, 'b', media.bytes(data));"
        " receiving.pipeline.refer('other', 'c', media.bytes(data)); }",
        [source.picture_hash, _text(source.data)],
    )
    page.until("receiving.all('reference').length == 2")
    assert page.told("receiving", "reference") == [["b", None], ["c", "its source picture is not held"]]


def test_what_the_camera_sees_is_shown_where_the_sender_saw_it(page: MediaPage, family: Family) -> None:
    page.page.evaluate(
        """async (plan) => {
            window.sending = await media.Sending.open({ plan });
            sending.pipeline.setOverlayWanted(true);
            await sending.film();
        }""",
        PLAN,
    )
    page.until("sending.all('source').length")
    assert 3000 < page.page.evaluate("sending.all('source')[0][0].packed.data.length") <= 6144
    page.page.evaluate("media.call(sending, receiving)")
    pairs = []
    for _ in range(12):
        page.page.wait_for_timeout(2700)  # so that the film is stopped elsewhere each time
        pair = _stopped(page)
        if pair is not None:
            pairs.append(pair)
        # Both poses are among them: the nose lies elsewhere.
        noses = [points[:, 0].mean() for _, points in pairs]
        if len(pairs) >= 4 and max(noses) - min(noses) > 0.02:
            break
    assert not page.told("sending", "problem")
    assert not page.told("receiving", "problem")
    apart = [float(np.linalg.norm(family.track(shown).points - points, axis=1).mean()) * PX for shown, points in pairs]
    assert len(apart) >= 3
    assert np.median(apart) < 1.5, apart
    assert max(noses) - min(noses) > 0.02


def test_a_camera_that_is_handed_over_frame_by_frame_is_sent_until_it_is_off(page: MediaPage) -> None:
    # Browsers without MediaStreamTrackProcessor.
    page.page.evaluate(
        """async (plan) => {
            delete globalThis.MediaStreamTrackProcessor;
            window.sending = await media.Sending.open({ plan, align: false });
            window.why = await sending.pipeline.takeSource().then(() => "taken", (error) => error.message);
            await sending.film();
        }""",
        PLAN,
    )
    assert "no face in the last second" in page.page.evaluate("why")
    page.until("sending.all('source').length")
    assert not page.page.evaluate("sending.packets.length")  # nobody has begun
    page.page.evaluate("sending.pipeline.begin()")
    page.until("sending.packets.length >= 3")
    first = MotionPacket.parse(bytes(page.page.evaluate("[...sending.packets[0].data]")))
    assert (first.sequence, first.is_key) == (0, True)
    page.page.evaluate("sending.pipeline.setCameraOff(true)")
    page.until("sending.all('face').at(-1)[0] === false")
    count = page.page.evaluate("sending.packets.length")
    page.page.wait_for_timeout(1500)
    assert page.page.evaluate("sending.packets.length") == count
    assert not page.told("sending", "problem")


def test_the_layer_and_what_the_camera_sees_are_sent_as_they_are(
    page: MediaPage, family: Family, player: StreamPlayer
) -> None:
    page.page.evaluate(
        "async (plan) => { window.sending = await media.Sending.open({ plan }); await sending.film(); }", PLAN
    )
    page.until("sending.all('source').length")
    page.page.evaluate("media.call(sending, receiving)")
    page.until("sending.packets.length >= 3")
    assert not _layer(page)  # nobody has asked for it
    page.page.evaluate("sending.pipeline.askLayer({ wantedBps: 24000, keyNeeded: false })")
    page.until("sending.pipeline.numbers().then(({ layer }) => layer.frames >= 3)")
    crops = _layer(page)
    assert crops[0].key
    assert [frame.whole for frame in crops] == [False] * len(crops)
    # The crop of the speaker, small: his face is where it is in the source picture.
    small = crops[-1].picture
    assert small.shape == (96, 96, 3)
    track = family.track(np.asarray(cv2.resize(small, (256, 256), interpolation=cv2.INTER_CUBIC), np.uint8))
    assert track.certainty > 0.9

    # A key frame comes where one is asked for.
    page.page.evaluate("sending.pipeline.askLayer({ wantedBps: 24000, keyNeeded: true })")
    count = len(crops)
    page.until(f"sending.pipeline.numbers().then(({{ layer }}) => layer.frames >= {count + 2})")
    assert any(frame.key for frame in _layer(page)[count:])

    # The camera's whole picture: the film's, and not the crop.
    page.page.evaluate("sending.pipeline.showCamera(true)")
    page.page.wait_for_timeout(1000)
    assert not page.told("sending", "camera")  # the other side has not said that it can show it
    page.page.evaluate("sending.pipeline.takeCamera()")
    page.until("sending.all('camera').length")
    assert page.told("sending", "camera")[0][0] == "asked"
    page.until("sending.pipeline.numbers().then(({ layer }) => layer.setting.side === 256)")
    count = page.page.evaluate("sending.pipeline.numbers().then(({ layer }) => layer.frames)")
    page.until(f"sending.pipeline.numbers().then(({{ layer }}) => layer.frames >= {count + 2})")
    whole = [frame for frame in _layer(page) if frame.whole]
    assert whole[0].key
    shown = whole[-1].picture
    assert shown.shape == (220, 294, 3)
    pictures = [cv2.resize(face, (300, 300), interpolation=cv2.INTER_LINEAR) for face in _faces(player)]
    apart = []
    for face in pictures:
        film = _ground()
        film[90:390, 170:470] = face
        apart.append(decibels(shown, np.asarray(cv2.resize(film, (294, 220), interpolation=cv2.INTER_AREA), np.uint8)))
    assert max(apart) > 30

    page.page.evaluate("sending.pipeline.showCamera(false)")
    page.until("sending.all('camera').at(-1)[0] === null")
    count = len(_layer(page))
    page.until("sending.pipeline.numbers().then(({ layer }) => layer.setting.side === 96)")
    page.until(f"sending.pipeline.numbers().then(({{ layer }}) => layer.frames >= {count + 2})")
    assert not _layer(page)[-1].whole
    assert not page.told("sending", "problem")


def _layer(page: MediaPage) -> list[DecodedLayer]:
    """What a receiver makes of all that was sent."""
    receiver = LayerReceiver()
    found: list[DecodedLayer] = []
    for text in page.page.evaluate("sending.packets.map(({ data }) => btoa(String.fromCharCode(...data)))"):
        message = MotionMessage.parse(base64.b64decode(text))
        for fragment in message.fragments:
            found.extend(receiver.push(fragment, message.packet.time_ms * 1000))
    assert not receiver.refused
    return found


def _stopped(page: MediaPage) -> tuple[Picture, NDArray[np.float64]] | None:
    """The picture that stays when the camera is switched off, with the landmarks that the sender saw at its time; None
    where the face was on the move then."""
    page.page.evaluate("sending.pipeline.setCameraOff(true)")
    count = -1
    while count != (count := page.page.evaluate("receiving.pictures.length")):
        page.page.wait_for_timeout(1200)
    shown = page.shown()
    last = page.page.evaluate("receiving.pictures.at(-1)?.timeUs")
    heard = "([, one]) => [one.timeUs, one.points && [...one.points]]"
    overlays = page.page.evaluate(f"sending.all('overlay').map({heard})")
    page.page.evaluate("sending.pipeline.setCameraOff(false)")
    seen = [(time_us // 1000 % TIMES_MS, np.array(points).reshape(-1, 2)) for time_us, points in overlays if points]
    if last is None or len(seen) < 4:
        return None
    number = min(range(len(seen)), key=lambda n: abs(seen[n][0] - last // 1000 % TIMES_MS))
    points = seen[number][1]
    before = [float(np.abs(other - points).mean()) * PX for _, other in seen[max(0, number - 3) : number]]
    return (shown, points) if before and max(before) < 0.5 else None


@needs_node
@pytest.mark.parametrize(("side", "most"), [(256, 6144), (512, 14 * 1024)])
def test_a_browser_that_writes_no_webp_has_its_encoder_for_calls_write_one(
    browser: Any, hosted: Hosted, player: StreamPlayer, side: int, most: int
) -> None:
    face = np.asarray(cv2.resize(player.stream_source.picture, (side, side), interpolation=cv2.INTER_CUBIC), np.uint8)
    rgba = np.dstack([face, np.full((side, side), 255, np.uint8)])
    page = MediaPage(browser, hosted.address)
    # As Safari does where it is asked for what it cannot write.
    page.page.evaluate(
        """() => {
          const write = OffscreenCanvas.prototype.convertToBlob;
          OffscreenCanvas.prototype.convertToBlob = function () { return write.call(this, { type: "image/png" }); };
        }"""
    )
    text = page.page.evaluate(
        """async ([pixels, side]) => {
          const { packSource } = await import(new URL("source_picture.js", location.href).href);
          const { packed } = await packSource({ width: side, height: side, data: media.bytes(pixels) });
          return [packed.format, btoa(String.fromCharCode(...packed.data))];
        }""",
        [_text(rgba.tobytes()), side],
    )
    page.close()
    data = base64.b64decode(text[1])
    assert most // 2 < len(data) <= most
    assert read_header(data) == (text[0], side, side)
    made = decode_picture(data).astype(np.float32)
    error = np.square(made - face).mean()
    assert 10 * np.log10(255**2 / error) > 28


def test_the_same_frames_cost_as_much_as_python_makes_them_cost(player: StreamPlayer, tmp_path: Path) -> None:
    family, source = player.family, player.stream_source
    renderer = FaceRenderer(family, source)
    crops = [renderer.render(timed.motion) for timed in player.motions()][TURNED - 30 : TURNED + 6]
    times = [40_000 * number for number in range(len(crops))]
    (tmp_path / "crops").write_bytes(source.picture.tobytes() + b"".join(crop.tobytes() for crop in crops))
    job = {"crops": os.fspath(tmp_path / "crops"), "times": times, "align": True}
    (tmp_path / "job.json").write_text(json.dumps(job))
    found = json.loads(node(Path(__file__).with_name("encode_frames.mjs"), tmp_path / "job.json"))
    theirs = [MotionPacket.parse(bytes.fromhex(packet)) for packet in found["packets"]]
    encoder = PacketEncoder(family, family.source(source.picture))
    mine = [encoder.push(crop, time_us) for crop, time_us in zip(crops, times, strict=True)]
    packets = [packet for packet in (*mine, encoder.flush()) if packet is not None]
    assert len(theirs) == len(packets)
    bits, wanted = (sum(8 * len(packet.payload) for packet in of) for of in (theirs, packets))
    assert bits == pytest.approx(wanted, rel=0.05)
    # What is decoded shows the face in the same place, half a pixel of 256: where two engines' points lie on both sides
    # of a quantiser's edge, they are a step apart.
    decoders = MotionDecoder(family.codebook), MotionDecoder(family.codebook)
    for their, own in zip(theirs, packets, strict=True):
        for one, other in zip(decoders[0].decode(their), decoders[1].decode(own), strict=True):
            points = [family.keypoints(source, Motion.from_vector(vector)) for vector in (one, other)]
            assert float(np.abs(points[0] - points[1]).mean()) * PX < 0.5
