"""What several architectures share: the base of every network, activations, convolution, dense, pooling, flattening.

Images and activations are [N, H, W, C]. A network computes in its `dtype`. Parameters and batch statistics are float32,
and float64 in a float64 network.
What each layer does is named in the compiled program (`jax.named_scope`), so that a profile can say where time goes.
"""

import functools
import math
from collections.abc import Callable, Mapping
from typing import Annotated, Any, ClassVar, Literal, NamedTuple, Self, cast

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from pydantic import Field

from cnnjax import native
from cnnjax.errors import UserError, near_matches, quoted, require
from cnnjax.models.convolution import conv_general_dilated, make_window, way
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


class Network(nnx.Module):
    """Base of every network: named stages, then a head. Chance enters through ``rngs`` at the call alone."""

    remat: tuple[str, ...] = ()
    """The stages whose activations are computed again for the backward pass; set by `cnnjax.functional.apply`."""

    def stage(self, name: str, run: Callable[..., jax.Array], *arguments: Any) -> jax.Array:
        """Return ``run(*arguments)``, the activation of a stage; the layers it calls are among the arguments.

        Each stage that is computed again is a checkpoint of its own: only its inputs stay, and its recomputation
        waits for the gradient that needs it.
        """
        if name in self.remat:  # only what a layer changes comes out again: statistics once, and no parameters
            run = nnx.remat(run, graph_updates=False)
        return run(*arguments)

    def features(self, images: jax.Array, rngs: nnx.Rngs | None = None) -> Features:
        """Run the stages on images [N, H, W, C] of any size that they can carry."""
        raise NotImplementedError

    def classify(self, features: Features, rngs: nnx.Rngs | None = None) -> Outputs:
        """Turn the stages' activations into logits."""
        raise NotImplementedError

    def __call__(self, images: jax.Array, rngs: nnx.Rngs | None = None) -> Outputs:
        return self.classify(self.features(images, rngs), rngs)


def parameter_dtype(dtype: Any) -> Any:
    """Return the dtype of parameters, statistics and logits in a network of that dtype: float32 at least."""
    return jnp.float64 if jnp.dtype(dtype) == jnp.float64 else jnp.float32


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

    def window(self, x: jax.Array) -> native.Window:
        """Return how the kernel moves over [N, H, W, C]."""
        return make_window(x, self.kernel.get_value(), self.strides, self.padding, (1, 1), self.feature_group_count)


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
        self, x: jax.Array, *, activation: Callable[..., jax.Array] = jax.nn.identity, added: jax.Array | None = None
    ) -> jax.Array:
        """Map [N, H, W, C] to activation(norm(x) + added); in training, move the running statistics."""
        relu = activation is jax.nn.relu
        if not self.use_running_average and norm_lowering(x.dtype) == "native":
            scale, bias = self.scale.get_value(), self.bias.get_value()
            y, mean, var = native.batch_norm(x, scale, bias, epsilon=self.epsilon, relu=relu, added=added)
            self._move(mean, var, count=x.size // x.shape[-1])
            y = y.astype(self.dtype)
            return y if relu else activation(y)
        wide = x.astype(parameter_dtype(x.dtype))
        if self.use_running_average:
            factor, offset = self.as_scale_and_offset()
        else:
            mean, var = moments(wide)
            self._move(mean, var, count=x.size // x.shape[-1])
            factor, offset = self._scale_and_offset(mean, var)
        y = (wide * factor[None, None, None] + offset[None, None, None]).astype(self.dtype)
        return activation(y if added is None else y + added)

    def _move(self, mean: jax.Array, var: jax.Array, count: int) -> None:
        running = var * (count / max(count - 1, 1)) if self.unbiased_variance else var
        self.mean.set_value(self.momentum * self.mean.get_value() + (1 - self.momentum) * mean)
        self.var.set_value(self.momentum * self.var.get_value() + (1 - self.momentum) * running)

    def as_scale_and_offset(self) -> tuple[jax.Array, jax.Array]:
        """Return what the norm does in evaluation: x * scale [C] + offset [C]."""
        return self._scale_and_offset(self.mean.get_value(), self.var.get_value())

    def _scale_and_offset(self, mean: jax.Array, var: jax.Array) -> tuple[jax.Array, jax.Array]:
        scale = self.scale.get_value() * jax.lax.rsqrt(var + self.epsilon)
        return scale, self.bias.get_value() - mean * scale


def norm_lowering(dtype: Any) -> str:
    """Return how a batch is normalised in training: "native", on a CPU in few passes through memory, or "xla"."""
    return "native" if has_kernels(dtype) else "xla"


def has_kernels(dtype: Any) -> bool:
    """Return whether the native part has kernels of its own for arrays of that type here."""
    return jax.default_backend() == "cpu" and dtype == jnp.float32 and native.load_kernels() is not None


@jax.custom_jvp
def moments(x: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Return the mean and the biased variance [C] over all positions of [N, H, W, C].

    The derivative of the variance is written out: by itself it would pass through the mean once more, to add zero.
    """
    return x.mean((0, 1, 2)), x.var((0, 1, 2))


@moments.defjvp
def _moments_jvp(primals: tuple[jax.Array], tangents: tuple[jax.Array]) -> Any:
    (x,), (change,) = primals, tangents
    mean, var = moments(x)
    return (mean, var), (change.mean((0, 1, 2)), 2 * ((x - mean[None, None, None]) * change).mean((0, 1, 2)))


def convolve(
    conv: "Conv", x: jax.Array, *, norm: BatchNorm | None = None,
    activation: Callable[..., jax.Array] = jax.nn.identity, added: jax.Array | None = None,
) -> jax.Array:  # fmt: skip
    """Return activation(norm(conv(x)) + added) for [N, H, W, C]; in evaluation at once, where `lowering` can."""
    simple = isinstance(conv, Conv) and _is_affine(norm)
    if simple and (window := conv.window(x)) and way(x, conv.kernel.get_value(), window) == "native":
        convolution = functools.partial(native.convolution_with_epilogue, x, _kernel(conv), window)
        return _with_epilogue(convolution, conv, norm, activation, added)
    x = conv(x)
    if isinstance(norm, BatchNorm):
        return norm(x, activation=activation, added=added)
    x = x if norm is None else norm(x)
    return activation(x if added is None else x + added)


def convolve_separable(
    depthwise: "Conv", pointwise: "Conv", x: jax.Array, *, before: Callable[..., jax.Array] = jax.nn.identity,
    norm: BatchNorm | None = None, activation: Callable[..., jax.Array] = jax.nn.identity,
    added: jax.Array | None = None,
) -> jax.Array:  # fmt: skip
    """Return activation(norm(pointwise(depthwise(before(x)))) + added); in evaluation at once, where the CPU can.

    At once: where ``depthwise`` has one output for each channel of [N, H, W, C] and ``pointwise`` a kernel of 1x1.
    """
    simple = isinstance(depthwise, Conv) and isinstance(pointwise, Conv) and norm is not None and _is_affine(norm)
    at_once = simple and _is_separable(depthwise, pointwise, x) and separable_lowering(x) == "native"
    rectified = at_once and before is jax.nn.relu
    x = x if rectified else before(x)
    if not at_once:
        return convolve(pointwise, convolve(depthwise, x), norm=norm, activation=activation, added=added)
    kernels = _kernel(depthwise), _kernel(pointwise)
    convolution = functools.partial(native.separable_convolution, x, *kernels, depthwise.window(x), rectified=rectified)
    return _with_epilogue(convolution, pointwise, norm, activation, added)


def _is_separable(depthwise: "Conv", pointwise: "Conv", x: jax.Array) -> bool:
    """Return whether the one has an output for each channel and no bias, and the other goes to each position alone."""
    shape = depthwise.kernel.get_value().shape
    of_each = shape[2:] == (1, x.shape[3]) and depthwise.feature_group_count == x.shape[3] and depthwise.bias is None
    return of_each and pointwise.kernel.get_value().shape[:2] == (1, 1) and pointwise.window(x) == native.POINTWISE


def separable_lowering(x: jax.Array) -> str:
    """Return how a separable convolution of [N, H, W, C] is evaluated: at once, "native", or in "steps"."""
    known = all(isinstance(size, int) for size in x.shape)  # a program may be exported for any batch
    return "native" if known and has_kernels(x.dtype) else "steps"


def _is_affine(norm: Any) -> bool:
    """Return whether a norm, or none, is a scale and an offset."""
    return norm is None or (isinstance(norm, BatchNorm) and norm.use_running_average)


def _kernel(conv: "Conv") -> jax.Array:
    return conv.kernel.get_value().astype(conv.dtype)


@jax.named_scope("convolution")
def _with_epilogue(
    convolution: Callable[..., jax.Array], conv: "Conv", norm: BatchNorm | None, activation: Callable[..., jax.Array],
    added: jax.Array | None,
) -> jax.Array:  # fmt: skip
    """Return what ``convolution`` gives with the bias of ``conv``, its norm and what follows as its epilogue."""
    offset = None if conv.bias is None else conv.bias.get_value()
    scale = None
    if norm is not None:
        scale, shift = norm.as_scale_and_offset()
        offset = shift if offset is None else shift + offset * scale
    names = (name for name, function in native.NONLINEARITIES.items() if function is activation)
    nonlinearity = next(names, None)
    x = convolution(scale=scale, offset=offset, added=added, nonlinearity=nonlinearity or "identity")
    return x if nonlinearity else activation(x)


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


@jax.named_scope("pooling")
def max_pool(x: jax.Array, *, size: int, stride: int, padding: int, pad_value: float = -jnp.inf) -> jax.Array:
    """Take the largest of each window of [N, H, W, C]; what lies outside counts as ``pad_value``.

    Of equal values the first in the window gets the gradient.
    """
    if padding and pad_value != -jnp.inf:
        edges = ((0, 0), (padding, padding), (padding, padding), (0, 0))
        x, padding = jnp.pad(x, edges, constant_values=pad_value), 0
    by = pooling_lowering(x.dtype)
    if by == "native" and size <= native.LARGEST_POOL:
        return native.max_pool(x, size=size, stride=stride, padding=padding)
    if by != "reduce_window":
        return _largest_of_slices(_largest_of_slices(x, 2, size, stride, padding), 1, size, stride, padding)
    around = ((0, 0), (padding, padding), (padding, padding), (0, 0))
    lowest = np.asarray(-np.inf, x.dtype)  # a constant: of a traced value XLA could not tell that it is a maximum
    return jax.lax.reduce_window(x, lowest, jax.lax.max, (1, size, size, 1), (1, stride, stride, 1), around)


def pooling_lowering(dtype: Any) -> str:
    """Return how windows are pooled: on a CPU by the native part or, as it has none for bfloat16, by strided slices.

    Slices are many times faster there than a windowed reduction, the native part is three times faster than slices.
    """
    if jax.default_backend() != "cpu":
        return "reduce_window"
    return "native" if has_kernels(dtype) else "slices"


def _largest_of_slices(x: jax.Array, axis: int, size: int, stride: int, padding: int) -> jax.Array:
    """Take the largest of each window along one axis; a NaN is the largest."""
    edges = [(padding, padding) if a == axis else (0, 0) for a in range(x.ndim)]
    x = jnp.pad(x, edges, constant_values=-jnp.inf)
    count = (x.shape[axis] - size) // stride + 1
    first, *others = (jax.lax.slice_in_dim(x, i, i + (count - 1) * stride + 1, stride, axis) for i in range(size))
    for other in others:
        first = jnp.where((other > first) | jnp.isnan(other), other, first)
    return first


@jax.named_scope("pooling")
def global_average(x: jax.Array) -> jax.Array:
    """Return the mean [N, C] over all positions of [N, H, W, C], summed in float32 at least."""
    return x.astype(parameter_dtype(x.dtype)).mean((1, 2)).astype(x.dtype)
