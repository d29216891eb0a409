"""The page's modules by their own tests and by TypeScript's checker, where Node and its packages are there."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

from kilocall.api.web_page import ENGINE_FILES, WEB

ROOT = Path(__file__).parents[2]
NODE = shutil.which("node")
TSC = ROOT / "node_modules" / "typescript" / "bin" / "tsc"
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
    if all((WEB / "vendor" / name).is_file() for name in ENGINE_FILES):
        assert "# skipped 0" in said


@needs_node
@pytest.mark.skipif(not TSC.is_file(), reason="no TypeScript is installed: run `make web`")
def test_the_modules_have_the_types_they_say() -> None:
    assert node(TSC, "--project", ROOT / "tsconfig.json") == ""


def test_every_module_of_the_page_is_one_it_loads() -> None:
    """No module is shipped that nothing imports or starts, and none is imported that is not there."""
    texts = {path.name: path.read_text() for path in WEB.glob("*.js")}
    imported = {name for text in texts.values() for name in _imports(text)}
    started = {"page.js", "worker.js", "receive_pipeline.js", "receive_worker.js", "send_pipeline.js", "send_worker.js"}
    assert imported | started == set(texts)


def _imports(text: str) -> set[str]:
    lines = [line for line in text.splitlines() if line.startswith(("import ", "export {")) and " from " in line]
    return {line.rpartition('from "./')[2].rstrip('";') for line in lines}
