"""The containers: files that their tools accept, and services that start and pass their health checks."""

from __future__ import annotations

import contextlib
import json
import os
import re
import shlex
import shutil
import socket
import subprocess
import sys
import time
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from kilocall.call.signalling import Joined, Paired, Signalling
from links import run
from meeting import SECRET as LINK_SECRET
from meeting import Server

ROOT = Path(__file__).parents[1]
COMPOSE: dict[str, Any] = yaml.safe_load((ROOT / "docker-compose.yml").read_text())
SERVICES: dict[str, dict[str, Any]] = COMPOSE["services"]
OWN = ("meeting", "sender", "receiver", "replay")
SECRET = "0123456789abcdef" * 2
TOKEN_FILE = "/var/lib/kilocall/token"
TOKEN_VOLUME = "token:/var/lib/kilocall"
WITHIN_S = 60.0


def read_stages() -> dict[str, dict[str, str]]:
    """The last of every instruction of every stage, with what the stage inherits."""
    text = (ROOT / "docker" / "Dockerfile").read_text().replace("\\\n", " ")
    stages: dict[str, dict[str, str]] = {}
    for line in text.splitlines():
        if not line or line.startswith("#"):
            continue
        instruction, rest = line.split(maxsplit=1)
        if instruction == "FROM":
            base, _, name = rest.split()
            stage = stages[name] = dict(stages.get(base, {}))
        elif stages:
            stage[instruction] = rest
    return stages


STAGES = read_stages()


def command_of(name: str) -> list[str]:
    """What the service runs when no variable is set."""
    stage, service = STAGES[SERVICES[name]["build"]["target"]], SERVICES[name]
    given = [re.sub(r"\$\{\w+:-(.*?)\}", r"\1", word) for word in service.get("command", [])]
    command: list[str] = json.loads(stage["ENTRYPOINT"]) + (given or json.loads(stage.get("CMD", "[]")))
    return command


def check_of(name: str) -> list[str]:
    check: list[str] = json.loads(STAGES[SERVICES[name]["build"]["target"]]["HEALTHCHECK"].partition("CMD")[2])
    return check


def succeeds(command: list[str], **options: Any) -> bool:
    return subprocess.run(command, capture_output=True, check=False, **options).returncode == 0


def compose(*arguments: str, **variables: str) -> subprocess.CompletedProcess[str]:
    if shutil.which("docker-compose"):
        program = ["docker-compose"]
    elif shutil.which("docker") and succeeds(["docker", "compose", "version"]):
        program = ["docker", "compose"]
    else:
        pytest.skip("neither docker-compose nor docker compose is installed")
    env = {name: value for name, value in os.environ.items() if name not in variables_named()}
    return subprocess.run(
        [*program, *arguments], cwd=ROOT, env={**env, **variables}, capture_output=True, text=True, check=False
    )


def variables_named() -> set[str]:
    texts = (ROOT / "docker-compose.yml").read_text(), (ROOT / "docker" / "public.yml").read_text()
    return set(re.findall(r"\$\{(\w+)", "".join(texts)))


@pytest.mark.parametrize("profile", [(), ("--profile", "turn")], ids=["without profile", "turn"])
def test_compose_accepts_its_file(profile: tuple[str, ...]) -> None:
    done = compose(*profile, "config")
    assert done.returncode == 0, done.stderr
    read = yaml.safe_load(done.stdout)["services"]
    assert set(OWN) <= set(read) <= {*OWN, "turn"}
    assert {read[name]["build"]["target"] for name in OWN} == set(OWN)
    # A variable that nobody sets is warned about, and a user could not tell whether it matters.
    assert "variable is not set" not in done.stderr


PUBLIC = ("-f", "docker-compose.yml", "-f", "docker/public.yml")
NAMES = {"MEETING_DOMAIN": "meet.example", "TURN_DOMAIN": "turn.example", "TURN_SECRET": SECRET}


def test_public_signalling_server_has_tls_and_tells_of_its_turn_server() -> None:
    done = compose(*PUBLIC, "config", **NAMES, TURN_ADDRESS="192.0.2.7", TURN_TLS_PORT="443")
    assert done.returncode == 0, done.stderr
    read = yaml.safe_load(done.stdout)
    services = read["services"]
    meeting, front, turn = (services[name] for name in ("meeting", "front", "turn"))
    assert meeting["environment"]["KILOCALL_TURN_URL"] == "turn:turn.example:3478 turns:turn.example:443"
    # What the front door says of addresses is believed, and only what it says.
    assert meeting["environment"]["KILOCALL_PROXY"] == front["networks"]["front"]["ipv4_address"]
    assert "0.0.0.0" not in str(meeting["ports"])
    assert {"TURN_SECRET": SECRET, "TURN_ADDRESS": "192.0.2.7", "TURN_TLS_PORT": "443"}.items() <= turn[
        "environment"
    ].items()
    for service in (front, turn):
        assert service["read_only"] is True
        assert service["cap_drop"] == ["ALL"]
        assert service["cap_add"] == ["NET_BIND_SERVICE"]
        assert service["security_opt"] == ["no-new-privileges:true"]


@pytest.mark.parametrize("name", ["MEETING_DOMAIN", "TURN_DOMAIN"])
def test_public_signalling_server_without_its_names_is_refused(name: str) -> None:
    done = compose(*PUBLIC, "config", **{other: value for other, value in NAMES.items() if other != name})
    assert done.returncode != 0
    assert name in done.stderr


@pytest.fixture
def front_door(tmp_path: Path) -> Iterator[tuple[str, int]]:
    """A real Caddy with the Caddyfile for localhost, by certificates of its own: its address, and the port that it
    passes everything on to."""
    program = shutil.which("caddy")
    if program is None:
        pytest.skip("caddy is not installed")
    ports = []
    with contextlib.ExitStack() as kept:
        for _ in range(3):
            free = kept.enter_context(socket.socket())
            free.bind(("127.0.0.1", 0))
            ports.append(free.getsockname()[1])
    env = {
        "PATH": os.environ["PATH"],
        "HOME": str(tmp_path),
        "XDG_DATA_HOME": str(tmp_path),
        "XDG_CONFIG_HOME": str(tmp_path),
        "MEETING_DOMAIN": "localhost",
        "TURN_DOMAIN": "turn.localhost",
        "HTTP_PORT": str(ports[0]),
        "HTTPS_PORT": str(ports[1]),
        "MEETING_UPSTREAM": f"127.0.0.1:{ports[2]}",
    }
    command = [program, "run", "--config", str(ROOT / "docker" / "Caddyfile"), "--adapter", "caddyfile"]
    with running(command, env, tmp_path) as process:
        root = tmp_path / "caddy" / "pki" / "authorities" / "local" / "root.crt"
        made = tmp_path / "caddy" / "certificates" / "local"
        names = ("localhost", "turn.localhost")
        # coturn is given the second one's, by this layout of Caddy's folder.
        wanted = [root, *(made / name / f"{name}.{kind}" for name in names for kind in ("crt", "key"))]
        until = time.monotonic() + WITHIN_S
        while not all(file.exists() for file in wanted):
            assert process.poll() is None, (tmp_path / "output").read_text()
            assert time.monotonic() < until, (tmp_path / "output").read_text()
            time.sleep(0.1)
        yield f"https://localhost:{ports[1]}", ports[2]


def test_two_meet_through_the_front_door(
    front_door: tuple[str, int], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    url, port = front_door
    monkeypatch.setenv("SSL_CERT_FILE", str(tmp_path / "caddy" / "pki" / "authorities" / "local" / "root.crt"))

    async def check() -> None:
        async with (
            Server(port=port),
            Signalling(url, "tea", LINK_SECRET) as first,
            Signalling(url, "tea", LINK_SECRET) as second,
        ):
            assert isinstance(await first.next(), Joined)
            assert isinstance(await second.next(), Joined)
            assert isinstance(await first.next(), Paired)

    run(check())


def test_variables_replace_clip_address_and_base() -> None:
    done = compose("config", CLIP="me.mp4", LISTEN="0.0.0.0", BASE="registry.example/python:1", KILOCALL_TOKEN="word")
    assert done.returncode == 0, done.stderr
    read = yaml.safe_load(done.stdout)["services"]
    assert read["sender"]["command"] == ["me.mp4"]
    assert read["sender"]["environment"] == read["receiver"]["environment"]
    assert read["sender"]["environment"] == {"KILOCALL_TOKEN": "word", "KILOCALL_TOKEN_FILE": TOKEN_FILE}
    assert {read[name]["build"]["args"]["BASE"] for name in OWN} == {"registry.example/python:1"}
    assert "0.0.0.0" in str(read["meeting"]["ports"])
    assert "0.0.0.0" not in str(read["receiver"]["ports"])


def test_the_dockerfile_passes_hadolint() -> None:
    program = shutil.which("hadolint", path=os.pathsep.join((str(Path(sys.executable).parent), os.environ["PATH"])))
    if program is None:
        pytest.skip("hadolint is not installed; the extra dev has it")
    done = subprocess.run([program, ROOT / "docker" / "Dockerfile"], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


def test_containers_are_locked_down() -> None:
    assert set(SERVICES) == {*OWN, "turn"}
    for name, service in SERVICES.items():
        assert service["read_only"] is True, name
        assert service["cap_drop"] == ["ALL"], name
        assert service["security_opt"] == ["no-new-privileges:true"], name
        assert all(volume.endswith(":ro") or volume == TOKEN_VOLUME for volume in service.get("volumes", [])), name
        assert "privileged" not in service
    for name in OWN:
        assert STAGES[name]["USER"].isdecimal()
        assert int(STAGES[name]["USER"]) > 0
        assert "network_mode" not in SERVICES[name]
        assert not SERVICES[name].get("cap_add")
    assert SERVICES["turn"]["user"] == "nobody:nogroup"


def test_no_secret_is_in_the_files() -> None:
    given = {f"{name}.{key}": value for name, s in SERVICES.items() for key, value in s.get("environment", {}).items()}
    files = {key: given.pop(key) for key in list(given) if key.endswith("_FILE")}
    assert files == {f"{name}.KILOCALL_TOKEN_FILE": TOKEN_FILE for name in ("sender", "receiver")}
    names = {key.partition(".")[2] for key in given}
    assert names == {"KILOCALL_TOKEN", "KILOCALL_TURN_URL", "TURN_SECRET", "TURN_EXTERNAL_IP"}
    for key, value in given.items():
        assert value == f"${{{key.partition('.')[2]}:-}}"


def test_the_images_install_no_extra() -> None:
    text = (ROOT / "docker" / "Dockerfile").read_text()
    assert re.findall(r"-r requirements/(\w+)\.txt", text) == ["core", "build"]
    assert "pip install --no-cache-dir --no-deps --no-index /dist/*.whl" in STAGES["build"]["RUN"]
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert {SERVICES[name]["image"].partition(":")[2] for name in OWN} == {project["version"]}


def test_what_is_copied_into_an_image_is_not_ignored() -> None:
    taken = {line[1:] for line in (ROOT / ".dockerignore").read_text().splitlines() if line.startswith("!")}
    copied = re.findall(r"^COPY (?!--)(.+) \S+$", (ROOT / "docker" / "Dockerfile").read_text(), re.M)
    assert {word for line in copied for word in line.split()} == taken
    assert all((ROOT / name).exists() for name in taken)


@pytest.mark.parametrize("name", OWN)
def test_port_of_command_health_check_and_compose_is_one(name: str) -> None:
    port = STAGES[name]["EXPOSE"]
    command = command_of(name)
    assert command[command.index("--port") + 1] == port
    assert f"http://127.0.0.1:{port}/health" in check_of(name)[-1]
    published = [re.sub(r"\$\{\w+:-(.*?)\}", r"\1", mapping) for mapping in SERVICES[name].get("ports", [])]
    # The sender is asked by the receiver alone, over the network that they share.
    assert published == ([] if name == "sender" else [f"127.0.0.1:{port}:{port}"])


def test_the_receiver_is_told_the_sender_there_is() -> None:
    assert command_of("receiver")[-2:] == ["--sender", f"http://sender:{STAGES['sender']['EXPOSE']}"]
    assert SERVICES["receiver"]["depends_on"] == ["sender"]


def test_sender_and_receiver_alone_share_a_place_for_their_token() -> None:
    assert COMPOSE["volumes"] == {"token": None}
    assert {name for name in SERVICES if TOKEN_VOLUME in SERVICES[name].get("volumes", [])} == {"sender", "receiver"}
    # An empty volume gets the owner of what is there in the image: who runs the services, and nobody else.
    made = f"install --directory --owner={STAGES['core']['USER']} --mode=0700 /var/lib/kilocall"
    assert made in STAGES["core"]["RUN"]


def programs(folder: Path) -> Path:
    """A folder with `python` and `kilocall` as an image has them, made from this tree."""
    folder = folder / "bin"
    folder.mkdir()
    (folder / "python").write_text(f'#!/bin/sh\nexec {shlex.quote(sys.executable)} "$@"\n')
    (folder / "kilocall").write_text('#!/bin/sh\nexec python -c "from kilocall.cli import main; main()" "$@"\n')
    for program in folder.iterdir():
        program.chmod(0o755)
    return folder


@contextlib.contextmanager
def running(command: list[str], env: dict[str, str], folder: Path) -> Iterator[subprocess.Popen[bytes]]:
    with (folder / "output").open("wb") as output:
        process = subprocess.Popen(command, env=env, cwd=folder, stdout=output, stderr=subprocess.STDOUT)
    try:
        yield process
    finally:
        process.terminate()
        try:
            process.wait(10)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


@pytest.mark.parametrize("name", OWN)
def test_service_starts_and_only_then_passes_its_health_check(name: str, tmp_path: Path) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    changes = {
        "0.0.0.0": "127.0.0.1",
        STAGES[name]["EXPOSE"]: port,
        "/usr/local/bin/send.sh": str(ROOT / "docker" / "send.sh"),
        # Nobody there: a receiver waits for its sender.
        "http://sender:8720": "http://127.0.0.1:9",
    }
    command = [changes.get(word, word) for word in command_of(name)]
    check = [word.replace(f":{STAGES[name]['EXPOSE']}/", f":{port}/") for word in check_of(name)]
    env = {
        **os.environ,
        "PATH": os.pathsep.join((str(programs(tmp_path)), os.environ["PATH"])),
        "PYTHONPATH": os.pathsep.join(str(ROOT / root) for root in ("proto", "sender", "receiver", "shared")),
        "TMPDIR": str(tmp_path),
        "OMP_NUM_THREADS": "1",
        "KILOCALL_TOKEN": "",
        "KILOCALL_TOKEN_FILE": str(tmp_path / "token"),
    }

    def passes() -> bool:
        return succeeds(check, env=env, cwd=tmp_path)

    assert not passes()
    with running(command, env, tmp_path) as process:
        until = time.monotonic() + WITHIN_S
        while not passes():
            assert process.poll() is None, (tmp_path / "output").read_text()
            assert time.monotonic() < until, (tmp_path / "output").read_text()
            time.sleep(0.3)
    # The services that have one know each other by it without anybody's doing; a log would keep it.
    assert (tmp_path / "token").exists() == (name in ("sender", "receiver"))
    assert "KILOCALL_TOKEN=" not in (tmp_path / "output").read_text()


def test_sender_without_a_camera_fails_its_health_check(tmp_path: Path) -> None:
    """An answer of its own is not enough: a stub says that nothing runs."""
    stub = tmp_path / "stub.py"
    stub.write_text(
        "import http.server as h\n"
        "class Answer(h.BaseHTTPRequestHandler):\n"
        "    def do_GET(self):\n"
        "        self.send_response(200); self.end_headers(); self.wfile.write(b'{\"running\": false}')\n"
        "server = h.HTTPServer(('127.0.0.1', 0), Answer)\n"
        "print(server.server_port, flush=True)\n"
        "server.serve_forever()\n"
    )
    with running([sys.executable, str(stub)], dict(os.environ), tmp_path):
        until = time.monotonic() + 10
        while not (port := (tmp_path / "output").read_text().partition("\n")[0]):
            assert time.monotonic() < until
            time.sleep(0.05)
        check = [sys.executable, *(word.replace(":8720/", f":{port}/") for word in check_of("sender")[1:])]
        done = subprocess.run(check, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (1, "")


def turn(folder: Path, **variables: str) -> subprocess.CompletedProcess[str]:
    """turn.sh with a turnserver that shows what it is given."""
    stub = folder / "turnserver"
    stub.write_text('#!/bin/sh\nprintf "%s\\n" "$@"\necho "secret=${TURN_SECRET-none}"\n')
    stub.chmod(0o755)
    env = {"PATH": f"{folder}{os.pathsep}{os.environ['PATH']}", "TMPDIR": str(folder), **variables}
    script = ROOT / SERVICES["turn"]["volumes"][0].partition(":")[0]
    return subprocess.run(["sh", script], env=env, capture_output=True, text=True, check=False)


@pytest.mark.parametrize(
    ("variables", "reason"),
    [
        ({}, "TURN_SECRET: is not set"),
        ({"TURN_SECRET": ""}, "TURN_SECRET: is not set"),
        ({"TURN_SECRET": "short"}, "TURN_SECRET has 5 characters; at least 32"),
        ({"TURN_SECRET": SECRET + "\nno-auth"}, "TURN_SECRET: only letters and digits"),
    ],
)
def test_turn_server_refuses_to_start_without_a_good_secret(
    variables: dict[str, str], reason: str, tmp_path: Path
) -> None:
    done = turn(tmp_path, **variables)
    assert done.returncode == 2
    assert reason in done.stderr
    assert done.stdout == ""
    assert not (tmp_path / "turnserver.conf").exists()


def test_turn_server_gets_its_secret_in_a_file_that_others_cannot_read(tmp_path: Path) -> None:
    done = turn(tmp_path, TURN_SECRET=SECRET, TURN_EXTERNAL_IP="192.0.2.7")
    assert done.returncode == 0, done.stderr
    conf = tmp_path / "turnserver.conf"
    assert conf.read_text() == f"use-auth-secret\nstatic-auth-secret={SECRET}\n"
    assert conf.stat().st_mode & 0o777 == 0o600
    assert SECRET not in done.stdout
    assert "secret=none" in done.stdout
    assert "--external-ip=192.0.2.7" in done.stdout.splitlines()
    # IPv4 written as IPv6 leads into the network behind the server as well; turnserver takes ranges, not /96.
    assert "--denied-peer-ip=::ffff:0:0-::ffff:ffff:ffff" in done.stdout.splitlines()
    assert "--denied-peer-ip=64:ff9b::-64:ff9b::ffff:ffff" in done.stdout.splitlines()
    assert "--external-ip" not in turn(tmp_path, TURN_SECRET=SECRET).stdout


def test_turn_server_waits_for_its_certificate_and_reads_it_anew(tmp_path: Path) -> None:
    stub = tmp_path / "turnserver"
    stub.write_text('#!/bin/sh\ntrap "echo anew; exit 0" USR2\nprintf "%s\\n" "$@"\nwhile :; do sleep 0.05; done\n')
    stub.chmod(0o755)
    certificate, key = tmp_path / "turn.crt", tmp_path / "turn.key"
    env = {
        "PATH": f"{tmp_path}{os.pathsep}{os.environ['PATH']}",
        "TMPDIR": str(tmp_path),
        "TURN_SECRET": SECRET,
        "TURN_CERT": str(certificate),
        "TURN_KEY": str(key),
        "TURN_TLS_PORT": "443",
        "TURN_CERT_CHECK_S": "0.1",
    }
    output = tmp_path / "output"

    def said(word: str) -> None:
        until = time.monotonic() + 20
        while word not in output.read_text().splitlines():
            assert time.monotonic() < until, output.read_text()
            time.sleep(0.05)

    with running(["sh", str(ROOT / "docker" / "turn.sh")], env, tmp_path):
        said(f"waiting for {certificate} and {key}")
        for file in (key, certificate):
            file.write_text("made")
        said("--tls-listening-port=443")
        assert {f"--cert={certificate}", f"--pkey={key}"} <= set(output.read_text().splitlines())
        assert not {"--no-tls", "anew"} & set(output.read_text().splitlines())
        later = time.time() + 5
        os.utime(certificate, (later, later))
        said("anew")
    assert "--no-tls" in turn(tmp_path, TURN_SECRET=SECRET).stdout.splitlines()
