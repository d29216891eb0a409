"""`export-page`: the folder it writes, and its page in a real browser beside what Python renders."""

from __future__ import annotations

import base64
import json
import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from kilocall.api import StreamPlayer, export_page, web_page
from kilocall.cli import run
from kilocall.model.family import Family
from kilocall.proto.control import SourcePicture
from kilocall.proto.errors import BadInput
from kilocall.proto.sound import SAMPLE_RATE
from kilocall.proto.stream_file import StreamWriter
from kilocall.receiver.render import View
from kilocall.runtime.pictures import as_png, encode_picture
from kilocall.sample import sample_stream
from speech import tone
from web.exported import OTHER_NEAR, ExportedPage, apart
from web.hosting import CHROMIUM, Hosted, has_browser, has_engine

SAMPLE = sample_stream("astronaut")
ALLOWED_BYTES = 20_000_000


@pytest.fixture(scope="module")
def folder(family: Family, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("page") / "astronaut"
    export_page(SAMPLE, out, family=family)
    return out


@pytest.fixture
def hosted(folder: Path) -> Iterator[Hosted]:
    server = Hosted(folder)
    yield server
    server.close()


class Shown(ExportedPage):
    """In Chromium."""

    def __init__(self, browser: Any, address: str, before: str = "") -> None:
        """`before` is JavaScript that runs ahead of the page."""
        super().__init__()
        self.page = browser.new_page()
        self.page.add_init_script(before)
        self.asked: list[str] = []
        self.page.on("pageerror", lambda error: self.problems.append(str(error)))
        self.page.on("console", self._note)
        self.page.on("request", lambda request: self.asked.append(request.url))
        self.page.goto(address)

    def _note(self, message: Any) -> None:
        if message.type in ("error", "warning"):
            self.problems.append(message.text)

    def evaluate(self, expression: str) -> Any:
        return self.page.evaluate(expression)

    def pause(self, seconds: float) -> None:
        self.page.wait_for_timeout(1000 * seconds)

    def drop(self, name: str, data: bytes) -> None:
        """As if a file were dropped on the picture."""
        self.page.evaluate(
            """([name, data]) => {
            const files = new DataTransfer();
            files.items.add(new File([Uint8Array.from(atob(data), (one) => one.charCodeAt(0))], name));
            const event = new DragEvent("drop", { dataTransfer: files, bubbles: true, cancelable: true });
            document.getElementById("picture").dispatchEvent(event);
        }""",
            [name, base64.b64encode(data).decode()],
        )


@has_engine
def test_the_folder_is_small_and_names_no_other_place(folder: Path) -> None:
    files = [path for path in folder.rglob("*") if path.is_file()]
    assert sum(path.stat().st_size for path in files) < ALLOWED_BYTES
    assert {"index.html", "faces.json", "stream.kcs"} <= {path.name for path in files}
    for path in files:
        if path.parent == folder and path.suffix in (".html", ".js", ".css", ".json"):
            foreign = [url for url in re.findall(r"https?://[\w.-]+", path.read_text()) if "www.w3.org" not in url]
            assert not foreign, f"{path.name} names {foreign}"
    page = (folder / "index.html").read_text()
    assert "Content-Security-Policy" in page
    assert not re.search(r"\sstyle=|\son\w+=|<script>|<style", page)


@has_engine
@has_browser
def test_the_page_shows_what_python_renders(folder: Path, hosted: Hosted, browser: Any, player: StreamPlayer) -> None:
    shown = Shown(browser, hosted.address)
    shown.until("document.documentElement.dataset.shown > 0")
    assert shown.data("threads") == "1"
    motions = list(player.motions())
    shown.comes_to_show(player.renderer.render(motions[0].motion))
    shown.seek(motions[133].time_us / 1e6, 134)
    straight = shown.comes_to_show(player.renderer.render(motions[133].motion))
    # The head turned in the page, and in Python.
    before = int(shown.data("shown"))
    shown.page.evaluate("""() => {
        const yaw = document.getElementById("yaw");
        yaw.value = 20;
        yaw.dispatchEvent(new Event("input"));
    }""")
    shown.until(f"document.documentElement.dataset.shown > {before}")
    player.renderer.view = View(yaw=20)
    try:
        turned = player.renderer.render(motions[133].motion)
    finally:
        player.renderer.view = View()
    shown.comes_to_show(turned)
    assert apart(turned, straight) > 4
    # Playing goes on, and all of it came from the folder.
    shown.page.click("#play")
    shown.until(f"document.documentElement.dataset.shown > {before + 3}")
    assert shown.page.inner_text("#badge-title") == "Reconstructed from one picture."
    assert shown.page.evaluate("document.getElementById('source-picture').naturalWidth") == 256
    root = hosted.address.removesuffix("index.html")
    assert all(url.startswith((root, f"blob:{root}")) for url in shown.asked)
    assert shown.problems == []
    shown.page.close()


@has_engine
@has_browser
def test_another_picture_takes_the_place_of_the_streams_own(
    hosted: Hosted, browser: Any, player: StreamPlayer, family: Family, tmp_path: Path
) -> None:
    given = tmp_path / "drawing.png"
    given.write_bytes(as_png(StreamPlayer(sample_stream("drawing"), family=family).stream_source.picture))
    film = StreamPlayer(SAMPLE, source=given, family=family)
    timed = list(film.motions())[133]
    wanted = film.renderer.render(timed.motion)
    own = player.renderer.render(timed.motion)
    assert apart(wanted, own) > 10

    shown = Shown(browser, hosted.address)
    shown.until("document.documentElement.dataset.shown > 0")
    shown.seek(timed.time_us / 1e6, 134)
    shown.comes_to_show(own)
    assert not any(url.endswith(("face.onnx", "eye.onnx", "mouth.onnx", "implicit.onnx")) for url in shown.asked)
    shown.page.set_input_files("#file", given)
    shown.until("document.getElementById('badge-title').textContent === 'Reconstructed from another picture.'")
    assert shown.page.inner_text("#badge-text") == "Source: drawing.png, from astronaut.kcs."
    # The points of two engines' 8-bit networks differ by some hundredths of a pixel.
    shown.comes_to_show(wanted, OTHER_NEAR)
    # One without a face, and one that is no picture: said so, and the picture before stays.
    for name, data, why in (
        ("wall.png", as_png(np.full((96, 96, 3), (90, 110, 120), np.uint8)), "wall.png: the picture shows no face"),
        ("letter.txt", b"Dear all,", "letter.txt: it is none of AVIF, WebP, JPEG and PNG"),
    ):
        shown.drop(name, data)
        shown.until(f"document.getElementById('source-error').textContent.startsWith('{why}')")
        assert shown.page.inner_text("#badge-title") == "Reconstructed from another picture."
    shown.comes_to_show(wanted, OTHER_NEAR)
    # And back.
    shown.page.click("#own")
    shown.until("document.getElementById('badge-title').textContent === 'Reconstructed from one picture.'")
    shown.comes_to_show(own)
    assert shown.page.is_disabled("#own")
    root = hosted.address.removesuffix("index.html")
    assert all(url.startswith((root, f"blob:{root}")) for url in shown.asked)
    assert shown.problems == []
    shown.page.close()


@has_engine
@has_browser
@pytest.mark.parametrize("lacks", ["drawing in a worker", "WebGL"])
def test_a_browser_that_lacks_something_shows_the_same(
    lacks: str, hosted: Hosted, browser: Any, player: StreamPlayer
) -> None:
    before = "delete HTMLCanvasElement.prototype.transferControlToOffscreen" if lacks != "WebGL" else ""
    if lacks == "WebGL":
        browser = browser.browser_type.launch(executable_path=CHROMIUM, args=["--no-sandbox", "--disable-3d-apis"])
    shown = Shown(browser, hosted.address, before)
    shown.until("document.documentElement.dataset.shown > 0")
    timed = list(player.motions())[133]
    shown.seek(timed.time_us / 1e6, 134)
    shown.comes_to_show(player.renderer.render(timed.motion))
    assert not [problem for problem in shown.problems if "WebGL" not in problem]
    shown.page.close()
    if lacks == "WebGL":
        browser.close()


@has_engine
@has_browser
def test_an_isolated_page_has_threads_and_an_embedded_one_the_picture_alone(hosted: Hosted, browser: Any) -> None:
    hosted.isolate()
    shown = Shown(browser, f"{hosted.address}?embed")
    shown.until("document.documentElement.dataset.shown > 0")
    assert int(shown.data("threads")) == min(4, shown.page.evaluate("navigator.hardwareConcurrency"))
    assert shown.page.is_visible("#picture")
    assert shown.page.is_visible("#badge-title")
    assert not shown.page.is_visible("#seek")
    assert not shown.page.is_visible("aside")
    assert shown.page.evaluate("document.getElementById('stage').ondrop") is None
    shown.page.click("#start")
    shown.until("document.documentElement.dataset.shown > 3")
    assert shown.problems == []
    shown.page.close()


@pytest.fixture
def spoken(player: StreamPlayer, tmp_path: Path) -> Path:
    """The sample with its picture at 512, one of its frames as a further picture, and a tone."""
    path = tmp_path / "spoken.kcs"
    large = cv2.resize(player.stream_source.picture, (512, 512), interpolation=cv2.INTER_CUBIC)
    further = player.renderer.render(list(player.motions())[133].motion)
    with StreamWriter(path, player.reader.header) as writer:
        writer.add_picture(SourcePicture(*encode_picture(np.asarray(large, np.uint8), 14 * 1024)))
        writer.add_reference(SourcePicture(*encode_picture(further, 14 * 1024)))
        for sound in tone(2):
            writer.add_sound(sound)
        for timed in player.reader.packets():
            writer.add_packet(timed.time_us, timed.packet)
    return path


@has_engine
@has_browser
def test_large_and_further_pictures_are_shown_and_speech_is_decoded(
    spoken: Path, family: Family, browser: Any, tmp_path: Path
) -> None:
    assert export_page(spoken, tmp_path / "page", family=family).pictures == 2
    film = StreamPlayer(spoken, family=family)
    motions = list(film.motions())
    hosted = Hosted(tmp_path / "page")
    try:
        shown = Shown(browser, hosted.address)
        shown.until("document.documentElement.dataset.shown > 0")
        shown.comes_to_show(film.renderer.render(motions[0].motion))
        shown.seek(motions[133].time_us / 1e6, 134)
        film.renderer.restart()
        wanted = film.renderer.render(motions[133].motion)
        assert film.renderer.render(motions[133].motion).shape == (512, 512, 3)
        shown.comes_to_show(wanted)
        assert shown.page.inner_text("#badge-title") == "Reconstructed from 2 pictures."
        assert shown.page.is_visible("#sound")
        heard = shown.page.evaluate("""async () => {
            const { SpeechDecoder } = await import("./speech.js");
            const { StreamReader } = await import("./stream_file.js");
            const data = new Uint8Array(await (await fetch("stream.kcs")).arrayBuffer());
            const heard = [];
            const decoder = new SpeechDecoder((samples, us) => heard.push([us, samples.length, Math.max(...samples)]));
            for (const record of new StreamReader(data).sounds()) decoder.push(record);
            await decoder.finish();
            return heard;
        }""")
        assert heard[0][0] == pytest.approx(-6500, abs=1)
        assert sum(length for _, length, _ in heard) == pytest.approx(2 * SAMPLE_RATE, abs=960)
        for when, _, peak in heard:
            if when < 470_000 or 560_000 < when < 1_950_000:
                assert peak == pytest.approx(0 if when < 470_000 else 0.244, abs=0.05), when
        shown.page.click("#play")
        shown.until("document.documentElement.dataset.shown > 4")
        assert shown.problems == []
        shown.page.close()
    finally:
        hosted.close()


@has_engine
@has_browser
def test_a_stream_that_breaks_off_is_played_and_said_so(
    family: Family, browser: Any, tmp_path: Path, player: StreamPlayer
) -> None:
    cut = tmp_path / "cut.kcs"
    cut.write_bytes(SAMPLE.read_bytes()[:-400])
    report = export_page(cut, tmp_path / "page", family=family)
    assert report.truncated is not None
    hosted = Hosted(tmp_path / "page")
    try:
        shown = Shown(browser, hosted.address)
        shown.until("document.documentElement.dataset.shown > 0")
        assert "breaks off" in shown.page.inner_text("#notice")
        assert shown.problems == []
        shown.page.close()
    finally:
        hosted.close()


@has_engine
def test_a_page_replaces_one_it_wrote_and_nothing_else(family: Family, folder: Path, tmp_path: Path) -> None:
    out = tmp_path / "page"
    shutil.copytree(folder, out)
    (out / "left.txt").write_text("of the page before")
    report = export_page(SAMPLE, out, family=family)
    written = [path for path in out.rglob("*") if path.is_file()]
    assert (report.files, report.bytes) == (len(written), sum(path.stat().st_size for path in written))
    assert not (out / "left.txt").exists()
    other = tmp_path / "letters"
    other.mkdir()
    (other / "dear.txt").write_text("...")
    with pytest.raises(BadInput, match="other files"):
        export_page(SAMPLE, other, family=family)
    assert {path.name for path in tmp_path.iterdir()} == {"page", "letters"}


@has_engine
def test_faces_are_those_that_python_finds(folder: Path, player: StreamPlayer) -> None:
    faces = json.loads((folder / "faces.json").read_text())
    source = player.stream_source
    assert faces["pictures"][0]["shape"] == pytest.approx(source.shape.reshape(-1).tolist(), abs=1e-6)
    assert faces["weights_hash"] == player.family.weights_hash


def test_without_the_engine_one_line_says_what_to_do(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(web_page, "has_engine", lambda: False)
    assert run(["export-page", "sample:astronaut", "-o", str(tmp_path / "page"), "--threads", "1"]) == 2
    assert capsys.readouterr().err == "kilocall: the browser's engine is missing: run `make web`\n"
    assert not list(tmp_path.iterdir())
