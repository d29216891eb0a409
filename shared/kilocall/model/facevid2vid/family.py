"""face-vid2vid's networks as a family with a feature volume runs them."""

from __future__ import annotations

from functools import cached_property
from typing import Any, cast

from torch import Tensor, nn

from kilocall.model.checkpoints import Checkpoint, load_into, networks
from kilocall.model.facevid2vid.networks import (
    KEYPOINTS,
    Generator,
    Head,
    HeadEstimator,
    KeypointDetector,
    Order,
    rotation,
)
from kilocall.model.volume.motion_field import MotionFieldEstimator
from kilocall.model.volume.networks import HeadPose, VolumeNetworks, as_array


class FaceVid2VidNetworks(VolumeNetworks):
    """The networks of one checkpoint; the order of rotations and the kind of decoder are its version's."""

    keypoints = KEYPOINTS
    picture_size = 256

    def __init__(self, checkpoint: Checkpoint) -> None:
        self._modules = checkpoint.modules
        self._make = networks(checkpoint.family, checkpoint.version)
        self.order: Order = "new" if "new" in checkpoint.version else "beta"

    @cached_property
    def head(self) -> HeadEstimator:
        return cast(HeadEstimator, load_into(self._make["he_estimator"], self._modules["he_estimator"]))

    @cached_property
    def detector(self) -> KeypointDetector:
        # float: runs in torch, which does not mix halves with float32. Float32 weights are not copied.
        return cast(KeypointDetector, load_into(self._make["kp_detector"], self._modules["kp_detector"]).float())

    @cached_property
    def generator(self) -> Generator:
        generator = cast(Generator, load_into(self._make["generator"], self._modules["generator"]))
        field = generator.dense_motion_network
        for part in (generator.first, generator.down_blocks, generator.second, generator.resblocks_3d):
            part.float()
        field.compress.float()
        field.norm.float()
        return generator

    def pose(self, head: Any) -> HeadPose:
        said = Head(*(getattr(head, name).cpu() for name in Head._fields))
        return HeadPose(
            rotation=as_array(rotation(said, self.order)[0]),
            translation=as_array(said.translation[0]),
            scale=1.0,
            expression=as_array(said.expression[0]),
        )

    def canonical(self, picture: Tensor, head: Any) -> Tensor:
        made: Tensor = self.detector(picture)
        return made

    def volume(self, picture: Tensor) -> Tensor:
        return self.generator.volume(picture)

    @property
    def field(self) -> MotionFieldEstimator:
        return self.generator.dense_motion_network

    def decode(self, warped: Tensor, occlusion: Tensor) -> Tensor:
        return self.generator.decode(warped, occlusion)

    def modules(self) -> list[nn.Module]:
        return [self.head, self.detector, self.generator]

    def head_graph(self, graph: Any) -> dict[str, Any]:
        made: dict[str, Any] = graph.head_estimator(self.head)
        return made

    def picture_graph(self, graph: Any) -> Any:
        generator = self.generator
        features = graph.features(generator.third, generator.fourth)
        return graph.spade(generator.decoder, features) if generator.spade else graph.original(generator, features)


__all__ = ["FaceVid2VidNetworks"]
