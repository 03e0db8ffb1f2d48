import jax
import jax.numpy as jnp
import numpy as np
import pytest
from conftest import mostly_slow

from cnnjax import create, data, init
from cnnjax.data import Split
from cnnjax.data.loader import Resident, Streamed, padded_batches
from cnnjax.parallel import current_placement
from cnnjax.training.evaluation import evaluate, label_ranks, predict_logits


@pytest.mark.parametrize(("count", "batch_size"), [(10, 4), (8, 4), (3, 4), (1, 1), (7, 7)])
def test_batches_cover_every_image_once(count, batch_size):
    seen = [index for indices, mask in padded_batches(count, batch_size) for index in indices[mask]]
    assert seen == list(range(count))
    assert len({len(indices) for indices, _ in padded_batches(count, batch_size)}) == 1


@pytest.fixture(scope="module")
def evaluated(digits):
    dataset = data.load(data.Data(source="mnist", dir=str(digits)))
    arch = create("lenet", activation="relu")
    variables = init(arch, jax.random.key(3))
    variables = jax.tree.map(lambda leaf: 3.0 * leaf, variables)  # spread logits, so that ranks differ
    return arch, dataset, variables


def resident(split):
    return Resident(split, 1, current_placement())


@pytest.mark.parametrize("load", [resident, lambda split: Streamed(split, 50, 1, current_placement())])
@pytest.mark.parametrize("batch_size", mostly_slow([50, 1000, 130, 13], 2))
def test_masked_evaluation_equals_float64_numpy(evaluated, batch_size, load):
    arch, dataset, variables = evaluated
    test = dataset.test
    metrics = evaluate(arch, dataset.preprocessing, variables, load(test), batch_size)
    logits = predict_logits(arch, dataset.preprocessing, variables, test, 130).astype(np.float64)
    shifted = logits - logits.max(axis=1, keepdims=True)
    log_probabilities = shifted - np.log(np.exp(shifted).sum(axis=1, keepdims=True))
    order = np.argsort(-logits, axis=1, kind="stable")
    hits = order == test.labels[:, None]
    assert metrics["loss"] == pytest.approx(-log_probabilities[np.arange(130), test.labels].mean(), rel=1e-6)
    assert metrics["top1"] == hits[:, 0].sum() / 130
    assert metrics["top5"] == hits[:, :5].sum() / 130


def test_logits_do_not_depend_on_the_batch(evaluated):
    arch, dataset, variables = evaluated
    images = dataset.test.take(np.arange(7))
    whole = predict_logits(arch, dataset.preprocessing, variables, images, 7)
    parts = predict_logits(arch, dataset.preprocessing, variables, images, 3)
    np.testing.assert_allclose(whole, parts, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("views", [2, 6])
def test_logits_of_views_are_their_mean(evaluated, views):
    arch, dataset, variables = evaluated
    images = dataset.test.images[:4]
    padded = np.pad(images, ((0, 0), (1, 1), (1, 1), (0, 0)), mode="reflect")
    height, width = images.shape[1:3]
    places = [images] if views == 2 else [padded[:, i : i + height, i : i + width] for i in range(3)]

    def logits(of, count=1):
        split = Split(of, dataset.test.labels[:4])
        return predict_logits(arch, dataset.preprocessing, variables, split, 4, count)

    expected = np.mean([logits(view) for place in places for view in (place, np.flip(place, 2))], axis=0)
    np.testing.assert_allclose(logits(images, views), expected, rtol=1e-5, atol=1e-5)
    assert np.abs(logits(images, views) - logits(images)).max() > 1e-3


def test_ranks_break_ties_by_the_lower_class():
    logits = jnp.array([[1.0, 1.0, 0.0], [1.0, 1.0, 0.0], [0.0, 2.0, 3.0]])
    assert label_ranks(logits, jnp.array([0, 1, 0])).tolist() == [0, 1, 2]


def test_nan_logits_do_not_count_as_correct(evaluated):
    arch, dataset, variables = evaluated
    broken = jax.tree.map(lambda leaf: jnp.full_like(leaf, jnp.nan), variables)
    split = Split(dataset.test.images, np.zeros_like(dataset.test.labels))
    metrics = evaluate(arch, dataset.preprocessing, broken, resident(split), 50)
    assert np.isnan(metrics["loss"])
    assert (metrics["top1"], metrics["top5"]) == (0, 0)


def test_poll_is_called_between_batches(evaluated):
    arch, dataset, variables = evaluated
    calls = []
    evaluate(arch, dataset.preprocessing, variables, resident(dataset.test), 50, poll=lambda: calls.append(1))
    assert len(calls) == 3
