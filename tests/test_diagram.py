"""Drawings of networks: valid XML, everything inside the view box, and each layer, branch and shortcut there."""

import functools
import re
import xml.etree.ElementTree as ET

import jax
import jax.numpy as jnp
import pytest
from conftest import mostly_slow

from cnnjax import create, features
from cnnjax.complexity import complexity
from cnnjax.diagram import draw, write_diagram
from cnnjax.diagram.dataflow import Dataflow, Node, dataflow
from cnnjax.diagram.structure import Box, find_structure
from cnnjax.diagram.svg import TITLE_SIZE, text_width
from cnnjax.errors import UserError
from cnnjax.functional import abstract_variables
from tests.models.test_variants import SMALLEST

SVG = "{http://www.w3.org/2000/svg}"
HEADS = create("googlenet", width=8, stem="cifar", num_classes=5, input_size=32, aux_heads=True)
NETWORKS = {**SMALLEST, "auxiliary heads": HEADS}
QUICK = ("lenet", "lenet 1998", "mlp", "resnet cifar")
BY_NAME = [pytest.param(name, marks=() if name in QUICK else pytest.mark.compiles_large) for name in NETWORKS]


@functools.cache
def stages_of(arch):
    return find_structure(dataflow(arch))


def boxes(items):
    """Yield the boxes of nested items."""
    for item in items:
        if isinstance(item, Box):
            yield item
        else:
            for branch in item.branches:
                yield from boxes(branch)


def drawn_layers(stages) -> int:
    """Count the layers with a kernel that a drawing stands for."""
    count = 0
    for stage in stages:
        for block in stage.blocks:
            count += block.times * sum(box.role in ("conv", "dense") for box in boxes(block.items))
        count += sum(box.role in ("conv", "dense") for _, items in stage.aux for box in boxes(items))
    return count


def layers_to_draw(arch) -> int:
    """Count the layers with a kernel, without those of gates, and with separable convolutions as one layer."""
    names = [layer.name for layer in complexity(arch).layers if layer.multiply_adds]
    return sum("/gate/" not in name and not name.endswith("/depthwise") for name in names)


def check_svg(text):
    root = ET.fromstring(text)
    _, _, width, height = map(float, root.get("viewBox").split())
    for element in root.iter(f"{SVG}rect"):
        x, y, across, down = (float(element.get(name, 0)) for name in ("x", "y", "width", "height"))
        assert x >= 0 and y >= 0 and x + across <= width and y + down <= height
    written = []
    for element in root.iter(f"{SVG}text"):
        kinds, x, y = element.get("class", "").split(), float(element.get("x")), float(element.get("y"))
        size = text_width(element.text, TITLE_SIZE if "title" in kinds else 11)
        left = x - size if "end" in kinds else x - size / 2 if "middle" in kinds else x
        assert left >= 0 and left + size <= width and 8 < y < height, element.text
        written.append((left, left + size, y, element.text))
    for number, (left, right, y, first) in enumerate(written):
        for other_left, other_right, other_y, second in written[:number]:
            assert right < other_left or other_right < left or abs(y - other_y) > 9, (first, second)
    return root


@pytest.mark.parametrize("name", BY_NAME)
def test_everything_is_inside_the_view_box_and_no_text_covers_another(name):
    check_svg(draw(NETWORKS[name], name))


FULL_SIZE = (
    "alexnet", "googlenet", "inception_v3", "regnet_y_400mf", "resnet50", "resnet152_v2", "vgg19_bn", "xception",
)  # fmt: skip
"""One network of each family; traces of all variants would fill the memory of a test process."""


@pytest.mark.compiles_large
@pytest.mark.parametrize("name", FULL_SIZE)
def test_published_networks_are_drawn_with_all_their_layers(name):
    arch = create(name)
    check_svg(draw(arch, name))
    assert drawn_layers(stages_of(arch)) == layers_to_draw(arch)


@pytest.mark.parametrize("name", BY_NAME)
def test_each_layer_is_drawn_and_each_stage_has_the_shape_of_its_features(name):
    arch = NETWORKS[name]
    stages = stages_of(arch)
    assert drawn_layers(stages) == layers_to_draw(arch)
    images = jax.ShapeDtypeStruct((1, *arch.image_shape), jnp.float32)
    shapes = jax.eval_shape(lambda v, x: features(arch, v, x), abstract_variables(arch), images)
    expected = {stage: tuple(size for size in x.shape[1:]) for stage, x in shapes.items()}
    if arch.family == "mlp":  # a dense layer's output, which features() shows as a map
        expected = {stage: shape[2:] for stage, shape in expected.items()}
    assert {stage.name: stage.shape for stage in stages} == {**expected, "head": (arch.num_classes,)}


def count(text, pattern):
    return len(re.findall(pattern, text))


@pytest.mark.parametrize(
    ("name", "options", "shortcuts", "concatenations", "repeats"),
    mostly_slow([
        ("resnet20_cifar", {"depths": (3, 2)}, 3, 0, [3]),
        ("resnet20_cifar", {}, 5, 0, [3, 2, 2]),
        ("plain20_cifar", {}, 0, 0, [3, 2, 2]),
        ("resnet50_v2", {"depths": (1, 3)}, 3, 0, [2]),
        ("xception", {"input_size": 96, "middle_blocks": 5}, 5, 0, [5]),
        ("googlenet", {"input_size": 64}, 0, 9, []),
        ("vgg11", {}, 0, 0, [2, 2, 2, 2]),
    ], 1),
)  # fmt: skip
def test_shortcuts_branches_and_repeats_are_counted(name, options, shortcuts, concatenations, repeats):
    drawing = draw(create(name, **options), name)
    assert count(drawing, '<path class="shortcut"') == count(drawing, r">\+</text>") == shortcuts
    assert count(drawing, ">concatenate</text>") == concatenations
    assert count(drawing, '<path class="branch"') == 4 * concatenations
    assert [int(times) for times in re.findall(r'class="count"[^>]*>× (\d+)<', drawing)] == repeats


@pytest.mark.compiles_large
def test_branches_stand_in_the_published_order_and_auxiliary_heads_beside_the_stages_that_they_read():
    stages = {stage.name: stage for stage in stages_of(HEADS)}
    (columns,) = stages["stage1"].blocks[0].items
    assert [[box.label for box in branch] for branch in columns.branches] == [  # an eighth of the paper's widths
        ["1×1 conv, 8"],
        ["1×1 conv, 12", "3×3 conv, 16"],
        ["1×1 conv, 2", "3×3 conv, 4"],
        ["3×3 max pool", "1×1 conv, 4"],
    ]
    assert {name: [head for head, _ in stage.aux] for name, stage in stages.items() if stage.aux} == {
        "stage2": ["aux1"], "stage3": ["aux2"],
    }  # fmt: skip
    assert [box.label for box in boxes(stages["stage2"].aux[0][1])][-1] == "dense, 5"


def test_a_shortcut_shows_how_it_changes_the_shape():
    stages = find_structure(dataflow(create("resnet20_cifar", depths=(1, 1))))
    (total,) = stages[2].blocks[0].items
    assert [[box.label for box in branch] for branch in total.branches] == [
        ["3×3 conv, 32 /2", "3×3 conv, 32"],
        ["zero pad to 32 /2"],
    ]


@pytest.mark.compiles_large
def test_resizing_on_the_device_is_drawn():
    first, *_ = find_structure(dataflow(create("alexnet_bn", input_size=28, resize=67, width=8)))
    assert next(box.label for block in first.blocks for box in block.items) == "resize to 67×67"


def test_a_graph_that_is_not_made_of_rows_and_branches_is_refused():
    inputs = [(), (0,), (0,), (1, 2), (1,), (3, 4)]
    nodes = [Node(f"layer {number}", "conv", "head", read, (8, 8, 4)) for number, read in enumerate(inputs)]
    with pytest.raises(UserError, match="this network cannot be drawn: .*'layer 1' is read from more than one place"):
        find_structure(Dataflow(nodes, [5]))


@pytest.mark.parametrize("name", ["lenet.png", "lenet", "missing/lenet.svg"])
def test_other_files_are_refused(tmp_path, name):
    with pytest.raises(UserError, match="cannot be written; give a name that ends in .svg, in an existing folder"):
        write_diagram(create("lenet"), "lenet", tmp_path / name)
    assert not list(tmp_path.iterdir())


def test_a_title_is_escaped(tmp_path):
    write_diagram(create("lenet"), "<a & b>", tmp_path / "lenet.svg")
    root = check_svg((tmp_path / "lenet.svg").read_text(encoding="utf-8"))
    assert next(root.iter(f"{SVG}text")).text == "<a & b>"
