"""Names of the weights of `models/inception_v3.py` in the files of torchvision and Keras.

Keras does not name its layers; it numbers them in the order in which torchvision defines them.
"""

from cnnjax.convert.rules import Rule, Table, keras_layer, keras_norm, torch_conv_norm, torch_dense
from cnnjax.convert.sources import LOAD_IMG, SYMMETRIC, Geometry, Source
from cnnjax.models.inception_v3 import InceptionV3


def _chain(theirs: str, ours: str, length: int) -> dict[str, str]:
    return {f"{theirs}_{number + 1}": f"{ours}/layers/{number}" for number in range(length)}


def _pair(theirs: str, ours: str) -> dict[str, str]:
    return {f"{theirs}a": f"{ours}/row", f"{theirs}b": f"{ours}/column"}


STEM = {
    "Conv2d_1a_3x3": "conv1", "Conv2d_2a_3x3": "conv2", "Conv2d_2b_3x3": "conv3", "Conv2d_3b_1x1": "conv4",
    "Conv2d_4a_3x3": "conv5",
}  # fmt: skip
BLOCK5 = {
    "branch1x1": "branch1",
    **_chain("branch5x5", "branch2", 2),
    **_chain("branch3x3dbl", "branch3", 3),
    "branch_pool": "branch4/layers/1",
}
REDUCTION1 = {"branch3x3": "branch1", **_chain("branch3x3dbl", "branch2", 3)}
BLOCK7 = {
    "branch1x1": "branch1",
    **_chain("branch7x7", "branch2", 3),
    **_chain("branch7x7dbl", "branch3", 5),
    "branch_pool": "branch4/layers/1",
}
REDUCTION2 = {**_chain("branch3x3", "branch1", 2), **_chain("branch7x7x3", "branch2", 4)}
WIDENED = {
    "branch1x1": "branch1",
    **_chain("branch3x3", "branch2", 1),
    **_pair("branch3x3_2", "branch2/layers/1"),
    **_chain("branch3x3dbl", "branch3", 2),
    **_pair("branch3x3dbl_3", "branch3/layers/2"),
    "branch_pool": "branch4/layers/1",
}
BLOCKS = {
    "stage1": dict.fromkeys(("Mixed_5b", "Mixed_5c", "Mixed_5d"), BLOCK5),
    "stage2": {"Mixed_6a": REDUCTION1, **dict.fromkeys(("Mixed_6b", "Mixed_6c", "Mixed_6d", "Mixed_6e"), BLOCK7)},
    "stage3": {"Mixed_7a": REDUCTION2, **dict.fromkeys(("Mixed_7b", "Mixed_7c"), WIDENED)},
}
CONVOLUTIONS = {theirs: f"stem/{ours}" for theirs, ours in STEM.items()} | {
    f"{block}.{theirs}": f"{stage}/{index}/{ours}"
    for stage, blocks in BLOCKS.items()
    for index, (block, layers) in enumerate(blocks.items())
    for theirs, ours in layers.items()
}
"""Our convolutions with norms by torchvision's names, in order."""


def _torch(arch: InceptionV3) -> Table:
    rules: list[Rule] = []
    for theirs, ours in CONVOLUTIONS.items():
        rules += torch_conv_norm(theirs, ours)
    for number in (0, 1):
        rules += torch_conv_norm(f"AuxLogits.conv{number}", f"aux/conv{number + 1}")
    rules += (*torch_dense("AuxLogits.fc", "aux/dense"), *torch_dense("fc", "head"))
    ignored = ("*.num_batches_tracked",) if arch.aux_heads else ("*.num_batches_tracked", "AuxLogits.*")
    return Table(tuple(rules), ignored, head=("fc.*", "AuxLogits.*"))


def _keras() -> Table:
    rules: list[Rule] = []
    for number, ours in enumerate(CONVOLUTIONS.values()):
        suffix = f"_{number}" if number else ""
        rules += keras_layer(f"conv2d{suffix}", f"{ours}/conv")
        rules += keras_norm(f"batch_normalization{suffix}", f"{ours}/norm")
    rules += keras_layer("predictions", "head")
    return Table(tuple(rules), head=("predictions/*",))


def sources(arch: InceptionV3) -> dict[str, Source]:
    """Return the publishers of weights for this form.

    With pretrained weights, torchvision's network maps ImageNet's mean and deviation to 0.5 and 0.5 before its first
    layer (``transform_input``), so its layers see values in [-1, 1].
    """
    if arch.stem != "imagenet":
        return {}
    if arch.form == "keras":
        return {} if arch.aux_heads else {"keras": Source(_keras(), SYMMETRIC, LOAD_IMG)}
    return {"torchvision": Source(_torch(arch), SYMMETRIC, Geometry("short", 0.874), writes=True)}
