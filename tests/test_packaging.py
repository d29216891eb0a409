"""What is installed is what is tested: the wheel's content, the extras, one namespace, imports in no circle."""

from __future__ import annotations

import ast
import graphlib
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


def imported(tree: ast.AST) -> Iterator[str]:
    """As `imports`, and what is taken from a package, which may be a module of it."""
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and node.module:
            yield from (f"{node.module}.{alias.name}" for alias in node.names)
    yield from imports(tree)


def name_of(path: Path) -> str:
    """`kilocall.cli.app` of its file; a package's own name of its `__init__.py`."""
    parts = path.with_suffix("").parts
    return ".".join(parts[parts.index("kilocall", len(ROOT.parts)) :]).removesuffix(".__init__")


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


def test_the_import_contracts_know_every_part() -> None:
    """`lint-imports` checks them, as `make lint` does."""
    contracts = PROJECT["tool"]["importlinter"]
    parts = {f"kilocall.{part}" for part, _ in modules()}
    assert set(contracts["root_packages"]) == parts
    layers = next(contract["layers"] for contract in contracts["contracts"] if contract["id"] == "parts")
    assert {name.strip() for layer in layers for name in layer.split("|")} == parts


def test_no_module_imports_itself_in_a_circle() -> None:
    """The contracts look at packages beside one another; this looks at modules, whatever package they are in."""
    found = {name_of(path): path for _, path in modules()}
    known: dict[str, set[str]] = {}
    for name, path in found.items():
        named = set(imported(ast.parse(path.read_text())))
        known[name] = {other for other in named if other in found and other != name}
    graphlib.TopologicalSorter(known).prepare()  # CycleError names the modules


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
import kilocall.sender.encoder, kilocall.sender.clip, kilocall.receiver.display, kilocall.bench.evaluate.folder
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
        files = (path for path in (ROOT / root).rglob("*") if path.is_file() and "__pycache__" not in path.parts)
        wanted = {path.relative_to(ROOT / root).as_posix() for path in files}
        assert wanted
        assert wanted - set(wheel) == set()


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
