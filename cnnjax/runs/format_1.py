"""Read training checkpoints of format 1.

In format 1, the ``training`` item holds the step and the state of an optax chain that ends with the schedule's counter.
The sums of an unfinished epoch are in info.json as ``tally``.
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

RULE_STATES = (optax.ScaleByAdamState, optax.TraceState, optax.ScaleByRmsState)
"""Optimizer states that hold arrays; a checkpoint of either format has at most one of them."""


def restore(saved: Checkpoint, like: TrainState, config: Optimizer) -> TrainState:
    """Return the state in a checkpoint of format 1, in the structure of ``like``."""
    old = jax.eval_shape(_chain(config).init, like.params)
    training = checkpoint.restore(saved, "training", {"step": like.step, "opt_state": old})
    variables = checkpoint.restore(saved, "variables", like.variables._asdict())
    rule_states = {type(node): node for node in _nodes(training["opt_state"]) if isinstance(node, RULE_STATES)}
    opt_state = jax.tree.map(lambda node: rule_states.get(type(node), node), like.opt_state, is_leaf=_is_rule_state)
    tally = _tally(saved)
    metrics = EpochMetrics(
        jnp.asarray(tally["loss"], like.metrics.loss.dtype),
        jnp.int32(tally["correct"]),
        jnp.int32(tally["images"]),
        jnp.int32(-1),
        jnp.zeros_like(like.metrics.gradient_norm),  # not in format 1; a resumed epoch sums only its later steps
    )
    return TrainState(training["step"], opt_state=opt_state, metrics=metrics, **variables)


def images_within(saved: Checkpoint) -> int:
    """Return the number of images that the unfinished epoch has processed."""
    return _tally(saved)["images"]


def _tally(saved: Checkpoint) -> dict[str, Any]:
    return saved.info.get("tally") or {"loss": 0.0, "correct": 0, "images": 0}


def _is_rule_state(node: Any) -> bool:
    return isinstance(node, RULE_STATES)


def _nodes(tree: Any) -> list[Any]:
    return jax.tree.leaves(tree, is_leaf=_is_rule_state)


def _chain(config: Optimizer) -> optax.GradientTransformation:
    """Return the optax chain whose state format 1 stores; its hyperparameter values do not matter."""
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
