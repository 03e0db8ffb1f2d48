"""Partition of a tree of parameters by path: what is trained, and what is frozen.

A pattern is a shell pattern of a parameter's path, such as ``conv1/*``; it also covers everything below a path that it
matches.
"""

import fnmatch
from collections.abc import Iterable, Mapping
from typing import Any

from cnnjax.errors import UserError, near_matches


def is_frozen(path: str, patterns: tuple[str, ...]) -> bool:
    """Return whether one of the patterns covers a path such as ``stage1/0/conv1/kernel``."""
    return any(_matches(path, pattern) for pattern in patterns)


def split_frozen(params: Mapping[str, Any], patterns: tuple[str, ...]) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return the trainable and the frozen parameters as two trees.

    Args:
        params: nested dicts of arrays.
        patterns: patterns of the frozen parameters.

    Raises:
        UserError: a pattern matches no parameter, or no parameter is left to train.
    """
    paths = [path for path, _ in _leaves(params)]
    for pattern in patterns:
        if not any(_matches(path, pattern) for path in paths):
            raise UserError(f"train.freeze {pattern!r} matches no parameter; {near_matches(pattern, paths)}")
    if paths and all(is_frozen(path, patterns) for path in paths):
        raise UserError(f"train.freeze {list(patterns)} leaves no parameter to train; remove a pattern")
    frozen = {path for path in paths if is_frozen(path, patterns)}
    return select(params, set(paths) - frozen), select(params, frozen)


def frozen_statistics(params: Mapping[str, Any], batch_stats: Mapping[str, Any], patterns: tuple[str, ...]) -> set[str]:
    """Return the paths of the batch statistics that do not change: those of norms whose parameters are all frozen."""
    paths = [path for path, _ in _leaves(params)]
    trained = [path for path in paths if not is_frozen(path, patterns)]
    statistics = [path for path, _ in _leaves(batch_stats)]
    norms = {path.rpartition("/")[0] for path in statistics}
    frozen = {norm for norm in norms if _below(norm, paths) and not _below(norm, trained)}
    return {path for path in statistics if path.rpartition("/")[0] in frozen}


def join(a: Mapping[str, Any], b: Mapping[str, Any]) -> dict[str, Any]:
    """Merge two trees without a common leaf, such as those that `split_frozen` returned."""
    joined = dict(a)
    for name, node in b.items():
        joined[name] = join(joined[name], node) if name in joined else node
    return dict(sorted(joined.items()))


def select(tree: Mapping[str, Any], paths: Iterable[str]) -> dict[str, Any]:
    """Return the leaves at the given paths as a tree."""
    return _select(tree, frozenset(paths), "")


def _select(tree: Mapping[str, Any], paths: frozenset[str], prefix: str) -> dict[str, Any]:
    selected: dict[str, Any] = {}
    for name, node in tree.items():
        path = f"{prefix}{name}"
        if isinstance(node, Mapping):
            if below := _select(node, paths, f"{path}/"):
                selected[name] = below
        elif path in paths:
            selected[name] = node
    return selected


def _leaves(tree: Mapping[str, Any], prefix: str = "") -> list[tuple[str, Any]]:
    leaves: list[tuple[str, Any]] = []
    for name, node in tree.items():
        path = f"{prefix}{name}"
        leaves += _leaves(node, f"{path}/") if isinstance(node, Mapping) else [(path, node)]
    return leaves


def _matches(path: str, pattern: str) -> bool:
    return fnmatch.fnmatchcase(path, pattern) or fnmatch.fnmatchcase(path, f"{pattern}/*")


def _below(folder: str, paths: list[str]) -> list[str]:
    return [path for path in paths if path.startswith(f"{folder}/")]
