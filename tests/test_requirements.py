"""What is installed: the locked files agree with pyproject.toml and with each other, and every file has its hash."""

from __future__ import annotations

import re
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version

ROOT = Path(__file__).parents[1]
PROJECT: dict[str, Any] = tomllib.loads((ROOT / "pyproject.toml").read_text())
#: Its builds differ from machine to machine, so that its version is pinned and its hash is not.
OWN_BUILDS: Final = {"torch"}
HASH = re.compile(r"--hash=sha256:[0-9a-f]{64}")


def locked(name: str) -> dict[str, Requirement]:
    """Each requirement of a locked file by its name; the options, comments and line ends are checked on the way."""
    text = (ROOT / "requirements" / f"{name}.txt").read_text()
    found: dict[str, Requirement] = {}
    for line in text.replace("\\\n", " ").splitlines():
        line = line.partition("#")[0].strip()
        if not line:
            continue
        requirement = Requirement(line.partition("--hash")[0])
        assert HASH.search(line), f"{requirement.name} has no hash"
        # Nothing else may stand there: no index, no address of a file, no option.
        assert not HASH.sub("", line.partition("--hash")[1] + line.partition("--hash")[2]).strip(), line
        assert requirement.url is None
        assert canonicalize_name(requirement.name) not in found, f"{requirement.name} is there twice"
        found[canonicalize_name(requirement.name)] = requirement
    return found


LOCKED = {name: locked(name) for name in ("core", "dev", "build")}


def asked(extra: str | None) -> Iterator[Requirement]:
    """What pyproject.toml asks for directly, extras within extras followed."""
    project = PROJECT["project"]
    for line in project["dependencies"] if extra is None else project["optional-dependencies"][extra]:
        requirement = Requirement(line)
        if requirement.name == project["name"]:
            for inner in sorted(requirement.extras):
                yield from asked(inner)
        else:
            yield requirement


WANTED = [
    *(("core", requirement) for requirement in asked(None)),
    *(("dev", requirement) for extra in (None, "dev") for requirement in asked(extra)),
    *(("build", Requirement(line)) for line in PROJECT["build-system"]["requires"]),
]


def version(requirement: Requirement) -> Version:
    (one,) = requirement.specifier
    assert one.operator == "=="
    return Version(one.version)


@pytest.mark.parametrize(("name", "wanted"), WANTED, ids=[f"{name}: {wanted}" for name, wanted in WANTED])
def test_what_is_asked_for_is_locked_within_its_range(name: str, wanted: Requirement) -> None:
    if wanted.name in OWN_BUILDS:
        assert wanted.name not in LOCKED[name]
        assert str(wanted.specifier).startswith("==")
        return
    found = LOCKED[name][canonicalize_name(wanted.name)]
    assert version(found) in wanted.specifier
    # Where it is asked for it is installed.
    assert found.marker is None or str(found.marker) == str(wanted.marker)


def test_tools_and_core_are_of_one_version() -> None:
    for name in ("core", "build"):
        for package, requirement in LOCKED[name].items():
            assert version(LOCKED["dev"][package]) == version(requirement)


def test_the_image_installs_what_is_locked() -> None:
    text = (ROOT / "docker" / "Dockerfile").read_text().replace("\\\n", " ")
    installs = [line for line in re.split(r"\n|&&", text) if "pip install " in line and not line.startswith("#")]
    assert installs
    for line in installs:
        # Everything by hash; the package itself brings nothing.
        assert ("--no-deps" in line) != ("--require-hashes" in line), line
