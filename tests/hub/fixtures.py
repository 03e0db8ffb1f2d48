"""Fixtures of the tests of published networks: a cache, a server on loopback, and the weight file that it serves."""

import hashlib

import pytest
from safetensors.numpy import save

from cnnjax import create
from cnnjax.hub import download
from cnnjax.pretrained import find
from tests.convert.published import tensors_of
from tests.hub.server import serving


@pytest.fixture(autouse=True)
def surroundings(monkeypatch, tmp_path):
    """Use a separate cache folder, do not wait between attempts, and ignore the user's settings."""
    monkeypatch.setenv("CNNJAX_PRETRAINED", str(tmp_path / "cache"))
    for name in ("CNNJAX_MIRROR", "HF_ENDPOINT", "HF_HUB_OFFLINE", "http_proxy", "HTTP_PROXY"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(download, "PAUSE", 0.0)
    return tmp_path / "cache"


@pytest.fixture(scope="session")
def weights() -> bytes:
    """A file of weights of the CIFAR ResNet-20, one megabyte."""
    return save(tensors_of(create("resnet20_cifar"), "cifar"))


@pytest.fixture
def server(weights):
    with serving(weights) as (server, address):
        yield server, address


@pytest.fixture
def entry(server, weights):
    """The network's entry in the registry, with the address of the server and the hash of its file."""
    return find("resnet20_cifar.akamaster_cifar10")._replace(
        address=f"{server[1]}/weights.safetensors", hash=f"sha256:{hashlib.sha256(weights).hexdigest()[:8]}"
    )
