"""AlexNet: five convolutions with overlapping pooling, three dense layers.

Source: Krizhevsky, Sutskever and Hinton 2012, "ImageNet Classification with Deep Convolutional Neural Networks",
section 3.5 and figure 2.

    stage    alexnet             224 becomes   alexnet_bn, alexnet_lrn   227 becomes
    stage1   64@11x11 /4, pool   27            96@11x11 /4 VALID, pool   27
    stage2   192@5x5, pool       13            256@5x5, pool             13
    stage3   384@3x3             13            384@3x3                   13
    stage4   256@3x3             13            384@3x3                   13
    stage5   256@3x3, pool       6             256@3x3, pool             6
    dense    4096, 4096, classes               4096, 4096, classes

Each pooling layer takes the maximum of 3x3 windows with stride 2. Forms:
    torchvision  as in torchvision, after Krizhevsky 2014, "One weird trick for parallelizing convolutional neural
                 networks": no response normalization, and adaptive average pooling to 6x6 before the dense layers.
    bn           as it is taught today: ReLU, then batch norm, after each convolution.
    lrn          the original: local response normalization in the first two stages, and two groups in stages 2, 4 and
                 5, which the authors placed on two GPUs.
Deviations: kernels start Glorot-uniform and biases at 0 (the paper: normal with a standard deviation of 0.01, and
biases of 1 in some layers). The paper states 224 pixels; its layer sizes need 227.
Expected: alexnet 61,100,840 parameters, 0.714 G multiply-adds at 224 px; alexnet_bn 58,301,834 parameters with one
channel and 10 classes; alexnet_lrn 60,965,224 parameters.
"""

from collections.abc import Callable, Sequence
from typing import Annotated, Literal, Self

import jax
from flax import nnx
from pydantic import Field, model_validator

from cnnjax.models.heads import HeadedArch, apply_head, make_head
from cnnjax.models.layers import (
    LARGEST_SIZE,
    BatchNorm,
    Conv,
    Dense,
    Features,
    Flatten,
    Network,
    Outputs,
    Size,
    Stage,
    activation,
    conv_norm_act,
)
from cnnjax.models.pools import AdaptiveAveragePool, MaxPool
from cnnjax.models.regularization import Dropout, LocalResponseNorm
from cnnjax.schema import Number

LAST_SIDE = 6
"""Height and width to which the torchvision form pools the last feature map."""
CHANNELS = {"torchvision": (64, 192, 384, 256, 256), "bn": (96, 256, 384, 384, 256), "lrn": (96, 256, 384, 384, 256)}
"""Channels of the five convolutions, at full width."""


class AlexNet(HeadedArch):
    """AlexNet: five convolutional stages, then three dense layers with dropout."""

    family = "alexnet"

    form: Literal["torchvision", "bn", "lrn"] = "torchvision"
    """torchvision: as torchvision ships it; bn: batch norm after each activation; lrn: the original."""
    stem: Literal["imagenet", "cifar"] = "imagenet"
    """imagenet: 11x11 with stride 4; cifar: 3x3 with stride 1, for small images."""
    resize: Annotated[int, Field(ge=0, le=LARGEST_SIZE)] = 0
    """Height and width in pixels to which the network first resizes its images; 0 leaves them as they are."""
    width: Size = 64
    """Channels of the first convolution; all other widths are proportional, rounded down."""
    dropout: Annotated[Number, Field(ge=0, lt=1)] = 0.5
    """Dropout rate of each of the two dropout layers."""
    momentum: Annotated[Number, Field(ge=0, le=1)] = 0.99
    """Momentum of the running statistics, as in Flax, in the bn form."""
    epsilon: Annotated[Number, Field(gt=0)] = 1e-3
    """Constant added to the variance in norms, in the bn form."""

    @model_validator(mode="after")
    def _every_pool_has_a_window(self) -> Self:
        side, name = (self.resize, "resize") if self.resize else (self.input_size, "input_size")
        if side < (least := self.smallest(1)):
            raise ValueError(f"model.{name} is {side}; it must be {least} or more with stem {self.stem!r}")
        return self

    def scaled(self, channels: int) -> int:
        """Return the width of a layer that has ``channels`` at full width, rounded to even for two groups."""
        multiple = 2 if self.form == "lrn" else 1
        width = channels * self.width // CHANNELS[self.form][0]
        return max(1, width // multiple) * multiple

    @property
    def first_side(self) -> int:
        """Height and width of the first convolution's output."""
        side = self.resize or self.input_size
        if self.stem == "cifar":
            return side
        return (side - 7) // 4 + 1 if self.form == "torchvision" else (side - 11) // 4 + 1

    @property
    def last_side(self) -> int:
        """Height and width of the last feature map, after three pooling layers."""
        side = self.first_side
        for _ in range(3):
            side = (side - 3) // 2 + 1
        return side

    def smallest(self, last_side: int) -> int:
        """Return the smallest input size whose last feature map has ``last_side`` rows."""
        first = 8 * last_side + 7
        if self.stem == "cifar":
            return first
        return 4 * (first - 1) + (7 if self.form == "torchvision" else 11)

    def build(self, rngs: nnx.Rngs) -> "AlexNetModule":
        return AlexNetModule(self, rngs)


class AlexNetModule(Network):
    """The layers of `AlexNet`; stages: stage1 to stage5, one for each convolution, as in the table above."""

    def __init__(self, arch: AlexNet, rngs: nnx.Rngs):
        self.resize, self.form = arch.resize, arch.form
        self.activation = activation(arch.activation)
        one, two, three, four, five = map(arch.scaled, CHANNELS[arch.form])
        groups = 2 if arch.form == "lrn" else 1
        size, stride, padding = (3, 1, 1) if arch.stem == "cifar" else (11, 4, 2 if arch.form == "torchvision" else 0)
        first = Conv(arch.channels, one, size, stride=stride, padding=padding, dtype=arch.dtype, rngs=rngs)
        self.stage1 = ConvStage(arch, first, one, rngs, lrn=True, pools=True)
        self.stage2 = ConvStage(arch, conv(arch, one, two, 5, rngs, groups), two, rngs, lrn=True, pools=True)
        self.stage3 = ConvStage(arch, conv(arch, two, three, 3, rngs), three, rngs)
        self.stage4 = ConvStage(arch, conv(arch, three, four, 3, rngs, groups), four, rngs)
        self.stage5 = ConvStage(arch, conv(arch, four, five, 3, rngs, groups), five, rngs, pools=True)
        side, fits = arch.last_side, f"{arch.smallest(arch.last_side)} to {arch.smallest(arch.last_side + 1) - 1}"
        self.pool = AdaptiveAveragePool(LAST_SIDE) if arch.form == "torchvision" else None
        side = LAST_SIDE if self.pool else side
        self.flatten = Flatten((side, side, five), fits)
        hidden = arch.scaled(4096)
        self.dropout = Dropout(arch.dropout)
        self.dense1 = Dense(side * side * five, hidden, dtype=arch.dtype, rngs=rngs)
        self.dense2 = Dense(hidden, hidden, dtype=arch.dtype, rngs=rngs)
        self.head = make_head(arch, hidden, rngs)

    def stages(self) -> Sequence[Stage]:
        def resized(stage: ConvStage, x: jax.Array, rngs: nnx.Rngs | None) -> jax.Array:
            if self.resize:
                shape = (x.shape[0], self.resize, self.resize, x.shape[3])
                x = jax.image.resize(x, shape, "bilinear", antialias=False)
            return stage(x)

        others = (("stage2", self.stage2), ("stage3", self.stage3), ("stage4", self.stage4), ("stage5", self.stage5))
        first = Stage("stage1", resized, (self.stage1,))
        return first, *(Stage(name, ConvStage.__call__, (layer,)) for name, layer in others)

    def classify(self, features: Features, rngs: nnx.Rngs | None = None) -> Outputs:
        x = features["stage5"]
        x = self.flatten(x if self.pool is None else self.pool(x))
        if self.form == "torchvision":  # dropout before each hidden layer
            x = self.activation(self.dense1(self.dropout(x, rngs)))
            x = self.activation(self.dense2(self.dropout(x, rngs)))
        else:  # dropout after each hidden layer, as in the paper
            x = self.dropout(self.activation(self.dense1(x)), rngs)
            x = self.dropout(self.activation(self.dense2(x)), rngs)
        return Outputs(apply_head(self.head, x, rngs))


class ConvStage(nnx.Module):
    """A convolution and its activation, then the form's normalization and, in some stages, max pooling."""

    def __init__(
        self, arch: AlexNet, conv: Conv, channels: int, rngs: nnx.Rngs, *, lrn: bool = False, pools: bool = False
    ):  # fmt: skip
        self.activation = activation(arch.activation)
        self.conv = conv
        self.norm = make_norm(arch, channels, rngs, lrn)
        self.pool = MaxPool(3, 2) if pools else None

    def __call__(self, x: jax.Array, rngs: nnx.Rngs | None = None) -> jax.Array:
        x = conv_norm_act(self.conv, None, x, activation=self.activation)
        x = x if self.norm is None else self.norm(x)
        return x if self.pool is None else self.pool(x)


def make_norm(
    arch: AlexNet, channels: int, rngs: nnx.Rngs, lrn: bool
) -> Callable[[jax.Array], jax.Array] | None:  # fmt: skip
    """Return the normalization after an activation, or None."""
    if arch.form == "bn":
        return BatchNorm(
            channels, momentum=arch.momentum, epsilon=arch.epsilon, unbiased_variance=False, dtype=arch.dtype, rngs=rngs
        )
    if arch.form == "lrn" and lrn:
        return LocalResponseNorm(5, k=2.0, alpha=5 * 1e-4, beta=0.75)  # the paper does not divide alpha by the size
    return None


def conv(arch: AlexNet, inputs: int, outputs: int, size: int, rngs: nnx.Rngs, groups: int = 1) -> Conv:
    return Conv(inputs, outputs, size, padding="SAME", groups=groups, dtype=arch.dtype, rngs=rngs)


VARIANTS = {
    "alexnet": AlexNet(),
    "alexnet_bn": AlexNet(form="bn", width=96, input_size=227),
    "alexnet_lrn": AlexNet(form="lrn", width=96, input_size=227),
}
