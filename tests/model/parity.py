"""What both families' comparisons with the public implementations share."""

from __future__ import annotations

from typing import Final

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from model.recipe import image

#: Keypoints are float32 both times; pictures were stored in half precision.
KEYPOINTS: Final = 1e-4
PICTURES: Final = 2e-3

SOURCE: Final = torch.from_numpy(image(0.0))
DRIVING: Final = torch.from_numpy(image(1.0))


def difference(made: Tensor, wanted: NDArray[np.float32]) -> float:
    """The largest difference of any number; shapes may differ in axes of length 1."""
    assert made.numel() == wanted.size
    return float(np.abs(made.numpy().reshape(wanted.shape) - wanted).max())
