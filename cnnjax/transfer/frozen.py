"""Proof of what a phase left unchanged: counts and sha256 of the frozen parameters and statistics."""

import hashlib
from typing import Any, NamedTuple

import jax
import numpy as np

from cnnjax.errors import CnnjaxError
from cnnjax.functional import Variables, leaves_by_path
from cnnjax.partition import frozen_statistics, is_frozen


class Frozen(NamedTuple):
    """What a phase freezes: number of values, and sha256 of their paths, types and bytes."""

    parameters: int
    statistics: int
    sha256: str


def frozen(variables: Variables, patterns: tuple[str, ...]) -> Frozen:
    """Return the counts and the digest of all that the patterns freeze."""
    params = {path: leaf for path, leaf in leaves_by_path(variables.params).items() if is_frozen(path, patterns)}
    fixed = frozen_statistics(variables.params, variables.batch_stats, patterns)
    statistics = {path: leaf for path, leaf in leaves_by_path(variables.batch_stats).items() if path in fixed}
    return Frozen(_size(params), _size(statistics), digest({"params": params, "batch_stats": statistics}))


def digest(tree: Any) -> str:
    """Return the sha256 of a tree of arrays: path, dtype, shape and bytes of each leaf."""
    sha256 = hashlib.sha256()
    for path, leaf in jax.tree_util.tree_flatten_with_path(tree)[0]:
        array = np.ascontiguousarray(leaf)
        sha256.update(f"{jax.tree_util.keystr(path)}{array.dtype}{array.shape}".encode())
        sha256.update(array.view(np.uint8).data if array.size else b"")
    return sha256.hexdigest()


def moments(opt_state: Any, patterns: tuple[str, ...]) -> int:
    """Return how many arrays of an optimizer state belong to frozen parameters; it must be 0."""
    count = 0
    for path, _ in jax.tree_util.tree_flatten_with_path(opt_state)[0]:
        keys = [str(entry.key) for entry in path if isinstance(entry, jax.tree_util.DictKey)]
        count += bool(keys) and is_frozen("/".join(keys), patterns)
    return count


def require_unchanged(before: Frozen, after: Frozen, moments: int, phase: str) -> None:
    """Raise CnnjaxError if a frozen value has changed or has a moment, which is an error of this package."""
    if before != after or moments:
        raise CnnjaxError(
            f"phase {phase} changed frozen values (sha256 {before.sha256[:12]} before, {after.sha256[:12]} after, "
            f"{moments} moments); please report this, and do not use the run"
        )


def _size(leaves: dict[str, Any]) -> int:
    return sum(int(np.size(leaf)) for leaf in leaves.values())
