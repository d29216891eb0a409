"""What both families with a feature volume are made of."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn import functional

from kilocall.model.volume.blocks import coordinate_grid
from kilocall.model.volume.cpu_graph import CpuGraph
from kilocall.model.volume.motion_field import along_axes, deformation, gaussians, suggestions
from kilocall.model.volume.tiles import row_algorithm


def random(*shape: int) -> Tensor:
    return torch.from_numpy(np.random.default_rng(len(shape)).standard_normal(shape).astype(np.float32))


def test_a_suggestion_is_the_volume_sampled_at_shifted_coordinates() -> None:
    compressed, x_s, x_d = random(1, 4, 16, 64, 64), random(1, 15, 3) * 0.3, random(1, 15, 3).flip(1) * 0.3
    made = suggestions(compressed, x_s, x_d).reshape(1, 16, 5, 16, 64, 64)
    grid = coordinate_grid(16, 64, 64, compressed)
    for candidate in (0, 1, 8, 15):
        shift = torch.zeros(3) if candidate == 0 else (x_s - x_d)[0, candidate - 1]
        wanted = functional.grid_sample(compressed, (grid + shift)[None], padding_mode="zeros", align_corners=False)
        torch.testing.assert_close(made[:, candidate, 1:], wanted, atol=2e-5, rtol=1e-4)
    assert not made[:, 0, 0].any()  # no Gaussians for the background


def test_a_gaussian_is_one_at_its_keypoint_and_falls_with_distance() -> None:
    point = torch.tensor([[[0.0, -1.0, 1.0]]])
    made = gaussians(point, [16, 65, 65])[0, 0]
    assert made[15, 0, 32] == pytest.approx(1)
    # exp(-d^2 / (2 * 0.01)); neighbours along x lie 1 / 32 apart.
    assert made[15, 0, 33] == pytest.approx(np.exp(-((1 / 32) ** 2) / 0.02), rel=1e-5)


def test_deformation_follows_the_keypoint_whose_mask_wins() -> None:
    mask = torch.full((1, 3, 16, 8, 8), -50.0)
    mask[:, 2] = 50
    x_s, x_d = torch.tensor([[[0.0, 0, 0], [0.3, 0.2, -0.1]]]), torch.zeros(1, 2, 3)
    moved = deformation(mask, x_s, x_d)[0] - coordinate_grid(16, 8, 8, mask)
    torch.testing.assert_close(moved, torch.tensor([0.3, 0.2, -0.1]).expand_as(moved))


@pytest.mark.parametrize(("factor", "axes"), [(2, 2), (4, 2), (2, 3)])
def test_a_convolution_of_repeated_pixels_is_computed_on_the_small_picture(factor: int, axes: int) -> None:
    x = random(1, 6, *([5] if axes == 3 else []), 7, 9)
    weight, bias = random(4, 6, *[3] * axes), random(4)
    scale = (1.0, float(factor), float(factor)) if axes == 3 else (float(factor), float(factor))
    plain = functional.interpolate(x, scale_factor=scale, mode="nearest")
    wanted = functional.relu((functional.conv3d if axes == 3 else functional.conv2d)(plain, weight, bias, padding=1))
    graph = CpuGraph()
    node = graph.input("x", list(x.shape))
    compiled = graph.compile({"y": graph.conv_of_repeated(node, weight, bias, factor)}, threads=1, bfloat16=False)
    made = compiled.create_infer_request().infer([x.numpy()])["y"]
    np.testing.assert_allclose(made, wanted.numpy(), atol=1e-4)


@pytest.mark.parametrize(("size", "unrolled"), [((7, 7, 7), (4,)), ((7, 5, 3), (2, 3)), ((5, 7), (3,))])
def test_a_convolution_with_few_outputs_is_split_in_two(size: tuple[int, ...], unrolled: tuple[int, ...]) -> None:
    x, weight, bias = random(1, 6, *(9, 8, 10)[: len(size)]), random(3, 6, *size), random(3)
    plain = functional.conv3d if len(size) == 3 else functional.conv2d
    wanted = plain(x, weight, bias, padding=tuple(k // 2 for k in size))
    graph = CpuGraph()
    node = graph.conv_of_few(graph.input("x", list(x.shape)), weight, bias, unrolled)
    made = graph.compile({"y": node}, threads=1, bfloat16=False).create_infer_request().infer([x.numpy()])["y"]
    np.testing.assert_allclose(made, wanted.numpy(), atol=1e-3)


@pytest.mark.parametrize(("cells", "taps", "tile"), [(64, 7, 16), (12, 3, 4), (16, 5, 8)])
def test_a_row_is_convolved_by_its_frequencies(cells: int, taps: int, tile: int) -> None:
    row = row_algorithm(cells, taps, tile)
    x, kernel = random(cells).double(), random(taps).double()
    wanted = functional.conv1d(x[None, None], kernel[None, None], padding=taps // 2)[0, 0]
    products = (row.kernel @ kernel)[:, None] * (row.forward @ x).reshape(row.products, row.tiles)
    np.testing.assert_allclose(row.inverse @ products.flatten(), wanted, atol=1e-12)


def test_a_convolution_with_a_large_kernel_goes_by_way_of_frequencies() -> None:
    x, weight, bias = random(1, 6, 9, 32, 32), random(3, 6, 7, 7, 7), random(3)
    wanted = functional.conv3d(x, weight, bias, padding=3)
    graph = CpuGraph()
    node = graph.conv_by_tiles(graph.input("x", list(x.shape)), weight, bias)
    made = graph.compile({"y": node}, threads=1, bfloat16=False).create_infer_request().infer([x.numpy()])["y"]
    np.testing.assert_allclose(made, wanted.numpy(), atol=1e-3)


def test_suggestions_are_the_same_as_a_graph() -> None:
    compressed, x_s, x_d = random(1, 4, 16, 64, 64), random(1, 15, 3) * 0.3, random(1, 15, 3).flip(1) * 0.3
    graph = CpuGraph()
    compiled = graph.compile({"y": graph.suggestions(16)}, threads=1, bfloat16=False)
    parts = along_axes(x_s, x_d, (16, 64, 64)) | {"compressed": compressed.reshape(1, 64, 64, 64)}
    made = compiled.create_infer_request().infer({name: value.numpy() for name, value in parts.items()})["y"]
    np.testing.assert_allclose(made, suggestions(compressed, x_s, x_d).numpy(), atol=1e-5)
