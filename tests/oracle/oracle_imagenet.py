"""Compare `cnnjax.imagenet` with Keras's functions, and the table of classes with timm, torchvision and Keras."""

import json
import os
import runpy
from pathlib import Path

import keras
import numpy as np
import pytest
from keras.applications import imagenet_utils
from keras.src.applications import imagenet_utils as keras_utils

from cnnjax.benchmark.torch_networks import import_torchvision
from cnnjax.data.imagenet_classes import FOLDER, TABLE
from cnnjax.imagenet import decode_predictions, imagenet_classes, preprocess

import_torchvision()
import timm  # noqa: E402
from torchvision.models._meta import _IMAGENET_CATEGORIES as TORCHVISION_NAMES  # noqa: E402

ROOT = Path(__file__).resolve().parents[2]


def test_the_table_is_timm_s():
    table = runpy.run_path(str(ROOT / "scripts" / "imagenet_classes.py"))["table"]
    assert (FOLDER / TABLE).read_text() == table(Path(timm.__file__).parent / "data" / "_info")


def test_names_differ_from_torchvision_s_only_where_two_classes_share_a_name():
    """Names of torchvision are unique: it adds a word to the second class of each pair."""
    pairs = zip([name.replace("_", " ") for _, name in imagenet_classes()], TORCHVISION_NAMES, strict=True)
    assert [pair for pair in pairs if pair[0] != pair[1]] == [("crane", "crane bird"), ("maillot", "maillot tank suit")]


def test_names_are_keras_s():
    """Keras downloads its table at the first use of decode_predictions; no package contains it."""
    home = Path(os.environ.get("KERAS_HOME", "~/.keras")).expanduser()
    file = home / "models" / "imagenet_class_index.json"
    if not file.is_file():
        pytest.skip(f"Keras's own table is not in {file}; the names were compared with torchvision's")
    theirs = json.loads(file.read_text())
    differing = [(ours, theirs[str(n)]) for n, ours in enumerate(imagenet_classes()) if list(ours) != theirs[str(n)]]
    assert differing == []


@pytest.mark.parametrize("mode", ["caffe", "tf", "torch"])
@pytest.mark.parametrize("dtype", [np.uint8, np.float32])
def test_preprocess_equals_keras_s(mode, dtype):
    pixels = np.random.default_rng(0).integers(0, 256, (2, 9, 7, 3)).astype(dtype)
    expected = imagenet_utils.preprocess_input(pixels.copy(), mode=mode)
    np.testing.assert_allclose(preprocess(pixels, mode), expected, atol=1e-4)
    np.testing.assert_allclose(preprocess(pixels[0], mode), expected[0], atol=1e-4)


def test_decode_predictions_equals_keras_s_given_the_same_table(monkeypatch):
    index = {str(n): list(entry) for n, entry in enumerate(imagenet_classes())}
    monkeypatch.setattr(keras_utils, "CLASS_INDEX", index)
    logits = np.random.default_rng(0).normal(0, 4, (6, 1000)).astype(np.float32)
    expected = imagenet_utils.decode_predictions(np.asarray(keras.ops.softmax(logits)), top=5)
    for ours, theirs in zip(decode_predictions(logits, top=5), expected, strict=True):
        assert [answer[:2] for answer in ours] == [answer[:2] for answer in theirs]
        np.testing.assert_allclose([answer[2] for answer in ours], [answer[2] for answer in theirs], rtol=1e-5)
