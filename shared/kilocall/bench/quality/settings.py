"""What `kilocall bench quality` compares."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Final

from kilocall.bench.quality.clips import MAX_SECONDS
from kilocall.bench.quality.kilocall_codec import QUALITIES
from kilocall.model.family_loader import FamilyChoice
from kilocall.sender.layer_encoder import LADDER

__all__ = ["LAYERS", "QualitySettings"]

#: The whole scale: it takes a fifth of the time of all, and a call has a layer unless told otherwise.
LAYERS: Final = tuple(setting.kbps for setting in LADDER)


@dataclass(frozen=True)
class QualitySettings:
    """What is compared, and how."""

    size: int = 256
    fps: float | None = None
    crop: bool | None = None
    """True: the tracked face crop; False: the whole square picture; None: the crop unless the clip is one already."""
    seconds: float = MAX_SECONDS
    """Of every clip at most the first so many."""
    codecs: tuple[str, ...] = ()
    """Keys of the classic codecs; all when empty, none with `none`."""
    qualities: tuple[float, ...] = QUALITIES
    layers: tuple[float, ...] = LAYERS
    """Rates of kilocall's video layer in kilobits a second; each is measured with motion as it is coded beside it."""
    engine: str = "auto"
    threads: int = 1
    workers: int = 1
    ray_address: str | None = None
    mediapipe_python: Path | None = None
    families: tuple[FamilyChoice, ...] = ()
    """Models with weights of the user's, beside the installed ones."""
    lpips: tuple[Path, ...] = ()
    """Weights of LPIPS: heads and feature network. Without them it is not measured."""
    dists: tuple[Path, ...] = ()
    """The same of DISTS."""
