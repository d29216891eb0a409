"""The page's modules by their own tests and by TypeScript's checker, where Node and its packages are there."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

from kilocall.api.web_page import ENTRIES
from kilocall.runtime.web_files import CALL_PAGE, WEB, has_engine, modules_of

ROOT = Path(__file__).parents[2]
NODE = shutil.which("node")
TSC = ROOT / "node_modules" / "typescript" / "bin" / "tsc"
#: What a page of a call is put together from.
PARTS_OF_A_CALL = {
    "blob_store.js",
    "link.js",
    "session.js",
    "receive_pipeline.js",
    "receive_worker.js",
    "send_pipeline.js",
    "send_worker.js",
    "gpu.js",
    "gpu_worker.js",
}
needs_node = pytest.mark.skipif(NODE is None, reason="no node is installed: install nodejs 18 or newer")


def node(*arguments: str | Path) -> str:
    """What it prints; it must end well."""
    assert NODE is not None
    done = subprocess.run([NODE, *map(str, arguments)], cwd=ROOT, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stdout[-8000:] + done.stderr[-2000:]
    return done.stdout


@needs_node
def test_the_modules_pass_their_own_tests() -> None:
    files = sorted((ROOT / "tests" / "web").glob("*.test.mjs"))
    said = node("--test", "--test-reporter=tap", *files)
    assert "# fail 0" in said
    assert int(said.partition("# pass ")[2].split()[0]) >= 30
    if has_engine():
        assert "# skipped 0" in said


@needs_node
@pytest.mark.skipif(not TSC.is_file(), reason="no TypeScript is installed: run `make web`")
def test_the_modules_have_the_types_they_say() -> None:
    assert node(TSC, "--project", ROOT / "tsconfig.json") == ""


def test_every_module_is_one_that_a_page_loads() -> None:
    """No module is shipped that nothing imports, and none is imported that is not there."""
    call = {f"call/{path.name}" for path in (WEB / "call").glob("*.js")}
    pages = {"page.js", "worker.js", "receive_worker.js", "send_worker.js", "gpu_worker.js", *call}
    of_the_page = {f"call/{path.name}" for path in CALL_PAGE.glob("*.js")} - call
    assert modules_of(pages) - of_the_page == {path.name for path in WEB.glob("*.js")} | call


def test_the_page_of_a_stream_has_nothing_of_a_call() -> None:
    loaded = modules_of(ENTRIES)
    assert {"player.js", "control.js", "renderer.js"} <= loaded
    assert not loaded & {"trust.js", "peer.js", *PARTS_OF_A_CALL}
