"""What several architectures share: the base of every network, activations, convolution, dense, pooling, flattening.

Images and activations are [N, H, W, C]. Parameters and batch statistics are float32; a network computes in its `dtype`.
"""

import dataclasses
from collections.abc import Callable
from typing import Any, ClassVar, Literal, NamedTuple

import jax
import jax.numpy as jnp
from flax import nnx

from cnnjax.errors import UserError, require
from cnnjax.fields import Fields

Activation = Literal[
    "celu", "elu", "gelu", "hard_sigmoid", "hard_silu", "hard_swish", "hard_tanh", "identity", "leaky_relu",
    "log_sigmoid", "mish", "relu", "relu6", "selu", "sigmoid", "silu", "soft_sign", "softplus", "sparse_plus",
    "sparse_sigmoid", "squareplus", "swish", "tanh",
]  # fmt: skip
"""The elementwise functions of jax.nn, by name."""

Features = dict[str, jax.Array]
"""Each stage's activation [N, H, W, C] by the stage's name, in order."""


class Outputs(NamedTuple):
    """What a network gives: logits [N, classes], and the logits of auxiliary heads where it has some."""

    logits: jax.Array
    aux: tuple[jax.Array, ...] = ()


@dataclasses.dataclass(frozen=True, kw_only=True)
class Arch(Fields):
    """A network's definition: hashable, printable, comparable, and without arrays. Each family adds its own fields."""

    family: ClassVar[str]
    """The family's name in files."""

    num_classes: int = 1000
    """How many classes the head tells apart."""
    input_size: int = 224
    """Height and width of the images in pixels."""
    channels: int = 3
    """Channels of the images: 1 grey, 3 RGB."""
    activation: Activation = "relu"
    """The nonlinearity, by its name in jax.nn."""
    dtype: Literal["float32", "bfloat16"] = "float32"
    """What the network computes in; parameters stay float32."""

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("num_classes", "input_size", "channels"):
            require(getattr(self, name) >= 1, f"model.{name}", getattr(self, name), "1 or more")

    @property
    def image_shape(self) -> tuple[int, int, int]:
        return self.input_size, self.input_size, self.channels

    def to_dict(self) -> dict[str, Any]:
        """Return the definition as plain data: its family and its fields. `cnnjax.models.from_dict` reads it."""
        return {"family": self.family, **super().to_dict()}

    def build(self, rngs: nnx.Rngs) -> "Network":
        """Return the module this definition describes. Only `cnnjax.functional` calls it."""
        raise NotImplementedError(f"{type(self).__name__} defines no network")


class Network(nnx.Module):
    """Base of every network: named stages, then a head. Chance enters through ``rngs`` at the call alone."""

    def features(self, images: jax.Array, rngs: nnx.Rngs | None = None) -> Features:
        """Run the stages on images [N, H, W, C] of any size that they can carry."""
        raise NotImplementedError

    def classify(self, features: Features, rngs: nnx.Rngs | None = None) -> Outputs:
        """Turn the stages' activations into logits."""
        raise NotImplementedError

    def __call__(self, images: jax.Array, rngs: nnx.Rngs | None = None) -> Outputs:
        return self.classify(self.features(images, rngs), rngs)


def activation(name: Activation) -> Callable[[jax.Array], jax.Array]:
    """Return the elementwise function of jax.nn with that name."""
    return getattr(jax.nn, name)


class Conv(nnx.Conv):
    """A square convolution, Glorot-uniform kernels (Glorot and Bengio 2010) and zero biases."""

    def __init__(self, inputs: int, outputs: int, size: int, *, padding: str, dtype: str, rngs: nnx.Rngs):
        super().__init__(
            inputs, outputs, (size, size), padding=padding, dtype=jnp.dtype(dtype),
            kernel_init=nnx.initializers.glorot_uniform(), rngs=rngs,
        )  # fmt: skip


class Dense(nnx.Linear):
    """A dense layer, Glorot-uniform kernel and zero bias."""

    def __init__(self, inputs: int, outputs: int, *, dtype: str, rngs: nnx.Rngs):
        super().__init__(
            inputs, outputs, dtype=jnp.dtype(dtype), kernel_init=nnx.initializers.glorot_uniform(), rngs=rngs
        )


class Pool(nnx.Module):
    """Pooling over windows of 2x2 with stride 2; an odd last row or column is left out.

    It is written as four strided slices, which on a CPU is many times faster than a windowed reduction.
    """

    def __init__(self, kind: Literal["avg", "max"]):
        self.kind = kind

    def __call__(self, x: jax.Array) -> jax.Array:
        """Map [N, H, W, C] to [N, H // 2, W // 2, C]."""
        height, width = x.shape[1] // 2 * 2, x.shape[2] // 2 * 2
        a, b, c, d = (x[:, i:height:2, j:width:2] for i in (0, 1) for j in (0, 1))
        if self.kind == "max":
            return jnp.maximum(jnp.maximum(a, b), jnp.maximum(c, d))
        return (a + b + c + d) * jnp.asarray(0.25, x.dtype)


class Flatten(nnx.Module):
    """Turn [N, H, W, C] into [N, H * W * C] for a dense layer that was built for one length."""

    def __init__(self, shape: tuple[int, int, int], fits: str):
        self.shape = shape
        self.fits = fits

    def __call__(self, x: jax.Array) -> jax.Array:
        if x.shape[1:] != self.shape:
            height, width, channels = self.shape
            raise UserError(
                f"the dense layer was built for a flattened length of {height}x{width}x{channels} = "
                f"{height * width * channels} and got {'x'.join(map(str, x.shape[1:]))} = "
                f"{x.shape[1] * x.shape[2] * x.shape[3]}; input sizes that fit: {self.fits}"
            )
        return x.reshape(x.shape[0], -1)


def as_map(x: jax.Array) -> jax.Array:
    """Give a dense activation [N, C] the shape of a feature map, [N, 1, 1, C]."""
    return x[:, None, None, :]


def kernel_shape(layer: Any) -> tuple[int, ...] | None:
    """Return the shape of a layer's kernel, or None where it has none."""
    kernel = getattr(layer, "kernel", None)
    return None if kernel is None else tuple(kernel.shape)
