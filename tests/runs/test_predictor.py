"""The network description in a checkpoint is untrusted data."""

from types import SimpleNamespace

import numpy as np
import pytest

from cnnjax.checkpoint import Checkpoint
from cnnjax.errors import UserError
from cnnjax.models import create
from cnnjax.runs.evaluation import mapped_labels
from cnnjax.runs.predictor import describe

ARCH = create("lenet", num_classes=2)
PREPROCESSING = {"height": 28, "width": 28, "mean": [0.5], "std": [0.5]}
INFO = {"model": ARCH.to_dict(), "classes": ["a", "b"], "preprocessing": PREPROCESSING}


def test_a_valid_description_is_read(tmp_path):
    description = describe(Checkpoint(tmp_path, 9, INFO))
    assert (description.arch, description.classes, description.data) == (ARCH, ("a", "b"), {})
    assert description.preprocessing.mean == (0.5,)


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"model": 3}, "model is 3; it must be an object"),
        ({"model": {"family": "lenet", "num_classes": 10**9}}, "model.num_classes is 1000000000; it must be at most"),
        ({"model": {"family": "resnet", "depths": [10**9]}}, r"model.depths is \(1000000000,\)"),
        ({"classes": 3}, "classes is 3; it must be a list"),
        ({"classes": ["a", 3]}, "classes is"),
        ({"classes": ["a"]}, "the number of classes is 1; it must be 2"),
        ({"preprocessing": None}, "preprocessing is None"),
        ({"preprocessing": {**PREPROCESSING, "mean": [float("nan")]}}, "preprocessing.mean"),
        ({"data": 3}, "data is 3"),
        ({"data": {"content_hash": "x"}}, "data.split_hash is None; it must be text"),
        ({"data": {"content_hash": "x", "split_hash": "y", "test_hash": 3}}, "data.test_hash is 3; it must be text"),
    ],
)
def test_invalid_descriptions_are_refused_with_the_field_name(changed, message, tmp_path):
    with pytest.raises(UserError, match=f"{tmp_path}: {message}"):
        describe(Checkpoint(tmp_path, 9, {**INFO, **changed}))


@pytest.mark.parametrize("info", [[], {}, {"model": ARCH.to_dict()}])
def test_incomplete_descriptions_are_refused(info, tmp_path):
    with pytest.raises(UserError, match="does not describe its network"):
        describe(Checkpoint(tmp_path, 9, info))


def test_labels_are_mapped_by_class_name():
    names = [str(number) for number in range(12)]
    network = SimpleNamespace(classes=tuple(names))
    dataset = SimpleNamespace(classes=tuple(sorted(names)))  # as folders are sorted: 0, 1, 10, 11, 2, ...
    labels = np.arange(12, dtype=np.int32)
    mapped = mapped_labels(network, dataset, labels)
    assert [network.classes[label] for label in mapped] == list(dataset.classes)
    assert mapped_labels(network, SimpleNamespace(classes=tuple(names)), labels) is labels
