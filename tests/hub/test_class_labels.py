"""Class folders and labels by name, WordNet id or number."""

from pathlib import Path

import numpy as np
import pytest

from cnnjax import create
from cnnjax.data.imagenet_classes import imagenet_classes, wordnet_ids
from cnnjax.errors import UserError
from cnnjax.functional import Variables
from cnnjax.hub.class_labels import labels, match_classes
from cnnjax.hub.loading import load_pretrained
from cnnjax.runs.predictor import Predictor
from tests.hub.fixtures import surroundings

IDS, NAMES = wordnet_ids(), [name for _, name in imagenet_classes()]


@pytest.fixture(scope="module")
def network() -> Predictor:
    """A network for ImageNet, without its arrays."""
    like = load_pretrained("resnet20_cifar.cifar10_jpeg")
    return Predictor(create("resnet18"), Variables({}, {}), IDS, like.preprocessing, Path("run"), {})


def test_labels_are_wordnet_ids_and_names(network):
    assert labels(network)[51] == ("n01704323", "triceratops")


def test_other_networks_label_classes_by_number():
    assert labels(load_pretrained("lenet.fashion_mnist"))[9] == ("9", "Ankle boot")


@pytest.mark.parametrize("given", [IDS, [str(number) for number in range(1000)]], ids=["ids", "numbers"])
def test_all_classes_are_found_in_any_order(network, given):
    order = np.random.default_rng(0).permutation(1000)
    np.testing.assert_array_equal(match_classes([given[n] for n in order], network, "photos"), order)


def test_some_classes_are_found_by_name(network):
    np.testing.assert_array_equal(match_classes(["triceratops", "tench"], network, "photos"), [51, 0])


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (["tench", "crane"], "'crane' is the name of two classes; name all classes by id or by number"),
        (
            ["tench", "triceratop"],
            "the class 'triceratop' is not among the network's 1,000; did you mean 'triceratops'",
        ),
        (["n01440764", "tench"], "is not among the network's 1,000"),
        (["0", "1000"], "the class '1000' is not among"),
        (["cat", "dog"], r"the class 'cat' (and 1 others)"),
    ],
)  # fmt: skip
def test_anything_else_is_refused(network, given, message):
    with pytest.raises(UserError) as error:
        match_classes(given, network, "photos")
    assert message in str(error.value)


def test_a_class_may_be_given_once(network):
    with pytest.raises(UserError, match="two classes stand for the same output"):
        match_classes(["7", "7"], network, "photos")
