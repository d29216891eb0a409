"""Opens a family of networks by its name."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from kilocall.model.family import DEFAULT_FAMILY, OWN_WEIGHTS, Family, weights_folder
from kilocall.model.motion import POSE_NUMBERS
from kilocall.proto.errors import BadInput
from kilocall.runtime.engine import Engine

__all__ = ["FamilyChoice", "load_family"]


@dataclass(frozen=True)
class FamilyChoice:
    """Which models to use: what `load_family` is asked for."""

    name: str = DEFAULT_FAMILY
    weights: Path | None = None
    codebook: Path | None = None

    def check(self) -> None:
        """Raises BadInput for what can be told without reading anything: names and missing files."""
        if self.name not in OWN_WEIGHTS:
            weights_folder(self.name)
        elif self.weights is None:
            raise _no_weights(self.name)
        for what, path in (("weights", self.weights), ("codebook", self.codebook)):
            if path is not None and not path.exists():
                raise BadInput(f"{what} {path}: no such file or folder")

    def load(self, engine: Engine, progress: Callable[[int, int | None], None] = lambda done, total: None) -> Family:
        return load_family(self.name, engine=engine, folder=self.weights, codebook=self.codebook, progress=progress)


def load_family(
    name: str = DEFAULT_FAMILY,
    *,
    engine: Engine,
    folder: Path | None = None,
    codebook: Path | None = None,
    progress: Callable[[int, int | None], None] = lambda done, total: None,
) -> Family:
    """A family by name, its networks run by `engine`.

    `folder` replaces the packaged weights of compact-256; for the other families it names the weights, a file or a
    folder. `codebook` is what `kilocall fit` wrote. `progress` gets parts done and parts in all of what takes long.
    """
    if name in OWN_WEIGHTS:
        return _load_own_weights(name, engine, folder, codebook, progress)
    from kilocall.model.compact.family import CompactFamily

    family = CompactFamily(folder or weights_folder(name), engine)
    if codebook is not None:
        from kilocall.model.coding import MotionCoding

        numbers = family.codebook.coefficients - POSE_NUMBERS
        family.codebook = MotionCoding.load(codebook, name, numbers).codebook
    return family


def _no_weights(name: str) -> BadInput:
    return BadInput(f"family {name} needs its weights, which are not in the package: --weights {OWN_WEIGHTS[name]}")


def _load_own_weights(
    name: str,
    engine: Engine,
    weights: Path | None,
    codebook: Path | None,
    progress: Callable[[int, int | None], None],
) -> Family:
    if weights is None:
        raise _no_weights(name)
    if importlib.util.find_spec("torch") is None:
        raise BadInput(f"family {name} needs torch, which is not installed: pip install 'kilocall[torch]'")
    from kilocall.model.checkpoints import read_checkpoint
    from kilocall.model.volume.family import VolumeFamily

    return VolumeFamily(read_checkpoint(weights, name, progress), engine, codebook)
