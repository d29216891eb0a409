"""The bill of materials that `make sbom` writes: valid CycloneDX that names every locked package of the core."""

from __future__ import annotations

import json
import re
import shlex
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[1]
PROJECT: dict[str, Any] = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]


@pytest.fixture(scope="module")
def text(tmp_path_factory: pytest.TempPathFactory) -> str:
    """What the Makefile's own command writes."""
    makefile = (ROOT / "Makefile").read_text().replace("\\\n", " ")
    line = re.search(r"-m (cyclonedx_py .*)", makefile)
    assert line is not None
    out = tmp_path_factory.mktemp("sbom") / "kilocall.cdx.json"
    words = [str(out) if word == "dist/kilocall.cdx.json" else word for word in shlex.split(line[1])]
    done = subprocess.run([sys.executable, "-m", *words], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return out.read_text()


def test_it_fits_the_schema(text: str) -> None:
    # Not above: it takes seconds, in every process that collects tests.
    from cyclonedx.schema import SchemaVersion
    from cyclonedx.validation.json import JsonStrictValidator

    assert JsonStrictValidator(SchemaVersion.from_version(json.loads(text)["specVersion"])).validate_str(text) is None


def test_it_names_the_package_and_all_that_the_core_installs(text: str) -> None:
    bill = json.loads(text)
    subject = bill["metadata"]["component"]
    assert (subject["name"], subject["version"]) == (PROJECT["name"], PROJECT["version"])
    locked = re.findall(r"^(\S+)==(\S+)", (ROOT / "requirements" / "core.txt").read_text(), re.M)
    assert {(part["name"], part["version"]) for part in bill["components"]} == set(locked)
    for part in bill["components"]:
        assert part["purl"].startswith(f"pkg:pypi/{part['name']}@{part['version']}")
        assert "sha" in json.dumps(part).lower()


def test_the_same_input_gives_the_same_bill(text: str) -> None:
    """Nothing of the moment or the machine is in it."""
    bill = json.loads(text)
    assert "timestamp" not in bill["metadata"]
    assert "serialNumber" not in bill
    assert str(ROOT) not in text
