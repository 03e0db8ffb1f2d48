"""The train state and the pure train step."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax import lax

from cnnjax.config import Augmentation
from cnnjax.data import Preprocessing, augment, normalize
from cnnjax.functional import Tree, Variables, apply, init
from cnnjax.models.layers import Arch
from cnnjax.training.evaluation import DeviceSplit

INIT_STREAM, STEP_STREAM = 0, 1
NO_AUGMENTATION = Augmentation()


class EpochMetrics(NamedTuple):
    """Sums over the training images of the current epoch, and the first step whose loss was not finite (or -1)."""

    loss: jax.Array
    correct: jax.Array
    images: jax.Array
    bad_step: jax.Array


class TrainState(NamedTuple):
    """All that training changes. With the experiment and the data it decides every later state."""

    step: jax.Array
    params: Tree
    batch_stats: Tree
    opt_state: Any
    metrics: EpochMetrics

    @property
    def variables(self) -> Variables:
        return Variables(self.params, self.batch_stats)


class Gradient(NamedTuple):
    """What a batch gives: the gradient of its mean loss, the statistics it moved, the loss, how many it got right."""

    params: Tree
    batch_stats: Tree
    loss: jax.Array
    correct: jax.Array


GradientFn = Callable[[Variables, jax.Array, jax.Array, jax.Array], Gradient]
TrainStep = Callable[[TrainState, jax.Array, jax.Array, jax.Array], TrainState]
Dispatch = Callable[..., tuple[TrainState, EpochMetrics]]


def empty_metrics() -> EpochMetrics:
    return EpochMetrics(jnp.float32(0), jnp.int32(0), jnp.int32(0), jnp.int32(-1))


def init_state(arch: Arch, optimizer: optax.GradientTransformation, seed: int) -> TrainState:
    """Return the state before the first step; the same seed gives the same parameters."""
    params, batch_stats = init(arch, jax.random.fold_in(jax.random.key(seed), INIT_STREAM))
    return TrainState(jnp.int32(0), params, batch_stats, optimizer.init(params), empty_metrics())


def step_key(seed: int) -> jax.Array:
    """Return the key that each step folds its number into; a resumed run draws what an uninterrupted one would."""
    return jax.random.fold_in(jax.random.key(seed), STEP_STREAM)


def augmented(config: Augmentation, images: jax.Array, key: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Return a step's images as its network sees them, before `normalize`, and the key for the network's own chance."""
    if config == NO_AUGMENTATION:
        return images, key
    network_key, augmentation_key = jax.random.split(key)
    return augment(config, augmentation_key, images), network_key


def cross_entropy(logits: jax.Array, labels: jax.Array, smoothing: float) -> jax.Array:
    """Return the cross-entropy [N] in nats against labels smoothed over all classes (Szegedy 2016, section 7)."""
    targets = optax.smooth_labels(jax.nn.one_hot(labels, logits.shape[-1], dtype=logits.dtype), smoothing)
    return optax.softmax_cross_entropy(logits, targets)


def make_train_step(
    arch: Arch, optimizer: optax.GradientTransformation, preprocessing: Preprocessing, label_smoothing: float,
    augmentation: Augmentation = NO_AUGMENTATION, *, remat: tuple[str, ...] = (), accumulate: int = 1,
) -> TrainStep:  # fmt: skip
    """Return the pure function ``(state, images uint8 [B, H, W, C], labels int32 [B], key) -> state``.

    ``remat`` and ``accumulate`` are those of `cnnjax.config.Train`.
    """

    def loss_fn(params: Tree, batch_stats: Tree, images: jax.Array, labels: jax.Array, key: jax.Array) -> Any:
        variables = Variables(params, batch_stats)
        pixels = normalize(preprocessing, images)
        outputs, new_stats = apply(arch, variables, pixels, train=True, key=key, remat=remat)
        return cross_entropy(outputs.logits, labels, label_smoothing).mean(), (outputs.logits, new_stats)

    def gradient(variables: Variables, images: jax.Array, labels: jax.Array, key: jax.Array) -> Gradient:
        grad_fn = jax.value_and_grad(loss_fn, has_aux=True)
        (loss, (logits, batch_stats)), grads = grad_fn(*variables, images, labels, key)
        return Gradient(grads, batch_stats, loss, (logits.argmax(axis=-1) == labels).sum(dtype=jnp.int32))

    def train_step(state: TrainState, images: jax.Array, labels: jax.Array, key: jax.Array) -> TrainState:
        images, key = augmented(augmentation, images, key)
        found = accumulated(gradient, accumulate)(state.variables, images, labels, key)
        with jax.named_scope("optimizer"):
            updates, opt_state = optimizer.update(found.params, state.opt_state, state.params)
            params = optax.apply_updates(state.params, updates)
        loss = state.metrics.loss + found.loss * len(labels)
        first_bad = (state.metrics.bad_step < 0) & ~jnp.isfinite(loss)
        metrics = EpochMetrics(
            loss=loss,
            correct=state.metrics.correct + found.correct,
            images=state.metrics.images + len(labels),
            bad_step=jnp.where(first_bad, state.step + 1, state.metrics.bad_step),
        )
        return TrainState(state.step + 1, params, found.batch_stats, opt_state, metrics)

    return train_step


def accumulated(gradient: GradientFn, parts: int) -> GradientFn:
    """Return ``gradient`` of a batch that goes through the network in so many equal parts, one after the other.

    Only one part's activations are in memory. Each part draws its own chance; its norms see its own statistics, and the
    running ones move with each part.
    """
    if parts == 1:
        return gradient

    def whole(variables: Variables, images: jax.Array, labels: jax.Array, key: jax.Array) -> Gradient:
        def add(sums: Gradient, part: tuple[jax.Array, ...]) -> tuple[Gradient, None]:
            sums, part = lax.optimization_barrier((sums, part))  # no part begins before the last one has ended
            number, part_images, part_labels = part
            moved = variables._replace(batch_stats=sums.batch_stats)
            found = gradient(moved, part_images, part_labels, jax.random.fold_in(key, number))
            params = jax.tree.map(jnp.add, sums.params, found.params)
            return Gradient(params, found.batch_stats, sums.loss + found.loss, sums.correct + found.correct), None

        numbers = jnp.arange(parts)
        batches = (array.reshape(parts, -1, *array.shape[1:]) for array in (images, labels))
        zeros = jax.tree.map(jnp.zeros_like, variables.params)
        none = Gradient(zeros, variables.batch_stats, jnp.float32(0), jnp.int32(0))
        sums, _ = lax.scan(add, none, (numbers, *batches), unroll=is_unrolled(jax.default_backend()))
        return sums._replace(params=jax.tree.map(lambda leaf: leaf / parts, sums.params), loss=sums.loss / parts)

    return whole


def make_dispatch(train_step: TrainStep, batch_size: int, steps_per_epoch: int) -> Dispatch:
    """Return the jitted ``(state, data, order, key, steps=k) -> (state, metrics)``: k steps in one call of the device.

    The state is donated. Which images a step sees follows from ``state.step`` and the epoch's ``order`` [N] alone; an
    order that begins with the images of a later step of the epoch comes with the number of that step, ``start``. The
    metrics is a copy that outlives the donation, for showing progress.
    """

    def one_step(
        state: TrainState, data: DeviceSplit, order: jax.Array, key: jax.Array, start: jax.Array | None
    ) -> TrainState:
        position = state.step % steps_per_epoch
        starts_epoch = position == 0
        metrics = jax.tree.map(lambda fresh, sums: jnp.where(starts_epoch, fresh, sums), empty_metrics(), state.metrics)
        first = position if start is None else position - start
        picked = lax.dynamic_slice(order, (first * batch_size,), (batch_size,))
        key = jax.random.fold_in(key, state.step)
        return train_step(state._replace(metrics=metrics), data.images[picked], data.labels[picked], key)

    def dispatch(
        state: TrainState, data: DeviceSplit, order: jax.Array, key: jax.Array, *, steps: int,
        start: jax.Array | None = None,
    ) -> tuple[TrainState, EpochMetrics]:  # fmt: skip
        if steps == 1:
            state = one_step(state, data, order, key, start)
        else:
            state, _ = lax.scan(lambda s, _: (one_step(s, data, order, key, start), None), state, length=steps)
        return state, jax.tree.map(jnp.copy, state.metrics)

    options = compiler_options(jax.default_backend())
    return jax.jit(dispatch, static_argnames="steps", donate_argnums=0, compiler_options=options)


def steps_per_dispatch(backend: str, steps_per_epoch: int) -> int:
    """Return how many steps go to the device in one call.

    On a CPU one: XLA runs a convolution inside a loop about four times slower there. On an accelerator many, since a
    step of a small network takes less time than its launch.
    """
    return 1 if backend == "cpu" else min(steps_per_epoch, 64)


def is_unrolled(backend: str) -> bool:
    """Return whether the parts of an accumulated gradient stand one after another in the program, not in a loop.

    On a CPU they do: in a loop, XLA's convolutions took twenty times as long there.
    """
    return backend == "cpu"


def compiler_options(backend: str) -> dict[str, Any] | None:
    """Return what XLA is told besides: on a CPU to keep optimization barriers until the program is scheduled.

    It would drop them before, and then compute a stage again, or begin a part of the batch, long before it is needed:
    nothing would be saved.
    """
    return {"xla_disable_hlo_passes": "cse_barrier_expander"} if backend == "cpu" else None
