"""LeNet-5, in the form taught today.

Source: LeCun, Bottou, Bengio, Haffner 1998, "Gradient-Based Learning Applied to Document Recognition", figure 2.
Deviations, all of them common: 28x28 images with SAME padding in the first convolution (the paper pads its digits to
32x32); every map of the second convolution sees all six maps of the first (the paper's table I connects only some);
plain average or max pooling (the paper's has a weight and a bias per map); a dense layer with softmax instead of radial
basis units; the activation is a field (the paper: a scaled tanh). `lenet_1998` is the network as published.
Expected at 28x28x1 and 10 classes: 61,706 parameters, 416,520 multiply-adds.

    layer    kernel       28x28x1 becomes
    conv1    6@5x5 SAME   28x28x6
    pool1    2x2          14x14x6
    conv2    16@5x5 VALID 10x10x16
    pool2    2x2          5x5x16
    flatten               400
    dense1                120
    dense2                84
    head                  classes

All sizes from 28 to 31 end in 5x5 and the same 400 values, so they share their parameters; 32 ends in 6x6 and 576
values and is rejected. (30x30 would end in 7x7 only if *both* convolutions were SAME: 30, 15, 15, 7. Here the
second one is VALID: 30, 15, 11, 5.)

Two other heads accept every larger size with the same parameters:

    head="conv"   the dense layers as convolutions (Long, Shelhamer and Darrell 2015, section 3.1): dense1 is 120@5x5
                  VALID, the others are 1x1, and the logits are the mean over all positions. It has the same number of
                  parameters and at 28x28 computes the same function.
    head="gap"    global average pooling (Lin, Chen and Yan 2014, section 3.2) instead of flattening: dense1 sees 16
                  means. 15,626 parameters.
"""

import functools
from collections.abc import Sequence
from typing import Annotated, Literal

import jax
from flax import nnx
from pydantic import Field

from cnnjax.models.layers import (
    LARGEST_SIZE,
    Activation,
    Arch,
    Conv,
    Dense,
    Features,
    Flatten,
    Network,
    Outputs,
    Pool,
    Size,
    Stage,
    activation,
    conv_norm_act,
    global_average,
)

SMALLEST_INPUT = 12
"""Smallest input for which the second pooling has a whole window."""


class LeNet(Arch):
    """LeNet-5: two convolutions with pooling, three dense layers."""

    family = "lenet"

    num_classes: Annotated[int, Field(ge=0, le=LARGEST_SIZE)] = 10
    """Number of classes; 0 omits the last layer, and the network returns its embedding."""
    input_size: Annotated[Size, Field(ge=SMALLEST_INPUT)] = 28
    channels: Size = 1
    activation: Activation = "sigmoid"
    pooling: Literal["avg", "max"] = "avg"
    """Reduction of each 2x2 window in both pooling layers."""
    head: Literal["dense", "conv", "gap"] = "dense"
    """Classifier on the last feature map: dense layers, these layers as convolutions, or dense layers on its mean."""

    @property
    def last_side(self) -> int:
        """Height and width of the last feature map: halved, reduced by 4 in the VALID convolution, halved again."""
        return (self.input_size // 2 - 4) // 2

    def build(self, rngs: nnx.Rngs) -> "LeNetModule":
        return LeNetModule(self, rngs)


class LeNetModule(Network):
    """The layers of `LeNet`; stages: stage1 [N, 14, 14, 6], stage2 [N, 5, 5, 16] for 28x28 images."""

    def __init__(self, arch: LeNet, rngs: nnx.Rngs):
        dtype, side = arch.dtype, arch.last_side
        self.activation = activation(arch.activation)
        self.conv1 = Conv(arch.channels, 6, 5, padding="SAME", dtype=dtype, rngs=rngs)
        self.pool1 = Pool(arch.pooling)
        self.conv2 = Conv(6, 16, 5, padding="VALID", dtype=dtype, rngs=rngs)
        self.pool2 = Pool(arch.pooling)
        smallest = 4 * side + 8
        self.flatten = Flatten((side, side, 16), fits=f"{smallest} to {smallest + 3}") if arch.head == "dense" else None
        self.dense1: Conv | Dense
        self.dense2: Conv | Dense
        self.head: Conv | Dense | None
        if arch.head == "conv":
            convolution = functools.partial(Conv, padding="VALID", dtype=dtype, rngs=rngs)
            self.dense1, self.dense2 = convolution(16, 120, side), convolution(120, 84, 1)
            self.head = convolution(84, arch.num_classes, 1) if arch.num_classes else None
        else:
            inputs = side * side * 16 if arch.head == "dense" else 16
            self.dense1 = Dense(inputs, 120, dtype=dtype, rngs=rngs)
            self.dense2 = Dense(120, 84, dtype=dtype, rngs=rngs)
            self.head = Dense(84, arch.num_classes, dtype=dtype, rngs=rngs) if arch.num_classes else None
        self.kind = arch.head

    def stages(self) -> Sequence[Stage]:
        def conv_pool(conv: Conv, pool: Pool, x: jax.Array, rngs: nnx.Rngs | None) -> jax.Array:
            return pool(conv_norm_act(conv, None, x, activation=self.activation))

        return (
            Stage("stage1", conv_pool, (self.conv1, self.pool1)),
            Stage("stage2", conv_pool, (self.conv2, self.pool2)),
        )

    def classify(self, features: Features, rngs: nnx.Rngs | None = None) -> Outputs:
        x = features["stage2"]
        if self.flatten is not None:
            x = self.flatten(x)
        elif self.kind == "gap":
            x = global_average(x)
        x = self.activation(self.dense1(x))
        x = self.activation(self.dense2(x))
        if self.head is not None:
            x = self.head(x)
        return Outputs(global_average(x) if self.kind == "conv" else x)


VARIANTS = {"lenet": LeNet()}
