"""Which variants are of one form: they differ in depth and width alone, and the shallowest stands for the others."""

import functools
from collections.abc import Iterable

import pytest

from cnnjax import create, list_models

SIZES = {"depths", "width", "group_width", "groups"}


@functools.cache
def shallowest() -> frozenset[str]:
    """Return the name of the shallowest variant of each form."""
    forms: dict[tuple, str] = {}
    for name in sorted(list_models(), key=lambda name: sum(getattr(create(name), "depths", ()))):
        arch = create(name)
        grouped = getattr(arch, "groups", 1) > 1
        others = (value for field, value in vars(arch).items() if field not in SIZES)
        forms.setdefault((type(arch), grouped, *others), name)
    return frozenset(forms.values())


def mark_deep(name: str, *values: object) -> object:
    """Return a parameter of a test, marked as large where a shallower variant has the form of ``name``."""
    return pytest.param(name, *values, marks=() if name in shallowest() else pytest.mark.compiles_large)


def mark_deep_ones(names: Iterable[str]) -> list:
    return [mark_deep(name) for name in names]
