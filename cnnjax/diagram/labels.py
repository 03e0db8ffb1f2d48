"""The words and roles of layers in a diagram."""

from typing import Any

MERGES = {"add": "+", "add_any": "+", "mul": "×", "concatenate": "concatenate"}
"""Names of operations that join two values."""
ROLES = {
    "Conv": "conv", "SeparableConv": "conv", "PartialConv": "conv", "Dense": "dense", "RadialBasis": "dense",
    "Pool": "pool", "MaxPool": "pool", "AveragePool": "pool", "AdaptiveAveragePool": "pool", "Subsampling": "pool",
}  # fmt: skip
"""Roles by class of layer; a role is drawn in one color. All others are "other"."""

Shape = tuple[int, ...]


def role_of(kind: str) -> str:
    return ROLES.get(kind, "other")


def label_layer(kind: str, layer: Any, before: Shape, after: Shape) -> str:
    """Return the text for a layer; ``before`` and ``after`` are the shapes of its input and output [N, ...]."""
    channels = after[-1]
    match kind:
        case "Conv":
            groups = layer.feature_group_count
            name = "depthwise conv" if groups == before[-1] > 1 else "conv"
            grouped = f", {groups} groups" if 1 < groups < before[-1] else ""
            return f"{_size(layer.kernel_size)} {name}, {channels}{grouped}{_stride(layer.strides)}"
        case "SeparableConv":
            depthwise = layer.depthwise
            return f"{_size(depthwise.kernel_size)} separable conv, {channels}{_stride(depthwise.strides)}"
        case "PartialConv":
            return f"{_size(layer.kernel.shape[:2])} partial conv, {channels}"
        case "Dense":
            return f"dense, {channels}"
        case "RadialBasis":
            return f"radial basis, {channels}"
        case "Pool":
            return f"2×2 {'max' if layer.kind == 'max' else 'average'} pool /2"
        case "MaxPool" | "AveragePool":
            name = "max" if kind == "MaxPool" else "average"
            return f"{_size(layer.size)} {name} pool{_stride(layer.stride)}"
        case "AdaptiveAveragePool":
            return f"average pool to {_size(layer.size)}"
        case "Subsampling":
            return "2×2 subsampling /2"
        case "SqueezeExcite":
            return f"squeeze-excite, {layer.fc1.out_features}"
        case "LocalResponseNorm":
            return "response norm"
        case "Shortcut":
            return label_shortcut(before, after)
    return _words(kind)


def label_pool(averages: bool, before: Shape, after: Shape) -> str:
    """Return the text for pooling by a function; shapes are those of one image."""
    if averages:
        return "global average" if len(after) == 1 else "average pool"
    return f"max pool{_stride((_ratio(before[0], after[0]),) * 2)}"


def label_shortcut(before: Shape, after: Shape) -> str:
    """Return the text for a shortcut without parameters."""
    padded = f"zero pad to {after[-1]}" if after[-1] != before[-1] else "subsample"
    return padded + _stride((_ratio(before[1], after[1]),) * 2)


def shortened(label: str) -> str:
    """Return a label for a narrow column: ``3×3, 64`` for a convolution, ``3×3 max`` for max pooling."""
    return label.replace(" conv", "").replace(" pool", "")


def _ratio(before: int, after: int) -> int:
    return -(-before // after)


def _size(size: Shape) -> str:
    return "×".join(map(str, size))


def _stride(strides: Shape) -> str:
    largest = max(strides)
    return f" /{largest}" if largest > 1 else ""


def _words(kind: str) -> str:
    """Return the name of a class as words: ``LocalResponseNorm`` as ``local response norm``."""
    return "".join(f" {letter.lower()}" if letter.isupper() else letter for letter in kind).strip()
