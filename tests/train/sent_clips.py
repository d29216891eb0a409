"""A tiny data set for the fusion network: two short clips of the built-in astronaut, sent."""

from pathlib import Path

import av
import numpy as np

from kilocall.api import StreamPlayer
from kilocall.model.family import Family
from kilocall.sample import sample_stream
from kilocall.sender.layer_encoder import LADDER, LayerSetting

#: One without detail beyond the half picture, one with it, and one beside the ladder.
FEW = (LADDER[1], LADDER[3], LayerSetting(10_000.0, 64, 6.25, 60))
FRAMES = 10


def write_astronaut_clips(folder: Path, family: Family) -> Path:
    """`folder`/a.mp4 and b.mp4 of FRAMES frames each, with label files beside them that say nothing."""
    folder.mkdir()
    frames = StreamPlayer(sample_stream("astronaut"), family=family, largest=256).frames()
    for name in ("a", "b"):
        with av.open(str(folder / f"{name}.mp4"), "w") as container:
            stream = container.add_stream("libx264", rate=25, options={"crf": "10"})
            stream.width = stream.height = 256
            stream.pix_fmt = "yuv420p"
            for _ in range(FRAMES):
                picture = next(frames).rgb
                container.mux(stream.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))
            container.mux(stream.encode())
        np.savez(folder / f"{name}.npz")
    return folder
