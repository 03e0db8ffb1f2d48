import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from conftest import mostly_slow

from cnnjax import apply, create, data
from cnnjax.config import Augmentation, Experiment, Optimizer, Train
from cnnjax.data import DeviceSplit, augment, epoch_order, normalize
from cnnjax.functional import Variables, leaves_by_path
from cnnjax.losses import Batch
from cnnjax.ops.dispatch import compiler_options, steps_per_dispatch
from cnnjax.optim import make_hyperparameters
from cnnjax.training import step as step_module
from cnnjax.training.state import init_state, step_key
from cnnjax.training.step import make_dispatch, make_train_step

STEPS_PER_EPOCH = 10


@pytest.fixture
def setup(experiment):
    experiment = experiment.replace(model=create("mlp", activation="relu"))  # XLA's convolutions are slow in a loop
    dataset = data.load(experiment.data)
    values = make_hyperparameters(experiment, STEPS_PER_EPOCH)
    jitted = make_dispatch(make_train_step(experiment, dataset.preprocessing), 32, STEPS_PER_EPOCH)

    def dispatch(state, train, order, key, **options):
        return jitted(state, train, order, key, values, **options)

    dispatch.cache_size = jitted._cache_size
    return dispatch, lambda: init_state(experiment, values), DeviceSplit(*map(jnp.asarray, dataset.train))


AUGMENTED = Augmentation(pad_crop=2, flip=True)


@pytest.fixture
def steps(experiment):
    """Train steps with different augmentations, and their inputs."""
    experiment = experiment.replace(model=create("mlp", activation="relu"))
    dataset = data.load(experiment.data)
    values = make_hyperparameters(experiment, STEPS_PER_EPOCH)
    batch = Batch(*(jnp.asarray(array[:32]) for array in dataset.train))

    def make(augmentation=Augmentation()):  # noqa: B008
        return make_train_step(experiment.replace(augmentation=augmentation), dataset.preprocessing)

    return make, (init_state(experiment, values), batch, jax.random.key(5), values)


def order(epoch):
    return jnp.asarray(epoch_order(0, epoch, 320))


def test_several_steps_in_one_dispatch_equal_single_steps(setup):
    dispatch, fresh, train = setup
    key = step_key(0)
    one_by_one, together = fresh(), fresh()
    for _ in range(4):
        one_by_one, _ = dispatch(one_by_one, train, order(0), key, steps=1)
    together, metrics = dispatch(together, train, order(0), key, steps=4)
    assert int(together.step) == 4
    assert int(metrics.images) == int(one_by_one.metrics.images) == 128
    for path, expected in leaves_by_path(one_by_one.params).items():
        np.testing.assert_allclose(leaves_by_path(together.params)[path], expected, rtol=1e-4, atol=1e-5, err_msg=path)


def test_epoch_metrics_restart_with_each_epoch(setup):
    dispatch, fresh, train = setup
    state = fresh()
    images = []
    for step in range(STEPS_PER_EPOCH + 2):
        state, metrics = dispatch(state, train, order(step // STEPS_PER_EPOCH), step_key(0), steps=1)
        images.append(int(metrics.images))
    assert images == [32 * n for n in range(1, STEPS_PER_EPOCH + 1)] + [32, 64]


def test_the_state_is_donated_and_the_epoch_metrics_outlive_it(setup):
    dispatch, fresh, train = setup
    before = fresh()
    after, metrics = dispatch(before, train, order(0), step_key(0), steps=1)
    assert before.params["head"]["kernel"].is_deleted()
    dispatch(after, train, order(0), step_key(0), steps=1)
    assert int(metrics.images) == 32


def test_an_epoch_uses_every_image_once(setup):
    dispatch, fresh, train = setup
    seen = []

    def spy(state, batch, key, hyperparameters):
        jax.debug.callback(lambda pixels: seen.extend(pixels[:, 0, 0, 0].tolist()), batch.images)
        return state._replace(step=state.step + 1)

    numbered = train._replace(images=jnp.arange(320, dtype=jnp.int32).reshape(320, 1, 1, 1))
    state = fresh()
    spying = make_dispatch(spy, 32, STEPS_PER_EPOCH)
    for _ in range(STEPS_PER_EPOCH):
        state, _ = spying(state, numbered, order(0), step_key(0), None, steps=1)
    jax.effects_barrier()
    assert seen == epoch_order(0, 0, 320).tolist()


def test_the_first_step_that_is_not_finite_is_recorded(setup):
    dispatch, fresh, train = setup
    state = fresh()
    state, _ = dispatch(state, train, order(0), step_key(0), steps=1)
    state = state._replace(params=jax.tree.map(lambda leaf: leaf * jnp.nan, state.params))
    for _ in range(2):
        state, metrics = dispatch(state, train, order(0), step_key(0), steps=1)
    assert int(metrics.bad_step) == 2


def test_a_step_compiles_once(setup):
    dispatch, fresh, train = setup
    state = fresh()
    for _ in range(5):
        state, _ = dispatch(state, train, order(0), step_key(0), steps=1)
    assert dispatch.cache_size() == 1


def test_a_step_with_augmentation_is_a_step_on_augmented_images(steps):
    make, (state, batch, key, values) = steps
    after = jax.jit(make(AUGMENTED))(state, batch, key, values)
    network_key, augmentation_key = jax.random.split(key)
    changed = batch._replace(images=augment(AUGMENTED, augmentation_key, batch.images))
    expected = jax.jit(make())(state, changed, network_key, values)
    for path, leaf in leaves_by_path(expected.params).items():
        np.testing.assert_allclose(leaves_by_path(after.params)[path], leaf, rtol=1e-5, atol=1e-6, err_msg=path)
    np.testing.assert_allclose(after.metrics.loss, expected.metrics.loss, rtol=1e-5)
    plain = jax.jit(make())(state, batch, key, values)
    assert abs(float(plain.metrics.loss) - float(after.metrics.loss)) > 1e-3


def test_disabled_augmentation_does_not_change_the_step(steps):
    make, arguments = steps
    programs = [str(jax.make_jaxpr(make(*options))(*arguments)) for options in ((), (Augmentation(),), (AUGMENTED,))]
    assert programs[0] == programs[1] != programs[2]
    assert "random" not in programs[0]


@pytest.mark.compiles_large
def test_network_and_augmentation_use_different_keys(steps, monkeypatch):
    make, arguments = steps
    keys = {}

    def spy(name, function, position):
        def call(*args, **options):
            keys[name] = options.get("key", args[position])
            return function(*args, **options)

        monkeypatch.setattr(f"cnnjax.training.step.{name}", call)

    spy("augment", step_module.augment, 1)
    spy("apply", step_module.apply, 0)
    make(AUGMENTED)(*arguments)
    # A network folds the index of each draw, counted from 0, into its key.
    drawn = [keys["augment"], *jax.random.split(keys["augment"])]
    own = [keys["apply"], *(jax.random.fold_in(keys["apply"], n) for n in range(1000))]
    data_of = [tuple(jax.random.key_data(key).tolist()) for key in (*drawn, *own)]
    assert len(set(data_of)) == len(data_of)


def test_steps_per_dispatch():
    assert steps_per_dispatch("cpu", 234) == 1
    assert steps_per_dispatch("gpu", 234) == 64
    assert steps_per_dispatch("tpu", 5) == 5


def close(after, expected, rtol=1e-5, atol=1e-7):
    for path, leaf in leaves_by_path(expected).items():
        np.testing.assert_allclose(leaves_by_path(after)[path], leaf, rtol=rtol, atol=atol, err_msg=path)


@pytest.fixture
def uneven(experiment):
    """A step with plain SGD (adam would hide a wrong scale) on a batch of 32 whose parts have different losses."""
    dataset = data.load(experiment.data)
    order = np.argsort(dataset.train.labels[:32], kind="stable")
    batch = Batch(*(jnp.asarray(array[:32][order]) for array in dataset.train))

    def make(arch, **options):
        plain = Experiment(model=arch, optimizer=Optimizer(name="sgd", lr=0.1), train=Train(batch_size=32, **options))
        values = make_hyperparameters(plain, STEPS_PER_EPOCH)
        step = jax.jit(make_train_step(plain, dataset.preprocessing), compiler_options=compiler_options("cpu"))
        return lambda state, batch, key: step(state, batch, key, values), init_state(plain, values)

    return make, batch, dataset.preprocessing


@pytest.mark.compiles_large
@pytest.mark.parametrize("is_unrolled", [True, False])
def test_accumulated_parts_give_the_step_of_the_whole_batch(uneven, monkeypatch, is_unrolled):
    monkeypatch.setattr(step_module, "is_unrolled", lambda backend: is_unrolled)
    make, batch, _ = uneven
    arch, key = create("mlp", activation="tanh"), jax.random.key(5)
    (whole, state), (parts, _) = make(arch), make(arch, accumulate=4)
    expected, after = whole(state, batch, key), parts(state, batch, key)
    close(after.params, expected.params)
    np.testing.assert_allclose(after.metrics.loss, expected.metrics.loss, rtol=1e-6)
    assert after.metrics._replace(loss=0) == expected.metrics._replace(loss=0)
    assert int(after.metrics.images) == 32
    assert int(after.step) == 1
    # A single part gives another step, so the comparison above depends on all parts.
    first = whole(state, Batch(batch.images[:8], batch.targets[:8]), key)
    assert abs(float(first.metrics.loss) / 8 - float(after.metrics.loss) / 32) > 0.01
    assert np.abs(first.params["head"]["bias"] - after.params["head"]["bias"]).max() > 1e-3


@pytest.mark.compiles_large
def test_each_part_has_its_own_key_and_statistics(uneven):
    make, batch, preprocessing = uneven
    images, labels, _ = batch
    arch = create("resnet18", depths=(2,), width=8, num_classes=10, input_size=28, channels=1, stochastic_depth=0.5)
    step, state = make(arch, accumulate=2)
    after = step(state, batch, jax.random.key(5))

    def loss(params, batch_stats, number):
        part = slice(16 * number, 16 * number + 16)
        key = jax.random.fold_in(jax.random.key(5), number)
        pixels = normalize(preprocessing, images[part])
        outputs, moved = apply(arch, Variables(params, batch_stats), pixels, train=True, key=key)
        return optax.softmax_cross_entropy_with_integer_labels(outputs.logits, labels[part]).mean(), moved

    gradient = jax.jit(jax.value_and_grad(loss, has_aux=True), static_argnums=2)
    (loss0, moved), grads0 = gradient(state.params, state.batch_stats, 0)
    (loss1, moved), grads1 = gradient(state.params, moved, 1)
    close(after.batch_stats, moved, atol=1e-6)
    close(after.params, jax.tree.map(lambda p, a, b: p - 0.1 * (a + b) / 2, state.params, grads0, grads1), atol=1e-6)
    np.testing.assert_allclose(after.metrics.loss, 16 * (loss0 + loss1), rtol=1e-5)


@pytest.mark.compiles_large
def test_the_optimizer_counts_one_update_for_all_parts(experiment):
    dataset = data.load(experiment.data)
    experiment = experiment.replace(train=experiment.train.replace(accumulate=4))
    values = make_hyperparameters(experiment, STEPS_PER_EPOCH)
    batch = Batch(*(jnp.asarray(array[:32]) for array in dataset.train))
    step = make_train_step(experiment, dataset.preprocessing)
    after = jax.jit(step)(init_state(experiment, values), batch, jax.random.key(0), values)
    counts = [leaf for leaf in jax.tree.leaves(after.opt_state) if leaf.ndim == 0]
    assert counts
    assert all(int(count) == 1 for count in counts)


@pytest.mark.compiles_large
def test_recomputed_stages_and_parts_take_less_memory(setup, experiment):
    _, _, train = setup
    arch = create("resnet18", depths=(4, 4), width=8, num_classes=10, input_size=28, channels=1, stem="cifar")
    preprocessing = data.load(experiment.data).preprocessing

    def temporaries(**options):
        plain = Experiment(model=arch, optimizer=Optimizer(name="sgd"), train=Train(batch_size=32, **options))
        values = make_hyperparameters(plain, STEPS_PER_EPOCH)
        dispatch = make_dispatch(make_train_step(plain, preprocessing), 32, STEPS_PER_EPOCH)
        lowered = dispatch.lower(init_state(plain, values), train, order(0), step_key(0), values, steps=1)
        return lowered.compile().memory_analysis().temp_size_in_bytes

    everything = temporaries()
    assert temporaries(remat=("all",)) < 0.8 * everything
    assert temporaries(accumulate=4) < 0.5 * everything


@pytest.mark.parametrize("clip_norm", mostly_slow([0.01, None], 0))
def test_the_gradient_norm_is_measured_before_clipping(experiment, clip_norm):
    experiment = experiment.replace(
        model=create("mlp", activation="relu"), optimizer=Optimizer(name="sgd", lr=0.5, clip_norm=clip_norm)
    )
    dataset = data.load(experiment.data)
    values = make_hyperparameters(experiment, STEPS_PER_EPOCH)
    state, batch = init_state(experiment, values), Batch(*(jnp.asarray(array[:32]) for array in dataset.train))
    after = make_train_step(experiment, dataset.preprocessing)(state, batch, jax.random.key(5), values)
    moved = optax.tree.norm(jax.tree.map(jnp.subtract, state.params, after.params)) / 0.5
    norm = after.metrics.gradient_norm / 32
    assert float(norm) > 0.1
    np.testing.assert_allclose(moved, norm if clip_norm is None else clip_norm, rtol=1e-4)
