"""A dense network with two hidden layers: the baseline that ignores spatial structure.

Source: LeCun et al. 1998, section III, "two-hidden-layer fully connected network" (300-100 units, 28x28 images).
Deviation: the activation is a field (the paper: a scaled tanh).
Expected at 28x28x1 and 10 classes: 266,610 parameters, 266,200 multiply-adds.
"""

from collections.abc import Sequence
from typing import Annotated

import jax
from flax import nnx
from pydantic import Field

from cnnjax.models.layers import (
    LARGEST_SIZE,
    Arch,
    Dense,
    Features,
    Flatten,
    Network,
    Outputs,
    Size,
    Stage,
    activation,
    as_map,
)


class MLP(Arch):
    """Flatten, dense 300, dense 100, classes."""

    family = "mlp"

    num_classes: Annotated[int, Field(ge=0, le=LARGEST_SIZE)] = 10
    """Number of classes; 0 omits the last layer, and the network returns its embedding."""
    input_size: Size = 28
    channels: Size = 1

    def build(self, rngs: nnx.Rngs) -> "MLPModule":
        return MLPModule(self, rngs)


class MLPModule(Network):
    """The layers of `MLP`; stages: stage1 [N, 1, 1, 300], stage2 [N, 1, 1, 100]."""

    def __init__(self, arch: MLP, rngs: nnx.Rngs):
        height, width, channels = arch.image_shape
        self.activation = activation(arch.activation)
        self.flatten = Flatten(arch.image_shape, fits=f"{arch.input_size}")
        self.dense1 = Dense(height * width * channels, 300, dtype=arch.dtype, rngs=rngs)
        self.dense2 = Dense(300, 100, dtype=arch.dtype, rngs=rngs)
        self.head = Dense(100, arch.num_classes, dtype=arch.dtype, rngs=rngs) if arch.num_classes else None

    def stages(self) -> Sequence[Stage]:
        def hidden1(flatten: Flatten, dense: Dense, x: jax.Array, rngs: nnx.Rngs | None) -> jax.Array:
            return as_map(self.activation(dense(flatten(x))))

        def hidden2(dense: Dense, x: jax.Array, rngs: nnx.Rngs | None) -> jax.Array:
            return as_map(self.activation(dense(x[:, 0, 0, :])))

        return Stage("stage1", hidden1, (self.flatten, self.dense1)), Stage("stage2", hidden2, (self.dense2,))

    def classify(self, features: Features, rngs: nnx.Rngs | None = None) -> Outputs:
        embedding = features["stage2"][:, 0, 0, :]
        return Outputs(embedding if self.head is None else self.head(embedding))


VARIANTS = {"mlp": MLP()}
