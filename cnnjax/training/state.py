"""The train state: all that training changes."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from cnnjax.config import Experiment
from cnnjax.functional import Tree, Variables, init
from cnnjax.ops.dispatch import parameter_dtype
from cnnjax.optim import Hyperparameters, join, make_rule, split_frozen

INIT_STREAM, STEP_STREAM = 0, 1


class EpochMetrics(NamedTuple):
    """Sums over the training images of the current epoch, and the first step whose loss was not finite (or -1)."""

    loss: jax.Array
    correct: jax.Array
    images: jax.Array
    bad_step: jax.Array


class Ema(NamedTuple):
    """Exponential moving averages of the parameters and batch statistics, and how often they were updated."""

    params: Tree
    batch_stats: Tree
    updates: jax.Array


class TrainState(NamedTuple):
    """All that training changes. With the experiment and the data it decides every later state.

    It is saved and restored whole: a field that is added here is saved without another line of code. A field that the
    training does not have is None.
    """

    step: jax.Array
    params: Tree
    batch_stats: Tree
    opt_state: Any
    """What the update rule remembers of the trainable parameters; frozen ones have none."""
    metrics: EpochMetrics
    ema: Ema | None = None

    @property
    def variables(self) -> Variables:
        """What the next step trains."""
        return Variables(self.params, self.batch_stats)

    @property
    def evaluated(self) -> Variables:
        """What is evaluated, compared and published: the averages where the training keeps some."""
        return self.variables if self.ema is None else Variables(self.ema.params, self.ema.batch_stats)


def empty_metrics(dtype: Any = jnp.float32) -> EpochMetrics:
    """Return the sums before the first step of an epoch, the loss in ``dtype``."""
    return EpochMetrics(jnp.zeros((), dtype), jnp.int32(0), jnp.int32(0), jnp.int32(-1))


def init_state(experiment: Experiment, hyperparameters: Hyperparameters) -> TrainState:
    """Return the state before the first step; the same seed gives the same parameters."""
    variables = init(experiment.model, jax.random.fold_in(jax.random.key(experiment.seed), INIT_STREAM))
    return state_of(experiment, hyperparameters, variables)


def state_of(experiment: Experiment, hyperparameters: Hyperparameters, variables: Variables) -> TrainState:
    """Return the state that trains from given variables, before its first step."""
    trainable, _ = split_frozen(variables.params, experiment.train.freeze)
    rule = make_rule(experiment.optimizer)(hyperparameters, hyperparameters.lr)
    # Copies: the step gives the state's memory away, and an array may be given once.
    copied = jax.tree.map(jnp.copy, variables)
    ema = None if experiment.train.ema_decay is None else Ema(copied.params, copied.batch_stats, jnp.int32(0))
    metrics = empty_metrics(parameter_dtype(experiment.model.dtype))
    return TrainState(jnp.int32(0), *variables, rule.init(trainable), metrics, ema)


def step_key(seed: int) -> jax.Array:
    """Return the key that each step folds its number into; a resumed run draws what an uninterrupted one would."""
    return jax.random.fold_in(jax.random.key(seed), STEP_STREAM)


def averaged(ema: Ema, variables: Variables, decay: Any) -> Ema:
    """Return the averages after a step that ended with ``variables``.

    The decay grows from 0.1 as (1 + n) / (10 + n) over the first steps, so that the random start is soon forgotten.
    """
    updates = ema.updates.astype(jnp.float32)
    keep = jnp.minimum(decay, (1 + updates) / (10 + updates))
    with jax.numpy_dtype_promotion("standard"):  # which optax relies on
        params, batch_stats = optax.incremental_update(variables, Variables(ema.params, ema.batch_stats), 1 - keep)
    return Ema(params, batch_stats, ema.updates + 1)


def joined(trainable: Tree, frozen: Tree) -> Tree:
    """Return the parameters of the two trees; the trainable ones themselves where nothing is frozen."""
    return join(trainable, frozen) if frozen else trainable
