"""Weights files of the two public families, filled with noise, made once for all tests that read one; no gradients."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from model.recipe_weights import write_facevid2vid, write_liveportrait


@pytest.fixture(scope="session")
def facevid2vid_file(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A checkpoint of 500 MB with the first generation's decoder, which is the faster one."""
    folder = tmp_path_factory.mktemp("weights")
    yield write_facevid2vid(folder / "vox-256.pth")
    shutil.rmtree(folder)  # pytest keeps what three runs left behind


@pytest.fixture(scope="session")
def liveportrait_folder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A folder of 520 MB."""
    folder = tmp_path_factory.mktemp("weights")
    yield write_liveportrait(folder / "liveportrait")
    shutil.rmtree(folder)


@pytest.fixture
def no_gradients() -> Iterator[None]:
    with torch.inference_mode():
        yield
