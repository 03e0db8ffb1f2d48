"""The quantized linear rule of RegNet; tests/oracle compares the networks with torchvision and timm."""

import jax
import jax.numpy as jnp
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cnnjax import create, features
from cnnjax.errors import UserError
from cnnjax.functional import abstract_variables
from cnnjax.models.regnet import RegNet


@pytest.mark.parametrize(("name", "depths", "widths"), [  # the paper's tables and torchvision's widths
    ("regnet_x_400mf", (1, 2, 7, 12), (32, 64, 160, 400)),
    ("regnet_x_400mf_pycls", (1, 2, 7, 12), (32, 64, 160, 384)),
    ("regnet_y_8gf_pycls", (2, 4, 10, 1), (168, 448, 896, 2016)),
])  # fmt: skip
def test_the_rule_gives_the_published_stages(name, depths, widths):
    plan = create(name).plan()
    assert tuple(stage.depth for stage in plan) == depths
    assert tuple(stage.width for stage in plan) == widths


@given(
    depth=st.integers(1, 40), w_0=st.integers(8, 256), w_a=st.floats(0, 256), w_m=st.floats(1.5, 3.0),
    group_width=st.integers(1, 64), rounding=st.sampled_from(["torchvision", "pycls"]),
)  # fmt: skip
def test_widths_are_divisible_by_the_group_width(**options):
    try:
        arch = RegNet(**options)
    except UserError:
        return  # too many stages
    plan = arch.plan()
    assert sum(stage.depth for stage in plan) == arch.depth
    assert all(stage.width % stage.group_width == 0 for stage in plan)
    assert all(stage.group_width <= arch.group_width for stage in plan)


def test_each_stage_halves_the_size():
    arch = create("regnet_y_400mf")
    images = jax.ShapeDtypeStruct((1, 224, 224, 3), jnp.float32)
    maps = jax.eval_shape(lambda v, x: features(arch, v, x), abstract_variables(arch), images)
    assert {name: stage.shape[1] for name, stage in maps.items()} == {
        "stem": 112, "stage1": 56, "stage2": 28, "stage3": 14, "stage4": 7,
    }  # fmt: skip


def test_the_squeeze_is_a_quarter_of_the_block_input():
    stage = abstract_variables(create("regnet_y_400mf")).params["stage2"]
    assert [block["gate"]["fc1"]["kernel"].shape[-1] for block in stage.values()][:2] == [12, 26]


def test_too_many_stages_are_refused():
    with pytest.raises(UserError, match="the rule gives .* stages"):
        create("regnet_x_400mf", depth=100, w_0=8, w_a=100.0, w_m=1.2)
