"""The page of a stream with a video layer in a real browser, beside what Python decodes."""

from __future__ import annotations

from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from kilocall import api
from kilocall.api import StreamPlayer, export_page
from kilocall.model.family import Family, Picture
from kilocall.proto.stream_file import StreamReader, StreamWriter
from kilocall.receiver.render import View
from kilocall.receiver.video_file import VideoFile
from kilocall.runtime.pictures import as_png
from kilocall.sample import sample_stream
from kilocall.sender.layer_encoder import CAMERA_LADDER, LayerEncoder
from layers import FRAME_US, decibels, pictures_with_card
from web.exported import NEAR, OTHER_NEAR, apart
from web.hosting import CHROMIUM, Hosted, has_browser, has_engine
from web.test_export_page import Shown

pytestmark = [has_engine, has_browser]

COUNT = 75
#: Frames at which the card is seen, forwards and back, near and far.
SOUGHT = (60, 30, 70, 12)


@pytest.fixture(scope="module")
def truth(player: StreamPlayer) -> list[Picture]:
    return pictures_with_card(player, COUNT)


@pytest.fixture(scope="module")
def stream(truth: list[Picture], family: Family, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("layer")
    with VideoFile(folder / "card.mp4", fps=Fraction(25), size=(256, 256)) as video:
        for number, picture in enumerate(truth):
            video.write(picture, number * FRAME_US)
    Image.fromarray(truth[0]).save(folder / "first.png")
    out = folder / "card.kcs"
    api.encode(folder / "card.mp4", out, source=folder / "first.png", crop="whole", layer=6, family=family)
    return out


@pytest.fixture(scope="module")
def hosted(stream: Path, family: Family) -> Iterator[Hosted]:
    export_page(stream, stream.with_name("page"), family=family)
    server = Hosted(stream.with_name("page"))
    yield server
    server.close()


def seen(stream: Path, family: Family, number: int, *, layer: bool) -> Picture:
    """A frame that was sought, as Python shows it."""
    player = StreamPlayer(stream, family=family, layer=layer)
    return next(iter(player.frames(number * FRAME_US))).rgb


def test_the_page_shows_the_layer_that_python_shows(
    stream: Path, hosted: Hosted, browser: Any, family: Family, truth: list[Picture], tmp_path: Path
) -> None:
    shown = Shown(browser, hosted.address)
    shown.until("document.documentElement.dataset.shown > 0")
    for number in SOUGHT:
        shown.seek(number * FRAME_US / 1e6, number + 1)
        layered, plain = (seen(stream, family, number, layer=layer) for layer in (True, False))
        found = shown.comes_to_show(layered, NEAR)
        assert apart(found, layered) < apart(found, plain) / 3
        assert decibels(found, truth[number]) > decibels(plain, truth[number]) + 3
    assert int(shown.data("layered")) == len(SOUGHT) + 1  # and the first frame

    # A turned head has none, in the page as in Python.
    before = int(shown.data("shown"))
    turn = """(yaw) => {
        const angle = document.getElementById("yaw");
        angle.value = yaw;
        angle.dispatchEvent(new Event("input"));
    }"""
    shown.page.evaluate(turn, 15)
    shown.until(f"document.documentElement.dataset.shown > {before}")
    turned = StreamPlayer(stream, family=family, layer=False)
    turned.renderer.view = View(yaw=15)
    shown.comes_to_show(next(iter(turned.frames(SOUGHT[-1] * FRAME_US))).rgb)
    shown.page.evaluate(turn, 0)
    shown.comes_to_show(layered)

    title = "document.getElementById('badge-title').textContent"
    shown.until(f"{title} === 'Reconstructed from one picture and a little video.'")

    # And no other picture.
    given = tmp_path / "drawing.png"
    given.write_bytes(as_png(StreamPlayer(sample_stream("drawing"), family=family).stream_source.picture))
    shown.page.set_input_files("#file", given)
    shown.until(f"{title} === 'Reconstructed from another picture.'")
    other = StreamPlayer(stream, source=given, family=family)
    shown.comes_to_show(next(iter(other.frames(SOUGHT[-1] * FRAME_US))).rgb, OTHER_NEAR)
    shown.page.click("#own")
    shown.comes_to_show(layered)

    # Played, too.
    used = int(shown.data("layered"))
    shown.page.click("#play")
    shown.until(f"document.documentElement.dataset.layered > {used + 1}")
    assert shown.problems == []
    shown.page.close()


@pytest.mark.parametrize("lacks", ["drawing in a worker", "WebGL"])
def test_a_browser_that_lacks_something_shows_the_layer(
    lacks: str, stream: Path, hosted: Hosted, browser: Any, family: Family
) -> None:
    before = "delete HTMLCanvasElement.prototype.transferControlToOffscreen" if lacks != "WebGL" else ""
    if lacks == "WebGL":
        browser = browser.browser_type.launch(executable_path=CHROMIUM, args=["--no-sandbox", "--disable-3d-apis"])
    shown = Shown(browser, hosted.address, before)
    shown.until("document.documentElement.dataset.shown > 0")
    shown.seek(60 * FRAME_US / 1e6, 61)
    shown.comes_to_show(seen(stream, family, 60, layer=True))
    assert not [problem for problem in shown.problems if "WebGL" not in problem]
    shown.page.close()
    if lacks == "WebGL":
        browser.close()


def test_a_browser_without_a_decoder_plays_the_motion_alone(
    stream: Path, hosted: Hosted, browser: Any, family: Family
) -> None:
    context = browser.new_context()
    # The page's worker is a module of the folder: what it lacks has to be taken from it there.
    context.route(
        "**/layer_decoder.js",
        lambda route: route.fulfill(
            body="delete globalThis.VideoDecoder;\n" + (hosted.folder / "layer_decoder.js").read_text(),
            content_type="text/javascript",
        ),
    )
    shown = Shown(context, hosted.address)
    shown.until("document.documentElement.dataset.shown > 0")
    shown.seek(60 * FRAME_US / 1e6, 61)
    shown.comes_to_show(seen(stream, family, 60, layer=False))
    assert shown.data("layered") == "0"
    assert not any(url.endswith("fusion.onnx") for url in shown.asked)
    assert shown.problems == []
    context.close()


#: Frames of the stream in which what the camera saw is shown.
CAMERA = range(30, 51)


def room(number: int) -> Picture:
    picture = np.full((360, 640, 3), (60, 110, 170), np.uint8)
    picture[30:130, 40 + 8 * number : 200 + 8 * number] = (235, 205, 40)
    return picture


@pytest.fixture(scope="module")
def recorded(stream: Path) -> Path:
    """The same clip, with what a camera saw from one frame to another, and the layer anew after it."""
    reader, out = StreamReader(stream), stream.with_name("camera.kcs")
    source = reader.source_picture()
    assert source is not None
    encoder = LayerEncoder(CAMERA_LADDER[-1])
    coded = [encoder.push(room(number), number * FRAME_US) for number in CAMERA]
    keys = [frame.time_us for frame in reader.layer_frames() if frame.key]
    assert keys == [0]
    with StreamWriter(out, reader.header) as writer:
        writer.add_picture(source)
        for timed in reader.packets():
            writer.add_packet(timed.time_us, timed.packet)
        for frame in reader.layer_frames():
            if frame.time_us < CAMERA[0] * FRAME_US:
                writer.add_layer(frame.time_us, frame.key, frame.data)
        for one in coded:
            if one is not None:
                writer.add_camera(one.time_us, one.key, one.data)
        writer.add_camera((CAMERA[-1] + 1) * FRAME_US, False, b"")
        # As a call's sender begins it anew; any layer's frames will do.
        for frame in reader.layer_frames():
            writer.add_layer((CAMERA[-1] + 1) * FRAME_US + frame.time_us, frame.key, frame.data)
    return out


@pytest.mark.parametrize("draws", ["in a worker", "on the page", "without WebGL"])
def test_the_page_shows_what_the_camera_saw_and_says_so(
    draws: str, recorded: Path, family: Family, browser: Any, tmp_path: Path
) -> None:
    export_page(recorded, tmp_path / "page", family=family)
    server = Hosted(tmp_path / "page")
    before = "delete HTMLCanvasElement.prototype.transferControlToOffscreen" if draws == "on the page" else ""
    if draws == "without WebGL":
        browser = browser.browser_type.launch(executable_path=CHROMIUM, args=["--no-sandbox", "--disable-3d-apis"])
    try:
        shown = Shown(browser, server.address, before)
        shown.until("document.documentElement.dataset.shown > 0")
        title = "document.getElementById('badge-title').textContent"
        for number in (CAMERA[-1], CAMERA[0] - 5, CAMERA[0], COUNT - 1, CAMERA[10], CAMERA[-1] + 1):
            shown.seek(number * FRAME_US / 1e6, number + 1)
            wanted = seen(recorded, family, number, layer=True)
            camera = number in CAMERA
            assert (wanted.shape[1] > 1.7 * wanted.shape[0]) == camera
            shown.comes_to_show(wanted, NEAR)
            assert shown.data("camera") == str(camera).lower()
            shown.until(f"({title} === 'Camera, not reconstructed.') === {str(camera).lower()}")
        # Another picture is moved, and who moves it is not shown.
        given = tmp_path / "drawing.png"
        given.write_bytes(as_png(StreamPlayer(sample_stream("drawing"), family=family).stream_source.picture))
        shown.page.set_input_files("#file", given)
        shown.until(f"{title} === 'Reconstructed from another picture.'")
        shown.seek(CAMERA[10] * FRAME_US / 1e6, CAMERA[10] + 1)
        other = StreamPlayer(recorded, source=given, family=family)
        shown.comes_to_show(next(iter(other.frames(CAMERA[10] * FRAME_US))).rgb, OTHER_NEAR)
        assert shown.data("camera") == "false"
        assert not [problem for problem in shown.problems if "WebGL" not in problem]
        shown.page.close()
    finally:
        server.close()
        if draws == "without WebGL":
            browser.close()


@pytest.fixture(scope="module")
def large(stream: Path, truth: list[Picture], family: Family) -> Path:
    """The same with a source picture of 512."""
    picture = Image.fromarray(truth[0]).resize((512, 512), Image.Resampling.BICUBIC)
    picture.save(stream.with_name("large.png"))
    out = stream.with_name("large.kcs")
    api.encode(
        *(stream.with_name("card.mp4"), out),
        source=stream.with_name("large.png"),
        crop="whole",
        layer=24,
        size=512,
        family=family,
    )
    return out


def test_a_large_picture_is_changed_as_in_python(large: Path, family: Family, browser: Any) -> None:
    export_page(large, large.with_name("large page"), family=family)
    server = Hosted(large.with_name("large page"))
    try:
        shown = Shown(browser, server.address)
        shown.until("document.documentElement.dataset.shown > 0")
        shown.seek(60 * FRAME_US / 1e6, 61)
        layered, plain = (seen(large, family, 60, layer=layer) for layer in (True, False))
        assert layered.shape == (512, 512, 3)
        found = shown.comes_to_show(layered, 2 * NEAR)
        assert apart(found, layered) < apart(np.asarray(plain), layered) / 3
        assert shown.problems == []
        shown.page.close()
    finally:
        server.close()
