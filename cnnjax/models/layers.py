"""What several architectures share: the base of every network, activations, convolution, dense, pooling, flattening.

Images and activations are [N, H, W, C]. A network computes in its `dtype`. Parameters and batch statistics are float32,
and float64 in a float64 network.
What each layer does is named in the compiled program (`jax.named_scope`), so that a profile can say where time goes.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Annotated, Any, ClassVar, Literal, NamedTuple, Self, cast

import jax
import jax.numpy as jnp
from flax import nnx
from pydantic import Field

from cnnjax.errors import UserError, near_matches, quoted, require
from cnnjax.ops.batch_norm import affine, normalize_batch, scale_and_offset
from cnnjax.ops.conv import Affine, conv_affine, conv_general_dilated, separable_affine
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
"""The elementwise functions of jax.nn, by name."""

Initializer = jax.nn.initializers.Initializer
GLOROT: Initializer = nnx.initializers.glorot_uniform()
HE: Initializer = nnx.initializers.variance_scaling(2.0, "fan_out", "normal")
"""He et al. 2015, "Delving Deep into Rectifiers", equation 14: normal, by the outputs."""

Features = dict[str, jax.Array]
"""Each stage's activation [N, H, W, C] by the stage's name, in order."""


class Outputs(NamedTuple):
    """What a network gives: logits [N, classes], and the logits of auxiliary heads where it has some."""

    logits: jax.Array
    aux: tuple[jax.Array, ...] = ()


LARGEST_SIZE = 2**17
"""Upper bound on channels, pixels and classes in a definition, which may come from an untrusted file."""
Size = Annotated[int, Field(ge=1, le=LARGEST_SIZE)]
"""A number of channels, pixels or classes."""


class Arch(Schema, at="model."):
    """A network's definition: hashable, printable, comparable, and without arrays. Each family adds its own fields."""

    family: ClassVar[str]
    """The family's name in files."""

    num_classes: Size = 1000
    """How many classes the head tells apart."""
    input_size: Size = 224
    """Height and width of the images in pixels."""
    channels: Size = 3
    """Channels of the images: 1 grey, 3 RGB."""
    activation: Activation = "relu"
    """The nonlinearity, by its name in jax.nn."""
    dtype: Literal["float32", "bfloat16", "float64"] = "float32"
    """What the network computes in; parameters stay float32, or are float64 too, which needs jax_enable_x64."""

    @property
    def image_shape(self) -> tuple[int, int, int]:
        return self.input_size, self.input_size, self.channels

    def to_dict(self) -> dict[str, Any]:
        """Return the definition as plain data: its family and its fields. `from_dict` reads it."""
        return {"family": self.family, **super().to_dict()}

    @classmethod
    def from_dict(cls, data: object, where: str = "model", families: "Mapping[str, type[Arch]] | None" = None) -> Self:
        """Read what `to_dict` wrote, as the family that it names, of the given ones or the package's."""
        from cnnjax.models import FAMILIES  # the table imports this file

        families = FAMILIES if families is None else families
        if not isinstance(data, Mapping) or not isinstance(family := data.get("family"), str):
            raise UserError(f"{where} is {quoted(data)}; it must be an object with a 'family'")
        if family not in families:
            raise UserError(f"unknown {where} family {quoted(family)}; {near_matches(family, families)}")
        options = {name: value for name, value in data.items() if name != "family"}
        return cast(Self, super(Arch, families[family]).from_dict(options, where))

    def build(self, rngs: nnx.Rngs) -> "Network":
        """Return the module this definition describes. Only `cnnjax.functional` calls it."""
        raise NotImplementedError(f"{type(self).__name__} defines no network")


class Stage(NamedTuple):
    """A part of a network: ``run(*layers, x, rngs)`` maps the activation before it to its own, [N, H, W, C]."""

    name: str
    run: Callable[..., jax.Array]
    layers: tuple[nnx.Module, ...] = ()


class Network(nnx.Module):
    """Base of every network: stages one after the other, then a head. Chance enters through ``rngs`` at the call alone.

    A model declares its stages and its head; this class runs them, so that recomputation (``remat``), feature maps and
    complexity need nothing from a model.
    """

    remat: tuple[str, ...] = ()
    """The stages whose activations are computed again for the backward pass; set by `cnnjax.functional.apply`."""

    def stages(self) -> Sequence[Stage]:
        """Return the stages in order."""
        raise NotImplementedError(f"{type(self).__name__} declares no stages")

    def classify(self, features: Features, rngs: nnx.Rngs | None = None) -> Outputs:
        """Turn the stages' activations into logits."""
        raise NotImplementedError(f"{type(self).__name__} has no head")

    def features(self, images: jax.Array, rngs: nnx.Rngs | None = None) -> Features:
        """Run the stages on images [N, H, W, C] of any size that they can carry.

        Each stage that is computed again is a checkpoint of its own: only its inputs stay, and its recomputation
        waits for the gradient that needs it.
        """
        x, features = images, {}
        for name, run, layers in self.stages():
            if name in self.remat:  # only what a layer changes comes out again: statistics once, and no parameters
                run = nnx.remat(run, graph_updates=False)
            features[name] = x = run(*layers, x, rngs)
        return features

    def __call__(self, images: jax.Array, rngs: nnx.Rngs | None = None) -> Outputs:
        return self.classify(self.features(images, rngs), rngs)


def pair(name: str, value: int | tuple[int, int], least: int = 1) -> tuple[int, int]:
    """Return an option for height and width, given as one number for both or as a pair.

    Raises:
        UserError: it is neither, or below ``least``.
    """
    both = value if isinstance(value, tuple) else (value, value)
    whole = len(both) == 2 and all(type(number) is int and number >= least for number in both)
    require(whole, name, value, f"a whole number or a pair of them (height, width), each {least} or more")
    return both


def activation(name: Activation) -> Callable[[jax.Array], jax.Array]:
    """Return the elementwise function of jax.nn with that name."""
    return getattr(jax.nn, name)


class Conv(nnx.Conv):
    """A convolution: zero bias, and by default Glorot-uniform kernels (Glorot and Bengio 2010).

    ``size`` and ``stride`` are a number or a pair (height, width). So is ``padding``, rows and columns of zeros on each
    side, unless it is "SAME" or "VALID".
    """

    def __init__(
        self, inputs: int, outputs: int, size: int | tuple[int, int], *, stride: int | tuple[int, int] = 1,
        padding: str | int | tuple[int, int], groups: int = 1, bias: bool = True, kernel_init: Initializer = GLOROT,
        dtype: str, rngs: nnx.Rngs,
    ):  # fmt: skip
        edges = padding if isinstance(padding, str) else pair("padding", padding, least=0)
        super().__init__(
            inputs, outputs, pair("size", size), pair("stride", stride), feature_group_count=groups, use_bias=bias,
            padding=edges if isinstance(edges, str) else tuple((edge, edge) for edge in edges),
            dtype=jnp.dtype(dtype), param_dtype=parameter_dtype(dtype), kernel_init=kernel_init,
            conv_general_dilated=conv_general_dilated, rngs=rngs,
        )  # fmt: skip

    def window(self, x: jax.Array) -> Window:
        """Return how the kernel moves over [N, H, W, C]."""
        return make_window(x, self.kernel.get_value(), self.strides, self.padding, (1, 1), self.feature_group_count)

    def in_one_pass(
        self, x: jax.Array, norm: "BatchNorm | None", activation: Callable[..., jax.Array],
        residual: jax.Array | None, *, in_steps: Callable[[], jax.Array],
    ) -> jax.Array:  # fmt: skip
        """Return activation(norm(self(x)) + residual) in one pass where this backend has it, else ``in_steps()``."""
        return conv_affine(
            x, self.kernel.get_value().astype(self.dtype), self.window(x), lambda: self.affine(norm),
            activation=activation, residual=residual, in_steps=in_steps,
        )  # fmt: skip

    def after_depthwise(
        self, x: jax.Array, depthwise: "Conv", norm: "BatchNorm", before: Callable[..., jax.Array],
        activation: Callable[..., jax.Array], residual: jax.Array | None, *, in_steps: Callable[[], jax.Array],
    ) -> jax.Array:  # fmt: skip
        """Return activation(norm(self(depthwise(before(x)))) + residual) in one pass, else ``in_steps()``."""
        return separable_affine(
            x, depthwise.kernel.get_value().astype(depthwise.dtype), self.kernel.get_value().astype(self.dtype),
            (depthwise.window(x), self.window(x)), lambda: self.affine(norm), before=before, activation=activation,
            residual=residual, in_steps=in_steps,
        )  # fmt: skip

    def affine(self, norm: "BatchNorm | None") -> Affine:
        """Return the bias and a norm in evaluation as one scale [C] and one offset [C]."""
        offset = None if self.bias is None else self.bias.get_value()
        if norm is None:
            return None, offset
        scale, shift = norm.as_scale_and_offset()
        return scale, shift if offset is None else shift + offset * scale


class Dense(nnx.Linear):
    """A dense layer, Glorot-uniform kernel and zero bias."""

    def __init__(self, inputs: int, outputs: int, *, dtype: str, rngs: nnx.Rngs):
        super().__init__(
            inputs, outputs, dtype=jnp.dtype(dtype), param_dtype=parameter_dtype(dtype), kernel_init=GLOROT, rngs=rngs
        )

    @jax.named_scope("dense")
    def __call__(self, inputs: jax.Array, out_sharding: Any = None) -> jax.Array:
        """Map [N, C] to [N, C']."""
        return super().__call__(inputs, out_sharding)


class BatchNorm(nnx.Module):
    """Batch normalisation over N, H and W (Ioffe and Szegedy 2015), computed in float32, or in float64.

    With ``unbiased_variance`` the running variance is torch's: that of the batch times count / (count - 1). What
    normalises a training batch is the biased one in any case.
    """

    def __init__(
        self, channels: int, *, momentum: float, epsilon: float, unbiased_variance: bool, zero_scale: bool = False,
        dtype: str, rngs: nnx.Rngs,
    ):  # fmt: skip
        self.momentum, self.epsilon, self.unbiased_variance = momentum, epsilon, unbiased_variance
        self.dtype = jnp.dtype(dtype)
        self.use_running_average = False  # set by train() and eval()
        wide = parameter_dtype(dtype)
        self.scale = nnx.Param(jnp.full(channels, 0.0 if zero_scale else 1.0, wide))
        self.bias = nnx.Param(jnp.zeros(channels, wide))
        self.mean = nnx.BatchStat(jnp.zeros(channels, wide))
        self.var = nnx.BatchStat(jnp.ones(channels, wide))

    @jax.named_scope("norm")
    def __call__(
        self,
        x: jax.Array,
        *,
        activation: Callable[..., jax.Array] = jax.nn.identity,
        residual: jax.Array | None = None,
    ) -> jax.Array:
        """Map [N, H, W, C] to activation(norm(x) + residual); in training, move the running statistics."""
        if self.use_running_average:
            factor, offset = self.as_scale_and_offset()
            return affine(x, factor, offset, dtype=self.dtype, activation=activation, residual=residual)
        y, mean, var = normalize_batch(
            x, self.scale.get_value(), self.bias.get_value(), epsilon=self.epsilon, dtype=self.dtype,
            activation=activation, residual=residual,
        )  # fmt: skip
        self._move(mean, var, count=x.size // x.shape[-1])
        return y

    def _move(self, mean: jax.Array, var: jax.Array, count: int) -> None:
        running = var * (count / max(count - 1, 1)) if self.unbiased_variance else var
        self.mean.set_value(self.momentum * self.mean.get_value() + (1 - self.momentum) * mean)
        self.var.set_value(self.momentum * self.var.get_value() + (1 - self.momentum) * running)

    def as_scale_and_offset(self) -> tuple[jax.Array, jax.Array]:
        """Return what the norm does in evaluation: x * scale [C] + offset [C]."""
        statistics = self.mean.get_value(), self.var.get_value()
        return scale_and_offset(self.scale.get_value(), self.bias.get_value(), *statistics, self.epsilon)


class ConvNormAct(nnx.Module):
    """A convolution, its norm and its activation, with a residual before the activation where one is given."""

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

    `ConvNormAct` as a function, for blocks whose published parameters name convolutions and norms side by side.
    """

    def in_steps() -> jax.Array:
        y = conv(x)
        if norm is not None:
            return norm(y, activation=activation, residual=residual)
        return activation(y if residual is None else y + residual)

    if norm is not None and not norm.use_running_average:
        return in_steps()
    return conv.in_one_pass(x, norm, activation, residual, in_steps=in_steps)


def separable_norm_act(
    depthwise: Conv, pointwise: Conv, norm: BatchNorm | None, x: jax.Array, *,
    before: Callable[..., jax.Array] = jax.nn.identity, activation: Callable[..., jax.Array] = jax.nn.identity,
    residual: jax.Array | None = None,
) -> jax.Array:  # fmt: skip
    """Return activation(norm(pointwise(depthwise(before(x)))) + residual) for [N, H, W, C]."""

    def in_steps() -> jax.Array:
        y = conv_norm_act(depthwise, None, before(x))
        return conv_norm_act(pointwise, norm, y, activation=activation, residual=residual)

    if depthwise.bias is not None or norm is None or not norm.use_running_average:
        return in_steps()
    return pointwise.after_depthwise(x, depthwise, norm, before, activation, residual, in_steps=in_steps)


class StochasticDepth(nnx.Module):
    """Drop a block's residual for a share of the images in training (Huang et al. 2016); scale up what stays."""

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
            raise UserError("stochastic depth draws at random in training; give apply(..., train=True, key=KEY)")
        kept = jax.random.bernoulli(rngs(), 1 - self.rate, (x.shape[0], 1, 1, 1))
        return jnp.where(kept, x / jnp.asarray(1 - self.rate, x.dtype), jnp.zeros_like(x))


class Pool(nnx.Module):
    """Pooling over windows of 2x2 with stride 2; an odd last row or column is left out.

    It is written as four strided slices, which on a CPU is many times faster than a windowed reduction.
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
        return x.reshape(x.shape[0], math.prod(self.shape))


def as_map(x: jax.Array) -> jax.Array:
    """Give a dense activation [N, C] the shape of a feature map, [N, 1, 1, C]."""
    return x[:, None, None, :]


def kernel_shape(layer: Any) -> tuple[int, ...] | None:
    """Return the shape of a layer's kernel, or None where it has none."""
    kernel = getattr(layer, "kernel", None)
    return None if kernel is None else tuple(kernel.shape)
