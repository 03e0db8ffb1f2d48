"""What the layers of a Keras file compute outside training, to check a converted network against its own file.

Source: the documentation of keras.layers. Images and activations are [N, H, W, C]. A layer, or a setting of a layer,
that is not known here is refused by name, so that a file is either reproduced or not read.
"""

from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from cnnjax.convert.keras_definition import IDENTITIES, Definition, Layer, activation_name
from cnnjax.errors import UserError, listed, quoted

Read = Callable[[str], np.ndarray]
"""Returns a weight by its name, such as ``conv1_conv/kernel``."""

ACTIVATIONS: Mapping[str, Callable[[jax.Array], jax.Array]] = {
    "linear": lambda x: x, "relu": jax.nn.relu, "sigmoid": jax.nn.sigmoid, "tanh": jnp.tanh, "softmax": jax.nn.softmax,
    "elu": jax.nn.elu, "selu": jax.nn.selu, "silu": jax.nn.silu, "swish": jax.nn.silu, "softplus": jax.nn.softplus,
    "gelu": lambda x: jax.nn.gelu(x, approximate=False), "relu6": jax.nn.relu6,
}  # fmt: skip
IGNORED = frozenset(
    ("name", "trainable", "dtype", "batch_input_shape", "batch_shape", "activation", "activity_regularizer", "seed")
)
"""Settings that do not change the result outside training, or that every layer handles."""
TRAINING_ONLY = ("initializer", "regularizer", "constraint")
"""Ends of the names of settings that are used only in training."""


def compute(definition: Definition, read: Read, images: jax.Array, until: str) -> jax.Array:
    """Return the output of the layer ``until`` for images [N, H, W, C], as the file defines it.

    Raises:
        UserError: a layer or one of its settings is not known.
    """
    values = {definition.input: images}
    for layer in definition.layers.values():
        if layer.name != definition.input:
            values[layer.name] = apply_layer(layer, read, [values[name] for name in layer.inputs])
        if layer.name == until:
            break
    return values[until]


def apply_layer(layer: Layer, read: Read, inputs: list[jax.Array], *, activate: bool = True) -> jax.Array:
    """Return a layer's output; ``activate=False`` leaves out its own activation function."""
    if layer.kind in IDENTITIES:
        return inputs[0]
    if layer.kind not in LAYERS:
        raise UserError(
            f"layer {quoted(layer.name)} is a {layer.kind}, which is not converted; known layers: {listed(LAYERS)}"
        )
    function, settings = LAYERS[layer.kind]
    _check_settings(layer, settings)
    output = function(layer, read, *inputs)
    return ACTIVATIONS[known_activation(layer)](output) if activate else output


def known_activation(layer: Layer) -> str:
    """Return the name of a layer's activation function; raise UserError if it is not known."""
    name = activation_name(layer)
    if name not in ACTIVATIONS:
        raise UserError(f"layer {quoted(layer.name)} has the activation {quoted(name)}; known: {listed(ACTIVATIONS)}")
    return name


def _check_settings(layer: Layer, settings: Mapping[str, Any]) -> None:
    """Raise UserError for a setting that the layer's function does not read, unless it has the value given here."""
    for name, value in layer.config.items():
        if name in IGNORED or name.endswith(TRAINING_ONLY):
            continue
        if name not in settings:
            raise UserError(f"layer {quoted(layer.name)} ({layer.kind}) has the unknown setting {quoted(name)}")
        allowed = settings[name]
        if allowed is not READ and value not in (allowed, list(allowed) if isinstance(allowed, tuple) else allowed):
            raise UserError(
                f"layer {quoted(layer.name)} ({layer.kind}) has {name} = {quoted(value)}; "
                f"only {quoted(allowed)} is converted"
            )


READ = object()
"""Marks a setting that a layer's function reads."""
CHANNELS_LAST = {"data_format": "channels_last"}


def _pair(value: Any) -> tuple[int, int]:
    first, second = (value, value) if isinstance(value, int) else value
    return first, second


def per_channel(values: Any, x: jax.Array) -> jax.Array:
    """Return one number, or one for each channel, in a shape that broadcasts over ``x``."""
    return jnp.asarray(values, jnp.float32).reshape((1,) * (x.ndim - 1) + (-1,))


def _plus_bias(layer: Layer, read: Read, x: jax.Array) -> jax.Array:
    return x + per_channel(read(f"{layer.name}/bias"), x) if layer.config.get("use_bias", True) else x


def _convolve(layer: Layer, x: jax.Array, kernel: Any, groups: int = 1, *, pointwise: bool = False) -> jax.Array:
    config = layer.config
    return lax.conv_general_dilated(
        x, jnp.asarray(kernel), (1, 1) if pointwise else _pair(config.get("strides", 1)),
        "VALID" if pointwise else str(config.get("padding", "valid")).upper(),
        rhs_dilation=(1, 1) if pointwise else _pair(config.get("dilation_rate", 1)),
        dimension_numbers=("NHWC", "HWIO", "NHWC"), feature_group_count=groups, precision="highest",
    )  # fmt: skip


def _conv(layer: Layer, read: Read, x: jax.Array) -> jax.Array:
    kernel = read(f"{layer.name}/kernel")
    return _plus_bias(layer, read, _convolve(layer, x, kernel, layer.config.get("groups", 1)))


def _depthwise(layer: Layer, x: jax.Array, kernel: np.ndarray) -> jax.Array:
    height, width, channels, multiplier = kernel.shape
    return _convolve(layer, x, kernel.reshape(height, width, 1, channels * multiplier), groups=channels)


def _depthwise_conv(layer: Layer, read: Read, x: jax.Array) -> jax.Array:
    return _plus_bias(layer, read, _depthwise(layer, x, read(f"{layer.name}/kernel")))


def _separable_conv(layer: Layer, read: Read, x: jax.Array) -> jax.Array:
    x = _depthwise(layer, x, read(f"{layer.name}/depthwise_kernel"))
    return _plus_bias(layer, read, _convolve(layer, x, read(f"{layer.name}/pointwise_kernel"), pointwise=True))


def _batch_norm(layer: Layer, read: Read, x: jax.Array) -> jax.Array:
    if layer.config.get("axis", -1) not in (-1, x.ndim - 1, [x.ndim - 1], [-1]):
        raise UserError(f"layer {quoted(layer.name)} normalizes axis {layer.config['axis']}, not the channels")
    mean, var = read(f"{layer.name}/moving_mean"), read(f"{layer.name}/moving_variance")
    scale = read(f"{layer.name}/gamma") if layer.config.get("scale", True) else np.ones_like(mean)
    offset = read(f"{layer.name}/beta") if layer.config.get("center", True) else np.zeros_like(mean)
    factor = scale / np.sqrt(var + layer.config["epsilon"])
    return x * per_channel(factor, x) + per_channel(offset - mean * factor, x)


def _pool(operation: Any, start: float) -> Callable[..., jax.Array]:
    def pool(layer: Layer, read: Read, x: jax.Array) -> jax.Array:
        size = _pair(layer.config.get("pool_size", 2))
        strides = _pair(layer.config.get("strides") or size)
        padding = str(layer.config.get("padding", "valid")).upper()
        window, steps = (1, *size, 1), (1, *strides, 1)
        pooled = lax.reduce_window(x, start, operation, window, steps, padding)
        if operation is lax.max:
            return pooled
        return pooled / lax.reduce_window(jnp.ones_like(x), start, operation, window, steps, padding)

    return pool


def _zero_padding(layer: Layer, read: Read, x: jax.Array) -> jax.Array:
    (top, bottom), (left, right) = (_pair(edges) for edges in _edges(layer.config.get("padding", 1)))
    return jnp.pad(x, ((0, 0), (top, bottom), (left, right), (0, 0)))


def _edges(value: Any) -> tuple[Any, Any]:
    first, second = (value, value) if isinstance(value, int) else value
    return first, second


def _concatenate(layer: Layer, read: Read, *xs: jax.Array) -> jax.Array:
    if layer.config.get("axis", -1) not in (-1, xs[0].ndim - 1):
        raise UserError(f"layer {quoted(layer.name)} concatenates along axis {layer.config['axis']}, not the channels")
    return jnp.concatenate(xs, -1)


def _dense(layer: Layer, read: Read, x: jax.Array) -> jax.Array:
    return _plus_bias(layer, read, jnp.matmul(x, jnp.asarray(read(f"{layer.name}/kernel")), precision="highest"))


def rescaling(layer: Layer, read: Read, x: jax.Array) -> jax.Array:
    """Return scale * x + offset; both may be one number or one for each channel."""
    return x * per_channel(layer.config["scale"], x) + per_channel(layer.config.get("offset", 0.0), x)


def normalization(layer: Layer, read: Read, x: jax.Array) -> jax.Array:
    """Return (x - mean) / std, or its inverse, for one mean and variance for each channel."""
    if layer.config.get("mean") is not None:
        mean, var = np.asarray(layer.config["mean"]), np.asarray(layer.config["variance"])
    else:
        mean, var = read(f"{layer.name}/mean"), read(f"{layer.name}/variance")
    mean, deviation = mean.reshape(-1), np.maximum(np.sqrt(var.reshape(-1)), 1e-7)
    if mean.size not in (1, x.shape[-1]):
        raise UserError(f"layer {quoted(layer.name)} has {mean.size} means; there must be one, or one for each channel")
    scale, offset = (deviation, mean) if layer.config.get("invert") else (1 / deviation, -mean / deviation)
    return x * per_channel(scale, x) + per_channel(offset, x)


CONV = {
    "filters": READ, "kernel_size": READ, "strides": READ, "padding": READ, "dilation_rate": READ, "use_bias": READ,
    "groups": READ, "rank": READ, **CHANNELS_LAST,
}  # fmt: skip
POOL = {"pool_size": READ, "strides": READ, "padding": READ, **CHANNELS_LAST}
LAYERS: dict[str, tuple[Callable[..., jax.Array], Mapping[str, Any]]] = {
    "Activation": (lambda layer, read, x: x, {}),
    "Add": (lambda layer, read, *xs: sum(xs[1:], xs[0]), {}),
    "AveragePooling2D": (_pool(lax.add, 0.0), POOL),
    "BatchNormalization": (
        _batch_norm,
        {
            "axis": READ, "momentum": READ, "epsilon": READ, "center": READ, "scale": READ, "renorm": False,
            "renorm_clipping": READ, "renorm_momentum": READ,
            "synchronized": READ, "virtual_batch_size": None, "fused": READ,
        },
    ),
    "Concatenate": (_concatenate, {"axis": READ}),
    "Conv2D": (_conv, CONV),
    "Dense": (_dense, {"units": READ, "use_bias": READ, "quantization_config": None, "lora_rank": None}),
    "DepthwiseConv2D": (_depthwise_conv, {**CONV, "depth_multiplier": READ}),
    "Flatten": (lambda layer, read, x: x.reshape(x.shape[0], -1), CHANNELS_LAST),
    "GlobalAveragePooling2D": (lambda layer, read, x: x.mean((1, 2)), {"keepdims": False, **CHANNELS_LAST}),
    "MaxPooling2D": (_pool(lax.max, -jnp.inf), POOL),
    "Normalization": (normalization, {"axis": READ, "mean": READ, "variance": READ, "invert": READ}),
    "ReLU": (lambda layer, read, x: x, {"max_value": None, "negative_slope": 0.0, "threshold": 0.0}),
    "Rescaling": (rescaling, {"scale": READ, "offset": READ}),
    "SeparableConv2D": (_separable_conv, {**CONV, "groups": 1, "depth_multiplier": 1}),
    "Softmax": (lambda layer, read, x: x, {"axis": -1}),
    "ZeroPadding2D": (_zero_padding, {"padding": READ, **CHANNELS_LAST}),
}  # fmt: skip
