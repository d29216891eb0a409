"""VMAF of decoded pictures, by libvmaf in ffmpeg with its built-in model.

The model (vmaf_v0.6.1) was fitted to 1080p film on a television; at 256x256 it ranks codecs well enough, but its
numbers are no quality scale of that size. Only luma counts.
"""

from __future__ import annotations

import json
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Final

import numpy as np
from numpy.typing import NDArray

from kilocall.bench.ffmpeg import find_ffmpeg
from kilocall.proto.errors import BadInput

__all__ = ["MIN_SIDE", "vmaf"]

Clip = Sequence[NDArray[np.uint8]] | NDArray[np.uint8]

#: Smaller pictures have nothing left at the fourth scale of VIF.
MIN_SIDE: Final = 32


def vmaf(reference_frames: Clip, made_frames: Clip, fps: float) -> float:
    """Mean VMAF over frames, 0 to 100, of `made_frames` against `reference_frames`, both uint8 RGB [T, H, W, 3].

    BadInput when the clips do not match, are smaller than 32x32, or there is no ffmpeg with libvmaf.
    """
    count = len(reference_frames)
    if count == 0 or count != len(made_frames):
        raise BadInput(f"clips have {count} and {len(made_frames)} frames, wanted is one count from 1 on")
    height, width = reference_frames[0].shape[:2]
    for frame in (*reference_frames, *made_frames):
        if frame.shape != (height, width, 3) or frame.dtype != np.uint8:
            raise BadInput(f"frames are {frame.dtype} {frame.shape}, wanted are uint8 {(height, width, 3)}")
    if min(height, width) < MIN_SIDE:
        raise BadInput(f"frames are {width}x{height}, VMAF needs {MIN_SIDE}x{MIN_SIDE} or more")
    ffmpeg = find_ffmpeg()
    if "libvmaf" not in ffmpeg.filters:
        raise BadInput(f"ffmpeg {ffmpeg.version} at {ffmpeg.path} was built without libvmaf")
    # Both clips through one pipe, one above the other: nothing but the log is written to disk.
    stacked = b"".join(
        np.ascontiguousarray(frame).tobytes()
        for pair in zip(made_frames, reference_frames, strict=True)
        for frame in pair
    )
    half = f"crop={width}:{height}:0"
    graph = (
        f"[0:v]split[a][b];[a]{half}:0:exact=1,format=yuv420p[made];[b]{half}:{height}:exact=1,format=yuv420p[truth];"
        "[made][truth]libvmaf=log_fmt=json:log_path=vmaf.json:n_threads=1"
    )
    raw = ["-f", "rawvideo", "-pix_fmt", "rgb24", "-video_size", f"{width}x{2 * height}", "-framerate", f"{fps:g}"]
    with tempfile.TemporaryDirectory(prefix="kilocall-") as name:
        folder = Path(name)
        ffmpeg.run([*raw, "-i", "-", "-lavfi", graph, "-f", "null", "-"], folder=folder, stdin=stacked)
        found = json.loads((folder / "vmaf.json").read_text())
    if len(found["frames"]) != count:
        raise BadInput(f"libvmaf measured {len(found['frames'])} of {count} frames")
    return float(found["pooled_metrics"]["vmaf"]["mean"])
