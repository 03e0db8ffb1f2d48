"""Reads training checkpoints of format 1.

There the ``training`` item was the step and optax's state of a chain that ended with a schedule's counter, and the sums
of an epoch that was not done stood in info.json as ``tally``.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax

from cnnjax import checkpoint
from cnnjax.checkpoint import Checkpoint
from cnnjax.config import Optimizer
from cnnjax.optim import is_decayed
from cnnjax.training.state import EpochMetrics, TrainState

REMEMBERED = (optax.ScaleByAdamState, optax.TraceState, optax.ScaleByRmsState)
"""The states of update rules that hold arrays; both formats have at most one."""


def restore(saved: Checkpoint, like: TrainState, config: Optimizer) -> TrainState:
    """Return the state in a checkpoint of format 1, in the structure of ``like``."""
    old = jax.eval_shape(_chain(config).init, like.params)
    training = checkpoint.restore(saved, "training", {"step": like.step, "opt_state": old})
    variables = checkpoint.restore(saved, "variables", like.variables._asdict())
    remembered = {type(node): node for node in _nodes(training["opt_state"]) if isinstance(node, REMEMBERED)}
    opt_state = jax.tree.map(lambda node: remembered.get(type(node), node), like.opt_state, is_leaf=_is_remembered)
    tally = _tally(saved)
    metrics = EpochMetrics(
        jnp.asarray(tally["loss"], like.metrics.loss.dtype),
        jnp.int32(tally["correct"]),
        jnp.int32(tally["images"]),
        jnp.int32(-1),
        jnp.zeros_like(like.metrics.gradient_norm),  # format 1 has none: that of a resumed epoch is of its later steps
    )
    return TrainState(training["step"], opt_state=opt_state, metrics=metrics, **variables)


def images_within(saved: Checkpoint) -> int:
    """Return the images of the epoch that is not done."""
    return _tally(saved)["images"]


def _tally(saved: Checkpoint) -> dict[str, Any]:
    return saved.info.get("tally") or {"loss": 0.0, "correct": 0, "images": 0}


def _is_remembered(node: Any) -> bool:
    return isinstance(node, REMEMBERED)


def _nodes(tree: Any) -> list[Any]:
    return jax.tree.leaves(tree, is_leaf=_is_remembered)


def _chain(config: Optimizer) -> optax.GradientTransformation:
    """Return the chain whose state format 1 holds; its values do not matter."""
    rules: dict[str, Callable[[], optax.GradientTransformation]] = {
        "sgd": lambda: optax.sgd(_rate),
        "momentum": lambda: optax.sgd(_rate, momentum=0.9),
        "nesterov": lambda: optax.sgd(_rate, momentum=0.9, nesterov=True),
        "adam": lambda: optax.adam(_rate),
        "adamw": lambda: optax.adamw(_rate, mask=is_decayed),
        "rmsprop": lambda: optax.rmsprop(_rate),
    }
    parts = []
    if config.clip_norm is not None:
        parts.append(optax.clip_by_global_norm(1.0))
    if config.weight_decay and config.name != "adamw":
        parts.append(optax.add_decayed_weights(0.0, mask=is_decayed))
    return optax.chain(*parts, rules[config.name]())


def _rate(step: Any) -> float:
    return 0.0
