"""A small network for fast training on CIFAR-10: a whitening convolution, then three groups of two convolutions.

Sources: Jordan 2024, "94% on CIFAR-10 in 3.29 Seconds on a Single GPU", section 3 and appendix A (airbench94); the
whitening of patches is from Page 2019, "How to Train Your ResNet", part 8.

    stage   layers, at width 64                                     32x32x3 becomes
    whiten  2x2, 24, no padding, GELU                               31x31x24
    stage1  3x3, 64, pool 2x2, norm, GELU; 3x3, 64, norm, GELU      15x15x64
    stage2  the same with 256 channels                              7x7x256
    stage3  the same with 256 channels                              3x3x256
    head    global maximum, divided by 9, dense

The whitening kernel holds the eigenvectors of the second moments of 2x2 patches, each divided by the square root
of its eigenvalue, and their negatives. It is computed from training images before the first step (`data_init`); freeze
it with ``train.freeze=("whiten/kernel",)``. Each 3x3 convolution starts as the identity of its first channels, and
norms have no scale.
Deviations: GELU is jax.nn's tanh approximation; the head has a bias and Glorot's initial kernel; epsilon is 1e-5
instead of 1e-12, which float32 would lose.
Expected at 32x32x3 and 10 classes: 1,971,650 parameters, 118,147,360 multiply-adds.
"""

from collections.abc import Sequence
from typing import Annotated, Any, ClassVar

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from pydantic import Field

from cnnjax.models.heads import HeadedArch, apply_head, make_head
from cnnjax.models.layers import (
    Activation,
    BatchNorm,
    Conv,
    Features,
    Initializer,
    Network,
    Outputs,
    Pool,
    Size,
    Stage,
    activation,
)
from cnnjax.schema import Number

PATCH = 2
"""Height and width of the patches that are whitened."""
STEM, GROUPS = "whiten", ("stage1", "stage2", "stage3")
LOGIT_SCALE = 1 / 9
"""Factor applied to the embedding, so that training starts with small logits."""
EIGENVALUE_EPSILON = 5e-4
"""Constant added to the eigenvalues, so that directions without signal are not amplified."""
CHUNK = 500
"""Images whose patches are in memory at once."""
UNIFORM: Initializer = nnx.initializers.variance_scaling(1 / 3, "fan_in", "uniform")
"""Uniform between -1 / sqrt(fan_in) and 1 / sqrt(fan_in), torch's default."""


class SpeedNet(HeadedArch):
    """A whitening convolution and three groups of two convolutions."""

    family = "speed"
    init_images: ClassVar[int] = 5000

    num_classes: Annotated[int, Field(ge=0)] = 10
    """Number of classes; 0 omits the head, and the network returns its embedding."""
    input_size: Annotated[Size, Field(ge=PATCH**3 + PATCH - 1)] = 32
    activation: Activation = "gelu"
    width: Size = 64
    """Channels of the first group; the others have four times as many."""
    momentum: Annotated[Number, Field(ge=0, le=1)] = 0.6
    """Momentum of the running statistics, as in Flax; torch's momentum is 1 minus this value."""
    epsilon: Annotated[Number, Field(gt=0)] = 1e-5
    """Constant added to the variance in norms."""

    def build(self, rngs: nnx.Rngs) -> "SpeedNetModule":
        return SpeedNetModule(self, rngs)

    def data_init(self, params: dict[str, Any], images: np.ndarray) -> dict[str, Any]:
        """Return the parameters with the whitening kernel of these images."""
        kernel = params[STEM]["kernel"]
        whitening = jnp.asarray(whitening_kernel(images), kernel.dtype)
        return {**params, STEM: {**params[STEM], "kernel": whitening}}


class SpeedNetModule(Network):
    """The layers of `SpeedNet`; stages as in the table above."""

    def __init__(self, arch: SpeedNet, rngs: nnx.Rngs):
        self.activation = activation(arch.activation)
        inputs = 2 * PATCH**2 * arch.channels
        self.whiten = Conv(arch.channels, inputs, PATCH, padding="VALID", dtype=arch.dtype, rngs=rngs)
        for name, factor in zip(GROUPS, (1, 4, 4), strict=True):
            setattr(self, name, ConvGroup(arch, inputs, factor * arch.width, rngs))
            inputs = factor * arch.width
        self.head = make_head(arch, inputs, rngs)

    def stages(self) -> Sequence[Stage]:
        def whiten(conv: Conv, x: jax.Array, rngs: nnx.Rngs | None) -> jax.Array:
            return self.activation(conv(x))

        groups = (Stage(name, ConvGroup.__call__, (getattr(self, name),)) for name in GROUPS)
        return Stage(STEM, whiten, (self.whiten,)), *groups

    def classify(self, features: Features, rngs: nnx.Rngs | None = None) -> Outputs:
        x = features[GROUPS[-1]].max(axis=(1, 2))
        return Outputs(apply_head(self.head, x * jnp.asarray(LOGIT_SCALE, x.dtype), rngs))


class ConvGroup(nnx.Module):
    """3x3, pooling, norm, activation; 3x3, norm, activation (Jordan 2024, listing 4)."""

    def __init__(self, arch: SpeedNet, inputs: int, outputs: int, rngs: nnx.Rngs):
        self.activation = activation(arch.activation)
        self.pool = Pool("max")
        self.conv1, self.norm1 = make_conv(arch, inputs, outputs, rngs), make_norm(arch, outputs, rngs)
        self.conv2, self.norm2 = make_conv(arch, outputs, outputs, rngs), make_norm(arch, outputs, rngs)

    def __call__(self, x: jax.Array, rngs: nnx.Rngs | None = None) -> jax.Array:
        x = self.norm1(self.pool(self.conv1(x)), activation=self.activation)
        return self.norm2(self.conv2(x), activation=self.activation)


def make_conv(arch: SpeedNet, inputs: int, outputs: int, rngs: nnx.Rngs) -> Conv:
    return Conv(inputs, outputs, 3, padding=1, bias=False, kernel_init=dirac, dtype=arch.dtype, rngs=rngs)


def make_norm(arch: SpeedNet, channels: int, rngs: nnx.Rngs) -> BatchNorm:
    return BatchNorm(
        channels, momentum=arch.momentum, epsilon=arch.epsilon, unbiased_variance=True, scales=False, dtype=arch.dtype,
        rngs=rngs,
    )  # fmt: skip


def dirac(key: jax.Array, shape: Sequence[int], dtype: Any = jnp.float32, out_sharding: Any = None) -> jax.Array:
    """Return a kernel [H, W, C, C'] whose first min(C, C') output channels are the input channels; random others."""
    kernel = UNIFORM(key, shape, dtype)
    height, width, inputs, outputs = shape
    same = np.arange(min(inputs, outputs))
    identity = np.zeros((height, width, inputs, len(same)))
    identity[height // 2, width // 2, same, same] = 1
    return kernel.at[..., same].set(jnp.asarray(identity, dtype))


def whitening_kernel(images: np.ndarray) -> np.ndarray:
    """Return the kernel float64 [2, 2, C, 8 C] that whitens the patches of preprocessed images [N, H, W, C].

    The responses of its first half have second moment 1 and are uncorrelated on the images (apart from the epsilon);
    the second half is its negative. Eigenvectors are in decreasing order of eigenvalue, each with its largest entry
    positive.
    """
    channels = images.shape[-1]
    length, count = PATCH**2 * channels, 0
    moments = np.zeros((length, length))
    for first in range(0, len(images), CHUNK):
        windows = np.lib.stride_tricks.sliding_window_view(images[first : first + CHUNK], (PATCH, PATCH), axis=(1, 2))
        patches = windows.transpose(0, 1, 2, 4, 5, 3).reshape(-1, length).astype(np.float64)
        moments += patches.T @ patches
        count += len(patches)
    values, vectors = np.linalg.eigh(moments / count)
    values, vectors = values[::-1], vectors[:, ::-1]
    vectors = vectors * np.sign(vectors[np.abs(vectors).argmax(axis=0), np.arange(length)])
    scaled = (vectors / np.sqrt(values + EIGENVALUE_EPSILON)).reshape(PATCH, PATCH, channels, length)
    return np.concatenate([scaled, -scaled], axis=-1)


VARIANTS = {"airbench94": SpeedNet()}
