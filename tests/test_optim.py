"""Every optimizer and schedule against its formula, in float64 numpy."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from cnnjax import create
from cnnjax.config import Experiment, Optimizer, Schedule, Train
from cnnjax.errors import UserError
from cnnjax.optim import is_decayed, learning_rate, make_hyperparameters, make_rule
from cnnjax.partition import join, split_frozen

LR, STEPS = 0.1, 5


def gradient(kernel):
    """The gradient of a quadratic with unequal curvature."""
    return kernel * np.array([[1.0, 3.0], [0.5, 2.0]])


def hyperparameters(optimizer=Optimizer(lr=LR), schedule=Schedule(), epochs=10):  # noqa: B008
    """Return hyperparameters for 10 steps an epoch; those of the optimizer in float64, as in the formula."""
    experiment = Experiment(
        model=create("mlp"), optimizer=optimizer, schedule=schedule, train=Train(epochs=epochs)
    )  # fmt: skip
    made = make_hyperparameters(experiment, steps_per_epoch=10)
    names = ("momentum", "b1", "b2", "decay", "eps", "trust", "weight_decay", "clip_norm")
    values = {name: getattr(optimizer, name) for name in names}
    return made._replace(**{name: None if value is None else np.float64(value) for name, value in values.items()})


def run(config):
    optimizer = make_rule(config)(hyperparameters(config), np.float64(config.lr))
    params = {"kernel": jnp.array([[1.0, -2.0], [3.0, 0.5]]), "bias": jnp.array([1.0, -1.0])}
    state, path = optimizer.init(params), []
    for _ in range(STEPS):
        kernel = jnp.asarray(gradient(np.asarray(params["kernel"])))
        updates, state = optimizer.update({"kernel": kernel, "bias": params["bias"]}, state, params)
        params = optax.apply_updates(params, updates)
        path.append((np.asarray(params["kernel"]), np.asarray(params["bias"])))
    return path


def formula(
    name, *, b1=0.9, b2=0.999, momentum=0.9, decay=0.9, eps=1e-8, weight_decay=0.0, clip=math.inf, trust=1e-3
):  # fmt: skip
    w = [np.array([[1.0, -2.0], [3.0, 0.5]]), np.array([1.0, -1.0])]
    velocity, square = [np.zeros_like(x) for x in w], [np.zeros_like(x) for x in w]
    path = []
    for t in range(1, STEPS + 1):
        grads = [gradient(w[0]), w[1]]
        norm = math.sqrt(sum((g**2).sum() for g in grads))
        grads = [g * min(1.0, clip / norm) for g in grads]
        for i, g in enumerate(grads):
            decayed = weight_decay if i == 0 else 0.0  # only the kernel
            if name not in ("adamw", "lamb", "lion"):
                g = g + decayed * w[i]
            if name == "sgd":
                step = g
            elif name in ("momentum", "nesterov"):
                velocity[i] = momentum * velocity[i] + g
                step = g + momentum * velocity[i] if name == "nesterov" else velocity[i]
            elif name == "lion":
                step = np.sign(b1 * velocity[i] + (1 - b1) * g) + decayed * w[i]
                velocity[i] = b2 * velocity[i] + (1 - b2) * g
            elif name == "lars":
                ratio = trust * math.sqrt((w[i] ** 2).sum()) / (math.sqrt((g**2).sum()) + eps) if i == 0 else 1.0
                velocity[i] = momentum * velocity[i] + LR * ratio * g
                step = velocity[i] / LR
            elif name in ("adam", "adamw", "lamb"):
                velocity[i] = b1 * velocity[i] + (1 - b1) * g
                square[i] = b2 * square[i] + (1 - b2) * g**2
                step = velocity[i] / (1 - b1**t) / (np.sqrt(square[i] / (1 - b2**t)) + eps)
                if name in ("adamw", "lamb"):
                    step = step + decayed * w[i]
                if name == "lamb" and i == 0:
                    step = step * math.sqrt((w[i] ** 2).sum() / (step**2).sum())
            else:
                square[i] = decay * square[i] + (1 - decay) * g**2
                step = g / np.sqrt(square[i] + eps)
            w[i] = w[i] - LR * step
        path.append((w[0].copy(), w[1].copy()))
    return path


@pytest.fixture(autouse=True)
def float64():
    """Use float64, because float32 rounds 1 - b2 ** t, and therefore adam's steps, in the fifth digit."""
    with jax.enable_x64(True):
        yield


@pytest.mark.parametrize("name", ["sgd", "momentum", "nesterov", "adam", "adamw", "rmsprop", "lamb", "lars", "lion"])
@pytest.mark.parametrize("options", [{}, {"weight_decay": 0.1}, {"clip_norm": 0.5, "weight_decay": 0.1}])
def test_every_optimizer_equals_its_formula(name, options):
    expected_options = {"clip" if key == "clip_norm" else key: value for key, value in options.items()}
    for actual, expected in zip(
        run(Optimizer(name=name, lr=LR, **options)), formula(name, **expected_options), strict=True
    ):
        np.testing.assert_allclose(actual[0], expected[0], rtol=1e-9, atol=1e-12)
        np.testing.assert_allclose(actual[1], expected[1], rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("nesterov", {"momentum": 0.5}),
        ("adamw", {"b1": 0.5, "b2": 0.9, "eps": 1e-3}),
        ("momentum", {"momentum": 0.5}),
        ("adam", {"b1": 0.5, "b2": 0.9, "eps": 1e-3}),
        ("rmsprop", {"decay": 0.5, "eps": 1e-3}),
        ("lamb", {"b1": 0.5, "b2": 0.9, "eps": 1e-3}),
        ("lars", {"momentum": 0.5, "trust": 0.1, "eps": 0.5}),
        ("lion", {"b1": 0.5, "b2": 0.9}),
    ],
)
def test_optimizer_options_are_applied(name, options):
    for actual, expected in zip(run(Optimizer(name=name, lr=LR, **options)), formula(name, **options), strict=True):
        np.testing.assert_allclose(actual[0], expected[0], rtol=1e-9, atol=1e-12)


def test_weight_decay_skips_biases_and_norms():
    params = {"conv": {"kernel": jnp.ones((3, 3, 1, 2)), "bias": jnp.ones(2)}, "norm": {"scale": jnp.ones(2)}}
    assert is_decayed(params) == {"conv": {"kernel": True, "bias": False}, "norm": {"scale": False}}


def step_formula(t):
    return 0.5 ** sum(t >= boundary for boundary in (30, 55))


def cosine(t, total, end):
    return end + (1 - end) * 0.5 * (1 + math.cos(math.pi * t / total))


def one_cycle(t, curve, start, peak, end, total=100):
    """The schedule of Smith and Topin as torch computes it, from an annealing ``curve(a, b, share)``."""
    top = peak * total - 1
    return curve(start, 1, t / top) if t <= top else curve(1, end, (t - top) / (total - 1 - top))


def along_cosine(a, b, share):
    return b + (a - b) / 2 * (1 + math.cos(math.pi * share))


def along_line(a, b, share):
    return a + (b - a) * share


SCHEDULES = {
    "constant": (Schedule(), lambda t: 1.0),
    "step": (Schedule(name="step", boundaries=("3ep", "55st"), factor=0.5), step_formula),
    "exponential": (Schedule(name="exponential", factor=0.5, every="2ep"), lambda t: 0.5 ** (t / 20)),
    "cosine": (Schedule(name="cosine", end=0.1), lambda t: cosine(t, 100, 0.1)),
    "warmup_cosine": (
        Schedule(name="warmup_cosine", warmup="2ep", end=0.1),
        lambda t: t / 20 if t < 20 else cosine(t - 20, 80, 0.1),
    ),
    "one_cycle": (Schedule(name="one_cycle"), lambda t: one_cycle(t, along_cosine, 0.04, 0.3, 0.0)),
    "one_cycle with options": (
        Schedule(name="one_cycle", start=0.5, peak=0.255, end=0.1),
        lambda t: one_cycle(t, along_cosine, 0.5, 0.255, 0.1),
    ),
    "one_cycle_linear": (
        Schedule(name="one_cycle_linear", start=0.1, peak=0.4, end=1e-3),
        lambda t: one_cycle(t, along_line, 0.1, 0.4, 1e-3),
    ),
    "polynomial": (Schedule(name="polynomial"), lambda t: 1 - t / 100),
    "polynomial with options": (
        Schedule(name="polynomial", power=2.5, end=0.2),
        lambda t: 0.2 + 0.8 * (1 - t / 100) ** 2.5,
    ),
    "plateau": (Schedule(name="plateau"), lambda t: 1.0),
}


@pytest.mark.parametrize("name", SCHEDULES)
def test_every_schedule_equals_its_formula_at_every_step(name):
    config, expected = SCHEDULES[name]
    values = hyperparameters(Optimizer(lr=0.2), config)
    actual = [float(learning_rate(config.name, jnp.int32(t), values)) for t in range(100)]
    np.testing.assert_allclose(actual, [0.2 * expected(t) for t in range(100)], rtol=1e-6, atol=1e-8)


@pytest.mark.parametrize(
    ("config", "message"),
    [
        (Schedule(name="step", boundaries=("5ep", "3ep")), "they must increase"),
        (Schedule(name="warmup_cosine", warmup="10ep"), "it must be shorter than the training of 100 steps"),
        (Schedule(name="exponential", every="0st"), "it must be 1 step or more"),
        (Schedule(name="one_cycle", peak=0.01), "the product must be more than 1 step"),
    ],
)
def test_invalid_schedules_are_refused(config, message):
    with pytest.raises(UserError, match=message):
        hyperparameters(Optimizer(lr=0.2), config)


def test_the_constants_of_a_schedule_are_arguments_of_one_program():
    schedules = [Schedule(name="one_cycle", start=start, peak=peak) for start, peak in ((0.1, 0.3), (0.5, 0.6))]
    values = [hyperparameters(Optimizer(lr=lr), schedule) for lr, schedule in zip((0.1, 0.3), schedules, strict=True)]
    stacked = jax.tree.map(lambda *leaves: jnp.stack(leaves), *values)
    together = jax.vmap(lambda value: learning_rate("one_cycle", jnp.int32(40), value))(stacked)
    alone = [learning_rate("one_cycle", jnp.int32(40), value) for value in values]
    np.testing.assert_allclose(together, alone, rtol=1e-6)


@pytest.mark.parametrize(("base_batch", "factor"), [(None, 1), (256, 0.5), (32, 4)])
def test_linear_scaling_multiplies_both_rates_by_the_batch_size(base_batch, factor):
    optimizer = Optimizer(lr=0.2, adam_lr=0.01, base_batch=base_batch)
    values = make_hyperparameters(Experiment(model=create("mlp"), optimizer=optimizer, train=Train(batch_size=128)), 10)
    assert (values.lr, values.adam_lr) == (np.float32(0.2 * factor), np.float32(0.01 * factor))


TREE = {"conv1": {"bias": 1, "kernel": 2}, "stage1": {"0": {"conv1": {"kernel": 3}}}, "head": {"bias": 4, "kernel": 5}}


@pytest.mark.parametrize(
    ("patterns", "frozen"),
    [
        ((), []),
        (("conv1/*",), [1, 2]),
        (("conv1",), [1, 2]),
        (("conv1/bias", "stage1"), [1, 3]),
        (("*/kernel",), [2, 3, 5]),
    ],
)
def test_freezing_splits_parameters_into_two_trees_that_merge_back(patterns, frozen):
    trainable, rest = split_frozen(TREE, patterns)
    assert sorted(jax.tree.leaves(rest)) == frozen
    assert sorted(jax.tree.leaves(trainable) + frozen) == [1, 2, 3, 4, 5]
    assert join(trainable, rest) == TREE


@pytest.mark.parametrize(
    ("patterns", "message"),
    [
        (("conv2/*",), r"train.freeze 'conv2/\*' matches no parameter; "),
        (("*",), r"train.freeze \['\*'\] leaves no parameter to train"),
    ],
)
def test_patterns_that_freeze_nothing_or_everything_are_refused(patterns, message):
    with pytest.raises(UserError, match=message):
        split_frozen(TREE, patterns)
