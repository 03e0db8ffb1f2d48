"""Each extension point of the train step and the loop, with a small example."""

import dataclasses
from typing import ClassVar

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from conftest import mostly_slow
from flax import nnx

from cnnjax import create, data
from cnnjax.config import Optimizer, Schedule, Train
from cnnjax.errors import UserError
from cnnjax.functional import apply, leaves_by_path
from cnnjax.losses import Batch, CrossEntropy
from cnnjax.models.layers import Arch, Dense, Network, Outputs
from cnnjax.optim import make_hyperparameters
from cnnjax.training.hooks import Hook
from cnnjax.training.loop import fit
from cnnjax.training.state import init_state
from cnnjax.training.step import make_train_step

KEY = jax.random.key(5)


@pytest.fixture
def dataset(experiment):
    return data.load(experiment.data)


@pytest.fixture
def batch(dataset):
    return Batch(*(jnp.asarray(array[:32]) for array in dataset.train))


def step_of(experiment, dataset):
    """Return an experiment's jitted step, bound to its hyperparameters, and the initial state."""
    values = make_hyperparameters(experiment, 10)
    step = jax.jit(make_train_step(experiment, dataset.preprocessing))
    return lambda state, batch: step(state, batch, KEY, values), init_state(experiment, values)


def close(tree, expected, rtol=1e-5, atol=1e-7):
    tree, expected = leaves_by_path(tree), leaves_by_path(expected)
    assert tree.keys() == expected.keys()
    for path, leaf in expected.items():
        np.testing.assert_allclose(tree[path], leaf, rtol=rtol, atol=atol, err_msg=path)


SGD = Optimizer(name="sgd", lr=0.1)
"""Plain SGD, because Adam would hide a gradient of the wrong scale."""


# Batch and loss ------------------------------------------------------------------------------------------------------


def test_the_gradient_of_soft_labels_is_the_mean_over_their_labels(experiment, dataset, batch):
    step, state = step_of(experiment.replace(optimizer=SGD), dataset)
    other = batch._replace(targets=(batch.targets + 1) % 10)
    mixed = batch._replace(targets=(jax.nn.one_hot(batch.targets, 10) + jax.nn.one_hot(other.targets, 10)) / 2)
    first, second, soft = (step(state, b) for b in (batch, other, mixed))
    close(soft.params, jax.tree.map(lambda a, b: (a + b) / 2, first.params, second.params), atol=1e-6)
    assert float(soft.metrics.loss) == pytest.approx(float(first.metrics.loss + second.metrics.loss) / 2, rel=1e-5)


@pytest.mark.parametrize("accumulate", mostly_slow([4, 1], 1))
def test_weights_mask_padding(experiment, dataset, batch, accumulate):
    train = experiment.train.replace(accumulate=accumulate)
    experiment = experiment.replace(optimizer=SGD, model=create("mlp", activation="tanh"), train=train)
    step, state = step_of(experiment, dataset)
    alone, _ = step_of(experiment.replace(train=experiment.train.replace(batch_size=20, accumulate=1)), dataset)
    garbage = batch._replace(images=batch.images.at[20:].set(255), weights=jnp.arange(32) < 20)
    garbage = garbage._replace(weights=garbage.weights.astype(jnp.float32))
    masked, expected = step(state, garbage), alone(state, Batch(batch.images[:20], batch.targets[:20]))
    close(masked.params, expected.params, atol=1e-6)
    assert int(masked.metrics.images) == 20
    assert int(masked.metrics.correct) == int(expected.metrics.correct)


class TwoHeads(Arch):
    """A dense layer with a head, and an auxiliary head on its input."""

    family: ClassVar[str] = "two_heads"

    def build(self, rngs):
        return TwoHeadsNetwork(self, rngs)


class TwoHeadsNetwork(Network):
    def __init__(self, arch, rngs):
        pixels = arch.input_size**2 * arch.channels
        self.hidden = Dense(pixels, 8, dtype=arch.dtype, rngs=rngs)
        self.aux = Dense(8, arch.num_classes, dtype=arch.dtype, rngs=rngs)
        self.head = Dense(8, arch.num_classes, dtype=arch.dtype, rngs=rngs)

    def __call__(self, images, rngs=None):
        x = nnx.relu(self.hidden(images.reshape(len(images), -1)))
        return Outputs(self.head(x), (self.aux(x),))


@pytest.mark.parametrize("aux_weight", mostly_slow([0.5, 0.0], 1))
def test_an_auxiliary_head_adds_its_weighted_loss(experiment, dataset, batch, aux_weight):
    arch = TwoHeads(num_classes=10, input_size=28, channels=1)
    step, state = step_of(
        experiment.replace(model=arch, optimizer=SGD, loss=CrossEntropy(aux_weight=aux_weight)), dataset
    )
    after = step(state, batch)
    pixels = data.normalize(dataset.preprocessing, batch.images)

    def loss(params):
        outputs, _ = apply(arch, state.variables._replace(params=params), pixels)
        of = [-jax.nn.log_softmax(x)[jnp.arange(32), batch.targets].mean() for x in (outputs.logits, *outputs.aux)]
        return of[0] + aux_weight * of[1]

    close(after.params, jax.tree.map(lambda p, g: p - 0.1 * g, state.params, jax.grad(loss)(state.params)), atol=1e-6)
    moved = np.abs(after.params["aux"]["kernel"] - state.params["aux"]["kernel"]).max()
    assert (moved > 1e-4) == (aux_weight > 0)


# Averages ------------------------------------------------------------------------------------------------------------


def test_parameter_averages_equal_their_formula(experiment, dataset, batch):
    step, state = step_of(experiment.replace(train=experiment.train.replace(ema_decay=0.25)), dataset)
    expected = leaves_by_path(state.params)
    for n in range(4):
        state = step(state, batch)
        keep = min(0.25, (1 + n) / (10 + n))
        expected = {
            path: keep * expected[path] + (1 - keep) * leaf for path, leaf in leaves_by_path(state.params).items()
        }
    assert int(state.ema.updates) == 4
    for path, leaf in leaves_by_path(state.evaluated.params).items():
        np.testing.assert_allclose(leaf, expected[path], rtol=1e-5, atol=1e-7, err_msg=path)


# Frozen parameters ---------------------------------------------------------------------------------------------------


def test_frozen_parameters_have_no_gradient_and_no_optimizer_state(experiment, dataset, batch):
    frozen = experiment.replace(train=experiment.train.replace(freeze=("conv1", "conv2/*")))
    values = make_hyperparameters(frozen, 10)
    state = init_state(frozen, values)
    after = jax.jit(make_train_step(frozen, dataset.preprocessing))(state, batch, KEY, values)
    before, now = leaves_by_path(state.params), leaves_by_path(after.params)
    assert [path for path in before if np.array_equal(before[path], now[path])] == [
        "conv1/bias", "conv1/kernel", "conv2/bias", "conv2/kernel",
    ]  # fmt: skip
    moments = {leaf.shape for leaf in jax.tree.leaves(state.opt_state)}
    assert state.params["conv2"]["kernel"].shape not in moments
    assert state.params["dense1"]["kernel"].shape in moments

    def kernels(experiment):
        """Return the number of operations in the program whose result has the shape of the second kernel."""
        program = jax.make_jaxpr(make_train_step(experiment, dataset.preprocessing))(
            init_state(experiment, values), batch, KEY, values
        )
        return str(program).count(":f32[5,5,6,16] = ")

    assert kernels(frozen) == 0  # no gradient, no moment, no update
    assert kernels(experiment) > 3


# Hyperparameters -----------------------------------------------------------------------------------------------------


def test_runs_with_different_values_share_one_program(experiment, dataset, batch):
    base = experiment.replace(
        model=create("mlp", activation="tanh"),
        optimizer=Optimizer(name="adamw", lr=0.01, eps=1e-3, weight_decay=0.0),  # a small eps would magnify rounding
        schedule=Schedule(name="warmup_cosine", warmup="2st", end=0.0),
        train=Train(epochs=3, batch_size=32, ema_decay=0.9),
    )
    other = base.replace(
        optimizer=Optimizer(name="adamw", lr=0.02, b1=0.8, b2=0.9, eps=1e-2, weight_decay=0.1),
        schedule=Schedule(name="warmup_cosine", warmup="5st", end=0.1),
        train=Train(epochs=3, batch_size=32, ema_decay=0.5, label_smoothing=0.1),
    )
    values = [make_hyperparameters(member, 10) for member in (base, other)]
    state = init_state(base, values[0])
    traces = []
    train_step = make_train_step(base, dataset.preprocessing)

    def counted(state, batch, key, hyperparameters):
        traces.append(1)
        return train_step(state, batch, key, hyperparameters)

    together = jax.jit(jax.vmap(counted, in_axes=(0, None, None, 0)))
    states, stacked = (jax.tree.map(lambda *leaves: jnp.stack(leaves), *pair) for pair in ((state, state), values))
    for _ in range(4):
        states = together(states, batch, KEY, stacked)
    assert len(traces) == 1
    for number, member in enumerate((base, other)):
        step, alone = step_of(member, dataset)
        for _ in range(4):
            alone = step(alone, batch)
        one = jax.tree.map(lambda leaf, number=number: leaf[number], states)
        close(one.evaluated.params, alone.evaluated.params, rtol=1e-4, atol=1e-5)
        assert float(one.metrics.loss) == pytest.approx(float(alone.metrics.loss), rel=1e-5)


# Sources, and a loop without a folder --------------------------------------------------------------------------------


class OnDisk:
    """A source whose images are in a file; it records the number of images of each read."""

    def __init__(self, path, labels, most):
        self.images, self.labels, self.most = np.load(path, mmap_mode="r"), labels, most
        self.image_shape = self.images.shape[1:]

    def read(self, indices):
        self.most.append(len(indices))
        return np.asarray(self.images[indices])

    def take(self, indices):
        raise NotImplementedError


class Recorder(Hook):
    def __init__(self):
        self.plans, self.snapshots = [], []

    def start(self, plan):
        self.plans.append(plan)

    def epoch(self, snapshot):
        self.snapshots.append(snapshot)


def without_clock(rows):
    return [{k: v for k, v in row.items() if k not in ("seconds", "images_per_second")} for row in rows]


@pytest.mark.trains_long
def test_a_source_on_disk_trains_to_the_same_bits_and_is_never_loaded_whole(experiment, dataset, tmp_path):
    most = []

    def on_disk(name):
        split = dataset.part(name)
        np.save(tmp_path / f"{name}.npy", split.images)
        return OnDisk(tmp_path / f"{name}.npy", split.labels, most)

    stored = dataclasses.replace(dataset, **{name: on_disk(name) for name in ("train", "validation", "test")})
    in_memory, streamed = fit(experiment, dataset), fit(experiment, stored)
    assert without_clock(in_memory.rows) == without_clock(streamed.rows)
    same = jax.tree.map(np.array_equal, in_memory.snapshot.state, streamed.snapshot.state)
    assert jax.tree.all(same)
    assert max(most) == experiment.train.eval_batch_size < len(dataset.train.labels)


@pytest.mark.trains_long
def test_a_run_resumes_from_any_snapshot_to_the_same_bits(experiment, dataset):
    whole, rest = Recorder(), Recorder()
    experiment = experiment.replace(train=experiment.train.replace(ema_decay=0.9))
    expected = fit(experiment, dataset, hooks=(whole,))
    assert (whole.plans[0].steps_done, len(whole.snapshots)) == (0, 3)

    class Stop(Exception):
        pass

    class Stopper(Hook):
        def epoch(self, snapshot):
            self.snapshot = jax.device_get(snapshot)
            raise Stop

    stopper = Stopper()
    with pytest.raises(Stop):
        fit(experiment, dataset, hooks=(stopper,))
    resumed = fit(experiment, dataset, stopper.snapshot, hooks=(rest,))
    assert rest.plans[0].steps_done == 10
    assert without_clock(resumed.rows) == without_clock(expected.rows)
    assert jax.tree.all(jax.tree.map(np.array_equal, resumed.snapshot.state, expected.snapshot.state))


def test_hooks_are_called_in_order_after_the_evaluation(experiment, dataset):
    calls = []

    class Named(Hook):
        def __init__(self, name):
            self.name = name

        def epoch(self, snapshot):
            calls.append((self.name, len(snapshot.rows)))

    fit(experiment, dataset, hooks=(Named("log"), Named("save")))
    assert calls == [(name, epoch) for epoch in (1, 2, 3) for name in ("log", "save")]


def test_freeze_patterns_are_checked_before_training(experiment, dataset):
    wrong = experiment.replace(train=experiment.train.replace(freeze=("conv9",)))
    with pytest.raises(UserError, match="train.freeze 'conv9' matches no parameter"):
        fit(wrong, dataset)
