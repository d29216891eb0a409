"""Pictures as an attacker makes them, each from a few lines."""

from __future__ import annotations

import io
import struct
import zlib

from PIL import Image

__all__ = ["avif_that_lies", "jpeg_of_many_scans", "png_bomb"]


def avif_that_lies(said: int, real: int) -> bytes:
    """An AVIF of less than 2 KB whose container says `said` x `said` and whose bitstream `real` x `real`."""
    out = io.BytesIO()
    Image.new("RGB", (real, real)).save(out, "AVIF", quality=10, speed=10)
    property_ = b"ispe" + bytes(4)
    wanted = property_ + struct.pack(">II", real, real)
    data = out.getvalue()
    assert data.count(wanted) == 1
    assert Image.open(io.BytesIO(data)).size == (real, real)
    return data.replace(wanted, property_ + struct.pack(">II", said, said))


def jpeg_of_many_scans(scans: int, side: int = 1024) -> bytes:
    """A progressive JPEG that says the last of its scans over and over; each is decoded over the whole picture."""
    out = io.BytesIO()
    Image.new("RGB", (side, side), (9, 99, 200)).save(out, "JPEG", progressive=True)
    data = out.getvalue()
    last = data.rindex(b"\xff\xda")
    return data[:last] + data[last:-2] * scans + data[-2:]


def png_bomb(side: int) -> bytes:
    """A PNG of a few KB that is `side` x `side`."""

    def chunk(name: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body))

    rows = zlib.compress(bytes((3 * side + 1) * side), 9)
    header = struct.pack(">IIBBBBB", side, side, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", rows) + chunk(b"IEND", b"")
