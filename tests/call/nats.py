"""Two homes behind a NAT each, and the public network between them with a signalling server and a TURN server.

    home "a" 192.168.1.2 - router 192.168.1.1 | 198.51.100.2  -\\
                                                                 public 203.0.113.1
    home "b" 192.168.1.2 - router 192.168.1.1 | 198.51.100.6  -/

Network namespaces of this machine; needs root on Linux, nft (nftables) and turnserver (coturn).
"""

from __future__ import annotations

import datetime
import ipaddress
import json
import os
import shutil
import subprocess
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Final, Literal, Self

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

from kilocall.bench.network import SIDES, Side, why_unavailable

ROOT: Final = Path(__file__).parents[2]
PUBLIC: Final = "203.0.113.1"
TURN_PORT: Final = 3478
#: Routers' own addresses, on the public side.
ROUTERS: Final[dict[Side, str]] = {"a": "198.51.100.2", "b": "198.51.100.6"}
GATEWAYS: Final[dict[Side, str]] = {"a": "198.51.100.1", "b": "198.51.100.5"}
#: A port of its own for every other end (address and port dependent mapping, RFC 4787), and nobody gets in who was not
#: asked: two of these cannot reach each other directly.
ROUTER: Final = """
table ip nat {{ chain out {{ type nat hook postrouting priority srcnat; oifname "public" masquerade fully-random; }}; }}
table ip filter {{ chain forward {{
    type filter hook forward priority filter; policy drop;
    iifname "home" {} accept; ct state established,related accept;
}}; }}
"""
#: The public network carries what goes from one router to the other, and counts it.
BETWEEN: Final = """
table ip seen { counter between { }; chain forward {
    type filter hook forward priority filter; policy accept; counter name "between";
}; }
"""


def why_no_nats() -> str | None:
    """Why this machine cannot have them; None when it can."""
    for program, package in (("nft", "nftables"), ("turnserver", "coturn")):
        if shutil.which(program) is None:
            return f"the program {program} ({package}) is missing"
    return why_unavailable()


def make_certificate(folder: Path) -> dict[str, str]:
    """A certificate for PUBLIC that says so itself: the variables of turn.sh."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "public")])
    now = datetime.datetime.now(datetime.UTC)
    made = (
        x509.CertificateBuilder(name, name, key.public_key(), x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(days=1))
        .not_valid_after(now + datetime.timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address(PUBLIC))]), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .sign(key, hashes.SHA256())
    )
    files = {"TURN_CERT": folder / "public.crt", "TURN_KEY": folder / "public.key"}
    pem = serialization.Encoding.PEM
    files["TURN_CERT"].write_bytes(made.public_bytes(pem))
    files["TURN_KEY"].write_bytes(
        key.private_bytes(pem, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    )
    return {name: str(file) for name, file in files.items()}


class BehindNats:
    """A context manager; a `Network` for `TwoParties`. `turn` are variables of turn.sh; with `only_tcp` no router lets
    anything else out."""

    meeting_host = PUBLIC

    def __init__(self, turn: Mapping[str, str], *, only_tcp: bool = False) -> None:
        self._turn_variables, self._only_tcp = turn, only_tcp
        self._names = {
            place: f"kilocall{os.getpid()}{place}" for place in ("public", "router_a", "router_b", "home_a", "home_b")
        }
        self._folder: tempfile.TemporaryDirectory[str] | None = None
        self._turn: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> Self:
        self._folder = tempfile.TemporaryDirectory(prefix="kilocall_turn_")
        try:
            for name in self._names.values():
                _run(["ip", "netns", "add", name])
                _run(["ip", "-n", name, "link", "set", "dev", "lo", "up"])
            self._at("public", "ip", "address", "add", f"{PUBLIC}/32", "dev", "lo")
            for side in SIDES:
                self._connect(side)
            for place in ("public", "router_a", "router_b"):
                self._at(place, "sysctl", "-qw", "net.ipv4.ip_forward=1")
                rules = BETWEEN if place == "public" else ROUTER.format("meta l4proto tcp" if self._only_tcp else "")
                self._at(place, "nft", "-f", "-", given=rules)
            self._start_turn(Path(self._folder.name))
        except BaseException:
            self.close()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Takes everything away again."""
        if self._turn is not None:
            self._turn.kill()
            self._turn.wait()
        for name in self._names.values():
            subprocess.run(["ip", "netns", "del", name], capture_output=True, check=False)
        if self._folder is not None:
            self._folder.cleanup()

    def inside(self, place: Side | Literal["meeting"], command: Sequence[str]) -> list[str]:
        """`command` as it must be started to run at a side's home, or beside the signalling server."""
        name = self._names["public" if place == "meeting" else f"home_{place}"]
        return ["ip", "netns", "exec", name, *command]

    def packets_between(self) -> int:
        """How many have gone from one router to the other, in either direction."""
        told = self._at("public", "nft", "-j", "list", "counters")
        found: list[dict[str, Any]] = json.loads(told)["nftables"]
        return next(int(one["counter"]["packets"]) for one in found if "counter" in one)

    def _connect(self, side: Side) -> None:
        """A home, its router, and the public network's end."""
        home, router, public = (self._names[place] for place in (f"home_{side}", f"router_{side}", "public"))
        _run(["ip", "link", "add", "lan", "netns", home, "type", "veth", "peer", "name", "home", "netns", router])
        _run(["ip", "link", "add", "public", "netns", router, "type", "veth", "peer", "name", side, "netns", public])
        for name, device, address in (
            (home, "lan", "192.168.1.2/24"),
            (router, "home", "192.168.1.1/24"),
            (router, "public", f"{ROUTERS[side]}/30"),
            (public, side, f"{GATEWAYS[side]}/30"),
        ):
            _run(["ip", "-n", name, "address", "add", address, "dev", device])
            _run(["ip", "-n", name, "link", "set", "dev", device, "up"])
        _run(["ip", "-n", home, "route", "add", "default", "via", "192.168.1.1"])
        _run(["ip", "-n", router, "route", "add", "default", "via", GATEWAYS[side]])

    def _start_turn(self, folder: Path) -> None:
        with (folder / "turn.log").open("w") as log:
            self._turn = subprocess.Popen(
                self.inside("meeting", ["sh", str(ROOT / "docker" / "turn.sh")]),
                env={"PATH": os.environ["PATH"], "TMPDIR": str(folder), "TURN_ADDRESS": PUBLIC, **self._turn_variables},
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
            )
        until = time.monotonic() + 10
        while f":{TURN_PORT} " not in self._at("public", "ss", "-uln"):
            if self._turn.poll() is not None or time.monotonic() > until:
                raise OSError(f"turnserver did not start: {(folder / 'turn.log').read_text()[-600:]}")
            time.sleep(0.05)

    def _at(self, place: str, *command: str, given: str | None = None) -> str:
        return _run(["ip", "netns", "exec", self._names[place], *command], given)


def _run(command: list[str], given: str | None = None) -> str:
    done = subprocess.run(command, input=given, capture_output=True, text=True, check=False)
    if done.returncode:
        raise OSError(f"{' '.join(command)}: {done.stderr.strip()[:300]}")
    return done.stdout
