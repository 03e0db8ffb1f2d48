"""Registry of published weights: publisher, variant and published accuracy.

Top-1 is in percent on ImageNet's 50,000 validation images (single crop), or on CIFAR-10's test images.
"""

from typing import NamedTuple


class Published(NamedTuple):
    """One publication of weights for a variant."""

    variant: str
    source: str
    """Publisher whose names the file uses; see `cnnjax.convert`."""
    weights: str
    """The publisher's name of the weights."""
    top1: float
    """Top-1 accuracy stated by the publisher."""


PUBLISHED = (
    # torchvision: table of all available classification weights
    Published("resnet18", "torchvision", "IMAGENET1K_V1", 69.758),
    Published("resnet34", "torchvision", "IMAGENET1K_V1", 73.314),
    Published("resnet50", "torchvision", "IMAGENET1K_V1", 76.130),
    Published("resnet50", "torchvision", "IMAGENET1K_V2", 80.858),
    Published("resnet101", "torchvision", "IMAGENET1K_V1", 77.374),
    Published("resnet101", "torchvision", "IMAGENET1K_V2", 81.886),
    Published("resnet152", "torchvision", "IMAGENET1K_V1", 78.312),
    Published("resnet152", "torchvision", "IMAGENET1K_V2", 82.284),
    Published("resnext50_32x4d", "torchvision", "IMAGENET1K_V1", 77.618),
    Published("resnext50_32x4d", "torchvision", "IMAGENET1K_V2", 81.198),
    Published("resnext101_32x8d", "torchvision", "IMAGENET1K_V1", 79.312),
    Published("resnext101_32x8d", "torchvision", "IMAGENET1K_V2", 82.834),
    Published("resnext101_64x4d", "torchvision", "IMAGENET1K_V1", 83.246),
    Published("wide_resnet50_2", "torchvision", "IMAGENET1K_V1", 78.468),
    Published("wide_resnet50_2", "torchvision", "IMAGENET1K_V2", 81.602),
    Published("wide_resnet101_2", "torchvision", "IMAGENET1K_V1", 78.848),
    Published("wide_resnet101_2", "torchvision", "IMAGENET1K_V2", 82.510),
    Published("alexnet", "torchvision", "IMAGENET1K_V1", 56.522),
    Published("googlenet", "torchvision", "IMAGENET1K_V1", 69.778),
    Published("inception_v3", "torchvision", "IMAGENET1K_V1", 77.294),
    Published("regnet_x_16gf", "torchvision", "IMAGENET1K_V1", 80.058),
    Published("regnet_x_16gf", "torchvision", "IMAGENET1K_V2", 82.716),
    Published("regnet_x_1_6gf", "torchvision", "IMAGENET1K_V1", 77.040),
    Published("regnet_x_1_6gf", "torchvision", "IMAGENET1K_V2", 79.668),
    Published("regnet_x_32gf", "torchvision", "IMAGENET1K_V1", 80.622),
    Published("regnet_x_32gf", "torchvision", "IMAGENET1K_V2", 83.014),
    Published("regnet_x_3_2gf", "torchvision", "IMAGENET1K_V1", 78.364),
    Published("regnet_x_3_2gf", "torchvision", "IMAGENET1K_V2", 81.196),
    Published("regnet_x_400mf", "torchvision", "IMAGENET1K_V1", 72.834),
    Published("regnet_x_400mf", "torchvision", "IMAGENET1K_V2", 74.864),
    Published("regnet_x_800mf", "torchvision", "IMAGENET1K_V1", 75.212),
    Published("regnet_x_800mf", "torchvision", "IMAGENET1K_V2", 77.522),
    Published("regnet_x_8gf", "torchvision", "IMAGENET1K_V1", 79.344),
    Published("regnet_x_8gf", "torchvision", "IMAGENET1K_V2", 81.682),
    Published("regnet_y_128gf", "torchvision", "IMAGENET1K_SWAG_LINEAR_V1", 86.068),
    Published("regnet_y_16gf", "torchvision", "IMAGENET1K_V1", 80.424),
    Published("regnet_y_16gf", "torchvision", "IMAGENET1K_V2", 82.886),
    Published("regnet_y_16gf", "torchvision", "IMAGENET1K_SWAG_LINEAR_V1", 83.976),
    Published("regnet_y_1_6gf", "torchvision", "IMAGENET1K_V1", 77.950),
    Published("regnet_y_1_6gf", "torchvision", "IMAGENET1K_V2", 80.876),
    Published("regnet_y_32gf", "torchvision", "IMAGENET1K_V1", 80.878),
    Published("regnet_y_32gf", "torchvision", "IMAGENET1K_V2", 83.368),
    Published("regnet_y_32gf", "torchvision", "IMAGENET1K_SWAG_LINEAR_V1", 84.622),
    Published("regnet_y_3_2gf", "torchvision", "IMAGENET1K_V1", 78.948),
    Published("regnet_y_3_2gf", "torchvision", "IMAGENET1K_V2", 81.982),
    Published("regnet_y_400mf", "torchvision", "IMAGENET1K_V1", 74.046),
    Published("regnet_y_400mf", "torchvision", "IMAGENET1K_V2", 75.804),
    Published("regnet_y_800mf", "torchvision", "IMAGENET1K_V1", 76.420),
    Published("regnet_y_800mf", "torchvision", "IMAGENET1K_V2", 78.828),
    Published("regnet_y_8gf", "torchvision", "IMAGENET1K_V1", 80.032),
    Published("regnet_y_8gf", "torchvision", "IMAGENET1K_V2", 82.828),
    Published("vgg11", "torchvision", "IMAGENET1K_V1", 69.020),
    Published("vgg11_bn", "torchvision", "IMAGENET1K_V1", 70.370),
    Published("vgg13", "torchvision", "IMAGENET1K_V1", 69.928),
    Published("vgg13_bn", "torchvision", "IMAGENET1K_V1", 71.586),
    Published("vgg16", "torchvision", "IMAGENET1K_V1", 71.592),
    Published("vgg16_bn", "torchvision", "IMAGENET1K_V1", 73.360),
    Published("vgg19", "torchvision", "IMAGENET1K_V1", 72.376),
    Published("vgg19_bn", "torchvision", "IMAGENET1K_V1", 74.218),
    # Keras: table of available models
    Published("vgg16", "keras", "imagenet", 71.3),
    Published("vgg19", "keras", "imagenet", 71.3),
    Published("resnet50_v1", "keras", "imagenet", 74.9),
    Published("resnet101_v1", "keras", "imagenet", 76.4),
    Published("resnet152_v1", "keras", "imagenet", 76.6),
    Published("resnet50_v2", "keras", "imagenet", 76.0),
    Published("resnet101_v2", "keras", "imagenet", 77.2),
    Published("resnet152_v2", "keras", "imagenet", 78.0),
    Published("inception_v3_keras", "keras", "imagenet", 77.9),
    Published("xception", "keras", "imagenet", 79.0),
    # github.com/akamaster/pytorch_resnet_cifar10: table of test errors
    Published("resnet20_cifar", "cifar", "resnet20", 91.73),
    Published("resnet32_cifar", "cifar", "resnet32", 92.63),
    Published("resnet44_cifar", "cifar", "resnet44", 93.10),
    Published("resnet56_cifar", "cifar", "resnet56", 93.39),
    Published("resnet110_cifar", "cifar", "resnet110", 93.68),
)
