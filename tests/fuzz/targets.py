"""What is fed with changed bytes: everything that reads what a peer or a stream file says.

A target makes input number n from a seed, and feeds it. Whatever a reader raises but its own error is a finding.
"""

from __future__ import annotations

import json
import random
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, Final, Literal

import numpy as np
from aiortc.sdp import SessionDescription

from fuzz.mutate import changed, changed_fields, changed_records, changed_text
from handshakes import shaken
from kilocall.call.signalling import Signal, parse_from_client
from kilocall.codec.codebook import Codebook
from kilocall.control.rate_control import Plan, RateControl
from kilocall.control.session import Session
from kilocall.model.compact.speaker_adapter import WEIGHTS, SpeakerAdapter, base_hash
from kilocall.model.family import weights_folder
from kilocall.proto.control import Hello, LayerReport, SourcePicture, parse_control
from kilocall.proto.errors import BadInput, BadPacket
from kilocall.proto.layer_frame import MAX_LAYER_BYTES, LayerAssembly, LayerFragment, LayerFrame
from kilocall.proto.motion_message import MotionMessage
from kilocall.proto.motion_packet import MotionPacket
from kilocall.proto.stream_file import MAGIC, StreamReader, TimedPacket
from kilocall.receiver.decode import PacketDecoder
from kilocall.receiver.jitter_buffer import JitterBuffer
from kilocall.runtime.picture_header import read_header
from kilocall.runtime.pictures import best_format, encode_picture
from kilocall.sample import sample_stream
from meeting import SECRET

__all__ = ["TARGETS", "Target"]

VECTORS: Final = Path(__file__).parents[1] / "vectors"
#: Bytes of layer frames, of up to eight fragments of 40.
SIZES: Final = (1, 30, 40, 41, 100, 320)
#: What has a state gets a new one after so many inputs.
FRESH_EVERY: Final = 500
OFFER: Final = (
    "v=0\r\no=- 1 1 IN IP4 0.0.0.0\r\ns=-\r\nt=0 0\r\na=group:BUNDLE 0 1\r\na=msid-semantic:WMS *\r\n"
    "m=audio 40000 UDP/TLS/RTP/SAVPF 96 0\r\nc=IN IP4 192.0.2.1\r\na=sendrecv\r\na=mid:0\r\na=rtcp-mux\r\n"
    "a=ssrc:5 cname:x\r\na=rtpmap:96 opus/48000/2\r\na=rtpmap:0 PCMU/8000\r\na=fmtp:96 useinbandfec=1\r\n"
    "a=candidate:1 1 udp 2130706431 192.0.2.1 40000 typ host\r\n"
    "a=ice-ufrag:abcd\r\na=ice-pwd:0123456789012345678901\r\n"
    "a=fingerprint:sha-256 " + ":".join(["AB"] * 32) + "\r\na=setup:actpass\r\n"
    "m=application 40000 UDP/DTLS/SCTP webrtc-datachannel\r\nc=IN IP4 192.0.2.1\r\na=mid:1\r\na=sctp-port:5000\r\n"
    "a=max-message-size:65536\r\n"
    "a=candidate:2 1 udp 1694498815 198.51.100.7 40001 typ srflx raddr 192.0.2.1 rport 9\r\n"
    "a=end-of-candidates\r\na=ice-ufrag:abcd\r\na=ice-pwd:0123456789012345678901\r\n"
    "a=fingerprint:sha-256 " + ":".join(["CD"] * 32) + "\r\na=setup:actpass\r\n"
)


class Target(ABC):
    """One reader. `share` is its part of all inputs."""

    name: str
    share: float

    @abstractmethod
    def made(self, rng: random.Random) -> bytes | str:
        """An input."""

    @abstractmethod
    def feed(self, data: bytes | str) -> None:
        """Reads it; whatever this raises is a finding."""

    def fresh(self) -> None:  # noqa: B027  # most have no state
        """Forgets what came before."""


class Packets(Target):
    """Motion packets: parsed, put in order and decoded, one state for many."""

    name, share = "packets", 0.3

    def __init__(self) -> None:
        found = json.loads((VECTORS / "motion_packets.json").read_text())
        self._seeds = [bytes.fromhex(one["bytes"]) for one in found]
        sample = list(StreamReader(sample_stream("astronaut")).packets())[:60]
        self._seeds += [bytes(timed.packet) for timed in sample]
        self._codebook = Codebook.load(weights_folder() / "codebook.safetensors")
        self.fresh()

    def fresh(self) -> None:
        self._decoder, self._jitter, self._now_us = PacketDecoder(self._codebook), JitterBuffer(), 1_000_000

    def made(self, rng: random.Random) -> bytes:
        return changed(self._seeds, rng)

    def feed(self, data: bytes | str) -> None:
        assert isinstance(data, bytes)
        self._now_us += 40_000
        with suppress(BadPacket):
            packet = MotionPacket.parse(data)
            if bytes(packet) != data:
                raise AssertionError("packet is written in other bytes than it was read from")
            self._jitter.push(packet, self._now_us)
            self._decoder.push(packet)
        self._jitter.pop(self._now_us)
        self._jitter.report(self._now_us, 1000)


class Messages(Target):
    """Messages of the data channel: a motion packet and fragments of the layer."""

    name, share = "messages", 0.1

    def __init__(self) -> None:
        found = json.loads((VECTORS / "motion_messages.json").read_text())
        self._seeds = [bytes.fromhex(one["bytes"]) for one in found]

    def made(self, rng: random.Random) -> bytes:
        return changed(self._seeds, rng)

    def feed(self, data: bytes | str) -> None:
        assert isinstance(data, bytes)
        with suppress(BadPacket):
            if bytes(MotionMessage.parse(data)) != data:
                raise AssertionError("message is written in other bytes than it was read from")


class LayerFragments(Target):
    """Fragments of the layer at one assembly for many: changed bytes, or whole frames with some fields changed, in any
    order."""

    name, share = "layer fragments", 0.1

    def __init__(self) -> None:
        found = json.loads((VECTORS / "layer_frames.json").read_text())
        self._seeds = [bytes.fromhex(one) for entry in found for one in entry["fragments"]]
        self.fresh()

    def fresh(self) -> None:
        self._assembly = LayerAssembly()

    def made(self, rng: random.Random) -> bytes:
        if rng.random() < 0.3:
            return changed(self._seeds, rng)
        number, time_ms = rng.randrange(256), rng.randrange(65536)
        frames = [
            LayerFrame((number + n) % 256, (time_ms + 80 * n) % 65536, n == 0, rng.randbytes(rng.choice(SIZES)))
            for n in range(rng.choice((1, 2, 6)))
        ]
        pieces = [bytearray(bytes(piece)) for frame in frames for piece in frame.fragments(40)]
        rng.shuffle(pieces)
        for _ in range(rng.choice((0, 0, 1, 3))):
            rng.choice(pieces)[rng.randrange(4)] ^= rng.choice((1, 8, 0x40, 0x80))
        return b"".join(pieces[: rng.choice((3, 8, 8, 8))])

    def feed(self, data: bytes | str) -> None:
        assert isinstance(data, bytes)
        with suppress(BadPacket):
            pieces = LayerFragment.parse_run(data)
            if b"".join(bytes(piece) for piece in pieces) != data:
                raise AssertionError("fragments are written in other bytes than they were read from")
            for piece in pieces:
                frame = self._assembly.add(piece)
                if frame is not None and (frame.number != piece.number or piece.data not in frame.data):
                    raise AssertionError(f"frame {frame.number} came of a fragment of {piece.number}")


class Control(Target):
    """Control messages: what is read is written back, and read again as the same."""

    name, share = "control", 0.3

    def __init__(self) -> None:
        found = json.loads((VECTORS / "control_messages.json").read_text())
        self._seeds = [bytes.fromhex(one) for one in found.values()]

    def made(self, rng: random.Random) -> bytes:
        return (changed if rng.random() < 0.5 else changed_fields)(self._seeds, rng)

    def feed(self, data: bytes | str) -> None:
        assert isinstance(data, bytes)
        try:
            message = parse_control(data)
        except BadPacket:
            return
        if parse_control(bytes(message)) != message:
            raise AssertionError(f"{message!r:.200} is read back as another")


class _Threads:
    """The two model threads of a session: they take everything and answer nothing."""

    def acknowledge(self, sequence: int) -> None: ...
    def confirm(self, picture_hash: str) -> None: ...
    def follow(self, plan: Plan) -> None: ...
    def ask_layer(self, report: LayerReport) -> None: ...
    def take_camera(self) -> None: ...
    def limit(self, fps: float) -> None: ...
    def expect(self, fps: float) -> None: ...
    def show_camera(self, shown: bool, from_us: int) -> None: ...
    def prepare(self, picture_hash: str, data: bytes) -> None: ...
    def use(self, picture_hash: str, from_us: int) -> None: ...
    def adapt(self, file_hash: str, data: bytes) -> None: ...
    def refer(self, base_hash: str, picture_hash: str, data: bytes) -> None: ...
    def forget(self) -> None: ...


class Sessions(Control):
    """The same messages at a session that has been greeted: it says something, or drops them."""

    name, share = "session", 0.15

    def __init__(self) -> None:
        super().__init__()
        self.fresh()

    def fresh(self) -> None:
        self._now_us = 1_000_000_000
        threads = _Threads()
        hello = Hello("compact-256", "0f" * 32, "a5" * 32, 25_000, 1000, 256)
        self._session = Session(
            threads, threads, rate=RateControl(), clock_us=lambda: self._now_us, link_name=SECRET.name
        )
        self._session.introduce(hello)
        self._session.own_source(SourcePicture("webp", b"mine"))
        self._session.adapters.offer(b"mine")
        self._session.opened(self._sent, shaken()[0])
        self._session.control(bytes(hello), self._now_us)

    def _sent(self, data: bytes) -> bool:
        parse_control(data)
        return True

    def feed(self, data: bytes | str) -> None:
        assert isinstance(data, bytes)
        self._now_us += 20_000
        self._session.control(data, self._now_us)
        if self._now_us % 1_000_000 == 0:
            self._session.tick()


class Streams(Target):
    """Stream files: all records, pictures, seeking; half of the files with checksums that fit."""

    name, share = "streams", 0.1

    def __init__(self) -> None:
        self._seeds = [(VECTORS / name).read_bytes() for name in ("stream.kcs", "layer.kcs", "camera.kcs")]
        self._start = self._seeds[0][: len(MAGIC) + 2]

    def made(self, rng: random.Random) -> bytes:
        if rng.random() < 0.5:
            return changed(self._seeds, rng)
        whole = rng.choice(self._seeds)
        return changed_records(self._start, _records(whole), whole[-16:], rng)

    def feed(self, data: bytes | str) -> None:
        assert isinstance(data, bytes)
        try:
            reader = StreamReader(data)
        except BadInput:
            return
        for record in reader.records():
            if isinstance(record, TimedPacket):
                record.frame_times_us(reader.header.fps)
        reader.source_picture()
        reader.references()
        if any(len(frame.data) > MAX_LAYER_BYTES for frame in reader.video()):
            raise AssertionError("a layer frame is longer than any may be")
        for time_us in (0, 500_000, 1 << 50):
            entry = reader.seek(time_us)
            if entry is not None:
                next(reader.records(entry.offset), None)


def _records(whole: bytes) -> list[tuple[int, bytes]]:
    """Types and bodies of a stream file's records, each shorter than 16 KiB; by `wire.md` alone."""
    found, at = [], len(MAGIC) + 2
    while at < len(whole) - 16:
        kind, length, at = whole[at], whole[at + 1], at + 2
        if length > 127:
            length, at = length & 127 | whole[at] << 7, at + 1
        found.append((kind, whole[at : at + length]))
        at += length + 4
    return found


class Descriptions(Target):
    """What the signalling server passes on: JSON, and the session description in it, which aiortc reads.

    A peer that meets any exception of aiortc's refuses the description; only what never returns would be a finding.
    """

    name, share = "descriptions", 0.05

    def __init__(self) -> None:
        kinds: tuple[Literal["offer", "answer"], ...] = ("offer", "answer")
        signals = [Signal(session=7, kind=kind, sdp=OFFER).model_dump_json() for kind in kinds]
        others = ['{"type":"join","room":"tea","secret":null}', '{"type":"renew","session":1}', '{"type":"leave"}']
        self._seeds = [text.encode() for text in (*signals, *others)]

    def made(self, rng: random.Random) -> str:
        if rng.random() < 0.5:
            return changed_text(self._seeds, rng)
        sdp = changed_text([OFFER.encode()], rng)
        return Signal.model_construct(type="signal", session=7, kind="offer", sdp=sdp).model_dump_json()

    def feed(self, data: bytes | str) -> None:
        assert isinstance(data, str)
        try:
            message = parse_from_client(data)
        except ValueError:
            return
        if isinstance(message, Signal):
            with suppress(Exception):
                SessionDescription.parse(message.sdp)


class SpeakerAdapters(Target):
    """Speaker adapters: half of them with a hash that fits, and then laid over the weights."""

    name, share = "personal files", 0.01

    def __init__(self) -> None:
        self._folder = weights_folder()
        files = json.loads((self._folder / "manifest.json").read_text())["files"]
        name = "generator.paint.bias"
        before = {name: np.zeros(4, np.float16)}
        after = {name: np.ones(4, np.float16)}
        self._made = SpeakerAdapter.between(before, after, family="compact-256", base=base_hash(files))
        self._seeds = [_in_order(bytes(self._made))]
        assert (self._folder / WEIGHTS).is_file()

    def made(self, rng: random.Random) -> bytes:
        if rng.random() < 0.9:
            return changed(self._seeds, rng)
        made = self._made
        names = made.names if rng.random() < 0.5 else (*made.names, rng.choice(("", "x" * 300, made.names[0])))
        changes = changed([made.changes], rng)
        figures: dict[str, Any] = {"a": rng.choice((1, None, [], {}, "x"))}
        return _in_order(bytes(SpeakerAdapter(made.family, made.base, "", names, {}, changes).with_figures(figures)))

    def feed(self, data: bytes | str) -> None:
        assert isinstance(data, bytes)
        with suppress(BadInput):
            SpeakerAdapter.parse(data).changed(self._folder)


def _in_order(file: bytes) -> bytes:
    """A safetensors file with the names in its header sorted: the library writes them in any order."""
    length = int.from_bytes(file[:8], "little")
    header = json.dumps(json.loads(file[8 : 8 + length]), sort_keys=True).encode()
    return len(header).to_bytes(8, "little") + header + file[8 + length :]


class PictureHeaders(Target):
    """Pictures, of which the header alone is read in this process."""

    name, share = "picture headers", 0.09

    def __init__(self) -> None:
        flat = np.full((64, 64, 3), 90, np.uint8)
        formats: set[Literal["avif", "webp"]] = {"webp", best_format()}
        self._seeds = [encode_picture(flat, format=format)[1] for format in sorted(formats)]

    def made(self, rng: random.Random) -> bytes:
        return changed(self._seeds, rng)

    def feed(self, data: bytes | str) -> None:
        assert isinstance(data, bytes)
        with suppress(BadInput):
            read_header(data)


TARGETS: Final[Sequence[Callable[[], Target]]] = (
    *(Packets, Messages, LayerFragments, Control, Sessions, Streams, Descriptions, SpeakerAdapters, PictureHeaders),
)
