"""Networks of the benchmark in Keras, written with its functional API from our definitions.

Strided convolutions and pools use Keras's "same" padding, bottom and right first, while ours pad all sides equally;
sizes, parameters and operations are the same. Set KERAS_BACKEND before this module is imported.
"""

from collections.abc import Callable
from typing import Any

import keras
from keras import layers, ops

from cnnjax.benchmark.blocks import network
from cnnjax.benchmark.work import Job
from cnnjax.errors import UserError
from cnnjax.models.lenet import LeNet
from cnnjax.models.mlp import MLP
from cnnjax.models.resnet import ResNet

KERAS_OWN = {
    f"resnet{depth}_{form}": f"ResNet{depth}{suffix}"
    for depth in (50, 101, 152)
    for form, suffix in (("v1", ""), ("v2", "V2"))
}
"""Names in keras.applications, by our names."""


def make(job: Job) -> Any:
    """Return the network from uint8 images to float32 logits; raise UserError if Keras has no equivalent."""
    arch = network(job.model, input_size=job.image_shape[0])
    images = keras.Input(job.image_shape, dtype="uint8")
    scale = [1 / (255 * std) for std in job.std]
    offset = [-mean / std for mean, std in zip(job.mean, job.std, strict=True)]
    x = layers.Rescaling(scale if len(scale) > 1 else scale[0], offset if len(offset) > 1 else offset[0])(images)
    if job.model in KERAS_OWN:
        options = {"weights": None, "classes": job.num_classes, "classifier_activation": None}
        x = getattr(keras.applications, KERAS_OWN[job.model])(input_shape=job.image_shape, **options)(x)
    elif job.model in BLOCKS:
        x = dense(layers.GlobalAveragePooling2D()(BLOCKS[job.model](x)), job)
    elif isinstance(arch, ResNet) and arch.form == "v1.5":
        x = dense(layers.GlobalAveragePooling2D()(resnet(x, arch)), job)
    elif isinstance(arch, LeNet):
        x = dense(lenet(x, arch), job)
    elif isinstance(arch, MLP):
        x = layers.Flatten()(x)
        for width in (300, 100):
            x = layers.Dense(width, activation=arch.activation)(x)
        x = dense(x, job)
    else:
        raise UserError(f"the Keras peer does not support {job.model}")
    return keras.Model(images, layers.Activation("linear", dtype="float32")(x))


def dense(x: Any, job: Job) -> Any:
    return layers.Dense(job.num_classes)(x)


def lenet(x: Any, arch: LeNet) -> Any:
    pooling = layers.AveragePooling2D if arch.pooling == "avg" else layers.MaxPooling2D
    x = pooling(2)(layers.Conv2D(6, 5, padding="same", activation=arch.activation)(x))
    x = layers.Flatten()(pooling(2)(layers.Conv2D(16, 5, activation=arch.activation)(x)))
    for width in (120, 84):
        x = layers.Dense(width, activation=arch.activation)(x)
    return x


def resnet(x: Any, arch: ResNet) -> Any:
    """Return the output of the last stage of a ResNet v1.5."""
    imagenet = arch.stem == "imagenet"
    x = relu(convolution(x, arch.width, 7 if imagenet else 3, 2 if imagenet else 1))
    if imagenet:
        x = layers.MaxPooling2D(3, 2, padding="same")(x)
    for stage, depth in enumerate(arch.depths):
        width = arch.width * 2**stage
        for number in range(depth):
            x = resnet_block(x, arch, width, 2 if number == arch.halving_block(stage) else 1)
    return x


def resnet_block(x: Any, arch: ResNet, width: int, stride: int) -> Any:
    outputs = width * arch.expansion
    if arch.block == "bottleneck":
        inner = arch.inner_width(width)
        y = relu(convolution(x, inner, 1))
        y = relu(convolution(y, inner, 3, stride, arch.groups))
        y = convolution(y, outputs, 1)
    else:
        y = convolution(relu(convolution(x, width, 3, stride)), width, 3)
    if arch.shortcut == "none":
        return relu(y)
    missing = outputs - x.shape[-1]
    if missing or stride > 1:
        if arch.shortcut == "projection":
            x = convolution(x, outputs, 1, stride)
        else:
            before = missing // 2
            x = ops.pad(x[:, ::stride, ::stride], ((0, 0), (0, 0), (0, 0), (before, missing - before)))
    return relu(layers.Add()([y, x]))


def resnext_block(x: Any) -> Any:
    channels = x.shape[-1]
    y = relu(convolution(x, channels // 2, 1))
    y = relu(convolution(y, channels // 2, 3, groups=32))
    return relu(layers.Add()([convolution(y, channels, 1), x]))


def separable_entry(x: Any) -> Any:
    outputs = 2 * x.shape[-1]
    y = layers.MaxPooling2D(3, 2, padding="same")(separable(separable(x, outputs), outputs))
    return layers.Add()([y, convolution(x, outputs, 1, 2)])


def separable_middle(x: Any) -> Any:
    y = x
    for _ in range(3):
        y = separable(y, x.shape[-1])
    return layers.Add()([y, x])


BLOCKS: dict[str, Callable[[Any], Any]] = {
    "resnext_block": resnext_block, "separable_entry": separable_entry, "separable_middle": separable_middle,
}  # fmt: skip


def separable(x: Any, outputs: int) -> Any:
    return norm(layers.SeparableConv2D(outputs, 3, padding="same", use_bias=False)(relu(x)))


def convolution(x: Any, outputs: int, size: int, stride: int = 1, groups: int = 1) -> Any:
    return norm(layers.Conv2D(outputs, size, stride, padding="same", groups=groups, use_bias=False)(x))


def norm(x: Any) -> Any:
    return layers.BatchNormalization(momentum=0.9, epsilon=1e-5)(x)


def relu(x: Any) -> Any:
    return layers.Activation("relu")(x)
