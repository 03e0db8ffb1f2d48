"""Blocks shared by several families: squeeze-and-excitation, parallel branches, separable convolution."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
from flax import nnx

from cnnjax.errors import UserError, require
from cnnjax.models.layers import (
    GLOROT,
    BatchNorm,
    Conv,
    Initializer,
    conv_norm_act,
    global_average,
)


class SqueezeExcite(nnx.Module):
    """Scale each channel by a gate computed from the channel means: x * sigmoid(fc2(activation(fc1(mean(x))))).

    Hu, Shen and Sun 2018, "Squeeze-and-Excitation Networks", section 3. ``reduced`` is the width between the two 1x1
    convolutions. Their names and shapes match torchvision's `SqueezeExcitation` and timm's `SEModule`.
    """

    def __init__(
        self, channels: int, reduced: int, *, activation: Callable[..., jax.Array] = jax.nn.relu, dtype: str,
        rngs: nnx.Rngs,
    ):  # fmt: skip
        require(reduced >= 1, "reduced", reduced, "1 or more")
        self.activation = activation
        self.fc1 = Conv(channels, reduced, 1, padding=0, dtype=dtype, rngs=rngs)
        self.fc2 = Conv(reduced, channels, 1, padding=0, dtype=dtype, rngs=rngs)

    def __call__(self, x: jax.Array) -> jax.Array:
        """Map [N, H, W, C] to [N, H, W, C]."""
        means = global_average(x)[:, None, None]
        reduced = conv_norm_act(self.fc1, None, means, activation=self.activation)
        return x * conv_norm_act(self.fc2, None, reduced, activation=jax.nn.sigmoid)


class Chain(nnx.Module):
    """Layers applied one after the other."""

    def __init__(self, *layers: nnx.Module):
        self.layers = nnx.List(layers)

    def __call__(self, x: jax.Array) -> jax.Array:
        for layer in self.layers:
            x = layer(x)
        return x


class Branches(nnx.Module):
    """Apply parallel branches to one input and concatenate their outputs along the channels, in the given order.

    Szegedy et al. 2015, "Going Deeper with Convolutions", figure 2. Each branch is a module, named by its keyword, that
    maps [N, H, W, C] to [N, H', W', C']; H' and W' are the same for all branches.

        >>> rngs = nnx.Rngs(0)
        >>> narrow = Conv(8, 2, 1, padding=0, dtype="float32", rngs=rngs)
        >>> tall = Conv(8, 3, (7, 1), padding=(3, 0), dtype="float32", rngs=rngs)
        >>> Branches(narrow=narrow, tall=tall)(jnp.ones((1, 9, 9, 8))).shape
        (1, 9, 9, 5)
    """

    def __init__(self, **branches: Callable[[jax.Array], jax.Array]):
        require(bool(branches), "branches", [], "one or more keyword arguments")
        for name, branch in branches.items():
            require(isinstance(branch, nnx.Module), f"branch {name!r}", type(branch).__name__, "a module")
            require(not hasattr(self, name), "branch name", name, "a name that nnx.Module does not use")
            setattr(self, name, branch)
        self.names = tuple(branches)

    def __call__(self, x: jax.Array) -> jax.Array:
        """Map [N, H, W, C] to [N, H', W', sum of C'].

        Raises:
            UserError: the branches return maps of different sizes.
        """
        outputs = {name: getattr(self, name)(x) for name in self.names}
        sizes = {name: f"{y.shape[1]}x{y.shape[2]}" for name, y in outputs.items()}
        if len(set(sizes.values())) > 1:
            listed = ", ".join(f"{name} {size}" for name, size in sizes.items())
            raise UserError(
                f"the branches return maps of {listed}; all must have the same size, so match their strides and padding"
            )
        return jnp.concatenate(list(outputs.values()), axis=-1)


class SeparableConv(nnx.Module):
    """A depthwise convolution, followed by a 1x1 convolution and an optional norm.

    Chollet 2017, "Xception: Deep Learning with Depthwise Separable Convolutions"; neither convolution has a bias.
    ``size``, ``stride`` and ``padding`` apply to the depthwise convolution.
    """

    def __init__(
        self, inputs: int, outputs: int, size: int | tuple[int, int] = 3, *, stride: int | tuple[int, int] = 1,
        padding: str | int | tuple[int, int] = "SAME", norm: BatchNorm | None = None,
        kernel_init: Initializer = GLOROT, dtype: str, rngs: nnx.Rngs,
    ):  # fmt: skip
        self.depthwise = Conv(
            inputs, inputs, size, stride=stride, padding=padding, groups=inputs, bias=False, kernel_init=kernel_init,
            dtype=dtype, rngs=rngs,
        )  # fmt: skip
        self.pointwise = Conv(
            inputs, outputs, 1, padding=0, bias=False, kernel_init=kernel_init, dtype=dtype, rngs=rngs
        )  # fmt: skip
        self.norm = norm

    def __call__(
        self, x: jax.Array, *, before: Callable[..., jax.Array] = jax.nn.identity,
        activation: Callable[..., jax.Array] = jax.nn.identity, residual: jax.Array | None = None,
    ) -> jax.Array:  # fmt: skip
        """Map [N, H, W, C] to activation(norm(pointwise(depthwise(before(x)))) + residual), [N, H', W', C']."""
        y = self.depthwise(before(x))
        return conv_norm_act(self.pointwise, self.norm, y, activation=activation, residual=residual)
