"""Makes docs/call.png: the page of a running call between the two built-in speakers. Needs playwright and Chromium.

python docs/screenshots.py
"""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from playwright.sync_api import sync_playwright

CALL_S = 40
SETTLE_MS = 9_000  # until the numbers' plot has something to show


def main() -> None:
    chromium = shutil.which("chromium") or shutil.which("google-chrome")
    if chromium is None:
        sys.exit("screenshots: no chromium on PATH")
    out = Path(__file__).with_name("call.png")
    command = [sys.executable, "-m", "kilocall.cli", "demo", "--call-seconds", str(CALL_S)]
    with tempfile.TemporaryDirectory() as folder:
        demo = subprocess.Popen(
            [*command, "--out", folder], stderr=subprocess.PIPE, stdin=subprocess.DEVNULL, text=True
        )
        try:
            page_url = _page_of(demo, "drawing")
            with sync_playwright() as playwright:
                browser = playwright.chromium.launch(executable_path=chromium, args=["--no-sandbox"])
                page = browser.new_page(viewport={"width": 1280, "height": 800})
                page.goto(page_url)
                page.wait_for_timeout(SETTLE_MS)
                page.screenshot(path=out)
                browser.close()
        finally:
            demo.terminate()
            demo.wait(20)
    print(f"wrote {out}")


def _page_of(demo: subprocess.Popen[str], name: str) -> str:
    assert demo.stderr is not None
    for line in demo.stderr:
        found = re.match(rf"{name}'s page: (\S+)", line)
        if found:
            return found[1]
    sys.exit("screenshots: the demo call did not start")


if __name__ == "__main__":
    main()
