import math
import re
from pathlib import Path

import jax
import pytest
from rich.console import Console

from cnnjax import create, list_models
from cnnjax.complexity import complexity, summary_table
from cnnjax.functional import abstract_variables
from tests.forms import mark_deep, mark_deep_ones

HAND = {  # parameters and multiply-adds, worked out by hand in each model file's docstring
    "lenet": (61_706, 416_520),
    "lenet_1998": (60_000, 326_520),
    "mlp": (266_610, 266_200),
    "airbench94": (1_971_650, 118_147_360),
}
TORCHVISION = {  # parameters and giga multiply-adds, from the metadata of torchvision's weights
    "resnet18": (11_689_512, 1.814),
    "resnet34": (21_797_672, 3.664),
    "resnet50": (25_557_032, 4.089),
    "resnet101": (44_549_160, 7.801),
    "resnet152": (60_192_808, 11.514),
    "resnext50_32x4d": (25_028_904, 4.230),
    "resnext101_32x8d": (88_791_336, 16.414),
    "resnext101_64x4d": (83_455_272, 15.460),
    "wide_resnet50_2": (68_883_240, 11.398),
    "wide_resnet101_2": (126_886_696, 22.753),
    "alexnet": (61_100_840, 0.714),
    "googlenet": (6_624_904, 1.498),
    "regnet_x_16gf": (54_278_536, 15.941),
    "regnet_x_1_6gf": (9_190_136, 1.603),
    "regnet_x_32gf": (107_811_560, 31.736),
    "regnet_x_3_2gf": (15_296_552, 3.177),
    "regnet_x_400mf": (5_495_976, 0.414),
    "regnet_x_800mf": (7_259_656, 0.8),
    "regnet_x_8gf": (39_572_648, 7.995),
    "regnet_y_16gf": (83_590_140, 15.912),
    "regnet_y_1_6gf": (11_202_430, 1.612),
    "regnet_y_32gf": (145_046_770, 32.28),
    "regnet_y_3_2gf": (19_436_338, 3.176),
    "regnet_y_400mf": (4_344_144, 0.402),
    "regnet_y_800mf": (6_432_512, 0.834),
    "regnet_y_8gf": (39_381_472, 8.473),
    "vgg11": (132_863_336, 7.609),
    "vgg11_bn": (132_868_840, 7.609),
    "vgg13": (133_047_848, 11.308),
    "vgg13_bn": (133_053_736, 11.308),
    "vgg16": (138_357_544, 15.47),
    "vgg16_bn": (138_365_992, 15.47),
    "vgg19": (143_667_240, 19.632),
    "vgg19_bn": (143_678_248, 19.632),
}
KERAS = {  # trainable parameters
    "resnet50_v1": 25_583_592,
    "resnet101_v1": 44_601_832,
    "resnet152_v1": 60_268_520,
    "resnet50_v2": 25_568_360,
    "resnet101_v2": 44_577_896,
    "resnet152_v2": 60_236_904,
    "inception_v3_keras": 23_817_352,
    "xception": 22_855_952,
    "legacy_xception": 22_855_952,
}
BY_HAND = {  # parameters, from the layer sizes in each paper, or from timm's networks
    "alexnet_bn": 62_381_096,
    "alexnet_lrn": 60_965_224,
    "googlenet_paper": 6_998_552,
    "inception_v3": 27_161_264,  # torchvision counts the multiply-adds without the auxiliary head
    "regnet_y_128gf": 644_812_894,
    "regnet_x_400mf_pycls": 5_157_512,
    "regnet_y_800mf_pycls": 6_263_168,
    "regnet_y_8gf_pycls": 39_180_068,
}
PROJECTIONS = sum(64 * 2**i * 128 * 2**i + 2 * 128 * 2**i for i in range(3))
"""Parameters of the projection shortcuts in a network of basic blocks, norms included."""
CIFAR = {20: 269_722, 32: 464_154, 44: 658_586, 56: 853_018, 110: 1_727_962}


def published(name: str) -> int:
    """Return the published number of parameters; for a plain network, derived from its residual counterpart."""
    if match := re.fullmatch(r"(resnet|plain)(\d+)_cifar", name):  # option A has no parameters
        return CIFAR[int(match[2])]
    if name.startswith("plain"):
        return published(name.replace("plain", "resnet")) - PROJECTIONS
    counts = KERAS | BY_HAND
    return counts[name] if name in counts else (HAND | TORCHVISION)[name][0]


@pytest.mark.parametrize("name", list_models())
def test_recorded_parameter_counts_match_the_published_ones(name):
    """Covers every variant, including the deepest; test_golden.py compares the records with the networks."""
    lines = (Path(__file__).parent / "golden" / "models" / f"{name}.txt").read_text().splitlines()
    shapes = [re.search(r"\[(.*?)\]", line)[1] for line in lines if line.startswith("params")]
    assert sum(math.prod(map(int, shape.split(", "))) for shape in shapes) == published(name)


def test_every_variant_has_a_published_count():
    cifar = {f"{kind}{depth}_cifar" for kind in ("resnet", "plain") for depth in CIFAR} - {"plain110_cifar"}
    twins = {"plain18", "plain34"}
    assert {*HAND, *TORCHVISION, *KERAS, *BY_HAND, *cifar, *twins} == set(list_models())


@pytest.mark.parametrize("name", mark_deep_ones(TORCHVISION))
def test_parameters_and_multiply_adds_match_torchvision(name):
    counts = complexity(create(name))
    parameters, giga = TORCHVISION[name]
    assert counts.parameters == parameters
    assert counts.multiply_adds == pytest.approx(giga * 1e9, rel=1e-3)


@pytest.mark.parametrize("name", mark_deep_ones(KERAS))
def test_parameters_match_keras(name):
    assert complexity(create(name)).parameters == KERAS[name]


@pytest.mark.parametrize(("name", "depth"), [mark_deep(f"resnet{depth}_cifar", depth) for depth in CIFAR])
def test_cifar_parameters_match_the_published_networks(name, depth):
    assert complexity(create(name)).parameters == CIFAR[depth]
    if depth != 110:  # option A has no parameters, so the plain network has the same number
        assert complexity(create(f"plain{depth}_cifar")).parameters == CIFAR[depth]


@pytest.mark.parametrize("name", mark_deep_ones(["resnet18", "resnet34"]))
def test_a_plain_network_lacks_only_the_projections(name):
    residual, plain = (complexity(create(each)) for each in (name, name.replace("resnet", "plain")))
    assert residual.parameters - plain.parameters == PROJECTIONS


@pytest.mark.parametrize("name", HAND)
def test_parameters_and_multiply_adds_match_the_hand_count(name):
    counts = complexity(create(name))
    assert (counts.parameters, counts.multiply_adds) == HAND[name]
    assert counts.parameters == sum(leaf.size for leaf in jax.tree.leaves(abstract_variables(create(name)).params))


def test_layers_of_lenet_are_listed():
    rows = {layer.name: layer for layer in complexity(create("lenet")).layers}
    assert list(rows) == ["conv1", "pool1", "conv2", "pool2", "flatten", "dense1", "dense2", "head"]
    assert rows["conv1"][2:] == ((28, 28, 6), 156, 28 * 28 * 25 * 6, 28 * 28 * 6)
    assert rows["pool2"][2:] == ((5, 5, 16), 0, 0, 400)
    assert rows["dense1"][2:] == ((120,), 48_120, 48_000, 120)


def test_only_convolutions_and_dense_layers_count_as_activations():
    assert complexity(create("lenet")).activations == 28 * 28 * 6 + 10 * 10 * 16 + 120 + 84 + 10


def test_larger_images_need_more_multiply_adds_but_no_more_parameters():
    small, large = (complexity(create("lenet"), (size, size, 1)) for size in (28, 31))
    assert small.parameters == large.parameters
    assert large.multiply_adds > small.multiply_adds


def test_summary_shows_totals():
    console = Console(record=True, width=120)
    console.print(summary_table(create("lenet"), "lenet"))
    text = console.export_text()
    assert "61,706" in text
    assert "416,520" in text
    assert "10x10x16" in text
