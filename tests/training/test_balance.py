"""Imbalanced classes: weights and balanced sampling reach the training step."""

import jax
import jax.numpy as jnp
import numpy as np

from cnnjax import create, data
from cnnjax.data import DeviceSplit, balanced_order, class_weights
from cnnjax.functional import leaves_by_path
from cnnjax.losses import Batch
from cnnjax.optim import make_hyperparameters
from cnnjax.training.loop import training_order
from cnnjax.training.state import init_state
from cnnjax.training.step import make_dispatch, make_train_step


def test_a_step_weights_each_image_by_its_class(experiment):
    experiment = experiment.replace(model=create("mlp"))
    dataset, values = data.load(experiment.data), make_hyperparameters(experiment, 10)
    step = make_train_step(experiment, dataset.preprocessing)
    weights = class_weights(dataset.train.labels[:45], 10)  # uneven, because the part is cut off
    train, key = DeviceSplit(*map(jnp.asarray, dataset.train)), jax.random.key(0)
    order = np.arange(320, dtype=np.int32)
    dispatched, _ = make_dispatch(step, 32, 10, weights)(
        init_state(experiment, values), train, jnp.asarray(order), key, values, steps=1
    )
    batch = Batch(train.images[:32], train.labels[:32], jnp.asarray(weights)[train.labels[:32]])
    assert len(set(batch.weights.tolist())) > 1
    state = init_state(experiment, values)
    direct = jax.jit(step)(state, batch, jax.random.fold_in(key, 0), values)
    for path, leaf in leaves_by_path(direct.params).items():
        np.testing.assert_allclose(leaves_by_path(dispatched.params)[path], leaf, atol=1e-6)


def test_the_order_of_an_epoch_is_balanced_on_request(experiment):
    labels = np.repeat(np.arange(2, dtype=np.int32), (30, 10))
    balanced = experiment.replace(train=experiment.train.replace(balance="sampling"))
    np.testing.assert_array_equal(training_order(balanced, labels, 3), balanced_order(0, 3, labels))
    assert sorted(training_order(experiment, labels, 3)) == list(range(40))
