"""Names of the weights of `models/regnet.py` in the files of torchvision and timm."""

from cnnjax.convert.rules import Rules, Table, torch_conv, torch_conv_norm, torch_dense
from cnnjax.convert.sources import CENTER_CROP, IMAGENET, Source
from cnnjax.models.regnet import RegNet


def _torchvision_layer(theirs: str, ours: str) -> Rules:
    return torch_conv_norm(theirs, ours, conv="0", norm="1")


# s counts stages from 1, b blocks from 0, as torchvision does; timm counts blocks from 1.
_BLOCK, _OURS = "trunk_output.block{s}.block{s}-{b}", "stage{s}/{b}"
TORCHVISION = Table(
    (
        *_torchvision_layer("stem", "stem"),
        *_torchvision_layer(f"{_BLOCK}.f.a", f"{_OURS}/conv1"),
        *_torchvision_layer(f"{_BLOCK}.f.b", f"{_OURS}/conv2"),
        *_torchvision_layer(f"{_BLOCK}.f.c", f"{_OURS}/conv3"),
        *torch_conv(f"{_BLOCK}.f.se.fc{{i}}", f"{_OURS}/gate/fc{{i}}"),
        *_torchvision_layer(f"{_BLOCK}.proj", f"{_OURS}/shortcut"),
        *torch_dense("fc", "head"),
    ),
    ignored=("*.num_batches_tracked",),
    head=("fc.*",),
)
TIMM = Table(
    (
        *torch_conv_norm("stem", "stem"),
        *torch_conv_norm("s{s}.b{b+1}.conv{i}", f"{_OURS}/conv{{i}}"),
        *torch_conv("s{s}.b{b+1}.se.fc{i}", f"{_OURS}/gate/fc{{i}}"),
        *torch_conv_norm("s{s}.b{b+1}.downsample", f"{_OURS}/shortcut"),
        *torch_dense("head.fc", "head"),
    ),
    ignored=("*.num_batches_tracked",),
    head=("head.fc.*",),
)


def sources(arch: RegNet) -> dict[str, Source]:
    """Return the publishers of weights for this rounding; for most sizes, the roundings give different widths."""
    if arch.stem != "imagenet":
        return {}
    if arch.rounding == "pycls":
        return {"timm": Source(TIMM, IMAGENET, CENTER_CROP, writes=True)}
    return {"torchvision": Source(TORCHVISION, IMAGENET, CENTER_CROP, writes=True)}
