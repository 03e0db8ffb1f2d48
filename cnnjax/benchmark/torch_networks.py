"""Networks of the benchmark in PyTorch: torchvision's if it has them, otherwise small modules with the same layers.

Each takes normalized images [N, C, H, W] and returns logits. Does not import JAX.
"""

import contextlib
import re
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.nn import functional

from cnnjax.benchmark.work import Job
from cnnjax.errors import UserError


def make(job: Job) -> Any:
    """Return the network; raise UserError if PyTorch has no equivalent."""
    if job.model in SMALL:
        return SMALL[job.model](job)
    if match := re.fullmatch(r"(resnet|plain)(\d+)_cifar", job.model):
        return CifarResNet(int(match[2]), match[1] == "resnet", job.num_classes)
    try:
        import_torchvision()
        from torchvision import models
    except ImportError:
        raise UserError("torchvision is not installed; install it with pip install -e .[bench]") from None
    if job.model not in models.list_models():
        raise UserError(f"the PyTorch peer does not support {job.model}")
    options = {"aux_logits": False, "init_weights": False} if job.model == "googlenet" else {}
    return models.get_model(job.model, weights=None, num_classes=job.num_classes, **options)


def import_torchvision() -> None:
    """Import torchvision; if its compiled operators do not load with this torch, declare the two that it needs."""
    if not (match := find_spec("torchvision")) or not match.origin:
        raise ImportError("torchvision is not installed")
    for operators in Path(match.origin).parent.glob("_C*"):
        with contextlib.suppress(OSError):
            torch.ops.load_library(operators)
    if not hasattr(torch.ops.torchvision, "nms"):
        library = torch.library.Library("torchvision", "DEF")
        for name in ("nms", "qnms"):
            library.define(f"{name}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
        KEPT.append(library)
    import torchvision  # noqa: F401


KEPT: list[Any] = []
"""Operator libraries, kept alive because their definitions are removed with them."""


def lenet(job: Job) -> Any:
    size, _, channels = job.image_shape
    side = (size // 2 - 4) // 2
    return nn.Sequential(
        nn.Conv2d(channels, 6, 5, padding=2), nn.Sigmoid(), nn.AvgPool2d(2),
        nn.Conv2d(6, 16, 5), nn.Sigmoid(), nn.AvgPool2d(2), nn.Flatten(),
        nn.Linear(16 * side * side, 120), nn.Sigmoid(), nn.Linear(120, 84), nn.Sigmoid(),
        nn.Linear(84, job.num_classes),
    )  # fmt: skip


def mlp(job: Job) -> Any:
    height, width, channels = job.image_shape
    return nn.Sequential(
        nn.Flatten(), nn.Linear(height * width * channels, 300), nn.ReLU(), nn.Linear(300, 100), nn.ReLU(),
        nn.Linear(100, job.num_classes),
    )  # fmt: skip


class CifarResNet(nn.Module):
    """The network of He et al. 2015, section 4.2, with zero-padded shortcuts or without shortcuts."""

    def __init__(self, depth: int, shortcuts: bool, classes: int):
        super().__init__()
        widths, each = (16, 32, 64), (depth - 2) // 6
        blocks, inputs = [], widths[0]
        for stage, width in enumerate(widths):
            for number in range(each):
                blocks.append(CifarBlock(inputs, width, 2 if stage and not number else 1, shortcuts))
                inputs = width
        self.stem = convolution(3, widths[0], 3)
        self.blocks = nn.Sequential(*blocks)
        self.head = head(widths[-1], classes)

    def forward(self, x: Any) -> Any:
        return self.head(self.blocks(functional.relu(self.stem(x))))


class CifarBlock(nn.Module):
    """Two 3x3 convolutions and a shortcut, which is subsampled and zero-padded if the shape changes."""

    def __init__(self, inputs: int, outputs: int, stride: int, shortcut: bool):
        super().__init__()
        self.first, self.second = convolution(inputs, outputs, 3, stride), convolution(outputs, outputs, 3)
        self.shortcut, self.stride, self.missing = shortcut, stride, outputs - inputs

    def forward(self, x: Any) -> Any:
        y = self.second(functional.relu(self.first(x)))
        if not self.shortcut:
            return functional.relu(y)
        if self.missing or self.stride > 1:
            before = self.missing // 2
            kept = x[:, :, :: self.stride, :: self.stride]
            x = functional.pad(kept, (0, 0, 0, 0, before, self.missing - before))
        return functional.relu(y + x)


class ResNeXtBlock(nn.Module):
    """The block of the same name in `cnnjax.benchmark.blocks`."""

    def __init__(self, job: Job):
        super().__init__()
        channels = job.image_shape[2]
        inner = channels // 2
        self.first, self.second = convolution(channels, inner, 1), convolution(inner, inner, 3, groups=32)
        self.third, self.head = convolution(inner, channels, 1), head(channels, job.num_classes)

    def forward(self, x: Any) -> Any:
        y = functional.relu(self.second(functional.relu(self.first(x))))
        return self.head(functional.relu(self.third(y) + x))


class Residual(nn.Module):
    """The sum of two branches of one input."""

    def __init__(self, body: Any, shortcut: Any):
        super().__init__()
        self.body, self.shortcut = body, shortcut

    def forward(self, x: Any) -> Any:
        return self.body(x) + self.shortcut(x)


def separable_entry(job: Job) -> Any:
    """Return the block of the same name in `cnnjax.benchmark.blocks`."""
    channels = job.image_shape[2]
    outputs = 2 * channels
    return nn.Sequential(pooled_block(channels, outputs, outputs), head(outputs, job.num_classes))


def separable_middle(job: Job) -> Any:
    """Return the block of the same name in `cnnjax.benchmark.blocks`."""
    channels = job.image_shape[2]
    return nn.Sequential(middle_block(channels), head(channels, job.num_classes))


def xception(job: Job) -> Any:
    """Return the network of Chollet 2017, figure 5."""
    return nn.Sequential(
        convolution(job.image_shape[2], 32, 3, 2, padding=0), nn.ReLU(), convolution(32, 64, 3, padding=0), nn.ReLU(),
        pooled_block(64, 128, 128, activates_first=False), pooled_block(128, 256, 256), pooled_block(256, 728, 728),
        *(middle_block(728) for _ in range(8)),
        pooled_block(728, 728, 1024), *separable(1024, 1536)[1:], *separable(1536, 2048), nn.ReLU(),
        head(2048, job.num_classes),
    )  # fmt: skip


def pooled_block(inputs: int, inner: int, outputs: int, *, activates_first: bool = True) -> Any:
    """Return two separable convolutions and a pooling layer, with a 1x1 convolution as the shortcut."""
    first = separable(inputs, inner)
    body = nn.Sequential(
        first if activates_first else first[1:], separable(inner, outputs), nn.MaxPool2d(3, 2, padding=1)
    )  # fmt: skip
    return Residual(body, convolution(inputs, outputs, 1, 2))


def middle_block(channels: int) -> Any:
    """Return three separable convolutions with the identity as the shortcut."""
    return Residual(nn.Sequential(*(separable(channels, channels) for _ in range(3))), nn.Identity())


def convolution(
    inputs: int, outputs: int, size: int, stride: int = 1, groups: int = 1, padding: int | None = None
) -> Any:  # fmt: skip
    """Return a convolution without bias, and batch norm; by default, a kernel without stride keeps the size."""
    padding = size // 2 if padding is None else padding
    conv = nn.Conv2d(inputs, outputs, size, stride, padding, groups=groups, bias=False)
    return nn.Sequential(conv, nn.BatchNorm2d(outputs))


def separable(inputs: int, outputs: int) -> Any:
    """Return ReLU, a depthwise 3x3 convolution, a 1x1 convolution and batch norm; the residual is taken before ReLU."""
    depthwise = nn.Conv2d(inputs, inputs, 3, padding=1, groups=inputs, bias=False)
    return nn.Sequential(nn.ReLU(), depthwise, convolution(inputs, outputs, 1))


def head(inputs: int, classes: int) -> Any:
    return nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(inputs, classes))


SMALL: dict[str, Callable[[Job], Any]] = {
    "lenet": lenet, "mlp": mlp, "resnext_block": ResNeXtBlock, "separable_entry": separable_entry,
    "separable_middle": separable_middle, "xception": xception,
}  # fmt: skip
