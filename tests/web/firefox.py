"""Firefox, driven over WebDriver BiDi, which it speaks itself: no program stands between it and the test."""

from __future__ import annotations

import base64
import contextlib
import itertools
import json
import re
import shutil
import subprocess
import threading
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

import cv2
import pytest
from websockets.sync.client import connect

from kilocall.model.family import Picture

__all__ = ["FIREFOX", "Firefox", "has_firefox"]

FIREFOX: Final = shutil.which("firefox") or shutil.which("firefox-esr")
has_firefox = pytest.mark.skipif(
    FIREFOX is None, reason="no Firefox is installed to look at the page with: install firefox or firefox-esr"
)

STARTS_WITHIN_S: Final = 60
ANSWERS_WITHIN_S: Final = 120
PREFERENCES: Final = {
    # A microphone that beeps; what the camera sees is `film_of`'s.
    "media.navigator.streams.fake": True,
    "media.navigator.permission.disabled": True,
    "media.autoplay.default": 0,
    # Both parties are on this machine, which may have no other network.
    "media.peerconnection.ice.loopback": True,
    "media.peerconnection.ice.obfuscate_host_addresses": False,
    # It asks nobody for anything but what the test opens.
    "network.captive-portal-service.enabled": False,
    "network.connectivity-service.enabled": False,
    "app.update.disabledForTesting": True,
    "browser.safebrowsing.downloads.remote.enabled": False,
    "datareporting.policy.dataSubmissionEnabled": False,
    "extensions.getAddons.cache.enabled": False,
    "services.settings.server": "data:,",
    "toolkit.telemetry.server": "data:,",
}
#: In place of the camera: pictures in turn, on a canvas.
FILM: Final = """(pictures, fps) => {
  const { mediaDevices } = navigator;
  if (mediaDevices === undefined) return;
  const getUserMedia = mediaDevices.getUserMedia.bind(mediaDevices);
  mediaDevices.getUserMedia = async (wanted) => {
    if (!wanted.video) return getUserMedia(wanted);
    const bytes = (text) => Uint8Array.from(atob(text), (letter) => letter.charCodeAt(0));
    const frames = await Promise.all(pictures.map((text) =>
      createImageBitmap(new Blob([bytes(text)], { type: "image/jpeg" }))));
    const { width, height } = frames[0];
    const canvas = Object.assign(document.createElement("canvas"), { width, height });
    const context = canvas.getContext("2d");
    let next = 0;
    const draw = () => context.drawImage(frames[next++ % frames.length], 0, 0);
    draw();
    setInterval(draw, 1000 / fps);
    return canvas.captureStream(fps);
  };
}"""


class Firefox:
    """One window of a Firefox with a profile of its own, with everything that goes wrong on its page."""

    def __init__(self, profile: Path, width: int = 1280, height: int = 860) -> None:
        assert FIREFOX is not None
        values = "".join(f"user_pref({json.dumps(name)}, {json.dumps(to)});\n" for name, to in PREFERENCES.items())
        profile.mkdir()
        (profile / "user.js").write_text(values)
        self._numbers = itertools.count(1)
        self.problems: list[str] = []
        size = [f"--width={width}", f"--height={height}"]
        self._process = subprocess.Popen(
            [FIREFOX, "--headless", "--no-remote", "--remote-debugging-port=0", *size, "--profile", str(profile)],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
        )
        self._open = contextlib.ExitStack()
        self._open.callback(self._end)
        try:
            self._socket = self._open.enter_context(connect(f"{self._address()}/session", max_size=None))
            self._ask("session.new", capabilities={})
            self._ask("session.subscribe", events=["log.entryAdded"])
            self._page: str = self._ask("browsingContext.getTree")["contexts"][0]["context"]
        except BaseException:
            self._open.close()
            raise

    def _address(self) -> str:
        """What it says on stderr, which is read on: it would stand still when that pipe is full."""
        found = threading.Event()
        said: list[str] = []

        def read() -> None:
            for line in self._process.stderr or ():
                said.append(line)
                if "WebDriver BiDi listening on" in line:
                    found.set()

        self._reader = threading.Thread(target=read, daemon=True)
        self._reader.start()
        assert found.wait(STARTS_WITHIN_S), f"Firefox did not start: {said}"
        address = re.search(r"listening on (ws://\S+)", "".join(said))
        assert address is not None
        return address[1]

    def _ask(self, method: str, **parameters: Any) -> dict[str, Any]:
        number = next(self._numbers)
        self._socket.send(json.dumps({"id": number, "method": method, "params": parameters}))
        while True:
            told = json.loads(self._socket.recv(ANSWERS_WITHIN_S))
            if told.get("method") == "log.entryAdded" and told["params"]["level"] == "error":
                self.problems.append(told["params"]["text"])
            elif told.get("id") == number:
                assert told["type"] == "success", f"{method}: {told.get('message')}"
                answer: dict[str, Any] = told["result"]
                return answer

    def film(self, pictures: Sequence[Picture], fps: float) -> None:
        """Pages that are opened from now on have a camera that sees these pictures over and over."""
        packed = []
        for picture in pictures:
            packed.append(base64.b64encode(cv2.imencode(".jpg", picture[..., ::-1])[1].tobytes()).decode())
        self._ask("script.addPreloadScript", functionDeclaration=f"() => ({FILM})({json.dumps(packed)}, {fps})")

    def open(self, address: str) -> None:
        self._ask("browsingContext.navigate", context=self._page, url=address, wait="interactive")

    def evaluate(self, expression: str) -> Any:
        """Of numbers, text and truth values."""
        answer = self._ask("script.evaluate", expression=expression, target={"context": self._page}, awaitPromise=True)
        assert answer["type"] == "success", answer["exceptionDetails"]["text"]
        return answer["result"].get("value")

    def until(self, condition: str, within_s: float) -> None:
        deadline = time.monotonic() + within_s
        while not self.evaluate(condition):
            assert time.monotonic() < deadline, f"{condition}: {self.problems}"
            time.sleep(0.2)

    def close(self) -> None:
        with self._open:
            self._ask("browser.close")
            self._process.wait(STARTS_WITHIN_S)

    def _end(self) -> None:
        self._process.kill()
        self._process.wait()
        self._reader.join()
        if self._process.stderr is not None:
            self._process.stderr.close()
