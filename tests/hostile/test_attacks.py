"""Every attack in `attacks.py` is refused quickly with one error, in little memory, and runs and writes nothing."""

import functools
import json
import os
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.hostile.attacks import ATTACKS, MOST_SECONDS

ROOT = Path(__file__).resolve().parents[2]


LARGE = [name for name in ATTACKS if re.search("MB|MiB|gigabyte|terabyte|millions|thousandfold|as many members", name)]
"""Attacks whose files take seconds to write or read."""
SMALL = [name for name in ATTACKS if name not in LARGE]


@pytest.fixture(scope="module")
def measured() -> Callable[[str], list]:
    """Return a function that runs an attack in a child process and returns outcome, megabytes and seconds."""

    @functools.cache
    def measure(*names: str) -> dict[str, list]:
        command = [sys.executable, "-m", "tests.hostile.attacks", *names]
        environment = os.environ | {"JAX_PLATFORMS": "cpu"}
        child = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=300)
        assert child.returncode == 0, child.stderr[-2000:]
        return {name: rest for name, *rest in map(json.loads, child.stdout.splitlines())}

    return lambda name: measure(*(LARGE if name in LARGE else SMALL))[name]


@pytest.mark.many_inputs
@pytest.mark.parametrize("name", [*SMALL, *(pytest.param(name, marks=pytest.mark.many_inputs) for name in LARGE)])
def test_an_attack_does_no_harm(measured, name):
    outcome, megabytes, seconds = measured(name)
    assert re.search(ATTACKS[name].expected, outcome) and "FOUND" not in outcome, outcome
    assert "\n" not in outcome
    assert megabytes < ATTACKS[name].most_megabytes
    assert seconds < MOST_SECONDS
