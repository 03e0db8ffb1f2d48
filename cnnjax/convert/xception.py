"""Names of the weights of `models/xception.py` in the files of timm and Keras."""

from cnnjax.convert.rules import (
    Rule,
    Rules,
    Table,
    keras_layer,
    keras_norm,
    keras_separable,
    torch_conv,
    torch_dense,
    torch_norm,
)
from cnnjax.convert.sources import LOAD_IMG, SYMMETRIC, Geometry, Source
from cnnjax.models.xception import Xception


def _torch_separable(theirs: str, norm: str, ours: str) -> Rules:
    return (
        *torch_conv(f"{theirs}.conv1", f"{ours}/depthwise"),
        *torch_conv(f"{theirs}.pointwise", f"{ours}/pointwise"),
        *torch_norm(norm, f"{ours}/norm"),
    )


def _timm_block(number: int, ours: str, layers: int, *, activates_first: bool = True) -> Rules:
    """Return the rules of a block, which in timm is a flat list of activations, separable convolutions and norms."""
    block, first = f"block{number}", 1 if activates_first else 0
    rules: list[Rule] = []
    for layer in range(layers):
        position = first + 3 * layer
        rules += _torch_separable(
            f"{block}.rep.{position}", f"{block}.rep.{position + 1}", f"{ours}/conv{layer + 1}"
        )  # fmt: skip
    if layers == 2:
        rules += torch_conv(f"{block}.skip", f"{ours}/shortcut")
        rules += torch_norm(f"{block}.skipbn", f"{ours}/shortcut_norm")
    return tuple(rules)


def _timm(middle_blocks: int) -> Table:
    rules = (
        *torch_conv("conv1", "stem/conv1"),
        *torch_norm("bn1", "stem/norm1"),
        *torch_conv("conv2", "stem/conv2"),
        *torch_norm("bn2", "stem/norm2"),
        *_timm_block(1, "stage1/0", 2, activates_first=False),
        *_timm_block(2, "stage2/0", 2),
        *_timm_block(3, "stage3/0", 2),
        *(rule for n in range(1, middle_blocks + 1) for rule in _timm_block(3 + n, f"stage3/{n}", 3)),
        *_timm_block(4 + middle_blocks, "stage4/0", 2),
        *_torch_separable("conv3", "bn3", "stage4/1/conv1"),
        *_torch_separable("conv4", "bn4", "stage4/1/conv2"),
        *torch_dense("fc", "head"),
    )
    return Table(rules, ignored=("*.num_batches_tracked",), head=("fc.*",))


def _keras_block(number: int, ours: str, layers: int) -> Rules:
    rules: list[Rule] = []
    for layer in range(1, layers + 1):
        rules += keras_separable(f"block{number}_sepconv{layer}", f"{ours}/conv{layer}")
        rules += keras_norm(f"block{number}_sepconv{layer}_bn", f"{ours}/conv{layer}/norm")
    return tuple(rules)


def _keras_shortcut(number: int, ours: str) -> Rules:
    """Return the rules of a shortcut, whose layers are unnamed in Keras and numbered in order."""
    suffix = f"_{number}" if number else ""
    return (
        *keras_layer(f"conv2d{suffix}", f"{ours}/shortcut"),
        *keras_norm(f"batch_normalization{suffix}", f"{ours}/shortcut_norm"),
    )


def _keras(middle_blocks: int) -> Table:
    pooled = ((2, "stage1/0"), (3, "stage2/0"), (4, "stage3/0"), (5 + middle_blocks, "stage4/0"))
    rules = (
        *keras_layer("block1_conv1", "stem/conv1"),
        *keras_norm("block1_conv1_bn", "stem/norm1"),
        *keras_layer("block1_conv2", "stem/conv2"),
        *keras_norm("block1_conv2_bn", "stem/norm2"),
        *(rule for number, ours in pooled for rule in _keras_block(number, ours, 2)),
        *(rule for number, (_, ours) in enumerate(pooled) for rule in _keras_shortcut(number, ours)),
        *(rule for n in range(1, middle_blocks + 1) for rule in _keras_block(4 + n, f"stage3/{n}", 3)),
        *_keras_block(6 + middle_blocks, "stage4/1", 2),
        *keras_layer("predictions", "head"),
    )
    return Table(rules, head=("predictions/*",))


def sources(arch: Xception) -> dict[str, Source]:
    """Return the publishers of weights for this form."""
    if arch.stem != "imagenet":
        return {}
    if arch.form == "timm":
        return {"timm": Source(_timm(arch.middle_blocks), SYMMETRIC, Geometry("short", 0.8975, "bicubic"), writes=True)}
    return {"keras": Source(_keras(arch.middle_blocks), SYMMETRIC, LOAD_IMG)}
