"""Networks drawn from the design spaces of the RegNet paper."""

import itertools

import jax
import numpy as np
import pytest

from cnnjax.complexity import complexity
from cnnjax.design_spaces import (
    BOTTLENECKS,
    GROUP_WIDTHS,
    MOST_DEPTH,
    MOST_REGNET_DEPTH,
    MOST_WIDTH,
    SPACES,
    W_M,
    Budget,
    estimated_multiply_adds,
    sample,
)
from cnnjax.errors import UserError
from cnnjax.functional import abstract_variables, apply, init, leaves_by_path
from cnnjax.models import from_dict
from cnnjax.models.regnet import AnyNet

SMALL = {"input_size": 32, "stem": "cifar", "num_classes": 10}


def increases(values):
    return all(a <= b for a, b in itertools.pairwise(values))


@pytest.mark.parametrize("name", SPACES)
def test_sampled_networks_satisfy_the_constraints_of_their_space(name):
    space, networks = SPACES[name], sample(name, 40, 0, **SMALL)
    plans = [network.plan() for network in networks]
    assert all(len(plan) == 4 for plan in plans)
    for network, plan in zip(networks, plans, strict=True):
        for stage in plan:
            assert stage.bottleneck in BOTTLENECKS
            assert stage.width % (stage.bottleneck * stage.group_width) == 0
            assert stage.depth <= (MOST_REGNET_DEPTH if space.linear else MOST_DEPTH)
        if space.linear:
            assert W_M[0] <= network.w_m <= W_M[1]
            assert network.rounding == "pycls"
        else:
            assert max(stage.width for stage in plan) <= MOST_WIDTH + max(BOTTLENECKS) * max(GROUP_WIDTHS)
    # Every network satisfies the constraints of its space; AnyNetXA has none, and some of its networks violate each.
    held = {
        "shared_bottleneck": [len({stage.bottleneck for stage in plan}) == 1 for plan in plans],
        "shared_group_width": [len({stage.group_width for stage in plan}) == 1 for plan in plans],
        "widths_increase": [increases([stage.width for stage in plan]) for plan in plans],
        "depths_increase": [increases([stage.depth for stage in plan]) for plan in plans],
    }
    for constraint, holds in held.items():
        if getattr(space, constraint) and not (space.linear and constraint == "shared_group_width"):
            assert all(holds), constraint
        if name == "AnyNetXA":
            assert not all(holds), constraint
    assert {network.se_ratio for network in networks} == {0.25 if name.startswith("RegNetY") else 0.0}


def test_samples_are_reproducible_and_extend_each_other():
    budget = Budget(multiply_adds=(0, 2e7))
    networks = sample("AnyNetXE", 3, 7, budget, **SMALL)
    assert networks == sample("AnyNetXE", 3, 7, budget, **SMALL)
    assert networks[:1] == sample("AnyNetXE", 1, 7, budget, **SMALL)
    assert networks[:1] != sample("AnyNetXE", 1, 8, budget, **SMALL)
    assert len(set(networks)) == 3


@pytest.mark.compiles_large
@pytest.mark.parametrize("name", ["AnyNetXA", "RegNetY"])
def test_the_formula_equals_the_counted_complexity_of_the_built_network(name):
    for stem, size in (("cifar", 32), ("imagenet", 75)):
        [arch] = sample(name, 1, 3, Budget(multiply_adds=(1e6, 3e7)), stem=stem, input_size=size, num_classes=10)
        counted = complexity(arch)
        assert counted.multiply_adds == estimated_multiply_adds(arch)
        parameters = leaves_by_path(abstract_variables(arch).params).values()
        assert counted.parameters == sum(int(np.prod(leaf.shape)) for leaf in parameters)
        assert from_dict(arch.to_dict()) == arch


def test_budgets_bound_parameters_and_activations():
    budget = Budget(multiply_adds=(5e6, 2e7), parameters=(1e5, 2e6), activations=(1e4, 4e5))
    [arch] = sample("RegNetX", 1, 1, budget, **SMALL)
    counted = complexity(arch)
    assert 5e6 <= counted.multiply_adds <= 2e7
    assert 1e5 <= counted.parameters <= 2e6
    assert 1e4 <= counted.activations <= 4e5


@pytest.mark.compiles_large
def test_an_anynet_runs_forward():
    arch = AnyNet(
        depths=(1, 2), widths=(16, 24), bottlenecks=(2, 1), group_widths=(4, 8), se_ratio=0.25, **SMALL
    )  # fmt: skip
    variables = init(arch, jax.random.key(0))
    outputs, _ = apply(arch, variables, np.zeros((2, 32, 32, 3), np.float32))
    assert outputs.logits.shape == (2, 10)
    assert variables.params["stage1"]["0"]["conv2"]["conv"]["kernel"].shape == (3, 3, 4, 8)


def test_an_unreachable_budget_and_an_unknown_space_are_refused(monkeypatch):
    monkeypatch.setattr("cnnjax.design_spaces.MOST_DRAWS", 50)
    with pytest.raises(UserError, match=r"50 draws from RegNetX in a row are outside the budget .*; widen the budget"):
        sample("RegNetX", 1, 0, Budget(multiply_adds=(0, 1)), **SMALL)
    with pytest.raises(UserError, match=r"unknown design space 'RegNetZ'; did you mean 'RegNet"):
        sample("RegNetZ", 1, 0)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"depths": (1, 2)}, "differ in length; give one value per stage"),
        ({"widths": (30, 64, 160, 400)}, "stage 1 has width 30, bottleneck ratio 1 and group width 16"),
        ({"depths": (0, 1, 1, 1)}, "1 or more"),
    ],
)
def test_invalid_stages_are_refused(options, message):
    with pytest.raises(UserError, match=message):
        AnyNet(**options)
