"""Networks and weights files filled by `recipe.fill`: noise, but the same noise as in the public implementations."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from kilocall.model.checkpoints import LIVEPORTRAIT_MODULES, load_into
from kilocall.model.facevid2vid.networks import shrink_kernel
from model.recipe import fill

VECTORS = Path(__file__).parents[1] / "vectors"

Shapes = dict[str, list[int]]
M = TypeVar("M", bound=nn.Module)


def shapes(family: str) -> dict[str, Shapes]:
    """Every module's state dict as the public files have it: names and shapes."""
    found: dict[str, Shapes] = json.loads((VECTORS / family / "state_dict_shapes.json").read_text())
    return found


def vectors(family: str) -> dict[str, NDArray[np.float32]]:
    """Golden values by name."""
    with np.load(VECTORS / family / "vectors.npz") as stored:
        return {name: stored[name].astype(np.float32) for name in stored}


def tensors(family: str, module: str, *, shrink: bool = True) -> dict[str, Tensor]:
    """A module's state dict by the recipe; both generators of face-vid2vid are called `generator` there."""
    golden = np.load(VECTORS / family / "vectors.npz")
    prefix = "generator" if module.startswith("generator_") else module
    made = {}
    for name, shape in shapes(family)[module].items():
        if name.endswith(("weight_u", "weight_v")):
            made[name] = torch.from_numpy(golden[f"sn/{name}"])
        elif name != "down.weight":
            made[name] = torch.from_numpy(fill(f"{prefix}.{name}", tuple(shape)))
        elif shrink:
            made[name] = shrink_kernel()
    return made


def network(make: Callable[[], M], family: str, module: str, *, shrink: bool = True) -> M:
    """A network filled by the recipe; fails where names or shapes are not those of the public files."""
    with torch.device("meta"):
        own = {name: list(value.shape) for name, value in make().state_dict().items()}
    wanted = {k: v for k, v in shapes(family)[module].items() if shrink or k != "down.weight"}
    assert own == wanted
    filled = load_into(make, tensors(family, module, shrink=shrink))
    assert isinstance(filled, nn.Module)
    return filled  # type: ignore[return-value]  # what `make` makes


def write_facevid2vid(path: Path, *, generator: str = "original", beta: bool = False) -> Path:
    """A training checkpoint as the public ones are: with what only training needs beside it."""
    content: dict[str, object] = {
        "generator": tensors("facevid2vid", f"generator_{generator}"),
        "kp_detector": tensors("facevid2vid", "kp_detector", shrink=not beta),
        "he_estimator": tensors("facevid2vid", "he_estimator"),
        "discriminator": {"scale.weight": torch.zeros(3)},
        "optimizer_generator": {"state": {0: {"step": 1, "exp_avg": torch.zeros(2)}}, "param_groups": [{"lr": 2e-4}]},
        "epoch": 151,
    }
    torch.save(content, path)
    return path


def write_liveportrait(folder: Path) -> Path:
    """The four files as they are published."""
    base = folder / "base_models"
    base.mkdir(parents=True)
    for module in LIVEPORTRAIT_MODULES:
        torch.save(tensors("liveportrait", module), base / f"{module}.pth")
    return folder
