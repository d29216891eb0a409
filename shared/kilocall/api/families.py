"""A model family for a stream or a link, and pictures as it takes them."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from kilocall.model.engine_choice import choose_engine
from kilocall.model.family import DEFAULT_FAMILY, DETAIL, OWN_WEIGHTS, Family, Picture
from kilocall.model.family_loader import load_family
from kilocall.proto.errors import WrongFamily
from kilocall.proto.stream_file import StreamHeader
from kilocall.runtime.pictures import fitted
from kilocall.runtime.progress import Progress, silent

if TYPE_CHECKING:
    from kilocall.sender.clip import Crop

__all__ = ["Progress", "check_family", "face_of_picture", "fitted_to", "open_family", "silent"]


def open_family(
    name: str = DEFAULT_FAMILY,
    *,
    weights: Path | None = None,
    codebook: Path | None = None,
    engine: str = "auto",
    threads: int = 0,
    progress: Progress | None = None,
) -> Family:
    """A model family on the engine asked for; BadInput when one of them is not installed.

    `weights` names the file or folder of a family that is not in the package, `codebook` what `kilocall fit` wrote.
    """
    return load_family(
        name, engine=choose_engine(engine, threads), folder=weights, codebook=codebook, progress=progress or silent
    )


def check_family(header: StreamHeader, family: Family, name: str) -> None:
    if header.family != family.name:
        raise WrongFamily(f"{name} is of family {header.family}, wanted is {family.name}: --family {header.family}")
    if header.weights_hash != family.weights_hash:
        raise WrongFamily(
            f"{name} was made with {header.family} weights {header.weights_hash[:12]}, {_here(family)} are "
            f"{family.weights_hash[:12]}: {_cure(header, family)} or encode the clip again"
        )
    if header.codebook_hash != family.codebook.hash:
        raise WrongFamily(
            f"{name} was made with codebook {header.codebook_hash[:12]}, here is {family.codebook.hash[:12]}: name the "
            f"file that `kilocall fit` wrote for it with --codebook, or leave the option out"
        )


def _here(family: Family) -> str:
    return "given" if family.name in OWN_WEIGHTS else "installed"


def _cure(header: StreamHeader, family: Family) -> str:
    if family.name in OWN_WEIGHTS:
        return "name those with --weights (`kilocall weights check` shows their hash)"
    return f"install the version that made it ({header.tool})"


def face_of_picture(
    picture: Path | Picture, family: Family, *, size: int | None = None, crop: Crop = "face"
) -> Picture:
    """The largest face of a picture file or of uint8 RGB [H, W, 3], as a crop [S, S, 3]; NoFace if there is none.

    S is the networks' size, or `size` where the picture has the pixels for it. With `crop` "whole" it is the whole of a
    square picture.
    """
    from kilocall.sender import clip

    return clip.face_of_picture(picture, family, size=size, crop=crop)


def fitted_to(picture: Picture, family: Family) -> Picture:
    """A square picture at the networks' size, or at twice that where it has the pixels."""
    large = DETAIL * family.size
    return fitted(picture, large if picture.shape[0] >= large else family.size)
