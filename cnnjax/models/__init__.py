"""Registry of the architectures: one file per family, one entry per variant."""

import fnmatch
from collections.abc import Mapping
from typing import Any

from cnnjax.errors import choose
from cnnjax.models import alexnet, googlenet, inception_v3, lenet, lenet_1998, mlp, regnet, resnet, speed, vgg, xception
from cnnjax.models.layers import Arch
from cnnjax.pretrained import list_pretrained

FAMILIES: dict[str, type[Arch]] = {cls.family: cls for cls in (
    lenet.LeNet, lenet_1998.LeNet1998, mlp.MLP, alexnet.AlexNet, vgg.VGG, googlenet.GoogLeNet, resnet.ResNet,
    regnet.RegNet, regnet.AnyNet, inception_v3.InceptionV3, xception.Xception, speed.SpeedNet,
)}  # fmt: skip
VARIANTS: dict[str, Arch] = {
    **lenet.VARIANTS, **lenet_1998.VARIANTS, **mlp.VARIANTS, **alexnet.VARIANTS, **vgg.VARIANTS, **googlenet.VARIANTS,
    **resnet.VARIANTS, **regnet.VARIANTS, **inception_v3.VARIANTS, **xception.VARIANTS,
    **speed.VARIANTS,
}  # fmt: skip


def create(name: str, **options: Any) -> Arch:
    """Return the definition of a variant, with the given fields changed. No array is allocated.

    Args:
        name: a name of `list_models`, such as ``"resnet50"``.
        options: fields of the architecture: ``num_classes``, ``input_size`` in pixels, ``channels`` of the images,
            ``activation``, ``dtype``, and those of its family (docs/models.md lists the variants).

    Returns:
        A frozen, hashable dataclass, for `cnnjax.init` and `cnnjax.apply`.

    Raises:
        UserError: the variant or an option is unknown (with near matches), or a value is not allowed.

    Example:
        >>> create("lenet", activation="tanh").activation
        'tanh'
    """
    return VARIANTS[choose("model", name, VARIANTS)].replace(**options)


def variant_like(arch: Arch, name: str) -> Arch:
    """Return a variant with the number of classes, image size, channels and dtype of ``arch``."""
    kept = {field: getattr(arch, field) for field in ("num_classes", "input_size", "channels", "dtype")}
    return create(name, **kept)


def list_models(pattern: str = "*", pretrained: bool = False) -> list[str]:
    """Return the names of the variants that match a shell pattern, sorted; an empty list if none matches.

    Args:
        pattern: a shell pattern, such as ``"le*"``.
        pretrained: return the names of published weights instead, such as ``"resnet50.tv_in1k_v2"``; the pattern may
            leave out the tag after the dot.

    Example:
        >>> list_models("len*")
        ['lenet', 'lenet_1998']
        >>> list_models("alexnet", pretrained=True)
        ['alexnet.tv_in1k_v1']
    """
    return list_pretrained(pattern) if pretrained else sorted(fnmatch.filter(VARIANTS, pattern))


def from_dict(data: object, families: Mapping[str, type[Arch]] = FAMILIES) -> Arch:
    """Read a definition written by `Arch.to_dict`; ``families`` maps each known family name to its class."""
    return Arch.from_dict(data, "model", families)
