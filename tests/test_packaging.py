"""What is installed is what is tested: the wheel's content, the extras, one namespace, imports one way."""

from __future__ import annotations

import ast
import os
import re
import subprocess
import sys
import tomllib
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[1]
ROOTS = ("proto", "sender", "receiver", "shared")
PROJECT: dict[str, Any] = tomllib.loads((ROOT / "pyproject.toml").read_text())
#: What a part may import of the others.
MAY_IMPORT = {
    "proto": set(),
    "codec": {"proto"},
    "model": {"proto", "codec", "runtime"},
    "runtime": {"proto", "model"},
    "sender": {"proto", "codec", "model", "runtime"},
    "receiver": {"proto", "codec", "model", "runtime"},
    "api": {"proto", "codec", "model", "runtime", "sender", "receiver"},
    "sample": {"proto", "codec", "model", "runtime", "sender", "receiver", "api"},
    "call": {"proto", "codec", "model", "runtime", "sender", "receiver", "api", "sample"},
    "bench": {"proto", "codec", "model", "runtime", "sender", "receiver", "api", "sample", "call", "train"},
    "train": {"proto", "codec", "model", "runtime", "sender", "receiver", "api", "sample", "call", "bench"},
}
#: Beside them only cli, which may import all.
LAST = "cli"
TRAINING_ONLY = {"torch", "onnx", "onnxruntime", "matplotlib"}


def modules() -> Iterator[tuple[str, Path]]:
    """Part of the namespace and file of every module."""
    for root in ROOTS:
        package = ROOT / root / "kilocall"
        for path in sorted(package.rglob("*.py")):
            yield path.relative_to(package).parts[0].removesuffix(".py"), path


def imports(tree: ast.AST) -> Iterator[str]:
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            yield node.module


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """Names in the wheel, built without a network by the backend that is named in pyproject.toml."""
    folder = tmp_path_factory.mktemp("wheel")
    code = f"import hatchling.build as b; print(b.build_wheel({str(folder)!r}))"
    built = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False)
    assert built.returncode == 0, built.stderr
    return zipfile.ZipFile(folder / built.stdout.split()[-1]).namelist()


def test_the_roots_share_one_namespace() -> None:
    for root in ROOTS:
        assert not (ROOT / root / "kilocall" / "__init__.py").exists()
        assert not (ROOT / root / "__init__.py").exists()


def test_every_subpackage_says_what_it_is_for() -> None:
    for root in ROOTS:
        for folder in (ROOT / root / "kilocall").rglob("*/"):
            if any(folder.glob("*.py")):
                assert (folder / "__init__.py").is_file(), folder
                assert (folder / "__init__.py").read_text().startswith('"""'), folder


def test_imports_point_one_way() -> None:
    assert {part for part, _ in modules()} == {*MAY_IMPORT, LAST}
    for part, path in modules():
        if part == LAST:
            continue
        for name in imports(ast.parse(path.read_text())):
            if name.startswith("kilocall."):
                other = name.split(".")[1]
                assert other == part or other in MAY_IMPORT[part], f"{path.relative_to(ROOT)} imports {name}"


def test_the_documents_say_who_imports_torch() -> None:
    rows = re.search(r"\| imports torch .*?\n\n", (ROOT / "docs" / "architecture.md").read_text(), re.S)
    assert rows is not None
    said: set[str] = set()
    for row in rows[0].strip().splitlines()[2:]:
        place = row.split("|")[1]
        folder, _, files = place.partition(":")
        names = re.findall(r"`([^`]+)`", files)
        said |= {folder.strip(" `") + name for name in names} or set(re.findall(r"`([^`]+)`", place))
    shared = ROOT / "shared" / "kilocall"
    knows: set[str] = set()
    for _, path in modules():
        if any(name.split(".")[0] == "torch" for name in imports(ast.parse(path.read_text()))):
            inside = path.relative_to(shared).as_posix()
            places = {place for place in said if inside == place or (place.endswith("/") and inside.startswith(place))}
            assert places, f"{inside} imports torch"
            knows |= places
    assert knows == said


def test_the_core_imports_without_torch_and_onnx() -> None:
    code = f"""
import sys
class Refuse:
    def find_spec(self, name, path=None, target=None):
        if name.split('.')[0] in {TRAINING_ONLY!r}:
            raise ImportError(name)
sys.meta_path.insert(0, Refuse())
import kilocall.api, kilocall.cli.app, kilocall.cli.streams, kilocall.cli.replay, kilocall.cli.demo
import kilocall.sender.encoder, kilocall.sender.clip, kilocall.receiver.display, kilocall.bench.evaluate
"""
    env = {**os.environ, "PYTHONPATH": os.pathsep.join(str(ROOT / root) for root in ROOTS)}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=env, check=False)
    assert done.returncode == 0, done.stderr


def test_the_core_does_not_ask_for_torch() -> None:
    core = {re.split(r"[<>=!;\[ ]", wanted)[0] for wanted in PROJECT["project"]["dependencies"]}
    assert not core & TRAINING_ONLY
    assert "torch==2.13.0" in PROJECT["project"]["optional-dependencies"]["train"]


def test_every_module_and_every_other_file_is_in_the_wheel(wheel: list[str]) -> None:
    for root in ROOTS:
        for path in (ROOT / root).rglob("*"):
            if path.is_file() and "__pycache__" not in path.parts:
                assert path.relative_to(ROOT / root).as_posix() in wheel


def test_page_weights_and_samples_are_in_the_wheel(wheel: list[str]) -> None:
    for wanted in (
        "kilocall/receiver/page/index.html",
        "kilocall/receiver/service_page/index.html",
        "kilocall/runtime/page/enter.js",
        "kilocall/web/index.html",
        "kilocall/web/worker.js",
        "kilocall/model/weights/compact-256/manifest.json",
        "kilocall/model/weights/compact-256/generator.onnx",
        "kilocall/sample/astronaut.kcs",
    ):
        assert wanted in wheel
    assert not [name for name in wheel if name.startswith(("shared/", "tests/")) or "/__pycache__/" in name]


def test_the_weights_are_small() -> None:
    weights = ROOT / "shared" / "kilocall" / "model" / "weights"
    assert 0 < sum(path.stat().st_size for path in weights.rglob("*") if path.is_file()) <= 10_000_000


def test_the_readme_python_lines_run(tmp_path: Path) -> None:
    """Each block, with the names it is given: a clip in the folder, or crops of its speaker."""
    blocks = re.findall(r"```python\n(.*?)```", (ROOT / "README.md").read_text(), re.S)
    assert len(blocks) == 2
    setting = """
import itertools, shutil
import numpy as np
from kilocall.api import StreamPlayer
from kilocall.receiver.video_file import VideoFile
from kilocall.sample import sample_stream
from pathlib import Path
player = StreamPlayer(sample_stream("astronaut"), threads=1)
crops = [frame.rgb for frame in itertools.islice(player.frames(), 12)]
with VideoFile(Path("clip.mp4"), fps=player.reader.header.fps, size=256) as video:
    for number, crop in enumerate(crops):
        video.write(crop, number * 40_000)
"""
    env = {**os.environ, "PYTHONPATH": os.pathsep.join(str(ROOT / root) for root in ROOTS)}
    done = subprocess.run(
        [sys.executable, "-c", setting + "\n".join(blocks)],
        cwd=tmp_path,
        env=env,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "out.mp4").exists()
    # Twelve frames in packets of three, all decoded as they come.
    assert done.stdout.count("(256, 256, 3)") == 12
