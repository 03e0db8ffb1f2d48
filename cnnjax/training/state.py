"""The train state: everything that training changes."""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from cnnjax.config import Experiment
from cnnjax.functional import HEAD, Tree, Variables, abstract_variables, init, leaves_by_path, parameter_groups
from cnnjax.ops.dispatch import compiler_options_of_init, parameter_dtype
from cnnjax.optim import Hyperparameters, Rule, make_rule
from cnnjax.partition import frozen_statistics, join, select, split_frozen

INIT_STREAM, STEP_STREAM = 0, 1


class EpochMetrics(NamedTuple):
    """Sums over the training images of the current epoch.

    ``bad_step`` is the first step with a loss or a gradient that is not finite, or -1.
    """

    loss: jax.Array
    correct: jax.Array
    images: jax.Array
    bad_step: jax.Array
    gradient_norm: jax.Array
    """Global norm of each step's gradient, before clipping, times the images of the step."""


class Ema(NamedTuple):
    """Exponential moving averages of the parameters and batch statistics, and the number of updates."""

    params: Tree
    batch_stats: Tree
    updates: jax.Array


class TrainState(NamedTuple):
    """Everything that training changes. Together with the experiment and the data it determines every later state.

    The state is saved and restored as a whole, so a new field needs no further code to be saved. Fields that a run
    does not use are None.
    """

    step: jax.Array
    params: Tree
    batch_stats: Tree
    opt_state: Any
    """Optimizer state of the trainable parameters; frozen parameters have none."""
    metrics: EpochMetrics
    ema: Ema | None = None

    @property
    def variables(self) -> Variables:
        """Variables that the next step trains."""
        return Variables(self.params, self.batch_stats)

    @property
    def evaluated(self) -> Variables:
        """Variables to evaluate, compare and publish: the moving averages if the training keeps them."""
        return self.variables if self.ema is None else Variables(self.ema.params, self.ema.batch_stats)

    @property
    def raw(self) -> Variables | None:
        """The trained variables, if `evaluated` are moving averages; else None."""
        return None if self.ema is None else self.variables


def empty_metrics(dtype: Any = jnp.float32) -> EpochMetrics:
    """Return the sums before the first step of an epoch, with the loss in ``dtype``."""
    zero = jnp.zeros((), dtype)
    return EpochMetrics(zero, jnp.int32(0), jnp.int32(0), jnp.int32(-1), jnp.copy(zero))


def init_state(experiment: Experiment, hyperparameters: Hyperparameters) -> TrainState:
    """Return the state for the variables drawn by the seed; the same seed gives the same parameters."""
    return state_of(experiment, hyperparameters, drawn_variables(experiment))


def abstract_state(experiment: Experiment, hyperparameters: Hyperparameters) -> TrainState:
    """Return the shapes and dtypes of a train state, without drawing the variables."""
    variables = abstract_variables(experiment.model)
    return jax.eval_shape(lambda given: state_of(experiment, hyperparameters, given), variables)


def drawn_variables(experiment: Experiment) -> Variables:
    """Return the variables drawn by the seed."""
    key = jax.random.fold_in(jax.random.key(experiment.seed), INIT_STREAM)
    return _compiled_init(jax.default_backend())(experiment.model, key)


@functools.cache
def _compiled_init(backend: str) -> Callable[..., Variables]:
    return jax.jit(init, static_argnums=0, compiler_options=compiler_options_of_init(backend))


def state_of(experiment: Experiment, hyperparameters: Hyperparameters, variables: Variables) -> TrainState:
    """Return the initial train state for the given variables."""
    trainable, _ = split_frozen(variables.params, experiment.train.freeze)
    rule = rule_of(experiment)(hyperparameters, hyperparameters.lr)
    # Copies, because the train step donates the state and a buffer can be donated only once.
    copied = jax.tree.map(jnp.copy, variables)
    ema = None if experiment.train.ema_decay is None else Ema(copied.params, copied.batch_stats, jnp.int32(0))
    metrics = empty_metrics(parameter_dtype(experiment.model.dtype))
    return TrainState(jnp.int32(0), *variables, rule.init(trainable), metrics, ema)


def rule_of(experiment: Experiment) -> Rule:
    """Return the update rule of an experiment."""
    head = parameter_groups(experiment.model)[HEAD] if experiment.optimizer.name == "muon" else ()
    return make_rule(experiment.optimizer, head)


def step_key(seed: int) -> jax.Array:
    """Return the key that each step folds its number into, so that a resumed run draws the same random numbers."""
    return jax.random.fold_in(jax.random.key(seed), STEP_STREAM)


def averaged(ema: Ema, variables: Variables, decay: Any, freeze: tuple[str, ...] = ()) -> Ema:
    """Return the averages after a step that ended with ``variables``.

    The decay grows from 0.1 as (1 + n) / (10 + n) over the first steps, so that the initial values fade quickly. Frozen
    values are not averaged, because rounding would change them.
    """
    updates = ema.updates.astype(jnp.float32)
    keep = jnp.minimum(decay, (1 + updates) / (10 + updates))
    with jax.numpy_dtype_promotion("standard"):  # optax relies on it
        params, batch_stats = optax.incremental_update(variables, Variables(ema.params, ema.batch_stats), 1 - keep)
    if freeze:
        trainable, _ = split_frozen(params, freeze)
        params = join(trainable, split_frozen(variables.params, freeze)[1])
        fixed = frozen_statistics(variables.params, variables.batch_stats, freeze)
        moving = leaves_by_path(batch_stats).keys() - fixed
        batch_stats = join(select(batch_stats, moving), select(variables.batch_stats, fixed))
    return Ema(params, batch_stats, ema.updates + 1)


def joined(trainable: Tree, frozen: Tree) -> Tree:
    """Merge the two parameter trees; return ``trainable`` itself if nothing is frozen."""
    return join(trainable, frozen) if frozen else trainable
