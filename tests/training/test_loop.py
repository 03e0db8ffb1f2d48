import jax
import numpy as np
import optax
import pytest
from conftest import fit_run, write_digits

from cnnjax import Variables, apply, checkpoint, create, data
from cnnjax.config import Augmentation, EarlyStopping, Optimizer, Schedule, Train
from cnnjax.data import epoch_order
from cnnjax.errors import Diverged, UserError
from cnnjax.functional import abstract_variables, leaves_by_path
from cnnjax.optim import make_hyperparameters
from cnnjax.runs import saving
from cnnjax.runs.folder import RunFolder
from cnnjax.runs.predictor import load
from cnnjax.system.lock import LostLock
from cnnjax.training import loop
from cnnjax.training.state import init_state


def train(experiment, path, progress):
    folder = RunFolder(path)
    folder.start("run", experiment)
    return fit_run(experiment, folder, progress), folder


def same(a, b):
    a, b = leaves_by_path(a), leaves_by_path(b)
    return a.keys() == b.keys() and all(np.array_equal(a[path], b[path]) for path in a)


def last_params(folder, experiment):
    newest, _ = checkpoint.newest_good(folder.checkpoints)
    return checkpoint.restore(newest, "variables", abstract_variables(experiment.model)._asdict())["params"]


def figures(rows):
    """Return the rows without timings."""
    return [
        {name: value for name, value in row.items() if name not in ("seconds", "images_per_second")} for row in rows
    ]


def test_the_network_learns_and_each_epoch_has_one_row(experiment, tmp_path, progress):
    outcome, folder = train(experiment, tmp_path / "run", progress)
    rows = folder.read_metrics()
    assert [row["epoch"] for row in rows] == [1, 2, 3]
    assert rows == progress.rows
    assert rows[-1]["validation_top1"] > 0.9
    assert outcome.epochs == 3
    assert not outcome.outcome.stopped_early


def test_parameters_are_a_function_of_the_seed(experiment, tmp_path, progress, trained_run):
    for name, seed in (("again", 0), ("other", 1)):
        train(experiment.replace(seed=seed), tmp_path / name, progress)
    first, repeated, other = (
        load(path).variables.params for path in (trained_run, tmp_path / "again", tmp_path / "other")
    )
    assert same(first, repeated)
    assert not same(first, other)


@pytest.mark.parametrize(
    ("augmentation", "options"),
    [
        pytest.param(Augmentation(pad_crop=2, flip=True), {}, marks=pytest.mark.trains_long),
        pytest.param(Augmentation(), {}, marks=pytest.mark.trains_long),
        pytest.param(
            Augmentation(), {"accumulate": 2, "remat": ("all",), "ema_decay": 0.9}, marks=pytest.mark.trains_long
        ),
        (Augmentation(flip=True), {"ema_decay": 0.9}),
    ],
)
@pytest.mark.trains_long
def test_a_run_stopped_after_each_epoch_resumes_to_the_same_bits(
    experiment, tmp_path, progress, augmentation, options
):  # fmt: skip
    experiment = experiment.replace(augmentation=augmentation, train=experiment.train.replace(**options))
    _, whole = train(experiment, tmp_path / "whole", progress)

    class Stop(Exception):
        pass

    class Stopper(type(progress)):
        def epoch(self, snapshot):
            raise Stop

    for _ in range(experiment.train.epochs):
        with pytest.raises(Stop):
            train(experiment, tmp_path / "parts", Stopper())
    _, parts = train(experiment, tmp_path / "parts", progress)
    assert same(last_params(whole, experiment), last_params(parts, experiment))
    assert figures(whole.read_metrics()) == figures(parts.read_metrics())


@pytest.mark.trains_long
def test_evaluation_does_not_augment_images(experiment, tmp_path, progress):
    experiment = experiment.replace(
        augmentation=Augmentation(pad_crop=2, flip=True), train=experiment.train.replace(epochs=1)
    )
    _, folder = train(experiment, tmp_path / "run", progress)
    network, validation = load(tmp_path / "run"), data.load(experiment.data).validation
    losses = optax.softmax_cross_entropy_with_integer_labels(network.logits(validation.images), validation.labels)
    np.testing.assert_allclose(folder.read_metrics()[0]["validation_loss"], losses.mean(), rtol=1e-5)


def test_an_epoch_without_a_checkpoint_is_trained_again(experiment, tmp_path, progress):
    one_epoch = experiment.replace(train=experiment.train.replace(epochs=1))
    _, folder = train(one_epoch, tmp_path / "run", progress)
    rows = folder.read_metrics()
    folder.append_metrics({**rows[0], "epoch": 2, "train_loss": 99.0})
    with (folder.path / "metrics.jsonl").open("a") as file:
        file.write('{"epoch": 3, "tr')
    fit_run(one_epoch, folder, progress)
    assert folder.read_metrics() == rows


@pytest.mark.trains_long
def test_a_run_killed_before_its_last_prune_is_pruned_on_the_next_start(
    experiment, tmp_path, progress, monkeypatch
):  # fmt: skip
    experiment = experiment.replace(train=experiment.train.replace(epochs=2, keep=1))
    _, whole = train(experiment, tmp_path / "whole", progress)
    with monkeypatch.context() as patch:
        patch.setattr(checkpoint, "prune", lambda *arguments: None)
        _, folder = train(experiment, tmp_path / "run", progress)
    (folder.checkpoints / ".step-00000009.writing").mkdir()
    train(experiment, tmp_path / "run", progress)
    actual, expected = ([path.name for path in sorted(f.checkpoints.iterdir())] for f in (folder, whole))
    assert actual == expected


def test_early_stopping_keeps_the_best_parameters(experiment, tmp_path, progress):
    # At this learning rate the network soon gets worse, so the best epoch is not the last one.
    experiment = experiment.replace(
        train=Train(epochs=40, batch_size=32, keep=1),
        optimizer=experiment.optimizer.replace(lr=0.02),
        early_stopping=EarlyStopping(patience=2),
    )
    outcome, folder = train(experiment, tmp_path / "run", progress)
    losses = [row["validation_loss"] for row in progress.rows]
    assert outcome.outcome.stopped_early
    assert outcome.epochs == len(losses) == outcome.outcome.best_epoch + 2
    assert losses.index(min(losses)) + 1 == outcome.outcome.best_epoch
    names = [path.name for path in checkpoint.list_paths(folder.checkpoints)]
    assert names == [f"step-{10 * epoch:08d}" for epoch in (outcome.outcome.best_epoch, outcome.epochs)]
    assert not same(load(folder.path).variables.params, last_params(folder, experiment))


@pytest.mark.trains_long
def test_the_best_parameters_are_kept_without_early_stopping(experiment, tmp_path, progress):
    experiment = experiment.replace(
        train=Train(epochs=6, batch_size=32, keep=1), optimizer=experiment.optimizer.replace(lr=0.02)
    )
    outcome, folder = train(experiment, tmp_path / "run", progress)
    losses = [row["validation_loss"] for row in progress.rows]
    assert outcome.outcome.best_epoch == losses.index(min(losses)) + 1
    best = checkpoint.best(folder.checkpoints)
    assert best.info["metrics"]["validation_loss"] == min(losses)


def test_a_loss_that_is_not_finite_stops_the_run_and_keeps_the_last_checkpoint(experiment, tmp_path, progress):
    experiment = experiment.replace(model=create("mlp"))
    _, folder = train(experiment.replace(train=experiment.train.replace(epochs=1)), tmp_path / "good", progress)
    before = [path.name for path in checkpoint.list_paths(folder.checkpoints)]
    wild = experiment.replace(optimizer=experiment.optimizer.replace(lr=1e20))
    with pytest.raises(Diverged, match=r"not finite at step \d+ \(learning rate 1e\+20\); .*epoch 1"):
        fit_run(wild, folder, progress)
    assert [path.name for path in checkpoint.list_paths(folder.checkpoints)] == before


def test_resume_refuses_other_data(experiment, tmp_path, progress):
    train(experiment.replace(train=experiment.train.replace(epochs=1)), tmp_path / "run", progress)
    other = write_digits(tmp_path / "other", test=120)
    moved = experiment.replace(data=experiment.data.replace(dir=str(other)))
    with pytest.raises(UserError, match="the files of mnist differ from those this run started with"):
        fit_run(moved, RunFolder(tmp_path / "run"), progress)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda e: e.replace(train=e.train.replace(batch_size=321)), "train.batch_size is 321 and there are 320"),
        (lambda e: e.replace(model=create("lenet", input_size=32)), "are 28x28x1 and the network expects 32x32x1"),
        (lambda e: e.replace(model=create("lenet", channels=3)), "are 28x28x1 and the network expects 28x28x3"),
        (lambda e: e.replace(model=create("lenet", num_classes=3)), "mnist has 10 classes and the network has 3"),
    ],
)
def test_a_network_or_batch_that_does_not_fit_the_data_is_refused(experiment, tmp_path, progress, change, message):
    with pytest.raises(UserError, match=message):
        train(change(experiment), tmp_path / "run", progress)


@pytest.mark.trains_long
def test_the_loop_equals_plain_optax_with_every_option(experiment, tmp_path, progress):
    """Smoothing, schedule, weight decay and clipping, compared with a plain optax loop."""
    experiment = experiment.replace(
        model=create("mlp", activation="tanh"),
        train=Train(epochs=2, batch_size=32, label_smoothing=0.2),
        optimizer=Optimizer(name="momentum", lr=0.05, momentum=0.8, weight_decay=0.1, clip_norm=0.5),
        schedule=Schedule(name="step", boundaries=("5st", "1ep", "13st"), factor=0.5),
        seed=7,
    )
    train(experiment, tmp_path / "run", progress)
    dataset = data.load(experiment.data)
    images = (dataset.train.images / 255 - 0.1307) / 0.3081
    rates = optax.piecewise_constant_schedule(0.05, {5: 0.5, 10: 0.5, 13: 0.5})
    optimizer = optax.chain(
        optax.clip_by_global_norm(0.5),
        optax.add_decayed_weights(0.1, mask=lambda params: jax.tree.map(lambda leaf: leaf.ndim == 2, params)),
        optax.trace(0.8),
        optax.scale_by_learning_rate(rates),
    )

    @jax.jit
    def step(params, state, x, y):
        def loss(params):
            logits = apply(experiment.model, Variables(params, {}), x)[0].logits
            targets = 0.8 * jax.nn.one_hot(y, 10) + 0.02
            return -(targets * jax.nn.log_softmax(logits)).sum(axis=1).mean()

        grads = jax.grad(loss)(params)
        with jax.numpy_dtype_promotion("standard"):  # an optax schedule divides by an integer count
            updates, state = optimizer.update(grads, state, params)
        return optax.apply_updates(params, updates), state

    params = init_state(experiment, make_hyperparameters(experiment, 10)).params
    state = optimizer.init(params)
    for epoch in range(2):
        order = epoch_order(7, epoch, 320)
        for start in range(0, 320, 32):
            picked = order[start : start + 32]
            params, state = step(params, state, images[picked].astype(np.float32), dataset.train.labels[picked])
    actual = leaves_by_path(last_params(RunFolder(tmp_path / "run"), experiment))
    for path, expected in leaves_by_path(params).items():
        np.testing.assert_allclose(actual[path], expected, rtol=1e-4, atol=1e-6, err_msg=path)
    rows = RunFolder(tmp_path / "run").read_metrics()
    assert [row["lr"] for row in rows] == pytest.approx([0.025, 0.00625])


@pytest.mark.trains_long
@pytest.mark.parametrize("model", ["mlp", pytest.param("lenet", marks=pytest.mark.trains_long)])
def test_several_steps_per_dispatch_give_the_same_training(model, experiment, tmp_path, progress, monkeypatch):
    experiment = experiment.replace(model=create(model, activation="relu"))  # XLA's convolutions are slow in a loop
    _, single = train(experiment, tmp_path / "single", progress)
    monkeypatch.setattr(loop, "steps_per_dispatch", lambda backend, steps: 4)  # 10 steps an epoch: 4, 4 and 2
    _, several = train(experiment, tmp_path / "several", progress)
    assert [row["step"] for row in several.read_metrics()] == [10, 20, 30]
    first, repeated = (leaves_by_path(last_params(folder, experiment)) for folder in (single, several))
    for path, expected in first.items():
        np.testing.assert_allclose(repeated[path], expected, rtol=1e-3, atol=1e-5, err_msg=path)

    class Stop(Exception):
        pass

    class Stopper(type(progress)):
        def epoch(self, snapshot):
            raise Stop

    with pytest.raises(Stop):
        train(experiment, tmp_path / "resumed", Stopper())
    _, resumed = train(experiment, tmp_path / "resumed", progress)
    assert same(last_params(several, experiment), last_params(resumed, experiment))


@pytest.mark.parametrize("ema_decay", [None, 0.9])
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_a_state_is_restored_bit_for_bit(experiment, tmp_path, dtype, ema_decay):
    experiment = experiment.replace(
        model=experiment.model.replace(dtype=dtype), seed=5, train=experiment.train.replace(ema_decay=ema_decay)
    )
    state = init_state(experiment, make_hyperparameters(experiment, 10))
    saved = checkpoint.save(tmp_path, 7, saving.items(state), {})
    restored = saving.restore(saved, jax.eval_shape(lambda: state))
    assert jax.tree.structure(restored) == jax.tree.structure(state)
    assert jax.tree.all(jax.tree.map(np.array_equal, restored, state))


@pytest.mark.compiles_large
def test_memory_saving_options_give_the_same_training(experiment, tmp_path, progress, trained_run):
    plain = RunFolder(trained_run)
    less = experiment.replace(train=experiment.train.replace(accumulate=4, remat=("stage1",)))
    _, folder = train(less, tmp_path / "less", progress)
    expected, actual = (leaves_by_path(last_params(f, experiment)) for f in (plain, folder))
    for path, leaf in expected.items():
        np.testing.assert_allclose(actual[path], leaf, rtol=1e-3, atol=1e-4, err_msg=path)


def test_an_unknown_remat_stage_is_refused_before_training(experiment, tmp_path, progress):
    wrong = experiment.replace(train=experiment.train.replace(remat=("stage3",)))
    with pytest.raises(UserError, match="unknown remat stage 'stage3'; did you mean 'stage2' or 'stage1'"):
        train(wrong, tmp_path / "run", progress)


@pytest.mark.trains_long
def test_losing_the_lock_after_a_save_keeps_the_older_checkpoints(experiment, tmp_path, progress, monkeypatch):
    experiment = experiment.replace(train=experiment.train.replace(epochs=2, keep=1))
    folder, save = RunFolder(tmp_path), checkpoint.save

    def lose(*arguments, **options):
        saved = save(*arguments, **options)
        if len(checkpoint.list_paths(folder.checkpoints)) == 2:
            (tmp_path / ".lock").unlink()
        return saved

    monkeypatch.setattr(checkpoint, "save", lose)
    folder.start("run", experiment)
    with folder.locked(), pytest.raises(LostLock):
        fit_run(experiment, folder, progress)
    assert len(checkpoint.list_paths(folder.checkpoints)) == 2


def test_a_gradient_that_overflows_is_reported_as_diverged(experiment, tmp_path, progress, monkeypatch):
    """Its norm may be infinite while the loss is still finite, and infinity cannot be written to metrics.jsonl."""
    norm = optax.tree.norm
    monkeypatch.setattr(optax.tree, "norm", lambda tree: norm(tree) * 3e38)
    small = experiment.replace(model=create("mlp"))
    with pytest.raises(Diverged, match="the norm of the gradient was not finite at step 1 "):
        train(small, tmp_path / "run", progress)
