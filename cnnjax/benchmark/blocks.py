"""Single blocks of larger networks with a dense head, to measure in addition to the models.

    name              input       layers
    resnet_stem       224x224x3   ResNet-50 (He et al. 2015, table 1): 7x7/2 to 64, max pooling 3x3/2
    bottleneck        56x56x256   ResNet-50, stage 1: 1x1 to 64, 3x3, 1x1 to 256, added to the input
    resnext_block     28x28x512   ResNeXt-50 32x4d (Xie et al. 2017, table 1), stage 2: 1x1 to 256, 3x3 in 32 groups,
                                  1x1 to 512, added to the input
    separable_entry   74x74x128   Xception (Chollet 2017, figure 5), entry flow: ReLU and a separable convolution
                                  to 256, twice; max pooling 3x3/2, added to a 1x1/2 projection
    separable_middle  19x19x728   Xception, middle flow: ReLU and a separable convolution, three times; added to
                                  the input

Convolutions have no bias and are followed by batch norm (in a separable pair, only the 1x1). Deviation: max pooling
pads one row on each side, where Keras's "same" pads only below and right; output size and time are the same.
"""

from collections.abc import Sequence
from typing import Any

import jax
from flax import nnx

from cnnjax.errors import choose
from cnnjax.models import create, list_models
from cnnjax.models.blocks import SeparableConv
from cnnjax.models.layers import (
    HE,
    Arch,
    BatchNorm,
    Conv,
    Dense,
    Features,
    Network,
    Outputs,
    Size,
    Stage,
    activation,
    conv_norm_act,
    global_average,
    max_pool,
)


class ResNetStem(Arch):
    """The stem of a ResNet for large images, and a head."""

    family = "resnet_stem"

    num_classes: Size = 10
    input_size: Size = 224
    channels: Size = 3

    def build(self, rngs: nnx.Rngs) -> "ResNetStemModule":
        return ResNetStemModule(self, rngs)


class Bottleneck(Arch):
    """A bottleneck, and a head."""

    family = "bottleneck"

    num_classes: Size = 10
    input_size: Size = 56
    channels: Size = 256

    def build(self, rngs: nnx.Rngs) -> "BottleneckModule":
        return BottleneckModule(self, rngs, inner=self.channels // 4, groups=1)


class ResNeXtBlock(Arch):
    """A bottleneck with a grouped convolution, and a head."""

    family = "resnext_block"

    num_classes: Size = 10
    input_size: Size = 28
    channels: Size = 512

    def build(self, rngs: nnx.Rngs) -> "BottleneckModule":
        return BottleneckModule(self, rngs, inner=self.channels // 2, groups=32)


class SeparableEntry(Arch):
    """Two separable convolutions with pooling, a projection shortcut, and a head."""

    family = "separable_entry"

    num_classes: Size = 10
    input_size: Size = 74
    channels: Size = 128

    def build(self, rngs: nnx.Rngs) -> "SeparableEntryModule":
        return SeparableEntryModule(self, rngs)


class SeparableMiddle(Arch):
    """Three separable convolutions, and a head."""

    family = "separable_middle"

    num_classes: Size = 10
    input_size: Size = 19
    channels: Size = 728

    def build(self, rngs: nnx.Rngs) -> "SeparableMiddleModule":
        return SeparableMiddleModule(self, rngs)


class BlockModule(Network):
    """One block as the only stage, then global average pooling and a dense layer."""

    head: Dense

    def block(self, x: jax.Array, rngs: nnx.Rngs | None = None) -> jax.Array:
        raise NotImplementedError

    def stages(self) -> Sequence[Stage]:
        return (Stage("block", type(self).block, (self,)),)

    def classify(self, features: Features, rngs: nnx.Rngs | None = None) -> Outputs:
        return Outputs(self.head(global_average(features["block"])))


class ResNetStemModule(BlockModule):
    """The layers of `ResNetStem`; stage: block [N, 56, 56, 64]."""

    WIDTH = 64

    def __init__(self, arch: ResNetStem, rngs: nnx.Rngs):
        self.activation = activation(arch.activation)
        self.conv = make_conv(arch, arch.channels, self.WIDTH, 7, rngs, stride=2)
        self.norm = make_norm(arch, self.WIDTH, rngs)
        self.head = Dense(self.WIDTH, arch.num_classes, dtype=arch.dtype, rngs=rngs)

    def block(self, x: jax.Array, rngs: nnx.Rngs | None = None) -> jax.Array:
        y = conv_norm_act(self.conv, self.norm, x, activation=self.activation)
        return max_pool(y, size=3, stride=2, padding=1)


class BottleneckModule(BlockModule):
    """The layers of `Bottleneck` and `ResNeXtBlock`; stage: block, of the input's shape."""

    def __init__(self, arch: Arch, rngs: nnx.Rngs, *, inner: int, groups: int):
        self.activation = activation(arch.activation)
        self.conv1, self.norm1 = make_conv(arch, arch.channels, inner, 1, rngs), make_norm(arch, inner, rngs)
        self.conv2, self.norm2 = make_conv(arch, inner, inner, 3, rngs, groups=groups), make_norm(arch, inner, rngs)
        self.conv3 = make_conv(arch, inner, arch.channels, 1, rngs)
        self.norm3 = make_norm(arch, arch.channels, rngs)
        self.head = Dense(arch.channels, arch.num_classes, dtype=arch.dtype, rngs=rngs)

    def block(self, x: jax.Array, rngs: nnx.Rngs | None = None) -> jax.Array:
        y = conv_norm_act(self.conv1, self.norm1, x, activation=self.activation)
        y = conv_norm_act(self.conv2, self.norm2, y, activation=self.activation)
        return conv_norm_act(self.conv3, self.norm3, y, residual=x, activation=self.activation)


class SeparableEntryModule(BlockModule):
    """The layers of `SeparableEntry`; stage: block [N, 37, 37, 256]."""

    def __init__(self, arch: SeparableEntry, rngs: nnx.Rngs):
        self.activation = activation(arch.activation)
        outputs = 2 * arch.channels
        self.shortcut = make_conv(arch, arch.channels, outputs, 1, rngs, stride=2)
        self.shortcut_norm = make_norm(arch, outputs, rngs)
        self.separable1 = make_separable(arch, arch.channels, outputs, rngs)
        self.separable2 = make_separable(arch, outputs, outputs, rngs)
        self.head = Dense(outputs, arch.num_classes, dtype=arch.dtype, rngs=rngs)

    def block(self, x: jax.Array, rngs: nnx.Rngs | None = None) -> jax.Array:
        y = self.separable1(x, before=self.activation, activation=self.activation)
        y = max_pool(self.separable2(y), size=3, stride=2, padding=1)
        return conv_norm_act(self.shortcut, self.shortcut_norm, x, residual=y)


class SeparableMiddleModule(BlockModule):
    """The layers of `SeparableMiddle`; stage: block [N, 19, 19, 728]."""

    def __init__(self, arch: SeparableMiddle, rngs: nnx.Rngs):
        self.activation = activation(arch.activation)
        self.separable1, self.separable2, self.separable3 = (
            make_separable(arch, arch.channels, arch.channels, rngs) for _ in range(3)
        )
        self.head = Dense(arch.channels, arch.num_classes, dtype=arch.dtype, rngs=rngs)

    def block(self, x: jax.Array, rngs: nnx.Rngs | None = None) -> jax.Array:
        y = self.separable1(x, before=self.activation, activation=self.activation)
        return self.separable3(self.separable2(y, activation=self.activation), residual=x)


def make_conv(
    arch: Arch, inputs: int, outputs: int, size: int, rngs: nnx.Rngs, *, stride: int = 1, groups: int = 1
) -> Conv:  # fmt: skip
    return Conv(
        inputs, outputs, size, stride=stride, padding=size // 2, groups=groups, bias=False, kernel_init=HE,
        dtype=arch.dtype, rngs=rngs,
    )  # fmt: skip


def make_separable(arch: Arch, inputs: int, outputs: int, rngs: nnx.Rngs) -> SeparableConv:
    return SeparableConv(
        inputs, outputs, 3, padding=1, norm=make_norm(arch, outputs, rngs), kernel_init=HE, dtype=arch.dtype, rngs=rngs
    )


def make_norm(arch: Arch, channels: int, rngs: nnx.Rngs) -> BatchNorm:
    return BatchNorm(channels, momentum=0.9, epsilon=1e-5, unbiased_variance=True, dtype=arch.dtype, rngs=rngs)


FAMILIES = (ResNetStem, Bottleneck, ResNeXtBlock, SeparableEntry, SeparableMiddle)
BLOCKS: dict[str, Arch] = {cls.family: cls() for cls in FAMILIES}


def network(name: str, **options: Any) -> Arch:
    """Return the definition of a model or a block, with some fields changed.

    Raises:
        UserError: unknown network name, with near matches, or an invalid value.
    """
    choose("model", name, (*list_models(), *BLOCKS))
    return BLOCKS[name].replace(**options) if name in BLOCKS else create(name, **options)
