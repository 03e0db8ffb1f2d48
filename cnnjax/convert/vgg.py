"""Names of the weights of `models/vgg.py` in the files of torchvision, timm and Keras."""

from cnnjax.convert.rules import Layout, Rule, Rules, Table, flattened, keras_layer, torch_conv, torch_dense, torch_norm
from cnnjax.convert.sources import CAFFE, CENTER_CROP, IMAGENET, LOAD_IMG, Source
from cnnjax.models.vgg import LAST_SIDE, VGG


def _torch_features(arch: VGG) -> Rules:
    """Return the rules of the convolutions, which torch numbers together with norms, activations and pools."""
    rules: list[Rule] = []
    position = 0
    for stage, depth in enumerate(arch.depths, 1):
        for number in range(depth):
            ours = f"stage{stage}/{number}"
            rules += torch_conv(f"features.{position}", f"{ours}/conv")
            if arch.batch_norm:
                rules += torch_norm(f"features.{position + 1}", f"{ours}/norm")
            position += 3 if arch.batch_norm else 2
        position += 1
    return tuple(rules)


def _torchvision(arch: VGG) -> Table:
    rules = (
        *_torch_features(arch),
        *torch_dense("classifier.0", "hidden/dense1", flattened(LAST_SIDE, LAST_SIDE, 8 * arch.width)),
        *torch_dense("classifier.3", "hidden/dense2"),
        *torch_dense("classifier.6", "head"),
    )
    return Table(rules, ignored=("*.num_batches_tracked",), head=("classifier.6.*",))


def _as_convolution(side: int, channels: int) -> Layout:
    """Return the layout of a dense kernel that timm stores as a convolution over the whole map."""
    size = side * side * channels
    return Layout(
        f"OIHW -> (HWI)O with {side}x{side}x{channels}",
        lambda x: x.transpose(2, 3, 1, 0).reshape(size, -1),
        lambda x: x.reshape(side, side, channels, -1).transpose(3, 2, 0, 1),
    )


def _timm(arch: VGG) -> Table:
    rules = (
        *_torch_features(arch),
        *torch_dense("pre_logits.fc1", "hidden/dense1", _as_convolution(LAST_SIDE, 8 * arch.width)),
        *torch_dense("pre_logits.fc2", "hidden/dense2", _as_convolution(1, 64 * arch.width)),
        *torch_dense("head.fc", "head"),
    )
    return Table(rules, ignored=("*.num_batches_tracked",), head=("head.fc.*",))


def _keras(arch: VGG) -> Table:
    convolutions = (
        rule
        for stage, depth in enumerate(arch.depths, 1)
        for number in range(depth)
        for rule in keras_layer(f"block{stage}_conv{number + 1}", f"stage{stage}/{number}/conv")
    )
    dense = (
        *keras_layer("fc1", "hidden/dense1"),
        *keras_layer("fc2", "hidden/dense2"),
        *keras_layer("predictions", "head"),
    )
    return Table((*convolutions, *dense), head=("predictions/*",))


def sources(arch: VGG) -> dict[str, Source]:
    """Return the publishers of weights for this form."""
    if arch.head != "dense":
        return {}
    publishers = {
        "torchvision": Source(_torchvision(arch), IMAGENET, CENTER_CROP, writes=True),
        "timm": Source(_timm(arch), IMAGENET, CENTER_CROP, writes=True),
    }
    return publishers if arch.batch_norm else {**publishers, "keras": Source(_keras(arch), CAFFE, LOAD_IMG)}
