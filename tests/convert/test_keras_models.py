"""Whole models in Keras files: their head, scaling and layers are reproduced, or the file is refused."""

import copy
import zipfile

import h5py
import jax
import numpy as np
import pytest
from conftest import mostly_slow

from cnnjax.convert import convert_weights, load_weights
from cnnjax.convert.keras_definition import parse_definition
from cnnjax.errors import UserError
from cnnjax.system.files import json_bytes
from tests.convert.published import (
    KERAS_V1,
    keras_config,
    tensors_of,
    with_last_layer,
    write_keras,
    write_keras3_h5,
)  # fmt: skip


@pytest.fixture
def tensors():
    return tensors_of(KERAS_V1, "keras")


def tensor(name):
    return {"class_name": "__keras_tensor__", "config": {"keras_history": [name, 0, 0]}}


def changed(config, layer, **settings):
    """Return the configuration with other settings of one layer."""
    config = copy.deepcopy(config)
    next(entry for entry in config["config"]["layers"] if entry["config"]["name"] == layer)["config"].update(settings)
    return config


def after_input(config, kind, **settings):
    """Return the configuration with one more layer between the input and the first layer."""
    config = copy.deepcopy(config)
    layers = config["config"]["layers"]
    entry = {
        "class_name": kind, "config": {"name": "first", **settings},
        "inbound_nodes": [{"args": [tensor("input_layer")], "kwargs": {}}],
    }  # fmt: skip
    layers[1]["inbound_nodes"] = [{"args": [tensor("first")], "kwargs": {}}]
    layers.insert(1, entry)
    return config


def converted(tmp_path, tensors, config, arch=KERAS_V1):
    return convert_weights(arch, "keras", write_keras(tmp_path / "a.keras", tensors, config=config))


def refused(tmp_path, tensors, config, arch=KERAS_V1) -> str:
    with pytest.raises(UserError) as error:
        converted(tmp_path, tensors, config, arch)
    assert str(tmp_path / "a.keras") in str(error.value)
    return str(error.value)


@pytest.mark.compiles_large
@pytest.mark.parametrize(
    ("layer", "settings", "message"),
    mostly_slow(
        [
            ("conv2_block1_1_relu", {"activation": "tanh"}, "compute something other than this network"),
            ("conv3_block1_1_conv", {"strides": [1, 1]}, "do not fit one another"),
            ("conv2_block1_1_bn", {"epsilon": 0.5}, "'conv2_block1_1_bn' has epsilon 0.5"),
            ("conv2_block1_2_conv", {"padding": "valid"}, "do not fit one another"),
            ("predictions", {"activation": "sigmoid"}, "has 5 outputs and the activation sigmoid"),
            ("predictions", {"activation": "my_softmax"}, "has 5 outputs and the activation my_softmax"),
            ("conv1_conv", {"data_format": "channels_first"}, "only 'channels_last' is converted"),
            ("conv1_conv", {"kernel_quantizer": "int8"}, "has the unknown setting 'kernel_quantizer'"),
            ("input_layer", {"batch_shape": [None, 32, 32, 1]}, "takes 1 channels"),
        ],
        fast=1,
    ),
)
def test_a_model_that_computes_something_else_is_refused(tmp_path, tensors, layer, settings, message):
    assert message in refused(tmp_path, tensors, changed(keras_config(tensors), layer, **settings))


def test_a_different_pooling_layer_is_refused(tmp_path, tensors):
    config = keras_config(tensors)
    for entry in config["config"]["layers"]:
        if entry["class_name"] == "GlobalAveragePooling2D":
            entry["class_name"] = "GlobalMaxPooling2D"
    assert "is a GlobalMaxPooling2D, which is not converted" in refused(tmp_path, tensors, config)


@pytest.mark.compiles_large
def test_the_file_s_own_scaling_becomes_the_normalization(tmp_path, tensors):
    config = after_input(keras_config(tensors), "Rescaling", scale=1 / 127.5, offset=-1.0)
    normalization = converted(tmp_path, tensors, config).normalization
    np.testing.assert_allclose(normalization.mean, [0.5] * 3, atol=1e-6)
    np.testing.assert_allclose(normalization.std, [0.5] * 3, atol=1e-6)
    assert normalization.channel_order == "rgb"


@pytest.mark.compiles_large
def test_normalization_layers_may_differ_by_channel(tmp_path, tensors):
    mean, variance = [[[[123.0, 117.0, 104.0]]]], [[[[3600.0, 3364.0, 3249.0]]]]
    config = after_input(keras_config(tensors), "Normalization", axis=-1, mean=mean, variance=variance, invert=False)
    normalization = converted(tmp_path, tensors, config).normalization
    np.testing.assert_allclose(np.multiply(normalization.mean, 255), np.ravel(mean), rtol=1e-5)
    np.testing.assert_allclose(np.multiply(normalization.std, 255), np.sqrt(np.ravel(variance)), rtol=1e-5)


@pytest.mark.compiles_large
def test_a_normalization_layer_adapted_to_images_is_read_from_the_weights(tmp_path, tensors):
    mean, variance = np.float32([123, 117, 104]), np.float32([3600, 3364, 3249])
    config = after_input(keras_config(tensors), "Normalization", axis=[-1], mean=None, variance=None, invert=False)
    with pytest.raises(UserError, match="holds no first/mean"):
        converted(tmp_path, tensors, config)
    weights = tmp_path / "a.weights.h5"
    write_keras3_h5(weights, tensors)
    with h5py.File(weights, "a") as file:
        for number, values in enumerate((mean, variance, np.int32(0))):
            file[f"layers/normalization/vars/{number}"] = values
    with zipfile.ZipFile(tmp_path / "b.keras", "w") as archive:
        archive.writestr("config.json", json_bytes(config))
        archive.write(weights, "model.weights.h5")
    normalization = convert_weights(KERAS_V1, "keras", tmp_path / "b.keras").normalization
    np.testing.assert_allclose(np.multiply(normalization.mean, 255), mean, rtol=1e-5)
    np.testing.assert_allclose(np.multiply(normalization.std, 255), np.sqrt(variance), rtol=1e-5)


def test_images_that_are_not_square_are_refused(tmp_path, tensors):
    config = changed(keras_config(tensors), "input_layer", batch_shape=[None, 32, 48, 3])
    assert "takes images of 32x48 pixels" in refused(tmp_path, tensors, config)


@pytest.mark.compiles_large
def test_augmentation_layers_change_nothing(tmp_path, tensors):
    config = after_input(keras_config(tensors), "RandomFlip", mode="horizontal")
    result = converted(tmp_path, tensors, config)
    assert result.normalization is None
    expected = load_weights(KERAS_V1, "keras", write_keras(tmp_path / "b.keras", tensors))
    assert jax.tree.all(jax.tree.map(np.array_equal, result.variables, expected))


@pytest.mark.compiles_large
def test_the_head_is_ignored_by_a_network_without_classes(tmp_path, tensors):
    result = converted(tmp_path, tensors, keras_config(tensors), KERAS_V1.replace(num_classes=0))
    assert result.arch.num_classes == 0
    assert "head" not in result.variables.params


@pytest.mark.compiles_large
def test_the_number_of_classes_is_the_file_s(tmp_path, tensors):
    assert converted(tmp_path, tensors, keras_config(tensors), KERAS_V1.replace(num_classes=1000)).arch.num_classes == 5


def test_a_layer_after_the_classes_is_refused(tmp_path, tensors):
    config = with_last_layer(keras_config(tensors), "UnitNormalization", axis=-1)
    assert "'last' (UnitNormalization) comes after the dense layer 'predictions'" in refused(tmp_path, tensors, config)


class TestDefinitions:
    def test_two_inputs_are_refused(self):
        config = {"class_name": "Functional", "config": {"layers": [], "input_layers": [["a", 0, 0], ["b", 0, 0]]}}
        config["config"]["output_layers"] = [["a", 0, 0]]
        with pytest.raises(UserError, match="2 inputs and 1 outputs"):
            parse_definition(config)

    def test_a_shared_layer_is_refused(self, tensors):
        config = keras_config(tensors)
        layer = config["config"]["layers"][2]
        layer["inbound_nodes"] = layer["inbound_nodes"] * 2
        with pytest.raises(UserError, match="is used 2 times"):
            parse_definition(config)

    def test_sequential_and_nested_models_are_flattened(self):
        dense = [{"class_name": "Dense", "config": {"name": name, "units": 3}} for name in "ab"]
        inner = {"class_name": "Sequential", "config": {"name": "inner", "layers": dense}}
        start = {"class_name": "InputLayer", "config": {"name": "in", "batch_shape": [None, 8, 8, 3]}}
        outer = {"class_name": "Sequential", "config": {"name": "outer", "layers": [start, inner]}}
        definition = parse_definition(outer)
        assert (definition.input, definition.output, definition.input_shape) == ("in", "b", (8, 8, 3))
        assert [(layer.name, layer.inputs) for layer in definition.layers.values()] == [
            ("in", ()), ("a", ("in",)), ("b", ("a",)),
        ]  # fmt: skip

    def test_models_that_are_nested_without_end_are_refused(self):
        model = {"class_name": "Sequential", "config": {"name": "m", "layers": []}}
        for _ in range(30):
            model = {"class_name": "Sequential", "config": {"name": "m", "layers": [model]}}
        start = {"class_name": "InputLayer", "config": {"name": "in"}}
        with pytest.raises(UserError, match="nested more than"):
            parse_definition({"class_name": "Sequential", "config": {"name": "m", "layers": [start, model]}})
