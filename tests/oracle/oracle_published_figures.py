"""Accuracy of networks with real weights on real test images, through the scripts, as processes."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.script import SCRIPTS

ASSETS = os.environ.get("CNNJAX_TEST_ASSETS")
CIFAR10 = "data/cifar10/cifar10-jpeg.zip"

pytestmark = pytest.mark.skipif(not ASSETS, reason="CNNJAX_TEST_ASSETS, the folder with weights/ and data/, is not set")


@pytest.fixture(autouse=True)
def cache(monkeypatch, tmp_path):
    monkeypatch.setenv("CNNJAX_PRETRAINED", str(tmp_path))


def script(name: str, *arguments) -> str:
    command = [sys.executable, SCRIPTS / name, *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout


def top1(output: str) -> float:
    line = next(line for line in output.splitlines() if "here" in line)
    return float(line.split("│")[3].strip(" %"))


def test_the_published_resnet20_reaches_its_accuracy_on_cifar10():
    """The original PyTorch code reaches 0.8103 on the same JPEG files."""
    name, assets = "resnet20_cifar.akamaster_cifar10", Path(ASSETS)
    script("pretrained.py", "put", name, assets / "weights/cifar10_resnet20-12fca82f.th")
    output = script("evaluate.py", "--pretrained", name, "--data.source", f"image_folder:{assets / CIFAR10}")
    assert abs(top1(output) - 81.03) <= 0.03
    assert "91.73" in output


@pytest.mark.parametrize(
    ("name", "source", "place", "recorded"),
    [
        ("lenet.fashion_mnist", "fashion_mnist", "data/fashion-mnist", 90.56),
        ("resnet20_cifar.cifar10_jpeg", "cifar10", CIFAR10, 79.49),
    ],
)
def test_the_networks_of_the_package_reach_their_recorded_accuracy(name, source, place, recorded):
    where = ("--data.source", source, "--data.dir", Path(ASSETS) / place)
    assert abs(top1(script("evaluate.py", "--pretrained", name, *where)) - recorded) <= 0.03
