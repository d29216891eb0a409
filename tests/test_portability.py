"""What must work beyond Linux: every module can be imported where the POSIX-only ones of the library are missing."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Final

import pytest

from kilocall.call.settings import default_cache
from kilocall.runtime.files import user_cache_folder

ROOT = Path(__file__).parents[1]
ROOTS = ("proto", "sender", "receiver", "shared")
POSIX_ONLY: Final = ("fcntl", "grp", "pwd", "resource", "termios")
#: Those that cannot be imported there. Training and measuring are included: none needs to be here.
MAY_NOT: Final[set[str]] = set()
#: Programs that begin when they are imported.
PROGRAMS: Final = ("__main__",)

# Only what kilocall itself imports is hidden: other libraries have their own way on each system.
HIDING: Final = f"""
import builtins, importlib, json, sys

found = builtins.__import__
def hiding(name, globals=None, locals=None, fromlist=(), level=0):
    if name in {POSIX_ONLY!r} and str((globals or {{}}).get("__name__", "")).startswith("kilocall"):
        raise ImportError(f"there is no {{name}} here")
    return found(name, globals, locals, fromlist, level)

builtins.__import__ = hiding
failed = {{}}
for name in json.load(sys.stdin):
    try:
        importlib.import_module(name)
    except ImportError as error:
        failed[name] = str(error)
print(json.dumps(failed))
"""


def modules() -> list[str]:
    names = []
    for root in ROOTS:
        for path in sorted((ROOT / root / "kilocall").rglob("*.py")):
            parts = path.relative_to(ROOT / root).with_suffix("").parts
            if parts[-1] not in PROGRAMS:
                names.append(".".join(parts).removesuffix(".__init__"))
    return names


def without_posix(names: list[str]) -> dict[str, str]:
    """The modules that cannot be imported without POSIX_ONLY, and why."""
    env = {**os.environ, "PYTHONPATH": os.pathsep.join(str(ROOT / root) for root in ROOTS)}
    done = subprocess.run(
        [sys.executable, "-c", HIDING], input=json.dumps(names), capture_output=True, text=True, env=env, check=False
    )
    assert done.returncode == 0, done.stderr
    failed: dict[str, str] = json.loads(done.stdout.splitlines()[-1])
    return failed


def test_every_module_can_be_imported_without_posix() -> None:
    names = modules()
    assert len(names) > 150
    assert set(failed := without_posix(names)) == MAY_NOT, failed


def test_hiding_hides(tmp_path: Path) -> None:
    (tmp_path / "kilocall_needing_posix.py").write_text("import resource\n")
    env = {**os.environ, "PYTHONPATH": str(tmp_path)}
    done = subprocess.run(
        [sys.executable, "-c", HIDING],
        input='["kilocall_needing_posix"]',
        capture_output=True,
        text=True,
        env=env,
        check=True,
    )
    assert json.loads(done.stdout) == {"kilocall_needing_posix": "there is no resource here"}


def test_calls_and_engines_share_one_cache_folder(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv("KILOCALL_CACHE", raising=False)
    assert default_cache() == user_cache_folder()
    monkeypatch.setenv("KILOCALL_CACHE", str(tmp_path))
    assert default_cache() == tmp_path


@pytest.mark.skipif(sys.platform != "linux", reason="each system has its own place")
def test_the_cache_folder_is_where_linux_wants_it(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert user_cache_folder() == tmp_path / "kilocall"
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert user_cache_folder() == tmp_path / ".cache" / "kilocall"
    assert not (tmp_path / ".cache").exists()


def test_a_call_without_a_page_leaves_the_metrics_library_alone() -> None:
    code = "import sys, kilocall.call.running, kilocall.sender.service, kilocall.receiver.service; "
    code += "print('prometheus_client' in sys.modules)"
    env = {**os.environ, "PYTHONPATH": os.pathsep.join(str(ROOT / root) for root in ROOTS)}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=env, check=True)
    assert done.stdout.strip() == "False"
