"""Checkpoints of training runs, as those read them who do not train on."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Final

import torch
from torch import Tensor

from kilocall.proto.errors import BadInput

#: Name of the checkpoint in a run folder.
CHECKPOINT: Final = "checkpoint.pt"

State = dict[str, Tensor]


def read_checkpoint(path: Path) -> tuple[State, int]:
    """Averaged weights and the step of a training checkpoint. Raises BadInput where it is missing or no such file."""
    if not path.is_file():
        raise BadInput(f"checkpoint {path} does not exist")
    try:
        state: dict[str, Any] = torch.load(path, weights_only=True, map_location="cpu")
        return dict(state["averaged"]), int(state["step"])
    except Exception as error:  # torch.load raises RuntimeError, KeyError, EOFError, UnpicklingError ...
        raise BadInput(f"checkpoint {path} is no training checkpoint: {str(error).splitlines()[0]}") from error
