"""The Python examples of the README, of CONTRIBUTING.md and of the docstrings run, and give what they say."""

import ast
import doctest
import importlib
import re
import textwrap
from pathlib import Path

import pytest
from conftest import mostly_slow, without_figures
from rich.console import Console
from script import run_script

import cnnjax
from cnnjax import complexity, design_spaces, gradcam, imagenet, sweep
from cnnjax.config import Data, Experiment, Train

README = Path(__file__).resolve().parent.parent / "README.md"
CONTRIBUTING = README.with_name("CONTRIBUTING.md")
MODULES = (
    "complexity", "config", "data.imagenet_classes", "design_spaces", "hub.loading", "imagenet", "models",
    "models.blocks", "runs.predictor", "sweep.axes", "sweep.networks", "functional", "gradcam",
)  # fmt: skip
"""Modules whose docstrings have examples, besides `runs.api`, whose examples use a trained run."""
PUBLIC = (cnnjax, gradcam, complexity, design_spaces, imagenet, sweep)
"""Modules of docs/api.md; the example of `cnnjax.config` covers all sections of a config."""


@pytest.fixture
def blocks():
    """The Python blocks of the README, in order."""
    return re.findall(r"^```python\n(.*?)^```$", README.read_text(), re.DOTALL | re.MULTILINE)


def run(code):
    """Execute an example; return the values of its expressions, in order."""
    names, values = {}, []
    for statement in ast.parse(code).body:
        if isinstance(statement, ast.Expr):
            values.append(eval(ast.unparse(statement), names))
        else:
            exec(ast.unparse(statement), names)
    return values


def test_the_modules_with_examples_are_known():
    package = README.parent / "cnnjax"
    modules = {
        ".".join(path.relative_to(package).with_suffix("").parts).removesuffix(".__init__")
        for path in package.rglob("*.py")
        if ">>> " in path.read_text()
    }
    assert modules == {*MODULES, "runs.api"}


def public_names():
    """Return the functions, classes, methods and properties of docs/api.md by name."""
    found = {}
    for module in PUBLIC:
        own = {name for name, value in vars(module).items() if getattr(value, "__module__", "") == module.__name__}
        for name in getattr(module, "__all__", own):
            value = getattr(module, name)
            if not name.startswith("_") and callable(value):
                found[f"{module.__name__}.{name}"] = value
    members = {name: value for name, value in vars(cnnjax.Run).items() if not name.startswith("_")}
    return found | {f"cnnjax.Run.{name}": value for name, value in members.items()}


@pytest.mark.parametrize("name", sorted(public_names()))
def test_every_public_name_has_an_example(name):
    assert ">>> " in public_names()[name].__doc__


@pytest.mark.parametrize("name", mostly_slow(MODULES, len(MODULES) - 2))
def test_the_examples_of_docstrings_run(name):
    failed, tried = doctest.testmod(importlib.import_module(f"cnnjax.{name}"))
    assert (failed, tried > 0) == (0, True)


@pytest.mark.trains_long
def test_the_examples_of_a_run_run(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    few = Data(source="fashion_mnist_mini", per_class=20)
    experiment = Experiment(model=cnnjax.create("lenet"), data=few, train=Train(epochs=1))
    with without_figures():
        run = cnnjax.train(experiment, out="runs/first", console=Console(quiet=True))
    failed, tried = doctest.testmod(importlib.import_module("cnnjax.runs.api"), extraglobs={"run": run})
    assert (failed, tried > 0) == (0, True)


@pytest.mark.compiles_large
def test_the_networks_of_the_readme_are_pure_functions(blocks):
    shape, stages = run(blocks[1])
    assert shape == (8, 10)
    assert all(shape[0] == 8 for shape in stages.values())


@pytest.mark.trains_long
def test_the_run_of_the_readme_trains_and_predicts(blocks, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    exported = run_script("data.py", "export", "fashion_mnist_mini", "photos", "--count", 1)
    assert exported.returncode == 0, exported.stderr
    with without_figures():
        top1, [answers], rows = run(blocks[0])
    assert top1 == pytest.approx(0.85, abs=0.03)
    assert [name for name, _ in answers] == ["Ankle boot", "Sneaker", "Sandal"]
    assert [row["epoch"] for row in rows] == [1, 2, 3]


def test_the_architecture_of_contributing_has_the_counts_of_its_header():
    (block,) = re.findall(r"^ +```python\n(.*?)^ +```$", CONTRIBUTING.read_text(), re.DOTALL | re.MULTILINE)
    names = {"__name__": "all_cnn"}
    exec(textwrap.dedent(block), names)
    counts = complexity.complexity(names["VARIANTS"]["all_cnn_c"])
    assert f"{counts.parameters:,} parameters, {counts.multiply_adds:,} multiply-adds." in names["__doc__"]
