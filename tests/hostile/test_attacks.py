"""Every attack of `attacks.py` is refused in one sentence, at once, in little memory; nothing is run or written."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.hostile.attacks import ATTACKS, MOST_SECONDS

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def measured() -> dict[str, list]:
    """What a process of its own said of each attack: the outcome, megabytes, seconds."""
    command = [sys.executable, "-m", "tests.hostile.attacks"]
    environment = os.environ | {"JAX_PLATFORMS": "cpu"}
    child = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=300)
    assert child.returncode == 0, child.stderr[-2000:]
    return {name: rest for name, *rest in map(json.loads, child.stdout.splitlines())}


@pytest.mark.parametrize("name", ATTACKS)
def test_an_attack_does_no_harm(measured, name):
    told, megabytes, seconds = measured[name]
    assert re.search(ATTACKS[name].told, told) and "FOUND" not in told, told
    assert "\n" not in told
    assert megabytes < ATTACKS[name].most_megabytes
    assert seconds < MOST_SECONDS
