"""What the compression study found, as it is written to study.json."""

from __future__ import annotations

from enum import Enum, auto

from pydantic import BaseModel

__all__ = ["MethodKind", "Row", "Speed", "Study"]


class MethodKind(Enum):
    """What a method does to a network."""

    FP32 = auto()
    FP16 = auto()
    BF16 = auto()
    INT8 = auto()
    PRUNED = auto()
    CHANNELS = auto()
    SHIPPED = auto()
    """The file in the package."""


class Speed(BaseModel):
    """Of one network on one engine."""

    engine: str
    median_ms: float | None
    fastest_ms: float | None
    ratio: float | None  # how many times as fast as fp32 on the same engine, in the same run
    refused: str | None  # why the engine does not run it


class Row(BaseModel):
    """One method on one network."""

    network: str
    method: str
    note: str
    file_bytes: int
    weight_bytes: int
    deflated_bytes: int
    times_smaller: float  # weights against fp32's
    zeros: float  # share of convolution weights
    trained_steps: int
    speeds: list[Speed]
    from_fp32: float | None  # PSNR in dB against the fp32 output, or mean distance from it
    truth_psnr_db: float | None
    truth_loss_db: float | None  # what that is below fp32's


class Study(BaseModel):
    """All that the study found; `study.json` is its dump."""

    machine: str
    data: str
    threads: int
    pairs: int
    rounds: int
    units: dict[str, str | None]  # of `from_fp32`, by network
    titles: dict[str, str]
    reported: tuple[str, ...]
    rows: list[Row]
    wall_s: float
