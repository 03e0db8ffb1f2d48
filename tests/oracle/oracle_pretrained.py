"""Published networks end to end: weights in the published formats, put into the cache, and photos
preprocessed by each library.
"""

import hashlib
import importlib.util
from pathlib import Path

import matplotlib
import numpy as np
import pytest
import torch
from keras_peer import KerasPeer, keras, relaxed
from peers import TorchPeer, torchvision
from PIL import Image

from cnnjax.hub import cache
from cnnjax.pretrained import find
from cnnjax.training.classification import top_classes

PHOTO = Path(matplotlib.get_data_path()) / "sample_data" / "grace_hopper.jpg"
"""A photo of 512x600 pixels that matplotlib includes."""
SAMPLES = {
    "sklearn": ("datasets/images/china.jpg", "datasets/images/flower.jpg"),
    "skimage": ("data/astronaut.png", "data/coffee.png", "data/rocket.jpg"),
}
"""Photos that scikit-learn and scikit-image include, used where these packages are installed."""


@pytest.fixture(autouse=True)
def surroundings(monkeypatch, tmp_path):
    monkeypatch.setenv("CNNJAX_PRETRAINED", str(tmp_path / "cache"))


@pytest.fixture
def photos(tmp_path) -> list[str]:
    """The photo, upright and rotated by 90 degrees, a small part of it, a grayscale version, and samples, as files."""
    photo = Image.open(PHOTO).convert("RGB")
    versions = [photo, photo.rotate(90, expand=True), photo.crop((150, 50, 330, 260)), photo.convert("L")]
    paths = [str(tmp_path / f"{number}.png") for number in range(len(versions))]
    for path, version in zip(paths, versions, strict=True):
        version.save(path)
    return paths + [
        str(Path(place) / name)
        for package, names in SAMPLES.items()
        if (spec := importlib.util.find_spec(package))
        for place in spec.submodule_search_locations
        for name in names
    ]


def put(name: str, file: Path):
    """Put a file of random weights under a published name; its hash replaces the published one."""
    entry = find(name)
    kind = entry.hash.partition(":")[0]
    digest = hashlib.new(kind, file.read_bytes(), usedforsecurity=False).hexdigest()
    return cache.put(entry._replace(hash=f"{kind}:{digest}"), file)


def compare(network, photos, theirs):
    ours = network.logits(network.read(photos))
    assert np.ptp(theirs) > 0.1 and not np.allclose(theirs[0], theirs[2], rtol=0.01)
    assert np.abs(ours - theirs).max() / np.abs(theirs).max() < 1e-4
    np.testing.assert_array_equal(top_classes(ours, 3), top_classes(theirs, 3))
    answers = network.predict(photos, top=3)
    assert [[name for name, _ in answer] for answer in answers] == [
        [network.classes[c] for c in row] for row in top_classes(theirs, 3)
    ]


@pytest.mark.parametrize(
    ("name", "weights"),
    [
        ("resnet18.tv_in1k_v1", "ResNet18_Weights.IMAGENET1K_V1"),
        ("googlenet.tv_in1k_v1", "GoogLeNet_Weights.IMAGENET1K_V1"),
        ("inception_v3.tv_in1k_v1", "Inception_V3_Weights.IMAGENET1K_V1"),
        ("regnet_y_400mf.tv_in1k_v2", "RegNet_Y_400MF_Weights.IMAGENET1K_V2"),
        ("vgg16.tv_in1k_v1", "VGG16_Weights.IMAGENET1K_V1"),
    ],
)
def test_torchvision(name, weights, photos, tmp_path):
    transforms = name.startswith(("googlenet", "inception"))
    options = {"init_weights": False, "transform_input": True} if transforms else {}  # as for pretrained weights
    peer = TorchPeer("torchvision", name.partition(".")[0], size=(299, 299) if transforms else (64, 96), **options)
    file = tmp_path / find(name).file_name
    torch.save(peer.net.state_dict(), file)
    chain = torchvision.models.get_weight(weights).transforms()
    images = torch.stack([chain(Image.open(path).convert("RGB")) for path in photos])
    with torch.no_grad():
        theirs = peer.net(images).numpy()
    compare(put(name, file), photos, theirs)


@pytest.mark.parametrize(
    ("name", "model", "module"),
    [("xception", "Xception", "xception"), ("resnet50_v1", "ResNet50", "resnet"), ("vgg16", "VGG16", "vgg16")],
)
def test_keras(name, model, module, photos, tmp_path):
    size = {"xception": (299, 299)}.get(name, (224, 224))
    peer = KerasPeer(model, size=size)
    file = peer.save(tmp_path, ".h5")
    images = np.stack([keras.utils.img_to_array(keras.utils.load_img(path, target_size=size)) for path in photos])
    with relaxed():
        theirs = np.asarray(peer.net(size)(getattr(keras.applications, module).preprocess_input(images)))
    compare(put(f"{name}.keras_in1k", file), photos, theirs)
