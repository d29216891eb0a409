"""A service that cannot begin: the caller gets the error, not a traceback and uvicorn's own exit code. Its token."""

from __future__ import annotations

import contextlib
import os
import stat
import subprocess
import sys
import threading
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from fastapi import FastAPI

from kilocall.model.family_loader import FamilyChoice
from kilocall.proto.errors import BadInput
from kilocall.proto.trust import LinkSecret
from kilocall.runtime.service import find_token, names_for, run_service
from kilocall.runtime.web import listen
from meeting import OTHER_SECRET, SECRET


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


@pytest.mark.parametrize("side", ["sender", "receiver"])
def test_a_port_in_use_ends_a_service_with_code_2(side: str) -> None:
    with listen("127.0.0.1", 0) as taken:
        port = str(taken.getsockname()[1])
        command = [sys.executable, "-m", f"kilocall.{side}", "--port", port]
        ended = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    assert ended.returncode == 2
    assert ended.stderr.startswith(f"kilocall.{side}: ")
    assert f"127.0.0.1:{port}" in ended.stderr
    assert ended.stderr.count("\n") == 1


def test_a_token_is_given_or_made_and_then_told() -> None:
    given = find_token({"KILOCALL_TOKEN": SECRET.text, "KILOCALL_TOKEN_FILE": "not/read"})
    assert (given.secret, given.tell()) == (SECRET, "")
    made = find_token({"KILOCALL_TOKEN": "", "KILOCALL_TOKEN_FILE": ""})
    assert made.tell() == f"KILOCALL_TOKEN={made.secret.text}"
    assert find_token({}).secret != made.secret
    assert made.secret.text not in repr(made)


def test_a_token_that_can_be_guessed_is_refused_wherever_it_is(tmp_path: Path) -> None:
    (tmp_path / "token").write_text("tea\n")
    with pytest.raises(BadInput, match=r"KILOCALL_TOKEN: .*allowed are 16 to 48 random bytes"):
        find_token({"KILOCALL_TOKEN": "tea"})
    with pytest.raises(BadInput, match=r"KILOCALL_TOKEN_FILE .*/token: .*allowed are 16 to 48 random bytes"):
        find_token({"KILOCALL_TOKEN_FILE": str(tmp_path / "token")})
    with pytest.raises(BadInput, match=r"the folder .*/none does not exist"):
        find_token({"KILOCALL_TOKEN_FILE": str(tmp_path / "none" / "token")})


def test_a_tokens_file_is_read_or_made_for_this_user_alone(tmp_path: Path) -> None:
    path = tmp_path / "token"
    made = find_token({"KILOCALL_TOKEN_FILE": str(path)})
    # Whoever has the file needs no telling, and a log would keep it.
    assert made.tell() == ""
    assert LinkSecret(path.read_text().strip()) == made.secret
    if os.name == "posix":
        assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert find_token({"KILOCALL_TOKEN_FILE": str(path)}) == made
    path.write_text(OTHER_SECRET.text)
    assert find_token({"KILOCALL_TOKEN_FILE": str(path)}).secret == OTHER_SECRET
    assert [file.name for file in tmp_path.iterdir()] == ["token"]


def test_those_who_start_at_once_agree_on_one_token(tmp_path: Path) -> None:
    for number in range(20):
        environment = {"KILOCALL_TOKEN_FILE": str(tmp_path / f"token{number}")}
        start = threading.Barrier(6)
        found: set[str] = set()

        def look(start: threading.Barrier, environment: dict[str, str], found: set[str]) -> None:
            start.wait()
            found.add(find_token(environment).secret.text)

        threads = [threading.Thread(target=look, args=(start, environment, found)) for _ in range(6)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert len(found) == 1
    assert len(list(tmp_path.iterdir())) == 20


def test_names_are_checked_where_they_are_known() -> None:
    assert "localhost" in names_for("127.0.0.1")
    assert names_for("::1") == names_for("localhost")
    assert names_for("0.0.0.0") == ("*",)
