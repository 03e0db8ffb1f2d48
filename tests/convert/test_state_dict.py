"""Which tensors of a file are read: wrappers, averaged copies, prefixes, and types."""

import jax
import numpy as np
import pytest
from safetensors.numpy import save_file

from cnnjax.convert import Choice, convert_weights, load_weights
from cnnjax.convert.state_dict import select
from cnnjax.convert.torch_pickle import Storage, Tensor
from cnnjax.errors import UserError
from tests.convert.published import TORCH, tensors_of, write_torch

ONE, TWO, THREE = ({"w": Tensor(Storage(key, "float32", 1), 0, (1,), (1,))} for key in "abc")


@pytest.mark.parametrize("key", ["state_dict", "model_state_dict", "model", "net", "state_dict_ema", "ema"])
def test_usual_wrappers_are_opened(key):
    assert select({"epoch": 3, key: ONE, "optimizer": {"state": {0: ONE}, "lr": 0.1}}, None) == (ONE, ())


def test_a_plain_state_dict_is_read():
    assert select(ONE, None) == (ONE, ())


def test_the_moving_average_is_preferred_and_reported():
    chosen, [notice] = select({"state_dict": ONE, "state_dict_ema": TWO}, None)
    assert chosen is TWO
    assert notice == "the moving average under 'state_dict_ema' is read; --key chooses another: state_dict"


def test_a_key_chooses_the_set():
    assert select({"state_dict": ONE, "state_dict_ema": TWO, "teacher": THREE}, "teacher") == (THREE, ())


@pytest.mark.parametrize(
    ("content", "key", "message"),
    [
        ({"student": ONE, "teacher": TWO}, None, "under unusual keys: student, teacher; choose one with --key"),
        ({"state_dict": ONE}, "ema", "no state dict has this key; there are: state_dict"),
        ({"epoch": 3}, "ema", "there are: none"),
        ({"epoch": 3}, None, "its entry 'epoch' is not a plain tensor"),
        ([ONE], None, "it contains a list"),
    ],
)
def test_anything_else_is_refused(content, key, message):
    with pytest.raises(UserError) as error:
        select(content, key)
    assert message in str(error.value)


@pytest.fixture
def tensors():
    return tensors_of(TORCH, "torchvision")


def same(one, other) -> bool:
    return jax.tree.all(jax.tree.map(np.array_equal, one, other))


@pytest.mark.parametrize("prefix", ["module.", "backbone.", "module._orig_mod.model."])
def test_prefixes_that_every_name_has_are_removed(prefix, tensors, tmp_path):
    expected = load_weights(TORCH, "torchvision", write_torch(tmp_path / "a.pth", tensors))
    path = write_torch(tmp_path / "b.pth", {f"{prefix}{name}": array for name, array in tensors.items()})
    assert same(load_weights(TORCH, "torchvision", path), expected)


def test_a_given_prefix_leaves_out_and_counts_the_others(tensors, tmp_path):
    several = {**{f"teacher.{name}": array for name, array in tensors.items()}, "student.fc.bias": np.zeros(3)}
    save_file({name: np.float32(array) for name, array in several.items()}, tmp_path / "a.safetensors")
    result = convert_weights(TORCH, "torchvision", tmp_path / "a.safetensors", Choice(prefix="teacher."))
    assert result.notices == ("1 tensor without the prefix left out: student.fc.bias",)
    with pytest.raises(UserError, match="no tensor has this prefix"):
        convert_weights(TORCH, "torchvision", tmp_path / "a.safetensors", Choice(prefix="pupil."))


def test_the_counter_of_an_average_is_left_out_and_named(tensors, tmp_path):
    averaged = {**{f"module.{name}": np.float32(array) for name, array in tensors.items()}, "n_averaged": np.array(3)}
    save_file(averaged, tmp_path / "a.safetensors")
    result = convert_weights(TORCH, "torchvision", tmp_path / "a.safetensors")
    assert result.notices == ("n_averaged counts the updates of the average and is left out",)
    expected = load_weights(TORCH, "torchvision", write_torch(tmp_path / "a.pth", tensors))
    assert same(result.variables, expected)


@pytest.mark.parametrize("dtype", [np.float16, np.float64])
def test_other_float_types_are_converted(dtype, tensors, tmp_path):
    save_file({name: array.astype(dtype) for name, array in tensors.items()}, tmp_path / "a.safetensors")
    result = convert_weights(TORCH, "torchvision", tmp_path / "a.safetensors")
    narrowed = [notice for notice in result.notices if "float64 narrowed" in notice]
    assert bool(narrowed) == (dtype is np.float64)
    kernel = result.variables.params["head"]["kernel"]
    assert kernel.dtype == np.float32
    np.testing.assert_array_equal(kernel, tensors["fc.weight"].astype(dtype).T.astype(np.float32))


def test_a_key_for_another_format_is_refused(tensors, tmp_path):
    save_file(tensors, tmp_path / "a.safetensors")
    with pytest.raises(UserError, match="--key chooses an entry of a torch file"):
        convert_weights(TORCH, "torchvision", tmp_path / "a.safetensors", Choice(key="model"))
