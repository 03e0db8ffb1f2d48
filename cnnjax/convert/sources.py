"""What a publisher of weights has in common: the converter's table, and how images are prepared for its networks."""

from typing import Literal, NamedTuple

from cnnjax.convert.rules import Table


class Normalization(NamedTuple):
    """Mean and standard deviation by channel of values in [0, 1], in the order in which the network takes them."""

    mean: tuple[float, ...]
    std: tuple[float, ...]
    channel_order: Literal["rgb", "bgr"] = "rgb"


IMAGENET = Normalization((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
"""torchvision's and timm's."""
CAFFE = Normalization((103.939 / 255, 116.779 / 255, 123.68 / 255), (1 / 255,) * 3, "bgr")
"""Keras's mode "caffe": blue first, values up to 255, the mean subtracted."""
SYMMETRIC = Normalization((0.5,) * 3, (0.5,) * 3)
"""Keras's mode "tf": values in [-1, 1]."""


class Source(NamedTuple):
    """Where weights of one form of a family come from."""

    table: Table
    normalization: Normalization | None
    """None where each publication has its own, which the user gives."""
    writes: bool = False
    """Whether it takes a state dict, so that weights can be written for it."""
