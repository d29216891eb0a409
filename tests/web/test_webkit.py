"""The pages in WebKit, the engine of Safari: an exported one plays there, a call says what its browser lacks."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import pytest

from kilocall.api import StreamPlayer, export_page
from kilocall.model.family import Family
from kilocall.receiver.render import View
from kilocall.sample import sample_stream
from meeting import SECRET, Server
from web.exported import ExportedPage
from web.hosting import Hosted, has_engine
from web.webkit import WebKit, has_webkit

pytestmark = [has_engine, has_webkit]

#: Compiling the engine and its networks takes seconds; a busy machine takes several times that.
WITHIN_S: Final = 180
SHOWN: Final = "Number(document.documentElement.dataset.shown)"


@pytest.fixture
def webkit() -> Iterator[WebKit]:
    with contextlib.closing(WebKit()) as window:
        yield window


class Shown(ExportedPage):
    within_s = WITHIN_S

    def __init__(self, webkit: WebKit, address: str) -> None:
        super().__init__()
        self._webkit = webkit
        webkit.open(address)

    def evaluate(self, expression: str) -> Any:
        return self._webkit.evaluate(expression)

    def pause(self, seconds: float) -> None:
        time.sleep(seconds)


def test_an_exported_page_shows_what_python_renders(
    webkit: WebKit, family: Family, player: StreamPlayer, tmp_path: Path
) -> None:
    export_page(sample_stream("astronaut"), tmp_path / "page", family=family)
    with contextlib.closing(Hosted(tmp_path / "page")) as hosted:
        shown = Shown(webkit, hosted.address)
        shown.until(f"{SHOWN} > 0")
        motions = list(player.motions())
        shown.comes_to_show(player.renderer.render(motions[0].motion))
        shown.seek(motions[133].time_us / 1e6, 134)
        shown.comes_to_show(player.renderer.render(motions[133].motion))
        before = shown.evaluate(SHOWN)
        shown.move("yaw", 20, "input")
        shown.until(f"{SHOWN} > {before}")
        player.renderer.view = View(yaw=20)
        try:
            turned = player.renderer.render(motions[133].motion)
        finally:
            player.renderer.view = View()
        shown.comes_to_show(turned)
        shown.evaluate("document.getElementById('play').click()")
        shown.until(f"{SHOWN} > {before + 3}")
        assert shown.evaluate("document.getElementById('badge-title').innerText") == "Reconstructed from one picture."


def test_a_call_says_what_this_browser_lacks(webkit: WebKit, server: Server) -> None:
    webkit.open(f"{server.url}/tea#{SECRET.text}")
    if webkit.evaluate("typeof RTCPeerConnection !== 'undefined'"):
        pytest.skip("this WebKit has WebRTC: Debian's is built without")
    webkit.until("document.body.innerText.includes('This browser has no WebRTC.')", WITHIN_S)
