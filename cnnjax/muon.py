"""Muon (Jordan et al. 2024, https://kellerjordan.github.io/posts/muon): momentum, orthogonalized for kernels.

It updates the kernels below the head. A convolution kernel [H, W, I, O] counts as the matrix [H * W * I, O], as in the
author's code; optax's own rule leaves kernels with four dimensions to adam. Another rule updates the head, biases and
norms.
"""

from collections.abc import Collection
from typing import Any

import jax
import numpy as np
import optax
from optax.contrib import MuonDimensionNumbers, scale_by_muon


def muon(
    momentum: Any, eps: Any, weight_decay: Any, other: optax.GradientTransformation, head: Collection[str]
) -> list[optax.GradientTransformation]:
    """Return the transformations, before the multiplication by the learning rate.

    The update of a kernel W [I, O] is ``sqrt(max(1, O / I)) * orthogonalized(m) + weight_decay * W``, where m is
    Nesterov's momentum, with optax's bias correction, and orthogonalized by five Newton-Schulz iterations.

    Args:
        momentum: coefficient of the momentum.
        eps: constant added to the norm of the momentum before it is orthogonalized.
        weight_decay: decoupled weight decay of the orthogonalized kernels.
        other: the rule of all other parameters.
        head: paths of the head's parameters.
    """

    def is_matrix(updates: Any) -> Any:
        def decide(path: Any, leaf: jax.Array) -> bool:
            return leaf.ndim > 1 and "/".join(str(entry.key) for entry in path) not in head

        return jax.tree_util.tree_map_with_path(decide, updates)

    def is_other(updates: Any) -> Any:
        return jax.tree.map(lambda matrix: not matrix, is_matrix(updates))

    of_matrices = optax.chain(
        scale_by_muon(beta=momentum, eps=eps, weight_dimension_numbers=_as_matrices),
        optax.stateless(lambda updates, _: jax.tree.map(_scaled_by_shape, updates)),
        optax.add_decayed_weights(weight_decay),
    )
    return [optax.masked(of_matrices, is_matrix), optax.masked(other, is_other)]


def _as_matrices(updates: Any) -> Any:
    """Return the dimension numbers of each kernel: its last axis is the output, all others together are the input."""
    return jax.tree.map(lambda leaf: MuonDimensionNumbers(tuple(range(leaf.ndim - 1)), leaf.ndim - 1), updates)


def _scaled_by_shape(update: jax.Array) -> jax.Array:
    """Return the update of a kernel times sqrt(max(1, outputs / inputs)), as in the author's code."""
    outputs = update.shape[-1]
    return update * float(np.sqrt(max(1.0, outputs * outputs / update.size)))
