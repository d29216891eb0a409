"""The pages in WebKit, the engine of Safari: an exported one plays there, a call says what its browser lacks."""

from __future__ import annotations

import base64
import contextlib
import io
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import numpy as np
import pytest
from PIL import Image

from kilocall.api import StreamPlayer, export_page
from kilocall.model.family import Family, Picture
from kilocall.receiver.render import View
from kilocall.sample import sample_stream
from meeting import SECRET, Server
from web.hosting import Hosted, has_engine
from web.webkit import WebKit, has_webkit

pytestmark = [has_engine, has_webkit]

#: Compiling the engine and its networks takes seconds; a busy machine takes several times that.
WITHIN_S: Final = 180
#: Mean difference of two pictures, grey levels: the same 8-bit networks on two engines, and two decoders of AVIF.
NEAR: Final = 1.5
SHOWN: Final = "Number(document.documentElement.dataset.shown)"
#: What is on the canvas, which is drawn on by a worker.
PIXELS: Final = """(async () => {
  const bitmap = await createImageBitmap(document.getElementById("picture"));
  const drawn = Object.assign(document.createElement("canvas"), { width: bitmap.width, height: bitmap.height });
  drawn.getContext("2d").drawImage(bitmap, 0, 0);
  return drawn.toDataURL("image/png");
})()"""


@pytest.fixture
def webkit() -> Iterator[WebKit]:
    with contextlib.closing(WebKit()) as window:
        yield window


def comes_to_show(webkit: WebKit, wanted: Picture) -> None:
    """The browser draws a while after the page has been told."""
    deadline = time.monotonic() + 10
    while True:
        with Image.open(io.BytesIO(base64.b64decode(webkit.evaluate(PIXELS).partition(",")[2]))) as image:
            found = np.asarray(image.convert("RGB"), int)
        difference = float(np.abs(found - wanted).mean()) if found.shape == wanted.shape else 255.0
        if difference < NEAR:
            return
        assert time.monotonic() < deadline, f"{found.shape} is {difference:.2f} grey levels from what it should be"
        time.sleep(0.1)


def set_bar(webkit: WebKit, name: str, value: float, *events: str) -> None:
    told = "".join(f"bar.dispatchEvent(new Event('{event}'));" for event in events)
    webkit.evaluate(f"(() => {{ const bar = document.getElementById('{name}'); bar.value = {value}; {told} }})()")


def test_an_exported_page_shows_what_python_renders(
    webkit: WebKit, family: Family, player: StreamPlayer, tmp_path: Path
) -> None:
    export_page(sample_stream("astronaut"), tmp_path / "page", family=family)
    with contextlib.closing(Hosted(tmp_path / "page")) as hosted:
        webkit.open(hosted.address)
        webkit.until(f"{SHOWN} > 0", WITHIN_S)
        motions = list(player.motions())
        comes_to_show(webkit, player.renderer.render(motions[0].motion))
        set_bar(webkit, "seek", motions[133].time_us / 1e6, "input", "change")
        webkit.until("document.documentElement.dataset.frame === '134'", WITHIN_S)
        comes_to_show(webkit, player.renderer.render(motions[133].motion))
        before = webkit.evaluate(SHOWN)
        set_bar(webkit, "yaw", 20, "input")
        webkit.until(f"{SHOWN} > {before}", WITHIN_S)
        player.renderer.view = View(yaw=20)
        try:
            turned = player.renderer.render(motions[133].motion)
        finally:
            player.renderer.view = View()
        comes_to_show(webkit, turned)
        webkit.evaluate("document.getElementById('play').click()")
        webkit.until(f"{SHOWN} > {before + 3}", WITHIN_S)
        assert webkit.evaluate("document.getElementById('badge-title').innerText") == "Reconstructed from one picture."


def test_a_call_says_what_this_browser_lacks(webkit: WebKit, server: Server) -> None:
    webkit.open(f"{server.url}/tea#{SECRET.text}")
    if webkit.evaluate("typeof RTCPeerConnection !== 'undefined'"):
        pytest.skip("this WebKit has WebRTC: Debian's is built without")
    webkit.until("document.body.innerText.includes('This browser has no WebRTC.')", WITHIN_S)
