"""A folder on a plain web server, and the browser that looks at it."""

from __future__ import annotations

import functools
import http.server
import shutil
import threading
from pathlib import Path
from typing import Any

import pytest

from kilocall.api.web_page import ENGINE_FILES, WEB

CHROMIUM = shutil.which("chromium") or shutil.which("google-chrome")

has_engine = pytest.mark.skipif(
    not all((WEB / "vendor" / name).is_file() for name in ENGINE_FILES),
    reason="the browser's engine is missing: run `make web`, which needs npm",
)
has_browser = pytest.mark.skipif(CHROMIUM is None, reason="no chromium is installed to look at the page with")


class QuietHandler(http.server.SimpleHTTPRequestHandler):
    """Files and nothing else; with the headers that let a page have threads where the server asks for it."""

    def end_headers(self) -> None:
        if getattr(self.server, "isolates", False):
            self.send_header("Cross-Origin-Opener-Policy", "same-origin")
            self.send_header("Cross-Origin-Embedder-Policy", "require-corp")
        super().end_headers()

    def log_message(self, format: str, *args: Any) -> None:
        pass


class Hosted:
    """A folder on a plain web server."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.server = http.server.ThreadingHTTPServer(
            ("127.0.0.1", 0), functools.partial(QuietHandler, directory=str(folder))
        )
        self.address = f"http://127.0.0.1:{self.server.server_port}/index.html"
        self._thread = threading.Thread(target=self.server.serve_forever)
        self._thread.start()

    def isolate(self) -> None:
        setattr(self.server, "isolates", True)  # noqa: B010

    def close(self) -> None:
        self.server.shutdown()
        self._thread.join(10)
        self.server.server_close()


def put_modules(folder: Path, page: str) -> None:
    """The modules of a call, `media_page.mjs`, and a page that starts it."""
    for path in (*WEB.glob("*.js"), WEB / "vendor", Path(__file__).with_name("media_page.mjs")):
        (folder / path.name).symlink_to(path)
    (folder / "index.html").write_text(page)
