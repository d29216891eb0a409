"""A service that cannot begin: the caller gets the error, not a traceback and uvicorn's own exit code."""

from __future__ import annotations

import contextlib
import subprocess
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from fastapi import FastAPI

from kilocall.model.family import FamilyChoice
from kilocall.proto.errors import BadInput
from kilocall.runtime.service import run_service


def refusing(error: Exception) -> FastAPI:
    @contextlib.asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        raise error
        yield

    return FastAPI(lifespan=lifespan)


@pytest.mark.parametrize("error", [BadInput("camera is 'none'"), FileNotFoundError(2, "No such file", "weights")])
def test_what_the_start_refuses_is_raised(error: Exception) -> None:
    with pytest.raises(type(error)) as caught:
        run_service(refusing(error), "127.0.0.1", 0)
    assert caught.value is error


def test_a_mistake_in_the_start_stays_a_traceback(capfd: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        run_service(refusing(ValueError("a mistake")), "127.0.0.1", 0)
    assert ended.value.code != 0
    assert "ValueError: a mistake" in capfd.readouterr().err


@pytest.mark.parametrize("side", ["sender", "receiver"])
def test_weights_that_are_not_there_end_a_service_with_code_2(side: str, tmp_path: Path) -> None:
    command = [sys.executable, "-m", f"kilocall.{side}", "--family", "facevid2vid"]
    ended = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    assert (ended.returncode, ended.stderr.count("\n")) == (2, 1)
    assert "needs its weights, which are not in the package: --weights FILE" in ended.stderr
    ended = subprocess.run(
        [*command, "--weights", str(tmp_path / "none.pth")], capture_output=True, text=True, timeout=120, check=False
    )
    assert ended.returncode == 2
    assert ended.stderr == f"kilocall.{side}: weights {tmp_path / 'none.pth'}: no such file or folder\n"


def test_choice_of_models_is_checked_without_reading_them(tmp_path: Path) -> None:
    FamilyChoice().check()
    FamilyChoice("liveportrait", tmp_path).check()
    with pytest.raises(BadInput, match="not installed; known"):
        FamilyChoice("grand-512").check()
    with pytest.raises(BadInput, match=r"codebook .*no such file"):
        FamilyChoice(codebook=tmp_path / "none").check()
