"""VGG: stages of 3x3 convolutions with max pooling, three dense layers.

Source: Simonyan and Zisserman 2015, "Very Deep Convolutional Networks for Large-Scale Image Recognition", table 1
(configurations A, B, D and E). The variants with batch norm are torchvision's.

    stage    convolutions, at width 64        224x224x3 becomes
    stage1   64 x 1 (vgg11) or 2, pool        112x112x64
    stage2   128 x 1 (vgg11) or 2, pool       56x56x128
    stage3   256 x 2, 3 (16) or 4 (19), pool  28x28x256
    stage4   512 x 2, 3 (16) or 4 (19), pool  14x14x512
    stage5   512 x 2, 3 (16) or 4 (19), pool  7x7x512
    dense    4096, 4096, classes

Deviations: as in torchvision, an adaptive average pooling layer to 7x7 before the dense layers, so that every image of
32 pixels or more is accepted; at 224 pixels it is the identity, and the network equals Keras's, which has no dropout
(``dropout=0``).

    head="dense"  the paper's two hidden dense layers
    head="gap"    global average pooling and one dense layer, for small images and few parameters

The first stage does not stride, so there is no separate stem for small images.
Expected at 224 px: vgg11 132,863,336 parameters, 7.61 G multiply-adds; vgg16 138,357,544, 15.47 G.
"""

from collections.abc import Iterable, Sequence
from typing import Annotated, Literal

import jax
from flax import nnx
from pydantic import Field, field_validator

from cnnjax.models.heads import HeadedArch, apply_head, make_head
from cnnjax.models.layers import (
    HE,
    BatchNorm,
    Conv,
    ConvNormAct,
    Dense,
    Features,
    Flatten,
    Network,
    Outputs,
    Pool,
    Size,
    Stage,
    activation,
    global_average,
)
from cnnjax.models.pools import AdaptiveAveragePool
from cnnjax.models.regularization import Dropout
from cnnjax.schema import Number

LAST_SIDE = 7
"""Height and width of the map before the dense layers."""
STAGES, MOST_LAYERS = 5, 100
"""Number of stages, and an upper bound on convolutions in a definition from an untrusted file."""


class VGG(HeadedArch):
    """VGG: five stages of 3x3 convolutions, then three dense layers with dropout."""

    family = "vgg"

    input_size: Annotated[Size, Field(ge=2**STAGES)] = 224
    depths: tuple[int, ...] = (2, 2, 3, 3, 3)
    """Number of convolutions in each of the five stages."""
    width: Size = 64
    """Channels of the first stage; the later ones have 2, 4, 8 and 8 times as many, and the dense layers 64 times."""
    batch_norm: bool = False
    """Normalize after each convolution."""
    head: Literal["dense", "gap"] = "dense"
    """dense: two hidden dense layers; gap: global average pooling and one dense layer."""
    dropout: Annotated[Number, Field(ge=0, lt=1)] = 0.5
    """Dropout rate after each hidden dense layer, or after the global average."""
    momentum: Annotated[Number, Field(ge=0, le=1)] = 0.9
    """Momentum of the running statistics, as in Flax; torch's momentum is 1 minus this value."""
    epsilon: Annotated[Number, Field(gt=0)] = 1e-5
    """Constant added to the variance in norms."""

    @field_validator("depths")
    @classmethod
    def _are_five(cls, depths: tuple[int, ...]) -> tuple[int, ...]:
        if not (len(depths) == STAGES and min(depths) >= 1 and sum(depths) <= MOST_LAYERS):
            raise ValueError(f"{STAGES} numbers, each 1 or more, {MOST_LAYERS} convolutions at most")
        return depths

    def build(self, rngs: nnx.Rngs) -> "VGGModule":
        return VGGModule(self, rngs)


class VGGModule(Network):
    """The layers of `VGG`; stages: stage1 to stage5 as in the table above."""

    def __init__(self, arch: VGG, rngs: nnx.Rngs):
        self.pool = Pool("max")
        inputs = arch.channels
        for number, (depth, factor) in enumerate(zip(arch.depths, (1, 2, 4, 8, 8), strict=True), 1):
            layers = []
            for _ in range(depth):
                layers.append(conv_layer(arch, inputs, factor * arch.width, rngs))
                inputs = factor * arch.width
            setattr(self, f"stage{number}", nnx.List(layers))
        self.dropout = Dropout(arch.dropout)
        self.hidden = HiddenLayers(arch, inputs, rngs) if arch.head == "dense" else None
        inputs = inputs if self.hidden is None else 64 * arch.width
        self.head = make_head(arch, inputs, rngs)

    def stages(self) -> Sequence[Stage]:
        def run_stage(layers: Iterable[ConvNormAct], x: jax.Array, rngs: nnx.Rngs | None) -> jax.Array:
            for layer in layers:
                x = layer(x)
            return self.pool(x)

        names = [f"stage{number}" for number in range(1, STAGES + 1)]
        return tuple(Stage(name, run_stage, (getattr(self, name),)) for name in names)

    def classify(self, features: Features, rngs: nnx.Rngs | None = None) -> Outputs:
        x = features[f"stage{STAGES}"]
        x = self.dropout(global_average(x), rngs) if self.hidden is None else self.hidden(x, rngs)
        return Outputs(apply_head(self.head, x, rngs))


class HiddenLayers(nnx.Module):
    """Two dense layers on the flattened map, each followed by its activation and dropout."""

    def __init__(self, arch: VGG, channels: int, rngs: nnx.Rngs):
        width = 64 * arch.width
        self.activation = activation(arch.activation)
        self.pool = AdaptiveAveragePool(LAST_SIDE)
        self.flatten = Flatten((LAST_SIDE, LAST_SIDE, channels), fits="all")
        self.dense1 = Dense(LAST_SIDE * LAST_SIDE * channels, width, dtype=arch.dtype, rngs=rngs)
        self.dense2 = Dense(width, width, dtype=arch.dtype, rngs=rngs)
        self.dropout = Dropout(arch.dropout)

    def __call__(self, x: jax.Array, rngs: nnx.Rngs | None = None) -> jax.Array:
        x = self.flatten(self.pool(x))
        x = self.dropout(self.activation(self.dense1(x)), rngs)
        return self.dropout(self.activation(self.dense2(x)), rngs)


def conv_layer(arch: VGG, inputs: int, outputs: int, rngs: nnx.Rngs) -> ConvNormAct:
    conv = Conv(inputs, outputs, 3, padding=1, kernel_init=HE, dtype=arch.dtype, rngs=rngs)
    norm = None
    if arch.batch_norm:
        norm = BatchNorm(
            outputs, momentum=arch.momentum, epsilon=arch.epsilon, unbiased_variance=True, dtype=arch.dtype, rngs=rngs
        )
    return ConvNormAct(conv, norm, activation(arch.activation))


DEPTHS = {11: (1, 1, 2, 2, 2), 13: (2, 2, 2, 2, 2), 16: (2, 2, 3, 3, 3), 19: (2, 2, 4, 4, 4)}
VARIANTS = {
    **{f"vgg{depth}": VGG(depths=depths) for depth, depths in DEPTHS.items()},
    **{f"vgg{depth}_bn": VGG(depths=depths, batch_norm=True) for depth, depths in DEPTHS.items()},
}
