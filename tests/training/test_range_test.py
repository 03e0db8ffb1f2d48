"""The learning-rate range test: its rates, its end, its suggestion, and what it leaves alone."""

import jax
import numpy as np
import pytest

from cnnjax import create, data, init
from cnnjax.config import EarlyStopping, Optimizer, Train
from cnnjax.errors import UserError
from cnnjax.functional import leaves_by_path
from cnnjax.training.loop import fit
from cnnjax.training.range_test import (
    HIGHEST,
    LOWEST,
    Curve,
    has_diverged,
    range_test,
    smoothed,
    suggestion,
    sweep_steps,
)


@pytest.fixture
def small(experiment):
    return experiment.replace(
        model=create("mlp"), optimizer=Optimizer(name="sgd", lr=0.5, base_batch=32), train=Train(batch_size=32)
    )


def curve(loss, steps=141):
    rates = np.geomspace(LOWEST, HIGHEST, steps)
    return Curve(tuple(rates.tolist()), tuple(loss(np.log10(rates)).tolist()), False)


def valley(exponents):
    """A loss that falls from 2 to 1 around 1e-3 and rises steeply above 1e-1."""
    return 2 - 1 / (1 + np.exp(-4 * (exponents + 3))) + np.exp(4 * (exponents + 0.5))


def test_the_suggestion_is_where_the_smoothed_loss_falls_most():
    suggested = suggestion(curve(valley))
    assert 10**-3.1 < suggested.steepest < 10**-2.9
    assert 10**-2.2 < suggested.lowest < 10**-1.3
    noise = np.random.default_rng(0).normal(scale=0.05, size=141)
    noisy = suggestion(curve(lambda exponents: valley(exponents) + noise))
    assert 10**-3.4 < noisy.steepest < 10**-2.6


@pytest.mark.parametrize("loss", [lambda x: 2 + 0 * x, lambda x: 2 + np.exp(x), lambda x: 2 - 0.01 * (x + 6)])
def test_a_loss_that_does_not_fall_has_no_suggestion(loss):
    assert suggestion(curve(loss)) is None


def test_a_fall_within_the_noise_of_the_batches_gives_no_suggestion():
    noise = np.random.default_rng(1).normal(scale=0.4, size=42)
    assert suggestion(curve(lambda x: 1 + noise + np.exp(4 * x), steps=42)) is None
    assert suggestion(curve(lambda x: 1 + noise / 20 - 0.4 / (1 + np.exp(-4 * (x + 3))), steps=42)) is not None


@pytest.mark.parametrize("count", [1, 2])
def test_a_loss_that_explodes_at_once_has_no_suggestion(count):
    assert suggestion(Curve((1e-6, 2e-6)[:count], (3.0, 1.0)[:count], True)) is None


def test_smoothing_keeps_a_constant_and_limits_an_exploding_loss():
    np.testing.assert_allclose(smoothed(curve(lambda x: 2 + 0 * x)), 2)
    exploding = curve(lambda x: np.where(x > 0.9, 1e20, 2.0))
    assert smoothed(exploding).max() <= 8


def test_the_sweep_ends_when_the_mean_of_the_last_losses_is_four_times_the_lowest():
    losses = [2.0] * 70 + [0.5] * 30  # a window of 4 steps
    assert not has_diverged(losses, 140)
    assert not has_diverged([*losses, 2.1, 2.1, 2.1], 140)
    assert has_diverged([*losses, 2.1, 2.1, 2.1, 2.1], 140)


@pytest.mark.parametrize(("steps", "expected"), [(None, 20), (35, 35)])
def test_a_sweep_has_one_epoch_of_steps_but_at_least_twenty(steps, expected):
    assert sweep_steps(10, steps) == expected
    assert sweep_steps(500, None) == 500


@pytest.mark.parametrize("steps", [0, 19, 2**31])
def test_a_sweep_of_too_few_or_too_many_steps_is_refused(steps):
    with pytest.raises(UserError, match=f"--find-lr-steps is {steps}; it must be 20 to "):
        sweep_steps(10, steps)


def test_rates_grow_by_one_factor_from_a_copy_of_the_initial_state(small):
    """The schedule, the linear scaling and the rate of the experiment have no effect."""
    dataset, seen = data.load(small.data), []
    variables = init(small.model, jax.random.key(3))
    before = jax.tree.map(np.array, variables)
    swept = range_test(small, dataset, 25, variables, watch=lambda *step: seen.append(step))
    factors = np.diff(np.log(swept.rates))
    assert swept.rates[0] == 1e-6
    np.testing.assert_allclose(factors, np.log(HIGHEST / LOWEST) / 24, rtol=1e-3)
    assert seen == [(n + 1, *step) for n, step in enumerate(zip(swept.rates, swept.losses, strict=True))]
    for path, leaf in leaves_by_path(before.params).items():
        assert np.array_equal(leaf, leaves_by_path(variables.params)[path])
    again = range_test(small.replace(optimizer=Optimizer(name="sgd")), dataset, 25, variables)
    assert again == swept


def test_the_images_are_those_of_the_training(small):
    """At the lowest rates the losses of an epoch are those of a run that hardly learns."""
    dataset = data.load(small.data)
    swept = range_test(small, dataset, 100)
    slow = fit(small.replace(optimizer=Optimizer(name="sgd", lr=1e-7), train=Train(batch_size=32, epochs=1)), dataset)
    assert abs(np.mean(swept.losses[:10]) - slow.rows[0]["train_loss"]) < 1e-4


@pytest.mark.trains_long
@pytest.mark.parametrize(
    ("name", "low", "high"),
    [("adam", 4e-4, 4e-3), ("sgd", 1e-2, 0.2), ("momentum", 3e-3, 3e-2), ("muon", 5e-3, 8e-2), ("lion", 2e-4, 3e-3)],
)
def test_lenet_on_fashion_mnist_gets_a_sensible_rate_for_each_optimizer(name, low, high):
    """Around the rates that are known to train this network well: 2e-3 for adam, 0.02 for muon as published."""
    from cnnjax.cli import load_experiment

    experiment = load_experiment("lenet_mini").experiment.replace(
        optimizer=Optimizer(name=name), early_stopping=EarlyStopping()
    )
    suggested = suggestion(range_test(experiment, data.load(experiment.data)))
    assert low < suggested.steepest < high
