"""Large-batch, sign and orthogonalizing optimizers together with the other training options."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from conftest import SilentProgress, fit_run, mostly_slow

from cnnjax import create, data
from cnnjax.config import Optimizer, Train
from cnnjax.errors import Interrupted
from cnnjax.functional import leaves_by_path
from cnnjax.losses import Batch
from cnnjax.optim import make_hyperparameters
from cnnjax.runs.folder import RunFolder
from cnnjax.training.program import program_of
from cnnjax.training.state import init_state
from cnnjax.training.step import make_train_step
from cnnjax.transfer.frozen import moments

OPTIMIZERS = {"lamb": 0.01, "lars": 1.0, "lion": 1e-3, "muon": 0.02}
"""Learning rate by optimizer."""
KEY = jax.random.key(5)
FREEZE = ("dense1/bias", "dense2")


@pytest.fixture
def dataset(experiment):
    return data.load(experiment.data)


def after(experiment, dataset, values=None, steps=2):
    """Return the states before and after some steps on one batch; with stacked ``values``, those of all members."""
    batch = Batch(*(jnp.asarray(array[:32]) for array in dataset.train))
    step = make_train_step(experiment, dataset.preprocessing)
    given = make_hyperparameters(experiment, 10) if values is None else values
    first = init_state(experiment, make_hyperparameters(experiment, 10))
    state, step = first, jax.jit(step if values is None else jax.vmap(step, in_axes=(0, None, None, 0)))
    if values is not None:
        state = jax.tree.map(lambda leaf: jnp.stack([leaf] * len(values.lr)), state)
    for _ in range(steps):
        state = step(state, batch, KEY, given)
    return first, state


@pytest.mark.trains_long
@pytest.mark.parametrize("name", mostly_slow(["muon", "lamb", "lars", "lion"], 1))
def test_members_with_other_values_train_side_by_side_in_one_program(experiment, dataset, name):
    optimizer = Optimizer(name=name, lr=OPTIMIZERS[name], clip_norm=5.0, layer_decay=0.5)
    one = experiment.replace(model=create("mlp"), optimizer=optimizer)
    other = one.replace(
        optimizer=optimizer.replace(
            lr=2 * optimizer.lr, b1=0.8, b2=0.95, momentum=0.5, trust=0.01, adam_lr=0.01, weight_decay=0.1,
            base_batch=64, clip_norm=1.0, layer_decay=0.9,
        )
    )  # fmt: skip
    assert program_of(one) == program_of(other)
    values = [make_hyperparameters(member, 10) for member in (one, other)]
    _, stacked = after(program_of(one), dataset, jax.tree.map(lambda *leaves: jnp.stack(leaves), *values))
    for number, member in enumerate((one, other)):
        _, alone = after(member, dataset)
        for path, leaf in leaves_by_path(alone.params).items():
            mine = leaves_by_path(stacked.params)[path][number]
            # Lion's sign turns a rounding error in a momentum near 0 into a full step.
            differing = np.mean(~np.isclose(mine, leaf, rtol=1e-4, atol=1e-5))
            assert differing <= (1e-3 if name == "lion" else 0), path


@pytest.mark.trains_long
@pytest.mark.parametrize("name", OPTIMIZERS)
def test_layer_decay_slows_the_stages_below_the_head_and_frozen_parameters_stay(experiment, dataset, name):
    optimizer = Optimizer(name=name, lr=OPTIMIZERS[name])
    base = experiment.replace(model=create("mlp"), optimizer=optimizer, train=Train(batch_size=32, freeze=FREEZE))
    first, plain = after(base, dataset, steps=1)
    _, slowed = after(base.replace(optimizer=optimizer.replace(layer_decay=0.5)), dataset, steps=1)
    before, full, part = (leaves_by_path(state.params) for state in (first, plain, slowed))
    for path in ("dense1/bias", "dense2/bias", "dense2/kernel"):
        assert np.array_equal(before[path], part[path])
    for path, share in (("dense1/kernel", 0.25), ("head/kernel", 1)):
        assert np.abs(full[path] - before[path]).max() > 1e-6
        np.testing.assert_allclose(part[path] - before[path], share * (full[path] - before[path]), rtol=1e-2, atol=1e-6)
    assert moments(plain.opt_state, FREEZE) == 0 and moments(plain.opt_state, ("head",)) > 0


@pytest.mark.trains_long
@pytest.mark.parametrize("name", mostly_slow(["muon", "lamb", "lars", "lion"], 1, pytest.mark.trains_long))
def test_a_run_that_is_interrupted_resumes_to_the_same_bits(experiment, tmp_path, name):
    short = experiment.replace(
        model=create("mlp"), optimizer=Optimizer(name=name, lr=OPTIMIZERS[name]),
        train=Train(epochs=2, batch_size=32, eval_batch_size=80, ema_decay=0.9),
    )  # fmt: skip
    whole, cut = (RunFolder(tmp_path / part) for part in ("whole", "cut"))
    for folder in (whole, cut):
        folder.start("run", short)
    expected = fit_run(short, whole, SilentProgress())
    polls = []

    def poll():
        polls.append(None)
        if len(polls) == 5:
            raise Interrupted("stopped")

    with pytest.raises(Interrupted):
        fit_run(short, cut, SilentProgress(), poll=poll)
    resumed = fit_run(short, cut, SilentProgress())
    states = (jax.tree.leaves(run.outcome.snapshot.state) for run in (resumed, expected))
    assert all(np.array_equal(mine, theirs) for mine, theirs in zip(*states, strict=True))
