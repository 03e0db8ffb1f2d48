"""scripts/predict.py for ImageNet's classes, and its heat maps."""

import re

import jax
import numpy as np
import pytest
from PIL import Image

from cnnjax import create, init
from cnnjax.data import Preprocessing
from cnnjax.data.imagenet_classes import imagenet_classes, wordnet_ids
from cnnjax.hub import model_folder
from cnnjax.runs.predictor import Predictor
from tests.script import run_script

NAMES = dict(imagenet_classes())


@pytest.fixture(scope="module")
def imagenet(tmp_path_factory):
    """A folder with an untrained network of ImageNet's classes, whose head prefers the triceratops."""
    folder = tmp_path_factory.mktemp("network") / "imagenet"
    arch = create("lenet", input_size=16, channels=3, num_classes=1000)
    variables = init(arch, jax.random.key(0))
    variables.params["head"]["bias"] = np.zeros(1000, np.float32)
    variables.params["head"]["bias"][51] = 40
    preprocessing = Preprocessing(height=16, width=16, mean=(0.5,) * 3, std=(0.25,) * 3)
    model_folder.write(folder, Predictor(arch, variables, wordnet_ids(), preprocessing, folder, {}), "", {})
    return folder


@pytest.fixture
def photos(tmp_path):
    rng = np.random.default_rng(0)
    for place in ("a/photo.png", "b/photo.png"):
        (tmp_path / place).parent.mkdir()
        Image.fromarray(rng.integers(0, 256, (300, 400, 3), np.uint8)).save(tmp_path / place)
    return [tmp_path / "a", tmp_path / "b" / "photo.png"]


@pytest.mark.compiles_large
def test_the_classes_of_imagenet_are_printed_by_id_and_name(imagenet, photos, tmp_path):
    maps = tmp_path / "maps"
    done = run_script("predict.py", "--pretrained", f"folder:{imagenet}", *photos, "--top", 2, "--gradcam", maps)
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    assert lines[0] == f"Image #0: {photos[0] / 'photo.png'}"
    assert lines[3] == f"Image #1: {photos[1]}"
    assert lines[1] == lines[4] == " n01704323 - triceratops  100.00%"
    wnid, name = re.fullmatch(r" (n\d{8}) - (\S+) +0\.00%", lines[2]).groups()
    assert NAMES[wnid] == name
    assert sorted(path.name for path in maps.iterdir()) == ["0000-photo.png", "0001-photo.png"]
    for path in maps.iterdir():
        with Image.open(path) as picture:
            assert (picture.size, picture.mode) == ((224, 224), "RGB")
        empty = f"notice: {path} shows no colors" in done.stderr
        assert empty == (len(np.unique(np.asarray(Image.open(path)).reshape(-1, 3), axis=0)) <= 16 * 16)


def test_heat_maps_do_not_replace_files(imagenet, photos, tmp_path):
    done = run_script("predict.py", "--pretrained", f"folder:{imagenet}", *photos, "--gradcam", tmp_path / "a")
    assert done.returncode == 2
    assert "exists and is not an empty folder" in done.stderr
    assert done.stdout == ""
    assert [path.name for path in (tmp_path / "a").iterdir()] == ["photo.png"]


def test_a_network_without_maps_is_refused_before_any_output(photos, tmp_path):
    arch = create("mlp", input_size=4, num_classes=2)
    preprocessing = Preprocessing(height=4, width=4, mean=(0.5,), std=(0.25,))
    network = Predictor(arch, init(arch, jax.random.key(0)), ("cat", "dog"), preprocessing, tmp_path, {})
    model_folder.write(tmp_path / "mlp", network, "", {})
    maps = tmp_path / "maps"
    done = run_script("predict.py", "--pretrained", f"folder:{tmp_path / 'mlp'}", *photos, "--gradcam", maps)
    assert done.returncode == 2
    assert "stage2 of this mlp has one position" in done.stderr
    assert done.stdout == ""
    assert not maps.exists()
