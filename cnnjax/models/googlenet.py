"""GoogLeNet: nine Inception blocks of four parallel branches.

Source: Szegedy et al. 2015, "Going Deeper with Convolutions", table 1 and figures 2 and 3.

    stage    blocks                            224x224x3 becomes
    stem     7x7 /2, pool, 1x1, 3x3, pool      28x28x192
    stage1   3a, 3b                            28x28x480
    stage2   pool, 4a                          14x14x512
    stage3   4b, 4c, 4d                        14x14x528
    stage4   4e                                14x14x832
    stage5   pool, 5a, 5b                      7x7x1024

The paper's auxiliary heads read stage2 and stage3, which is why its group 4 is split here. All pooling layers of the
trunk round up. Forms:
    torchvision  as in torchvision: batch norm (epsilon 1e-3), convolutions without bias, a 3x3 convolution in the
                 branch that the paper calls 5x5, and adaptive average pooling to 4x4 in the auxiliary heads.
    paper        5x5 convolutions, a 3x3 window in the pooling layer before 5a, and average pooling of 5x5 windows with
                 stride 3 in the auxiliary heads. Without batch norm, convolutions have a bias, and local response
                 normalization follows the first pooling layer and precedes the second.
Expected at 224 px: googlenet 6,624,904 parameters, 1.498 G multiply-adds, 13,004,888 parameters with auxiliary heads;
googlenet_paper 6,998,552 parameters.
"""

from collections.abc import Iterable, Sequence
from typing import Annotated, Literal, NamedTuple

import jax
from flax import nnx
from pydantic import Field

from cnnjax.models.blocks import Branches, Chain
from cnnjax.models.heads import HeadedArch, apply_head, make_head
from cnnjax.models.layers import (
    BatchNorm,
    Conv,
    ConvNormAct,
    Dense,
    Features,
    Flatten,
    Network,
    Outputs,
    Size,
    Stage,
    activation,
    global_average,
)
from cnnjax.models.pools import AdaptiveAveragePool, AveragePool, MaxPool
from cnnjax.models.regularization import Dropout, LocalResponseNorm
from cnnjax.schema import Number

AUX_SIDE = 4
"""Height and width of the pooled map in an auxiliary head."""


class Widths(NamedTuple):
    """Channels of an Inception block's convolutions: a row of table 1."""

    one: int
    reduce3: int
    three: int
    reduce5: int
    five: int
    pooled: int

    @property
    def total(self) -> int:
        return self.one + self.three + self.five + self.pooled


TABLE = {
    "3a": Widths(64, 96, 128, 16, 32, 32),
    "3b": Widths(128, 128, 192, 32, 96, 64),
    "4a": Widths(192, 96, 208, 16, 48, 64),
    "4b": Widths(160, 112, 224, 24, 64, 64),
    "4c": Widths(128, 128, 256, 24, 64, 64),
    "4d": Widths(112, 144, 288, 32, 64, 64),
    "4e": Widths(256, 160, 320, 32, 128, 128),
    "5a": Widths(256, 160, 320, 32, 128, 128),
    "5b": Widths(384, 192, 384, 48, 128, 128),
}
"""The nine blocks at full width, in order."""
STAGES = {
    "stage1": ("3a", "3b"), "stage2": ("4a",), "stage3": ("4b", "4c", "4d"), "stage4": ("4e",), "stage5": ("5a", "5b"),
}  # fmt: skip
"""Blocks of each stage."""


class GoogLeNet(HeadedArch):
    """GoogLeNet: a stem, nine Inception blocks, global average pooling, a dense head."""

    family = "googlenet"

    form: Literal["torchvision", "paper"] = "torchvision"
    """torchvision: as torchvision ships it; paper: 5x5 convolutions and the paper's pooling."""
    batch_norm: bool = True
    """Normalize after each convolution; if False, apply local response normalization in the stem."""
    aux_heads: bool = False
    """Add the two auxiliary heads, whose losses are weighted by `CrossEntropy.aux_weight`."""
    stem: Literal["imagenet", "cifar"] = "imagenet"
    """imagenet: reduces the size by 8; cifar: 3x3 convolutions without stride or pooling, for small images."""
    width: Annotated[Size, Field(ge=4)] = 64
    """Channels of the first convolution; all other widths are proportional, rounded down."""
    dropout: Annotated[Number, Field(ge=0, lt=1)] = 0.2
    """Dropout rate on the embedding; the paper uses 0.4."""
    momentum: Annotated[Number, Field(ge=0, le=1)] = 0.9
    """Momentum of the running statistics, as in Flax; torch's momentum is 1 minus this value."""
    epsilon: Annotated[Number, Field(gt=0)] = 1e-3
    """Constant added to the variance in norms."""

    def scaled(self, channels: int) -> int:
        """Return the width of a layer that has ``channels`` in the paper."""
        return channels * self.width // 64

    def build(self, rngs: nnx.Rngs) -> "GoogLeNetModule":
        return GoogLeNetModule(self, rngs)


class GoogLeNetModule(Network):
    """The layers of `GoogLeNet`; stages: stem and stage1 to stage5 as in the table above."""

    def __init__(self, arch: GoogLeNet, rngs: nnx.Rngs):
        self.stem = Stem(arch, rngs)
        self.pool4 = MaxPool(3, 2, ceil_mode=True)
        self.pool5 = MaxPool(2 if arch.form == "torchvision" else 3, 2, ceil_mode=True)
        inputs = arch.scaled(192)
        for stage, names in STAGES.items():
            blocks = []
            for name in names:
                widths = Widths(*map(arch.scaled, TABLE[name]))
                blocks.append(inception(arch, inputs, widths, rngs))
                inputs = widths.total
            setattr(self, stage, nnx.List(blocks))
        self.dropout = Dropout(arch.dropout)
        self.head = make_head(arch, inputs, rngs)
        has_aux = arch.aux_heads and arch.num_classes > 0
        self.aux1 = AuxiliaryHead(arch, total(arch, "4a"), rngs) if has_aux else None
        self.aux2 = AuxiliaryHead(arch, total(arch, "4d"), rngs) if has_aux else None

    def stages(self) -> Sequence[Stage]:
        pools = {"stage2": self.pool4, "stage5": self.pool5}

        def run(name: str) -> Stage:
            def run_blocks(blocks: Iterable[nnx.Module], x: jax.Array, rngs: nnx.Rngs | None) -> jax.Array:
                x = pools[name](x) if name in pools else x
                for block in blocks:
                    x = block(x)
                return x

            return Stage(name, run_blocks, (getattr(self, name),))

        return Stage("stem", Stem.__call__, (self.stem,)), *map(run, STAGES)

    def classify(self, features: Features, rngs: nnx.Rngs | None = None) -> Outputs:
        embedding = global_average(features["stage5"])
        if self.head is None:
            return Outputs(embedding)
        aux: tuple[jax.Array, ...] = ()
        if self.aux1 is not None and self.aux2 is not None:
            aux = self.aux1(features["stage2"], rngs), self.aux2(features["stage3"], rngs)
        return Outputs(apply_head(self.head, self.dropout(embedding, rngs), rngs), aux)


class Stem(nnx.Module):
    """Three convolutions: 7x7 with stride 2 and pooling, 1x1, 3x3 and pooling; or 3x3, 1x1, 3x3 for small images."""

    def __init__(self, arch: GoogLeNet, rngs: nnx.Rngs):
        narrow, wide = arch.scaled(64), arch.scaled(192)
        self.pools = arch.stem == "imagenet"
        size, stride = (7, 2) if self.pools else (3, 1)
        self.conv1 = conv_layer(arch, arch.channels, narrow, size, rngs, stride=stride)
        self.conv2 = conv_layer(arch, narrow, narrow, 1, rngs)
        self.conv3 = conv_layer(arch, narrow, wide, 3, rngs)
        self.pool = MaxPool(3, 2, ceil_mode=True)
        self.response = None if arch.batch_norm else LocalResponseNorm(5, k=2.0, alpha=5 * 1e-4, beta=0.75)

    def __call__(self, x: jax.Array, rngs: nnx.Rngs | None = None) -> jax.Array:
        x = self.conv1(x)
        x = self.pool(x) if self.pools else x
        x = x if self.response is None else self.response(x)
        x = self.conv3(self.conv2(x))
        x = x if self.response is None else self.response(x)
        return self.pool(x) if self.pools else x


def inception(arch: GoogLeNet, inputs: int, widths: Widths, rngs: nnx.Rngs) -> Branches:
    """Return a block of four branches: 1x1; 1x1, 3x3; 1x1, 5x5; pool, 1x1 (figure 2b)."""
    five = 3 if arch.form == "torchvision" else 5
    return Branches(
        branch1=conv_layer(arch, inputs, widths.one, 1, rngs),
        branch2=Chain(
            conv_layer(arch, inputs, widths.reduce3, 1, rngs), conv_layer(arch, widths.reduce3, widths.three, 3, rngs)
        ),
        branch3=Chain(
            conv_layer(arch, inputs, widths.reduce5, 1, rngs), conv_layer(arch, widths.reduce5, widths.five, five, rngs)
        ),
        branch4=Chain(MaxPool(3, 1, padding=1), conv_layer(arch, inputs, widths.pooled, 1, rngs)),
    )


class AuxiliaryHead(nnx.Module):
    """A classifier on an intermediate map: pooling to 4x4, a 1x1 convolution, two dense layers (section 5)."""

    def __init__(self, arch: GoogLeNet, inputs: int, rngs: nnx.Rngs):
        self.activation = activation(arch.activation)
        channels, hidden = arch.scaled(128), arch.scaled(1024)
        adapts = arch.form == "torchvision" or arch.stem == "cifar"
        self.pool = AdaptiveAveragePool(AUX_SIDE) if adapts else AveragePool(5, 3)
        self.conv = conv_layer(arch, inputs, channels, 1, rngs)
        self.flatten = Flatten((AUX_SIDE, AUX_SIDE, channels), fits="223 to 270 with auxiliary heads")
        self.dense1 = Dense(AUX_SIDE * AUX_SIDE * channels, hidden, dtype=arch.dtype, rngs=rngs)
        self.dropout = Dropout(0.7)
        self.dense2 = Dense(hidden, arch.num_classes, dtype=arch.dtype, rngs=rngs)

    def __call__(self, x: jax.Array, rngs: nnx.Rngs | None = None) -> jax.Array:
        x = self.flatten(self.conv(self.pool(x)))
        x = self.dropout(self.activation(self.dense1(x)), rngs)
        return self.dense2(x)


def total(arch: GoogLeNet, block: str) -> int:
    """Return the output channels of a block."""
    return Widths(*map(arch.scaled, TABLE[block])).total


def conv_layer(
    arch: GoogLeNet, inputs: int, outputs: int, size: int, rngs: nnx.Rngs, *, stride: int = 1
) -> ConvNormAct:  # fmt: skip
    conv = Conv(
        inputs, outputs, size, stride=stride, padding=size // 2, bias=not arch.batch_norm, dtype=arch.dtype, rngs=rngs
    )
    norm = None
    if arch.batch_norm:
        norm = BatchNorm(
            outputs, momentum=arch.momentum, epsilon=arch.epsilon, unbiased_variance=True, dtype=arch.dtype, rngs=rngs
        )
    return ConvNormAct(conv, norm, activation(arch.activation))


VARIANTS = {
    "googlenet": GoogLeNet(),
    "googlenet_paper": GoogLeNet(form="paper", batch_norm=False, dropout=0.4),
}
