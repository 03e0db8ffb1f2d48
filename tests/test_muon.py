"""Muon against its formula, in float64 numpy: which parameters it orthogonalizes, and which adamw updates."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from cnnjax import create
from cnnjax.config import Experiment, Optimizer
from cnnjax.optim import make_hyperparameters, make_rule
from cnnjax.training.state import rule_of

STEPS = 4
SHAPES = {"conv1/kernel": (3, 3, 2, 4), "conv1/bias": (4,), "fc1/kernel": (3, 6), "head/kernel": (6, 5)}


@pytest.fixture(autouse=True)
def float64():
    with jax.enable_x64(True):
        yield


def nested(flat):
    return {name: {leaf: flat[f"{name}/{leaf}"] for leaf in ("kernel", "bias") if f"{name}/{leaf}" in flat}
            for name in ("conv1", "fc1", "head")}  # fmt: skip


def values_of(config):
    values = make_hyperparameters(Experiment(model=create("mlp"), optimizer=config), steps_per_epoch=10)
    names = ("lr", "adam_lr", "momentum", "b1", "b2", "eps", "weight_decay")
    return values._replace(**{name: np.float64(getattr(config, name)) for name in names})


def orthogonalized(matrix, eps):
    """Return five iterations of the quintic whose coefficients the author of Muon chose."""
    x = matrix / (np.sqrt((matrix**2).sum()) + eps)
    a, b, c = 3.4445, -4.7750, 2.0315
    for _ in range(5):
        gram = x.T @ x
        x = a * x + x @ (b * gram + c * gram @ gram)
    return x


def formula(config, params, grads, rate):
    """Return the parameters by path after STEPS steps with constant gradients of the given signs."""
    w = {path: value.copy() for path, value in params.items()}
    first, second = ({path: np.zeros_like(value) for path, value in params.items()} for _ in range(2))
    for t in range(1, STEPS + 1):
        for path, g in grads[t - 1].items():
            decay = config.weight_decay if w[path].ndim > 1 else 0.0
            if path in ("conv1/kernel", "fc1/kernel"):
                beta = config.momentum
                first[path] = beta * first[path] + (1 - beta) * g
                m = beta * first[path] / (1 - beta ** (t + 1)) + (1 - beta) * g / (1 - beta**t)
                step = orthogonalized(m.reshape(-1, m.shape[-1]), config.eps).reshape(m.shape)
                step = step * np.sqrt(max(1, m.shape[-1] / np.prod(m.shape[:-1])))
                w[path] -= rate * (step + decay * w[path])
            else:
                first[path] = config.b1 * first[path] + (1 - config.b1) * g
                second[path] = config.b2 * second[path] + (1 - config.b2) * g**2
                root = np.sqrt(second[path] / (1 - config.b2**t)) + config.eps
                step = first[path] / (1 - config.b1**t) / root
                w[path] -= rate * config.adam_lr / config.lr * (step + decay * w[path])
    return w


@pytest.mark.compiles_large
@pytest.mark.parametrize(
    "options",
    [{}, {"weight_decay": 0.1}, {"momentum": 0.5, "b1": 0.5, "b2": 0.9, "eps": 1e-3, "adam_lr": 0.1}],
)
def test_kernels_are_orthogonalized_and_adamw_updates_the_rest(options):
    config, rng = Optimizer(name="muon", lr=0.02, **options), np.random.default_rng(0)
    params, *grads = [{path: rng.normal(size=shape) for path, shape in SHAPES.items()} for _ in range(STEPS + 1)]
    rate = 0.005  # what a schedule makes of the base rate
    rule = make_rule(config, head=("head/kernel",))(values_of(config), np.float64(rate))
    trained = jax.tree.map(jnp.asarray, nested(params))
    state = rule.init(trained)
    for grad in grads:
        updates, state = rule.update(jax.tree.map(jnp.asarray, nested(grad)), state, trained)
        trained = optax.apply_updates(trained, updates)
    expected = nested(formula(config, params, grads, rate))
    for actual, wanted in zip(jax.tree.leaves(trained), jax.tree.leaves(expected), strict=True):
        np.testing.assert_allclose(actual, wanted, rtol=1e-7, atol=1e-9)


def test_the_head_and_vectors_have_adam_moments_and_the_other_kernels_do_not():
    experiment = Experiment(model=create("lenet"), optimizer=Optimizer(name="muon"))
    params = {"conv1": {"kernel": jnp.ones((5, 5, 1, 6)), "bias": jnp.ones(6)}, "head": {"kernel": jnp.ones((8, 10))}}
    state = rule_of(experiment)(values_of(experiment.optimizer), 0.1).init(params)
    sizes = sorted(leaf.size for leaf in jax.tree.leaves(state) if leaf.size > 3)
    assert sizes == [6, 6, 80, 80, 150]  # two moments of each vector and of the head, one of the kernel
