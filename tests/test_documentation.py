"""The Python examples of the README, of CONTRIBUTING.md and of the docstrings run, and give what they say."""

import ast
import doctest
import importlib
import re
import textwrap
from pathlib import Path

import pytest
from conftest import without_figures
from script import run_script

from cnnjax.complexity import complexity

README = Path(__file__).resolve().parent.parent / "README.md"
CONTRIBUTING = README.with_name("CONTRIBUTING.md")
MODULES = ("design_spaces", "sweep.networks", "hub.loading", "imagenet", "models", "models.blocks", "runs.api")
"""Modules whose docstrings have examples."""


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
    assert modules == set(MODULES)


@pytest.mark.parametrize("name", MODULES)
def test_the_examples_of_docstrings_run(name):
    failed, tried = doctest.testmod(importlib.import_module(f"cnnjax.{name}"))
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
    counts = complexity(names["VARIANTS"]["all_cnn_c"])
    assert f"{counts.parameters:,} parameters, {counts.multiply_adds:,} multiply-adds." in names["__doc__"]
