"""Resolved configs and parameter tables as text, so that a change shows as a diff.

``pytest tests/test_golden.py --update`` rewrites them.
"""

import json
from pathlib import Path

import jax
import numpy as np
import pytest

from cnnjax import cli, create, init, list_models
from cnnjax.functional import abstract_variables, leaves_by_path
from cnnjax.sweep.axes import PREFIX
from cnnjax.sweep.members import expand, groups
from tests.forms import mark_deep_ones

GOLDEN = Path(__file__).parent / "golden"
LARGEST_WITH_VALUES = 300_000
"""Maximum number of parameters for which initial values are recorded; for larger networks, only names and shapes."""


def compare(name: str, text: str, update: bool):
    path = GOLDEN / name
    if update:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    assert path.read_text() == text, f"{name} differs; if this is intended, run pytest tests/test_golden.py --update"


@pytest.mark.parametrize("name", cli.list_experiments())
def test_resolved_config(name, update):
    _, experiment, _ = cli.load_experiment(name)
    compare(f"experiments/{name}.json", json.dumps(experiment.to_dict(), indent=2) + "\n", update)


def initial_values(leaf) -> str:
    if isinstance(leaf, jax.ShapeDtypeStruct):
        return ""
    values = np.asarray(leaf, np.float64)
    if (values == values.flat[0]).all():
        return f"  all {values.flat[0]:g}"
    centered = abs(values.mean()) < values.std() / 10
    return f"  mean 0 std {values.std():.2g}" if centered else f"  mean {values.mean():.2g}"


@pytest.mark.parametrize("name", mark_deep_ones(list_models()))
def test_parameter_table(name, update):
    arch = create(name)
    variables = abstract_variables(arch)
    if sum(leaf.size for leaf in jax.tree.leaves(variables)) < LARGEST_WITH_VALUES:
        variables = init(arch, jax.random.key(0))
    lines = [
        f"{collection:<12} {path:<24} {leaf.dtype}{list(leaf.shape)}{initial_values(leaf)}"
        for collection, tree in variables._asdict().items()
        for path, leaf in leaves_by_path(tree).items()
    ]
    compare(f"models/{name}.txt", "\n".join(lines) + "\n", update)


@pytest.mark.parametrize("name", cli.list_experiments())
def test_every_experiment_documents_its_command(name):
    text = (cli.EXPERIMENTS / f"{name}.py").read_text()
    for heading in ("Command:", "Shows:", "Device:", "Time:", "Expected:"):
        assert heading in text, f"{name}: {heading}"
    command = f"sweep.py {name.removeprefix(PREFIX)}" if name.startswith(PREFIX) else f"train.py {name}"
    assert f"scripts/{command}" in text


@pytest.mark.parametrize("name", cli.list_experiments())
def test_every_experiment_has_a_valid_network(name):
    _, experiment, _ = cli.load_experiment(name)
    assert abstract_variables(experiment.model).params


def test_sizes_of_sweeps(update):
    lines = []
    for name in cli.list_sweeps():
        loaded = cli.load_sweep(name)
        members = expand(loaded.experiment, loaded.sweep)
        lines.append(f"{name}: {len(members)} members in {len(groups(members))} groups")
    compare("sweeps.txt", "\n".join(lines) + "\n", update)


def test_no_golden_file_is_unused():
    expected = {f"experiments/{name}.json" for name in cli.list_experiments()} | {"sweeps.txt"}
    expected |= {f"models/{name}.txt" for name in list_models()}
    files = {str(path.relative_to(GOLDEN)) for path in GOLDEN.rglob("*") if path.is_file()}
    assert {name for name in files if not name.startswith("run_format_")} == expected  # these are runs, not texts
