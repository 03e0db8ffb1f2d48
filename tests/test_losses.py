"""Losses against float64 numpy."""

from types import SimpleNamespace

import jax.numpy as jnp
import numpy as np
import pytest

from cnnjax import losses
from cnnjax.errors import UserError
from cnnjax.losses import Batch, BinaryCrossEntropy, CrossEntropy, weighted_mean
from cnnjax.models.layers import Outputs

RNG = np.random.default_rng(0)
LOGITS, LABELS = RNG.normal(size=(6, 4)), RNG.integers(0, 4, 6)
SOFT = RNG.dirichlet(np.ones(4), 6)
IMAGES = jnp.zeros((6, 1, 1, 1))


def cross_entropy(logits, targets):
    return -(targets * (logits - np.log(np.exp(logits).sum(axis=1, keepdims=True)))).sum(axis=1)


def loss_of(logits, targets, smoothing=0.0, aux=(), **options):
    outputs = Outputs(jnp.asarray(logits, jnp.float32), tuple(jnp.asarray(a, jnp.float32) for a in aux))
    batch = Batch(IMAGES, jnp.asarray(targets, jnp.float32 if targets.ndim > 1 else jnp.int32))
    return CrossEntropy(**options)(outputs, batch, SimpleNamespace(label_smoothing=np.float32(smoothing)))


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
@pytest.mark.parametrize("targets", [LABELS, SOFT], ids=["labels", "soft labels"])
def test_cross_entropy_equals_its_formula(targets, smoothing):
    distributions = np.eye(4)[targets] if targets.ndim == 1 else targets
    expected = cross_entropy(LOGITS, (1 - smoothing) * distributions + smoothing / 4)
    np.testing.assert_allclose(loss_of(LOGITS, targets, smoothing), expected, rtol=1e-5)


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_binary_cross_entropy_equals_its_formula_and_the_cross_entropy_of_two_classes(smoothing):
    z, labels = RNG.normal(size=6) * 3, RNG.integers(0, 2, 6)
    p, y = 1 / (1 + np.exp(-z)), (1 - smoothing) * labels + smoothing / 2
    expected = -y * np.log(p) - (1 - y) * np.log(1 - p)
    outputs = Outputs(jnp.asarray(np.stack([np.zeros(6), z], 1), jnp.float32))
    batch, values = (
        Batch(IMAGES, jnp.asarray(labels, jnp.int32)),
        SimpleNamespace(label_smoothing=np.float32(smoothing)),
    )
    np.testing.assert_allclose(BinaryCrossEntropy()(outputs, batch, values), expected, rtol=1e-5)
    np.testing.assert_allclose(CrossEntropy()(outputs, batch, values), expected, rtol=1e-5)
    shifted = Outputs(outputs.logits + 3)
    np.testing.assert_allclose(BinaryCrossEntropy()(shifted, batch, values), expected, rtol=1e-4)


def test_binary_cross_entropy_needs_two_classes():
    batch = Batch(IMAGES, jnp.asarray(LABELS, jnp.int32))
    with pytest.raises(UserError, match="binary_cross_entropy is given for 4 classes; it must have 2"):
        BinaryCrossEntropy()(Outputs(jnp.asarray(LOGITS)), batch, SimpleNamespace(label_smoothing=np.float32(0)))


def test_labels_equal_one_hot_soft_labels():
    np.testing.assert_array_equal(loss_of(LOGITS, LABELS), loss_of(LOGITS, np.eye(4)[LABELS]))


def test_auxiliary_heads_are_weighted():
    second, third = RNG.normal(size=(2, 6, 4))
    expected = cross_entropy(LOGITS, SOFT) + 0.4 * (cross_entropy(second, SOFT) + cross_entropy(third, SOFT))
    np.testing.assert_allclose(loss_of(LOGITS, SOFT, aux=(second, third), aux_weight=0.4), expected, rtol=1e-5)


def test_weights_mask_and_weight_examples():
    values = jnp.arange(4, dtype=jnp.float32)
    assert float(weighted_mean(values, None)) == 1.5
    assert float(weighted_mean(values, jnp.array([1.0, 1.0, 0.0, 0.0]))) == 0.5
    assert float(weighted_mean(values, jnp.array([0.0, 1.0, 0.0, 3.0]))) == 2.5
    assert float(weighted_mean(values, jnp.zeros(4))) == 0


def test_labels_of_soft_labels_are_their_argmax():
    np.testing.assert_array_equal(Batch(IMAGES, jnp.asarray(SOFT)).labels(), SOFT.argmax(axis=1))


def test_a_loss_round_trips_through_plain_data():
    loss = CrossEntropy(aux_weight=0.5)
    assert loss.to_dict() == {"kind": "cross_entropy", "aux_weight": 0.5}
    assert losses.from_dict(loss.to_dict()) == loss


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (3, "loss is 3; it must be an object with a 'kind'"),
        ({"kind": "cross_entropi"}, "unknown loss 'cross_entropi'; did you mean 'cross_entropy'"),
        ({"kind": "cross_entropy", "aux": 1.0}, "loss has no option 'aux'; choose from: aux_weight"),
    ],
)
def test_invalid_losses_are_refused(data, message):
    with pytest.raises(UserError, match=message):
        losses.from_dict(data)
