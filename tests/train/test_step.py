import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cnnjax import data
from cnnjax.config import Augmentation
from cnnjax.data import augment, epoch_order
from cnnjax.functional import leaves_by_path
from cnnjax.optim import make_optimizer
from cnnjax.train import step as step_module
from cnnjax.train.evaluation import to_device
from cnnjax.train.step import cross_entropy, init_state, make_dispatch, make_train_step, step_key, steps_per_dispatch

STEPS_PER_EPOCH = 10


@pytest.fixture
def setup(experiment):
    dataset = data.load(experiment.data)
    optimizer = make_optimizer(experiment.optimizer, lambda step: 3e-3)
    train_step = make_train_step(experiment.model, optimizer, dataset.preprocessing, 0.0)
    dispatch = make_dispatch(train_step, 32, STEPS_PER_EPOCH)
    return dispatch, lambda: init_state(experiment.model, optimizer, 0), to_device(dataset.train)


AUGMENTED = Augmentation(pad_crop=2, flip=True)


@pytest.fixture
def steps(experiment):
    """A train step with each augmentation, and what it takes."""
    dataset = data.load(experiment.data)
    optimizer = make_optimizer(experiment.optimizer, lambda step: 3e-3)
    images, labels = (jnp.asarray(array[:32]) for array in dataset.train)
    arguments = (init_state(experiment.model, optimizer, 0), images, labels, jax.random.key(5))
    parts = (experiment.model, optimizer, dataset.preprocessing, 0.0)
    return lambda *augmentation: make_train_step(*parts, *augmentation), arguments


def order(epoch):
    return jnp.asarray(epoch_order(0, epoch, 320))


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_cross_entropy_equals_float64_numpy(smoothing):
    rng = np.random.default_rng(0)
    logits, labels = rng.normal(size=(6, 4)), rng.integers(0, 4, 6)
    targets = np.full((6, 4), smoothing / 4)
    targets[np.arange(6), labels] += 1 - smoothing
    log_probabilities = logits - np.log(np.exp(logits).sum(axis=1, keepdims=True))
    found = cross_entropy(jnp.asarray(logits, jnp.float32), jnp.asarray(labels), smoothing)
    np.testing.assert_allclose(found, -(targets * log_probabilities).sum(axis=1), rtol=1e-5)


def test_several_steps_in_a_dispatch_equal_single_ones(setup):
    dispatch, fresh, train = setup
    key = step_key(0)
    one_by_one, together = fresh(), fresh()
    for _ in range(4):
        one_by_one, _ = dispatch(one_by_one, train, order(0), key, steps=1)
    together, tally = dispatch(together, train, order(0), key, steps=4)
    assert int(together.step) == 4
    assert int(tally.images) == int(one_by_one.tally.images) == 128
    for path, expected in leaves_by_path(one_by_one.params).items():
        np.testing.assert_allclose(leaves_by_path(together.params)[path], expected, rtol=1e-4, atol=1e-5, err_msg=path)


def test_the_tally_starts_anew_with_each_epoch(setup):
    dispatch, fresh, train = setup
    state = fresh()
    images = []
    for step in range(STEPS_PER_EPOCH + 2):
        state, tally = dispatch(state, train, order(step // STEPS_PER_EPOCH), step_key(0), steps=1)
        images.append(int(tally.images))
    assert images == [32 * n for n in range(1, STEPS_PER_EPOCH + 1)] + [32, 64]


def test_the_state_is_donated_and_the_tally_outlives_it(setup):
    dispatch, fresh, train = setup
    before = fresh()
    after, tally = dispatch(before, train, order(0), step_key(0), steps=1)
    assert before.params["head"]["kernel"].is_deleted()
    dispatch(after, train, order(0), step_key(0), steps=1)
    assert int(tally.images) == 32


def test_an_epoch_sees_every_image_of_its_order_once(setup):
    dispatch, fresh, train = setup
    seen = []

    def spy(state, images, labels, key):
        jax.debug.callback(lambda pixels: seen.extend(pixels[:, 0, 0, 0].tolist()), images)
        return state._replace(step=state.step + 1)

    numbered = train._replace(images=jnp.arange(320, dtype=jnp.int32).reshape(320, 1, 1, 1))
    state = fresh()
    spying = make_dispatch(spy, 32, STEPS_PER_EPOCH)
    for _ in range(STEPS_PER_EPOCH):
        state, _ = spying(state, numbered, order(0), step_key(0), steps=1)
    jax.effects_barrier()
    assert seen == epoch_order(0, 0, 320).tolist()


def test_the_first_step_that_is_not_finite_is_noted(setup):
    dispatch, fresh, train = setup
    state = fresh()
    state, _ = dispatch(state, train, order(0), step_key(0), steps=1)
    state = state._replace(params=jax.tree.map(lambda leaf: leaf * jnp.nan, state.params))
    for _ in range(2):
        state, tally = dispatch(state, train, order(0), step_key(0), steps=1)
    assert int(tally.bad_step) == 2


def test_it_compiles_once(setup):
    dispatch, fresh, train = setup
    state = fresh()
    for _ in range(5):
        state, _ = dispatch(state, train, order(0), step_key(0), steps=1)
    assert dispatch._cache_size() == 1


def test_a_step_with_augmentation_is_a_step_on_augmented_images(steps):
    make, (state, images, labels, key) = steps
    after = jax.jit(make(AUGMENTED))(state, images, labels, key)
    network_key, augmentation_key = jax.random.split(key)
    expected = jax.jit(make())(state, augment(AUGMENTED, augmentation_key, images), labels, network_key)
    for path, leaf in leaves_by_path(expected.params).items():
        np.testing.assert_allclose(leaves_by_path(after.params)[path], leaf, rtol=1e-5, atol=1e-6, err_msg=path)
    np.testing.assert_allclose(after.tally.loss, expected.tally.loss, rtol=1e-5)
    plain = jax.jit(make())(state, images, labels, key)
    assert abs(float(plain.tally.loss) - float(after.tally.loss)) > 1e-3


def test_without_augmentation_the_step_is_what_it_was(steps):
    make, arguments = steps
    programs = [str(jax.make_jaxpr(make(*options))(*arguments)) for options in ((), (Augmentation(),), (AUGMENTED,))]
    assert programs[0] == programs[1] != programs[2]
    assert "random" not in programs[0]


def test_the_networks_chance_is_not_that_of_the_augmentation(steps, monkeypatch):
    make, arguments = steps
    keys = {}

    def spy(name, function, position):
        def call(*args, **options):
            keys[name] = options.get("key", args[position])
            return function(*args, **options)

        monkeypatch.setattr(f"cnnjax.train.step.{name}", call)

    spy("augment", step_module.augment, 1)
    spy("apply", step_module.apply, 0)
    make(AUGMENTED)(*arguments)
    # A network folds the numbers of its draws, which count from 0, into its key.
    drawn = [keys["augment"], *jax.random.split(keys["augment"])]
    own = [keys["apply"], *(jax.random.fold_in(keys["apply"], n) for n in range(1000))]
    data_of = [tuple(jax.random.key_data(key).tolist()) for key in (*drawn, *own)]
    assert len(set(data_of)) == len(data_of)


def test_the_rule_for_steps_in_a_dispatch():
    assert steps_per_dispatch("cpu", 234) == 1
    assert steps_per_dispatch("gpu", 234) == 64
    assert steps_per_dispatch("tpu", 5) == 5
