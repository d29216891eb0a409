"""Large kernels by fewer products: each row of cells is cut into tiles, and a tile is convolved by its frequencies.

Along one axis `tile` outputs of a kernel of `taps` need tile * taps products. By the discrete Fourier transform of
tile + taps - 1 cells, three real products for each complex one, 16 outputs of 7 taps need 32 instead of 112, and along
two axes 1024 instead of 12544 (Winograd 1980: any such algorithm nests). The transforms are small matrices.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

__all__ = ["RowAlgorithm", "row_algorithm"]


@dataclass(frozen=True)
class RowAlgorithm:
    """How a row of `cells` is convolved (correlated, as networks do, zeros around it) with a kernel of odd `taps`.

    y = inverse @ ((kernel @ w) * (forward @ x)), each tile for itself; float64.
    """

    products: int
    tiles: int
    forward: Tensor  # [products * tiles, cells]
    kernel: Tensor  # [products, taps]
    inverse: Tensor  # [cells, products * tiles]


def row_algorithm(cells: int, taps: int, tile: int) -> RowAlgorithm:
    """`cells` must be a multiple of `tile`; `taps` must be odd and `tile` even."""
    period, tiles, before = tile + taps - 1, cells // tile, taps // 2
    assert cells == tile * tiles
    assert taps % 2 == 1
    assert period % 2 == 0
    at, out, tap = (torch.arange(n, dtype=torch.float64) for n in (period, tile, taps))
    forward, kernel, inverse = [], [], []
    for frequency in range(period // 2 + 1):
        turn = 2 * math.pi * frequency / period
        # X = a + ib and the kernel's conjugate c + id
        a, b = torch.cos(turn * at), -torch.sin(turn * at)
        c, d = torch.cos(turn * tap), torch.sin(turn * tap)
        if frequency in (0, period // 2):
            forward.append(a)
            kernel.append(c)
            inverse.append(torch.cos(turn * out) / period)
        else:
            # k1 = c (a + b), k2 = a (d - c), k3 = b (c + d): the product is k1 - k3 + i (k1 + k2)
            forward += [a + b, a, b]
            kernel += [c, d - c, c + d]
            real, imaginary = 2 * torch.cos(turn * out) / period, 2 * torch.sin(turn * out) / period
            inverse += [real - imaginary, -imaginary, -real]
    products = len(kernel)
    into = torch.zeros(products, tiles, cells + 2 * before, dtype=torch.float64)
    back = torch.zeros(cells, products, tiles, dtype=torch.float64)
    for number in range(tiles):
        start = tile * number
        into[:, number, start : start + period] = torch.stack(forward)
        back[start : start + tile, :, number] = torch.stack(inverse, 1)
    # What lies outside is zero: its columns are left out.
    inside = into[:, :, before : before + cells].reshape(-1, cells)
    return RowAlgorithm(products, tiles, inside.contiguous(), torch.stack(kernel), back.reshape(cells, -1))
