"""Inception v3: factorized Inception blocks, the link from GoogLeNet to Xception.

Source: Szegedy et al. 2016, "Rethinking the Inception Architecture for Computer Vision", table 1 and figures 5, 6, 7
and 10.
Deviations: some widths differ from table 1; they are those of torchvision and Keras, which agree with each other.

    stage    blocks                                          299x299x3 becomes
    stem     3x3 /2, 3x3, 3x3, pool, 1x1, 3x3, pool          35x35x192
    stage1   3 x 5x5 blocks (figure 5)                       35x35x288
    stage2   reduction (figure 10), 4 x 7x7 blocks (fig. 6)  17x17x768
    stage3   reduction, 2 x widened blocks (figure 7)        8x8x2048

The auxiliary head reads stage2. Stem, reductions and their pools are VALID, all other convolutions SAME. Forms:
    torchvision  pooling that counts its padding, unbiased running variance, norms with a scale.
    keras        pooling that does not, biased running variance, norms without a scale, no dropout, no auxiliary head.
Expected at 299 px: inception_v3 27,161,264 parameters, of which 3,326,696 are the auxiliary head's, and 5.713 G
multiply-adds without it; inception_v3_keras 23,817,352 parameters.
"""

import functools
from collections.abc import Sequence
from typing import Annotated, Literal, Self

import jax
from flax import nnx
from pydantic import Field, model_validator

from cnnjax.errors import UserError
from cnnjax.models.blocks import Branches, Chain
from cnnjax.models.heads import HeadedArch, apply_head, make_head
from cnnjax.models.layers import (
    BatchNorm,
    Conv,
    ConvNormAct,
    Dense,
    Features,
    Network,
    Outputs,
    Size,
    Stage,
    activation,
    global_average,
    pair,
)
from cnnjax.models.pools import AdaptiveAveragePool, AveragePool, MaxPool
from cnnjax.models.regularization import Dropout
from cnnjax.schema import Number

SMALLEST_INPUT = 75
"""Smallest input for which the last reduction has a whole window."""
AUX_SIDE, SMALLEST_INPUT_OF_HEAD = 5, 299
"""Size of the last convolution in the auxiliary head, and the smallest input for which it has a whole window."""


class InceptionV3(HeadedArch):
    """Inception v3: a stem, three stages of Inception blocks, global average pooling, a dense head."""

    family = "inception_v3"

    input_size: Size = 299
    form: Literal["torchvision", "keras"] = "torchvision"
    """Padding of the average pools, and whether norms have a scale: as in torchvision or as in Keras."""
    aux_heads: bool = False
    """Add the auxiliary head, whose loss is weighted by `CrossEntropy.aux_weight`."""
    stem: Literal["imagenet", "cifar"] = "imagenet"
    """imagenet: reduces the size by 8; cifar: SAME convolutions without stride or pooling, for small images."""
    width: Annotated[Size, Field(ge=2, multiple_of=2)] = 32
    """Channels of the first convolution, an even number; all other widths are proportional."""
    dropout: Annotated[Number, Field(ge=0, lt=1)] = 0.5
    """Dropout rate on the embedding."""
    momentum: Annotated[Number, Field(ge=0, le=1)] = 0.9
    """Momentum of the running statistics, as in Flax; torch's momentum is 1 minus this value."""
    epsilon: Annotated[Number, Field(gt=0)] = 1e-3
    """Constant added to the variance in norms."""

    @model_validator(mode="after")
    def _is_large_enough(self) -> Self:
        if self.stem == "imagenet" and self.input_size < SMALLEST_INPUT:
            raise ValueError(
                f"model.input_size is {self.input_size}; with stem 'imagenet' it must be {SMALLEST_INPUT} or more, so "
                "choose stem 'cifar' for small images"
            )
        return self

    def scaled(self, channels: int) -> int:
        """Return the width of a layer that has ``channels`` in the paper; exact for multiples of 16."""
        return channels * self.width // 32

    def build(self, rngs: nnx.Rngs) -> "InceptionV3Module":
        return InceptionV3Module(self, rngs)


class InceptionV3Module(Network):
    """The layers of `InceptionV3`; stages: stem, stage1, stage2 and stage3 as in the table above."""

    def __init__(self, arch: InceptionV3, rngs: nnx.Rngs):
        self.stem = Stem(arch, rngs)
        self.stage1 = nnx.List([block5(arch, 192, 32, rngs), block5(arch, 256, 64, rngs), block5(arch, 288, 64, rngs)])
        self.stage2 = nnx.List([reduction1(arch, rngs), *(block7(arch, width, rngs) for width in (128, 160, 160, 192))])
        self.stage3 = nnx.List([reduction2(arch, rngs), widened(arch, 1280, rngs), widened(arch, 2048, rngs)])
        self.dropout = Dropout(arch.dropout)
        self.head = make_head(arch, arch.scaled(2048), rngs)
        self.aux = AuxiliaryHead(arch, rngs) if arch.aux_heads and arch.num_classes else None

    def stages(self) -> Sequence[Stage]:
        return (
            Stage("stem", Stem.__call__, (self.stem,)),
            Stage("stage1", run_plain, (self.stage1,)),
            Stage("stage2", run_plain, (self.stage2,)),
            Stage("stage3", run_plain, (self.stage3,)),
        )

    def classify(self, features: Features, rngs: nnx.Rngs | None = None) -> Outputs:
        embedding = global_average(features["stage3"])
        if self.head is None:
            return Outputs(embedding)
        aux = () if self.aux is None else (self.aux(features["stage2"]),)
        return Outputs(apply_head(self.head, self.dropout(embedding, rngs), rngs), aux)


class Stem(nnx.Module):
    """Five convolutions and two pools; for small images, the same convolutions alone."""

    def __init__(self, arch: InceptionV3, rngs: nnx.Rngs):
        self.pools = arch.stem == "imagenet"
        layer = functools.partial(conv, arch, rngs=rngs, valid=self.pools)
        self.conv1 = layer(0, 32, 3, stride=2 if self.pools else 1)
        self.conv2 = layer(32, 32, 3)
        self.conv3 = conv(arch, 32, 64, 3, rngs=rngs)
        self.conv4 = layer(64, 80, 1)
        self.conv5 = layer(80, 192, 3)
        self.pool = MaxPool(3, 2)

    def __call__(self, x: jax.Array, rngs: nnx.Rngs | None = None) -> jax.Array:
        x = self.conv3(self.conv2(self.conv1(x)))
        x = self.pool(x) if self.pools else x
        x = self.conv5(self.conv4(x))
        return self.pool(x) if self.pools else x


def block5(arch: InceptionV3, inputs: int, pooled: int, rngs: nnx.Rngs) -> Branches:
    """Return a block of four branches: 1x1; 1x1, 5x5; 1x1, 3x3, 3x3; pool, 1x1 (figure 5 with one 5x5 kept)."""
    layer = functools.partial(conv, arch, rngs=rngs)
    return Branches(
        branch1=layer(inputs, 64, 1),
        branch2=Chain(layer(inputs, 48, 1), layer(48, 64, 5)),
        branch3=Chain(layer(inputs, 64, 1), layer(64, 96, 3), layer(96, 96, 3)),
        branch4=Chain(average(arch), layer(inputs, pooled, 1)),
    )


def reduction1(arch: InceptionV3, rngs: nnx.Rngs) -> Branches:
    """Return the block that halves the size after stage1 (figure 10): 3x3 /2; 1x1, 3x3, 3x3 /2; pool /2."""
    layer = functools.partial(conv, arch, rngs=rngs)
    halving = functools.partial(layer, stride=2, valid=True)
    return Branches(
        branch1=halving(288, 384, 3),
        branch2=Chain(layer(288, 64, 1), layer(64, 96, 3), halving(96, 96, 3)),
        branch3=MaxPool(3, 2),
    )


def block7(arch: InceptionV3, width: int, rngs: nnx.Rngs) -> Branches:
    """Return a block whose 7x7 convolutions are pairs of 1x7 and 7x1 (figure 6)."""
    layer = functools.partial(conv, arch, rngs=rngs)
    row, column = (1, 7), (7, 1)
    return Branches(
        branch1=layer(768, 192, 1),
        branch2=Chain(layer(768, width, 1), layer(width, width, row), layer(width, 192, column)),
        branch3=Chain(
            layer(768, width, 1),
            layer(width, width, column),
            layer(width, width, row),
            layer(width, width, column),
            layer(width, 192, row),
        ),
        branch4=Chain(average(arch), layer(768, 192, 1)),
    )


def reduction2(arch: InceptionV3, rngs: nnx.Rngs) -> Branches:
    """Return the block that halves the size after stage2: 1x1, 3x3 /2; 1x1, 1x7, 7x1, 3x3 /2; pool /2."""
    layer = functools.partial(conv, arch, rngs=rngs)
    halving = functools.partial(layer, stride=2, valid=True)
    return Branches(
        branch1=Chain(layer(768, 192, 1), halving(192, 320, 3)),
        branch2=Chain(layer(768, 192, 1), layer(192, 192, (1, 7)), layer(192, 192, (7, 1)), halving(192, 192, 3)),
        branch3=MaxPool(3, 2),
    )


def widened(arch: InceptionV3, inputs: int, rngs: nnx.Rngs) -> Branches:
    """Return a block whose 3x3 convolutions are a 1x3 and a 3x1 side by side (figure 7)."""
    layer = functools.partial(conv, arch, rngs=rngs)

    def pair_of(channels: int) -> Branches:
        return Branches(row=layer(channels, 384, (1, 3)), column=layer(channels, 384, (3, 1)))

    return Branches(
        branch1=layer(inputs, 320, 1),
        branch2=Chain(layer(inputs, 384, 1), pair_of(384)),
        branch3=Chain(layer(inputs, 448, 1), layer(448, 384, 3), pair_of(384)),
        branch4=Chain(average(arch), layer(inputs, 192, 1)),
    )


class AuxiliaryHead(nnx.Module):
    """A classifier on the output of stage2: pooling to 5x5, a 1x1 and a 5x5 convolution, a dense layer (section 4)."""

    def __init__(self, arch: InceptionV3, rngs: nnx.Rngs):
        self.pool = AveragePool(5, 3) if arch.stem == "imagenet" else AdaptiveAveragePool(AUX_SIDE)
        self.conv1 = conv(arch, 768, 128, 1, rngs=rngs)
        self.conv2 = conv(arch, 128, 768, AUX_SIDE, rngs=rngs, valid=True)
        self.dense = Dense(arch.scaled(768), arch.num_classes, dtype=arch.dtype, rngs=rngs)

    def __call__(self, x: jax.Array) -> jax.Array:
        pooled = self.pool(x)
        if min(pooled.shape[1:3]) < AUX_SIDE:
            raise UserError(
                f"the auxiliary head pools a map of {x.shape[1]}x{x.shape[2]} to less than {AUX_SIDE}x{AUX_SIDE}; use "
                f"images of {SMALLEST_INPUT_OF_HEAD} pixels or more, or aux_heads=False"
            )
        return self.dense(global_average(self.conv2(self.conv1(pooled))))


def run_plain(blocks: Sequence[Branches], x: jax.Array, rngs: nnx.Rngs | None) -> jax.Array:
    for block in blocks:
        x = block(x)
    return x


def average(arch: InceptionV3) -> AveragePool:
    """Return the pool of a block's last branch, which keeps the size."""
    return AveragePool(3, 1, padding=1 if arch.form == "torchvision" else "SAME")


def conv(
    arch: InceptionV3, inputs: int, outputs: int, size: int | tuple[int, int], *, stride: int = 1, valid: bool = False,
    rngs: nnx.Rngs,
) -> ConvNormAct:  # fmt: skip
    """Return a convolution with its norm and activation; if ``inputs`` is 0, it takes the images.

    ``inputs`` and ``outputs`` are the channels at full width.
    """
    inputs, outputs = arch.scaled(inputs) or arch.channels, arch.scaled(outputs)
    height, width = pair("size", size)
    is_keras = arch.form == "keras"
    return ConvNormAct(
        Conv(
            inputs, outputs, size, stride=stride, padding=0 if valid else (height // 2, width // 2), bias=False,
            dtype=arch.dtype, rngs=rngs,
        ),
        BatchNorm(
            outputs, momentum=arch.momentum, epsilon=arch.epsilon, unbiased_variance=not is_keras, scales=not is_keras,
            dtype=arch.dtype, rngs=rngs,
        ),
        activation(arch.activation),
    )  # fmt: skip


VARIANTS = {
    "inception_v3": InceptionV3(aux_heads=True),
    "inception_v3_keras": InceptionV3(form="keras", dropout=0.0, momentum=0.99),
}
