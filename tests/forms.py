"""Variants of one form differ only in depth and width; fast tests run only the shallowest forms."""

import functools
from collections.abc import Iterable

import jax
import pytest

from cnnjax import create, list_models

SIZES = {"depths", "depth", "width", "w_0", "w_a", "w_m", "group_width", "groups"}
FAST_FORMS = 3


def blocks(name: str) -> int:
    """Return the number of blocks of a variant, or 0 if its form has only one size."""
    arch = create(name)
    return sum(getattr(arch, "depths", (getattr(arch, "depth", 0),)))


@functools.cache
def shallowest() -> frozenset[str]:
    """Return the shallowest variant of each form, for the `FAST_FORMS` shallowest forms of each family."""
    forms: dict[tuple, str] = {}
    for name in sorted(list_models(), key=blocks):
        arch = create(name)
        grouped = getattr(arch, "groups", 1) > 1
        fixed = (value for field, value in vars(arch).items() if field not in SIZES)
        forms.setdefault((type(arch), grouped, *fixed), name)
    families: dict[type, list[str]] = {}
    for (family, *_), name in forms.items():
        families.setdefault(family, []).append(name)
    return frozenset(name for names in families.values() for name in names[:FAST_FORMS])


def mark_deep(name: str, *values: object) -> object:
    """Return a test parameter, marked as large if ``name`` is not the shallowest variant of its form."""
    return pytest.param(name, *values, marks=() if name in shallowest() else pytest.mark.compiles_large)


def mark_deep_ones(names: Iterable[str]) -> list:
    return [mark_deep(name) for name in names]


def size(tree: object) -> int:
    """Return the number of values in a tree of arrays or shapes."""
    return sum(leaf.size for leaf in jax.tree.leaves(tree))
