"""Linear probe and nearest neighbors on embeddings with known results."""

import numpy as np
import pytest

from cnnjax.errors import UserError
from cnnjax.report.figures import principal_components
from cnnjax.transfer import probes
from cnnjax.transfer.probes import Embeddings, draw, linear_accuracy, neighbor_accuracy, probe


def clusters(count, spread, seed=0, classes=3):
    """Return ``count`` embeddings of each class around the corners of a simplex."""
    rng = np.random.default_rng(seed)
    labels = np.repeat(np.arange(classes, dtype=np.int32), count)
    centers = np.eye(classes, 8, dtype=np.float32)
    return Embeddings(centers[labels] + spread * rng.standard_normal((len(labels), 8), np.float32), labels)


@pytest.mark.compiles_large
def test_separate_classes_are_told_apart_and_noise_is_not():
    train, test = clusters(20, 0.1), clusters(30, 0.1, seed=1)
    assert linear_accuracy(train, test, 3) == 1
    assert neighbor_accuracy(train, test, 3, 5) == 1
    noise = Embeddings(np.random.default_rng(2).standard_normal((90, 8), np.float32), test.labels)
    assert linear_accuracy(train, noise, 3) < 0.6


@pytest.mark.compiles_large
def test_the_linear_probe_minimizes_its_loss():
    # Two points at -1 and 1, of two classes: the weight w of class 1 solves w = 2 sigmoid(-2 w).
    train = Embeddings(np.array([[-1.0], [1.0]], np.float32), np.array([0, 1], np.int32))
    weights, bias = probes._fit(train.vectors, train.labels, 2)
    w = float(weights[0, 1])
    assert w == pytest.approx(2 / (1 + np.exp(2 * w)), abs=1e-4)
    np.testing.assert_allclose(weights[0, 0], -w, atol=1e-5)
    np.testing.assert_allclose(bias, 0, atol=1e-5)


def test_neighbors_vote_and_similarity_breaks_ties():
    train = Embeddings(np.array([[1, 0], [0.9, 0.1], [0, 1]], np.float32), np.array([0, 0, 1], np.int32))
    test = Embeddings(np.array([[0.2, 1.0]], np.float32), np.array([1], np.int32))
    assert neighbor_accuracy(train, test, 2, 1) == 1
    assert neighbor_accuracy(train, test, 2, 2) == 1  # one vote each, and class 1 is nearer
    assert neighbor_accuracy(train, test, 2, 3) == 0
    assert neighbor_accuracy(train, test, 2, 50) == 0


@pytest.mark.compiles_large
def test_more_images_help_and_draws_differ_between_seeds():
    train, test = clusters(40, 0.6), clusters(100, 0.6, seed=1)
    one, many, every = probe(train, test, 3, shots=(1, 20), seeds=4, neighbors=5)
    assert [result.shots for result in (one, many, every)] == [1, 20, None]
    assert len(one.linear) == len(one.neighbors) == 4
    assert len(every.linear) == 1
    assert len(set(one.linear)) > 1
    assert np.mean(one.linear) < np.mean(many.linear)
    small, large = (set(map(tuple, draw(train, count, 0).vectors.tolist())) for count in (3, 9))
    assert small < large


@pytest.mark.parametrize("shots", [0, 6])
def test_impossible_numbers_of_images_are_refused(shots):
    with pytest.raises(UserError, match=f"--shots is {shots} and the smallest class has 5 images; it must be 1 to 5"):
        probe(clusters(5, 0.1), clusters(5, 0.1), 3, shots=(shots,), seeds=1, neighbors=1)


def test_the_projection_keeps_the_directions_of_the_largest_variance():
    rng = np.random.default_rng(0)
    vectors = rng.standard_normal((200, 5)) * [0.1, 3, 0.1, 2, 0.1] + 7
    points, shares = principal_components(vectors)
    for component, axis in enumerate((1, 3)):
        assert abs(np.corrcoef(points[:, component], vectors[:, axis])[0, 1]) > 0.98
    np.testing.assert_allclose(shares, np.array([9, 4]) / 13.03, atol=0.08)
    assert principal_components(np.ones((1, 3)))[0].tolist() == [[0, 0]]  # of a single image
