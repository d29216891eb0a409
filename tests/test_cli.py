"""The command line: what is refused gets one line and exit code 2, and nothing half-written stays behind."""

from __future__ import annotations

import errno
import io
import json
import os
import signal
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import av
import cv2
import numpy as np
import pytest
from numpy.typing import NDArray
from typer.main import get_command

from kilocall.cli import run
from kilocall.cli.app import app
from kilocall.cli.call import say_what_is_seen
from kilocall.cli.opening import find_stream
from kilocall.proto.control import SourcePicture
from kilocall.proto.errors import BadInput
from kilocall.proto.stream_file import StreamReader, StreamWriter
from kilocall.runtime.web import listen
from runtime.attacks import avif_that_lies, jpeg_of_many_scans

ROOT = Path(__file__).parents[1]
SOURCES = os.pathsep.join(str(ROOT / name) for name in ("proto", "sender", "receiver", "shared"))
VERBS = (
    *("encode", "decode", "info", "replay", "export-page", "demo", "evaluate", "export", "version", "doctor"),
    *("finetune", "compress-study"),
    *("train extractor", "train renderer", "train codebook", "train fusion", "bench speed"),
)

Picture = NDArray[np.uint8]
Command = Callable[..., "subprocess.Popen[str]"]


def write_video(path: Path, pictures: list[Picture]) -> Path:
    with av.open(str(path), "w") as container:
        stream: Any = container.add_stream("libx264", rate=25)
        stream.height, stream.width = pictures[0].shape[:2]
        stream.pix_fmt = "yuv420p"
        for picture in pictures:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))
        container.mux(stream.encode(None))
    return path


@pytest.fixture(scope="module")
def portrait() -> Picture:
    """NASA's portrait of Eileen Collins, public domain, uint8 RGB [384, 384, 3]."""
    bgr = cv2.imread(str(ROOT / "tests" / "data" / "astronaut.webp"))
    assert bgr is not None
    return np.ascontiguousarray(bgr[:384, 40:424, ::-1]).astype(np.uint8)


@pytest.fixture(scope="module")
def clip(portrait: Picture, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Twelve frames of a portrait that drifts to the right."""
    pictures = [np.roll(portrait, step, axis=1) for step in range(12)]
    return write_video(tmp_path_factory.mktemp("clip") / "portrait.mp4", pictures)


@pytest.fixture(scope="module")
def stream(clip: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("stream") / "portrait.kcs"
    assert run(["encode", str(clip), "-o", str(out), "--threads", "1"]) == 0
    return out


@pytest.fixture
def wall(tmp_path: Path) -> Path:
    """A clip without a face."""
    noise = np.random.default_rng(3).integers(60, 200, (24, 24, 3)).astype(np.uint8)
    picture = np.asarray(cv2.resize(noise, (256, 256), interpolation=cv2.INTER_CUBIC), np.uint8)
    return write_video(tmp_path / "wall.mp4", [picture] * 5)


@pytest.fixture
def command() -> Iterator[Command]:
    """command(*arguments): the program in a process of its own; `before` is run in it first."""
    started: list[subprocess.Popen[str]] = []

    def start(*arguments: str, before: str = "") -> subprocess.Popen[str]:
        code = f"{before}\nimport sys\nfrom kilocall.cli import main\nsys.argv = {['kilocall', *arguments]!r}\nmain()"
        process = subprocess.Popen(
            [sys.executable, "-c", code],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env={**os.environ, "PYTHONPATH": SOURCES},
        )
        started.append(process)
        return process

    yield start
    for process in started:
        if process.poll() is None:
            process.kill()
        process.communicate(timeout=10)


def refused(capsys: pytest.CaptureFixture[str], *arguments: object) -> str:
    """The one line that says why; exit code 2."""
    capsys.readouterr()
    assert run([str(a) for a in arguments]) == 2
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 1, lines
    assert lines[0].startswith("kilocall: ")
    return lines[0]


@pytest.mark.parametrize("verb", VERBS)
def test_every_verb_explains_itself(verb: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert run([*verb.split(), "--help"]) == 0
    assert f"kilocall {verb}" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["encode", "a", "-o", "b", "--quality", "101"], "--quality is 101; allowed: 0 to 100"),
        (["encode", "a", "-o", "b", "--fps", "nan"], "--fps is nan; allowed: 1 to 60"),
        (["encode", "a", "-o", "b", "--engine", "x"], "--engine is x; allowed: 'auto'"),
        (["bench", "call", "--rate-kbps", "-1"], "--rate-kbps is -1; allowed: 0 or more"),
        (["bench", "call", "--layer", "4"], "layer is 4 kbit/s; allowed are 0 (none), 1.5, 3, 6, 12, 24"),
        (["bench", "call", "--layer", "3", "--idle"], "layer is 3 and idle is on"),
        (["encode", "a", "--qualty", "3"], "--qualty"),
        (["encode", "a"], "Missing option '--out'"),
        (["encod"], "No such command 'encod'"),
    ],
)
def test_a_wrong_option_gets_one_line_with_name_value_and_what_is_allowed(
    arguments: list[str], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert said in refused(capsys, *arguments)


def test_help_loads_nothing_heavy(command: Command) -> None:
    check = "import atexit, sys; atexit.register(lambda: print('loaded', *sys.modules))"
    out, err = command("--help", before=check).communicate(timeout=30)
    loaded = set(out.split("loaded", 1)[1].split())
    assert not loaded & {"numpy", "cv2", "av", "torch", "openvino", "onnxruntime", "fastapi", "pydantic"}, err
    assert "Talking-head video" in out


def test_a_link_is_read_from_standard_input_and_one_that_can_be_guessed_refused(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("sys.stdin", io.StringIO("http://127.0.0.1:9/tea#guessed1\n"))
    assert "the link's secret has 48 bits; allowed are 16 to 48 random bytes" in refused(capsys, "call", "--room", "-")
    monkeypatch.setattr("sys.stdin", io.StringIO(""))
    assert "standard input holds no line" in refused(capsys, "call", "--room", "-")


def test_a_link_comes_from_the_environment_and_one_among_the_arguments_is_warned_of(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("KILOCALL_ROOM", "tea#guessed1")
    assert "the link's secret has 48 bits" in refused(capsys, "call")
    assert run(["call", "--room", "tea#guessed1"]) == 2
    assert "other users of this machine can see a link in a program's arguments" in capsys.readouterr().err


def test_what_a_signalling_server_without_tls_can_see_is_said(capsys: pytest.CaptureFixture[str]) -> None:
    for server, said in (
        ("http://meeting.example:8700", True),
        ("meeting.example", True),
        ("https://meeting.example", False),
        ("http://127.0.0.1:8700", False),
    ):
        say_what_is_seen(server)
        assert ("is asked without TLS" in capsys.readouterr().err) == said


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        ("encode a.mp4 -o a.kcs --quality 101", "--quality"),
        ("encode a.mp4 -o a.kcs --fps 0.5", "--fps"),
        ("encode a.mp4 -o a.kcs --frames-per-packet 9", "--frames-per-packet"),
        ("encode a.mp4 -o a.kcs --engine abacus", "--engine"),
        ("encode a.mp4", "--out"),
        ("decode a.kcs -o a.mp4 --yaw 91", "--yaw"),
        ("decode a.kcs -o a.mp4 --pitch -91", "--pitch"),
        ("decode a.kcs -o a.mp4 --roll x", "--roll"),
        ("decode a.kcs -o a.mp4 --size 32", "--size"),
        ("replay a.kcs --port 70000", "--port"),
        ("sing", "sing"),
    ],
)
def test_a_setting_out_of_range_is_named(arguments: str, reason: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(arguments.split()) == 2
    assert reason in capsys.readouterr().err


def test_a_missing_file_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for verb in (["info"], ["decode", "-o", tmp_path / "out.mp4"], ["encode", "-o", tmp_path / "out.kcs"]):
        assert "missing.x" in refused(capsys, *verb, tmp_path / "missing.x")
    assert not list(tmp_path.iterdir())


def test_a_foreign_file_is_no_stream(tmp_path: Path, clip: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert "a kilocall stream begins with" in refused(capsys, "info", clip)
    assert "a kilocall stream begins with" in refused(capsys, "decode", clip, "-o", tmp_path / "out.mp4")
    assert not list(tmp_path.iterdir())


def test_a_stream_cut_in_its_header_is_refused(
    stream: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    cut = tmp_path / "cut.kcs"
    cut.write_bytes(stream.read_bytes()[:30])
    assert "header" in refused(capsys, "info", cut)


def test_a_stream_cut_later_plays_up_to_there(stream: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    cut = tmp_path / "cut.kcs"
    data = stream.read_bytes()
    cut.write_bytes(data[: len(data) - 80])
    out = tmp_path / "out.mp4"
    assert run(["decode", str(cut), "-o", str(out), "--threads", "1"]) == 0
    assert "breaks off" in capsys.readouterr().err
    assert out.exists()


def test_info_as_json_agrees_with_the_table(stream: Path, capsys: pytest.CaptureFixture[str]) -> None:
    capsys.readouterr()
    assert run(["info", str(stream), "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["frames"] == 12
    assert 0 < found["source_bytes"] <= 6144
    assert [rate["frames_per_packet"] for rate in found["wire"]] == [1, 2, 3]
    assert run(["info", str(stream)]) == 0
    assert f"{found['payload_bits_mean']:.1f} bits a frame" in capsys.readouterr().out


def test_a_clip_without_a_face_is_refused(wall: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = wall.with_name("out.kcs")
    assert "face" in refused(capsys, "encode", wall, "-o", out)
    assert [p.name for p in wall.parent.iterdir()] == ["wall.mp4"]


def test_an_audio_only_file_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    sound = tmp_path / "sound.wav"
    with av.open(str(sound), "w") as container:
        voice: Any = container.add_stream("pcm_s16le", rate=8000)
        frame = av.AudioFrame.from_ndarray(np.zeros((1, 800), np.int16), format="s16", layout="mono")
        frame.sample_rate = 8000
        container.mux(voice.encode(frame))
    refused(capsys, "encode", sound, "-o", tmp_path / "out.kcs")
    assert [p.name for p in tmp_path.iterdir()] == ["sound.wav"]


def test_an_output_that_cannot_be_written_is_refused(
    clip: Path, stream: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    nowhere = tmp_path / "missing"
    assert str(nowhere) in refused(capsys, "encode", clip, "-o", nowhere / "a.kcs")
    assert str(nowhere) in refused(capsys, "decode", stream, "-o", nowhere / "a.mp4")
    assert "folder" in refused(capsys, "encode", clip, "-o", tmp_path)
    assert ".mp4" in refused(capsys, "decode", stream, "-o", tmp_path / "out.gif")
    assert not list(tmp_path.iterdir())


def test_what_is_read_is_not_written_over(
    clip: Path, stream: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = clip.read_bytes(), stream.read_bytes()
    link = tmp_path / "link.mp4"
    link.symlink_to(clip)
    for verb, read, written in (("encode", clip, clip), ("encode", clip, link), ("fit", stream, stream)):
        assert f"output {written} is a file that is read" in refused(capsys, verb, read, "-o", written)
    again = ("decode", stream, "-o", clip, "--full-frame", "--background", clip)
    assert "a file that is read" in refused(capsys, *again)
    assert (clip.read_bytes(), stream.read_bytes()) == before


@pytest.mark.skipif(sys.platform == "win32", reason="RLIMIT_FSIZE is POSIX")
@pytest.mark.parametrize("verb", ["encode", "decode"])
def test_a_full_disk_leaves_nothing_behind(
    verb: str, clip: Path, stream: Path, tmp_path: Path, command: Command
) -> None:
    given, out = (clip, tmp_path / "out.kcs") if verb == "encode" else (stream, tmp_path / "out.mp4")
    # 4 KiB are too few for either file; writing on then fails as it does on a full disk.
    limit = "import resource; resource.setrlimit(resource.RLIMIT_FSIZE, (4096, 4096))"
    process = command(verb, str(given), "-o", str(out), "--threads", "1", before=limit)
    _, err = process.communicate(timeout=120)
    assert process.returncode == 2, err
    assert len(err.splitlines()) == 1, err
    assert not list(tmp_path.iterdir())


def test_an_error_of_the_system_is_one_line_with_the_name(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def full(*_: object, **__: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device", "out\n\x1b[31m.kcs")

    monkeypatch.setattr("kilocall.cli.streams.encode_clip", full)
    line = refused(capsys, "encode", "a.mp4", "-o", "out.kcs")
    assert line == "kilocall: out [31m.kcs: No space left on device"


def test_ctrl_c_ends_with_130(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    def interrupted(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("kilocall.cli.streams.encode_clip", interrupted)
    assert run(["encode", "a.mp4", "-o", "out.kcs"]) == 130
    assert "Traceback" not in capsys.readouterr().err


@pytest.mark.skipif(sys.platform == "win32", reason="signals are sent as on POSIX")
@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_ended_from_outside_it_leaves_nothing_behind(
    number: signal.Signals, code: int, tmp_path: Path, command: Command
) -> None:
    out = tmp_path / "out.mp4"
    process = command("decode", "sample:astronaut", "-o", str(out), "--size", "512", "--threads", "1")
    deadline = time.monotonic() + 60
    while not list(tmp_path.iterdir()):
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < deadline
        time.sleep(0.01)
    process.send_signal(number)
    _, err = process.communicate(timeout=30)
    assert process.returncode == code, err
    assert "Traceback" not in err
    assert not list(tmp_path.iterdir())


def test_another_picture_and_a_turned_head_are_decoded(
    portrait: Picture, stream: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    other = tmp_path / "other.png"
    cv2.imwrite(str(other), portrait[:, ::-1, ::-1])
    out = tmp_path / "out.mp4"
    assert run(["decode", str(stream), "-o", str(out), "--source", str(other), "--yaw", "10", "--size", "128"]) == 0
    assert "another source picture" in capsys.readouterr().out
    with av.open(str(out)) as video:
        frames = list(video.decode(video=0))
    assert (len(frames), frames[0].width, frames[0].height) == (12, 128, 128)


def test_an_unreadable_source_picture_is_named(
    stream: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    broken = tmp_path / "broken.jpg"
    broken.write_bytes(b"\xff\xd8\xff\xe0 no more")
    assert "broken.jpg" in refused(capsys, "decode", stream, "-o", tmp_path / "out.mp4", "--source", broken)
    assert [p.name for p in tmp_path.iterdir()] == ["broken.jpg"]


def test_samples_are_found_by_name() -> None:
    assert find_stream(Path("sample:astronaut")).name == "astronaut.kcs"
    assert find_stream(Path("clip.kcs")) == Path("clip.kcs")
    with pytest.raises(BadInput, match="astronaut, drawing"):
        find_stream(Path("sample:nobody"))


def altered(stream: Path, out: Path, *, picture: bytes | None = None, gap_us: int = 0) -> Path:
    """The stream with other bytes as its source picture, and with a gap before its second half."""
    reader = StreamReader(stream)
    source = reader.source_picture()
    assert source is not None
    with StreamWriter(out, reader.header) as writer:
        writer.add_picture(source if picture is None else SourcePicture("webp", picture))
        packets = list(reader.packets())
        for number, timed in enumerate(packets):
            late = gap_us if number >= len(packets) // 2 else 0
            writer.add_packet(timed.time_us + late, timed.packet)
    return out


@pytest.mark.parametrize(
    ("attack", "said"),
    [(lambda: jpeg_of_many_scans(20_000), "no AVIF or WebP"), (lambda: avif_that_lies(256, 4000), "4000x4000")],
    ids=["jpeg of 20,000 scans", "avif that lies"],
)
@pytest.mark.parametrize("verb", ["decode", "replay"])
def test_stream_whose_picture_is_an_attack_is_refused_at_once(
    stream: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    verb: str,
    attack: Callable[[], bytes],
    said: str,
) -> None:
    bad = altered(stream, tmp_path / "bad.kcs", picture=attack())
    arguments = ["-o", tmp_path / "out.mp4"] if verb == "decode" else ["--no-open"]
    began = time.monotonic()
    line = refused(capsys, verb, bad, *arguments)
    assert time.monotonic() - began < 20  # it took 41 s on an idle machine
    assert f"{bad}: its source picture cannot be used" in line
    assert said in line
    assert not (tmp_path / "out.mp4").exists()


def test_stream_with_a_gap_of_days_is_refused_before_anything_is_written(
    stream: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    long = altered(stream, tmp_path / "long.kcs", gap_us=12 * 24 * 3600 * 1_000_000)
    line = refused(capsys, "decode", long, "-o", tmp_path / "out.mp4")
    assert f"{long}: its last frame comes after 288.0 h, a video may last 24 h" in line
    assert [file.name for file in tmp_path.iterdir()] == ["long.kcs"]


@pytest.mark.skipif(sys.platform == "win32", reason="signals are sent as on POSIX")
def test_replay_serves_its_page_and_ends_cleanly(stream: Path, command: Command) -> None:
    process = command("replay", str(stream), "--port", "0", "--no-open", "--threads", "1")
    assert process.stdout is not None
    line = process.stdout.readline()
    assert "portrait.kcs at http://127.0.0.1:" in line, process.communicate(timeout=10)
    address, _, key = line.split(" at ")[1].split()[0].partition("#")
    with urllib.request.urlopen(address, timeout=10) as reply:
        assert b"Reconstructed from one picture" in reply.read()
    asked = urllib.request.Request(f"{address}source.jpg", headers={"Authorization": f"Bearer {key}"})
    with urllib.request.urlopen(asked, timeout=10) as reply:
        source = cv2.imdecode(np.frombuffer(reply.read(), np.uint8), cv2.IMREAD_COLOR)
    assert source is not None
    assert source.shape == (256, 256, 3)
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=30)
    assert process.returncode == 130, err
    assert "Traceback" not in err


@pytest.mark.parametrize(
    "arguments",
    [
        ["serve"],
        ["replay", "sample:drawing", "--no-open", "--threads", "1"],
        ["call", "--room", "tea", "--camera", "browser", "--no-open"],
    ],
)
def test_a_port_in_use_is_one_line(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with listen("127.0.0.1", 0) as taken:
        address = f"127.0.0.1:{taken.getsockname()[1]}"
        said = refused(capsys, *arguments, "--port", address.partition(":")[2])
        assert address in said
        assert "in use" in said


def test_a_window_that_opencv_lacks_is_refused(stream: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from kilocall.receiver.window import has_windows

    if has_windows():
        pytest.skip("this OpenCV has windows")
    assert "--window" in refused(capsys, "replay", stream, "--window")


def test_training_data_that_is_not_there_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("torch")
    where = ["--data", tmp_path / "data", "--cache", tmp_path / "cache", "--run", tmp_path / "run"]
    assert "has no folder train" in refused(capsys, "train", "extractor", *where, "--device", "cpu")
    assert "allowed are auto, cpu, cuda" in refused(capsys, "train", "renderer", *where, "--device", "abacus")
    assert not list(tmp_path.iterdir())


def test_every_option_says_what_it_is() -> None:
    def walk(command: Any, name: str) -> Iterator[tuple[str, Any]]:
        yield name, command
        for verb, inner in getattr(command, "commands", {}).items():
            yield from walk(inner, f"{name} {verb}")

    verbs = dict(walk(get_command(app), "kilocall"))
    assert len(verbs) > 20
    for name, command in verbs.items():
        assert command.help, name
        for option in command.params:
            assert getattr(option, "help", None), f"{name} {option.name}"
