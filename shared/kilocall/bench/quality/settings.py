"""What `kilocall bench quality` compares."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from kilocall.bench.quality.clips import MAX_SECONDS
from kilocall.bench.quality.kilocall_codec import QUALITIES
from kilocall.model.family_loader import FamilyChoice

__all__ = ["QualitySettings"]


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
