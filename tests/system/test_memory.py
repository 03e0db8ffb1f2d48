"""The process begins again with another allocator, and is otherwise as it was asked to be."""

import os
import subprocess
import sys

import pytest

from cnnjax.system import memory
from cnnjax.system.memory import ASKED_FOR, VARIABLE

pytestmark = pytest.mark.skipif(not memory._is_supported(), reason="there is no such allocator here")
SCRIPT = """
import os, sys
from cnnjax.system.memory import keep_memory, memory_is_kept
keep_memory()
print(os.environ.get("GLIBC_TUNABLES"), memory_is_kept(), sys.argv[1:], sys.flags.utf8_mode)
sys.exit(3)
"""


def run(**environment):
    clean = {name: value for name, value in os.environ.items() if name != VARIABLE}
    command = [sys.executable, "-X", "utf8", "-c", SCRIPT, "a b", "--c=d"]
    ended = subprocess.run(command, env={**clean, **environment}, capture_output=True, text=True)
    assert (ended.returncode, ended.stderr) == (3, "")
    return ended.stdout.strip()


def test_it_begins_again_with_the_same_command():
    assert run() == f"{ASKED_FOR} True ['a b', '--c=d'] 1"


def test_other_settings_stay():
    kept = "glibc.cpu.x86_shstk=permissive"
    assert run(**{VARIABLE: kept}) == f"{kept}:{ASKED_FOR} True ['a b', '--c=d'] 1"


def test_a_choice_of_the_users_stays():
    assert run(**{VARIABLE: "glibc.malloc.hugetlb=0"}) == "glibc.malloc.hugetlb=0 False ['a b', '--c=d'] 1"
