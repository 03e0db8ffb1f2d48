"""The table of all architectures: one file per family, one row per variant."""

import fnmatch
from collections.abc import Mapping
from typing import Any

from cnnjax.errors import choose
from cnnjax.models import lenet, mlp, resnet
from cnnjax.models.layers import Arch

FAMILIES: dict[str, type[Arch]] = {cls.family: cls for cls in (lenet.LeNet, mlp.MLP, resnet.ResNet)}
VARIANTS: dict[str, Arch] = {**lenet.VARIANTS, **mlp.VARIANTS, **resnet.VARIANTS}


def create(name: str, **options: Any) -> Arch:
    """Return the definition of a variant, with some of its fields changed.

    Example:
        >>> create("lenet", activation="tanh").activation
        'tanh'

    Raises:
        UserError: no such variant or no such option, with near matches; or a value that is not allowed.
    """
    return VARIANTS[choose("model", name, VARIANTS)].replace(**options)


def list_models(pattern: str = "*") -> list[str]:
    """Return the names of the variants that match a shell pattern, such as ``"le*"``."""
    return sorted(fnmatch.filter(VARIANTS, pattern))


def from_dict(data: object, families: Mapping[str, type[Arch]] = FAMILIES) -> Arch:
    """Read what `Arch.to_dict` wrote; ``families`` are the known ones by name."""
    return Arch.from_dict(data, "model", families)
