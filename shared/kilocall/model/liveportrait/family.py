"""LivePortrait's networks as a family with a feature volume runs them."""

from __future__ import annotations

from functools import cached_property
from typing import Any, cast

import numpy as np
from torch import Tensor, nn

from kilocall.model.checkpoints import Checkpoint, load_into, networks
from kilocall.model.liveportrait.networks import KEYPOINTS, Head, MotionExtractor, WarpingModule, rotation
from kilocall.model.volume.appearance import AppearanceExtractor
from kilocall.model.volume.motion_field import MotionFieldEstimator
from kilocall.model.volume.networks import HeadPose, VolumeNetworks, as_array
from kilocall.model.volume.spade import SpadeDecoder

__all__ = ["LivePortraitNetworks"]


class LivePortraitNetworks(VolumeNetworks):
    """The networks of LivePortrait's four files."""

    keypoints = KEYPOINTS
    picture_size = 512

    def __init__(self, checkpoint: Checkpoint) -> None:
        self._modules = checkpoint.modules
        self._make = networks(checkpoint.family, checkpoint.version)

    def _load(self, name: str) -> nn.Module:
        return load_into(self._make[name], self._modules[name])

    @cached_property
    def head(self) -> MotionExtractor:
        return cast(MotionExtractor, self._load("motion_extractor"))

    @cached_property
    def appearance(self) -> AppearanceExtractor:
        # float: runs in torch, which does not mix halves with float32. Float32 weights are not copied.
        return cast(AppearanceExtractor, self._load("appearance_feature_extractor").float())

    @cached_property
    def warping(self) -> WarpingModule:
        warping = cast(WarpingModule, self._load("warping_module"))
        warping.dense_motion_network.compress.float()
        warping.dense_motion_network.norm.float()
        return warping

    @cached_property
    def decoder(self) -> SpadeDecoder:
        return cast(SpadeDecoder, self._load("spade_generator"))

    def pose(self, head: Any) -> HeadPose:
        said = Head(*(getattr(head, name).cpu() for name in Head._fields))
        x, y, _ = (float(v) for v in said.translation[0])
        return HeadPose(
            rotation=as_array(rotation(said)[0]),
            translation=np.array([x, y, 0], np.float32),
            # A scale of zero or less is no head at all; the logarithm that is sent must exist.
            scale=max(float(said.scale[0, 0]), 0.05),
            expression=as_array(said.expression[0]),
        )

    def canonical(self, picture: Tensor, head: Any) -> Tensor:
        made: Tensor = head.canonical
        return made

    def volume(self, picture: Tensor) -> Tensor:
        return self.appearance.volume(picture)

    @property
    def field(self) -> MotionFieldEstimator:
        return self.warping.dense_motion_network

    def decode(self, warped: Tensor, occlusion: Tensor) -> Tensor:
        made: Tensor = self.decoder(self.warping.features(warped, occlusion))
        return made

    def modules(self) -> list[nn.Module]:
        return [self.head, self.appearance, self.warping, self.decoder]

    def head_graph(self, graph: Any) -> dict[str, Any]:
        made: dict[str, Any] = graph.motion_extractor(self.head)
        return made

    def picture_graph(self, graph: Any) -> Any:
        return graph.spade(self.decoder, graph.features(self.warping.third, self.warping.fourth))
