"""Publishers of weights: the conversion table, and the preprocessing of images for their networks."""

from typing import Literal, NamedTuple

from cnnjax.convert.rules import Table

ChannelOrder = Literal["rgb", "bgr"]
Interpolation = Literal["nearest", "bilinear", "bicubic", "lanczos"]


class Normalization(NamedTuple):
    """Mean and standard deviation of each channel, for values in [0, 1], in the network's channel order."""

    mean: tuple[float, ...]
    std: tuple[float, ...]
    channel_order: ChannelOrder = "rgb"


IMAGENET = Normalization((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
"""As in torchvision and timm."""
CAFFE = Normalization((103.939 / 255, 116.779 / 255, 123.68 / 255), (1 / 255,) * 3, "bgr")
"""Keras's mode "caffe": blue first, values up to 255, the mean subtracted."""
SYMMETRIC = Normalization((0.5,) * 3, (0.5,) * 3)
"""Keras's mode "tf": values in [-1, 1]."""
NORMALIZATIONS = {"imagenet": IMAGENET, "caffe": CAFFE, "symmetric": SYMMETRIC}
"""By their names in the registry of published weights."""


class Geometry(NamedTuple):
    """How a publisher resizes and crops an image to the network's input size."""

    resize: Literal["exact", "short"]
    crop_share: float = 1.0
    """Side of the crop as a fraction of the resized short side."""
    interpolation: Interpolation = "bilinear"

    def resize_size(self, input_size: int) -> int | None:
        """Return the length of the short side before the crop, rounded down as in timm, or None for ``exact``."""
        return None if self.resize == "exact" else int(input_size / self.crop_share)


EXACT = Geometry("exact")
"""The input size, whatever the aspect ratio."""
LOAD_IMG = Geometry("exact", interpolation="nearest")
"""Keras's `load_img(target_size=...)`, whose default is the nearest pixel."""
CENTER_CROP = Geometry("short", 0.875)
"""torchvision's first weights and timm's default: resize the short side to 256, crop the center 224x224."""


class Source(NamedTuple):
    """A publisher of weights for one form of a family."""

    table: Table
    normalization: Normalization | None
    """None if it differs between publications; the user must give it."""
    geometry: Geometry = EXACT
    writes: bool = False
    """Whether weights can be written in this format, as a state dict."""
