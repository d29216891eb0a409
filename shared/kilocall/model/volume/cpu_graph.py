"""The networks' convolutions as OpenVINO graphs: the 5-D warp between them stays in torch, OpenVINO has none.

Graphs are put together layer by layer, not traced: tracing runs the network and takes minutes at this size. Batch
norms are folded into the convolutions before them. A convolution of a picture that was enlarged by repeating pixels
is computed on the small picture: the pixels of a result that lie alike between the repeated ones share a kernel with
fewer taps, and are woven together afterwards. It is the same sum with 4 of 9 taps at factor 2 and 25 of 144 at 4.
A convolution to a few channels, which would leave most of a vector idle, is split in two (`conv_of_few`), and one with
a kernel of 7x7x7 as well goes by way of frequencies (`conv_by_tiles`).
"""

from __future__ import annotations

from typing import Any, Final

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from kilocall.model.facevid2vid.networks import Bottleneck, Generator, HeadEstimator
from kilocall.model.liveportrait.networks import ChannelNorm, MotionExtractor, NextBlock
from kilocall.model.volume.appearance import CHANNELS, DEPTH, FIELD
from kilocall.model.volume.blocks import DownBlock3d, ResBlock2d, SameBlock2d, UpBlock2d, UpBlock3d
from kilocall.model.volume.motion_field import COMPRESSED, MotionFieldEstimator
from kilocall.model.volume.spade import LEAK, Modulation, SpadeBlock, SpadeDecoder, SpectralConv2d
from kilocall.model.volume.tiles import row_algorithm
from kilocall.runtime.engines.openvino import quiet_openvino

Array = NDArray[np.float32]
Node = Any  # openvino has no types

_NORM_EPS: Final = 1e-5
#: Cells of a feature volume along each axis.
_SIZES: Final = {"x": FIELD, "y": FIELD, "z": DEPTH}


class CpuGraph:
    """One network under construction; `compile` ends it."""

    def __init__(self) -> None:
        self._openvino = quiet_openvino()
        import openvino.opset13 as op

        self._op: Any = op
        self._inputs: list[Node] = []

    # Ends

    def input(self, name: str, shape: list[int], dtype: type[np.generic] = np.float32) -> Node:
        node = self._op.parameter(shape, dtype, name=name)
        node.output(0).set_names({name})
        self._inputs.append(node)
        return node

    def compile(self, outputs: dict[str, Node], *, threads: int, bfloat16: bool) -> Any:
        """A compiled model; with `bfloat16` its sums are rounded to eight bits of precision, where the CPU can."""
        results = []
        for name, node in outputs.items():
            result = self._op.result(node)
            result.output(0).set_names({name})
            results.append(result)
        model = self._openvino.Model(results, self._inputs, "kilocall")
        settings = {
            "PERFORMANCE_HINT": "LATENCY",
            "NUM_STREAMS": "1",
            "INFERENCE_NUM_THREADS": str(threads),
            "ENABLE_CPU_PINNING": "NO",
            "INFERENCE_PRECISION_HINT": "bf16" if bfloat16 else "f32",
        }
        return self._openvino.Core().compile_model(model, "CPU", settings)

    # Layers

    def constant(self, value: Tensor | Array) -> Node:
        """Shares the memory of what is given where it is float32."""
        array = value.detach().numpy() if isinstance(value, Tensor) and value.dtype != torch.bfloat16 else value
        if isinstance(array, Tensor):
            array = array.float().numpy()
        node = self._op.constant(array, shared_memory=array.flags.c_contiguous)
        return node if array.dtype == np.float32 else self._op.convert(node, "f32")

    def conv(
        self,
        x: Node,
        weight: Tensor,
        bias: Tensor | None,
        *,
        stride: int = 1,
        before: tuple[int, ...] | None = None,
        after: tuple[int, ...] | None = None,
    ) -> Node:
        """A convolution; without `before` and `after` (zeros on either side, per axis) half the kernel's size."""
        axes = weight.ndim - 2
        around = tuple(k // 2 for k in weight.shape[2:])
        made = self._op.convolution(
            x, self.constant(weight), [stride] * axes, list(before or around), list(after or around), [1] * axes
        )
        return made if bias is None else self.add(made, bias, axes)

    def conv_of_few(
        self,
        x: Node,
        weight: Tensor,
        bias: Tensor | None,
        unrolled: tuple[int, ...],
        around: tuple[int, ...] | None = None,
    ) -> Node:
        """A convolution with few outputs, in two: a vector unit that is 16 wide would mostly wait.

        The first has an output for every tap along the axes `unrolled` of the kernel (2: the first behind the
        channels) and no extent there; the second adds these up where they belong. `around` as for `conv`.
        """
        outputs, inputs, *size = weight.shape
        around = around or tuple(k // 2 for k in size)
        taps = [size[axis - 2] for axis in unrolled]
        count = int(np.prod(taps))
        # [taps..., O, I, rest...]: an output of the first convolution for each tap and output.
        rest = [axis for axis in range(2, weight.ndim) if axis not in unrolled]
        kernel = weight.permute(*unrolled, 0, 1, *rest)
        thin = [1 if axis in unrolled else size[axis - 2] for axis in range(2, weight.ndim)]
        kernel = kernel.reshape(count * outputs, inputs, *thin).contiguous()
        none = tuple(0 if axis in unrolled else around[axis - 2] for axis in range(2, weight.ndim))
        parts = self.conv(x, kernel, None, before=none, after=none)
        gather = torch.eye(count).reshape(*taps, count).permute(-1, *range(len(taps)))
        gather = torch.einsum("t...,ab->atb...", gather, torch.eye(outputs))
        wide = [size[axis - 2] if axis in unrolled else 1 for axis in range(2, weight.ndim)]
        gather = gather.reshape(outputs, count * outputs, *wide).contiguous()
        some = tuple(around[axis - 2] if axis in unrolled else 0 for axis in range(2, weight.ndim))
        return self.conv(parts, gather, bias, before=some, after=some)

    def conv_by_tiles(self, x: Node, weight: Tensor, bias: Tensor, tile: int = 16) -> Node:
        """A convolution [O, I, k, k, k] of x [1, I, D, S, S] with zeros around, S a multiple of `tile`.

        Along both last axes it goes by way of frequencies (`tiles.row_algorithm`), a tenth of the products; along the
        depth, which is short, as `conv_of_few`. Twice as fast for 16 outputs of 112 channels, and as exact.
        """
        outputs, inputs, taps = weight.shape[:3]
        depth, size = (int(s) for s in list(x.output(0).get_shape())[2:4])
        row = row_algorithm(size, taps, tile)
        count, tiles = row.products, row.tiles
        kernel = torch.einsum("oczyx,py,qx->pqczo", weight.double(), row.kernel, row.kernel)
        kernel = kernel.reshape(count * count, inputs, taps * outputs).float()
        forward, inverse = self.constant(row.forward.float()), self.constant(row.inverse.float())
        # Channels last: only whole cells have to change their places. [D, y, x, I]
        x = self.transpose(self.reshape(x, [inputs, depth, size, size]), [1, 2, 3, 0])
        x = self._op.matmul(forward, x, False, False)
        x = self._op.matmul(forward, self.reshape(x, [depth, size, count * tiles * inputs]), False, False)
        x = self.transpose(self.reshape(x, [depth, count, tiles, count, tiles, inputs]), [1, 3, 2, 4, 0, 5])
        # For each of count^2 frequencies [tiles^2 * D, I] @ [I, k * O], then the taps along the depth added up.
        x = self.reshape(x, [count * count, tiles * tiles * depth, inputs])
        x = self._op.matmul(x, self.constant(kernel), False, False)
        gather = torch.zeros(depth, depth + 2 * (taps // 2), taps)
        for at in range(depth):
            gather[at, list(range(at, at + taps)), list(range(taps))] = 1
        gather = gather[:, taps // 2 : taps // 2 + depth].reshape(depth, depth * taps).contiguous()
        x = self.reshape(x, [count * count * tiles * tiles, depth * taps, outputs])
        x = self._op.matmul(self.constant(gather), x, False, False)
        x = self.transpose(self.reshape(x, [count, count, tiles, tiles, depth * outputs]), [0, 2, 1, 3, 4])
        x = self._op.matmul(inverse, self.reshape(x, [count * tiles, count * tiles, depth * outputs]), False, False)
        x = self._op.matmul(inverse, self.reshape(x, [1, count * tiles, size * depth * outputs]), False, False)
        x = self.transpose(self.reshape(x, [1, size, size, depth, outputs]), [0, 4, 3, 1, 2])
        return self.add(x, bias, 3)

    def add(self, x: Node, bias: Tensor, axes: int) -> Node:
        return self._op.add(x, self.constant(bias.reshape(1, -1, *[1] * axes)))

    def scaled(self, x: Node, norm: nn.modules.batchnorm._BatchNorm, axes: int) -> Node:
        """A batch norm with no convolution before it."""
        factor, shift = _norm_factors(norm)
        x = self._op.multiply(x, self.constant(factor.reshape(1, -1, *[1] * axes)))
        return self.add(x, shift, axes)

    def conv_norm(
        self, x: Node, conv: nn.Conv2d | nn.Conv3d, norm: nn.modules.batchnorm._BatchNorm, stride: int = 1
    ) -> Node:
        weight, bias = _folded(conv, norm)
        return self.conv(x, weight, bias, stride=stride)

    def relu(self, x: Node, slope: float = 0.0) -> Node:
        if not slope:
            return self._op.relu(x)
        return self._op.prelu(x, self._op.constant(np.array([slope], np.float32)))

    def pool(self, x: Node, size: list[int]) -> Node:
        none = [0] * len(size)
        return self._op.avg_pool(x, size, none, none, size, True)

    def join(self, *parts: Node) -> Node:
        return self._op.concat(list(parts), 1)

    def reshape(self, x: Node, shape: list[int]) -> Node:
        return self._op.reshape(x, self._op.constant(np.array(shape, np.int64)), False)

    def transpose(self, x: Node, order: list[int]) -> Node:
        return self._op.transpose(x, self._op.constant(np.array(order, np.int64)))

    def repeated(self, x: Node, factor: int) -> Node:
        """Each pixel of [1, C, H, W] `factor` times along both axes."""
        channels, height, width = (int(s) for s in list(x.output(0).get_shape())[1:])
        x = self.reshape(x, [1, channels, height, 1, width, 1])
        x = self._op.broadcast(x, self._op.constant(np.array([1, channels, height, factor, width, factor], np.int64)))
        return self.reshape(x, [1, channels, height * factor, width * factor])

    def conv_of_repeated(self, x: Node, weight: Tensor, bias: Tensor, factor: int) -> Node:
        """A 3x3 (or 3x3x3) convolution of `x` enlarged `factor` times along its last two axes, relu'd."""
        depth = weight.ndim == 5
        phases: dict[tuple[int, int], Node] = {}
        for row in range(factor):
            for column in range(factor):
                kind = (_kind(row, factor), _kind(column, factor))
                if kind in phases:
                    continue
                kernel = _fewer_taps(_fewer_taps(weight, -2, row, factor), -1, column, factor)
                low, high = zip(*(_reach(p, factor) for p in (row, column)), strict=True)
                if depth:
                    low, high = (1, *low), (1, *high)
                phases[kind] = self.relu(self.conv(x, kernel, bias, before=low, after=high))
        made = [phases[_kind(r, factor), _kind(c, factor)] for r in range(factor) for c in range(factor)]
        return self.woven(made, factor)

    def woven(self, parts: list[Node], factor: int) -> Node:
        """factor^2 pictures or volumes of one size, by row and column, to one whose last two axes are longer."""
        shape = [int(s) for s in parts[0].output(0).get_shape()]
        *front, height, width = shape
        stacked = self._op.concat([self.reshape(p, [1, *shape]) for p in parts], 0)
        stacked = self.reshape(stacked, [factor, factor, *shape])
        axes = len(shape)
        order = [*range(2, axes), axes, 0, axes + 1, 1]
        return self.reshape(self.transpose(stacked, order), [*front, height * factor, width * factor])

    # The networks

    def suggestions(self, count: int) -> Node:
        """What `motion_field.suggestions` makes, from `motion_field.along_axes` of `count` suggestions and the
        compressed volume [1, channels * depth, height, width]: three products without a transposition between."""
        compressed = self.input("compressed", [1, COMPRESSED * DEPTH, FIELD, FIELD])
        along = {axis: self.input(f"shift_{axis}", [count, 1, size, size]) for axis, size in _SIZES.items()}
        moved = self._op.matmul(along["y"], self._op.matmul(compressed, along["x"], False, True), False, False)
        moved = self.reshape(moved, [count, COMPRESSED, DEPTH, FIELD * FIELD])
        moved = self._op.matmul(along["z"], moved, False, False)
        heat = []
        for whose in ("driving", "source"):
            x, y, z = (
                self.input(f"{whose}_{axis}", [count, *(size if a == axis else 1 for a in "zyx")])
                for axis, size in _SIZES.items()
            )
            heat.append(self._op.multiply(z, self._op.multiply(y, x)))
        change = self.reshape(self._op.subtract(*heat), [count, 1, DEPTH, FIELD * FIELD])
        return self.reshape(self.join(change, moved), [1, count * (COMPRESSED + 1), DEPTH, FIELD, FIELD])

    def field(self, net: MotionFieldEstimator) -> dict[str, Node]:
        """suggestions [1, (K + 1) * 5, 16, 64, 64] -> mask before its softmax, occlusion."""
        count = net.mask.weight.shape[0]
        x = self.input("suggestions", [1, count * (COMPRESSED + 1), DEPTH, FIELD, FIELD])
        seen = [x]
        for down in net.hourglass.encoder.down_blocks:
            assert isinstance(down, DownBlock3d)
            seen.append(self.pool(self.relu(self.conv_norm(seen[-1], down.conv, down.norm)), [1, 2, 2]))
        x = seen.pop()
        for up in net.hourglass.decoder.up_blocks:
            assert isinstance(up, UpBlock3d)
            x = self.join(self.conv_of_repeated(x, *_folded(up.conv, up.norm), 2), seen.pop())
        decoder = net.hourglass.decoder
        x = self.relu(self.conv_norm(x, decoder.conv, decoder.norm))
        assert net.mask.bias is not None
        mask = self.conv_by_tiles(x, net.mask.weight, net.mask.bias)
        # Its 1792 channels are the volume's channels and depth: a kernel of the whole depth sees them as they lie.
        whole = net.occlusion.weight.reshape(1, -1, DEPTH, *net.occlusion.weight.shape[2:])
        occlusion = self._op.sigmoid(self.conv_of_few(x, whole, net.occlusion.bias, (3, 4), (0, 3, 3)))
        return {"mask": mask, "occlusion": self.reshape(occlusion, [1, 1, FIELD, FIELD])}

    def features(self, third: SameBlock2d, fourth: nn.Conv2d) -> Node:
        """warped [1, 32, 16, 64, 64] and occlusion [1, 1, 64, 64] -> [1, 256, 64, 64]."""
        warped = self.input("warped", [1, CHANNELS, DEPTH, FIELD, FIELD])
        occlusion = self.input("occlusion", [1, 1, FIELD, FIELD])
        x = self.reshape(warped, [1, CHANNELS * DEPTH, FIELD, FIELD])
        x = self.relu(self.conv_norm(x, third.conv, third.norm), third.slope)
        return self._op.multiply(self.conv(x, fourth.weight, fourth.bias), occlusion)

    def spade(self, decoder: SpadeDecoder, features: Node) -> Node:
        """A picture uint8 [1, S, S, 3]."""
        x = self.conv(features, decoder.fc.weight, decoder.fc.bias)
        for number in range(6):
            block = decoder.get_submodule(f"G_middle_{number}")
            assert isinstance(block, SpadeBlock)
            x = self._spade_block(block, x, features, 1)
        x = self._spade_block(decoder.up_0, self.repeated(x, 2), features, 2)
        x = self._spade_block(decoder.up_1, self.repeated(x, 2), features, 4)
        last = decoder.conv_img
        conv = last if isinstance(last, nn.Conv2d) else last.get_submodule("0")
        assert isinstance(conv, nn.Conv2d)
        x = self.conv(self.relu(x, LEAK), conv.weight, conv.bias)
        if conv is not last:
            x = self._op.depth_to_space(x, "depth_first", 2)
        return self._as_picture(x)

    def _spade_block(self, block: SpadeBlock, x: Node, features: Node, factor: int) -> Node:
        # The three modulations of one block normalise the same picture.
        plain = self._normalised(x)
        straight = x
        if block.conv_s is not None:
            straight = self._spectral(self._modulated(block.norm_s, plain, features, factor), block.conv_s)
        y = self.relu(self._modulated(block.norm_0, plain, features, factor), LEAK)
        y = self._spectral(y, block.conv_0)
        y = self.relu(self._modulated(block.norm_1, self._normalised(y), features, factor), LEAK)
        return self._op.add(straight, self._spectral(y, block.conv_1))

    def _normalised(self, x: Node) -> Node:
        axes = self._op.constant(np.array([2, 3], np.int64))
        return self._op.mvn(x, axes, True, _NORM_EPS, "INSIDE_SQRT")

    def _modulated(self, net: Modulation, plain: Node, features: Node, factor: int) -> Node:
        shared = net.mlp_shared[0]
        assert isinstance(shared, nn.Conv2d)
        assert shared.bias is not None
        if factor == 1:
            hidden = self.relu(self.conv(features, shared.weight, shared.bias))
        else:
            hidden = self.conv_of_repeated(features, shared.weight, shared.bias, factor)
        gamma = self.conv(hidden, net.mlp_gamma.weight, None if net.mlp_gamma.bias is None else net.mlp_gamma.bias + 1)
        beta = self.conv(hidden, net.mlp_beta.weight, net.mlp_beta.bias)
        return self._op.add(self._op.multiply(plain, gamma), beta)

    def _spectral(self, x: Node, conv: SpectralConv2d) -> Node:
        return self.conv(x, conv.weight, conv.bias)

    def original(self, net: Generator, features: Node) -> Node:
        """A picture uint8 [1, 256, 256, 3] by the first generation's decoder."""
        x = features
        for block in net.resblocks_2d:
            assert isinstance(block, ResBlock2d)
            y = self.conv_norm(self.relu(self.scaled(x, block.norm1, 2)), block.conv1, block.norm2)
            x = self._op.add(x, self.conv(self.relu(y), block.conv2.weight, block.conv2.bias))
        for up in net.up_blocks:
            assert isinstance(up, UpBlock2d)
            x = self.conv_of_repeated(x, *_folded(up.conv, up.norm), 2)
        return self._as_picture(self.conv_of_few(x, net.final.weight, net.final.bias, (3,)))

    def _as_picture(self, x: Node) -> Node:
        x = self._op.multiply(self._op.sigmoid(x), self._op.constant(np.array([255], np.float32)))
        x = self._op.convert(self._op.round(x, "HALF_TO_EVEN"), "u8")
        return self.transpose(x, [0, 2, 3, 1])

    def picture_input(self) -> Node:
        """picture uint8 [1, 256, 256, 3] -> [1, 3, 256, 256] in 0..1."""
        x = self._op.convert(self.input("picture", [1, 256, 256, 3], np.uint8), "f32")
        return self.transpose(self._op.multiply(x, self._op.constant(np.array([1 / 255], np.float32))), [0, 3, 1, 2])

    def head_estimator(self, net: HeadEstimator) -> dict[str, Node]:
        """The fields of `facevid2vid.networks.Head`."""
        x = self.relu(self.conv_norm(self.picture_input(), net.conv1, net.norm1, 2))
        x = self._op.max_pool(x, [2, 2], [1, 1], [1, 1], [1, 1], [3, 3]).output(0)
        x = self.relu(self.conv_norm(x, net.conv2, net.norm2))
        for stage, conv, norm, wider in (
            (net.block1, net.conv3, net.norm3, net.block2),
            (net.block3, net.conv4, net.norm4, net.block4),
            (net.block5, net.conv5, net.norm5, net.block6),
        ):
            x = self._bottlenecks(stage, x)
            x = self._bottleneck(wider, self.relu(self.conv_norm(x, conv, norm)))
        x = self._mean(self._bottlenecks(net.block7, x), [2, 3])
        return {
            "yaw": self._linear(x, net.fc_roll),
            "pitch": self._linear(x, net.fc_pitch),
            "roll": self._linear(x, net.fc_yaw),
            "translation": self._linear(x, net.fc_t),
            "expression": self.reshape(self._linear(x, net.fc_exp), [1, -1, 3]),
        }

    def _bottlenecks(self, stage: nn.Sequential, x: Node) -> Node:
        for block in stage:
            assert isinstance(block, Bottleneck)
            x = self._bottleneck(block, x)
        return x

    def _bottleneck(self, block: Bottleneck, x: Node) -> Node:
        y = self.relu(self.conv_norm(x, block.conv1, block.norm1))
        y = self.relu(self.conv_norm(y, block.conv2, block.norm2, block.stride))
        straight = x if block.stride == 1 else self.conv_norm(x, block.skip, block.norm4, block.stride)
        return self.relu(self._op.add(self.conv_norm(y, block.conv3, block.norm3), straight))

    def motion_extractor(self, net: MotionExtractor) -> dict[str, Node]:
        """The fields of `liveportrait.networks.Head`."""
        x = self.picture_input()
        detector = net.detector
        for shrink, stage in zip(detector.downsample_layers, detector.stages, strict=True):
            assert isinstance(shrink, nn.Sequential)
            assert isinstance(stage, nn.Sequential)
            for layer in shrink:
                if isinstance(layer, ChannelNorm):
                    last = self._layer_norm(self.transpose(x, [0, 2, 3, 1]), layer.weight, layer.bias)
                    x = self.transpose(last, [0, 3, 1, 2])
                else:
                    assert isinstance(layer, nn.Conv2d)
                    none = (0, 0)
                    x = self.conv(x, layer.weight, layer.bias, stride=layer.stride[0], before=none, after=none)
            for block in stage:
                assert isinstance(block, NextBlock)
                x = self._op.add(x, self._next_block(block, x))
        x = self._layer_norm(self._mean(x, [2, 3]), detector.norm.weight, detector.norm.bias)
        return {
            "yaw": self._linear(x, detector.fc_yaw),
            "pitch": self._linear(x, detector.fc_pitch),
            "roll": self._linear(x, detector.fc_roll),
            "translation": self._linear(x, detector.fc_t),
            "expression": self.reshape(self._linear(x, detector.fc_exp), [1, -1, 3]),
            "scale": self._linear(x, detector.fc_scale),
            "canonical": self.reshape(self._linear(x, detector.fc_kp), [1, -1, 3]),
        }

    def _next_block(self, block: NextBlock, x: Node) -> Node:
        weight = block.dwconv.weight  # [C, 1, 7, 7]; grouped kernels have an axis more here
        kernel = self.constant(weight.reshape(len(weight), 1, 1, 7, 7))
        y = self._op.group_convolution(x, kernel, [1, 1], [3, 3], [3, 3], [1, 1])
        assert block.dwconv.bias is not None
        y = self.transpose(self.add(y, block.dwconv.bias, 2), [0, 2, 3, 1])
        y = self._layer_norm(y, block.norm.weight, block.norm.bias)
        y = self._op.gelu(self._linear(y, block.pwconv1), "erf")
        energy = self._op.reduce_l2(y, self._op.constant(np.array([1, 2], np.int64)), True)
        mean = self._mean(energy, [3], keep=True)
        share = self._op.divide(energy, self._op.add(mean, self._op.constant(np.array([1e-6], np.float32))))
        # gamma * (y * share) + beta + y
        factor = self._op.add(
            self._op.multiply(share, self.constant(block.grn.gamma)), self._op.constant(np.array([1], np.float32))
        )
        y = self._op.add(self._op.multiply(y, factor), self.constant(block.grn.beta))
        return self.transpose(self._linear(y, block.pwconv2), [0, 3, 1, 2])

    def _layer_norm(self, x: Node, weight: Tensor, bias: Tensor) -> Node:
        axes = self._op.constant(np.array([-1], np.int64))
        x = self._op.mvn(x, axes, True, 1e-6, "INSIDE_SQRT")
        return self._op.add(self._op.multiply(x, self.constant(weight)), self.constant(bias))

    def _linear(self, x: Node, layer: nn.Linear) -> Node:
        return self._op.add(self._op.matmul(x, self.constant(layer.weight), False, True), self.constant(layer.bias))

    def _mean(self, x: Node, axes: list[int], *, keep: bool = False) -> Node:
        return self._op.reduce_mean(x, self._op.constant(np.array(axes, np.int64)), keep)


def _norm_factors(norm: nn.modules.batchnorm._BatchNorm) -> tuple[Tensor, Tensor]:
    assert norm.running_mean is not None
    assert norm.running_var is not None
    factor = norm.weight.float() / torch.sqrt(norm.running_var.float() + norm.eps)
    return factor, norm.bias.float() - norm.running_mean.float() * factor


def _folded(conv: nn.Conv2d | nn.Conv3d, norm: nn.modules.batchnorm._BatchNorm) -> tuple[Tensor, Tensor]:
    """Weight and bias of a convolution and the batch norm after it as one convolution."""
    factor, shift = _norm_factors(norm)
    weight = conv.weight.float() * factor.reshape(-1, *[1] * (conv.weight.ndim - 1))
    assert conv.bias is not None
    return weight, conv.bias.float() * factor + shift


def _kind(phase: int, factor: int) -> int:
    """Pixels between the first and the last of a repeated run see that one pixel alone: they are all alike."""
    return 0 if phase == 0 else 2 if phase == factor - 1 else 1


def _reach(phase: int, factor: int) -> tuple[int, int]:
    """How many source pixels before and after its own a pixel sees."""
    return int(phase == 0), int(phase == factor - 1)


def _fewer_taps(weight: Tensor, axis: int, phase: int, factor: int) -> Tensor:
    """A kernel's three taps along `axis` added up where they fall on the same source pixel."""
    first, middle, last = (weight.narrow(axis, i, 1) for i in range(3))
    parts = []
    if phase == 0:
        parts.append(first)
        own = middle + last if phase < factor - 1 else middle
    elif phase == factor - 1:
        own = first + middle
    else:
        own = first + middle + last
    parts.append(own)
    if phase == factor - 1:
        parts.append(last)
    return torch.cat(parts, axis).contiguous()
