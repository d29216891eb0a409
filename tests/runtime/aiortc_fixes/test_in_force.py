"""Each correction can be put in force and taken back; the tests beside this one say what each does."""

from __future__ import annotations

import logging
import subprocess
import sys
from importlib import metadata

import aiortc.rtcsctptransport as sctp
import pytest
from aioice import ice

from kilocall.runtime.aiortc_fixes import CORRECTIONS, apply, in_force, withdraw


def test_all_are_in_force_with_the_installed_versions_and_only_once() -> None:
    assert apply() == apply() == tuple(correction.name for correction in CORRECTIONS)
    method = ice.StunProtocol.request
    apply()
    assert ice.StunProtocol.request is method


def test_importing_changes_nothing() -> None:
    code = (
        "import aioice.ice as i, aiortc.rtcsctptransport as s\n"
        "before = i.StunProtocol.request, s.USERDATA_MAX_LENGTH\n"
        "import kilocall.runtime.aiortc_fixes as f, kilocall.runtime.peer\n"
        "assert f.in_force() == () and before == (i.StunProtocol.request, s.USERDATA_MAX_LENGTH)"
    )
    path = "import sys; sys.path[:0] = " + repr(sys.path) + "\n"
    assert subprocess.run([sys.executable, "-c", path + code], check=False).returncode == 0


def test_taking_one_back_leaves_the_others() -> None:
    for correction in CORRECTIONS:
        withdraw(correction.name)
        assert set(in_force()) == {other.name for other in CORRECTIONS} - {correction.name}
        apply()


def test_another_version_is_left_as_it_is_with_a_warning(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    corrected = sctp.USERDATA_MAX_LENGTH
    withdraw("packets that fit a 1280-byte MTU")
    original = sctp.USERDATA_MAX_LENGTH
    assert original != corrected
    monkeypatch.setattr(metadata, "version", lambda package: "2.0.0")
    with caplog.at_level(logging.WARNING):
        assert "packets that fit a 1280-byte MTU" not in apply()
    assert "aiortc 2.0.0 is not the 1.16.*" in caplog.text
    assert original == sctp.USERDATA_MAX_LENGTH
