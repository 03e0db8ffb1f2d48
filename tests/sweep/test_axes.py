"""Axes, members and groups: which experiments a sweep gives, and which of them share a program."""

import pytest

from cnnjax import create
from cnnjax.config import Data, Experiment, Optimizer, Schedule, Train
from cnnjax.errors import UserError
from cnnjax.sweep import Choice, LogUniform, Sweep, Uniform, drawn, grid, log_grid, zipped
from cnnjax.sweep.members import expand, groups, select
from cnnjax.sweep.store import identity

BASE = Experiment(model=create("lenet"))


def values(sweep):
    return [tuple(member.values.values()) for member in expand(BASE, sweep)]


def test_a_sweep_is_the_product_of_its_axes():
    sweep = Sweep(axes=(grid("model.activation", ("relu", "tanh")), grid("seed", range(2))))
    assert values(sweep) == [("relu", 0), ("relu", 1), ("tanh", 0), ("tanh", 1)]
    members = expand(BASE, sweep)
    assert [(m.experiment.model.activation, m.experiment.seed) for m in members] == values(sweep)
    assert members[2].title == "model.activation=tanh, seed=0"
    assert members[0].experiment.replace(seed=5, model=BASE.model) == BASE.replace(seed=5)


def test_zipped_options_change_together_and_only_the_result_has_to_be_valid():
    sweep = Sweep(axes=(zipped({"schedule.name": ("constant", "step"), "schedule.boundaries": ((), ["1ep"])}),))
    first, second = expand(BASE, sweep)
    assert first.experiment.schedule == Schedule()
    assert second.experiment.schedule == Schedule(name="step", boundaries=("1ep",))


def test_a_condition_leaves_other_members_as_they_are():
    sweep = Sweep(
        axes=(
            grid("optimizer.name", ("adam", "momentum")),
            grid("optimizer.momentum", (0.5, 0.8), when={"optimizer.name": ("momentum",)}),
        )
    )
    assert values(sweep) == [("adam",), ("momentum", 0.5), ("momentum", 0.8)]
    assert [m.experiment.optimizer.momentum for m in expand(BASE, sweep)] == [0.9, 0.5, 0.8]


def test_two_axes_set_one_option_where_their_conditions_exclude_each_other():
    adam, sgd = {"optimizer.name": ("adam",)}, {"optimizer.name": ("sgd",)}
    names = grid("optimizer.name", ("adam", "sgd"))
    sweep = Sweep(
        axes=(names, grid("optimizer.lr", (1e-3, 1e-2), when=adam), grid("optimizer.lr", (0.1, 1.0), when=sgd))
    )
    assert values(sweep) == [("adam", 1e-3), ("adam", 1e-2), ("sgd", 0.1), ("sgd", 1.0)]
    overlapping = Sweep(axes=(names, grid("seed", (0,), when=adam), grid("seed", (1,), when=adam)))
    with pytest.raises(UserError, match="two axes set seed of one member"):
        expand(BASE, overlapping)


def test_draws_are_reproducible_and_stay_in_their_ranges():
    options = {"optimizer.lr": LogUniform(1e-4, 1e-1), "optimizer.momentum": Uniform(0.5, 0.9),
               "model.pooling": Choice(("avg", "max"))}  # fmt: skip
    axis = drawn(40, options, seed=3)
    assert axis == drawn(40, options, seed=3)
    assert axis.points != drawn(40, options, seed=4).points
    rates, momenta, pools = zip(*axis.points, strict=True)
    assert len(set(axis.points)) == 40
    assert all(1e-4 <= rate <= 1e-1 for rate in rates)
    assert 10 < sum(rate < 10**-2.5 for rate in rates) < 30  # half of them, on a logarithmic scale
    assert all(0.5 <= momentum <= 0.9 for momentum in momenta)
    assert set(pools) == {"avg", "max"}
    assert len(expand(BASE, Sweep(axes=(axis,)))) == 40


def test_a_log_grid_has_readable_numbers():
    assert log_grid(1e-4, 1e-1, 4) == (0.0001, 0.001, 0.01, 0.1)
    assert log_grid(1e-3, 1e-2, 3)[1] == 0.003162


def test_the_model_axis_takes_names_of_variants_and_keeps_classes_and_size():
    base = Experiment(model=create("lenet", num_classes=7))
    lenet, mlp = expand(base, Sweep(axes=(grid("model", ("lenet", "mlp")), grid("model.activation", ("tanh",)))))
    assert lenet.experiment.model == create("lenet", num_classes=7, activation="tanh")
    assert mlp.experiment.model == create("mlp", num_classes=7, activation="tanh")


@pytest.mark.parametrize(
    ("axes", "message"),
    [
        ((), "the axes of the sweep is \\(\\); it must be one or more"),
        ((grid("optimizer.lrr", (1, 2)),), "unknown option 'optimizer.lrr'; did you mean 'optimizer.lr'"),
        ((grid("optimizer.lr", (0.1, -1)),), "optimizer.lr is -1; it must be greater than 0"),
        ((grid("optimizer.lr", (0.1, 0.1)),), "axis optimizer.lr has the point \\(0.1,\\) twice"),
        ((grid("seed", (0,)), grid("seed", (1,))), "two axes for seed"),
        ((grid("model", (create("mlp"),)),), "model takes the name of a variant"),
        ((grid("seed.x", (1,)),), "unknown option 'seed.x'"),
        ((grid("seed", (0, 1), when={"optimizer.name": ("sgd",)}),), "unknown condition of seed on 'optimizer.name'"),
        (
            (grid("optimizer.name", ("adam", "sgd")), grid("seed", (0,), when={"optimizer.name": ("sdg",)})),
            "unknown value of optimizer.name in a condition of seed 'sdg'; did you mean 'sgd'",
        ),
        ((grid("seed", range(200)), grid("train.epochs", range(1, 100))), "the number of members is 19800; it must be"),
    ],
)
def test_bad_axes_are_refused_with_one_sentence(axes, message):
    with pytest.raises(UserError, match=message):
        expand(BASE, Sweep(axes=axes))


def test_unequal_lists_and_impossible_draws_are_refused():
    with pytest.raises(UserError, match="it must be equally many for each option"):
        zipped({"seed": (0, 1), "train.epochs": (1,)})
    with pytest.raises(UserError, match="3 different points of model.pooling are asked for, and 2 were drawn"):
        drawn(3, {"model.pooling": Choice(("avg", "max"))})


SWEEP = Sweep(
    axes=(grid("model.activation", ("relu", "tanh")), grid("optimizer.lr", (1e-3, 0.1)), grid("seed", (0, 1)))
)


@pytest.mark.parametrize(
    ("only", "count"),
    [((), 8), (("model.activation=relu",), 4), (("optimizer.lr=1e-3", "seed=1"), 2), (("seed=0", "seed=1"), 8)],
)
def test_only_selects_members_by_value(only, count):
    assert len(select(expand(BASE, SWEEP), only)) == count


@pytest.mark.parametrize(
    ("only", "message"),
    [
        ("seed", "--only is given 'seed'; it must be AXIS=VALUE"),
        ("sed=0", "unknown axis 'sed'; did you mean 'seed'"),
        ("model.activation=rleu", "unknown value of model.activation 'rleu'; did you mean 'relu'"),
    ],
)
def test_a_selection_that_fits_no_member_is_refused(only, message):
    with pytest.raises(UserError, match=message):
        select(expand(BASE, SWEEP), (only,))


def test_members_that_differ_only_in_values_are_one_group():
    sweep = Sweep(
        axes=(
            zipped({
                "optimizer.lr": (0.1, 0.2), "optimizer.momentum": (0.5, 0.6), "optimizer.weight_decay": (0.0, 0.1),
                "train.label_smoothing": (0.0, 0.1), "schedule.end": (0.0, 0.1), "train.epochs": (2, 3),
                "early_stopping.patience": (None, 2),
            }),
            grid("seed", (0, 1)),
            grid("model.pooling", ("avg", "max")),
        )
    )  # fmt: skip
    members = expand(BASE, sweep)
    assert [len(group) for group in groups(members)] == [4, 4]
    assert {m.experiment.model.pooling for m in groups(members)[0]} == {"avg"}


@pytest.mark.parametrize(
    "axis",
    [
        grid("optimizer.name", ("sgd", "adam")), grid("optimizer.clip_norm", (None, 1.0)),
        grid("train.batch_size", (32, 64)), grid("train.ema_decay", (None, 0.9)), grid("data.validation", (0.1, 0.2)),
        grid("augmentation.flip", (False, True)), grid("train.eval_batch_size", (100, 200)),
        zipped({"schedule.name": ("constant", "cosine")}), grid("loss.aux_weight", (0.1, 0.2)),
        zipped({"schedule.name": ("step", "step"), "schedule.boundaries": (("1ep",), ("1ep", "2ep"))}),
    ],
    ids=lambda axis: axis.name,
)  # fmt: skip
def test_members_with_another_program_or_other_data_are_other_groups(axis):
    assert [len(group) for group in groups(expand(BASE, Sweep(axes=(axis, grid("seed", (0, 1))))))] == [2, 2]


def test_the_id_of_a_member_depends_on_every_option_but_not_on_the_place_of_the_data():
    ids = {identity(member.experiment) for member in expand(BASE, SWEEP)}
    assert len(ids) == 8
    experiment = BASE.replace(optimizer=Optimizer(lr=0.1), train=Train(epochs=1))
    moved = experiment.replace(data=Data(dir="/elsewhere"))
    assert identity(experiment) == identity(moved)
    assert identity(experiment).startswith("lenet-")
