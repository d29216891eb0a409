"""Built-in speakers: small stream files from which demo and tests make their clips.

`astronaut` is NASA's public-domain portrait of Eileen Collins (as shipped with scikit-image), `drawing` is a drawing
computed from it. Nobody ever moved like this: the motion is made by a procedure (see `perform`).
"""

from __future__ import annotations

from pathlib import Path
from typing import Final

from kilocall.proto.errors import BadInput

NAMES: Final = ("astronaut", "drawing")
#: Side of the clips made from the streams, pixels.
CLIP_SIZE: Final = 384


def sample_stream(name: str) -> Path:
    """The shipped stream file called `name`."""
    if name not in NAMES:
        raise BadInput(f"sample is {name!r}; allowed: {', '.join(NAMES)}")
    return Path(__file__).parent / f"{name}.kcs"


def sample_clip(name: str, folder: Path, *, engine: str = "auto", threads: int = 0) -> Path:
    """Makes `folder`/NAME.mp4 from the shipped stream, unless it is there already."""
    from kilocall.api import decode

    clip = folder / f"{name}.mp4"
    if not clip.exists():
        decode(sample_stream(name), clip, size=CLIP_SIZE, engine=engine, threads=threads)
    return clip
