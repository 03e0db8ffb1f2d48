"""The dependencies by Python version, and the wheel: what it holds, and that it works without a checkout."""

import os
import re
import shutil
import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path

import pytest
from packaging.requirements import Requirement

ROOT = Path(__file__).resolve().parents[1]
PAIRS = {"3.11": ("0.10.2", "0.12.8"), "3.12": ("0.11.2", "0.12.12"), "3.13": ("0.11.2", "0.12.12")}
"""jax and flax in the lock. flax 0.12.8 does not import with jax 0.11."""


def applies(requirement, python):
    environment = {"python_version": python, "python_full_version": f"{python}.0"}
    return requirement.marker is None or requirement.marker.evaluate(environment)


@pytest.fixture
def declared():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    return [Requirement(line) for line in project["dependencies"]]


@pytest.fixture
def locked():
    lines = (ROOT / "requirements.lock").read_text().splitlines()
    return [Requirement(line.removesuffix("\\").strip()) for line in lines if line[:1].isalnum()]


@pytest.mark.parametrize("python", PAIRS)
def test_the_lock_holds_one_allowed_pair_for_each_python(python, declared, locked):
    for package, version in zip(("jax", "flax"), PAIRS[python], strict=True):
        (pinned,) = [r for r in locked if r.name == package and applies(r, python)]
        assert str(pinned.specifier) == f"=={version}"
        (allowed,) = [r for r in declared if r.name == package and applies(r, python)]
        assert version in allowed.specifier


def make(*arguments):
    return subprocess.run(["make", *arguments], cwd=ROOT, capture_output=True, text=True, timeout=60, check=True).stdout


@pytest.mark.skipif(shutil.which("make") is None, reason="make is not installed")
def test_make_updates_a_complete_environment_in_place(tmp_path):
    """Clearing it would break the processes that use it."""
    environment = tmp_path / "env"
    new = make("env", "--dry-run", f"PYTHON={sys.executable}", f"VENV={environment}")
    (stamp,) = re.findall(r"^touch (\S+)$", new, re.MULTILINE)
    installed = environment / "bin/python"
    installed.parent.mkdir(parents=True)
    installed.write_text(f'#!/bin/sh\necho "$@" >> {tmp_path}/installs\n')
    installed.chmod(0o755)
    Path(stamp).touch()
    os.utime(stamp, (0, 0))  # older than pyproject.toml and the lock
    make("env", f"PYTHON={sys.executable}", f"VENV={environment}")
    assert installed.exists()
    assert (tmp_path / "installs").read_text().count("pip install") == 2
    assert Path(stamp).stat().st_mtime > 0


@pytest.mark.parametrize(("python", "flax"), [("3.12", "0.12.8"), ("3.13", "0.12.9")])
def test_a_pair_that_does_not_import_is_not_allowed(python, flax, declared):
    (allowed,) = [r for r in declared if r.name == "flax" and applies(r, python)]
    assert flax not in allowed.specifier


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    """Build the wheel and return its path."""
    from hatchling.builders.wheel import WheelBuilder

    folder = tmp_path_factory.mktemp("wheel")
    return next(WheelBuilder(str(ROOT)).build(directory=str(folder), versions=["standard"]))


def test_the_wheel_holds_the_data_of_the_package(wheel):
    with zipfile.ZipFile(wheel) as archive:
        names = set(archive.namelist())
    included = {f"cnnjax/hub/included/{path.name}" for path in (ROOT / "cnnjax" / "hub" / "included").iterdir()}
    assert len(included) == 2
    files = {f"{folder}/{file}" for folder in included for file in ("model.safetensors", "config.json", "README.md")}
    classes = {f"cnnjax/data/imagenet_classes/{file}" for file in ("classes.tsv", "LICENSE")}
    readers = {f"cnnjax/export/readers/read_{kind}.py" for kind in ("stablehlo", "onnx", "safetensors")}
    assert {"cnnjax/pretrained.csv", *files, *classes, *readers} <= names


USE = """
import cnnjax
from cnnjax.config import Data, Experiment, Train

experiment = Experiment(
    model=cnnjax.create("lenet"), data=Data(source="fashion_mnist_mini", per_class=20), train=Train(epochs=1)
)
run = cnnjax.train(experiment, out="run")
image = run.dataset().test.images[0]
print(cnnjax.__file__, run.metrics[-1]["epoch"], cnnjax.load_pretrained("lenet.fashion_mnist").predict(image, 1))
"""


@pytest.mark.many_processes
def test_the_wheel_works_without_a_checkout(wheel, tmp_path):
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(tmp_path / "installed")
    environment = os.environ | {"PYTHONPATH": str(tmp_path / "installed")}
    done = subprocess.run(
        [sys.executable, "-c", USE], cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, done.stderr
    place, epoch, answer = done.stdout.splitlines()[-1].split(maxsplit=2)
    assert Path(place) == tmp_path / "installed/cnnjax/__init__.py"
    assert (epoch, answer[:15]) == ("1", "[[('Ankle boot'")
