"""LeNet-5, as published in 1998.

Source: LeCun, Bottou, Bengio, Haffner 1998, "Gradient-Based Learning Applied to Document Recognition", section II.B,
figure 2, table I and appendix A. `lenet` is the form taught today.

    layer   units                          32x32x1 becomes  parameters  connections
    c1      6@5x5 VALID                    28x28x6                 156      122,304
    s2      2x2 subsampling                14x14x6                  12        5,880
    c3      16@5x5 VALID, table I          10x10x16              1,516      151,600
    s4      2x2 subsampling                5x5x16                   32        2,000
    c5      120@5x5 VALID                  1x1x120              48,120       48,120
    f6      dense                          84                   10,164       10,164
    output  radial basis functions         classes                   0          840

Expected with 10 classes: 60,000 parameters, 340,908 connections, 326,520 multiply-adds. The paper counts an input and a
bias of a unit as one connection each. Each layer but the output ends with the squashing function 1.7159 tanh(2/3 x),
which maps +1 and -1 to themselves.

The output units compute squared distances to fixed codes, and the logits are the negated distances: the softmax
cross-entropy of these logits is the paper's equation 9 without its constant e^-j. The codes are bitmaps of the digits.
Deviations: the bitmaps are drawn like those of figure 3, not copied; biases start at zero.
"""

import functools
from collections.abc import Callable, Sequence
from typing import Annotated, Any, Literal, Self

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from pydantic import Field, model_validator

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
    conv_general_dilated,
    parameter_dtype,
)

SMALLEST_INPUT = 16
"""Smallest padded input for which the second subsampling has a whole window."""
AMPLITUDE, SLOPE = 1.7159, 2 / 3
"""Constants of the squashing function."""
TABLE_1 = (
    "X...XXX..XXXX.XX",
    "XX...XXX..XXXX.X",
    "XXX...XXX..X.XXX",
    ".XXX..XXXX..X.XX",
    "..XXX..XXXX.XX.X",
    "...XXX..XXXX.XXX",
)
"""Maps of s2 (rows) that each map of c3 (columns) sees."""
BITMAPS = """
..###.. ...##.. .#####. .#####. ....##. ####### ..####. ####### ..###.. ..###..
.##.##. ..###.. ##...## ##...## ...###. ####### .##..## ####### .##.##. .##.##.
##...## .####.. ##...## .....## ..####. ##..... ##..... .....## ##...## ##...##
##...## ...##.. .....## .....## .##.##. ##..... ##..... .....## ##...## ##...##
##...## ...##.. .....## .....## .#..##. ######. ##..... ....##. .##.##. ##...##
##...## ...##.. ....##. ..####. ##..##. ####### ##.###. ....##. ..###.. ##..###
##...## ...##.. ...##.. ..####. #...##. .....## ###..## ...##.. .##.##. .###.##
##...## ...##.. ..##... .....## ####### .....## ##...## ...##.. ##...## .....##
##...## ...##.. .##.... .....## ####### .....## ##...## ..##... ##...## .....##
##...## ...##.. ##..... .....## ....##. .....## ##...## ..##... ##...## .....##
.##.##. .###### ####### ##...## ....##. ##...## .##.##. .##.... .##.##. ##..##.
..###.. .###### ####### .#####. ....##. .#####. ..###.. .##.... ..###.. .####..
"""
"""The digits 0 to 9, twelve pixels high and seven wide."""


def codes() -> np.ndarray:
    """Return the codes [10, 84] of the output units: +1 where a digit's bitmap is black, else -1."""
    rows = [row.split() for row in BITMAPS.strip().splitlines()]
    return np.array([[1.0 if pixel == "#" else -1.0 for pixel in "".join(digit)] for digit in zip(*rows, strict=True)])


class LeNet1998(Arch):
    """LeNet-5 of 1998: trainable subsampling, partially connected maps, a scaled tanh, radial basis functions."""

    family = "lenet_1998"

    num_classes: Annotated[int, Field(ge=0, le=LARGEST_SIZE)] = 10
    """Number of classes; 0 omits the output units, and the network returns its embedding."""
    input_size: Size = 32
    channels: Size = 1
    pad: Annotated[int, Field(ge=0, le=4)] = 0
    """Rows and columns of zeros added on each side; with 2, images of 28x28 become the paper's 32x32."""
    activation: Activation = "tanh"
    """Function f of the squashing function 1.7159 f(2/3 x), by its name in jax.nn."""
    output: Literal["rbf", "linear"] = "rbf"
    """Output units: squared distances to the fixed codes of 10 classes, or a trainable dense layer."""

    @model_validator(mode="after")
    def _fits(self) -> Self:
        if self.padded_size < SMALLEST_INPUT:
            raise ValueError(
                f"model.input_size is {self.input_size} with pad {self.pad}; the padded image must have "
                f"{SMALLEST_INPUT} pixels or more on each side"
            )
        if self.output == "rbf" and self.num_classes > len(codes()):
            raise ValueError(
                f"model.num_classes is {self.num_classes}; output 'rbf' has codes for 10 classes, so give 10 or fewer, "
                "or choose output 'linear'"
            )
        return self

    @property
    def padded_size(self) -> int:
        return self.input_size + 2 * self.pad

    @property
    def last_side(self) -> int:
        """Height and width of the last feature map: twice reduced by 4 and halved."""
        return ((self.padded_size - 4) // 2 - 4) // 2

    def build(self, rngs: nnx.Rngs) -> "LeNet1998Module":
        return LeNet1998Module(self, rngs)


class LeNet1998Module(Network):
    """The layers of `LeNet1998`; stages: stage1 [N, 14, 14, 6], stage2 [N, 5, 5, 16] for 32x32 images."""

    def __init__(self, arch: LeNet1998, rngs: nnx.Rngs):
        self.function = activation(arch.activation)
        side, smallest = arch.last_side, 4 * arch.last_side + 12 - 2 * arch.pad
        convolution = functools.partial(Conv, kernel_init=by_fan_in, dtype=arch.dtype, rngs=rngs)
        dense = functools.partial(Dense, kernel_init=by_fan_in, dtype=arch.dtype, rngs=rngs)
        self.c1 = convolution(arch.channels, 6, 5, padding=arch.pad)
        self.s2 = Subsampling(6, dtype=arch.dtype, rngs=rngs)
        self.c3 = PartialConv(TABLE_1, 5, dtype=arch.dtype, rngs=rngs)
        self.s4 = Subsampling(16, dtype=arch.dtype, rngs=rngs)
        self.c5 = convolution(16, 120, side, padding="VALID")
        self.flatten = Flatten((1, 1, 120), fits=f"{smallest} to {smallest + 3}")
        self.f6 = dense(120, 84)
        self.output = nnx.data(None)  # a module, or None without classes
        if arch.num_classes:
            linear = arch.output == "linear"
            self.output = dense(84, arch.num_classes) if linear else RadialBasis(arch.num_classes)

    def squash(self, x: jax.Array) -> jax.Array:
        return AMPLITUDE * self.function(SLOPE * x)

    def stages(self) -> Sequence[Stage]:
        def run(conv: Callable, subsampling: Subsampling, x: jax.Array, rngs: nnx.Rngs | None) -> jax.Array:
            return self.squash(subsampling(self.squash(conv(x))))

        return Stage("stage1", run, (self.c1, self.s2)), Stage("stage2", run, (self.c3, self.s4))

    def classify(self, features: Features, rngs: nnx.Rngs | None = None) -> Outputs:
        x = self.squash(self.c5(features["stage2"]))
        x = self.squash(self.f6(self.flatten(x)))
        return Outputs(x if self.output is None else self.output(x))


class Subsampling(Pool):
    """The sum of each 2x2 window, multiplied by a coefficient and added to a bias, one of each per map."""

    def __init__(self, channels: int, *, dtype: str, rngs: nnx.Rngs):
        super().__init__("avg")
        param_dtype = parameter_dtype(dtype)
        self.coefficient = nnx.Param(jax.random.uniform(rngs.params(), (channels,), param_dtype, -2.4 / 4, 2.4 / 4))
        self.bias = nnx.Param(jnp.zeros(channels, param_dtype))

    def __call__(self, x: jax.Array) -> jax.Array:
        """Map [N, H, W, C] to [N, H // 2, W // 2, C]."""
        coefficient, bias = (
            leaf.get_value().astype(x.dtype)[None, None, None] for leaf in (self.coefficient, self.bias)
        )
        return 4 * super().__call__(x) * coefficient + bias


class PartialConv(nnx.Module):
    """A VALID convolution in which each output map sees only some of the input maps.

    ``table`` has one row per input map and one column per output map, with X for each pair that is connected. The
    kernel [size, size, pairs] holds the weights of the connected pairs, row by row.
    """

    def __init__(self, table: tuple[str, ...], size: int, *, dtype: str, rngs: nnx.Rngs):
        self.table, self.dtype = table, jnp.dtype(dtype)
        self.maps = len(table), len(table[0])
        param_dtype = parameter_dtype(dtype)
        fan_in = size * size * np.array([column.count("X") for column in zip(*table, strict=True)])
        limits = jnp.asarray(2.4 / fan_in[self.pairs()[1]], param_dtype)
        draw = jax.random.uniform(rngs.params(), (size, size, len(limits)), param_dtype, -1, 1)
        self.kernel = nnx.Param(draw * limits[None, None])
        self.bias = nnx.Param(jnp.zeros(self.maps[1], param_dtype))

    def pairs(self) -> tuple[np.ndarray, ...]:
        """Return the input map and the output map of each connected pair."""
        return np.nonzero(np.array([list(row) for row in self.table]) == "X")

    def __call__(self, x: jax.Array) -> jax.Array:
        """Map [N, H, W, C] to [N, H - size + 1, W - size + 1, C']."""
        kernel, bias = (leaf.get_value().astype(self.dtype) for leaf in (self.kernel, self.bias))
        inputs, outputs = self.pairs()
        whole = jnp.zeros((*kernel.shape[:2], *self.maps), self.dtype).at[:, :, inputs, outputs].set(kernel)
        y = conv_general_dilated(
            x, whole, (1, 1), "VALID", rhs_dilation=(1, 1), feature_group_count=1,
            dimension_numbers=("NHWC", "HWIO", "NHWC"),
        )  # fmt: skip
        return y + bias[None, None, None]


class RadialBasis(nnx.Module):
    """Negated squared distances to the fixed codes of the classes, computed in at least float32."""

    def __init__(self, num_classes: int):
        self.num_classes = num_classes

    @property
    def kernel(self) -> np.ndarray:
        """The codes [84, classes]; the distances take one multiply-add per value."""
        return codes()[: self.num_classes].T

    def __call__(self, x: jax.Array) -> jax.Array:
        """Map [N, 84] to [N, classes]."""
        wide = x.astype(parameter_dtype(x.dtype))
        return -jnp.square(wide[:, :, None] - jnp.asarray(self.kernel, wide.dtype)[None]).sum(1)


def by_fan_in(key: jax.Array, shape: Any, dtype: Any = None, out_sharding: Any = None) -> jax.Array:
    """Return weights drawn between -2.4 / F and 2.4 / F, where F is the number of inputs of a unit (appendix A)."""
    limit = 2.4 / np.prod(shape[:-1])
    return jax.random.uniform(key, shape, dtype, -limit, limit)


VARIANTS = {"lenet_1998": LeNet1998()}
