"""Compare schedules with torch, and optimizers with timm, on the same gradients."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import torch

from cnnjax import create
from cnnjax.benchmark.torch_networks import import_torchvision
from cnnjax.config import Experiment, Optimizer, Schedule, Train
from cnnjax.optim import learning_rate, make_hyperparameters, make_rule
from cnnjax.training.plateau import reduction

import_torchvision()
from timm.optim import Lamb, Lars, Lion  # noqa: E402

LR, STEPS = 0.1, 100
scheduler = torch.optim.lr_scheduler


def experiment(**options):
    return Experiment(model=create("mlp"), train=Train(epochs=10), **options)


def rates_of_torch(make):
    """Return the rate of each step under a scheduler of torch."""
    optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], LR)
    schedule = make(optimizer)
    rates = []
    for _ in range(STEPS):
        rates.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        schedule.step()
    return rates


@pytest.mark.parametrize(
    ("config", "make"),
    [
        (
            Schedule(name="one_cycle", end=4e-6),
            lambda optimizer: scheduler.OneCycleLR(optimizer, LR, total_steps=STEPS, cycle_momentum=False),
        ),
        (
            Schedule(name="one_cycle_linear", start=0.1, peak=0.45, end=1e-3),
            lambda optimizer: scheduler.OneCycleLR(
                optimizer, LR, total_steps=STEPS, pct_start=0.45, div_factor=10, final_div_factor=100,
                anneal_strategy="linear", cycle_momentum=False,
            ),
        ),
        (
            Schedule(name="polynomial", power=0.9),
            lambda optimizer: scheduler.PolynomialLR(optimizer, total_iters=STEPS, power=0.9),
        ),
    ],
)  # fmt: skip
def test_schedules_equal_torch_s(config, make):
    values = make_hyperparameters(experiment(schedule=config, optimizer=Optimizer(lr=LR)), STEPS // 10)
    ours = [float(learning_rate(config.name, np.int32(step), values)) for step in range(STEPS)]
    np.testing.assert_allclose(ours, rates_of_torch(make), rtol=1e-5, atol=1e-8)


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize(("patience", "cooldown", "min_delta", "end"), [(1, 0, 0.0, 0.0), (3, 2, 0.02, 0.05)])
def test_plateau_equals_torch_s(seed, patience, cooldown, min_delta, end):
    """Torch reduces the rate after one epoch more than its patience."""
    losses = np.random.default_rng(seed).uniform(0.4, 0.6, 40) + np.geomspace(1, 1e-3, 40)
    config = Schedule(
        name="plateau", factor=0.3, patience=patience, cooldown=cooldown, min_delta=min_delta, end=end
    )  # fmt: skip
    optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], LR)
    schedule = scheduler.ReduceLROnPlateau(
        optimizer, factor=0.3, patience=patience - 1, threshold=min_delta, threshold_mode="abs", cooldown=cooldown,
        min_lr=end * LR, eps=0.0,
    )  # fmt: skip
    rows = [{"validation_loss": float(loss)} for loss in losses]
    for epoch, loss in enumerate(losses, start=1):
        schedule.step(float(loss))
        assert LR * reduction(config, rows[:epoch]) == pytest.approx(optimizer.param_groups[0]["lr"], rel=1e-9)


@pytest.mark.parametrize(
    ("config", "make"),
    [
        (
            Optimizer(name="lamb", lr=LR, weight_decay=0.1),
            lambda groups: Lamb(groups, lr=LR, betas=(0.9, 0.999), eps=1e-8, max_grad_norm=None),
        ),
        (
            Optimizer(name="lars", lr=LR, trust=0.01),
            lambda groups: Lars(groups, lr=LR, momentum=0.9, trust_coeff=0.01, eps=1e-8, always_adapt=True),
        ),
        (
            Optimizer(name="lion", lr=LR, b2=0.99, weight_decay=0.1),
            lambda groups: Lion(groups, lr=LR, betas=(0.9, 0.99)),
        ),
    ],
)
def test_optimizers_equal_timm_s(config, make):
    """Update a kernel. timm's lars adds the norm of the decay to that of the gradient, so it has no decay here."""
    rng = np.random.default_rng(0)
    kernel, grads = rng.normal(size=(6, 4)), rng.normal(size=(5, 6, 4))
    theirs = torch.tensor(kernel, requires_grad=True)
    optimizer = make([{"params": [theirs], "weight_decay": config.weight_decay}])
    with jax.enable_x64(True):
        values = make_hyperparameters(experiment(optimizer=config), 10)
        names = ("momentum", "b1", "b2", "eps", "trust", "weight_decay")
        exact = values._replace(**{name: np.float64(getattr(config, name)) for name in names})
        rule, params = make_rule(config)(exact, np.float64(LR)), {"kernel": jnp.asarray(kernel)}
        state = rule.init(params)
        for grad in grads:
            updates, state = rule.update({"kernel": jnp.asarray(grad)}, state, params)
            params = optax.apply_updates(params, updates)
            theirs.grad = torch.tensor(grad)
            optimizer.step()
            np.testing.assert_allclose(params["kernel"], theirs.detach().numpy(), rtol=1e-9, atol=1e-12)
