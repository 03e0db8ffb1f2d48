"""Xception: separable convolutions with shortcuts.

Source: Chollet 2017, "Xception: Deep Learning with Depthwise Separable Convolutions", figure 5.
Deviations: the network is the one in keras.applications, which the paper's author wrote. The paper's dropout of 0.5
before the classifier is a field, and its optional dense layers are left out.

    stage    blocks                        299x299x3 becomes
    stem     32@3x3 /2 VALID, 64@3x3 VALID 147x147x64
    stage1   128, 128, pool                74x74x128
    stage2   256, 256, pool                37x37x256
    stage3   728, 728, pool; 8 x (728 x 3) 19x19x728
    stage4   728, 1024, pool; 1536, 2048   10x10x2048

The paper's entry flow is the stem, stage1, stage2 and the first block of stage3; its middle flow is the rest of stage3;
its exit flow is stage4. All numbers except those of the stem are separable 3x3 convolutions, each with a norm.
Forms:
    keras  as in Keras: SAME pooling, epsilon 1e-3, biased running variance.
    timm   as in timm's legacy_xception: pooling padded by 1 on both sides, epsilon 1e-5, unbiased running variance. The
           two paddings differ at even sizes only.
Expected at 299 px: 22,855,952 parameters, 8.36 G multiply-adds.
"""

from collections.abc import Sequence
from typing import Annotated, Literal

import jax
from flax import nnx
from pydantic import Field

from cnnjax.models.blocks import SeparableConv
from cnnjax.models.heads import HeadedArch, apply_head, make_head
from cnnjax.models.layers import (
    BatchNorm,
    Conv,
    Features,
    Network,
    Outputs,
    Size,
    Stage,
    activation,
    conv_norm_act,
    global_average,
    run_blocks,
)
from cnnjax.models.pools import MaxPool
from cnnjax.models.regularization import Dropout
from cnnjax.schema import Number

MOST_BLOCKS = 200
"""Upper bound on blocks in a definition from an untrusted file."""


class Xception(HeadedArch):
    """Xception: a stem, four stages of separable convolutions with shortcuts, global average pooling, a dense head."""

    family = "xception"

    input_size: Size = 299
    width: Annotated[Size, Field(ge=2)] = 32
    """Channels of the first convolution; all other widths are proportional, rounded down."""
    middle_blocks: Annotated[int, Field(ge=0, le=MOST_BLOCKS)] = 8
    """Number of blocks in the middle flow."""
    stem: Literal["imagenet", "cifar"] = "imagenet"
    """imagenet: stride 2 and VALID padding; cifar: stride 1 and SAME padding, for small images."""
    form: Literal["keras", "timm"] = "keras"
    """Padding of the pooling layers: SAME as in Keras, or 1 on both sides as in timm's legacy_xception."""
    dropout: Annotated[Number, Field(ge=0, lt=1)] = 0.0
    """Dropout rate on the embedding; the paper uses 0.5 on ImageNet."""
    momentum: Annotated[Number, Field(ge=0, le=1)] = 0.99
    """Momentum of the running statistics, as in Flax; torch's momentum is 1 minus this value."""
    epsilon: Annotated[Number, Field(gt=0)] = 1e-3
    """Constant added to the variance in norms."""
    unbiased_variance: bool = False
    """Track the unbiased variance in the running statistics, as torch does."""

    def scaled(self, channels: int) -> int:
        """Return the width of a layer that has ``channels`` in the paper."""
        return channels * self.width // 32

    def build(self, rngs: nnx.Rngs) -> "XceptionModule":
        return XceptionModule(self, rngs)


class XceptionModule(Network):
    """The layers of `Xception`; stages: stem, stage1, stage2, stage3 and stage4 as in the table above."""

    def __init__(self, arch: Xception, rngs: nnx.Rngs):
        self.stem = Stem(arch, rngs)
        self.stage1 = nnx.List([PooledBlock(arch, 64, 128, 128, rngs, activates_first=False)])
        self.stage2 = nnx.List([PooledBlock(arch, 128, 256, 256, rngs)])
        middle = [MiddleBlock(arch, 728, rngs) for _ in range(arch.middle_blocks)]
        self.stage3 = nnx.List([PooledBlock(arch, 256, 728, 728, rngs), *middle])
        self.stage4 = nnx.List([PooledBlock(arch, 728, 728, 1024, rngs), ExitBlock(arch, rngs)])
        self.dropout = Dropout(arch.dropout)
        embedding = arch.scaled(2048)
        self.head = make_head(arch, embedding, rngs)

    def stages(self) -> Sequence[Stage]:
        return (
            Stage("stem", Stem.__call__, (self.stem,)),
            Stage("stage1", run_blocks, (self.stage1,)),
            Stage("stage2", run_blocks, (self.stage2,)),
            Stage("stage3", run_blocks, (self.stage3,)),
            Stage("stage4", run_blocks, (self.stage4,)),
        )

    def classify(self, features: Features, rngs: nnx.Rngs | None = None) -> Outputs:
        embedding = global_average(features["stage4"])
        dropped = embedding if self.head is None else self.dropout(embedding, rngs)
        return Outputs(apply_head(self.head, dropped, rngs))


class Stem(nnx.Module):
    """Two 3x3 convolutions, each with norm and activation."""

    def __init__(self, arch: Xception, rngs: nnx.Rngs):
        stride, padding = (2, "VALID") if arch.stem == "imagenet" else (1, "SAME")
        narrow, wide = arch.scaled(32), arch.scaled(64)
        self.activation = activation(arch.activation)
        self.conv1 = Conv(
            arch.channels, narrow, 3, stride=stride, padding=padding, bias=False, dtype=arch.dtype, rngs=rngs
        )
        self.norm1 = make_norm(arch, narrow, rngs)
        self.conv2 = Conv(narrow, wide, 3, padding=padding, bias=False, dtype=arch.dtype, rngs=rngs)
        self.norm2 = make_norm(arch, wide, rngs)

    def __call__(self, x: jax.Array, rngs: nnx.Rngs | None = None) -> jax.Array:
        x = conv_norm_act(self.conv1, self.norm1, x, activation=self.activation)
        return conv_norm_act(self.conv2, self.norm2, x, activation=self.activation)


class PooledBlock(nnx.Module):
    """Two separable convolutions and a pooling layer, with a 1x1 convolution of stride 2 as the shortcut."""

    def __init__(
        self, arch: Xception, inputs: int, inner: int, outputs: int, rngs: nnx.Rngs, *, activates_first: bool = True
    ):  # fmt: skip
        self.activation = activation(arch.activation)
        self.first_activation = self.activation if activates_first else jax.nn.identity
        self.conv1 = make_separable(arch, inputs, inner, rngs)
        self.conv2 = make_separable(arch, inner, outputs, rngs)
        self.pool = MaxPool(3, 2, padding="SAME" if arch.form == "keras" else 1)
        inputs, outputs = arch.scaled(inputs), arch.scaled(outputs)
        self.shortcut = Conv(inputs, outputs, 1, stride=2, padding=0, bias=False, dtype=arch.dtype, rngs=rngs)
        self.shortcut_norm = make_norm(arch, outputs, rngs)

    def __call__(self, x: jax.Array, rngs: nnx.Rngs | None = None) -> jax.Array:
        y = self.conv1(x, before=self.first_activation)
        y = self.conv2(y, before=self.activation)
        return conv_norm_act(self.shortcut, self.shortcut_norm, x, residual=self.pool(y))


class MiddleBlock(nnx.Module):
    """Three separable convolutions with the identity as the shortcut."""

    def __init__(self, arch: Xception, channels: int, rngs: nnx.Rngs):
        self.activation = activation(arch.activation)
        self.conv1 = make_separable(arch, channels, channels, rngs)
        self.conv2 = make_separable(arch, channels, channels, rngs)
        self.conv3 = make_separable(arch, channels, channels, rngs)

    def __call__(self, x: jax.Array, rngs: nnx.Rngs | None = None) -> jax.Array:
        y = self.conv1(x, before=self.activation)
        y = self.conv2(y, before=self.activation)
        return self.conv3(y, before=self.activation, residual=x)


class ExitBlock(nnx.Module):
    """Two separable convolutions, each followed by its activation, without a shortcut."""

    def __init__(self, arch: Xception, rngs: nnx.Rngs):
        self.activation = activation(arch.activation)
        self.conv1 = make_separable(arch, 1024, 1536, rngs)
        self.conv2 = make_separable(arch, 1536, 2048, rngs)

    def __call__(self, x: jax.Array, rngs: nnx.Rngs | None = None) -> jax.Array:
        return self.conv2(self.conv1(x, activation=self.activation), activation=self.activation)


def make_separable(arch: Xception, inputs: int, outputs: int, rngs: nnx.Rngs) -> SeparableConv:
    inputs, outputs = arch.scaled(inputs), arch.scaled(outputs)
    return SeparableConv(inputs, outputs, norm=make_norm(arch, outputs, rngs), dtype=arch.dtype, rngs=rngs)


def make_norm(arch: Xception, channels: int, rngs: nnx.Rngs) -> BatchNorm:
    return BatchNorm(
        channels, momentum=arch.momentum, epsilon=arch.epsilon, unbiased_variance=arch.unbiased_variance,
        dtype=arch.dtype, rngs=rngs,
    )  # fmt: skip


VARIANTS = {
    "xception": Xception(),
    "legacy_xception": Xception(form="timm", momentum=0.9, epsilon=1e-5, unbiased_variance=True),
}
