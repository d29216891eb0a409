"""Decodes compressed pictures: in this process, or as one of its own for pictures that others have made.

`python -m kilocall.runtime.picture_decoder` reads requests from stdin and answers on stdout, one after the other, until
stdin ends; `picture_process.py` is its other end. It sets itself limits for each picture, so that one that takes too
much memory or time ends this process and none else. It imports Pillow alone, and starts in a tenth of a second.

    request   u32 length of the rule | u32 length of the picture | rule as JSON | picture
    answer    u8 0 | u32 width | u32 height | RGB          u8 1 | u32 length | what is wrong, UTF-8
"""

from __future__ import annotations

import io
import json
import math
import struct
import sys
import time
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import BinaryIO, Final

from PIL import (
    AvifImagePlugin,
    Image,
    ImageOps,
    JpegImagePlugin,
    PngImagePlugin,
    UnidentifiedImageError,
    WebPImagePlugin,
)

from kilocall.proto.control import MAX_PICTURE_BYTES
from kilocall.proto.errors import BadInput
from kilocall.runtime.picture_header import read_header

__all__ = ["FROM_OTHERS", "READY", "REFUSED", "REQUEST", "RGB", "SIZE", "UPLOAD", "WHY", "PictureRule", "decoded"]

READY: Final = b"R"
REQUEST: Final = struct.Struct(">II")
RGB: Final = b"\0"
REFUSED: Final = b"\1"
SIZE: Final = struct.Struct(">II")
WHY: Final = struct.Struct(">I")

_NAMES: Final = {"AVIF": "AVIF", "WEBP": "WebP", "JPEG": "JPEG", "PNG": "PNG"}
# Image.open finds a format by its plugin; without these it would import all of Pillow's.
_PLUGINS: Final = (AvifImagePlugin, JpegImagePlugin, PngImagePlugin, WebPImagePlugin)


@dataclass(frozen=True)
class PictureRule:
    """What may be decoded, and what that may cost."""

    formats: tuple[str, ...]
    """Pillow's names of those that are decoded."""
    stills_alone: bool
    """Whether it has to be as `encode_picture` writes it, so that its own header tells the size."""
    max_bytes: int
    max_side: int
    max_pixels: int
    memory_bytes: int
    """On top of what the decoding process needs while it waits."""
    seconds: float
    fit: int | None = None
    """Turned upright by what a camera has noted, and reduced to this side; None: as it is."""


#: From the other side of a call, and in stream files. 1024x1024 takes 12 MiB.
FROM_OTHERS: Final = PictureRule(
    formats=("AVIF", "WEBP"),
    stills_alone=True,
    max_bytes=MAX_PICTURE_BYTES,
    max_side=1024,
    max_pixels=1024 * 1024,
    memory_bytes=96 << 20,
    seconds=5.0,
)
#: A photograph of 24 megapixels that a person gives to the page; the face fills 256 pixels of it at the end.
UPLOAD: Final = PictureRule(
    formats=("AVIF", "WEBP", "JPEG", "PNG"),
    stills_alone=False,
    max_bytes=4 << 20,
    max_side=16384,
    max_pixels=25_000_000,
    memory_bytes=512 << 20,
    seconds=10.0,
    fit=1024,
)


def decoded(data: bytes, rule: PictureRule) -> Image.Image:
    """An RGB picture. Raises BadInput for one that is against the rule, damaged, or none."""
    if len(data) > rule.max_bytes:
        raise BadInput(f"picture has {len(data)} bytes, at most {rule.max_bytes}")
    formats = rule.formats
    if rule.stills_alone:
        header = read_header(data)
        _check_size(header.width, header.height, rule)
        formats = (header.format.upper(),)
    try:
        with Image.open(io.BytesIO(data), formats=formats) as picture:
            _check_size(*picture.size, rule)
            if rule.fit is None:
                return picture.convert("RGB")
            picture.draft("RGB", (rule.fit, rule.fit))
            upright = ImageOps.exif_transpose(picture)
            if upright.mode.startswith("I"):  # grey of 16 bits, which convert() cuts off at 255
                upright = upright.point(lambda value: value * (1 / 257)).convert("L")
            upright = upright.convert("RGB")
            upright.thumbnail((rule.fit, rule.fit))
            return upright
    except BadInput:
        raise
    except UnidentifiedImageError as error:
        names = ", ".join(_NAMES[name] for name in rule.formats)
        raise BadInput(f"picture: these {len(data)} bytes are none of {names}, or damaged") from error
    except MemoryError as error:
        raise BadInput(f"picture needs more memory than the {rule.memory_bytes >> 20} MiB allowed") from error
    except Exception as error:  # decoders raise OSError, SyntaxError, ValueError, EOFError, struct.error ...
        raise BadInput(f"picture cannot be decoded: {error}") from error


def _check_size(width: int, height: int, rule: PictureRule) -> None:
    if width > rule.max_side or height > rule.max_side:
        raise BadInput(f"picture is {width}x{height}, at most {rule.max_side}x{rule.max_side}")
    if width * height > rule.max_pixels:
        raise BadInput(f"picture is {width}x{height}, at most {rule.max_pixels / 1e6:g} megapixels")


def packed_rule(rule: PictureRule) -> bytes:
    return json.dumps(asdict(rule)).encode()


def serve(requests: BinaryIO, answers: BinaryIO) -> None:
    """Answers until the requests end."""
    limits = _Limits()
    answers.write(READY)
    answers.flush()
    while len(head := requests.read(REQUEST.size)) == REQUEST.size:
        rule_length, length = REQUEST.unpack(head)
        fields = json.loads(requests.read(rule_length))
        rule = PictureRule(**{**fields, "formats": tuple(fields["formats"])})
        data = requests.read(length)
        if len(data) < length:
            return
        try:
            limits.set(rule)
            picture = decoded(data, rule)
            answers.write(RGB + SIZE.pack(*picture.size) + picture.tobytes())
        except BadInput as error:
            _refuse(answers, str(error))
        except MemoryError:
            _refuse(answers, f"picture needs more memory than the {rule.memory_bytes >> 20} MiB allowed")
        answers.flush()


def _refuse(answers: BinaryIO, text: str) -> None:
    why = text.encode(errors="replace")[:1000]
    answers.write(REFUSED + WHY.pack(len(why)) + why)


class _Limits:
    """Of this process, where the system has them: memory on Linux, processor time on all but Windows."""

    def __init__(self) -> None:
        self._statm = Path("/proc/self/statm")
        self._idle_bytes = 0
        with suppress(ImportError, OSError, ValueError):
            import resource

            resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
            resource.setrlimit(resource.RLIMIT_FSIZE, (0, 0))
            self._idle_bytes = int(self._statm.read_text().split()[0]) * resource.getpagesize()

    def set(self, rule: PictureRule) -> None:
        # Whoever asks kills this process after the same time; this is for when they are gone themselves.
        cpu_s = math.ceil(time.process_time() + rule.seconds) + 1
        with suppress(ImportError, OSError, ValueError):
            import resource

            resource.setrlimit(resource.RLIMIT_CPU, (cpu_s, resource.getrlimit(resource.RLIMIT_CPU)[1]))
            if self._idle_bytes:
                most = self._idle_bytes + rule.memory_bytes
                resource.setrlimit(resource.RLIMIT_AS, (most, resource.getrlimit(resource.RLIMIT_AS)[1]))


def main() -> None:
    # One thread: each further one takes address space, and a still has no work for two.
    AvifImagePlugin.DEFAULT_MAX_THREADS = 1
    serve(sys.stdin.buffer, sys.stdout.buffer)


if __name__ == "__main__":
    main()
