"""What both families' comparisons with the public implementations share."""

from __future__ import annotations

from typing import Final

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from model.recipe import image

#: Keypoints are float32 both times, but sums of thousands of products are added in another order on another instruction
#: set: 0.9e-4 with AVX-512, 1.13e-4 with AVX2. A wrong axis, bin or permutation moves them by 1e-2 and more.
KEYPOINTS: Final = 4e-4
#: Pictures were stored in half precision.
PICTURES: Final = 2e-3

SOURCE: Final = torch.from_numpy(image(0.0))
DRIVING: Final = torch.from_numpy(image(1.0))


def difference(made: Tensor, wanted: NDArray[np.float32]) -> float:
    """The largest difference of any number; shapes may differ in axes of length 1."""
    assert made.numel() == wanted.size
    return float(np.abs(made.numpy().reshape(wanted.shape) - wanted).max())
