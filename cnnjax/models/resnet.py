"""The ResNet family: ResNet, ResNeXt, wide ResNet, pre-activation ResNet, CIFAR ResNets, and plain networks.

Sources: He, Zhang, Ren, Sun 2015, "Deep Residual Learning for Image Recognition", table 1 (ImageNet) and section 4.2
(CIFAR); 2016, "Identity Mappings in Deep Residual Networks" (v2); Xie et al. 2017, "Aggregated Residual
Transformations" (ResNeXt), table 1; Zagoruyko and Komodakis 2016, "Wide Residual Networks".

    stage   ImageNet, size / channels of a bottleneck    CIFAR, size / channels
    stem    7x7 /2, pool 3x3 /2: 56                       3x3: 32 / 16
    stage1  56 / 256                                      32 / 16
    stage2  28 / 512                                      16 / 32
    stage3  14 / 1024                                      8 / 64
    stage4   7 / 2048                                      -

Plain networks are the same without shortcuts. Forms, which differ in more ways than the papers describe:
    v1.5  as in torchvision: stride on the 3x3 convolution (the paper: on the first 1x1), convolutions without bias,
          unbiased running variance.
    v1    as in Keras: stride on the first 1x1, convolutions with bias, epsilon 1.001e-5, biased running variance, zero
          padding before the stem's pooling.
    v2    as in Keras: norm and activation before each convolution, and once more before the head; the stem has
          neither; zero padding as in v1; each stage except the last halves the size in its *last* block.
Expected (parameters, multiply-adds at 224 px): resnet18 11,689,512, 1.81 G; resnet50 25,557,032, 4.09 G;
resnet50_v1 25,583,592, 3.86 G; resnet50_v2 25,568,360, 3.48 G; resnet20_cifar 269,722, 41 M at 32 px.
"""

from collections.abc import Callable, Sequence
from typing import Annotated, Literal, Self

import jax
import jax.numpy as jnp
from flax import nnx
from pydantic import Field, ValidationInfo, field_validator, model_validator

from cnnjax.models.heads import HeadedArch, apply_head, make_head
from cnnjax.models.layers import (
    HE,
    BatchNorm,
    Conv,
    Features,
    Network,
    Outputs,
    Size,
    Stage,
    StochasticDepth,
    activation,
    conv_norm_act,
    global_average,
    max_pool,
    run_blocks,
)
from cnnjax.schema import Number

MOST_STAGES, MOST_BLOCKS = 10, 700
"""Upper bounds for definitions from untrusted files; the deepest network of the paper has 600 blocks in 3 stages."""


class ResNet(HeadedArch):
    """A residual network: a stem, stages of residual blocks, global average pooling, a dense head."""

    family = "resnet"

    depths: tuple[int, ...] = (3, 4, 6, 3)
    """Number of blocks in each stage."""
    block: Literal["basic", "bottleneck"] = "bottleneck"
    """basic: two 3x3 convolutions; bottleneck: 1x1, 3x3, 1x1 with four times as many output channels."""
    form: Literal["v1.5", "v1", "v2"] = "v1.5"
    """v1.5: as in torchvision; v1 and v2: as in Keras."""
    stem: Literal["imagenet", "cifar"] = "imagenet"
    """imagenet: 7x7 with stride 2, then max pooling; cifar: 3x3."""
    shortcut: Literal["projection", "padding", "none"] = "projection"
    """Shortcut where shapes differ: 1x1 convolution (option B in the paper) or zero padding (A); none: no shortcuts."""
    width: Size = 64
    """Channels of the first stage, before the bottleneck expansion by four."""
    groups: Size = 1
    """Groups of a bottleneck's 3x3 convolution (cardinality in ResNeXt)."""
    group_width: Size = 64
    """Channels per group in the first stage; the paper's bottleneck has one group of 64."""
    zero_init_residual: bool = False
    """Start each block as its shortcut, with scale 0 in its last norm (Goyal et al. 2017, section 5.1); blocks whose
    shortcut pads channels are left out."""
    stochastic_depth: Annotated[Number, Field(ge=0, lt=1)] = 0.0
    """Stochastic depth: probability of skipping the last block in training, in [0, 1); smaller for earlier blocks."""
    momentum: Annotated[Number, Field(ge=0, le=1)] = 0.9
    """Momentum of the running statistics, as in Flax; torch's momentum is 1 minus this value."""
    epsilon: Annotated[Number, Field(gt=0)] = 1e-5
    """Constant added to the variance in norms."""
    unbiased_variance: bool = True
    """Track the unbiased variance in the running statistics, as torch does."""

    @field_validator("depths")
    @classmethod
    def _are_within_bounds(cls, depths: tuple[int, ...]) -> tuple[int, ...]:
        if not (0 < len(depths) <= MOST_STAGES and min(depths) >= 1 and sum(depths) <= MOST_BLOCKS):
            raise ValueError(f"1 to {MOST_STAGES} numbers, each 1 or more, {MOST_BLOCKS:,} blocks at most")
        return depths

    @field_validator("groups")
    @classmethod
    def _need_bottlenecks(cls, groups: int, info: ValidationInfo) -> int:
        if groups > 1 and info.data.get("block") == "basic":
            raise ValueError("1 with basic blocks")
        return groups

    @model_validator(mode="after")
    def _v2_has_bottlenecks(self) -> Self:
        if self.form == "v2" and (self.zero_init_residual or self.block == "basic"):
            raise ValueError("model.form is 'v2'; it needs block 'bottleneck' and zero_init_residual False")
        return self

    @model_validator(mode="after")
    def _zero_init_has_shortcuts(self) -> Self:
        if self.shortcut == "none" and self.zero_init_residual:
            raise ValueError("model.zero_init_residual is True; it needs shortcut 'projection' or 'padding'")
        return self

    def starts_as_shortcut(self, inputs: int, outputs: int) -> bool:
        """Return whether the last norm of a block starts with scale 0.

        If zero padding adds channels, it does not: the new channels would be 0 for every image, here and in the rest of
        the stage, and would stay 0, because ReLU passes no gradient where its input is 0.
        """
        return self.zero_init_residual and (self.shortcut != "padding" or inputs == outputs)

    @property
    def expansion(self) -> int:
        return 4 if self.block == "bottleneck" else 1

    def inner_width(self, width: int) -> int:
        """Return the channels of the 3x3 convolution in a bottleneck with ``4 * width`` output channels."""
        return width * self.group_width // 64 * self.groups

    def halving_block(self, stage: int) -> int | None:
        """Return the index of the block that halves the size in a stage, or None."""
        if self.form == "v2":
            return self.depths[stage] - 1 if stage < len(self.depths) - 1 else None
        return 0 if stage > 0 else None

    def build(self, rngs: nnx.Rngs) -> "ResNetModule":
        return ResNetModule(self, rngs)


class ResNetModule(Network):
    """The layers of `ResNet`; stages: stem, stage1, stage2, ... as in the table above."""

    def __init__(self, arch: ResNet, rngs: nnx.Rngs):
        self.depth, self.preactivated = len(arch.depths), arch.form == "v2"
        self.activation = activation(arch.activation)
        self.stem = Stem(arch, rngs)
        block = BasicBlock if arch.block == "basic" else PreactBottleneck if self.preactivated else Bottleneck
        inputs, count = arch.width, 0
        for index, depth in enumerate(arch.depths):
            width, halving = arch.width * 2**index, arch.halving_block(index)
            blocks = []
            for number in range(depth):
                count += 1
                rate = arch.stochastic_depth * count / sum(arch.depths)
                stride = 2 if number == halving else 1
                blocks.append(block(arch, inputs, width, stride, first=number == 0, rate=rate, rngs=rngs))
                inputs = width * arch.expansion
            setattr(self, f"stage{index + 1}", nnx.List(blocks))
        if self.preactivated:
            self.norm = make_norm(arch, inputs, rngs)
        self.head = make_head(arch, inputs, rngs)

    def stages(self) -> Sequence[Stage]:
        names = [f"stage{number}" for number in range(1, self.depth + 1)]
        return Stage("stem", Stem.__call__, (self.stem,)), *(Stage(n, run_blocks, (getattr(self, n),)) for n in names)

    def classify(self, features: Features, rngs: nnx.Rngs | None = None) -> Outputs:
        x = features[f"stage{self.depth}"]
        if self.preactivated:
            x = self.activation(self.norm(x))
        embedding = global_average(x)
        return Outputs(apply_head(self.head, embedding, rngs))


class Stem(nnx.Module):
    """Map images to the input of the first stage: a quarter of the size (imagenet) or the same size (cifar)."""

    def __init__(self, arch: ResNet, rngs: nnx.Rngs):
        self.pools = arch.stem == "imagenet"
        self.pad_value = -jnp.inf if arch.form == "v1.5" else 0.0  # both give the same after ReLU
        self.activation = jax.nn.identity if arch.form == "v2" else activation(arch.activation)
        size, stride = (7, 2) if self.pools else (3, 1)
        self.conv = make_conv(arch, arch.channels, arch.width, size, rngs, stride, bias=arch.form != "v1.5")
        self.norm = None if arch.form == "v2" else make_norm(arch, arch.width, rngs)

    def __call__(self, x: jax.Array, rngs: nnx.Rngs | None = None) -> jax.Array:
        x = conv_norm_act(self.conv, self.norm, x, activation=self.activation)
        return max_pool(x, size=3, stride=2, padding=1, pad_value=self.pad_value) if self.pools else x


class BasicBlock(nnx.Module):
    """3x3, 3x3 with a shortcut (He et al. 2015, figure 5, left)."""

    def __init__(
        self, arch: ResNet, inputs: int, width: int, stride: int, *, first: bool, rate: float, rngs: nnx.Rngs
    ):  # fmt: skip
        bias = arch.form == "v1"
        self.activation = activation(arch.activation)
        self.conv1 = make_conv(arch, inputs, width, 3, rngs, stride, bias=bias)
        self.norm1 = make_norm(arch, width, rngs)
        self.conv2 = make_conv(arch, width, width, 3, rngs, bias=bias)
        self.norm2 = make_norm(arch, width, rngs, arch.starts_as_shortcut(inputs, width))
        self.shortcut = Shortcut(arch, inputs, width, stride, first, rngs)
        self.drop = StochasticDepth(rate)

    def __call__(self, x: jax.Array, rngs: nnx.Rngs | None = None) -> jax.Array:
        y = conv_norm_act(self.conv1, self.norm1, x, activation=self.activation)
        return add(self.conv2, self.norm2, y, self.shortcut(x), self.activation, self.drop, rngs)


class Bottleneck(nnx.Module):
    """1x1, 3x3, 1x1 with a shortcut (He et al. 2015, figure 5, right)."""

    def __init__(
        self, arch: ResNet, inputs: int, width: int, stride: int, *, first: bool, rate: float, rngs: nnx.Rngs
    ):  # fmt: skip
        outputs, inner, bias = 4 * width, arch.inner_width(width), arch.form == "v1"
        stride1, stride2 = (stride, 1) if arch.form == "v1" else (1, stride)
        self.activation = activation(arch.activation)
        self.conv1 = make_conv(arch, inputs, inner, 1, rngs, stride1, bias=bias)
        self.norm1 = make_norm(arch, inner, rngs)
        self.conv2 = make_conv(arch, inner, inner, 3, rngs, stride2, arch.groups, bias=bias)
        self.norm2 = make_norm(arch, inner, rngs)
        self.conv3 = make_conv(arch, inner, outputs, 1, rngs, bias=bias)
        self.norm3 = make_norm(arch, outputs, rngs, arch.starts_as_shortcut(inputs, outputs))
        self.shortcut = Shortcut(arch, inputs, outputs, stride, first, rngs)
        self.drop = StochasticDepth(rate)

    def __call__(self, x: jax.Array, rngs: nnx.Rngs | None = None) -> jax.Array:
        y = conv_norm_act(self.conv1, self.norm1, x, activation=self.activation)
        y = conv_norm_act(self.conv2, self.norm2, y, activation=self.activation)
        return add(self.conv3, self.norm3, y, self.shortcut(x), self.activation, self.drop, rngs)


class PreactBottleneck(nnx.Module):
    """Norm and activation before each of 1x1, 3x3, 1x1, and nothing after the sum (He et al. 2016, figure 1b)."""

    def __init__(
        self, arch: ResNet, inputs: int, width: int, stride: int, *, first: bool, rate: float, rngs: nnx.Rngs
    ):  # fmt: skip
        outputs, inner = 4 * width, arch.inner_width(width)
        self.activation = activation(arch.activation)
        self.conv1 = make_conv(arch, inputs, inner, 1, rngs)
        self.norm1 = make_norm(arch, inputs, rngs)
        self.conv2 = make_conv(arch, inner, inner, 3, rngs, stride, arch.groups)
        self.norm2 = make_norm(arch, inner, rngs)
        self.conv3 = make_conv(arch, inner, outputs, 1, rngs, bias=True)
        self.norm3 = make_norm(arch, inner, rngs)
        self.shortcut = Shortcut(arch, inputs, outputs, stride, first, rngs)
        self.drop = StochasticDepth(rate)

    def __call__(self, x: jax.Array, rngs: nnx.Rngs | None = None) -> jax.Array:
        activated = self.activation(self.norm1(x))
        y = conv_norm_act(self.conv1, self.norm2, activated, activation=self.activation)
        y = conv_norm_act(self.conv2, self.norm3, y, activation=self.activation)
        return add(self.conv3, None, y, self.shortcut(x, activated), jax.nn.identity, self.drop, rngs)


def add(
    conv: Conv, norm: BatchNorm | None, y: jax.Array, shortcut: jax.Array | None, activation: Callable[..., jax.Array],
    drop: StochasticDepth, rngs: nnx.Rngs | None,
) -> jax.Array:  # fmt: skip
    """Return activation(norm(conv(y)) + shortcut), the end of every block; ``drop`` randomly skips the first term."""
    if not drop.drops:
        return conv_norm_act(conv, norm, y, activation=activation, residual=shortcut)
    y = drop(conv_norm_act(conv, norm, y), rngs)
    return activation(y if shortcut is None else y + shortcut)


class Shortcut(nnx.Module):
    """The shortcut of a block: its input, mapped to the shape of the residual if the shapes differ."""

    def __init__(self, arch: ResNet, inputs: int, outputs: int, stride: int, first: bool, rngs: nnx.Rngs):
        changes = first and (inputs != outputs or stride != 1)
        self.kind = arch.shortcut if arch.shortcut == "none" or changes else "identity"
        self.stride, self.missing = stride, outputs - inputs
        projects = self.kind == "projection"
        self.conv = make_conv(arch, inputs, outputs, 1, rngs, stride, bias=arch.form != "v1.5") if projects else None
        self.norm = make_norm(arch, outputs, rngs) if projects and arch.form != "v2" else None

    def __call__(self, x: jax.Array, activated: jax.Array | None = None) -> jax.Array | None:
        """Map the block's input ``x``; in v2 the projection maps ``activated``, the input after norm and activation."""
        if self.kind == "none":
            return None
        if self.conv is not None:
            return conv_norm_act(self.conv, self.norm, x if activated is None else activated)
        kept = x[:, :: self.stride, :: self.stride]
        if self.kind == "padding":
            before = self.missing // 2
            kept = jnp.pad(kept, ((0, 0), (0, 0), (0, 0), (before, self.missing - before)))
        return kept


def make_conv(
    arch: ResNet, inputs: int, outputs: int, size: int, rngs: nnx.Rngs, stride: int = 1, groups: int = 1,
    bias: bool = False,
) -> Conv:  # fmt: skip
    return Conv(
        inputs, outputs, size, stride=stride, padding=size // 2, groups=groups, bias=bias, kernel_init=HE,
        dtype=arch.dtype, rngs=rngs,
    )  # fmt: skip


def make_norm(arch: ResNet, channels: int, rngs: nnx.Rngs, zero_scale: bool = False) -> BatchNorm:
    return BatchNorm(
        channels, momentum=arch.momentum, epsilon=arch.epsilon, unbiased_variance=arch.unbiased_variance,
        zero_scale=zero_scale, dtype=arch.dtype, rngs=rngs,
    )  # fmt: skip


def _keras(form: Literal["v1", "v2"], *depths: int) -> ResNet:
    return ResNet(depths=depths, form=form, momentum=0.99, epsilon=1.001e-5, unbiased_variance=False)


def _cifar(depth: int, shortcut: Literal["padding", "none"]) -> ResNet:
    """Return a network of section 4.2: 6 n + 2 layers in three stages, each with n blocks of two layers."""
    n = (depth - 2) // 6
    return ResNet(
        depths=(n, n, n), block="basic", stem="cifar", width=16, shortcut=shortcut, num_classes=10, input_size=32
    )


VARIANTS = {
    "resnet18": ResNet(depths=(2, 2, 2, 2), block="basic"),
    "resnet34": ResNet(depths=(3, 4, 6, 3), block="basic"),
    "resnet50": ResNet(depths=(3, 4, 6, 3)),
    "resnet101": ResNet(depths=(3, 4, 23, 3)),
    "resnet152": ResNet(depths=(3, 8, 36, 3)),
    "resnet50_v1": _keras("v1", 3, 4, 6, 3),
    "resnet101_v1": _keras("v1", 3, 4, 23, 3),
    "resnet152_v1": _keras("v1", 3, 8, 36, 3),
    "resnet50_v2": _keras("v2", 3, 4, 6, 3),
    "resnet101_v2": _keras("v2", 3, 4, 23, 3),
    "resnet152_v2": _keras("v2", 3, 8, 36, 3),
    "resnext50_32x4d": ResNet(depths=(3, 4, 6, 3), groups=32, group_width=4),
    "resnext101_32x8d": ResNet(depths=(3, 4, 23, 3), groups=32, group_width=8),
    "resnext101_64x4d": ResNet(depths=(3, 4, 23, 3), groups=64, group_width=4),
    "wide_resnet50_2": ResNet(depths=(3, 4, 6, 3), group_width=128),
    "wide_resnet101_2": ResNet(depths=(3, 4, 23, 3), group_width=128),
    "plain18": ResNet(depths=(2, 2, 2, 2), block="basic", shortcut="none"),
    "plain34": ResNet(depths=(3, 4, 6, 3), block="basic", shortcut="none"),
    **{f"resnet{depth}_cifar": _cifar(depth, "padding") for depth in (20, 32, 44, 56, 110)},
    **{f"plain{depth}_cifar": _cifar(depth, "none") for depth in (20, 32, 44, 56)},
}
