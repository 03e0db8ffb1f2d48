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


class Geometry(NamedTuple):
    """How a publisher resizes and crops an image to the network's input size."""

    resize: Literal["exact", "short"]
    crop_share: float = 1.0
    """Side of the crop as a share of the resized short side."""
    interpolation: Literal["nearest", "bilinear", "bicubic", "lanczos"] = "bilinear"

    def resize_size(self, input_size: int) -> int | None:
        """Return the length of the short side before the crop, rounded down as timm does; None for ``exact``."""
        return None if self.resize == "exact" else int(input_size / self.crop_share)


EXACT = Geometry("exact")
"""Keras's `load_img(target_size=...)`."""
CENTER_CROP = Geometry("short", 0.875)
"""torchvision's first weights and timm's default: the short side to 256, the center 224x224 of it."""


class Source(NamedTuple):
    """Where weights of one form of a family come from."""

    table: Table
    normalization: Normalization | None
    """None where each publication has its own, which the user gives."""
    geometry: Geometry = EXACT
    writes: bool = False
    """Whether it takes a state dict, so that weights can be written for it."""
