"""Tests ask what users of a class see. Those that still look inside are counted, and may only become fewer."""

from __future__ import annotations

import ast
import json
import subprocess
import sys
import tomllib
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import pytest

ROOT = Path(__file__).parents[1]
#: Private attributes in each file that `pyproject.toml` excuses from SLF001.
LEFT: Final = {
    "tests/runtime/aiortc_fixes/ends.py": 7,  # aiortc's, not kilocall's
}
#: What SLF001 does not see: names that are imported or replaced.
LEFT_BY_NAME: Final = {
    "tests/call/test_services.py": {"_post"},
}


def private(name: str) -> bool:
    return name.startswith("_") and not name.startswith("__")


def by_name(text: str) -> Iterator[str]:
    """Private names that a test imports from kilocall, or names to a function such as monkeypatch.setattr."""
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("kilocall"):
            yield from (alias.name for alias in node.names if private(alias.name))
        elif isinstance(node, ast.Call) and isinstance(node.func, ast.Name | ast.Attribute):
            function = node.func.id if isinstance(node.func, ast.Name) else node.func.attr
            if function in ("setattr", "getattr", "delattr", "hasattr"):
                named = (one.value for one in node.args[:2] if isinstance(one, ast.Constant))
                parts = (one.rpartition(".")[2] for one in named if isinstance(one, str))
                yield from (part for part in parts if private(part))


def test_private_attributes_in_tests_become_fewer() -> None:
    command = [sys.executable, "-m", "ruff", "check", "--isolated", "--select", "SLF001", "--ignore-noqa"]
    done = subprocess.run(
        [*command, "--output-format", "json", "tests"], cwd=ROOT, capture_output=True, text=True, check=False
    )
    found = Counter(Path(one["filename"]).relative_to(ROOT).as_posix() for one in json.loads(done.stdout))
    assert found == LEFT, "where there are fewer, change LEFT and take files without any out of pyproject.toml"


def test_files_are_excused_one_by_one_and_no_others() -> None:
    settings = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["ruff"]["lint"]
    excused = {files for files, rules in settings["per-file-ignores"].items() if "SLF001" in rules}
    assert "SLF" in settings["select"]
    assert {files for files in excused if files.startswith("tests")} == LEFT.keys()


def test_private_names_are_neither_imported_nor_replaced() -> None:
    found: dict[str, set[str]] = {}
    for file in sorted((ROOT / "tests").rglob("*.py")):
        if names := set(by_name(file.read_text())):
            found[file.relative_to(ROOT).as_posix()] = names
    assert found == LEFT_BY_NAME


@pytest.mark.parametrize(
    ("text", "names"),
    [
        ("from kilocall.codec.motion_codec import MotionEncoder, _kind", ["_kind"]),
        ("monkeypatch.setattr(writer, '_write', half)", ["_write"]),
        ("monkeypatch.setattr('kilocall.runtime.peer._clock', clock)", ["_clock"]),
        ("getattr(peer, '_ice')", ["_ice"]),
        ("from aiortc import _x; monkeypatch.setattr(writer, 'write', half); getattr(peer, '__class__')", []),
    ],
)
def test_a_private_name_is_found(text: str, names: list[str]) -> None:
    assert list(by_name(text)) == names
