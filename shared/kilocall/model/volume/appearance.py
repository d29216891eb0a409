"""Picture to feature volume: the appearance feature extractor of face-vid2vid (figure 3, left)."""

from __future__ import annotations

from typing import Final

from torch import Tensor, nn

from kilocall.model.volume.blocks import DownBlock2d, ResBlock3d, SameBlock2d

#: The feature volume: channels, depth, height and width.
CHANNELS: Final = 32
DEPTH: Final = 16
FIELD: Final = 64


class AppearanceExtractor(nn.Module):
    """Picture [B, 3, 256, 256] in 0..1 to a feature volume [B, 32, 16, 64, 64].

    `kernel` is that of the first block, in which the public weights differ.
    """

    def __init__(self, kernel: int = 3) -> None:
        super().__init__()
        self.first = SameBlock2d(3, 64, kernel)
        self.down_blocks = nn.ModuleList((DownBlock2d(64, 128), DownBlock2d(128, 256)))
        self.second = nn.Conv2d(256, CHANNELS * DEPTH, 1)
        self.resblocks_3d = nn.Sequential()
        for number in range(6):
            self.resblocks_3d.add_module(f"3dr{number}", ResBlock3d(CHANNELS))

    def volume(self, picture: Tensor) -> Tensor:
        """What `forward` gives; generators that hold this network have a forward of their own."""
        x = self.first(picture)
        for block in self.down_blocks:
            x = block(x)
        x = self.second(x)
        made: Tensor = self.resblocks_3d(x.reshape(len(x), CHANNELS, DEPTH, *x.shape[2:]))
        return made

    def forward(self, picture: Tensor) -> Tensor:
        return self.volume(picture)
