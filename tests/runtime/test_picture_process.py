"""Pictures of others cost what they may cost, in a process that ends with this one."""

from __future__ import annotations

import io
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest
from PIL import Image, features

from kilocall.proto.errors import BadInput
from kilocall.runtime.picture_decoder import FROM_OTHERS, UPLOAD
from kilocall.runtime.picture_process import PictureDecoder
from kilocall.runtime.pictures import decode_picture, encode_picture
from runtime.attacks import avif_that_lies, jpeg_of_many_scans, png_bomb

LINUX = pytest.mark.skipif(sys.platform != "linux", reason="memory is limited on Linux alone")
AVIF = pytest.mark.skipif(not features.check("avif"), reason="this Pillow has no AVIF")
ROOT = Path(__file__).parents[2]
SMALL = replace(FROM_OTHERS, memory_bytes=12 << 20, stills_alone=False)


@pytest.fixture
def decoder() -> Iterator[PictureDecoder]:
    decoder = PictureDecoder()
    yield decoder
    decoder.close()


@pytest.fixture(scope="module")
def noise() -> bytes:
    rgb = np.random.default_rng(0).integers(0, 255, (256, 256, 3), dtype=np.uint8)
    return encode_picture(rgb, 40_000)[1]


def memory_peak(pid: int) -> int:
    status = Path(f"/proc/{pid}/status").read_text()
    return 1024 * int(next(line.split()[1] for line in status.splitlines() if line.startswith("VmHWM")))


def ended(pid: int, within_s: float = 20.0) -> bool:
    until = time.monotonic() + within_s
    while time.monotonic() < until:
        try:
            os.kill(pid, 0)
            state = Path(f"/proc/{pid}/stat")
            if state.exists() and state.read_text().rpartition(")")[2].split()[0] == "Z":
                return True  # ended; whoever inherits it has not looked yet
        except ProcessLookupError:
            return True
        time.sleep(0.05)
    return False


def test_picture_is_the_same_as_decoded_here(decoder: PictureDecoder, noise: bytes) -> None:
    assert np.array_equal(decoder.decode(noise), decode_picture(noise))
    first = decoder.pid
    assert np.array_equal(decoder.decode(noise), decode_picture(noise))
    assert decoder.pid == first
    assert first != os.getpid()


def test_importing_and_making_one_starts_no_process() -> None:
    assert PictureDecoder().pid is None


@AVIF
@LINUX
def test_avif_that_lies_about_its_size_is_refused_before_any_memory_is_taken(
    decoder: PictureDecoder, noise: bytes
) -> None:
    decoder.decode(noise)
    assert decoder.pid is not None
    before = memory_peak(decoder.pid)
    with pytest.raises(BadInput, match="4000x4000, at most 1024x1024"):
        decoder.decode(avif_that_lies(256, 4000))
    assert memory_peak(decoder.pid) < before + (2 << 20)


@AVIF
@LINUX
def test_decoder_that_is_deceived_all_the_same_gets_no_more_memory_than_allowed(decoder: PictureDecoder) -> None:
    with pytest.raises(BadInput):
        decoder.decode(avif_that_lies(256, 4000), SMALL)
    assert decoder.decode(encode_picture(np.zeros((64, 64, 3), np.uint8))[1]).shape == (64, 64, 3)


@LINUX
def test_upload_that_takes_too_much_memory_is_refused_and_the_next_is_decoded(
    decoder: PictureDecoder, noise: bytes
) -> None:
    with pytest.raises(BadInput, match="more memory than the 48 MiB allowed"):
        decoder.decode(png_bomb(4900), replace(UPLOAD, memory_bytes=48 << 20))
    assert decoder.decode(noise).shape == (256, 256, 3)


def test_progressive_jpeg_with_thousands_of_scans_is_ended_in_time(decoder: PictureDecoder, noise: bytes) -> None:
    attack = jpeg_of_many_scans(20_000)
    assert len(attack) < 256 << 10
    decoder.start()
    first = decoder.pid
    began = time.monotonic()
    with pytest.raises(BadInput, match="more than the 1 s allowed"):
        decoder.decode(attack, replace(UPLOAD, seconds=1.0))
    assert time.monotonic() - began < 10  # it would take a minute and more
    assert decoder.decode(noise).shape == (256, 256, 3)
    assert decoder.pid != first


@pytest.mark.parametrize("data", [b"", b"GIF89a", bytes(1000), jpeg_of_many_scans(1), png_bomb(8)])
def test_others_may_send_avif_and_webp_alone(decoder: PictureDecoder, data: bytes) -> None:
    with pytest.raises(BadInput, match="no AVIF or WebP"):
        decoder.decode(data)


def test_killed_process_is_started_again(decoder: PictureDecoder, noise: bytes) -> None:
    decoder.start()
    assert decoder.pid is not None
    os.kill(decoder.pid, signal.SIGTERM)
    assert ended(decoder.pid)
    assert decoder.decode(noise).shape == (256, 256, 3)


def test_closing_ends_a_decoding_at_once(decoder: PictureDecoder) -> None:
    decoder.start()
    pid = decoder.pid
    told: list[str] = []

    def decode() -> None:
        try:
            decoder.decode(jpeg_of_many_scans(20_000), replace(UPLOAD, seconds=60.0))
        except BadInput as error:
            told.append(str(error))

    thread = threading.Thread(target=decode)
    thread.start()
    time.sleep(0.3)
    began = time.monotonic()
    decoder.close()
    thread.join()
    assert time.monotonic() - began < 10
    assert told == ["picture has ended the process that decoded it"]
    assert pid is not None
    assert ended(pid)
    with pytest.raises(BadInput, match="closed"):
        decoder.decode(b"")


PARENT = """
import sys, threading, time
from dataclasses import replace
from runtime.attacks import jpeg_of_many_scans
from kilocall.runtime.picture_decoder import UPLOAD
from kilocall.runtime.picture_process import PictureDecoder
decoder = PictureDecoder()
decoder.start()
print(decoder.pid, flush=True)
if sys.argv[1] == "busy":
    decoder.decode(jpeg_of_many_scans(20_000), replace(UPLOAD, seconds=2.0))
time.sleep(60)
"""


@pytest.mark.skipif(sys.platform == "win32", reason="signals are sent as on POSIX")
@pytest.mark.parametrize("doing", ["nothing", "busy"])
def test_it_ends_when_its_parent_is_killed(doing: str) -> None:
    path = os.pathsep.join(str(ROOT / name) for name in ("sender", "receiver", "shared", "proto", "tests"))
    parent = subprocess.Popen(
        [sys.executable, "-c", PARENT, doing], stdout=subprocess.PIPE, env={**os.environ, "PYTHONPATH": path}
    )
    assert parent.stdout is not None
    with parent, parent.stdout as lines:
        pid = int(lines.readline())
        time.sleep(0.3)
        parent.kill()
    assert ended(pid, within_s=40.0)


def test_it_loads_no_networks_and_no_numbers() -> None:
    path = os.pathsep.join(str(ROOT / name) for name in ("shared", "proto"))
    code = "import sys, kilocall.runtime.picture_decoder; print(*sys.modules)"
    run = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, env={**os.environ, "PYTHONPATH": path}
    )
    assert not {"numpy", "cv2", "torch", "openvino", "av"} & set(run.stdout.split())


@pytest.mark.parametrize("suffix", [".png", ".jpg", ".webp"])
def test_upload_is_reduced_and_upright(decoder: PictureDecoder, suffix: str) -> None:
    wide = np.zeros((600, 2400, 3), np.uint8)
    wide[:, 1200:] = 255
    done, data = cv2.imencode(suffix, wide)
    assert done
    picture = decoder.decode(data.tobytes(), UPLOAD)
    assert picture.shape == (256, 1024, 3)
    assert picture[:, 600:].mean() > 250
    assert picture[:, :400].mean() < 5


def test_upload_of_too_many_pixels_is_refused_before_it_is_decoded(decoder: PictureDecoder) -> None:
    with pytest.raises(BadInput, match="5100x5100, at most 25 megapixels"):
        decoder.decode(png_bomb(5100), UPLOAD)


@pytest.mark.parametrize("data", [b"", b"GIF89a", b"\x89PNG\r\n\x1a\n", bytes(1000)])
def test_upload_that_is_no_picture_is_refused(decoder: PictureDecoder, data: bytes) -> None:
    with pytest.raises(BadInput, match="AVIF, WebP, JPEG, PNG"):
        decoder.decode(data, UPLOAD)


@pytest.mark.parametrize("mode", ["RGBA", "L", "P"])
def test_transparent_or_grey_upload_comes_back_as_rgb(decoder: PictureDecoder, mode: str) -> None:
    out = io.BytesIO()
    Image.new(mode, (12, 8)).save(out, "PNG")
    assert decoder.decode(out.getvalue(), UPLOAD).shape == (8, 12, 3)
