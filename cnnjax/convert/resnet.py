"""Names of the weights of `models/resnet.py` in the files of torchvision, timm, Keras and the CIFAR networks."""

from cnnjax.convert.rules import Table, keras_layer, keras_norm, torch_conv, torch_dense, torch_norm
from cnnjax.convert.sources import CAFFE, CENTER_CROP, IMAGENET, LOAD_IMG, SYMMETRIC, Source
from cnnjax.models.resnet import ResNet


# s counts stages from 1, b blocks from 0, i layers of a block from 1. The first matching rule applies.
def _torch(shortcut: str, head: str) -> Table:
    rules = (
        *torch_conv("conv1", "stem/conv"),
        *torch_norm("bn1", "stem/norm"),
        *torch_conv("layer{s}.{b}.conv{i}", "stage{s}/{b}/conv{i}"),
        *torch_norm("layer{s}.{b}.bn{i}", "stage{s}/{b}/norm{i}"),
        *torch_conv(f"layer{{s}}.{{b}}.{shortcut}.0", "stage{s}/{b}/shortcut/conv"),
        *torch_norm(f"layer{{s}}.{{b}}.{shortcut}.1", "stage{s}/{b}/shortcut/norm"),
        *torch_dense(head, "head"),
    )
    counters = ("*.num_batches_tracked",)  # number of batches that torch's norms have seen; unused
    return Table(rules, ignored=counters, head=(f"{head}.*",))


TORCHVISION = _torch("downsample", "fc")
"""torchvision's resnet*, resnext* and wide_resnet*; timm uses the same names."""

CIFAR = _torch("shortcut", "linear")
"""The published PyTorch networks of section 4.2 for CIFAR-10; shortcut option A has no parameters."""

KERAS_V1 = Table((
    *keras_layer("conv1_conv", "stem/conv"),
    *keras_norm("conv1_bn", "stem/norm"),
    *keras_layer("conv{s+1}_block{b+1}_{i}_conv", "stage{s}/{b}/conv{i}"),
    *keras_norm("conv{s+1}_block{b+1}_{i}_bn", "stage{s}/{b}/norm{i}"),
    *keras_layer("conv{s+1}_block{b+1}_0_conv", "stage{s}/{b}/shortcut/conv"),
    *keras_norm("conv{s+1}_block{b+1}_0_bn", "stage{s}/{b}/shortcut/norm"),
    *keras_layer("predictions", "head"),
), head=("predictions/*",))  # fmt: skip
"""keras.applications.resnet."""

KERAS_V2 = Table((
    *keras_layer("conv1_conv", "stem/conv"),
    *keras_norm("conv{s+1}_block{b+1}_preact_bn", "stage{s}/{b}/norm1"),
    *keras_norm("conv{s+1}_block{b+1}_{i-1}_bn", "stage{s}/{b}/norm{i}"),
    *keras_layer("conv{s+1}_block{b+1}_{i}_conv", "stage{s}/{b}/conv{i}"),
    *keras_layer("conv{s+1}_block{b+1}_0_conv", "stage{s}/{b}/shortcut/conv"),
    *keras_norm("post_bn", "norm"),
    *keras_layer("predictions", "head"),
), head=("predictions/*",))  # fmt: skip
"""keras.applications.resnet_v2: each norm precedes the convolution of the same number."""


def sources(arch: ResNet) -> dict[str, Source]:
    """Return the publishers of weights for this form; there are none for networks without shortcuts."""
    if arch.shortcut == "none" or (arch.shortcut == "padding" and arch.stem != "cifar"):
        return {}
    if arch.form == "v1":
        return {"keras": Source(KERAS_V1, CAFFE, LOAD_IMG)}
    if arch.form == "v2":
        return {"keras": Source(KERAS_V2, SYMMETRIC, LOAD_IMG)}
    if arch.stem == "cifar":
        return {"cifar": Source(CIFAR, None, writes=True)}
    torch = Source(TORCHVISION, IMAGENET, CENTER_CROP, writes=True)
    return {"torchvision": torch, "timm": torch}
