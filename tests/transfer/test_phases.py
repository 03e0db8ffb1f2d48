"""What a phase trains and freezes, and phases that do not fit."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cnnjax import create, data
from cnnjax.config import Augmentation, Optimizer, Phase
from cnnjax.errors import UserError
from cnnjax.functional import abstract_variables, apply, init, leaves_by_path, parameter_groups
from cnnjax.losses import Batch
from cnnjax.optim import make_hyperparameters, scale_by_stage
from cnnjax.partition import is_frozen
from cnnjax.training.state import init_state
from cnnjax.training.step import make_train_step
from cnnjax.transfer.choice import choose_phases
from cnnjax.transfer.frozen import frozen
from cnnjax.transfer.phases import covering, frozen_patterns, phase_experiment, resolved
from tests.transfer.trained import BODY, transfer_experiment

NORMS = ("norm", "norm1", "norm2")


def trained_paths(phase, arch=BODY):
    patterns = frozen_patterns(arch, phase)
    return [path for group in parameter_groups(arch).values() for path in group if not is_frozen(path, patterns)]


def test_the_groups_of_a_network_are_its_stages_and_its_head():
    groups = parameter_groups(create("lenet"))
    assert list(groups) == ["stage1", "stage2", "head"]
    assert {path.split("/")[0] for path in groups["stage2"]} == {"conv2", "dense1", "dense2"}
    assert groups["head"] == ("head/bias", "head/kernel")


@pytest.mark.compiles_large
def test_the_groups_of_networks_with_several_heads_or_hidden_layers():
    groups = parameter_groups(create("xception", width=2, middle_blocks=0))
    assert list(groups) == ["stem", "stage1", "stage2", "stage3", "stage4", "head"]
    assert groups["head"] == ("head/bias", "head/kernel")
    hidden = parameter_groups(create("vgg11", head_hidden=(16,)))
    assert hidden["head"] == (
        "head/hidden/0/bias", "head/hidden/0/kernel", "head/output/bias", "head/output/kernel",
    )  # fmt: skip
    assert any("dense1" in path for path in hidden["stage5"])
    auxiliary = parameter_groups(create("googlenet", width=4, aux_heads=True))
    assert {path.split("/")[0] for path in auxiliary["head"]} == {"head", "aux1", "aux2"}


def test_a_phase_trains_what_it_names():
    assert trained_paths(Phase(train="head")) == ["head/bias", "head/kernel"]
    last = trained_paths(Phase(train="stages:1"))
    assert {path.split("/")[0] for path in last} == {"stage2", "head"}
    assert not any(path.split("/")[-2] in NORMS for path in last)  # norms stay frozen unless asked for
    with_norms = trained_paths(Phase(train="stages:1", norms="train"))
    assert any(path.split("/")[-2] in NORMS for path in with_norms)
    assert set(last) < set(with_norms)
    everything = [path for group in parameter_groups(BODY).values() for path in group]
    assert trained_paths(Phase(train="all", norms="train")) == everything
    assert trained_paths(Phase(train="stages:3", norms="train")) == everything


def test_patterns_are_as_short_as_possible():
    assert frozen_patterns(BODY, Phase(train="head")) == ("stem", "stage1", "stage2")
    assert covering(["a/b/c", "a/b/d", "e"], ["a/b/c", "a/b/d", "a/f", "e"]) == ("a/b", "e")
    assert covering([], ["a"]) == ()


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Phase(train="stages:0"), "phase.train is 'stages:0'; it must be head, stages:N"),
        (lambda: Phase(epochs=0), "phase.epochs is 0; it must be 1 or more"),
        (lambda: Phase(layer_decay=0.0), "phase.layer_decay is 0.0; it must be greater than 0"),
        (
            lambda: frozen_patterns(BODY, Phase(train="stages:4")),
            r"'stages:4' and the network has 3 stages \(stem, stage1, stage2\); give stages:1 to stages:3",
        ),
        (lambda: create("resnet18", num_classes=3, head_sigmoid=True), "head_sigmoid is given for 3 classes"),
    ],
)
def test_invalid_phases_are_refused(make, message):
    with pytest.raises(UserError, match=message):
        make()


def test_the_number_of_classes_comes_from_the_data_and_unfit_phases_are_refused(digits):
    experiment = transfer_experiment(digits, "nowhere", model=BODY.replace(num_classes=0))
    dataset = data.load(experiment.data)
    assert resolved(experiment, dataset).model.num_classes == 10
    assert resolved(experiment.replace(phases=()), dataset) == experiment.replace(phases=())
    with pytest.raises(UserError, match="trains 'head' and freezes untrained layers; give trained"):
        resolved(experiment.replace(init=None), dataset)
    one = data.load(experiment.data.replace(classes=("7",)))
    with pytest.raises(UserError, match="has only the class 7; a classifier needs two classes or more"):
        resolved(experiment, one)
    auto = experiment.replace(phases=(Phase(train="auto"), Phase()))
    with pytest.raises(UserError, match="one of 2 phases trains 'auto'"):
        resolved(auto, dataset)


def test_phases_are_chosen_by_the_number_of_images():
    augmentation = Augmentation(flip=True)
    few, some, many = (choose_phases(images, 2, augmentation) for images in (60, 400, 4000))
    assert [phase.train for phase in few.phases] == ["head"]
    assert [phase.train for phase in some.phases] == ["head", "stages:1"]
    assert [phase.train for phase in many.phases] == ["head", "stages:1", "all"]
    assert "60 training images in 2 classes, about 30 a class: fewer than 50" in few.reason
    assert many.phases[0].augmentation == Augmentation()
    assert many.phases[1].augmentation == augmentation


def test_layer_wise_rates_equal_their_formula():
    groups = parameter_groups(BODY)
    ones = jax.tree.map(lambda leaf: jnp.ones(leaf.shape), abstract_variables(BODY).params)
    scaled = leaves_by_path(scale_by_stage(ones, groups, np.float32(0.7)))
    for depth, group in enumerate(["head", "stage2", "stage1", "stem"]):
        for path in groups[group]:
            np.testing.assert_allclose(scaled[path], 0.7**depth, rtol=1e-6)


def batch_of(experiment):
    dataset = data.load(experiment.data)
    return dataset.preprocessing, Batch(jnp.asarray(dataset.train.images[:16]), jnp.asarray(dataset.train.labels[:16]))


@pytest.mark.compiles_large
def test_the_step_applies_the_layer_wise_rates(digits):
    model = create("mlp")
    plain = transfer_experiment(
        digits, "nowhere", model=model, phases=(), init=None, optimizer=Optimizer(name="sgd", lr=0.1)
    )
    decayed = plain.replace(optimizer=plain.optimizer.replace(layer_decay=0.5))
    preprocessing, batch = batch_of(plain)
    changes = []
    for experiment in (plain, decayed):
        values = make_hyperparameters(experiment, 5)
        state = init_state(experiment, values)
        after = jax.jit(make_train_step(experiment, preprocessing))(state, batch, jax.random.key(0), values)
        changes.append(leaves_by_path(jax.tree.map(lambda a, b: a - b, after.params, state.params)))
    for depth, layer in enumerate(["head", "dense2", "dense1"]):
        whole, scaled = (change[f"{layer}/kernel"] for change in changes)
        np.testing.assert_allclose(scaled, whole * 0.5**depth, atol=2e-8)


# Frozen --------------------------------------------------------------------------------------------------------------


def step_of_phase(digits, phase, **changes):
    experiment = phase_experiment(transfer_experiment(digits, "nowhere", **changes), phase)
    preprocessing, batch = batch_of(experiment)
    values = make_hyperparameters(experiment, 5)
    return experiment, make_train_step(experiment, preprocessing), init_state(experiment, values), batch, values


def convolutions(program) -> int:
    """Return the number of convolutions forward, whatever algorithm computes them."""
    return sum(str(program).count(f"{name}[") for name in ("conv_general_dilated", "convolution", "with_epilogue"))


def test_the_step_of_the_head_computes_no_gradient_of_the_backbone(digits):
    programs = {}
    for part in ("head", "all"):
        _, step, state, batch, values = step_of_phase(digits, Phase(train=part))
        programs[part] = jax.make_jaxpr(step)(state, batch, jax.random.key(0), values)
    images = jnp.zeros((16, 28, 28, 1))
    forward = jax.make_jaxpr(lambda v, x: apply(BODY.replace(num_classes=10), v, x))(state.variables, images)
    assert convolutions(programs["head"]) == convolutions(forward) > 0
    kernels = [leaf for leaf in jax.tree.leaves(state.params) if leaf.ndim == 4]
    for kernel in kernels:  # no operation returns an array of its shape: no gradient, no moment, no update
        result = f":f32[{','.join(map(str, kernel.shape))}] = "
        assert result not in str(programs["head"])
        assert result in str(programs["all"])


@pytest.mark.compiles_large
def test_the_step_of_the_head_needs_less_memory(digits):
    sizes = {}
    for part in ("head", "all"):
        _, step, state, batch, values = step_of_phase(digits, Phase(train=part))
        compiled = jax.jit(step).lower(state, batch, jax.random.key(0), values).compile()
        sizes[part] = compiled.memory_analysis().temp_size_in_bytes
    assert sizes["head"] < 0.7 * sizes["all"]


def test_a_step_leaves_frozen_parameters_statistics_and_averages_bit_equal(digits):
    changes = {"train": transfer_experiment(digits, "").train.replace(ema_decay=0.9)}
    experiment, step, state, batch, values = step_of_phase(digits, Phase(train="stages:1", norms="train"), **changes)
    after = jax.jit(step)(state, batch, jax.random.key(0), values)
    patterns = experiment.train.freeze
    assert frozen(state.variables, patterns) == frozen(after.variables, patterns) == frozen(after.evaluated, patterns)
    assert frozen(state.variables, patterns).statistics > 0
    before, now = leaves_by_path(state.batch_stats), leaves_by_path(after.batch_stats)
    assert {path.split("/")[0] for path in before if not np.array_equal(before[path], now[path])} == {"stage2"}


@pytest.mark.compiles_large
def test_dropout_and_norms_of_frozen_layers_are_inactive(digits):
    arch = create("xception", width=2, middle_blocks=0, input_size=32, num_classes=3, dropout=0.5)
    variables = init(arch, jax.random.key(0))
    images = jax.random.normal(jax.random.key(1), (4, 32, 32, 3))
    head_only = frozen_patterns(arch, Phase(train="head"))
    key = jax.random.key(2)
    evaluated, _ = apply(arch, variables, images)
    frozen_body, stats = apply(arch, variables, images, train=True, key=key, frozen=head_only)
    np.testing.assert_array_equal(frozen_body.logits, evaluated.logits)
    assert all(map(np.array_equal, jax.tree.leaves(stats), jax.tree.leaves(variables.batch_stats)))
    trained, _ = apply(arch, variables, images, train=True, key=key, frozen=frozen_patterns(arch, Phase(train="all")))
    assert not np.array_equal(trained.logits, evaluated.logits)  # norms are frozen, dropout is not
