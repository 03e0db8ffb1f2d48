"""Training, evaluation and inference on 8 virtual CPU devices equal those on one device."""

import json
import math
import os
import subprocess
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import pytest
from jax.sharding import AbstractMesh, AxisType

from cnnjax.errors import UserError
from cnnjax.ops import dispatch
from cnnjax.parallel import current_placement, use_devices

HERE = Path(__file__).parent
EXACT = 1e-10
"""Largest difference in float64."""
CHECKS = (
    "wide-lenet", "wide-mixed", "wide-accumulated", "gradient-lenet", "reduced-lenet", "reduced-resnet20", "streamed",
    "stacked", "inference", "compilations", "scripts", "wide-resnet20", "gradient-resnet20",
    "wide-googlenet", "gradient-googlenet",
)  # fmt: skip
slow = [pytest.mark.many_processes, pytest.mark.compiles_large, pytest.mark.trains_long]


def marked(test):
    for mark in slow:
        test = mark(test)
    return test


@pytest.fixture(scope="module")
def found(tmp_path_factory):
    """What each check of on_devices.py finds; XLA_FLAGS must be set before JAX starts."""
    folder = tmp_path_factory.mktemp("devices")
    run = subprocess.run(
        [sys.executable, str(HERE / "on_devices.py"), str(folder), *CHECKS],
        capture_output=True, text=True, env={**os.environ, "CNNJAX_NATIVE": "0", "PYTHONPATH": str(HERE.parents[1])},
        check=True,
    )  # fmt: skip
    return json.loads(run.stdout.splitlines()[-1])


@marked
@pytest.mark.parametrize("name", [name for name in CHECKS if name.startswith("wide")])
def test_twenty_steps_in_float64_equal_those_on_one_device(found, name):
    assert "error" not in found[name], found[name]["error"]
    assert found[name]["devices"] == 8
    assert found[name]["state"] <= EXACT  # parameters, statistics, moments and moving averages
    one, many = found[name]["rows"]
    assert one.keys() == many.keys() and all(math.isclose(one[k], many[k], rel_tol=EXACT) for k in one)


@marked
@pytest.mark.parametrize("name", [name for name in CHECKS if name.startswith("gradient")])
def test_the_first_gradient_in_float32_is_that_of_one_device(found, name):
    assert "error" not in found[name], found[name]["error"]
    assert found[name]["values"] > 0
    assert found[name]["relative"] <= 1e-5


@marked
@pytest.mark.parametrize("name", [name for name in CHECKS if name.startswith("reduced")])
@pytest.mark.parametrize("loader", ["Resident", "StreamedShares"])
def test_only_gradients_statistics_and_two_scalars_are_reduced(found, name, loader):
    """Each norm also reduces the gradient through its mean, [C] like each of its two statistics.

    The order of the axes does not count, because XLA may choose another one.
    """
    assert "error" not in found[name], found[name]["error"]
    operations = found[name][loader]
    assert {kind for kind, _ in operations} == {"all-reduce"}
    reduced = sorted((dtype, sorted(shape)) for _, arrays in operations for dtype, shape in arrays)
    statistics = found[name]["statistics"]
    means = statistics[::2]  # each norm has a mean and a variance
    expected = [("f32", shape) for shape in [*found[name]["params"], *statistics, *means]]
    scalars = [("f32", []), ("s32", [])]  # the loss and the number of correct predictions
    assert reduced == sorted((dtype, sorted(shape)) for dtype, shape in [*expected, *scalars])


@marked
def test_streamed_images_train_like_resident_ones(found):
    assert found["streamed"].get("state", 1) <= EXACT, found["streamed"]


@marked
def test_stacked_members_equal_those_on_one_device(found):
    assert found["stacked"].get("state", 1) <= EXACT, found["stacked"]


@marked
def test_logits_and_embeddings_of_each_image_are_those_of_one_device(found):
    assert found["inference"].get("distance", 1) < 1e-5, found["inference"]
    assert all(count == 19 for count, _ in found["inference"]["shapes"])


@marked
def test_each_program_is_compiled_once(found):
    assert found["compilations"] == {"dispatch": 1, "eval_step": 1}


@marked
def test_a_run_continues_on_another_number_of_devices_and_says_so(found):
    assert "error" not in found["scripts"], found["scripts"]["error"]
    outputs, results = found["scripts"]["outputs"], found["scripts"]["results"]
    codes = {name: code for name, (code, _, _) in outputs.items()}
    assert codes == {name: 2 if name == "refused" else 0 for name in codes}, outputs
    assert "resuming with devices 4 (previously devices 8)" in " ".join(outputs["continued4"][1].split())
    assert "resuming with devices 8 (previously devices 1)" in " ".join(outputs["wide"][1].split())
    assert "resuming with devices" not in outputs["eight"][1]
    assert found["scripts"]["devices"] == [8, 4]
    assert "--devices is 9; it must be 1 to 8" in outputs["refused"][2]
    for run in results.values():
        for part in ("train", "validation", "test"):
            assert run[part].keys() == results["one"][part].keys()
            assert all(math.isclose(run[part][k], results["one"][part][k], rel_tol=1e-9) for k in run[part])


@pytest.mark.parametrize("count", [0, -1, 9])
def test_a_number_of_devices_that_is_not_there_is_refused(count):
    with pytest.raises(
        UserError, match=rf"--devices is {count}; this machine has one cpu device, so leave --devices out or give 1"
    ):
        use_devices(count)
    assert current_placement().count == 1


def test_the_native_library_is_not_part_of_a_program_for_several_devices(monkeypatch):
    class Library:
        version, has_bfloat16, has_kernels = "native", True, True

    monkeypatch.setattr(dispatch.library, "load", Library)
    monkeypatch.setattr(dispatch.library, "load_kernels", Library)
    assert dispatch.record(jnp.float32, accumulates=False) == {
        "convolution": "native", "norm": "native", "max_pool": "slices"
    }  # fmt: skip
    with jax.sharding.use_abstract_mesh(AbstractMesh((8,), ("data",), axis_types=(AxisType.Auto,))):
        chosen = dispatch.record(jnp.float32, accumulates=False)
    assert chosen == {"convolution": "xla-cpu", "norm": "xla", "max_pool": "slices"}
