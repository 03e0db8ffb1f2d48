"""Members stacked by vmap equal standalone runs: parameters, metrics, early stopping, interruption and resuming."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from conftest import mostly_slow

from cnnjax import create, data
from cnnjax.config import Augmentation, Data, EarlyStopping, Experiment, Optimizer, Schedule, Train
from cnnjax.data.loader import DeviceSplit
from cnnjax.errors import Diverged, Interrupted
from cnnjax.functional import leaves_by_path
from cnnjax.optim import make_hyperparameters
from cnnjax.runs.folder import RunFolder
from cnnjax.runs.launch import Launch
from cnnjax.sweep import stacking
from cnnjax.sweep.members import Member
from cnnjax.training.hooks import Hook
from cnnjax.training.loop import fit
from cnnjax.training.stacked import StackMember, fit_stacked, stack, take
from cnnjax.training.state import init_state, step_key
from cnnjax.training.step import make_stacked_dispatch, make_train_step
from cnnjax.training.turns import finish
from tests.faults.harness import write_digits

STEPS = 10
"""Steps per epoch: 400 images, a fifth of them for validation, in batches of 32."""


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("digits")
    write_digits(folder)
    return folder


def small(folder, model="mlp", dtype="float32", **options):
    return Experiment(
        model=create(model, input_size=12, dtype=dtype),
        data=Data(source="mnist", dir=str(folder), validation=0.2),
        optimizer=Optimizer(name="momentum", lr=0.05),
        train=Train(epochs=2, batch_size=32, eval_batch_size=80),
        **options,
    )


def varied(base):
    """Return experiments that differ in every value that one program allows."""
    other = base.optimizer.replace(lr=0.1, momentum=0.5, weight_decay=0.01)
    smooth = base.train.replace(label_smoothing=0.1)
    return [base, base.replace(seed=1, optimizer=other), base.replace(seed=2, train=smooth)]


def trained(experiments, dataset, steps):
    """Return the stacked states after some steps, and the states of each run alone."""
    values = [make_hyperparameters(experiment, STEPS) for experiment in experiments]
    states = [init_state(experiment, value) for experiment, value in zip(experiments, values, strict=True)]
    step = make_train_step(experiments[0], dataset.preprocessing)
    images = DeviceSplit(jnp.asarray(dataset.train.images), jnp.asarray(dataset.train.labels))
    count = len(dataset.train.labels)
    orders = [np.random.default_rng(e.seed).permutation(count).astype(np.int32) for e in experiments]
    keys = [step_key(experiment.seed) for experiment in experiments]
    together = make_stacked_dispatch(step, 32, STEPS)
    stacked, active = stack(states), np.ones(len(experiments), bool)
    alone = []
    one = jax.jit(step)
    for number, state in enumerate(states):
        for index in range(steps):
            picked = orders[number][index % STEPS * 32 :][:32]
            batch = data_batch(images, picked)
            key = jax.random.fold_in(keys[number], state.step)
            state = one(state, batch, key, values[number])
        alone.append(state)
    for _ in range(steps):
        stacked, _ = together(stacked, images, np.stack(orders), jnp.stack(keys), stack(values), active, steps=1)
    return stacked, alone


def data_batch(images, picked):
    from cnnjax.losses import Batch

    return Batch(images.images[picked], images.labels[picked])


def largest_difference(tree, expected):
    tree, expected = leaves_by_path(tree), leaves_by_path(expected)
    assert tree.keys() == expected.keys()
    return max(float(np.abs(np.asarray(tree[path]) - np.asarray(leaf)).max()) for path, leaf in expected.items())


@pytest.mark.compiles_large
@pytest.mark.parametrize("model", ["mlp", "lenet"])
def test_float64_parameters_equal_those_of_standalone_runs_after_20_steps(folder, model):
    with jax.enable_x64(True):
        experiments = varied(small(folder, model, "float64"))
        stacked, alone = trained(experiments, data.load(experiments[0].data), 20)
        for number, state in enumerate(alone):
            assert largest_difference(take(stacked, number).params, state.params) < 1e-9
        assert largest_difference(alone[0].params, alone[1].params) > 1e-3


@pytest.mark.compiles_large
@pytest.mark.parametrize("model", mostly_slow(["mlp", "lenet"], 1))
def test_the_first_float32_gradient_equals_that_of_a_standalone_run(folder, model):
    """With plain SGD at a rate of 1, a step changes the parameters by the gradient."""
    base = small(folder, model).replace(optimizer=Optimizer(name="sgd", lr=1.0))
    experiments = [base, base.replace(seed=1), base.replace(seed=2, train=base.train.replace(label_smoothing=0.2))]
    stacked, alone = trained(experiments, data.load(base.data), 1)
    for number, state in enumerate(alone):
        assert largest_difference(take(stacked, number).params, state.params) < 1e-5


class Recorder(Hook):
    """Keeps the snapshots that a training passes to its hooks."""

    def __init__(self):
        self.snapshots, self.positions = [], []

    def epoch(self, snapshot):
        self.snapshots.append(snapshot)

    def interrupted(self, snapshot):
        self.positions.append(snapshot)


def outcomes(experiments, dataset, **options):
    members = [(number, StackMember(experiment, None, ())) for number, experiment in enumerate(experiments)]
    return dict(fit_stacked(members, dataset, **options))


def same_rows(rows, expected):
    assert len(rows) == len(expected)
    for row, other in zip(rows, expected, strict=True):
        assert row.keys() == other.keys()
        for name in ("epoch", "step", "lr"):
            assert row[name] == other[name]
        for name in (name for name in row if name.endswith(("_loss", "_top1"))):
            assert row[name] == pytest.approx(other[name], rel=1e-4, abs=0.02)


@pytest.mark.trains_long
def test_members_stop_early_by_themselves_and_leave_the_stack(folder):
    base = small(folder, schedule=Schedule(name="cosine"), augmentation=Augmentation(pad_crop=1))
    base = base.replace(train=base.train.replace(ema_decay=0.9))  # both averages and raw parameters have their figures
    impatient = EarlyStopping(metric="top1", patience=1, min_delta=1.0)  # nothing improves by that much
    experiments = [
        base.replace(seed=0, train=base.train.replace(epochs=1)),
        base.replace(seed=1, train=base.train.replace(epochs=4), early_stopping=impatient),
        base.replace(seed=2, train=base.train.replace(epochs=3)),
    ]
    dataset = data.load(base.data)
    ended = outcomes(experiments, dataset)
    assert list(ended) == [0, 1, 2]
    assert [(o.epochs, o.stopped_early) for o in ended.values()] == [(1, False), (2, True), (3, False)]
    for number, experiment in enumerate(experiments):
        alone = fit(experiment, dataset)
        same_rows(ended[number].rows, alone.rows)
        assert ended[number].best_epoch == alone.best_epoch
        assert largest_difference(ended[number].snapshot.state.params, alone.snapshot.state.params) < 1e-3


@pytest.mark.trains_long
def test_a_member_that_diverges_or_cannot_be_saved_ends_alone(folder):
    base = small(folder)
    experiments = [base.replace(optimizer=base.optimizer.replace(lr=1e30)), base.replace(seed=1), base.replace(seed=2)]
    dataset = data.load(base.data)

    class FullDisk(Hook):
        def epoch(self, snapshot):
            raise OSError(28, "No space left on device")

    hooks = [(), (FullDisk(),), ()]
    members = [(n, StackMember(e, None, h)) for n, (e, h) in enumerate(zip(experiments, hooks, strict=True))]
    ended = dict(fit_stacked(members, dataset))
    assert isinstance(ended[0], Diverged)
    assert isinstance(ended[1], OSError)
    assert ended[2].epochs == 2
    same_rows(ended[2].rows, fit(experiments[2], dataset).rows)


@pytest.mark.trains_long
def test_an_interrupted_stack_resumes_with_the_same_bits(folder):
    base = small(folder)
    experiments, dataset = [base, base.replace(seed=1)], data.load(base.data)
    expected = outcomes(experiments, dataset)
    polls = []

    def poll():
        polls.append(1)
        if len(polls) == 14:  # within the second epoch
            raise Interrupted("stopped")

    hooks = [Recorder(), Recorder()]
    members = [(n, StackMember(e, None, (hooks[n],))) for n, e in enumerate(experiments)]
    with pytest.raises(Interrupted):
        list(fit_stacked(members, dataset, poll=poll))
    assert [int(hook.positions[0].state.step) for hook in hooks] == [13, 13]
    again = dict(fit_stacked(
        [(n, StackMember(e, hooks[n].positions[0], ())) for n, e in enumerate(experiments)], dataset
    ))  # fmt: skip
    for number in range(2):
        a, b = (leaves_by_path(end[number].snapshot.state.params) for end in (expected, again))
        assert all(np.array_equal(a[path], b[path]) for path in a)


@pytest.mark.trains_long
def test_stacked_members_write_their_run_folders(folder, tmp_path):
    base = small(folder)
    members = [Member({"seed": seed}, base.replace(seed=seed)) for seed in range(3)]
    runs = [(m, Launch(m.title, m.experiment, tmp_path / m.title), Hook()) for m in members]
    dataset = data.load(base.data)
    assert stacking.can_be_stacked(members[0], dataset)
    ended = list(stacking.run_stacked(runs, dataset))
    assert [(member.title, problems) for member, (_, problems) in ended] == [(m.title, []) for m in members]
    for member, (results, _) in ended:
        run = RunFolder(tmp_path / member.title)
        assert run.finished
        assert run.read_results() == results
        assert [row["step"] for row in run.read_metrics()] == [10, 20]


@pytest.mark.trains_long
def test_members_that_do_not_fit_into_memory_together_train_one_by_one(folder, tmp_path, monkeypatch):
    def short(*_, **__):
        raise jax.errors.JaxRuntimeError("RESOURCE_EXHAUSTED: out of memory")

    monkeypatch.setattr(stacking, "fit_stacked", short)
    base = small(folder)
    runs = [(Member({"seed": s}, base.replace(seed=s)), Launch(f"{s}", base.replace(seed=s), tmp_path / f"{s}"), Hook())
            for s in range(2)]  # fmt: skip
    ended = list(stacking.run_stacked(runs, data.load(base.data)))
    assert [member.values["seed"] for member, _ in ended] == [0, 1]
    assert all(RunFolder(tmp_path / f"{s}").finished for s in range(2))


def test_finish_returns_the_result_of_all_parts():
    def parts():
        yield
        yield
        return 3

    assert finish(parts()) == 3
