"""Networks to compare: our variant, its publisher, the format of its file, and the sizes of the images."""

from typing import NamedTuple

from keras_peer import KerasPeer, keras
from peers import TorchPeer

from cnnjax import create
from cnnjax.models.layers import Arch

SIZES = ((64, 96), (75, 75))
"""Image sizes, one not square, one odd."""
XCEPTION_SIZES = ((80, 97), (75, 75))
"""The same for Xception, which takes images of at least 71 pixels."""
INCEPTION_SIZES = ((147, 171), (75, 75))
"""The same for Inception v3; the first is large enough for norms over more than one position in its last stage."""
INCEPTION_SIZE = ((299, 299),)
"""The smallest size for which Inception v3's auxiliary head has a whole window."""
IMAGENET_SIZE = ((224, 224),)
"""The only size of networks that flatten their last map without pooling it."""

RESNETS = (
    "resnet18", "resnet34", "resnet50", "resnet101", "resnet152", "resnext50_32x4d", "resnext101_32x8d",
    "resnext101_64x4d", "wide_resnet50_2", "wide_resnet101_2",
)  # fmt: skip
VGGS = tuple(f"vgg{depth}{norm}" for norm in ("", "_bn") for depth in (11, 13, 16, 19))
REGNETS = (
    *(f"regnet_x_{size}" for size in ("400mf", "800mf", "1_6gf", "3_2gf", "8gf", "16gf", "32gf")),
    *(f"regnet_y_{size}" for size in ("400mf", "800mf", "1_6gf", "3_2gf", "8gf", "16gf", "32gf")),
)
TIMM = {
    "regnet_x_400mf_pycls": "regnetx_004", "regnet_y_800mf_pycls": "regnety_008", "regnet_y_8gf_pycls": "regnety_080",
}  # fmt: skip
"""timm's names of networks that have another name there."""
KERAS = {
    "resnet50_v1": "ResNet50", "resnet101_v1": "ResNet101", "resnet152_v1": "ResNet152",
    "resnet50_v2": "ResNet50V2", "resnet101_v2": "ResNet101V2", "resnet152_v2": "ResNet152V2",
    "vgg16": "VGG16", "vgg19": "VGG19", "inception_v3_keras": "InceptionV3", "xception": "Xception",
}  # fmt: skip
"""Keras's names of our variants."""
WITH_AUX_HEADS = ("googlenet", "inception_v3")
COUNTED = "regnet_y_128gf"
"""torchvision's largest network; only its parameters are counted."""


class Case(NamedTuple):
    """One row of docs/parity.md."""

    variant: str
    source: str
    kind: str
    sizes: tuple[tuple[int, int], ...] = SIZES
    aux_heads: bool = False
    """Whether a network of `WITH_AUX_HEADS` has its auxiliary heads."""

    @property
    def name(self) -> str:
        """The variant, with its auxiliary heads if it has them."""
        return f"{self.variant}, aux_heads" if self.aux_heads else self.variant

    @property
    def arch(self) -> Arch:
        """The definition of our network."""
        return create(self.variant, **({"aux_heads": self.aux_heads} if self.variant in WITH_AUX_HEADS else {}))

    def peer(self) -> TorchPeer | KerasPeer:
        """Return the peer, with random weights and statistics."""
        if self.source == "keras":
            keras.utils.clear_session()  # the numbers of unnamed layers restart, as in published files
            return KerasPeer(KERAS[self.variant], size=self.sizes[0])
        options = {"aux_logits": self.aux_heads, "init_weights": False} if self.variant in WITH_AUX_HEADS else {}
        return TorchPeer(self.source, TIMM.get(self.variant, self.variant), size=self.sizes[0], **options)


ALL = (
    *(Case(name, "torchvision", ".pth") for name in ("alexnet", *VGGS, "googlenet")),
    Case("googlenet", "torchvision", ".pth", aux_heads=True),
    Case("inception_v3", "torchvision", ".pth", INCEPTION_SIZES),
    Case("inception_v3", "torchvision", ".pth", INCEPTION_SIZE, aux_heads=True),
    *(Case(name, "torchvision", ".pth") for name in (*RESNETS, *REGNETS)),
    *(Case(name, "timm", ".safetensors") for name in (*VGGS, *RESNETS, *TIMM)),
    Case("legacy_xception", "timm", ".safetensors", XCEPTION_SIZES),
    *(Case(name, "keras", ".h5") for name in KERAS if name.startswith("resnet")),
    Case("vgg16", "keras", ".h5", IMAGENET_SIZE),
    Case("vgg19", "keras", ".h5", IMAGENET_SIZE),
    Case("inception_v3_keras", "keras", ".h5", INCEPTION_SIZES),
    Case("xception", "keras", ".h5", XCEPTION_SIZES),
)
"""All variants with published weights, with each publisher and its file format."""
ONE_OF_EACH_FORM = (
    Case("alexnet", "torchvision", ".safetensors"),
    Case("vgg11", "torchvision", ".pth"),
    Case("vgg11_bn", "timm", ".safetensors"),
    Case("vgg16", "keras", ".keras", IMAGENET_SIZE),
    Case("googlenet", "torchvision", ".safetensors"),
    Case("googlenet", "torchvision", ".pth", aux_heads=True),
    Case("resnet18", "torchvision", ".pth"),
    Case("resnet50", "timm", ".safetensors"),
    Case("resnext50_32x4d", "torchvision", ".safetensors"),
    Case("wide_resnet50_2", "timm", ".pth"),
    Case("resnet50_v1", "keras", ".h5"),
    Case("resnet50_v2", "keras", ".h5"),
    Case("regnet_x_400mf", "torchvision", ".pth"),
    Case("regnet_y_400mf", "torchvision", ".safetensors"),
    Case("regnet_x_400mf_pycls", "timm", ".safetensors"),
    Case("regnet_y_800mf_pycls", "timm", ".pth"),
    Case("legacy_xception", "timm", ".pth", XCEPTION_SIZES),
    Case("xception", "keras", ".keras", XCEPTION_SIZES),
    Case("inception_v3", "torchvision", ".safetensors", INCEPTION_SIZES),
    Case("inception_v3", "torchvision", ".pth", INCEPTION_SIZE, aux_heads=True),
    Case("inception_v3_keras", "keras", ".h5", INCEPTION_SIZES),
)
