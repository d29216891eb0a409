"""WebKit, the engine of Safari, in the small browser that WebKitGTK brings, driven over W3C WebDriver."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import socket
import subprocess
import time
import urllib.error
import urllib.request
from typing import Any, Final

import pytest

from displays import XVFB, display

__all__ = ["WebKit", "has_webkit"]

DRIVER: Final = shutil.which("WebKitWebDriver")
has_webkit = pytest.mark.skipif(
    DRIVER is None or XVFB is None,
    reason="no WebKit is installed to look at the page with: install webkit2gtk-driver and xvfb",
)

STARTS_WITHIN_S: Final = 60
ANSWERS_WITHIN_S: Final = 120


class WebKit:
    """One window on a display that nobody sees."""

    def __init__(self, width: int = 1280, height: int = 860) -> None:
        assert DRIVER is not None
        self._open = contextlib.ExitStack()
        try:
            name = self._open.enter_context(display(width, height, "-nolisten", "tcp"))
            with socket.socket() as free:
                free.bind(("127.0.0.1", 0))
                port = free.getsockname()[1]
            self._address = f"http://127.0.0.1:{port}"
            # There is no graphics processor behind this display.
            settings = {"DISPLAY": name, "LIBGL_ALWAYS_SOFTWARE": "1", "WEBKIT_DISABLE_DMABUF_RENDERER": "1"}
            driver = subprocess.Popen(
                [DRIVER, "--host=127.0.0.1", f"--port={port}"],
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                env=os.environ | settings,
            )
            self._open.callback(driver.wait)
            self._open.callback(driver.kill)
            self._session = f"/session/{self._new_session()}"
            self._open.callback(lambda: self._ask("DELETE", self._session))
            self._ask("POST", f"{self._session}/timeouts", {"script": 1000 * ANSWERS_WITHIN_S})
        except BaseException:
            self._open.close()
            raise

    def open(self, address: str) -> None:
        self._ask("POST", f"{self._session}/url", {"url": address})

    def evaluate(self, expression: str) -> Any:
        """Of whatever JSON can say; a promise is waited for."""
        return self._ask("POST", f"{self._session}/execute/sync", {"script": f"return {expression};", "args": []})

    def until(self, condition: str, within_s: float) -> None:
        deadline = time.monotonic() + within_s
        while not self.evaluate(condition):
            assert time.monotonic() < deadline, condition
            time.sleep(0.2)

    def close(self) -> None:
        self._open.close()

    def _new_session(self) -> str:
        browser = {"args": ["--automation"]}
        wanted = {"capabilities": {"alwaysMatch": {"webkitgtk:browserOptions": browser}}}
        deadline = time.monotonic() + STARTS_WITHIN_S
        while True:
            try:
                return str(self._ask("POST", "/session", wanted)["sessionId"])
            except ConnectionError:
                assert time.monotonic() < deadline, "WebKitWebDriver did not start"
                time.sleep(0.1)

    def _ask(self, method: str, path: str, body: dict[str, Any] | None = None) -> Any:
        data = None if body is None else json.dumps(body).encode()
        request = urllib.request.Request(self._address + path, data, method=method)
        try:
            with urllib.request.urlopen(request, timeout=ANSWERS_WITHIN_S) as answer:
                return json.load(answer)["value"]
        except urllib.error.HTTPError as error:
            raise AssertionError(f"{path}: {json.load(error)['value']}") from error
        except urllib.error.URLError as error:
            if isinstance(error.reason, ConnectionError):
                raise error.reason from error
            raise
