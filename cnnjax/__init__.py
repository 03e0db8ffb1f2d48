"""A functional research codebase for convolutional image classifiers in JAX."""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from cnnjax.functional import Variables, apply, features, init
    from cnnjax.hub.loading import load_pretrained
    from cnnjax.models import create, list_models
    from cnnjax.runs.api import Run, load, train

__version__ = "0.2.0"

__all__ = [
    "Run", "Variables", "apply", "create", "features", "init", "list_models", "load", "load_pretrained", "train",
]  # fmt: skip

_HOMES = {
    "Variables": "functional", "apply": "functional", "features": "functional", "init": "functional",
    "create": "models", "list_models": "models", "Run": "runs.api", "load": "runs.api", "train": "runs.api",
    "load_pretrained": "hub.loading",
}  # fmt: skip


def __getattr__(name: str) -> Any:
    """Import a public name on first access, so that a script's --help does not wait for JAX."""
    if name not in _HOMES:
        raise AttributeError(f"module 'cnnjax' has no attribute {name!r}")
    return getattr(importlib.import_module(f"cnnjax.{_HOMES[name]}"), name)
