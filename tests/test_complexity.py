import jax
import pytest
from rich.console import Console

from cnnjax import create, list_models
from cnnjax.complexity import complexity, summary_table
from cnnjax.functional import abstract_variables

PUBLISHED = {  # parameters and multiply-adds, worked out by hand in each model file's docstring
    "lenet": (61_706, 416_520),
    "mlp": (266_610, 266_200),
}


def test_every_variant_has_its_published_figures():
    assert set(PUBLISHED) == set(list_models())


@pytest.mark.parametrize("name", list_models())
def test_parameters_and_multiply_adds(name):
    found = complexity(create(name))
    assert (found.parameters, found.multiply_adds) == PUBLISHED[name]
    assert found.parameters == sum(leaf.size for leaf in jax.tree.leaves(abstract_variables(create(name)).params))


def test_layers_of_lenet():
    rows = {layer.name: layer for layer in complexity(create("lenet")).layers}
    assert list(rows) == ["conv1", "pool1", "conv2", "pool2", "flatten", "dense1", "dense2", "head"]
    assert rows["conv1"][2:] == ((28, 28, 6), 156, 28 * 28 * 25 * 6, 28 * 28 * 6)
    assert rows["pool2"][2:] == ((5, 5, 16), 0, 0, 400)
    assert rows["dense1"][2:] == ((120,), 48_120, 48_000, 120)


def test_activations_are_those_of_convolutions_and_dense_layers():
    assert complexity(create("lenet")).activations == 28 * 28 * 6 + 10 * 10 * 16 + 120 + 84 + 10


def test_a_larger_image_costs_more_multiply_adds_and_no_parameters():
    small, large = (complexity(create("lenet"), (size, size, 1)) for size in (28, 31))
    assert small.parameters == large.parameters
    assert large.multiply_adds > small.multiply_adds


def test_the_summary_names_totals():
    console = Console(record=True, width=120)
    console.print(summary_table(create("lenet"), "lenet"))
    text = console.export_text()
    assert "61,706" in text
    assert "416,520" in text
    assert "10x10x16" in text
