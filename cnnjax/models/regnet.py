"""RegNet: networks whose block widths follow a quantized linear rule.

Source: Radosavovic, Kosaraju, Girshick, He and Dollár 2020, "Designing Network Design Spaces", section 3.3 (the rule),
figure 4 (the X block), section 5.2 (Y: with squeeze-and-excitation), and its tables of models.

The rule: block j of ``depth`` has the width w_0 + w_a * j, rounded to the nearest w_0 * w_m^s with an integer s and
then to a multiple of 8. Consecutive blocks of equal width form a stage; the first block of each halves the size.
Finally, each stage's width is rounded to a multiple of the group width, in one of two ways:
    torchvision  half up, and never down by more than a tenth
    pycls        half to even, as in the paper's code and timm

    stem       3x3 /2, 32 channels                                   112 pixels
    stage s    blocks of 1x1, 3x3 /2 grouped, [gate], 1x1, shortcut  56, 28, 14, 7 pixels

The gate of a Y block has ``se_ratio`` times the block's *input* channels. `AnyNet` (section 3.2) has the same blocks
with depth, width, bottleneck ratio and group width chosen per stage; the bottleneck ratio divides the width of the 3x3
convolution. In a RegNet it is 1, which the paper finds best.
Deviations: none.
Expected at 224 px: regnet_x_400mf 5,495,976 parameters, 0.414 G multiply-adds; regnet_y_8gf 39,381,472, 8.473 G.
"""

import math
from collections.abc import Sequence
from typing import Annotated, Literal, NamedTuple, Self

import jax
import numpy as np
from flax import nnx
from pydantic import Field, model_validator

from cnnjax.models.blocks import SqueezeExcite
from cnnjax.models.heads import HeadedArch, apply_head, make_head
from cnnjax.models.layers import (
    HE,
    LARGEST_SIZE,
    BatchNorm,
    Conv,
    ConvNormAct,
    Features,
    Network,
    Outputs,
    Size,
    Stage,
    StochasticDepth,
    activation,
    conv_norm_act,
    global_average,
    run_blocks,
)
from cnnjax.schema import Number

QUANTUM = 8
"""Divisor of the widths before they are rounded to the group width."""
MOST_STAGES, MOST_BLOCKS = 8, 200
"""Upper bounds for definitions from untrusted files."""


class StagePlan(NamedTuple):
    """Depth, width, group width and bottleneck ratio of one stage."""

    depth: int
    width: int
    group_width: int
    bottleneck: int = 1


class StagedNet(HeadedArch):
    """A stem, stages of blocks, global average pooling and a dense head; `plan` returns the stages."""

    se_ratio: Annotated[Number, Field(ge=0, le=1)] = 0.0
    """Width of the squeeze-and-excitation gate as a share of the block's input channels; 0 omits the gates."""
    stem: Literal["imagenet", "cifar"] = "imagenet"
    """imagenet: stride 2; cifar: stride 1, for small images."""
    stem_width: Size = 32
    """Channels of the stem."""
    stochastic_depth: Annotated[Number, Field(ge=0, lt=1)] = 0.0
    """Stochastic depth: probability of skipping the last block in training, in [0, 1); smaller for earlier blocks."""
    momentum: Annotated[Number, Field(ge=0, le=1)] = 0.9
    """Momentum of the running statistics, as in Flax; torch's momentum is 1 minus this value."""
    epsilon: Annotated[Number, Field(gt=0)] = 1e-5
    """Constant added to the variance in norms."""

    def plan(self) -> tuple[StagePlan, ...]:
        """Return the stages."""
        raise NotImplementedError(f"{type(self).__name__} must implement plan")

    def build(self, rngs: nnx.Rngs) -> "StagedNetModule":
        return StagedNetModule(self, rngs)


class AnyNet(StagedNet):
    """A network of the AnyNet design space: every stage has its own depth, width, bottleneck ratio and group width."""

    family = "anynet"

    depths: Annotated[
        tuple[Annotated[int, Field(ge=1, le=MOST_BLOCKS)], ...], Field(min_length=1, max_length=MOST_STAGES)
    ] = (1, 2, 7, 12)
    """Number of blocks of each stage."""
    widths: tuple[Size, ...] = (32, 64, 160, 400)
    """Channels of each stage."""
    bottlenecks: tuple[Size, ...] = (1, 1, 1, 1)
    """Width of each stage divided by the width of its 3x3 convolutions."""
    group_widths: tuple[Size, ...] = (16, 16, 16, 16)
    """Channels per group of the 3x3 convolutions of each stage."""

    @model_validator(mode="after")
    def _stages_fit(self) -> Self:
        lengths = {len(values) for values in (self.depths, self.widths, self.bottlenecks, self.group_widths)}
        if len(lengths) > 1:
            raise ValueError(
                "model.depths, widths, bottlenecks and group_widths differ in length; give one value per stage"
            )
        for number, stage in enumerate(self.plan(), 1):
            if stage.width % (stage.bottleneck * stage.group_width):
                raise ValueError(
                    f"stage {number} has width {stage.width}, bottleneck ratio {stage.bottleneck} and group width "
                    f"{stage.group_width}; the width must be a multiple of the product of the other two"
                )
        return self

    def plan(self) -> tuple[StagePlan, ...]:
        stages = zip(self.depths, self.widths, self.group_widths, self.bottlenecks, strict=False)
        return tuple(StagePlan(*stage) for stage in stages)


class RegNet(StagedNet):
    """A RegNet: stages from the quantized linear rule."""

    family = "regnet"

    depth: Annotated[int, Field(ge=1, le=MOST_BLOCKS)] = 22
    """Number of blocks."""
    w_0: Annotated[int, Field(ge=8, le=LARGEST_SIZE)] = 24
    """Width of the first block before quantization."""
    w_a: Annotated[Number, Field(ge=0, le=LARGEST_SIZE)] = 24.48
    """Growth of the width per block before quantization."""
    w_m: Annotated[Number, Field(gt=1, le=LARGEST_SIZE)] = 2.54
    """Factor between the widths of neighboring stages."""
    group_width: Size = 16
    """Channels per group of the 3x3 convolutions; a narrower stage has one group."""
    rounding: Literal["torchvision", "pycls"] = "torchvision"
    """How a stage's width is rounded to a multiple of the group width."""

    @model_validator(mode="after")
    def _stages_are_within_bounds(self) -> Self:
        plan = self.plan()
        if len(plan) > MOST_STAGES or max(stage.width for stage in plan) > LARGEST_SIZE:
            raise ValueError(
                f"the rule gives {len(plan)} stages of up to {max(stage.width for stage in plan):,} channels; at most "
                f"{MOST_STAGES} stages of {LARGEST_SIZE:,} are allowed, so lower model.w_a or raise model.w_m"
            )
        return self

    def plan(self) -> tuple[StagePlan, ...]:
        """Return the stages that the rule gives."""
        widths = quantized_widths(self.depth, self.w_0, self.w_a, self.w_m)
        stages = []
        for width in dict.fromkeys(widths):  # in order of appearance, which is ascending
            group_width = min(self.group_width, width)
            fit = half_up if self.rounding == "torchvision" else nearest
            stages.append(StagePlan(widths.count(width), fit(width, group_width), group_width))
        return tuple(stages)


def quantized_widths(depth: int, w_0: int, w_a: float, w_m: float) -> list[int]:
    """Return the width of each block: equations 2 to 4 of the paper."""
    linear = w_0 + w_a * np.arange(depth)
    powers = np.round(np.log(linear / w_0) / math.log(w_m))
    return [int(width) for width in np.round(w_0 * np.power(w_m, powers) / QUANTUM) * QUANTUM]


def half_up(width: int, multiple: int) -> int:
    """Round to the nearest multiple, half up; if the result is below 0.9 times ``width``, to the next one."""
    rounded = max(multiple, int(width + multiple / 2) // multiple * multiple)
    return rounded + multiple if rounded < 0.9 * width else rounded


def nearest(width: int, multiple: int) -> int:
    """Round to the nearest multiple, half to even."""
    return max(1, round(width / multiple)) * multiple


class StagedNetModule(Network):
    """The layers of `RegNet` and `AnyNet`; stages: stem, stage1, stage2, ... as in the table above."""

    def __init__(self, arch: StagedNet, rngs: nnx.Rngs):
        plan = arch.plan()
        self.depth, blocks_in_all = len(plan), sum(stage.depth for stage in plan)
        stride = 2 if arch.stem == "imagenet" else 1
        self.stem = layer(arch, arch.channels, arch.stem_width, 3, rngs, stride=stride)
        inputs, count = arch.stem_width, 0
        for number, stage in enumerate(plan, 1):
            blocks = []
            for index in range(stage.depth):
                count += 1
                rate = arch.stochastic_depth * count / blocks_in_all
                blocks.append(Block(arch, inputs, stage, 2 if index == 0 else 1, rate, rngs))
                inputs = stage.width
            setattr(self, f"stage{number}", nnx.List(blocks))
        self.head = make_head(arch, inputs, rngs)

    def stages(self) -> Sequence[Stage]:
        names = [f"stage{number}" for number in range(1, self.depth + 1)]
        return Stage("stem", run_stem, (self.stem,)), *(Stage(n, run_blocks, (getattr(self, n),)) for n in names)

    def classify(self, features: Features, rngs: nnx.Rngs | None = None) -> Outputs:
        embedding = global_average(features[f"stage{self.depth}"])
        return Outputs(apply_head(self.head, embedding, rngs))


def run_stem(stem: ConvNormAct, x: jax.Array, rngs: nnx.Rngs | None) -> jax.Array:
    return stem(x)


class Block(nnx.Module):
    """1x1, grouped 3x3, an optional gate, 1x1, with a shortcut (figure 4)."""

    def __init__(self, arch: StagedNet, inputs: int, stage: StagePlan, stride: int, rate: float, rngs: nnx.Rngs):
        width, inner = stage.width, stage.width // stage.bottleneck
        self.activation = activation(arch.activation)
        self.conv1 = layer(arch, inputs, inner, 1, rngs)
        self.conv2 = layer(arch, inner, inner, 3, rngs, stride=stride, groups=inner // stage.group_width)
        self.gate = make_gate(arch, inputs, inner, rngs) if arch.se_ratio else None
        self.conv3 = layer(arch, inner, width, 1, rngs, activates=False)
        changes = inputs != width or stride != 1
        self.shortcut = layer(arch, inputs, width, 1, rngs, stride=stride, activates=False) if changes else None
        self.drop = StochasticDepth(rate)

    def __call__(self, x: jax.Array, rngs: nnx.Rngs | None = None) -> jax.Array:
        shortcut = x if self.shortcut is None else self.shortcut(x)
        y = self.conv2(self.conv1(x))
        y = y if self.gate is None else self.gate(y)
        if self.drop.drops:
            return self.activation(self.drop(self.conv3(y), rngs) + shortcut)
        return conv_norm_act(self.conv3.conv, self.conv3.norm, y, activation=self.activation, residual=shortcut)


def make_gate(arch: StagedNet, inputs: int, inner: int, rngs: nnx.Rngs) -> SqueezeExcite:
    """Return the gate on the 3x3 convolution; its width depends on the block's input channels."""
    reduced = max(1, round(arch.se_ratio * inputs))
    return SqueezeExcite(inner, reduced, activation=activation(arch.activation), dtype=arch.dtype, rngs=rngs)


def layer(
    arch: StagedNet, inputs: int, outputs: int, size: int, rngs: nnx.Rngs, *, stride: int = 1, groups: int = 1,
    activates: bool = True,
) -> ConvNormAct:  # fmt: skip
    """Return a convolution without bias, its norm and, unless it ends a branch, its activation."""
    conv = Conv(
        inputs, outputs, size, stride=stride, padding=size // 2, groups=groups, bias=False, kernel_init=HE,
        dtype=arch.dtype, rngs=rngs,
    )  # fmt: skip
    norm = BatchNorm(
        outputs, momentum=arch.momentum, epsilon=arch.epsilon, unbiased_variance=True, dtype=arch.dtype, rngs=rngs
    )
    return ConvNormAct(conv, norm, activation(arch.activation) if activates else jax.nn.identity)


X = {  # depth, w_0, w_a, w_m, group width
    "400mf": (22, 24, 24.48, 2.54, 16),
    "800mf": (16, 56, 35.73, 2.28, 16),
    "1_6gf": (18, 80, 34.01, 2.25, 24),
    "3_2gf": (25, 88, 26.31, 2.25, 48),
    "8gf": (23, 80, 49.56, 2.88, 120),
    "16gf": (22, 216, 55.59, 2.1, 128),
    "32gf": (23, 320, 69.86, 2.0, 168),
}
Y = {
    "400mf": (16, 48, 27.89, 2.09, 8),
    "800mf": (14, 56, 38.84, 2.4, 16),
    "1_6gf": (27, 48, 20.71, 2.65, 24),
    "3_2gf": (21, 80, 42.63, 2.66, 24),
    "8gf": (17, 192, 76.82, 2.19, 56),
    "16gf": (18, 200, 106.23, 2.48, 112),
    "32gf": (20, 232, 115.89, 2.53, 232),
    "128gf": (27, 456, 160.83, 2.52, 264),
}


def _variant(row: tuple[int, int, float, float, int], se_ratio: float) -> RegNet:
    depth, w_0, w_a, w_m, group_width = row
    return RegNet(depth=depth, w_0=w_0, w_a=w_a, w_m=w_m, group_width=group_width, se_ratio=se_ratio)


VARIANTS = {
    **{f"regnet_x_{size}": _variant(row, 0.0) for size, row in X.items()},
    **{f"regnet_y_{size}": _variant(row, 0.25) for size, row in Y.items()},
    "regnet_x_400mf_pycls": _variant(X["400mf"], 0.0).replace(rounding="pycls"),
    "regnet_y_800mf_pycls": _variant(Y["800mf"], 0.25).replace(rounding="pycls"),
    "regnet_y_8gf_pycls": _variant(Y["8gf"], 0.25).replace(rounding="pycls"),
}
