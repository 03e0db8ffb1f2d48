"""Layers shared by the architectures: network base class, activations, convolution, dense, pooling, flattening.

Images and activations are [N, H, W, C]. A network computes in its `dtype`. Parameters and batch statistics are float32,
or float64 in a float64 network. Each layer runs in a `jax.named_scope`, so that profiles show where time is spent.
"""

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Annotated, Any, ClassVar, Literal, NamedTuple, Self, cast

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from pydantic import Field

from cnnjax.errors import UserError, near_matches, quoted, require
from cnnjax.ops.batch_norm import affine, normalize_batch, scale_and_offset
from cnnjax.ops.conv import Affine, conv_affine
from cnnjax.ops.conv import conv_general_dilated as conv_general_dilated
from cnnjax.ops.dispatch import parameter_dtype as parameter_dtype
from cnnjax.ops.pooling import global_average as global_average
from cnnjax.ops.pooling import max_pool as max_pool
from cnnjax.ops.window import Window, make_window
from cnnjax.schema import Schema

Activation = Literal[
    "celu", "elu", "gelu", "hard_sigmoid", "hard_silu", "hard_swish", "hard_tanh", "identity", "leaky_relu",
    "log_sigmoid", "mish", "relu", "relu6", "selu", "sigmoid", "silu", "soft_sign", "softplus", "sparse_plus",
    "sparse_sigmoid", "squareplus", "swish", "tanh",
]  # fmt: skip
"""Names of the elementwise functions in jax.nn."""

Initializer = jax.nn.initializers.Initializer
GLOROT: Initializer = nnx.initializers.glorot_uniform()
HE: Initializer = nnx.initializers.variance_scaling(2.0, "fan_out", "normal")
"""He et al. 2015, "Delving Deep into Rectifiers", equation 14: normal, scaled by the fan-out."""

Features = dict[str, jax.Array]
"""Activations [N, H, W, C] by stage name, in order."""


class Outputs(NamedTuple):
    """Outputs of a network: logits [N, classes], and the logits of any auxiliary heads."""

    logits: jax.Array
    aux: tuple[jax.Array, ...] = ()


LARGEST_SIZE = 2**17
"""Upper bound on channels, pixels and classes in a definition, which may come from an untrusted file."""
Size = Annotated[int, Field(ge=1, le=LARGEST_SIZE)]
"""A number of channels, pixels or classes."""


class Arch(Schema, at="model."):
    """A model definition: hashable, printable and comparable, without arrays. Each family adds its own fields."""

    family: ClassVar[str]
    """Name of the family in files."""
    init_images: ClassVar[int] = 0
    """Maximum number of training images that `data_init` reads; 0 if the initial parameters do not depend on data."""

    num_classes: Size = 1000
    """Number of classes."""
    input_size: Size = 224
    """Height and width of the images in pixels."""
    channels: Size = 3
    """Channels of the images: 1 for grayscale, 3 for RGB."""
    activation: Activation = "relu"
    """Activation function, by its name in jax.nn."""
    dtype: Literal["float32", "bfloat16", "float64"] = "float32"
    """Compute dtype. Parameters are float32, or float64 in a float64 network, which needs jax_enable_x64."""

    @property
    def image_shape(self) -> tuple[int, int, int]:
        return self.input_size, self.input_size, self.channels

    def to_dict(self) -> dict[str, Any]:
        """Return the definition as plain data: its family and fields. Inverse of `from_dict`."""
        return {"family": self.family, **super().to_dict()}

    @classmethod
    def from_dict(cls, data: object, where: str = "model", families: "Mapping[str, type[Arch]] | None" = None) -> Self:
        """Read a definition written by `to_dict`; ``families`` are the known families, by default the package's."""
        from cnnjax.models import FAMILIES  # circular: the registry imports this file

        families = FAMILIES if families is None else families
        if not isinstance(data, Mapping) or not isinstance(family := data.get("family"), str):
            raise UserError(f"{where} is {quoted(data)}; it must be an object with a 'family'")
        if family not in families:
            raise UserError(f"unknown {where} family {quoted(family)}; {near_matches(family, families)}")
        options = {name: value for name, value in data.items() if name != "family"}
        return cast(Self, super(Arch, families[family]).from_dict(options, where))

    def data_init(self, params: dict[str, Any], images: np.ndarray) -> dict[str, Any]:
        """Return the initial parameters of a training run, given those drawn from its seed.

        ``images`` [N, H, W, C] are preprocessed training images, at most `init_images`.
        """
        return params

    def build(self, rngs: nnx.Rngs) -> "Network":
        """Return the module that this definition describes. Only `cnnjax.functional` calls it."""
        raise NotImplementedError(f"{type(self).__name__} must implement build, which returns the network")


class Stage(NamedTuple):
    """A stage of a network: ``run(*layers, x, rngs)`` maps its input activation to its output, [N, H, W, C]."""

    name: str
    run: Callable[..., jax.Array]
    layers: tuple[nnx.Module, ...] = ()


class Network(nnx.Module):
    """Base class of the networks: a sequence of stages, then a head. Randomness enters only through ``rngs``.

    A model declares its stages and its head, and this class runs them. Rematerialization (``remat``), feature maps and
    complexity therefore need no code in a model.
    """

    remat: tuple[str, ...] = ()
    """Stages whose activations are recomputed in the backward pass; set by `cnnjax.functional.apply`."""

    def stages(self) -> Sequence[Stage]:
        """Return the stages in order."""
        raise NotImplementedError(f"{type(self).__name__} must implement stages")

    def classify(self, features: Features, rngs: nnx.Rngs | None = None) -> Outputs:
        """Return the outputs for the stages' activations."""
        raise NotImplementedError(f"{type(self).__name__} must implement classify")

    def features(self, images: jax.Array, rngs: nnx.Rngs | None = None) -> Features:
        """Run the stages on images [N, H, W, C] of any size that they accept."""
        return self.continue_from({}, images, rngs)

    def continue_from(self, first: Features, x: jax.Array, rngs: nnx.Rngs | None = None) -> Features:
        """Run the stages after ``first``, whose activations are known; ``x`` is the last of these activations.

        Each rematerialized stage is a separate checkpoint: only its inputs are stored, and it is recomputed when its
        gradient is needed.
        """
        features = dict(first)
        for name, run, layers in self.stages()[len(first) :]:
            if name in self.remat:  # returns only updated state: the statistics, once, and no parameters
                run = nnx.remat(run, graph_updates=False)
            features[name] = x = run(*layers, x, rngs)
        return features

    def __call__(self, images: jax.Array, rngs: nnx.Rngs | None = None) -> Outputs:
        return self.classify(self.features(images, rngs), rngs)


def run_blocks(blocks: Iterable[nnx.Module], x: jax.Array, rngs: nnx.Rngs | None) -> jax.Array:
    """Apply blocks one after the other: a stage's ``run``, for blocks that take ``rngs``."""
    for block in blocks:
        x = block(x, rngs)
    return x


def pair(name: str, value: int | tuple[int, int], least: int = 1) -> tuple[int, int]:
    """Return a (height, width) pair from one number for both, or from a pair.

    Raises:
        UserError: the value is neither, or a number is below ``least``.
    """
    both = value if isinstance(value, tuple) else (value, value)
    whole = len(both) == 2 and all(type(number) is int and number >= least for number in both)
    require(whole, name, value, f"a whole number or a (height, width) pair, each {least} or more")
    return both


def _edges(padding: str | int | tuple[int, int]) -> str | tuple[tuple[int, int], ...]:
    """Return a convolution's padding in the form that Flax takes.

    Raises:
        UserError: the padding is a string other than "SAME" and "VALID", or a number is below 0.
    """
    if isinstance(padding, str):
        require(
            padding in ("SAME", "VALID"),
            "padding",
            padding,
            "'SAME', 'VALID', a whole number or a (height, width) pair",
        )
        return padding
    return tuple((edge, edge) for edge in pair("padding", padding, least=0))


def activation(name: Activation) -> Callable[[jax.Array], jax.Array]:
    """Return the elementwise function in jax.nn with that name."""
    return getattr(jax.nn, name)


class Conv(nnx.Conv):
    """A convolution with zero-initialized bias and, by default, Glorot-uniform kernels (Glorot and Bengio 2010).

    ``size`` and ``stride`` are a number or a (height, width) pair. ``padding`` is "SAME", "VALID", or the rows and
    columns of zeros on each side, as a number or a pair.
    """

    def __init__(
        self, inputs: int, outputs: int, size: int | tuple[int, int], *, stride: int | tuple[int, int] = 1,
        padding: str | int | tuple[int, int], groups: int = 1, bias: bool = True, kernel_init: Initializer = GLOROT,
        dtype: str, rngs: nnx.Rngs,
    ):  # fmt: skip
        super().__init__(
            inputs, outputs, pair("size", size), pair("stride", stride), feature_group_count=groups, use_bias=bias,
            padding=_edges(padding),
            dtype=jnp.dtype(dtype), param_dtype=parameter_dtype(dtype), kernel_init=kernel_init,
            conv_general_dilated=conv_general_dilated, rngs=rngs,
        )  # fmt: skip

    def window(self, x: jax.Array) -> Window:
        """Return the convolution window for an input [N, H, W, C]."""
        return make_window(x, self.kernel.get_value(), self.strides, self.padding, (1, 1), self.feature_group_count)

    def in_one_pass(
        self, x: jax.Array, norm: "BatchNorm | None", activation: Callable[..., jax.Array],
        residual: jax.Array | None, *, in_steps: Callable[[], jax.Array],
    ) -> jax.Array:  # fmt: skip
        """Return activation(norm(self(x)) + residual), in one pass if the backend can, else by ``in_steps()``."""
        return conv_affine(
            x, self.kernel.get_value().astype(self.dtype), self.window(x), lambda: self.affine(norm),
            activation=activation, residual=residual, in_steps=in_steps,
        )  # fmt: skip

    def affine(self, norm: "BatchNorm | None") -> Affine:
        """Return the bias and a norm in evaluation mode as one scale [C] and one offset [C]."""
        offset = None if self.bias is None else self.bias.get_value()
        if norm is None:
            return None, offset
        scale, shift = norm.as_scale_and_offset()
        return scale, shift if offset is None else shift + offset * scale


class Dense(nnx.Linear):
    """A dense layer with zero-initialized bias and, by default, a Glorot-uniform kernel."""

    def __init__(
        self, inputs: int, outputs: int, *, kernel_init: Initializer = GLOROT, dtype: str, rngs: nnx.Rngs
    ):  # fmt: skip
        super().__init__(
            inputs, outputs, dtype=jnp.dtype(dtype), param_dtype=parameter_dtype(dtype), kernel_init=kernel_init,
            rngs=rngs,
        )  # fmt: skip

    @jax.named_scope("dense")
    def __call__(self, inputs: jax.Array, out_sharding: Any = None) -> jax.Array:
        """Map [N, C] to [N, C']."""
        return super().__call__(inputs, out_sharding)


class BatchNorm(nnx.Module):
    """Batch normalization over N, H and W (Ioffe and Szegedy 2015), computed in float32 or float64.

    With ``unbiased_variance`` the running variance averages the batch variance times count / (count - 1), as in torch.
    A training batch itself is always normalized by its biased variance. Without ``scales`` the scale is 1.
    """

    def __init__(
        self, channels: int, *, momentum: float, epsilon: float, unbiased_variance: bool, zero_scale: bool = False,
        scales: bool = True, dtype: str, rngs: nnx.Rngs,
    ):  # fmt: skip
        self.momentum, self.epsilon, self.unbiased_variance = momentum, epsilon, unbiased_variance
        self.dtype = jnp.dtype(dtype)
        self.use_running_average = False  # set by train() and eval()
        param_dtype = parameter_dtype(dtype)
        self.scale = nnx.Param(jnp.full(channels, 0.0 if zero_scale else 1.0, param_dtype)) if scales else None
        self.bias = nnx.Param(jnp.zeros(channels, param_dtype))
        self.mean = nnx.BatchStat(jnp.zeros(channels, param_dtype))
        self.var = nnx.BatchStat(jnp.ones(channels, param_dtype))

    @jax.named_scope("norm")
    def __call__(
        self,
        x: jax.Array,
        *,
        activation: Callable[..., jax.Array] = jax.nn.identity,
        residual: jax.Array | None = None,
    ) -> jax.Array:
        """Map [N, H, W, C] to activation(norm(x) + residual); in training, update the running statistics."""
        if self.use_running_average:
            factor, offset = self.as_scale_and_offset()
            return affine(x, factor, offset, dtype=self.dtype, activation=activation, residual=residual)
        y, mean, var = normalize_batch(
            x, self._scale(), self.bias.get_value(), epsilon=self.epsilon, dtype=self.dtype,
            activation=activation, residual=residual, running_mean=self.mean.get_value(),
        )  # fmt: skip
        self._move(mean, var, count=x.size // x.shape[-1])
        return y

    def _scale(self) -> jax.Array:
        return jnp.ones_like(self.bias.get_value()) if self.scale is None else self.scale.get_value()

    def _move(self, mean: jax.Array, var: jax.Array, count: int) -> None:
        running = var * (count / max(count - 1, 1)) if self.unbiased_variance else var
        self.mean.set_value(self.momentum * self.mean.get_value() + (1 - self.momentum) * mean)
        self.var.set_value(self.momentum * self.var.get_value() + (1 - self.momentum) * running)

    def as_scale_and_offset(self) -> tuple[jax.Array, jax.Array]:
        """Return the norm in evaluation mode as x * scale [C] + offset [C]."""
        statistics = self.mean.get_value(), self.var.get_value()
        return scale_and_offset(self._scale(), self.bias.get_value(), *statistics, self.epsilon)


class ConvNormAct(nnx.Module):
    """A convolution, an optional norm and an activation, with an optional residual added before the activation."""

    def __init__(self, conv: Conv, norm: BatchNorm | None, activation: Callable[..., jax.Array] = jax.nn.identity):
        self.conv, self.norm, self.activation = conv, norm, activation

    def __call__(self, x: jax.Array, residual: jax.Array | None = None) -> jax.Array:
        """Map [N, H, W, C] to activation(norm(conv(x)) + residual)."""
        return conv_norm_act(self.conv, self.norm, x, activation=self.activation, residual=residual)


def conv_norm_act(
    conv: Conv, norm: BatchNorm | None, x: jax.Array, *, activation: Callable[..., jax.Array] = jax.nn.identity,
    residual: jax.Array | None = None,
) -> jax.Array:  # fmt: skip
    """Return activation(norm(conv(x)) + residual) for [N, H, W, C].

    Function form of `ConvNormAct`, for blocks whose published parameters name convolutions and norms side by side.
    """

    def in_steps() -> jax.Array:
        y = conv(x)
        if norm is not None:
            return norm(y, activation=activation, residual=residual)
        return activation(y if residual is None else y + residual)

    if norm is not None and not norm.use_running_average:
        return in_steps()
    return conv.in_one_pass(x, norm, activation, residual, in_steps=in_steps)


class StochasticDepth(nnx.Module):
    """Drop a block's residual for random images in training and rescale the others (Huang et al. 2016)."""

    def __init__(self, rate: float):
        self.rate = rate
        self.deterministic = False  # set by train() and eval()

    @property
    def drops(self) -> bool:
        return bool(self.rate) and not self.deterministic

    def __call__(self, x: jax.Array, rngs: nnx.Rngs | None = None) -> jax.Array:
        if not self.drops:
            return x
        if rngs is None:
            raise UserError(
                "stochastic depth has no PRNG key in training; pass one with apply(..., train=True, key=KEY)"
            )
        kept = jax.random.bernoulli(rngs(), 1 - self.rate, (x.shape[0], 1, 1, 1))
        return jnp.where(kept, x / jnp.asarray(1 - self.rate, x.dtype), jnp.zeros_like(x))


class Pool(nnx.Module):
    """2x2 pooling with stride 2; an odd last row or column is dropped.

    Implemented as four strided slices, which on a CPU is many times faster than a windowed reduction.
    """

    def __init__(self, kind: Literal["avg", "max"]):
        self.kind = kind

    @jax.named_scope("pooling")
    def __call__(self, x: jax.Array) -> jax.Array:
        """Map [N, H, W, C] to [N, H // 2, W // 2, C]."""
        height, width = x.shape[1] // 2 * 2, x.shape[2] // 2 * 2
        a, b, c, d = (x[:, i:height:2, j:width:2] for i in (0, 1) for j in (0, 1))
        if self.kind == "max":
            return jnp.maximum(jnp.maximum(a, b), jnp.maximum(c, d))
        return (a + b + c + d) * jnp.asarray(0.25, x.dtype)


class Flatten(nnx.Module):
    """Flatten [N, H, W, C] to [N, H * W * C] for a dense layer of a fixed input length."""

    def __init__(self, shape: tuple[int, int, int], fits: str):
        self.shape = shape
        self.fits = fits

    def __call__(self, x: jax.Array) -> jax.Array:
        if x.shape[1:] != self.shape:
            height, width, channels = self.shape
            raise UserError(
                f"the dense layer takes a flattened length of {height}x{width}x{channels} = "
                f"{height * width * channels}, not {'x'.join(map(str, x.shape[1:]))} = "
                f"{x.shape[1] * x.shape[2] * x.shape[3]}; input sizes that fit: {self.fits}"
            )
        return x.reshape(x.shape[0], math.prod(self.shape))


def as_map(x: jax.Array) -> jax.Array:
    """Reshape a dense activation [N, C] to a feature map [N, 1, 1, C]."""
    return x[:, None, None, :]


def kernel_shape(layer: Any) -> tuple[int, ...] | None:
    """Return the shape of a layer's kernel, or None if it has no kernel."""
    kernel = getattr(layer, "kernel", None)
    return None if kernel is None else tuple(kernel.shape)
