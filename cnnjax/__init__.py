"""A functional research codebase for convolutional image classifiers in JAX."""

from cnnjax.functional import Variables, apply, features, init
from cnnjax.models import create, list_models

__version__ = "0.1.0"

__all__ = ["Variables", "apply", "create", "features", "init", "list_models"]
