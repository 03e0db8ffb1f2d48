"""Probes of embeddings: how well simple classifiers separate new classes, with few or all images."""

import functools
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax import lax

from cnnjax.errors import UserError

ITERATIONS = 100
"""Iterations of L-BFGS."""
L2 = 1.0
"""Weight of the squared norm of the weights against the summed cross-entropy, as with C = 1 in scikit-learn."""


class Embeddings(NamedTuple):
    """Embeddings float32 [N, D] with their labels int32 [N]."""

    vectors: np.ndarray
    labels: np.ndarray


class ProbeResult(NamedTuple):
    """Test accuracies of both probes, one per seed."""

    shots: int | None
    """Training images per class; None: all."""
    linear: tuple[float, ...]
    neighbors: tuple[float, ...]


def probe(
    train: Embeddings, test: Embeddings, classes: int, *, shots: Sequence[int], seeds: int, neighbors: int
) -> list[ProbeResult]:
    """Return the accuracies with ``shots`` images of each class, drawn by ``seeds`` seeds, and with all images.

    Raises:
        UserError: a class has fewer training images than ``shots``.
    """
    smallest = int(np.bincount(train.labels, minlength=classes).min())
    for count in shots:
        if not 1 <= count <= smallest:
            raise UserError(
                f"--shots is {count} and the smallest class has {smallest} images; it must be 1 to {smallest}"
            )
    results = []
    for count in shots:
        drawn = [draw(train, count, seed) for seed in range(seeds)]
        accuracies = [(linear_accuracy(part, test, classes), neighbor_accuracy(part, test, classes, neighbors))
                      for part in drawn]  # fmt: skip
        results.append(ProbeResult(count, *zip(*accuracies, strict=True)))
    whole = (linear_accuracy(train, test, classes),), (neighbor_accuracy(train, test, classes, neighbors),)
    return [*results, ProbeResult(None, *whole)]


def draw(embeddings: Embeddings, count: int, seed: int) -> Embeddings:
    """Return ``count`` embeddings of each class; those of a smaller count are part of every larger one."""
    rng = np.random.default_rng([seed, 0x9B0B])
    chosen = [
        rng.permutation(np.flatnonzero(embeddings.labels == label))[:count] for label in np.unique(embeddings.labels)
    ]
    indices = np.concatenate(chosen)
    return Embeddings(embeddings.vectors[indices], embeddings.labels[indices])


def linear_accuracy(train: Embeddings, test: Embeddings, classes: int) -> float:
    """Return the test accuracy of multinomial logistic regression, fitted by L-BFGS.

    The embeddings are centered by the training mean, and scaled so that their mean squared norm is D.
    """
    mean = train.vectors.mean(axis=0)
    centered = train.vectors - mean
    scale = np.sqrt(np.mean(centered**2)) or np.float32(1)
    weights, bias = _fit(centered / scale, train.labels, classes)
    logits = (test.vectors - mean) / scale @ np.asarray(weights) + np.asarray(bias)
    return float((logits.argmax(axis=1) == test.labels).mean())


@functools.partial(jax.jit, static_argnums=2)
def _fit(vectors: jax.Array, labels: jax.Array, classes: int) -> tuple[jax.Array, jax.Array]:
    """Return the weights [D, classes] and the bias [classes]."""

    def loss(params: tuple[jax.Array, jax.Array]) -> jax.Array:
        weights, bias = params
        losses = optax.softmax_cross_entropy_with_integer_labels(vectors @ weights + bias[None], labels)
        return (losses.sum() + 0.5 * L2 * (weights**2).sum()) / len(labels)

    solver = optax.lbfgs()
    value_and_grad = optax.value_and_grad_from_state(loss)

    def step(carry: Any, _: None) -> tuple[Any, None]:
        params, state = carry
        value, gradient = value_and_grad(params, state=state)
        updates, state = solver.update(gradient, state, params, value=value, grad=gradient, value_fn=loss)
        return (optax.apply_updates(params, updates), state), None

    params = (jnp.zeros((vectors.shape[1], classes)), jnp.zeros(classes))
    with jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("allow"):  # optax relies on both
        (params, _), _ = lax.scan(step, (params, solver.init(params)), length=ITERATIONS)
    return params


def neighbor_accuracy(train: Embeddings, test: Embeddings, classes: int, k: int) -> float:
    """Return the test accuracy of the ``k`` nearest neighbors by cosine similarity; similarity breaks ties."""
    similarity = _unit(test.vectors) @ _unit(train.vectors).T
    nearest = np.argsort(-similarity, axis=1, kind="stable")[:, : min(k, len(train.labels))]
    near = np.take_along_axis(similarity, nearest, axis=1)
    votes = np.zeros((len(test.labels), classes))
    for label in range(classes):
        mine = train.labels[nearest] == label
        votes[:, label] = mine.sum(axis=1) + 1e-3 * (mine * near).mean(axis=1)
    return float((votes.argmax(axis=1) == test.labels).mean())


def _unit(vectors: np.ndarray) -> np.ndarray:
    return vectors / np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), np.finfo(np.float32).tiny)
