"""Selection of classes and images, and handling of class imbalance."""

import numpy as np
import pytest

from cnnjax import data
from cnnjax.config import Data
from cnnjax.data import balanced_order, class_weights
from cnnjax.data.dataset import Loaded, Split
from cnnjax.data.selection import digest, selected
from cnnjax.errors import UserError

NAMES = ("a", "b", "c")


def loaded(counts=(6, 5, 9), test=2) -> Loaded:
    """Return images whose only pixel is their number, with file names."""

    def part(counts, first):
        labels = np.repeat(np.arange(3, dtype=np.int32), counts)
        return Split((first + np.arange(len(labels), dtype=np.uint8))[:, None, None, None], labels)

    parts = {"train": part(counts, 0), "test": part((test,) * 3, 100)}
    names = {name: [f"{name}/{pixel}" for pixel in split.images[:, 0, 0, 0]] for name, split in parts.items()}
    return Loaded(parts, NAMES, (0.5,), (0.5,), names=names)


def pixels(source):
    return source.images[:, 0, 0, 0].tolist()


def test_classes_are_selected_in_the_given_order_with_their_names():
    chosen = selected(Data(classes=("c", "a")), loaded())
    assert chosen.classes == ("c", "a")
    assert pixels(chosen.parts["train"]) == [*range(6), *range(11, 20)]
    assert chosen.parts["train"].labels.tolist() == [1] * 6 + [0] * 9
    assert pixels(chosen.parts["test"]) == [100, 101, 104, 105]
    assert chosen.names["test"] == ["test/100", "test/101", "test/104", "test/105"]


def test_draws_are_nested_and_depend_on_the_split_seed():
    draws = [set(pixels(selected(Data(per_class=count), loaded()).parts["train"])) for count in (2, 4, 5)]
    assert [len(draw) for draw in draws] == [6, 12, 15]
    assert draws[0] < draws[1] < draws[2]
    others = [set(pixels(selected(Data(per_class=2, split_seed=seed), loaded()).parts["train"])) for seed in range(4)]
    assert len({frozenset(draw) for draw in others}) > 1


def test_a_run_keeps_its_recorded_images_when_files_are_added():
    config = Data(per_class=4)
    first = selected(config, loaded())
    recorded = {"train": first.names["train"], "validation": [], "test": first.names["test"]}
    later = selected(config, loaded((6, 5, 12)), recorded)
    assert later.names["train"] == first.names["train"]


def test_the_fingerprint_covers_the_selection():
    configs = [
        Data(),
        Data(classes=("a",)),
        Data(classes=("a", "b")),
        Data(per_class=3),
        Data(per_class=3, split_seed=1),
    ]
    digests = [digest(config, "0" * 64) for config in configs]
    assert digests[0] == "0" * 64
    assert len(set(digests)) == len(configs)
    assert digest(Data(split_seed=1), "0" * 64) == "0" * 64


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"classes": ("a", "dog")}, "unknown class in data.classes 'dog'; choose from: a, b, c"),
        ({"classes": ("a", "a")}, "data.classes names 'a' twice"),
        ({"per_class": 6}, "data.per_class is 6 and .* has 5 training images of 'b'; it must be 5 or less"),
        ({"per_class": 1}, "data.per_class|per_class is 1; it must be 2 or more"),
    ],
)
def test_invalid_selections_are_refused(options, message):
    with pytest.raises(UserError, match=message):
        selected(Data(**options), loaded())


def test_a_selection_is_loaded_and_divided():
    dataset = data.load(Data(classes=("Bag", "Coat"), per_class=20))
    assert dataset.classes == ("Bag", "Coat")
    assert [len(part.labels) for part in (dataset.train, dataset.validation, dataset.test)] == [36, 4, 400]
    assert np.bincount(dataset.train.labels).tolist() == [18, 18]


LABELS = np.repeat(np.arange(3, dtype=np.int32), (90, 9, 1))


def test_a_balanced_order_shows_each_class_equally_often():
    order = balanced_order(0, 0, LABELS)
    assert len(order) == len(LABELS)
    assert np.bincount(LABELS[order]).tolist() == [34, 33, 33]
    of_first = order[LABELS[order] == 0]
    assert len(set(of_first.tolist())) == 34  # without repetition, because there are enough
    assert set(order[LABELS[order] == 1].tolist()) == set(range(90, 99))
    np.testing.assert_array_equal(order, balanced_order(0, 0, LABELS))
    assert not np.array_equal(order, balanced_order(0, 1, LABELS))
    assert not np.array_equal(order, balanced_order(1, 0, LABELS))


def test_class_weights_are_inverse_to_the_counts_with_mean_one():
    weights = class_weights(LABELS, 4)
    np.testing.assert_allclose(weights[:3] * [90, 9, 1], 100 / 3, rtol=1e-6)
    np.testing.assert_allclose(weights[LABELS].mean(), 1, rtol=1e-6)
